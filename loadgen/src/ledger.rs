//! The ledger: what became of every recipient of every message, one byte each.
//!
//! Shared by all threads of a run: senders note fates, sinks note arrivals, with relaxed atomics, since every cell stands
//! alone and totals are only taken at rest or as a progress figure. Chunks are made when first touched; a number beyond
//! [`SLOTS_MAX`] is refused, not grown into. Files written by two processes are merged by [`Ledger::merge`].

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

const CHUNK_SLOTS: usize = 1 << 18;
const CHUNKS_MAX: usize = 1 << 14;
/// Recipients one ledger can hold: about 4.3 thousand million.
pub const SLOTS_MAX: u64 = (CHUNK_SLOTS * CHUNKS_MAX) as u64;

const FATE_BITS: u8 = 0b0000_0111;
const BOUNCED_BIT: u8 = 0b0000_1000;
const CORRUPTED_BIT: u8 = 0b0001_0000;
const ARRIVAL_ONE: u8 = 0b0010_0000;
const ARRIVAL_SHIFT: u32 = 5;
const ARRIVALS_MAX: u8 = 7;

const MAGIC: &[u8; 8] = b"LGLEDGR1";

/// What the sending side knows of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// Begun, and no last word was heard: it may arrive or not, and is never lost.
    Unknown = 1,
    /// The relay took responsibility (250): it must arrive or bounce.
    Acknowledged = 2,
    /// Refused for good (5xx).
    Refused = 3,
    /// Refused for now (4xx).
    Deferred = 4,
}

/// The ledger of one run.
pub struct Ledger {
    run: u64,
    recipients: u32,
    chunks: Box<[OnceLock<Box<[AtomicU8]>>]>,
}

impl Ledger {
    /// An empty ledger for a run whose messages have `recipients` recipients each.
    pub fn new(run: u64, recipients: u32) -> Ledger {
        assert!(recipients > 0, "a message has a recipient");
        Ledger { run, recipients, chunks: (0..CHUNKS_MAX).map(|_| OnceLock::new()).collect() }
    }

    /// The run's number.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// Recipients per message.
    pub fn recipients(&self) -> u32 {
        self.recipients
    }

    /// Notes what the sender knows of a recipient; the last word stands.
    pub fn set_fate(&self, id: u64, recipient: u32, fate: Fate) {
        self.update(id, recipient, |state| (state & !FATE_BITS) | fate as u8);
    }

    /// Notes an arrival. False if there is no such place in the ledger.
    pub fn arrived(&self, id: u64, recipient: u32, intact: bool) -> bool {
        self.update(id, recipient, |state| match (intact, state >> ARRIVAL_SHIFT) {
            (false, _) => state | CORRUPTED_BIT,
            (true, ARRIVALS_MAX) => state,
            (true, _) => state + ARRIVAL_ONE,
        })
    }

    /// Notes that the sender was told of a failure. False if there is no such place in the ledger.
    pub fn bounced(&self, id: u64, recipient: u32) -> bool {
        self.update(id, recipient, |state| state | BOUNCED_BIT)
    }

