//! What the shard has taken responsibility for: the live messages, and the jobs they were cut into.
//!
//! A job is the part of a message that goes to one site in one transaction: recipients of one domain
//! (RTE-18, RTE-19), at most [`JOB_RECIPIENTS_MAX`]. Recipients stand in the accepting record sorted by domain,
//! so a job is a run of them and a mask of those still open. The body and the addresses stay in the log; per
//! job the memory is a few dozen bytes.

use std::ops::Deref;

use slab::Slab;

use crate::base::bytes::Slice;
use crate::base::checksum::crc32c;
use crate::base::ids::MessageId;
use crate::base::time::{Mono, UnixMs};
use crate::queue::{ChunkRef, Place};
use crate::schedule::destination::DestinationId;
use crate::schedule::fair::Share;
use crate::schedule::list::{Links, NO_JOB};
use crate::schedule::site::{JobId, NO_SITE, SiteId};
use crate::schedule::wheel::TimerId;
use crate::shard::terms::Terms;

/// Index of a message in its shard's table.
pub(super) type MessageSlot = u32;

/// No record is at hand.
const NO_RECORD: u32 = u32::MAX;

/// Recipients of one job: the mask's width.
pub(super) const JOB_RECIPIENTS_MAX: usize = 128;

/// The parts of a message's body that stand apart from its record, of most messages none.
#[derive(Clone, Default)]
pub(super) struct Chunks(Option<Box<Parts>>);

#[derive(Clone)]
struct Parts {
    all: Box<[ChunkRef]>,
}

impl From<&[ChunkRef]> for Chunks {
    fn from(parts: &[ChunkRef]) -> Chunks {
        Chunks((!parts.is_empty()).then(|| Box::new(Parts { all: parts.into() })))
    }
}

impl Deref for Chunks {
    type Target = [ChunkRef];

    fn deref(&self) -> &[ChunkRef] {
        self.0.as_deref().map_or(&[], |parts| &parts.all)
    }
}

/// A message that is on disk or on its way there. There may be millions: what its record says is not said again.
pub(super) struct Message {
    pub(super) id: MessageId,
    pub(super) place: Place,
    pub(super) chunks: Chunks,
    pub(super) arrived: UnixMs,
    /// After this moment it is given up.
    pub(super) expires: Mono,
    /// For whom it is sent, and how urgent it is.
    pub(super) share: Share,
    /// What was asked for beside delivery.
    pub(super) terms: Option<Box<Terms>>,
    /// The jobs that are not over.
    pub(super) open_jobs: u16,
    /// Head of the list of its jobs, through `Job::next`.
    pub(super) first_job: JobId,
    /// Its accepting record is durable.
    pub(super) committed: bool,
    /// A copy of it is being made by reclaim.
    pub(super) copying: bool,
}

/// Where a job stands. `Held > Waiting | Ready`, `Waiting > Ready | Loading`, `Ready > Loading | Offered | Waiting`,
/// `Loading > Ready | Waiting`, `Offered > over | Ready | Deferred`, `Deferred > Waiting | Ready`. `OnHold` stands in for `Waiting`
/// and `Ready` while an operator wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobState {
    /// The message is not committed yet.
    Held,
    /// In its destination's list, until DNS says where it goes.
    Waiting,
    /// In its site's list.
    Ready,
    /// Its record is being read back.
    Loading,
    /// A transaction is under way.
    Offered,
    /// In no list: an operator holds it, or gives it up.
    OnHold,
    /// Waits for its next attempt.
    Deferred,
}

/// What the configuration says of a domain, for a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routed {
    pub(super) destination: DestinationId,
    /// The domain's checksum.
    pub(super) domain: u32,
}

/// Some recipients of a message, one transaction's worth. Packed, for the bits want twice as much room between two as all else.
#[repr(Rust, packed(8))]
pub(super) struct Job {
    pub(super) message: MessageSlot,
    /// Where the configuration sends it.
    pub(super) destination: DestinationId,
    /// The site it was given to; `NO_SITE` while it waits for DNS or for its next attempt.
    pub(super) site: SiteId,
    /// The checksum of its recipients' domain, by which operators' orders find it.
    pub(super) domain: u32,
    /// It is to be given up, or routed anew, and is on hold for that.
    pub(super) errand: bool,
    /// The first recipient's index in the record.
    pub(super) first: u16,
    /// Attempts that ended with a temporary failure.
    pub(super) attempts: u16,
    /// The sender was told that it takes long.
    pub(super) delay_reported: bool,
    /// Bit `i` stands for recipient `first + i`; set while it is pending, in flight or deferred.
    pub(super) open: u128,
    pub(super) state: JobState,
    pub(super) timer: Option<TimerId>,
    /// Its accepting record's place among the backlog's, while it is needed; else `NO_RECORD`.
    record: u32,
    pub(super) next: JobId,
}

impl Job {
    /// The record's index of the `nth` open recipient.
    pub(super) fn recipient(&self, nth: usize) -> usize {
        let mut open = self.open;
        for _ in 0..nth {
            open &= open - 1;
        }
        assert!(open != 0, "the {nth}th open recipient of {}", self.open.count_ones());
        usize::from(self.first) + open.trailing_zeros() as usize
    }
}

