//! What MAIL and RCPT ask for: passed on, kept over restarts and copies, obeyed, and reported.

use super::*;
use crate::queue::RecoveredMessage;
use crate::route::MailHost;
use crate::route::safety::{HostTls, Identity};

/// A next hop with every extension that has parameters.
fn knows_all(line: &str) -> String {
    match line.split(' ').next().unwrap() {
        "EHLO" => "250-hop.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-MT-PRIORITY\r\n\
                   250 DELIVERBY\r\n"
            .into(),
        _ => accept_all(line),
    }
}

fn defers(line: &str) -> String {
    if line.starts_with("RCPT TO:<to@") { "450 4.2.1 later\r\n".into() } else { accept_all(line) }
}

fn refuses(line: &str) -> String {
    if line.starts_with("RCPT TO:<to") { "550 5.1.1 nobody\r\n".into() } else { accept_all(line) }
}

impl World {
    /// Sends a message with parameters; gives the last reply.
    fn ask(&mut self, mail: &str, recipients: &[&str], body: &str) -> String {
        let conn = self.client();
        let mut commands = format!("EHLO c.test\r\nMAIL FROM:<from@source.test> {mail}\r\n");
        recipients.iter().for_each(|recipient| commands += &format!("RCPT TO:{recipient}\r\n"));
        let replies = self.say(conn, (commands + "DATA\r\n").as_bytes());
        assert!(replies.contains("354"), "{replies}");
        self.say(conn, format!("{body}.\r\n").as_bytes())
    }

    fn told(&self, verb: &str) -> Vec<&str> {
        self.commands.iter().map(String::as_str).filter(|line| line.starts_with(verb)).collect()
    }

    fn recovered(&self) -> Vec<RecoveredMessage> {
        start_of(&self.disk).messages.into_iter().map(|message| *message).collect()
    }

    /// The reports that went out, each with its text.
    fn reports_sent(&self) -> Vec<&str> {
        self.taken.iter().filter(|taken| taken.sender.is_empty()).map(|taken| taken.data.as_str()).collect()
    }
}

const ALL: &str = "RET=hdrs ENVID=QQ+2B1 MT-PRIORITY=3 BY=90;N";

/// DSN-09, QUE-02, EXT-11: what was said goes on octet for octet, also after a restart; each recipient's own to it alone.
#[test]
fn parameters_go_on_as_they_came() {
    for restart in [false, true] {
        let mut world = World::new(&[]);
        world.refuse_dials = true;
        let asks = ["<b@z.test> NOTIFY=Delay,FAILURE", "<a@y.test>", "<c@z.test> ORCPT=rfc822;q+2Bq@x NOTIFY=NEVER"];
        assert!(world.ask(ALL, &asks, "x\r\n").starts_with("250"));
        if restart {
            assert_eq!(world.recovered()[0].recipients.len(), 3);
            let now = world.now;
            world = World::before_its_first_step(&[], world.disk);
            world.now = now;
        }
        world.rule = knows_all;
        world.refuse_dials = false;
        world.pass(60_000);
        let mail = world.told("MAIL");
        assert_eq!(mail.len(), 2, "{:?}", world.reports);
        for line in mail {
            let (said, seconds) = line.split_once(" BY=").unwrap();
            assert_eq!(said, "MAIL FROM:<from@source.test> RET=hdrs ENVID=QQ+2B1 MT-PRIORITY=3");
            let seconds: u32 = seconds.strip_suffix(";N").unwrap().parse().unwrap();
            assert!((20..=90).contains(&seconds), "{seconds} of 90 are left");
        }
        let mut recipients = world.told("RCPT");
        recipients.sort_unstable();
        let said = [
            "RCPT TO:<a@y.test>",
            "RCPT TO:<b@z.test> NOTIFY=Delay,FAILURE",
            "RCPT TO:<c@z.test> NOTIFY=NEVER ORCPT=rfc822;q+2Bq@x",
        ];
        assert_eq!(recipients, said);
        world.pass(100);
        world.nothing_left();
        assert!(world.taken[0].data.contains("\tid 0-") && world.taken[0].data.contains(" priority 3;"));
    }
}

