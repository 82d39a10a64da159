//! Failure reports: what a failed recipient becomes, for whoever sent the message.

use crate::base::time::Now;
use crate::mail::address::domain_of;
use crate::mail::dsn::{self, FailedRecipient};
use crate::queue::record::AcceptView;
use crate::queue::{Draft, DraftRecipient, RecipientState};
use crate::schedule::site::JobId;
use crate::shard::backlog::{Message, NO_JOB};
use crate::shard::commit::Committing;
use crate::shard::outcome::Entry;
use crate::shard::{Effect, Level, Shard};
use crate::smtp::client::Outcome;
use crate::smtp::data::unstuff;

impl Shard {
    /// Appends a report of the failures among `entries`, one for all of them (DSN-06). False if the log has no room now.
    /// There is none for the null reverse-path (DSN-02, FND-10).
    pub(super) fn report_failure(
        &mut self,
        now: Now,
        job_id: JobId,
        entries: &[Entry],
        expired: bool,
        effects: &mut Vec<Effect>,
    ) -> bool {
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
            return true;
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
        let recipient = [DraftRecipient {
            address: view.sender(),
            state: RecipientState::Open,
            attempts: 0,
            due: Default::default(),
        }];
        let body_bytes = unstuff(&body).map(|part| part.len() as u64).sum();
        let draft = Draft {
            copy_of: None,
            arrived: now.wall,
            eight_bit: false,
            body_bytes,
            sender: b"",
            recipients: &&recipient[..],
            chunks: &[],
            tail: &[&body],
        };
        let Ok(appended) = self.log.append_accept(&draft, &mut |_, _| {}) else { return false };
        self.counters.bounces += 1;
        let slot = self.backlog.messages.insert(Message {
            id: appended.id,
            place: appended.place,
            chunks: Box::default(),
            arrived: now.wall,
            expires: now.mono.plus_ms(self.settings.retry.expire_ms),
            body_bytes,
            eight_bit: false,
            open_jobs: 0,
            first_job: NO_JOB,
            copying: false,
            committed: false,
        }) as u32;
        let site = self.sites.of_domain(domain_of(view.sender()));
        self.sites.table[site as usize].jobs += 1;
        self.backlog.add_job(slot, site, 0, 1, 0);
        self.committing.push_back(Committing { ticket: appended.ticket, conn: None, message: slot });
        true
    }
}
