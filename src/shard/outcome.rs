//! What replies mean: every verdict becomes a record, and a recipient settles, waits, or goes back to its list.
//!
//! Order matters. A failure's report is durable before the verdict that settles the recipient is appended: a crash
//! or a failed write between the two may report twice, never lose a report. A message's place is given up behind its last
//! verdict; the log uses the place again only when that verdict is durable.

use crate::base::ids::MessageId;
use crate::base::time::{Now, UnixMs};
use crate::mail::dsn::Action;
use crate::queue::{VerdictDraft, VerdictOutcome};
use crate::schedule::backoff::Backoff;
use crate::schedule::refusal::{Reason, reason};
use crate::schedule::site::JobId;
use crate::schedule::throttle::asks_for_less;
use crate::shard::backlog::{JOB_RECIPIENTS_MAX, JobState, Message, MessageSlot};
use crate::shard::bounce::Reported;
use crate::shard::timers::Timer;
use crate::shard::{Effect, Level, Shard};
use crate::smtp::client::{ClientVerdict, Outcome, Passed, Phase};

/// The code of a verdict of our own: no next hop said anything.
const NO_REPLY: u16 = 0;

/// One recipient's verdict, kept until its transaction is finished.
pub(super) struct Entry {
    pub(super) job: JobId,
    /// Which of the job's open recipients, in order.
    pub(super) nth: usize,
    pub(super) outcome: Outcome,
    pub(super) code: u16,
    pub(super) text: Box<[u8]>,
    pub(super) phase: Phase,
    /// What its sender is told.
    pub(super) told: Option<Action>,
}

impl Entry {
    /// A verdict of our own: no next hop said anything.
    pub(super) fn of_ours(job: JobId, nth: usize, outcome: Outcome, code: u16, text: &[u8]) -> Entry {
        Entry { job, nth, outcome, code, text: text.into(), phase: Phase::Session, told: None }
    }
}

/// Verdicts as sessions give them, to be judged when the session is done with its input.
#[derive(Default)]
pub(super) struct Results {
    entries: Vec<Entry>,
    pub(super) finished: Vec<(JobId, Passed)>,
    current: Vec<Entry>,
    /// A reply among those judged last that asks for less (RTE-25), if the session went on after it.
    pub(super) complaint: Option<String>,
}

impl Results {
    pub(super) fn note(&mut self, job: JobId, nth: usize, verdict: ClientVerdict<'_>) {
        let ClientVerdict { outcome, code, text, phase } = verdict;
        // What was delivered needs no words; keeping none keeps the hot path free of allocation.
        let text = if outcome == Outcome::Delivered { Box::default() } else { text.into() };
        self.entries.push(Entry { job, nth, outcome, code, text, phase, told: None });
    }
}

/// Verdicts that are noted once their report is durable.
pub(super) struct Owed {
    pub(super) message: MessageId,
    pub(super) verdicts: Vec<(VerdictDraft<'static>, Box<[u8]>)>,
}

impl Shard {
    /// Judges the transactions that were finished on one connection, in TLS or not. True if a next hop said something final
    /// about any recipient, which shows that its site is alive.
    pub(super) fn judge(&mut self, now: Now, in_clear: bool, effects: &mut Vec<Effect>) -> bool {
        let mut alive = false;
        let delivered_before = self.counters.delivered;
        while let Some((job, passed)) = self.results.finished.pop() {
            assert_eq!(
                self.backlog.jobs[job as usize].state,
                JobState::Offered,
                "a verdict is of an attempt in flight"
            );
            let mut entries = std::mem::take(&mut self.results.current);
            entries.extend(self.results.entries.extract_if(.., |entry| entry.job == job));
            let complaint = entries.iter().find(|entry| {
                entry.outcome == Outcome::Deferred && entry.code != 421 && asks_for_less(entry.code, &entry.text)
            });
            if let Some(entry) = complaint {
                self.results.complaint = Some(format!("{} {}", entry.code, String::from_utf8_lossy(&entry.text)));
            }
            alive |= entries.iter().any(|entry| matches!(entry.outcome, Outcome::Delivered | Outcome::Failed));
            self.conclude(now, job, &mut entries, passed, effects);
            entries.clear();
            self.results.current = entries;
        }
        if in_clear {
            self.counters.delivered_in_clear += self.counters.delivered - delivered_before;
        }
        alive
    }

