//! How a disk commits: blocks written as the log writes them, into segments made as the log makes them.
//!
//! For `ringpost tune`. Each writer is an executor pinned to a core of its own, as a shard is, and writes through
//! `disk`; the calling thread waits. What the disk refuses is an error in words; nothing here panics on it.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::{LocalExecutorBuilder, Placement};

use super::disk::{Disk, DmaBlocks};
use super::{Failure, IO_MEMORY_BYTES};
use crate::base::bytes::{Block, BlockSource as _};
use crate::base::ids::ShardId;
use crate::queue::{DiskError, SegmentSlot};

/// Commits whose times are kept, for each writer; later ones are counted only.
const TIMES_MAX: usize = 200_000;
const SLOT: SegmentSlot = SegmentSlot(0);

/// What to measure.
#[derive(Clone, Debug)]
pub struct CommitPlan {
    /// Where the segments are made: a directory that does not hold a queue.
    pub dir: PathBuf,
    /// Size of a segment.
    pub segment_bytes: u32,
    /// The writers' cores; one at least.
    pub cores: Vec<usize>,
    /// Size of a block and how many of each writer are on their way, one measurement each.
    pub points: Vec<(usize, usize)>,
    /// How long each takes.
    pub each: Duration,
}

/// Commits of one size and depth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CommitPoint {
    /// Size of a block.
    pub block_bytes: usize,
    /// Blocks of a writer on their way at a time.
    pub depth: usize,
    /// Writers.
    pub writers: usize,
    /// Commits of all writers.
    pub commits: u64,
    /// Commits a second.
    pub commits_per_s: f64,
    /// Half of the commits took no longer.
    pub p50_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// CPU time of a commit on the writers' cores.
    pub cpu_us: f64,
}

impl CommitPoint {
    /// Bytes made durable in a second.
    pub fn bytes_per_s(&self) -> f64 {
        self.commits_per_s * self.block_bytes as f64
    }
}

/// One writer's part of a point.
#[derive(Default)]
struct Share {
    commits: u64,
    spent_s: f64,
    cpu_us: f64,
    times_us: Vec<u32>,
}

/// Measures every point, one after the other, all writers beside each other.
pub fn commits(plan: &CommitPlan) -> Result<Vec<CommitPoint>, Failure> {
    super::probe::io_uring().map_err(Failure)?;
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(plan.cores.len()));
    let mut threads = Vec::new();
    for (number, core) in plan.cores.iter().enumerate() {
        let (plan, barrier) = (plan.clone(), barrier.clone());
        let thread = LocalExecutorBuilder::new(Placement::Fixed(*core))
            .name("commits")
            .io_memory(IO_MEMORY_BYTES)
            .spawn(move || async move { write_points(&plan, ShardId(number as u16), &barrier).await })
            .map_err(|error| Failure(format!("cannot start a writer on core {core}: {error}")))?;
        threads.push(thread);
    }
    let mut shares = Vec::new();
    for thread in threads {
        let share = thread.join().map_err(|error| Failure(format!("a writer ended early: {error}")))?;
        let refused = |error| Failure(format!("cannot write to {}: {error}", plan.dir.display()));
        shares.push(share.map_err(refused)?);
    }
    let point = |(at, (block_bytes, depth)): (usize, &(usize, usize))| {
        point_of(*block_bytes, *depth, shares.iter().map(|shares| &shares[at]))
    };
    Ok(plan.points.iter().enumerate().map(point).collect())
}

fn point_of<'a>(block_bytes: usize, depth: usize, shares: impl Iterator<Item = &'a Share>) -> CommitPoint {
    let mut point = CommitPoint { block_bytes, depth, ..CommitPoint::default() };
    let mut times: Vec<u32> = Vec::new();
    for share in shares {
        point.writers += 1;
        point.commits += share.commits;
        point.commits_per_s += share.commits as f64 / share.spent_s.max(1e-9);
        point.cpu_us += share.cpu_us;
        times.extend(&share.times_us);
    }
    times.sort_unstable();
    let at =
        |part: f64| times.get((times.len() as f64 * part) as usize).or(times.last()).map_or(0, |us| u64::from(*us));
    (point.p50_us, point.p99_us) = (at(0.5), at(0.99));
    point.cpu_us /= point.commits.max(1) as f64;
    point
}

