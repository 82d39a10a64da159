//! What a shard tells of the TLS of its sessions (RPT-01): each session once, whatever goes over it, and nothing where nobody asked.

use super::tls::{offers_tls, under_policy};
use super::*;
use crate::route::MailHost;
use crate::route::reports::{PolicyKind, ResultType};
use crate::route::safety::{HostTls, Tlsa};
use crate::route::sts::{Mode, Sts};

const ON: [&str; 8] = [
    "route.default=",
    "site.default.tls=published",
    "tls.report_organization=Us",
    "tls.report_contact=tlsrpt@us.test",
    "tls.report_from=noreply@us.test",
    "dkim.a.domain=us.test",
    "dkim.a.selector=s",
    "dkim.a.key=k",
];

fn world(answer: Answer, offered: bool) -> World {
    let mut world = World::new(&ON);
    world.answer = answer;
    world.rule = if offered { offers_tls } else { accept_all };
    world
}

fn without_policy(tls: HostTls, sts: Option<Sts>) -> Answer {
    let host = MailHost { preference: 1, name: "mx.test".into(), addresses: vec![[192, 0, 2, 1].into()], tls };
    Answer::Mail { hosts: vec![host], ttl_s: 60, sts: sts.map(Arc::new) }
}

/// Kind of policy and what was wrong, in order.
fn told(world: &mut World) -> Vec<(PolicyKind, Option<(ResultType, String)>)> {
    world.pass(2000);
    let seen = world.tls_seen.iter();
    seen.map(|seen| (seen.policy.kind, seen.failure.as_ref().map(|f| (f.result, f.reason.to_string())))).collect()
}

fn failure(result: ResultType, reason: &str) -> Option<(ResultType, String)> {
    Some((result, reason.to_owned()))
}

const MISMATCH: Fault = Fault { result: ResultType::HostMismatch, reason: "NotValidForName" };

#[test]
fn a_session_is_told_once_however_much_goes_over_it() {
    let mut world = world(under_policy(Mode::Enforce, "mx.test"), true);
    for _ in 0..5 {
        world.send(&["to@dest.test"], "x\r\n");
    }
    assert_eq!((world.taken.len(), world.dials), (5, 1));
    assert_eq!(told(&mut world), [(PolicyKind::Sts, None)]);
    let seen = &world.tls_seen[0];
    assert_eq!((&*seen.domain, &*seen.policy.domain, seen.day.0), ("dest.test", "dest.test", 1_795_000_000 / 86_400));
    let lines = ["version: STSv1", "mode: enforce", "max_age: 60", "mx: mx.test"].map(Box::from);
    assert_eq!((&seen.policy.text[..], &seen.policy.hosts[..]), (&lines[..], &["mx.test".into()][..]));
}

/// Domains with the same host share a session, and each is told of it; one that carries nothing is its opener's.
#[test]
fn a_session_is_told_to_each_domain_that_it_served() {
    let mut world = world(without_policy(HostTls::Unknown, None), true);
    for domain in ["a.test", "b.test", "a.test", "c.test", "b.test"] {
        world.send(&[&format!("to@{domain}")], "x\r\n");
    }
    assert_eq!((world.taken.len(), world.dials), (5, 1));
    told(&mut world);
    let domains: Vec<&str> = world.tls_seen.iter().map(|seen| &*seen.domain).collect();
    assert_eq!(domains, ["a.test", "b.test", "c.test"]);
}

