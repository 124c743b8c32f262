//! `'%s has %d'.format([...])`: clauses s, d, f, e, b, x, X and o, with a precision for f and e.

use super::{Answer, Args, Line};
use crate::error::EvalError;
use crate::functions::convert::double_text;
use crate::value::Value;

pub(crate) const LINES: &[Line] = &[("format", ".string,list(dyn)->string", format)];

/// No more digits after the point than this.
const MOST_DIGITS: usize = 100;

fn format(args: &mut Args<'_>) -> Answer {
    let (pattern, items) = (args.scanned(0)?, args.list(1)?);
    let mut written = String::new();
    let mut items = items.iter().enumerate();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            written.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            written.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            let parsed: usize = digits.parse().map_err(|_| bad("could not parse formatting clause: precision"))?;
            precision = Some(parsed.min(MOST_DIGITS));
        }
        let Some(clause) = chars.next() else { return Err(bad("unexpected end of string")) };
        let Some((at, item)) = items.next() else {
            return Err(EvalError::new(format!("index {} out of range", args.list(1)?.len())));
        };
        let before = written.len();
        one(&mut written, clause, precision, item)
            .map_err(|error| EvalError::new(format!("error during formatting: argument {at}: {error}")))?;
        args.budget.charge_scan(written.len() - before)?;
    }
    Ok(Value::from(written))
}

fn bad(what: &str) -> EvalError {
    EvalError::new(format!("error during formatting: {what}"))
}

fn one(to: &mut String, clause: char, precision: Option<usize>, item: &Value) -> Result<(), EvalError> {
    let wrong = |wanted: &str| EvalError::new(format!("{wanted}, was given {}", item.type_name()));
    match (clause, item) {
        ('s', item) => text(to, item),
        ('d', Value::Int(_) | Value::Uint(_) | Value::Double(_)) => to.push_str(&item.to_string()),
        ('d', _) => return Err(wrong("decimal clause can only be used on integers")),
        ('f' | 'e', Value::Double(_) | Value::Int(_) | Value::Uint(_)) => {
            to.push_str(&float(clause, precision.unwrap_or(6), item));
        }
        ('f' | 'e', _) => return Err(wrong("fixed-point clause can only be used on doubles")),
        ('b', Value::Int(i)) => to.push_str(&signed(*i, |size| format!("{size:b}"))),
        ('b', Value::Uint(u)) => to.push_str(&format!("{u:b}")),
        ('b', Value::Bool(b)) => to.push(if *b { '1' } else { '0' }),
        ('b', _) => return Err(wrong("only integers and bools can be formatted as binary")),
        ('o', Value::Int(i)) => to.push_str(&signed(*i, |size| format!("{size:o}"))),
        ('o', Value::Uint(u)) => to.push_str(&format!("{u:o}")),
        ('o', _) => return Err(wrong("octal clause can only be used on integers")),
        ('x', Value::Int(i)) => to.push_str(&signed(*i, |size| format!("{size:x}"))),
        ('X', Value::Int(i)) => to.push_str(&signed(*i, |size| format!("{size:X}"))),
        ('x', Value::Uint(u)) => to.push_str(&format!("{u:x}")),
        ('X', Value::Uint(u)) => to.push_str(&format!("{u:X}")),
        ('x' | 'X', Value::String(_) | Value::Bytes(_)) => {
            let bytes: &[u8] = match item {
                Value::String(text) => text.as_bytes(),
                Value::Bytes(bytes) => bytes,
                _ => &[],
            };
            for byte in bytes {
                to.push_str(&if clause == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") });
            }
        }
        ('x' | 'X', _) => {
            return Err(wrong("only integers, byte buffers, and strings can be formatted as hex"));
        }
        (other, _) => return Err(EvalError::new(format!("unrecognized formatting clause \"{other}\""))),
    }
    Ok(())
}

fn signed(value: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if value < 0 { "-" } else { "" }, digits(value.unsigned_abs()))
}

#[allow(clippy::cast_precision_loss)]
fn float(clause: char, precision: usize, item: &Value) -> String {
    let value = match item {
        Value::Double(d) => *d,
        Value::Int(i) => *i as f64,
        Value::Uint(u) => *u as f64,
        _ => f64::NAN,
    };
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    if clause == 'f' {
        return format!("{value:.precision$}");
    }
    let text = format!("{value:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// A value as `%s` writes it.
fn text(to: &mut String, item: &Value) {
    match item {
        Value::List(items) => {
            to.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    to.push_str(", ");
                }
                text(to, item);
            }
            to.push(']');
        }
        Value::Map(map) => {
            to.push('{');
            for (at, (key, value)) in map.iter().enumerate() {
                if at > 0 {
                    to.push_str(", ");
                }
                to.push_str(&key.to_string());
                to.push_str(": ");
                text(to, value);
            }
            to.push('}');
        }
        Value::Double(value) if value.is_infinite() => {
            to.push_str(if *value > 0.0 { "Infinity" } else { "-Infinity" });
        }
        Value::Double(value) => to.push_str(&double_text(*value)),
        other => to.push_str(&other.to_string()),
    }
}
