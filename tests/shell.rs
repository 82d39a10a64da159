//! The relay as an operator meets it: its program, its limits, its signals, its disk, its tools.

#![cfg(feature = "runtime")]

mod common;

use std::fs;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::client::Client;
use common::mail::{assert_identical, plain};
use common::programs::{is_root, need, run, shown, succeed};
use common::relay::{Relay, Setup, any_port, program, ringpost};
use common::sink::Sink;
use common::{free_address, wait_until};
use loadgen::clock::Clock;
use loadgen::ledger::Ledger;
use loadgen::send::{SendPlan, Sender};
use loadgen::sink::{Book, SinkPlan};
use serde_json::Value;

const ARRIVAL_LONGEST: Duration = Duration::from_secs(20);
const PROGRAM_LONGEST: Duration = Duration::from_secs(30);

// ---- connections ----

/// An idle connection costs nothing: 200 of them, and the relay sleeps.
#[test]
fn idle_connections_cost_no_time() {
    let setup = Setup::to(free_address()).set("shards", 2);
    let relay = setup.start();
    let mut clients: Vec<Client> = (0..200).map(|_| relay.client()).collect();
    for client in &mut clients {
        assert_eq!(client.say("EHLO idle.example.com").code, 250);
    }
    // Segments kept ready ahead are still being made just after the start.
    std::thread::sleep(Duration::from_millis(700));
    let before = relay.cpu();
    std::thread::sleep(Duration::from_secs(2));
    let used = relay.cpu() - before;
    assert!(used < Duration::from_millis(20), "{used:?} of CPU in two idle seconds");
    for client in &mut clients {
        assert_eq!(client.say("NOOP").code, 250);
    }
    drop(clients);
    relay.stop();
}

/// QUE-09: 5,000 short connections leave no descriptor and no memory behind.
#[test]
fn short_connections_leave_nothing_behind() {
    short_connections(5_000);
}

/// The same 100,000 times: `cargo test --release --test shell -- --ignored short_connections`.
#[test]
#[ignore = "takes a minute"]
fn a_hundred_thousand_short_connections_leave_nothing_behind() {
    short_connections(100_000);
}

fn short_connections(count: u32) {
    let setup = Setup::to(free_address());
    let relay = setup.start();
    let short = |number: u32| {
        let mut client = relay.client();
        // Half of them say nothing and hang up.
        if number.is_multiple_of(2) {
            assert_eq!(client.say("EHLO short.example.com").code, 250);
            assert_eq!(client.say("QUIT").code, 221);
            assert!(client.is_closed());
        }
    };
    (0..1000).for_each(short);
    std::thread::sleep(Duration::from_millis(500));
    let (descriptors, resident_bytes) = (relay.descriptors(), relay.resident_bytes());
    (0..count).for_each(short);
    let back = wait_until(Duration::from_secs(5), || relay.descriptors() <= descriptors);
    assert!(back, "{descriptors} descriptors before, {} after", relay.descriptors());
    let grown = relay.resident_bytes().saturating_sub(resident_bytes);
    assert!(grown < 8 << 20, "{grown} bytes more than before");
    relay.stop();
}

/// SES-26: over the limit a client is greeted with 421; others go on, and a place given up is free.
#[test]
fn too_many_connections_are_told_so() {
    let setup = Setup::to(free_address()).set("listen.connections", 3);
    let relay = setup.start();
    let mut clients: Vec<Client> = (0..3).map(|_| relay.client()).collect();
    let (mut fourth, greeting) = Client::connect_any(relay.address());
    assert!(greeting.is("421 4.3.2") || greeting.is("421 "), "{greeting:?}");
    assert!(fourth.is_closed());
    assert_eq!(clients[0].say("NOOP").code, 250);
    assert_eq!(clients.remove(0).say("QUIT").code, 221);
    let free = wait_until(Duration::from_secs(5), || Client::connect_any(relay.address()).1.code == 220);
    assert!(free, "the place is free again");
    assert_eq!(clients[0].say("NOOP").code, 250);
    relay.stop();
}

