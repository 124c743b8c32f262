//! `semver('1.2.3-rc.1')`: semantic versions and their order.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::error::EvalError;
use crate::functions::{Args, Line};
use crate::value::Value;

/// A version. Its build part takes no part in comparisons.
#[derive(Clone, Debug)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
    build: Vec<String>,
}

pub(crate) const LINES: &[Line] = &[
    ("semver", "string->semver", |args| made(args, false)),
    ("semver", "string,bool->semver", |args| {
        let normalize = args.bool(1)?;
        made(args, normalize)
    }),
    ("isSemver", "string->bool", |args| Ok(Value::Bool(Semver::parse(&args.scanned(0)?, false).is_ok()))),
    ("isSemver", "string,bool->bool", |args| {
        let normalize = args.bool(1)?;
        Ok(Value::Bool(Semver::parse(&args.scanned(0)?, normalize).is_ok()))
    }),
    ("isGreaterThan", ".semver,semver->bool", |args| Ok(Value::Bool(compare(args)? == Ordering::Greater))),
    ("isLessThan", ".semver,semver->bool", |args| Ok(Value::Bool(compare(args)? == Ordering::Less))),
    ("compareTo", ".semver,semver->int", |args| Ok(Value::Int(compare(args)? as i64))),
    ("major", ".semver->int", |args| number(args, 0)),
    ("minor", ".semver->int", |args| number(args, 1)),
    ("patch", ".semver->int", |args| number(args, 2)),
];

fn made(args: &mut Args<'_>, normalize: bool) -> Result<Value, EvalError> {
    let text = args.scanned(0)?;
    Semver::parse(&text, normalize).map(|version| Value::Semver(Arc::new(version))).map_err(EvalError::new)
}

fn semver(args: &Args<'_>, at: usize) -> Result<Arc<Semver>, EvalError> {
    match args.value(at)? {
        Value::Semver(version) => Ok(version.clone()),
        _ => Err(EvalError::no_overload()),
    }
}

fn compare(args: &Args<'_>) -> Result<Ordering, EvalError> {
    Ok(semver(args, 0)?.cmp(&*semver(args, 1)?))
}

fn number(args: &mut Args<'_>, at: usize) -> Result<Value, EvalError> {
    let version = semver(args, 0)?;
    let number = version.numbers.get(at).copied().unwrap_or(0);
    i64::try_from(number).map(Value::Int).map_err(|_| EvalError::new("integer overflow"))
}

impl Semver {
    /// The version that a text says. Normalizing drops a leading `v`, fills missing numbers with zero and drops
    /// leading zeros.
    pub fn parse(text: &str, normalize: bool) -> Result<Self, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let text = if normalize { text.strip_prefix('v').unwrap_or(text) } else { text };
        let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
        let mut parts: Vec<&str> = core.split('.').collect();
        if normalize {
            while parts.len() < 3 {
                parts.push("0");
            }
        }
        let [major, minor, patch] = parts[..] else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let numbers =
            [count("major", major, normalize)?, count("minor", minor, normalize)?, count("patch", patch, normalize)?];
        let pre = identifiers("prerelease", pre)?;
        if let Some(bad) = pre.iter().find(|part| numeric(part) && part.len() > 1 && part.starts_with('0')) {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {bad:?}"));
        }
        Ok(Self { numbers, pre, build: identifiers("build meta data", build)? })
    }

    /// The order of two versions: numbers, then a release after its candidates.
    pub fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let firsts = self.pre.iter().zip(&other.pre).map(|(a, b)| by_part(a, b));
                firsts.fold(Ordering::Equal, Ordering::then).then(self.pre.len().cmp(&other.pre.len()))
            }
        })
    }
}

fn numeric(part: &str) -> bool {
    part.bytes().all(|c| c.is_ascii_digit())
}

fn by_part(a: &str, b: &str) -> Ordering {
    match (numeric(a), numeric(b)) {
        // No leading zeros: more digits are more.
        (true, true) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

fn count(what: &str, text: &str, normalize: bool) -> Result<u64, String> {
    if text.is_empty() || !numeric(text) {
        return Err(format!("Invalid character(s) found in {what} number {text:?}"));
    }
    if !normalize && text.len() > 1 && text.starts_with('0') {
        let title = format!("{}{}", what[..1].to_ascii_uppercase(), &what[1..]);
        return Err(format!("{title} number must not contain leading zeroes {text:?}"));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

fn identifiers(what: &str, text: Option<&str>) -> Result<Vec<String>, String> {
    let Some(text) = text else { return Ok(Vec::new()) };
    text.split('.')
        .map(|part| {
            let fits = !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
            if fits { Ok(part.to_owned()) } else { Err(format!("Invalid character(s) found in {what} {part:?}")) }
        })
        .collect()
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build.join("."))?;
        }
        Ok(())
    }
}
