//! Reading back: what is no longer in memory is fetched from the segments, verified, and given to whoever waits.
//!
//! The number of reads under way is bounded; who finds no place goes on when any of them ends. A record that cannot be
//! read is reported and its message waits; nothing is ever sent that did not check out.

use crate::base::bytes::{Block, Slice};
use crate::base::ids::{ConnId, Position};
use crate::base::time::Now;
use crate::queue::{ChunkRef, DiskError, ReadId, record};
use crate::schedule::destination::DestinationId;
use crate::schedule::site::{JobId, NO_SITE, SiteId};
use crate::shard::backlog::JobState;
use crate::shard::conns::Conn;
use crate::shard::{Effect, Level, Shard};

/// What a read is for.
pub(super) enum Reading {
    /// A job's accepting record.
    Record { job: JobId, position: Position },
    /// The next part of a body that is going out.
    Chunk { conn: ConnId, position: Position },
    /// A part of a message that reclaim moves.
    Copy { message: u32, position: Position },
}

/// Reads under way at a time for records of jobs.
pub(super) const READS_MAX: usize = 64;

/// Parts of an outbox that are fetched ahead.
const FETCH_AHEAD: usize = 3;

impl Shard {
    /// So many reads are under way that this site must wait; it goes on when one of them ends, whosever it is.
    pub(super) fn wait_for_reads(&mut self, site: SiteId) {
        if !std::mem::replace(&mut self.sites.table[site as usize].waits_for_reads, true) {
            self.waiting_for_reads.push_back(site);
        }
    }

    /// The site that has waited longest for a read, if one may be begun; should it not need it any more, the next one is asked.
    pub(super) fn next_reader(&mut self) -> Option<SiteId> {
        let site = if self.reads.len() < READS_MAX { self.waiting_for_reads.pop_front()? } else { return None };
        if let Some(entry) = self.sites.table.get_mut(site as usize) {
            entry.waits_for_reads = false;
        }
        Some(site)
    }

    /// The same for what a destination has to fail.
    pub(super) fn wait_for_reads_to_fail(&mut self, destination: DestinationId) {
        if !self.waiting_to_fail.contains(&destination) {
            self.waiting_to_fail.push(destination);
        }
    }

    /// True if the job's record is at hand. If not, a read is begun and the job leaves its list until it ends.
    pub(super) fn have_record(&mut self, job: JobId, effects: &mut Vec<Effect>) -> bool {
        if self.backlog.record(job).is_some() {
            return true;
        }
        let entry = &self.backlog.jobs[job as usize];
        let place = self.backlog.messages[entry.message as usize].place;
        if let Some(record) = self.log.record(&place) {
            self.backlog.keep_record(job, record);
            return true;
        }
        self.take_from_list(job);
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::Loading;
        if entry.site != NO_SITE {
            self.sites.table[entry.site as usize].loading += 1;
        }
        self.read(Reading::Record { job, position: place.position }, place.position, place.length_bytes, effects);
        false
    }

    /// Begins to read a whole record, header included.
    pub(super) fn read(&mut self, what: Reading, position: Position, payload_bytes: u32, effects: &mut Vec<Effect>) {
        let (slot, offset_bytes) = self.log.locate(position).expect("what is read is not settled");
        let length_bytes = record::HEADER_BYTES as u32 + payload_bytes;
        self.next_read += 1;
        let read = ReadId(self.next_read);
        self.reads.insert(read, what);
        self.counters.reads += 1;
        effects.push(Effect::Read { read, slot, offset_bytes, length_bytes });
    }

    pub(super) fn read_back(
        &mut self,
        now: Now,
        read: ReadId,
        result: Result<Block, DiskError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(what) = self.reads.remove(&read) else { return };
        while let Some(destination) = self.waiting_to_fail.pop() {
            self.want_finding(destination);
        }
        let (Reading::Record { position, .. } | Reading::Chunk { position, .. } | Reading::Copy { position, .. }) =
            what;
        let payload = match result {
            Err(error) => Err(error.to_string()),
            Ok(block) => match record::verify(block.bytes(), self.id, position) {
                Some(payload) => {
                    let end = record::HEADER_BYTES + payload.len();
                    Ok(Slice::new(block.clone(), record::HEADER_BYTES, end))
                }
                None => Err("its checksum or name is wrong".to_string()),
            },
        };
        if let Err(problem) = &payload {
            self.counters.damaged_reads += 1;
            effects.push(Effect::Report(
                Level::Error,
                format!("shard {}: queue record at {:x}-{:x} cannot be read: {problem}; its message waits; run `ringpost spool verify`", self.id.0, position.life(), position.offset_bytes()),
            ));
        }
        match what {
            Reading::Record { job, .. } => {
                let site = self.backlog.jobs[job as usize].site;
                if site != NO_SITE {
                    self.sites.table[site as usize].loading -= 1;
                }
                match payload {
                    Ok(record) => {
                        self.backlog.keep_record(job, record);
                        self.make_ready_again(job);
                    }
                    Err(_) => self.defer_unread(now, job),
                }
                self.want_pump(site);
            }
            Reading::Chunk { conn: id, .. } => {
                let Some(mut conn) = self.conns.take(id) else { return };
                match payload {
                    Ok(slice) => {
                        conn.fill_body(position.0, slice);
                        self.put_outbound(now, id, conn, effects);
                    }
                    Err(_) => self.cut(now, id, conn, effects),
                }
            }
            Reading::Copy { message, .. } => self.copy_part_came(message, payload.ok(), effects),
        }
    }

    /// Fetches the next parts of a body that are not in memory. False if one is nowhere any more: the message was
    /// settled while its body was still going out, and only cutting the connection is right.
    #[must_use]
    pub(super) fn fetch_body(&mut self, id: ConnId, conn: &mut Conn, effects: &mut Vec<Effect>) -> bool {
        while let Some((name, length)) = conn.outbox.fetch_next(FETCH_AHEAD) {
            let position = Position(name);
            let chunk = ChunkRef { position, length_bytes: length as u32 };
            match self.log.chunk(&chunk) {
                Some(slice) => {
                    conn.fill_body(name, slice);
                }
                None if self.log.locate(position).is_none() => return false,
                None => self.read(Reading::Chunk { conn: id, position }, position, length as u32, effects),
            }
        }
        true
    }
}
