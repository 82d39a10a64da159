//! The whole shard against a small world in memory: a disk, clients, and a next hop that answers by rule.

mod auth;
mod bodies;
mod change;
mod conveyed;
mod hosts;
mod injections;
mod lists;
mod orders;
mod pacing;
mod parameters;
mod reading;
mod reclaim;
mod sharing;
mod signing;
mod sites;
mod tls;
mod tls_reports;
mod warm_up;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::*;
use crate::base::bytes::{HeapBlocks, heap_block};
use crate::base::ids::{InjectionId, OperationId};
use crate::base::limits;
use crate::base::time::UnixMs;
use crate::config::{self, Machine, Role};
use crate::queue::{DiskError, ReadId, Recovery, SegmentSlot, WriteId};
use crate::route::{Answer, reports::Fault};
use crate::smtp::auth::{AuthRequest, ProofRequest};
use crate::smtp::reply::Reply;

/// One message as the next hop took it.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    sender: String,
    recipients: Vec<String>,
    data: String,
}

/// A next hop on one connection: reads what the shard sent, answers by `rule` (given the command line; `.` at the end of data).
#[derive(Default)]
struct Hop {
    input: Vec<u8>,
    data: bool,
    /// Inside a chunk of so many octets.
    chunk_bytes: Option<usize>,
    current: Option<Taken>,
}

struct World {
    shard: Shard,
    now: Now,
    effects: Vec<Effect>,
    disk: HashMap<u32, Vec<u8>>,
    /// Writes are kept here instead of done, if set.
    hold_writes: bool,
    held: VecDeque<(WriteId, SegmentSlot, u32, Vec<u8>)>,
    fail_writes: Option<DiskError>,
    /// Reads are kept here instead of done, if set.
    hold_reads: bool,
    held_reads: VecDeque<(ReadId, Vec<u8>)>,
    clients: HashMap<ConnId, String>,
    hops: HashMap<ConnId, Hop>,
    refuse_dials: bool,
    /// Addresses where connections are refused, and where they are never answered.
    dead: Vec<IpAddr>,
    silent: Vec<IpAddr>,
    /// So many connections at a time are taken; one more is greeted with 421.
    most_hops: usize,
    dials: u32,
    /// Where to, in order.
    dialled: Vec<IpAddr>,
    /// Where from, in the same order.
    sources: Vec<Option<IpAddr>>,
    taken: Vec<Taken>,
    /// What next hops were told outside data.
    commands: Vec<String>,
    rule: fn(&str) -> String,
    /// Handshakes begun; they fail if `fail_tls`. The world's TLS changes no byte.
    handshakes: Vec<TlsRole>,
    fail_tls: bool,
    operated: Vec<(OperationId, u64)>,
    /// Orders of clients to all shards, of which there is one.
    ordering: VecDeque<ConnId>,
    injected: Vec<(InjectionId, Result<Receipt, Reply>)>,
    /// Peers show certificates.
    certified: bool,
    fault: Option<Fault>,
    tls_seen: Vec<Seen>,
    /// Questions about clients, which the test answers.
    asked: VecDeque<(ConnId, Box<AuthRequest>)>,
    /// Questions about ourselves, likewise.
    to_prove: VecDeque<(ConnId, Box<ProofRequest>)>,
    /// Sockets in the file system that were dialled.
    sockets: Vec<std::path::PathBuf>,
    /// Who keeps the book of days' limits.
    keeper: warm_up::Keeper,
    reports: Vec<String>,
    wake: Mono,
    drained: bool,
    last_opened: Option<ConnId>,
    answer: Answer,
    /// Questions are kept here instead of answered, if set.
    hold_questions: bool,
    questions: VecDeque<QueryId>,
}

fn accept_all(line: &str) -> String {
    match line.split(' ').next().unwrap() {
        "EHLO" => "250-hop.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n".into(),
        "DATA" => "354 go\r\n".into(),
        "QUIT" => "221 bye\r\n".into(),
        _ => "250 2.0.0 ok\r\n".into(),
    }
}

fn settings(more: &[&str]) -> Arc<Settings> {
    let mut sets =
        vec!["shards=1".to_string(), "relay.hostname=relay.test".into(), "route.default=192.0.2.9:25".into()];
    // Lines of the alias table stand among them.
    let (table, more): (Vec<&str>, Vec<&str>) = more.iter().partition(|set| set.starts_with("table "));
    sets.extend(more.iter().map(|set| set.to_string()));
    let machine = Machine { hostname: "relay.test".into(), cores: 1 };
    if table.is_empty() {
        return Arc::new(config::load(None, &sets, &machine).unwrap());
    }
    sets.push("aliases.file=table".into());
    let mut settings = config::load(None, &sets, &machine).unwrap();
    let text: String = table.iter().map(|line| line["table ".len()..].to_owned() + "\n").collect();
    settings.aliases.read(|_| Ok(text)).unwrap();
    Arc::new(settings)
}

