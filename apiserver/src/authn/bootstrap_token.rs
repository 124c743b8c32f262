//! Bootstrap tokens: `ID.SECRET`, kept as Secrets of kube-system, for nodes that are about to join. Pure.
//!
//! The rules are those of Kubernetes (plugin/pkg/auth/authenticator/token/bootstrap).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{AUTHENTICATED, Caller};
use crate::value;

/// The group of everybody with such a token.
const GROUP: &str = "system:bootstrappers";

fn is_word(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Id and secret of a text that looks like a bootstrap token.
pub fn split(token: &str) -> Option<(&str, &str)> {
    token.split_once('.').filter(|(id, secret)| is_word(id, 6) && is_word(secret, 16))
}

/// The name of the Secret that holds a token.
pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

fn data(secret: &Value, key: &str) -> String {
    let encoded = secret.get("data").and_then(|data| data.get(key)).and_then(Value::as_str).unwrap_or_default();
    STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

fn is_extra_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|byte| fits(byte) || byte == b':' || byte == b'-')
        && rest.bytes().last().is_some_and(fits)
}

/// Who shows the token, if its Secret says that it is good. The error never holds the token.
pub fn caller(secret: &Value, id: &str, shown: &str, now: Timestamp) -> Result<Caller, String> {
    let refuse = |why: &str| Err(format!("bootstrap token {id}: {why}"));
    if value::is_deleting(secret) {
        return refuse("its secret is being deleted");
    }
    if value::text(secret, "/type") != "bootstrap.kubernetes.io/token" {
        return refuse("its secret has another type");
    }
    let kept = data(secret, "token-secret");
    // Digests are compared, so that the time of the comparison tells nothing about the secret.
    if kept.is_empty() || Sha256::digest(&kept) != Sha256::digest(shown) || data(secret, "token-id") != id {
        return refuse("the secret part is wrong");
    }
    let expiration = data(secret, "expiration");
    if !expiration.is_empty() && expiration.parse::<Timestamp>().is_ok_and(|at| at <= now) {
        return refuse("it has expired");
    }
    if !expiration.is_empty() && expiration.parse::<Timestamp>().is_err() {
        return refuse("its expiration cannot be read");
    }
    if data(secret, "usage-bootstrap-authentication") != "true" {
        return refuse("it is not meant for authentication");
    }
    let extra = data(secret, "auth-extra-groups");
    let extra: Vec<String> = extra.split(',').filter(|group| !group.is_empty()).map(str::to_owned).collect();
    if !extra.iter().all(|group| is_extra_group(group)) {
        return refuse("one of its groups is not below system:bootstrappers:");
    }
    let mut groups = vec![GROUP.to_owned()];
    groups.extend(extra);
    groups.push(AUTHENTICATED.to_owned());
    Ok(Caller { user: format!("system:bootstrap:{id}"), groups, ..Caller::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut data = std::collections::BTreeMap::from([
            ("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:workers"), ("expiration", "2026-02-01T00:00:00Z"),
        ]);
        data.extend(changes.iter().copied());
        let data: serde_json::Map<String, Value> =
            data.into_iter().map(|(key, text)| (key.to_owned(), json!(STANDARD.encode(text)))).collect();
        json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "data": data})
    }

    #[test]
    fn a_token_is_good_while_its_secret_says_so() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (id, shown) = split("abcdef.0123456789abcdef").unwrap();
        let ann = caller(&secret(&[]), id, shown, now).unwrap();
        assert_eq!(ann.user, "system:bootstrap:abcdef");
        assert_eq!(ann.groups, ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]);
        let bad: [&[(&str, &str)]; 6] = [
            &[("token-secret", "0123456789abcdeX")], &[("token-secret", "")], &[("expiration", "2025-01-01T00:00:00Z")],
            &[("expiration", "soon")], &[("usage-bootstrap-authentication", "false")], &[("auth-extra-groups", "system:masters")],
        ];
        for changes in bad {
            let error = caller(&secret(changes), id, shown, now).unwrap_err();
            assert!(!error.contains(shown), "{error}");
        }
        for not in ["abcdef", "abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde", "a.b.c"] {
            assert_eq!(split(not), None, "{not}");
        }
    }
}
