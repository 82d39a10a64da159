//! TLS reports over the real program: sessions that go well and ill with real hosts, by real DNS; then the day ends, and each domain is
//! told, by mail and by the web. Read by parsedmarc, the signatures by dkimpy.
//!
//! The relay's clock is moved (`common/wall_clock.rs`). Needs what `tests/setup` installs.

#![cfg(feature = "runtime")]

mod common;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::hosts::{Host, Pair, PolicyServer, certificate, certificate_for};
use common::mail::unstuffed;
use common::programs::{need, python, script, succeed};
use common::relay::{Setup, ringpost};
use common::sink::{Act, Sink};
use common::wall_clock::WallClock;
use common::zones::{Bed, Signing, Zone};
use common::{free_port, wait_until};
use serde_json::Value;

const LONGEST: Duration = Duration::from_secs(60);
/// So long nothing must come.
const SILENCE: Duration = Duration::from_secs(3);
const DAY_MS: i64 = 86_400_000;

/// Domains with a policy record of MTA-STS.
const POLICIES: [&str; 8] = ["good", "named", "old", "stranger", "gone", "unproved", "broken", "inbox"];

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Everything around the relay.
struct World {
    setup: Setup,
    clock: WallClock,
    web: PolicyServer,
    /// Proves its name, and is the host of domains with TLSA records, too.
    right: Host,
    /// Proves another name; its certificate's time is over; nobody vouches for it.
    _others: [Host; 3],
    /// Knows no TLS; gets the reports.
    clear: Sink,
    _bed: Bed,
}

impl World {
    fn new() -> World {
        let setup = Setup::bare();
        let clock = WallClock::make(setup.dir()).unwrap();
        let mut compile = Command::new(need("cc", "build-essential"));
        compile.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&clock.library).arg(WallClock::source());
        succeed(&mut compile, LONGEST);
        let (port, web_port) = (free_port(), free_port());
        let authority = certificate(setup.dir(), "authority", &[], None);
        let right = certificate(setup.dir(), "right", &["mx.right.out.test"], Some(&authority));
        let named = certificate(setup.dir(), "named", &["mx.other.out.test"], Some(&authority));
        // Two days later, when all this happens, its day is over.
        let old = certificate_for(1, setup.dir(), "old", &["mx.old.out.test"], Some(&authority));
        let stranger = certificate(setup.dir(), "stranger", &["mx.stranger.out.test"], None);
        let web_names = POLICIES.iter().filter(|domain| **domain != "unproved");
        let web_names: Vec<String> = web_names.map(|domain| format!("mta-sts.{domain}.out.test")).collect();
        let mut names: Vec<&str> = web_names.iter().map(String::as_str).collect();
        names.extend(["reports.out.test", "moved.out.test"]);
        let web = certificate(setup.dir(), "web", &names, Some(&authority));
        let (plain, signed) = (records(web_port), signed_records(port, &right));
        let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
        let signed: Vec<&str> = signed.iter().map(String::as_str).collect();
        let bed = Bed::start(
            setup.dir(),
            &[
                Zone { name: "out.test", signing: Signing::None, records: &plain, lies: &[] },
                Zone { name: "signed.test", signing: Signing::Good, records: &signed, lies: &[] },
            ],
        );
        let web = serve(&setup, web_port, &web);
        let key = setup.dir().join("dkim.pem");
        let mut genpkey = Command::new(need("openssl", "openssl"));
        genpkey.args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"]);
        succeed(genpkey.arg(&key), LONGEST);
        let setup = setup
            .set("dns.servers", bed.resolver)
            .set("route.mx_port", port)
            .set("route.sts_port", web_port)
            .set("route.allow_private", true)
            .set("tls.roots", authority.certificate.display())
            .set("site.default.tls", "published")
            .set("retry.site_longest_ms", 2000)
            .set("dkim.reports.domain", "relay.example.com")
            .set("dkim.reports.selector", "s1")
            .set("dkim.reports.key", key.display())
            .set("tls.report_organization", "Ringpost's \"test\"")
            .set("tls.report_contact", "postmaster@relay.example.com")
            .set("tls.report_from", "noreply-tlsrpt@relay.example.com")
            .set("tls.report_delay_ms", 0);
        let setup =
            clock.environment().into_iter().fold(setup, |setup, (name, path)| setup.environment(name, path.to_owned()));
        World {
            right: Host::start(setup.dir(), 91, port, &right),
            _others: [(92, &named), (93, &old), (94, &stranger)]
                .map(|(number, pair)| Host::start(setup.dir(), number, port, pair)),
            clear: Sink::at(SocketAddr::new(IpAddr::from([127, 0, 0, 95]), port), |_, _| Act::Usual),
            setup,
            clock,
            web,
            _bed: bed,
        }
    }

    /// The files of reports in the spool.
    fn files(&self) -> Vec<String> {
        let names =
            fs::read_dir(self.setup.queue()).unwrap().flatten().map(|file| file.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("tls-report-")).collect()
    }
}

