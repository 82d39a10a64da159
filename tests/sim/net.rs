//! Connections: bytes under way in both directions, cut anywhere, and the ways in which connections go wrong.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use ringpost::base::ids::ConnId;
use ringpost::shard::{CloseReason, Input};

use crate::client::{Abort, Wish};
use crate::hop::{Hop, Say};
use crate::ledger::TakeName;
use crate::plan::{Cut, SECOND_US, SMART_HOST, site_of};
use crate::tls::Layer;
use crate::world::{Event, World};

/// Who is at the other end.
pub enum Peer {
    Client(usize),
    Hop(Box<Hop>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    Reset,
}

/// One direction.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// An event is under way that moves them on.
    moving: bool,
    end: Option<End>,
}

/// What goes wrong with a connection.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    Reset,
    PeerCloses,
    /// Nothing gets through any more, and no one is told.
    Lost,
    /// Nothing gets through to the relay.
    LostUp,
    /// Nothing gets through from the relay.
    LostDown,
    WindowCloses,
    WindowOpens,
}

pub struct Conn {
    pub shard: usize,
    pub name: ConnId,
    pub peer: Peer,
    /// The relay has it.
    pub open: bool,
    established: bool,
    paused: bool,
    pulling: bool,
    lost_up: bool,
    lost_down: bool,
    window_closed: bool,
    pub layer: Layer,
    up: Pipe,
    down: Pipe,
    /// Bytes the relay was given, and at which count what was taken is known to it.
    given: u64,
    put: u64,
    acks: VecDeque<(u64, Vec<TakeName>)>,
    say: VecDeque<Say>,
    saying: bool,
    /// The line that is leaving for a client.
    line: Vec<u8>,
}

impl Conn {
    pub fn new(shard: usize, name: ConnId, peer: Peer, established: bool) -> Conn {
        Conn {
            shard,
            name,
            peer,
            open: true,
            established,
            paused: false,
            pulling: false,
            lost_up: false,
            lost_down: false,
            window_closed: false,
            layer: Layer::Clear,
            up: Pipe::default(),
            down: Pipe::default(),
            given: 0,
            put: 0,
            acks: VecDeque::new(),
            say: VecDeque::new(),
            saying: false,
            line: Vec::new(),
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost_up || self.lost_down
    }

    /// No byte is under way to the relay.
    pub fn nothing_comes(&self) -> bool {
        self.up.bytes.is_empty()
    }

    fn orphan(&mut self) {
        if let Peer::Hop(hop) = &mut self.peer {
            hop.orphan = true;
        }
    }

    fn site(&self) -> Option<usize> {
        match &self.peer {
            Peer::Client(_) => None,
            Peer::Hop(hop) => Some(hop.site),
        }
    }
}

impl World {
    /// How many bytes come on at once.
    fn cut(&mut self, waiting: usize) -> usize {
        let most = match self.plan.cut {
            Cut::Tiny if waiting < 2_000 => self.dice.range(1, 16),
            Cut::Tiny | Cut::Packets => self.dice.range(1, 2 * 1460),
            Cut::Large => self.dice.skewed(1, 256 << 10),
        };
        waiting.min(most as usize)
    }

    fn hop_delay(&mut self) -> u64 {
        let latency = self.plan.net_latency_us;
        self.dice.range(1, latency)
    }

    /// Draws what will go wrong with a new connection.
    pub fn foresee_trouble(&mut self, conn: usize) {
        let faults = self.faults;
        for (name, chance, trouble) in [
            ("reset", faults.reset, Trouble::Reset),
            ("peer_closes", faults.reset, Trouble::PeerCloses),
            ("half_open", faults.half_open, Trouble::Lost),
            ("half_open_up", faults.half_open, Trouble::LostUp),
            ("half_open_down", faults.half_open, Trouble::LostDown),
            ("zero_window", faults.zero_window, Trouble::WindowCloses),
        ] {
            if self.dice.fault(name, chance) {
                let delay = self.dice.skewed(1_000, 20 * SECOND_US);
                self.after(delay, Event::Trouble { conn, trouble });
            }
        }
    }

