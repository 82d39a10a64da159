//! Reports of delivery: multipart/report messages to the reverse-path (DSN-01..08, -11..13; RFC 3464, 6522, 6533).
//!
//! Pure; written once per failed message, so nothing here is fast. The result is in wire form: CRLF-ended lines of at
//! most 998 octets, dot-stuffed, pure ASCII whatever peers and headers contained; only the sender's own address, if it
//! needs UTF-8, is not. It goes out with a null reverse-path,
//! to which in turn nothing is ever sent: asking for a report to the null sender panics (DSN-02, FND-10).

use std::io::Write;

use crate::base::ids::MessageId;
use crate::base::limits;
use crate::base::time::UnixMs;
use crate::mail::parameters::{ORCPT_MAX_BYTES, decode_unitext, decode_xtext, push_ascii_unitext, split_orcpt};
use crate::mail::trace::write_date;
use crate::smtp::client::Phase;
use crate::smtp::reply_parser::{EnhancedCode, enhanced_code};

/// One report: all recipients of a message of which there was something to say at once (DSN-06).
pub struct Report<'a> {
    /// Our own name, a FQDN.
    pub reporting_mta: &'a str,
    /// The reverse-path of the message, without brackets; never empty.
    pub to: &'a [u8],
    /// The message.
    pub message_id: MessageId,
    /// `ENVID=` of its MAIL, in xtext (DSN-04).
    pub envid: Option<&'a [u8]>,
    /// When it was accepted.
    pub arrived: UnixMs,
    /// Now.
    pub when: UnixMs,
    /// Give the whole message back, not only its header; `original` is ASCII then (DSN-06).
    pub full: bool,
    /// The message came with SMTPUTF8: whoever sent it can read UTF-8 (DSN-12; RFC 6533).
    pub utf8: bool,
    /// Whom it is about, at least one.
    pub recipients: &'a [ReportedRecipient<'a>],
}

/// What happened to a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It will not get the message.
    Failed,
    /// It has not got it yet, and is tried until the moment given.
    Delayed {
        /// Then it is given up.
        until: UnixMs,
    },
    /// A next hop that does not report took the message (DSN-08).
    Relayed,
    /// It is a mailing list, which got the message (RFC 3461 5.2.7).
    Delivered,
    /// It stands for several addresses, to which the message goes now (RFC 3464 2.3.3).
    Expanded,
}

impl Action {
    /// All went well, and no reply is to be told.
    const fn is_good(self) -> bool {
        matches!(self, Action::Relayed | Action::Delivered | Action::Expanded)
    }
}

/// Why a recipient failed that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It was tried for too long.
    Age,
    /// Its sender gave it no more time (RFC 2852).
    DeliverBy,
}

/// One recipient of whom something is reported.
#[derive(Clone, Copy, Debug)]
pub struct ReportedRecipient<'a> {
    /// The mailbox without brackets.
    pub address: &'a [u8],
    /// `ORCPT=` of its RCPT; empty: not given (DSN-05).
    pub orcpt: &'a [u8],
    /// What happened.
    pub action: Action,
    /// The last reply's code; 0 if no peer spoke.
    pub code: u16,
    /// The last reply's text or our own words, as a verdict carries them.
    pub text: &'a [u8],
    /// Which command the reply was for.
    pub phase: Phase,
    /// The host that said so, if one did.
    pub remote: Option<&'a str>,
    /// It failed because of time, not because of the last reply.
    pub expired: Option<Expiry>,
}

/// Appends the report. `original` gives the wire form of the message from its first byte on, in any slices; unless it is to
/// be given back in full only its header is copied, and no more is taken from the iterator than that needs (DSN-06).
/// Panics without a sender to write to or a recipient to write about.
pub fn write_report(out: &mut Vec<u8>, report: &Report<'_>, original: &mut dyn Iterator<Item = &[u8]>) {
    assert!(!report.to.is_empty(), "nothing automatic goes to the null reverse-path (FND-10)");
    assert!(!report.recipients.is_empty(), "a report has something to report");
    let boundary = format!("=_{}-{:x}_", report.message_id, report.when.0);
    write_header(out, report, &boundary);
    let mut part = Vec::new();
    write_notice(&mut part, report);
    let types = PartTypes { ascii: "text/plain; charset=us-ascii", global: "text/plain; charset=utf-8" };
    write_part(out, &boundary, "Notification", types, &part);
    part.clear();
    write_status(&mut part, report);
    let types = PartTypes { ascii: "message/delivery-status", global: "message/global-delivery-status" };
    write_part(out, &boundary, "Delivery report", types, &part);
    part.clear();
    let (what, types) = if report.full {
        original.for_each(|slice| part.extend_from_slice(slice));
        ("The undelivered message", PartTypes { ascii: "message/rfc822", global: "message/global" })
    } else {
        copy_header(&mut part, original, report.utf8);
        ("Header of the message", PartTypes { ascii: "text/rfc822-headers", global: "message/global-headers" })
    };
    write_part(out, &boundary, what, types, &part);
    line(out, format_args!("\r\n--{boundary}--"));
}