/// What recovery makes of a disk.
fn start_of(disk: &HashMap<u32, Vec<u8>>) -> ShardStart {
    let shard = ShardId(0);
    let mut recovery = Recovery::new();
    let mut files: Vec<_> =
        disk.iter().map(|(slot, bytes)| (Recovery::life(shard, &mut &bytes[..]).unwrap(), *slot, bytes)).collect();
    files.sort_by_key(|(life, slot, _)| (std::cmp::Reverse(*life), *slot));
    for (_, slot, bytes) in files {
        recovery.segment(shard, SegmentSlot(slot), bytes.len() as u32, &mut &bytes[..]).unwrap();
    }
    recovery.finish(1).swap_remove(0)
}

impl World {
    fn new(more: &[&str]) -> World {
        Self::on(more, HashMap::new())
    }

    /// A world on a disk that an earlier one left.
    fn on(more: &[&str], disk: HashMap<u32, Vec<u8>>) -> World {
        let mut world = World::before_its_first_step(more, disk);
        world.input(Input::Tick);
        world
    }

    /// A shard on what recovery finds.
    fn setup(more: &[&str], disk: &HashMap<u32, Vec<u8>>, now: Now) -> Shard {
        let start = start_of(disk);
        Shard::new(Setup {
            id: ShardId(0),
            settings: settings(more),
            start,
            blocks: Box::new(HeapBlocks),
            seed: 1,
            now,
        })
    }

