//! Policies as domains publish them, and how long they are kept.

use super::*;
use proptest::prelude::*;

const GOOD: &str =
    "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n";

fn policy(mode: Mode, max_age_s: u32, hosts: &[&str]) -> Policy {
    Policy { mode, max_age_s, hosts: hosts.iter().map(|host| Box::from(*host)).collect() }
}

/// STS-01, STS-02: what can be read, and what not.
#[test]
fn policies_are_read() {
    let good = policy(Mode::Enforce, 604_800, &["mail.example.com", "*.example.net"]);
    assert_eq!(Policy::parse(GOOD.as_bytes()), Ok(good));
    for (text, expected) in [
        ("version: STSv1\nmode: none\nmax_age: 0", policy(Mode::None, 0, &[])),
        (
            "max_age:9999999999\nmx:\tA.Test \nmode:testing\nversion:STSv1\n\n",
            policy(Mode::Testing, 31_557_600, &["a.test"]),
        ),
        // The first of each counts; what is not known does not.
        (
            "version: STSv1\nmode: testing\nmode: enforce\nmax_age: 1\nmax_age: 2\nversion: x\nmx: a\nMode: none\nx-y_z.1: \u{e9}",
            policy(Mode::Testing, 1, &["a"]),
        ),
    ] {
        assert_eq!(Policy::parse(text.as_bytes()), Ok(expected), "{text}");
    }
    for text in [
        "",
        "version: STSv2\nmode: none\nmax_age: 0",
        "mode: none\nmax_age: 0",
        "version: STSv1\nmode: Enforce\nmx: a\nmax_age: 1",
        "version: STSv1\nmode: enforce\nmax_age: 1",
        "version: STSv1\nmode: enforce\nmx: a",
        "version: STSv1\nmode: enforce\nmx: a\nmax_age: -1",
        "version: STSv1\nmode: enforce\nmx: a\nmax_age: 12345678901",
        "version: STSv1\nmode: enforce\nmx: a.*.b\nmax_age: 1",
        "version: STSv1\nmode: enforce\nmx: *\nmax_age: 1",
        "version: STSv1\nmode: enforce\nmx: a b\nmax_age: 1",
        "version: STSv1\nmode: enforce\nmx: a\nmax_age: 1\nno colon",
        "version : STSv1\nmode: none\nmax_age: 0",
    ] {
        assert!(Policy::parse(text.as_bytes()).is_err(), "{text}");
    }
    assert!(Policy::parse(b"version: STSv1\nmode: none\nmax_age: 0\nx: \xff").is_err());
    let many = |count| format!("version: STSv1\nmode: enforce\nmax_age: 1\n{}", "mx: a\n".repeat(count));
    assert!(Policy::parse(many(limits::STS_HOSTS_MAX).as_bytes()).is_ok());
    assert!(Policy::parse(many(limits::STS_HOSTS_MAX + 1).as_bytes()).is_err());
}

/// STS-04: an asterisk stands for one label, and only on the left.
#[test]
fn hosts_are_matched() {
    let policy = policy(Mode::Enforce, 1, &["mail.example.com", "*.example.net"]);
    for (host, named) in [
        ("mail.example.com", true),
        ("MAIL.Example.COM", true),
        ("example.com", false),
        ("a.mail.example.com", false),
        ("mail.example.com.evil.test", false),
        ("mx1.example.net", true),
        ("Mx1.Example.NET", true),
        ("a.b.example.net", false),
        ("example.net", false),
        ("xexample.net", false),
        (".example.net", false),
        ("", false),
    ] {
        assert_eq!(policy.names(host), named, "{host}");
    }
}

/// STS-01, STS-03: just one record that can be read.
#[test]
fn records_are_read() {
    let id = |records: &[&str]| record_id(records.iter().map(|record| record.as_bytes()));
    for (records, expected) in [
        (&["v=STSv1; id=20160831085700Z;"][..], Some("20160831085700Z")),
        (&["v=STSv1;id=a"], Some("a")),
        (&["v=STSv1; id=a ; "], Some("a")),
        (&["v=STSv1; x.y-z_1=any:thing; id=b"], Some("b")),
        (&["v=spf1 -all", "v=STSv1; id=a"], Some("a")),
        (&["v=STSv1; id=a; id=b"], Some("a")),
        (&[], None),
        (&["v=spf1 -all"], None),
        (&["v=STSv1; id=a", "v=STSv1; id=a"], None),
        (&["v=STSv1; id=a", "v=STSv1; nonsense"], None),
        (&["v=STSv1"], None),
        (&["v=STSv1;"], None),
        (&["v=STSv1; x=y"], None),
        (&["v=STSv1; id="], None),
        (&["v=STSv1; id=a-b"], None),
        (&["v=STSv1; id=a;; x=y"], None),
        (&["v=STSv1; id=a; x"], None),
        (&["v=STSv1; id=a; x=y=z"], None),
        (&["V=STSv1; id=a"], None),
        (&[" v=STSv1; id=a"], None),
        (&["v=STSv1; id=123456789012345678901234567890123"], None),
    ] {
        assert_eq!(id(records).as_deref(), expected, "{records:?}");
    }
    assert_eq!(record_id([&b"v=STSv1; id=a; x=\xff"[..]]), None);
}

fn one(id: &str) -> Result<Box<str>, Box<str>> {
    Ok(id.into())
}

fn trouble(why: &str) -> Trouble {
    Trouble { why: why.into(), result: Some(ResultType::StsFetchError) }
}

