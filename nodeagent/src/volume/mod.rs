//! A pod's volumes and the files that the agent itself gives to containers.
//!
//! Everything lies under the agent's state directory, at the same path here and on the engine's host:
//!
//! ```text
//! STATE/pods/UID/volumes/NAME/            emptyDir, and ..data of what is projected
//! STATE/pods/UID/etc/{hosts,resolv.conf}
//! STATE/pods/UID/containers/NAME/ATTEMPT  the termination message file
//! ```
//!
//! [`content`] says what is in projected volumes (pure), [`atomic`] writes it so that readers see all of it or
//! nothing, [`mount`] makes each kind of volume, [`subpath`] resolves paths inside volumes without being led out.

pub mod atomic;
pub mod content;
pub mod mount;
pub mod subpath;

use std::path::{Path, PathBuf};

/// Where the files of pods are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    state: PathBuf,
}

impl Layout {
    /// Below `state`.
    pub fn new(state: &Path) -> Self {
        Self { state: state.to_owned() }
    }

    /// Everything of one pod.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// All pods.
    pub fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    /// One volume.
    pub fn volume(&self, uid: &str, name: &str) -> PathBuf {
        self.pod(uid).join("volumes").join(name)
    }

    /// A file of the agent's: `hosts`, `resolv.conf`.
    pub fn etc(&self, uid: &str, name: &str) -> PathBuf {
        self.pod(uid).join("etc").join(name)
    }

    /// The termination message of one instance.
    pub fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid).join("containers").join(container).join(attempt.to_string())
    }
}
