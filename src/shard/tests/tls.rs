//! TLS as a shard sees it: clients that ask for it, handshakes that do not end, and policies about next hops.

use super::*;
use crate::route::MailHost;
use crate::route::safety::Identity;
use crate::route::sts::{Mode, Policy, Sts};

impl World {
    pub(super) fn start_tls(&mut self, conn: ConnId, role: TlsRole) {
        assert!(self.shard.outbox(conn).unwrap().is_empty(), "bytes in clear wait while the handshake begins");
        self.handshakes.push(role);
        if self.fail_tls {
            self.hops.remove(&conn);
            let reason = self.fault.map_or(CloseReason::PeerClosed, CloseReason::Tls);
            self.nested(Input::Closed { conn, reason });
        } else {
            let info = TlsInfo {
                cipher: "TLS_AES_128_GCM_SHA256",
                resumed: false,
                binding: Default::default(),
                certified: self.certified,
                fault: self.fault,
            };
            self.nested(Input::Secured { conn, info });
        }
    }
}

pub(super) fn offers_tls(line: &str) -> String {
    match line.split(' ').next().unwrap() {
        "EHLO" => "250-hop.test\r\n250-STARTTLS\r\n250 PIPELINING\r\n".into(),
        "STARTTLS" => "220 go\r\n".into(),
        _ => accept_all(line),
    }
}

/// TLS-01, TLS-02, TLS-03, TRC-04.
#[test]
fn a_client_goes_inside_tls_and_begins_anew() {
    let mut world = World::new(&[]);
    let conn = world.client();
    assert!(world.say(conn, b"EHLO before.test\r\n").contains("250-STARTTLS\r\n"));
    let replies = world.say(conn, b"MAIL FROM:<a@a.test>\r\nSTARTTLS\r\nRCPT TO:<injected@b.test>\r\n");
    assert!(replies.ends_with("220 2.0.0 Ready to start TLS\r\n"), "{replies}");
    assert_eq!(world.handshakes, [TlsRole::Server { listener: Role::Relay }]);
    assert!(world.say(conn, b"MAIL FROM:<a@a.test>\r\n").starts_with("503"));
    let commands = b"EHLO c.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n";
    assert!(world.say(conn, commands).ends_with("354 End with a line that holds only a dot\r\n"));
    assert!(world.say(conn, b"x\r\n.\r\n").starts_with("250"));
    assert!(world.taken[0].data.contains(" with ESMTPS tls TLS_AES_128_GCM_SHA256\r\n"), "{:?}", world.taken);
    assert_eq!(world.shard.counters().tls_in, 1);
}

/// TLS-13: a client that stalls in its handshake, or is in it when the relay stops, is cut without a word.
#[test]
fn a_stalled_handshake_ends() {
    for stop in [false, true] {
        let mut world = World::new(&["timeout.tls_ms=1000", "tls.offer=true"]);
        let conn = world.client();
        // The world's handshakes end at once; this one is kept from beginning.
        let mut effects = Vec::new();
        world.now.mono.0 += 1;
        world.shard.step(world.now, Input::Received { conn, bytes: b"STARTTLS\r\n" }, &mut effects);
        let count = world.shard.outbox(conn).unwrap().len();
        world.shard.step(world.now, Input::Sent { conn, count }, &mut effects);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::StartTls { role: TlsRole::Server { .. }, .. })));
        let now = if stop { world.now } else { Now { mono: world.now.mono.plus_ms(1001), ..world.now } };
        effects.clear();
        world.shard.step(now, if stop { Input::Drain } else { Input::Tick }, &mut effects);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Abort { .. })));
        assert!(world.shard.outbox(conn).is_none());
    }
}

/// TLS-05, TLS-06, TLS-07, BLK-06: what each policy does with a next hop that offers TLS, offers none, or fails; what went in
/// clear is counted.
#[test]
fn policies_are_kept() {
    for (policy, offered, fails, handshakes, delivered) in [
        ("none", true, false, 0, true),
        ("may", true, false, 1, true),
        ("may", false, false, 0, true),
        ("may", true, true, 1, true),
        ("encrypt", true, false, 1, true),
        ("encrypt", false, false, 0, false),
        ("encrypt", true, true, 1, false),
        ("verify", true, false, 1, true),
        ("verify", false, false, 0, false),
        ("verify", true, true, 1, false),
    ] {
        for by_domain in [false, true] {
            let case = format!("{policy} offered={offered} fails={fails} by domain={by_domain}");
            let set = if by_domain { "tls.domains.dest.test" } else { "site.default.tls" };
            let other = if by_domain { "site.default.tls=none" } else { "tls.domains.other.test=none" };
            let mut world = World::new(&[&format!("{set}={policy}"), other]);
            world.rule = if offered { offers_tls } else { accept_all };
            world.fail_tls = fails;
            world.send(&["to@dest.test"], "x\r\n");
            assert_eq!(world.handshakes.len(), handshakes, "{case}");
            assert_eq!(world.taken.len(), usize::from(delivered), "{case}");
            let in_clear = delivered && (handshakes == 0 || fails);
            assert_eq!(world.shard.counters().delivered_in_clear, u64::from(in_clear), "{case}");
            for role in &world.handshakes {
                let identity = if policy == "verify" { Identity::Name } else { Identity::Any };
                assert_eq!(*role, TlsRole::Client { host: "192.0.2.9".into(), identity }, "{case}");
            }
            let counters = world.shard.counters();
            assert_eq!(counters.tls_failed_out > 0, fails, "{case}");
            assert_eq!(counters.recipients_open, u64::from(!delivered), "{case}: it waits");
        }
    }
}