#[test]
fn what_is_wrong_is_told_by_its_name() {
    let not_offered = failure(ResultType::StartTlsNotSupported, "");
    let unnamed = failure(ResultType::ValidationFailure, "mx-not-in-sts-policy");
    let closed = failure(ResultType::ValidationFailure, "closed-in-handshake");
    let mismatch = failure(ResultType::HostMismatch, "NotValidForName");
    for (mode, host, offered, fails, fault, expected) in [
        (Mode::Enforce, "mx.test", false, false, None, not_offered.clone()),
        (Mode::Enforce, "mx.test", true, true, Some(MISMATCH), mismatch.clone()),
        (Mode::Enforce, "mx.test", true, true, None, closed.clone()),
        (Mode::Enforce, "other.test", true, false, None, unnamed.clone()),
        (Mode::Testing, "mx.test", true, false, None, None),
        (Mode::Testing, "mx.test", true, false, Some(MISMATCH), mismatch),
        (Mode::Testing, "other.test", true, false, None, unnamed),
        (Mode::Testing, "mx.test", false, false, None, not_offered.clone()),
        (Mode::Testing, "mx.test", true, true, None, closed),
    ] {
        let case = format!("{mode:?} {host} offered={offered} fails={fails} {fault:?}");
        let mut world = world(under_policy(mode, host), offered);
        (world.fail_tls, world.fault, world.certified) = (fails, fault, fault.is_none());
        world.send(&["to@dest.test"], "x\r\n");
        assert_eq!(told(&mut world)[0], (PolicyKind::Sts, expected), "{case}");
        let went = mode == Mode::Testing;
        assert_eq!(world.taken.len(), usize::from(went), "{case}");
        // The session in clear behind a failed handshake is no second failure.
        assert!(!went || world.tls_seen.len() == 1, "{case}: {:?}", world.tls_seen);
        if let Some(failure) = world.tls_seen[0].failure.as_ref().filter(|failure| failure.receiving.is_some()) {
            assert_eq!((&*failure.host, &*failure.hello), ("mx.test", "hop.test"), "{case}");
            assert_eq!(failure.receiving, Some([192, 0, 2, 1].into()), "{case}");
        }
    }
    for (offered, expected) in [(true, None), (false, not_offered)] {
        let mut world = world(without_policy(HostTls::Unknown, None), offered);
        world.send(&["to@dest.test"], "x\r\n");
        assert_eq!(told(&mut world), [(PolicyKind::None, expected)]);
    }
}

#[test]
fn what_dns_says_is_told() {
    let records =
        HostTls::of_records("base.test", vec![Tlsa { usage: 3, selector: 1, matching: 1, data: [0xab; 32].into() }]);
    let world_of = |tls, sts| {
        let mut world = world(without_policy(tls, sts), true);
        world.send(&["to@dest.test"], "x\r\n");
        let told = told(&mut world);
        (told, world.tls_seen)
    };
    let (told, seen) = world_of(records, None);
    assert_eq!(told, [(PolicyKind::Tlsa, None)]);
    let record = format!("3 1 1 {}", "AB".repeat(32));
    assert_eq!((&*seen[0].policy.domain, &*seen[0].policy.text[0]), ("base.test", &*record));
    let (told, seen) = world_of(HostTls::Failed, None);
    assert_eq!(told[0], (PolicyKind::Tlsa, failure(ResultType::DnssecInvalid, "no-secure-answer")));
    assert_eq!(&*seen[0].failure.as_ref().unwrap().host, "mx.test");
    let (told, _) = world_of(HostTls::Unusable, None);
    assert_eq!(told[0], (PolicyKind::Tlsa, failure(ResultType::TlsaInvalid, "no-usable-record")));
    assert_eq!(told[1], (PolicyKind::None, None));
    // A policy that cannot be had is told for each session that goes without it, unless the fault is ours.
    let unknown = |result| Sts::Unknown { why: "the answer is 404".into(), result };
    let (told, _) = world_of(HostTls::Unknown, Some(unknown(Some(ResultType::StsFetchError))));
    let expected = (PolicyKind::Sts, failure(ResultType::StsFetchError, "the answer is 404"));
    assert_eq!(told, [expected, (PolicyKind::None, None)]);
    let (told, _) = world_of(HostTls::Unknown, Some(unknown(None)));
    assert_eq!(told, [(PolicyKind::None, None)]);
}

/// RFC 8460 3: no report tells of the sessions that bring reports; nor where nothing published is looked at, or nobody reports.
#[test]
fn others_are_not_told_of() {
    let mut on = world(under_policy(Mode::Enforce, "mx.test"), true);
    on.send(&["to@dest.test"], "TLS-Required: No\r\n\r\nx\r\n");
    let run = |sets: &[&str]| {
        let mut world = World::new(sets);
        world.answer = under_policy(Mode::Enforce, "mx.test");
        world.rule = offers_tls;
        world.send(&["to@dest.test"], "x\r\n");
        world
    };
    let off = run(&ON[..2]);
    let smart = run(&[&ON[2..], &["route.default=192.0.2.9:25", "site.default.tls=published"]].concat());
    let may = run(&[&ON[2..], &["route.default="]].concat());
    for mut world in [on, off, smart, may] {
        assert_eq!(world.taken.len(), 1);
        assert_eq!(told(&mut world), []);
    }
}

/// What was seen leaves before the shard is drained, and a full batch at once.
#[test]
fn nothing_stays_behind() {
    let mut world = world(under_policy(Mode::Enforce, "other.test"), true);
    world.send(&["to@dest.test"], "x\r\n");
    assert!(world.tls_seen.is_empty(), "in batches");
    world.input(Input::Drain);
    world.pass(60_000);
    assert!(world.drained);
    assert!(!world.tls_seen.is_empty());
}
