//! One thread of a sender: an event loop over its sessions, and its share of the schedule.
//!
//! Edge-triggered, like the sink. Nothing is shared while it runs but the counter of message numbers, the ledger, and
//! counts that are stored once per turn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::talk::Talk;
use super::{LATE_NS, SendCounts, SendLatency, Shared};
use crate::client::{Assignment, End, Feed, State, Transaction};
use crate::clock::{SECOND_NS, nanos};
use crate::ledger::Fate;
use crate::messages::Page;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::schedule::Planner;
use crate::system::{self, Timer};
use crate::tls::{Handshake, READ_MIN_BYTES, TlsMode, Wire};

const EVENTS_MAX: usize = 1024;
const RECEIVE_BYTES: usize = 64 << 10;
const _: () = assert!(RECEIVE_BYTES >= READ_MIN_BYTES, "secured sockets need room");
const TURN: Duration = Duration::from_millis(50);
const WATCH_EVERY_NS: u64 = SECOND_NS / 5;
const TIMER: Token = Token(usize::MAX - 1);
const BACK_OFF_FIRST_NS: u64 = 10_000_000;
const BACK_OFF_LONGEST_NS: u64 = 1_000_000_000;
/// How long sessions may take to finish after the last start before they are cut.
const LINGER: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Slot {
    wire: Option<Wire>,
    session: Talk,
    /// The connection stands.
    opened: bool,
    outbox: Outbox,
    idle: bool,
    peer_closed: bool,
    failures: u32,
    heard_ns: u64,
    /// When it may send again (think time).
    thinks_until_ns: u64,
}

impl Slot {
    /// True if something waits to be written.
    fn has_more(&self) -> bool {
        !self.outbox.is_empty() || self.wire.as_ref().is_some_and(Wire::has_pending)
    }
}

/// Begins to connect, from a source if one is given.
fn dial(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = match source {
        None => TcpStream::connect(target)?,
        Some(source) => {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            // The port is chosen when the target is known, so that sources do not run out of ports early.
            system::choose_port_late(&socket);
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
            match socket.connect(&SockAddr::from(target)) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
                _ => TcpStream::from_std(socket.into()),
            }
        }
    };
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// The worker's view of the run, as its sessions see it.
struct Desk {
    shared: Arc<Shared>,
    index: u64,
    now_ns: u64,
    /// Its part of the schedule (open loop).
    planner: Option<Planner>,
    /// False while sessions have to think first.
    may_begin: bool,
    exhausted: bool,
    counts: SendCounts,
    latency: SendLatency,
    page: Option<Page>,
}

impl Desk {
    /// When this worker's next start is planned; None in closed loop.
    fn next_planned_ns(&self) -> Option<u64> {
        self.planner.as_ref().map(|planner| self.shared.start_ns.saturating_add(planner.next_ns()))
    }

    fn claim(&mut self, planned_ns: u64) -> Option<Assignment> {
        let number = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let messages = self.shared.plan.messages;
        if messages > 0 && number >= messages {
            self.exhausted = true;
            return None;
        }
        // A trace tells more of a message than its time, by its place.
        let id = self.planner.as_ref().and_then(Planner::trace_place).unwrap_or(number);
        for recipient in 0..self.shared.script.recipients_of(id) {
            self.shared.ledger.set_fate(id, recipient, Fate::Unknown);
        }
        self.counts.started += 1;
        Some(Assignment { id, planned_ns, started_ns: self.now_ns })
    }

    fn count_missed(&mut self) {
        let messages = self.shared.plan.messages;
        // What is behind the last message was never to be sent.
        if messages > 0 && self.shared.next_id.load(Ordering::Relaxed) >= messages {
            return;
        }
        let limit_ns = self.shared.deadline_ns.min(self.now_ns).saturating_sub(self.shared.start_ns);
        if let Some(planner) = &mut self.planner {
            self.counts.missed_starts += planner.pass_over(limit_ns);
        }
    }
}

impl Feed for Desk {
    fn next(&mut self) -> Option<Assignment> {
        if !self.may_begin {
            return None;
        }
        if self.exhausted || self.now_ns >= self.shared.deadline_ns {
            self.exhausted = true;
            return None;
        }
        let Some(planned_ns) = self.next_planned_ns() else {
            return self.claim(self.now_ns);
        };
        if planned_ns > self.now_ns {
            self.exhausted |= self.planner.as_ref().is_some_and(Planner::is_over);
            return None;
        }
        let assignment = self.claim(planned_ns)?;
        if let Some(planner) = &mut self.planner {
            planner.advance();
        }
        self.counts.late_starts += u64::from(self.now_ns - planned_ns > LATE_NS);
        Some(assignment)
    }

