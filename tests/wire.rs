//! The relay between clients and next hops that behave as the network does: slowly, in pieces, and not to the end.

#![cfg(feature = "runtime")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::mail::{assert_identical, plain, stuffed, take_received, torture};
use common::relay::{Relay, Setup};
use common::sink::{Act, Mail, Sink};
use common::{free_address, wait_until};

const ARRIVAL_LONGEST: Duration = Duration::from_secs(20);

fn deliver(relay: &Relay, recipients: &[&str], wire: &[u8]) {
    let reply = relay.client().deliver("s@example.com", recipients, wire);
    assert!(reply.is("250 2.0.0"), "{reply:?}");
}

fn wait_for_recipients(sink: &Sink, count: usize) -> Vec<Mail> {
    let arrived = || sink.mails().iter().map(|mail| mail.recipients.len()).sum::<usize>();
    assert!(wait_until(ARRIVAL_LONGEST, || arrived() >= count), "{} of {count} recipients", arrived());
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(arrived(), count);
    sink.mails()
}

// ---- clients ----

/// PIP-02, PIP-01, DAT-15, SES-11: a whole session in single bytes, and the same in one piece, get the same replies.
#[test]
fn pieces_make_no_difference() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    let head =
        b"EHLO client.example.com\r\nMAIL FROM:<s@example.com>\r\nRCPT TO:<r@example.org>\r\nnonsense\r\nDATA\r\n";
    let body = [&plain("pieces")[..], b"..\r\n.\r\nNOOP\r\nRSET\r\n"].concat();
    let codes = [250, 250, 250, 500, 354, 250, 250, 250];
    for single in [true, false] {
        let mut client = relay.client();
        let mut said = Vec::new();
        for (part, replies) in [(&head[..], 5), (&body[..], 3)] {
            if single {
                part.iter().for_each(|byte| client.send(&[*byte]));
            } else {
                client.send(part);
            }
            said.extend((0..replies).map(|_| client.reply().code));
        }
        assert_eq!(said, codes, "single bytes: {single}");
    }
    for mail in sink.wait_for(2, ARRIVAL_LONGEST) {
        assert_identical(&mail.wire, &[&plain("pieces")[..], b"..\r\n"].concat(), "in pieces");
    }
    relay.stop();
}

/// SES-15, SES-25: what is cut off before the final dot was never sent, wherever the cut is.
#[test]
fn what_is_cut_off_was_never_sent() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    let large = [&plain("cut")[..], &b"x23456789\r\n".repeat(50_000)].concat();
    let whole = [&large[..], b".\r\n"].concat();
    for cut in [0, 10, 100, large.len() / 2, whole.len() - 3, whole.len() - 2, whole.len() - 1] {
        let mut client = relay.client();
        for command in ["EHLO c.example.com", "MAIL FROM:<s@example.com>", "RCPT TO:<r@example.org>"] {
            assert_eq!(client.say(command).code, 250);
        }
        assert_eq!(client.say("DATA").code, 354);
        client.send(&whole[..cut]);
    }
    deliver(&relay, &["r@example.org"], &plain("whole"));
    let mails = sink.wait_for(1, ARRIVAL_LONGEST);
    assert_identical(&mails[0].wire, &plain("whole"), "the whole one");
    relay.stop();
}

/// SES-23, DAT-14: who says nothing for too long, before a command or inside data, hears 421 and is gone.
#[test]
fn who_says_nothing_is_sent_away() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).set("relay.idle_ms", 300).set("relay.data_idle_ms", 300);
    let relay = setup.start();
    for inside_data in [false, true] {
        let mut client = relay.client();
        if inside_data {
            for command in ["EHLO c.example.com", "MAIL FROM:<s@example.com>", "RCPT TO:<r@example.org>"] {
                assert_eq!(client.say(command).code, 250);
            }
            assert_eq!(client.say("DATA").code, 354);
            client.send(b"Subject: never ended\r\n");
        }
        let goodbye = client.reply();
        assert!(goodbye.is("421 4.4.2"), "inside data: {inside_data}: {goodbye:?}");
        assert!(client.is_closed());
    }
    assert!(sink.mails().is_empty());
    relay.stop();
}

