//! The shell of one shard: completions in, effects out, on the shard's own core.
//!
//! Everything here lives on the shard's thread. `step` tells the shard one thing and queues what it wants done;
//! `perform` does it in order, in one loop however deep the call: an effect may itself lead to a step (a write that
//! went out at once is `Sent`), whose effects join the end of the queue. The shard is never borrowed across an await.
//! A completion for a connection that is gone finds none in the table and ends there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _};
use std::rc::Rc;
use std::sync::Arc;

use glommio::net::TcpStream;
use ipnet::IpNet;
use rustc_hash::FxHashMap;
use socket2::SockRef;

use super::balance::{Loads, Seat};
use super::clock::{Alarm, Clock};
use super::conn::{self, Conn};
use super::disk::{Disk, DmaBlocks};
use super::gate::Gate;
use super::listen::Door;
use super::mesh::{Injection, InjectionReply, Letter, Mailbox, Operation, OperationReply, Shards};
use super::report::Reporter;
use super::tls::{Broken, Keys};
use super::{Ask, Authenticate, Event, Lend, NoteTls, Prove, listen, proxy};
use crate::base::bytes::{BlockSource, Outbox};
use crate::base::ids::{ConnId, InjectionId, OperationId, ShardId};
use crate::base::limits;
use crate::base::time::{Mono, Now};
use crate::config::{Role, Settings, SocketSettings};
use crate::shard::{CloseReason, Effect, Input, Level, Shard, ShardReport, TlsRole};

/// Letters and effects' tasks handled before others get their turn.
const LETTERS_PER_TURN: usize = 64;
/// The same trouble is reported at most so often.
const REPORT_PAUSE_MS: u64 = 10_000;

/// What a shard's thread is given to begin with.
pub(crate) struct Berth {
    pub(crate) id: ShardId,
    pub(crate) spool: std::path::PathBuf,
    pub(crate) segment_bytes: u32,
    pub(crate) doors: Vec<Door>,
    pub(crate) loads: Loads,
    pub(crate) proxies: Vec<IpNet>,
    pub(crate) socket: SocketSettings,
    /// All shards' mailboxes, this one's among them.
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) ask: Ask,
    pub(crate) authenticate: Authenticate,
    pub(crate) prove: Prove,
    pub(crate) lend: Lend,
    pub(crate) note_tls: NoteTls,
    pub(crate) events: std::sync::mpsc::Sender<Event>,
    pub(crate) reporter: Reporter,
    pub(crate) keys: Keys,
    pub(crate) build: super::Build,
}

/// A shard with its sockets, files, timer and mail.
pub(crate) struct Shell {
    id: ShardId,
    shard: RefCell<Shard>,
    clock: Clock,
    alarm: Alarm,
    /// What every connection reads into.
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// What one read held inside TLS, or what one write seals.
    pub(super) plain: RefCell<Vec<u8>>,
    keys: RefCell<Keys>,
    pub(super) gate: Rc<Gate>,
    effects: RefCell<VecDeque<Effect>>,
    fresh: RefCell<Vec<Effect>>,
    performing: Cell<bool>,
    conns: RefCell<FxHashMap<ConnId, Rc<Conn>>>,
    /// The connection just accepted, until the shard opens or refuses it.
    arrived: RefCell<Option<(TcpStream, Seat)>>,
    disk: Rc<Disk>,
    /// Where the fates of injected messages go that are on their way to disk.
    injections: RefCell<FxHashMap<InjectionId, InjectionReply>>,
    injections_seen: Cell<u64>,
    /// Where answers to operators go.
    operations: RefCell<FxHashMap<OperationId, OperationReply>>,
    operations_seen: Cell<u64>,
    mailboxes: Vec<Mailbox>,
    /// Parcels of this turn, by shard: each mailbox is opened once.
    outgoing: RefCell<Vec<Vec<Letter>>>,
    ask: Ask,
    authenticate: Authenticate,
    prove: Prove,
    lend: Lend,
    note_tls: NoteTls,
    loads: Loads,
    pub(super) proxies: RefCell<Vec<IpNet>>,
    /// Connections whose PROXY header is awaited.
    pub(super) headers_awaited: Cell<usize>,
    events: std::sync::mpsc::Sender<Event>,
    reporter: Reporter,
    /// Sockets that begin to listen when the shard is ready.
    waiting: RefCell<Vec<Door>>,
    socket: SocketSettings,
    quiet_until: Cell<Mono>,
    stopped: Cell<bool>,
}

