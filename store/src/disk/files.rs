//! The few things done to directories and small files beside the databases. Unit tests do them to the simulated disk.

#[cfg(not(test))]
pub use real::*;

#[cfg(test)]
pub use crate::sim::disk::files::*;

/// On the machine's own file system, also in unit tests.
#[cfg_attr(test, allow(dead_code, reason = "unit tests use the simulated disk for the rest"))]
pub mod real {
    use std::path::Path;
    use std::{fs, io};

    /// Makes a directory and those above it, durably: what is synced in a directory is lost with its name.
    pub fn make_dir(path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        parent.map_or(Ok(()), make_dir)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => parent.map_or(Ok(()), sync_dir),
        }
    }

    /// Whether something is there.
    pub fn exists(path: &Path) -> bool {
        path.exists()
    }

    /// Removes a directory and all in it.
    pub fn remove_dir(path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    /// Gives a directory another name; durable with [`sync_dir`].
    pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// The names in a directory.
    pub fn list(path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// A small file's content.
    pub fn read(path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    /// Makes renames, creations and removals in a directory durable.
    pub fn sync_dir(path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    /// Replaces a small file so that a crash leaves the old or the new content, never a mixture.
    pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
        let fresh = path.with_extension("new");
        {
            let mut file = fs::File::create(&fresh)?;
            io::Write::write_all(&mut file, content)?;
            file.sync_all()?;
        }
        fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), sync_dir)
    }
}
