//! `quantity('1.5Gi')`: Kubernetes' amounts, as numbers that are compared and added exactly.

use std::cmp::Ordering;
use std::fmt;

use crate::error::EvalError;
use crate::functions::{Answer, Args, Line};
use crate::value::Value;

/// An amount in billionths. What does not fit is kept as too large to count: it compares as the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: i128,
}

const ONE: i128 = 1_000_000_000;

pub(crate) const LINES: &[Line] = &[
    ("quantity", "string->quantity", |args| {
        let text = args.scanned(0)?;
        Quantity::parse(&text).map(Value::Quantity).map_err(EvalError::new)
    }),
    ("isQuantity", "string->bool", |args| Ok(Value::Bool(Quantity::parse(&args.scanned(0)?).is_ok()))),
    ("sign", ".quantity->int", |args| Ok(Value::Int(i64::try_from(quantity(args, 0)?.nanos.signum()).unwrap_or(0)))),
    ("isGreaterThan", ".quantity,quantity->bool", |args| Ok(Value::Bool(compare(args)? == Ordering::Greater))),
    ("isLessThan", ".quantity,quantity->bool", |args| Ok(Value::Bool(compare(args)? == Ordering::Less))),
    ("compareTo", ".quantity,quantity->int", |args| Ok(Value::Int(compare(args)? as i64))),
    ("asApproximateFloat", ".quantity->double", as_float),
    ("asInteger", ".quantity->int", |args| {
        let whole = quantity(args, 0)?.whole();
        whole.map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
    }),
    ("isInteger", ".quantity->bool", |args| Ok(Value::Bool(quantity(args, 0)?.whole().is_some()))),
    ("add", ".quantity,quantity->quantity", |args| {
        let other = quantity(args, 1)?;
        sum(args, other.nanos)
    }),
    ("add", ".quantity,int->quantity", |args| {
        let other = i128::from(args.int(1)?) * ONE;
        sum(args, other)
    }),
    ("sub", ".quantity,quantity->quantity", |args| {
        let other = quantity(args, 1)?;
        sum(args, other.nanos.saturating_neg())
    }),
    ("sub", ".quantity,int->quantity", |args| {
        let other = -i128::from(args.int(1)?) * ONE;
        sum(args, other)
    }),
];

fn quantity(args: &Args<'_>, at: usize) -> Result<Quantity, EvalError> {
    match args.value(at)? {
        Value::Quantity(quantity) => Ok(*quantity),
        _ => Err(EvalError::no_overload()),
    }
}

fn compare(args: &Args<'_>) -> Result<Ordering, EvalError> {
    Ok(quantity(args, 0)?.cmp(&quantity(args, 1)?))
}

fn sum(args: &Args<'_>, other: i128) -> Answer {
    Ok(Value::Quantity(Quantity { nanos: quantity(args, 0)?.nanos.saturating_add(other) }))
}

#[allow(clippy::cast_precision_loss)]
fn as_float(args: &mut Args<'_>) -> Answer {
    Ok(Value::Double(quantity(args, 0)?.nanos as f64 / ONE as f64))
}

impl Quantity {
    /// The amount that a text says; an error in the words of the original.
    pub fn parse(text: &str) -> Result<Self, String> {
        const MESSAGE: &str = "quantities must match the regular expression \
                               '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        let bad = || MESSAGE.to_owned();
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(bad());
        }
        let (base, exponent) = scale(suffix).ok_or_else(|| "unable to parse quantity's suffix".to_owned())?;
        let nanos = amount(whole, fraction, base, exponent).unwrap_or(i128::MAX);
        Ok(Self { nanos: if negative { -nanos } else { nanos } })
    }

    fn whole(self) -> Option<i64> {
        if self.nanos % ONE == 0 { i64::try_from(self.nanos / ONE).ok() } else { None }
    }
}

/// Base and exponent of a suffix: `Ki` is 2^10, `m` is 10^-3, `e3` is 10^3.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let decimal = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    if let Some(at) = decimal.iter().position(|known| *known == suffix) {
        return Some((10, 3 * (i32::try_from(at).ok()? - 3)));
    }
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(at) = binary.iter().position(|known| *known == suffix) {
        return Some((2, 10 * (i32::try_from(at).ok()? + 1)));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    Some((10, exponent.parse::<i32>().ok()?.clamp(-1000, 1000)))
}

/// Billionths, rounded up; none where they do not fit.
fn amount(whole: &str, fraction: &str, base: i128, exponent: i32) -> Option<i128> {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let mantissa: i128 = digits.parse().ok()?;
    // value = mantissa · base^exponent · 10^(9 - places)
    let places = i32::try_from(fraction.len()).ok()?;
    let (mut up, mut down) = (1_i128, 1_i128);
    let mut apply = |base: i128, by: i32| -> Option<()> {
        for _ in 0..by.unsigned_abs().min(200) {
            let target = if by > 0 { &mut up } else { &mut down };
            *target = target.checked_mul(base).or(if by > 0 { None } else { Some(i128::MAX) })?;
        }
        Some(())
    };
    if base == 10 {
        apply(10, exponent.saturating_add(9).saturating_sub(places))?;
    } else {
        apply(2, exponent)?;
        apply(10, 9 - places)?;
    }
    let scaled = mantissa.checked_mul(up)?;
    Some(scaled / down + i128::from(scaled % down != 0))
}

impl fmt::Display for Quantity {
    /// The number, with the largest decimal suffix that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let (mut value, mut at) = (self.nanos, 0_usize);
        let suffixes = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        while value % 1000 == 0 && at + 1 < suffixes.len() {
            value /= 1000;
            at += 1;
        }
        write!(f, "{value}{}", suffixes[at])
    }
}
