//! One core's post office: the whole relay but for sockets, files and clocks.
//!
//! A [`Shard`] is a plain struct with one door, [`Shard::step`]: time and one input go in, effects come out. It
//! runs on the thread of its core and nowhere else; it never blocks, reads a clock or asks for randomness that
//! its seed does not give. The glommio shell (`runtime/`) and the simulator (`tests/sim`) are its two shells.
//!
//! - `intake`: from the first byte of a client to the 250; `injection`: the same for messages that come whole, not by SMTP.
//! - `signing`: which of them are signed.
//! - `commit`: what happens when the log says *durable*, and only then.
//! - `finding`: from a job's destination to its site, by what DNS says.
//! - `dispatch`: which site may do something; `delivery`: from its list to the next hop's reply; `body`: what it is sent;
//!   `reading`: what must be fetched from disk for it; `outcome`: what the reply means; `pacing`: what a complaint leads to.
//! - `auth`: who a client is, asked and answered; `etrn`: what it would have started; `tls`: when a connection goes inside TLS, either way.
//! - `crowd`: how many connections somebody has.
//! - `change`: what other settings mean for what there is.
//! - `orders`: what operators hold, give up and try at once; `paced`: tenants that they gave a rate. `warm_up`: sources that send so many a day.
//! - `backlog`: the live messages; `conns`: the connections; `reclaim`: moving stragglers; `bounce`: reports.
//!
//! Panics mean a broken invariant of our own, never something from outside; errors are answered to the peer
//! (4xx, 5xx) and reported; warnings and worse reach the operator as [`Effect::Report`].

mod ahead;
mod auth;
mod backlog;
mod body;
mod bounce;
mod change;
mod commit;
mod conns;
mod conveyed;
mod counters;
mod crowd;
mod delivery;
mod dispatch;
mod effect;
mod etrn;
mod finding;
mod injection;
mod input;
mod intake;
pub mod orders;
mod outcome;
mod paced;
mod pacing;
pub mod parcel;
mod reading;
mod reclaim;
mod report;
mod signing;
mod sites;
mod terms;
mod timers;
mod tls;
mod tls_reports;
mod warm_up;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::bytes::{BlockSource, Outbox};
use crate::base::ids::{ConnId, ShardId};
use crate::base::limits;
use crate::base::rng::Rng;
use crate::base::time::{Mono, Now};
use crate::config::{Role, Settings};
use crate::queue::{DiskOrder, Log, LogSettings, ReadId, ShardStart};
use crate::route::QueryId;
use crate::route::reports::Seen;
use crate::schedule::destination::DestinationId;
use crate::schedule::site::SiteId;
use crate::schedule::wheel::Wheel;
use crate::smtp::client::ClientSettings;
use crate::smtp::server::ServerSettings;

pub use counters::{Counters, Known, Latencies};
pub use effect::{Effect, Level, Receipt, TlsRole};
pub use input::{CloseReason, Input, Origin, TlsInfo};
pub use report::{ShardReport, SiteReport};

use backlog::Backlog;
use commit::Committing;
use conns::Conns;
use crowd::Crowd;
use outcome::Results;
use reading::Reading;
use sites::Sites;
use timers::Timer;

/// What a shard is made from.
pub struct Setup {
    /// Its number, `0..settings.shards`.
    pub id: ShardId,
    /// The settings, the same for all shards.
    pub settings: Arc<Settings>,
    /// What recovery found in its part of the spool.
    pub start: ShardStart,
    /// Where the log's blocks come from.
    pub blocks: Box<dyn BlockSource>,
    /// Everything random follows from this.
    pub seed: u64,
    /// The moment of making.
    pub now: Now,
}

/// One core's post office.
pub struct Shard {
    id: ShardId,
    settings: Arc<Settings>,
    /// By role.
    server_settings: [Rc<ServerSettings>; Role::ALL.len()],
    /// By source, without and with BDAT.
    client_settings: Vec<[Rc<ClientSettings>; 2]>,
    rng: Rng,
    log: Log,
    backlog: Backlog,
    conns: Conns,
    crowd: Crowd,
    sites: Sites,
    wheel: Wheel<Timer>,
    /// Messages whose accepting record is on its way to disk, in log order.
    committing: VecDeque<Committing>,
    /// Reports whose write failed; tried again with every step.
    to_repeat: VecDeque<Box<bounce::Report>>,
    /// Reports that are not durable yet.
    reports_pending: usize,
    /// Messages without jobs, some of whose recipients are being reported.
    leaving: Vec<backlog::MessageSlot>,
    results: Results,
    reads: rustc_hash::FxHashMap<ReadId, Reading>,
    /// Records that came with others.
    ahead: ahead::Ahead,
    /// Sites that could not begin a read because too many were under way.
    waiting_for_reads: VecDeque<SiteId>,
    /// Destinations that could not, for what is to be failed.
    waiting_to_fail: Vec<DestinationId>,
    next_read: u64,
    queries: rustc_hash::FxHashMap<QueryId, DestinationId>,
    next_query: u64,
    /// Questions on their way at a time.
    queries_max: usize,
    /// Destinations that could not ask because too many questions were on their way.
    waiting_to_ask: VecDeque<DestinationId>,
    /// Sites with mail and without a connection, while the shard has all that it may; some may be gone by now.
    waiting_for_slot: VecDeque<SiteId>,
    /// Sites with connections that could make room, each once; some may have none any more, or be gone.
    sites_at_rest: VecDeque<SiteId>,
    reclaim: reclaim::Reclaim,
    /// Clients that are not read from because too much waits for the disk.
    held_back: Vec<ConnId>,
    /// Clients that were refused for want of room, and until when each is not read from.
    resting: VecDeque<(Mono, ConnId)>,
    /// Destinations to be looked at at the end of this step.
    to_find: Vec<DestinationId>,
    /// Sites that may have something to do at the end of this step.
    to_pump: Vec<SiteId>,
    draining: Option<Mono>,
    drained: bool,
    asked_wake: Mono,
    standing: orders::Orders,
    paced: paced::Paced,
    warm_ups: warm_up::WarmUps,
    /// Clients that wait for the answer to ETRN, some of them gone.
    nodes_starting: usize,
    /// What is to be handed over for TLS reports.
    tls_seen: Vec<Seen>,
    counters: Counters,
    latencies: Latencies,
    // Scratch, kept so that no step allocates in steady state.
    orders: Vec<DiskOrder>,
    fired: Vec<Timer>,
    by_domain: Vec<u16>,
    parameters: Vec<u8>,
}

