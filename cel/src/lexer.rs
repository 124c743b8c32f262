//! Characters to tokens: numbers, strings with their escapes, names, operators; comments are skipped.

use crate::error::CompileError;
use crate::value::Value;

#[derive(Clone, Debug)]
pub(crate) enum Token {
    Literal(Value),
    Name(String),
    Symbol(&'static str),
    End,
}

/// A token, where it starts and how it was written.
#[derive(Clone, Debug)]
pub(crate) struct Lexeme {
    pub at: usize,
    pub token: Token,
    pub text: String,
}

const SYMBOLS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[",
    "]", "{", "}",
];

struct Lexer<'a> {
    source: &'a str,
    chars: Vec<char>,
    at: usize,
}

/// All tokens of an expression, an end included.
pub(crate) fn tokens(source: &str) -> Result<Vec<Lexeme>, CompileError> {
    let mut lexer = Lexer { source, chars: source.chars().collect(), at: 0 };
    let mut found = Vec::new();
    loop {
        lexer.skip();
        let start = lexer.at;
        let token = lexer.next()?;
        let text = lexer.chars[start..lexer.at].iter().collect();
        let end = matches!(token, Token::End);
        found.push(Lexeme { at: start, token, text });
        if end {
            return Ok(found);
        }
    }
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError::one(self.source, at, message))
    }

    fn skip(&mut self) {
        loop {
            match self.peek(0) {
                ' ' | '\t' | '\n' | '\r' | '\u{c}' => self.at += 1,
                '/' if self.peek(1) == '/' => {
                    while self.at < self.chars.len() && self.peek(0) != '\n' {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn next(&mut self) -> Result<Token, CompileError> {
        let Some(first) = self.chars.get(self.at).copied() else { return Ok(Token::End) };
        if let Some(prefix) = self.string_prefix() {
            return self.string(prefix);
        }
        if first.is_ascii_digit() || (first == '.' && self.peek(1).is_ascii_digit()) {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let start = self.at;
            while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == '_' {
                self.at += 1;
            }
            let name: String = self.chars[start..self.at].iter().collect();
            return Ok(match name.as_str() {
                "true" => Token::Literal(Value::Bool(true)),
                "false" => Token::Literal(Value::Bool(false)),
                "null" => Token::Literal(Value::Null),
                "in" => Token::Symbol("in"),
                _ => Token::Name(name),
            });
        }
        for symbol in SYMBOLS {
            if symbol.chars().enumerate().all(|(i, c)| self.peek(i) == c) {
                self.at += symbol.len();
                return Ok(Token::Symbol(symbol));
            }
        }
        self.fail(self.at, format!("Syntax error: token recognition error at: '{first}'"))
    }

    /// How many characters of `r` and `b` come before a quote, when this is the start of a string.
    fn string_prefix(&self) -> Option<usize> {
        let quote = |c: char| c == '"' || c == '\'';
        let prefix = |c: char| matches!(c, 'r' | 'R' | 'b' | 'B');
        if quote(self.peek(0)) {
            Some(0)
        } else if prefix(self.peek(0)) && quote(self.peek(1)) {
            Some(1)
        } else if prefix(self.peek(0))
            && prefix(self.peek(1))
            && !self.peek(0).eq_ignore_ascii_case(&self.peek(1))
            && quote(self.peek(2))
        {
            Some(2)
        } else {
            None
        }
    }

    fn number(&mut self) -> Result<Token, CompileError> {
        let start = self.at;
        if self.peek(0) == '0' && matches!(self.peek(1), 'x' | 'X') && self.peek(2).is_ascii_hexdigit() {
            self.at += 2;
            while self.peek(0).is_ascii_hexdigit() {
                self.at += 1;
            }
            let digits: String = self.chars[start + 2..self.at].iter().collect();
            return self.integer(start, &digits, 16);
        }
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
        let mut float = false;
        if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
            float = true;
            self.at += 1;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
        }
        let sign = usize::from(matches!(self.peek(1), '+' | '-'));
        if matches!(self.peek(0), 'e' | 'E') && self.peek(1 + sign).is_ascii_digit() {
            float = true;
            self.at += 1 + sign;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
        }
        let text: String = self.chars[start..self.at].iter().collect();
        if float {
            return match text.parse() {
                Ok(value) => Ok(Token::Literal(Value::Double(value))),
                Err(_) => self.fail(start, "invalid double literal"),
            };
        }
        self.integer(start, &text, 10)
    }

    /// An integer; 2^63 is let through as the smallest int for the minus before it, which the parser sees to.
    fn integer(&mut self, start: usize, digits: &str, radix: u32) -> Result<Token, CompileError> {
        if matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            return match u64::from_str_radix(digits, radix) {
                Ok(value) => Ok(Token::Literal(Value::Uint(value))),
                Err(_) => self.fail(start, "invalid uint literal"),
            };
        }
        match u64::from_str_radix(digits, radix) {
            Ok(value) => match i64::try_from(value) {
                Ok(value) => Ok(Token::Literal(Value::Int(value))),
                Err(_) if value == 1 << 63 => Ok(Token::Literal(Value::Int(i64::MIN))),
                Err(_) => self.fail(start, "invalid int literal"),
            },
            Err(_) => self.fail(start, "invalid int literal"),
        }
    }

    fn string(&mut self, prefix: usize) -> Result<Token, CompileError> {
        let start = self.at;
        let marks: Vec<char> = self.chars[start..start + prefix].iter().map(char::to_ascii_lowercase).collect();
        let (raw, bytes) = (marks.contains(&'r'), marks.contains(&'b'));
        self.at += prefix;
        let quote = self.peek(0);
        let triple = self.peek(1) == quote && self.peek(2) == quote;
        self.at += if triple { 3 } else { 1 };
        let mut text = String::new();
        let mut octets: Vec<u8> = Vec::new();
        loop {
            let Some(c) = self.chars.get(self.at).copied() else {
                let seen: String = self.chars[start..].iter().take(40).collect();
                return self.fail(start, format!("Syntax error: token recognition error at: '{seen}'"));
            };
            if c == quote && (!triple || (self.peek(1) == quote && self.peek(2) == quote)) {
                self.at += if triple { 3 } else { 1 };
                break;
            }
            if !triple && matches!(c, '\n' | '\r') {
                let seen: String = self.chars[start..self.at].iter().take(40).collect();
                return self.fail(start, format!("Syntax error: token recognition error at: '{seen}'"));
            }
            if c == '\\' && !raw {
                match self.escape(bytes)? {
                    Escape::Char(c) => push(&mut text, &mut octets, c, bytes),
                    Escape::Byte(byte) => octets.push(byte),
                }
                continue;
            }
            self.at += 1;
            push(&mut text, &mut octets, c, bytes);
        }
        Ok(Token::Literal(if bytes { Value::Bytes(octets.into()) } else { Value::String(text.into()) }))
    }

    /// The escape sequence at the cursor.
    fn escape(&mut self, bytes: bool) -> Result<Escape, CompileError> {
        let start = self.at;
        let kind = self.peek(1);
        self.at += 2;
        let plain = match kind {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' | '\'' | '"' | '`' | '?' => kind,
            'x' | 'X' => return self.code(start, 2, 16, bytes),
            'u' => return self.code(start, 4, 16, false),
            'U' => return self.code(start, 8, 16, false),
            '0'..='3' => {
                self.at -= 1;
                return self.code(start, 3, 8, bytes);
            }
            _ => return self.fail(start, "unable to unescape string"),
        };
        Ok(Escape::Char(plain))
    }

    fn code(&mut self, start: usize, digits: usize, radix: u32, byte: bool) -> Result<Escape, CompileError> {
        let text: String = self.chars[self.at.min(self.chars.len())..].iter().take(digits).collect();
        let value = if text.chars().count() == digits && text.chars().all(|c| c.is_digit(radix)) {
            u32::from_str_radix(&text, radix).ok()
        } else {
            None
        };
        self.at = (self.at + digits).min(self.chars.len());
        match value {
            Some(value) if byte => match u8::try_from(value) {
                Ok(value) => Ok(Escape::Byte(value)),
                Err(_) => self.fail(start, "unable to unescape string"),
            },
            Some(value) => match char::from_u32(value) {
                Some(c) => Ok(Escape::Char(c)),
                None => self.fail(start, "invalid unicode code point"),
            },
            None => self.fail(start, "unable to unescape string"),
        }
    }
}

enum Escape {
    Char(char),
    Byte(u8),
}

fn push(text: &mut String, octets: &mut Vec<u8>, c: char, bytes: bool) {
    if bytes {
        octets.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        text.push(c);
    }
}
