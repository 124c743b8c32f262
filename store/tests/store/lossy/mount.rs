//! Lets processes use a [`Disk`], by FUSE. Nothing is cached by the kernel: every call reaches the disk.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::{Disk, Lost, Loss};

const NOT_CACHED: Duration = Duration::ZERO;
const HANDLE: FileHandle = FileHandle(0);

struct Served {
    disk: Arc<Mutex<Disk>>,
    /// How long a sync of a file takes.
    sync: Duration,
}

/// A mounted disk; unmounted when it is dropped.
pub struct Mounted {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    _session: BackgroundSession,
}

impl Mounted {
    /// Mounts a new one at an existing directory, or says why not. A sync of a file takes so long.
    pub fn at(path: &Path, sync: Duration) -> Result<Self, String> {
        std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|error| format!("/dev/fuse: {error}"))?;
        let disk = Arc::new(Mutex::new(Disk::default()));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("balsa-lossy".to_owned())];
        let session = fuser::spawn_mount(Served { disk: disk.clone(), sync }, path, &config);
        let session = session.map_err(|error| format!("a FUSE file system cannot be mounted: {error}"))?;
        Ok(Self { disk, path: path.to_owned(), _session: session })
    }

    /// The power fails; whoever used the disk must be gone.
    pub fn lose(&self, loss: Loss) -> Lost {
        self.disk.lock().unwrap().lose(loss)
    }

    /// How often something was synced.
    pub fn syncs(&self) -> usize {
        self.disk.lock().unwrap().syncs
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: somebody may still have a file open. The session ends with the mount.
        let _gone = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

impl Served {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap()
    }
}

fn attributes(disk: &Disk, inode: u64) -> Option<FileAttr> {
    let directory = disk.is_directory(inode)?;
    let size = disk.size(inode) as u64;
    Some(FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if directory { FileType::Directory } else { FileType::RegularFile },
        perm: if directory { 0o755 } else { 0o644 },
        nlink: disk.links(inode).max(1),
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

fn entry(disk: &Disk, inode: Option<u64>, reply: ReplyEntry) {
    match inode.and_then(|inode| attributes(disk, inode)) {
        Some(attributes) => reply.entry(&NOT_CACHED, &attributes, Generation(0)),
        None => reply.error(Errno::ENOENT),
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let disk = self.disk();
        entry(&disk, disk.find(parent.0, name), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(&self.disk(), ino.0) {
            Some(attributes) => reply.attr(&NOT_CACHED, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk();
        if let Some(size) = size {
            disk.resize(ino.0, position(size));
        }
        match attributes(&disk, ino.0) {
            Some(attributes) => reply.attr(&NOT_CACHED, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let mut disk = self.disk();
        let made = disk.make(parent.0, name, true);
        entry(&disk, Some(made), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.disk().unlink(parent.0, name);
        reply.ok();
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut disk = self.disk();
        match disk.find(parent.0, name) {
            Some(inode) if !disk.list(inode).is_empty() => reply.error(Errno::ENOTEMPTY),
            _ => {
                disk.unlink(parent.0, name);
                reply.ok();
            }
        }
    }

    fn rename(&self, _: &Request, from: INodeNo, name: &OsStr, to: INodeNo, new: &OsStr, flags: RenameFlags, reply: ReplyEmpty) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        if self.disk().rename(from.0, name, to.0, new) { reply.ok() } else { reply.error(Errno::ENOENT) }
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut disk = self.disk();
        if disk.find(parent.0, name).is_some() {
            return reply.error(Errno::EEXIST);
        }
        disk.link(ino.0, parent.0, name);
        entry(&disk, Some(ino.0), reply);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let mut disk = self.disk();
        let inode = disk.find(parent.0, name).unwrap_or_else(|| disk.make(parent.0, name, false));
        match attributes(&disk, inode) {
            Some(made) => reply.created(&NOT_CACHED, &made, Generation(0), HANDLE, FopenFlags::FOPEN_DIRECT_IO),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(HANDLE, FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(&self.disk().read(ino.0, position(offset), size as usize));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.disk().write(ino.0, position(offset), data);
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        std::thread::sleep(self.sync);
        self.disk().sync(ino.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.disk().sync_names(ino.0);
        reply.ok();
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        // A file system may do without.
        reply.error(Errno::EOPNOTSUPP);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let disk = self.disk();
        let dots = [".", ".."].map(|name| (name.into(), ino.0));
        for (number, (name, inode)) in dots.into_iter().chain(disk.list(ino.0)).enumerate().skip(position(offset)) {
            let directory = disk.is_directory(inode).unwrap_or_default();
            let kind = if directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(inode), number as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 24;
        reply.statfs(blocks, blocks, blocks, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}
