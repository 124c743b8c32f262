//! Which credentials fit an image.
//!
//! Pure: secrets in, candidates out, the longest matching path first. Passwords never appear in errors or logs.

use std::collections::BTreeMap;

use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use crate::runtime::RegistryAuth;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
}

#[derive(Deserialize)]
struct Config {
    auths: BTreeMap<String, Entry>,
}

/// Credentials for `image` out of pull secrets; the best first.
pub fn candidates(image: &str, secrets: &[Secret]) -> Vec<RegistryAuth> {
    let target = normalized(image);
    let mut found: Vec<(usize, RegistryAuth)> = Vec::new();
    for (server, entry) in secrets.iter().flat_map(entries) {
        let pattern = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        let pattern = pattern.trim_end_matches("/v1").trim_end_matches("/v2");
        let pattern = pattern.replace("index.docker.io", "docker.io").replace("registry-1.docker.io", "docker.io");
        if !matches(&pattern, &target) {
            continue;
        }
        let Some((username, password)) = credentials(entry) else { continue };
        let host = pattern.split('/').next().unwrap_or_default().to_owned();
        let server = if host.starts_with('*') { target.split('/').next().unwrap_or_default().to_owned() } else { host };
        found.push((pattern.len(), RegistryAuth { server, username, password }));
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    if let Some(json) = data(".dockerconfigjson") {
        return serde_json::from_slice::<Config>(json).map(|config| config.auths).unwrap_or_default();
    }
    data(".dockercfg").and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
}

fn credentials(entry: Entry) -> Option<(String, String)> {
    if !entry.username.is_empty() {
        return Some((entry.username, entry.password));
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(entry.auth.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// `docker.io/library/busybox` for `busybox:1`.
fn normalized(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let is_host = first.contains(['.', ':']) || first == "localhost";
    let cut = |path: &str| {
        let slash = path.rfind('/').map_or(0, |at| at + 1);
        path[slash..].find(':').map_or(path, |colon| &path[..slash + colon]).to_owned()
    };
    match (is_host, first.is_empty()) {
        (true, _) => format!("{first}/{}", cut(rest)),
        (false, true) => format!("docker.io/library/{}", cut(rest)),
        (false, false) => format!("docker.io/{}", cut(name)),
    }
}

fn matches(pattern: &str, target: &str) -> bool {
    let (pattern_host, pattern_path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let (host, path) = target.split_once('/').unwrap_or((target, ""));
    let wanted: Vec<_> = pattern_host.split('.').collect();
    let given: Vec<_> = host.split('.').collect();
    let host_fits = wanted.len() == given.len()
        && wanted.iter().zip(&given).all(|(wanted, given)| wanted == given || *wanted == "*");
    let path_fits = pattern_path.is_empty()
        || path == pattern_path
        || path.strip_prefix(pattern_path).is_some_and(|rest| rest.starts_with('/'));
    host_fits && path_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(auths: serde_json::Value) -> Secret {
        let json = serde_json::json!({ "auths": auths }).to_string();
        let data = base64::engine::general_purpose::STANDARD.encode(json);
        serde_json::from_value(serde_json::json!({ "data": { ".dockerconfigjson": data } })).unwrap()
    }

    #[test]
    fn the_longest_path_wins() {
        let secrets = [secret(serde_json::json!({
            "127.0.0.1:5000": { "auth": base64::engine::general_purpose::STANDARD.encode("u:p:q") },
            "127.0.0.1:5000/team": { "username": "team", "password": "x" },
            "https://index.docker.io/v1/": { "username": "hub", "password": "x" },
            "*.example.com": { "username": "star", "password": "x" } }))];
        let users = |image| {
            let all = candidates(image, &secrets);
            all.into_iter().map(|auth| format!("{}@{}", auth.username, auth.server)).collect::<Vec<_>>()
        };
        assert_eq!(users("127.0.0.1:5000/team/a:v1"), ["team@127.0.0.1:5000", "u@127.0.0.1:5000"]);
        assert_eq!(users("127.0.0.1:5000/teams/a"), ["u@127.0.0.1:5000"]);
        assert_eq!(users("busybox:1"), ["hub@docker.io"]);
        assert_eq!(users("a.example.com/x@sha256:00"), ["star@a.example.com"]);
        assert!(users("example.com/x").is_empty());
        assert_eq!(candidates("127.0.0.1:5000/a", &secrets)[0].password, "p:q");
    }
}
