//! A disk that forgets: what was written and not synced is gone, or partly gone, when the power fails. Pure; the shell
//! that lets real processes use it is [`mount`].
//!
//! It promises what POSIX promises and no more. `fsync` of a file keeps its content, not its name; `fsync` of a
//! directory keeps the names in it, not what is in the files. Changes of names that were not synced survive, if at
//! all, in the order in which they were made, as on a journalling file system; a rename survives whole or not at all.
//! Pages survive each by itself, whatever their order; where one is lost in what was appended, there are zeros.

pub mod mount;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

/// The root directory.
pub const ROOT: u64 = 1;
/// What is lost or kept as one, bytes.
const PAGE: usize = 4096;

/// How the power fails.
#[derive(Debug, Clone, Copy)]
pub enum Loss {
    /// Nothing survives that was not synced.
    Everything,
    /// Of pages any, of changes of names the first few; drawn by this number.
    Some(u64),
}

/// What was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    pub pages: usize,
    pub names: usize,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    directory: bool,
    /// As processes see it.
    now: Vec<u8>,
    /// As the last sync left it.
    kept: Vec<u8>,
    /// Pages of `now` that differ from `kept`, perhaps.
    dirty: BTreeSet<usize>,
    names: BTreeMap<OsString, u64>,
    kept_names: BTreeMap<OsString, u64>,
}

/// One change of names: in which directory, which name, and what it stands for now.
type Change = Vec<(u64, OsString, Option<u64>)>;

/// The disk.
#[derive(Debug)]
pub struct Disk {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    /// Changes of names that no sync has kept, oldest first.
    journal: Vec<Change>,
    /// How often a file or a directory was synced.
    pub syncs: usize,
}

impl Default for Disk {
    fn default() -> Self {
        let root = Inode { directory: true, ..Inode::default() };
        Self { inodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, journal: Vec::new(), syncs: 0 }
    }
}

fn pages(from: usize, to: usize) -> std::ops::Range<usize> {
    from / PAGE..to.div_ceil(PAGE)
}

impl Disk {
    pub fn find(&self, directory: u64, name: &OsStr) -> Option<u64> {
        self.inodes.get(&directory)?.names.get(name).copied()
    }

    pub fn is_directory(&self, inode: u64) -> Option<bool> {
        self.inodes.get(&inode).map(|inode| inode.directory)
    }

    pub fn size(&self, inode: u64) -> usize {
        self.inodes.get(&inode).map_or(0, |inode| inode.now.len())
    }

    /// How many names stand for it.
    pub fn links(&self, inode: u64) -> u32 {
        let names = self.inodes.values().flat_map(|directory| directory.names.values());
        u32::try_from(names.filter(|known| **known == inode).count()).unwrap_or(u32::MAX)
    }

    pub fn list(&self, directory: u64) -> Vec<(OsString, u64)> {
        let names = self.inodes.get(&directory).map(|inode| inode.names.clone()).unwrap_or_default();
        names.into_iter().collect()
    }

    fn change(&mut self, change: Change) {
        for (directory, name, target) in &change {
            if let Some(inode) = self.inodes.get_mut(directory) {
                match target {
                    Some(target) => inode.names.insert(name.clone(), *target),
                    None => inode.names.remove(name),
                };
            }
        }
        self.journal.push(change);
    }

    fn keep(&mut self, change: &Change) {
        for (directory, name, target) in change {
            if let Some(inode) = self.inodes.get_mut(directory) {
                match target {
                    Some(target) => inode.kept_names.insert(name.clone(), *target),
                    None => inode.kept_names.remove(name),
                };
            }
        }
    }

    /// A new file or directory.
    pub fn make(&mut self, directory: u64, name: &OsStr, is_directory: bool) -> u64 {
        let inode = self.next;
        self.next += 1;
        self.inodes.insert(inode, Inode { directory: is_directory, ..Inode::default() });
        self.link(inode, directory, name);
        inode
    }

    pub fn link(&mut self, inode: u64, directory: u64, name: &OsStr) {
        self.change(vec![(directory, name.to_owned(), Some(inode))]);
    }

    pub fn unlink(&mut self, directory: u64, name: &OsStr) {
        self.change(vec![(directory, name.to_owned(), None)]);
    }

    /// False if there is nothing of that name.
    pub fn rename(&mut self, from: u64, name: &OsStr, to: u64, new: &OsStr) -> bool {
        let Some(inode) = self.find(from, name) else { return false };
        self.change(vec![(from, name.to_owned(), None), (to, new.to_owned(), Some(inode))]);
        true
    }

    pub fn read(&self, inode: u64, at: usize, most: usize) -> Vec<u8> {
        let content = self.inodes.get(&inode).map(|inode| inode.now.as_slice()).unwrap_or_default();
        let end = content.len().min(at.saturating_add(most));
        content.get(at..end).unwrap_or_default().to_vec()
    }

    pub fn write(&mut self, inode: u64, at: usize, data: &[u8]) {
        let Some(inode) = self.inodes.get_mut(&inode) else { return };
        let end = at + data.len();
        if inode.now.len() < end {
            inode.dirty.extend(pages(inode.now.len(), end));
            inode.now.resize(end, 0);
        }
        inode.now[at..end].copy_from_slice(data);
        inode.dirty.extend(pages(at, end));
    }

