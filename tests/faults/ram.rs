//! A file system in memory, mounted by FUSE, that fails as it is told: the n-th write, sync, read or open, with any error;
//! or loses its power, and with it whatever was not synced.
//!
//! Each file has the bytes that programs see and those that are durable; writes in between may reach the durable ones,
//! sector by sector, in whole, in half or not at all. Names are a journal: of what was not synced by their directory's
//! sync a beginning of any length survives. Direct I/O is honoured, nothing is kept in the kernel's page cache, and a
//! write through a descriptor opened with O_DSYNC is durable when it is answered.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use loadgen::rng::Rng;
use tempfile::TempDir;

use crate::SKIPPED;
use crate::stage::Told;

const SECTOR_BYTES: usize = 4096;
/// What programs may have seen of a name is asked for anew each time.
const FRESH: Duration = Duration::ZERO;
/// Writes that arrive so soon after a cut were on their way.
const ON_THE_WAY: Duration = Duration::from_millis(3);

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Write,
    Sync,
    Read,
    /// Opening, making and renaming.
    Open,
}

/// One failure: the `number`-th operation of its kind, counted from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) op: Op,
    pub(crate) number: u64,
    pub(crate) errno: i32,
}

#[derive(Default)]
struct Bytes {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

enum Content {
    File(Bytes),
    Directory(BTreeMap<OsString, u64>),
}

struct Node {
    content: Content,
    mode: u16,
    changed: SystemTime,
}

/// What one call did to names: (directory, name, what it names now).
type Naming = Vec<(u64, OsString, Option<u64>)>;

struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
    /// Durable names, by directory.
    durable: HashMap<u64, BTreeMap<OsString, u64>>,
    journal: Vec<Naming>,
    counts: [u64; 4],
    fault: Option<Fault>,
    hit: bool,
    cut_at: Option<Instant>,
    rng: Rng,
}

impl State {
    fn new(seed: u64) -> State {
        let root = Node { content: Content::Directory(BTreeMap::new()), mode: 0o755, changed: SystemTime::now() };
        State {
            nodes: HashMap::from([(1, root)]),
            next: 2,
            durable: HashMap::new(),
            journal: Vec::new(),
            counts: [0; 4],
            fault: None,
            hit: false,
            cut_at: None,
            rng: Rng::new(seed),
        }
    }

    /// Counts an operation; its error, if it is to fail.
    fn count(&mut self, op: Op) -> Result<(), Errno> {
        if self.cut_at.is_some() {
            return Err(Errno::EIO);
        }
        let count = &mut self.counts[op as usize];
        *count += 1;
        match self.fault {
            Some(fault) if fault.op == op && fault.number == *count => {
                self.hit = true;
                Err(Errno::from_i32(fault.errno))
            }
            _ => Ok(()),
        }
    }