    fn settle(&mut self, transaction: &Transaction) {
        let message = &transaction.message;
        let mut acknowledged = false;
        let mut all_refused = true;
        for (recipient, fate) in transaction.fates.iter().enumerate() {
            acknowledged |= *fate == Fate::Acknowledged;
            all_refused &= *fate == Fate::Refused;
            if *fate != Fate::Unknown {
                self.shared.ledger.set_fate(message.id, recipient as u32, *fate);
            }
        }
        if let Some(page) = &mut self.page {
            let outcome = match (acknowledged, transaction.cut, all_refused) {
                (true, ..) => "acknowledged",
                (false, true, _) => "unknown",
                (false, false, true) => "refused",
                (false, false, false) => "deferred",
            };
            page.answered(message.id, message.planned_ns, message.started_ns, self.now_ns, outcome);
        }
        if acknowledged {
            self.counts.acknowledged += 1;
            self.counts.last_acknowledged_ns = self.now_ns;
            if message.planned_ns >= self.shared.measure_from_ns {
                self.latency.corrected.record_ns(self.now_ns - message.planned_ns);
                self.latency.raw.record_ns(self.now_ns - message.started_ns);
            }
        } else if transaction.cut {
            self.counts.broken += 1;
        } else if all_refused {
            self.counts.refused += 1;
        } else {
            self.counts.deferred += 1;
        }
    }
}

