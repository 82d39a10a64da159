//! The `Received` field that a relay puts on top of every message, and the count of those already there.
//!
//! One field per message, folded, bounded by `limits::TRACE_MAX_BYTES`, in CRLF; no line of it starts with a dot,
//! so it is its own wire form (TRC-01..TRC-05; RFC 5321 4.4). Whatever a client says is cleaned before it is
//! written: only characters that can neither end a line nor open a comment pass (TRC-05). Pure.

use std::io::Write;
use std::net::IpAddr;

use memchr::memchr;

use crate::base::ids::MessageId;
use crate::base::limits::{DOMAIN_MAX_BYTES, PATH_MAX_BYTES, TRACE_MAX_BYTES};
use crate::base::time::UnixMs;

/// The protocol as the session was, for the WITH clause (TRC-04; RFC 3848).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// The client said HELO, or nothing yet.
    #[default]
    Smtp,
    /// The client said EHLO.
    Esmtp,
    /// The client said EHLO inside TLS.
    Esmtps,
    /// No SMTP at all: a POST (FND-09; RFC 5321 3.7.2).
    Http,
    /// The client said EHLO and AUTH.
    Esmtpa,
    /// The client said EHLO and AUTH inside TLS.
    Esmtpsa,
}

impl Protocol {
    /// The registered keyword; `utf8` if the message came with SMTPUTF8 (RFC 3848, RFC 6531 4.3).
    pub const fn keyword(self, utf8: bool) -> &'static str {
        match (self, utf8) {
            (Protocol::Smtp, _) => "SMTP",
            (Protocol::Http, _) => "HTTP",
            (Protocol::Esmtp, false) => "ESMTP",
            (Protocol::Esmtps, false) => "ESMTPS",
            (Protocol::Esmtpa, false) => "ESMTPA",
            (Protocol::Esmtpsa, false) => "ESMTPSA",
            (Protocol::Esmtp, true) => "UTF8SMTP",
            (Protocol::Esmtps, true) => "UTF8SMTPS",
            (Protocol::Esmtpa, true) => "UTF8SMTPA",
            (Protocol::Esmtpsa, true) => "UTF8SMTPSA",
        }
    }

    /// The same with AUTH.
    #[must_use]
    pub const fn authenticated(self) -> Protocol {
        match self {
            Protocol::Smtp | Protocol::Http => self,
            Protocol::Esmtp | Protocol::Esmtpa => Protocol::Esmtpa,
            Protocol::Esmtps | Protocol::Esmtpsa => Protocol::Esmtpsa,
        }
    }
}

/// What the field tells.
#[derive(Clone, Copy, Debug)]
pub struct TraceFacts<'a> {
    /// The name the client gave in EHLO or HELO.
    pub hello: &'a [u8],
    /// The client's address.
    pub peer: IpAddr,
    /// Our own name.
    pub hostname: &'a str,
    /// How it came.
    pub protocol: Protocol,
    /// It came with SMTPUTF8: its addresses may be written in UTF-8.
    pub utf8: bool,
    /// What MT-PRIORITY said (RFC 6710 4).
    pub priority: Option<i8>,
    /// The cipher suite by its registered name, if it came inside TLS (RFC 8314 4.3).
    pub cipher: Option<&'static str>,
    /// The message's name in our queue.
    pub id: MessageId,
    /// The recipient, if there is only one (TRC-03).
    pub for_recipient: Option<&'a [u8]>,
    /// When it came.
    pub when: UnixMs,
}