/// One host, mx.test, of a domain whose policy names one host.
pub(super) fn under_policy(mode: Mode, named: &str) -> Answer {
    let tls = Default::default();
    let host = MailHost { preference: 1, name: "mx.test".into(), addresses: vec![[192, 0, 2, 1].into()], tls };
    let policy = Policy { mode, max_age_s: 60, hosts: [named.into()].into() };
    let sts = Sts::Known { policy: Arc::new(policy), id: "1".into(), from: "fetched".into() };
    Answer::Mail { hosts: vec![host], ttl_s: 60, sts: Some(Arc::new(sts)) }
}

/// STS-02: a policy that is being tested stops no mail, and what it would have stopped is counted.
#[test]
fn policies_are_tested() {
    for (named, certified, offered, fails, noted) in [
        (true, true, true, false, 0),
        (true, false, true, false, 1),
        (false, true, true, false, 1),
        (true, true, false, false, 1),
        (true, true, true, true, 1),
    ] {
        let case = format!("named={named} certified={certified} offered={offered} fails={fails}");
        let mut world = World::new(&["route.default=", "site.default.tls=published"]);
        world.answer = under_policy(Mode::Testing, if named { "mx.test" } else { "other.test" });
        world.rule = if offered { offers_tls } else { accept_all };
        (world.certified, world.fail_tls) = (certified, fails);
        world.send(&["to@dest.test"], "x\r\n");
        assert_eq!(world.taken.len(), 1, "{case}");
        assert_eq!(world.shard.counters().sts_testing_failures, noted, "{case}");
        let identity = Identity::Tested;
        assert!(
            world
                .handshakes
                .iter()
                .all(|role| *role == TlsRole::Client { host: "mx.test".into(), identity: identity.clone() })
        );
        assert_eq!(world.handshakes.len(), usize::from(offered), "{case}");
    }
}

/// RTL-04: what may go in clear goes by the relay's own policy; MAIL with REQUIRETLS says more.
#[test]
fn a_header_says_that_clear_is_better_than_nothing() {
    let mut world =
        World::new(&["route.default=", "site.default.tls=published", "route.domains.source.test=192.0.2.8:25"]);
    world.answer = under_policy(Mode::Enforce, "other.test");
    world.send(&["to@dest.test"], "TLS-Required: Nothing\r\n\r\nx\r\n");
    assert!(world.taken.is_empty());
    world.send(&["to@dest.test"], "TLS-Required: No\r\n\r\nx\r\n");
    assert_eq!(world.taken.len(), 1);
    assert!(world.handshakes.is_empty(), "the host offers no TLS");
    let conn = world.client();
    world.say(conn, b"EHLO c.test\r\nSTARTTLS\r\n");
    world.say(conn, b"EHLO c.test\r\nMAIL FROM:<a@source.test> REQUIRETLS\r\nRCPT TO:<to@dest.test>\r\nDATA\r\n");
    assert!(world.say(conn, b"TLS-Required: No\r\n\r\nx\r\n.\r\n").starts_with("250"));
    world.pass(1000);
    assert_eq!(world.taken.len(), 1);
}

/// RTL-04: it says so still when other routes hold, and what waits is routed anew.
#[test]
fn what_the_header_says_outlives_a_change_of_routes() {
    let set = ["route.default=", "site.default.tls=published", "route.domains.source.test=192.0.2.8:25"];
    let mut world = World::new(&set);
    world.answer = under_policy(Mode::Enforce, "other.test");
    world.refuse_dials = true;
    world.send(&["to@dest.test"], "TLS-Required: No\r\n\r\nx\r\n");
    assert!(world.taken.is_empty());
    world.input(Input::Change { settings: settings(&[&set[..], &["route.domains.else.test=192.0.2.7:25"]].concat()) });
    world.refuse_dials = false;
    world.pass(400_000);
    assert_eq!(world.taken.len(), 1, "{:?}", world.reports);
    world.nothing_left();
}