    /// Gives all open recipients of a job that is in no list the same failure.
    pub(super) fn fail_job(&mut self, now: Now, job: JobId, code: u16, text: &str, effects: &mut Vec<Effect>) {
        let count = self.backlog.jobs[job as usize].open.count_ones() as usize;
        let mut entries: Vec<Entry> =
            (0..count).map(|nth| Entry::of_ours(job, nth, Outcome::Failed, code, text.as_bytes())).collect();
        self.conclude(now, job, &mut entries, Passed::default(), effects);
    }

    /// A job that is in no list was of an address that stood for others, which have jobs of their own: it is settled.
    pub(super) fn settle_expanded(&mut self, now: Now, job: JobId, effects: &mut Vec<Effect>) {
        let count = self.backlog.jobs[job as usize].open.count_ones() as usize;
        let mut entries: Vec<Entry> =
            (0..count).map(|nth| Entry::of_ours(job, nth, Outcome::Delivered, NO_REPLY, b"")).collect();
        self.conclude(now, job, &mut entries, Passed::default(), effects);
    }

    /// A job's record cannot be read, and an operator was told. It waits as long as a retry may if it is damaged; what the disk,
    /// or the system, would not give may be given soon.
    pub(super) fn defer_unread(&mut self, now: Now, job: JobId, damaged: bool) {
        let retry = &self.settings.retry;
        self.let_wait(now, job, if damaged { retry.longest_ms } else { retry.first_ms });
        self.leave_site(job);
    }

    /// A job that is in no list waits so long.
    pub(super) fn let_wait(&mut self, now: Now, job: JobId, wait_ms: u64) {
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::Deferred;
        entry.timer = Some(self.wheel.insert(now.mono.plus_ms(wait_ms), Timer::Job(job)));
    }

