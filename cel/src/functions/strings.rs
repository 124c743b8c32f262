//! Functions on strings: the standard ones and version 2 of cel-go's string extensions. Positions count characters.

use super::{Answer, Args, Line};
use crate::error::EvalError;
use crate::value::Value;

pub(crate) const LINES: &[Line] = &[
    ("contains", ".string,string->bool", contains),
    ("startsWith", ".string,string->bool", |args| Ok(Value::Bool(args.text(0)?.starts_with(&*args.scanned(1)?)))),
    ("endsWith", ".string,string->bool", |args| Ok(Value::Bool(args.text(0)?.ends_with(&*args.scanned(1)?)))),
    ("charAt", ".string,int->string", char_at),
    ("indexOf", ".string,string->int", |args| index_of(args, false)),
    ("indexOf", ".string,string,int->int", |args| index_of(args, false)),
    ("lastIndexOf", ".string,string->int", |args| index_of(args, true)),
    ("lastIndexOf", ".string,string,int->int", |args| index_of(args, true)),
    ("lowerAscii", ".string->string", |args| Ok(Value::from(args.scanned(0)?.to_ascii_lowercase()))),
    ("upperAscii", ".string->string", |args| Ok(Value::from(args.scanned(0)?.to_ascii_uppercase()))),
    ("trim", ".string->string", |args| Ok(Value::from(args.scanned(0)?.trim()))),
    ("replace", ".string,string,string->string", replace),
    ("replace", ".string,string,string,int->string", replace),
    ("split", ".string,string->list(string)", split),
    ("split", ".string,string,int->list(string)", split),
    ("substring", ".string,int->string", substring),
    ("substring", ".string,int,int->string", substring),
    ("join", ".list(string)->string", join),
    ("join", ".list(string),string->string", join),
    ("strings.quote", "string->string", |args| Ok(Value::from(quote(&args.scanned(0)?)))),
];

fn contains(args: &mut Args<'_>) -> Answer {
    let text = args.scanned(0)?;
    Ok(Value::Bool(text.contains(&*args.text(1)?)))
}

fn range(at: i64) -> EvalError {
    EvalError::new(format!("index out of range: {at}"))
}

fn char_at(args: &mut Args<'_>) -> Answer {
    let (text, at) = (args.scanned(0)?, args.int(1)?);
    let place = usize::try_from(at).map_err(|_| range(at))?;
    match text.chars().nth(place) {
        Some(c) => Ok(Value::from(c.to_string())),
        None if place == text.chars().count() => Ok(Value::from("")),
        None => Err(range(at)),
    }
}

/// The byte offset of a character position.
fn offset(text: &str, at: usize) -> usize {
    text.char_indices().nth(at).map_or(text.len(), |(offset, _)| offset)
}

fn index_of(args: &mut Args<'_>, last: bool) -> Answer {
    let (text, part) = (args.scanned(0)?, args.text(1)?);
    let length = text.chars().count();
    let from = match args.values.len() {
        3 => {
            let at = args.int(2)?;
            if part.is_empty() && !last && at == 0 {
                return Ok(Value::Int(0));
            }
            Some(
                usize::try_from(at)
                    .ok()
                    .filter(|from| *from < length || (*from == 0 && length == 0))
                    .ok_or_else(|| range(at))?,
            )
        }
        _ => None,
    };
    let found = if last {
        // A match may begin at the given position at most.
        let end = from.map_or(text.len(), |from| (offset(&text, from) + part.len()).min(text.len()));
        let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
        text[..end].rfind(&*part)
    } else {
        let start = from.map_or(0, |from| offset(&text, from));
        text[start..].find(&*part).map(|at| at + start)
    };
    let place = found.map_or(-1, |at| i64::try_from(text[..at].chars().count()).unwrap_or(-1));
    Ok(Value::Int(place))
}

fn replace(args: &mut Args<'_>) -> Answer {
    let (text, from, to) = (args.scanned(0)?, args.text(1)?, args.text(2)?);
    let limit = match args.values.len() {
        4 => usize::try_from(args.int(3)?).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let matches = text.matches(&*from).count().min(limit);
    args.budget.charge_scan(matches.saturating_mul(to.len()))?;
    Ok(Value::from(text.replacen(&*from, &to, limit)))
}

fn split(args: &mut Args<'_>) -> Answer {
    let (text, separator) = (args.scanned(0)?, args.text(1)?);
    let limit = match args.values.len() {
        3 => args.int(2)?,
        _ => -1,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit == 0 {
        return Ok(Value::list(Vec::new()));
    }
    if separator.is_empty() {
        // Every character by itself; the rest together at the end.
        let mut parts: Vec<String> = Vec::new();
        for (at, c) in text.char_indices() {
            if parts.len() + 1 == limit {
                parts.push(text[at..].to_owned());
                break;
            }
            parts.push(c.to_string());
        }
        args.budget.charge(parts.len() as u64)?;
        return Ok(Value::strings(parts));
    }
    args.budget.charge(text.matches(&*separator).count().min(limit) as u64)?;
    Ok(Value::strings(text.splitn(limit, &*separator)))
}

fn substring(args: &mut Args<'_>) -> Answer {
    let (text, start) = (args.scanned(0)?, args.int(1)?);
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let end = match args.values.len() {
        3 => args.int(2)?,
        _ => length,
    };
    if args.values.len() == 3 && start > end {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    if !(0..=length).contains(&start) {
        return Err(range(start));
    }
    if !(0..=length).contains(&end) {
        return Err(range(end));
    }
    let place = |at: i64| usize::try_from(at).unwrap_or(0);
    let taken: String = text.chars().skip(place(start)).take(place(end - start)).collect();
    Ok(Value::from(taken))
}

fn join(args: &mut Args<'_>) -> Answer {
    let items = args.list(0)?;
    let separator = match args.values.len() {
        2 => args.text(1)?,
        _ => "".into(),
    };
    let mut joined = String::new();
    for (at, item) in items.iter().enumerate() {
        let Value::String(item) = item else { return Err(EvalError::no_overload()) };
        if at > 0 {
            joined.push_str(&separator);
        }
        args.budget.charge((item.len() + separator.len()) as u64 / 10 + 1)?;
        joined.push_str(item);
    }
    Ok(Value::from(joined))
}

/// A text in double quotes, its special characters escaped.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