/// SIZ-08, DAT-10, EXT-01, EXT-02: a message of the largest size goes through as it is; one byte more is refused, and the
/// session goes on.
#[test]
fn the_largest_message_goes_through() {
    let most = 8 << 20;
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).set("relay.message_bytes", most).set("queue.memory_bytes", 1 << 20);
    let relay = setup.start();
    let line = b".a line of sixty-four octets that begins with a dot, and CRLF.\r\n";
    assert_eq!(line.len(), 64);
    let largest = line.repeat(most / line.len());
    let mut client = relay.client();
    let over = [&largest[..], b"\r\n"].concat();
    assert!(client.deliver("s@example.com", &["r@example.org"], &stuffed(&over)).is("552 5.3.4"));
    assert!(client.deliver("s@example.com", &["r@example.org"], &stuffed(&largest)).is("250 2.0.0"));
    assert!(client.say(&format!("MAIL FROM:<s@example.com> SIZE={}", most + 1)).is("552 5.3.4"));
    let mails = sink.wait_for(1, ARRIVAL_LONGEST);
    assert_identical(&mails[0].wire, &stuffed(&largest), "the largest");
    relay.stop();
}

/// BDT-01, BDT-06, BDT-10, DAT-04, DAT-06, DAT-07, DAT-09: hard messages come by BDAT or DATA, pass two relays, and leave by the
/// other or the same; from memory and read back from disk.
#[test]
fn hard_messages_pass_by_chunks() {
    for chunking in [false, true] {
        let sink = if chunking { Sink::chunking() } else { Sink::start() };
        let last_setup = Setup::to(sink.address()).set("queue.memory_bytes", 1 << 20);
        let last = last_setup.start();
        let first_setup = Setup::to(last.address());
        let first = first_setup.start();
        let mut messages = torture();
        let open = [&plain("open")[..], &b".a line\r\n..\r\n".repeat(40_000), b".no end"].concat();
        messages.push(("open end".into(), open));
        let mut client = first.client();
        for (index, (name, text)) in messages.iter().enumerate() {
            let recipient = format!("r{index}@example.org");
            let reply = client.deliver_chunks("s@example.com", &[&recipient], text, 1 + index * 7919);
            assert!(reply.is("250 2.0.0"), "{name}: {reply:?}");
        }
        for mail in sink.wait_for(messages.len(), ARRIVAL_LONGEST) {
            assert_eq!(mail.chunked, chunking);
            let index: usize = mail.recipients[0][1..].split('@').next().unwrap().parse().unwrap();
            let (name, text) = &messages[index];
            let mut expected = text.clone();
            if !chunking {
                let ended = text.is_empty() || text.ends_with(b"\r\n");
                expected = stuffed(&[&text[..], if ended { b"" } else { b"\r\n" }].concat());
            }
            let rest = mail.wire.len().checked_sub(expected.len()).map(|at| mail.wire.split_at(at));
            let (fields, body) = rest.unwrap_or_else(|| panic!("{name}: too short"));
            assert!(body == expected, "{name} came changed");
            let (_, second) = take_received(fields).unwrap_or_else(|| panic!("{name}: no trace"));
            assert!(take_received(second).is_some_and(|(_, rest)| rest.is_empty()), "{name}: two trace fields");
        }
        first.stop();
        last.stop();
    }
}

// ---- next hops ----