/// Appends the `Received` field, at most `limits::TRACE_MAX_BYTES` long.
pub fn write_received(out: &mut Vec<u8>, facts: &TraceFacts<'_>) {
    let start = out.len();
    out.extend_from_slice(b"Received: from ");
    push_clean(out, facts.hello, DOMAIN_MAX_BYTES, is_host_byte);
    match facts.peer.to_canonical() {
        IpAddr::V4(address) => push(out, format_args!(" ([{address}])")),
        IpAddr::V6(address) => push(out, format_args!(" ([IPv6:{address}])")),
    }
    out.extend_from_slice(b"\r\n\tby ");
    push_clean(out, facts.hostname.as_bytes(), DOMAIN_MAX_BYTES, is_host_byte);
    push(out, format_args!(" (Ringpost) with {}", facts.protocol.keyword(facts.utf8)));
    if let Some(cipher) = facts.cipher {
        push(out, format_args!(" tls {cipher}"));
    }
    push(out, format_args!("\r\n\tid {}", facts.id));
    if let Some(priority) = facts.priority {
        push(out, format_args!(" priority {priority}"));
    }
    if let Some(recipient) = facts.for_recipient {
        out.extend_from_slice(b"\r\n\tfor <");
        push_clean(out, recipient, PATH_MAX_BYTES, |b| (b' '..=b'~').contains(&b) || (facts.utf8 && !b.is_ascii()));
        out.push(b'>');
    }
    out.extend_from_slice(b";\r\n\t");
    write_date(out, facts.when);
    out.extend_from_slice(b"\r\n");
    assert!(out.len() - start <= TRACE_MAX_BYTES, "a trace field of {} bytes", out.len() - start);
}

/// The client of which a prefix with a `Received` field of [`write_received`] speaks; `None` if there is none.
pub fn client_of(prefix: &[u8]) -> Option<IpAddr> {
    let mut lines = prefix.split(|byte| *byte == b'\n');
    let line = std::str::from_utf8(lines.find_map(|line| line.strip_prefix(b"Received: from "))?).ok()?;
    let (_, behind) = line.split_once(" ([")?;
    let address = behind.split_once("])")?.0;
    address.strip_prefix("IPv6:").unwrap_or(address).parse().ok()
}

/// Appends the date and time as RFC 5322 3.3 writes it, in UTC: `Tue, 24 Nov 2026 01:22:08 +0000`.
pub fn write_date(out: &mut Vec<u8>, when: UnixMs) {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = when.0 / 1000;
    let days = seconds / 86_400;
    let (year, month, day) = civil_date(days);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let month = MONTHS[month - 1];
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    push(out, format_args!("{weekday}, {day} {month} {year:04} {hour:02}:{minute:02}:{second:02} +0000"));
}

/// Year, month 1..=12 and day 1..=31 of a day counted from 1970-01-01.
///
/// Years are counted from 1 March, so that the leap day is the last of the year; 146 097 days make 400 years.
pub(super) fn civil_date(days: u64) -> (u64, usize, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month as usize, day)
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes everything");
}

/// Appends at most `bytes_max` of `text`, with `?` for what is not allowed; `unknown` if there is nothing.
fn push_clean(out: &mut Vec<u8>, text: &[u8], bytes_max: usize, allowed: impl Fn(u8) -> bool) {
    if text.is_empty() {
        out.extend_from_slice(b"unknown");
    }
    out.extend(text.iter().take(bytes_max).map(|&b| if allowed(b) { b } else { b'?' }));
}

/// What a host name or an address literal is written with.
fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'[' | b']')
}

/// What a submitted message lacks (BLK-07; RFC 6409 8.1, 8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fixes {
    /// It has no Date.
    pub date: bool,
    /// It has no Message-ID.
    pub message_id: bool,
}

/// Appends the fields that are missing, named and dated like the trace field.
pub fn write_fixes(out: &mut Vec<u8>, fixes: Fixes, facts: &TraceFacts<'_>) {
    if fixes.date {
        out.extend_from_slice(b"Date: ");
        write_date(out, facts.when);
        out.extend_from_slice(b"\r\n");
    }
    if fixes.message_id {
        // The name of the message is used again in another spool; the moment is not.
        push(out, format_args!("Message-ID: <{}.{}@", facts.when.0, facts.id));
        push_clean(out, facts.hostname.as_bytes(), DOMAIN_MAX_BYTES, is_host_byte);
        out.extend_from_slice(b">\r\n");
    }
}

/// What a header says to whoever passes the message on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderSays {
    /// It holds octets over 127, where they were looked for (EXT-06).
    pub utf8: bool,
    /// `TLS-Required: No`: better delivered in clear than not at all (RTL-04; RFC 8689 3).
    pub tls_optional: bool,
}

