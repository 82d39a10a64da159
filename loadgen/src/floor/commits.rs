//! Bare commits: aligned blocks, `pwrite` one after the other, each on the disk before the next.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::FloorPlan;
use crate::disk::Disk;
use crate::system;

const ALIGN_BYTES: u64 = 4096;
/// What a queue keeps beside a message's own bytes: its envelope and a record's header.
const RECORD_OVERHEAD_BYTES: u64 = 160;
const FILE_BYTES: u64 = 64 << 20;
/// Never fewer than this, however many messages a commit holds.
const COMMITS_MIN: u64 = 10;

/// Commits of one batch size.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct CommitFloor {
    /// Messages per commit.
    pub batch: u32,
    /// Size of one write, in bytes.
    pub commit_bytes: u64,
    /// Commits made.
    pub commits: u64,
    /// CPU per message, in microseconds.
    pub cpu_us_per_message: f64,
    /// Messages per second, one write at a time.
    pub messages_per_s: f64,
    /// Commits per second.
    pub commits_per_s: f64,
    /// Cache flushes per commit as the block device counts them; None without a device.
    pub flushes_per_commit: Option<f64>,
}

/// A block of memory that direct writes accept.
struct Aligned {
    bytes: *mut u8,
    layout: Layout,
}

impl Aligned {
    fn new(length: usize) -> Aligned {
        let layout = Layout::from_size_align(length, ALIGN_BYTES as usize).expect("a small power of two");
        // SAFETY: the layout is not empty: a commit has at least one block.
        let bytes = unsafe { alloc_zeroed(layout) };
        if bytes.is_null() {
            handle_alloc_error(layout);
        }
        Aligned { bytes, layout }
    }

    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this length, zeroed, and ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.bytes, self.layout.size()) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this very layout, once.
        unsafe { dealloc(self.bytes, self.layout) };
    }
}

/// Removes the file when all is measured, or went wrong.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        // Left behind if it cannot be removed.
        let _ = std::fs::remove_file(self.0);
    }
}

/// Measures each batch size of the plan on a thread of its own.
pub(super) fn measure(plan: &FloorPlan) -> io::Result<Vec<CommitFloor>> {
    if plan.batches.is_empty() {
        return Ok(Vec::new());
    }
    let path = plan.dir.join(format!("loadgen-floor-{}", std::process::id()));
    let _removed = Removed(&path);
    let largest = plan.batches.iter().map(|batch| commit_bytes(plan, *batch)).max().unwrap_or(ALIGN_BYTES);
    let file_bytes = FILE_BYTES.max(largest);
    zeroed(&path, file_bytes)?;
    let disk = Disk::below(&path);
    let thread = || {
        plan.core.map(system::pin_to_core);
        plan.batches.iter().map(|batch| one(plan, *batch, &path, file_bytes, disk.as_ref())).collect()
    };
    std::thread::scope(|scope| scope.spawn(thread).join().expect("the committing thread does not panic"))
}

fn commit_bytes(plan: &FloorPlan, batch: u32) -> u64 {
    ((plan.size_bytes + RECORD_OVERHEAD_BYTES) * u64::from(batch)).next_multiple_of(ALIGN_BYTES)
}

fn zeroed(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let zeros = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(zeros.len() as u64);
        file.write_all(&zeros[..count as usize])?;
        left -= count;
    }
    file.sync_all()
}

fn one(plan: &FloorPlan, batch: u32, path: &Path, file_bytes: u64, disk: Option<&Disk>) -> io::Result<CommitFloor> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path);
    let file = file.map_err(|error| io::Error::new(error.kind(), format!("cannot open with O_DIRECT: {error}")))?;
    let length = commit_bytes(plan, batch);
    let mut block = Aligned::new(length as usize);
    block.as_mut().iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8);
    let commits = (plan.messages / u64::from(batch)).max(COMMITS_MIN);
    let places = (file_bytes / length).max(1);
    let flushed = disk.and_then(Disk::read);
    let (begun, cpu_ns) = (Instant::now(), system::thread_cpu_ns());
    for commit in 0..commits {
        file.write_all_at(block.as_mut(), commit % places * length)
            .map_err(|error| io::Error::new(error.kind(), format!("a write with O_DIRECT: {error}")))?;
    }
    let (spent_s, cpu_ns) = (begun.elapsed().as_secs_f64().max(1e-9), system::thread_cpu_ns() - cpu_ns);
    let flushes = disk.and_then(Disk::read).zip(flushed).map(|(after, before)| after.since(&before).flushes);
    let messages = (commits * u64::from(batch)) as f64;
    Ok(CommitFloor {
        batch,
        commit_bytes: length,
        commits,
        cpu_us_per_message: cpu_ns as f64 / 1000.0 / messages,
        messages_per_s: messages / spent_s,
        commits_per_s: commits as f64 / spent_s,
        flushes_per_commit: flushes.map(|flushes| flushes as f64 / commits as f64),
    })
}
