//! What is known of each attached sandbox, in a file of its own, so that a new agent knows it too.
//!
//! A record without addresses says that plugins were asked but nobody heard their answer: they have to be asked to
//! clean up before anything else.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::runtime::docker::names;
use crate::runtime::{HostPort, PodRef};

/// Whose a sandbox is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
}

impl From<&PodRef> for PodName {
    fn from(pod: &PodRef) -> Self {
        Self { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
    }
}

/// What is known of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The engine's identifier of the sandbox.
    pub id: String,
    /// Whose.
    pub pod: PodName,
    /// Its addresses; empty until the plugins have answered.
    pub ips: Vec<IpAddr>,
    /// Its forwards, as in [`names::encode_ports`].
    pub host_ports: String,
}

impl Record {
    /// Its forwards.
    pub fn ports(&self) -> Vec<HostPort> {
        names::decode_ports(&self.host_ports)
    }
}

/// All records of a node.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
    all: Mutex<BTreeMap<String, Record>>,
}

impl Records {
    /// Reads what is there. A file that is no record is left alone and named in the log.
    pub fn open(dir: PathBuf) -> Self {
        let mut all = BTreeMap::new();
        for path in std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let record = std::fs::read(&path).map_err(|error| error.to_string());
            match record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).map_err(|error| error.to_string())) {
                Ok(record) => drop(all.insert(record.id.clone(), record)),
                Err(error) => tracing::warn!(path = %path.display(), error, "not a sandbox's record"),
            }
        }
        Self { dir, all: Mutex::new(all) }
    }

    /// A sandbox's record.
    pub fn get(&self, id: &str) -> Option<Record> {
        self.all.lock().get(id).cloned()
    }

    /// All of them, by sandbox.
    pub fn all(&self) -> BTreeMap<String, Record> {
        self.all.lock().clone()
    }

    /// Writes, then remembers.
    pub fn put(&self, record: Record) -> Result<(), String> {
        let bytes = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
        write_atomically(&self.file(&record.id), &bytes)?;
        self.all.lock().insert(record.id.clone(), record);
        Ok(())
    }

    /// Forgets; one that is not there is forgotten.
    pub fn remove(&self, id: &str) -> Result<(), String> {
        match std::fs::remove_file(self.file(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", self.file(id).display()));
            }
            _ => {}
        }
        self.all.lock().remove(id);
        Ok(())
    }

    fn file(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

/// Writes a file so that a reader, or a crash, finds the old or the new one, whole.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(path.parent().unwrap_or_else(|| Path::new(".")))?;
        let next = path.with_extension("next");
        let mut file = std::fs::File::create(&next)?;
        file.write_all(bytes)?;
        std::fs::rename(&next, path)
    };
    write().map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_agent_reads_what_the_old_one_wrote() {
        let dir = tempfile::tempdir().expect("temp dir");
        let open = || Records::open(dir.path().join("sandboxes"));
        let record = Record {
            id: "a".into(),
            pod: PodName { namespace: "ns".into(), name: "p".into(), uid: "u".into() },
            ips: vec!["10.0.0.2".parse().expect("an address")],
            host_ports: "*/8080/80/TCP".into(),
        };
        open().put(record.clone()).expect("written");
        std::fs::write(dir.path().join("sandboxes/broken.json"), "{").expect("written");
        let again = open();
        assert_eq!(again.get("a"), Some(record.clone()));
        assert_eq!(record.ports().len(), 1);
        again.remove("a").expect("removed");
        again.remove("a").expect("removed twice");
        assert!(open().all().is_empty());
    }
}
