//! Functions on lists: Kubernetes' own, version 3 of cel-go's list extensions, and sets.

use super::{Answer, Args, Line};
use crate::budget::Budget;
use crate::compare::{equal, order};
use crate::error::EvalError;
use crate::eval::{holds, sorted};
use crate::value::Value;

pub(crate) const LINES: &[Line] = &[
    ("isSorted", ".list(A)->bool", is_sorted),
    ("sum", ".list(A)->A", sum),
    ("min", ".list(A)->A", |args| extreme(args, "min")),
    ("max", ".list(A)->A", |args| extreme(args, "max")),
    ("indexOf", ".list(A),A->int", |args| position(args, false)),
    ("lastIndexOf", ".list(A),A->int", |args| position(args, true)),
    ("slice", ".list(A),int,int->list(A)", slice),
    ("flatten", ".list(dyn)->list(dyn)", flatten),
    ("flatten", ".list(dyn),int->list(dyn)", flatten),
    ("sort", ".list(A)->list(A)", |args| {
        let items = args.list(0)?;
        sorted(items.to_vec(), &items, args.budget)
    }),
    ("lists.range", "int->list(int)", range),
    ("reverse", ".list(A)->list(A)", |args| {
        let items = args.list(0)?;
        args.budget.charge_scan(items.len())?;
        Ok(Value::list(items.iter().rev().cloned().collect()))
    }),
    ("distinct", ".list(A)->list(A)", |args| {
        let items = args.list(0)?;
        Ok(Value::list(distinct(&items, args.budget)?))
    }),
    ("first", ".list(A)->optional(A)", |args| {
        Ok(args.list(0)?.first().cloned().map_or_else(Value::none, Value::some))
    }),
    ("last", ".list(A)->optional(A)", |args| Ok(args.list(0)?.last().cloned().map_or_else(Value::none, Value::some))),
];

pub(crate) const SETS: &[Line] = &[
    ("sets.contains", "list(A),list(A)->bool", |args| {
        let (a, b) = (args.list(0)?, args.list(1)?);
        Ok(Value::Bool(contains(&a, &b, args.budget)?))
    }),
    ("sets.equivalent", "list(A),list(A)->bool", |args| {
        let (a, b) = (args.list(0)?, args.list(1)?);
        Ok(Value::Bool(contains(&a, &b, args.budget)? && contains(&b, &a, args.budget)?))
    }),
    ("sets.intersects", "list(A),list(A)->bool", |args| {
        let (a, b) = (args.list(0)?, args.list(1)?);
        for item in b.iter() {
            if holds(&a, item, args.budget)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }),
];

fn contains(all: &[Value], some: &[Value], budget: &mut Budget) -> Result<bool, EvalError> {
    for item in some {
        if !holds(all, item, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_sorted(args: &mut Args<'_>) -> Answer {
    let items = args.list(0)?;
    args.budget.charge(items.len() as u64)?;
    for pair in items.windows(2) {
        if let [a, b] = pair
            && order(a, b)?.is_gt()
        {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum(args: &mut Args<'_>) -> Answer {
    let items = args.list(0)?;
    args.budget.charge(items.len() as u64)?;
    let Some((first, rest)) = items.split_first() else { return Ok(Value::Int(0)) };
    let overflow = || EvalError::new("integer overflow");
    rest.iter().try_fold(first.clone(), |total, item| match (total, item) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map(Value::Uint).ok_or_else(overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::Duration(a), Value::Duration(b)) => a.checked_add(*b).map(Value::Duration).ok_or_else(overflow),
        _ => Err(EvalError::no_overload()),
    })
}

fn extreme(args: &mut Args<'_>, name: &str) -> Answer {
    let items = args.list(0)?;
    args.budget.charge(items.len() as u64)?;
    let Some((first, rest)) = items.split_first() else {
        return Err(EvalError::new(format!("{name} called on empty list")));
    };
    let mut found = first;
    for item in rest {
        let order = order(item, found)?;
        if if name == "min" { order.is_lt() } else { order.is_gt() } {
            found = item;
        }
    }
    Ok(found.clone())
}

fn position(args: &mut Args<'_>, last: bool) -> Answer {
    let (items, wanted) = (args.list(0)?, args.value(1)?.clone());
    let mut places: Vec<usize> = (0..items.len()).collect();
    if last {
        places.reverse();
    }
    for place in places {
        args.budget.charge(1)?;
        if equal(&items[place], &wanted, args.budget)? {
            return Ok(Value::Int(i64::try_from(place).unwrap_or(-1)));
        }
    }
    Ok(Value::Int(-1))
}

fn slice(args: &mut Args<'_>) -> Answer {
    let (items, start, end) = (args.list(0)?, args.int(1)?, args.int(2)?);
    if start < 0 || end < 0 {
        return Err(EvalError::new(format!("cannot slice({start}, {end}), negative indexes not supported")));
    }
    if start > end {
        return Err(EvalError::new(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        )));
    }
    let place = |at: i64| usize::try_from(at).unwrap_or(usize::MAX);
    let Some(part) = items.get(place(start)..place(end)) else {
        return Err(EvalError::new(format!("cannot slice({start}, {end}), list is length {}", items.len())));
    };
    args.budget.charge_scan(part.len())?;
    Ok(Value::list(part.to_vec()))
}

fn flatten(args: &mut Args<'_>) -> Answer {
    let items = args.list(0)?;
    let depth = if args.values.len() == 2 { args.int(1)? } else { 1 };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut flat = items.to_vec();
    for _ in 0..depth {
        args.budget.charge(flat.len() as u64 + 1)?;
        if !flat.iter().any(|item| matches!(item, Value::List(_))) {
            break;
        }
        let mut next = Vec::new();
        for item in flat {
            match item {
                Value::List(inner) => {
                    args.budget.charge(inner.len() as u64)?;
                    next.extend(inner.iter().cloned());
                }
                other => next.push(other),
            }
        }
        flat = next;
    }
    Ok(Value::list(flat))
}

fn range(args: &mut Args<'_>) -> Answer {
    let end = args.int(0)?;
    args.budget.charge(u64::try_from(end).unwrap_or(0))?;
    Ok(Value::list((0..end).map(Value::Int).collect()))
}

fn distinct(items: &[Value], budget: &mut Budget) -> Result<Vec<Value>, EvalError> {
    let mut found: Vec<Value> = Vec::new();
    for item in items {
        if !holds(&found, item, budget)? {
            found.push(item.clone());
        }
    }
    Ok(found)
}
