//! One thread of a sink: an event loop over its listeners and connections.
//!
//! Edge-triggered: a connection is read until a read comes up short. One receive buffer serves all connections. Replies
//! are sent at once, or kept until their delay is over (a tarpit's one byte at a time); meanwhile the connection is not
//! read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::session::{Arrival, Arrivals, Flow, Session};
use super::sources::Source;
use super::{CONNECTIONS_MAX, Shared, SinkCounts};
use crate::clock::nanos;
use crate::latency::Latency;
use crate::ledger::Ledger;
use crate::messages::Page;
use crate::rng::Rng;
use crate::system;
use crate::tls::{Handshake, Wire};

const RECEIVE_BYTES: usize = 256 << 10;
const EVENTS_MAX: usize = 1024;
const BACKLOG: i32 = 4096;
const TURN: Duration = Duration::from_millis(50);
/// Reads of one connection in a turn, so that one busy client does not hold up the rest.
const READS_MAX: usize = 4;
const LISTENER_BASE: usize = CONNECTIONS_MAX;

/// Opens a listener. One that is shared takes what comes in on its worker's core, if there is one.
pub(super) fn listen(address: SocketAddr, shared: bool, core: Option<usize>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
        core.map_or(Ok(()), |core| socket.set_cpu_affinity(core))?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

struct Connection {
    wire: Wire,
    session: Session,
    out: Vec<u8>,
    sent: usize,
    closing: bool,
    /// What is sent now is the last in the clear.
    securing: bool,
    peer_closed: bool,
    /// None for who is turned away.
    source: Option<Arc<Source>>,
    address: IpAddr,
    /// Replies wait for this time; 0 if they do not.
    held_until_ns: u64,
}

/// A thread of a sink, before and while it runs.
pub(super) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    poll: Poll,
    listeners: Vec<TcpListener>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Sessions of closed connections, with their buffers.
    spare: Vec<(Session, Vec<u8>)>,
    again: Vec<usize>,
    held: BinaryHeap<Reverse<(u64, usize)>>,
    accept_again: bool,
    rng: Rng,
    desk: Desk,
}

/// What a worker knows of messages.
struct Desk {
    shared: Arc<Shared>,
    ledger: Option<Arc<Ledger>>,
    counts: SinkCounts,
    latency: Latency,
    measure_from_ns: u64,
    now_ns: u64,
    open: u64,
    /// The highest number of the run at hand that arrived.
    highest: u64,
    page: Option<Page>,
    /// Whose bytes are looked at.
    source: Arc<Source>,
    address: IpAddr,
}

impl Arrivals for Desk {
    fn may_begin(&mut self, most: u64) -> bool {
        self.shared.sources.message(&self.source, most, self.now_ns)
    }

    fn is_grey(&mut self, recipient: &[u8], wait: Duration) -> bool {
        self.shared.sources.is_grey(self.address, recipient, wait, self.now_ns)
    }

    fn login(&mut self, good: bool) {
        self.counts.logins += u64::from(good);
        self.counts.logins_failed += u64::from(!good);
    }

