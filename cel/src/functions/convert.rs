//! Conversions between scalar types, `type` and `dyn`.

use super::{Answer, Args, Line};
use crate::error::EvalError;
use crate::value::Value;

pub(crate) const LINES: &[Line] = &[
    ("dyn", "A->dyn", |args| args.value(0).cloned()),
    ("type", "A->type", |args| Ok(Value::Type(args.value(0)?.type_name().into()))),
    ("bool", "bool->bool", to_bool),
    ("bool", "string->bool", to_bool),
    ("int", "int->int", to_int),
    ("int", "uint->int", to_int),
    ("int", "double->int", to_int),
    ("int", "string->int", to_int),
    ("int", "timestamp->int", to_int),
    ("int", "duration->int", to_int),
    ("uint", "uint->uint", to_uint),
    ("uint", "int->uint", to_uint),
    ("uint", "double->uint", to_uint),
    ("uint", "string->uint", to_uint),
    ("double", "double->double", to_double),
    ("double", "int->double", to_double),
    ("double", "uint->double", to_double),
    ("double", "string->double", to_double),
    ("string", "string->string", to_string),
    ("string", "bool->string", to_string),
    ("string", "int->string", to_string),
    ("string", "uint->string", to_string),
    ("string", "double->string", to_string),
    ("string", "bytes->string", to_string),
    ("string", "timestamp->string", to_string),
    ("string", "duration->string", to_string),
    ("string", "ip->string", to_string),
    ("string", "cidr->string", to_string),
    ("bytes", "bytes->bytes", to_bytes),
    ("bytes", "string->bytes", to_bytes),
];

fn failed(from: &str, to: &str) -> EvalError {
    EvalError::new(format!("type conversion error from '{from}' to '{to}'"))
}

fn to_bool(args: &mut Args<'_>) -> Answer {
    match args.value(0)? {
        Value::Bool(b) => Ok(Value::Bool(*b)),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(failed("string", "bool")),
        },
        _ => Err(EvalError::no_overload()),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn to_int(args: &mut Args<'_>) -> Answer {
    let range = || EvalError::new("integer overflow");
    Ok(Value::Int(match args.value(0)? {
        Value::Int(i) => *i,
        Value::Uint(u) => i64::try_from(*u).map_err(|_| range())?,
        // Both bounds themselves are refused, as cel-go does.
        Value::Double(d) if *d > i64::MIN as f64 && *d < i64::MAX as f64 => *d as i64,
        Value::Double(_) => return Err(range()),
        Value::String(text) => text.parse().map_err(|_| failed("string", "int"))?,
        Value::Timestamp(nanos) => i64::try_from(nanos.div_euclid(1_000_000_000)).map_err(|_| range())?,
        Value::Duration(nanos) => *nanos,
        _ => return Err(EvalError::no_overload()),
    }))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
fn to_uint(args: &mut Args<'_>) -> Answer {
    let range = || EvalError::new("unsigned integer overflow");
    Ok(Value::Uint(match args.value(0)? {
        Value::Uint(u) => *u,
        Value::Int(i) => u64::try_from(*i).map_err(|_| range())?,
        Value::Double(d) if *d >= 0.0 && *d < u64::MAX as f64 => *d as u64,
        Value::Double(_) => return Err(range()),
        Value::String(text) => text.parse().map_err(|_| failed("string", "uint"))?,
        _ => return Err(EvalError::no_overload()),
    }))
}

#[allow(clippy::cast_precision_loss)]
fn to_double(args: &mut Args<'_>) -> Answer {
    Ok(Value::Double(match args.value(0)? {
        Value::Double(d) => *d,
        Value::Int(i) => *i as f64,
        Value::Uint(u) => *u as f64,
        Value::String(text) => text.parse().map_err(|_| failed("string", "double"))?,
        _ => return Err(EvalError::no_overload()),
    }))
}

fn to_string(args: &mut Args<'_>) -> Answer {
    let value = args.value(0)?.clone();
    if let Value::String(_) = value {
        return Ok(value);
    }
    args.budget.charge_scan(value.size())?;
    if let Value::Bytes(bytes) = &value {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string"))?;
        return Ok(Value::from(text));
    }
    Ok(Value::from(value.to_string()))
}

fn to_bytes(args: &mut Args<'_>) -> Answer {
    match args.value(0)?.clone() {
        Value::String(text) => {
            args.budget.charge_scan(text.len())?;
            Ok(Value::Bytes(text.as_bytes().into()))
        }
        other => Ok(other),
    }
}

/// A double as Go's shortest form (`%g`) writes it: an exponent below 1e-4 and from 1e21 on.
pub(crate) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = value.abs();
    if value == 0.0 || (1e-4..1e21).contains(&size) {
        return format!("{value}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}
