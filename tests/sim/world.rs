//! The world of one run: a clock, an order of events, and all that shards are connected to.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use ringpost::base::bytes::HeapBlocks;
use ringpost::base::ids::{ConnId, OperationId, ShardId};
use ringpost::base::time::{Mono, Now, UnixMs};
use ringpost::config::{Endpoint, Role};
use ringpost::mail::date::Day;
use ringpost::queue::{DiskError, ShardStart};
use ringpost::route::{Answer, QueryId};
use ringpost::schedule::warm_up::Request;
use ringpost::shard::orders::Target;
use ringpost::shard::parcel::Parcel;
use ringpost::shard::{Effect, Input, Level, Setup, Shard};

use crate::client::Client;
use crate::dice::{Dice, Trace};
use crate::disk::{self, Disk, Work};
use crate::ledger::Ledger;
use crate::net::{Conn, Peer, Trouble};
use crate::operator::Act;
use crate::plan::{ClockTrouble, Faults, Plan, SECOND_US, TENANT};
use crate::warm_up::Keeper;

/// When the wall clock begins.
pub const WALL_BEGIN_MS: u64 = 1_795_000_000_000;

/// Something that will happen.
pub enum Event {
    Tick {
        shard: usize,
        wake: u64,
    },
    Arrive,
    /// The bytes under way to the relay come on.
    Deliver {
        conn: usize,
    },
    /// The bytes under way from the relay come on.
    Reach {
        conn: usize,
    },
    /// The shell writes what a connection's outbox holds.
    Pull {
        conn: usize,
    },
    Dialled {
        conn: usize,
    },
    Say {
        conn: usize,
    },
    Trouble {
        conn: usize,
        trouble: Trouble,
    },
    DiskDone {
        shard: usize,
        number: u64,
    },
    Resolved {
        shard: usize,
        query: QueryId,
        answer: Answer,
    },
    Parcel {
        to: usize,
        from: usize,
    },
    /// Something comes to the book of days' limits.
    Book {
        shard: usize,
        request: Request,
    },
    Handshake {
        conn: usize,
    },
    Clock(ClockTrouble),
    Operate(Act),
    Release(Target),
    Crash {
        in_write: bool,
    },
    Drain,
    Stop {
        whole: bool,
    },
    Restart,
    /// Faults end here.
    Calm,
}

struct Entry {
    at: u64,
    order: u64,
    /// The run of the relay it belongs to; void after a crash.
    life: Option<u32>,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What one run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub hash: u64,
    pub events: u64,
    pub simulated_us: u64,
    pub acked: u64,
    pub taken: u64,
    pub twice: u64,
    pub windows: u64,
    pub bounced: u64,
    pub crashes: u64,
    pub drains: u64,
    pub reads: u64,
    pub copied: u64,
    pub refused: u64,
}

pub struct World {
    pub plan: Plan,
    pub dice: Dice,
    pub trace: Trace,
    pub ledger: Ledger,
    pub now: u64,
    /// The faults in force.
    pub faults: Faults,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    life: u32,
    pub shards: Vec<Option<Shard>>,
    disks: Vec<Disk>,
    wakes: Vec<u64>,
    /// Steps without time going on.
    spinning: (u64, u32),
    effects: Vec<Effect>,
    pub conns: Vec<Conn>,
    pub by_name: HashMap<(usize, ConnId), usize>,
    pub clients: Vec<Client>,
    /// The client whose connection is being accepted.
    accepting: Option<usize>,
    /// Connections open at each site, over all shards.
    pub at_site: HashMap<usize, u32>,
    /// The site of which DNS said once that it is us.
    pub named_us: Option<usize>,
    /// As many there may be of each, by all settings that this run of the relay has had since the last other routes.
    pub connections_most: u32,
    /// As many may still stand on the routes before: what is under way goes on beside what is routed otherwise.
    pub connections_before: u32,
    /// The last order that was answered.
    pub operated: Option<OperationId>,
    parcels: HashMap<(usize, usize), VecDeque<Parcel>>,
    pub keeper: Keeper,
    drained: Vec<bool>,
    draining: bool,
    /// The disk gave an error, or was too full or slow for anything to be promised, since the start of this run.
    pub disk_trouble: bool,
    /// When a log was last seen that may take no mail.
    pub storage_trouble_us: u64,
    pub calm: bool,
    /// Everything must be settled by then.
    end: u64,
    /// What the wall clock is off, and how far the monotonic one is behind the world.
    wall_off_ms: i64,
    mono_behind_us: u64,
    /// The machine does nothing until then.
    asleep_until: u64,
    /// It stops in the middle of the next write.
    crash_in_write: bool,
    drains: u64,
    totals: Outcome,
}

