//! Sender and sink over loopback, straight and through things that do wrong. Nothing here depends on speed.

mod support;

use std::sync::Arc;
use std::time::Duration;

use loadgen::client::Pipeline;
use loadgen::clock::Clock;
use loadgen::ledger::{self, Ledger, Tally};
use loadgen::messages::MessageFile;
use loadgen::run::{Outcome, Scenario, run};
use loadgen::schedule::Schedule;
use loadgen::send::{SendPlan, Sender};
use loadgen::sink::faults::{Denial, Faults};
use loadgen::sink::{Book, Sink, SinkPlan, profiles};
use support::{ANY_PORT, Meddler};

fn plan(messages: u64) -> SendPlan {
    SendPlan { messages, sessions: 7, ..SendPlan::default() }
}

fn straight(load: SendPlan, faults: Faults) -> Outcome {
    let sink = SinkPlan { faults, ..SinkPlan::new(ANY_PORT) };
    run(&Scenario { load, sink, ..Scenario::default() }, &mut |_| {}).unwrap()
}

#[test]
fn every_mode_and_size_arrives_once() {
    for pipeline in [Pipeline::None, Pipeline::Group, Pipeline::Across] {
        for (size, messages, recipients) in [("600", 500, 1), ("10KiB", 500, 3), ("1KiB:5,300KiB:1,3MiB:1", 60, 2)] {
            for messages_per_session in [0, 1, 5] {
                let sizes = size.parse().unwrap();
                let load = SendPlan { pipeline, sizes, recipients, domains: 4, messages_per_session, ..plan(messages) };
                let outcome = straight(load, Faults::default());
                let (report, slots) = (&outcome.report, messages * u64::from(recipients));
                let wanted = Tally { sent: slots, acknowledged: slots, arrived: slots, ..Tally::default() };
                assert_eq!(report.ledger, wanted, "{pipeline:?} {size}");
                assert!(outcome.is_good());
                let sink = report.sink.unwrap();
                assert_eq!((sink.messages, sink.recipients, sink.corrupted, sink.unmarked), (messages, slots, 0, 0));
                assert_eq!(report.end_to_end.unwrap().count, messages);
                assert_eq!(report.accept.count, messages);
            }
        }
    }
}

#[test]
fn several_workers_share_the_work() {
    let load = SendPlan { workers: 3, ..plan(2000) };
    let sink = SinkPlan { workers: 2, ..SinkPlan::new(ANY_PORT) };
    let outcome = run(&Scenario { load, sink, ..Scenario::default() }, &mut |_| {}).unwrap();
    assert_eq!(outcome.report.ledger.arrived, 2000);
    assert!(outcome.is_good());
}

#[test]
fn open_loop_keeps_to_its_schedule_or_says_so() {
    // A rate that no machine makes with one lock-step session: all is sent late, and corrected latency tells.
    let load =
        SendPlan { schedule: Some(Schedule::constant(1e7)), sessions: 1, pipeline: Pipeline::None, ..plan(3000) };
    let report = straight(load, Faults::default()).report;
    assert_eq!(report.ledger.arrived, 3000);
    assert!(report.sender.late_starts > 0);
    assert!(report.accept.p99_us >= report.accept_raw.p99_us);
    // With an end in time, what was not begun is counted as missed.
    let duration = Duration::from_millis(100);
    let load = SendPlan {
        schedule: Some(Schedule::constant(1e7)),
        sessions: 1,
        pipeline: Pipeline::None,
        duration,
        ..plan(0)
    };
    let report = straight(load, Faults::default()).report;
    let planned = report.sender.started + report.sender.missed_starts;
    assert!(planned.abs_diff(1_000_000) <= 1, "{planned}");
    // A modest rate is planned and made message by message.
    let report =
        straight(SendPlan { schedule: Some(Schedule::constant(2000.0)), ..plan(200) }, Faults::default()).report;
    assert_eq!((report.ledger.arrived, report.sender.missed_starts), (200, 0));
}

