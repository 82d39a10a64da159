//! What happens when the log says *durable*, and only then: the 250, and the message entering its sites' lists.
//!
//! Messages wait here in log order and durability grows along it, so looking at the front is enough: one wake per
//! commit, whatever the number of messages in it.

use crate::base::ids::{ConnId, InjectionId};
use crate::base::time::{Mono, Now};
use crate::queue::{Commit, Ticket};
use crate::schedule::list::NO_JOB;
use crate::shard::backlog::{JobState, MessageSlot};
use crate::shard::bounce::Report;
use crate::shard::conns::{Conn, Side};
use crate::shard::{Effect, Level, Receipt, Shard};
use crate::smtp::server::{Waiting, storage_reply};

/// A message whose accepting record is on its way to disk.
pub(super) struct Committing {
    pub(super) ticket: Ticket,
    pub(super) waiter: Waiter,
    /// When it was appended.
    pub(super) since: Mono,
    pub(super) message: MessageSlot,
    /// What the message reports, if it is a report.
    pub(super) report: Option<Box<Report>>,
}

/// Who waits for a message to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A client of SMTP, for its 250.
    Client(ConnId),
    /// Whoever injected it, for its receipt.
    Injection(InjectionId),
    /// Nobody: the relay made it itself.
    Nobody,
}

impl Shard {
    /// Goes through what became durable, or failed, since the last step.
    pub(super) fn committed(&mut self, now: Now, effects: &mut Vec<Effect>) {
        // What a session appends while it is served here goes behind the messages that were there.
        while let Some(front) = self.committing.front() {
            let outcome = self.log.outcome(&front.ticket);
            if matches!(outcome, Commit::Pending) {
                break;
            }
            let Committing { ticket, waiter, since, message, report } =
                self.committing.pop_front().expect("there is a front");
            let client = match waiter {
                Waiter::Client(id) => self.conns.take(id).map(|conn| (id, conn)),
                Waiter::Injection(_) | Waiter::Nobody => None,
            };
            match outcome {
                Commit::Pending => unreachable!("looked at above"),
                Commit::Durable => {
                    let proof = self.log.prove(ticket);
                    let id = self.backlog.messages[message as usize].id;
                    self.release(now, message);
                    if waiter != Waiter::Nobody {
                        self.latencies.commit_us.note(now.mono.us_since(since));
                    }
                    if let Some(report) = report {
                        self.reports_pending -= 1;
                        self.note_owed(report.about);
                    }
                    match (client, waiter) {
                        (Some((conn_id, mut conn)), _) => {
                            let Conn { outbox, side: Side::In(inbound), .. } = &mut *conn else { unreachable!() };
                            if let Some(forwarded) = inbound.server.forwarded() {
                                effects.push(Effect::Report(Level::Debug, format!("{id} was forwarded: {forwarded}")));
                            }
                            outbox.write(|out| inbound.server.accepted(proof, id, out));
                            self.counters.accepted_messages += 1;
                            self.go_on(now, conn_id, conn, effects);
                        }
                        (None, Waiter::Client(_)) => self.counters.orphaned_acknowledgements += 1,
                        (None, Waiter::Injection(injection)) => {
                            self.injected(injection, Ok(Receipt::new(proof, id)), effects);
                        }
                        (None, Waiter::Nobody) => {}
                    }
                }
                Commit::Failed(why) => {
                    self.withdraw(now, message);
                    self.to_repeat.extend(report);
                    self.counters.refused_by_log += 1;
                    if let Some((conn_id, mut conn)) = client {
                        let Conn { outbox, side: Side::In(inbound), .. } = &mut *conn else { unreachable!() };
                        outbox.write(|out| inbound.server.refused_for_room(why, out));
                        self.go_on(now, conn_id, conn, effects);
                    } else if let Waiter::Injection(injection) = waiter {
                        self.injected(injection, Err(storage_reply(why)), effects);
                    }
                }
            }
        }
    }

