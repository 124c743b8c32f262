//! Signed tokens: who has one is who it says, until it expires or users change. Nothing is kept of them, and no
//! member tells another: each checks the signature. The claims are etcd's: `username`, `revision`, `exp`.
//!
//! Here, and only here, the wall clock counts: the time is given, in seconds since 1970.

pub mod keys;
pub mod options;

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use jsonwebtoken::{Header, Validation};
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::ledger::Who;
use keys::Keys;
use options::Options;

/// Gives out tokens, or only checks them.
pub struct Signer {
    keys: Keys,
    header: Header,
    validation: Validation,
    ttl: Duration,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    username: String,
    revision: f64,
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default, skip_serializing)]
    nbf: Option<f64>,
}

/// As it is signed; numbers without a fraction.
#[derive(Serialize)]
struct Signed<'a> {
    username: &'a str,
    revision: u64,
    exp: u64,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The kind of tokens that a flag asks for; `None` for simple ones.
pub fn of_flag(flag: &str) -> anyhow::Result<Option<Signer>> {
    match Options::parse(flag).map_err(|problem| anyhow::anyhow!("--auth-token: {problem}"))? {
        Options::Simple => Ok(None),
        Options::Jwt(options) => {
            let keys = Keys::load(&options).map_err(|error| anyhow::anyhow!("--auth-token: {error:#}"))?;
            Ok(Some(Signer::new(keys, options.method, options.ttl)?))
        }
    }
}

impl Signer {
    /// With keys that must belong together.
    pub fn new(keys: Keys, method: jsonwebtoken::Algorithm, ttl: Duration) -> anyhow::Result<Self> {
        let mut validation = Validation::new(method);
        // Times are judged here, where the time is given.
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        validation.required_spec_claims = HashSet::new();
        let signer = Self { keys, header: Header::new(method), validation, ttl };
        if signer.keys.signing.is_some() {
            let probe = signer.sign("probe", 1, 0).map_err(|status| anyhow::anyhow!("--auth-token: {}", status.message()))?;
            ensure!(signer.who(&probe, 0).is_some(), "--auth-token: public and private keys don't match");
        }
        Ok(signer)
    }

    /// A token for a user, as of an auth revision.
    pub fn sign(&self, username: &str, revision: u64, now: u64) -> Result<String, Status> {
        let Some(key) = &self.keys.signing else {
            return Err(Status::unknown("auth: token signing attempted with verify-only key"));
        };
        // Never at once expired, however short it is to live.
        let exp = now.saturating_add(self.ttl.as_secs().max(1));
        let signed = jsonwebtoken::encode(&self.header, &Signed { username, revision, exp }, key);
        signed.map_err(|error| Status::internal(format!("a token cannot be signed: {error}")))
    }

    /// Whose it is; nobody's when the signature or the time is wrong.
    pub fn who(&self, token: &str, now: u64) -> Option<Who> {
        let Claims { username, revision, exp, nbf } =
            jsonwebtoken::decode::<Claims>(token, &self.keys.verifying, &self.validation).ok()?.claims;
        let now = now as f64;
        let valid = exp.is_none_or(|exp| now < exp) && nbf.is_none_or(|nbf| now >= nbf) && revision >= 0.0;
        valid.then(|| Who { user: username, revision: revision as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::Algorithm;

    fn secret(secret: &[u8], method: Algorithm) -> Signer {
        Signer::new(Keys::of(Some(secret), None, method).unwrap(), method, Duration::from_secs(60)).unwrap()
    }

    fn who(user: &str, revision: u64) -> Option<Who> {
        Some(Who { user: user.to_owned(), revision })
    }

    #[test]
    fn a_token_counts_until_it_expires_and_only_under_its_key_and_method() {
        let signer = secret(b"one", Algorithm::HS256);
        let token = signer.sign("alice", 7, 1_000).unwrap();
        assert_eq!(signer.who(&token, 1_059), who("alice", 7));
        assert_eq!(signer.who(&token, 1_060), None, "expired");
        assert_eq!(secret(b"other", Algorithm::HS256).who(&token, 1_000), None, "another key");
        assert_eq!(secret(b"one", Algorithm::HS512).who(&token, 1_000), None, "another method");
        let (head, rest) = token.split_once('.').unwrap();
        assert_eq!(signer.who(&format!("{head}.{}", rest.replacen('a', "b", 1)), 1_000), None, "changed");
        for nonsense in ["", "a.b.c", "....", &token[..token.len() - 2]] {
            assert_eq!(signer.who(nonsense, 1_000), None);
        }
    }

    #[test]
    fn claims_must_be_there_and_a_token_without_an_end_has_none() {
        let signer = secret(b"one", Algorithm::HS256);
        let key = jsonwebtoken::EncodingKey::from_secret(b"one");
        for (claims, expected) in [
            (serde_json::json!({"username": "a", "revision": 3}), who("a", 3)),
            (serde_json::json!({"username": "a", "revision": 3, "nbf": 2_000}), None),
            (serde_json::json!({"username": "a"}), None),
            (serde_json::json!({"revision": 3}), None),
            (serde_json::json!({"username": 5, "revision": 3}), None),
        ] {
            let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
            assert_eq!(signer.who(&token, 1_000), expected, "{claims}");
        }
    }

    #[test]
    fn keys_of_every_kind_are_read_and_must_belong_together() {
        use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
        for (kind, method) in [
            (&PKCS_ECDSA_P256_SHA256, Algorithm::ES256), (&PKCS_ECDSA_P384_SHA384, Algorithm::ES384), (&PKCS_ED25519, Algorithm::EdDSA),
        ] {
            let make = || KeyPair::generate_for(kind).unwrap();
            let (mine, other) = (make(), make());
            let (private, public) = (mine.serialize_pem(), mine.public_key_pem());
            let signer = |private: Option<&str>, public: Option<&str>| {
                let keys = Keys::of(private.map(str::as_bytes), public.map(str::as_bytes), method)?;
                Signer::new(keys, method, Duration::from_secs(60))
            };
            let both = signer(Some(&private), Some(&public)).unwrap();
            let token = both.sign("alice", 2, 10).unwrap();
            let (alone, checking) = (signer(Some(&private), None).unwrap(), signer(None, Some(&public)).unwrap());
            for each in [&both, &alone, &checking] {
                assert_eq!(each.who(&token, 10), who("alice", 2), "{method:?}");
            }
            let refused = checking.sign("alice", 2, 10).unwrap_err();
            assert_eq!(refused.message(), "auth: token signing attempted with verify-only key");
            let mismatch = signer(Some(&private), Some(&other.public_key_pem())).err().unwrap();
            assert!(mismatch.to_string().contains("don't match"), "{mismatch}");
            assert!(signer(None, None).err().unwrap().to_string().contains("missing key data"));
            assert!(signer(Some("nonsense"), None).is_err() && signer(Some(&public), None).is_err());
        }
    }
}
