//! Timestamps and durations: parsing, writing, their parts in a time zone.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use super::{Answer, Args, Line};
use crate::error::EvalError;
use crate::value::Value;

const NANOS: i128 = 1_000_000_000;
/// The first second of year 1 and the last of year 9999, since 1970.
const RANGE: std::ops::RangeInclusive<i128> = -62_135_596_800..=253_402_300_799;

pub(crate) const LINES: &[Line] = &[
    ("timestamp", "string->timestamp", to_timestamp),
    ("timestamp", "int->timestamp", to_timestamp),
    ("timestamp", "timestamp->timestamp", to_timestamp),
    ("duration", "string->duration", to_duration),
    ("duration", "int->duration", to_duration),
    ("duration", "duration->duration", to_duration),
    ("getFullYear", ".timestamp->int", |args| part(args, |t| i64::from(t.year()))),
    ("getFullYear", ".timestamp,string->int", |args| part(args, |t| i64::from(t.year()))),
    ("getMonth", ".timestamp->int", |args| part(args, |t| i64::from(t.month()) - 1)),
    ("getMonth", ".timestamp,string->int", |args| part(args, |t| i64::from(t.month()) - 1)),
    ("getDate", ".timestamp->int", |args| part(args, |t| i64::from(t.day()))),
    ("getDate", ".timestamp,string->int", |args| part(args, |t| i64::from(t.day()))),
    ("getDayOfMonth", ".timestamp->int", |args| part(args, |t| i64::from(t.day()) - 1)),
    ("getDayOfMonth", ".timestamp,string->int", |args| part(args, |t| i64::from(t.day()) - 1)),
    ("getDayOfWeek", ".timestamp->int", |args| part(args, weekday)),
    ("getDayOfWeek", ".timestamp,string->int", |args| part(args, weekday)),
    ("getDayOfYear", ".timestamp->int", |args| part(args, |t| i64::from(t.day_of_year()) - 1)),
    ("getDayOfYear", ".timestamp,string->int", |args| part(args, |t| i64::from(t.day_of_year()) - 1)),
    ("getHours", ".timestamp->int", |args| part(args, |t| i64::from(t.hour()))),
    ("getHours", ".timestamp,string->int", |args| part(args, |t| i64::from(t.hour()))),
    ("getHours", ".duration->int", |args| span(args, 3_600_000_000_000)),
    ("getMinutes", ".timestamp->int", |args| part(args, |t| i64::from(t.minute()))),
    ("getMinutes", ".timestamp,string->int", |args| part(args, |t| i64::from(t.minute()))),
    ("getMinutes", ".duration->int", |args| span(args, 60_000_000_000)),
    ("getSeconds", ".timestamp->int", |args| part(args, |t| i64::from(t.second()))),
    ("getSeconds", ".timestamp,string->int", |args| part(args, |t| i64::from(t.second()))),
    ("getSeconds", ".duration->int", |args| span(args, 1_000_000_000)),
    ("getMilliseconds", ".timestamp->int", |args| part(args, |t| i64::from(t.millisecond()))),
    ("getMilliseconds", ".timestamp,string->int", |args| part(args, |t| i64::from(t.millisecond()))),
    ("getMilliseconds", ".duration->int", |args| span(args, 1_000_000)),
];

fn weekday(time: &Zoned) -> i64 {
    i64::from(time.weekday().to_sunday_zero_offset())
}

/// A timestamp within the years 1 to 9999.
pub(crate) fn timestamp(nanos: i128) -> Answer {
    if RANGE.contains(&nanos.div_euclid(NANOS)) {
        Ok(Value::Timestamp(nanos))
    } else {
        Err(EvalError::new("timestamp overflow"))
    }
}