impl Shard {
    /// A shard with everything that recovery found; its first step tells what it wants.
    pub fn new(setup: Setup) -> Shard {
        let Setup { id, settings, mut start, blocks, seed, now } = setup;
        let recovered = std::mem::take(&mut start.messages);
        let log_settings = LogSettings {
            shard: id,
            segment_bytes: settings.queue.segment_bytes,
            segments_max: settings.queue.segments_max,
            hot_bytes: settings.queue.hot_bytes,
            commit: settings.queue.commit,
        };
        let mut shard = Shard {
            id,
            server_settings: Role::ALL.map(|role| Rc::new(intake::server_settings(&settings, role))),
            client_settings: delivery::client_settings(&settings),
            rng: Rng::new(seed),
            log: Log::open(log_settings, start, blocks),
            backlog: Backlog::default(),
            conns: Conns::default(),
            crowd: Crowd::default(),
            sites: Sites::new(id, &settings),
            wheel: Wheel::new(now.mono),
            committing: VecDeque::new(),
            to_repeat: VecDeque::new(),
            reports_pending: 0,
            leaving: Vec::new(),
            results: Results::default(),
            reads: Default::default(),
            ahead: ahead::Ahead::default(),
            waiting_for_reads: VecDeque::new(),
            waiting_to_fail: Vec::new(),
            next_read: 0,
            queries: Default::default(),
            next_query: 0,
            queries_max: (limits::DNS_WAITING_MAX / usize::from(settings.shards)).max(1),
            waiting_to_ask: VecDeque::new(),
            waiting_for_slot: VecDeque::new(),
            sites_at_rest: VecDeque::new(),
            reclaim: reclaim::Reclaim::default(),
            held_back: Vec::new(),
            resting: VecDeque::new(),
            to_find: Vec::new(),
            to_pump: Vec::new(),
            draining: None,
            drained: false,
            asked_wake: Mono::NEVER,
            standing: orders::Orders::default(),
            paced: paced::Paced::default(),
            warm_ups: warm_up::WarmUps::default(),
            nodes_starting: 0,
            tls_seen: Vec::new(),
            counters: Counters::default(),
            latencies: Latencies::default(),
            orders: Vec::new(),
            fired: Vec::new(),
            by_domain: Vec::new(),
            parameters: Vec::new(),
            settings,
        };
        for message in recovered {
            shard.adopt(now, *message);
        }
        shard
    }

    /// Takes one input at a moment that is never earlier than the last, and appends what is to be done.
    pub fn step(&mut self, now: Now, input: Input<'_>, effects: &mut Vec<Effect>) {
        if !matches!(input, Input::Tick) {
            self.wake_reclaim();
        }
        match input {
            Input::Accepted { peer, local: _, role } => self.client_connected(now, peer.ip(), role, effects),
            Input::Received { conn, bytes } => self.received(now, conn, bytes, effects),
            Input::Sent { conn, count } => self.sent(now, conn, count, effects),
            Input::Connected { conn, local } => self.connected(now, conn, local, effects),
            Input::Secured { conn, info } => self.secured(now, conn, info, effects),
            Input::Authenticated { conn, answer } => self.authenticated(now, conn, answer, effects),
            Input::Proven { conn, answer } => self.proven(now, conn, answer, effects),
            Input::Closed { conn, reason } => self.closed(now, conn, reason, effects),
            Input::Inject { injection, origin, envelope, body } => {
                self.inject(now, injection, origin, envelope, body, effects);
            }
            Input::Written { write, result } => {
                if let Err(error) = result {
                    effects.push(Effect::Report(
                        Level::Error,
                        format!("shard {}: a write to the queue failed: {error}; clients get 4xx and a new segment is tried; check the disk of {}", self.id.0, self.settings.queue.dir.display()),
                    ));
                }
                self.log.written(now.mono, write, result);
            }
            Input::ReadBack { read, result } => self.read_back(now, read, result, effects),
            Input::SegmentPrepared { slot, result } => {
                if let Err(error) = result {
                    effects.push(Effect::Report(
                        Level::Error,
                        format!("shard {}: no new queue segment: {error}; mail is refused with 452 when the last one is full; make room in {}", self.id.0, self.settings.queue.dir.display()),
                    ));
                }
                self.log.segment_prepared(now.mono, slot, result);
            }
            Input::Resolved { query, answer } => self.resolved(now, query, answer, effects),
            Input::Parcel { from, parcel } => self.parcel_came(now, from, parcel, effects),
            Input::Tick => {}
            Input::Operate { operation, order, target } => self.operate(now, operation, order, target, effects),
            Input::Ordered { conn, jobs } => self.all_ordered(now, conn, jobs, effects),
            Input::Allowance(notice) => self.allowance_told(now, notice, effects),
            Input::Change { settings } => self.change(settings, effects),
            Input::Drain => self.drain(now, effects),
        }
        self.finish_step(now, effects);
    }