    fn update(&self, id: u64, recipient: u32, change: impl Fn(u8) -> u8) -> bool {
        if recipient >= self.recipients {
            return false;
        }
        let slot = id.checked_mul(u64::from(self.recipients)).and_then(|slot| slot.checked_add(u64::from(recipient)));
        let Some(slot) = slot.filter(|slot| *slot < SLOTS_MAX) else {
            return false;
        };
        let cell = &self.chunk(slot as usize / CHUNK_SLOTS)[slot as usize % CHUNK_SLOTS];
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| Some(change(state)));
        true
    }

    fn chunk(&self, index: usize) -> &[AtomicU8] {
        self.chunks[index].get_or_init(|| (0..CHUNK_SLOTS).map(|_| AtomicU8::new(0)).collect())
    }

    /// Counts everything up.
    pub fn tally(&self) -> Tally {
        let mut seen = [0u64; 256];
        for cell in self.chunks.iter().filter_map(OnceLock::get).flatten() {
            seen[usize::from(cell.load(Ordering::Relaxed))] += 1;
        }
        let mut tally = Tally::default();
        for state in 1..=255u8 {
            tally.add(state, seen[usize::from(state)]);
        }
        tally
    }

    /// The first few recipients (message, index) that are lost, duplicated or corrupted, to look into.
    pub fn suspects(&self, most: usize) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        for (number, chunk) in self.chunks.iter().enumerate().filter_map(|(n, chunk)| Some((n, chunk.get()?))) {
            for (offset, cell) in chunk.iter().enumerate() {
                let mut tally = Tally::default();
                tally.add(cell.load(Ordering::Relaxed), 1);
                let what = match (tally.lost, tally.corrupted, tally.duplicated) {
                    (0, 0, 0) => continue,
                    (0, 0, _) => "duplicated",
                    (0, _, _) => "corrupted",
                    _ => "lost",
                };
                if suspects.len() == most {
                    return suspects;
                }
                let slot = (number * CHUNK_SLOTS + offset) as u64;
                let stride = u64::from(self.recipients);
                suspects.push(Suspect { id: slot / stride, recipient: (slot % stride) as u32, what: what.to_string() });
            }
        }
        suspects
    }

    /// The same as it is now.
    pub fn copy(&self) -> Ledger {
        let copy = Ledger::new(self.run, self.recipients);
        assert!(copy.merge(self), "a copy is of the same run");
        copy
    }

    /// Recipients (message, index) acknowledged here that `before`, an earlier copy of this ledger, does not know as such.
    pub fn acknowledged_since(&self, before: &Ledger) -> Vec<(u64, u32)> {
        self.places(|place, state| {
            let earlier = before.chunks[place / CHUNK_SLOTS].get();
            let earlier = earlier.map_or(0, |chunk| chunk[place % CHUNK_SLOTS].load(Ordering::Relaxed));
            is_acknowledged(state) && !is_acknowledged(earlier)
        })
    }

    /// Recipients (message, index) that are lost as things stand.
    pub fn lost(&self) -> Vec<(u64, u32)> {
        self.places(|_, state| {
            let mut tally = Tally::default();
            tally.add(state, 1);
            tally.lost > 0
        })
    }

    /// How many whole copies came (up to seven), of each recipient of which one came: by its place, message after message.
    pub fn copies(&self) -> impl Iterator<Item = (usize, u8)> {
        let chunks = self.chunks.iter().enumerate().filter_map(|(number, chunk)| Some((number, chunk.get()?)));
        let cells = chunks.flat_map(|(number, chunk)| {
            chunk.iter().enumerate().map(move |(offset, cell)| (number * CHUNK_SLOTS + offset, cell))
        });
        cells
            .map(|(place, cell)| (place, cell.load(Ordering::Relaxed) >> ARRIVAL_SHIFT))
            .filter(|(_, copies)| *copies > 0)
    }

    fn places(&self, wanted: impl Fn(usize, u8) -> bool) -> Vec<(u64, u32)> {
        let stride = u64::from(self.recipients);
        let mut found = Vec::new();
        for (number, chunk) in self.chunks.iter().enumerate().filter_map(|(n, chunk)| Some((n, chunk.get()?))) {
            for (offset, cell) in chunk.iter().enumerate() {
                let place = number * CHUNK_SLOTS + offset;
                if wanted(place, cell.load(Ordering::Relaxed)) {
                    found.push((place as u64 / stride, (place as u64 % stride) as u32));
                }
            }
        }
        found
    }

    /// Adds what another ledger of the same run knows. False if it is of another run.
    #[must_use]
    pub fn merge(&self, other: &Ledger) -> bool {
        if self.run != other.run || self.recipients != other.recipients {
            return false;
        }
        for (index, theirs) in other.chunks.iter().enumerate().filter_map(|(n, chunk)| Some((n, chunk.get()?))) {
            for (mine, theirs) in self.chunk(index).iter().zip(theirs) {
                let merged = merge_states(mine.load(Ordering::Relaxed), theirs.load(Ordering::Relaxed));
                mine.store(merged, Ordering::Relaxed);
            }
        }
        true
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut cells: Vec<u8> = Vec::new();
        let used = self.chunks.iter().rposition(|chunk| chunk.get().is_some()).map_or(0, |last| last + 1);
        for chunk in &self.chunks[..used] {
            match chunk.get() {
                Some(chunk) => cells.extend(chunk.iter().map(|cell| cell.load(Ordering::Relaxed))),
                None => cells.resize(cells.len() + CHUNK_SLOTS, 0),
            }
        }
        cells.truncate(cells.iter().rposition(|state| *state != 0).map_or(0, |last| last + 1));
        out.write_all(&self.run.to_le_bytes())?;
        out.write_all(&self.recipients.to_le_bytes())?;
        out.write_all(&(cells.len() as u64).to_le_bytes())?;
        out.write_all(&crc32c::crc32c(&cells).to_le_bytes())?;
        out.write_all(&cells)
    }

    /// Reads one ledger; `Ok(None)` at the end of the file.
    fn read(input: &mut impl Read) -> io::Result<Option<Ledger>> {
        let mut head = [0u8; 24];
        match input.read(&mut head[..1])? {
            0 => return Ok(None),
            _ => input.read_exact(&mut head[1..])?,
        }
        let run = u64::from_le_bytes(head[0..8].try_into().expect("eight bytes"));
        let recipients = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
        let count = u64::from_le_bytes(head[12..20].try_into().expect("eight bytes"));
        let sum = u32::from_le_bytes(head[20..24].try_into().expect("four bytes"));
        if recipients == 0 || count > SLOTS_MAX {
            return Err(invalid("a ledger's head is damaged"));
        }
        let ledger = Ledger::new(run, recipients);
        let mut left = count as usize;
        let mut found = 0;
        let mut bytes = vec![0; CHUNK_SLOTS];
        for index in 0..(count as usize).div_ceil(CHUNK_SLOTS) {
            let part = &mut bytes[..left.min(CHUNK_SLOTS)];
            input.read_exact(part)?;
            found = crc32c::crc32c_append(found, part);
            for (cell, state) in ledger.chunk(index).iter().zip(&*part) {
                cell.store(*state, Ordering::Relaxed);
            }
            left -= part.len();
        }
        if found == sum { Ok(Some(ledger)) } else { Err(invalid("a ledger's cells are damaged")) }
    }
}