    pub fn trouble(&mut self, index: usize, trouble: Trouble) {
        let conn = &mut self.conns[index];
        if !conn.open || !conn.established {
            return;
        }
        self.trace.note(self.now, "trouble", index as u64, 0, || format!("conn {index}: {trouble:?}"));
        match trouble {
            Trouble::Reset | Trouble::PeerCloses => {
                let end = if matches!(trouble, Trouble::Reset) { End::Reset } else { End::Closed };
                self.peer_ends(index, end);
                self.peer_is_over(index);
            }
            Trouble::Lost => {
                (conn.lost_up, conn.lost_down) = (true, true);
                match &mut conn.peer {
                    Peer::Client(client) => self.clients[*client].silent = true,
                    Peer::Hop(hop) => hop.dead = true,
                }
            }
            Trouble::LostUp => {
                conn.lost_up = true;
                if let Peer::Client(client) = conn.peer {
                    self.clients[client].hindered = true;
                }
            }
            Trouble::LostDown => {
                conn.lost_down = true;
                if let Peer::Client(client) = conn.peer {
                    self.clients[client].silent = true;
                }
            }
            Trouble::WindowCloses => {
                conn.window_closed = true;
                if let Peer::Client(client) = conn.peer {
                    self.clients[client].hindered = true;
                }
                let delay = self.dice.skewed(10_000, 40 * SECOND_US);
                self.after(delay, Event::Trouble { conn: index, trouble: Trouble::WindowOpens });
            }
            Trouble::WindowOpens => self.open_window(index),
        }
    }

    pub fn open_window(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if std::mem::take(&mut conn.window_closed) && conn.open && conn.pulling {
            self.after_here(1, Event::Pull { conn: index });
        }
    }

    fn peer_is_over(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.say.clear();
        match &mut conn.peer {
            Peer::Client(client) => self.clients[*client].over = true,
            Peer::Hop(hop) => hop.dead = true,
        }
    }

    // ---- what the relay does ----

    pub fn flush(&mut self, shard: usize, name: ConnId) {
        let Some(&index) = self.by_name.get(&(shard, name)) else { return };
        let conn = &mut self.conns[index];
        let outbox = self.shards[shard].as_ref().and_then(|shard| shard.outbox(name));
        if let (Peer::Client(_), Some(outbox)) = (&conn.peer, outbox) {
            let text = outbox.to_vec();
            for line in String::from_utf8_lossy(&text).split_inclusive("\r\n").filter(|line| line.ends_with('\n')) {
                if line.contains("queued as ") {
                    self.ledger.reply_stands(line);
                }
            }
        }
        if !std::mem::replace(&mut conn.pulling, true) {
            let delay = self.dice.range(0, 20);
            self.after_here(delay, Event::Pull { conn: index });
        }
    }

    pub fn pull(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if !conn.open || conn.window_closed {
            return;
        }
        assert!(conn.layer != Layer::Handshake, "bytes in clear in the middle of a handshake");
        let (shard, name) = (conn.shard, conn.name);
        if conn.down.bytes.len() > 64 << 10 {
            return self.after_here(1_000, Event::Pull { conn: index });
        }
        if conn.lost_down && self.dice.permille(500) {
            // The kernel's buffer is full; it stays so.
            return;
        }
        let relay = self.shards[shard].as_ref().expect("the relay is up");
        let outbox = relay.outbox(name).expect("the connection is open");
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = outbox.gather(&mut slices);
        let available: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
        if available == 0 {
            conn.pulling = false;
            return;
        }
        let most = if self.dice.permille(150) { self.dice.range(1, available as u64) as usize } else { 64 << 10 };
        let count = available.min(most);
        let mut left = count;
        for slice in &slices[..filled] {
            let part = &slice[..slice.len().min(left)];
            left -= part.len();
            if !conn.lost_down {
                conn.down.bytes.extend(part);
            }
            if matches!(conn.peer, Peer::Client(_)) {
                conn.line.extend_from_slice(part);
            }
        }
        while let Some(end) = conn.line.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = conn.line.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if line.contains("queued as ") {
                let id = self.ledger.reply_stands(&line).expect("a 250 names its message");
                self.ledger.reply_left(id);
            }
        }
        self.trace.note(self.now, "sent", index as u64, count as u64, || {
            let bytes: Vec<u8> = self.conns[index].down.bytes.iter().rev().take(60).copied().collect();
            let tail: Vec<u8> = bytes.into_iter().rev().collect();
            format!("conn {index}: {count} bytes, ..{:?}", String::from_utf8_lossy(&tail))
        });
        self.move_down(index);
        self.step(shard, Input::Sent { conn: name, count });
        let conn = &mut self.conns[index];
        let more = conn.open
            && self.shards[shard].as_ref().and_then(|relay| relay.outbox(name)).is_some_and(|outbox| outbox.sendable());
        if more {
            let delay = self.dice.range(1, 50);
            self.after_here(delay, Event::Pull { conn: index });
        } else {
            conn.pulling = false;
        }
    }

    fn move_down(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let something = !conn.down.bytes.is_empty() || conn.down.end.is_some();
        if something && !conn.lost_down && !std::mem::replace(&mut conn.down.moving, true) {
            let delay = self.hop_delay();
            self.after(delay, Event::Reach { conn: index });
        }
    }

