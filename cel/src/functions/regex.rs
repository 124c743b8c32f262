//! Regular expressions, matched in linear time.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};

use super::{Answer, Args, Line};
use crate::error::EvalError;
use crate::value::Value;

/// No pattern may need more memory than this, in bytes.
const LARGEST: usize = 1 << 20;

pub(crate) const LINES: &[Line] = &[
    ("matches", "string,string->bool", matches),
    ("matches", ".string,string->bool", matches),
    ("find", ".string,string->string", |args| {
        let text = args.text(0)?;
        let pattern = pattern(args)?;
        Ok(Value::from(pattern.find(&text).map_or("", |found| found.as_str())))
    }),
    ("findAll", ".string,string->list(string)", find_all),
    ("findAll", ".string,string,int->list(string)", find_all),
];

/// A compiled pattern, within the limits.
pub(crate) fn compile(text: &str) -> Result<Regex, EvalError> {
    RegexBuilder::new(text)
        .size_limit(LARGEST)
        .dfa_size_limit(LARGEST)
        .build()
        .map_err(|error| EvalError::new(format!("Illegal regex: {error}")))
}

/// The pattern of a call, charged by its length and the text's as cel-go does.
fn pattern<'a>(args: &mut Args<'a>) -> Result<Cow<'a, Regex>, EvalError> {
    let (text, written) = (args.text(0)?, args.text(1)?);
    let cost = (text.len() as u64 / 10 + 1).saturating_mul(written.len() as u64 / 4 + 1);
    args.budget.charge(cost)?;
    match args.pattern {
        Some(pattern) => Ok(Cow::Borrowed(pattern)),
        None => {
            // Compiling costs far more than matching.
            args.budget.charge(written.len() as u64 + 100)?;
            compile(&written).map(Cow::Owned)
        }
    }
}

fn matches(args: &mut Args<'_>) -> Answer {
    let text = args.text(0)?;
    Ok(Value::Bool(pattern(args)?.is_match(&text)))
}

fn find_all(args: &mut Args<'_>) -> Answer {
    let text = args.text(0)?;
    let limit = if args.values.len() == 3 { args.int(2)? } else { -1 };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let pattern = pattern(args)?;
    args.budget.charge_scan(text.len())?;
    Ok(Value::strings(pattern.find_iter(&text).take(limit).map(|found| found.as_str())))
}