fn to_timestamp(args: &mut Args<'_>) -> Answer {
    match args.value(0)? {
        Value::String(text) => match parse_timestamp(text) {
            Some(nanos) => timestamp(nanos),
            None => Err(EvalError::new(format!("invalid timestamp: {text:?}"))),
        },
        Value::Int(seconds) => timestamp(i128::from(*seconds) * NANOS),
        other => Ok(other.clone()),
    }
}

fn to_duration(args: &mut Args<'_>) -> Answer {
    match args.value(0)? {
        Value::String(text) => match parse_duration(text) {
            Some(nanos) => Ok(Value::Duration(nanos)),
            None => Err(EvalError::new(format!("time: invalid duration {text:?}"))),
        },
        Value::Int(nanos) => Ok(Value::Duration(*nanos)),
        other => Ok(other.clone()),
    }
}

/// RFC 3339 with `T` and a zone, to nanoseconds since 1970.
pub fn parse_timestamp(text: &str) -> Option<i128> {
    let bytes = text.as_bytes();
    let shaped = text.is_ascii()
        && bytes.len() >= 20
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')].iter().all(|(at, c)| bytes.get(*at) == Some(c))
        && (text.ends_with('Z') || text.len() >= 25);
    if !shaped {
        return None;
    }
    text.parse::<Timestamp>().ok().map(Timestamp::as_nanosecond)
}

/// Go's `time.ParseDuration`: `1h30m`, `-1.5s`, `100ms`; to nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (name, tail) = tail.split_at(unit);
        let scale: i128 = match name {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS,
            "m" => 60 * NANOS,
            "h" => 3600 * NANOS,
            _ => return None,
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += whole * scale;
        let fraction = &fraction[..fraction.len().min(15)];
        if !fraction.is_empty() {
            let size = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
            total += fraction.parse::<i128>().ok()? * scale / size;
        }
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// RFC 3339 in UTC with as many fractional digits as needed.
pub(crate) fn timestamp_text(nanos: i128) -> String {
    Timestamp::from_nanosecond(nanos).map_or_else(|_| nanos.to_string(), |time| time.to_string())
}

/// Seconds with `s`, as CEL converts a duration to a string.
pub(crate) fn duration_text(nanos: i64) -> String {
    let size = i128::from(nanos).abs();
    let (whole, part) = (size / NANOS, size % NANOS);
    let sign = if nanos < 0 { "-" } else { "" };
    if part == 0 {
        return format!("{sign}{whole}s");
    }
    let digits = format!("{part:09}");
    format!("{sign}{whole}.{}s", digits.trim_end_matches('0'))
}

fn part(args: &mut Args<'_>, pick: fn(&Zoned) -> i64) -> Answer {
    let Value::Timestamp(nanos) = args.value(0)? else { return Err(EvalError::no_overload()) };
    let time = Timestamp::from_nanosecond(*nanos).map_err(|_| EvalError::new("timestamp overflow"))?;
    let zone = if args.values.len() == 2 { zone(&args.text(1)?)? } else { TimeZone::UTC };
    Ok(Value::Int(pick(&time.to_zoned(zone))))
}

/// A zone by its name, or by its distance from UTC: `Europe/Berlin`, `+02:00`, `-8:00`.
fn zone(text: &str) -> Result<TimeZone, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {text}"));
    let Some((hours, minutes)) = text.split_once(':') else {
        return if text == "UTC" || text.is_empty() {
            Ok(TimeZone::UTC)
        } else {
            TimeZone::get(text).map_err(|_| unknown())
        };
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['+', '-']).parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    if !(0..=24).contains(&hours) || !(0..60).contains(&minutes) {
        return Err(unknown());
    }
    let seconds = (hours * 60 + minutes) * 60 * if negative { -1 } else { 1 };
    Offset::from_seconds(seconds).map(TimeZone::fixed).map_err(|_| unknown())
}

fn span(args: &mut Args<'_>, unit: i64) -> Answer {
    match args.value(0)? {
        Value::Duration(nanos) => Ok(Value::Int(nanos / unit)),
        _ => Err(EvalError::no_overload()),
    }
}