/// DSN-07: failures are told to who did not forbid it; DSN-04, DSN-05, DSN-06: as the parameters say.
#[test]
fn failures_are_reported_as_asked() {
    let mut world = World::new(&[]);
    world.rule = refuses;
    let asks = ["<to1@d.test> NOTIFY=NEVER", "<to2@d.test> ORCPT=rfc822;q@x", "<to3@d.test> NOTIFY=SUCCESS,DELAY"];
    world.ask("RET=FULL ENVID=QQ+2B1", &asks, "Subject: s\r\n\r\nsecret\r\n");
    world.pass(100);
    let reports = world.reports_sent();
    assert_eq!(reports.len(), 1);
    let lines = "Original-Recipient: rfc822; q@x\r\nFinal-Recipient: rfc822; to2@d.test\r\nAction: failed\r\n";
    assert!(reports[0].contains("Original-Envelope-Id: QQ+1\r\n") && reports[0].contains(lines), "{}", reports[0]);
    assert!(!reports[0].contains("to1@") && !reports[0].contains("to3@"));
    assert!(reports[0].contains("Content-Type: message/rfc822") && reports[0].contains("secret"));
    world.nothing_left();
    let recovered = world.recovered();
    assert!(recovered.is_empty(), "each failure is noted, reported or not: {recovered:?}");
    world.ask("RET=HDRS", &["<to@d.test>"], "Subject: s\r\n\r\nsecret\r\n");
    world.pass(100);
    let reports = world.reports_sent();
    assert!(reports[1].contains("Subject: s\r\n") && !reports[1].contains("secret"), "{}", reports[1]);
}

/// DSN-08: passing on to who does not report is reported to who asked; to who does, it is not.
#[test]
fn passing_on_is_reported_as_asked() {
    let mut world = World::new(&[]);
    let asks = ["<to1@d.test> NOTIFY=SUCCESS,FAILURE", "<to2@d.test>"];
    world.ask("", &asks, "x\r\n");
    world.pass(100);
    let reports = world.reports_sent();
    assert_eq!(reports.len(), 1);
    let lines = "Final-Recipient: rfc822; to1@d.test\r\nAction: relayed\r\nStatus: 2.1.9\r\n";
    assert!(reports[0].contains(lines) && !reports[0].contains("to2@"), "{}", reports[0]);
    world.nothing_left();
    let mut world = World::new(&[]);
    world.rule = knows_all;
    world.ask("", &asks, "x\r\n");
    world.pass(100);
    assert_eq!((world.taken.len(), world.reports_sent().len()), (1, 0), "it is the next hop's turn");
    world.nothing_left();
}

/// DSN-07: a delay is told once, to who asked, whether the next hop defers or is not there at all; also over a restart.
#[test]
fn delays_are_reported_once() {
    let more = ["report.delay_ms=3600000", "route.domains={\"source.test\"=\"192.0.2.8:25\"}"];
    for unreachable in [false, true] {
        let mut world = World::new(&more);
        world.rule = defers;
        if unreachable {
            world.dead = vec!["192.0.2.9".parse().unwrap()];
        }
        world.ask("", &["<to@d.test> NOTIFY=DELAY", "<to@e.test>"], "x\r\n");
        world.pass(3_000_000);
        assert_eq!(world.reports_sent().len(), 0);
        world.pass(4 * 3_600_000);
        let reports = world.reports_sent();
        assert_eq!(reports.len(), 1, "{unreachable}");
        assert!(reports[0].contains("to@d.test\r\nAction: delayed\r\nStatus: 4.") && !reports[0].contains("to@e.test"));
        assert!(reports[0].contains("Will-Retry-Until: ") && !reports[0].contains("Action: failed"));
        world.pass(8 * 3_600_000);
        assert_eq!(world.reports_sent().len(), 1, "told once");
        assert!(world.recovered()[0].recipients[0].delay_reported, "it is noted that it was told");
        let now = world.now;
        let mut again = World::before_its_first_step(&more, world.disk);
        (again.now, again.rule) = (now, defers);
        again.shard = World::setup(&more, &again.disk, now);
        again.pass(8 * 3_600_000);
        assert_eq!(again.reports_sent().len(), 0, "and not again after a restart");
    }
}

