//! Reports of failed delivery: multipart/report messages to the reverse-path (DSN-01..06, -11, -13; RFC 3464, 6522).
//!
//! Pure; written once per failed message, so nothing here is fast. The result is in wire form: CRLF-ended lines of at
//! most 998 octets, dot-stuffed, pure ASCII whatever peers and headers contained. It goes out with a null reverse-path,
//! to which in turn nothing is ever sent: asking for a report to the null sender panics (DSN-02, FND-10).

use std::io::Write;

use crate::base::ids::MessageId;
use crate::base::limits;
use crate::base::time::UnixMs;
use crate::mail::trace::write_date;
use crate::smtp::client::Phase;
use crate::smtp::reply_parser::{EnhancedCode, enhanced_code};

/// One report: all recipients of a message that failed together (DSN-06).
pub struct Bounce<'a> {
    /// Our own name, a FQDN.
    pub reporting_mta: &'a str,
    /// The reverse-path of the failed message, without brackets; never empty.
    pub to: &'a [u8],
    /// The failed message.
    pub message_id: MessageId,
    /// When it was accepted.
    pub arrived: UnixMs,
    /// Now.
    pub when: UnixMs,
    /// Who failed, at least one.
    pub recipients: &'a [FailedRecipient<'a>],
}

/// One recipient that will not get the message.
#[derive(Clone, Copy, Debug)]
pub struct FailedRecipient<'a> {
    /// The mailbox without brackets.
    pub address: &'a [u8],
    /// The last reply's code; 0 if no peer spoke.
    pub code: u16,
    /// The last reply's text or our own words, as a verdict carries them.
    pub text: &'a [u8],
    /// Which command the reply was for.
    pub phase: Phase,
    /// The host that said so, if one did.
    pub remote: Option<&'a str>,
    /// It failed because it was tried for too long, not because of the last reply.
    pub expired: bool,
}

/// Appends the report. `original` gives the wire form of the failed message from its first byte on, in any slices; only
/// its header is copied, and no more is taken from the iterator than that needs (RET=HDRS, DSN-06).
/// Panics without a sender to write to or a recipient to write about.
pub fn write_bounce(out: &mut Vec<u8>, bounce: &Bounce<'_>, original: &mut dyn Iterator<Item = &[u8]>) {
    assert!(!bounce.to.is_empty(), "nothing automatic goes to the null reverse-path (FND-10)");
    assert!(!bounce.recipients.is_empty(), "a report has something to report");
    let boundary = format!("=_{}-{:x}_", bounce.message_id, bounce.when.0);
    write_header(out, bounce, &boundary);
    write_notice(out, bounce, &boundary);
    write_status(out, bounce, &boundary);
    line(out, format_args!("--{boundary}"));
    out.extend_from_slice(b"Content-Description: Header of the undelivered message\r\n");
    out.extend_from_slice(b"Content-Type: text/rfc822-headers\r\n\r\n");
    copy_header(out, original);
    line(out, format_args!("\r\n--{boundary}--"));
}

/// The report's own header (DSN-11; RFC 3834 5.2 asks for auto-replied).
fn write_header(out: &mut Vec<u8>, bounce: &Bounce<'_>, boundary: &str) {
    let mta = bounce.reporting_mta;
    line(out, format_args!("From: Mail Delivery System <mailer-daemon@{mta}>"));
    out.extend_from_slice(b"To: <");
    push_clean(out, bounce.to);
    out.extend_from_slice(b">\r\nSubject: Undelivered mail returned to sender\r\nDate: ");
    write_date(out, bounce.when);
    line(out, format_args!("\r\nMessage-ID: <bounce.{}.{:x}@{mta}>", bounce.message_id, bounce.when.0));
    out.extend_from_slice(b"Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n");
    out.extend_from_slice(b"Content-Type: multipart/report; report-type=delivery-status;\r\n");
    line(out, format_args!("\tboundary=\"{boundary}\"\r\n"));
}

/// The part for people.
fn write_notice(out: &mut Vec<u8>, bounce: &Bounce<'_>, boundary: &str) {
    line(out, format_args!("--{boundary}"));
    out.extend_from_slice(b"Content-Description: Notification\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n");
    line(out, format_args!("This is the mail system at host {}.\r\n", bounce.reporting_mta));
    out.extend_from_slice(b"Your message could not be delivered to the recipients below. Its header is attached.\r\n");
    for recipient in bounce.recipients {
        out.extend_from_slice(b"\r\n  <");
        push_clean(out, recipient.address);
        out.extend_from_slice(b">\r\n");
        if recipient.expired {
            out.extend_from_slice(b"    given up after too long a time; the last attempt ended with\r\n");
        }
        if let Some(remote) = recipient.remote.filter(|_| recipient.code != 0) {
            line(out, format_args!("    host {} said", clean_host(remote)));
        }
        let mut folded = Folded::start(out, "    ");
        folded.reply(recipient);
        folded.end();
    }
    out.extend_from_slice(b"\r\n");
}

