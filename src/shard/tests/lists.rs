//! Aliases, lists and forwards through the whole shard: who gets the message, under which reverse-path, and who is told what; and
//! what waits for a domain, started by ETRN.

use super::*;
use crate::mail::envelope::Envelope;
use crate::queue::RecoveredMessage;
use crate::smtp::reply;

const TABLE: &[&str] = &[
    "table alias sales@own.test anna@b.test, bert@c.test",
    "table list news@own.test owner=news-owner@lists.test carl@d.test, anna@b.test, sales@own.test",
    "table list offers@own.test owner=offers-owner@lists.test by-member dora@d.test emil@d.test fritz@e.test",
    "table forward old@own.test new@f.test",
    "table gone nobody@own.test",
    "table alias news-owner@lists.test admin@g.test",
];

/// A next hop that knows DSN.
fn knows_dsn(line: &str) -> String {
    if line.starts_with("EHLO") {
        return "250-hop.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN\r\n".into();
    }
    accept_all(line)
}

fn refuses_d(line: &str) -> String {
    if line.starts_with("RCPT TO:<carl@d.test>") || line.starts_with("RCPT TO:<dora@d.test>") {
        return "550 5.1.1 nobody\r\n".into();
    }
    accept_all(line)
}

impl World {
    /// Sends a message; gives the last reply.
    fn mail(&mut self, sender: &str, mail: &str, recipients: &[&str]) -> String {
        let conn = self.client_from("192.0.2.200:4000");
        let mut commands = format!("EHLO c.test\r\nMAIL FROM:<{sender}> {mail}\r\n");
        recipients.iter().for_each(|recipient| commands += &format!("RCPT TO:{recipient}\r\n"));
        let replies = self.say(conn, (commands + "DATA\r\n").as_bytes());
        assert!(replies.contains("354"), "{replies}");
        self.say(conn, b"Subject: x\r\n\r\nbody\r\n.\r\n")
    }

    /// What the next hop took, each as `reverse-path > recipients`, sorted.
    fn deliveries(&self) -> Vec<String> {
        let mut found: Vec<String> =
            self.taken.iter().map(|taken| format!("{} > {}", taken.sender, taken.recipients.join(" "))).collect();
        found.sort();
        found
    }

    fn found_on_disk(&self) -> Vec<RecoveredMessage> {
        start_of(&self.disk).messages.into_iter().map(|message| *message).collect()
    }
}

/// FND-04: each group has its own reverse-path, all of them one body, which nobody changed; after a restart too.
#[test]
fn lists_go_under_their_owner_and_aliases_under_the_sender() {
    for restart in [false, true] {
        let mut world = World::new(TABLE);
        world.refuse_dials = true;
        let all = ["<old@own.test>", "<sales@own.test>", "<NEWS@own.test>", "<offers@own.test>"];
        let reply = world.mail("from@source.test", "", &all);
        assert!(reply.starts_with("250"), "{reply}");
        let stats = world.shard.log.stats();
        assert_eq!((world.shard.counters().messages_live, stats.live_records), (1, 1), "one record, and so one body");
        assert_eq!(world.shard.counters().recipients_open, 7);
        if restart {
            let found = world.found_on_disk();
            assert_eq!((found.len(), found[0].recipients.len()), (1, 7));
            world = World::on(TABLE, std::mem::take(&mut world.disk));
        }
        world.refuse_dials = false;
        world.pass(60_000);
        assert_eq!(
            world.deliveries(),
            [
                "from@source.test > anna@b.test",
                "from@source.test > bert@c.test",
                "from@source.test > new@f.test",
                "news-owner@lists.test > carl@d.test",
                "offers-owner+dora=d.test@lists.test > dora@d.test",
                "offers-owner+emil=d.test@lists.test > emil@d.test",
                "offers-owner+fritz=e.test@lists.test > fritz@e.test",
            ]
        );
        let ends = |taken: &Taken| taken.data.ends_with("+0000\r\nSubject: x\r\n\r\nbody\r\n");
        assert!(world.taken.iter().all(|taken| ends(taken) && !taken.data.contains("for <")), "{:?}", world.taken);
        world.pass(100);
        world.nothing_left();
    }
}