fn records(web_port: u16) -> Vec<String> {
    let mut records: Vec<String> = [
        "mx.right A 127.0.0.91",
        "mx.named A 127.0.0.92",
        "mx.old A 127.0.0.93",
        "mx.stranger A 127.0.0.94",
        "mx.clear A 127.0.0.95",
        "good MX 10 mx.right",
        "named MX 10 mx.named",
        "old MX 10 mx.old",
        "stranger MX 10 mx.stranger",
        "gone MX 10 mx.clear",
        "unproved MX 10 mx.clear",
        "broken MX 10 mx.clear",
        "clear MX 10 mx.clear",
        "silent MX 10 mx.clear",
        // Its own policy would keep the reports away, if they minded.
        "inbox MX 10 mx.clear",
        "reports A 127.0.0.1",
        "moved A 127.0.0.1",
        // Nobody wants to be told of these.
        "_smtp._tls.silent TXT \"v=TLSRPTv1; rua=mailto:a@inbox.out.test\"",
        "_smtp._tls.silent TXT \"v=TLSRPTv1; rua=mailto:b@inbox.out.test\"",
    ]
    .map(str::to_owned)
    .into();
    for domain in POLICIES {
        records.push(format!("_mta-sts.{domain} TXT \"v=STSv1; id=1\""));
        records.push(format!("mta-sts.{domain} A 127.0.0.1"));
    }
    for domain in ["named", "old", "stranger", "gone", "unproved", "broken", "inbox"] {
        records.push(format!("_smtp._tls.{domain} TXT \"v=TLSRPTv1; rua=mailto:{domain}@inbox.out.test\""));
    }
    // A record in pieces, to two places; and one to a server that says it has moved.
    let url = |host: &str| format!("https://{host}.out.test:{web_port}/v1/tlsrpt");
    records.push(format!("_smtp._tls.good TXT \"v=TLSRPTv1;rua=mailto:go\" \"od@inbox.out.test, {}\"", url("reports")));
    records.push(format!("_smtp._tls.clear TXT \"v=TLSRPTv1;rua={}\"", url("moved")));
    records
}

fn signed_records(port: u16, right: &Pair) -> Vec<String> {
    vec![
        "dane MX 10 mx.dane".to_owned(),
        "mx.dane A 127.0.0.91".to_owned(),
        format!("_{port}._tcp.mx.dane TLSA 3 1 1 {}", right.key_digest()),
        "_smtp._tls.dane TXT \"v=TLSRPTv1; rua=mailto:dane@inbox.out.test\"".to_owned(),
        "mixed MX 10 mx.mixed".to_owned(),
        "mx.mixed A 127.0.0.91".to_owned(),
        format!("_{port}._tcp.mx.mixed TLSA 3 1 1 {}", "ab".repeat(32)),
        "_smtp._tls.mixed TXT \"v=TLSRPTv1; rua=mailto:mixed@inbox.out.test\"".to_owned(),
    ]
}

fn serve(setup: &Setup, port: u16, pair: &Pair) -> PolicyServer {
    let server = PolicyServer::start(setup.dir(), port, pair);
    let policy = |host: &str| format!("version: STSv1\r\nmode: enforce\r\nmx: {host}\r\nmax_age: 8640000\r\n");
    for (domain, host) in [
        ("good", "*.right.out.test\r\nmx: mx.right.out.test"),
        ("named", "mx.named.out.test"),
        ("old", "mx.old.out.test"),
        ("stranger", "mx.stranger.out.test"),
        ("inbox", "mx.right.out.test"),
    ] {
        server.answer(&format!("{domain}.out.test"), 200, "text/plain", &policy(host));
    }
    server.answer("broken.out.test", 200, "text/plain", "version: STSv1\r\nmode: perhaps\r\n");
    server.answer_posts("reports.out.test", "503");
    server.answer_posts("moved.out.test", &format!("307 https://reports.out.test:{port}/elsewhere"));
    server
}

