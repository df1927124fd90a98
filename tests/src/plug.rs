//! A disk whose plug can be pulled: what programs see is what they wrote; what a cut leaves is what they synced, and
//! any part of the rest.

mod tree;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tree::{Body, File, Folder, Refusal, Tree};

use crate::random::Random;

/// Nobody else changes anything, so the kernel may believe what it was told for as long as it likes.
const FOREVER: Duration = Duration::from_secs(3600);
/// How large it says it is, in blocks of this size; nothing fills it.
const BLOCKS: u64 = 1 << 18;
const BLOCK: u32 = 4096;

/// A folder that stands on such a disk, for as long as this lives. It takes root.
pub struct Disk {
    tree: Arc<Mutex<Tree>>,
    folder: PathBuf,
    session: Option<BackgroundSession>,
}

impl Disk {
    /// A new one, empty, at `folder`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let tree = Arc::new(Mutex::new(Tree::default()));
        let mut disk = Self { tree, folder: folder.to_owned(), session: None };
        disk.plug_in()?;
        Ok(disk)
    }

    /// Has it say from now on that it has synced, and not do so.
    pub fn lie(&self) {
        lock(&self.tree).lies = true;
    }

    /// Pulls the plug, when nobody uses it any more, and puts it back.
    ///
    /// # Errors
    /// Somebody does use it.
    pub fn pull(&mut self, random: &mut Random) -> Result<()> {
        // What the kernel holds of it goes with it.
        let session = self.session.take().context("it is mounted")?;
        session.umount_and_join().context("take the disk out")?;
        lock(&self.tree).cut(random);
        self.plug_in()
    }

    fn plug_in(&mut self) -> Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("plug".into()), MountOption::DefaultPermissions];
        let driver = Driver(Arc::clone(&self.tree));
        let session = fuser::spawn_mount(driver, &self.folder, &config);
        self.session =
            Some(session.context("mount a disk whose plug can be pulled; this needs root and /dev/fuse")?);
        Ok(())
    }
}

fn lock(tree: &Mutex<Tree>) -> MutexGuard<'_, Tree> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the kernel asks.
struct Driver(Arc<Mutex<Tree>>);

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Absent => Self::ENOENT,
            Refusal::Present => Self::EEXIST,
            Refusal::WrongKind => Self::EISDIR,
            Refusal::NotEmpty => Self::ENOTEMPTY,
            Refusal::AcrossFolders => Self::EXDEV,
        }
    }
}

/// What the kernel wants to know of a file or folder.
fn attributes(tree: &mut Tree, number: u64) -> Result<FileAttr, Refusal> {
    let node = tree.node(number)?;
    let (kind, size) = match &node.body {
        Body::File(file) => (FileType::RegularFile, bytes(file.now.len())),
        Body::Folder(_) => (FileType::Directory, 0),
        Body::Socket => (FileType::Socket, 0),
    };
    Ok(FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: node.changed,
        mtime: node.changed,
        ctime: node.changed,
        crtime: node.changed,
        kind,
        perm: node.mode,
        nlink: 1,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    })
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn place(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or_default()
}

impl Driver {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.0)
    }

    fn make(&self, parent: INodeNo, name: &OsStr, mode: u32, body: Body) -> Result<FileAttr, Refusal> {
        let mut tree = self.tree();
        let number = tree.make(parent.0, name, permissions(mode), body)?;
        attributes(&mut tree, number)
    }

    fn done(result: Result<(), Refusal>, reply: ReplyEmpty) {
        match result {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn entered(result: Result<FileAttr, Refusal>, reply: ReplyEntry) {
        match result {
            Ok(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            Err(refusal) => reply.error(refusal.into()),
        }
    }
}

impl Filesystem for Driver {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut tree = self.tree();
        let found = tree.find(parent.0, name).and_then(|number| attributes(&mut tree, number));
        Self::entered(found, reply);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(&mut self.tree(), number.0) {
            Ok(attributes) => reply.attr(&FOREVER, &attributes),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.tree();
        let mut set = || {
            if let Some(size) = size {
                tree.file(number.0)?.resize(place(size));
            }
            if let Some(mode) = mode {
                tree.node(number.0)?.mode = permissions(mode);
            }
            attributes(&mut tree, number.0)
        };
        match set() {
            Ok(attributes) => reply.attr(&FOREVER, &attributes),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.make(parent, name, mode & !umask, Body::Folder(Folder::default()));
        Self::entered(made, reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.make(parent, name, mode & !umask, Body::File(File::default())) {
            Ok(attributes) => {
                reply.created(&FOREVER, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
            }
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        if rustix::fs::FileType::from_raw_mode(mode) != rustix::fs::FileType::Socket {
            return reply.error(Errno::EPERM);
        }
        Self::entered(self.make(parent, name, mode & !umask, Body::Socket), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::done(self.tree().remove(parent.0, name), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::done(self.tree().remove(parent.0, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return reply.error(Errno::EINVAL);
        }
        let may_replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        let renamed = self.tree().rename((parent.0, name), (new_parent.0, new_name), may_replace);
        Self::done(renamed, reply);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.tree().file(number.0) {
            Ok(file) => {
                let start = place(offset).min(file.now.len());
                let end = place(offset.saturating_add(size.into())).min(file.now.len());
                reply.data(&file.now[start..end]);
            }
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut tree = self.tree();
        if let Ok(node) = tree.node(number.0) {
            node.changed = SystemTime::now();
        }
        match tree.file(number.0) {
            Ok(file) => {
                file.write(place(offset), data);
                reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
            }
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        Self::done(self.tree().sync(number.0), reply);
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        Self::done(self.tree().sync(number.0), reply);
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut tree = self.tree();
        let names = match tree.folder(number.0) {
            Ok(folder) => folder.now.clone(),
            Err(refusal) => return reply.error(refusal.into()),
        };
        for (next, (name, number)) in (1..).zip(names).skip(place(offset)) {
            let Ok(FileAttr { kind, .. }) = attributes(&mut tree, number) else { continue };
            if reply.add(INodeNo(number), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCK, 255, BLOCK);
    }
}
