//! `--auth-token` as etcd writes it: `simple`, or `jwt,sign-method=RS256,priv-key=FILE,pub-key=FILE,ttl=10m`. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::Algorithm;

use crate::duration;

/// How long a token lives unless something else is said; etcd's figure.
const TTL: Duration = Duration::from_secs(300);

/// What kind of tokens are given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Options {
    /// Random ones, which the members tell each other of.
    Simple,
    /// Signed ones.
    Jwt(Jwt),
}

/// Of signed tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// How they are signed.
    pub method: Algorithm,
    /// PEM, or the secret itself for HMAC.
    pub private: Option<PathBuf>,
    /// PEM.
    pub public: Option<PathBuf>,
    /// How long one lives.
    pub ttl: Duration,
}

impl Options {
    /// Reads the flag.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut options = BTreeMap::new();
        for part in parts {
            let pair = part.split_once('=').filter(|(_, value)| !value.contains('='));
            let (name, value) = pair.ok_or_else(|| format!("invalid auth options: {part:?} is not NAME=VALUE"))?;
            if options.insert(name, value).is_some() {
                return Err(format!("invalid auth options: {name} is given twice"));
            }
        }
        match kind {
            "simple" => Ok(Self::Simple),
            "jwt" => jwt(options).map(Self::Jwt),
            _ => Err(format!("invalid auth options: {kind:?} is neither simple nor jwt")),
        }
    }
}

fn jwt(mut options: BTreeMap<&str, &str>) -> Result<Jwt, String> {
    // An empty value counts as none, as in etcd.
    let mut take = |name: &str| options.remove(name).filter(|value| !value.is_empty());
    let method = take("sign-method").unwrap_or_default();
    let method = method.parse().map_err(|_| format!("invalid auth signature method {method:?}"))?;
    let (private, public) = (take("priv-key").map(PathBuf::from), take("pub-key").map(PathBuf::from));
    let ttl = take("ttl").map_or(Ok(TTL), duration::parse)?;
    if !options.is_empty() {
        tracing::warn!(names = ?options.keys(), "unknown JWT options");
    }
    Ok(Jwt { method, private, public, ttl })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_read_as_etcd_reads_it() {
        let jwt = |text: &str| match Options::parse(text) {
            Ok(Options::Jwt(jwt)) => Ok(jwt),
            other => Err(other),
        };
        assert_eq!(Options::parse("simple"), Ok(Options::Simple));
        let full = jwt("jwt,pub-key=a.pub,priv-key=a.key,sign-method=RS256,ttl=10m").unwrap();
        let (private, public) = (Some(PathBuf::from("a.key")), Some(PathBuf::from("a.pub")));
        assert_eq!(full, Jwt { method: Algorithm::RS256, private, public, ttl: Duration::from_secs(600) });
        assert_eq!(jwt("jwt,sign-method=ES256,unknown=x,ttl=").unwrap().ttl, TTL);
        for wrong in ["", "other", "jwt", "jwt,sign-method=XS1", "jwt,sign-method", "jwt,ttl=x,sign-method=RS256", "jwt,sign-method=RS256,sign-method=RS256", "jwt,priv-key=a=b,sign-method=RS256"] {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