/// FND-04, DSN-01: what fails of a list is told to its owner, of a list by member under that member's name; the sender of the message
/// hears nothing of either. An owner that is an address of the table is written to where that leads.
#[test]
fn failures_of_members_go_to_the_owner() {
    let mut world = World::new(TABLE);
    world.rule = refuses_d;
    world.mail("from@source.test", "RET=FULL ENVID=mine", &["<news@own.test>", "<offers@own.test>"]);
    world.pass(1_000);
    let reports: Vec<&Taken> = world.taken.iter().filter(|taken| taken.sender.is_empty()).collect();
    let mut to: Vec<&str> = reports.iter().map(|report| &*report.recipients[0]).collect();
    to.sort_unstable();
    assert_eq!(to, ["admin@g.test", "offers-owner+dora=d.test@lists.test"]);
    for report in reports {
        assert!(report.data.contains("Action: failed\r\nStatus: 5.1.1"), "{}", report.data);
        assert!(!report.data.contains("mine") && report.data.contains("text/rfc822-headers"), "{}", report.data);
    }
    world.pass(100);
    world.nothing_left();
}

/// RFC 3461 5.2.7: members of a list are sent to without what the sender said; those of an alias with it, but for success.
#[test]
fn what_was_said_goes_to_aliases_and_not_to_lists() {
    let mut world = World::new(TABLE);
    world.rule = knows_dsn;
    let asks = [
        "<news@own.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;n@x",
        "<sales@own.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;s@x",
    ];
    world.mail("from@source.test", "RET=HDRS ENVID=mine", &asks);
    world.pass(1_000);
    let told = |verb: &str| -> Vec<&str> {
        let mut told: Vec<_> =
            world.commands.iter().map(String::as_str).filter(|line| line.starts_with(verb)).collect();
        told.sort_unstable();
        told
    };
    // Whom list and alias have in common is a member: it was the first.
    let members = ["RCPT TO:<anna@b.test>", "RCPT TO:<bert@c.test>", "RCPT TO:<carl@d.test>"];
    let to_others: Vec<&str> = told("RCPT").into_iter().filter(|line| !line.contains("source.test")).collect();
    assert_eq!(to_others, members);
    assert!(told("MAIL FROM:<news-owner").iter().all(|line| !line.contains("RET") && !line.contains("ENVID")));
    let reports: Vec<&Taken> = world.taken.iter().filter(|taken| taken.sender.is_empty()).collect();
    let texts: String = reports.iter().map(|report| &*report.data).collect();
    assert!(texts.contains("Final-Recipient: rfc822; news@own.test\r\nAction: delivered\r\nStatus: 2.1.5"), "{texts}");
    assert!(texts.contains("Final-Recipient: rfc822; sales@own.test\r\nAction: expanded\r\nStatus: 2.1.5"), "{texts}");
    assert!(
        texts.contains("Original-Envelope-Id: mine") && texts.contains("Original-Recipient: rfc822; n@x"),
        "{texts}"
    );
    world.pass(100);
    world.nothing_left();
}

/// The report that a list got a message is owed as the message is: a crash before it is written loses it not.
#[test]
fn that_a_list_got_it_is_told_also_after_a_crash() {
    let mut world = World::new(TABLE);
    world.hold_writes = true;
    world.refuse_dials = true;
    world.mail("from@source.test", "", &["<offers@own.test> NOTIFY=SUCCESS"]);
    // The message is durable, nothing behind it.
    world.do_write();
    let disk = world.disk.clone();
    let mut world = World::on(TABLE, disk);
    world.pass(10_000);
    let reports: Vec<&Taken> = world.taken.iter().filter(|taken| taken.sender.is_empty()).collect();
    assert_eq!(reports.len(), 1, "{:?}", world.deliveries());
    assert!(reports[0].data.contains("Action: delivered"), "{}", reports[0].data);
    assert_eq!(world.taken.len(), 4, "{:?}", world.deliveries());
    world.pass(100);
    world.nothing_left();
}

