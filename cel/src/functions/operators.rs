//! Operators: arithmetic that refuses to overflow, comparison, membership, indexing, concatenation.

use std::cmp::Ordering;

use super::{Answer, Args, Line};
use crate::compare::{equal, lookup, order};
use crate::error::EvalError;
use crate::eval::holds;
use crate::value::Value;

pub(crate) const LINES: &[Line] = &[
    ("_==_", "A,A->bool", |args| equality(args, true)),
    ("_!=_", "A,A->bool", |args| equality(args, false)),
    ("_<_", "bool,bool->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "int,int->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "int,uint->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "int,double->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "uint,uint->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "uint,int->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "uint,double->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "double,double->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "double,int->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "double,uint->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "string,string->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "bytes,bytes->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "timestamp,timestamp->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<_", "duration,duration->bool", |args| ordering(args, |o| o == Ordering::Less)),
    ("_<=_", "bool,bool->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "int,int->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "int,uint->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "int,double->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "uint,uint->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "uint,int->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "uint,double->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "double,double->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "double,int->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "double,uint->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "string,string->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "bytes,bytes->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "timestamp,timestamp->bool", |args| ordering(args, Ordering::is_le)),
    ("_<=_", "duration,duration->bool", |args| ordering(args, Ordering::is_le)),
    ("_>_", "bool,bool->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "int,int->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "int,uint->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "int,double->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "uint,uint->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "uint,int->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "uint,double->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "double,double->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "double,int->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "double,uint->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "string,string->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "bytes,bytes->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "timestamp,timestamp->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>_", "duration,duration->bool", |args| ordering(args, Ordering::is_gt)),
    ("_>=_", "bool,bool->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "int,int->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "int,uint->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "int,double->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "uint,uint->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "uint,int->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "uint,double->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "double,double->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "double,int->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "double,uint->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "string,string->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "bytes,bytes->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "timestamp,timestamp->bool", |args| ordering(args, Ordering::is_ge)),
    ("_>=_", "duration,duration->bool", |args| ordering(args, Ordering::is_ge)),
    ("_+_", "int,int->int", |args| arithmetic(args, i64::checked_add, u64::checked_add, |a, b| a + b)),
    ("_+_", "uint,uint->uint", |args| arithmetic(args, i64::checked_add, u64::checked_add, |a, b| a + b)),
    ("_+_", "double,double->double", |args| arithmetic(args, i64::checked_add, u64::checked_add, |a, b| a + b)),
    ("_+_", "string,string->string", concatenate),
    ("_+_", "bytes,bytes->bytes", concatenate),
    ("_+_", "list(A),list(A)->list(A)", concatenate),
    ("_+_", "duration,duration->duration", add_time),
    ("_+_", "timestamp,duration->timestamp", add_time),
    ("_+_", "duration,timestamp->timestamp", add_time),
    ("_-_", "int,int->int", |args| arithmetic(args, i64::checked_sub, u64::checked_sub, |a, b| a - b)),
    ("_-_", "uint,uint->uint", |args| arithmetic(args, i64::checked_sub, u64::checked_sub, |a, b| a - b)),
    ("_-_", "double,double->double", |args| arithmetic(args, i64::checked_sub, u64::checked_sub, |a, b| a - b)),
    ("_-_", "duration,duration->duration", subtract_time),
    ("_-_", "timestamp,duration->timestamp", subtract_time),
    ("_-_", "timestamp,timestamp->duration", subtract_time),
    ("_*_", "int,int->int", |args| arithmetic(args, i64::checked_mul, u64::checked_mul, |a, b| a * b)),
    ("_*_", "uint,uint->uint", |args| arithmetic(args, i64::checked_mul, u64::checked_mul, |a, b| a * b)),
    ("_*_", "double,double->double", |args| arithmetic(args, i64::checked_mul, u64::checked_mul, |a, b| a * b)),
    ("_/_", "int,int->int", |args| divide(args, "division by zero", i64::checked_div, u64::checked_div)),
    ("_/_", "uint,uint->uint", |args| divide(args, "division by zero", i64::checked_div, u64::checked_div)),
    ("_/_", "double,double->double", |args| arithmetic(args, i64::checked_div, u64::checked_div, |a, b| a / b)),
    ("_%_", "int,int->int", |args| divide(args, "modulus by zero", i64::checked_rem, u64::checked_rem)),
    ("_%_", "uint,uint->uint", |args| divide(args, "modulus by zero", i64::checked_rem, u64::checked_rem)),
    ("!_", "bool->bool", |args| Ok(Value::Bool(!args.bool(0)?))),
    ("-_", "int->int", negate),
    ("-_", "double->double", negate),
    ("-_", "duration->duration", negate),
    ("@in", "A,list(A)->bool", within),
    ("@in", "A,map(A,B)->bool", within),
    ("_[_]", "list(A),int->A", |args| index(args, false)),
    ("_[_]", "map(A,B),A->B", |args| index(args, false)),
    ("_[_]", "optional(list(A)),int->optional(A)", |args| index(args, true)),
    ("_[_]", "optional(map(A,B)),A->optional(B)", |args| index(args, true)),
    ("_[?_]", "list(A),int->optional(A)", |args| index(args, true)),
    ("_[?_]", "map(A,B),A->optional(B)", |args| index(args, true)),
    ("_[?_]", "optional(list(A)),int->optional(A)", |args| index(args, true)),
    ("_[?_]", "optional(map(A,B)),A->optional(B)", |args| index(args, true)),
    ("size", "string->int", size),
    ("size", "bytes->int", size),
    ("size", "list(A)->int", size),
    ("size", "map(A,B)->int", size),
    ("size", ".string->int", size),
    ("size", ".bytes->int", size),
    ("size", ".list(A)->int", size),
    ("size", ".map(A,B)->int", size),
];