    fn before_its_first_step(more: &[&str], disk: HashMap<u32, Vec<u8>>) -> World {
        let now = Now { mono: Mono(1_000_000), wall: UnixMs(1_795_000_000_000) };
        World {
            shard: World::setup(more, &disk, now),
            now,
            effects: Vec::new(),
            disk,
            hold_writes: false,
            held: VecDeque::new(),
            fail_writes: None,
            hold_reads: false,
            held_reads: VecDeque::new(),
            clients: HashMap::new(),
            hops: HashMap::new(),
            refuse_dials: false,
            dead: Vec::new(),
            silent: Vec::new(),
            most_hops: usize::MAX,
            dials: 0,
            dialled: Vec::new(),
            sources: Vec::new(),
            taken: Vec::new(),
            commands: Vec::new(),
            rule: accept_all,
            handshakes: Vec::new(),
            fail_tls: false,
            operated: Vec::new(),
            ordering: VecDeque::new(),
            injected: Vec::new(),
            certified: false,
            fault: None,
            tls_seen: Vec::new(),
            asked: VecDeque::new(),
            to_prove: VecDeque::new(),
            sockets: Vec::new(),
            keeper: warm_up::Keeper::default(),
            reports: Vec::new(),
            wake: Mono::NEVER,
            drained: false,
            last_opened: None,
            answer: Answer::NoSuchDomain { ttl_s: 60 },
            hold_questions: false,
            questions: VecDeque::new(),
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.now.mono.0 += 1;
        let mut effects = std::mem::take(&mut self.effects);
        self.shard.step(self.now, input, &mut effects);
        self.effects = effects;
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.perform(effect);
            }
        }
    }

    /// An input whose effects are performed by whoever is performing now.
    fn nested(&mut self, input: Input<'_>) {
        let mut effects = std::mem::take(&mut self.effects);
        self.shard.step(self.now, input, &mut effects);
        self.effects = effects;
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Open { conn } => {
                self.clients.insert(conn, String::new());
                self.last_opened = Some(conn);
            }
            Effect::Refuse { greeting } => self.reports.push(String::from_utf8_lossy(greeting).into()),
            Effect::Flush { conn } => self.flush(conn),
            Effect::Close { conn } | Effect::Abort { conn } => {
                self.hops.remove(&conn);
            }
            Effect::StartTls { conn, role } => self.start_tls(conn, role),
            Effect::Authenticate { conn, request } => self.asked.push_back((conn, request)),
            Effect::Pause { .. } | Effect::Resume { .. } | Effect::Parcel { .. } => {}
            Effect::Prove { conn, request } => self.to_prove.push_back((conn, request)),
            Effect::Dial { conn, to, source } => {
                let address = match to {
                    config::Endpoint::Tcp(address) => address,
                    config::Endpoint::Unix(path) => {
                        self.sockets.push(path);
                        ([127, 0, 0, 1], 0).into()
                    }
                };
                self.dials += 1;
                self.sources.push(source);
                self.dialled.push(address.ip());
                if self.silent.contains(&address.ip()) {
                    return;
                }
                if self.refuse_dials || self.dead.contains(&address.ip()) {
                    self.nested(Input::Closed { conn, reason: CloseReason::Failed { errno: 111 } });
                } else if self.hops.len() >= self.most_hops {
                    self.nested(Input::Connected { conn, local: None });
                    self.nested(Input::Received { conn, bytes: b"421 4.7.0 too many connections\r\n" });
                } else {
                    self.hops.insert(conn, Hop::default());
                    self.nested(Input::Connected { conn, local: None });
                    self.nested(Input::Received { conn, bytes: b"220 hop.test\r\n" });
                }
            }
            Effect::Write { write, slot, offset_bytes, block } => {
                self.held.push_back((write, slot, offset_bytes, block.bytes().to_vec()));
                if !self.hold_writes {
                    self.do_write();
                }
            }
            Effect::Read { read, slot, offset_bytes, length_bytes } => {
                let from = offset_bytes as usize;
                let bytes = self.disk[&slot.0][from..from + length_bytes as usize].to_vec();
                self.held_reads.push_back((read, bytes));
                if !self.hold_reads {
                    self.do_read();
                }
            }
            Effect::PrepareSegment { slot } => {
                let size = self.shard.settings.queue.segment_bytes as usize;
                self.disk.insert(slot.0, vec![0; size]);
                self.nested(Input::SegmentPrepared { slot, result: Ok(()) });
            }
            Effect::Resolve { query, .. } if self.hold_questions => self.questions.push_back(query),
            Effect::Resolve { query, .. } => {
                let answer = self.answer.clone();
                self.nested(Input::Resolved { query, answer });
            }
            Effect::WakeAt(wake) => self.wake = wake,
            Effect::OrderAll { conn, order, target } => {
                self.ordering.push_back(conn);
                self.nested(Input::Operate { operation: OperationId(u64::MAX), order, target: &target });
            }
            Effect::Operated { operation: OperationId(u64::MAX), jobs } => {
                let conn = self.ordering.pop_front().expect("a client ordered something");
                self.nested(Input::Ordered { conn, jobs });
            }
            Effect::Operated { operation, jobs } => self.operated.push((operation, jobs)),
            Effect::Allowance(request) => self.tell_book(request),
            Effect::Injected { injection, outcome } => self.injected.push((injection, outcome)),
            Effect::TlsSeen(seen) => self.tls_seen.extend(seen),
            Effect::Report(_, text) => self.reports.push(text),
            Effect::Drained => self.drained = true,
        }
    }

    fn do_write(&mut self) {
        let (write, slot, offset, bytes) = self.held.pop_front().expect("a write is held");
        let result = match self.fail_writes {
            Some(error) => Err(error),
            None => {
                let at = offset as usize;
                self.disk.get_mut(&slot.0).unwrap()[at..at + bytes.len()].copy_from_slice(&bytes);
                Ok(())
            }
        };
        self.nested(Input::Written { write, result });
    }

    fn do_read(&mut self) {
        let (read, bytes) = self.held_reads.pop_front().expect("a read is held");
        self.nested(Input::ReadBack { read, result: Ok(heap_block(bytes)) });
    }

    fn release_writes(&mut self) {
        while !self.held.is_empty() {
            self.do_write();
            self.input(Input::Tick);
        }
    }

    fn flush(&mut self, conn: ConnId) {
        let Some(outbox) = self.shard.outbox(conn) else { return };
        let bytes = {
            let mut slices = [std::io::IoSlice::new(&[]); 64];
            let filled = outbox.gather(&mut slices);
            slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>()
        };
        if bytes.is_empty() {
            return;
        }
        self.nested(Input::Sent { conn, count: bytes.len() });
        if let Some(said) = self.clients.get_mut(&conn) {
            said.push_str(&String::from_utf8_lossy(&bytes));
        } else if self.hops.contains_key(&conn) {
            self.hop(conn, &bytes);
        }
        if self.shard.outbox(conn).is_some_and(|outbox| outbox.sendable()) {
            self.flush(conn);
        }
    }

    fn hop(&mut self, conn: ConnId, bytes: &[u8]) {
        let mut hop = self.hops.remove(&conn).unwrap();
        hop.input.extend_from_slice(bytes);
        let mut replies = String::new();
        loop {
            if let Some(size) = hop.chunk_bytes {
                if hop.input.len() < size {
                    break;
                }
                let mut taken = hop.current.take().unwrap();
                taken.data = hop.input.drain(..size).map(char::from).collect();
                hop.chunk_bytes = None;
                let reply = (self.rule)(".");
                if reply.starts_with('2') {
                    self.taken.push(taken);
                }
                replies.push_str(&reply);
                continue;
            }
            if hop.data && hop.input.starts_with(b".\r\n") {
                // A message for nobody.
                hop.input.drain(..3);
                hop.data = false;
                hop.current = None;
                replies.push_str("554 5.5.1 no valid recipients\r\n");
                continue;
            }
            let end: &[u8] = if hop.data { b"\r\n.\r\n" } else { b"\r\n" };
            let Some(at) = hop.input.windows(end.len()).position(|window| window == end) else { break };
            let piece = String::from_utf8_lossy(&hop.input[..at]).into_owned();
            hop.input.drain(..at + end.len());
            if std::mem::take(&mut hop.data) {
                let mut taken = hop.current.take().unwrap();
                taken.data = piece + "\r\n";
                let reply = (self.rule)(".");
                if reply.starts_with('2') {
                    self.taken.push(taken);
                }
                replies.push_str(&reply);
                continue;
            }
            if let Some(size) = piece.strip_prefix("BDAT ").and_then(|rest| rest.strip_suffix(" LAST")) {
                hop.chunk_bytes = Some(size.parse().unwrap());
                continue;
            }
            self.commands.push(piece.clone());
            let reply = (self.rule)(&piece);
            if reply.starts_with('2') && piece.starts_with("MAIL") {
                let sender = piece[11..].split('>').next().unwrap().into();
                hop.current = Some(Taken { sender, recipients: Vec::new(), data: String::new() });
            } else if reply.starts_with('2') && piece.starts_with("RCPT") {
                hop.current.as_mut().unwrap().recipients.push(piece[9..].split('>').next().unwrap().into());
            } else if reply.starts_with("354") {
                hop.data = true;
            }
            replies.push_str(&reply);
        }
        self.hops.insert(conn, hop);
        if !replies.is_empty() {
            self.nested(Input::Received { conn, bytes: replies.as_bytes() });
        }
    }

    fn client(&mut self) -> ConnId {
        self.client_from("127.0.0.1:4000")
    }

    fn client_from(&mut self, peer: &str) -> ConnId {
        self.client_of(peer, Role::Relay)
    }

    fn client_of(&mut self, peer: &str, role: Role) -> ConnId {
        self.input(Input::Accepted { peer: peer.parse().unwrap(), local: "127.0.0.1".parse().unwrap(), role });
        self.last_opened.expect("the connection was opened")
    }

    /// The same as `send` for a client at another address.
    fn send_from(&mut self, peer: &str, recipients: &[&str], body: &str) -> String {
        let conn = self.client_from(peer);
        self.send_on(conn, recipients, body)
    }

    /// What the relay says to these bytes.
    fn say(&mut self, conn: ConnId, bytes: &[u8]) -> String {
        self.clients.get_mut(&conn).unwrap().clear();
        self.input(Input::Received { conn, bytes });
        self.clients[&conn].clone()
    }

    /// Sends a message in one transaction; gives the last reply line.
    fn send(&mut self, recipients: &[&str], body: &str) -> String {
        let conn = self.client();
        self.send_on(conn, recipients, body)
    }

    fn send_on(&mut self, conn: ConnId, recipients: &[&str], body: &str) -> String {
        let mut commands = "EHLO c.test\r\nMAIL FROM:<from@source.test>\r\n".to_string();
        recipients.iter().for_each(|recipient| commands += &format!("RCPT TO:<{recipient}>\r\n"));
        let replies = self.say(conn, (commands + "DATA\r\n").as_bytes());
        assert!(replies.contains("354"), "{replies}");
        self.say(conn, format!("{body}.\r\n").as_bytes())
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now.mono.plus_ms(ms);
        let mut ticks = 0;
        while self.wake <= end && self.wake != Mono::NEVER {
            let wake = self.wake.max(self.now.mono);
            self.now.wall.0 += wake.ms_since(self.now.mono);
            self.now.mono = wake;
            self.wake = Mono::NEVER;
            self.input(Input::Tick);
            ticks += 1;
            assert!(ticks < 100_000, "time does not go on: wake at {:?}, now {:?}", self.wake, self.now.mono);
        }
        self.now.wall.0 += end.ms_since(self.now.mono);
        self.now.mono = end;
        self.input(Input::Tick);
    }

    fn nothing_left(&self) {
        let counters = self.shard.counters();
        assert_eq!((counters.messages_live, counters.recipients_open), (0, 0), "{:?}", self.reports);
        assert_eq!(self.shard.log.stats().live_records, 0);
    }
}