/// QUE-09, SES-26: where few files may be open connections are fewer, each more is told so, and mail goes on.
#[test]
fn few_open_files_leave_the_log_its_own() {
    let setup = Setup::to(free_address()).set("shards", 1);
    let relay = setup.start_within(400);
    let told = "only 400 files may be open: each shard takes 150 clients and has 150 outbound connections at most";
    assert!(relay.errors().contains(told), "{}", relay.errors());
    let mut clients: Vec<Client> = (0..150).map(|_| relay.client()).collect();
    let (mut more, greeting) = Client::connect_any(relay.address());
    assert!(greeting.is("421 4.3.2"), "{greeting:?}");
    assert!(more.is_closed());
    // The one place that gets free is asked for until it is had, and kept: mail goes through it.
    clients.truncate(149);
    let mut last = None;
    let free = wait_until(Duration::from_secs(5), || {
        let (client, greeting) = Client::connect_any(relay.address());
        last = (greeting.code == 220).then_some(client);
        last.is_some()
    });
    assert!(free, "the place is free again");
    let reply = last.unwrap().deliver("s@example.com", &["r@example.org"], &plain("kept"));
    assert!(reply.is("250 2.0.0"), "{reply:?}");
    relay.stop();
}

/// TRC-02, SES-05: over IPv6, and the trace field says so.
#[test]
fn clients_come_over_ipv6() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let sink = Sink::start();
    let port = free_address().port();
    let setup = Setup::to(sink.address()).listen(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    let relay = setup.start();
    assert!(relay.ready().contains(&format!("[::1]:{port}")), "{}", relay.ready());
    let reply = relay.client().deliver("s@example.com", &["r@example.org"], &plain("six"));
    assert!(reply.is("250 2.0.0"), "{reply:?}");
    let field = assert_identical(&sink.wait_for(1, ARRIVAL_LONGEST)[0].wire, &plain("six"), "over IPv6");
    assert!(field.contains("[IPv6:::1]"), "{field}");
    relay.stop();
}

/// SES-22, SES-16, SES-18: a client of no relaying network may not send elsewhere, by no trick; postmaster is heard.
#[test]
fn strangers_may_not_relay() {
    let sink = Sink::start();
    let setup = Setup::to(sink.address()).set("relay.networks", "10.0.0.0/8");
    let relay = setup.start();
    let mut client = relay.client();
    assert_eq!(client.say("EHLO stranger.example.com").code, 250);
    assert_eq!(client.say("MAIL FROM:<>").code, 250);
    for path in [
        "<a@example.org>",
        "<a%example.org@relay.example.com>",
        "<\"a@example.org\"@relay.example.com>",
        "<@relay.example.com:a@example.org>",
    ] {
        let reply = client.say(&format!("RCPT TO:{path}"));
        assert!(reply.is("550 5.7.1"), "{path}: {reply:?}");
    }
    let reply = client.say("DATA");
    assert!(matches!(reply.code, 503 | 554), "no recipient, no data (DAT-12): {reply:?}");
    assert_eq!(client.say("RCPT TO:<postmaster>").code, 250);
    assert!(sink.mails().is_empty());
    relay.stop();
}

// ---- starting ----

/// Wrong settings end with 2, name the key, and say what would be right.
#[test]
fn wrong_settings_are_explained() {
    let cases = [
        (&["run", "--set", "shard=2"][..], &["shard", "did you mean shards"][..]),
        (&["run", "--set", "shards=many"], &["shards", "many", "number"]),
        (&["run", "--set", "shards=100000"], &["shards", "100000", "256"]),
        (&["run", "--set", "listen.relay=nowhere"], &["listen.relay", "nowhere"]),
        (&["run", "--set", "route.default=127.0.0.1"], &["route.default", "127.0.0.1", "host:port"]),
        (&["run", "--set", "relay.networks=10.0.0.0/64"], &["relay.networks", "10.0.0.0/64"]),
        (&["run", "--set", "listen.submission=127.0.0.1:2587"], &["listen.submission", "auth.users"]),
        (&["run", "--config", "/nonexistent/ringpost.toml"], &["/nonexistent/ringpost.toml"]),
        (&["check", "--set", "queue.segment_bytes=5000000"], &["queue.segment_bytes", "4096"]),
        (&["run", "--unknown"], &["--unknown"]),
        (&["frobnicate"], &["frobnicate"]),
    ];
    for (arguments, words) in cases {
        let output = ringpost(arguments);
        let text = shown(&output.stdout, &output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}: errors are no result: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?}: no `{word}` in: {text}");
        }
    }
}