/// A thread of a sender, before and while it runs.
pub(super) struct Worker {
    shared: Arc<Shared>,
    poll: Poll,
    timer: Timer,
    timer_set_for_ns: u64,
    slots: Vec<Slot>,
    idle: Vec<usize>,
    /// Slots that wait to connect, and when.
    waiting: BinaryHeap<Reverse<(u64, usize)>>,
    /// Sessions that think, and until when.
    thinking: BinaryHeap<Reverse<(u64, usize)>>,
    rng: Rng,
    connected: usize,
    /// When any session last heard from the server, or had nothing to hear.
    heard_ns: u64,
    desk: Desk,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, index: usize, workers: usize) -> io::Result<Worker> {
        let sessions = shared.plan.sessions as usize;
        let own = sessions / workers + usize::from(index < sessions % workers);
        let shared_start_ns = shared.start_ns;
        let poll = Poll::new()?;
        let timer = Timer::new()?;
        poll.registry().register(&mut SourceFd(&timer.fd()), TIMER, Interest::READABLE)?;
        let (place, all) = (index as u64, workers as u64);
        let planner = match (&shared.trace, &shared.plan.schedule) {
            (Some(trace), _) => Some(Planner::of_trace(trace, place, all)),
            (None, Some(schedule)) => Some(Planner::new(schedule, place, all, shared.plan.seed)),
            (None, None) => None,
        };
        let desk = Desk {
            shared: Arc::clone(&shared),
            index: index as u64,
            now_ns: shared.start_ns,
            planner,
            may_begin: shared.plan.think.is_none(),
            exhausted: false,
            counts: SendCounts::default(),
            latency: SendLatency::default(),
            page: shared.plan.message_file.as_ref().map(Page::of),
        };
        let rng = Rng::new(shared.plan.seed ^ ((index as u64) << 32));
        Ok(Worker {
            shared,
            poll,
            timer,
            timer_set_for_ns: 0,
            slots: (0..own).map(|_| Slot::default()).collect(),
            idle: Vec::new(),
            waiting: (0..own).map(|slot| Reverse((0, slot))).collect(),
            thinking: BinaryHeap::new(),
            rng,
            connected: 0,
            heard_ns: shared_start_ns,
            desk,
        })
    }

    pub(super) fn run(&mut self) -> SendLatency {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut exhausted_at_ns = None;
        let (mut swept_ns, mut watched_ns) = (0, 0);
        loop {
            self.desk.now_ns = self.shared.clock.now_ns();
            self.desk.exhausted |= self.shared.stop.load(Ordering::Relaxed);
            self.desk.exhausted |= self.desk.now_ns >= self.shared.deadline_ns;
            self.connect_waiting();
            self.end_thoughts();
            self.start_idle();
            if self.desk.exhausted {
                let since = *exhausted_at_ns.get_or_insert(self.desk.now_ns);
                if self.connected == 0 || self.desk.now_ns - since > nanos(LINGER) {
                    break;
                }
            } else if self.connected == 0 && self.waiting.is_empty() {
                // All connections are lost, and none is to be opened again.
                break;
            } else if self.desk.now_ns.saturating_sub(self.heard_ns) > nanos(self.shared.plan.give_up) {
                // Nobody is there: a run has to end at some time.
                break;
            }
            if self.desk.now_ns - swept_ns > SECOND_NS {
                swept_ns = self.desk.now_ns;
                self.sweep();
            }
            if self.shared.plan.watched && self.desk.now_ns - watched_ns > WATCH_EVERY_NS {
                watched_ns = self.desk.now_ns;
                let seen = &self.shared.seen[self.desk.index as usize];
                seen.lock().expect("no holder panics").clone_from(&self.desk.latency.corrected);
            }
            self.set_timer();
            self.show();
            if self.poll.poll(&mut events, Some(self.timeout())).is_err() {
                // Interrupted; nothing else can happen to an open epoll descriptor.
                continue;
            }
            self.desk.now_ns = self.shared.clock.now_ns();
            for event in &events {
                if event.token() != TIMER {
                    let index = event.token().0;
                    self.slots[index].peer_closed |= event.is_read_closed() || event.is_error();
                    if event.is_writable() && self.shared.http.is_some() && !self.slots[index].opened {
                        self.opened(index);
                    }
                    self.ready(index, event.is_writable(), &mut buffer);
                }
            }
        }
        (0..self.slots.len()).for_each(|index| self.lost(index));
        self.desk.count_missed();
        self.desk.page = None;
        self.show();
        self.shared.running.fetch_sub(1, Ordering::Release);
        std::mem::take(&mut self.desk.latency)
    }

    fn show(&mut self) {
        self.desk.counts.cpu_ns = system::thread_cpu_ns();
        self.shared.shown[self.desk.index as usize].store(self.desk.counts);
    }

    fn timeout(&self) -> Duration {
        let due = |heap: &BinaryHeap<Reverse<(u64, usize)>>| heap.peek().map_or(u64::MAX, |Reverse((due, _))| *due);
        let next = due(&self.waiting).min(due(&self.thinking));
        TURN.min(Duration::from_nanos(next.saturating_sub(self.desk.now_ns)))
    }

    /// The event loop's own timeout is too coarse for a schedule.
    fn set_timer(&mut self) {
        if let Some(planned) = self.desk.next_planned_ns()
            && planned > self.desk.now_ns
            && planned != self.timer_set_for_ns
            && !self.idle.is_empty()
        {
            self.timer.set(planned - self.desk.now_ns);
            self.timer_set_for_ns = planned;
        }
    }

    fn connect_waiting(&mut self) {
        while let Some(Reverse((_, index))) = self.waiting.peek().copied().filter(|w| w.0.0 <= self.desk.now_ns) {
            self.waiting.pop();
            if !self.desk.exhausted {
                self.connect(index);
            }
        }
    }

    fn connect(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.session = Talk::new(&self.shared);
        slot.outbox.clear();
        slot.opened = false;
        slot.idle = false;
        slot.peer_closed = false;
        slot.heard_ns = self.desk.now_ns;
        let sources = &self.shared.plan.sources;
        // Workers begin at different places, so that all sources have their turn.
        let turn = self.desk.counts.connections + self.desk.index;
        let source = (!sources.is_empty()).then(|| sources[turn as usize % sources.len()]);
        let wire = dial(self.shared.target, source).and_then(|socket| {
            let mut wire = Wire::plain(socket);
            let wanted = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut wire, Token(index), wanted)?;
            if let (TlsMode::Implicit, Some(tls)) = (self.shared.plan.tls, &self.shared.tls) {
                wire.secure_as_client(tls)?;
            }
            Ok(wire)
        });
        self.connected += 1;
        self.desk.counts.connections += 1;
        match wire {
            Ok(wire) => slot.wire = Some(wire),
            Err(_) => self.ended(index),
        }
    }

    /// The socket takes bytes for the first time: it is connected, unless it could not be.
    fn opened(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.wire.as_ref().is_some_and(|wire| wire.socket().peer_addr().is_ok()) {
            slot.opened = true;
            slot.session.opened(&self.shared, &mut self.desk, &mut slot.outbox);
            self.flush(index);
        }
    }

    /// Sessions that have thought long enough are idle; when there is no more to send, all have.
    fn end_thoughts(&mut self) {
        if !self.thinking.is_empty() {
            self.heard_ns = self.desk.now_ns;
        }
        let (now_ns, all) = (self.desk.now_ns, self.desk.exhausted);
        while let Some(Reverse((due, index))) = self.thinking.peek().copied().filter(|next| all || next.0.0 <= now_ns) {
            self.thinking.pop();
            // The slot may hold another connection by now, which thinks for itself.
            if self.slots[index].idle && self.slots[index].thinks_until_ns == due {
                self.idle.push(index);
            }
        }
    }

    /// Gives work to idle sessions, or ends them when there is no more.
    fn start_idle(&mut self) {
        while let Some(index) = self.idle.pop() {
            let slot = &mut self.slots[index];
            if !std::mem::take(&mut slot.idle) {
                continue;
            }
            if self.desk.exhausted {
                slot.session.quit(&mut slot.outbox);
            } else {
                self.desk.may_begin = true;
                slot.session.start(&self.shared, &mut self.desk, &mut slot.outbox);
                self.desk.may_begin = self.shared.plan.think.is_none();
                slot.heard_ns = self.desk.now_ns;
            }
            if slot.session.state() == State::Idle && !self.desk.exhausted {
                // Nothing is due yet, so nothing is for the others.
                slot.idle = true;
                self.idle.push(index);
                self.heard_ns = self.desk.now_ns;
                return;
            }
            self.flush(index);
        }
    }

    fn ready(&mut self, index: usize, writable: bool, buffer: &mut [u8]) {
        if writable && self.slots[index].has_more() && !self.flush(index) {
            return;
        }
        loop {
            let slot = &mut self.slots[index];
            let Some(wire) = &mut slot.wire else { return };
            let count = match wire.read(buffer) {
                Ok(0) => return self.lost(index),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.count_handshake(index),
                // Not connected yet: the writable edge came first.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.desk.counts.handshakes_failed += u64::from(error.kind() == io::ErrorKind::InvalidData);
                    return self.lost(index);
                }
            };
            let drained = wire.is_drained(count, buffer.len()) && !slot.peer_closed;
            slot.heard_ns = self.desk.now_ns;
            self.heard_ns = self.desk.now_ns;
            slot.session.receive(&buffer[..count], &self.shared, &mut self.desk, &mut slot.outbox);
            if !self.flush(index) {
                return;
            }
            if drained {
                return self.count_handshake(index);
            }
        }
    }

    fn count_handshake(&mut self, index: usize) {
        if self.shared.tls.is_none() {
            return;
        }
        let slot = &mut self.slots[index];
        if let Some(handshake) = slot.wire.as_mut().and_then(Wire::take_handshake) {
            self.desk.counts.handshakes += 1;
            self.desk.counts.handshakes_resumed += u64::from(handshake == Handshake::Resumed);
            // The other end was heard, if only by its keys.
            slot.heard_ns = self.desk.now_ns;
            self.heard_ns = self.desk.now_ns;
        }
    }

    /// Writes what the session has to say and follows its state. False if the connection is over.
    fn flush(&mut self, index: usize) -> bool {
        let slot = &mut self.slots[index];
        let Some(wire) = &mut slot.wire else { return false };
        let mut written = if slot.outbox.is_empty() { wire.push() } else { slot.outbox.write_to(wire) };
        if slot.session.state() == State::Securing
            && let Some(tls) = &self.shared.tls
        {
            slot.session.secured(&mut slot.outbox);
            written = wire.secure_as_client(tls).and_then(|()| slot.outbox.write_to(wire));
        }
        if written.is_err() {
            self.lost(index);
            return false;
        }
        match slot.session.state() {
            State::Over(_) => {
                self.ended(index);
                return false;
            }
            State::Idle if !slot.idle => {
                slot.idle = true;
                match self.shared.plan.think {
                    None => self.idle.push(index),
                    Some((from, to)) => {
                        let wait = nanos(from) + self.rng.below(nanos(to.saturating_sub(from)) + 1);
                        slot.thinks_until_ns = self.desk.now_ns + wait;
                        self.thinking.push(Reverse((slot.thinks_until_ns, index)));
                    }
                }
            }
            State::Busy => slot.failures = 0,
            _ => {}
        }
        true
    }

    fn lost(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.wire.is_some() {
            slot.session.closed(&mut self.desk);
            self.ended(index);
        }
    }

    /// The session is over: closes, and sees when to connect again.
    fn ended(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if let Some(mut wire) = slot.wire.take() {
            wire.say_goodbye();
            // Closing the descriptor deregisters it as well; nothing is left to do if this fails.
            let _ = self.poll.registry().deregister(&mut wire);
        }
        slot.idle = false;
        self.connected -= 1;
        let state = slot.session.state();
        let in_order = state == State::Over(End::Quit);
        if !in_order {
            slot.failures += 1;
            self.desk.counts.connections_lost += 1;
            self.desk.counts.connections_lacking += u64::from(state == State::Over(End::Lacking));
            self.desk.counts.logins_failed += u64::from(state == State::Over(End::Denied));
        }
        if self.desk.exhausted || (!in_order && !self.shared.plan.reconnect) {
            return;
        }
        let wait = match slot.failures {
            _ if in_order => 0,
            failures => (BACK_OFF_FIRST_NS << failures.min(10)).min(BACK_OFF_LONGEST_NS),
        };
        self.waiting.push(Reverse((self.desk.now_ns + wait, index)));
    }

    /// Gives up sessions that wait for a reply for too long.
    fn sweep(&mut self) {
        let longest = nanos(self.shared.plan.reply_timeout);
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.session.state() != State::Idle && self.desk.now_ns.saturating_sub(slot.heard_ns) > longest {
                self.lost(index);
            }
        }
    }
}
