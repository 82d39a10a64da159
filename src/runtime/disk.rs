//! Segment files: made and filled with zeros, written by whole blocks, read back.
//!
//! Lives on the shard's thread; several orders may be in flight, each its own task. Files are opened O_DIRECT and
//! O_DSYNC, so a write that is done is durable (QUE-01). Errors become [`DiskError`], a short write or read is one
//! too; nothing here panics on what the disk does.
//!
//! Trap: glommio finds out whether a device can be polled by reading from the first `DmaFile` that an executor opens
//! there. An empty file makes it believe so, and it spins from then on. Hence no file is opened before its first
//! page was written by ordinary means.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::io::{DmaBuffer, DmaFile, OpenOptions, ReadResult};
use rustc_hash::FxHashMap;

use crate::base::bytes::{Block, BlockSource, FrozenBlock, OpenBlock};
use crate::base::ids::ShardId;
use crate::base::limits;
use crate::queue::{DiskError, SegmentSlot, spool};

/// Zeros are written in pieces of this size.
const FILL_BYTES: usize = 1 << 20;

/// Blocks fit for direct I/O, from the executor's pool or, when that is empty, from the allocator.
pub(crate) struct DmaBlocks;

struct OpenDma(DmaBuffer);

struct FrozenDma(Rc<DmaBuffer>);

struct ReadBlock {
    read: ReadResult,
    start: usize,
    end: usize,
}

impl BlockSource for DmaBlocks {
    fn allocate(&mut self, size_bytes: usize) -> Box<dyn OpenBlock> {
        Box::new(OpenDma(glommio::allocate_dma_buffer(size_bytes)))
    }
}

impl OpenBlock for OpenDma {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
    fn freeze(mut self: Box<Self>, length_bytes: usize) -> Block {
        self.0.trim_to_size(length_bytes);
        Rc::new(FrozenDma(Rc::new(self.0)))
    }
}

