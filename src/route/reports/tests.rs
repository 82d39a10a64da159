//! What sessions and answers come to in a report.

use super::*;
use crate::route::safety::Dane;

fn policy(mode: Mode, hosts: &[&str]) -> Sts {
    let policy = Policy { mode, max_age_s: 7, hosts: hosts.iter().map(|host| Box::from(*host)).collect() };
    Sts::Known { policy: Arc::new(policy), id: "1".into(), from: "fetched".into() }
}

/// RPT-01: which policy a session is told under.
#[test]
fn policies_are_what_was_applied() {
    let records: Arc<[Tlsa]> = [Tlsa { usage: 2, selector: 0, matching: 1, data: [0x0f; 32].into() }].into();
    let dane = Identity::Dane(Arc::new(Dane { base: "mx.test".into(), records, domain: None }));
    let enforce = policy(Mode::Enforce, &["mx.test"]);
    let kind = |safety: &Safety, sts: Option<&Sts>| Applied::of("a.test", safety, sts).kind;
    for (safety, sts, expected) in [
        (Safety::Always(dane.clone()), None, PolicyKind::Tlsa),
        // A host with records is judged by them alone.
        (Safety::Always(dane.clone()), Some(&enforce), PolicyKind::Tlsa),
        (Safety::Always(Identity::Name), Some(&enforce), PolicyKind::Sts),
        (Safety::Tested { named: true }, Some(&policy(Mode::Testing, &["x"])), PolicyKind::Sts),
        // By signed DNS, for REQUIRETLS.
        (Safety::Always(Identity::Name), None, PolicyKind::None),
        (Safety::IfOffered, None, PolicyKind::None),
        (Safety::IfOffered, Some(&policy(Mode::None, &[])), PolicyKind::None),
    ] {
        assert_eq!(kind(&safety, sts), expected, "{safety:?} {sts:?}");
    }
    let tlsa = Applied::of("a.test", &Safety::Always(dane), None);
    assert_eq!((&*tlsa.domain, &*tlsa.text[0]), ("mx.test", &*format!("2 0 1 {}", "0F".repeat(32))));
}

/// Names are their registry's (RFC 8460 6.6).
#[test]
fn names_are_those_of_the_registry() {
    let names = ResultType::ALL.map(ResultType::name);
    for name in [
        "starttls-not-supported",
        "certificate-host-mismatch",
        "certificate-expired",
        "certificate-not-trusted",
        "validation-failure",
        "tlsa-invalid",
        "dnssec-invalid",
        "sts-policy-fetch-error",
        "sts-policy-invalid",
        "sts-webpki-invalid",
    ] {
        assert_eq!(names.iter().filter(|known| **known == name).count(), 1, "{name}");
    }
}

/// Hosts that an answer rules out are told of, and none that a session will tell of.
#[test]
fn answers_are_told() {
    let enforce = policy(Mode::Enforce, &["good.test"]);
    let records =
        HostTls::of_records("d.test", vec![Tlsa { usage: 3, selector: 1, matching: 1, data: [1; 32].into() }]);
    let hosts = [
        ("good.test", &HostTls::Unknown),
        ("bad.test", &HostTls::Signed),
        ("failed.test", &HostTls::Failed),
        ("dane.test", &records),
        ("old.test", &HostTls::Unusable),
    ];
    let told = |sts| -> Vec<_> {
        let seen = of_answer(Day(3), "a.test", hosts, sts);
        seen.into_iter()
            .map(|seen| {
                let failure = seen.failure.unwrap();
                (seen.policy.kind.name(), failure.host.to_string(), failure.result.name())
            })
            .collect()
    };
    let dane = [("tlsa", "failed.test".into(), "dnssec-invalid"), ("tlsa", "old.test".into(), "tlsa-invalid")];
    assert_eq!(told(None), dane);
    let testing = policy(Mode::Testing, &["good.test"]);
    assert_eq!(told(Some(&testing)), dane);
    let [failed, old] = dane;
    let unnamed = |host: &str| ("sts", host.to_owned(), "validation-failure");
    assert_eq!(told(Some(&enforce)), [unnamed("bad.test"), failed, old, unnamed("old.test")]);
}

/// What others say is bounded, and breaks no line.
#[test]
fn texts_are_bounded() {
    assert_eq!(&*cut("a\r\nb\u{7f}c"), "a  b c");
    let long = "\u{e9}".repeat(limits::TLS_REPORT_TEXT_MAX_BYTES);
    assert_eq!(cut(&long).len(), limits::TLS_REPORT_TEXT_MAX_BYTES - 1);
    let hosts: Vec<String> = (0..3000).map(|n| format!("{n}.mail.test")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let whole = Applied::of("a.test", &Safety::Always(Identity::Name), Some(&policy(Mode::Enforce, &hosts)));
    for texts in [&whole.text, &whole.hosts] {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        assert!(bytes <= limits::TLS_REPORT_POLICY_MAX_BYTES && bytes > limits::TLS_REPORT_POLICY_MAX_BYTES - 50);
    }
    assert_eq!(&*whole.text[1], "mode: enforce");
}
