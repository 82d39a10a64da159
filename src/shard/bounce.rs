//! Reports: what becomes of recipients, for whoever sent the message and wants to know.
//!
//! Failures are reported unless NOTIFY says otherwise; delays and passing on only to who asked (DSN-07, DSN-08).

use crate::base::ids::MessageId;
use crate::base::limits;
use crate::base::time::{Now, UnixMs};
use crate::mail::dsn::{self, Action, Expiry, ReportedRecipient};
use crate::mail::envelope::Envelope;
use crate::mail::parameters::{self, Group, GroupKind, Late, MessageParameters, ParameterBlock, RecipientParameters};
use crate::mail::text::Text;
use crate::queue::record::AcceptView;
use crate::queue::{Draft, VerdictDraft, VerdictOutcome};
use crate::schedule::fair::Share;
use crate::schedule::list::NO_JOB;
use crate::schedule::site::JobId;
use crate::shard::backlog::{Chunks, Message};
use crate::shard::commit::{Committing, Waiter};
use crate::shard::intake::ByDomain;
use crate::shard::outcome::{Entry, Owed};
use crate::shard::terms::Terms;
use crate::shard::{Effect, Level, Shard};
use crate::smtp::client::{Outcome, Passed};
use crate::smtp::data::unstuff;
use crate::smtp::server::expanded;

/// What became of the report of a job's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    /// There is nothing that anyone wants to be told.
    Needless,
    /// The log has no room for it now.
    NoRoom,
    /// On its way to disk, last of what is committing.
    Appended,
}

/// A report on its way to disk. What it is about is noted once it is durable: should its write fail, the log would write the
/// verdicts again but not the report, and nobody would be told.
pub(super) struct Report {
    to: Box<[u8]>,
    body: Box<[u8]>,
    /// Of the message that the report is.
    parameters: Box<[u8]>,
    pub(super) about: Owed,
}

