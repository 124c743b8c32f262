//! What an image reference means and whether it has to be pulled.
//!
//! Pure. It neither pulls nor knows what is in the cache.

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// At every start; the registry says whether the cache is right.
    Always,
    /// Where the cache has no such image.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// What to do about an image before a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullDecision {
    /// Use the one in the cache.
    Use,
    /// Fetch it.
    Pull,
    /// It is not there and may not be fetched.
    Refuse,
}

/// The policy of a container; where it is silent, `Always` for `:latest` and `IfNotPresent` for the rest.
pub fn policy(word: Option<&str>, image: &str) -> PullPolicy {
    match word {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ if with_tag(image).ends_with(":latest") => PullPolicy::Always,
        _ => PullPolicy::IfNotPresent,
    }
}

/// The table of policies.
pub fn decide(policy: PullPolicy, present: bool) -> PullDecision {
    match (policy, present) {
        (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, false) => PullDecision::Pull,
        (PullPolicy::IfNotPresent | PullPolicy::Never, true) => PullDecision::Use,
        (PullPolicy::Never, false) => PullDecision::Refuse,
    }
}

/// The reference with `:latest` where it names neither tag nor digest.
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') || last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

/// Why `image` is not a reference; `None` where it is one.
pub fn invalid(image: &str) -> Option<&'static str> {
    let (rest, digest) = image.split_once('@').map_or((image, None), |(rest, digest)| (rest, Some(digest)));
    if digest.is_some_and(|digest| !valid_digest(digest)) {
        return Some("invalid reference format");
    }
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    let valid_tag = |tag: &str| {
        (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    };
    if tag.is_some_and(|tag| !valid_tag(tag)) || name.is_empty() {
        return Some("invalid reference format");
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    let is_host = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.contains(['.', ':']) || part == "localhost"
    };
    if parts.len() > 1 && is_host(parts[0]) {
        parts.remove(0);
    }
    if parts.iter().any(|part| part.bytes().any(|b| b.is_ascii_uppercase())) {
        return Some("invalid reference format: repository name must be lowercase");
    }
    let valid_part = |part: &&str| {
        !part.is_empty()
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    };
    (!parts.iter().all(valid_part)).then_some("invalid reference format")
}

fn valid_digest(digest: &str) -> bool {
    digest
        .split_once(':')
        .is_some_and(|(algorithm, hex)| !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for good in ["busybox", "balsa/busybox:1", "127.0.0.1:5000/a/b:v1.2", "registry.k8s.io/pause:3.10", "localhost/x"] {
            assert_eq!(invalid(good), None, "{good}");
        }
        for bad in ["", "a b", "Foo", "x:", "x@sha256:zz", "a//b", "some/image:inv@lid", "../x"] {
            assert!(invalid(bad).is_some(), "{bad}");
        }
        assert_eq!(with_tag("a"), "a:latest");
        assert_eq!(with_tag("h:5000/a"), "h:5000/a:latest");
        assert_eq!(with_tag("a:1"), "a:1");
    }

    #[test]
    fn policies() {
        assert_eq!(policy(None, "a"), PullPolicy::Always);
        assert_eq!(policy(None, "a:1"), PullPolicy::IfNotPresent);
        assert_eq!(decide(PullPolicy::Never, false), PullDecision::Refuse);
        assert_eq!(decide(PullPolicy::Always, true), PullDecision::Pull);
        assert_eq!(decide(PullPolicy::IfNotPresent, true), PullDecision::Use);
    }
}
