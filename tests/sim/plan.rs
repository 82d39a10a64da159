//! What a seed stands for: the relay's settings, the world it lives in, and which faults it meets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ringpost::config::{self, Host, HostPort, Machine, Settings, TlsPolicy};

use crate::dice::Dice;
use crate::operator::{self, Act};
use crate::warm_up;

pub const SECOND_US: u64 = 1_000_000;

/// The site that a smart host is.
pub const SMART_HOST: usize = 99;

/// How bytes are cut on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Tiny,
    Packets,
    Large,
}

/// What a domain's DNS says when nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    Hosts,
    NullMx,
    Nowhere,
}

/// A next hop's ways that are no faults.
#[derive(Clone, Copy, Debug)]
pub struct HopWays {
    pub pipelining: bool,
    pub eight_bit: bool,
    pub size: bool,
    pub think_us: u64,
    /// Where all recipients were refused, DATA is answered 354 all the same.
    pub always_354: bool,
    /// QUIT is not answered.
    pub deaf_to_quit: bool,
    /// STARTTLS is offered.
    pub tls: bool,
}

/// Chances of faults, in thousandths, each drawn once per run so that runs differ in kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub write_error: u64,
    pub write_slow: u64,
    pub read_error: u64,
    pub read_slow: u64,
    /// What is read is not what was written.
    pub read_rot: u64,
    pub prepare_error: u64,
    /// Whole minutes in which every write fails.
    pub disk_outages: u64,
    pub reply_4xx: u64,
    pub reply_5xx: u64,
    pub reply_421: u64,
    pub drop_command: u64,
    pub drop_before_dot: u64,
    pub drop_after_dot: u64,
    pub silence: u64,
    pub slow_reply: u64,
    pub garbage: u64,
    pub dial_refused: u64,
    pub dial_lost: u64,
    pub reset: u64,
    pub half_open: u64,
    pub zero_window: u64,
    pub dns_failure: u64,
    pub dns_slow: u64,
    pub dns_lie: u64,
    pub tls_fail: u64,
    pub tls_stall: u64,
    pub client_abort: u64,
    pub slow_parcel: u64,
}

pub struct Plan {
    pub settings: Arc<Settings>,
    /// Mail comes from a source that is warmed up, and from another what is above.
    pub warm_up: bool,
    pub shards: usize,
    pub domains: usize,
    pub zones: Vec<Zone>,
    pub smart_host: bool,
    pub hops: Vec<HopWays>,
    pub faults: Faults,
    pub cut: Cut,
    pub safety_us: u64,
    pub sessions: u64,
    pub late_sessions: u64,
    pub large_bodies: u64,
    pub crashes: Vec<u64>,
    pub drains: Vec<u64>,
    pub clock: Vec<(u64, ClockTrouble)>,
    pub operator: Vec<(u64, Act)>,
    /// Restarts that come back with another number of shards, in thousandths.
    pub reshard: u64,
    /// Messages with up to hundreds of recipients, in thousandths.
    pub many_recipients: u64,
    /// A write that fails is so often the first sign of a machine that stops.
    pub crash_after_failure: u64,
    pub write_latency_us: u64,
    pub net_latency_us: u64,
    /// Settled by so long after the faults ended, or something is stuck; and so much more for each recipient that waits,
    /// for it may need a connection of its own.
    pub liveness_us: u64,
    pub settle_us: u64,
}

/// Whose mail all clients bring; what the relay itself sends is nobody's.
pub const TENANT: &str = "all";

/// The address of a domain's mail host.
pub fn host_address(site: usize, host: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(20, 0, site as u8, host as u8 + 1))
}

/// Site and host of an address.
pub fn site_of(address: IpAddr) -> (usize, usize) {
    let IpAddr::V4(v4) = address else { panic!("all hosts are IPv4") };
    let [_, _, site, host] = v4.octets();
    (site as usize, host as usize - 1)
}

/// Something that happens to the machine's clocks.
#[derive(Clone, Copy, Debug)]
pub enum ClockTrouble {
    /// The wall clock is set, forward or back.
    Jump { ms: i64 },
    /// The machine does nothing for so long; its monotonic clock goes on, or stands still as in a suspend.
    Sleep { us: u64, mono_stops: bool },
}