#[test]
fn a_message_goes_through_byte_for_byte() {
    let mut world = World::new(&[]);
    let reply = world.send(&["to@dest.test"], "Subject: x\r\n\r\nline\r\n..dots\r\n");
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    assert_eq!(world.taken.len(), 1);
    let taken = &world.taken[0];
    assert_eq!((&*taken.sender, &taken.recipients[..]), ("from@source.test", &["to@dest.test".to_string()][..]));
    let (trace, rest) = taken.data.split_at(taken.data.find("Subject").unwrap());
    assert!(trace.starts_with("Received: from c.test ([127.0.0.1])\r\n\tby relay.test"), "{trace}");
    assert_eq!(rest, "Subject: x\r\n\r\nline\r\n..dots\r\n");
    world.pass(100);
    world.nothing_left();
}

/// QUE-01, SES-28: the 250 comes when the write is done, not before, and waits for nothing else.
#[test]
fn no_reply_before_it_is_durable() {
    let mut world = World::new(&[]);
    world.hold_writes = true;
    assert_eq!(world.send(&["to@dest.test"], "x\r\n"), "");
    assert!(world.taken.is_empty(), "nothing is sent before it is ours");
    let written = world.now.mono;
    world.release_writes();
    let conn = world.last_opened.unwrap();
    assert!(world.clients[&conn].starts_with("250 2.0.0"));
    assert_eq!(world.now.mono.ms_since(written), 0, "no timer is waited for");
    assert_eq!(world.taken.len(), 1);
}