const _: () = assert!(size_of::<Message>() <= 80 && size_of::<Job>() <= 56);

/// By which operators' orders find a job: the checksum of its domain in lower case.
pub(super) fn domain_mark(lower: &[u8]) -> u32 {
    crc32c(&[lower])
}

/// The live messages and jobs.
#[derive(Default)]
pub(super) struct Backlog {
    pub(super) messages: Slab<Message>,
    pub(super) jobs: Slab<Job>,
    /// What stands before and behind each job in the list it is in.
    pub(super) links: Links,
    /// The accepting records that jobs need: of few at a time, and so not in the jobs themselves.
    pub(super) records: Slab<Slice>,
    /// Recipients that are not settled.
    pub(super) open_recipients: u64,
}

impl Backlog {
    /// Adds a job to a message; its destination must have been told.
    pub(super) fn add_job(
        &mut self,
        message: MessageSlot,
        routed: Routed,
        first: u16,
        open: u128,
        attempts: u16,
    ) -> JobId {
        assert!(open != 0, "a job has open recipients");
        let entry = &mut self.messages[message as usize];
        self.open_recipients += u64::from(open.count_ones());
        let job = self.jobs.insert(Job {
            message,
            destination: routed.destination,
            site: NO_SITE,
            domain: routed.domain,
            errand: false,
            first,
            attempts,
            delay_reported: false,
            open,
            state: JobState::Held,
            timer: None,
            record: NO_RECORD,
            next: entry.first_job,
        }) as JobId;
        entry.first_job = job;
        entry.open_jobs += 1;
        job
    }

    /// Leaves a job its first `count` open recipients, of more, and makes another of the rest.
    pub(super) fn split(&mut self, id: JobId, count: usize) -> JobId {
        let job = &mut self.jobs[id as usize];
        let mut rest = job.open;
        for _ in 0..count {
            rest &= rest - 1;
        }
        job.open &= !rest;
        let (message, destination, first, attempts) = (job.message, job.destination, job.first, job.attempts);
        let (state, site, told) = (job.state, job.site, job.delay_reported);
        let routed = Routed { destination, domain: job.domain };
        self.open_recipients -= u64::from(rest.count_ones());
        let other = self.add_job(message, routed, first, rest, attempts);
        let job = &mut self.jobs[other as usize];
        (job.state, job.site, job.delay_reported) = (state, site, told);
        if let Some(record) = self.record(id).cloned() {
            self.keep_record(other, record);
        }
        other
    }

    /// The accepting record of a job, if it is at hand.
    pub(super) fn record(&self, job: JobId) -> Option<&Slice> {
        self.records.get(self.jobs[job as usize].record as usize)
    }

    /// Has a job's accepting record at hand until it is dropped.
    pub(super) fn keep_record(&mut self, job: JobId, record: Slice) {
        self.drop_record(job);
        self.jobs[job as usize].record = self.records.insert(record) as u32;
    }

    /// A job needs its record no more; harmless if it is not at hand.
    pub(super) fn drop_record(&mut self, job: JobId) {
        self.records.try_remove(std::mem::replace(&mut self.jobs[job as usize].record, NO_RECORD) as usize);
    }

    /// Of whose part of a site a job is.
    pub(super) fn share(&self, job: JobId) -> Share {
        self.messages[self.jobs[job as usize].message as usize].share
    }

    /// The jobs of a message, the youngest first.
    pub(super) fn jobs_of(&self, message: MessageSlot) -> impl Iterator<Item = JobId> + '_ {
        let mut next = self.messages[message as usize].first_job;
        std::iter::from_fn(move || {
            let job = next;
            (job != NO_JOB).then(|| {
                next = self.jobs[job as usize].next;
                job
            })
        })
    }

    /// Removes a job that is over. Names the message if it was its last; it is the caller's to remove.
    pub(super) fn remove_job(&mut self, job: JobId) -> Option<MessageSlot> {
        let id = job;
        self.drop_record(id);
        let job = self.jobs.remove(id as usize);
        assert!(job.timer.is_none(), "a job that is over waits for nothing");
        self.open_recipients -= u64::from(job.open.count_ones());
        let message = &mut self.messages[job.message as usize];
        if message.first_job == id {
            message.first_job = job.next;
        } else {
            let mut before = message.first_job;
            while self.jobs[before as usize].next != id {
                before = self.jobs[before as usize].next;
            }
            self.jobs[before as usize].next = job.next;
        }
        message.open_jobs -= 1;
        (message.open_jobs == 0).then_some(job.message)
    }

    /// Marks recipients of a job as settled.
    pub(super) fn settle(&mut self, job: JobId, settled: u128) {
        let job = &mut self.jobs[job as usize];
        assert!(job.open & settled == settled, "terminal absorbs: a recipient settles once");
        job.open &= !settled;
        self.open_recipients -= u64::from(settled.count_ones());
    }
}