    fn conclude(&mut self, now: Now, job_id: JobId, entries: &mut [Entry], passed: Passed, effects: &mut Vec<Effect>) {
        let untried = entries.iter().filter(|entry| entry.outcome == Outcome::NotTried).count();
        self.settle_allowance(now, job_id, untried as u32);
        let expired = self.expired(now, job_id);
        for entry in entries.iter_mut() {
            self.counters.unknown_outcome += u64::from(entry.outcome == Outcome::Unknown);
            if matches!(entry.outcome, Outcome::Deferred | Outcome::Unknown) {
                self.counters.deferred += 1;
                if expired {
                    entry.outcome = Outcome::Failed;
                }
            }
        }
        let reported = self.report_to_sender(now, job_id, entries, expired, passed, effects);
        if reported == Reported::NoRoom {
            // The report must not be lost: the failure, or that an address was expanded, is found again when there is room for
            // it. Nothing is noted, for that would take the room.
            let expanded = |entry: &Entry| entry.outcome == Outcome::Delivered && entry.code == NO_REPLY;
            let owed = entries.iter_mut().filter(|entry| entry.outcome == Outcome::Failed || expanded(entry));
            owed.for_each(|entry| entry.outcome = Outcome::NotTried);
        }
        let job = &self.backlog.jobs[job_id as usize];
        let Message { id: message, arrived, .. } = self.backlog.messages[job.message as usize];
        let attempts = job.attempts.saturating_add(1);
        let backoff = Backoff { first_ms: self.settings.retry.first_ms, longest_ms: self.settings.retry.longest_ms };
        let delay_ms = backoff.delay_ms(u32::from(attempts), &mut self.rng);
        let mut settled = 0u128;
        let mut deferred = reported == Reported::NoRoom;
        for entry in entries.iter() {
            let index = job.recipient(entry.nth);
            let bit = 1u128 << (index - usize::from(job.first));
            match entry.outcome {
                Outcome::Delivered => {
                    self.counters.delivered += 1;
                    settled |= bit;
                }
                Outcome::Failed => {
                    self.counters.failed += 1;
                    settled |= bit;
                }
                Outcome::Deferred | Outcome::Unknown => deferred = true,
                Outcome::NotTried => continue,
            }
            if entry.outcome != Outcome::Delivered {
                let about = reason(entry.code, &entry.text);
                self.counters.note_reason(about);
                effects.push(Effect::Report(Level::Info, describe(message, index, entry, about)));
            }
        }
        let draft = |entry: &Entry| VerdictDraft {
            recipient: job.recipient(entry.nth) as u32,
            outcome: match entry.outcome {
                Outcome::Delivered => VerdictOutcome::Delivered,
                Outcome::Failed => VerdictOutcome::Failed,
                _ => VerdictOutcome::Deferred,
            },
            attempts,
            due: if settled & (1 << (job.recipient(entry.nth) - usize::from(job.first))) == 0 {
                now.wall + delay_ms
            } else {
                UnixMs(0)
            },
            delay_reported: job.delay_reported || matches!(entry.told, Some(Action::Delayed { .. })),
            code: entry.code,
            text: &[],
        };
        let entries = &*entries;
        // What is being reported is noted behind its report.
        let waits = |entry: &Entry| entry.told.is_some();
        let now_noted = |entry: &Entry| entry.outcome != Outcome::NotTried && !waits(entry);
        let single;
        let mut several: [VerdictDraft<'_>; JOB_RECIPIENTS_MAX];
        let drafts: &[VerdictDraft<'_>] = match entries {
            [entry] if now_noted(entry) => {
                single = [VerdictDraft { text: &entry.text, ..draft(entry) }];
                &single
            }
            [] => &[],
            entries => {
                several = [draft(&entries[0]); JOB_RECIPIENTS_MAX];
                let noted = entries.iter().filter(|entry| now_noted(entry));
                let mut count = 0;
                for (place, entry) in several.iter_mut().zip(noted) {
                    *place = VerdictDraft { text: &entry.text, ..draft(entry) };
                    count += 1;
                }
                &several[..count]
            }
        };
        if reported == Reported::Appended {
            let verdicts = entries.iter().filter(|entry| waits(entry)).map(|e| (draft(e), e.text.clone())).collect();
            self.note_reported(verdicts);
        }
        if !drafts.is_empty() {
            self.log.append_verdicts(message, drafts);
        }
        if entries.iter().any(|entry| entry.outcome == Outcome::Delivered) {
            self.latencies.delivery_ms.note(now.wall.0.saturating_sub(arrived.0));
        }
        self.backlog.settle(job_id, settled);
        let job = &mut self.backlog.jobs[job_id as usize];
        if job.open == 0 {
            let destination = job.destination;
            self.leave_site(job_id);
            self.leave_destination(now.mono, destination);
            if let Some(message) = self.backlog.remove_job(job_id) {
                self.forget_message(message);
            }
        } else if deferred {
            job.attempts = attempts;
            job.delay_reported |= entries.iter().any(|entry| matches!(entry.told, Some(Action::Delayed { .. })));
            job.state = JobState::Deferred;
            job.timer = Some(self.wheel.insert(now.mono.plus_ms(delay_ms), Timer::Job(job_id)));
            self.backlog.drop_record(job_id);
            self.leave_site(job_id);
        } else {
            self.make_ready_again(job_id);
        }
    }

    /// All recipients are settled: its place is given up, behind all verdicts that say so.
    fn forget_message(&mut self, message: MessageSlot) {
        if self.reports_pending > 0 && self.is_being_reported(self.backlog.messages[message as usize].id) {
            self.leaving.push(message);
        } else {
            self.give_up_place(message);
        }
    }

    pub(super) fn give_up_place(&mut self, message: MessageSlot) {
        let message = self.backlog.messages.remove(message as usize);
        self.log.settle(message.place, &message.chunks);
    }

    /// A report is durable: what it tells of is noted now. A message without open recipients gives up its place behind the last
    /// of its reports.
    pub(super) fn note_owed(&mut self, Owed { message, verdicts }: Owed) {
        let drafts: Vec<VerdictDraft<'_>> =
            verdicts.iter().map(|(draft, text)| VerdictDraft { text, ..*draft }).collect();
        self.log.append_verdicts(message, &drafts);
        if !self.is_being_reported(message)
            && let Some(at) =
                self.leaving.iter().position(|&leaving| self.backlog.messages[leaving as usize].id == message)
        {
            let message = self.leaving.swap_remove(at);
            self.give_up_place(message);
        }
    }
}

fn describe(message: MessageId, recipient: usize, entry: &Entry, about: Reason) -> String {
    let word = match entry.outcome {
        Outcome::Failed => "failed",
        Outcome::Unknown => "deferred, outcome unknown: no reply after the final dot, it may arrive twice",
        _ => "deferred",
    };
    let text = String::from_utf8_lossy(&entry.text);
    let about = match about {
        Reason::Other => String::new(),
        about => format!(" [{about}]"),
    };
    format!("{message} recipient {recipient} {word}: {} {text}{about}", entry.code)
}