/// QUE-07, QUE-08: 4xx, and mail again when the disk is well, without a restart.
#[test]
fn a_failing_disk_is_answered_and_recovered_from() {
    for (error, code) in [(DiskError::Full, "452 4.3.1"), (DiskError::Io { errno: 5 }, "451 4.3.0")] {
        let mut world = World::new(&[]);
        world.send(&["before@dest.test"], "x\r\n");
        world.fail_writes = Some(error);
        let reply = world.send(&["to@dest.test"], "x\r\n");
        assert!(reply.starts_with(code), "{reply}");
        world.fail_writes = None;
        world.pass(5_000);
        let reply = world.send(&["after@dest.test"], "x\r\n");
        assert!(reply.starts_with("250"), "{reply}");
        assert_eq!(world.taken.len(), 2);
        world.pass(100);
        world.nothing_left();
    }
}

/// QUE-07: a message of several records that comes whole, when there is nothing to append to.
#[test]
fn a_large_message_without_a_segment_is_refused() {
    let mut world = World::new(&[]);
    let conn = world.client();
    world.say(conn, b"EHLO c.test\r\nMAIL FROM:<a@source.test>\r\nRCPT TO:<b@dest.test>\r\nDATA\r\n");
    world.fail_writes = Some(DiskError::Full);
    world.send(&["to@dest.test"], "x\r\n");
    let body = "a line of text\r\n".repeat(20_000) + ".\r\n";
    let reply = world.say(conn, body.as_bytes());
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    world.fail_writes = None;
    world.pass(5_000);
    world.nothing_left();
}

/// RTE-18: a drain says QUIT on idle connections and does not wait for who never answers it.
#[test]
fn a_drain_ends_also_where_quit_is_not_answered() {
    let mut world = World::new(&[]);
    world.rule = |line| if line == "QUIT" { String::new() } else { accept_all(line) };
    world.send(&["to@dest.test"], "x\r\n");
    assert_eq!(world.taken.len(), 1);
    world.input(Input::Drain);
    world.pass(limits::QUIT_TIMEOUT_MS + 100);
    assert!(world.drained);
}

/// SES-24: what a client began and did not end is on its way to disk when the last connection goes: the drain ends with it.
#[test]
fn a_drain_ends_in_the_middle_of_a_body() {
    let mut world = World::new(&["drain_ms=500"]);
    world.rule = |line| if line == "QUIT" { String::new() } else { accept_all(line) };
    world.send(&["to@dest.test"], "x\r\n");
    world.pass(50);
    let conn = world.client();
    world.say(conn, b"EHLO c.test\r\nMAIL FROM:<from@source.test>\r\nRCPT TO:<to@dest.test>\r\nDATA\r\n");
    world.say(conn, "a line of it\r\n".repeat(2000).as_bytes());
    world.input(Input::Drain);
    // One tick for all that is due by then: nothing else comes.
    world.now.mono = world.now.mono.plus_ms(510);
    world.input(Input::Tick);
    assert!(world.drained, "{:?}", world.shard.counters());
}