    fn message(&mut self, arrival: &Arrival<'_>) {
        if arrival.is_bounce {
            return self.bounce(arrival);
        }
        self.counts.messages += 1;
        self.counts.recipients += arrival.recipients.len() as u64;
        self.counts.strange_recipients += arrival.strange_recipients;
        self.counts.last_arrival_ns = self.now_ns;
        let Some(marker) = arrival.body.marker else {
            self.counts.unmarked += 1;
            return;
        };
        if self.ledger.as_ref().is_none_or(|ledger| ledger.run() != marker.run) {
            // A damaged marker may name any run: only a whole message is believed, a damaged one counts for the run at hand.
            let found = if arrival.body.intact { self.shared.book.find(marker.run, marker.recipients) } else { None };
            match found {
                Some(ledger) => {
                    self.ledger = Some(ledger);
                    self.highest = 0;
                }
                None if arrival.body.intact => {
                    self.counts.foreign += 1;
                    return;
                }
                None => self.ledger = self.ledger.take().or_else(|| self.shared.book.ledgers().pop()),
            }
        }
        let Some(ledger) = &self.ledger else {
            self.counts.corrupted += 1;
            return;
        };
        let mut intact = arrival.body.intact;
        for (id, index) in arrival.recipients {
            if let Some(page) = &mut self.page {
                page.arrived(*id, *index, marker.sent_ns, self.now_ns, intact && *id == marker.id);
            }
            // A whole body that came to another message's recipient is as wrong as a damaged one.
            let own = intact && *id == marker.id;
            intact &= own;
            if !ledger.arrived(*id, *index, own) {
                self.counts.strange_recipients += 1;
            }
        }
        self.counts.corrupted += u64::from(!intact);
        if intact {
            let behind = self.highest.saturating_sub(marker.id);
            self.highest = self.highest.max(marker.id);
            self.counts.reordered += u64::from(behind > 0);
            self.counts.reordered_by = self.counts.reordered_by.max(behind);
        }
        if marker.sent_ns >= self.measure_from_ns && intact {
            self.latency.record_ns(self.now_ns.saturating_sub(marker.sent_ns));
        }
    }

    fn fault(&mut self) {
        self.counts.faults += 1;
    }
}

