//! The simulated disks of all replicas: what is under which path, how long a write takes, what a crash leaves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::engine::{Base, Content};
use super::{node, world};

enum Entry {
    File(String),
    Database(Arc<Mutex<Base>>),
}

thread_local! {
    static DISKS: RefCell<BTreeMap<PathBuf, Entry>> = const { RefCell::new(BTreeMap::new()) };
}

fn with<R>(work: impl FnOnce(&mut BTreeMap<PathBuf, Entry>) -> R) -> R {
    DISKS.with(|disks| work(&mut disks.borrow_mut()))
}

/// New disks for everybody.
pub fn wipe() {
    let old = with(std::mem::take);
    drop(old);
}

/// The database at a path, empty if there is none.
pub fn database(path: &Path) -> Arc<Mutex<Base>> {
    with(|disks| {
        let entry = disks.entry(path.to_owned()).or_insert_with(|| Entry::Database(Arc::default()));
        match entry {
            Entry::Database(base) => base.clone(),
            Entry::File(_) => panic!("{} is a file", path.display()),
        }
    })
}

/// Puts a database there, durable.
pub fn put_database(path: &Path, names: Vec<String>, content: Content) {
    let base = Arc::new(Mutex::new(Base::holding(names, content)));
    let old = with(|disks| disks.insert(path.to_owned(), Entry::Database(base)));
    drop(old);
}

/// The content of a database that is being copied somewhere else.
pub fn content(path: &Path) -> Option<(Vec<String>, Content)> {
    with(|disks| match disks.get(path) {
        Some(Entry::Database(base)) => Some(base.lock().content()),
        _ => None,
    })
}

/// What is under `root` after a crash there. Whoever still holds a database from before writes to nowhere.
pub fn crash(root: &Path) {
    let under: Vec<PathBuf> = with(|disks| disks.keys().filter(|path| path.starts_with(root)).cloned().collect());
    for path in under {
        let old = with(|disks| match disks.get(&path) {
            Some(Entry::Database(base)) => {
                let after = base.lock().after_crash(world::below);
                disks.insert(path.clone(), Entry::Database(Arc::new(Mutex::new(after))))
            }
            _ => None,
        });
        drop(old);
    }
}

/// Time that passes before a write.
pub async fn seek() {
    wait(2).await;
}

/// Time that passes between a write and the knowledge that it is durable.
pub async fn sync() {
    // Every disk hangs now and then.
    wait(if world::chance(3) { 1_500 } else { 3 }).await;
}

async fn wait(usual: u64) {
    let slow = node::current().map_or(0, |node| world::slow_disk(node.number));
    let most = usual.max(slow);
    let millis = world::below(most + 1);
    if millis > 0 {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

/// What [`crate::disk::files`] does here. Durable at once: each is one step that is synced before anybody relies on it.
pub mod files {
    use std::io;
    use std::path::{Path, PathBuf};

    use super::{Entry, with};

    pub fn make_dir(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub fn exists(path: &Path) -> bool {
        with(|disks| disks.keys().any(|known| known.starts_with(path)))
    }

    pub fn remove_dir(path: &Path) -> io::Result<()> {
        let mut removed = Vec::new();
        with(|disks| {
            let doomed: Vec<PathBuf> = disks.keys().filter(|known| known.starts_with(path)).cloned().collect();
            removed.extend(doomed.iter().filter_map(|path| disks.remove(path)));
        });
        Ok(())
    }

    pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
        with(|disks| {
            let Some(entry) = disks.remove(from) else { return Err(io::ErrorKind::NotFound.into()) };
            disks.insert(to.to_owned(), entry);
            Ok(())
        })
    }

    pub fn list(path: &Path) -> io::Result<Vec<String>> {
        let names = with(|disks| {
            let inside = disks.keys().filter_map(|known| known.strip_prefix(path).ok()?.iter().next());
            inside.map(|name| name.to_string_lossy().into_owned()).collect::<std::collections::BTreeSet<_>>()
        });
        Ok(names.into_iter().collect())
    }

    pub fn read(path: &Path) -> io::Result<String> {
        with(|disks| match disks.get(path) {
            Some(Entry::File(text)) => Ok(text.clone()),
            _ => Err(io::ErrorKind::NotFound.into()),
        })
    }

    pub fn sync_dir(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(content).into_owned();
        let _old = with(|disks| disks.insert(path.to_owned(), Entry::File(text)));
        Ok(())
    }
}