/// RFC 5321 4.5.5, FND-10: what is automatic stays so behind a list, and so nothing ever comes back for it.
#[test]
fn a_null_reverse_path_stays_null() {
    let mut world = World::new(TABLE);
    world.rule = refuses_d;
    world.mail("", "", &["<news@own.test> NOTIFY=SUCCESS", "<offers@own.test>"]);
    world.pass(1_000);
    let found = world.deliveries();
    assert_eq!(found, [" > anna@b.test", " > bert@c.test", " > emil@d.test", " > fritz@e.test"]);
    world.pass(100);
    world.nothing_left();
}

/// FND-04, FND-09: over HTTP the same.
#[test]
fn injected_messages_are_expanded_too() {
    let mut world = World::new(TABLE);
    let mut inject = |recipients: &[&str]| {
        let mut envelope = Envelope::new();
        envelope.set_sender(b"from@source.test");
        recipients.iter().for_each(|recipient| envelope.push_recipient(recipient.as_bytes()));
        let peer = "127.0.0.1".parse().unwrap();
        world.input(Input::Inject {
            injection: InjectionId(1),
            origin: Origin::Client(peer),
            envelope: &envelope,
            body: b"x\r\n",
        });
        let outcome = world.injected.pop().unwrap().1;
        (outcome.map(drop), std::mem::take(&mut world.taken).len())
    };
    assert_eq!(inject(&["sales@own.test", "x@y.test"]), (Ok(()), 3));
    assert_eq!(inject(&["x@y.test"]), (Ok(()), 1));
    assert_eq!(inject(&["x@y.test", "nobody@own.test"]), (Err(reply::NOBODY), 0));
    assert_eq!(inject(&["offers@own.test"]), (Ok(()), 3));
}