#[test]
fn faults_of_the_sink_are_told_apart() {
    let some = Denial { refuse: 0.1, defer: 0.1 };
    let faults = Faults {
        mail: some,
        rcpt: some,
        data: some,
        end: some,
        drop_before_dot: 0.02,
        drop_after_dot: 0.02,
        ..Faults::default()
    };
    for pipeline in [Pipeline::None, Pipeline::Group, Pipeline::Across] {
        let load = SendPlan { pipeline, recipients: 2, ..plan(1500) };
        let report = straight(load, faults.clone()).report;
        let tally = report.ledger;
        assert_eq!(tally.sent, 3000);
        assert!(tally.refused > 0 && tally.deferred > 0 && tally.unknown > 0 && tally.acknowledged > 0);
        assert_eq!(tally.sent, tally.acknowledged + tally.refused + tally.deferred + tally.unknown);
        // The sink threw away what it dropped, so there is nothing but what was acknowledged.
        assert_eq!((tally.arrived, tally.arrived_unbidden), (tally.acknowledged, 0), "{pipeline:?}");
        assert_eq!((tally.lost, tally.duplicated, tally.corrupted), (0, 0, 0));
        let sender = report.sender;
        assert_eq!(sender.in_flight(), 0);
        assert!(sender.broken > 0 && sender.connections_lost > 0);
    }
}

#[test]
fn delays_limits_and_missing_extensions() {
    let delay = Some((Duration::from_millis(1), Duration::from_millis(3)));
    let faults = Faults { delay, messages_per_connection: 4, no_pipelining: true, ..Faults::default() };
    let report = straight(SendPlan { pipeline: Pipeline::Across, ..plan(60) }, faults).report;
    // The one behind the limit is deferred with 421; all others arrive.
    assert_eq!(report.ledger.sent, 60);
    assert_eq!(report.ledger.arrived, report.ledger.acknowledged);
    assert!(report.ledger.deferred > 0 && report.ledger.clean());
    let report = straight(plan(10), Faults { size_max_bytes: 5000, ..Faults::default() }).report;
    assert_eq!(report.ledger.refused, 10);
}

/// Sends through a meddler into a sink, with one ledger.
fn meddled(messages: u64, meddle: fn(&mut Vec<u8>)) -> Tally {
    let clock = Clock::start();
    let ledger = Arc::new(Ledger::new(77, 1));
    let sink = Sink::start(&SinkPlan::new(ANY_PORT), Book::of(Arc::clone(&ledger)), clock).unwrap();
    let meddler = Meddler::start(sink.addresses()[0], meddle);
    Sender::start(&plan(messages), meddler.address(), Arc::clone(&ledger), clock).unwrap().finish();
    sink.stop();
    ledger.tally()
}

#[test]
fn an_honest_meddler_changes_nothing() {
    let tally = meddled(100, |_| {});
    assert_eq!((tally.acknowledged, tally.arrived), (100, 100));
    assert!(tally.clean());
}

#[test]
fn corruption_is_seen() {
    // A word of the text, the dots of dotted lines, the marker's own number, the end of lines.
    let faults: [fn(&mut Vec<u8>); 4] = [
        |line| {
            if line.starts_with(b"So ends message 000000000042") {
                line[0] = b's';
            }
        },
        |line| {
            if line.starts_with(b"So ends message 000000000042") {
                line.splice(0..0, *b"..");
            }
        },
        |line| {
            if line.starts_with(b"X-Loadgen:")
                && let Some(at) = memchr::memmem::find(line, b"id=000000000042")
            {
                line[at + 14] = b'3';
            }
        },
        |line| {
            if line.starts_with(b"RCPT TO:<000000000042") {
                line[20] = b'3';
            }
        },
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let tally = meddled(100, fault);
        assert_eq!((tally.acknowledged, tally.corrupted), (100, 1), "fault {number}");
        assert!(!tally.clean());
    }
}

#[test]
fn fields_put_before_the_message_are_no_corruption() {
    let tally = meddled(50, |line| {
        if line.starts_with(b"From: Load") {
            line.splice(0..0, *b"Received: from a by b;\r\n\tnow\r\n");
        }
    });
    assert_eq!((tally.arrived, tally.corrupted), (50, 0));
}