    /// What every step ends with: due timers, commits, sites with something to do, orders to the disk.
    fn finish_step(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.fire_timers(now, effects);
        self.repeat_reports(now);
        self.committed(now, effects);
        self.let_clients_go_on(effects);
        self.reclaim(now, effects);
        self.let_destinations_ask();
        self.forget_destinations(now.mono);
        self.run_errands(now, effects);
        self.look_after_sites(now, effects);
        while self.ask_for_pace(now, effects) {
            self.look_after_sites(now, effects);
        }
        // Before the log is asked for its orders: the end of a drain hurries them, and nothing else may come to do so.
        self.look_whether_drained(now, effects);
        let mut orders = std::mem::take(&mut self.orders);
        self.log.poll(now.mono, &mut orders);
        for order in orders.drain(..) {
            effects.push(match order {
                DiskOrder::Write { write, slot, offset_bytes, block } => {
                    Effect::Write { write, slot, offset_bytes, block }
                }
                DiskOrder::PrepareSegment { slot } => Effect::PrepareSegment { slot },
            });
        }
        self.orders = orders;
        let wake = self.wheel.next_due().min(self.log.wake_at()).min(self.next_reclaim_due());
        if wake < self.asked_wake || self.asked_wake <= now.mono {
            self.asked_wake = wake;
            if wake != Mono::NEVER {
                effects.push(Effect::WakeAt(wake));
            }
        }
        assert!(self.asked_wake <= wake, "the shard is woken no later than something is due");
    }

    /// What waits to be sent on a connection; `None` if there is no such connection.
    pub fn outbox(&self, conn: ConnId) -> Option<&Outbox> {
        self.conns.get(conn).map(|conn| &conn.outbox)
    }

    /// True if a message could be accepted: the log has a segment.
    pub fn ready(&self) -> bool {
        self.log.ready()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        Counters {
            connections_in: self.conns.inbound as u64,
            connections_out: self.conns.outbound as u64,
            messages_live: self.backlog.messages.len() as u64,
            recipients_open: self.backlog.open_recipients,
            copied_bytes: self.counters.copied_bytes + self.log.copied_body_bytes(),
            ..self.counters
        }
    }

    /// Tells the shell to write what waits on a connection, unless it was told already.
    fn flush(id: ConnId, conn: &mut conns::Conn, effects: &mut Vec<Effect>) {
        if !conn.flushing && conn.outbox.sendable() {
            conn.flushing = true;
            effects.push(Effect::Flush { conn: id });
        }
    }

    fn received(&mut self, now: Now, id: ConnId, bytes: &[u8], effects: &mut Vec<Effect>) {
        let Some(mut conn) = self.conns.take(id) else { return };
        if conn.closing {
            self.conns.put(id, conn);
        } else if conn.is_inbound() {
            self.receive_in(now, id, &mut conn, bytes, effects);
            self.put_inbound(id, conn, effects);
        } else {
            self.receive_out(now, id, conn, bytes, effects);
        }
    }

    fn sent(&mut self, now: Now, id: ConnId, count: usize, effects: &mut Vec<Effect>) {
        let Some(mut conn) = self.conns.take(id) else { return };
        conn.outbox.consume(count);
        if conn.is_inbound() {
            // There may be very many clients that greet and then wait.
            if !conn.inbound().server.has_begun() {
                conn.outbox.shrink();
            }
            conn.flushing = conn.outbox.sendable();
            self.put_inbound(id, conn, effects);
        } else {
            self.sent_out(now, id, conn, effects);
        }
    }

    fn closed(&mut self, now: Now, id: ConnId, reason: CloseReason, effects: &mut Vec<Effect>) {
        let Some(conn) = self.conns.take(id) else { return };
        if conn.is_inbound() {
            self.client_gone(id, conn);
        } else {
            self.next_hop_gone(now, id, conn, reason, effects);
        }
    }
}