    pub fn resize(&mut self, inode: u64, size: usize) {
        let Some(inode) = self.inodes.get_mut(&inode) else { return };
        let (small, large) = (size.min(inode.now.len()), size.max(inode.now.len()).max(inode.kept.len()));
        inode.dirty.extend(pages(small, large));
        inode.now.resize(size, 0);
    }

    /// Keeps a file's content.
    pub fn sync(&mut self, inode: u64) {
        self.syncs += 1;
        let Some(inode) = self.inodes.get_mut(&inode) else { return };
        inode.kept.resize(inode.now.len(), 0);
        for page in std::mem::take(&mut inode.dirty) {
            let end = inode.now.len().min((page + 1) * PAGE);
            if page * PAGE < end {
                inode.kept[page * PAGE..end].copy_from_slice(&inode.now[page * PAGE..end]);
            }
        }
    }

    /// Keeps a directory's names.
    pub fn sync_names(&mut self, directory: u64) {
        self.syncs += 1;
        let touches = |change: &Change| change.iter().any(|(changed, ..)| *changed == directory);
        let (kept, left) = std::mem::take(&mut self.journal).into_iter().partition(touches);
        self.journal = left;
        let kept: Vec<Change> = kept;
        kept.iter().for_each(|change| self.keep(change));
    }

    /// The power fails. No process may have a file open.
    pub fn lose(&mut self, loss: Loss) -> Lost {
        let mut drawn = match loss {
            Loss::Everything => None,
            Loss::Some(seed) => Some(seed.wrapping_mul(2).wrapping_add(1)),
        };
        let mut below = |limit: usize| -> usize {
            let Some(state) = &mut drawn else { return 0 };
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(*state >> 33).unwrap_or(0) % limit
        };
        let journal = std::mem::take(&mut self.journal);
        let survive = below(journal.len() + 1);
        journal[..survive].iter().for_each(|change| self.keep(change));
        let mut lost = Lost { pages: 0, names: journal.len() - survive };
        for inode in self.inodes.values_mut() {
            inode.names = inode.kept_names.clone();
            for page in std::mem::take(&mut inode.dirty) {
                let end = inode.now.len().min((page + 1) * PAGE);
                if below(2) == 0 || page * PAGE >= end {
                    lost.pages += 1;
                    continue;
                }
                if inode.kept.len() < end {
                    inode.kept.resize(end, 0);
                }
                inode.kept[page * PAGE..end].copy_from_slice(&inode.now[page * PAGE..end]);
            }
            inode.now = inode.kept.clone();
        }
        self.forget_the_nameless();
        lost
    }

    fn forget_the_nameless(&mut self) {
        let (mut known, mut open) = (BTreeSet::from([ROOT]), vec![ROOT]);
        while let Some(directory) = open.pop() {
            let names = self.inodes.get(&directory).map(|inode| inode.names.values().copied().collect::<Vec<_>>());
            open.extend(names.unwrap_or_default().into_iter().filter(|inode| known.insert(*inode)));
        }
        self.inodes.retain(|inode, _| known.contains(inode));
    }
}

#[test]
fn only_what_was_synced_survives_names_and_contents_apart() {
    let (mut disk, name) = (Disk::default(), OsStr::new);
    let file = disk.make(ROOT, name("a"), false);
    disk.write(file, 0, &[1; 5000]);
    disk.sync(file);
    assert_eq!(disk.lose(Loss::Everything), Lost { pages: 0, names: 1 });
    assert_eq!(disk.find(ROOT, name("a")), None, "its name was not synced");
    let file = disk.make(ROOT, name("a"), false);
    disk.sync_names(ROOT);
    disk.write(file, 0, &[1; 5000]);
    disk.lose(Loss::Everything);
    assert!(disk.read(file, 0, 9999).is_empty(), "its content was not synced");
    disk.write(file, 0, &[1; 5000]);
    disk.sync(file);
    disk.write(file, 5000, &[2; 5000]);
    disk.resize(file, 4000);
    assert_eq!(disk.size(file), 4000);
    assert!(disk.rename(ROOT, name("a"), ROOT, name("b")));
    disk.lose(Loss::Everything);
    assert_eq!((disk.find(ROOT, name("a")), disk.find(ROOT, name("b"))), (Some(file), None));
    assert_eq!(disk.read(file, 0, 9999), [1; 5000]);
}

#[test]
fn of_what_was_not_synced_any_pages_and_the_first_names_survive() {
    let (mut holes, mut names) = (0, BTreeSet::new());
    for seed in 0..200 {
        let mut disk = Disk::default();
        let file = disk.make(ROOT, OsStr::new("a"), false);
        disk.sync_names(ROOT);
        disk.write(file, 0, &[7; 5 * PAGE]);
        assert!(disk.rename(ROOT, OsStr::new("a"), ROOT, OsStr::new("b")));
        disk.link(file, ROOT, OsStr::new("c"));
        disk.lose(Loss::Some(seed));
        let content = disk.read(file, 0, usize::MAX);
        assert_eq!(content.len() % PAGE, 0);
        holes += usize::from(content.chunks(PAGE).any(|page| page[0] == 0));
        names.insert(disk.list(ROOT).into_iter().map(|(name, _)| name.into_string().unwrap()).collect::<String>());
    }
    assert!(holes > 20, "{holes}");
    assert_eq!(names, ["a", "b", "bc"].map(str::to_owned).into());
}