    /// The client has its reply: what came behind the message, or behind AUTH, is looked at now (DAT-15).
    pub(super) fn go_on(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        let inbound = conn.inbound();
        assert!(inbound.awaiting, "a reply goes to who waits for it");
        inbound.awaiting = false;
        if inbound.server.waiting() == Waiting::Over {
            inbound.leftover.clear();
            conn.closing = true;
        }
        let inbound = conn.inbound();
        if self.draining.is_some() {
            let Conn { outbox, side: Side::In(inbound), .. } = &mut *conn else { unreachable!() };
            outbox.write(|out| inbound.server.shut_down(out));
            conn.closing = true;
        } else if inbound.leftover.is_empty() {
            self.set_client_deadline(now, id, &mut conn);
        } else {
            let leftover = std::mem::take(&mut inbound.leftover);
            self.serve(now, id, &mut conn, &leftover, effects);
            let inbound = conn.inbound();
            if inbound.leftover.capacity() == 0 {
                inbound.leftover = leftover;
                inbound.leftover.clear();
            }
        }
        self.put_inbound(id, conn, effects);
    }

    /// The message is ours now: its jobs may be sent.
    fn release(&mut self, now: Now, message: MessageSlot) {
        let message = &mut self.backlog.messages[message as usize];
        message.committed = true;
        let held = message.terms.as_ref().and_then(|terms| terms.held_until).filter(|&until| until > now.wall);
        let mut job = message.first_job;
        while job != NO_JOB {
            let next = self.backlog.jobs[job as usize].next;
            assert_eq!(self.backlog.jobs[job as usize].state, JobState::Held, "a message is committed once");
            match held {
                // That a list got it can be told at once.
                Some(until) if !self.backlog.jobs[job as usize].errand => self.let_wait(now, job, until - now.wall),
                _ => self.make_ready(now.mono, job),
            }
            job = next;
        }
    }

    /// The message is not ours: it was never durable and its sender is told so.
    fn withdraw(&mut self, now: Now, message: MessageSlot) {
        let jobs: Vec<_> = self.backlog.jobs_of(message).collect();
        for job in jobs {
            self.leave_destination(now.mono, self.backlog.jobs[job as usize].destination);
            if let Some(message) = self.backlog.remove_job(job) {
                self.give_up_place(message);
            }
        }
    }

    /// Stops taking work (SES-24).
    pub(super) fn drain(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.draining.is_some() {
            return;
        }
        let end = now.mono.plus_ms(self.settings.drain_ms);
        self.draining = Some(end);
        self.wheel.insert(end, super::Timer::Drain);
        for id in self.conns.names() {
            let Some(mut conn) = self.conns.take(id) else { continue };
            match &mut conn.side {
                Side::In(inbound) if inbound.awaiting => self.conns.put(id, conn),
                Side::In(inbound) if inbound.server.waiting() == Waiting::Handshake => {
                    self.forget_client(id, conn);
                    effects.push(Effect::Abort { conn: id });
                }
                Side::In(inbound) => {
                    if !conn.closing {
                        conn.outbox.write(|out| inbound.server.shut_down(out));
                        conn.closing = true;
                    }
                    self.put_inbound(id, conn, effects);
                }
                Side::Out(_) => {
                    self.leave_idle(id, &mut conn);
                    self.after_client(now, id, conn, effects);
                }
            }
        }
    }

    /// The drain took long enough: what is still under way is cut and stays in the queue.
    pub(super) fn end_drain(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for id in self.conns.names() {
            let Some(conn) = self.conns.get(id) else { continue };
            if conn.is_inbound() {
                let conn = self.conns.take(id).expect("it is there");
                self.client_gone(id, conn);
            } else {
                self.closed(now, id, super::CloseReason::PeerClosed, effects);
            }
            effects.push(Effect::Abort { conn: id });
        }
    }

    pub(super) fn look_whether_drained(&mut self, _now: Now, effects: &mut Vec<Effect>) {
        if self.draining.is_some()
            && !self.drained
            && self.conns.inbound + self.conns.outbound == 0
            && self.committing.is_empty()
            && self.to_repeat.is_empty()
            && !self.log.holds_verdicts()
        {
            if self.log.durable() >= self.log.appended() {
                self.drained = true;
                self.return_allowances(effects);
                self.hand_over_seen(effects);
                effects.push(Effect::Report(Level::Info, format!("shard {}: {}", self.id.0, self.counters())));
                effects.push(Effect::Drained);
            } else {
                self.log.hurry();
            }
        }
    }
}