    fn names(&mut self, directory: u64) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        match self.nodes.get_mut(&directory).map(|node| &mut node.content) {
            Some(Content::Directory(names)) => Ok(names),
            Some(Content::File(_)) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn file(&mut self, inode: u64) -> Result<&mut Bytes, Errno> {
        match self.nodes.get_mut(&inode).map(|node| &mut node.content) {
            Some(Content::File(bytes)) => Ok(bytes),
            Some(Content::Directory(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn name(&mut self, naming: Naming) -> Result<(), Errno> {
        for (directory, name, inode) in &naming {
            let names = self.names(*directory)?;
            match inode {
                Some(inode) => names.insert(name.clone(), *inode),
                None => names.remove(name),
            };
        }
        self.journal.push(naming);
        Ok(())
    }

    fn make(&mut self, parent: u64, name: &OsStr, content: Content, mode: u32) -> Result<u64, Errno> {
        self.count(Op::Open)?;
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, Node { content, mode: mode as u16 & 0o7777, changed: SystemTime::now() });
        self.name(vec![(parent, name.to_owned(), Some(inode))])?;
        Ok(inode)
    }

    fn write(&mut self, inode: u64, offset: usize, data: &[u8], durable: bool) -> Result<(), Errno> {
        if self.cut_at.is_some_and(|at| at.elapsed() < ON_THE_WAY) && durable {
            let mut rng = self.rng.clone();
            let bytes = self.file(inode)?;
            survive(&mut bytes.durable, offset, data, &mut rng);
            self.rng = rng;
        }
        self.count(Op::Write)?;
        let bytes = self.file(inode)?;
        put(&mut bytes.seen, offset, data);
        bytes.pending.push(Change::Write(offset, data.to_vec()));
        if durable {
            bytes.sync();
        }
        Ok(())
    }

    fn sync_names(&mut self) {
        for naming in std::mem::take(&mut self.journal) {
            self.make_durable(naming);
        }
    }

    fn make_durable(&mut self, naming: Naming) {
        for (directory, name, inode) in naming {
            let names = self.durable.entry(directory).or_default();
            match inode {
                Some(inode) => names.insert(name, inode),
                None => names.remove(&name),
            };
        }
    }

    /// What is left after a loss of power is what programs see from now on.
    fn restore(&mut self) {
        let journal = std::mem::take(&mut self.journal);
        let kept = self.rng.below(journal.len() as u64 + 1) as usize;
        for naming in journal.into_iter().take(kept) {
            self.make_durable(naming);
        }
        let mut rng = self.rng.clone();
        for (inode, node) in &mut self.nodes {
            match &mut node.content {
                Content::Directory(names) => *names = self.durable.get(inode).cloned().unwrap_or_default(),
                Content::File(bytes) => bytes.lose(&mut rng),
            }
        }
        self.rng = rng;
        self.cut_at = None;
    }

    fn attributes(&self, inode: u64) -> Result<FileAttr, Errno> {
        let node = self.nodes.get(&inode).ok_or(Errno::ENOENT)?;
        let (kind, size) = match &node.content {
            Content::File(bytes) => (FileType::RegularFile, bytes.seen.len() as u64),
            Content::Directory(_) => (FileType::Directory, 0),
        };
        Ok(FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size.div_ceil(512),
            atime: node.changed,
            mtime: node.changed,
            ctime: node.changed,
            crtime: node.changed,
            kind,
            perm: node.mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: SECTOR_BYTES as u32,
            flags: 0,
        })
    }
}

impl Bytes {
    fn resize(&mut self, length: usize) {
        self.seen.resize(length, 0);
        self.pending.push(Change::Length(length));
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                Change::Write(offset, data) => put(&mut self.durable, offset, &data),
                Change::Length(length) => self.durable.resize(length, 0),
            }
        }
    }

    fn lose(&mut self, rng: &mut Rng) {
        for change in self.pending.drain(..) {
            match change {
                Change::Write(offset, data) => survive(&mut self.durable, offset, &data, rng),
                Change::Length(length) if rng.chance(0.5) => self.durable.resize(length, 0),
                Change::Length(_) => {}
            }
        }
        self.seen.clone_from(&self.durable);
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

/// Each sector of a write that nobody synced is new, old, or half of each.
fn survive(bytes: &mut Vec<u8>, offset: usize, data: &[u8], rng: &mut Rng) {
    for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
        let at = offset + index * SECTOR_BYTES;
        match rng.below(8) {
            0..4 => {}
            4 => put(bytes, at, &sector[..sector.len() / 2]),
            _ => put(bytes, at, sector),
        }
    }
}

/// The file system as the kernel asks it.
struct Ram(Arc<Mutex<State>>);

impl Ram {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }
}

impl Filesystem for Ram {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Smaller ones would do too: what the kernel grants is what it asks.
        let _ = config.set_max_write(1 << 20);
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO | InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.state();
        let found = state.names(parent.0).and_then(|names| names.get(name).copied().ok_or(Errno::ENOENT));
        match found.and_then(|inode| state.attributes(inode)) {
            Ok(attributes) => reply.entry(&FRESH, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attributes(inode.0) {
            Ok(attributes) => reply.attr(&FRESH, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
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
        let mut state = self.state();
        if let Some(size) = size {
            match state.count(Op::Write).and_then(|()| state.file(inode.0)) {
                Ok(file) => file.resize(size as usize),
                Err(error) => return reply.error(error),
            }
        }
        if let (Some(mode), Some(node)) = (mode, state.nodes.get_mut(&inode.0)) {
            node.mode = mode as u16 & 0o7777;
        }
        match state.attributes(inode.0) {
            Ok(attributes) => reply.attr(&FRESH, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let mut state = self.state();
        let made = state.make(parent.0, name, Content::Directory(BTreeMap::new()), mode);
        match made.and_then(|inode| state.attributes(inode)) {
            Ok(attributes) => reply.entry(&FRESH, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let mut state = self.state();
        let made = state.make(parent.0, name, Content::File(Bytes::default()), mode);
        match made.and_then(|inode| state.attributes(inode)) {
            Ok(attributes) => {
                reply.created(&FRESH, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        match state.count(Op::Open).and_then(|()| state.name(vec![(parent.0, name.to_owned(), None)])) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let found = state.count(Op::Open).and_then(|()| {
            let names = state.names(parent.0)?;
            names.get(name).copied().ok_or(Errno::ENOENT)
        });
        let renamed = found.and_then(|inode| {
            let gone = (parent.0, name.to_owned(), None);
            state.name(vec![gone, (to_parent.0, to_name.to_owned(), Some(inode))])
        });
        match renamed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.state().count(Op::Open) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.state();
        match state.count(Op::Read).and_then(|()| state.file(inode.0)) {
            Ok(file) => {
                let from = file.seen.len().min(offset as usize);
                reply.data(&file.seen[from..file.seen.len().min(from + size as usize)]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.state().write(inode.0, offset as usize, data, flags.0 & libc::O_DSYNC != 0) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        match state.count(Op::Sync).and_then(|()| state.file(inode.0)) {
            Ok(file) => {
                file.sync();
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        match state.count(Op::Sync) {
            Ok(()) => {
                state.sync_names();
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut state = self.state();
        let names = match state.names(inode.0) {
            Ok(names) => names.clone(),
            Err(error) => return reply.error(error),
        };
        for (index, (name, inode)) in names.iter().enumerate().skip(offset as usize) {
            let kind = state.attributes(*inode).map_or(FileType::RegularFile, |attributes| attributes.kind);
            if reply.add(INodeNo(*inode), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 20;
        reply.statfs(blocks, blocks, blocks, blocks, blocks, SECTOR_BYTES as u32, 255, SECTOR_BYTES as u32);
    }
}

/// The file system, mounted; taken away when dropped.
pub(crate) struct RamVolume {
    // Unmounts first, then the directory goes.
    session: Option<BackgroundSession>,
    state: Arc<Mutex<State>>,
    dir: TempDir,
}

impl RamVolume {
    /// Mounts an empty one; the reason begins with [`SKIPPED`] where that cannot be had.
    pub(crate) fn mount(seed: u64) -> Told<RamVolume> {
        let dir = crate::scratch()?;
        let at = dir.path().join("at");
        fs::create_dir(&at).map_err(|error| format!("no mount point: {error}"))?;
        let state = Arc::new(Mutex::new(State::new(seed)));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("ringpost-faults".into())];
        let session = fuser::spawn_mount(Ram(Arc::clone(&state)), &at, &config);
        let session = session.map_err(|error| format!("{SKIPPED}no FUSE mounts here: {error}"))?;
        Ok(RamVolume { session: Some(session), state, dir })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("at")
    }

    /// From now on one operation fails; counting begins anew.
    pub(crate) fn arm(&self, fault: Option<Fault>) {
        let mut state = self.state();
        state.counts = [0; 4];
        state.hit = false;
        state.fault = fault;
    }

    /// True if what was armed has failed.
    pub(crate) fn hit(&self) -> bool {
        self.state().hit
    }

    /// Operations since the last [`RamVolume::arm`], in the order of [`Op`].
    pub(crate) fn counts(&self) -> [u64; 4] {
        self.state().counts
    }

    /// Takes the power away: everything fails from now on.
    pub(crate) fn cut(&self) {
        self.state().cut_at = Some(Instant::now());
    }

    /// Gives it back; what was not synced is lost in part.
    pub(crate) fn restore(&self) {
        self.state().restore();
    }

    /// Copies everything in it to a directory.
    pub(crate) fn copy_to(&self, to: &Path) -> Told<()> {
        copy_tree(&self.path(), to)
    }
}

/// Copies a directory with everything in it.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Told<()> {
    let failed = |error: std::io::Error| format!("copying {}: {error}", from.display());
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target).map_err(failed)?;
        }
    }
    Ok(())
}

impl Drop for RamVolume {
    fn drop(&mut self) {
        self.state().cut_at = None;
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}