impl Desk {
    /// A bounce settles the recipients it names; one that names none settles the message's only recipient.
    fn bounce(&mut self, arrival: &Arrival<'_>) {
        self.counts.bounces += 1;
        // The bounce has no marker of its own; it is for the run at hand.
        let Some(ledger) = self.ledger.clone().or_else(|| self.shared.book.ledgers().into_iter().last()) else {
            return;
        };
        for (id, index) in arrival.bounced {
            ledger.bounced(*id, *index);
        }
        if let (true, Some(id), 1) = (arrival.bounced.is_empty(), arrival.bounce_for, ledger.recipients()) {
            ledger.bounced(id, 0);
        }
    }
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        index: usize,
        mut listeners: Vec<TcpListener>,
        seed: u64,
    ) -> io::Result<Worker> {
        let poll = Poll::new()?;
        for (number, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Token(LISTENER_BASE + number), Interest::READABLE)?;
        }
        let desk = Desk {
            shared: Arc::clone(&shared),
            ledger: None,
            counts: SinkCounts::default(),
            latency: Latency::default(),
            measure_from_ns: 0,
            now_ns: 0,
            open: 0,
            highest: 0,
            page: shared.message_file.as_ref().map(Page::of),
            source: Arc::new(Source::default()),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        Ok(Worker {
            shared,
            index,
            poll,
            listeners,
            connections: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            again: Vec::new(),
            held: BinaryHeap::new(),
            accept_again: false,
            rng: Rng::new(seed.wrapping_add(index as u64)),
            desk,
        })
    }

    pub(super) fn run(&mut self) -> Latency {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; RECEIVE_BYTES];
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.poll.poll(&mut events, Some(self.timeout())).is_err() {
                // Interrupted; nothing else can happen to an open epoll descriptor.
                continue;
            }
            self.desk.now_ns = self.shared.clock.now_ns();
            self.desk.measure_from_ns = self.shared.measure_from_ns.load(Ordering::Relaxed);
            if std::mem::take(&mut self.accept_again) {
                (0..self.listeners.len()).for_each(|number| self.accept(number));
            }
            for event in &events {
                match event.token().0 {
                    listener if listener >= LISTENER_BASE => self.accept(listener - LISTENER_BASE),
                    index => {
                        if let Some(connection) = &mut self.connections[index] {
                            connection.peer_closed |= event.is_read_closed();
                        }
                        self.ready(index, event.is_writable(), &mut buffer);
                    }
                }
            }
            for index in std::mem::take(&mut self.again) {
                self.ready(index, false, &mut buffer);
            }
            self.release_held(&mut buffer);
            self.desk.counts.cpu_ns = system::thread_cpu_ns();
            self.shared.shown[self.index].store(self.desk.counts);
        }
        self.desk.page = None;
        std::mem::take(&mut self.desk.latency)
    }

    fn timeout(&self) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        let next = self.held.peek().map_or(u64::MAX, |Reverse((due, _))| *due);
        TURN.min(Duration::from_nanos(next.saturating_sub(self.shared.clock.now_ns())))
    }

    fn accept(&mut self, number: usize) {
        loop {
            match self.listeners[number].accept() {
                Ok((socket, peer)) => self.open(socket, peer.ip(), number),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    // Out of descriptors or memory: the edge is spent, so look again next turn.
                    self.desk.counts.connections_refused += 1;
                    self.accept_again = true;
                    return;
                }
            }
        }
    }

    fn open(&mut self, socket: TcpStream, address: IpAddr, listener: usize) {
        let index = self.free.pop().unwrap_or(self.connections.len());
        let kind = self.draw_kind(listener);
        let wanted = Interest::READABLE | Interest::WRITABLE;
        let nodelay = socket.set_nodelay(true).is_ok();
        let mut wire = Wire::plain(socket);
        let source = self.shared.sources.open(address, self.shared.manners.kinds[kind].source_connections);
        let is_welcome = source.is_some();
        let usable = index < CONNECTIONS_MAX
            && nodelay
            && self.poll.registry().register(&mut wire, Token(index), wanted).is_ok()
            && self.secure_first(&mut wire);
        if !usable {
            self.desk.counts.connections_refused += 1;
            source.inspect(|source| source.close());
            if index < self.connections.len() {
                self.free.push(index);
            }
            return;
        }
        if index == self.connections.len() {
            self.connections.push(None);
        }
        let (mut session, mut out) = self.spare.pop().unwrap_or_default();
        out.clear();
        session.greet(kind, &self.shared.manners, &mut self.rng, &mut out);
        let desk = &mut self.desk;
        if is_welcome {
            desk.counts.connections += 1;
        } else {
            desk.counts.connections_refused += 1;
            desk.counts.faults += 1;
            out.clear();
            out.extend_from_slice(b"421 4.7.0 Too many connections from here\r\n");
        }
        desk.open += 1;
        desk.counts.connections_peak = desk.counts.connections_peak.max(desk.open);
        self.connections[index] = Some(Connection {
            wire,
            session,
            out,
            sent: 0,
            closing: !is_welcome,
            securing: false,
            peer_closed: false,
            source,
            address,
            held_until_ns: 0,
        });
        self.answer(index);
    }

    /// With implicit TLS there is nothing in the clear. False if there are no keys for it.
    fn secure_first(&self, wire: &mut Wire) -> bool {
        match &self.shared.tls {
            Some(tls) if self.shared.is_implicit => wire.secure_as_server(tls).is_ok(),
            _ => true,
        }
    }

    fn draw_kind(&mut self, listener: usize) -> usize {
        let draw = &self.shared.draws[listener];
        let total = draw.last().expect("a draw is never empty").0;
        let place = if draw.len() > 1 { self.rng.below(total) } else { 0 };
        draw[draw.partition_point(|(below, _)| *below <= place)].1
    }

    fn close(&mut self, index: usize) {
        if let Some(mut connection) = self.connections[index].take() {
            // Closing the descriptor deregisters it as well; nothing is left to do if this fails.
            let _ = self.poll.registry().deregister(&mut connection.wire);
            if let Some(source) = &connection.source {
                source.close();
            }
            self.free.push(index);
            self.desk.open -= 1;
            if self.spare.len() < EVENTS_MAX {
                self.spare.push((connection.session, connection.out));
            }
        }
    }

    fn ready(&mut self, index: usize, writable: bool, buffer: &mut [u8]) {
        let Some(connection) = &self.connections[index] else { return };
        let waiting = connection.sent < connection.out.len() || connection.wire.has_pending();
        if connection.held_until_ns > 0 || (waiting && (!writable || !self.send(index))) {
            return;
        }
        for _ in 0..READS_MAX {
            let Some(connection) = &mut self.connections[index] else { return };
            let count = match connection.wire.read(buffer) {
                Ok(0) => return self.close(index),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.count_handshake(index),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.desk.counts.handshakes_failed += u64::from(error.kind() == io::ErrorKind::InvalidData);
                    return self.close(index);
                }
            };
            let drained = connection.wire.is_drained(count, buffer.len());
            self.desk.counts.bytes += count as u64;
            if let Some(source) = &connection.source {
                self.desk.source = Arc::clone(source);
                self.desk.address = connection.address;
            }
            let (out, manners) = (&mut connection.out, &self.shared.manners);
            let flow = connection.session.receive(&buffer[..count], manners, &mut self.rng, &mut self.desk, out);
            match flow {
                Flow::Drop => return self.close(index),
                Flow::Close => connection.closing = true,
                Flow::Secure => connection.securing = true,
                Flow::Open => {}
            }
            let peer_closed = connection.peer_closed;
            if connection.sent < connection.out.len() && !self.answer(index) {
                return;
            }
            // A short read has emptied the socket: what comes later comes with an edge of its own. The end of the stream
            // may share the edge of the bytes before it.
            if drained && !peer_closed {
                return self.count_handshake(index);
            }
        }
        self.again.push(index);
    }

    fn count_handshake(&mut self, index: usize) {
        if self.shared.tls.is_none() {
            return;
        }
        if let Some(handshake) = self.connections[index].as_mut().and_then(|c| c.wire.take_handshake()) {
            self.desk.counts.handshakes += 1;
            self.desk.counts.handshakes_resumed += u64::from(handshake == Handshake::Resumed);
        }
    }

    /// Sends replies, or holds them for their delay. True if all is out and the connection goes on.
    fn answer(&mut self, index: usize) -> bool {
        if let Some(connection) = &mut self.connections[index] {
            let faults = &self.shared.manners.kinds[connection.session.kind()];
            let mut wait = connection.session.take_wait_ns();
            if let Some((from, to)) = faults.delay {
                wait += nanos(from) + self.rng.below(nanos(to - from) + 1);
            }
            if wait > 0 {
                self.hold(index, wait);
                return false;
            }
        }
        self.desk.counts.round_trips += 1;
        self.send(index)
    }

    /// Nothing is sent or read for this long.
    fn hold(&mut self, index: usize, wait_ns: u64) {
        if let Some(connection) = &mut self.connections[index] {
            connection.held_until_ns = self.desk.now_ns + wait_ns;
            self.held.push(Reverse((connection.held_until_ns, index)));
        }
    }

    fn send(&mut self, index: usize) -> bool {
        let Some(connection) = &mut self.connections[index] else { return false };
        let tarpit = self.shared.manners.kinds[connection.session.kind()].tarpit;
        while connection.sent < connection.out.len() {
            let to = if tarpit.is_some() { connection.sent + 1 } else { connection.out.len() };
            match connection.wire.write(&connection.out[connection.sent..to]) {
                Ok(count) => connection.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.close(index);
                    return false;
                }
            }
            if let Some(wait) = tarpit.filter(|_| connection.sent < connection.out.len()) {
                self.hold(index, nanos(wait));
                return false;
            }
        }
        connection.out.clear();
        connection.sent = 0;
        match connection.wire.push() {
            Ok(true) => {}
            Ok(false) => return false,
            Err(_) => {
                self.close(index);
                return false;
            }
        }
        if connection.closing {
            connection.wire.say_goodbye();
            self.close(index);
            return false;
        }
        if std::mem::take(&mut connection.securing) {
            connection.session.secured();
            let secured = self.shared.tls.as_ref().is_some_and(|tls| connection.wire.secure_as_server(tls).is_ok());
            if !secured {
                self.close(index);
            }
            return secured;
        }
        true
    }

    fn release_held(&mut self, buffer: &mut [u8]) {
        while let Some(Reverse((due, index))) = self.held.peek().copied().filter(|next| next.0.0 <= self.desk.now_ns) {
            self.held.pop();
            // The place may hold another connection by now, with a time of its own.
            if let Some(connection) = self.connections[index].as_mut().filter(|c| c.held_until_ns == due) {
                connection.held_until_ns = 0;
                // A reply that leaves byte by byte is one all the same.
                self.desk.counts.round_trips += u64::from(connection.sent == 0);
                if self.send(index) {
                    self.ready(index, false, buffer);
                }
            }
        }
    }
}