/// FND-04: a table that is read again holds for what comes from then on; who is in the middle of a transaction keeps the old one's.
#[test]
fn another_table_holds_from_then_on() {
    let mut world = World::new(TABLE);
    let conn = world.client_from("192.0.2.200:4000");
    let taken = world.say(conn, b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<sales@own.test>\r\n");
    assert!(taken.ends_with("250 2.1.5 Recipient OK\r\n"), "{taken}");
    world.input(Input::Change { settings: settings(&["table alias other@own.test x@y.test"]) });
    world.say(conn, b"DATA\r\n");
    world.say(conn, b"x\r\n.\r\n");
    assert_eq!(world.deliveries(), ["a@b.test > anna@b.test", "a@b.test > bert@c.test"]);
    let conn = world.client_from("192.0.2.200:4000");
    let replies =
        world.say(conn, b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<sales@own.test>\r\nRCPT TO:<other@own.test>\r\n");
    assert!(replies.ends_with("550 5.7.1 Relay access denied\r\n250 2.1.5 Recipient OK\r\n"), "{replies}");
}

fn later(line: &str) -> String {
    if line == "." { "451 4.3.0 later\r\n".into() } else { accept_all(line) }
}

/// FND-06 (RFC 1985): what waits for a domain is tried at once, for who may ask; what is held stays held.
#[test]
fn etrn_starts_what_waits_for_a_domain() {
    let mut world = World::new(&["etrn.networks=192.0.2.7", "route.domains..deep.test=192.0.2.9:26"]);
    world.rule = later;
    for recipient in ["a@one.test", "b@one.test", "c@two.test", "d@sub.deep.test"] {
        world.send(&[recipient], "x\r\n");
    }
    world.rule = accept_all;
    let stranger = world.client();
    assert!(world.say(stranger, b"ETRN one.test\r\n").starts_with("459 4.7.1 "));
    assert!(!world.say(stranger, b"EHLO c\r\n").contains("ETRN"));
    let peer = world.client_from("192.0.2.7:4000");
    assert!(world.say(peer, b"EHLO c\r\n").contains("250-ETRN\r\n"));
    let said = world.say(peer, b"ETRN ONE.test\r\nNOOP\r\n");
    assert_eq!(said, "253 2.0.0 2 pending messages for node one.test started\r\n250 2.0.0 OK\r\n");
    assert_eq!(world.deliveries(), ["from@source.test > a@one.test", "from@source.test > b@one.test"]);
    assert_eq!(world.say(peer, b"ETRN one.test\r\n"), "251 2.0.0 No messages waiting for node one.test\r\n");
    assert!(world.say(peer, b"ETRN @deep.test\r\n").starts_with("252 2.0.0 "));
    assert_eq!(world.taken.len(), 3);
    let target = crate::shard::orders::Target::Domain("two.test".into());
    world.order(crate::shard::orders::Order::Hold, &target);
    assert!(world.say(peer, b"ETRN two.test\r\n").starts_with("458 4.3.0 "));
    assert_eq!(world.taken.len(), 3);
    world.order(crate::shard::orders::Order::Release, &target);
    assert!(world.say(peer, b"ETRN two.test\r\n").starts_with("253 2.0.0 1 "));
    world.pass(100);
    world.nothing_left();
}

/// FND-06: a client that goes while shards are asked is not missed, and many that ask at once are bounded.
#[test]
fn etrn_is_bounded() {
    let mut world = World::new(&["etrn.networks=192.0.2.7"]);
    let peers: Vec<ConnId> = (0..=limits::ETRN_WAITING_MAX).map(|_| world.client_from("192.0.2.7:4000")).collect();
    // Without the world's answers.
    for &conn in &peers {
        let mut effects = Vec::new();
        world.shard.step(world.now, Input::Received { conn, bytes: b"ETRN one.test\r\nNOOP\r\n" }, &mut effects);
        let asked = effects.iter().filter(|effect| matches!(effect, Effect::OrderAll { .. })).count();
        assert_eq!(asked, usize::from(conn != peers[limits::ETRN_WAITING_MAX]));
        world.effects.append(&mut effects);
        world.effects.retain(|effect| !matches!(effect, Effect::OrderAll { .. }));
    }
    world.input(Input::Tick);
    assert_eq!(world.clients[&peers[0]].matches("\r\n").count(), 1, "it waits for its answer");
    let refused = &world.clients[&peers[limits::ETRN_WAITING_MAX]];
    assert!(refused.ends_with("458 4.3.0 Unable to queue messages for node one.test\r\n250 2.0.0 OK\r\n"), "{refused}");
    world.input(Input::Closed { conn: peers[0], reason: CloseReason::PeerClosed });
    for &conn in &peers[..limits::ETRN_WAITING_MAX] {
        world.input(Input::Ordered { conn, jobs: 0 });
    }
    assert!(world.clients[&peers[1]].ends_with("251 2.0.0 No messages waiting for node one.test\r\n250 2.0.0 OK\r\n"));
    assert!(world.say(peers[1], b"ETRN one.test\r\n").starts_with("251 "));
}

/// FND-05, XCL-02: who may ask is judged by the address that a listed client conveys.
#[test]
fn a_conveyed_client_may_ask_if_its_address_may() {
    let mut world = World::new(&[TABLE, &["xclient.networks=127.0.0.1", "aliases.askers=192.0.2.7"]].concat());
    let conn = world.client();
    assert!(world.say(conn, b"EXPN news@own.test\r\n").starts_with("502 "));
    assert!(world.say(conn, b"VRFY news@own.test\r\n").starts_with("252 "));
    for (address, may) in [("192.0.2.7", true), ("192.0.2.8", false)] {
        assert!(world.say(conn, format!("XCLIENT ADDR={address}\r\n").as_bytes()).starts_with("220 "));
        assert_eq!(world.say(conn, b"EHLO c\r\n").contains("250-EXPN\r\n"), may);
        let expansion = world.say(conn, b"EXPN news@own.test\r\n");
        assert_eq!(expansion.starts_with("250-2.1.5 <carl@d.test>\r\n"), may, "{expansion}");
        assert_eq!(world.say(conn, b"VRFY news@own.test\r\n").starts_with("250 "), may);
    }
}