/// Looks for fields in the header of a message that comes in pieces: counts `Received` (TRC-06; RFC 5321 6.3) and, of a
/// submitted one, the fields that it must have (BLK-07); sees `TLS-Required: No`.
///
/// Sees the wire form, or the plain one; ends at the first empty line, after which it costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderScan {
    /// Of each name, in the order of `NAMES`.
    seen: [u32; NAMES.len()],
    place: Place,
    plain: bool,
    /// Names that are looked for, and those of them that the current line may still begin with, a bit each.
    wanted: u8,
    alive: u8,
    /// It is looked for octets over 127.
    watching: bool,
    eight_bit: bool,
}

/// Where in the header the last piece ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// At a line's start.
    #[default]
    LineStart,
    /// So many bytes of field names matched since the line's start, or since the doubled dot there.
    Name(usize),
    /// The line began with CR: an LF makes it the empty line.
    EmptyLineCr,
    /// Inside a line that counts no more.
    Rest,
    /// Behind the empty line.
    Body,
}

/// `TLS-Required` has one value, which stands in one line; it is looked for with its end.
const NAMES: [&[u8]; 6] =
    [b"received:", b"from:", b"date:", b"message-id:", b"tls-required: no\r", b"tls-required:no\r"];
const RECEIVED: usize = 0;
const FROM: usize = 1;
const DATE: usize = 2;
const MESSAGE_ID: usize = 3;
const TLS_OPTIONAL: usize = 4;
/// Names that are looked for in every message.
const ALWAYS: u8 = 1 << RECEIVED | 0b11 << TLS_OPTIONAL;

impl HeaderScan {
    /// Of a text that comes in plain form, where a dot at a line's start is part of the line, or in wire form; what else it must
    /// have counts only if the message is submitted.
    pub fn new(plain: bool, submission: bool) -> HeaderScan {
        let wanted = if submission { (1 << NAMES.len()) - 1 } else { ALWAYS };
        HeaderScan { plain, wanted, ..HeaderScan::default() }
    }

    /// Looks for octets over 127 too, if `watching` (EXT-06).
    pub fn watching(self, watching: bool) -> HeaderScan {
        HeaderScan { watching, ..self }
    }

    /// What it says.
    pub fn says(&self) -> HeaderSays {
        let tls_optional = self.seen[TLS_OPTIONAL..].iter().any(|&seen| seen > 0);
        HeaderSays { utf8: self.eight_bit, tls_optional }
    }

    /// Looks at the next piece of the message.
    pub fn feed(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some(&byte) = rest.first() {
            let place = self.place;
            match place {
                Place::Body => return,
                Place::LineStart if byte == b'\r' => self.place = Place::EmptyLineCr,
                // On the wire a dot here is not part of the line, whoever doubled it and why (DAT-05).
                Place::LineStart if byte == b'.' && !self.plain => {
                    self.alive = self.wanted;
                    self.place = Place::Name(0);
                }
                Place::LineStart if self.matches(self.wanted, 0, byte) => {}
                Place::EmptyLineCr if byte == b'\n' => self.place = Place::Body,
                Place::Name(matched) if self.matches(self.alive, matched, byte) => {}
                Place::LineStart | Place::Name(_) | Place::EmptyLineCr | Place::Rest => {
                    let newline = memchr(b'\n', rest);
                    let line = &rest[..newline.unwrap_or(rest.len())];
                    self.eight_bit |= self.watching && !line.is_ascii();
                    let Some(newline) = newline else {
                        self.place = Place::Rest;
                        return;
                    };
                    rest = &rest[newline..];
                    self.place = Place::LineStart;
                }
            }
            rest = &rest[1..];
        }
    }

    /// One more byte of a name: false if none of `names` goes on so. Counts the name that is whole with it.
    fn matches(&mut self, names: u8, matched: usize, byte: u8) -> bool {
        let byte = byte.to_ascii_lowercase();
        self.alive = 0;
        self.place = Place::Name(matched + 1);
        for (number, name) in NAMES.iter().enumerate() {
            if names & (1 << number) != 0 && name.get(matched) == Some(&byte) {
                self.alive |= 1 << number;
                if name.len() == matched + 1 {
                    self.seen[number] = self.seen[number].saturating_add(1);
                    self.place = Place::Rest;
                }
            }
        }
        self.alive != 0
    }

    /// How many `Received` were seen.
    pub fn received_fields(&self) -> u32 {
        self.seen[RECEIVED]
    }

    /// How many `From` were seen.
    pub fn from_fields(&self) -> u32 {
        self.seen[FROM]
    }

