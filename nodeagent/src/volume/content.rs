//! What is in a configMap, secret, downwardAPI or projected volume.
//!
//! Pure: objects in, files out. Tokens are asked for before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use crate::env::fields::{self, Surroundings};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Who owns it; root where `None`.
    pub owner: Option<u32>,
}

/// Files by path below the volume.
pub type Files = BTreeMap<String, File>;

/// Permission bits of the spec.
pub fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(0o644)).unwrap_or(0o644) & 0o7777
}

/// Data of a ConfigMap, binary data merged in.
pub fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

/// Data of a Secret.
pub fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

/// Keys as files: all of them, or those that `items` name. `what` is `config` or `secret`, for the error.
pub fn keys(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
    what: &str,
) -> Result<Files, String> {
    let file = |data: &[u8], mode| File { data: data.to_vec(), mode, owner: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.iter().map(|(key, data)| (key.clone(), file(data, mode(None, default_mode)))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => {
                files.insert(safe(&item.path)?, file(data, mode(item.mode, default_mode)));
            }
            None if optional => {}
            None => return Err(format!("references non-existent {what} key: {}", item.key)),
        }
    }
    Ok(files)
}

/// Fields of the pod as files.
pub fn downward(
    pod: &Pod,
    around: &Surroundings,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(pod, around, &field.field_path)?,
            (None, Some(resource)) => fields::resource(pod, None, around, resource)?,
            (None, None) => return Err(format!("file {} names neither a field nor a resource", item.path)),
        };
        let file = File { data: text.into_bytes(), mode: mode(item.mode, default_mode), owner: None };
        files.insert(safe(&item.path)?, file);
    }
    Ok(files)
}

/// A token as a file. Whoever all containers run as owns it; a group must be able to read it where there is an
/// fsGroup; else everybody.
pub fn token(token: &str, owner: Option<i64>, fs_group: Option<i64>, default_mode: Option<i32>) -> File {
    let owner = owner.and_then(|owner| u32::try_from(owner).ok());
    let mode = match (owner, fs_group) {
        (Some(_), _) | (None, Some(_)) => 0o600,
        (None, None) => mode(None, default_mode),
    };
    File { data: token.as_bytes().to_vec(), mode, owner: owner.filter(|_| fs_group.is_none()) }
}

/// A relative path that does not lead out. The API server has checked it; a second look costs nothing.
pub fn safe(path: &str) -> Result<String, String> {
    let leads_out = path.starts_with('/') || path.split('/').any(|part| part == ".." || part.is_empty());
    if leads_out || path.starts_with("..") { Err(format!("invalid path: {path}")) } else { Ok(path.to_owned()) }
}

/// Widens permissions for a volume's group: everything that is there must be readable by it.
pub fn for_group(files: &mut Files) {
    for file in files.values_mut() {
        file.mode |= 0o440;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_items() {
        let data = [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())].into();
        let all = keys(&data, None, Some(0o400), false, "config").unwrap();
        assert_eq!(all.iter().map(|(path, file)| format!("{path}:{:o}", file.mode)).collect::<Vec<_>>(), ["a:400", "b:400"]);
        let item = |key: &str, path: &str| KeyToPath { key: key.to_owned(), path: path.to_owned(), mode: None };
        let some = keys(&data, Some(&[item("b", "dir/x")]), None, false, "config").unwrap();
        assert_eq!(some["dir/x"].mode, 0o644);
        let missing = keys(&data, Some(&[item("z", "z")]), None, false, "config");
        assert_eq!(missing.unwrap_err(), "references non-existent config key: z");
        assert!(keys(&data, Some(&[item("z", "z")]), None, true, "secret").unwrap().is_empty());
        assert!(keys(&data, Some(&[item("a", "../z")]), None, true, "secret").is_err());
    }
}