fn equality(args: &mut Args<'_>, wanted: bool) -> Answer {
    let (a, b) = (args.value(0)?.clone(), args.value(1)?.clone());
    Ok(Value::Bool(equal(&a, &b, args.budget)? == wanted))
}

fn ordering(args: &mut Args<'_>, wanted: fn(Ordering) -> bool) -> Answer {
    let (a, b) = (args.value(0)?.clone(), args.value(1)?.clone());
    if let Value::String(_) | Value::Bytes(_) = &a {
        args.budget.charge_scan(a.size().min(b.size()))?;
    }
    Ok(Value::Bool(wanted(order(&a, &b)?)))
}

fn overflow(of: &str) -> EvalError {
    EvalError::new(format!("{of} overflow"))
}

fn arithmetic(
    args: &mut Args<'_>,
    ints: fn(i64, i64) -> Option<i64>,
    uints: fn(u64, u64) -> Option<u64>,
    doubles: fn(f64, f64) -> f64,
) -> Answer {
    match (args.value(0)?, args.value(1)?) {
        (Value::Int(a), Value::Int(b)) => ints(*a, *b).map(Value::Int).ok_or_else(|| overflow("integer")),
        (Value::Uint(a), Value::Uint(b)) => {
            uints(*a, *b).map(Value::Uint).ok_or_else(|| overflow("unsigned integer"))
        }
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(doubles(*a, *b))),
        _ => Err(EvalError::no_overload()),
    }
}