#[test]
fn loss_is_seen() {
    let clock = Clock::start();
    let (sent, taken) = (Arc::new(Ledger::new(5, 1)), Arc::new(Ledger::new(5, 1)));
    let sink = Sink::start(&SinkPlan::new(ANY_PORT), Book::of(Arc::clone(&taken)), clock).unwrap();
    Sender::start(&plan(300), sink.addresses()[0], Arc::clone(&sent), clock).unwrap().finish();
    sink.stop();
    // What the sink wrote down has not been heard of yet: all is lost. Then it is found.
    assert_eq!(sent.tally().lost, 300);
    assert!(!sent.tally().clean());
    assert!(sent.merge(&taken) && sent.tally().clean());
}

#[test]
fn duplication_is_seen() {
    let clock = Clock::start();
    let ledger = Arc::new(Ledger::new(5, 1));
    let sink = Sink::start(&SinkPlan::new(ANY_PORT), Book::of(Arc::clone(&ledger)), clock).unwrap();
    for messages in [300, 20] {
        Sender::start(&plan(messages), sink.addresses()[0], Arc::clone(&ledger), clock).unwrap().finish();
    }
    sink.stop();
    let tally = ledger.tally();
    assert_eq!((tally.arrived, tally.duplicated, tally.lost), (300, 20, 0));
}

