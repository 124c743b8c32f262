//! What a request's query asks for, and what is wrong with it. Pure.

use balsa_api::field::FieldError;
use balsa_api::meta::GroupVersionKind;
use balsa_api::status::{ApiError, ApiResult};
use k8s_openapi::jiff::Timestamp;

/// A decoded query string: names and values in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// From what stands after the `?`.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// Every value of `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The first value of `name`.
    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// As Kubernetes reads booleans: present and not `false` or `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.first(name).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }

    fn number(&self, name: &str) -> ApiResult<Option<i64>> {
        let Some(text) = self.first(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let unreadable = |_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
        text.parse().map(Some).map_err(unreadable)
    }
}

/// `%41` and `+`; what is not an escape stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escape = (*byte == b'%').then(|| bytes.get(at + 1..at + 3).and_then(hex_pair)).flatten();
        plain.push(match (byte, escape) {
            (_, Some(value)) => value,
            (b'+', None) => b' ',
            (other, None) => *other,
        });
        at += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()
}

/// Options of exec and attach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TerminalOptions {
    /// As asked for; empty for the only one.
    pub container: String,
    /// Empty for attach.
    pub command: Vec<String>,
    /// The client sends standard input.
    pub stdin: bool,
    /// The client wants standard output.
    pub stdout: bool,
    /// The client wants standard error; never with a terminal, which has but one output.
    pub stderr: bool,
    /// With a terminal.
    pub tty: bool,
}

impl TerminalOptions {
    /// Reads and checks the query of an exec (`command` is needed) or attach.
    pub fn parse(query: &Query, exec: bool) -> ApiResult<Self> {
        let tty = query.flag("tty");
        let options = Self {
            container: query.first("container").unwrap_or_default().to_owned(),
            command: if exec { query.all("command").map(str::to_owned).collect() } else { Vec::new() },
            stdin: query.flag("stdin"),
            stdout: query.flag("stdout"),
            stderr: query.flag("stderr") && !tty,
            tty,
        };
        if exec && options.command.is_empty() {
            return Err(ApiError::bad_request("you must specify at least one command for the container"));
        }
        if !(options.stdin || options.stdout || options.stderr) {
            return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(options)
    }
}

/// Options of `log`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// As asked for; empty for the only one.
    pub container: String,
    /// Stay and deliver what comes.
    pub follow: bool,
    /// Of the instance before.
    pub previous: bool,
    /// With each line's time.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<i64>,
    /// At most so many bytes.
    pub limit_bytes: Option<i64>,
    /// Only from then on.
    pub since: Option<Timestamp>,
    /// `All`, `Stdout` or `Stderr`.
    pub stream: String,
}

impl LogOptions {
    /// Reads and checks the query of a `log` of the pod `name`.
    pub fn parse(query: &Query, name: &str, now: Timestamp) -> ApiResult<Self> {
        let since_seconds = query.number("sinceSeconds")?;
        let since_time = since_time(query)?;
        let options = Self {
            container: query.first("container").unwrap_or_default().to_owned(),
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            tail_lines: query.number("tailLines")?,
            limit_bytes: query.number("limitBytes")?,
            since: since_time.or_else(|| since_seconds.map(|seconds| before(now, seconds))),
            stream: query.first("stream").filter(|text| !text.is_empty()).unwrap_or("All").to_owned(),
        };
        let findings = findings(&options, since_seconds, since_time.is_some());
        if findings.is_empty() {
            return Ok(options);
        }
        Err(ApiError::invalid(&GroupVersionKind::new("", "v1", "PodLogOptions"), name, &findings))
    }
}

fn since_time(query: &Query) -> ApiResult<Option<Timestamp>> {
    let Some(text) = query.first("sinceTime").filter(|text| !text.is_empty()) else { return Ok(None) };
    let unreadable = |error| ApiError::bad_request(format!("parsing time {text:?} as RFC 3339: {error}"));
    text.parse().map(Some).map_err(unreadable)
}

fn before(now: Timestamp, seconds: i64) -> Timestamp {
    let nanos = now.as_nanosecond().saturating_sub(i128::from(seconds).saturating_mul(1_000_000_000));
    Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MIN)
}