/// QUE-07: what is reported and settles its recipient is left open in a copy until the report is durable; a delay that is reported is not,
/// for the recipient may be delivered meanwhile.
#[test]
fn a_reported_delay_settles_nobody() {
    for (rule, owed) in [(defers as fn(&str) -> String, 0), (refuses, 1)] {
        let mut world = World::new(&["report.delay_ms=3600000"]);
        world.refuse_dials = true;
        world.ask("", &["<to@d.test> NOTIFY=DELAY,FAILURE"], "x\r\n");
        let id = world.shard.backlog.messages.iter().next().expect("it was taken").1.id;
        world.pass(3_000_000);
        world.rule = rule;
        world.refuse_dials = false;
        world.hold_writes = true;
        world.pass(4_000_000);
        assert!(world.shard.is_being_reported(id), "its report is not durable: {:?}", world.reports);
        assert_eq!(world.shard.owed(id).count(), owed);
    }
}

/// EXT-11: what a message says of its priority goes before what its client is given, over a restart too.
#[test]
fn priorities_decide_who_is_next() {
    let more = ["site.default.connections=1", "tenant.news.networks=127.0.0.1", "tenant.news.priority=bulk"];
    let mut world = World::new(&more);
    world.refuse_dials = true;
    for _ in 0..100 {
        world.send(&["bulk@d.test"], "x\r\n");
    }
    world.ask("MT-PRIORITY=0", &["<normal@d.test>"], "x\r\n");
    world.ask("MT-PRIORITY=4", &["<urgent@d.test>"], "x\r\n");
    let now = world.now;
    let mut world = World::before_its_first_step(&more, world.disk);
    world.now = now;
    world.pass(60_000);
    let place = |name: &str| world.taken.iter().position(|taken| taken.recipients[0].starts_with(name)).unwrap();
    assert_eq!(world.taken.len(), 102, "{:?}", world.reports);
    assert!(place("urgent@") < 3 && place("normal@") < 6, "{} {}", place("urgent@"), place("normal@"));
    world.nothing_left();
}

/// EXT-11: nothing goes before its time, over a restart too, whatever the longest pause between retries is.
#[test]
fn a_held_message_goes_when_its_time_has_come() {
    let held_ms = 40 * 3_600_000;
    let mut world = World::new(&[]);
    assert!(world.ask(&format!("HOLDFOR={}", held_ms / 1000), &["<to@d.test>"], "x\r\n").starts_with("250"));
    world.pass(held_ms / 2);
    assert_eq!(world.taken.len(), 0);
    let now = world.now;
    let mut world = World::before_its_first_step(&[], world.disk);
    world.now = now;
    world.shard = World::setup(&[], &world.disk, now);
    world.pass(held_ms / 2 - 1000);
    assert_eq!(world.taken.len(), 0);
    world.pass(2000);
    assert_eq!(world.taken.len(), 1);
    world.pass(100);
    world.nothing_left();
}

/// EXT-11: a message that is wanted back if late is neither sent late nor kept.
#[test]
fn a_late_message_comes_back() {
    let more = ["route.domains={\"source.test\"=\"192.0.2.8:25\"}"];
    let mut world = World::new(&more);
    world.rule = knows_all;
    world.dead = vec!["192.0.2.9".parse().unwrap()];
    world.ask("BY=600;R", &["<to@d.test>"], "x\r\n");
    world.pass(590_000);
    assert_eq!(world.taken.len(), 0);
    world.now.wall.0 += 20_000;
    world.now.mono.0 += 20_000_000;
    world.dead.clear();
    world.pass(2_000_000);
    let reports = world.reports_sent();
    assert_eq!((world.taken.len(), reports.len()), (1, 1));
    assert!(reports[0].contains("Action: failed\r\nStatus: 5.4.7\r\n"), "{}", reports[0]);
    world.pass(100);
    world.nothing_left();
}