fn is_acknowledged(state: u8) -> bool {
    state & FATE_BITS == Fate::Acknowledged as u8
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn merge_states(a: u8, b: u8) -> u8 {
    let fate = (a & FATE_BITS).max(b & FATE_BITS);
    let arrivals = ((a >> ARRIVAL_SHIFT) + (b >> ARRIVAL_SHIFT)).min(ARRIVALS_MAX);
    fate | ((a | b) & (BOUNCED_BIT | CORRUPTED_BIT)) | (arrivals << ARRIVAL_SHIFT)
}

/// Writes ledgers to a file, whole or not at all (a new file takes the old one's place).
pub fn save<'a>(path: &Path, ledgers: impl IntoIterator<Item = &'a Ledger>) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let mut out = BufWriter::new(File::create(&name)?);
    out.write_all(MAGIC)?;
    for ledger in ledgers {
        ledger.write(&mut out)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&name, path)
}

/// Reads all ledgers of a file.
pub fn load(path: &Path) -> io::Result<Vec<Ledger>> {
    let mut input = BufReader::new(File::open(path)?);
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(invalid("this is no ledger file"));
    }
    let mut ledgers = Vec::new();
    while let Some(ledger) = Ledger::read(&mut input)? {
        ledgers.push(ledger);
    }
    Ok(ledgers)
}

/// A recipient to look into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Message.
    pub id: u64,
    /// Recipient of that message.
    pub recipient: u32,
    /// `lost`, `corrupted` or `duplicated`.
    pub what: String,
}

/// The ledger counted up, in recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Begun by the sender.
    pub sent: u64,
    /// Answered with 250.
    pub acknowledged: u64,
    /// Refused with 5xx.
    pub refused: u64,
    /// Refused with 4xx.
    pub deferred: u64,
    /// Begun, no last word heard.
    pub unknown: u64,
    /// Arrived whole at least once.
    pub arrived: u64,
    /// Of these, not acknowledged before (allowed: the 250 got lost on its way).
    pub arrived_unacknowledged: u64,
    /// Arrived, though it was refused or never sent by this sender: a fault of whoever claims it.
    pub arrived_unbidden: u64,
    /// Bounced back to the sender.
    pub bounced: u64,
    /// Acknowledged, and neither arrived nor bounced.
    pub lost: u64,
    /// Whole copies beyond the first (up to six are told apart per recipient).
    pub duplicated: u64,
    /// Arrived damaged at least once.
    pub corrupted: u64,
}

impl Tally {
    /// True if nothing was lost and nothing corrupted.
    pub fn clean(&self) -> bool {
        self.lost == 0 && self.corrupted == 0
    }

    fn add(&mut self, state: u8, count: u64) {
        let fate = state & FATE_BITS;
        let arrivals = u64::from(state >> ARRIVAL_SHIFT);
        let (bounced, corrupted) = (state & BOUNCED_BIT != 0, state & CORRUPTED_BIT != 0);
        let acknowledged = is_acknowledged(state);
        let unknown = fate == Fate::Unknown as u8;
        let bump = |field: &mut u64, yes: bool| *field += if yes { count } else { 0 };
        bump(&mut self.sent, fate != 0);
        bump(&mut self.acknowledged, acknowledged);
        bump(&mut self.refused, fate == Fate::Refused as u8);
        bump(&mut self.deferred, fate == Fate::Deferred as u8);
        bump(&mut self.unknown, unknown);
        bump(&mut self.arrived, arrivals > 0);
        bump(&mut self.arrived_unacknowledged, arrivals > 0 && unknown);
        bump(&mut self.arrived_unbidden, arrivals > 0 && !acknowledged && !unknown);
        bump(&mut self.bounced, bounced);
        bump(&mut self.lost, acknowledged && arrivals == 0 && !bounced && !corrupted);
        bump(&mut self.corrupted, corrupted);
        self.duplicated += arrivals.saturating_sub(1) * count;
    }
}

#[cfg(test)]
mod tests;