/// What a part is called as it is ASCII or not.
struct PartTypes {
    ascii: &'static str,
    global: &'static str,
}

/// Appends a part given in wire form. What is not ASCII is encoded, so that any next hop takes it (DSN-12; RFC 6533 4).
fn write_part(out: &mut Vec<u8>, boundary: &str, what: &str, types: PartTypes, text: &[u8]) {
    line(out, format_args!("--{boundary}\r\nContent-Description: {what}"));
    if text.is_ascii() {
        line(out, format_args!("Content-Type: {}\r\n", types.ascii));
        out.extend_from_slice(text);
    } else {
        line(out, format_args!("Content-Type: {}\r\nContent-Transfer-Encoding: quoted-printable\r\n", types.global));
        push_quoted_printable(out, text);
    }
}

/// RFC 2045 6.7: no line is longer than 76, or begins with a dot.
fn push_quoted_printable(out: &mut Vec<u8>, wire: &[u8]) {
    for text in wire.split_inclusive(|&b| b == b'\n') {
        let (text, end) = text.strip_suffix(b"\r\n").map_or((text, &b""[..]), |text| (text, b"\r\n"));
        // The dot that was doubled for the wire.
        let text = text.strip_prefix(b".").unwrap_or(text);
        let mut column = 0;
        for (at, &byte) in text.iter().enumerate() {
            let plain = matches!(byte, b'!'..=b'<' | b'>'..=b'~') && (byte != b'.' || column > 0)
                || (byte == b' ' && at + 1 < text.len());
            let width = if plain { 1 } else { 3 };
            if column + width > 75 {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            if plain && (byte != b'.' || column > 0) {
                out.push(byte);
                column += 1;
            } else {
                write!(out, "={byte:02X}").expect("a vector takes all");
                column += 3;
            }
        }
        out.extend_from_slice(end);
    }
}

/// The report's own header (DSN-11; RFC 3834 5.2 asks for auto-replied).
fn write_header(out: &mut Vec<u8>, report: &Report<'_>, boundary: &str) {
    let mta = report.reporting_mta;
    let any = |action: fn(&Action) -> bool| report.recipients.iter().any(|recipient| action(&recipient.action));
    let subject = if any(|action| matches!(action, Action::Failed)) {
        "Undelivered mail returned to sender"
    } else if any(|action| matches!(action, Action::Delayed { .. })) {
        "Delayed mail, still being tried"
    } else if any(|action| matches!(action, Action::Relayed)) {
        "Mail was passed on"
    } else {
        "Mail was delivered"
    };
    line(out, format_args!("From: Mail Delivery System <mailer-daemon@{mta}>"));
    out.extend_from_slice(b"To: <");
    push_clean(out, report.to, report.utf8);
    out.extend_from_slice(b">\r\nSubject: ");
    line(out, format_args!("{subject}"));
    out.extend_from_slice(b"Date: ");
    write_date(out, report.when);
    line(out, format_args!("\r\nMessage-ID: <bounce.{}.{:x}@{mta}>", report.message_id, report.when.0));
    out.extend_from_slice(b"Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n");
    out.extend_from_slice(b"Content-Type: multipart/report; report-type=delivery-status;\r\n");
    line(out, format_args!("\tboundary=\"{boundary}\"\r\n"));
}

/// The part for people.
fn write_notice(out: &mut Vec<u8>, report: &Report<'_>) {
    line(out, format_args!("This is the mail system at host {}.", report.reporting_mta));
    let returned = if report.full { "It is attached." } else { "Its header is attached." };
    let failed = "Your message could not be delivered to the recipients below.";
    let delayed = "Your message is not delivered yet to the recipients below. You need do nothing; it is tried again.";
    let relayed = "Your message was passed on for the recipients below to a system that reports no delivery.";
    let delivered = "Your message was delivered to the mailing lists below.";
    let expanded = "Your message was passed on to all that the addresses below stand for.";
    for sentence in [failed, delayed, relayed, delivered, expanded] {
        let about = report.recipients.iter().filter(|recipient| {
            sentence
                == match recipient.action {
                    Action::Failed => failed,
                    Action::Delayed { .. } => delayed,
                    Action::Relayed => relayed,
                    Action::Delivered => delivered,
                    Action::Expanded => expanded,
                }
        });
        for (nth, recipient) in about.enumerate() {
            if nth == 0 {
                line(out, format_args!("\r\n{sentence} {returned}"));
            }
            notice_of(out, report, recipient);
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn notice_of(out: &mut Vec<u8>, report: &Report<'_>, recipient: &ReportedRecipient<'_>) {
    out.extend_from_slice(b"\r\n  <");
    push_clean(out, recipient.address, report.utf8);
    out.extend_from_slice(b">\r\n");
    match recipient.expired {
        Some(Expiry::Age) => {
            out.extend_from_slice(b"    given up after too long a time; the last attempt ended with\r\n");
        }
        Some(Expiry::DeliverBy) => {
            out.extend_from_slice(b"    not delivered in the time that you gave; the last attempt ended with\r\n");
        }
        None => {}
    }
    if let Some(remote) = recipient.remote.filter(|_| recipient.code != 0) {
        line(out, format_args!("    host {} said", clean_host(remote)));
    }
    if !recipient.action.is_good() {
        let mut folded = Folded::start(out, "    ");
        folded.reply(recipient);
        folded.end();
    }
}

/// The part for machines (DSN-04, DSN-05).
fn write_status(out: &mut Vec<u8>, report: &Report<'_>) {
    line(out, format_args!("Reporting-MTA: dns; {}", report.reporting_mta));
    if let Some(envid) = report.envid {
        out.extend_from_slice(b"Original-Envelope-Id: ");
        push_clean(out, &decode_xtext(envid), false);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"Arrival-Date: ");
    write_date(out, report.arrived);
    out.extend_from_slice(b"\r\n");
    for recipient in report.recipients {
        out.extend_from_slice(b"\r\n");
        if let Some((kind, address)) = split_orcpt(recipient.orcpt) {
            out.extend_from_slice(b"Original-Recipient: ");
            push_clean(out, kind, false);
            out.extend_from_slice(b"; ");
            if !kind.eq_ignore_ascii_case(b"utf-8") {
                push_clean(out, &decode_xtext(address), false);
            } else if report.utf8 {
                push_clean(out, decode_unitext(address).as_bytes(), true);
            } else {
                push_ascii_unitext(out, address);
            }
            out.extend_from_slice(b"\r\n");
        }
        let kind = if recipient.address.is_ascii() { "rfc822" } else { "utf-8" };
        write!(out, "Final-Recipient: {kind}; ").expect("a vector takes all");
        push_clean(out, recipient.address, report.utf8);
        let EnhancedCode { class, subject, detail } = status_of(recipient);
        let action = match recipient.action {
            Action::Failed => "failed",
            Action::Delayed { .. } => "delayed",
            Action::Relayed => "relayed",
            Action::Delivered => "delivered",
            Action::Expanded => "expanded",
        };
        line(out, format_args!("\r\nAction: {action}\r\nStatus: {class}.{subject}.{detail}"));
        if recipient.code != 0 {
            if let Some(remote) = recipient.remote {
                line(out, format_args!("Remote-MTA: dns; {}", clean_host(remote)));
            }
            let mut folded = Folded::start(out, "Diagnostic-Code: smtp; ");
            folded.reply(recipient);
            folded.end();
        }
        if let Action::Delayed { until } = recipient.action {
            out.extend_from_slice(b"Will-Retry-Until: ");
            write_date(out, until);
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The enhanced code of what happened: the peer's own if it fits its reply, else derived from reply and phase (DSN-13).
pub fn status_of(recipient: &ReportedRecipient<'_>) -> EnhancedCode {
    let (code, phase) = (recipient.code, recipient.phase);
    match (recipient.action, recipient.expired) {
        // To who is not known to report (RFC 3463 3.2).
        (Action::Relayed, _) => return EnhancedCode { class: 2, subject: 1, detail: 9 },
        (Action::Delivered | Action::Expanded, _) => return EnhancedCode { class: 2, subject: 1, detail: 5 },
        (_, Some(Expiry::Age)) => return EnhancedCode { class: 4, subject: 4, detail: 7 },
        (_, Some(Expiry::DeliverBy)) => return EnhancedCode { class: 5, subject: 4, detail: 7 },
        _ => {}
    }
    let delayed = matches!(recipient.action, Action::Delayed { .. });
    let class = if code == 0 { None } else { Some((code / 100) as u8) };
    if let Some((enhanced, _)) = enhanced_code(recipient.text)
        && enhanced.class != 2
        && (enhanced.class == 4 || !delayed)
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
    // Only permanent failures, expiries and delays are reported, so anything odd counts as permanent.
    EnhancedCode { class: if class == Some(4) || delayed { 4 } else { 5 }, subject, detail }
}

/// Copies the header of a message in wire form, up to its empty line or the bound, whole lines only. Stuffed dots stay,
/// octets that are not ASCII become `?` unless `utf8`, and whatever is longer than a line may be is cut off (SIZ-07, DAT-04). A line
/// that only bare line ends leave as a single dot, which wire form never has, is doubled: it must not end the report.
fn copy_header(out: &mut Vec<u8>, original: &mut dyn Iterator<Item = &[u8]>, utf8: bool) {
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
                0x80.. if utf8 => out.push(byte),
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
    fn reply(&mut self, recipient: &ReportedRecipient<'_>) {
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

/// A mailbox or the like, cleaned of what could end a line (a parsed one holds nothing of the kind).
fn push_clean(out: &mut Vec<u8>, text: &[u8], utf8: bool) {
    let kept = &text[..text.len().min(ADDRESS_KEPT_BYTES)];
    out.extend(kept.iter().map(|&b| if (b' '..=b'~').contains(&b) || (utf8 && !b.is_ascii()) { b } else { b'?' }));
}

/// Addresses are shorter, those of ORCPT too.
const ADDRESS_KEPT_BYTES: usize = ORCPT_MAX_BYTES;

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

    fn recipient<'a>(code: u16, text: &'a [u8], phase: Phase) -> ReportedRecipient<'a> {
        ReportedRecipient {
            address: b"bob@example.org",
            orcpt: b"",
            action: Action::Failed,
            code,
            text,
            phase,
            remote: Some("mx.example.org"),
            expired: None,
        }
    }

    fn bounce<'a>(recipients: &'a [ReportedRecipient<'a>]) -> Report<'a> {
        Report {
            reporting_mta: "relay.example",
            to: b"alice@example.com",
            message_id: MessageId { shard: ShardId(0), position: Position::new(3, 0x1f000) },
            arrived: UnixMs(1_700_000_000_000),
            when: UnixMs(1_700_000_100_000),
            envid: None,
            full: false,
            utf8: false,
            recipients,
        }
    }

    fn write(recipients: &[ReportedRecipient<'_>], original: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        write_report(&mut out, &bounce(recipients), &mut original.iter().copied());
        out
    }

    /// DSN-03..06, DSN-11: the whole report, letter for letter.
    #[test]
    fn the_report_reads_so() {
        let silent = ReportedRecipient {
            address: b"carol@example.net",
            expired: Some(Expiry::Age),
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
Content-Description: Header of the message
Content-Type: text/rfc822-headers

Subject: hi
..dot: ?

--=_0-3-1f000-18bcfe6eea0_--
";
        assert_eq!(String::from_utf8(report).unwrap(), expected.replace('\n', "\r\n"));
    }

    /// DSN-04..06: what DSN's parameters add, and the whole message.
    #[test]
    fn a_report_for_who_asked() {
        let failed = ReportedRecipient { orcpt: b"rfc822;Bob+40x@d", ..recipient(550, b"no", Phase::Rcpt) };
        let until = UnixMs(1_700_086_400_000);
        let text = b"5.7.1 class does not fit";
        let delayed =
            ReportedRecipient { action: Action::Delayed { until }, remote: None, ..recipient(450, text, Phase::Rcpt) };
        let relayed = ReportedRecipient { action: Action::Relayed, ..recipient(250, b"", Phase::Dot) };
        let late =
            ReportedRecipient { expired: Some(Expiry::DeliverBy), ..recipient(0, b"4.4.2 lost", Phase::Session) };
        let recipients = [failed, delayed, relayed, late];
        let mut out = Vec::new();
        let report = Report { envid: Some(b"QQ+2B1"), full: true, ..bounce(&recipients) };
        write_report(&mut out, &report, &mut [&b"Subject: hi\r\n\r\n..bo"[..], b"dy\r\n"].into_iter());
        let text = String::from_utf8(out).unwrap();
        for lines in [
            "Reporting-MTA: dns; relay.example\r\nOriginal-Envelope-Id: QQ+1\r\nArrival-Date: ",
            "\r\n\r\nOriginal-Recipient: rfc822; Bob@x@d\r\nFinal-Recipient: rfc822; bob@example.org\r\nAction: failed\r\n",
            "Action: delayed\r\nStatus: 4.2.0\r\nDiagnostic-Code: smtp; 450 5.7.1 class does not fit\r\n\
             Will-Retry-Until: Wed, 15 Nov 2023 22:13:20 +0000\r\n",
            "Action: relayed\r\nStatus: 2.1.9\r\nRemote-MTA: dns; mx.example.org\r\nDiagnostic-Code: smtp; 250\r\n",
            "Action: failed\r\nStatus: 5.4.7\r\n",
            "Content-Type: message/rfc822\r\n\r\nSubject: hi\r\n\r\n..body\r\n\r\n--=_",
            "\r\nYour message is not delivered yet to the recipients below.",
            "\r\nYour message was passed on for the recipients below",
        ] {
            assert!(text.contains(lines), "{lines}\n{text}");
        }
    }

    /// DSN-12: for mail in UTF-8 the parts are global ones, and still ASCII on the wire.
    #[test]
    fn a_report_in_utf8() {
        let address = "j\u{f6}rg@b\u{fc}cher.example".as_bytes();
        let orcpt = "utf-8;\\x{4F8B}\u{5b50}@d".as_bytes();
        let failed = ReportedRecipient { address, orcpt, remote: None, ..recipient(550, b"no", Phase::Rcpt) };
        let recipients = [failed];
        let mut out = Vec::new();
        let report = Report { utf8: true, ..bounce(&recipients) };
        write_report(&mut out, &report, &mut [&b"Subject: \xc3\xbc=\r\n..x: y \r\n\r\nbody"[..]].into_iter());
        let text = String::from_utf8(out).unwrap();
        assert!(text.is_ascii());
        for lines in [
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n",
            "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
            "\r\nOriginal-Recipient: utf-8; =E4=BE=8B=E5=AD=90@d\r\n",
            "\r\nFinal-Recipient: utf-8; j=C3=B6rg@b=C3=BCcher.example\r\n",
            "Content-Type: message/global-headers\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
             Subject: =C3=BC=3D\r\n=2Ex: y=20\r\n",
        ] {
            assert!(text.contains(lines), "{lines}\n{text}");
        }
        // Only the address of the sender itself is written as it is.
        let mut out = Vec::new();
        write_report(&mut out, &Report { to: address, ..report }, &mut std::iter::empty());
        assert!(out.windows(address.len() + 6).any(|part| part == [b"To: <", address, b">"].concat()));
        // Who knows no UTF-8 is told in ASCII.
        let mut out = Vec::new();
        write_report(&mut out, &bounce(&recipients), &mut [&b"Subject: \xc3\xbc\r\n"[..]].into_iter());
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("Original-Recipient: utf-8; \\x{4F8B}\\x{5B50}@d") && text.contains("Subject: ??"));
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
        write_report(&mut Vec::new(), &Report { to: b"", ..bounce(&recipients) }, &mut std::iter::empty());
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
            utf8 in any::<bool>(),
        ) {
            // On the wire a line never starts with a single dot.
            let header = header.iter().scan(b'\n', |last, &b| {
                let b = if *last == b'\n' && b == b'.' { b'x' } else { b };
                if b != b'\r' { *last = b; }
                Some(b)
            }).collect::<Vec<u8>>();
            let (a, b) = header.split_at(cut.index(header.len() + 1));
            let failed = ReportedRecipient { remote: Some(&remote), ..recipient(550, &text, Phase::Rcpt) };
            let mut report = Vec::new();
            let recipients = [failed];
            write_report(&mut report, &Report { utf8, ..bounce(&recipients) }, &mut [a, b].into_iter());
            prop_assert!(report.is_ascii() && report.ends_with(b"\r\n"));
            for line in report.split_inclusive(|&b| b == b'\n') {
                prop_assert!(line.ends_with(b"\r\n") && line.len() <= limits::DATA_LINE_MAX_BYTES);
                prop_assert!(!line[..line.len() - 2].contains(&b'\r') && !line.starts_with(b"."));
            }
        }
    }
}
