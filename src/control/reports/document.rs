//! The document of a TLS report (RPT-01; RFC 8460 4.4), and the same form for what is counted and not sent yet.
//!
//! Pure. What is written is read again as it was; what cannot be read is nothing, never a panic.

use std::io::Write as _;
use std::net::IpAddr;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use crate::mail::tls_report::About;
use crate::route::reports::ledger::{Counted, Tally};
use crate::route::reports::{Applied, Failure, PolicyKind, ResultType};

/// A domain's report.
pub(super) fn report(about: &About<'_>, organization: &str, contact: &str, counted: &[Counted]) -> String {
    let [start, end] = about.range();
    json!({
        "organization-name": organization,
        "date-range": { "start-datetime": start, "end-datetime": end },
        "contact-info": contact,
        "report-id": about.id(),
        "policies": policies(counted),
    })
    .to_string()
}

/// As gzip has it (RFC 1952).
pub(super) fn packed(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    written.expect("a vector takes all")
}

/// What was counted of a day, to be read again.
pub(super) fn day_text(day: &Tally) -> String {
    let domains: Map<String, Value> =
        day.domains().map(|(domain, counted)| (domain.to_owned(), policies(counted))).collect();
    json!({ "left-out": day.left_out(), "domains": domains }).to_string()
}

/// What [`day_text`] wrote; what is not of that form is left out.
pub(super) fn read_day(whole: &Map<String, Value>) -> Tally {
    let mut day = Tally::default();
    for (domain, policies) in whole.get("domains").and_then(Value::as_object).into_iter().flatten() {
        for counted in policies.as_array().into_iter().flatten().filter_map(read_policy) {
            day.add(domain.as_str().into(), counted);
        }
    }
    day.leave_out(whole.get("left-out").and_then(Value::as_u64).unwrap_or_default());
    day
}

fn policies(counted: &[Counted]) -> Value {
    counted.iter().map(policy).collect()
}

fn policy(counted: &Counted) -> Value {
    let Applied { kind, text, domain, hosts } = &counted.policy;
    let mut policy = Map::new();
    policy.insert("policy-type".into(), kind.name().into());
    if !text.is_empty() {
        policy.insert("policy-string".into(), text.iter().map(|line| &**line).collect());
    }
    policy.insert("policy-domain".into(), (&**domain).into());
    if !hosts.is_empty() {
        policy.insert("mx-host".into(), hosts.iter().map(|host| &**host).collect());
    }
    let mut whole = Map::new();
    whole.insert("policy".into(), policy.into());
    whole.insert(
        "summary".into(),
        json!({
            "total-successful-session-count": counted.successes,
            "total-failure-session-count": counted.failed(),
        }),
    );
    if !counted.failures.is_empty() {
        let details: Value = counted.failures.iter().map(|(failure, count)| detail(failure, *count)).collect();
        whole.insert("failure-details".into(), details);
    }
    whole.into()
}

fn detail(failure: &Failure, count: u64) -> Value {
    let Failure { result, reason, sending, host, hello, receiving } = failure;
    let mut detail = Map::new();
    detail.insert("result-type".into(), result.name().into());
    let mut add = |name: &str, text: Option<String>| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            detail.insert(name.into(), text.into());
        }
    };
    add("sending-mta-ip", sending.map(|ip| ip.to_string()));
    add("receiving-mx-hostname", Some(host.to_string()));
    add("receiving-mx-helo", Some(hello.to_string()));
    add("receiving-ip", receiving.map(|ip| ip.to_string()));
    add("failure-reason-code", Some(reason.to_string()));
    detail.insert("failed-session-count".into(), count.into());
    detail.into()
}

fn read_policy(whole: &Value) -> Option<Counted> {
    let policy = &whole["policy"];
    let texts = |name: &str| {
        let list = policy[name].as_array().into_iter().flatten();
        list.filter_map(|text| text.as_str().map(Box::from)).collect::<Vec<Box<str>>>()
    };
    let kind = policy["policy-type"].as_str()?;
    Some(Counted {
        policy: Applied {
            kind: PolicyKind::ALL.into_iter().find(|known| known.name() == kind)?,
            text: texts("policy-string"),
            domain: policy["policy-domain"].as_str()?.into(),
            hosts: texts("mx-host"),
        },
        successes: whole["summary"]["total-successful-session-count"].as_u64()?,
        failures: whole["failure-details"].as_array().into_iter().flatten().filter_map(read_detail).collect(),
    })
}

