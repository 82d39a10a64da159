//! Runs with a relay process: the tests' own program, which passes everything on and keeps nothing, started as a child.

mod support;

use std::net::TcpListener;
use std::time::Duration;

use loadgen::compare::{ComparePlan, Comparison, Contender, How, compare};
use loadgen::run::{Deed, Event, Kills, Outcome, Scenario, run};
use loadgen::send::SendPlan;

/// Not a test of its own: as a child process, with its addresses in the environment, this program is the relay.
#[test]
fn be_a_relay() {
    let (Ok(listen), Ok(sink)) = (std::env::var("BE_A_RELAY"), std::env::var("RELAY_SINK")) else { return };
    let listener = TcpListener::bind(listen).unwrap();
    support::serve(&listener, sink.parse().unwrap(), |_| {});
}

fn relay() -> Option<Vec<String>> {
    let program = std::env::current_exe().unwrap();
    let script = format!("BE_A_RELAY={{listen}} RELAY_SINK={{sink}} exec '{}' --exact be_a_relay", program.display());
    Some(vec!["/bin/sh".into(), "-c".into(), script])
}

fn relayed(load: SendPlan, kills: Option<Kills>) -> Outcome {
    run(&Scenario { relay: relay(), load, kills, ..Scenario::default() }, &mut |_| {}).unwrap()
}

#[test]
fn a_relay_is_started_measured_and_ended() {
    let outcome = relayed(SendPlan { messages: 3000, ..SendPlan::default() }, None);
    let report = &outcome.report;
    assert!(outcome.is_good(), "{report}");
    assert_eq!((report.ledger.arrived, report.ledger.acknowledged), (3000, 3000));
    let relay = report.relay.unwrap();
    assert!(relay.rss_peak_bytes > 0 && relay.processes_peak >= 1 && relay.threads_peak >= 2 && relay.kills == 0);
    assert!(report.threads.iter().all(|load| !load.name.is_empty() && load.total() > 0.0));
    assert!(!report.series.is_empty() && report.accept_distribution.last().is_some_and(|point| point.count == 3000));
    assert!(report.sink_round_trips_per_message.is_some_and(|trips| trips >= 1.0));
    assert!(outcome.dir.is_none(), "the temporary directory of a good run is removed");
}

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    let (shortest, longest) = (Duration::from_millis(50), Duration::from_millis(150));
    let kills = Some(Kills { count: 3, shortest, longest, seed: 7 });
    let load = SendPlan { duration: Duration::from_secs(1), sessions: 10, ..SendPlan::default() };
    let outcome = relayed(load, kills);
    let report = &outcome.report;
    assert!(outcome.is_good(), "{report}");
    assert_eq!(report.relay.unwrap().kills, 3);
    assert!(report.sender.connections_lost >= 3 && report.ledger.unknown > 0);
    assert_eq!(report.ledger.lost, 0);
}

#[test]
fn what_is_planned_is_done_to_the_relay() {
    let ms = Duration::from_millis;
    let event = |at, deed, down| Event { at: ms(at), deed, down: ms(down) };
    // In no order; what overlaps is put off.
    let events = vec![event(500, Deed::Restart, 50), event(100, Deed::Kill, 100), event(150, Deed::Pause, 100)];
    let load = SendPlan { duration: ms(800), sessions: 5, watched: true, ..SendPlan::default() };
    let mut watched = 0;
    let scenario = Scenario { relay: relay(), load, events, ..Scenario::default() };
    let outcome = run(&scenario, &mut |now| {
        watched += u32::from(now.tally.is_some() && now.accept.is_some() && now.relay_cores.is_some());
    });
    let outcome = outcome.unwrap();
    let report = &outcome.report;
    assert!(outcome.is_good() && watched > 0, "{report}");
    assert_eq!(report.relay.unwrap().kills, 2);
    assert!(report.sender.connections_lost >= 2 && report.ledger.lost == 0);
}

#[test]
fn a_relay_that_does_not_start_is_told_with_its_last_words() {
    let relay = Some(vec!["/bin/sh".into(), "-c".into(), "echo no such luck; exit 3".into()]);
    let load = SendPlan { messages: 1, ..SendPlan::default() };
    let error = run(&Scenario { relay, load, ..Scenario::default() }, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("no such luck"), "{error}");
}

#[test]
fn relays_take_turns_and_a_bad_one_stops_nobody() {
    let contender = |name: &str, how| Contender { name: name.into(), how };
    let bad = vec!["/bin/sh".into(), "-c".into(), "echo no such luck; exit 3".into()];
    let load = SendPlan { messages: 200, sessions: 5, ..SendPlan::default() };
    let plan = ComparePlan {
        contenders: vec![
            contender("straight", How::Nothing),
            contender("relayed", How::Command(relay().unwrap())),
            contender("bad", How::Command(bad)),
        ],
        rounds: 2,
        scenario: Scenario { load, ..Scenario::default() },
        parent: std::env::temp_dir(),
        quiet_longest: Duration::ZERO,
        floor_each_round: false,
    };
    let mut turns = Vec::new();
    let comparison = compare(&plan, &mut |turn| {
        if turn.progress.is_none() {
            turns.push((turn.round, turn.name.to_string()));
        }
    });
    let comparison = comparison.unwrap();
    let names = ["straight", "relayed", "bad"];
    let wanted: Vec<_> = [1, 2].into_iter().flat_map(|round| names.map(|name| (round, name.to_string()))).collect();
    assert_eq!(turns, wanted);
    assert_eq!(comparison.entries.iter().map(|entry| entry.runs.len()).collect::<Vec<_>>(), [2, 2, 0]);
    assert!(comparison.entries[2].troubles[0].contains("no such luck") && !comparison.is_good());
    assert!(comparison.entries[..2].iter().all(|entry| entry.troubles.is_empty()));
    // What is written is read again.
    let text = serde_json::to_string(&comparison).unwrap();
    let again: Comparison = serde_json::from_str(&text).unwrap();
    assert_eq!(again.to_string(), comparison.to_string());
    assert_eq!(again.entries[1].runs[1].ledger, comparison.entries[1].runs[1].ledger);
}