impl World {
    pub fn new(seed: u64, trace: Trace) -> World {
        let mut dice = Dice::new(seed);
        let plan = Plan::draw(&mut dice);
        let shards = plan.shards;
        let mut world = World {
            ledger: Ledger::new(&plan),
            faults: plan.faults,
            dice,
            trace,
            now: SECOND_US,
            queue: BinaryHeap::new(),
            order: 0,
            life: 0,
            shards: Vec::new(),
            disks: (0..shards).map(|_| Disk::default()).collect(),
            wakes: vec![u64::MAX; shards],
            spinning: (0, 0),
            effects: Vec::new(),
            conns: Vec::new(),
            by_name: HashMap::new(),
            clients: Vec::new(),
            accepting: None,
            at_site: HashMap::new(),
            named_us: None,
            connections_before: 0,
            connections_most: 0,
            operated: None,
            parcels: HashMap::new(),
            keeper: Keeper::default(),
            drained: vec![false; shards],
            draining: false,
            disk_trouble: false,
            storage_trouble_us: 0,
            calm: false,
            end: SECOND_US + plan.safety_us + plan.liveness_us,
            wall_off_ms: 0,
            mono_behind_us: 0,
            asleep_until: 0,
            crash_in_write: false,
            drains: 0,
            totals: Outcome::default(),
            plan,
        };
        for _ in 0..world.plan.sessions {
            let at = world.dice.range(1, world.plan.safety_us);
            world.schedule(SECOND_US + at, false, Event::Arrive);
        }
        for _ in 0..world.plan.late_sessions {
            let at = world.plan.safety_us + world.dice.range(1, 20 * SECOND_US);
            world.schedule(SECOND_US + at, false, Event::Arrive);
        }
        for at in world.plan.crashes.clone() {
            let in_write = world.dice.permille(500);
            world.schedule(SECOND_US + at, false, Event::Crash { in_write });
        }
        for at in world.plan.drains.clone() {
            world.schedule(SECOND_US + at, false, Event::Drain);
        }
        for (at, trouble) in world.plan.clock.clone() {
            world.schedule(SECOND_US + at, false, Event::Clock(trouble));
        }
        for (at, act) in world.plan.operator.clone() {
            world.schedule(SECOND_US + at, false, Event::Operate(act));
        }
        let calm = SECOND_US + world.plan.safety_us;
        world.schedule(calm, false, Event::Calm);
        world.start(disk::recover(&world.disks));
        world
    }

    fn schedule(&mut self, at: u64, of_this_run: bool, event: Event) {
        self.order += 1;
        let life = of_this_run.then_some(self.life);
        self.queue.push(Reverse(Entry { at, order: self.order, life, event }));
    }

