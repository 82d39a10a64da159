//! The two files of a day's TLS reports: what is read is written and reads the same again, documents say whose they are, and reports go nowhere
//! where DNS could not have sent them (RPT-01).

use std::collections::BTreeSet;

use ringpost::base::limits::TLS_REPORT_URIS_MAX;
use ringpost::control::reports::fuzzed::{counts, documents, owed};
use ringpost::route::reports::record::{Destination, destinations};
use serde_json::Value;

/// Any bytes are either file.
pub fn run(data: &[u8]) {
    if let Some(written) = counts(data) {
        assert_eq!(counts(written.as_bytes()).as_ref(), Some(&written));
        let whole: Value = serde_json::from_str(&written).expect("it was written");
        for (domain, document) in documents(data) {
            let report: Value = serde_json::from_str(&document).expect("it was written");
            assert_eq!(report["policies"], whole["domains"][&domain]);
        }
    }
    let Some((turns, written)) = owed(data, 0) else { return };
    for (domain, left) in &turns {
        let left = left.iter().flatten();
        assert!(left.clone().count() <= TLS_REPORT_URIS_MAX, "{domain}");
        left.for_each(named_by_dns);
    }
    let Some(written) = written else { return };
    let (again, twice) = owed(written.as_bytes(), 0).expect("it was written");
    // Some were given up.
    let (all, left): (BTreeSet<_>, BTreeSet<_>) =
        (turns.iter().map(shown).collect(), again.iter().map(shown).collect());
    assert!(left.is_subset(&all), "{left:?} of {all:?}");
    assert_eq!(twice, Some(written));
}

fn shown((domain, left): &(String, Option<Vec<Destination>>)) -> String {
    format!("{domain:?} {left:?}")
}

/// There is a record that names it.
fn named_by_dns(destination: &Destination) {
    let uri = match destination {
        Destination::Web(url) => url.to_string(),
        Destination::Mail(mailbox) => {
            let code = |b: u8| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02x}") };
            format!("mailto:{}", mailbox.bytes().map(code).collect::<String>())
        }
    };
    let found = destinations([format!("v=TLSRPTv1; rua={uri}").as_bytes()]);
    // Codes are longer than what they stand for.
    let long = uri.len() > ringpost::base::limits::TLS_REPORT_URI_MAX_BYTES;
    assert!(long || found == Some(vec![destination.clone()]), "{destination:?}");
}