/// The part for machines (DSN-04, DSN-05).
fn write_status(out: &mut Vec<u8>, bounce: &Bounce<'_>, boundary: &str) {
    line(out, format_args!("--{boundary}"));
    out.extend_from_slice(b"Content-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n\r\n");
    line(out, format_args!("Reporting-MTA: dns; {}", bounce.reporting_mta));
    out.extend_from_slice(b"Arrival-Date: ");
    write_date(out, bounce.arrived);
    out.extend_from_slice(b"\r\n");
    for recipient in bounce.recipients {
        out.extend_from_slice(b"\r\nFinal-Recipient: rfc822; ");
        push_clean(out, recipient.address);
        let EnhancedCode { class, subject, detail } = status_of(recipient);
        line(out, format_args!("\r\nAction: failed\r\nStatus: {class}.{subject}.{detail}"));
        if recipient.code != 0 {
            if let Some(remote) = recipient.remote {
                line(out, format_args!("Remote-MTA: dns; {}", clean_host(remote)));
            }
            let mut folded = Folded::start(out, "Diagnostic-Code: smtp; ");
            folded.reply(recipient);
            folded.end();
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The enhanced code of a failure: the peer's own if it fits its reply, else derived from reply and phase (DSN-13).
pub fn status_of(recipient: &FailedRecipient<'_>) -> EnhancedCode {
    let (code, phase) = (recipient.code, recipient.phase);
    if recipient.expired {
        return EnhancedCode { class: 4, subject: 4, detail: 7 };
    }
    let class = if code == 0 { None } else { Some((code / 100) as u8) };
    if let Some((enhanced, _)) = enhanced_code(recipient.text)
        && enhanced.class != 2
        && class.is_none_or(|class| class == enhanced.class)
    {
        return enhanced;
    }
    let (subject, detail) = match (code, phase) {
        (421, _) => (3, 2),
        (450 | 452, Phase::Rcpt) => (2, 0),
        (451, _) => (3, 0),
        (452, _) => (3, 1),
        (500..=504, _) => (5, code % 100 % 5),
        (550, Phase::Rcpt) => (1, 1),
        (551, _) => (1, 6),
        (552, Phase::Rcpt) => (2, 2),
        (552, _) => (3, 4),
        (553, _) => (1, 3),
        (556, _) => (1, 10),
        (554, Phase::Dot) => (6, 0),
        _ => (0, 0),
    };
    // Only permanent failures and expiries are reported, so anything odd counts as permanent.
    EnhancedCode { class: if class == Some(4) { 4 } else { 5 }, subject, detail }
}

/// Copies the header of a message in wire form, up to its empty line or the bound, whole lines only. Stuffed dots stay,
/// octets that are not ASCII become `?`, and whatever is longer than a line may be is cut off (SIZ-07, DAT-04). A line
/// that only bare line ends leave as a single dot, which wire form never has, is doubled: it must not end the report.
fn copy_header(out: &mut Vec<u8>, original: &mut dyn Iterator<Item = &[u8]>) {
    let bound = out.len() + limits::BOUNCE_HEADER_MAX_BYTES;
    let mut line_start = out.len();
    for slice in original {
        for &byte in slice {
            match byte {
                b'\r' => {}
                b'\n' if out.len() == line_start => return,
                b'\n' => {
                    end_line(out, line_start);
                    line_start = out.len();
                }
                _ if out.len() - line_start >= LINE_TEXT_MAX_BYTES => {}
                b'\t' | b' '..=b'~' => out.push(byte),
                _ => out.push(b'?'),
            }
            if out.len() > bound {
                out.truncate(line_start);
                return;
            }
        }
    }
    if out.len() > line_start {
        end_line(out, line_start);
    }
}

fn end_line(out: &mut Vec<u8>, line_start: usize) {
    if &out[line_start..] == b"." {
        out.push(b'.');
    }
    out.extend_from_slice(b"\r\n");
}

/// Longest text of a line, without its CRLF (RFC 5322 2.1.1).
const LINE_TEXT_MAX_BYTES: usize = limits::DATA_LINE_MAX_BYTES - 2;
/// Where our own text is folded; words longer than this stand on a line of their own.
const FOLD_BYTES: usize = 76;

/// Text folded at blanks, further lines led by a tab. What it holds is bounded by a verdict's text.
struct Folded<'a> {
    out: &'a mut Vec<u8>,
    column: usize,
}

impl<'a> Folded<'a> {
    fn start(out: &'a mut Vec<u8>, lead: &str) -> Self {
        out.extend_from_slice(lead.as_bytes());
        Folded { out, column: lead.len() }
    }

    /// Code and text of a recipient's last reply.
    fn reply(&mut self, recipient: &FailedRecipient<'_>) {
        let mut first = true;
        if recipient.code != 0 {
            let code = recipient.code.to_string();
            self.word(code.as_bytes(), first);
            first = false;
        }
        for word in recipient.text.split(|b| !b.is_ascii_graphic()).filter(|word| !word.is_empty()) {
            self.word(word, first);
            first = false;
        }
    }

    fn word(&mut self, word: &[u8], first: bool) {
        if !first && self.column + 1 + word.len() > FOLD_BYTES {
            self.out.extend_from_slice(b"\r\n\t");
            self.column = 1;
        } else if !first {
            self.out.push(b' ');
            self.column += 1;
        }
        let kept = &word[..word.len().min(LINE_TEXT_MAX_BYTES / 2)];
        self.out.extend_from_slice(kept);
        self.column += kept.len();
    }

    fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// A mailbox, cleaned of what could end a line (a parsed one holds nothing of the kind).
fn push_clean(out: &mut Vec<u8>, mailbox: &[u8]) {
    let kept = &mailbox[..mailbox.len().min(limits::PATH_MAX_BYTES)];
    out.extend(kept.iter().map(|&b| if (b' '..=b'~').contains(&b) { b } else { b'?' }));
}

/// A host name as far as it is one: it came from DNS, where names may hold anything and be written four times as long.
fn clean_host(name: &str) -> &str {
    let end = name.bytes().take(limits::DOMAIN_MAX_BYTES).take_while(u8::is_ascii_graphic).count();
    &name[..end]
}

fn line(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes all");
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Position, ShardId};
    use proptest::prelude::*;

    fn recipient<'a>(code: u16, text: &'a [u8], phase: Phase) -> FailedRecipient<'a> {
        FailedRecipient {
            address: b"bob@example.org",
            code,
            text,
            phase,
            remote: Some("mx.example.org"),
            expired: false,
        }
    }

    fn bounce<'a>(recipients: &'a [FailedRecipient<'a>]) -> Bounce<'a> {
        Bounce {
            reporting_mta: "relay.example",
            to: b"alice@example.com",
            message_id: MessageId { shard: ShardId(0), position: Position::new(3, 0x1f000) },
            arrived: UnixMs(1_700_000_000_000),
            when: UnixMs(1_700_000_100_000),
            recipients,
        }
    }

    fn write(recipients: &[FailedRecipient<'_>], original: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        write_bounce(&mut out, &bounce(recipients), &mut original.iter().copied());
        out
    }

    /// DSN-03..06, DSN-11: the whole report, letter for letter.
    #[test]
    fn the_report_reads_so() {
        let silent = FailedRecipient {
            address: b"carol@example.net",
            expired: true,
            remote: None,
            ..recipient(0, b"4.4.2 connection lost", Phase::Session)
        };
        let spoken = recipient(
            550,
            b"5.1.1 no such user here, and the explanation goes on for longer than fits a line",
            Phase::Rcpt,
        );
        let report = write(&[spoken, silent], &[b"Subject: h", b"i\r\n..dot: \xe9\r\n\r", b"\nbody\r\n"]);
        let expected = "\
From: Mail Delivery System <mailer-daemon@relay.example>
To: <alice@example.com>
Subject: Undelivered mail returned to sender
Date: Tue, 14 Nov 2023 22:15:00 +0000
Message-ID: <bounce.0-3-1f000.18bcfe6eea0@relay.example>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary=\"=_0-3-1f000-18bcfe6eea0_\"

--=_0-3-1f000-18bcfe6eea0_
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host relay.example.

Your message could not be delivered to the recipients below. Its header is attached.

  <bob@example.org>
    host mx.example.org said
    550 5.1.1 no such user here, and the explanation goes on for longer than
\tfits a line

  <carol@example.net>
    given up after too long a time; the last attempt ended with
    4.4.2 connection lost

--=_0-3-1f000-18bcfe6eea0_
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; relay.example
Arrival-Date: Tue, 14 Nov 2023 22:13:20 +0000

Final-Recipient: rfc822; bob@example.org
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.org
Diagnostic-Code: smtp; 550 5.1.1 no such user here, and the explanation goes
\ton for longer than fits a line

Final-Recipient: rfc822; carol@example.net
Action: failed
Status: 4.4.7

--=_0-3-1f000-18bcfe6eea0_
Content-Description: Header of the undelivered message
Content-Type: text/rfc822-headers

Subject: hi
..dot: ?

--=_0-3-1f000-18bcfe6eea0_--
";
        assert_eq!(String::from_utf8(report).unwrap(), expected.replace('\n', "\r\n"));
    }

    /// DSN-13.
    #[test]
    fn status_is_the_peers_or_derived() {
        for (code, text, phase, status) in [
            (550, &b"5.7.26 no"[..], Phase::Dot, (5, 7, 26)),
            (550, b"4.7.1 class does not fit", Phase::Rcpt, (5, 1, 1)),
            (550, b"no", Phase::Mail, (5, 0, 0)),
            (552, b"big", Phase::Dot, (5, 3, 4)),
            (552, b"full", Phase::Rcpt, (5, 2, 2)),
            (501, b"", Phase::Mail, (5, 5, 1)),
            (504, b"", Phase::Mail, (5, 5, 4)),
            (451, b"later", Phase::Dot, (4, 3, 0)),
            (0, b"5.3.4 too large", Phase::Session, (5, 3, 4)),
            (0, b"what", Phase::Session, (5, 0, 0)),
            (556, b"", Phase::Session, (5, 1, 10)),
        ] {
            let EnhancedCode { class, subject, detail } = status_of(&recipient(code, text, phase));
            assert_eq!((class, subject, detail), status, "{code}");
        }
    }

    /// DSN-02, FND-10.
    #[test]
    #[should_panic(expected = "null reverse-path")]
    fn never_to_the_null_sender() {
        let recipients = [recipient(550, b"no", Phase::Rcpt)];
        write_bounce(&mut Vec::new(), &Bounce { to: b"", ..bounce(&recipients) }, &mut std::iter::empty());
    }

    #[test]
    fn a_long_header_is_cut_at_a_line() {
        let field = [&b"X-Long: "[..], &[b'x'; 990], b"\r\n"].concat();
        let header = field.repeat(limits::BOUNCE_HEADER_MAX_BYTES / field.len() + 5);
        let report = write(&[recipient(550, b"no", Phase::Rcpt)], &[&header]);
        assert!(report.len() < limits::BOUNCE_HEADER_MAX_BYTES + 4096);
        assert!(report.ends_with(b"x\r\n\r\n--=_0-3-1f000-18bcfe6eea0_--\r\n"));
    }

    /// DAT-04: not even a header that is no wire form ends the report early.
    #[test]
    fn a_lone_dot_in_a_header_ends_nothing() {
        for header in [&b"a: b\r\n.\r\r\nc: d\r\n"[..], b"a: b\n.\nc: d\n", b"a: b\r\n."] {
            let report = String::from_utf8(write(&[recipient(550, b"no", Phase::Rcpt)], &[header])).unwrap();
            assert!(report.contains("a: b\r\n..\r\n") && !report.contains("\r\n.\r\n"), "{report}");
        }
    }

    proptest! {
        /// SIZ-07, DAT-04, DAT-06: whatever texts and headers hold, the report is well-formed wire form.
        #[test]
        fn always_well_formed(
            text in prop::collection::vec(any::<u8>(), 0..400),
            header in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'a'), any::<u8>()], 0..3000),
            cut in any::<prop::sample::Index>(),
            remote in any::<String>(),
        ) {
            // On the wire a line never starts with a single dot.
            let header = header.iter().scan(b'\n', |last, &b| {
                let b = if *last == b'\n' && b == b'.' { b'x' } else { b };
                if b != b'\r' { *last = b; }
                Some(b)
            }).collect::<Vec<u8>>();
            let (a, b) = header.split_at(cut.index(header.len() + 1));
            let failed = FailedRecipient { remote: Some(&remote), ..recipient(550, &text, Phase::Rcpt) };
            let report = write(&[failed], &[a, b]);
            prop_assert!(report.is_ascii() && report.ends_with(b"\r\n"));
            for line in report.split_inclusive(|&b| b == b'\n') {
                prop_assert!(line.ends_with(b"\r\n") && line.len() <= limits::DATA_LINE_MAX_BYTES);
                prop_assert!(!line[..line.len() - 2].contains(&b'\r') && !line.starts_with(b"."));
            }
        }
    }
}
