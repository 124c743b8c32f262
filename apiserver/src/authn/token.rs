//! ServiceAccount tokens: JWTs signed with ES256, and what their claims must say. Whether the objects that a token is
//! bound to still exist is asked by the caller.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Caller, implied_groups};

/// Seconds that clocks may differ.
const LEEWAY: i64 = 10;

/// What a token is bound to: (name, uid) each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bound {
    /// A pod.
    pub pod: Option<(String, String)>,
    /// A node.
    pub node: Option<(String, String)>,
    /// A secret.
    pub secret: Option<(String, String)>,
}

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The ServiceAccount's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// What the token is bound to.
    pub bound: Bound,
    /// Seconds after which its holder should have taken a new one.
    pub warn_after: Option<i64>,
}

/// A token that is genuine and in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whom it speaks for.
    pub subject: Subject,
    /// The token's id.
    pub id: String,
    /// For whom it is meant.
    pub audiences: Vec<String>,
}

impl Verified {
    /// The caller that shows the token.
    pub fn caller(&self) -> Caller {
        let Subject { namespace, name, uid, bound, .. } = &self.subject;
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let mut extra = BTreeMap::new();
        let mut say = |key: &str, value: &str| {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        if !self.id.is_empty() {
            say("credential-id", &format!("JTI={}", self.id));
        }
        for (what, object) in [("pod", &bound.pod), ("node", &bound.node)] {
            if let Some((name, uid)) = object {
                say(&format!("{what}-name"), name);
                say(&format!("{what}-uid"), uid);
            }
        }
        Caller { groups: implied_groups(&user), user, uid: uid.clone(), extra }
    }
}

/// Makes tokens with one key, and checks them with that and older ones.
pub struct Signer {
    key: EcdsaKeyPair,
    key_id: String,
    /// Public keys with their ids, the signing one's first.
    known: Vec<(String, Vec<u8>)>,
    issuer: String,
    random: SystemRandom,
}

impl Signer {
    /// From a PEM file's content: an EC P-256 private key in PKCS#8.
    pub fn new(pem: &[u8], issuer: &str) -> anyhow::Result<Self> {
        let key = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|error| anyhow::anyhow!("--service-account-key holds no private key: {error}"))?;
        let PrivateKeyDer::Pkcs8(der) = key else {
            anyhow::bail!("--service-account-key must be in PKCS#8 form (BEGIN PRIVATE KEY)");
        };
        Self::from_pkcs8(der.secret_pkcs8_der(), issuer)
    }

    fn from_pkcs8(der: &[u8], issuer: &str) -> anyhow::Result<Self> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|error| anyhow::anyhow!("--service-account-key is no P-256 key: {error}"))?;
        let public = key.public_key().as_ref().to_vec();
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(&public));
        Ok(Self { key, known: vec![(key_id.clone(), public)], key_id, issuer: issuer.to_owned(), random })
    }

    /// Takes tokens of a further key (PEM, as in [`Self::new`]): one that signed before, or that another apiserver signs
    /// with already.
    pub fn also_trust(&mut self, pem: &[u8]) -> anyhow::Result<()> {
        self.known.extend(Self::new(pem, &self.issuer)?.known);
        Ok(())
    }

    /// With a key of its own, for development without PKI.
    pub fn generate(issuer: &str) -> anyhow::Result<Self> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| anyhow::anyhow!("no randomness for a key"))?;
        Self::from_pkcs8(document.as_ref(), issuer)
    }

    /// The `iss` of every token, and the audience of those that name none.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public keys, as `/openid/v1/jwks` shows it.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.known.iter().map(|(id, public)| jwk(id, public)).collect();
        json!({"keys": keys})
    }

    /// A token for `subject` that is good from `now` for `life` seconds.
    pub fn sign(&self, subject: &Subject, audiences: &[String], now: i64, life: i64) -> Result<String, String> {
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let claims = claims(subject, &self.issuer, audiences, now, life, &uuid::Uuid::new_v4().to_string());
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.key.sign(&self.random, text.as_bytes()).map_err(|_| "cannot sign a token".to_owned())?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Checks signature, issuer, times and audience. The error says what is wrong, never what the token holds.
    pub fn verify(&self, token: &str, audiences: &[String], now: i64) -> Result<Verified, String> {
        let (text, signature) = token.rsplit_once('.').ok_or("not a JWT")?;
        let (header, payload) = text.split_once('.').ok_or("not a JWT")?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "not a JWT".to_owned());
        let parse = |part: &str| -> Result<Value, String> {
            serde_json::from_slice(&decode(part)?).map_err(|_| "not a JWT".to_owned())
        };
        if parse(header)?["alg"] != "ES256" {
            return Err("the token is not signed with ES256".to_owned());
        }
        let signature = decode(signature)?;
        let signed = |public: &Vec<u8>| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public).verify(text.as_bytes(), &signature).is_ok()
        };
        if !self.known.iter().any(|(_, public)| signed(public)) {
            return Err("the token's signature is wrong".to_owned());
        }
        read_claims(&parse(payload)?, &self.issuer, audiences, now)
    }
}