impl Shard {
    /// Appends a report of what its sender wants to be told among `entries`, one for all of them (DSN-06), and marks those.
    /// There is none for the null reverse-path (DSN-02, FND-10).
    pub(super) fn report_to_sender(
        &mut self,
        now: Now,
        job_id: JobId,
        entries: &mut [Entry],
        expired: bool,
        passed: Passed,
        effects: &mut Vec<Effect>,
    ) -> Reported {
        let job = &self.backlog.jobs[job_id as usize];
        let message = &self.backlog.messages[job.message as usize];
        let terms = message.terms.as_deref();
        let takes_long = terms.is_some_and(|terms| now.wall >= terms.delay_at) && !job.delay_reported;
        let worth_a_look = |entry: &Entry| match entry.outcome {
            Outcome::Failed => true,
            Outcome::Delivered => terms.is_some_and(|terms| terms.tells_success),
            Outcome::Deferred | Outcome::Unknown => takes_long,
            Outcome::NotTried => false,
        };
        if !entries.iter().any(worth_a_look) {
            return Reported::Needless;
        }
        let record = self.backlog.record(job_id).cloned().expect("a job is judged with its record at hand");
        let view = AcceptView::read(&record).expect("the record was verified when it came");
        let failures = entries.iter().filter(|entry| entry.outcome == Outcome::Failed).count();
        let number = job.recipient(0);
        let (sender, stretch) = (view.sender_of(number), view.parameters().stretch(number));
        if sender.is_empty() {
            if failures > 0 {
                self.counters.unreported_failures += 1;
                effects.push(Effect::Report(
                    Level::Warning,
                    format!("{}: failed, and has no sender to report to (null reverse-path)", message.id),
                ));
            }
            return Reported::Needless;
        }
        let said = view.parameters();
        let mut message_said = said.message();
        if stretch.is_list() {
            // To the owner of a list it is another message than the one that was sent to it.
            (message_said.ret, message_said.envid) = (None, None);
        }
        let until = now.wall + message.expires.ms_since(now.mono);
        for entry in entries.iter_mut().filter(|entry| worth_a_look(entry)) {
            let recipient = said.recipient(job.recipient(entry.nth));
            entry.told = told(entry.outcome, &message_said, &recipient, passed, Action::Delayed { until });
            if let Some(Group { kind, .. }) = stretch.group
                && entry.told == Some(Action::Relayed)
            {
                entry.told = Some(match kind {
                    GroupKind::ToldDelivered => Action::Delivered,
                    GroupKind::ToldExpanded => Action::Expanded,
                    GroupKind::List | GroupKind::ListByMember => Action::Relayed,
                });
            }
        }
        if entries.iter().all(|entry| entry.told.is_none()) {
            return Reported::Needless;
        }
        let addresses: Vec<&[u8]> = view.recipients().map(|recipient| recipient.address).collect();
        let by_sender = terms.is_some_and(|terms| terms.too_late(now.wall));
        let expiry = if by_sender { Expiry::DeliverBy } else { Expiry::Age };
        let recipients: Vec<ReportedRecipient<'_>> = entries
            .iter()
            .filter_map(|entry| {
                let number = job.recipient(entry.nth);
                Some(ReportedRecipient {
                    address: addresses[number],
                    orcpt: said.recipient(number).orcpt,
                    action: entry.told?,
                    code: entry.code,
                    text: &entry.text,
                    phase: entry.phase,
                    remote: None,
                    expired: (expired && entry.outcome == Outcome::Failed).then_some(expiry),
                })
            })
            .collect();
        let hot: Vec<_> = message.chunks.iter().map_while(|chunk| self.log.chunk(chunk)).collect();
        let whole = hot.len() == message.chunks.len();
        let asked_in_full = message_said.ret.is_some_and(|ret| ret.eq_ignore_ascii_case(b"FULL"));
        let failed = recipients.iter().any(|recipient| recipient.action == Action::Failed);
        let report = dsn::Report {
            reporting_mta: &self.settings.hostname,
            to: &sender,
            message_id: message.id,
            envid: message_said.envid,
            arrived: message.arrived,
            when: now.wall,
            // What would have to be changed to be given back in full, or holds a secret, goes back as a header (RTL-03).
            full: asked_in_full
                && failed
                && whole
                && view.text == Text::default()
                && view.body_bytes <= limits::REPORT_FULL_MAX_BYTES
                && !message_said.require_tls,
            utf8: message_said.utf8,
            recipients: &recipients,
        };
        // Of a long body that is no longer in memory, as much of it as is.
        let tail = if whole { &record[view.tail.clone()] } else { &[][..] };
        let mut original = std::iter::once(&record[view.prefix.clone()])
            .chain(hot.iter().map(|slice| &slice[..]))
            .chain(std::iter::once(tail));
        let mut body = Vec::new();
        dsn::write_report(&mut body, &report, &mut original);
        let own = MessageParameters {
            // The only thing in it that may not be ASCII stands in the header.
            utf8: !sender.is_ascii(),
            utf8_header: !sender.is_ascii(),
            require_tls: message_said.require_tls,
            ..MessageParameters::default()
        };
        let mut parameters = Vec::new();
        parameters::write_message(&mut parameters, &own);
        let about = Owed { message: message.id, verdicts: Vec::new() };
        self.sign_own(now, &mut body);
        let to = (&*sender).into();
        let report = Report { to, body: body.into(), parameters: parameters.into(), about };
        if self.append_report(now, Box::new(report)).is_err() {
            entries.iter_mut().for_each(|entry| entry.told = None);
            return Reported::NoRoom;
        }
        self.counters.bounces += 1;
        self.reports_pending += 1;
        Reported::Appended
    }

