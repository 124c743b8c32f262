//! Tokens to a tree: CEL's grammar by recursive descent, with a limit on nesting and on length.

use crate::ast::{Access, Expr, Node};
use crate::error::CompileError;
use crate::lexer::{Lexeme, Token, tokens};
use crate::macros;
use crate::value::Value;

/// How deep expressions may nest (cel-go's default).
const DEEPEST: usize = 250;
/// How many characters an expression may have (cel-go's default).
const LONGEST: usize = 100_000;

const EXPECTED: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, \
                        BYTES, IDENTIFIER}";

/// Names that no variable may have, from the language's definition.
const RESERVED: [&str; 19] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
];

pub(crate) struct Parser<'a> {
    source: &'a str,
    lexemes: Vec<Lexeme>,
    at: usize,
    /// Levels of recursion at the moment.
    depth: usize,
}

type Parsed<T> = Result<T, CompileError>;

/// The tree of an expression.
pub(crate) fn parse(source: &str) -> Parsed<Node> {
    if source.chars().count() > LONGEST {
        let size = source.chars().count();
        let message = format!("expression code point size exceeds limit: size: {size}, limit {LONGEST}");
        return Err(CompileError::one("", 0, message));
    }
    let mut parser = Parser { source, lexemes: tokens(source)?, at: 0, depth: 0 };
    let node = parser.expression()?;
    if !matches!(parser.peek(), Token::End) {
        return parser.fail(format!("Syntax error: extraneous input '{}' expecting <EOF>", parser.text()));
    }
    Ok(node)
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.lexemes.get(self.at).map_or(&Token::End, |lexeme| &lexeme.token)
    }

    fn text(&self) -> String {
        match self.lexemes.get(self.at) {
            Some(lexeme) if !matches!(lexeme.token, Token::End) => lexeme.text.clone(),
            _ => "<EOF>".to_owned(),
        }
    }

    fn place(&self) -> usize {
        self.lexemes.get(self.at).map_or(0, |lexeme| lexeme.at)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        self.fail_at(self.place(), message)
    }

    pub(crate) fn fail_at<T>(&self, at: usize, message: impl Into<String>) -> Parsed<T> {
        Err(CompileError::one(self.source, at, message))
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(other) if *other == symbol);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Parsed<()> {
        if self.take(symbol) {
            return Ok(());
        }
        self.fail(format!("Syntax error: mismatched input '{}' expecting '{symbol}'", self.text()))
    }

    /// Runs a step one level deeper.
    fn nested<T>(&mut self, step: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEEPEST {
            return self.fail(format!("expression recursion limit exceeded: {DEEPEST}"));
        }
        self.depth += 1;
        let answer = step(self);
        self.depth -= 1;
        answer
    }

    fn expression(&mut self) -> Parsed<Node> {
        self.nested(|parser| {
            let condition = parser.or()?;
            let at = parser.place();
            if !parser.take("?") {
                return Ok(condition);
            }
            let then = parser.or()?;
            parser.expect(":")?;
            let otherwise = parser.expression()?;
            parser.made(at, Expr::Ternary(Box::new([condition, then, otherwise])))
        })
    }

    fn or(&mut self) -> Parsed<Node> {
        self.chain("||", Self::and, Expr::Or)
    }

    fn and(&mut self) -> Parsed<Node> {
        self.chain("&&", Self::relation, Expr::And)
    }

    fn chain(
        &mut self,
        symbol: &str,
        part: fn(&mut Self) -> Parsed<Node>,
        whole: fn(Vec<Node>) -> Expr,
    ) -> Parsed<Node> {
        let first = part(self)?;
        let at = self.place();
        let mut parts = vec![first];
        while self.take(symbol) {
            parts.push(part(self)?);
        }
        if parts.len() > 1 {
            return self.made(at, whole(parts));
        }
        parts.pop().map_or_else(|| self.fail("Syntax error"), Ok)
    }

    fn relation(&mut self) -> Parsed<Node> {
        const OPERATORS: [(&str, &str); 7] = [
            ("==", "_==_"),
            ("!=", "_!=_"),
            ("<=", "_<=_"),
            (">=", "_>=_"),
            ("<", "_<_"),
            (">", "_>_"),
            ("in", "@in"),
        ];
        self.binary(&OPERATORS, Self::sum)
    }

    fn sum(&mut self) -> Parsed<Node> {
        self.binary(&[("+", "_+_"), ("-", "_-_")], Self::product)
    }

    fn product(&mut self) -> Parsed<Node> {
        self.binary(&[("*", "_*_"), ("/", "_/_"), ("%", "_%_")], Self::unary)
    }

    /// Left-associative operators.
    fn binary(&mut self, operators: &[(&str, &str)], part: fn(&mut Self) -> Parsed<Node>) -> Parsed<Node> {
        let mut left = part(self)?;
        loop {
            let at = self.place();
            let Some((_, function)) = operators.iter().find(|(symbol, _)| self.take(symbol)) else { break };
            let right = part(self)?;
            left = self.made(at, Expr::call(function, false, vec![left, right]))?;
        }
        Ok(left)
    }

    /// A node, unless it nests too deep: chains of operators nest as brackets do.
    pub(crate) fn made(&self, at: usize, expr: Expr) -> Parsed<Node> {
        let node = Node::new(at, expr);
        if node.depth > DEEPEST {
            return self.fail_at(at, format!("expression recursion limit exceeded: {DEEPEST}"));
        }
        Ok(node)
    }

    fn unary(&mut self) -> Parsed<Node> {
        let at = self.place();
        for (symbol, function) in [("!", "!_"), ("-", "-_")] {
            let mut count = 0_usize;
            while self.take(symbol) {
                count += 1;
            }
            if count == 0 {
                continue;
            }
            if function == "-_" && count == 1 {
                if let Token::Literal(Value::Int(value)) = *self.peek() {
                    // The smallest int has no positive twin: the lexer passes it through as itself.
                    self.lexemes[self.at].token = Token::Literal(Value::Int(value.wrapping_neg()));
                    return self.member(true);
                }
                if let Token::Literal(Value::Double(value)) = *self.peek() {
                    self.lexemes[self.at].token = Token::Literal(Value::Double(-value));
                    return self.member(true);
                }
            }
            let operand = self.member(false)?;
            // Two of a kind cancel each other out, as in cel-go.
            if count % 2 == 0 {
                return Ok(operand);
            }
            return self.made(at, Expr::call(function, false, vec![operand]));
        }
        self.member(false)
    }

    /// A primary and what follows it: fields, calls, indices.
    fn member(&mut self, negative: bool) -> Parsed<Node> {
        let mut node = self.primary(negative)?;
        loop {
            let at = self.place();
            if self.take(".") {
                node = self.field(node, at)?;
            } else if self.take("[") {
                let function = if self.take("?") { "_[?_]" } else { "_[_]" };
                let index = self.expression()?;
                self.expect("]")?;
                node = self.made(at, Expr::call(function, false, vec![node, index]))?;
            } else {
                return Ok(node);
            }
        }
    }

    fn field(&mut self, operand: Node, at: usize) -> Parsed<Node> {
        let optional = self.take("?");
        let Token::Name(name) = self.peek().clone() else {
            return self.fail(format!("Syntax error: no viable alternative at input '.{}'", self.text()));
        };
        self.at += 1;
        let open = self.place();
        if !optional && self.take("(") {
            let args = self.arguments(")")?;
            return macros::member(self, open, operand, name, args);
        }
        let how = if optional { Access::Optional } else { Access::Plain };
        self.made(at, Expr::Select { operand: Box::new(operand), field: name, how })
    }

    fn arguments(&mut self, end: &str) -> Parsed<Vec<Node>> {
        let mut args = Vec::new();
        if self.take(end) {
            return Ok(args);
        }
        loop {
            args.push(self.expression()?);
            if self.take(end) {
                return Ok(args);
            }
            self.expect_comma(end)?;
        }
    }

    fn expect_comma(&mut self, end: &str) -> Parsed<()> {
        if self.take(",") {
            return Ok(());
        }
        self.fail(format!("Syntax error: mismatched input '{}' expecting {{'{end}', ','}}", self.text()))
    }

    fn primary(&mut self, negative: bool) -> Parsed<Node> {
        let at = self.place();
        match self.peek().clone() {
            Token::Literal(Value::Int(i64::MIN)) if !negative => self.fail("invalid int literal"),
            Token::Literal(value) => {
                self.at += 1;
                self.made(at, Expr::Literal(value))
            }
            Token::Symbol("(") => {
                self.at += 1;
                let node = self.expression()?;
                self.expect(")")?;
                Ok(node)
            }
            Token::Symbol("[") => {
                self.at += 1;
                self.list(at)
            }
            Token::Symbol("{") => {
                self.at += 1;
                self.map(at)
            }
            Token::Symbol(".") => {
                self.at += 1;
                self.name(at)
            }
            Token::Name(_) => self.name(at),
            Token::Symbol(_) | Token::End => {
                self.fail(format!("Syntax error: mismatched input '{}' expecting {EXPECTED}", self.text()))
            }
        }
    }

    /// A variable, a call of a global function, or an object: `a.b.C{...}`.
    fn name(&mut self, at: usize) -> Parsed<Node> {
        let Token::Name(name) = self.peek().clone() else {
            return self.fail(format!("Syntax error: mismatched input '{}' expecting IDENTIFIER", self.text()));
        };
        if let Some(type_name) = self.object_name() {
            return self.object(at, type_name);
        }
        if RESERVED.contains(&name.as_str()) {
            return self.fail(format!("reserved identifier: {name}"));
        }
        self.at += 1;
        let open = self.place();
        if self.take("(") {
            let args = self.arguments(")")?;
            return macros::global(self, open, &name, args);
        }
        self.made(at, Expr::Ident(name))
    }

    /// The dotted name before a `{`, if that is what comes.
    fn object_name(&self) -> Option<String> {
        let mut name = String::new();
        let mut at = self.at;
        loop {
            let Some(Lexeme { token: Token::Name(part), .. }) = self.lexemes.get(at) else { return None };
            name.push_str(part);
            match self.lexemes.get(at + 1).map(|lexeme| &lexeme.token) {
                Some(Token::Symbol("{")) => return Some(name),
                Some(Token::Symbol(".")) => name.push('.'),
                _ => return None,
            }
            at += 2;
        }
    }

    fn object(&mut self, at: usize, name: String) -> Parsed<Node> {
        while !self.take("{") {
            self.at += 1;
        }
        let mut fields = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let Token::Name(field) = self.peek().clone() else {
                return self
                    .fail(format!("Syntax error: mismatched input '{}' expecting {{'}}', ','}}", self.text()));
            };
            self.at += 1;
            self.expect(":")?;
            fields.push((optional, field, self.expression()?));
            if !matches!(self.peek(), Token::Symbol("}")) {
                self.expect_comma("}")?;
            }
        }
        self.made(at, Expr::Struct(name, fields))
    }

    fn list(&mut self, at: usize) -> Parsed<Node> {
        let mut items = Vec::new();
        while !self.take("]") {
            let optional = self.take("?");
            items.push((optional, self.expression()?));
            if !matches!(self.peek(), Token::Symbol("]")) {
                self.expect_comma("]")?;
            }
        }
        self.made(at, Expr::List(items))
    }

    fn map(&mut self, at: usize) -> Parsed<Node> {
        let mut entries = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((optional, key, self.expression()?));
            if !matches!(self.peek(), Token::Symbol("}")) {
                self.expect_comma("}")?;
            }
        }
        self.made(at, Expr::Map(entries))
    }
}