/// A taken port and a queue in use end with 1 and say which.
#[test]
fn what_is_taken_is_named() {
    let setup = Setup::to(free_address());
    let relay = setup.start();
    let mut arguments = setup.arguments();
    arguments.extend(["--set".to_owned(), format!("listen.relay={}", free_address())]);
    let output = ringpost(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let text = shown(&output.stdout, &output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&*setup.queue().to_string_lossy()), "{text}");
    let blocker = TcpListener::bind(any_port()).unwrap();
    let taken = Setup::to(free_address()).listen(blocker.local_addr().unwrap());
    let arguments = taken.arguments();
    let output = ringpost(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let text = shown(&output.stdout, &output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&taken.address().to_string()), "{text}");
    relay.stop();
}

/// Where io_uring is forbidden, as in many containers, it says so and ends, by whatever error the kernel gives.
#[test]
fn a_machine_without_io_uring_is_explained() {
    let setup = Setup::to(free_address());
    for errno in [libc::EPERM, libc::ENOSYS] {
        let mut command = Command::new(program());
        command.args(setup.arguments());
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe { command.pre_exec(move || forbid_io_uring(errno)) };
        let output = run(&mut command, PROGRAM_LONGEST);
        let text = shown(&output.stdout, &output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{}: {text}", output.status);
        assert!(text.contains("io_uring"), "{text}");
        // The remedy: the switch, or whoever filters calls, or a newer kernel.
        assert!(["seccomp", "io_uring_disabled", "kernel"].iter().any(|word| text.contains(word)), "{text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

/// Lets every later call of `io_uring_setup` fail with `errno`.
fn forbid_io_uring(errno: i32) -> std::io::Result<()> {
    let code = |code: u32| code as u16;
    let filter = [
        // The number of the call is the first word of what a filter sees.
        libc::sock_filter { code: code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), jt: 0, jf: 0, k: 0 },
        libc::sock_filter {
            code: code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
            jt: 0,
            jf: 1,
            k: libc::SYS_io_uring_setup as u32,
        },
        libc::sock_filter {
            code: code(libc::BPF_RET | libc::BPF_K),
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ERRNO | errno as u32,
        },
        libc::sock_filter { code: code(libc::BPF_RET | libc::BPF_K), jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: plain calls; the program outlives them.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

// ---- stopping ----

/// SES-24, QUE-13, QUE-01: SIGTERM under load. Clients hear 421, the exit status is 0, and with the next life everything
/// acknowledged is there, once.
#[test]
fn a_stop_under_load_loses_nothing() {
    let clock = Clock::start();
    let recipients = 2;
    let ledger = Arc::new(Ledger::new(clock.now_ns(), recipients));
    // A slow next hop, so that much is still in the queue at the end.
    let faults = loadgen::sink::faults::Faults {
        delay: Some((Duration::from_millis(1), Duration::from_millis(20))),
        ..Default::default()
    };
    let plan = SinkPlan { faults, ..SinkPlan::new(any_port()) };
    let sink = loadgen::sink::Sink::start(&plan, Book::of(Arc::clone(&ledger)), clock).unwrap();
    let setup = Setup::to(sink.addresses()[0]).set("shards", 2).set("drain_ms", 3000);
    let mut relay = setup.start();
    let load = SendPlan {
        sessions: 20,
        schedule: Some(loadgen::schedule::Schedule::constant(1000.0)),
        duration: Duration::from_secs(3),
        sizes: "1KiB:50,10KiB:50".parse().unwrap(),
        recipients,
        ..SendPlan::default()
    };
    let sender = Sender::start(&load, relay.address(), Arc::clone(&ledger), clock).unwrap();
    let mut idle = relay.client();
    assert_eq!(idle.say("EHLO idle.example.com").code, 250);
    assert!(wait_until(ARRIVAL_LONGEST, || sender.counts().acknowledged > 500));
    relay.ask_to_end();
    let goodbye = idle.reply();
    assert!(goodbye.is("421 4.3.2"), "{goodbye:?}");
    assert!(idle.is_closed());
    let status = relay.wait();
    assert!(status.success(), "{status}: {}", relay.errors());
    drop(relay);
    let relay = setup.start();
    assert!(wait_until(Duration::from_secs(30), || sender.is_done()), "the load does not end");
    let (counts, _) = sender.finish();
    assert!(wait_until(Duration::from_secs(30), || ledger.tally().lost == 0), "{:?}", ledger.tally());
    relay.stop();
    let tally = ledger.tally();
    println!("{tally:?} {counts:?}");
    assert!(tally.clean(), "{tally:?}");
    assert_eq!(tally.duplicated, 0, "a stop in order duplicates nothing: {tally:?}");
    drop(sink.stop());
}

/// SES-15, QUE-13: a stop with nothing to do is quick, and mail that cannot be delivered waits for the next life.
#[test]
fn what_cannot_be_delivered_waits_for_the_next_life() {
    let next_hop = free_address();
    let setup = Setup::to(next_hop).set("drain_ms", 500);
    let relay = setup.start();
    for number in 0..20 {
        let reply = relay.client().deliver("s@example.com", &["r@example.org"], &plain(&format!("wait-{number}")));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
    }
    relay.stop();
    let relay = setup.start();
    relay.kill();
    let sink = Sink::at(next_hop, |_, _| common::sink::Act::Usual);
    let relay = setup.start();
    let mails = sink.wait_for(20, ARRIVAL_LONGEST);
    for number in 0..20 {
        let wire = plain(&format!("wait-{number}"));
        assert!(mails.iter().any(|mail| mail.wire.ends_with(&wire)), "message {number}");
    }
    relay.stop();
}

/// QUE-01, QUE-12: with fewer shards the mail of those that are gone is taken over, with more it is found where it was.
#[test]
fn mail_survives_a_change_of_shards() {
    let next_hop = free_address();
    let mut setup = Setup::to(next_hop).set("drain_ms", 100);
    let mut sent = 0;
    for shards in [3, 1, 2] {
        setup = setup.set("shards", shards);
        let relay = setup.start();
        for _ in 0..12 {
            let reply = relay.client().deliver("s@example.com", &["r@example.org"], &plain(&format!("shard-{sent}")));
            assert!(reply.is("250 2.0.0"), "{reply:?}");
            sent += 1;
        }
        relay.kill();
    }
    let sink = Sink::at(next_hop, |_, _| common::sink::Act::Usual);
    let setup = setup.set("shards", 1);
    let relay = setup.start();
    let mails = sink.wait_for(sent, ARRIVAL_LONGEST);
    for number in 0..sent {
        let wire = plain(&format!("shard-{number}"));
        assert!(mails.iter().any(|mail| mail.wire.ends_with(&wire)), "message {number}");
    }
    relay.stop();
}

// ---- the disk ----

/// QUE-07, EXT-01: a full disk refuses new mail with 452 and keeps what there is; with room again mail is taken again,
/// by the same process.
#[test]
fn a_full_disk_refuses_until_there_is_room() {
    let Some(volume) = Volume::mount(64 << 20) else { return };
    let next_hop = free_address();
    let setup = Setup::to(next_hop)
        .set("queue.dir", volume.path().join("queue").display())
        .set("queue.segment_bytes", 4 << 20)
        .set("retry.first_ms", 100);
    let relay = setup.start();
    let body =
        [&plain("filling")[..], &b"0123456789012345678901234567890123456789012345678901234567890\r\n".repeat(4000)]
            .concat();
    assert!(relay.client().deliver("s@example.com", &["r@example.org"], &body).is("250 2.0.0"));
    let filler = volume.path().join("filler");
    fill(&filler);
    // What segments there are takes some more, then it is over: for large messages at the end of data, then for small
    // ones too, and in the end MAIL is refused at once.
    let small = plain("small");
    let mut taken = [1, 0];
    for (kind, text) in [&body, &small].into_iter().enumerate() {
        let refusal = loop {
            let reply = relay.client().deliver("s@example.com", &["r@example.org"], text);
            if !reply.is("250 2.0.0") {
                break reply;
            }
            taken[kind] += 1;
            assert!(taken[kind] < 2000, "never full");
        };
        assert!(refusal.is("452 4.3.1"), "{refusal:?} after {taken:?}");
    }
    let mut client = relay.client();
    assert_eq!(client.say("EHLO client.example.com").code, 250);
    let reply = client.say("MAIL FROM:<s@example.com> SIZE=250000");
    assert!(reply.is("452 4.3.1"), "{reply:?}");
    // Room: the same process takes mail again.
    fs::remove_file(&filler).unwrap();
    let mut again = false;
    wait_until(Duration::from_secs(15), || {
        again = relay.client().deliver("s@example.com", &["r@example.org"], &body).is("250 2.0.0");
        again
    });
    assert!(again, "no mail is taken though there is room");
    // Nothing was lost, and nothing of what was refused was kept.
    let sink = Sink::at(next_hop, |_, _| common::sink::Act::Usual);
    let [large, little] = [taken[0] + 1, taken[1]];
    let mails = sink.wait_for(large + little, ARRIVAL_LONGEST);
    for mail in &mails {
        let sent = if mail.wire.len() > body.len() { &body } else { &small };
        assert_identical(&mail.wire, sent, "after the disk was full");
    }
    assert_eq!(mails.iter().filter(|mail| mail.wire.len() > body.len()).count(), large);
    relay.stop();
}

/// QUE-07: a relay that starts with a full queue listens all the same, says so, and takes mail again when there is room.
#[test]
fn a_full_queue_is_started_again() {
    let next_hop = free_address();
    let setup = Setup::to(next_hop).set("queue.segment_bytes", 4 << 20).set("queue.segments", 4);
    let relay = setup.start();
    let body = [&plain("full")[..], &b"0123456789012345678901234567890123456789012345678901234567890\r\n".repeat(4000)]
        .concat();
    let mut taken = 0;
    let small = plain("small");
    for text in [&body, &small] {
        while relay.client().deliver("s@example.com", &["r@example.org"], text).is("250 2.0.0") {
            taken += 1;
        }
    }
    relay.kill();
    let relay = setup.start();
    let reply = relay.client().deliver("s@example.com", &["r@example.org"], &small);
    assert!(reply.is("452 4.3.1"), "{reply:?}");
    let sink = Sink::at(next_hop, |_, _| common::sink::Act::Usual);
    sink.wait_for(taken, ARRIVAL_LONGEST);
    let again = wait_until(ARRIVAL_LONGEST, || {
        relay.client().deliver("s@example.com", &["r@example.org"], &small).is("250 2.0.0")
    });
    assert!(again, "no mail is taken though there is room");
    sink.wait_for(taken + 1, ARRIVAL_LONGEST);
    relay.stop();
}

/// Takes all room there is.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let piece = vec![0; 64 << 10];
    while file.write_all(&piece).is_ok() {}
    while file.write_all(&piece[..512]).is_ok() {}
    // The error is the point.
    let _ = file.sync_all();
}

/// A small file system of its own on a loop device.
struct Volume {
    dir: tempfile::TempDir,
}

impl Volume {
    /// None, with the reason printed, where that cannot be had.
    fn mount(size_bytes: u64) -> Option<Volume> {
        if !is_root() {
            eprintln!("skipped: only root can mount a file system to fill");
            return None;
        }
        let dir = tempfile::TempDir::with_prefix("ringpost-volume-").unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("at"));
        fs::File::create(&image).unwrap().set_len(size_bytes).unwrap();
        fs::create_dir(&at).unwrap();
        // No blocks kept for root: full is full.
        succeed(
            Command::new(need("mkfs.ext4", "e2fsprogs")).args(["-q", "-F", "-m", "0"]).arg(&image),
            PROGRAM_LONGEST,
        );
        let output =
            run(Command::new(need("mount", "mount")).args(["-o", "loop"]).arg(&image).arg(&at), PROGRAM_LONGEST);
        if !output.status.success() {
            eprintln!("skipped: no loop mounts here: {}", shown(&output.stdout, &output.stderr));
            return None;
        }
        Some(Volume { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("at")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The relay's files may take a moment to be let go.
        for _ in 0..50 {
            if Command::new("umount").arg(self.path()).status().is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

// ---- tools ----

/// QUE-14 (listing), QUE-10: what is in the queue can be seen while the relay runs and when it does not, by people and
/// by programs.
#[test]
fn the_queue_can_be_looked_at() {
    let setup = Setup::to(free_address()).set("shards", 2).set("drain_ms", 100);
    let relay = setup.start();
    let mut names = Vec::new();
    for number in 0..6 {
        let recipients: &[&str] = if number == 0 { &["a@example.org", "b@example.net"] } else { &["c@example.org"] };
        let reply = relay.client().deliver("sender@example.com", recipients, &plain(&format!("look-{number}")));
        assert!(reply.is("250 2.0.0"), "{reply:?}");
        // `250 2.0.0 ... queued as ID`
        names.push(reply.text.split_ascii_whitespace().last().unwrap().to_owned());
    }
    look(&setup, &names);
    relay.stop();
    look(&setup, &names);
    let relay: Relay = setup.start();
    look(&setup, &names);
    relay.kill();
    look(&setup, &names);
    // A damaged record is found and told (QUE-10).
    damage(&setup);
    let output = ringpost(&["spool", "verify", setup.queue().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output.stdout, &output.stderr));
    let report: Value = json(&["spool", "verify", "--json", setup.queue().to_str().unwrap()], 1);
    assert_eq!(report["sound"], false, "{report}");
    // It starts all the same, and says so.
    let relay = setup.start();
    assert!(relay.client().deliver("s@example.com", &["c@example.org"], &plain("after")).is("250 2.0.0"));
    relay.stop();
    let missing = setup.dir().join("missing");
    for arguments in [&["queue", "ls", "--dir"][..], &["queue", "stats", "--dir"], &["spool", "verify"]] {
        let output = ringpost(&[arguments, &[missing.to_str().unwrap()]].concat());
        let text = shown(&output.stdout, &output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains("missing"), "{arguments:?}: {text}");
    }
}

fn look(setup: &Setup, names: &[String]) {
    let queue = setup.queue();
    let queue = queue.to_str().unwrap();
    let text = text(&["queue", "ls", "--dir", queue]);
    let list: Value = json(&["queue", "ls", "--json", "--dir", queue], 0);
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), names.len(), "{list:?}");
    for name in names {
        assert!(text.contains(&**name), "{name} is not in {text}");
        let item = list.iter().find(|item| item["id"] == **name).unwrap_or_else(|| panic!("{name} is not in {list:?}"));
        assert_eq!(item["sender"], "sender@example.com");
    }
    let first = list.iter().find(|item| item["id"] == *names[0]).unwrap();
    let mut addresses: Vec<&str> =
        first["recipients"].as_array().unwrap().iter().filter_map(|recipient| recipient["address"].as_str()).collect();
    // They are kept by domain.
    addresses.sort_unstable();
    assert_eq!(addresses, ["a@example.org", "b@example.net"]);
    let shown = self::text(&["queue", "show", &names[0], "--dir", queue]);
    assert!(shown.contains("Subject: look-0") && shown.contains("a@example.org"), "{shown}");
    let shown: Value = json(&["queue", "show", &names[0], "--json", "--dir", queue], 0);
    assert_eq!(shown["message"]["id"], *names[0]);
    assert!(shown["text"].as_str().unwrap().ends_with("Hello.\r\n"), "{shown}");
    let report: Value = json(&["queue", "stats", "--json", "--dir", queue], 0);
    let sum = |field: &str| {
        report["shards"].as_array().unwrap().iter().map(|shard| shard[field].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((sum("messages"), sum("recipients")), (6, 7), "{report}");
    let report: Value = json(&["spool", "verify", "--json", queue], 0);
    assert_eq!(report["sound"], true, "{report}");
    assert!(self::text(&["spool", "verify", queue]).contains("sound"));
    for wrong in ["f-f-f", "nonsense"] {
        let output = ringpost(&["queue", "show", wrong, "--dir", queue]);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{wrong}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(wrong), "{output:?}");
    }
}

fn text(arguments: &[&str]) -> String {
    let output = ringpost(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", shown(&output.stdout, &output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str], code: i32) -> Value {
    let output = ringpost(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", shown(&output.stdout, &output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

/// Flips a bit in the text of the first message, in every copy of it on disk.
fn damage(setup: &Setup) {
    let subject = b"Subject: look-0";
    let mut copies = 0;
    for shard in fs::read_dir(setup.queue()).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        for segment in fs::read_dir(shard.path()).unwrap().flatten() {
            let mut bytes = fs::read(segment.path()).unwrap();
            let found: Vec<usize> = memchr::memmem::find_iter(&bytes, subject).collect();
            for at in &found {
                bytes[*at] ^= 1;
            }
            copies += found.len();
            fs::write(segment.path(), bytes).unwrap();
        }
    }
    assert!(copies > 0, "the message is in no segment");
}
