//! The relay is killed again and again while mail goes through it; then the ledger of the load generator, which shares
//! no code with the relay, says what became of every recipient.
//!
//! The seed of the moments is printed; `CRASH_SEED=N cargo test --test crash` takes it again, `CRASH_KILLS=N` kills
//! oftener.

#![cfg(feature = "runtime")]

mod common;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::relay::program;
use loadgen::client::Pipeline;
use loadgen::run::{Kills, Outcome, Scenario, run};
use loadgen::schedule::Schedule;
use loadgen::send::SendPlan;
use loadgen::sink::SinkPlan;
use loadgen::sink::faults::{Denial, Faults};

const KILLS: u32 = 20;

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = from_environment("CRASH_SEED").unwrap_or(now.as_millis() as u64);
    println!("CRASH_SEED={seed}");
    seed
}

/// The relay's command for the load generator, which fills in the braces.
fn command(shards: u16, more: &[&str]) -> Vec<String> {
    let mut command = vec![program().to_string_lossy().into_owned(), "run".into()];
    let shards = format!("shards={shards}");
    let sets = [
        "listen.relay={listen}",
        "listen.http=",
        "route.default={sink}",
        "queue.dir={dir}/queue",
        &shards,
        "queue.segment_bytes=8388608",
        "retry.first_ms=100",
        "retry.longest_ms=1000",
        "retry.site_first_ms=50",
        "retry.site_longest_ms=500",
    ];
    for set in sets.iter().chain(more) {
        command.extend(["--set".to_owned(), (*set).to_owned()]);
    }
    command
}

/// Seconds of load that outlast so many kills, and the kills.
fn kills(count: u32, seed: u64) -> Kills {
    Kills { count, shortest: Duration::from_millis(50), longest: Duration::from_millis(1200), seed }
}

fn play(scenario: &Scenario) -> Outcome {
    let outcome = run(scenario, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    println!("{}", outcome.report);
    let tally = &outcome.report.ledger;
    println!("duplicated: {} of {} recipients arrived", tally.duplicated, tally.arrived);
    assert!(outcome.is_good(), "the relay's files are in {:?}\n{}", outcome.dir, outcome.report);
    assert_eq!((tally.lost, tally.corrupted, tally.arrived_unbidden), (0, 0, 0));
    assert!(tally.acknowledged > 0, "some mail went through");
    outcome
}

/// QUE-01, QUE-02, QUE-03, RTE-16, DAT-09: killed 20 times at random moments under mixed load; nothing that was
/// acknowledged is lost, nothing arrives damaged. Duplicates are the price of a crash, and are counted.
#[test]
fn nothing_is_lost_when_it_is_killed() {
    let seed = seed();
    let count = from_environment("CRASH_KILLS").unwrap_or(KILLS);
    let load = SendPlan {
        sessions: 20,
        schedule: Some(Schedule::constant(600.0)),
        // Kills come every 0.6 s on average, and starting again takes its time too.
        duration: Duration::from_secs(u64::from(count).max(4)),
        sizes: "1KiB:60,10KiB:30,100KiB:8,1MiB:2".parse().unwrap(),
        recipients: 3,
        domains: 3,
        pipeline: Pipeline::Group,
        messages_per_session: 20,
        seed,
        ..SendPlan::default()
    };
    let scenario = Scenario {
        relay: Some(command(2, &[])),
        load,
        kills: Some(kills(count, seed)),
        start_longest: Duration::from_secs(30),
        drain_longest: Duration::from_secs(40),
        ..Scenario::default()
    };
    let outcome = play(&scenario);
    assert_eq!(outcome.report.relay.map(|relay| relay.kills), Some(count));
}

/// QUE-03, PIP-08, PIP-10, RTE-17, RTE-20: the same with a slow next hop that defers and hangs up now and then, so that
/// crashes fall between attempts, and with so few segments that they are emptied and used again all the time.
#[test]
fn nothing_is_lost_when_it_is_killed_between_attempts() {
    let seed = seed();
    let faults = Faults {
        rcpt: Denial { defer: 0.05, ..Denial::default() },
        end: Denial { defer: 0.02, ..Denial::default() },
        drop_before_dot: 0.01,
        drop_after_dot: 0.01,
        delay: Some((Duration::ZERO, Duration::from_millis(20))),
        ..Faults::default()
    };
    let scenario = Scenario {
        relay: Some(command(1, &["queue.memory_bytes=1048576", "queue.segment_bytes=4194304", "queue.segments=8"])),
        load: SendPlan {
            sessions: 10,
            schedule: Some(Schedule::constant(300.0)),
            duration: Duration::from_secs(10),
            sizes: "1KiB:50,20KiB:50".parse().unwrap(),
            recipients: 1,
            pipeline: Pipeline::Across,
            seed,
            ..SendPlan::default()
        },
        sink: SinkPlan { faults, seed, ..SinkPlan::new(common::relay::any_port()) },
        kills: Some(kills(8, seed)),
        start_longest: Duration::from_secs(30),
        drain_longest: Duration::from_secs(40),
        ..Scenario::default()
    };
    play(&scenario);
}
