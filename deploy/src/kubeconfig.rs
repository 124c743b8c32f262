//! Kubeconfigs: one of our own that reaches this cluster, and a context in the user's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use balsa_process::pki::write_private;
use balsa_process::tls::TlsFiles;
use base64::Engine as _;
use serde_yaml_ng::{Mapping, Value};

use crate::layout::Layout;

fn encoded(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("{}", path.display()))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// The three named entries that make a context, for the apiserver with this index.
fn entries(layout: &Layout, admin: &TlsFiles, index: usize) -> Result<[(&'static str, Value); 3]> {
    let name = if index == 0 { layout.cluster.clone() } else { format!("{}-{}", layout.cluster, index + 1) };
    let yaml = |text: String| serde_yaml_ng::from_str::<Value>(&text).context("our own kubeconfig");
    Ok([
        ("clusters", yaml(format!(
            "{{name: {name}, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority-data: {}}}}}",
            layout.api_port_of(index), encoded(&admin.ca)?))?),
        ("users", yaml(format!(
            "{{name: {name}, user: {{client-certificate-data: {}, client-key-data: {}}}}}",
            encoded(&admin.cert)?, encoded(&admin.key)?))?),
        ("contexts", yaml(format!("{{name: {name}, context: {{cluster: {name}, user: {name}}}}}"))?),
    ])
}

/// Puts `entry` into the list `list` of a kubeconfig, replacing one of the same name.
fn put(config: &mut Mapping, list: &str, entry: Value) {
    let slot = config.entry(list.into()).or_insert_with(|| Value::Sequence(Vec::new()));
    if !slot.is_sequence() {
        *slot = Value::Sequence(Vec::new());
    }
    let Some(sequence) = slot.as_sequence_mut() else { return };
    let name = entry.get("name").cloned();
    sequence.retain(|other| other.get("name") != name.as_ref());
    sequence.push(entry);
}

fn write(path: &Path, config: &Mapping) -> Result<()> {
    let text = serde_yaml_ng::to_string(config).context("kubeconfig")?;
    Ok(write_private(path, &text)?)
}

fn empty() -> Mapping {
    let mut config = Mapping::new();
    config.insert("apiVersion".into(), "v1".into());
    config.insert("kind".into(), "Config".into());
    config.insert("preferences".into(), Value::Mapping(Mapping::new()));
    config
}

/// Writes the cluster's own kubeconfig: a context per apiserver, the first one current.
pub fn write_own(layout: &Layout, admin: &TlsFiles) -> Result<PathBuf> {
    let path = layout.kubeconfig()?;
    let mut config = empty();
    for index in 0..usize::from(layout.apiservers) {
        for (list, entry) in entries(layout, admin, index)? {
            put(&mut config, list, entry);
        }
    }
    config.insert("current-context".into(), layout.cluster.clone().into());
    write(&path, &config)?;
    Ok(path)
}

fn user_path() -> Option<PathBuf> {
    if let Some(paths) = std::env::var_os("KUBECONFIG") {
        return std::env::split_paths(&paths).find(|path| !path.as_os_str().is_empty());
    }
    std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"))
}

/// Adds a context to the user's kubeconfig and makes it current, as kind does. Everything else in it stays. A file
/// that cannot be read as a kubeconfig is left alone, and the note says so.
pub fn merge_into_users(layout: &Layout, admin: &TlsFiles) -> Result<String> {
    let Some(path) = user_path() else { return Ok("no home folder: no context added".to_owned()) };
    if path == layout.kubeconfig()? {
        return Ok(format!("{}", path.display()));
    }
    let mut config = match fs::read_to_string(&path) {
        Ok(text) => match serde_yaml_ng::from_str::<Value>(&text) {
            Ok(Value::Mapping(config)) => config,
            Ok(Value::Null) => empty(),
            _ => return Ok(format!("{} is not a kubeconfig that can be read: left alone", path.display())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => empty(),
        Err(error) => return Ok(format!("{}: {error}: no context added", path.display())),
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    for (list, entry) in entries(layout, admin, 0)? {
        put(&mut config, list, entry);
    }
    config.insert("current-context".into(), layout.cluster.clone().into());
    write(&path, &config)?;
    Ok(format!("context {:?} in {}", layout.cluster, path.display()))
}

/// Takes the context out of the user's kubeconfig again.
pub fn remove_from_users(layout: &Layout) -> Result<()> {
    let Some(path) = user_path() else { return Ok(()) };
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    let Ok(Value::Mapping(mut config)) = serde_yaml_ng::from_str::<Value>(&text) else { return Ok(()) };
    let name = Value::from(layout.cluster.clone());
    let mut changed = false;
    for list in ["clusters", "users", "contexts"] {
        if let Some(sequence) = config.get_mut(list).and_then(Value::as_sequence_mut) {
            let before = sequence.len();
            sequence.retain(|entry| entry.get("name") != Some(&name));
            changed |= sequence.len() != before;
        }
    }
    if config.get("current-context") == Some(&name) {
        config.insert("current-context".into(), "".into());
        changed = true;
    }
    if changed { write(&path, &config) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_same_name_is_replaced_and_others_stay() {
        let mut config: Mapping =
            serde_yaml_ng::from_str("clusters: [{name: other, cluster: {server: a}}, {name: balsa, cluster: {server: old}}]").unwrap();
        put(&mut config, "clusters", serde_yaml_ng::from_str("{name: balsa, cluster: {server: new}}").unwrap());
        let text = serde_yaml_ng::to_string(&config).unwrap();
        assert!(text.contains("other") && text.contains("new") && !text.contains("old"), "{text}");
    }
}
