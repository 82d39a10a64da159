//! The shard's deadlines: one wheel, behind one timer of the shell.
//!
//! A connection's deadline moves with every byte, so it is not re-armed each time: the wheel's entry may fire
//! early, and is then set anew for the deadline that holds by then.

use crate::base::ids::ConnId;
use crate::base::time::{Mono, Now};
use crate::schedule::destination::DestinationId;
use crate::schedule::rate::BucketId;
use crate::schedule::site::{JobId, SiteId};
use crate::shard::backlog::JobState;
use crate::shard::conns::Conn;
use crate::shard::{Effect, Shard};

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A connection's peer was silent.
    Conn(ConnId),
    /// A job's next attempt.
    Job(JobId),
    /// A site's pause is over.
    Site(SiteId),
    /// A destination's pause is over.
    Destination(DestinationId),
    /// Clients that were refused for want of room may be read from again.
    Resting,
    /// Destinations without mail may be forgotten.
    Lingering,
    /// Messages to a site whose home this is may be allowed again.
    Rate(BucketId),
    /// What days' limits hold up is to be looked at.
    WarmUp,
    /// What an operator gives up is to be looked at.
    Orders,
    /// What was seen of TLS is to be handed over.
    TlsSeen,
    /// The drain took long enough.
    Drain,
}

impl Shard {
    /// Makes sure the wheel fires no later than the connection's deadline.
    pub(super) fn watch(&mut self, now: Mono, id: ConnId, conn: &mut Conn) {
        if let Some((timer, due)) = conn.timer {
            // An entry that fires before the deadline will be moved when it fires.
            if due <= conn.deadline {
                return;
            }
            self.wheel.cancel(timer);
        }
        conn.timer = None;
        if conn.deadline != Mono::NEVER {
            let due = conn.deadline.max(now);
            conn.timer = Some((self.wheel.insert(due, Timer::Conn(id)), due));
        }
    }

    /// Takes the connection's entry out of the wheel, before it is removed.
    pub(super) fn unwatch(&mut self, conn: &mut Conn) {
        if let Some((timer, _)) = conn.timer.take() {
            self.wheel.cancel(timer);
        }
    }

    pub(super) fn fire_timers(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.wheel.next_due() > now.mono {
            return;
        }
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(now.mono, &mut |timer| fired.push(timer));
        for timer in fired.drain(..) {
            match timer {
                Timer::Conn(id) => self.conn_due(now, id, effects),
                Timer::Job(job) => self.job_due(now.mono, job),
                Timer::Site(site) => self.site_due(site),
                Timer::Destination(destination) => self.want_finding(destination),
                Timer::Resting => self.resting_due(now, effects),
                Timer::Lingering => self.lingering_due(now.mono),
                Timer::Rate(bucket) => self.rate_due(now, bucket, effects),
                Timer::WarmUp => self.warm_ups_due(now, effects),
                Timer::Orders => self.orders_due(),
                Timer::TlsSeen => self.hand_over_seen(effects),
                Timer::Drain => self.end_drain(now, effects),
            }
        }
        self.fired = fired;
    }

    fn conn_due(&mut self, now: Now, id: ConnId, effects: &mut Vec<Effect>) {
        let Some(mut conn) = self.conns.take(id) else { return };
        conn.timer = None;
        if conn.deadline > now.mono {
            self.watch(now.mono, id, &mut conn);
            self.conns.put(id, conn);
        } else if conn.is_inbound() {
            self.client_silent(now, id, conn, effects);
        } else {
            self.next_hop_silent(now, id, conn, effects);
        }
    }

    fn job_due(&mut self, now: Mono, job: JobId) {
        let entry = &mut self.backlog.jobs[job as usize];
        assert_eq!(entry.state, JobState::Deferred, "only a deferred job waits for a moment");
        entry.timer = None;
        self.make_ready(now, job);
    }
}