/// RTE-24, RTE-20: a site sees no more connections at a time than allowed, over all shards, and they are used again.
#[test]
fn a_site_is_spared() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open, peak) = (Arc::clone(&now), Arc::clone(&most));
    let sink = Sink::scripted(move |verb, _| {
        match verb {
            "CONNECT" => drop(peak.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst)),
            "QUIT" => drop(open.fetch_sub(1, Ordering::SeqCst)),
            "." => std::thread::sleep(Duration::from_millis(2)),
            _ => {}
        }
        Act::Usual
    });
    let setup = Setup::to(sink.address()).set("shards", 2).set("site.default.connections", 3);
    let relay = setup.start();
    let mut clients: Vec<_> = (0..8).map(|_| relay.client()).collect();
    for number in 0..400 {
        let client = &mut clients[number % 8];
        assert!(client.deliver("s@example.com", &["r@example.org"], &plain("spared")).is("250 2.0.0"));
    }
    sink.wait_for(400, ARRIVAL_LONGEST);
    let peak = most.load(Ordering::SeqCst);
    assert!((1..=3).contains(&peak), "{peak} connections at a time");
    assert!(sink.connections() < 100, "{} connections for 400 messages", sink.connections());
    relay.stop();
}

/// QUE-05: a dead site is tried now and then, not once for each message that waits for it.
#[test]
fn a_dead_site_is_not_hammered() {
    let sink = Sink::scripted(|verb, _| if verb == "CONNECT" { Act::Close } else { Act::Usual });
    let setup = Setup::to(sink.address()).set("shards", 2).set("retry.site_first_ms", 500).set("retry.first_ms", 50);
    let relay = setup.start();
    let mut client = relay.client();
    let begun = Instant::now();
    for _ in 0..1000 {
        assert!(client.deliver("s@example.com", &["r@example.org"], &plain("dead")).is("250 2.0.0"));
    }
    std::thread::sleep(Duration::from_millis(1000));
    // A pause is half a second less its jitter, for each shard; a permit or two may have been on its way.
    let allowed = 2 * (begun.elapsed().as_millis() / 400 + 3) as usize;
    assert!(sink.connections() <= allowed, "{} connections in {:?}", sink.connections(), begun.elapsed());
    relay.kill();
}

/// QUE-06, RTE-26: a site that answers nothing delays no other.
#[test]
fn a_silent_site_delays_no_other() {
    let silent = std::net::TcpListener::bind(common::relay::any_port()).unwrap();
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).set("route.domains.silent.example.org", silent.local_addr().unwrap());
    let relay = setup.start();
    let mut client = relay.client();
    for number in 0..200 {
        let (deaf, quick) = (format!("r{number}@silent.example.org"), format!("r{number}@example.org"));
        assert!(client.deliver("s@example.com", &[&deaf, &quick], &plain("quick")).is("250 2.0.0"));
    }
    let mails = sink.wait_for(200, ARRIVAL_LONGEST);
    assert!(mails.iter().all(|mail| mail.recipients.len() == 1), "domains are not mixed");
    relay.kill();
}

/// SIZ-10, RTE-18, SIZ-09, PIP-09: 1,000 recipients through a next hop that takes 30 at a time: each gets it once.
#[test]
fn recipients_too_many_at_once_go_in_turns() {
    let taken = Arc::new(AtomicUsize::new(0));
    let sink = Sink::scripted(move |verb, _| {
        match verb {
            "MAIL" => taken.store(0, Ordering::SeqCst),
            "RCPT" if taken.fetch_add(1, Ordering::SeqCst) >= 30 => return Act::Say("452 4.5.3 too many".into()),
            _ => {}
        }
        Act::Usual
    });
    let setup = Setup::to(sink.address()).set("site.default.connections", 1);
    let relay = setup.start();
    let addresses: Vec<String> = (0..1000).map(|number| format!("r{number}@example.org")).collect();
    let recipients: Vec<&str> = addresses.iter().map(String::as_str).collect();
    deliver(&relay, &recipients, &plain("many"));
    let mails = wait_for_recipients(&sink, 1000);
    let all: BTreeSet<String> = mails.iter().flat_map(|mail| mail.recipients.clone()).collect();
    assert_eq!(all, addresses.into_iter().collect());
    for mail in &mails {
        assert!(mail.recipients.len() <= 30);
        assert_identical(&mail.wire, &plain("many"), "in turns");
    }
    relay.stop();
}

