//! The ways a message can take: secured, in chunks, logged in, from several addresses, by a trace, over HTTP; and what a
//! sink does about sources. Nothing here depends on speed.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use loadgen::auth::{Credentials, MECHANISMS};
use loadgen::client::{Body, Pipeline};
use loadgen::clock::Clock;
use loadgen::http::{HttpPlan, JSON_TEMPLATE, Shape};
use loadgen::ledger::Ledger;
use loadgen::report::Report;
use loadgen::run::{Scenario, run};
use loadgen::send::{SendPlan, Sender};
use loadgen::sink::faults::{Denial, Faults};
use loadgen::sink::{Book, Sink, SinkPlan, profiles};
use loadgen::tls::{TlsAsked, TlsMode};
use support::ANY_PORT;

fn plan(messages: u64) -> SendPlan {
    SendPlan { messages, sessions: 7, ..SendPlan::default() }
}

fn sink() -> SinkPlan {
    SinkPlan::new(ANY_PORT)
}

fn played(load: SendPlan, sink: SinkPlan) -> Report {
    run(&Scenario { load, sink, ..Scenario::default() }, &mut |_| {}).unwrap().report
}

const PIPELINES: [Pipeline; 3] = [Pipeline::None, Pipeline::Group, Pipeline::Across];

#[test]
fn secured_messages_arrive_and_sessions_resume() {
    for tls in [TlsMode::StartTls, TlsMode::Implicit] {
        for pipeline in PIPELINES {
            let sizes = "1KiB:5,100KiB:2,3MiB:1".parse().unwrap();
            let load = SendPlan { tls, pipeline, sizes, messages_per_session: 4, ..plan(80) };
            let report = played(load, SinkPlan { tls, ..sink() });
            assert!(report.is_good(), "{report}");
            let (sent, taken) = (report.sender, report.sink.unwrap());
            assert_eq!((report.ledger.arrived, sent.handshakes), (80, sent.connections), "{report}");
            assert!(sent.handshakes_resumed > 0 && sent.handshakes_failed == 0, "{report}");
            assert_eq!((taken.handshakes, taken.handshakes_resumed), (sent.handshakes, sent.handshakes_resumed));
        }
    }
    let tls_asked = TlsAsked { no_resumption: true, ..TlsAsked::default() };
    let load = SendPlan { tls: TlsMode::StartTls, tls_asked, messages_per_session: 1, ..plan(20) };
    let report = played(load, SinkPlan { tls: TlsMode::StartTls, ..sink() });
    assert_eq!((report.ledger.arrived, report.sender.handshakes_resumed), (20, 0));
}

