//! Failure reports: what a failed recipient becomes, for whoever sent the message.

use crate::base::ids::MessageId;
use crate::base::time::Now;
use crate::mail::address::domain_of;
use crate::mail::dsn::{self, FailedRecipient};
use crate::mail::text::Text;
use crate::queue::record::AcceptView;
use crate::queue::{Draft, DraftRecipient, RecipientState};
use crate::schedule::fair::Share;
use crate::schedule::list::NO_JOB;
use crate::schedule::site::JobId;
use crate::shard::backlog::Message;
use crate::shard::commit::{Committing, Waiter};
use crate::shard::outcome::{Entry, Unwritten};
use crate::shard::{Effect, Level, Shard};
use crate::smtp::client::Outcome;
use crate::smtp::data::unstuff;

/// What became of the report of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    /// There is no one to report to.
    Needless,
    /// The log has no room for it now.
    NoRoom,
    /// On its way to disk, last of what is committing.
    Appended,
}

/// A report on its way to disk. The failures that it is about are noted once it is durable: should its write fail, the
/// log would write the verdicts again but not the report, and nobody would be told.
pub(super) struct Report {
    to: Box<[u8]>,
    body: Box<[u8]>,
    pub(super) about: Unwritten,
}

impl Shard {
    /// Appends a report of the failures among `entries`, one for all of them (DSN-06). There is none for the null
    /// reverse-path (DSN-02, FND-10).
    pub(super) fn report_failure(
        &mut self,
        now: Now,
        job_id: JobId,
        entries: &[Entry],
        expired: bool,
        effects: &mut Vec<Effect>,
    ) -> Reported {
        let job = &self.backlog.jobs[job_id as usize];
        let message = &self.backlog.messages[job.message as usize];
        let record = job.record.clone().expect("a job is judged with its record at hand");
        let view = AcceptView::read(&record).expect("the record was verified when it came");
        if view.sender().is_empty() {
            self.counters.unreported_failures += 1;
            effects.push(Effect::Report(
                Level::Warning,
                format!("{}: failed, and has no sender to report to (null reverse-path)", message.id),
            ));
            return Reported::Needless;
        }
        let addresses: Vec<&[u8]> = view.recipients().map(|recipient| recipient.address).collect();
        let failed: Vec<FailedRecipient<'_>> = entries
            .iter()
            .filter(|entry| entry.outcome == Outcome::Failed)
            .map(|entry| FailedRecipient {
                address: addresses[job.recipient(entry.nth)],
                code: entry.code,
                text: &entry.text,
                phase: entry.phase,
                remote: None,
                expired,
            })
            .collect();
        let bounce = dsn::Bounce {
            reporting_mta: &self.settings.hostname,
            to: view.sender(),
            message_id: message.id,
            arrived: message.arrived,
            when: now.wall,
            recipients: &failed,
        };
        // The header is all that goes back; of a long body that is no longer in memory, as much of it as is.
        let hot: Vec<_> = message.chunks.iter().map_while(|chunk| self.log.chunk(chunk)).collect();
        let tail = if hot.len() == message.chunks.len() { &record[view.tail.clone()] } else { &[][..] };
        let mut original = std::iter::once(&record[view.prefix.clone()])
            .chain(hot.iter().map(|slice| &slice[..]))
            .chain(std::iter::once(tail));
        let mut body = Vec::new();
        dsn::write_bounce(&mut body, &bounce, &mut original);
        let about = Unwritten { message: message.id, verdicts: Vec::new() };
        let report = Report { to: view.sender().into(), body: body.into(), about };
        if self.append_report(now, Box::new(report)).is_err() {
            return Reported::NoRoom;
        }
        self.counters.bounces += 1;
        self.reports_pending += 1;
        Reported::Appended
    }

    /// Appends a report, or gives it back if the log has no room now.
    fn append_report(&mut self, now: Now, report: Box<Report>) -> Result<(), Box<Report>> {
        let recipient =
            [DraftRecipient { address: &report.to, state: RecipientState::Open, attempts: 0, due: Default::default() }];
        let body_bytes = unstuff(&report.body).map(|part| part.len() as u64).sum();
        let draft = Draft {
            copy_of: None,
            arrived: now.wall,
            text: Text::default(),
            body_bytes,
            sender: b"",
            recipients: &&recipient[..],
            chunks: &[],
            tail: &[&report.body],
        };
        let Ok(appended) = self.log.append_report(&draft) else { return Err(report) };
        let source = self.draw_source(Share::default().tenant);
        let slot = self.backlog.messages.insert(Message {
            id: appended.id,
            place: appended.place,
            chunks: Box::default(),
            arrived: now.wall,
            expires: now.mono.plus_ms(self.settings.retry.expire_ms),
            body_bytes,
            text: Text::default(),
            share: Share::default(),
            open_jobs: 0,
            first_job: NO_JOB,
            copying: false,
            committed: false,
        }) as u32;
        let destination = self.sites.add_job_of(domain_of(&report.to), source);
        self.backlog.add_job(slot, destination, 0, 1, 0);
        let report = Some(report);
        self.committing.push_back(Committing {
            ticket: appended.ticket,
            waiter: Waiter::Nobody,
            since: now.mono,
            message: slot,
            report,
        });
        Ok(())
    }

    /// Appends the reports again that a failed write took away.
    pub(super) fn repeat_reports(&mut self, now: Now) {
        while let Some(report) = self.to_repeat.pop_front() {
            if let Err(report) = self.append_report(now, report) {
                self.to_repeat.push_front(report);
                return;
            }
        }
    }

    /// True if failures of a message are reported and not yet noted.
    pub(super) fn is_being_reported(&self, message: MessageId) -> bool {
        let on_its_way = self.committing.iter().filter_map(|committing| committing.report.as_ref());
        on_its_way.chain(&self.to_repeat).any(|report| report.about.message == message)
    }
}