/// RTE-18, RTE-19: recipients of one domain together, domains apart, one body.
#[test]
fn recipients_go_out_by_domain() {
    let mut world = World::new(&[]);
    world.send(&["a@one.test", "b@two.test", "c@ONE.test"], "x\r\n");
    let mut groups: Vec<Vec<String>> = world.taken.iter().map(|taken| taken.recipients.clone()).collect();
    groups.sort();
    assert_eq!(groups, [vec!["a@one.test".to_string(), "c@ONE.test".into()], vec!["b@two.test".into()]]);
    world.pass(100);
    world.nothing_left();
}

/// Refused recipients are reported, deferred ones tried again, the others delivered (PIP-08, QUE-03, DSN-01).
#[test]
fn each_recipient_has_its_own_outcome() {
    let mut world = World::new(&[]);
    world.rule = |line| match line {
        line if line.starts_with("RCPT TO:<bad@") => "550 5.1.1 no such user\r\n".into(),
        line if line.starts_with("RCPT TO:<slow@") => "450 4.2.1 later\r\n".into(),
        line => accept_all(line),
    };
    world.send(&["good@dest.test", "bad@dest.test", "slow@dest.test"], "Subject: x\r\n\r\nx\r\n");
    assert_eq!(world.taken.len(), 2, "the message and the report: {:?}", world.taken);
    assert_eq!(world.taken[0].recipients, ["good@dest.test"]);
    let report = &world.taken[1];
    assert_eq!((&*report.sender, &report.recipients[..]), ("", &["from@source.test".to_string()][..]));
    for word in ["multipart/report", "bad@dest.test", "5.1.1", "no such user", "Subject: x"] {
        assert!(report.data.contains(word), "{word} in {}", report.data);
    }
    assert!(!report.data.contains("slow@"));
    world.rule = accept_all;
    world.pass(200_000);
    assert_eq!(world.taken[2].recipients, ["slow@dest.test"]);
    world.pass(100);
    world.nothing_left();
}

/// QUE-05: a dead site costs one attempt per pause, however much waits; all of it goes when the site is back.
#[test]
fn a_dead_site_is_remembered() {
    let mut world = World::new(&[]);
    world.refuse_dials = true;
    for n in 0..50 {
        world.send(&[&format!("to{n}@dest.test")], "x\r\n");
    }
    world.pass(60_000);
    assert!(world.dials < 15, "{} dials", world.dials);
    world.refuse_dials = false;
    world.pass(120_000);
    assert_eq!(world.taken.len(), 50);
    world.pass(100);
    world.nothing_left();
}

/// QUE-13: what cannot be delivered in time is reported and gone.
#[test]
fn what_waits_too_long_is_reported() {
    let mut world = World::new(&["retry.expire_ms=600000", "route.domains={\"source.test\"=\"192.0.2.8:25\"}"]);
    world.rule = |line| match line {
        line if line.starts_with("RCPT TO:<to@") => "450 4.2.1 later\r\n".into(),
        line => accept_all(line),
    };
    world.send(&["to@dest.test"], "x\r\n");
    world.pass(3_600_000);
    assert_eq!(world.taken.len(), 1, "{:?}", world.reports);
    assert!(world.taken[0].data.contains("4.4.7"), "{}", world.taken[0].data);
    world.pass(100);
    world.nothing_left();
}

/// RTE-02: a domain that does not exist fails at once.
#[test]
fn a_domain_that_does_not_exist_fails() {
    let mut world = World::new(&[]);
    let mut sets = world.shard.settings.as_ref().clone();
    sets.route.default = None;
    let hop = config::HostPort::parse("192.0.2.9:25").unwrap();
    sets.route.domains = vec![("source.test".into(), Some(Arc::new(hop.into())))];
    world.shard.sites = Sites::new(ShardId(0), &sets);
    world.send(&["to@nowhere.test"], "x\r\n");
    assert_eq!(world.taken.len(), 1);
    assert!(world.taken[0].data.contains("5.1.2"), "{}", world.taken[0].data);
    world.pass(100);
    world.nothing_left();
    // The answer is known now, and the site that it was for is forgotten.
    world.send(&["again@nowhere.test"], "x\r\n");
    assert_eq!(world.taken.len(), 2);
    world.pass(100);
    world.nothing_left();
}