fn clock_troubles(dice: &mut Dice, safety_us: u64) -> Vec<(u64, ClockTrouble)> {
    let day_ms = 86_400_000;
    (0..dice.range(1, 4))
        .map(|_| {
            let trouble = match dice.below(4) {
                0 => ClockTrouble::Jump { ms: dice.pick(&[-day_ms, day_ms]) },
                1 => ClockTrouble::Jump { ms: dice.pick(&[-1_000, 1_000, -3_600_000, 3_600_000]) },
                2 => ClockTrouble::Sleep { us: dice.skewed(SECOND_US, 60 * SECOND_US), mono_stops: dice.permille(500) },
                _ => ClockTrouble::Sleep { us: 86_400 * SECOND_US, mono_stops: dice.permille(500) },
            };
            (dice.range(SECOND_US, safety_us), trouble)
        })
        .collect()
}

fn faults(dice: &mut Dice) -> Faults {
    // A third of the runs is nearly calm: there, "exactly once" is checked without excuses.
    if dice.permille(330) {
        return Faults { client_abort: dice.pick(&[0, 50]), reply_4xx: dice.pick(&[0, 30]), ..Faults::default() };
    }
    let mut some = |most: u64| if dice.permille(500) { dice.below(most + 1) } else { 0 };
    Faults {
        write_error: some(60),
        write_slow: some(100),
        read_error: some(100),
        read_slow: some(200),
        read_rot: some(60),
        prepare_error: some(300),
        disk_outages: some(2),
        reply_4xx: some(150),
        reply_5xx: some(100),
        reply_421: some(60),
        drop_command: some(40),
        drop_before_dot: some(100),
        drop_after_dot: some(100),
        silence: some(30),
        slow_reply: some(100),
        garbage: some(40),
        dial_refused: some(200),
        dial_lost: some(100),
        reset: some(30),
        half_open: some(30),
        zero_window: some(40),
        dns_failure: some(200),
        dns_slow: some(100),
        dns_lie: some(150),
        tls_fail: some(200),
        tls_stall: some(100),
        client_abort: some(150),
        slow_parcel: some(200),
    }
}

fn settings(dice: &mut Dice, shards: usize, smart_host: bool, more: Vec<String>) -> Settings {
    let clients = "10.0.0.0/8";
    let mut sets = vec![
        format!("shards={shards}"),
        "relay.hostname=relay.test".into(),
        format!("relay.networks={clients}"),
        format!("tenant.{TENANT}.networks={clients}"),
    ];
    sets.extend(more);
    let machine = Machine { hostname: "relay.test".into(), cores: shards };
    let mut settings = config::load(None, &sets, &machine).expect("these settings are right");
    if smart_host {
        let host = match dice.below(2) {
            0 => Host::Address(host_address(SMART_HOST, 0)),
            _ => Host::Name("hub.test".into()),
        };
        settings.route.default = Some(Arc::new(HostPort { host, port: 25 }.into()));
    }
    settings.queue.segment_bytes = dice.pick(&[384 << 10, 512 << 10, 1 << 20]);
    settings.queue.segments_max = dice.range(8, 32) as usize;
    settings.queue.hot_bytes = dice.pick(&[0, 64 << 10, 512 << 10, 64 << 20]);
    settings.relay.message_bytes_max = dice.pick(&[20 << 10, 300 << 10, 50 << 20]);
    settings.relay.recipients_max = dice.pick(&[3, 1000]);
    settings.relay.command_idle_ms = 30_000;
    settings.relay.data_idle_ms = 20_000;
    settings.site.connections = dice.pick(&[1, 1, 2, 3, 20]);
    // Few enough at times that sites have to take turns.
    settings.route.connections = dice.pick(&[1, 2, 4, 10_000, 10_000]);
    settings.site.messages_per_second = dice.pick(&[0, 0, 0, 3, 20]);
    settings.site.messages_per_connection = dice.pick(&[1, 3, 10_000]);
    settings.site.recipients = dice.pick(&[1, 2, 100]);
    settings.site.idle_ms = dice.pick(&[50, 1000, 5000]);
    settings.retry.first_ms = dice.range(500, 5000);
    settings.retry.longest_ms = settings.retry.first_ms * dice.range(1, 4);
    settings.retry.site_first_ms = dice.range(500, 3000);
    settings.retry.site_longest_ms = settings.retry.site_first_ms * dice.range(1, 4);
    // A log full of expired messages has no room for their reports: runs that expire have room enough.
    let expires = settings.queue.segments_max >= 20 && dice.permille(600);
    let expire_ms = if expires { dice.pick(&[30_000, 120_000]) } else { 5 * 86_400_000 };
    settings.retry.expire_ms = expire_ms.max(settings.retry.longest_ms);
    let timeout = &mut settings.timeout;
    timeout.connect_ms = 5_000;
    timeout.greeting_ms = 10_000;
    timeout.hello_ms = 10_000;
    timeout.mail_ms = 10_000;
    timeout.rcpt_ms = 10_000;
    timeout.data_ms = 10_000;
    timeout.data_block_ms = 10_000;
    timeout.data_end_ms = 20_000;
    timeout.tls_ms = 8_000;
    settings.drain_ms = dice.pick(&[500, 5000]);
    settings
}

