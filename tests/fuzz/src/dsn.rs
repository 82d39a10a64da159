//! Reports: whatever peers, addresses and headers hold, the report is ASCII in wire form, of the same parts, and ends where
//! it should (DSN-03..06, SIZ-07, DAT-04, DAT-06).

use ringpost::base::ids::{MessageId, Position, ShardId};
use ringpost::base::limits;
use ringpost::base::time::UnixMs;
use ringpost::mail::dsn::{Action, Expiry, Report, ReportedRecipient, write_report};
use ringpost::smtp::client::Phase;

const BOUNDARY: &str = "=_2-3-1f000-18bcfe6eea0_";

/// Lines of the input are, in this order: sender, code and phase, recipient, reply text, remote host, and perhaps
/// another recipient's; behind an empty line comes the failed message.
pub fn run(data: &[u8]) {
    let (head, original) = match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &b""[..]),
    };
    if String::from_utf8_lossy(original).contains(BOUNDARY) {
        // Whoever knows the moment of the failure beforehand may write it; nobody does.
        return;
    }
    let lines_of_original: Vec<&[u8]> = original.split(|&b| b == b'\n').take(1).collect();
    let mut lines = head.split(|&b| b == b'\n');
    let to = lines.next().filter(|to| !to.is_empty()).unwrap_or(b"a@b");
    let rest: Vec<&[u8]> = lines.collect();
    let fields: Vec<_> =
        rest.chunks(4).map(|four| (four, String::from_utf8_lossy(four.get(3).copied().unwrap_or_default()))).collect();
    let mut recipients: Vec<_> = fields.iter().map(|(four, remote)| recipient(four, remote)).collect();
    if recipients.is_empty() {
        recipients.push(recipient(&[], ""));
    }
    let bounce = Report {
        reporting_mta: "relay.example",
        to,
        message_id: MessageId { shard: ShardId(2), position: Position::new(3, 0x1f000) },
        arrived: UnixMs(1_700_000_000_000),
        when: UnixMs(1_700_000_100_000),
        envid: lines_of_original.first().copied().filter(|envid| !envid.is_empty()),
        full: false,
        utf8: false,
        recipients: &recipients,
    };
    let mut out = Vec::new();
    write_report(&mut out, &bounce, &mut [original].into_iter());
    let mut split = Vec::new();
    write_report(&mut split, &bounce, &mut super::pieces(original).into_iter());
    assert_eq!(out, split);
    check(&out, recipients.len());
}

fn recipient<'a>(four: &[&'a [u8]], remote: &'a str) -> ReportedRecipient<'a> {
    let field = |index: usize| four.get(index).copied().unwrap_or_default();
    let phase = match field(0).last() {
        Some(b's') => Phase::Session,
        Some(b'm') => Phase::Mail,
        Some(b'd') => Phase::Data,
        Some(b'.') => Phase::Dot,
        _ => Phase::Rcpt,
    };
    let code = field(0).get(..3).and_then(|code| str::from_utf8(code).ok()?.parse().ok());
    ReportedRecipient {
        address: field(1),
        orcpt: if field(0).contains(&b'o') { field(2) } else { b"" },
        action: match field(0).first() {
            Some(b'r') => Action::Relayed,
            Some(b'd') => Action::Delayed { until: UnixMs(1_700_086_400_000) },
            _ => Action::Failed,
        },
        code: code.filter(|code| (200..600).contains(code)).unwrap_or(0),
        text: &field(2)[..field(2).len().min(limits::VERDICT_TEXT_MAX_BYTES)],
        phase,
        remote: Some(remote).filter(|remote| !remote.is_empty()),
        expired: (field(0).first() == Some(&b'x')).then_some(Expiry::Age),
    }
}

fn check(out: &[u8], recipients: usize) {
    assert!(out.iter().all(|b| matches!(b, b'\t' | b'\r' | b'\n' | b' '..=b'~')), "plain ASCII");
    let text = str::from_utf8(out).expect("ASCII");
    let text = text.strip_suffix("\r\n").expect("it ends a line");
    let mut statuses = 0;
    for line in text.split("\r\n") {
        assert!(!line.contains(['\r', '\n']), "bare line end in {line:?}");
        assert!(line.len() <= 998 && line != ".", "{line:?}");
    }
    let parts: Vec<&str> = text.split(&format!("\r\n--{BOUNDARY}")).collect();
    assert_eq!(parts.len(), 5, "header, three parts and an end");
    assert_eq!(parts[4], "--");
    for line in parts[2].split("\r\n").filter(|line| line.starts_with("Status: ")) {
        assert!(matches!(&line[8..9], "2" | "4" | "5"));
        statuses += 1;
    }
    assert_eq!(statuses, recipients);
    assert_eq!(parts[2].matches("\r\nFinal-Recipient: ").count(), recipients);
    assert_eq!(parts[0].matches("\r\n\r\n").count(), 0, "one header");
    assert!(
        !parts[3].trim_start_matches("\r\n").contains("\r\n\r\n\r\n")
            && parts[3].len() < limits::BOUNCE_HEADER_MAX_BYTES + 4096
    );
}