/// DSN-01, QUE-08: the write that holds a report fails; the report is written again, and the failure noted behind it.
#[test]
fn a_report_survives_a_failed_write() {
    let mut world = World::new(&[]);
    let mut sets = world.shard.settings.as_ref().clone();
    sets.route.default = None;
    let hop = Some(Arc::new(config::HostPort::parse("192.0.2.9:25").unwrap().into()));
    sets.route.domains = vec![("dest.test".into(), hop.clone()), ("source.test".into(), hop)];
    world.shard.sites = Sites::new(ShardId(0), &sets);
    world.hold_writes = true;
    world.send(&["bad@nowhere.test", "good@dest.test"], "Subject: x\r\n\r\nx\r\n");
    world.do_write();
    world.input(Input::Tick);
    assert_eq!(world.taken.len(), 1, "the report is not durable yet");
    world.fail_writes = Some(DiskError::Io { errno: 5 });
    world.release_writes();
    world.hold_writes = false;
    world.pass(3_000);
    let survivors = start_of(&world.disk).messages;
    assert_eq!(survivors.len(), 1, "without its report the failure is not noted: {survivors:?}");
    world.fail_writes = None;
    world.pass(5_000);
    assert_eq!(world.taken.len(), 2);
    assert_eq!(world.taken[1].recipients, ["from@source.test"]);
    world.pass(100);
    world.nothing_left();
}