#[test]
fn a_standing_sink_keeps_runs_apart() {
    let clock = Clock::start();
    let sink = Sink::start(&SinkPlan::new(ANY_PORT), Book::open(), clock).unwrap();
    let ledgers = [Arc::new(Ledger::new(1, 1)), Arc::new(Ledger::new(2, 3))];
    for ledger in &ledgers {
        let load = SendPlan { recipients: ledger.recipients(), ..plan(50) };
        Sender::start(&load, sink.addresses()[0], Arc::clone(ledger), clock).unwrap().finish();
    }
    let path = std::env::temp_dir().join(format!("loadgen-runs-{}", std::process::id()));
    let taken = sink.ledgers();
    sink.stop();
    ledger::save(&path, taken.iter().map(|ledger| &**ledger)).unwrap();
    for taken in ledger::load(&path).unwrap() {
        let sent = ledgers.iter().find(|ledger| ledger.run() == taken.run()).unwrap();
        assert!(sent.merge(&taken) && sent.tally().clean());
        assert_eq!(sent.tally().arrived, 50 * u64::from(sent.recipients()));
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn every_schedule_sends_what_it_plans() {
    for text in ["poisson:4000", "steps:1000,4000@50ms", "ramp:500..4000@100ms", "burst:500,8000@20ms/50ms"] {
        let load = SendPlan { schedule: Some(text.parse().unwrap()), workers: 2, ..plan(300) };
        let outcome = straight(load, Faults::default());
        let sender = outcome.report.sender;
        assert_eq!((outcome.report.ledger.arrived, sender.missed_starts), (300, 0), "{text}");
        assert!(outcome.is_good() && outcome.report.to_string().contains(text));
    }
}

#[test]
fn sessions_think_between_messages() {
    for pipeline in [Pipeline::None, Pipeline::Across] {
        let think = Some((Duration::from_millis(1), Duration::from_millis(4)));
        let load = SendPlan { think, pipeline, messages_per_session: 5, ..plan(100) };
        let outcome = straight(load, Faults::default());
        assert_eq!(outcome.report.ledger.arrived, 100);
        assert!(outcome.is_good());
        // Nobody sends without having thought, so no two messages share a round trip: three answers each at least.
        assert!(outcome.report.sink.unwrap().round_trips >= 2 * 100);
    }
    // An end in the middle of a thought is no fault.
    let think = Some((Duration::from_secs(60), Duration::from_secs(60)));
    let load = SendPlan { think, duration: Duration::from_millis(100), ..plan(0) };
    let outcome = straight(load, Faults::default());
    assert_eq!((outcome.report.sender.started, outcome.report.sender.connections_lost), (0, 0));
}

#[test]
fn each_message_is_written_down_with_its_times() {
    let path = std::env::temp_dir().join(format!("loadgen-each-{}.csv", std::process::id()));
    let file = MessageFile::create(&path).unwrap();
    let load = SendPlan { recipients: 2, message_file: Some(Arc::clone(&file)), ..plan(300) };
    let faults = Faults { mail: Denial { refuse: 0.2, defer: 0.0 }, ..Faults::default() };
    let sink = SinkPlan { faults, message_file: Some(file), ..SinkPlan::new(ANY_PORT) };
    let report = run(&Scenario { load, sink, ..Scenario::default() }, &mut |_| {}).unwrap().report;
    let text = std::fs::read_to_string(&path).unwrap();
    let rows = |event: &str, outcome: &str| {
        text.lines().filter(|line| line.starts_with(event) && line.ends_with(outcome)).count() as u64
    };
    assert_eq!(rows("answered,", ",acknowledged"), report.sender.acknowledged);
    assert_eq!(rows("answered,", ",refused"), report.sender.refused);
    assert_eq!((rows("arrived,", ",whole"), rows("answered,", "")), (report.ledger.arrived, 300));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn order_is_kept_by_one_session_and_watched_over() {
    let load = SendPlan { sessions: 1, ..plan(100) };
    let sink = straight(load, Faults::default()).report.sink.unwrap();
    assert_eq!((sink.reordered, sink.reordered_by), (0, 0));
    // Of those deferred nothing comes again, so two runs into one ledger are what comes out of order.
    let clock = Clock::start();
    let ledger = Arc::new(Ledger::new(5, 1));
    let sink = Sink::start(&SinkPlan::new(ANY_PORT), Book::of(Arc::clone(&ledger)), clock).unwrap();
    for _ in 0..2 {
        let load = SendPlan { sessions: 1, ..plan(10) };
        Sender::start(&load, sink.addresses()[0], Arc::clone(&ledger), clock).unwrap().finish();
    }
    let (counts, _) = sink.stop();
    assert_eq!((counts.reordered, counts.reordered_by), (9, 9));
}

#[test]
fn each_connection_meets_one_kind_of_receiver() {
    let text = "[[receiver]]\nname = \"yes\"\n[[receiver]]\nname = \"no\"\nrefuse_mail = 1.0\n";
    let profiles = profiles::parse(text).unwrap();
    let sink = SinkPlan { profiles, ..SinkPlan::new(ANY_PORT) };
    // One connection after the other, so that each has its four messages.
    let load = SendPlan { messages_per_session: 4, sessions: 1, ..plan(400) };
    let tally = run(&Scenario { load, sink, ..Scenario::default() }, &mut |_| {}).unwrap().report.ledger;
    assert_eq!(tally.acknowledged + tally.refused, 400);
    assert!(tally.acknowledged.is_multiple_of(4) && tally.acknowledged > 0 && tally.refused > 0, "{tally:?}");
    assert_eq!((tally.arrived, tally.lost), (tally.acknowledged, 0));
}

#[test]
fn a_folder_of_messages_arrives_as_it_is() {
    let dir = std::env::temp_dir().join(format!("loadgen-mail-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("a.eml"), "From: a@b\nSubject: plain\n\n.\n..two\nend").unwrap();
    std::fs::write(dir.join("b.eml"), format!("Subject: long\r\n\r\n{}", "h\u{e9}llo w\u{f6}rld\r\n".repeat(9000)))
        .unwrap();
    for pipeline in [Pipeline::None, Pipeline::Group, Pipeline::Across] {
        let load = SendPlan { folder: Some(dir.clone()), pipeline, domains: 10, zipf: 1.1, ..plan(100) };
        let outcome = straight(load, Faults::default());
        assert!(outcome.is_good(), "{}", outcome.report);
        assert_eq!((outcome.report.ledger.arrived, outcome.report.sink.unwrap().unmarked), (100, 0));
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
