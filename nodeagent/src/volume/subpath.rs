//! A path inside a volume, resolved so that no link in it leads out.
//!
//! Containers write into volumes, so every link there is an outsider's word: the kernel resolves it with the volume
//! as root, and what comes back is the real path of what was opened.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The real path of `below` in `root`. Missing directories are made, with the permissions of `root`.
pub fn resolve(root: &Path, below: &str) -> std::io::Result<PathBuf> {
    let top = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let inside = |path: &Path| -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(top.as_fd(), path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&top)?.st_mode & 0o7777);
    let mut done = PathBuf::new();
    let mut last: Option<OwnedFd> = None;
    for part in Path::new(below).components() {
        if !matches!(part, std::path::Component::Normal(_)) {
            let text = format!("unacceptable path {below}: it has to be relative and without '..'");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
        }
        done.push(part);
        last = Some(match inside(&done) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => {
                let parent = last.as_ref().map_or(top.as_fd(), |parent| parent.as_fd());
                rustix::fs::mkdirat(parent, part.as_os_str(), mode)?;
                let made = inside(&done)?;
                // The process's mask may have taken bits away.
                let own = format!("/proc/self/fd/{}", made.as_raw_fd());
                rustix::fs::chmod(own.as_str(), mode)?;
                made
            }
            Err(error) => return Err(error.into()),
        });
    }
    let found = last.as_ref().map_or(top.as_fd(), |found| found.as_fd());
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap().join("volume");
        std::fs::create_dir_all(root.join("real")).unwrap();
        symlink("/etc", root.join("out")).unwrap();
        symlink("real", root.join("in")).unwrap();
        assert_eq!(resolve(&root, "in/new").unwrap(), root.join("real/new"));
        assert!(root.join("real/new").is_dir());
        assert!(resolve(&root, "../x").is_err());
        // An absolute link is followed below the volume, where there is no such thing.
        let led = resolve(&root, "out/passwd");
        assert!(led.is_err() || led.unwrap().starts_with(&root));
        assert_eq!(resolve(&root, "").unwrap(), root);
    }
}