/// The whole life of a shard; the executor ends with it.
pub(crate) async fn live(berth: Berth) {
    let clock = Clock::new();
    let blocks: Box<dyn BlockSource> = Box::new(DmaBlocks);
    let shard = (berth.build)(berth.id, blocks, clock.now());
    let shell = Rc::new(Shell {
        id: berth.id,
        shard: RefCell::new(shard),
        clock,
        alarm: Alarm::new(),
        scratch: RefCell::new(vec![0; limits::RECEIVE_BYTES].into_boxed_slice()),
        plain: RefCell::default(),
        keys: RefCell::new(berth.keys),
        gate: Rc::default(),
        effects: RefCell::default(),
        fresh: RefCell::default(),
        performing: Cell::new(false),
        conns: RefCell::default(),
        arrived: RefCell::new(None),
        disk: Rc::new(Disk::new(&berth.spool, berth.id, berth.segment_bytes)),
        injections: RefCell::default(),
        injections_seen: Cell::new(0),
        operations: RefCell::default(),
        operations_seen: Cell::new(0),
        outgoing: RefCell::new(berth.mailboxes.iter().map(|_| Vec::new()).collect()),
        mailboxes: berth.mailboxes,
        ask: berth.ask,
        authenticate: berth.authenticate,
        prove: berth.prove,
        lend: berth.lend,
        note_tls: berth.note_tls,
        loads: berth.loads,
        proxies: RefCell::new(berth.proxies),
        headers_awaited: Cell::new(0),
        events: berth.events,
        reporter: berth.reporter,
        waiting: RefCell::new(berth.doors),
        socket: berth.socket,
        quiet_until: Cell::new(Mono(0)),
        stopped: Cell::new(false),
    });
    let alarm = glommio::spawn_local(alarm_loop(shell.clone()));
    // The first step tells what the shard wants: a segment, its recovered mail's first attempts.
    shell.give(Input::Tick);
    shell.begin_if_ready();
    read_mail(&shell).await;
    shell.mailboxes[shell.id.0 as usize].close();
    alarm.cancel().await;
    let conns = std::mem::take(&mut *shell.conns.borrow_mut());
    conns.values().for_each(|conn| conn.end());
    // Their tasks end in this turn, and with them the sockets.
    glommio::executor().yield_now().await;
}

/// Gives the shard its tick whenever the moment has come that it asked for.
async fn alarm_loop(shell: Rc<Shell>) {
    loop {
        poll_fn(|cx| shell.alarm.poll(&shell.clock, cx)).await;
        shell.give(Input::Tick);
        glommio::executor().yield_now().await;
    }
}

/// Reads the mailbox until told to stop.
async fn read_mail(shell: &Rc<Shell>) {
    let mut letters = Vec::new();
    loop {
        poll_fn(|cx| shell.mailboxes[shell.id.0 as usize].poll_take(cx, &mut letters)).await;
        for (number, letter) in letters.drain(..).enumerate() {
            match letter {
                Letter::Parcel { from, parcel } => shell.give(Input::Parcel { from, parcel }),
                Letter::Resolved { query, answer } => shell.give(Input::Resolved { query, answer }),
                Letter::Inject(injection) => shell.inject(*injection),
                Letter::Operate(operation) => shell.operate(*operation),
                Letter::Report(reply) => reply(shell.report()),
                Letter::Authenticated { conn, answer } => shell.give(Input::Authenticated { conn, answer }),
                Letter::Allowance(notice) => shell.give(Input::Allowance(notice)),
                Letter::Ordered { conn, jobs } => shell.give(Input::Ordered { conn, jobs }),
                Letter::Proven { conn, answer } => shell.give(Input::Proven { conn, answer }),
                Letter::Client { socket, role, proxied, seat } => {
                    // SAFETY: the descriptor is a connection's and given away.
                    shell.accepted(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }, role, proxied, seat);
                }
                Letter::Change(change) => shell.change(*change),
                Letter::Drain => shell.give(Input::Drain),
                Letter::Stop => return shell.stopped.set(true),
            }
            if number % LETTERS_PER_TURN == LETTERS_PER_TURN - 1 {
                glommio::executor().yield_now().await;
            }
        }
    }
}