/// EXT-06: a host without SMTPUTF8 is passed over for one that has it; only for mail that needs it, under its own name.
#[test]
fn mail_in_utf8_finds_the_host_that_takes_it() {
    thread_local!(static GREETED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
    fn only_the_second_has_it(line: &str) -> String {
        let hosts = GREETED.with(|count| count.replace(count.get() + u32::from(line.starts_with("EHLO"))));
        if hosts == 0 { accept_all(line) } else { knows_all(line) }
    }
    let mut world = World::new(&["route.default="]);
    let host = |number: u8| MailHost {
        preference: number.into(),
        name: format!("mx{number}.test").into(),
        addresses: vec![IpAddr::from([192, 0, 2, number])],
        tls: Default::default(),
    };
    world.answer = Answer::Mail { hosts: vec![host(1), host(2)], ttl_s: 86_400, sts: None };
    world.rule = only_the_second_has_it;
    let conn = world.client();
    let talk =
        "EHLO c.test\r\nMAIL FROM:<from@source.test> SMTPUTF8\r\nRCPT TO:<j\u{f6}rg@b\u{fc}cher.test>\r\nDATA\r\n";
    assert!(world.say(conn, talk.as_bytes()).contains("354"));
    assert!(world.say(conn, b"Subject: x\r\n\r\nx\r\n.\r\n").starts_with("250"));
    let names: Vec<&str> = world.shard.sites.table.iter().map(|(_, site)| &*site.name).collect();
    assert!(
        names.len() == 1 && names[0].starts_with("mx mx1.test +1 ") && names[0].ends_with(" needs=smtputf8"),
        "{names:?}"
    );
    assert_eq!(world.dialled, [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])]);
    assert_eq!(world.told("MAIL"), ["MAIL FROM:<from@source.test> SMTPUTF8"]);
    assert_eq!(world.taken[0].recipients, ["j\u{f6}rg@b\u{fc}cher.test"]);
    world.pass(100);
    world.nothing_left();
}

/// EXT-06, RTL-02: where no host can, the message fails with the code that says so; other mail goes on.
#[test]
fn mail_that_no_host_can_take_fails() {
    let mut world = World::new(&[]);
    let conn = world.client();
    let talk = "EHLO c.test\r\nMAIL FROM:<from@source.test> SMTPUTF8\r\nRCPT TO:<j\u{f6}rg@d.test>\r\n\
                RCPT TO:<ascii@d.test>\r\nDATA\r\n";
    assert!(world.say(conn, talk.as_bytes()).contains("354"));
    assert!(world.say(conn, b"Subject: x\r\n\r\nx\r\n.\r\n").starts_with("250"));
    world.pass(60_000);
    let reports = world.reports_sent();
    assert_eq!((world.taken.len(), reports.len()), (2, 1), "{:?}", world.reports);
    assert!(reports[0].contains("Status: 5.6.7\r\n"), "{}", reports[0]);
    // DSN-12: the sender knows UTF-8, and the report is ASCII all the same.
    assert!(reports[0].contains("message/global-delivery-status") && reports[0].contains("utf-8; j=C3=B6rg@d.test"));
    assert!(world.told("MAIL").iter().all(|line| !line.contains("SMTPUTF8")));
    world.nothing_left();
}

/// EXT-06: however much waits where no host can take it, it fails a part at a time, and all of it in the end.
#[test]
fn much_mail_that_no_host_can_take_fails_part_by_part() {
    let mut world = World::new(&["retry.site_first_ms=1000", "retry.site_longest_ms=1000"]);
    world.refuse_dials = true;
    let talk = "EHLO c.test\r\nMAIL FROM:<from@source.test> SMTPUTF8\r\nRCPT TO:<j\u{f6}rg@d.test>\r\nDATA\r\n";
    for _ in 0..500 {
        let conn = world.client();
        assert!(world.say(conn, talk.as_bytes()).contains("354"));
        assert!(world.say(conn, b"Subject: x\r\n\r\nx\r\n.\r\n").starts_with("250"));
    }
    world.refuse_dials = false;
    let mut parts = Vec::new();
    for _ in 0..5_000 {
        let before = world.shard.counters().bounces;
        world.pass(1);
        parts.push(world.shard.counters().bounces - before);
    }
    assert_eq!(parts.iter().sum::<u64>(), 500);
    assert!(parts.iter().all(|&part| part <= limits::EXPIRED_AT_ONCE_MAX as u64), "{parts:?}");
    world.pass(60_000);
    world.nothing_left();
}

