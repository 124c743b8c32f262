//! Which values are equal, and which of two comes first.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::budget::Budget;
use crate::error::EvalError;
use crate::value::{Key, Value};

/// Whether two values are equal: numbers across their types by what they count, everything else within its own type.
/// Charged by what is looked at.
pub(crate) fn equal(a: &Value, b: &Value, budget: &mut Budget) -> Result<bool, EvalError> {
    budget.enter()?;
    let answer = equal_inside(a, b, budget);
    budget.leave();
    answer
}

fn equal_inside(a: &Value, b: &Value, budget: &mut Budget) -> Result<bool, EvalError> {
    if let Some(order) = numbers(a, b) {
        return Ok(order == Some(Ordering::Equal));
    }
    Ok(match (a, b) {
        (Value::Null, Value::Null) | (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => {
            budget.charge_scan(a.len().min(b.len()))?;
            a == b
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            budget.charge_scan(a.len().min(b.len()))?;
            a == b
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => equal(a, b, budget)?,
        (Value::List(a), Value::List(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            budget.charge_scan(a.len())?;
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Map(a), Value::Map(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            budget.charge_scan(a.len())?;
            for (key, value) in a.iter() {
                match lookup(b, &key.value()) {
                    Some(other) if equal(value, other, budget)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Object(a), Value::Object(b)) => {
            if a.name != b.name || !a.fields.keys().eq(b.fields.keys()) {
                return Ok(false);
            }
            for (a, b) in a.fields.values().zip(b.fields.values()) {
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Url(a), Value::Url(b)) => a.text() == b.text(),
        (Value::Ip(a), Value::Ip(b)) => a == b,
        (Value::Cidr(a), Value::Cidr(b)) => a == b,
        (Value::Quantity(a), Value::Quantity(b)) => a == b,
        (Value::Semver(a), Value::Semver(b)) => a.cmp(b) == Ordering::Equal,
        (Value::Format(a), Value::Format(b)) => a == b,
        (Value::Authz(a), Value::Authz(b)) => Arc::ptr_eq(a, b),
        _ => false,
    })
}

/// The order of two numbers; the outer none where one is no number, the inner one where NaN is in play.
fn numbers(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    Some(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Int(a), Value::Double(b)) => whole_and_double(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => whole_and_double(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => whole_and_double(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Double(a), Value::Uint(b)) => whole_and_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => return None,
    })
}

/// Exact for everything that both can hold: the casts saturate far outside the integers' range.
#[allow(clippy::cast_possible_truncation)]
fn whole_and_double(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    let whole = b.trunc();
    Some(a.cmp(&(whole as i128)).then_with(|| 0.0_f64.partial_cmp(&(b - whole)).unwrap_or(Ordering::Equal)))
}

/// The order of two values of an ordered type.
pub(crate) fn order(a: &Value, b: &Value) -> Result<Ordering, EvalError> {
    if let Some(order) = numbers(a, b) {
        return order.ok_or_else(|| EvalError::new("NaN values cannot be ordered"));
    }
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
        _ => Err(EvalError::no_overload()),
    }
}

/// The entry of a key; whole numbers are found whatever their type.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn lookup<'a>(map: &'a BTreeMap<Key, Value>, key: &Value) -> Option<&'a Value> {
    let whole = match key {
        Value::Int(i) => i128::from(*i),
        Value::Uint(u) => i128::from(*u),
        Value::Double(d) if d.trunc() == *d => *d as i128,
        other => return Key::of(other).and_then(|key| map.get(&key)),
    };
    let int = i64::try_from(whole).ok().and_then(|i| map.get(&Key::Int(i)));
    int.or_else(|| u64::try_from(whole).ok().and_then(|u| map.get(&Key::Uint(u))))
}
