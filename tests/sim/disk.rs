//! A shard's disk: files in memory, writes that take their time, and what a crash leaves of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ringpost::base::bytes::{Block, heap_block};
use ringpost::base::ids::ShardId;
use ringpost::queue::spool::{self, SpoolError, SpoolSettings};
use ringpost::queue::{DiskError, ReadId, Recovery, SegmentSlot, ShardStart, WriteId};

use crate::dice::Dice;
use crate::plan::Plan;

const SECTOR: usize = 4096;

/// Something the disk is doing.
pub enum Work {
    Write { write: WriteId, slot: SegmentSlot, offset: u32, block: Block },
    Prepare { slot: SegmentSlot },
    Read { read: ReadId, slot: SegmentSlot, offset: u32, length: u32 },
}

#[derive(Default)]
pub struct Disk {
    files: BTreeMap<u32, Vec<u8>>,
    working: BTreeMap<u64, Work>,
    /// Every write fails so until then.
    pub outage: Option<(u64, DiskError)>,
}

impl Disk {
    /// Begins something under a number of its own.
    pub fn begin(&mut self, number: u64, work: Work) {
        if let Work::Write { slot, offset, block, .. } = &work {
            let file = self.files.get(&slot.0).expect("only files that were made are written");
            let (from, to) = (*offset as usize, *offset as usize + block.bytes().len());
            assert!(from % SECTOR == 0 && to % SECTOR == 0 && to <= file.len() && from < to, "write of {from}..{to}");
            for other in self.working.values() {
                if let Work::Write { slot: same, offset, block, .. } = other
                    && same == slot
                {
                    let (start, end) = (*offset as usize, *offset as usize + block.bytes().len());
                    assert!(to <= start || end <= from, "two writes on their way to the same place");
                }
            }
        }
        self.working.insert(number, work);
    }

    /// True while a segment is being made or started: until then there may be none to append to.
    pub fn is_preparing(&self) -> bool {
        self.working.values().any(|work| matches!(work, Work::Prepare { .. } | Work::Write { offset: 0, .. }))
    }

    /// Takes back something that is ended now.
    pub fn end(&mut self, number: u64) -> Option<Work> {
        self.working.remove(&number)
    }

    pub fn write(&mut self, slot: SegmentSlot, offset: u32, block: &Block) {
        let at = offset as usize;
        let file = self.files.get_mut(&slot.0).expect("looked at when it began");
        file[at..at + block.bytes().len()].copy_from_slice(block.bytes());
    }

    /// A write that failed or was cut off: each sector is the old one, the new one, or torn between both.
    pub fn write_some(&mut self, dice: &mut Dice, slot: SegmentSlot, offset: u32, block: &Block) {
        let file = self.files.get_mut(&slot.0).expect("looked at when it began");
        let kind = dice.below(4);
        let whole_until = dice.below(block.bytes().len() as u64 / SECTOR as u64 + 1) as usize;
        for (index, sector) in block.bytes().chunks(SECTOR).enumerate() {
            let at = offset as usize + index * SECTOR;
            let length = match kind {
                0 => 0,
                1 => SECTOR,
                2 if index < whole_until => SECTOR,
                2 => 0,
                _ => match dice.below(5) {
                    0 | 1 => 0,
                    2 | 3 => SECTOR,
                    _ => dice.below(SECTOR as u64) as usize,
                },
            };
            file[at..at + length].copy_from_slice(&sector[..length]);
            if length > 0 && length < SECTOR {
                dice.drawn("torn_sector");
            }
        }
    }

    pub fn prepare(&mut self, slot: SegmentSlot, size: u32) {
        self.files.insert(slot.0, vec![0; size as usize]);
    }

    pub fn read(&self, slot: SegmentSlot, offset: u32, length: u32) -> Result<Block, DiskError> {
        let file = self.files.get(&slot.0).ok_or(DiskError::Io { errno: 2 })?;
        let bytes = file.get(offset as usize..(offset + length) as usize).ok_or(DiskError::Io { errno: 22 })?;
        Ok(heap_block(bytes.to_vec()))
    }

