//! `url()`: absolute URLs and absolute paths, split as Go's `net/url` does.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::EvalError;
use crate::functions::{Args, Line};
use crate::value::{Key, Value};

/// A URL and its parts, as written.
#[derive(Clone, Debug)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

pub(crate) const LINES: &[Line] = &[
    ("url", "string->url", |args| {
        let text = args.scanned(0)?;
        let parsed = Url::parse(&text);
        let failed = |error| EvalError::new(format!("URL parse error during conversion from string: {error}"));
        parsed.map(|url| Value::Url(Arc::new(url))).map_err(failed)
    }),
    ("isURL", "string->bool", |args| Ok(Value::Bool(Url::parse(&args.scanned(0)?).is_ok()))),
    ("getScheme", ".url->string", |args| Ok(Value::from(url(args)?.scheme.as_str()))),
    ("getHost", ".url->string", |args| Ok(Value::from(url(args)?.host.as_str()))),
    ("getHostname", ".url->string", |args| Ok(Value::from(split_host(&url(args)?.host).0))),
    ("getPort", ".url->string", |args| Ok(Value::from(split_host(&url(args)?.host).1))),
    ("getEscapedPath", ".url->string", |args| Ok(Value::from(escape_path(&url(args)?.path)))),
    ("getQuery", ".url->map(string,list(string))", query),
];

fn url(args: &Args<'_>) -> Result<Arc<Url>, EvalError> {
    match args.value(0)? {
        Value::Url(url) => Ok(url.clone()),
        _ => Err(EvalError::no_overload()),
    }
}

impl Url {
    /// The URL as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A URL with a scheme, or an absolute path.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("parse {text:?}: {why}"));
        if text.is_empty() {
            return bad("empty url");
        }
        if text.chars().any(|c| c.is_ascii_control()) {
            return bad("net/url: invalid control character in URL");
        }
        let (scheme, rest) = match text.split_once(':') {
            Some(("", _)) => return bad("missing protocol scheme"),
            Some((scheme, rest)) if scheme_fits(scheme) => (scheme.to_ascii_lowercase(), rest),
            Some((scheme, _))
                if !scheme.contains(['/', '?', '#']) && text.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                return bad("first path segment in URL cannot contain colon");
            }
            _ => (String::new(), text),
        };
        // As a request's URI a fragment is part of the path or query.
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if scheme.is_empty() && !rest.starts_with('/') {
            return bad("invalid URI for request");
        }
        if !scheme.is_empty() && !rest.starts_with('/') {
            return bad("invalid URI for request");
        }
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) if !scheme.is_empty() || !rest.starts_with('/') => {
                let end = rest.find('/').unwrap_or(rest.len());
                (rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host), &rest[end..])
            }
            _ => ("", rest),
        };
        check_host(host).and_then(|()| check_escapes(path)).map_err(|why| format!("parse {text:?}: {why}"))?;
        Ok(Self {
            text: text.to_owned(),
            scheme,
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
        })
    }
}

fn scheme_fits(scheme: &str) -> bool {
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.'))
}

fn check_host(host: &str) -> Result<(), String> {
    let port = |rest: &str| {
        let digits = rest.strip_prefix(':').unwrap_or(rest);
        if rest.is_empty() || (rest.starts_with(':') && digits.bytes().all(|c| c.is_ascii_digit())) {
            Ok(())
        } else {
            Err(format!("invalid port {rest:?} after host"))
        }
    };
    if let Some(inner) = host.strip_prefix('[') {
        let (_, rest) = inner.rsplit_once(']').ok_or("missing ']' in host")?;
        return port(rest);
    }
    if host.contains(' ') || host.contains(['<', '>', '"', '{', '}', '|', '\\', '^', '`']) {
        return Err("invalid character in host name".to_owned());
    }
    check_escapes(host)?;
    match host.find(':') {
        Some(at) if host[at + 1..].contains(':') => port(&host[host.rfind(':').unwrap_or(at)..])
            .and(Err(format!("invalid port {:?} after host", &host[at..]))),
        Some(at) => port(&host[at..]),
        None => Ok(()),
    }
}

fn check_escapes(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    for at in bytes.iter().enumerate().filter(|(_, c)| **c == b'%').map(|(at, _)| at) {
        let hex = bytes.get(at + 1..at + 3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        if !hex {
            let shown: String = text.get(at..).unwrap_or_default().chars().take(3).collect();
            return Err(format!("invalid URL escape {shown:?}"));
        }
    }
    Ok(())
}

/// Host name without brackets, and port.
fn split_host(host: &str) -> (&str, &str) {
    if let Some((name, rest)) = host.strip_prefix('[').and_then(|inner| inner.rsplit_once(']')) {
        return (name, rest.strip_prefix(':').unwrap_or(rest));
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

fn escape_path(path: &str) -> String {
    let mut escaped = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@%!'()*[]".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let pair = std::str::from_utf8(tail.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(pair, 16).ok()?);
                rest = tail.get(2..)?;
            }
            other => bytes.push(*other),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn query(args: &mut Args<'_>) -> Result<Value, EvalError> {
    let url = url(args)?;
    args.budget.charge_scan(url.query.len())?;
    let mut found: BTreeMap<Key, Vec<Value>> = BTreeMap::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (unescape(key), unescape(value)) {
            found.entry(Key::String(key.into())).or_default().push(Value::from(value));
        }
    }
    let found = found.into_iter().map(|(key, values)| (key, Value::list(values))).collect();
    Ok(Value::Map(Arc::new(found)))
}
