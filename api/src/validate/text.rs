//! What is wrong with a piece of text: names, labels, keys. Each function returns Kubernetes' sentences, none for text
//! that is fine.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                          start and end with an alphanumeric character";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                              '.', and must start and end with an alphanumeric character";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                        alphanumeric character";

/// `must be no more than N characters`
pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// A rule with its examples and pattern, as Kubernetes words it.
pub fn pattern(rule: &str, regex: &str, examples: &[&str]) -> String {
    let shown: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    if shown.is_empty() {
        return format!("{rule} (regex used for validation is '{regex}')");
    }
    format!("{rule} (e.g. {}regex used for validation is '{regex}')", shown.join(" or "))
}

fn is_label(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    !text.is_empty()
        && text.chars().all(|c| edge(c) || c == '-')
        && text.starts_with(edge)
        && text.ends_with(edge)
}

fn is_key(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.chars().all(|c| edge(c) || "-_.".contains(c)) && text.starts_with(edge) && text.ends_with(edge)
}

/// A DNS-1123 label: at most 63 of `a-z0-9-`.
pub fn label_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push(too_long(63));
    }
    if !is_label(text) {
        if text.contains('.') && text.split('.').all(is_label) {
            out.push("must not contain dots".to_owned());
        } else {
            out.push(pattern(LABEL_TEXT, LABEL, &["my-name", "123-abc"]));
        }
    }
    out
}

/// A DNS-1123 subdomain: labels with dots, at most 253.
pub fn subdomain_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 253 {
        out.push(too_long(253));
    }
    if !text.split('.').all(is_label) {
        out.push(pattern(SUBDOMAIN_TEXT, SUBDOMAIN, &["example.com"]));
    }
    out
}

/// `*.` and a DNS-1123 subdomain.
pub fn wildcard_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 253 {
        out.push(too_long(253));
    }
    if !text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label)) {
        let rule = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
                    of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        out.push(pattern(rule, &format!(r"\*\.{SUBDOMAIN}"), &["*.example.com"]));
    }
    out
}

/// A DNS-1035 label: like DNS-1123 but starting with a letter.
pub fn dns1035_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push(too_long(63));
    }
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        let rule = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                    alphabetic character, and end with an alphanumeric character";
        out.push(pattern(rule, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    out
}

/// A name that may stand as one segment of a path.
pub fn path_segment_problems(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|bad| text.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// A label key: `[prefix/]name`.
pub fn qualified_name_problems(text: &str) -> Vec<String> {
    let rule = || pattern(KEY_TEXT, KEY, &["MyName", "my.name", "123-abc"]);
    let mut out = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(subdomain_problems(prefix).into_iter().map(|problem| format!("prefix part {problem}")));
            }
            *name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                rule()
            )];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        out.push(format!("name part {}", too_long(63)));
    }
    if !is_key(name) {
        out.push(format!("name part {}", rule()));
    }
    out
}

/// A label value.
pub fn label_value_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push(too_long(63));
    }
    if !text.is_empty() && !is_key(text) {
        let rule = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                    must start and end with an alphanumeric character";
        out.push(pattern(rule, &format!("({KEY})?"), &["MyValue", "my_value", "12345"]));
    }
    out
}

fn change_dir_problems(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// A key of a ConfigMap or Secret.
pub fn config_key_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 253 {
        out.push(too_long(253));
    }
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
        let rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        out.push(pattern(rule, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    out.extend(change_dir_problems(text));
    out
}

/// The name of an environment variable.
pub fn env_name_problems(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        let rule = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        return vec![rule.to_owned()];
    }
    Vec::new()
}

/// The name of a port (IANA_SVC_NAME).
pub fn port_name_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 15 {
        out.push(too_long(15));
    }
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.chars().any(|c| c.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// A port number.
pub fn port_problems(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// The name of an HTTP header.
pub fn header_name_problems(text: &str) -> Vec<String> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Vec::new();
    }
    let rule = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![pattern(rule, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// `25%`
pub fn percent_problems(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let rule = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![pattern(rule, "[0-9]+%", &["1%", "93%"])]
}

/// An IP address, v4 or v6, in its usual spelling.
pub fn ip_problems(text: &str) -> Vec<String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
}

/// An IP address in the one spelling that is canonical.
pub fn address_problems(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Err(_) => ip_problems(text),
        Ok(std::net::IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(address) if address.to_string() != text => vec![format!("must be in canonical form ({:?})", address.to_string())],
        Ok(_) => Vec::new(),
    }
}

/// A network such as `10.96.0.0/16`, with nothing set behind its prefix.
pub fn cidr_problems(text: &str) -> Vec<String> {
    use std::net::IpAddr;
    let malformed = || vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()];
    let Some((address, bits)) = text.split_once('/') else { return malformed() };
    let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u32>()) else { return malformed() };
    let base = match address {
        IpAddr::V4(address) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            IpAddr::from((u32::from(address) & mask).to_be_bytes())
        }
        IpAddr::V6(address) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            IpAddr::from((u128::from(address) & mask).to_be_bytes())
        }
        IpAddr::V4(_) | IpAddr::V6(_) => return malformed(),
    };
    if base != address {
        return vec!["must not have bits set beyond the prefix length".to_owned()];
    }
    let canonical = format!("{base}/{bits}");
    if canonical == text { Vec::new() } else { vec![format!("must be in canonical form ({canonical:?})")] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(label_problems("web-1").is_empty());
        assert_eq!(label_problems("a.b"), ["must not contain dots"]);
        assert!(!label_problems("Web").is_empty() && !label_problems("").is_empty() && !label_problems("-a").is_empty());
        assert!(subdomain_problems("a.b-c.d").is_empty());
        assert_eq!(
            subdomain_problems("A"),
            ["a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"]
        );
        assert_eq!(subdomain_problems(&"a".repeat(254)).len(), 1);
        assert!(wildcard_problems("*.a.b").is_empty() && !wildcard_problems("*").is_empty() && !wildcard_problems("a.*.b").is_empty());
        assert!(qualified_name_problems("example.com/My.Name_1").is_empty());
        assert!(!qualified_name_problems("a/b/c").is_empty() && !qualified_name_problems("/x").is_empty());
        assert!(label_value_problems("").is_empty() && !label_value_problems("-x").is_empty());
        assert!(config_key_problems(".dockerconfigjson").is_empty() && !config_key_problems("..x").is_empty());
        assert!(port_name_problems("http").is_empty() && !port_name_problems("80").is_empty());
        assert!(env_name_problems("A.b-c d").is_empty() && !env_name_problems("a=b").is_empty());
    }
}
