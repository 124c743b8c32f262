//! As much of RocksDB's interface as the store uses, over sorted maps in memory that know what is durable.
//!
//! Every write leaves a version of the whole content behind until the next sync or flush; a crash goes back to the
//! last durable one or to any version after it, as the seed says (a database may have written more than it was asked
//! to). A write that is to be synced goes to a log of records ([`wal`]) and is durable when the disk says so; a crash
//! before that tears it.

use std::marker::PhantomData;
use std::ops::{Bound, Deref};
use std::path::Path;
use std::sync::Arc;

use imbl::OrdMap;
use parking_lot::Mutex;
pub use rocksdb::{Cache, Options};

use super::wal::{self, Op};
use super::disk;

type Bytes = Arc<[u8]>;

/// Why something cannot be done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// The content of a database: a map for each family, the default one first.
#[derive(Clone, Default)]
pub struct Content(Vec<OrdMap<Bytes, Bytes>>);

impl Content {
    fn take(&mut self, op: Op) {
        let family = match op {
            Op::Put(family, ..) | Op::Delete(family, _) | Op::DeleteRange(family, ..) => self.0.get_mut(family),
        };
        let Some(map) = family else { return };
        match op {
            Op::Put(_, key, value) => drop(map.insert(key, value)),
            Op::Delete(_, key) => drop(map.remove(&key)),
            Op::DeleteRange(_, from, to) => {
                let range = (Bound::Included(from.as_ref()), Bound::Excluded(to.as_ref()));
                let doomed: Vec<Bytes> = map.range::<_, [u8]>(range).map(|(key, _)| key.clone()).collect();
                for key in doomed {
                    map.remove(&key);
                }
            }
        }
    }
}

/// A database's place on the simulated disk.
#[derive(Default)]
pub struct Base {
    live: Content,
    durable: Content,
    since: Vec<Content>,
    /// Records whose sync has not ended.
    unsynced: Vec<u8>,
    names: Vec<String>,
}

impl Base {
    pub fn holding(names: Vec<String>, content: Content) -> Self {
        Self { live: content.clone(), durable: content, since: Vec::new(), unsynced: Vec::new(), names }
    }

    fn all_is_durable(&mut self) {
        self.durable = self.live.clone();
        self.since.clear();
        self.unsynced.clear();
    }

    pub fn content(&self) -> (Vec<String>, Content) {
        (self.names.clone(), self.live.clone())
    }

    /// After a crash: what was durable, or one of the versions since, and what is whole of the records that were being
    /// synced; `below` chooses a number.
    pub fn after_crash(&self, mut below: impl FnMut(u64) -> u64) -> Self {
        let at = if self.since.is_empty() { 0 } else { below(self.since.len() as u64 + 1) as usize };
        let mut content = if at == 0 { self.durable.clone() } else { self.since[at - 1].clone() };
        if !self.unsynced.is_empty() {
            wal::replay(&wal::torn(self.unsynced.clone(), below)).into_iter().for_each(|op| content.take(op));
        }
        Self::holding(self.names.clone(), content)
    }
}

pub struct ColumnFamilyDescriptor(String);

impl ColumnFamilyDescriptor {
    pub fn new(name: impl Into<String>, _: Options) -> Self {
        Self(name.into())
    }
}

#[derive(Clone, Copy)]
pub struct ColumnFamily(usize);

pub struct DB {
    base: Arc<Mutex<Base>>,
    families: Vec<(String, ColumnFamily)>,
}

impl DB {
    pub fn open_cf_descriptors(
        _: &Options,
        path: impl AsRef<Path>,
        families: impl IntoIterator<Item = ColumnFamilyDescriptor>,
    ) -> Result<Self, Error> {
        let base = disk::database(path.as_ref());
        let mut names = vec!["default".to_owned()];
        names.extend(families.into_iter().map(|family| family.0));
        {
            let mut base = base.lock();
            for name in names {
                if !base.names.contains(&name) {
                    base.names.push(name);
                }
            }
            let count = base.names.len();
            base.live.0.resize_with(count, OrdMap::new);
            base.durable.0.resize_with(count, OrdMap::new);
        }
        let families = base.lock().names.iter().enumerate().map(|(at, name)| (name.clone(), ColumnFamily(at))).collect();
        Ok(Self { base, families })
    }