    /// The machine stops: what was on its way is there in part, or not.
    pub fn crash(&mut self, dice: &mut Dice, size: u32) {
        for (_, work) in std::mem::take(&mut self.working) {
            match work {
                Work::Write { slot, offset, block, .. } => {
                    dice.drawn("write_cut_off");
                    self.write_some(dice, slot, offset, &block);
                }
                Work::Prepare { slot } if dice.permille(500) => self.prepare(slot, size),
                Work::Prepare { .. } | Work::Read { .. } => {}
            }
        }
        self.outage = None;
    }
}

/// What recovery makes of all disks, as the relay does at its start: each is read by itself.
pub fn recover(disks: &[Disk]) -> Vec<ShardStart> {
    let mut all = Recovery::new();
    for (number, disk) in disks.iter().enumerate() {
        let shard = ShardId(number as u16);
        let mut recovery = Recovery::new();
        let mut files: Vec<_> = disk
            .files
            .iter()
            .map(|(slot, bytes)| (Recovery::life(shard, &mut &bytes[..]).expect("memory can be read"), *slot, bytes))
            .collect();
        files.sort_by_key(|(life, slot, _)| Reverse((*life, *slot)));
        for (_, slot, bytes) in files {
            recovery
                .segment(shard, SegmentSlot(slot), bytes.len() as u32, &mut &bytes[..])
                .expect("memory can be read");
        }
        all.join(recovery);
    }
    all.finish(disks.len() as u16)
}

/// A block with one bit that is not as it was written.
pub fn rot(dice: &mut Dice, block: &Block) -> Block {
    let mut bytes = block.bytes().to_vec();
    let at = dice.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1 << dice.below(8);
    heap_block(bytes)
}

/// Starts with another number of shards, by the relay's own code for it: it works on files, so the disks become a
/// directory for a moment. Where the messages of a shard that goes find no room, the number stays, as an operator
/// would have it.
pub fn reshard(disks: &mut Vec<Disk>, plan: &mut Plan, shards: usize) -> Vec<ShardStart> {
    let folder = tempfile::tempdir().expect("a directory for temporary files");
    for (number, disk) in disks.iter().enumerate() {
        let shard = ShardId(number as u16);
        fs::create_dir_all(spool::shard_dir(folder.path(), shard)).expect("a directory can be made");
        for (slot, bytes) in &disk.files {
            let path = spool::segment_path(folder.path(), shard, SegmentSlot(*slot));
            fs::write(path, bytes).expect("a file can be written");
        }
    }
    let settings = SpoolSettings {
        dir: folder.path().into(),
        shards: shards as u16,
        segment_bytes: plan.settings.queue.segment_bytes,
        segments_max: plan.settings.queue.segments_max,
        open: spool::open_file,
    };
    let taken = match spool::open_spool(&settings) {
        Ok(_) => shards,
        Err(SpoolError::NoRoom(..)) => disks.len(),
        Err(error) => panic!("a spool that was in use cannot be opened: {error}"),
    };
    *disks = (0..taken).map(|number| read_back(folder.path(), ShardId(number as u16))).collect();
    plan.shards = taken;
    Arc::make_mut(&mut plan.settings).shards = taken as u16;
    recover(disks)
}

fn read_back(folder: &Path, shard: ShardId) -> Disk {
    let mut disk = Disk::default();
    for entry in fs::read_dir(spool::shard_dir(folder, shard)).into_iter().flatten() {
        let path = entry.expect("a directory can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let slot =
            name.strip_prefix("segment-").and_then(|rest| rest.strip_suffix(".log")).and_then(|n| n.parse().ok());
        disk.files.insert(slot.expect("only segments are there"), fs::read(&path).expect("a file can be read"));
    }
    disk
}
