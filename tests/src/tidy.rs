//! House rules as functions over the tree: what `tests/tidy.rs` asserts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our own crates each crate may use. An arrow that is not here is a mistake or a decision for
/// ARCHITECTURE.md.
pub const ARROWS: [(&str, &[&str]); 12] = [
    ("proto", &[]),
    ("api", &["cel"]),
    ("cel", &[]),
    ("process", &[]),
    ("client", &["api", "process", "proto"]),
    ("store", &["process", "proto"]),
    ("apiserver", &["api", "cel", "process", "proto"]),
    ("scheduler", &["api", "client", "process", "proto"]),
    ("controllers", &["api", "client", "process", "proto"]),
    ("nodeagent", &["api", "client", "process", "proto"]),
    ("deploy", &["process", "proto"]),
    ("deploy/dev", &["api", "apiserver", "client", "controllers", "nodeagent", "process", "proto", "scheduler", "store"]),
];

/// Files longer than 600 lines that were so when the rule came; the list may only shrink.
pub const LONG: [&str; 0] = [];

/// Every `.rs` file of the workspace, relative to its root.
pub fn sources(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && !name.starts_with("target") && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                found.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Arrows between our crates that are not allowed.
pub fn forbidden_arrows(root: &Path) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut findings = Vec::new();
    for (member, may) in allowed {
        let manifest = fs::read_to_string(root.join(member).join("Cargo.toml")).unwrap_or_default();
        // Dev-dependencies may point anywhere below.
        let own = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for line in own.lines().filter_map(|line| line.strip_prefix("balsa-")) {
            let used = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !may.contains(&used) {
                findings.push(format!("{member} uses {used}"));
            }
        }
    }
    findings
}

/// Files whose head does not say what they are about.
pub fn headless(root: &Path) -> Vec<String> {
    let has_head = |text: &str| text.lines().find(|line| !line.is_empty()).is_some_and(|line| line.starts_with("//!"));
    each(root, |text| (!has_head(text)).then(|| "starts without a `//!` head".to_owned()))
}

/// Files that nobody reads in one sitting.
pub fn too_long(root: &Path) -> Vec<String> {
    each(root, |text| {
        let lines = text.lines().count();
        (lines > 600).then(|| format!("has {lines} lines; more than 600 want splitting by topic"))
    })
    .into_iter()
    .filter(|finding| !LONG.iter().any(|long| finding.starts_with(long)))
    .collect()
}

/// Pure files (`plan.rs`) that name a clock, randomness, IO or an unordered map.
pub fn impure_plans(root: &Path) -> Vec<String> {
    const BANNED: [&str; 8] =
        ["tokio", "::now(", "rand::", "HashMap", "HashSet", "balsa_client", "std::fs", "std::net::Tcp"];
    sources(root)
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name == "plan.rs"))
        .flat_map(|path| {
            let text = fs::read_to_string(root.join(&path)).unwrap_or_default();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            let bad: Vec<String> = BANNED
                .iter()
                .filter(|word| code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(**word)))
                .map(|word| format!("{} is a pure file and names {word}", path.display()))
                .collect();
            bad
        })
        .collect()
}

/// Paths in ARCHITECTURE.md's tables that do not exist.
pub fn dead_paths(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    let crates: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).chain(["tests"]).collect();
    text.lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .filter(|word| crates.iter().any(|name| word.starts_with(&format!("{name}/"))))
        .filter(|path| !root.join(path).exists())
        .map(|path| format!("ARCHITECTURE.md names {path}, which does not exist"))
        .collect()
}

/// Work that was left for later without saying where.
pub fn leftovers(root: &Path) -> Vec<String> {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    each(root, |text| words.iter().find(|word| text.contains(**word)).map(|word| format!("holds a {word}")))
}

fn each(root: &Path, check: impl Fn(&str) -> Option<String>) -> Vec<String> {
    sources(root)
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(root.join(&path)).unwrap_or_default();
            check(&text).map(|finding| format!("{} {finding}", path.display()))
        })
        .collect()
}