impl Shell {
    /// Tells the shard one thing and does what it wants.
    pub(super) fn give(self: &Rc<Self>, input: Input<'_>) {
        self.step(input);
        self.perform();
    }

    /// Tells the shard one thing and queues what it wants.
    pub(super) fn step(&self, input: Input<'_>) {
        let now: Now = self.clock.now();
        let mut fresh = self.fresh.borrow_mut();
        self.shard.borrow_mut().step(now, input, &mut fresh);
        self.effects.borrow_mut().extend(fresh.drain(..));
    }

    /// Does everything that is queued, unless a caller further up is at it.
    pub(super) fn perform(self: &Rc<Self>) {
        if self.performing.replace(true) {
            return;
        }
        loop {
            let next = self.effects.borrow_mut().pop_front();
            let Some(effect) = next else { break };
            self.perform_one(effect);
        }
        self.performing.set(false);
        self.send_parcels();
    }

    fn perform_one(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Open { conn } => self.open(conn),
            Effect::Refuse { greeting } => self.refuse(greeting),
            Effect::Flush { conn } => {
                if let Some(conn) = self.conn(conn) {
                    conn::flush(self, &conn);
                }
            }
            Effect::Close { conn } => {
                if let Some(conn) = self.conn(conn) {
                    conn.closing.set(true);
                    conn::finish_close(self, &conn);
                }
            }
            Effect::Abort { conn } => {
                let gone = self.conns.borrow_mut().remove(&conn);
                if let Some(conn) = gone {
                    conn.abort();
                }
            }
            Effect::Pause { conn } => self.conn(conn).into_iter().for_each(|conn| conn.pause()),
            Effect::Resume { conn } => self.conn(conn).into_iter().for_each(|conn| conn.resume()),
            Effect::StartTls { conn, role } => self.start_tls(conn, role),
            Effect::Dial { conn, to, source } => match super::dial::dial(&to, source, &self.socket) {
                Ok(stream) => {
                    let conn = self.add(conn, stream, None);
                    glommio::spawn_local(conn::dialled(self.clone(), conn)).detach();
                }
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(0);
                    self.step(Input::Closed { conn, reason: CloseReason::Failed { errno } });
                }
            },
            Effect::Write { .. } | Effect::Read { .. } | Effect::PrepareSegment { .. } => self.order_disk(effect),
            Effect::Resolve { query, question } => {
                let mailbox = self.mailboxes[self.id.0 as usize].clone();
                let reply = Box::new(move |query, answer| mailbox.post([Letter::Resolved { query, answer }]));
                (self.ask)(query, question, reply);
            }
            Effect::Authenticate { conn, request } => {
                let mailbox = self.mailboxes[self.id.0 as usize].clone();
                let reply = Box::new(move |answer| mailbox.post([Letter::Authenticated { conn, answer }]));
                (self.authenticate)(request, reply);
            }
            Effect::Prove { conn, request } => {
                let mailbox = self.mailboxes[self.id.0 as usize].clone();
                let reply = Box::new(move |answer| mailbox.post([Letter::Proven { conn, answer }]));
                (self.prove)(request, reply);
            }
            Effect::Allowance(request) => {
                let mailbox = self.mailboxes[self.id.0 as usize].clone();
                let reply = Arc::new(move |notice| mailbox.post([Letter::Allowance(notice)]));
                (self.lend)(self.id, request, reply);
            }
            Effect::OrderAll { conn, order, target } => {
                let mailbox = self.mailboxes[self.id.0 as usize].clone();
                let then = move |jobs| mailbox.post([Letter::Ordered { conn, jobs }]);
                Shards::new(&self.mailboxes).operate_all(order, &target, then);
            }
            Effect::Parcel { to, parcel } => {
                self.outgoing.borrow_mut()[to.0 as usize].push(Letter::Parcel { from: self.id, parcel });
            }
            Effect::Injected { injection, outcome } => {
                let reply = self.injections.borrow_mut().remove(&injection);
                reply.expect("an injection is answered once")(outcome);
            }
            Effect::Operated { operation, jobs } => {
                let reply = self.operations.borrow_mut().remove(&operation);
                reply.expect("an order is answered once")(jobs);
            }
            Effect::WakeAt(moment) => self.alarm.set(moment),
            Effect::TlsSeen(seen) => (self.note_tls)(seen),
            Effect::Report(level, text) => self.reporter.report(level, text),
            // The main thread is gone only when the process ends.
            Effect::Drained => drop(self.events.send(Event::Drained(self.id))),
        }
    }

    /// A message came by another way than SMTP.
    fn inject(self: &Rc<Self>, injection: Injection) {
        let Injection { origin, envelope, body, reply } = injection;
        let id = InjectionId(self.injections_seen.get());
        self.injections_seen.set(id.0 + 1);
        self.injections.borrow_mut().insert(id, reply);
        self.give(Input::Inject { injection: id, origin, envelope: &envelope, body: &body });
    }

    /// An operator orders something.
    fn operate(self: &Rc<Self>, operation: Operation) {
        let Operation { order, target, reply } = operation;
        let id = OperationId(self.operations_seen.get());
        self.operations_seen.set(id.0 + 1);
        self.operations.borrow_mut().insert(id, reply);
        self.give(Input::Operate { operation: id, order, target: &target });
    }

    /// Other settings hold, and other keys for handshakes that begin from now on.
    fn change(self: &Rc<Self>, (settings, keys): (Arc<Settings>, Keys)) {
        let keys = keys.or(&self.keys.borrow());
        self.keys.replace(keys);
        self.proxies.replace(settings.relay.proxies.clone());
        self.give(Input::Change { settings });
    }

    /// What the shard does, now.
    fn report(&self) -> ShardReport {
        self.shard.borrow().report(self.clock.now())
    }

    fn start_tls(self: &Rc<Self>, id: ConnId, role: TlsRole) {
        let Some(conn) = self.conn(id) else { return };
        match self.keys.borrow().begin(role, conn.peer()) {
            Ok(tls) => {
                conn.begin_tls(tls);
                conn::flush(self, &conn);
            }
            Err(broken) => {
                self.tls_broken(id, &broken);
                if self.forget(id) {
                    conn.end();
                    self.step(Input::Closed { conn: id, reason: broken.reason() });
                }
            }
        }
    }

    /// Tells the operator what was wrong with a connection's TLS.
    pub(super) fn tls_broken(&self, id: ConnId, broken: &Broken) {
        let peer = self.conn(id).map_or_else(|| "a peer that is gone".to_owned(), |conn| conn.peer().to_string());
        self.reporter.report(Level::Info, format!("shard {}: TLS with {peer} failed: {broken}", self.id.0));
    }

    fn order_disk(self: &Rc<Self>, effect: Effect) {
        let shell = self.clone();
        glommio::spawn_local(async move {
            match effect {
                Effect::Write { write, slot, offset_bytes, block } => {
                    let result = shell.disk.write(slot, offset_bytes, block).await;
                    shell.give(Input::Written { write, result });
                    // Where segments of a run before are used again, none is prepared: the log is ready by writes alone.
                    shell.begin_if_ready();
                }
                Effect::Read { read, slot, offset_bytes, length_bytes } => {
                    let result = shell.disk.read(slot, offset_bytes, length_bytes).await;
                    shell.give(Input::ReadBack { read, result });
                }
                Effect::PrepareSegment { slot } => {
                    let result = shell.disk.prepare(slot).await;
                    shell.give(Input::SegmentPrepared { slot, result });
                    shell.begin_if_ready();
                }
                _ => unreachable!("not an order to the disk"),
            }
        })
        .detach();
    }

    fn send_parcels(&self) {
        for (mailbox, letters) in self.mailboxes.iter().zip(self.outgoing.borrow_mut().iter_mut()) {
            if !letters.is_empty() {
                mailbox.post(letters.drain(..));
            }
        }
    }

    /// Begins to accept once mail could be accepted.
    fn begin_if_ready(self: &Rc<Self>) {
        if self.stopped.get() || !self.shard.borrow().ready() {
            return;
        }
        let doors = std::mem::take(&mut *self.waiting.borrow_mut());
        if doors.is_empty() {
            return;
        }
        for Door { socket, role, proxied } in doors {
            match listen::listen(socket, self.socket.backlog) {
                Ok(listener) => {
                    drop(glommio::spawn_local(listen::accept_loop(self.clone(), listener, role, proxied)).detach())
                }
                Err(error) => drop(self.events.send(Event::Failed(self.id, format!("cannot listen: {error}")))),
            }
        }
        self.loads.open(self.id.0 as usize);
        let _ = self.events.send(Event::Ready(self.id));
    }

    /// A client has connected: it stays here, or goes to a shard with fewer.
    pub(super) fn arrived(self: &Rc<Self>, stream: TcpStream, role: Role, proxied: bool) {
        let seat = self.loads.take_seat(self.id.0 as usize);
        if seat.shard() == self.id.0 as usize {
            return self.accepted(stream, role, proxied, seat);
        }
        match descriptor(&stream).try_clone_to_owned() {
            Ok(socket) => self.mailboxes[seat.shard()].post([Letter::Client { socket, role, proxied, seat }]),
            // No descriptor is left for the moment of handing over.
            Err(_) => self.accepted(stream, role, proxied, seat),
        }
    }

    /// A client is this shard's from here on.
    fn accepted(self: &Rc<Self>, stream: TcpStream, role: Role, proxied: bool, seat: Seat) {
        let descriptor = descriptor(&stream);
        let socket = SockRef::from(&descriptor);
        // A peer that is gone already has no address. Who comes by a unix socket has none either, and is of this machine.
        let (Ok(peer), Ok(local)) = (socket.peer_addr(), socket.local_addr()) else { return };
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (peer, local) = (peer.as_socket().unwrap_or(here), local.as_socket().unwrap_or(here).ip());
        if proxied {
            proxy::await_header(self, stream, role, seat, peer, local);
        } else {
            self.introduce(stream, role, seat, peer, local);
        }
    }

    /// It is known who the client is: the shard greets it.
    pub(super) fn introduce(
        self: &Rc<Self>,
        stream: TcpStream,
        role: Role,
        seat: Seat,
        peer: SocketAddr,
        local: IpAddr,
    ) {
        *self.arrived.borrow_mut() = Some((stream, seat));
        self.give(Input::Accepted { peer, local, role });
        assert!(self.arrived.borrow().is_none(), "an accepted connection was neither opened nor refused");
    }

    fn open(self: &Rc<Self>, id: ConnId) {
        let (stream, seat) = self.arrived.borrow_mut().take().expect("a connection is opened when accepted");
        let conn = self.add(id, stream, Some(seat));
        glommio::spawn_local(conn::read_loop(self.clone(), conn)).detach();
    }

    fn refuse(&self, greeting: &'static [u8]) {
        let (stream, _seat) = self.arrived.borrow_mut().take().expect("a connection is refused when accepted");
        let descriptor = descriptor(&stream);
        let socket = SockRef::from(&descriptor);
        // A fresh socket takes one line; a peer that is gone already needs none.
        let _ = socket.send_with_flags(greeting, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }

    fn add(&self, id: ConnId, stream: TcpStream, seat: Option<Seat>) -> Rc<Conn> {
        let conn = Conn::new(id, stream, seat);
        let before = self.conns.borrow_mut().insert(id, conn.clone());
        assert!(before.is_none(), "a connection's name is given once");
        conn
    }

    fn conn(&self, id: ConnId) -> Option<Rc<Conn>> {
        self.conns.borrow().get(&id).cloned()
    }

    /// Takes a connection out of the table; false if it was not there any more.
    pub(super) fn forget(&self, id: ConnId) -> bool {
        self.conns.borrow_mut().remove(&id).is_some()
    }

    /// Looks at what a connection has to send.
    pub(super) fn with_outbox<R>(&self, id: ConnId, look: impl FnOnce(Option<&Outbox>) -> R) -> R {
        look(self.shard.borrow().outbox(id))
    }

    /// Reports what would otherwise be reported many times a second.
    pub(super) fn report_seldom(&self, level: Level, text: String) {
        let now = self.clock.now().mono;
        if now >= self.quiet_until.get() {
            self.quiet_until.set(now.plus_ms(REPORT_PAUSE_MS));
            self.reporter.report(level, format!("shard {}: {text}", self.id.0));
        }
    }
}

fn descriptor(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// The cores this process may run on.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    // SAFETY: all-zero is an empty set; the kernel writes at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        set
    };
    // SAFETY: the index stays within the set.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}