    pub fn set_paused(&mut self, shard: usize, name: ConnId, paused: bool) {
        let Some(&index) = self.by_name.get(&(shard, name)) else { return };
        assert!(self.conns[index].paused != paused, "paused or resumed twice");
        self.conns[index].paused = paused;
        self.move_up(index);
    }

    /// The relay lets go of a connection.
    pub fn shard_closes(&mut self, shard: usize, name: ConnId, abort: bool) {
        let index = *self.by_name.get(&(shard, name)).expect("only open connections are closed");
        self.trace.note(self.now, "closes", index as u64, abort.into(), || format!("conn {index}, abort {abort}"));
        self.forget(index);
        let conn = &mut self.conns[index];
        if abort {
            conn.down.bytes.clear();
        }
        self.end_down(index, if abort { End::Reset } else { End::Closed });
    }

    /// The other side hears that the relay is gone.
    pub fn end_down(&mut self, index: usize, end: End) {
        self.conns[index].down.end = Some(end);
        self.move_down(index);
    }

    pub fn forget(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.open = false;
        conn.up.bytes.clear();
        conn.orphan();
        self.by_name.remove(&(conn.shard, conn.name));
        if let Peer::Hop(hop) = &conn.peer
            && hop.start_tls
            && !hop.used_tls
        {
            self.ledger.tls_failed.insert(hop.site);
        }
        if let Some(site) = conn.site() {
            *self.at_site.get_mut(&site).expect("it was counted") -= 1;
        }
    }

    /// The relay's machine stopped.
    pub fn relay_gone(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if std::mem::replace(&mut conn.open, false) {
            conn.up.bytes.clear();
            conn.orphan();
            conn.down.end = Some(End::Reset);
            self.move_down(index);
        }
    }

    pub fn dial(&mut self, shard: usize, name: ConnId, address: SocketAddr, source: Option<IpAddr>) {
        assert_eq!(address.port(), 25);
        let (site, _) = site_of(address.ip());
        let count = self.at_site.entry(site).or_default();
        *count += 1;
        // Each source has its own.
        let most = (self.connections_before + self.connections_most) * if self.plan.warm_up { 2 } else { 1 };
        // Who is told of other mail hosts than there are has another site for them, with limits of its own.
        let lied = self.ledger.lied_about.contains(&site) || self.ledger.renamed.contains(&site);
        assert!(lied || *count <= most, "{count} connections to site {site}, and {most} are allowed");
        let ways = self.plan.hops[if site == SMART_HOST { self.plan.domains } else { site }];
        let index = self.conns.len();
        self.trace.note(self.now, "dial", index as u64, site as u64, || {
            format!("conn {index}: shard {shard} to {address}, {count} there")
        });
        self.conns.push(Conn::new(shard, name, Peer::Hop(Box::new(Hop::new(site, source, ways))), false));
        self.by_name.insert((shard, name), index);
        if !self.dice.fault("dial_lost", self.faults.dial_lost) {
            let delay = self.hop_delay();
            self.after_here(delay, Event::Dialled { conn: index });
        }
    }

    pub fn dialled(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if !conn.open {
            return;
        }
        let (shard, name) = (conn.shard, conn.name);
        if self.dice.fault("dial_refused", self.faults.dial_refused) {
            self.forget(index);
            return self.step(shard, Input::Closed { conn: name, reason: CloseReason::Failed { errno: 111 } });
        }
        conn.established = true;
        self.step(shard, Input::Connected { conn: name, local: None });
        self.foresee_trouble(index);
        let conn = &mut self.conns[index];
        let Peer::Hop(hop) = &mut conn.peer else { unreachable!("only next hops are dialled") };
        hop.greet(&mut self.dice, &self.faults, &mut conn.say);
        self.begin_saying(index);
    }

    // ---- what the other side does ----

    fn put(&mut self, index: usize, bytes: &[u8]) {
        let conn = &mut self.conns[index];
        if !conn.open || conn.lost_up || conn.up.end.is_some() {
            return;
        }
        conn.put += bytes.len() as u64;
        conn.up.bytes.extend(bytes);
        self.move_up(index);
    }

    fn move_up(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let something = !conn.up.bytes.is_empty() || conn.up.end.is_some();
        if conn.open && something && !conn.paused && !conn.lost_up && !std::mem::replace(&mut conn.up.moving, true) {
            let delay = self.hop_delay();
            self.after_here(delay, Event::Deliver { conn: index });
        }
    }

    fn peer_ends(&mut self, index: usize, end: End) {
        let conn = &mut self.conns[index];
        if end == End::Reset {
            conn.up.bytes.clear();
        }
        conn.up.end.get_or_insert(end);
        self.move_up(index);
    }