impl FrozenBlock for FrozenDma {
    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl FrozenBlock for ReadBlock {
    fn bytes(&self) -> &[u8] {
        &self.read[self.start..self.end]
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// The segment files of one shard.
pub(crate) struct Disk {
    spool: PathBuf,
    shard: ShardId,
    segment_bytes: u32,
    open: RefCell<FxHashMap<SegmentSlot, Rc<DmaFile>>>,
}

impl Disk {
    /// Files lie in the shard's directory under the spool `spool`, which is made when first needed.
    pub(crate) fn new(spool: &Path, shard: ShardId, segment_bytes: u32) -> Disk {
        Disk { spool: spool.to_owned(), shard, segment_bytes, open: RefCell::default() }
    }

    fn dir(&self) -> PathBuf {
        spool::shard_dir(&self.spool, self.shard)
    }

    /// Where a segment is made before it takes its name.
    fn fresh_path(&self, slot: SegmentSlot) -> PathBuf {
        self.path(slot).with_extension("new")
    }

    fn path(&self, slot: SegmentSlot) -> PathBuf {
        spool::segment_path(&self.spool, self.shard, slot)
    }

    /// Writes a whole block durably.
    pub(crate) async fn write(&self, slot: SegmentSlot, offset_bytes: u32, block: Block) -> Result<(), DiskError> {
        let length = block.bytes().len();
        assert!(
            length.is_multiple_of(limits::DISK_ALIGN_BYTES)
                && (offset_bytes as usize).is_multiple_of(limits::DISK_ALIGN_BYTES),
            "an order to write {length} bytes at {offset_bytes} is not aligned"
        );
        let file = self.file(slot).await?;
        let buffer = match block.as_any().downcast_ref::<FrozenDma>() {
            Some(frozen) => frozen.0.clone(),
            None => {
                let mut copy = glommio::allocate_dma_buffer(length);
                copy.as_bytes_mut().copy_from_slice(block.bytes());
                Rc::new(copy)
            }
        };
        match file.write_rc_at(buffer, u64::from(offset_bytes)).await {
            Ok(written) if written == length => Ok(()),
            // The file is preallocated: what does not fit there fits nowhere.
            Ok(_) => Err(DiskError::Io { errno: libc::EIO }),
            Err(error) => Err(disk_error(error.raw_os_error())),
        }
    }

    /// Reads exactly `length_bytes`.
    ///
    /// Aligned here and not by glommio's `read_at`: where a read ends short behind an unaligned start, that gives the
    /// length asked for all the same.
    pub(crate) async fn read(&self, slot: SegmentSlot, offset: u32, length_bytes: u32) -> Result<Block, DiskError> {
        let file = self.file(slot).await?;
        let skip = offset as usize % limits::DISK_ALIGN_BYTES;
        let end = skip + length_bytes as usize;
        let aligned = end.next_multiple_of(limits::DISK_ALIGN_BYTES);
        match file.read_at_aligned(u64::from(offset) - skip as u64, aligned).await {
            Ok(read) if read.len() >= end => Ok(Rc::new(ReadBlock { read, start: skip, end })),
            Ok(_) => Err(DiskError::Io { errno: libc::EIO }),
            Err(error) => Err(disk_error(error.raw_os_error())),
        }
    }

    /// Makes a segment file of zeros and makes it and its name durable. One that is there is replaced whole: a file
    /// that failed once is not trusted again (QUE-08). What could not be finished is removed.
    pub(crate) async fn prepare(&self, slot: SegmentSlot) -> Result<(), DiskError> {
        let (dir, fresh) = (self.dir(), self.fresh_path(slot));
        let begun = blocking(move || {
            fs::create_dir_all(&dir)?;
            // See the trap above: the first page goes through the page cache.
            let mut file = fs::File::create(&fresh)?;
            file.write_all(&[0; limits::DISK_ALIGN_BYTES])?;
            file.sync_data()
        })
        .await
        .map_err(|error| disk_error(error.raw_os_error()));
        let made = match begun {
            Ok(()) => self.fill(slot).await,
            Err(error) => Err(error),
        };
        if made.is_err() {
            let fresh = self.fresh_path(slot);
            // If it cannot be removed either, the next try begins it anew.
            let _ = blocking(move || fs::remove_file(fresh)).await;
        }
        made?;
        self.open.borrow_mut().remove(&slot);
        self.file(slot).await.map(|_| ())
    }

    async fn fill(&self, slot: SegmentSlot) -> Result<(), DiskError> {
        let failed = |error: glommio::GlommioError<()>| disk_error(error.raw_os_error());
        // Without O_DSYNC, which would make a commit of every piece.
        let file = OpenOptions::new().read(true).write(true).dma_open(self.fresh_path(slot)).await.map_err(failed)?;
        let size = self.segment_bytes as usize;
        let filled = async {
            // Says at once if there is no room; file systems that cannot do it say so by the writes.
            if let Err(error) = file.pre_allocate(size as u64, false).await
                && !matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
            {
                return Err(failed(error));
            }
            let mut zeros = glommio::allocate_dma_buffer(FILL_BYTES.min(size));
            zeros.as_bytes_mut().fill(0);
            let zeros = Rc::new(zeros);
            let mut at = 0;
            while at < size {
                if size - at < zeros.len() {
                    let mut rest = glommio::allocate_dma_buffer(size - at);
                    rest.as_bytes_mut().fill(0);
                    write_all(&file, Rc::new(rest), at).await?;
                    break;
                }
                write_all(&file, zeros.clone(), at).await?;
                at += zeros.len();
                glommio::executor().yield_if_needed().await;
            }
            file.fdatasync().await.map_err(failed)
        }
        .await;
        let closed = file.close().await.map_err(failed);
        filled?;
        closed?;
        // It takes its name when it is whole; then the names of the file and of its directory are made durable.
        let (dir, fresh, path) = (self.dir(), self.fresh_path(slot), self.path(slot));
        blocking(move || {
            fs::rename(fresh, path)?;
            fs::File::open(&dir)?.sync_all()?;
            dir.parent().map_or(Ok(()), |above| fs::File::open(above)?.sync_all())
        })
        .await
        .map_err(|error| disk_error(error.raw_os_error()))
    }

    /// The open file of a slot; a recovered one is opened when first needed.
    async fn file(&self, slot: SegmentSlot) -> Result<Rc<DmaFile>, DiskError> {
        if let Some(file) = self.open.borrow().get(&slot) {
            return Ok(file.clone());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DSYNC)
            .dma_open(self.path(slot))
            .await
            .map_err(|error| disk_error(error.raw_os_error()))?;
        // Another order may have opened it meanwhile; one of the two goes.
        Ok(self.open.borrow_mut().entry(slot).or_insert_with(|| Rc::new(file)).clone())
    }
}

async fn write_all(file: &DmaFile, buffer: Rc<DmaBuffer>, at: usize) -> Result<(), DiskError> {
    let length = buffer.len();
    match file.write_rc_at(buffer, at as u64).await {
        Ok(written) if written == length => Ok(()),
        // Only a full disk cuts a write of a regular file short.
        Ok(_) => Err(DiskError::Full),
        Err(error) => Err(disk_error(error.raw_os_error())),
    }
}

fn disk_error(errno: Option<i32>) -> DiskError {
    match errno {
        Some(libc::ENOSPC | libc::EDQUOT) => DiskError::Full,
        errno => DiskError::Io { errno: errno.unwrap_or(0) },
    }
}

/// Runs what blocks on the executor's helper thread. A panic there would hang the caller and cost the pool its
/// thread, so it comes back as an error.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    glommio::executor()
        .spawn_blocking(move || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EIO)))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bytes::heap_block;
    use glommio::LocalExecutor;