impl Plan {
    /// How far the wall clock was set forward so long after the start.
    pub fn clock_ahead_us(&self, after_us: u64) -> u64 {
        let forward = self.clock.iter().filter(|(at, _)| *at <= after_us).map(|(_, trouble)| match trouble {
            ClockTrouble::Jump { ms } if *ms > 0 => *ms as u64 * 1000,
            ClockTrouble::Jump { .. } => 0,
            ClockTrouble::Sleep { us, .. } => *us,
        });
        forward.sum()
    }

    /// What the relay calls the way that a domain's mail goes by the settings in force.
    pub fn way(&self, domain: &str) -> String {
        self.settings.route.default.as_ref().map_or_else(|| domain.to_owned(), |hop| format!("smarthost {hop}"))
    }

    pub fn draw(dice: &mut Dice) -> Plan {
        let shards = dice.range(1, 3) as usize;
        let domains = dice.range(1, 4) as usize;
        let smart_host = dice.permille(300);
        let warm_up = dice.permille(250);
        let sources = if warm_up { warm_up::draw(dice) } else { Vec::new() };
        let mut settings = settings(dice, shards, smart_host, sources);
        settings.tls.policies.default =
            dice.pick(&[TlsPolicy::May, TlsPolicy::May, TlsPolicy::None, TlsPolicy::Encrypt, TlsPolicy::Verify]);
        let must_offer = matches!(settings.tls.policies.default, TlsPolicy::Encrypt | TlsPolicy::Verify);
        let zones = (0..domains)
            .map(|domain| match dice.below(20) {
                0 if domain > 0 => Zone::NullMx,
                1 if domain > 0 => Zone::Nowhere,
                _ => Zone::Hosts,
            })
            .collect();
        let hops = (0..=domains)
            .map(|_| HopWays {
                pipelining: !dice.permille(250),
                eight_bit: !dice.permille(200),
                size: !dice.permille(200),
                think_us: dice.pick(&[10, 1_000, 50_000]),
                always_354: dice.permille(300),
                deaf_to_quit: dice.permille(100),
                tls: must_offer || dice.permille(500),
            })
            .collect();
        let faults = faults(dice);
        let safety_us = dice.range(20, 120) * SECOND_US;
        let moments = |dice: &mut Dice, most: u64| {
            let count = dice.below(most + 1);
            (0..count).map(|_| dice.range(SECOND_US, safety_us)).collect::<Vec<_>>()
        };
        let crashes = if dice.permille(600) { moments(dice, 4) } else { Vec::new() };
        let drains = if dice.permille(300) { moments(dice, 2) } else { Vec::new() };
        let retry = &settings.retry;
        let liveness_ms = 12 * (retry.longest_ms + retry.site_longest_ms) + 200_000;
        Plan {
            shards,
            domains,
            zones,
            smart_host,
            hops,
            faults,
            cut: dice.pick(&[Cut::Tiny, Cut::Packets, Cut::Packets, Cut::Large]),
            safety_us,
            sessions: dice.range(5, 40),
            late_sessions: dice.range(0, 4),
            large_bodies: dice.pick(&[0, 30, 150]),
            crashes,
            drains,
            // Orders name sites, of which each source has its own.
            operator: if !warm_up && dice.permille(300) {
                operator::draw(dice, domains, safety_us, settings.queue.segments_max >= 20)
            } else {
                Vec::new()
            },
            clock: if dice.permille(250) { clock_troubles(dice, safety_us) } else { Vec::new() },
            reshard: dice.pick(&[0, 0, 0, 500]),
            many_recipients: dice.pick(&[0, 0, 20, 100]),
            crash_after_failure: dice.pick(&[0, 0, 150]),
            write_latency_us: dice.pick(&[50, 500, 5_000, 50_000]),
            net_latency_us: dice.pick(&[5, 200, 20_000]),
            liveness_us: liveness_ms * 1000,
            // With a handshake, and a QUIT that is not answered.
            settle_us: 6 * SECOND_US,
            settings: Arc::new(settings),
            warm_up,
        }
    }
}