fn jwk(id: &str, public: &[u8]) -> Value {
    // 0x04, x, y.
    let (x, y) = (public.get(1..33).unwrap_or_default(), public.get(33..65).unwrap_or_default());
    json!({"use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
}

fn reference(object: &(String, String)) -> Value {
    json!({"name": object.0, "uid": object.1})
}

fn claims(subject: &Subject, issuer: &str, audiences: &[String], now: i64, life: i64, id: &str) -> Value {
    let mut private = json!({
        "namespace": subject.namespace,
        "serviceaccount": {"name": subject.name, "uid": subject.uid},
    });
    let Bound { pod, node, secret } = &subject.bound;
    for (key, object) in [("pod", pod), ("node", node), ("secret", secret)] {
        if let Some(object) = object {
            private[key] = reference(object);
        }
    }
    if let Some(seconds) = subject.warn_after {
        private["warnafter"] = json!(now + seconds);
    }
    json!({
        "aud": audiences, "iss": issuer, "iat": now, "nbf": now, "exp": now + life, "jti": id,
        "sub": format!("system:serviceaccount:{}:{}", subject.namespace, subject.name),
        "kubernetes.io": private,
    })
}

/// What claims say, if they hold. Pure.
fn read_claims(claims: &Value, issuer: &str, wanted: &[String], now: i64) -> Result<Verified, String> {
    let text = |pointer: &str| claims.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |key: &str| claims.get(key).and_then(Value::as_i64);
    if text("/iss") != issuer {
        return Err("the token is of another issuer".to_owned());
    }
    if number("exp").is_none_or(|exp| exp + LEEWAY < now) {
        return Err("the token has expired".to_owned());
    }
    if number("nbf").is_some_and(|nbf| nbf - LEEWAY > now) {
        return Err("the token is not valid yet".to_owned());
    }
    let audiences: Vec<String> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let audiences: Vec<String> = audiences.into_iter().filter(|own| wanted.contains(own)).collect();
    if audiences.is_empty() {
        return Err("the token is meant for another audience".to_owned());
    }
    let object = |key: &str| -> Option<(String, String)> {
        let object = claims.get("kubernetes.io")?.get(key)?;
        Some((object.get("name")?.as_str()?.to_owned(), object.get("uid")?.as_str()?.to_owned()))
    };
    let (name, uid) = object("serviceaccount").ok_or("the token names no service account")?;
    Ok(Verified {
        subject: Subject {
            namespace: text("/kubernetes.io/namespace"),
            name,
            uid,
            bound: Bound { pod: object("pod"), node: object("node"), secret: object("secret") },
            warn_after: None,
        },
        id: text("/jti"),
        audiences,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        let bound = Bound { pod: Some(("p".into(), "u2".into())), ..Bound::default() };
        Subject { namespace: "d".into(), name: "web".into(), uid: "u1".into(), bound, warn_after: None }
    }

    #[test]
    fn a_token_says_whom_it_speaks_for() {
        let signer = Signer::generate("https://issuer").unwrap();
        let audience = ["https://issuer".to_owned()];
        let token = signer.sign(&subject(), &audience, 1000, 600).unwrap();
        let verified = signer.verify(&token, &audience, 1100).unwrap();
        assert_eq!(verified.subject, subject());
        let caller = verified.caller();
        assert_eq!(caller.user, "system:serviceaccount:d:web");
        assert_eq!(caller.groups, ["system:serviceaccounts", "system:serviceaccounts:d", "system:authenticated"]);
        assert_eq!(caller.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    }

    #[test]
    fn late_foreign_and_forged_tokens_are_refused() {
        let signer = Signer::generate("https://issuer").unwrap();
        let audience = ["https://issuer".to_owned()];
        let token = signer.sign(&subject(), &audience, 1000, 600).unwrap();
        assert!(signer.verify(&token, &audience, 2000).unwrap_err().contains("expired"));
        assert!(signer.verify(&token, &["vault".to_owned()], 1100).unwrap_err().contains("audience"));
        let mut other = Signer::generate("https://issuer").unwrap();
        assert_eq!(other.jwks()["keys"].as_array().unwrap().len(), 1);
        other.known.extend(signer.known.clone());
        assert!(other.verify(&token, &audience, 1100).is_ok(), "an older key is still known");
        assert_eq!(other.jwks()["keys"][1], signer.jwks()["keys"][0]);
        let other = Signer::generate("https://issuer").unwrap();
        assert!(other.verify(&token, &audience, 1100).unwrap_err().contains("signature"));
        for nonsense in ["", "a", "a.b", "a.b.c", "ä.ö.ü"] {
            assert!(signer.verify(nonsense, &audience, 1100).is_err());
        }
    }
}
