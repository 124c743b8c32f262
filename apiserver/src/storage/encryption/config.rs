//! An EncryptionConfiguration (apiserver.config.k8s.io/v1): which resources are sealed with which keys. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::transform::{Cipher, Transformer, Transformers};
use crate::storage::split_key;
use crate::value;

/// Which resources an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// `*.*`
    Everything,
    /// `*.apps`, or `*.` for the core group.
    Group(String),
    /// `secrets`, `deployments.apps`
    Resource(String),
}

impl Choice {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "*.*" => Ok(Self::Everything),
            "" | "*" => Err(format!("resource {text:?}: use \"*.*\" to cover all resources")),
            text => match text.strip_prefix("*.") {
                Some(group) => Ok(Self::Group(group.to_owned())),
                None if text.contains('*') => Err(format!("resource {text:?}: a wildcard stands alone in its place")),
                None => Ok(Self::Resource(text.to_owned())),
            },
        }
    }

    fn fits(&self, resource: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Group(group) => resource.split_once('.').map_or("", |(_, own)| own) == group,
            Self::Resource(own) => own == resource,
        }
    }
}

/// See the module. Never shows keys.
#[derive(Debug, Clone, Default)]
pub struct Encryption {
    entries: Vec<(Vec<Choice>, Transformers)>,
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn keys(name: &str, provider: &Value, sizes: &[usize], cipher: fn(Vec<u8>) -> Cipher) -> Result<Vec<Transformer>, String> {
    let keys = list(provider, "keys");
    if keys.is_empty() {
        return Err(format!("{name}: it has no keys"));
    }
    let mut made: Vec<Transformer> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for key in keys {
        let key_name = value::text(key, "/name");
        if key_name.is_empty() || key_name.contains(':') {
            return Err(format!("{name}: a key's name must not be empty nor hold ':'"));
        }
        if names.contains(&key_name) {
            return Err(format!("{name}: there are two keys named {key_name:?}"));
        }
        names.push(key_name);
        let secret = STANDARD.decode(value::text(key, "/secret").trim());
        let secret = secret.map_err(|_| format!("{name}: the secret of key {key_name:?} is no base64"))?;
        if !sizes.contains(&secret.len()) {
            return Err(format!("{name}: the secret of key {key_name:?} has {} bytes, not one of {sizes:?}", secret.len()));
        }
        made.push(Transformer::Sealed { prefix: format!("k8s:enc:{name}:v1:{key_name}:"), cipher: cipher(secret) });
    }
    Ok(made)
}

fn provider(provider: &Value) -> Result<Vec<Transformer>, String> {
    let members = provider.as_object().filter(|members| members.len() == 1);
    let Some((name, settings)) = members.and_then(|members| members.iter().next()) else {
        return Err("each provider names exactly one of aesgcm, aescbc, secretbox, identity".to_owned());
    };
    match name.as_str() {
        "identity" => Ok(vec![Transformer::Identity]),
        "aesgcm" => keys(name, settings, &[16, 24, 32], Cipher::AesGcm),
        "aescbc" => keys(name, settings, &[16, 24, 32], Cipher::AesCbc),
        "secretbox" => keys(name, settings, &[32], Cipher::Secretbox),
        "kms" => Err("kms: key management services are not supported; use aesgcm, aescbc or secretbox".to_owned()),
        other => Err(format!("{other:?} is no provider; there are aesgcm, aescbc, secretbox and identity")),
    }
}

impl Encryption {
    /// From the file's YAML or JSON. The error says what is wrong, never what a key is.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        // What a parser says of a file of keys may quote it.
        let decoded = balsa_api::decode::json_or_yaml(text).map_err(|_| "it is no YAML")?.value;
        if decoded["apiVersion"] != "apiserver.config.k8s.io/v1" || decoded["kind"] != "EncryptionConfiguration" {
            return Err("it must be an EncryptionConfiguration of apiserver.config.k8s.io/v1".to_owned());
        }
        let mut entries = Vec::new();
        for (index, entry) in list(&decoded, "resources").iter().enumerate() {
            let at = |problem: String| format!("resources[{index}]: {problem}");
            let names = value::strings(entry, "/resources");
            let choices = names.iter().map(|name| Choice::parse(name)).collect::<Result<Vec<_>, _>>().map_err(at)?;
            let mut transformers = Vec::new();
            for settings in list(entry, "providers") {
                transformers.extend(provider(settings).map_err(at)?);
            }
            if choices.is_empty() || transformers.is_empty() {
                return Err(at("resources and providers are needed".to_owned()));
            }
            entries.push((choices, Transformers(transformers)));
        }
        if entries.is_empty() {
            return Err("it names no resources".to_owned());
        }
        Ok(Self { entries })
    }

    /// How values under a key of the store are sealed; `None`: not at all. The first entry that fits counts.
    pub fn of_key(&self, key: &str) -> Option<&Transformers> {
        let (resource, _) = split_key(key)?;
        self.entries.iter().find(|(choices, _)| choices.iter().any(|choice| choice.fits(resource))).map(|(_, own)| own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(resources: &str, providers: &str) -> Result<Encryption, String> {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: {resources}\n  providers: {providers}\n"
        );
        Encryption::parse(text.as_bytes())
    }

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn resources_are_chosen() {
        let providers = format!("[{{secretbox: {{keys: [{{name: k, secret: {KEY}}}]}}}}, {{identity: {{}}}}]");
        let cases = [
            ("[secrets]", vec!["/registry/secrets/d/s"], vec!["/registry/configmaps/d/s", "/registry/secrets.x/s", "other"]),
            ("[deployments.apps, '*.batch']", vec!["/registry/deployments.apps/d/s", "/registry/jobs.batch/d/j"], vec!["/registry/pods/d/p"]),
            ("['*.']", vec!["/registry/pods/d/p"], vec!["/registry/jobs.batch/d/j"]),
            ("['*.*']", vec!["/registry/pods/d/p", "/registry/jobs.batch/d/j"], vec![]),
        ];
        for (resources, sealed, plain) in cases {
            let encryption = parse(resources, &providers).unwrap();
            assert!(sealed.iter().all(|key| encryption.of_key(key).is_some()), "{resources}");
            assert!(plain.iter().all(|key| encryption.of_key(key).is_none()), "{resources}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_keys() {
        let key = |name: &str, secret: &str| format!("[{{aesgcm: {{keys: [{{name: '{name}', secret: '{secret}'}}]}}}}]");
        let cases = [
            parse("[secrets]", "[]"),
            parse("[]", "[{identity: {}}]"),
            parse("['*']", "[{identity: {}}]"),
            parse("[secrets]", "[{kms: {name: x}}]"),
            parse("[secrets]", "[{aesgcm: {keys: []}}]"),
            parse("[secrets]", "[{aesgcm: {}, identity: {}}]"),
            parse("[secrets]", &key("", KEY)),
            parse("[secrets]", &key("a:b", KEY)),
            parse("[secrets]", &key("a", "AAAA")),
            parse("[secrets]", &key("a", "S!CRET")),
            Encryption::parse(b"kind: X\nsecret: S!CRET"),
            Encryption::parse(b"{"),
        ];
        for (index, case) in cases.into_iter().enumerate() {
            let error = case.unwrap_err();
            assert!(!error.contains("S!CRET") && !error.contains("AAAA"), "{index}: {error}");
        }
    }
}