fn findings(options: &LogOptions, since_seconds: Option<i64>, has_since_time: bool) -> Vec<FieldError> {
    let mut findings = Vec::new();
    if let Some(lines) = options.tail_lines.filter(|lines| *lines < 0) {
        findings.push(FieldError::invalid("tailLines", lines, "must be greater than or equal to 0"));
    }
    if let Some(bytes) = options.limit_bytes.filter(|bytes| *bytes < 1) {
        findings.push(FieldError::invalid("limitBytes", bytes, "must be greater than 0"));
    }
    match since_seconds {
        Some(_) if has_since_time => {
            findings.push(FieldError::forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"));
        }
        Some(seconds) if seconds < 1 => {
            findings.push(FieldError::invalid("sinceSeconds", seconds, "must be greater than 0"));
        }
        _ => {}
    }
    if !["All", "Stdout", "Stderr"].contains(&options.stream.as_str()) {
        findings.push(FieldError::not_supported("stream", options.stream.as_str(), &["All", "Stderr", "Stdout"]));
    } else if options.stream != "All" && options.tail_lines.is_some() {
        findings.push(FieldError::forbidden("", "`tailLines` and specific `stream` are mutually exclusive for now"));
    }
    findings
}

/// The ports of a WebSocket port-forward: `ports=80,81` or `ports=80&ports=81`.
pub fn ports(query: &Query) -> ApiResult<Vec<u16>> {
    let texts: Vec<&str> = query.all("ports").flat_map(|value| value.split(',')).collect();
    if texts.is_empty() {
        return Err(ApiError::bad_request("query parameter \"ports\" is required"));
    }
    if texts.len() > MAX_PORTS {
        return Err(ApiError::bad_request(format!("at most {MAX_PORTS} ports can be forwarded on one WebSocket")));
    }
    texts.into_iter().map(port).collect()
}

/// Two channels per port, and a channel's number is one byte.
const MAX_PORTS: usize = 127;

fn port(text: &str) -> ApiResult<u16> {
    match text.parse() {
        Ok(0) => Err(ApiError::bad_request(format!("port {text:?} must be > 0"))),
        Ok(port) => Ok(port),
        Err(_) => Err(ApiError::bad_request(format!("unable to parse {text:?} as a port: it is not one of 1-65535"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(query: &str) -> Result<LogOptions, (u16, String)> {
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        LogOptions::parse(&Query::parse(query), "web", now).map_err(|error| (error.code, error.message))
    }

    #[test]
    fn a_query_is_decoded() {
        let query = Query::parse("command=sh&command=-c&command=echo%20a%2Bb+c%&stdin&tty=false&x=%zz");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo a+b c%"]);
        assert!(query.flag("stdin") && !query.flag("tty") && !query.flag("stdout"));
        assert_eq!(query.first("x"), Some("%zz"));
    }

    #[test]
    fn log_options_are_read() {
        let options = log("container=c&follow=true&tailLines=5&sinceSeconds=60&limitBytes=9&timestamps=1").unwrap();
        assert!(options.follow && options.timestamps && !options.previous);
        assert_eq!((options.tail_lines, options.limit_bytes), (Some(5), Some(9)));
        assert_eq!(options.since, Some("2026-11-23T11:59:00Z".parse().unwrap()));
        assert_eq!(options.stream, "All");
    }

    #[test]
    fn wrong_log_options_are_named() {
        for (query, code, text) in [
            (
                "tailLines=-1",
                422,
                "PodLogOptions \"web\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
            ),
            ("limitBytes=0", 422, "limitBytes: Invalid value: 0: must be greater than 0"),
            ("sinceSeconds=0", 422, "sinceSeconds: Invalid value: 0: must be greater than 0"),
            (
                "sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z",
                422,
                "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
            ("stream=Both", 422, "stream: Unsupported value: \"Both\""),
            ("tailLines=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("sinceTime=yesterday", 400, "parsing time \"yesterday\""),
        ] {
            let (got, message) = log(query).unwrap_err();
            assert!(got == code && message.contains(text), "{query}: {got} {message}");
        }
    }

    #[test]
    fn ports_come_in_both_forms() {
        assert_eq!(ports(&Query::parse("ports=80,81&ports=82")).unwrap(), [80, 81, 82]);
        for query in ["", "ports=", "ports=0", "ports=70000", "ports=a"] {
            assert_eq!(ports(&Query::parse(query)).unwrap_err().code, 400, "{query}");
        }
    }

    #[test]
    fn a_terminal_has_one_output() {
        let options = TerminalOptions::parse(&Query::parse("command=sh&stdout=1&stderr=1&tty=1"), true).unwrap();
        assert!(options.stdout && !options.stderr && options.tty);
        assert!(TerminalOptions::parse(&Query::parse("stdout=1"), true).is_err());
        assert!(TerminalOptions::parse(&Query::parse("tty=1"), false).is_err());
    }
}