/// What the readers say of these files.
fn read(world: &World, now_s: i64, files: &[PathBuf]) -> Vec<Value> {
    let mut arguments = vec!["dkim".to_owned()];
    arguments.extend(world.setup.arguments().into_iter().skip(1));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = ringpost(&arguments);
    assert!(output.status.success(), "{output:?}");
    let zone = String::from_utf8(output.stdout).unwrap();
    let (name, strings) = zone.trim().split_once(". IN TXT ( ").unwrap();
    let record: String = strings.split('"').skip(1).step_by(2).collect();
    let records = world.setup.dir().join("dkim-records");
    fs::write(&records, format!("{name} {}\n", record.replace("v=DKIM1;", "v=DKIM1; s=tlsrpt;"))).unwrap();
    let mut command = Command::new(python());
    command.arg(script("read_tls_reports.py")).arg(&records).arg(now_s.to_string());
    let said = succeed(command.args(files), LONGEST);
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Sessions that went well and those that failed, under a policy of a report as parsedmarc reads it.
fn counts(report: &Value, kind: &str) -> Option<(u64, u64)> {
    let policies = report["policies"].as_array().unwrap();
    let policy = policies.iter().find(|policy| policy["policy_type"] == kind)?;
    let count = |name: &str| policy[name].as_u64().unwrap();
    Some((count("successful_session_count"), count("failed_session_count")))
}

/// RPT-01.
#[test]
fn each_domain_is_told_how_tls_went() {
    let world = World::new();
    world.clock.set(2 * DAY_MS).unwrap();
    let relay = world.setup.start();
    // One session, whatever goes over it.
    for count in 1..=2 {
        relay.take_for("good.out.test");
        assert!(wait_until(LONGEST, || world.right.count() == count), "{}", relay.errors());
    }
    // What cannot be proved waits; what has no policy that can be had goes in clear.
    for (domain, host) in
        [("named.out.test", 92), ("old.out.test", 93), ("stranger.out.test", 94), ("mixed.signed.test", 91)]
    {
        relay.take_for(domain);
        let failed = format!(": session with 127.0.0.{host}:");
        assert!(wait_until(LONGEST, || relay.errors().contains(&failed)), "{domain}: {}", relay.errors());
    }
    for (domain, clear) in [("gone", 1), ("unproved", 2), ("broken", 3), ("clear", 4), ("silent", 5)] {
        relay.take_for(&format!("{domain}.out.test"));
        assert!(wait_until(LONGEST, || world.clear.mails().len() == clear), "{domain}: {}", relay.errors());
    }
    relay.take_for("dane.signed.test");
    assert!(wait_until(LONGEST, || world.right.count() == 3), "{}", relay.errors());
    // What was counted outlives the relay.
    relay.stop();
    assert_eq!(world.files().len(), 1, "{:?}", world.files());
    let relay = world.setup.start();
    relay.take_for("good.out.test");
    assert!(wait_until(LONGEST, || world.right.count() == 4), "{}", relay.errors());
    std::thread::sleep(SILENCE);
    assert_eq!((world.clear.mails().len(), world.web.posts().len()), (5, 0), "the day is not over");
    // It is now.
    let into_day_ms = (now_ms() + 2 * DAY_MS) % DAY_MS;
    let off_ms = 3 * DAY_MS - into_day_ms + 10_000;
    world.clock.set(off_ms).unwrap();
    let told = || (world.clear.mails().len() - 5, world.web.posts().len());
    assert!(wait_until(LONGEST, || told() == (9, 1)), "{:?} {}", told(), relay.errors());
    let mails = world.clear.mails().split_off(5);
    letters_are_right(&world, (now_ms() + off_ms) / 1000, &mails);
    posts_are_right(&world, (now_ms() + off_ms) / 1000);
    // Not twice, and not again after a restart; what could not be sent waits, and was not taken elsewhere.
    relay.stop();
    let relay = world.setup.start();
    std::thread::sleep(SILENCE);
    assert_eq!(told(), (9, 1), "{}", relay.errors());
    let owed = world.files().into_iter().find(|name| name.starts_with("tls-report-owed-")).expect("a report is owed");
    let owed = fs::read_to_string(world.setup.queue().join(owed)).unwrap();
    assert!(owed.contains("clear.out.test") && !owed.contains("good.out.test"), "{owed}");
    assert!(!world.web.log().contains("/elsewhere"), "{}", world.web.log());
    relay.stop();
}

fn letters_are_right(world: &World, now_s: i64, mails: &[common::sink::Mail]) {
    let write = |(number, mail): (usize, &common::sink::Mail)| {
        let path = world.setup.dir().join(format!("{number}.eml"));
        let text = if mail.chunked { mail.wire.clone() } else { unstuffed(&mail.wire) };
        fs::write(&path, text).unwrap();
        path
    };
    let files: Vec<PathBuf> = mails.iter().enumerate().map(write).collect();
    let letters = read(world, now_s, &files);
    for (mail, letter) in mails.iter().zip(&letters) {
        assert_eq!(mail.sender, "noreply-tlsrpt@relay.example.com");
        let header = |name: &str| letter["headers"][name].as_str().unwrap_or_else(|| panic!("{name}: {letter:#}"));
        let domain = header("TLS-Report-Domain");
        let name = domain.split('.').next().unwrap();
        assert_eq!(mail.recipients, [format!("{name}@inbox.out.test")]);
        assert_eq!((letter["signatures"].as_u64(), letter["held"].as_u64()), (Some(1), Some(1)), "{letter:#}");
        assert_eq!(letter["limited"], false);
        assert!(letter["signed"].as_str().unwrap().contains("tls-report-domain:tls-report-submitter"), "{letter:#}");
        assert_eq!((&letter["type"], &letter["report_type"]), (&"multipart/report".into(), &"tlsrpt".into()));
        assert_eq!(letter["parts"], serde_json::json!(["text/plain", "application/tlsrpt+gzip"]));
        assert_eq!((&letter["defects"], &letter["mail"]), (&serde_json::json!([]), &"smtp_tls".into()));
        assert_eq!((header("TLS-Required"), header("TLS-Report-Submitter")), ("No", "relay.example.com"));
        let report = &letter["document"];
        let id = report["report-id"].as_str().unwrap();
        assert_eq!(
            header("Subject"),
            format!("Report Domain: {domain} Submitter: relay.example.com Report-ID: <{id}>")
        );
        let file = letter["file"].as_str().unwrap();
        assert!(file.starts_with(&format!("relay.example.com!{domain}!")) && file.ends_with(".json.gz"), "{file}");
        assert_eq!(report["contact-info"], "postmaster@relay.example.com");
    }
    let report = |domain: &str| {
        let found = letters.iter().find(|letter| letter["headers"]["TLS-Report-Domain"] == domain);
        &found.unwrap_or_else(|| panic!("{domain} is not told"))["report"]
    };
    let good = report("good.out.test");
    assert_eq!(good["organization_name"], "Ringpost's \"test\"");
    assert_eq!(counts(good, "sts"), Some((2, 0)), "{good:#}");
    let hosts = serde_json::json!(["*.right.out.test", "mx.right.out.test"]);
    let of_good = letters.iter().find(|letter| letter["headers"]["TLS-Report-Domain"] == "good.out.test").unwrap();
    assert_eq!(of_good["document"]["policies"][0]["policy"]["mx-host"], hosts);
    assert_eq!(counts(report("dane.signed.test"), "tlsa"), Some((1, 0)));
    for (domain, kind, result, host) in [
        ("named.out.test", "sts", "certificate-host-mismatch", 92),
        ("old.out.test", "sts", "certificate-expired", 93),
        ("stranger.out.test", "sts", "certificate-not-trusted", 94),
        ("mixed.signed.test", "tlsa", "tlsa-invalid", 91),
        ("gone.out.test", "sts", "sts-policy-fetch-error", 95),
        ("unproved.out.test", "sts", "sts-webpki-invalid", 95),
        ("broken.out.test", "sts", "sts-policy-invalid", 95),
        ("gone.out.test", "no-policy-found", "starttls-not-supported", 95),
    ] {
        let report = report(domain);
        let (good, failed) = counts(report, kind).unwrap_or_else(|| panic!("{domain}: {report:#}"));
        assert!(good == 0 && failed > 0, "{domain}: {report:#}");
        let policy =
            report["policies"].as_array().unwrap().iter().find(|policy| policy["policy_type"] == kind).unwrap();
        let details = policy["failure_details"].as_array().unwrap();
        assert_eq!(details.len(), 1, "{domain}: {report:#}");
        assert_eq!(details[0]["result_type"], result, "{domain}");
        assert_eq!(details[0]["failed_session_count"], failed, "{domain}");
        assert_eq!(details[0]["receiving_ip"], format!("127.0.0.{host}"), "{domain}");
        assert_eq!(details[0]["sending_mta_ip"], "127.0.0.1", "{domain}");
        let mx = details[0]["receiving_mx_hostname"].as_str().unwrap();
        assert!(mx.starts_with("mx."), "{domain}: {mx}");
    }
}

fn posts_are_right(world: &World, now_s: i64) {
    let posts = read(world, now_s, &world.web.posts());
    assert_eq!(posts.len(), 1);
    assert_eq!(posts[0]["document"]["policies"][0]["policy"]["policy-domain"], "good.out.test");
    assert_eq!(counts(&posts[0]["report"], "sts"), Some((2, 0)));
    let log = world.web.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("reports.out.test ")).collect();
    assert_eq!(
        lines,
        ["503", "201"].map(|status| format!("reports.out.test /v1/tlsrpt {status} application/tlsrpt+gzip")),
        "tried again once"
    );
}

/// A file that something else wrote over is told, and stops nothing (RPT-01).
#[test]
fn what_cannot_be_read_is_told() {
    let setup = Setup::bare();
    fs::create_dir_all(setup.queue()).unwrap();
    let path = setup.queue().join("tls-report-counts-2026-01-02.json");
    fs::write(&path, "no report").unwrap();
    let relay = setup.start();
    let told = format!("TLS reports: {} cannot be read", path.display());
    assert!(wait_until(LONGEST, || relay.errors().contains(&told)), "{}", relay.errors());
    relay.stop();
}