    /// What is missing, of those seen so far.
    pub fn fixes(&self) -> Fixes {
        Fixes { date: self.seen[DATE] == 0, message_id: self.seen[MESSAGE_ID] == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Position, ShardId};
    use proptest::prelude::*;

    fn field(facts: &TraceFacts<'_>) -> String {
        let mut out = Vec::new();
        write_received(&mut out, facts);
        String::from_utf8(out).unwrap()
    }

    fn facts() -> TraceFacts<'static> {
        TraceFacts {
            hello: b"client.example",
            peer: "192.0.2.1".parse().unwrap(),
            hostname: "relay.example",
            protocol: Protocol::Esmtp,
            utf8: false,
            priority: None,
            cipher: None,
            id: MessageId { shard: ShardId(0), position: Position::new(3, 0x1f000) },
            for_recipient: Some(b"u@d.example"),
            when: UnixMs(1_795_483_328_000),
        }
    }

    /// Whoever the client was and whatever it called itself: the field tells its address again.
    #[test]
    fn the_client_is_read_back() {
        for peer in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            for hello in [&b"client.example"[..], b"", b"[192.0.2.9]", b"([10.0.0.1])", b"x ([10.0.0.1])\r\n"] {
                let peer: IpAddr = peer.parse().unwrap();
                let text = field(&TraceFacts { hello, peer, ..facts() });
                assert_eq!(client_of(text.as_bytes()), Some(peer.to_canonical()), "{text}");
                assert_eq!(client_of(format!("Date: x\r\n{text}").as_bytes()), Some(peer.to_canonical()));
            }
        }
        for none in [&b""[..], b"Received: from x", b"Received: from x ([no])\r\n", b"X: Received: from x ([::1])"] {
            assert_eq!(client_of(none), None);
        }
    }

    #[test]
    fn the_field_names_all_it_should() {
        // TRC-02, TRC-03, TRC-04
        assert_eq!(
            field(&facts()),
            "Received: from client.example ([192.0.2.1])\r\n\tby relay.example (Ringpost) with ESMTP\r\n\t\
             id 0-3-1f000\r\n\tfor <u@d.example>;\r\n\tTue, 24 Nov 2026 01:22:08 +0000\r\n"
        );
        let mut several = facts();
        several.for_recipient = None;
        several.protocol = Protocol::Smtp;
        several.peer = "2001:db8::1".parse().unwrap();
        assert_eq!(
            field(&several),
            "Received: from client.example ([IPv6:2001:db8::1])\r\n\tby relay.example (Ringpost) with SMTP\r\n\t\
             id 0-3-1f000;\r\n\tTue, 24 Nov 2026 01:22:08 +0000\r\n"
        );
    }

    #[test]
    fn the_field_tells_of_smtputf8_and_priority() {
        // TRC-04, EXT-05, EXT-11
        let mut utf8 = facts();
        (utf8.utf8, utf8.priority, utf8.protocol) = (true, Some(-4), Protocol::Esmtps);
        utf8.for_recipient = Some("j\u{f6}rg@d.example".as_bytes());
        let text = field(&utf8);
        assert!(
            text.contains(" with UTF8SMTPS\r\n\tid 0-3-1f000 priority -4\r\n\tfor <j\u{f6}rg@d.example>;"),
            "{text}"
        );
        assert_eq!(Protocol::Esmtp.keyword(true), "UTF8SMTP");
    }

    #[test]
    fn dates() {
        let date = |ms: u64| {
            let mut out = Vec::new();
            write_date(&mut out, UnixMs(ms));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(date(0), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(date(951_782_399_999), "Mon, 28 Feb 2000 23:59:59 +0000");
        assert_eq!(date(951_782_400_000), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(date(4_107_542_400_000), "Mon, 1 Mar 2100 00:00:00 +0000");
        assert!(date(u64::MAX).ends_with("+0000"));
    }

    #[test]
    fn days_follow_each_other() {
        // The naive twin: count the calendar up day by day.
        let leap = |y: u64| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..200 * 366 {
            assert_eq!(civil_date(days), (year, month, day));
            let length = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn received_fields_count_in_the_header_only() {
        // TRC-06
        let text = b"Received: a\r\n\treceived: folded\r\nreceived: b\r\nX-Received: c\r\nReceive: d\r\n\
                     RECEIVED:e\r\nReceived : f\r\n\r\nReceived: body\r\n";
        for cut in 0..text.len() {
            let mut scan = HeaderScan::new(false, false);
            scan.feed(&text[..cut]);
            scan.feed(&text[cut..]);
            assert_eq!(scan.received_fields(), 3, "cut at {cut}");
        }
    }

    #[test]
    fn octets_over_127_in_the_header_are_seen_if_watched() {
        // EXT-06
        for (text, seen) in [
            ("Subject: \u{fc}\r\n\r\n", true),
            ("\u{fc}: x\r\n\r\n", true),
            ("R\u{fc}: x\r\n\r\n", true),
            ("Subject: u\r\n\r\n\u{fc}\r\n", false),
        ] {
            for cut in 0..text.len() {
                let mut scan = HeaderScan::new(false, false).watching(true);
                scan.feed(&text.as_bytes()[..cut]);
                scan.feed(&text.as_bytes()[cut..]);
                assert_eq!(scan.says().utf8, seen, "{text:?} cut at {cut}");
            }
        }
        let mut scan = HeaderScan::new(false, false);
        scan.feed(b"\xfc: x\r\n");
        assert!(!scan.says().utf8);
    }

    #[test]
    fn what_may_go_in_clear_says_so() {
        // RTL-04
        for (text, seen) in [
            ("To: a\r\nTLS-Required: No\r\n\r\n", true),
            ("tls-required:NO\r\n\r\n", true),
            ("TLS-Required: Nobody\r\n\r\n", false),
            ("TLS-Required: Yes\r\n\r\n", false),
            ("X-TLS-Required: No\r\n\r\n", false),
            ("To: a\r\n\r\nTLS-Required: No\r\n", false),
        ] {
            for cut in 0..text.len() {
                let mut scan = HeaderScan::new(false, cut % 2 == 0);
                scan.feed(&text.as_bytes()[..cut]);
                scan.feed(&text.as_bytes()[cut..]);
                assert_eq!(scan.says().tls_optional, seen, "{text:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_dot_at_a_line_start_hides_no_field() {
        // TRC-06, DAT-05: the next hop sees the line without it.
        let mut scan = HeaderScan::new(false, false);
        scan.feed(b".Received: a\r\n.");
        scan.feed(b"Received: b\r\n..Received: c\r\nx.Received: d\r\n");
        assert_eq!(scan.received_fields(), 2);
    }

    #[test]
    fn what_a_submission_lacks_is_found() {
        // BLK-07
        let text = b"From: a\r\nReceived: b\r\nfrom : c\r\nDATE: d\r\n\tFrom: e\r\n\r\nFrom: f\r\nMessage-ID: g\r\n";
        for cut in 0..text.len() {
            let mut scan = HeaderScan::new(cut % 2 == 0, true);
            scan.feed(&text[..cut]);
            scan.feed(&text[cut..]);
            assert_eq!((scan.from_fields(), scan.received_fields()), (1, 1), "cut at {cut}");
            assert_eq!(scan.fixes(), Fixes { date: false, message_id: true }, "cut at {cut}");
        }
        let mut out = Vec::new();
        write_fixes(&mut out, Fixes { date: true, message_id: true }, &facts());
        let text = "Date: Tue, 24 Nov 2026 01:22:08 +0000\r\nMessage-ID: <1795483328000.0-3-1f000@relay.example>\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    proptest! {
        #[test]
        fn hostile_names_stay_inside_the_field(
            hello in proptest::collection::vec(any::<u8>(), 0..600),
            recipient in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            // TRC-05
            let mut hostile = facts();
            hostile.hello = &hello;
            hostile.for_recipient = Some(&recipient);
            let text = field(&hostile);
            let lines: Vec<&str> = text.strip_suffix("\r\n").unwrap().split("\r\n").collect();
            prop_assert_eq!(lines.len(), 5);
            prop_assert!(text.is_ascii() && lines.iter().all(|l| l.len() <= 998 && !l.contains(['\r', '\n', '\0'])));
            prop_assert!(lines[1..].iter().all(|l| l.starts_with('\t')));
            prop_assert_eq!(lines[0].matches('(').count(), 1);
        }
    }
}