/// RTL-01, RTL-02, RTL-03: a message with REQUIRETLS goes inside verified TLS to who has it, and nowhere else; its report
/// holds no body, and is as careful.
#[test]
fn requiretls_goes_to_who_has_it() {
    fn has_it(line: &str) -> String {
        accept_all(line).replace("250-PIPELINING\r\n", "250-PIPELINING\r\n250-STARTTLS\r\n250-REQUIRETLS\r\n")
    }
    fn has_it_not(line: &str) -> String {
        accept_all(line).replace("250-PIPELINING\r\n", "250-PIPELINING\r\n250-STARTTLS\r\n")
    }
    fn talk(world: &mut World) {
        let conn = world.client();
        assert!(world.say(conn, b"EHLO c.test\r\n").contains("STARTTLS"));
        world.say(conn, b"STARTTLS\r\n");
        assert!(world.say(conn, b"EHLO c.test\r\n").contains("REQUIRETLS"));
        world.say(conn, b"MAIL FROM:<from@source.test> REQUIRETLS RET=FULL\r\nRCPT TO:<to@d.test>\r\nDATA\r\n");
        assert!(world.say(conn, b"Subject: s\r\n\r\nsecret\r\n.\r\n").starts_with("250"));
    }
    let mut world = World::new(&[]);
    world.rule = has_it;
    talk(&mut world);
    assert_eq!(world.taken.len(), 1, "{:?}", world.reports);
    assert!(world.handshakes.iter().any(|role| matches!(role, TlsRole::Client { identity: Identity::Name, .. })));
    let told = world.told("MAIL");
    assert!(told.len() == 1 && told[0].ends_with(" REQUIRETLS"), "{told:?}");
    world.pass(100);
    world.nothing_left();

    let mut world = World::new(&[]);
    world.rule = has_it_not;
    talk(&mut world);
    world.pass(60_000);
    assert!(world.taken.is_empty() && world.told("MAIL").is_empty(), "the report does not go there either");
    assert_eq!(world.shard.counters().bounces, 1);
    world.pass(100);
    world.nothing_left();

    // By MX nothing proves who the mail host is.
    let host = |number: u8, tls| MailHost {
        preference: number.into(),
        name: format!("mx{number}.test").into(),
        addresses: vec![IpAddr::from([192, 0, 2, number])],
        tls,
    };
    let mut world = World::new(&["route.default=", "route.domains={\"source.test\"=\"192.0.2.8:25\"}"]);
    world.answer = Answer::Mail { hosts: vec![host(1, HostTls::Unknown)], ttl_s: 86_400, sts: None };
    world.rule = has_it;
    talk(&mut world);
    world.pass(1000);
    let reports = world.reports_sent();
    assert!(
        reports.len() == 1 && reports[0].contains("Status: 5.7.10") && !reports[0].contains("secret"),
        "{reports:?}"
    );
    let told = world.told("MAIL");
    assert!(told.len() == 1 && told[0].starts_with("MAIL FROM:<> ") && told[0].ends_with(" REQUIRETLS"), "{told:?}");

    // Unless DNS does: then it goes to that host, and passes over the one that anybody may have named.
    let mut world = World::new(&["route.default="]);
    world.rule = has_it;
    let hosts = vec![host(1, HostTls::Unknown), host(2, HostTls::Signed)];
    world.answer = Answer::Mail { hosts, ttl_s: 86_400, sts: None };
    talk(&mut world);
    assert_eq!(
        (world.taken.len(), &world.dialled[..]),
        (1, &[IpAddr::from([192, 0, 2, 2])][..]),
        "{:?}",
        world.reports
    );
    let host = "mx2.test".into();
    assert!(world.handshakes.contains(&TlsRole::Client { host, identity: Identity::Name }));
    world.pass(100);
    world.nothing_left();
}

/// EXT-09: recipients and messages as many at a time as the next hop takes.
#[test]
fn limits_of_a_next_hop_are_kept() {
    fn limited(line: &str) -> String {
        match line.split(' ').next().unwrap() {
            "EHLO" => "250-hop.test\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=2 MAILMAX=1\r\n".into(),
            _ => accept_all(line),
        }
    }
    let mut world = World::new(&["site.default.connections=1"]);
    world.rule = limited;
    let names: Vec<String> = (0..5).map(|n| format!("r{n}@d.test")).collect();
    world.send(&names.iter().map(String::as_str).collect::<Vec<_>>(), "x\r\n");
    world.pass(1000);
    let groups: Vec<usize> = world.taken.iter().map(|taken| taken.recipients.len()).collect();
    assert_eq!((groups, world.dials), (vec![2, 2, 1], 3), "{:?}", world.reports);
    world.nothing_left();
}