    /// An event of the world, which outlives the relay.
    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.schedule(self.now + delay_us, false, event);
    }

    /// An event of the relay's machine, which ends with it.
    pub fn after_here(&mut self, delay_us: u64, event: Event) {
        self.schedule(self.now + delay_us, true, event);
    }

    // ---- the run ----

    /// Runs to the end: all settled, and the book balanced.
    pub fn run(&mut self) -> Outcome {
        while let Some(Reverse(entry)) = self.queue.pop() {
            if entry.life.is_some_and(|life| life != self.life) {
                continue;
            }
            self.now = self.now.max(entry.at);
            // A machine that sleeps finds everything when it wakes up, in its order.
            let of_the_machine = entry.life.is_some()
                || matches!(entry.event, Event::Arrive | Event::Drain | Event::Operate(_) | Event::Release(_));
            if of_the_machine && self.now < self.asleep_until {
                self.schedule(self.asleep_until, entry.life.is_some(), entry.event);
                continue;
            }
            if self.now > self.end + self.ledger.settled_in_calm * self.plan.settle_us {
                if self.at_rest() {
                    break;
                }
                self.stuck();
            }
            self.happen(entry.event);
        }
        self.finish()
    }

    /// Nothing is left to do.
    fn at_rest(&self) -> bool {
        let idle = |shard: &Option<Shard>| {
            shard.as_ref().is_some_and(|shard| {
                let counters = shard.counters();
                counters.messages_live + counters.connections_in + counters.connections_out == 0
            })
        };
        self.shards.iter().all(idle) && !self.clients.iter().any(Client::waits)
    }

    /// Notes if a client may be told that the log takes no mail now: its disk is in trouble, or it may be full.
    pub fn see_storage(&mut self) {
        let preparing = self.disks.iter().any(Disk::is_preparing);
        if self.disk_trouble || preparing || self.plan.settings.queue.segments_max < 12 {
            self.storage_trouble_us = self.now;
        }
    }

    fn stuck(&mut self) -> ! {
        let mut left = String::new();
        for (index, shard) in self.shards.iter().enumerate() {
            match shard {
                Some(shard) => left += &format!("\nshard {index}: wake {} {:?}", self.wakes[index], shard.counters()),
                None => left += &format!("\nshard {index} is down"),
            }
        }
        let waiting = self.clients.iter().filter(|client| client.waits()).count();
        left += &self.ledger.open_recipients();
        panic!(
            "the faults ended {} s ago and the world is not at rest: {waiting} clients wait, {} sites busy {left}",
            self.plan.liveness_us / SECOND_US,
            self.at_site.values().filter(|&&count| count > 0).count()
        );
    }

    /// Nothing will happen any more by itself.
    fn finish(&mut self) -> Outcome {
        for (index, shard) in self.shards.iter().enumerate() {
            let shard = shard.as_ref().expect("the relay runs at the end");
            let counters = shard.counters();
            assert_eq!(
                (counters.messages_live, counters.recipients_open, counters.connections_in, counters.connections_out),
                (0, 0, 0, 0),
                "shard {index} has work left and nothing will wake it: {counters:?}{}{:?}",
                self.ledger.open_recipients(),
                shard.report(self.now()).sites
            );
        }
        for (number, client) in self.clients.iter().enumerate() {
            assert!(!client.waits(), "client {number} waits for a reply that never comes");
        }
        self.ledger.balance(&self.plan, self.now);
        self.ledger.all_noted();
        self.sum_up();
        Outcome {
            hash: self.trace.hash(),
            events: self.trace.events(),
            simulated_us: self.now,
            acked: self.ledger.acked,
            taken: self.ledger.taken,
            twice: self.ledger.twice,
            windows: self.ledger.windows,
            bounced: self.ledger.bounced,
            crashes: u64::from(self.ledger.crashes),
            drains: self.drains,
            ..self.totals
        }
    }

    fn sum_up(&mut self) {
        for shard in self.shards.iter().flatten() {
            let counters = shard.counters();
            self.totals.reads += counters.reads;
            self.totals.copied += counters.copied_forward;
            self.totals.refused += counters.refused_by_log;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { shard, wake } => {
                let now = self.now().mono.0;
                if self.wakes[shard] == wake && now < wake {
                    // The clock stood still meanwhile.
                    self.after_here(wake - now, Event::Tick { shard, wake });
                } else if self.wakes[shard] == wake {
                    self.wakes[shard] = u64::MAX;
                    self.step(shard, Input::Tick);
                }
            }
            Event::Arrive => self.arrive(),
            Event::Deliver { conn } => self.deliver(conn),
            Event::Reach { conn } => self.reach(conn),
            Event::Pull { conn } => self.pull(conn),
            Event::Dialled { conn } => self.dialled(conn),
            Event::Say { conn } => self.say(conn),
            Event::Trouble { conn, trouble } => self.trouble(conn, trouble),
            Event::DiskDone { shard, number } => self.disk_done(shard, number),
            Event::Resolved { shard, query, answer } => self.step(shard, Input::Resolved { query, answer }),
            Event::Parcel { to, from } => {
                let parcel = self.parcels.get_mut(&(from, to)).and_then(VecDeque::pop_front);
                let parcel = parcel.expect("an event for each parcel");
                self.step(to, Input::Parcel { from: ShardId(from as u16), parcel });
            }
            Event::Book { shard, request } => self.open_book(shard, request),
            Event::Handshake { conn } => self.handshake(conn),
            Event::Clock(trouble) => self.clock_trouble(trouble),
            Event::Operate(act) => self.operate(act),
            Event::Release(target) => self.release(&target),
            Event::Crash { in_write: true } if !self.crash_in_write => self.crash_in_write = true,
            Event::Crash { .. } => self.crash(),
            Event::Drain => self.drain(),
            Event::Stop { whole } => self.stop(whole),
            Event::Restart => self.restart(),
            Event::Calm => self.calm_down(),
        }
    }

    /// The faults end: disks are well, next hops do as the book says.
    fn calm_down(&mut self) {
        self.calm = true;
        self.crash_in_write = false;
        self.ledger.settled_in_calm = 0;
        self.ledger.calm_since_us = self.now;
        self.faults = Faults::default();
        for disk in &mut self.disks {
            disk.outage = None;
        }
        for conn in 0..self.conns.len() {
            self.open_window(conn);
        }
        self.release_in_time();
        self.lift_rate_in_time();
        self.trace.note(self.now, "calm", 0, 0, String::new);
    }

    /// Everything may take so much longer to be settled.
    pub fn extend(&mut self, more_us: u64) {
        self.end += more_us;
    }

    // ---- the relay's life ----

    fn now(&self) -> Now {
        let wall = (WALL_BEGIN_MS + self.now / 1000).saturating_add_signed(self.wall_off_ms);
        Now { mono: Mono(self.now - self.mono_behind_us), wall: UnixMs(wall) }
    }

    fn clock_trouble(&mut self, trouble: ClockTrouble) {
        self.trace.note(self.now, "clock", 0, 0, || format!("{trouble:?}"));
        self.dice.drawn(match trouble {
            ClockTrouble::Jump { ms } if ms < 0 => "clock_back",
            ClockTrouble::Jump { .. } => "clock_forward",
            ClockTrouble::Sleep { mono_stops: true, .. } => "suspend",
            ClockTrouble::Sleep { .. } => "stall",
        });
        match trouble {
            ClockTrouble::Jump { ms } => self.wall_off_ms += ms,
            ClockTrouble::Sleep { .. } if self.now < self.asleep_until || !self.is_up() => {}
            ClockTrouble::Sleep { us, mono_stops } => {
                self.asleep_until = self.now + us;
                self.end += us;
                self.mono_behind_us += if mono_stops { us } else { 0 };
                self.clients.iter_mut().for_each(|client| client.hindered = true);
            }
        }
    }

    /// The machine slept, or began to, so short a time ago that what it owes may be late.
    fn slept_lately(&self) -> bool {
        self.asleep_until > 0 && self.now < self.asleep_until + 40 * SECOND_US
    }

    /// The relay starts again; now and then with more shards, or with fewer and their messages moved.
    fn restart(&mut self) {
        if !self.dice.permille(self.plan.reshard) {
            return self.start(disk::recover(&self.disks));
        }
        let shards = self.dice.range(1, 3) as usize;
        if shards == self.plan.shards {
            return self.start(disk::recover(&self.disks));
        }
        self.ledger.reshards = true;
        self.dice.drawn(if shards < self.plan.shards { "fewer_shards" } else { "more_shards" });
        let starts = disk::reshard(&mut self.disks, &mut self.plan, shards);
        self.trace.note(self.now, "shards", self.plan.shards as u64, 0, || format!("{}", self.plan.shards));
        self.wakes.resize(self.plan.shards, u64::MAX);
        self.drained.resize(self.plan.shards, false);
        self.start(starts);
    }

    fn start(&mut self, starts: Vec<ShardStart>) {
        self.ledger.ahead_us = self.plan.clock_ahead_us(self.now - SECOND_US);
        self.ledger.recovered(&starts);
        for start in &starts {
            assert!(start.damage.is_empty(), "a crash is no damage: {}", start.damage[0]);
        }
        self.trace.note(self.now, "start", self.life.into(), 0, || {
            let open: usize = starts.iter().map(|start| start.messages.len()).sum();
            format!("{open} messages recovered")
        });
        self.disk_trouble = false;
        self.draining = false;
        self.drained.fill(false);
        self.shards.clear();
        self.connections_before = 0;
        self.connections_most = self.plan.settings.site.connections;
        for start in starts {
            let setup = Setup {
                id: start.shard,
                settings: Arc::clone(&self.plan.settings),
                start,
                blocks: Box::new(HeapBlocks),
                seed: self.dice.number(),
                now: self.now(),
            };
            let mut shard = Shard::new(setup);
            shard.hold(self.now(), &self.ledger.held());
            shard.pace(self.now(), &[(TENANT.into(), self.ledger.rate)]);
            self.shards.push(Some(shard));
        }
        for shard in 0..self.plan.shards {
            self.step(shard, Input::Tick);
        }
    }

    pub fn is_up(&self) -> bool {
        self.shards.first().is_some_and(Option::is_some)
    }

    fn crash(&mut self) {
        if self.is_up() {
            self.dice.drawn("crash");
            self.halt(true);
        }
    }

    fn drain(&mut self) {
        if !self.is_up() || self.draining {
            return;
        }
        self.drains += 1;
        self.dice.drawn("drain");
        self.draining = true;
        self.trace.note(self.now, "drain", 0, 0, String::new);
        for shard in 0..self.plan.shards {
            self.step(shard, Input::Drain);
        }
        // A disk that fails may keep a drain from ending; then the operator kills it.
        let patience = self.plan.settings.drain_ms * 1000 + 30 * SECOND_US;
        self.after_here(patience, Event::Stop { whole: false });
    }

    fn stop(&mut self, whole: bool) {
        if !whole && self.slept_lately() {
            return self.after_here(40 * SECOND_US, Event::Stop { whole });
        }
        assert!(whole || self.disk_trouble, "the drain does not end, and the disk is well: {:?}", self.drained);
        if whole {
            for conn in self.conns.iter().filter(|conn| conn.open) {
                assert!(!conn.open, "drained with connection {:?} open", conn.name);
            }
        }
        self.halt(!whole);
    }

    /// The relay ends: in the middle of everything, or after a drain.
    fn halt(&mut self, crash: bool) {
        self.sum_up();
        self.trace.note(self.now, if crash { "crash" } else { "stopped" }, 0, 0, String::new);
        self.life += 1;
        let slept_lately = self.slept_lately();
        self.asleep_until = self.asleep_until.min(self.now);
        // The next run's clock begins where it will.
        self.mono_behind_us = 0;
        let slowest = self.plan.write_latency_us * 2;
        // With room and a disk that is well a verdict waits 10 ms and for two writes, its own and one before.
        let prompt = !self.disk_trouble && !slept_lately && self.plan.settings.queue.segments_max >= 12;
        self.ledger.crash(self.now, prompt.then_some(if crash { 20_000 + 4 * slowest } else { 0 }));
        for shard in &mut self.shards {
            *shard = None;
        }
        let size = self.plan.settings.queue.segment_bytes;
        for disk in &mut self.disks {
            disk.crash(&mut self.dice, size);
        }
        self.ledger.forgive_refusals();
        self.parcels.clear();
        self.reopen_book();
        self.wakes.fill(u64::MAX);
        self.by_name.clear();
        self.at_site.clear();
        for conn in 0..self.conns.len() {
            self.relay_gone(conn);
        }
        let pause = self.dice.skewed(1_000, 20 * SECOND_US);
        self.after(pause, Event::Restart);
    }

    // ---- steps and effects ----

    /// Gives a shard an input and performs what it wants.
    pub fn step(&mut self, index: usize, input: Input<'_>) {
        let now = self.now();
        self.ledger.days.insert(Day::of(now.wall));
        if self.spinning.0 == self.now {
            self.spinning.1 += 1;
            assert!(self.spinning.1 < 20_000, "time does not go on");
        } else {
            self.spinning = (self.now, 0);
        }
        let mut effects = std::mem::take(&mut self.effects);
        let shard = self.shards[index].as_mut().expect("the relay is up");
        shard.step(now, input, &mut effects);
        for effect in effects.drain(..) {
            self.perform(index, effect);
        }
        self.effects = effects;
    }

    fn perform(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::Open { conn } => {
                let client = self.accepting.take().expect("a connection was accepted");
                self.opened(shard, conn, client);
            }
            Effect::Refuse { greeting } => {
                assert!(greeting.starts_with(b"421 "), "a refusal is temporary");
                let client = self.accepting.take().expect("a connection was accepted");
                self.clients[client].over = true;
            }
            Effect::Flush { conn } => self.flush(shard, conn),
            Effect::Close { conn } => self.shard_closes(shard, conn, false),
            Effect::Abort { conn } => self.shard_closes(shard, conn, true),
            Effect::Pause { conn } => self.set_paused(shard, conn, true),
            Effect::Resume { conn } => self.set_paused(shard, conn, false),
            Effect::StartTls { conn, role } => self.start_tls(shard, conn, role),
            Effect::Dial { conn, to: Endpoint::Tcp(address), source } => self.dial(shard, conn, address, source),
            Effect::Dial { .. } => unreachable!("the world has no sockets in the file system"),
            Effect::Write { write, slot, offset_bytes, block } => {
                let number = self.next_number();
                self.ledger.write_issued(self.now, self.now(), shard, number, offset_bytes, block.bytes());
                self.trace.note(self.now, "write", write.0, block.bytes().len() as u64, || {
                    format!("{shard}: {number} slot {} at {offset_bytes}, {} bytes", slot.0, block.bytes().len())
                });
                self.begin(shard, number, Work::Write { write, slot, offset: offset_bytes, block });
            }
            Effect::Read { read, slot, offset_bytes, length_bytes } => {
                let number = self.next_number();
                self.begin(shard, number, Work::Read { read, slot, offset: offset_bytes, length: length_bytes });
            }
            Effect::PrepareSegment { slot } => {
                let number = self.next_number();
                self.begin(shard, number, Work::Prepare { slot });
            }
            Effect::Resolve { query, question } => self.resolve(shard, query, &question.name, question.address_only),
            Effect::Authenticate { .. } => unreachable!("the world's clients come to the relay's listener"),
            Effect::Prove { .. } => unreachable!("no next hop wants to know who we are"),
            Effect::OrderAll { .. } => unreachable!("no client may say ETRN"),
            Effect::Allowance(request) => self.tell_book(shard, request),
            Effect::Parcel { to, parcel } => self.send_parcel(shard, usize::from(to.0), parcel),
            Effect::WakeAt(wake) => {
                self.wakes[shard] = wake.0;
                let lateness = self.dice.skewed(0, 2_000);
                let delay = wake.0.saturating_sub(self.now).max(1) + lateness;
                self.after_here(delay, Event::Tick { shard, wake: wake.0 });
            }
            Effect::Injected { .. } => unreachable!("nobody injects"),
            Effect::Operated { operation, .. } => self.operated = Some(operation),
            Effect::TlsSeen(_) => unreachable!("nobody wants TLS reports"),
            Effect::Report(level, text) => self.report(shard, level, &text),
            Effect::Drained => {
                self.drained[shard] = true;
                assert!(self.draining, "drained without a drain");
                if self.drained.iter().all(|&drained| drained) {
                    self.after_here(1, Event::Stop { whole: true });
                }
            }
        }
    }

    pub fn next_number(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn report(&mut self, shard: usize, level: Level, text: &str) {
        self.trace.note(self.now, "report", shard as u64, text.len() as u64, || format!("{shard}: {text}"));
        assert!(level != Level::Error || self.disk_trouble, "an error though the disk is well: {text}");
        if let Some((id, _)) = text.split_once(": failed, and has no sender") {
            self.ledger.unreported(&self.plan, self.now, id.parse().expect("a message is named"));
        }
    }

    fn send_parcel(&mut self, from: usize, to: usize, parcel: Parcel) {
        self.trace.note(self.now, "parcel", from as u64, to as u64, || format!("{from} to {to}: {parcel:?}"));
        let queue = self.parcels.entry((from, to)).or_default();
        queue.push_back(parcel);
        // One event for each; they take the parcels in order whatever their own order.
        let slow = self.dice.fault("slow_parcel", self.faults.slow_parcel);
        let delay = if slow { self.dice.skewed(1_000, SECOND_US) } else { self.dice.range(1, 50) };
        self.after_here(delay, Event::Parcel { to, from });
    }

    // ---- the disk ----

    fn begin(&mut self, shard: usize, number: u64, work: Work) {
        let latency = self.plan.write_latency_us;
        let mut delay = match work {
            Work::Prepare { .. } => self.dice.range(latency, latency * 20),
            _ => self.dice.range(latency / 2, latency * 2),
        };
        if matches!(work, Work::Read { .. }) && self.dice.fault("read_slow", self.faults.read_slow) {
            delay += self.dice.skewed(10_000, 3 * SECOND_US);
        } else if self.dice.fault("write_slow", self.faults.write_slow) {
            delay += self.dice.skewed(10_000, 3 * SECOND_US);
            self.disk_trouble = true;
        }
        if matches!(work, Work::Write { .. }) && std::mem::take(&mut self.crash_in_write) {
            let moment = self.dice.below(delay);
            self.after_here(moment, Event::Crash { in_write: false });
        }
        self.disks[shard].begin(number, work);
        self.after_here(delay, Event::DiskDone { shard, number });
    }

    fn disk_error(&mut self) -> DiskError {
        self.disk_trouble = true;
        if self.dice.permille(400) { DiskError::Full } else { DiskError::Io { errno: 5 } }
    }

    fn disk_done(&mut self, shard: usize, number: u64) {
        self.see_storage();
        let Some(work) = self.disks[shard].end(number) else { return };
        if self.dice.fault("disk_outages", self.faults.disk_outages) {
            let error = self.disk_error();
            let until = self.now + self.dice.skewed(100_000, 30 * SECOND_US);
            self.disks[shard].outage = Some((until, error));
        }
        let outage = self.disks[shard].outage.filter(|(until, _)| self.now < *until).map(|(_, error)| error);
        self.disk_trouble |= outage.is_some();
        match work {
            Work::Write { write, slot, offset, block } => {
                let fails = self.dice.fault("write_error", self.faults.write_error);
                let result = if fails { Err(self.disk_error()) } else { outage.map_or(Ok(()), Err) };
                if result.is_err() && self.dice.permille(self.plan.crash_after_failure) {
                    let delay = self.dice.skewed(1_000, 3 * SECOND_US);
                    self.after_here(delay, Event::Crash { in_write: false });
                }
                match result {
                    Ok(()) => self.disks[shard].write(slot, offset, &block),
                    Err(_) => self.disks[shard].write_some(&mut self.dice, slot, offset, &block),
                }
                self.trace.note(self.now, "written", number, result.is_ok().into(), || {
                    format!("{shard}: {number} {result:?}")
                });
                self.ledger.write_done(shard, number, result.is_ok());
                self.step(shard, Input::Written { write, result });
            }
            Work::Prepare { slot } => {
                let fails = self.dice.fault("prepare_error", self.faults.prepare_error);
                let result = if fails { Err(self.disk_error()) } else { outage.map_or(Ok(()), Err) };
                if result.is_ok() || self.dice.permille(500) {
                    self.disks[shard].prepare(slot, self.plan.settings.queue.segment_bytes);
                }
                self.trace.note(self.now, "prepared", slot.0.into(), result.is_ok().into(), || {
                    format!("{shard}: slot {} {result:?}", slot.0)
                });
                self.step(shard, Input::SegmentPrepared { slot, result });
            }
            Work::Read { read, slot, offset, length } => {
                let fails = self.dice.fault("read_error", self.faults.read_error);
                let mut result =
                    if fails { Err(self.disk_error()) } else { self.disks[shard].read(slot, offset, length) };
                if self.dice.fault("read_rot", self.faults.read_rot) {
                    self.disk_trouble = true;
                    result = result.map(|block| disk::rot(&mut self.dice, &block));
                }
                self.trace.note(self.now, "read", offset.into(), length.into(), || {
                    format!("{shard}: slot {} at {offset}, {length} bytes", slot.0)
                });
                self.step(shard, Input::ReadBack { read, result });
            }
        }
    }

    // ---- clients ----

    fn arrive(&mut self) {
        let listens = |shard: &Option<Shard>| shard.as_ref().is_some_and(Shard::ready);
        if !self.disk_trouble && !self.shards.iter().all(listens) || !self.is_up() {
            // Nobody listens yet; it comes back.
            let delay = self.dice.range(SECOND_US, 5 * SECOND_US);
            return self.after(delay, Event::Arrive);
        }
        let before = self.ledger.table.len();
        let client = Client::new(&mut self.dice, &self.plan, &mut self.ledger, self.now, self.calm);
        self.clients.push(client);
        if self.ledger.table.len() > before {
            self.change_table();
        }
        let number = self.clients.len() - 1;
        let shard = self.dice.below(self.plan.shards as u64) as usize;
        self.trace.note(self.now, "client", number as u64, shard as u64, || format!("{number} at shard {shard}"));
        self.accepting = Some(number);
        let peer = SocketAddr::from(([10, 0, 0, 1], 1024 + number as u16));
        self.step(shard, Input::Accepted { peer, local: [127, 0, 0, 1].into(), role: Role::Relay });
        assert!(self.accepting.is_none(), "a client is taken or refused");
    }

    fn opened(&mut self, shard: usize, name: ConnId, client: usize) {
        let conn = self.conns.len();
        self.conns.push(Conn::new(shard, name, Peer::Client(client), true));
        self.by_name.insert((shard, name), conn);
        self.foresee_trouble(conn);
    }
}