/// Every writer makes its segment, then does each point when all are there. A writer that failed goes on meeting the others,
/// so that none waits for ever.
async fn write_points(plan: &CommitPlan, id: ShardId, barrier: &std::sync::Barrier) -> Result<Vec<Share>, DiskError> {
    let disk = Rc::new(Disk::new(&plan.dir, id, plan.segment_bytes));
    let mut result = disk.prepare(SLOT).await.map(|()| Vec::new());
    for &(block_bytes, depth) in &plan.points {
        // The executor has nothing else to do.
        barrier.wait();
        if let Ok(shares) = &mut result {
            match write_point(plan, &disk, block_bytes, depth).await {
                Ok(share) => shares.push(share),
                Err(error) => result = Err(error),
            }
        }
    }
    result
}

async fn write_point(plan: &CommitPlan, disk: &Rc<Disk>, block_bytes: usize, depth: usize) -> Result<Share, DiskError> {
    let mut open = DmaBlocks.allocate(block_bytes);
    open.bytes_mut().iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8);
    let block: Block = open.freeze(block_bytes);
    let places = (plan.segment_bytes as usize / block_bytes).max(1);
    let next = Rc::new(std::cell::Cell::new(0));
    let (begun, cpu_before) = (Instant::now(), thread_cpu());
    let until = begun + plan.each;
    let writer = || {
        let (disk, block, next) = (disk.clone(), block.clone(), next.clone());
        glommio::spawn_local(async move {
            let (mut times_us, mut count) = (Vec::new(), 0);
            loop {
                let sent = Instant::now();
                if sent >= until {
                    return Ok((count, times_us));
                }
                let place = next.replace(next.get() + 1) % places;
                disk.write(SLOT, (place * block_bytes) as u32, block.clone()).await?;
                count += 1;
                if times_us.len() < TIMES_MAX / depth {
                    times_us.push(sent.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
                }
            }
        })
    };
    let tasks: Vec<_> = (0..depth).map(|_| writer()).collect();
    let mut share = Share::default();
    let mut failed = None;
    for task in tasks {
        match task.await {
            Ok((count, times_us)) => {
                share.commits += count;
                share.times_us.extend(times_us);
            }
            Err(error) => failed = Some(error),
        }
    }
    share.spent_s = begun.elapsed().as_secs_f64();
    share.cpu_us = (thread_cpu() - cpu_before).as_secs_f64() * 1e6;
    failed.map_or(Ok(share), Err)
}

/// CPU time of the calling thread.
fn thread_cpu() -> Duration {
    // SAFETY: a timespec is valid when zeroed, and the call writes to it alone.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_commit_beside_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let core = super::super::allowed_cores().unwrap()[0];
        let plan = CommitPlan {
            dir: dir.path().to_owned(),
            segment_bytes: 4 << 20,
            cores: vec![core, core],
            points: vec![(4096, 1), (64 << 10, 3)],
            each: Duration::from_millis(30),
        };
        let points = commits(&plan).unwrap();
        assert_eq!(points.iter().map(|point| (point.block_bytes, point.depth)).collect::<Vec<_>>(), plan.points);
        for point in points {
            assert!(point.writers == 2 && point.commits >= 2 && point.commits_per_s > 0.0, "{point:?}");
            assert!(point.p50_us <= point.p99_us && point.bytes_per_s() > 0.0, "{point:?}");
        }
        let nowhere = CommitPlan { dir: "/proc/no/such".into(), ..plan };
        assert!(commits(&nowhere).unwrap_err().to_string().contains("/proc/no/such"));
    }
}
