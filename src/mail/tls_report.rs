//! The letter that brings a TLS report (RPT-01; RFC 8460 5): multipart/report of a few words for people and the packed document.
//!
//! Pure, and written seldom. The result is in plain form, all ASCII, with lines far below the bound of RFC 5322. It says
//! `TLS-Required: No` (RFC 8689 5), so that the trouble it tells of does not keep it away.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::base::time::UnixMs;
use crate::mail::date::Day;
use crate::mail::trace::write_date;

/// What a report is about, and whose it is: what its names and its document say alike.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The day, counted from 1970-01-01, by UTC.
    pub day: Day,
    /// Whose mail hosts it is about.
    pub domain: &'a str,
    /// Who sends it.
    pub submitter: &'a str,
    /// Which relay counted: two of one submitter make two reports.
    pub relay: &'a str,
}

impl About<'_> {
    /// `report-id`, the same however often the report is sent; without its brackets.
    pub fn id(&self) -> String {
        format!("{}.{}@{}", self.day, self.domain, self.relay)
    }

    /// The name of the packed document (RFC 8460 5.1).
    pub fn file_name(&self) -> String {
        let (begin_s, end_s) = (self.day.begin().0 / 1000, self.day.end().0 / 1000 - 1);
        let unique = crate::base::checksum::crc32c(&[self.relay.as_bytes()]);
        format!("{}!{}!{begin_s}!{end_s}!{unique:08x}.json.gz", self.submitter, self.domain)
    }

    /// The first moment of its range, and the last one that it names.
    pub fn range(&self) -> [String; 2] {
        let day = self.day;
        [format!("{day}T00:00:00Z"), format!("{day}T23:59:59Z")]
    }
}

/// Writes the letter to these mailboxes, at least one, with the document as gzip made it.
pub fn write_letter(about: &About<'_>, from: &str, to: &[&str], when: UnixMs, packed: &[u8]) -> Vec<u8> {
    assert!(!to.is_empty(), "a letter goes to somebody");
    let About { domain, submitter, .. } = about;
    let id = about.id();
    let boundary = format!("=_tlsrpt-{}-{:x}_", about.day.0, when.0);
    let mut out = Vec::new();
    let mut line = |text: std::fmt::Arguments<'_>| write!(out, "{text}\r\n").expect("a vector takes all");
    line(format_args!("From: <{from}>"));
    for (nth, mailbox) in to.iter().enumerate() {
        let (head, end) = (if nth == 0 { "To:" } else { "" }, if nth + 1 < to.len() { "," } else { "" });
        line(format_args!("{head} <{mailbox}>{end}"));
    }
    line(format_args!("Subject: Report Domain: {domain}\r\n Submitter: {submitter}\r\n Report-ID: <{id}>"));
    let mut date = Vec::new();
    write_date(&mut date, when);
    line(format_args!("Date: {}", String::from_utf8_lossy(&date)));
    line(format_args!("Message-ID: <tlsrpt.{:x}.{id}>", when.0));
    line(format_args!("TLS-Report-Domain: {domain}"));
    line(format_args!("TLS-Report-Submitter: {submitter}"));
    line(format_args!("TLS-Required: No"));
    line(format_args!("Auto-Submitted: auto-generated"));
    line(format_args!("MIME-Version: 1.0"));
    line(format_args!("Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n\tboundary=\"{boundary}\"\r\n"));
    line(format_args!("--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n"));
    line(format_args!("This is an aggregate TLS report from {submitter}"));
    line(format_args!("about mail to {domain} on {}.", about.day));
    line(format_args!("\r\n--{boundary}\r\nContent-Type: application/tlsrpt+gzip"));
    line(format_args!("Content-Transfer-Encoding: base64"));
    line(format_args!("Content-Disposition: attachment;\r\n\tfilename=\"{}\"\r\n", about.file_name()));
    // RFC 2045 6.8: at most 76 characters in a line.
    for part in packed.chunks(57) {
        line(format_args!("{}", STANDARD.encode(part)));
    }
    line(format_args!("\r\n--{boundary}--"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'_> =
        About { day: Day(17_000), domain: "example.net", submitter: "sender.example", relay: "mx1.sender.example" };

    /// RPT-01: the letter as RFC 8460 5.3 has it.
    #[test]
    fn letters_are_written() {
        let to = ["reports@example.net", "other@example.com"];
        let letter = write_letter(&ABOUT, "tlsrpt@sender.example", &to, UnixMs(1_468_900_000_000), &[0x1f; 60]);
        let expected = "\
From: <tlsrpt@sender.example>\r
To: <reports@example.net>,\r
 <other@example.com>\r
Subject: Report Domain: example.net\r
 Submitter: sender.example\r
 Report-ID: <2016-07-18.example.net@mx1.sender.example>\r
Date: Tue, 19 Jul 2016 03:46:40 +0000\r
Message-ID: <tlsrpt.15601434100.2016-07-18.example.net@mx1.sender.example>\r
TLS-Report-Domain: example.net\r
TLS-Report-Submitter: sender.example\r
TLS-Required: No\r
Auto-Submitted: auto-generated\r
MIME-Version: 1.0\r
Content-Type: multipart/report; report-type=\"tlsrpt\";\r
\tboundary=\"=_tlsrpt-17000-15601434100_\"\r
\r
--=_tlsrpt-17000-15601434100_\r
Content-Type: text/plain; charset=us-ascii\r
\r
This is an aggregate TLS report from sender.example\r
about mail to example.net on 2016-07-18.\r
\r
--=_tlsrpt-17000-15601434100_\r
Content-Type: application/tlsrpt+gzip\r
Content-Transfer-Encoding: base64\r
Content-Disposition: attachment;\r
\tfilename=\"sender.example!example.net!1468800000!1468886399!UNIQUE.json.gz\"\r
\r
Hx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8f\r
Hx8f\r
\r
--=_tlsrpt-17000-15601434100_--\r
";
        let unique = format!("{:08x}", crate::base::checksum::crc32c(&[b"mx1.sender.example"]));
        assert_eq!(String::from_utf8(letter).unwrap(), expected.replace("UNIQUE", &unique));
        assert_eq!(ABOUT.range(), ["2016-07-18T00:00:00Z", "2016-07-18T23:59:59Z"]);
    }

    /// Whatever the names are, lines stay short (RFC 5322 2.1.1), and two relays' reports are two.
    #[test]
    fn long_names_fit() {
        let long = [vec!["x".repeat(60); 4].join("."), "y.test".to_owned()].join(".");
        let about = About { domain: &long, submitter: &long, relay: &long, ..ABOUT };
        let mailbox = format!("{}@{long}", "l".repeat(64));
        let letter = write_letter(&about, &mailbox, &[mailbox.as_str(); 8], UnixMs(1), b"x");
        let text = String::from_utf8(letter).unwrap();
        assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])), "{text}");
        let other = About { relay: "mx2.sender.example", ..ABOUT };
        assert!(other.id() != ABOUT.id() && other.file_name() != ABOUT.file_name());
    }
}