fn read_detail(detail: &Value) -> Option<(Failure, u64)> {
    let text = |name: &str| detail[name].as_str().unwrap_or_default();
    let ip = |name: &str| text(name).parse::<IpAddr>().ok();
    let failure = Failure {
        result: ResultType::ALL.into_iter().find(|known| known.name() == text("result-type"))?,
        reason: text("failure-reason-code").into(),
        sending: ip("sending-mta-ip"),
        host: text("receiving-mx-hostname").into(),
        hello: text("receiving-mx-helo").into(),
        receiving: ip("receiving-ip"),
    };
    Some((failure, detail["failed-session-count"].as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits;
    use crate::mail::date::Day;
    use crate::route::reports::Seen;
    use proptest::prelude::*;

    fn failure(result: ResultType) -> Failure {
        Failure {
            result,
            reason: "NotValidForName".into(),
            sending: Some([192, 0, 2, 1].into()),
            host: "mx1.example.net".into(),
            hello: "mail.example.net".into(),
            receiving: Some("2001:db8::25".parse().unwrap()),
        }
    }

    fn sts() -> Applied {
        Applied {
            kind: PolicyKind::Sts,
            text: ["version: STSv1", "mode: testing", "max_age: 86400", "mx: *.example.net"].map(Box::from).into(),
            domain: "example.net".into(),
            hosts: vec!["*.example.net".into()],
        }
    }

    /// RPT-01: the document as RFC 8460 4.4 and its appendix B have it.
    #[test]
    fn documents_are_written() {
        let counted = [
            Counted { policy: sts(), successes: 5326, failures: vec![(failure(ResultType::HostMismatch), 303)] },
            Counted {
                policy: Applied { kind: PolicyKind::None, text: vec![], hosts: vec![], ..sts() },
                successes: 1,
                failures: vec![],
            },
        ];
        let about =
            About { day: Day(17_000), domain: "example.net", submitter: "sender.example", relay: "mx1.sender.example" };
        let text = report(&about, "Sender \"Inc.\"", "tlsrpt@sender.example", &counted);
        let expected = r#"{
"contact-info":"tlsrpt@sender.example",
"date-range":{"end-datetime":"2016-07-18T23:59:59Z","start-datetime":"2016-07-18T00:00:00Z"},
"organization-name":"Sender \"Inc.\"",
"policies":[
{"failure-details":[{"failed-session-count":303,"failure-reason-code":"NotValidForName","receiving-ip":"2001:db8::25",
"receiving-mx-helo":"mail.example.net","receiving-mx-hostname":"mx1.example.net","result-type":"certificate-host-mismatch",
"sending-mta-ip":"192.0.2.1"}],
"policy":{"mx-host":["*.example.net"],"policy-domain":"example.net",
"policy-string":["version: STSv1","mode: testing","max_age: 86400","mx: *.example.net"],"policy-type":"sts"},
"summary":{"total-failure-session-count":303,"total-successful-session-count":5326}},
{"policy":{"policy-domain":"example.net","policy-type":"no-policy-found"},
"summary":{"total-failure-session-count":0,"total-successful-session-count":1}}],
"report-id":"2016-07-18.example.net@mx1.sender.example"}"#;
        assert_eq!(text, expected.replace('\n', ""));
        let mut unpacked = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed(&text)[..]), &mut unpacked).unwrap();
        assert_eq!(unpacked, text);
    }

    /// A report with all that fits is within its bound.
    #[test]
    fn the_largest_report_fits() {
        let mut day = Tally::default();
        let wide = |text: &str, length: usize| -> Box<str> { text.repeat(length).into() };
        for policy in 0..limits::TLS_REPORT_POLICIES_MAX {
            let lines = vec![wide("\"", limits::TLS_REPORT_POLICY_MAX_BYTES / 2 - 9); 2];
            let policy =
                Applied { text: lines.clone(), hosts: lines, domain: format!("{policy}.test").into(), ..sts() };
            for row in 0..limits::TLS_REPORT_ROWS_MAX + 9 {
                let failure = Failure {
                    reason: wide("\"", limits::TLS_REPORT_TEXT_MAX_BYTES),
                    hello: wide("\\", limits::TLS_REPORT_TEXT_MAX_BYTES),
                    host: format!("{row}{}", wide("x", 250)).into(),
                    ..failure(ResultType::ALL[row % 10])
                };
                let domain = "a.test".into();
                day.count(Seen { day: Day(1), domain, policy: policy.clone(), failure: Some(failure) });
            }
        }
        let bytes = day_text(&day).len();
        assert!(bytes <= limits::TLS_REPORT_MAX_BYTES && bytes > limits::TLS_REPORT_MAX_BYTES / 2, "{bytes}");
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        for text in ["", "[]", "{\"domains\":{\"a\":[{\"policy\":7}],\"b\":9}}", "{\"domains\":[]}"] {
            let content = serde_json::from_str(text).unwrap_or_default();
            assert!(read_day(&content).is_empty(), "{text}");
        }
    }

    proptest! {
        /// A day that was written is read as it was.
        #[test]
        fn days_are_read_again(
            all in prop::collection::vec(("[a-c]", ".{0,4}", prop::option::of((0..10usize, ".{0,9}")), any::<bool>()), 0..60),
        ) {
            let mut day = Tally::default();
            for (domain, line, failed, named) in all {
                let policy = if named { Applied { text: vec![line.as_str().into()], ..sts() } } else { Applied { hosts: vec![], ..sts() } };
                let failure = failed.map(|(result, reason)| Failure {
                    reason: reason.as_str().into(),
                    sending: named.then(|| [127, 0, 0, 1].into()),
                    ..failure(ResultType::ALL[result])
                });
                day.count(Seen { day: Day(1), domain: domain.as_str().into(), policy, failure });
            }
            day.leave_out(3);
            let again = read_day(&serde_json::from_str(&day_text(&day)).unwrap());
            prop_assert_eq!(again.left_out(), day.left_out());
            prop_assert_eq!(again.domains().collect::<Vec<_>>(), day.domains().collect::<Vec<_>>());
        }
    }
}