fn divide(
    args: &mut Args<'_>,
    by_zero: &str,
    ints: fn(i64, i64) -> Option<i64>,
    uints: fn(u64, u64) -> Option<u64>,
) -> Answer {
    match (args.value(0)?, args.value(1)?) {
        (_, Value::Int(0) | Value::Uint(0)) => Err(EvalError::new(by_zero)),
        (Value::Int(a), Value::Int(b)) => ints(*a, *b).map(Value::Int).ok_or_else(|| overflow("integer")),
        (Value::Uint(a), Value::Uint(b)) => {
            uints(*a, *b).map(Value::Uint).ok_or_else(|| overflow("unsigned integer"))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn negate(args: &mut Args<'_>) -> Answer {
    match args.value(0)? {
        Value::Int(a) => a.checked_neg().map(Value::Int).ok_or_else(|| overflow("integer")),
        Value::Double(a) => Ok(Value::Double(-a)),
        Value::Duration(a) => a.checked_neg().map(Value::Duration).ok_or_else(|| overflow("duration")),
        _ => Err(EvalError::no_overload()),
    }
}

fn concatenate(args: &mut Args<'_>) -> Answer {
    let (a, b) = (args.value(0)?.clone(), args.value(1)?.clone());
    args.budget.charge_scan(a.size() + b.size())?;
    Ok(match (&a, &b) {
        (Value::String(a), Value::String(b)) => Value::String(format!("{a}{b}").into()),
        (Value::Bytes(a), Value::Bytes(b)) => Value::Bytes([&a[..], &b[..]].concat().into()),
        (Value::List(a), Value::List(b)) => Value::list(a.iter().chain(b.iter()).cloned().collect()),
        _ => return Err(EvalError::no_overload()),
    })
}

fn add_time(args: &mut Args<'_>) -> Answer {
    match (args.value(0)?, args.value(1)?) {
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(*b).map(Value::Duration).ok_or_else(|| overflow("duration"))
        }
        (Value::Timestamp(a), Value::Duration(b)) | (Value::Duration(b), Value::Timestamp(a)) => {
            super::time::timestamp(a + i128::from(*b))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn subtract_time(args: &mut Args<'_>) -> Answer {
    match (args.value(0)?, args.value(1)?) {
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_sub(*b).map(Value::Duration).ok_or_else(|| overflow("duration"))
        }
        (Value::Timestamp(a), Value::Duration(b)) => super::time::timestamp(a - i128::from(*b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            i64::try_from(a - b).map(Value::Duration).map_err(|_| overflow("duration"))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn within(args: &mut Args<'_>) -> Answer {
    let (wanted, range) = (args.value(0)?.clone(), args.value(1)?.clone());
    match &range {
        Value::List(items) => Ok(Value::Bool(holds(items, &wanted, args.budget)?)),
        Value::Map(map) => Ok(Value::Bool(lookup(map, &wanted).is_some())),
        Value::Object(object) => match &wanted {
            Value::String(name) => Ok(Value::Bool(object.fields.contains_key(name))),
            _ => Ok(Value::Bool(false)),
        },
        Value::Dynamic(dynamic) => match &wanted {
            Value::String(name) => Ok(Value::Bool(dynamic.field(name, args.budget)?.is_some())),
            _ => Ok(Value::Bool(false)),
        },
        _ => Err(EvalError::no_overload()),
    }
}

/// `range[key]`; `optional` gives an optional instead of an error for what is not there.
fn index(args: &mut Args<'_>, optional: bool) -> Answer {
    let range = match args.value(0)? {
        Value::Optional(None) => return Ok(Value::none()),
        Value::Optional(Some(inner)) => (**inner).clone(),
        other => other.clone(),
    };
    let key = args.value(1)?.clone();
    let found = match &range {
        Value::List(items) => {
            let at = position(&key)?;
            usize::try_from(at).ok().and_then(|at| items.get(at)).cloned()
        }
        Value::Map(map) => lookup(map, &key).cloned(),
        Value::Object(object) => match &key {
            Value::String(name) => object.fields.get(name).cloned(),
            _ => None,
        },
        Value::Dynamic(dynamic) => match &key {
            Value::String(name) => dynamic.field(name, args.budget)?,
            _ => None,
        },
        _ => return Err(EvalError::no_overload()),
    };
    match found {
        Some(value) if optional => Ok(Value::some(value)),
        Some(value) => Ok(value),
        None if optional => Ok(Value::none()),
        None if matches!(range, Value::List(_)) => Err(EvalError::new(format!("index out of bounds: {key}"))),
        None => Err(EvalError::no_key(&key.to_string())),
    }
}

#[allow(clippy::cast_possible_truncation)]
fn position(key: &Value) -> Result<i64, EvalError> {
    match key {
        Value::Int(at) => Ok(*at),
        Value::Uint(at) => Ok(i64::try_from(*at).unwrap_or(i64::MAX)),
        Value::Double(at) if at.trunc() == *at => Ok(*at as i64),
        other => Err(EvalError::new(format!("unsupported index type '{}' in list", other.type_name()))),
    }
}

fn size(args: &mut Args<'_>) -> Answer {
    let length = match args.value(0)? {
        Value::String(text) => {
            let text = text.clone();
            args.budget.charge_scan(text.len())?;
            text.chars().count()
        }
        Value::Object(object) => object.fields.len(),
        other => other.size(),
    };
    i64::try_from(length).map(Value::Int).map_err(|_| overflow("integer"))
}