#[test]
fn a_certificate_is_proved_where_that_is_asked_for() {
    let clock = Clock::start();
    let ledger = Arc::new(Ledger::new(7, 1));
    let sink_plan = SinkPlan { tls: TlsMode::Implicit, ..sink() };
    let sink = Sink::start(&sink_plan, Book::of(Arc::clone(&ledger)), clock).unwrap();
    let path = std::env::temp_dir().join(format!("loadgen-roots-{}.pem", std::process::id()));
    std::fs::write(&path, sink.certificate_pem().unwrap()).unwrap();
    let send = |name: &str| {
        let tls_asked = TlsAsked { name: Some(name.into()), roots: Some(path.clone()), no_resumption: false };
        let load = SendPlan { tls: TlsMode::Implicit, tls_asked, reconnect: false, ..plan(10) };
        Sender::start(&load, sink.addresses()[0], Arc::clone(&ledger), clock).unwrap().finish().0
    };
    let wrong = send("other.loadgen.test");
    assert_eq!((wrong.started, wrong.handshakes_failed), (0, 7));
    let right = send(loadgen::tls::SINK_NAME);
    assert_eq!((right.acknowledged, right.handshakes_failed), (10, 0));
    sink.stop();
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_the_server_lacks_is_told() {
    for load in [
        SendPlan { tls: TlsMode::StartTls, ..plan(5) },
        SendPlan { auth: Some((MECHANISMS[0], "a:b".parse().unwrap())), ..plan(5) },
        SendPlan { body: Body::Bdat { chunk_bytes: 0 }, ..plan(5) },
    ] {
        let faults = Faults { no_chunking: true, ..Faults::default() };
        let report = played(SendPlan { reconnect: false, ..load }, SinkPlan { faults, ..sink() });
        assert_eq!((report.sender.started, report.sender.connections_lacking), (0, 7));
        assert!(report.troubles.iter().any(|trouble| trouble.contains("does not offer")), "{report}");
    }
}

#[test]
fn chunks_of_every_size_arrive_whole() {
    for pipeline in PIPELINES {
        for chunk_bytes in [0, 100, 4096] {
            let sizes = "600:5,10KiB:3,300KiB:1".parse().unwrap();
            let body = Body::Bdat { chunk_bytes };
            let load = SendPlan { body, pipeline, sizes, depth: 5, recipients: 2, ..plan(120) };
            let report = played(load, sink());
            assert!(report.is_good(), "{report}");
            assert_eq!((report.ledger.arrived, report.sink.unwrap().corrupted), (240, 0), "{pipeline:?} {chunk_bytes}");
        }
    }
}

#[test]
fn chunks_need_no_round_trip_between_messages() {
    let load = SendPlan { body: Body::Bdat { chunk_bytes: 0 }, pipeline: Pipeline::Across, depth: 8, ..plan(2000) };
    let report = played(SendPlan { sessions: 1, ..load }, sink());
    // Greeting, EHLO and QUIT are trips of their own; messages share theirs.
    assert!(report.sink.unwrap().round_trips < 2000, "{report}");
    assert!(report.is_good());
}

#[test]
fn faults_are_told_apart_with_chunks_too() {
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
    for pipeline in PIPELINES {
        for chunk_bytes in [0, 3000] {
            let load = SendPlan { body: Body::Bdat { chunk_bytes }, pipeline, recipients: 2, depth: 4, ..plan(1000) };
            let report = played(load, SinkPlan { faults: faults.clone(), ..sink() });
            let tally = report.ledger;
            assert!(tally.refused > 0 && tally.deferred > 0 && tally.unknown > 0 && tally.acknowledged > 0);
            // A connection that is dropped takes along the answers to those before, which arrived all the same.
            let arrived = tally.acknowledged + tally.arrived_unacknowledged;
            assert_eq!((tally.arrived, tally.arrived_unbidden), (arrived, 0), "{pipeline:?} {chunk_bytes}");
            assert_eq!((tally.lost, tally.duplicated, tally.corrupted), (0, 0, 0));
            assert_eq!(report.sender.in_flight(), 0);
        }
    }
}

#[test]
fn every_mechanism_logs_in_and_wrong_passwords_do_not() {
    let known: Credentials = "user:secret".parse().unwrap();
    for mechanism in MECHANISMS {
        let load = SendPlan { auth: Some((mechanism, known.clone())), messages_per_session: 5, ..plan(50) };
        let report = played(load.clone(), SinkPlan { auth: Some(known.clone()), ..sink() });
        assert!(report.is_good() && report.ledger.arrived == 50, "{report}");
        assert_eq!(report.sink.unwrap().logins, report.sender.connections);
        let wrong = SendPlan { auth: Some((mechanism, "user:wrong".parse().unwrap())), reconnect: false, ..load };
        let report = played(wrong, SinkPlan { auth: Some(known.clone()), ..sink() });
        assert_eq!((report.sender.started, report.sender.logins_failed), (0, 7));
    }
}

#[test]
fn sources_take_turns_and_are_limited_each() {
    let sources: Vec<IpAddr> = (1..=4).map(|last| IpAddr::from([127, 0, 0, last])).collect();
    let load = SendPlan { sources, sessions: 8, messages_per_session: 5, ..plan(200) };
    let report = played(load.clone(), sink());
    assert!(report.is_good(), "{report}");
    let taken = report.sink.unwrap();
    assert_eq!((taken.sources, report.ledger.arrived), (4, 200));
    assert!(taken.source_rate_peak >= 1 && taken.source_connections_peak >= 2);
    let faults = Faults { source_connections: 1, ..Faults::default() };
    let report = played(load, SinkPlan { faults, ..sink() });
    let taken = report.sink.unwrap();
    assert_eq!((report.ledger.arrived, taken.source_connections_peak), (200, 1));
    assert!(taken.connections_refused > 0 && report.ledger.clean(), "{report}");
}

#[test]
fn a_rate_per_source_is_kept() {
    let faults = Faults { source_rate: 3, ..Faults::default() };
    let report = played(plan(400), SinkPlan { faults, ..sink() });
    assert!(report.ledger.deferred > 0 && report.ledger.clean(), "{report}");
    assert!(report.sink.unwrap().source_rate_peak <= 3);
}

#[test]
fn a_greylist_lets_nobody_in_at_first() {
    let faults = Faults { greylist: Some(Duration::from_secs(3600)), ..Faults::default() };
    let report = played(plan(50), SinkPlan { faults, ..sink() });
    assert_eq!((report.ledger.deferred, report.ledger.arrived), (50, 0));
}

#[test]
fn a_tarpit_is_slow_and_right() {
    let faults = Faults { tarpit: Some(Duration::from_micros(200)), ..Faults::default() };
    let report = played(plan(20), SinkPlan { faults, ..sink() });
    assert!(report.is_good() && report.ledger.arrived == 20, "{report}");
    // A greeting of 29 bytes alone takes longer than this.
    assert!(report.accept.p50_us >= 29 * 200 / 2, "{report}");
}

#[test]
fn listeners_and_domains_have_their_own_receivers() {
    let text = "[[receiver]]\n[[receiver]]\nlisten = \"127.0.0.1:0\"\nrefuse_mail = 1.0\n[[receiver]]\n\
        domains = [\"d1.loadgen.test\"]\nrefuse_rcpt = 1.0\n";
    let clock = Clock::start();
    let ledger = Arc::new(Ledger::new(7, 1));
    let sink_plan =
        SinkPlan { profiles: profiles::parse(text).unwrap(), listen: vec!["127.0.0.2:0".parse().unwrap()], ..sink() };
    let sink = Sink::start(&sink_plan, Book::of(Arc::clone(&ledger)), clock).unwrap();
    let send = |to: SocketAddr| {
        let load = SendPlan { domains: 2, ..plan(40) };
        Sender::start(&load, to, Arc::clone(&ledger), clock).unwrap().finish().0
    };
    let (open, strict) = (send(sink.addresses()[0]), send(sink.addresses()[1]));
    assert_eq!((open.acknowledged, open.refused), (20, 20), "one domain of two");
    assert_eq!((strict.acknowledged, strict.refused), (0, 40));
    sink.stop();
}

#[test]
fn a_trace_is_replayed_with_its_sizes_and_recipients() {
    let path = std::env::temp_dir().join(format!("loadgen-trace-{}", std::process::id()));
    let lines: String =
        (0..200).map(|n| format!("{} {} {}\n", f64::from(n) / 1000.0, 1024 + n * 64, 1 + n % 3)).collect();
    std::fs::write(&path, &lines).unwrap();
    let recipients: u64 = (0..200).map(|n| 1 + n % 3).sum();
    for workers in [1, 3] {
        let load = SendPlan { trace: Some(path.clone()), workers, messages: 0, ..plan(0) };
        let report = played(load, sink());
        assert!(report.is_good(), "{report}");
        assert_eq!((report.sender.started, report.sender.missed_starts), (200, 0));
        assert_eq!((report.ledger.arrived, report.accept.count), (recipients, 200));
        assert!(report.accept.max_us >= report.accept_raw.max_us && report.to_string().contains("accept raw"));
    }
    // What the time does not suffice for is missed, not forgotten.
    std::fs::write(&path, "0\n0.001\n3000\n").unwrap();
    let load = SendPlan { trace: Some(path.clone()), duration: Duration::from_millis(200), ..plan(0) };
    let sender = played(load, sink()).sender;
    assert_eq!((sender.started, sender.missed_starts), (2, 0), "the third was not due");
    std::fs::write(&path, "0\n".repeat(50_000)).unwrap();
    let load = SendPlan {
        trace: Some(path.clone()),
        duration: Duration::from_millis(50),
        pipeline: Pipeline::None,
        sessions: 1,
        ..plan(0)
    };
    let sender = played(load, sink()).sender;
    assert_eq!(sender.started + sender.missed_starts, 50_000);
    std::fs::remove_file(&path).unwrap();
}

/// Takes POSTs and hands their JSON over; every tenth answer is 503, every eleventh 422.
fn http_server(json: bool) -> (SocketAddr, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (taken, bodies) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let taken = taken.clone();
            std::thread::spawn(move || serve_http(socket, json, &taken));
        }
    });
    (address, bodies)
}

