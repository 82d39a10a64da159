//! Reading back: what is no longer in memory is fetched from the segments, verified, and given to whoever waits.
//!
//! The number of reads under way is bounded; who finds no place goes on when any of them ends. Records that are wanted one
//! behind the other come many at a time (`ahead`). A record that cannot be read is reported and its message waits; nothing is
//! ever sent that did not check out.

use crate::base::bytes::{Block, Slice};
use crate::base::ids::{ConnId, Position};
use crate::base::time::Now;
use crate::queue::{ChunkRef, DiskError, Place, ReadId, record};
use crate::schedule::destination::DestinationId;
use crate::schedule::site::{JobId, NO_SITE, SiteId};
use crate::shard::ahead;
use crate::shard::backlog::JobState;
use crate::shard::conns::Conn;
use crate::shard::{Effect, Level, Shard};

/// What a read is for.
pub(super) enum Reading {
    /// A job's accepting record, and perhaps what stands behind it, for which others may wait too.
    Records { job: JobId, position: Position, length_bytes: u32, others: Vec<JobId> },
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
    /// True if no more records may be read for a site before some have come, however many come with one read: for what it has at
    /// hand has its place in memory until it is sent, and a site may be slow.
    pub(super) fn loads_enough(&self, site: SiteId) -> bool {
        self.sites.table[site as usize].loading as usize >= READS_MAX
    }

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
        if let Some(record) = self.record_at_hand(&place) {
            self.backlog.keep_record(job, record);
            return true;
        }
        self.take_from_list(job);
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::Loading;
        if entry.site != NO_SITE {
            self.sites.table[entry.site as usize].loading += 1;
        }
        self.read_record(job, &place, effects);
        false
    }

    /// An accepting record that is in memory.
    pub(super) fn record_at_hand(&mut self, place: &Place) -> Option<Slice> {
        self.log.record(place).or_else(|| self.ahead.record(self.id, place))
    }

    /// Begins to read a job's record, if it is not on its way already.
    pub(super) fn read_record(&mut self, job: JobId, place: &Place, effects: &mut Vec<Effect>) {
        let (from, record_bytes) = (place.position, place.record_bytes());
        for read in self.reads.values_mut() {
            if let Reading::Records { position, length_bytes, others, .. } = read
                && ahead::offset_from(*position, from).is_some_and(|offset| offset + record_bytes <= *length_bytes)
            {
                others.push(job);
                return self.ahead.note_use(from, record_bytes);
            }
        }
        let most = self.log.written_behind(from);
        let length_bytes = self.ahead.length_bytes(from, record_bytes).min(most).max(record_bytes);
        self.read_only(job, from, length_bytes, effects);
    }

    fn read_only(&mut self, job: JobId, position: Position, length_bytes: u32, effects: &mut Vec<Effect>) {
        let what = Reading::Records { job, position, length_bytes, others: Vec::new() };
        self.read(what, position, length_bytes, effects);
    }

    /// Begins to read so many bytes from the beginning of a record on.
    pub(super) fn read(&mut self, what: Reading, position: Position, length_bytes: u32, effects: &mut Vec<Effect>) {
        let (slot, offset_bytes) = self.log.locate(position).expect("what is read is not settled");
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
        match what {
            Reading::Records { job, position, length_bytes, others } => {
                let message = &self.backlog.messages[self.backlog.jobs[job as usize].message as usize];
                if let Ok(block) = &result
                    && length_bytes > message.place.record_bytes()
                {
                    self.ahead.keep(position, block.clone());
                }
                for job in std::iter::once(job).chain(others) {
                    self.record_came(now, job, (position, length_bytes), &result, effects);
                }
            }
            Reading::Chunk { conn: id, position } => {
                let part = self.checked(position, &result, effects);
                let Some(mut conn) = self.conns.take(id) else { return };
                match part {
                    Some(slice) => {
                        conn.fill_body(position.0, slice);
                        self.put_outbound(now, id, conn, effects);
                    }
                    None => self.cut(now, id, conn, effects),
                }
            }
            Reading::Copy { message, position } => {
                let part = self.checked(position, &result, effects);
                self.copy_part_came(now.mono, (message, position), part, result.is_ok(), effects);
            }
        }
    }

    /// A job's record came with what was read from somewhere before it, perhaps.
    fn record_came(
        &mut self,
        now: Now,
        job: JobId,
        (from, length_bytes): (Position, u32),
        read: &Result<Block, DiskError>,
        effects: &mut Vec<Effect>,
    ) {
        let entry = &self.backlog.jobs[job as usize];
        let (site, place) = (entry.site, self.backlog.messages[entry.message as usize].place);
        let alone = from == place.position && length_bytes == place.record_bytes();
        let record = match alone {
            true => self.checked(place.position, read, effects),
            false => read.as_ref().ok().and_then(|block| ahead::record(self.id, from, block, &place)),
        };
        if record.is_none() && !alone {
            // Whatever is wrong with it may be wrong with another one only.
            return self.read_only(job, place.position, place.record_bytes(), effects);
        }
        if site != NO_SITE {
            self.sites.table[site as usize].loading -= 1;
        }
        match record {
            Some(record) => {
                self.backlog.keep_record(job, record);
                self.make_ready_again(job);
            }
            None => self.defer_unread(now, job, read.is_ok()),
        }
        self.want_pump(site);
    }

    /// The payload of a record that was read alone, if it is what it should be; reported if not.
    fn checked(
        &mut self,
        position: Position,
        read: &Result<Block, DiskError>,
        effects: &mut Vec<Effect>,
    ) -> Option<Slice> {
        let problem = match read {
            Err(error) => error.to_string(),
            Ok(block) => match record::verify(block.bytes(), self.id, position) {
                Some(payload) => {
                    let end = record::HEADER_BYTES + payload.len();
                    return Some(Slice::new(block.clone(), record::HEADER_BYTES, end));
                }
                None => "its checksum or name is wrong".to_string(),
            },
        };
        self.counters.damaged_reads += 1;
        effects.push(Effect::Report(
            Level::Error,
            format!("shard {}: queue record at {:x}-{:x} cannot be read: {problem}; its message waits; run `ringpost spool verify`", self.id.0, position.life(), position.offset_bytes()),
        ));
        None
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
                None => self.read(Reading::Chunk { conn: id, position }, position, chunk.record_bytes(), effects),
            }
        }
        true
    }
}