    pub fn cf_handle(&self, name: &str) -> Option<&ColumnFamily> {
        self.families.iter().find(|(known, _)| known == name).map(|(_, family)| family)
    }

    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.get_cf(&ColumnFamily(0), key)
    }

    pub fn get_cf(&self, family: &ColumnFamily, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.base.lock().live.0[family.0].get(key.as_ref()).map(|value| value.to_vec()))
    }

    pub fn get_pinned_cf_opt(
        &self,
        family: &ColumnFamily,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Option<DBPinnableSlice<'_>>, Error> {
        let content = self.content(options);
        Ok(content.0[family.0].get(key.as_ref()).map(|value| DBPinnableSlice(value.clone(), PhantomData)))
    }

    fn content(&self, options: &ReadOptions) -> Content {
        options.snapshot.clone().unwrap_or_else(|| self.base.lock().live.clone())
    }

    pub fn raw_iterator_cf(&self, family: &ColumnFamily) -> DBRawIterator<'_> {
        self.raw_iterator_cf_opt(family, ReadOptions::default())
    }

    pub fn raw_iterator_cf_opt(&self, family: &ColumnFamily, options: ReadOptions) -> DBRawIterator<'_> {
        let map = self.content(&options).0[family.0].clone();
        DBRawIterator { map, upper: options.upper, at: None, lives: PhantomData }
    }

    pub fn snapshot(&self) -> SnapshotWithThreadMode<'_, Self> {
        SnapshotWithThreadMode { content: self.base.lock().live.clone(), lives: PhantomData }
    }

    pub fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        self.write_opt(batch, &WriteOptions::default())
    }

    pub fn write_opt(&self, batch: WriteBatch, options: &WriteOptions) -> Result<(), Error> {
        let mut base = self.base.lock();
        if options.sync {
            base.unsynced.extend(wal::record(&batch.0));
        }
        batch.0.into_iter().for_each(|op| base.live.take(op));
        if !options.sync {
            let version = base.live.clone();
            base.since.push(version);
        }
        Ok(())
    }

    /// The sync of what was written has ended.
    pub fn synced(&self) {
        self.base.lock().all_is_durable();
    }

    pub fn flush_cfs_opt(&self, _: &[&ColumnFamily], _: &FlushOptions) -> Result<(), Error> {
        self.base.lock().all_is_durable();
        Ok(())
    }

    pub fn property_int_value_cf(&self, _: &ColumnFamily, _: &str) -> Result<Option<u64>, Error> {
        Ok(Some(0))
    }

    pub fn compact_range_cf(&self, _: &ColumnFamily, _: Option<&[u8]>, _: Option<&[u8]>) {}
}

#[derive(Default)]
pub struct ReadOptions {
    snapshot: Option<Content>,
    upper: Option<Vec<u8>>,
}

impl ReadOptions {
    pub fn set_snapshot(&mut self, snapshot: &SnapshotWithThreadMode<'_, DB>) {
        self.snapshot = Some(snapshot.content.clone());
    }

    pub fn set_iterate_upper_bound(&mut self, upper: impl Into<Vec<u8>>) {
        self.upper = Some(upper.into());
    }
}

#[derive(Default)]
pub struct WriteOptions {
    sync: bool,
}

impl WriteOptions {
    pub fn disable_wal(&mut self, _: bool) {}

    pub fn set_sync(&mut self, sync: bool) {
        self.sync = sync;
    }
}

#[derive(Default)]
pub struct FlushOptions;

impl FlushOptions {
    pub fn set_wait(&mut self, _: bool) {}
}

#[derive(Default)]
pub struct WriteBatch(Vec<Op>);

impl WriteBatch {
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.put_cf(&ColumnFamily(0), key, value);
    }

    pub fn put_cf(&mut self, family: &ColumnFamily, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.0.push(Op::Put(family.0, key.as_ref().into(), value.as_ref().into()));
    }

    pub fn delete_cf(&mut self, family: &ColumnFamily, key: impl AsRef<[u8]>) {
        self.0.push(Op::Delete(family.0, key.as_ref().into()));
    }

    pub fn delete_range_cf(&mut self, family: &ColumnFamily, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) {
        self.0.push(Op::DeleteRange(family.0, from.as_ref().into(), to.as_ref().into()));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

pub struct DBPinnableSlice<'a>(Bytes, PhantomData<&'a DB>);

impl Deref for DBPinnableSlice<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

pub struct SnapshotWithThreadMode<'a, D> {
    content: Content,
    lives: PhantomData<&'a D>,
}

pub struct DBRawIterator<'a> {
    map: OrdMap<Bytes, Bytes>,
    upper: Option<Vec<u8>>,
    at: Option<(Bytes, Bytes)>,
    lives: PhantomData<&'a DB>,
}

impl DBRawIterator<'_> {
    fn go(&mut self, from: Bound<&[u8]>) {
        let upper = self.upper.as_deref();
        let found = self.map.range::<_, [u8]>((from, Bound::Unbounded)).next();
        let found = found.filter(|(key, _)| upper.is_none_or(|upper| key.as_ref() < upper));
        self.at = found.map(|(key, value)| (key.clone(), value.clone()));
    }

    pub fn seek(&mut self, key: impl AsRef<[u8]>) {
        self.go(Bound::Included(key.as_ref()));
    }

    pub fn seek_to_first(&mut self) {
        self.go(Bound::Unbounded);
    }

    pub fn seek_to_last(&mut self) {
        let to = self.upper.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let last = self.map.range::<_, [u8]>((Bound::Unbounded, to)).next_back();
        self.at = last.map(|(key, value)| (key.clone(), value.clone()));
    }

    pub fn next(&mut self) {
        if let Some((key, _)) = self.at.take() {
            self.go(Bound::Excluded(key.as_ref()));
        }
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.at.as_ref().map(|(key, _)| key.as_ref())
    }

    pub fn value(&self) -> Option<&[u8]> {
        self.at.as_ref().map(|(_, value)| value.as_ref())
    }

    pub fn valid(&self) -> bool {
        self.at.is_some()
    }

    pub fn status(&self) -> Result<(), Error> {
        Ok(())
    }
}

pub mod checkpoint {
    use super::{DB, Error, Path, disk};

    pub struct Checkpoint<'a>(&'a DB);

    impl<'a> Checkpoint<'a> {
        pub fn new(db: &'a DB) -> Result<Self, Error> {
            Ok(Self(db))
        }

        pub fn create_checkpoint(&self, path: impl AsRef<Path>) -> Result<(), Error> {
            let (names, content) = self.0.base.lock().content();
            disk::put_database(path.as_ref(), names, content);
            Ok(())
        }
    }
}