/// PIP-08, QUE-03, RTE-14, DSN-05: of three recipients one is taken, one deferred and one refused; the second is tried
/// again alone, the third is reported.
#[test]
fn each_recipient_has_its_own_fate() {
    let tries = AtomicUsize::new(0);
    let sink = Sink::scripted(move |verb, line| match verb {
        "RCPT" if line.contains("later@") && tries.fetch_add(1, Ordering::SeqCst) == 0 => {
            Act::Say("450 4.2.1 later".into())
        }
        "RCPT" if line.contains("never@") => Act::Say("550 5.1.1 never".into()),
        _ => Act::Usual,
    });
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    deliver(&relay, &["now@example.org", "later@example.org", "never@example.org"], &plain("fates"));
    let mails = wait_for_recipients(&sink, 3);
    let of = |recipient: &str| mails.iter().find(|mail| mail.recipients == [recipient]).unwrap();
    assert_identical(&of("now@example.org").wire, &plain("fates"), "now");
    assert_identical(&of("later@example.org").wire, &plain("fates"), "later");
    let report = of("s@example.com");
    assert_eq!(report.sender, "");
    let text = String::from_utf8_lossy(&report.wire);
    assert!(text.contains("never@example.org") && !text.contains("later@example.org"), "{text}");
    relay.stop();
}

/// EXT-02, EXT-04, DSN-13: a next hop that says it takes no such message is not sent it; the sender is told why.
#[test]
fn what_a_next_hop_cannot_take_is_not_sent() {
    let narrow = Sink::scripted(|verb, _| match verb {
        "EHLO" => Act::Say("250-narrow.example.org\r\n250-PIPELINING\r\n250 SIZE 1000".into()),
        _ => Act::Usual,
    });
    let senders = Sink::start();
    let setup = Setup::to(narrow.address()).set("route.domains.example.com", senders.address());
    let relay = setup.start();
    let large = [&plain("large")[..], &b"0123456789\r\n".repeat(100)].concat();
    deliver(&relay, &["large@example.org"], &large);
    deliver(&relay, &["eight@example.org"], &[&plain("eight")[..], "Grüße\r\n".as_bytes()].concat());
    let reports = senders.wait_for(2, ARRIVAL_LONGEST);
    for (recipient, status) in [("large@example.org", "5.3.4"), ("eight@example.org", "5.6.")] {
        let found =
            reports.iter().map(|mail| String::from_utf8_lossy(&mail.wire)).find(|text| text.contains(recipient));
        assert!(found.is_some_and(|text| text.contains(&format!("Status: {status}"))), "{recipient}: not {status}");
    }
    assert!(narrow.mails().is_empty());
    relay.stop();
}

