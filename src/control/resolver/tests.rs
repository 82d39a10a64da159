//! The resolver against a small name server on loopback.

use super::*;
use hickory_resolver::proto::op::{Message, OpCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX};
use hickory_resolver::proto::rr::{RData, Record};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::mpsc as channel;

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn mx(owner: &str, preference: u16, host: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::MX(MX::new(preference, name(host))))
}

fn a(owner: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
}

fn aaaa(owner: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::AAAA(AAAA(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))))
}

/// The zone: what is said to one question.
fn zone(owner: &str, kind: RecordType) -> (ResponseCode, Vec<Record>) {
    let many_hosts = || (0..100).map(|i| mx("many.test", 100 - i, &format!("h{i}.many.test"))).collect();
    let records = match (owner, kind) {
        ("plain.test", RecordType::MX) => {
            vec![mx("plain.test", 20, "B.plain.test"), mx("plain.test", 10, "a.plain.test")]
        }
        ("a.plain.test", RecordType::A) => vec![a("a.plain.test", 60, 1), a("a.plain.test", 60, 2)],
        ("a.plain.test", RecordType::AAAA) => vec![aaaa("a.plain.test")],
        ("b.plain.test", RecordType::A) => vec![a("b.plain.test", 300, 3)],
        ("own.test", RecordType::A) => vec![a("own.test", 120, 4)],
        ("alias.test", RecordType::MX) => {
            vec![
                Record::from_rdata(name("alias.test"), 300, RData::CNAME(CNAME(name("real.test")))),
                mx("real.test", 5, "own.test"),
            ]
        }
        ("null.test", RecordType::MX) => vec![mx("null.test", 0, ".")],
        ("mixed.test", RecordType::MX) => vec![mx("mixed.test", 0, "."), mx("mixed.test", 1, "own.test")],
        ("half.test", RecordType::MX) => vec![mx("half.test", 1, "broken.test"), mx("half.test", 2, "own.test")],
        ("lost.test", RecordType::MX) => vec![mx("lost.test", 1, "broken.test")],
        ("gone.test", RecordType::MX) => vec![mx("gone.test", 1, "missing.test"), mx("gone.test", 2, "192.0.2.1")],
        ("many.test", RecordType::MX) => many_hosts(),
        ("empty.test" | "own.test" | "a.plain.test" | "b.plain.test", _) => vec![],
        ("broken.test", _) => return (ResponseCode::ServFail, vec![]),
        (host, RecordType::A) if host.ends_with(".many.test") => (0..100).map(|i| a(host, 0, i)).collect(),
        (host, _) if host.ends_with(".many.test") => vec![],
        _ => return (ResponseCode::NXDomain, vec![]),
    };
    (ResponseCode::NoError, records)
}

fn respond(question: &[u8], udp: bool) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let owner = query.name().to_lowercase().to_ascii();
    let (code, records) = zone(owner.trim_end_matches('.'), query.query_type());
    let mut response = Message::response(question.metadata.id, OpCode::Query);
    response.metadata.response_code = code;
    response.metadata.recursion_available = true;
    response.add_query(query);
    // Long answers do not fit a datagram: the resolver must come back by TCP (RTE-09).
    if udp && records.len() > 20 {
        response.metadata.truncation = true;
    } else {
        response.add_answers(records);
    }
    response.to_vec().unwrap()
}

/// Serves the zone by UDP and TCP on one port for as long as the test process runs.
fn serve_zone() -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&respond(&buffer[..length], true), peer);
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut question).unwrap();
                    let response = respond(&question, false);
                    stream.write_all(&(response.len() as u16).to_be_bytes()).unwrap();
                    stream.write_all(&response).unwrap();
                }
            });
        }
    });
    address
}

fn ask(resolver: &Resolver, domain: &str, address_only: bool) -> Answer {
    let (to, from) = channel::channel();
    let query = QueryId(7);
    let question = Question { name: domain.into(), address_only, tlsa_port: None, sts: false };
    resolver.ask(query, question, Box::new(move |query, answer| to.send((query, answer)).unwrap()));
    let (answered, answer) = from.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(answered, query);
    answer
}

fn host(preference: u16, name: &str, addresses: &[&str]) -> MailHost {
    MailHost {
        preference,
        name: name.into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        tls: Default::default(),
    }
}

fn hosts(answer: Answer) -> Vec<MailHost> {
    match answer {
        Answer::Mail { hosts, .. } => hosts,
        other => panic!("no hosts: {other:?}"),
    }
}

/// RTE-01, RTE-02, RTE-04, RTE-06, RTE-07, RTE-09.
#[test]
fn answers_of_a_small_zone() {
    let resolver =
        Resolver::start(&ResolverSettings { servers: vec![serve_zone()], ..ResolverSettings::default() }).unwrap();
    let ask = |domain: &str| ask(&resolver, domain, false);

    let Answer::Mail { hosts: plain, ttl_s, .. } = ask("Plain.TEST") else { panic!("no hosts") };
    let best = host(10, "a.plain.test", &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    assert_eq!(plain, [best, host(20, "b.plain.test", &["192.0.2.3"])]);
    assert!((1..=60).contains(&ttl_s), "{ttl_s}");
    assert_eq!(hosts(ask("own.test")), [host(0, "own.test", &["192.0.2.4"])]);
    assert_eq!(hosts(ask("alias.test")), [host(5, "own.test", &["192.0.2.4"])]);
    assert_eq!(hosts(ask("mixed.test")), [host(1, "own.test", &["192.0.2.4"])]);
    assert!(matches!(ask("null.test"), Answer::NullMx { .. }));
    for nowhere in ["no.such.test", "empty.test", "a..b", &"x".repeat(64), "", "."] {
        assert!(matches!(ask(nowhere), Answer::NoSuchDomain { .. }), "{nowhere}");
    }
    assert_eq!(hosts(ask("gone.test")), [host(1, "missing.test", &[]), host(2, "192.0.2.1", &[])]);
    assert_eq!(hosts(ask("half.test")), [host(1, "broken.test", &[]), host(2, "own.test", &["192.0.2.4"])]);
    assert!(matches!(ask("lost.test"), Answer::Temporary { .. }));
    assert!(matches!(ask("broken.test"), Answer::Temporary { .. }));

    let many = hosts(ask("many.test"));
    assert_eq!(many.len(), limits::MAIL_HOSTS_MAX);
    assert!(many.iter().all(|host| host.addresses.len() == limits::HOST_ADDRESSES_MAX / 2));
    assert_eq!((many[0].preference, &*many[0].name), (1, "h99.many.test"));
}

/// A smart host's name is never looked up by MX.
#[test]
fn addresses_only() {
    let resolver =
        Resolver::start(&ResolverSettings { servers: vec![serve_zone()], ..ResolverSettings::default() }).unwrap();
    assert_eq!(hosts(ask(&resolver, "b.plain.test", true)), [host(0, "b.plain.test", &["192.0.2.3"])]);
    assert!(matches!(ask(&resolver, "plain.test", true), Answer::NoSuchDomain { .. }));
    assert!(matches!(ask(&resolver, "broken.test", true), Answer::Temporary { .. }));
}