/// A long message streams through chunk records, in both directions, also when it is no longer in memory.
#[test]
fn a_long_message_streams() {
    for hot in ["queue.memory_bytes=134217728", "queue.memory_bytes=1048576"] {
        let mut world = World::new(&[hot]);
        world.refuse_dials = true;
        let conn = world.client();
        world.say(conn, b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n");
        let mut body = String::new();
        for line in 0..60_000 {
            body += &format!("line {line} of a rather long message, as messages go\r\n");
        }
        let whole = format!("{body}.\r\n");
        let mut reply = String::new();
        for piece in whole.as_bytes().chunks(70_001) {
            reply = world.say(conn, piece);
        }
        assert!(reply.starts_with("250"), "{reply}");
        world.refuse_dials = false;
        world.pass(60_000);
        assert_eq!(world.taken.len(), 1, "{:?}", world.reports);
        assert!(world.taken[0].data.ends_with(&body));
        world.pass(100);
        world.nothing_left();
    }
}

/// What was accepted and not delivered is there after a restart, and goes out.
#[test]
fn a_restart_finds_everything() {
    let mut world = World::new(&[]);
    world.refuse_dials = true;
    for n in 0..20 {
        assert!(world.send(&[&format!("to{n}@dest.test")], &format!("message {n}\r\n")).starts_with("250"));
    }
    let mut world = World::on(&[], world.disk);
    assert_eq!(world.taken.len(), 20, "they go out with the first step");
    world.pass(100);
    world.nothing_left();
    // Their verdicts were durable: nothing comes twice.
    let world = World::on(&[], world.disk);
    assert_eq!(world.shard.counters().messages_live, 0);
    assert!(world.taken.is_empty());
}

/// QUE-06: a site whose mail must be read back goes on when the reads of another site are done.
#[test]
fn a_site_waits_for_the_reads_of_another() {
    let routes = "route.domains={\"other.test\"=\"192.0.2.8:25\"}";
    let mut world = World::new(&[routes]);
    world.refuse_dials = true;
    for n in 0..150 {
        let domain = if n % 2 == 0 { "dest.test" } else { "other.test" };
        assert!(world.send(&[&format!("to{n}@{domain}")], "x\r\n").starts_with("250"));
    }
    // After a restart all of it is on disk only.
    let mut world = World::before_its_first_step(&[routes], world.disk);
    world.hold_reads = true;
    world.input(Input::Tick);
    let mut most = 0;
    while !world.held_reads.is_empty() {
        most = most.max(world.held_reads.len());
        world.do_read();
        world.input(Input::Tick);
    }
    assert_eq!((world.taken.len(), most), (150, 64), "{:?}", world.shard.counters());
}

/// QUE-06: a connection whose permit another shard waits for serves what is being read back before its turn ends.
#[test]
fn a_turn_waits_for_what_is_read_back() {
    let more = ["shards=2", "site.default.connections=1"];
    let mut world = World::new(&more);
    world.refuse_dials = true;
    for n in 0..3 {
        assert!(world.send(&[&format!("to{n}@dest.test")], "x\r\n").starts_with("250"));
    }
    let mut world = World::before_its_first_step(&more, world.disk);
    let site: crate::shard::parcel::SiteName = "smarthost 192.0.2.9:25".into();
    assert_eq!(crate::schedule::permit::home_of(&site, 2), ShardId(0), "the permit is lent by this shard");
    world.hold_reads = true;
    world.input(Input::Tick);
    let parcel = crate::shard::parcel::Parcel::Want { site, connections: 1, limit: 1 };
    world.input(Input::Parcel { from: ShardId(1), parcel });
    while !world.held_reads.is_empty() {
        world.do_read();
        world.input(Input::Tick);
    }
    assert_eq!((world.taken.len(), world.dials), (3, 1), "{:?}", world.shard.counters());
}

/// QUE-11, QUE-13: whatever the clock says, nobody is given up without a try: a day's jump, or a week without the relay, is
/// no storm of reports.
#[test]
fn nobody_is_given_up_untried() {
    let mut world = World::new(&[]);
    world.refuse_dials = true;
    for n in 0..5 {
        assert!(world.send(&[&format!("to{n}@dest.test")], "x\r\n").starts_with("250"));
    }
    let mut world = World::before_its_first_step(&[], world.disk);
    world.now.mono.0 += 30 * 86_400_000_000;
    world.input(Input::Tick);
    world.pass(100);
    assert_eq!((world.taken.len(), world.shard.counters().bounces), (5, 0), "{:?}", world.reports);
    world.nothing_left();
}

/// QUE-11: after the clock went back, what was deferred waits no longer than a retry may, and not all of it for the same
/// moment.
#[test]
fn a_clock_set_back_makes_no_storm_of_retries() {
    let mut world = World::new(&[]);
    world.rule = |line| if line.starts_with("RCPT TO:<to") { "450 later\r\n".into() } else { accept_all(line) };
    for n in 0..50 {
        // The other recipient shows that the site is well.
        assert!(world.send(&[&format!("to{n}@dest.test"), "other@dest.test"], "x\r\n").starts_with("250"));
    }
    world.pass(100);
    let mut world = World::before_its_first_step(&[], world.disk);
    world.shard = {
        let now = Now { wall: UnixMs(world.now.wall.0 - 86_400_000), ..world.now };
        World::setup(&[], &world.disk, now)
    };
    let mut moments = std::collections::BTreeSet::new();
    world.input(Input::Tick);
    assert_eq!(world.taken.len(), 0);
    while world.taken.len() < 50 {
        assert_ne!(world.wake, Mono::NEVER, "{:?}", world.shard.counters());
        let before = world.taken.len();
        world.pass(world.wake.ms_since(world.now.mono) + 1);
        if world.taken.len() > before {
            moments.insert(world.now.mono);
        }
    }
    assert!(moments.len() > 20, "they come at {} moments", moments.len());
    assert!(world.now.mono < Mono(1_000_000).plus_ms(limits::RETRY_LONGEST_MS * 5 / 4 + 1000));
}

/// SES-24: a drain says 421 to clients, keeps what was accepted, and ends.
#[test]
fn a_drain_ends() {
    let mut world = World::new(&[]);
    world.send(&["to@dest.test"], "x\r\n");
    let conn = world.client();
    world.clients.get_mut(&conn).unwrap().clear();
    world.input(Input::Drain);
    assert!(world.clients[&conn].starts_with("421"), "{}", world.clients[&conn]);
    world.pass(50);
    assert!(world.drained, "{:?}", world.shard.counters());
}

/// The same seed and the same inputs give the same effects.
#[test]
fn steps_are_a_function_of_their_inputs() {
    let run = || {
        let mut world = World::new(&[]);
        world.refuse_dials = true;
        world.send(&["to@dest.test"], "x\r\n");
        world.pass(600_000);
        (world.dials, world.reports.clone())
    };
    assert_eq!(run(), run());
}

/// The third message of a connection costs one write of body and next envelope together (RFC 2920 3.1).
#[test]
fn one_connection_carries_many() {
    let mut world = World::new(&["site.default.connections=1"]);
    world.hold_writes = true;
    for n in 0..30 {
        world.send(&[&format!("to{n}@dest.test")], "x\r\n");
    }
    world.hold_writes = false;
    world.release_writes();
    assert_eq!((world.taken.len(), world.dials), (30, 1));
    world.pass(100);
    world.nothing_left();
}