    /// Notes what the report appended last is about; the log has it once the report is durable.
    pub(super) fn note_reported(&mut self, verdicts: Vec<(VerdictDraft<'static>, Box<[u8]>)>) {
        let report = self.committing.back_mut().and_then(|committing| committing.report.as_mut());
        report.expect("the report is the last of what is committing").about.verdicts = verdicts;
    }

    /// True if a job waits so long that its sender is to be told, and was not.
    pub(super) fn delay_is_due(&self, now: Now, job: JobId) -> bool {
        let job = &self.backlog.jobs[job as usize];
        let message = &self.backlog.messages[job.message as usize];
        !job.delay_reported && message.terms.as_ref().is_some_and(|terms| now.wall >= terms.delay_at)
    }

    /// Tells the sender that a job whose record is at hand takes long, if the sender wants to know (DSN-07).
    pub(super) fn report_delay(&mut self, now: Now, job_id: JobId, effects: &mut Vec<Effect>) {
        let text = b"4.4.1 the next hop could not be reached";
        let count = self.backlog.jobs[job_id as usize].open.count_ones() as usize;
        let mut entries: Vec<Entry> =
            (0..count).map(|nth| Entry::of_ours(job_id, nth, Outcome::Deferred, 0, text)).collect();
        let reported = self.report_to_sender(now, job_id, &mut entries, false, Passed::default(), effects);
        let job = &mut self.backlog.jobs[job_id as usize];
        // Who does not want to be told is not looked at again.
        job.delay_reported = reported != Reported::NoRoom;
        if reported != Reported::Appended {
            return;
        }
        let verdicts = entries.iter().filter(|entry| entry.told.is_some()).map(|entry| {
            let draft = VerdictDraft {
                recipient: job.recipient(entry.nth) as u32,
                outcome: VerdictOutcome::Deferred,
                attempts: job.attempts,
                due: now.wall,
                delay_reported: true,
                code: 0,
                text: &[],
            };
            (draft, entry.text.clone())
        });
        let verdicts = verdicts.collect();
        self.note_reported(verdicts);
    }

    /// Appends a report, or gives it back if the log has no room now.
    fn append_report(&mut self, now: Now, report: Box<Report>) -> Result<(), Box<Report>> {
        // The sender may be an address of our own table: its reports go where its mail goes.
        let mut envelope = Envelope::new();
        envelope.push_recipient(&report.to);
        if let Some(table) = &self.settings.aliases.table
            && let Ok(Some(whole)) = expanded(table, &envelope)
        {
            envelope = whole;
        }
        envelope.sort(&mut self.by_domain);
        self.parameters.clear();
        self.parameters.extend_from_slice(&report.parameters);
        let recipients = ByDomain { envelope: &envelope, order: &self.by_domain, held_until: UnixMs(0) };
        let body_bytes = unstuff(&report.body).map(|part| part.len() as u64).sum();
        let text = Text { eight_bit: !report.body.is_ascii(), ..Text::default() };
        let draft = Draft {
            copy_of: None,
            arrived: now.wall,
            text,
            body_bytes,
            sender: b"",
            recipients: &recipients,
            parameters: &report.parameters,
            chunks: &[],
            tail: &[&report.body],
        };
        let Ok(appended) = self.log.append_report(&draft) else { return Err(report) };
        let terms = Terms::of(ParameterBlock(&report.parameters), now.wall, self.settings.report.delay_ms);
        let slot = self.backlog.messages.insert(Message {
            id: appended.id,
            place: appended.place,
            chunks: Chunks::default(),
            arrived: now.wall,
            expires: now.mono.plus_ms(self.settings.retry.expire_ms),
            share: Share::default(),
            terms,
            open_jobs: 0,
            first_job: NO_JOB,
            copying: false,
            committed: false,
        }) as u32;
        self.cut_into_jobs(slot, &envelope, Share::default().tenant);
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
        self.reports_of(message).next().is_some()
    }

    /// Recipients of a message that settle once their report is noted. One whose delay is reported goes on meanwhile, and may
    /// have been delivered.
    pub(super) fn owed(&self, message: MessageId) -> impl Iterator<Item = u32> {
        let drafts = self.reports_of(message).flat_map(|report| report.about.verdicts.iter().map(|(draft, _)| draft));
        drafts.filter(|draft| draft.outcome != VerdictOutcome::Deferred).map(|draft| draft.recipient)
    }

    fn reports_of(&self, message: MessageId) -> impl Iterator<Item = &Report> {
        let on_its_way = self.committing.iter().filter_map(|committing| committing.report.as_deref());
        let again = self.to_repeat.iter().map(|report| &**report);
        on_its_way.chain(again).filter(move |report| report.about.message == message)
    }
}

/// What the sender is told of a recipient, if it is to be told anything (DSN-07, DSN-08; RFC 3461 4.1, 5.2.2, RFC 2852 4).
fn told(
    outcome: Outcome,
    message: &MessageParameters<'_>,
    recipient: &RecipientParameters<'_>,
    passed: Passed,
    delayed: Action,
) -> Option<Action> {
    let wants = recipient.wants();
    let never = recipient.notify.eq_ignore_ascii_case(b"NEVER");
    let (notified, traced) =
        message.deliver_by.map_or((false, false), |deliver| (deliver.late == Late::Notify, deliver.traced));
    match outcome {
        Outcome::Failed => wants.failure.then_some(Action::Failed),
        Outcome::Delivered => {
            let on_its_own = wants.success && !passed.dsn;
            let for_deadline = !never && (traced || (notified && !passed.deliver_by));
            (on_its_own || for_deadline).then_some(Action::Relayed)
        }
        Outcome::Deferred | Outcome::Unknown => {
            (wants.delay || (notified && recipient.notify.is_empty())).then_some(delayed)
        }
        Outcome::NotTried => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::parameters::DeliverBy;

    /// DSN-07, DSN-08: all outcomes against all wishes.
    #[test]
    fn who_is_told_what() {
        let delayed = Action::Delayed { until: UnixMs(1) };
        let plain = MessageParameters::default();
        let on = Passed { dsn: true, deliver_by: false };
        // NOTIFY: failed, delivered to who reports not, delivered to who reports, deferred.
        for (notify, failed, relayed, handed_on, deferred) in [
            ("", true, false, false, false),
            ("NEVER", false, false, false, false),
            ("SUCCESS", false, true, false, false),
            ("FAILURE", true, false, false, false),
            ("DELAY", false, false, false, true),
            ("SUCCESS,FAILURE,DELAY", true, true, false, true),
        ] {
            let recipient = RecipientParameters { notify: notify.as_bytes(), orcpt: b"" };
            let tell = |outcome, passed| told(outcome, &plain, &recipient, passed, delayed);
            assert_eq!(tell(Outcome::Failed, on), failed.then_some(Action::Failed), "{notify}");
            assert_eq!(tell(Outcome::Delivered, Passed::default()), relayed.then_some(Action::Relayed), "{notify}");
            assert_eq!(tell(Outcome::Delivered, on), handed_on.then_some(Action::Relayed), "{notify}");
            assert_eq!(tell(Outcome::Deferred, on), deferred.then_some(delayed), "{notify}");
            assert_eq!(tell(Outcome::Unknown, on), deferred.then_some(delayed), "{notify}");
            assert_eq!(tell(Outcome::NotTried, on), None);
        }
        // EXT-11: with a deadline of which the next hop knows nothing.
        for (notify, traced, relayed, late) in
            [("", false, true, true), ("NEVER", true, false, false), ("FAILURE", false, true, false)]
        {
            let deliver_by = Some(DeliverBy { by: UnixMs(0), late: Late::Notify, traced });
            let message = MessageParameters { deliver_by, ..plain };
            let recipient = RecipientParameters { notify: notify.as_bytes(), orcpt: b"" };
            let tell = |outcome| told(outcome, &message, &recipient, on, delayed);
            assert_eq!(tell(Outcome::Delivered), relayed.then_some(Action::Relayed), "{notify}");
            assert_eq!(tell(Outcome::Deferred), late.then_some(delayed), "{notify}");
        }
    }
}
