//! Optional values: making, testing and opening them.

use super::{Answer, Args, Line};
use crate::error::EvalError;
use crate::value::Value;

pub(crate) const LINES: &[Line] = &[
    ("optional.of", "A->optional(A)", |args| Ok(Value::some(args.value(0)?.clone()))),
    ("optional.none", "->optional(A)", |_| Ok(Value::none())),
    ("optional.ofNonZeroValue", "A->optional(A)", |args| {
        let value = args.value(0)?;
        Ok(if value.is_zero() { Value::none() } else { Value::some(value.clone()) })
    }),
    ("optional.unwrap", "list(optional(A))->list(A)", unwrap_all),
    ("unwrapOpt", ".list(optional(A))->list(A)", unwrap_all),
    ("hasValue", ".optional(A)->bool", |args| Ok(Value::Bool(inner(args, 0)?.is_some()))),
    ("value", ".optional(A)->A", |args| inner(args, 0)?.ok_or_else(|| EvalError::new("optional.none() dereference"))),
    ("or", ".optional(A),optional(A)->optional(A)", |args| {
        Ok(match inner(args, 0)? {
            Some(value) => Value::some(value),
            None => args.value(1)?.clone(),
        })
    }),
    ("orValue", ".optional(A),A->A", |args| {
        Ok(match inner(args, 0)? {
            Some(value) => value,
            None => args.value(1)?.clone(),
        })
    }),
];

fn inner(args: &Args<'_>, at: usize) -> Result<Option<Value>, EvalError> {
    match args.value(at)? {
        Value::Optional(inner) => Ok(inner.as_ref().map(|inner| (**inner).clone())),
        _ => Err(EvalError::no_overload()),
    }
}

fn unwrap_all(args: &mut Args<'_>) -> Answer {
    let items = args.list(0)?;
    args.budget.charge_scan(items.len())?;
    let held = items.iter().filter_map(|item| match item {
        Value::Optional(inner) => inner.as_ref().map(|inner| (**inner).clone()),
        _ => None,
    });
    Ok(Value::list(held.collect()))
}