fn mode(sts: Option<Sts>) -> Option<Mode> {
    match sts? {
        Sts::Known { policy, .. } => Some(policy.mode),
        Sts::Absent { .. } | Sts::Unknown { .. } => None,
    }
}

/// STS-02, STS-03: what was fetched holds until its time is up, whatever becomes of record and server; another id is looked at.
#[test]
fn what_was_fetched_stays_in_force() {
    let none: Result<Box<str>, Box<str>> = Err("no record".into());
    let mut policies = Policies::default();
    assert_eq!(policies.look("a.test", &none, 0), Some(Sts::Absent { why: "no record".into() }));
    assert_eq!(policies.look("a.test", &one("1"), 0), None, "it is to be fetched");
    policies.fetched("a.test", "1", Ok(policy(Mode::Enforce, 1000, &["mx.a.test"])), 0);
    assert_eq!(mode(policies.look("a.test", &one("1"), 499)), Some(Mode::Enforce));
    assert_eq!(policies.look("a.test", &one("1"), 500), None, "half of its time is over");
    assert_eq!(policies.look("a.test", &one("2"), 1), None, "there is another");
    assert_eq!(mode(policies.look("a.test", &none, 999)), Some(Mode::Enforce));
    // It cannot be fetched: the one before holds, and is not asked for again at once.
    let sts = policies.fetched("a.test", "2", Err(trouble("404")), 10);
    assert!(matches!(&sts, Sts::Known { id, from, .. } if &**id == "1" && from.contains("404")), "{sts:?}");
    let retry_s = 10 + u64::from(limits::STS_FAILURE_S);
    assert_eq!(mode(policies.look("a.test", &one("2"), retry_s - 1)), Some(Mode::Enforce));
    assert_eq!(policies.look("a.test", &one("2"), retry_s), None);
    assert_eq!(policies.look("a.test", &one("3"), 11), None, "a third one was never asked for");
    // Its time is up.
    assert_eq!(policies.look("a.test", &none, 1000), Some(Sts::Absent { why: "no record".into() }));
    policies.fetched("a.test", "2", Err(trouble("404")), 1000);
    assert_eq!(
        policies.look("a.test", &one("2"), 1001),
        Some(Sts::Unknown { why: "404".into(), result: Some(ResultType::StsFetchError) })
    );
    // A domain takes its policy back.
    policies.fetched("a.test", "4", Ok(policy(Mode::None, 1000, &[])), 1100);
    let known = policies.look("a.test", &one("4"), 1101).unwrap();
    assert!(known.policy().is_none() && matches!(known, Sts::Known { .. }));
    // STS-04: nothing comes from the domain above, or goes to one below.
    assert!(matches!(policies.look("x.a.test", &none, 1101), Some(Sts::Absent { .. })));
    assert_eq!(policies.look("x.a.test", &one("4"), 1101), None);
}

#[test]
fn bounded_and_the_first_to_lapse_goes() {
    let mut policies = Policies::default();
    for n in 0..limits::STS_POLICIES_MAX as u32 + 1 {
        policies.fetched(&format!("d{n}.test"), "1", Ok(policy(Mode::Enforce, 1000 + n, &["a"])), 0);
        policies.fetched(&format!("f{n}.test"), "1", Err(trouble("no")), 0);
    }
    assert_eq!(policies.kept.len(), limits::STS_POLICIES_MAX);
    assert!(policies.failures.len() <= limits::STS_POLICIES_MAX);
    assert_eq!(policies.look("d0.test", &one("1"), 1), None);
    assert!(policies.look("d1.test", &one("1"), 1).is_some());
}

#[test]
fn what_is_written_down_is_read_again() {
    let mut policies = Policies::default();
    policies.fetched("a.test", "1", Ok(policy(Mode::Enforce, 1000, &["mx.a.test", "*.b.test"])), 50);
    policies.fetched("b.test", "2x", Ok(policy(Mode::None, 10, &[])), 50);
    let text = policies.text();
    let again = Policies::read(&text, 59);
    assert_eq!(again.kept, policies.kept);
    assert_eq!(Policies::read(&text, 60).kept.len(), 1, "one has lapsed");
    for bad in [
        "",
        "a",
        "a 1 50 60 enforce",
        "a 1 50 61 enforce 10 x",
        "a 1 50 49 enforce 10 x",
        "a - 50 60 enforce 10 x",
        "a 1 50 60 x 10 x",
        "a 1 50 60 enforce 10",
    ] {
        assert!(Policies::read(bad, 0).kept.is_empty(), "{bad}");
    }
    assert_eq!(Policies::read("a 1 50 60 enforce 10 x", 59).kept.len(), 1);
    assert!(Policies::read(&format!("a 1 {} {} enforce 10 x", u64::MAX, u64::MAX), 0).kept.is_empty());
}

proptest! {
    /// Nothing that a web server can have is a panic, and what is read can be written and read again.
    #[test]
    fn any_bytes_are_a_policy_or_none(text in "(version: STSv1\n|mode: (enforce|testing|none)\n|max_age: [0-9]{1,11}\n|mx: [a-c*.-]{0,6}\n|\\PC{0,8}\n){0,8}") {
        if let Ok(policy) = Policy::parse(text.as_bytes()) {
            let mut policies = Policies::default();
            policies.fetched("a.test", "1", Ok(policy), 7);
            prop_assert_eq!(Policies::read(&policies.text(), 0).kept, policies.kept);
        }
    }
}
