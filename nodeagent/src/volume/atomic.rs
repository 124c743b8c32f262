//! Writes a set of files so that a reader sees the old set or the new one, never a mixture.
//!
//! The files lie in a directory of their own; `..data` is a link to it that is replaced in one step, and what
//! containers open are links through `..data`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use super::content::Files;

const DATA: &str = "..data";

/// Makes `directory` hold `files` and nothing else; whether anything had to change. `group` owns all of it.
pub fn write(directory: &Path, files: &Files, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    fs::create_dir_all(directory)?;
    set_mode(directory, if group.is_some() { 0o2777 } else { 0o777 })?;
    chown(directory, None, group)?;
    if is_same(directory, files) {
        return Ok(false);
    }
    let old = fs::read_link(directory.join(DATA)).ok();
    let fresh = (0..1000)
        .map(|number| format!("..{stamp}.{number}"))
        .find(|name| !directory.join(name).exists())
        .ok_or_else(|| io::Error::new(io::ErrorKind::AlreadyExists, "no free name for a new version"))?;
    let root = directory.join(&fresh);
    fs::create_dir(&root)?;
    set_mode(&root, 0o755)?;
    chown(&root, None, group)?;
    for (path, file) in files {
        let target = root.join(path);
        let mut parent = root.clone();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent = parent.join(part);
            if !parent.exists() {
                fs::create_dir(&parent)?;
                set_mode(&parent, 0o755)?;
                chown(&parent, None, group)?;
            }
        }
        fs::write(&target, &file.data)?;
        chown(&target, file.owner, group)?;
        set_mode(&target, file.mode)?;
    }
    let next = directory.join("..data_tmp");
    let _ = fs::remove_file(&next);
    symlink(&fresh, &next)?;
    fs::rename(&next, directory.join(DATA))?;
    link_all(directory, files)?;
    if let Some(old) = old.filter(|old| old.as_path() != Path::new(&fresh)) {
        fs::remove_dir_all(directory.join(old))?;
    }
    Ok(true)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn tops(files: &Files) -> BTreeSet<&str> {
    files.keys().filter_map(|path| path.split('/').next()).collect()
}

fn link_all(directory: &Path, files: &Files) -> io::Result<()> {
    let wanted = tops(files);
    for name in &wanted {
        let link = directory.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_same(directory: &Path, files: &Files) -> bool {
    let data = directory.join(DATA);
    let Ok(present) = list(&data, "") else { return false };
    present.len() == files.len()
        && present.iter().all(|path| files.contains_key(path))
        && files.iter().all(|(path, file)| {
            let target = data.join(path);
            let same_mode = target.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o7777 == file.mode);
            same_mode && fs::read(&target).is_ok_and(|data| data == file.data)
        })
        && tops(files).iter().all(|name| directory.join(name).symlink_metadata().is_ok())
}

fn list(root: &Path, below: &str) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type()?.is_dir() {
            out.extend(list(root, &path)?);
        } else {
            out.push(path);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::content::File;
    use super::*;

    fn files(list: &[(&str, &str, u32)]) -> Files {
        let file = |data: &str, mode| File { data: data.as_bytes().to_vec(), mode, owner: None };
        list.iter().map(|(path, data, mode)| ((*path).to_owned(), file(data, *mode))).collect()
    }

    #[test]
    fn a_version_replaces_the_other_in_one_step() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("v");
        assert!(write(&root, &files(&[("a", "1", 0o644), ("d/e/b", "2", 0o400)]), None, "one").unwrap());
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("d/e/b")).unwrap(), "2");
        assert_eq!(fs::read_link(root.join("d")).unwrap(), Path::new("..data/d"));
        let version = fs::read_link(root.join("..data")).unwrap();

        assert!(!write(&root, &files(&[("a", "1", 0o644), ("d/e/b", "2", 0o400)]), None, "one").unwrap());
        assert!(write(&root, &files(&[("a", "3", 0o644)]), None, "one").unwrap());
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "3");
        assert!(root.join("d").symlink_metadata().is_err(), "what is gone is gone");
        assert!(!root.join(version).exists(), "the old version is removed");
        assert!(write(&root, &Files::new(), None, "one").unwrap(), "an optional source that vanished");
        assert!(root.join("a").symlink_metadata().is_err());
    }
}