    pub fn deliver(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.up.moving = false;
        if !conn.open || conn.paused || conn.lost_up {
            return;
        }
        let (shard, name) = (conn.shard, conn.name);
        let waiting = conn.up.bytes.len();
        if waiting > 0 && conn.layer == Layer::Handshake {
            return self.fail_handshake(index);
        }
        if waiting == 0 {
            let Some(end) = conn.up.end else { return };
            self.forget(index);
            self.trace.note(self.now, "closed", index as u64, 0, || format!("conn {index}: {end:?}"));
            let reason = if end == End::Closed { CloseReason::PeerClosed } else { CloseReason::Failed { errno: 104 } };
            return self.step(shard, Input::Closed { conn: name, reason });
        }
        let count = self.cut(waiting);
        let conn = &mut self.conns[index];
        let bytes: Vec<u8> = conn.up.bytes.drain(..count).collect();
        conn.given += count as u64;
        while conn.acks.front().is_some_and(|(at, _)| *at <= conn.given) {
            let (_, takes) = conn.acks.pop_front().expect("there is a front");
            for take in takes {
                self.ledger.reply_seen(self.now, take);
            }
        }
        self.trace.note(self.now, "received", index as u64, count as u64, || {
            format!("conn {index}: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(80)]))
        });
        self.step(shard, Input::Received { conn: name, bytes: &bytes });
        self.move_up(index);
    }

    /// Bytes of the relay reach the other side.
    pub fn reach(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.down.moving = false;
        if conn.lost_down {
            return;
        }
        let waiting = conn.down.bytes.len();
        if waiting == 0 {
            if let Some(end) = conn.down.end {
                self.relay_ended(index, end);
            }
            return;
        }
        let count = self.cut(waiting);
        let conn = &mut self.conns[index];
        let bytes: Vec<u8> = conn.down.bytes.drain(..count).collect();
        match &mut conn.peer {
            Peer::Client(client) => {
                let number = *client;
                self.client_receives(index, number, &bytes);
            }
            Peer::Hop(hop) => {
                hop.receive(
                    &mut self.dice,
                    &self.plan,
                    &self.faults,
                    &mut self.ledger,
                    self.now,
                    &bytes,
                    &mut conn.say,
                );
                self.begin_saying(index);
            }
        }
        self.move_down(index);
    }

    fn relay_ended(&mut self, index: usize, end: End) {
        if let Peer::Client(client) = self.conns[index].peer {
            let client = &mut self.clients[client];
            assert!(
                end == End::Reset || client.over || client.silent,
                "a client's connection was closed without a word"
            );
        }
        self.peer_is_over(index);
    }

    pub fn client_receives(&mut self, index: usize, number: usize, bytes: &[u8]) {
        let client = &mut self.clients[number];
        if client.over || client.silent {
            return;
        }
        client.last_us = self.now;
        self.see_storage();
        let trouble_us = self.storage_trouble_us;
        let client = &mut self.clients[number];
        let mut wish = client.receive(&self.plan, &mut self.ledger, bytes, trouble_us, !self.conns[index].open);
        let mut out = Vec::new();
        if wish == Wish::Nothing {
            wish = client.advance(&mut self.ledger, &mut out);
        }
        if !out.is_empty() {
            self.put(index, &out);
        }
        match wish {
            Wish::Nothing => {}
            Wish::Close | Wish::Abort(Abort::Close) => self.peer_ends(index, End::Closed),
            Wish::Abort(Abort::Reset) => self.peer_ends(index, End::Reset),
            Wish::Abort(Abort::Silence) => {}
        }
    }

    // ---- next hops ----

    fn begin_saying(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let Some(first) = conn.say.front() else { return };
        if !std::mem::replace(&mut conn.saying, true) {
            let delay = if let Say::Reply { after_us, .. } = first { *after_us } else { 1 };
            self.after(delay, Event::Say { conn: index });
        }
    }

    pub fn say(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.saying = false;
        let Some(next) = conn.say.pop_front() else { return };
        match next {
            Say::Reply { text, takes, .. } => {
                if let Peer::Hop(hop) = &mut conn.peer {
                    hop.unsaid = hop.unsaid.saturating_sub(1);
                }
                if !takes.is_empty() && conn.open && !conn.lost_up && conn.up.end.is_none() {
                    conn.acks.push_back((conn.put + text.len() as u64, takes));
                }
                self.put(index, text.as_bytes());
            }
            Say::Close { reset } => self.peer_ends(index, if reset { End::Reset } else { End::Closed }),
            Say::Silence => {}
        }
        self.begin_saying(index);
    }
}