    const SLOT: SegmentSlot = SegmentSlot(0);

    fn filled(size: usize, byte: u8) -> Block {
        let mut open = DmaBlocks.allocate(size);
        open.bytes_mut().fill(byte);
        open.freeze(size)
    }

    /// Written blocks come back exactly, at any alignment, through another handle too; zeros everywhere else.
    #[test]
    fn segments_are_zeros_and_keep_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, size) = (dir.path().to_owned(), 3 * FILL_BYTES as u32 + 8192);
        LocalExecutor::default().run(async move {
            let disk = Disk::new(&spool, ShardId(7), size);
            disk.prepare(SLOT).await.unwrap();
            let path = spool.join("shard-007/segment-000000.log");
            assert!(fs::read(&path).unwrap().iter().all(|&b| b == 0));
            assert_eq!(fs::metadata(&path).unwrap().len(), u64::from(size));
            let writes = (0..4u32).map(|n| disk.write(SLOT, n * 8192, filled(8192, b'a' + n as u8)));
            for write in writes.collect::<Vec<_>>() {
                write.await.unwrap();
            }
            disk.write(SLOT, size - 4096, heap_block(vec![b'z'; 4096])).await.unwrap();
            let disk = Disk::new(&spool, ShardId(7), size);
            let back = disk.read(SLOT, 8190, 5).await.unwrap();
            assert_eq!(back.bytes(), b"aabbb");
            assert_eq!(disk.read(SLOT, size - 4, 4).await.unwrap().bytes(), b"zzzz");
            assert!(disk.read(SLOT, size - 2, 4).await.is_err(), "a short read is an error");
            disk.prepare(SLOT).await.unwrap();
            assert_eq!(disk.read(SLOT, 8190, 5).await.unwrap().bytes(), [0; 5], "prepared again: a file of zeros");
        });
    }

    #[test]
    fn errors_have_their_names() {
        assert_eq!(disk_error(Some(libc::ENOSPC)), DiskError::Full);
        assert_eq!(disk_error(Some(libc::EDQUOT)), DiskError::Full);
        assert_eq!(disk_error(Some(libc::EIO)), DiskError::Io { errno: libc::EIO });
        crate::runtime::tests::in_own_process("runtime::disk::tests::failures_leave_nothing_behind");
    }

    /// A segment that cannot be made leaves no half file; one that is not there is an error, not a panic.
    #[test]
    #[ignore = "limits its process; run by another test in one of its own"]
    fn failures_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().to_owned();
        LocalExecutor::default().run(async move {
            let disk = Disk::new(&spool, ShardId(0), 1 << 20);
            assert!(matches!(disk.read(SLOT, 0, 10).await, Err(DiskError::Io { errno: libc::ENOENT })));
            let huge = Disk::new(&spool, ShardId(0), 1 << 31);
            limit_file_size(64 << 20);
            assert!(huge.prepare(SLOT).await.is_err());
            assert_eq!(fs::read_dir(spool.join("shard-000")).unwrap().count(), 0);
            disk.prepare(SLOT).await.unwrap();
        });
    }

    fn limit_file_size(bytes: u64) {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: plain calls with a local struct; the signal would otherwise end the process.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
    }

    #[test]
    fn a_panic_on_the_helper_thread_is_an_error() {
        LocalExecutor::default().run(async {
            assert!(blocking(|| -> io::Result<()> { panic!("boom") }).await.is_err());
            assert!(blocking(|| Ok(())).await.is_ok());
        });
    }
}