fn serve_http(mut socket: TcpStream, json: bool, taken: &std::sync::mpsc::Sender<Vec<u8>>) -> Option<()> {
    let (mut bytes, mut buffer, mut count) = (Vec::new(), [0; 4096], 0);
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
                break end + 4;
            }
            let more = socket.read(&mut buffer).ok().filter(|count| *count > 0)?;
            bytes.extend_from_slice(&buffer[..more]);
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let length: usize =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
        while bytes.len() < end + length {
            let more = socket.read(&mut buffer).ok().filter(|count| *count > 0)?;
            bytes.extend_from_slice(&buffer[..more]);
        }
        let body: Vec<u8> = bytes.drain(..end + length).skip(end).collect();
        assert_eq!(head.contains("application/json"), json);
        count += 1;
        let code = match count {
            tenth if tenth % 10 == 0 => "503 Later",
            eleventh if eleventh % 11 == 0 => "422 Never",
            _ => {
                taken.send(body).unwrap();
                "202 Accepted"
            }
        };
        socket.write_all(format!("HTTP/1.1 {code}\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes()).ok()?;
    }
}

#[test]
fn messages_go_over_http_on_kept_connections() {
    for json in [true, false] {
        let (address, bodies) = http_server(json);
        let shape = if json { Shape::Json(JSON_TEMPLATE.into()) } else { Shape::Query };
        let http = HttpPlan::new(&format!("http://{address}/v1/messages"), shape, Vec::new()).unwrap();
        let clock = Clock::start();
        let ledger = Arc::new(Ledger::new(7, 2));
        let load = SendPlan { http: Some(http), recipients: 2, schedule: Some("5000".parse().unwrap()), ..plan(210) };
        let (counts, latency) = Sender::start(&load, address, Arc::clone(&ledger), clock).unwrap().finish();
        let taken: Vec<_> = bodies.try_iter().collect();
        assert_eq!(counts.acknowledged, taken.len() as u64);
        assert_eq!(counts.acknowledged + counts.deferred + counts.refused, 210);
        assert!(counts.deferred > 0 && counts.refused > 0 && counts.connections <= 7 && counts.missed_starts == 0);
        let (corrected, raw) = (latency.corrected.summary(), latency.raw.summary());
        assert!(corrected.count == counts.acknowledged && corrected.max_us >= raw.max_us);
        let tally = ledger.tally();
        assert_eq!((tally.acknowledged, tally.sent), (2 * counts.acknowledged, 420));
        for body in taken {
            if json {
                let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(value["to"].as_array().unwrap().len(), 2);
                assert!(value["raw"].as_str().unwrap().contains("\r\nX-Loadgen: run="));
            } else {
                assert!(memchr::memmem::find(&body, b"\r\nX-Loadgen: run=").is_some() && body.len() == 10 << 10);
            }
        }
    }
}

#[test]
fn names_lead_to_the_sink() {
    let plan = SinkPlan { dns: Some((ANY_PORT, Default::default())), ..sink() };
    let sink = Sink::start(&plan, Book::open(), Clock::start()).unwrap();
    assert!(sink.dns_address().is_some_and(|address| address.port() > 0));
    assert_eq!(sink.stop().0.dns_questions, 0);
}