/// RTE-20: a next hop that hangs up while a connection is idle costs a connection, not a failure.
#[test]
fn hanging_up_while_idle_harms_nothing() {
    let count = 5;
    let sink = Sink::scripted(|verb, _| match verb {
        // Its reply, and the end: the connection looks idle to the relay when it goes.
        "." => Act::SayAndClose("250 2.0.0 kept, and good night".into()),
        _ => Act::Usual,
    });
    let kept = Sink::start();
    let setup = Setup::to(kept.address()).set("site.default.idle_ms", 100);
    let relay = setup.start();
    for number in 0..count {
        deliver(&relay, &["r@example.org"], &plain("idle"));
        kept.wait_for(number + 1, ARRIVAL_LONGEST);
        // Longer than an idle connection is kept: it is closed with QUIT, and the next message opens another.
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(kept.connections(), count);
    relay.stop();
    let mut setup = Setup::to(sink.address());
    for key in ["retry.first_ms", "retry.longest_ms", "retry.site_first_ms", "retry.site_longest_ms"] {
        setup = setup.set(key, 60_000);
    }
    let relay = setup.start();
    for number in 0..count {
        deliver(&relay, &["r@example.org"], &plain("idle"));
        let connected = wait_until(ARRIVAL_LONGEST, || sink.connections() == number + 1);
        assert!(connected, "message {number}: the site is held back");
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = relay.errors();
    assert!(!text.contains("deferred") && !text.contains("paused"), "{text}");
    relay.stop();
}

/// RTE-13, RTE-17, RTE-21: next hops that greet with 421, talk nonsense, or hang up, and are well the next time.
#[test]
fn a_bad_moment_is_only_a_delay() {
    let moments: [fn(&str) -> Act; 5] = [
        |verb| if verb == "CONNECT" { Act::SayAndClose("421 4.3.2 not now".into()) } else { Act::Usual },
        |verb| if verb == "CONNECT" { Act::SayAndClose("554 5.3.2 no service".into()) } else { Act::Usual },
        |verb| if verb == "EHLO" { Act::Say("this is no reply".into()) } else { Act::Usual },
        |verb| if verb == "MAIL" { Act::SayAndClose("421 4.3.2 going down".into()) } else { Act::Usual },
        |verb| if verb == "." { Act::Say("451 4.3.0 once more, please".into()) } else { Act::Usual },
    ];
    let turn = AtomicUsize::new(0);
    let sink = Sink::scripted(move |verb, _| {
        let now = turn.load(Ordering::SeqCst);
        match moments.get(now).map(|moment| moment(verb)) {
            None | Some(Act::Usual) => Act::Usual,
            Some(act) => {
                turn.fetch_add(1, Ordering::SeqCst);
                act
            }
        }
    });
    let setup = Setup::to(sink.address());
    let relay = setup.start();
    deliver(&relay, &["a@example.org", "b@example.org"], &plain("moment"));
    let mails = wait_for_recipients(&sink, 2);
    assert!(mails.iter().all(|mail| mail.sender == "s@example.com"), "nothing bounced: {mails:?}");
    relay.stop();
    // No route at all is a delay too.
    let address = free_address();
    let setup = Setup::to(address);
    let relay = setup.start();
    deliver(&relay, &["a@example.org"], &plain("late"));
    std::thread::sleep(Duration::from_millis(300));
    Sink::at(address, |_, _| Act::Usual).wait_for(1, ARRIVAL_LONGEST);
    relay.stop();
}

/// RTE-25: a next hop that bears three connections and says 421 to more, and one that limits the rate inside the session: both
/// get all their mail, by fewer connections and attempts than there are messages; a third site notices nothing.
#[test]
fn who_asks_for_less_gets_less() {
    let open = Arc::new(AtomicUsize::new(0));
    let (refused, limited) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now_open, refusals) = (Arc::clone(&open), Arc::clone(&refused));
    let crowded = Sink::scripted(move |verb, _| match verb {
        "CONNECT" if now_open.fetch_add(1, Ordering::SeqCst) >= 3 => {
            now_open.fetch_sub(1, Ordering::SeqCst);
            refusals.fetch_add(1, Ordering::SeqCst);
            Act::SayAndClose("421 4.7.0 too many connections from you".into())
        }
        "QUIT" => {
            now_open.fetch_sub(1, Ordering::SeqCst);
            Act::Usual
        }
        "." => {
            std::thread::sleep(Duration::from_millis(5));
            Act::Usual
        }
        _ => Act::Usual,
    });
    let (taken, limits) = (AtomicUsize::new(0), Arc::clone(&limited));
    let strict = Sink::scripted(move |verb, _| {
        // Every fourth message, until it has said so ten times.
        if verb == "." && taken.fetch_add(1, Ordering::SeqCst) % 4 == 3 && limits.load(Ordering::SeqCst) < 10 {
            limits.fetch_add(1, Ordering::SeqCst);
            return Act::Say("451 4.7.650 rate limited".into());
        }
        Act::Usual
    });
    let calm = Sink::start();
    let routes = format!("{{\"crowded.test\"=\"{}\",\"strict.test\"=\"{}\"}}", crowded.address(), strict.address());
    let setup = Setup::to(calm.address()).set("route.domains", routes).set("site.default.messages_per_connection", 10);
    let relay = setup.start();
    let mut client = relay.client();
    for number in 0..100 {
        for domain in ["crowded.test", "strict.test", "calm.test"] {
            let recipient = format!("r{number}@{domain}");
            assert!(client.deliver("s@example.com", &[&recipient], &plain("less")).is("250 2.0.0"));
        }
    }
    for sink in [&calm, &crowded, &strict] {
        let mails = wait_for_recipients(sink, 100);
        let recipients: BTreeSet<_> = mails.into_iter().flat_map(|mail| mail.recipients).collect();
        assert_eq!(recipients.len(), 100);
    }
    let refused = refused.load(Ordering::SeqCst);
    assert!(refused <= 60, "{refused} connections were refused");
    relay.stop();
}

/// RTE-24: connections and rate as the next hop sees them, with 1, 2 and 8 shards.
#[test]
fn limits_hold_for_any_number_of_shards() {
    const MESSAGES: usize = 400;
    const PER_SECOND: usize = 200;
    for shards in [1, 2, 8] {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (open, peak) = (Arc::clone(&now), Arc::clone(&most));
        let sink = Sink::scripted(move |verb, _| {
            match verb {
                "CONNECT" => drop(peak.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst)),
                "QUIT" => drop(open.fetch_sub(1, Ordering::SeqCst)),
                _ => {}
            }
            Act::Usual
        });
        let setup = Setup::to(sink.address())
            .set("shards", shards)
            .set("site.default.connections", 3)
            .set("site.default.messages_per_second", PER_SECOND);
        let relay = setup.start();
        let begun = Instant::now();
        let mut clients: Vec<_> = (0..3 * shards).map(|_| relay.client()).collect();
        for number in 0..MESSAGES {
            let client = &mut clients[number % (3 * shards)];
            assert!(client.deliver("s@example.com", &["r@example.org"], &plain("limited")).is("250 2.0.0"));
        }
        sink.wait_for(MESSAGES, 3 * ARRIVAL_LONGEST);
        // The rate, and a tenth of a second's worth saved up: sooner than this would be too much; later is no one's fault.
        let least = Duration::from_secs_f64((MESSAGES - PER_SECOND / 10) as f64 / PER_SECOND as f64);
        assert!(begun.elapsed() >= least, "{shards} shards: {MESSAGES} messages in {:?}", begun.elapsed());
        let peak = most.load(Ordering::SeqCst);
        assert!((1..=3).contains(&peak), "{shards} shards: {peak} connections at a time");
        relay.stop();
    }
}

/// RTE-24: what shards say to each other about a site is less than a parcel for 20 messages.
#[test]
fn shards_say_little_to_each_other() {
    const MESSAGES: usize = 2000;
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).set("shards", 2);
    let mut relay = setup.start();
    let mut clients: Vec<_> = (0..8).map(|_| relay.client()).collect();
    for number in 0..MESSAGES {
        let client = &mut clients[number % 8];
        assert!(client.deliver("s@example.com", &["r@example.org"], &plain("quiet")).is("250 2.0.0"));
    }
    sink.wait_for(MESSAGES, ARRIVAL_LONGEST);
    relay.ask_to_end();
    relay.wait();
    let errors = relay.errors();
    let parcels: Vec<usize> = errors
        .lines()
        .filter_map(|line| line.split_once(" parcels to other shards")?.0.rsplit(' ').next()?.parse().ok())
        .collect();
    assert_eq!(parcels.len(), 2, "{errors}");
    let all: usize = parcels.iter().sum();
    assert!(all * 20 < MESSAGES, "{all} parcels for {MESSAGES} messages");
}
