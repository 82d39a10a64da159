//! What a next hop said it can do, in its EHLO reply of this session (PIP-04).

use super::Offer;
use crate::mail::parameters::Late;
use crate::smtp::auth::{Mechanism, Mechanisms};

/// The keywords that matter to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// PIPELINING (RFC 2920).
    pub(super) pipelining: bool,
    /// SIZE, with the limit in bytes; 0 for none (RFC 1870 4).
    pub(super) size: Option<u64>,
    /// 8BITMIME (RFC 6152).
    pub(super) eight_bit: bool,
    /// CHUNKING (RFC 3030 2).
    pub(super) chunking: bool,
    /// We would use it.
    pub(super) chunking_wanted: bool,
    /// BINARYMIME (RFC 3030 3).
    pub(super) binary: bool,
    /// STARTTLS (RFC 3207).
    pub(super) start_tls: bool,
    /// SMTPUTF8 (RFC 6531).
    pub(super) utf8: bool,
    /// DSN (RFC 3461).
    pub(super) dsn: bool,
    /// REQUIRETLS (RFC 8689).
    pub(super) require_tls: bool,
    /// DELIVERBY (RFC 2852).
    pub(super) deliver_by: bool,
    /// MT-PRIORITY (RFC 6710).
    pub(super) priority: bool,
    /// LIMITS RCPTMAX: recipients of one transaction (RFC 9422).
    pub(super) rcpt_max: Option<u32>,
    /// LIMITS MAILMAX: transactions of one session.
    pub(super) mail_max: Option<u32>,
    /// AUTH, with the mechanisms that we know too (RFC 4954 3).
    pub(super) auth: Mechanisms,
    /// We have proved who we are.
    pub(super) logged_in: bool,
}

impl Features {
    /// Reads one EHLO line behind the first: keyword and parameters, in any case and spacing; others are ignored (EXT-10).
    pub(super) fn note(&mut self, line: &[u8]) {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else {
            return;
        };
        if keyword.eq_ignore_ascii_case(b"PIPELINING") {
            self.pipelining = true;
        } else if keyword.eq_ignore_ascii_case(b"8BITMIME") {
            self.eight_bit = true;
        } else if keyword.eq_ignore_ascii_case(b"CHUNKING") {
            self.chunking = true;
        } else if keyword.eq_ignore_ascii_case(b"BINARYMIME") {
            self.binary = true;
        } else if keyword.eq_ignore_ascii_case(b"STARTTLS") {
            self.start_tls = true;
        } else if keyword.eq_ignore_ascii_case(b"SMTPUTF8") {
            self.utf8 = true;
        } else if keyword.eq_ignore_ascii_case(b"DSN") {
            self.dsn = true;
        } else if keyword.eq_ignore_ascii_case(b"REQUIRETLS") {
            self.require_tls = true;
        } else if keyword.eq_ignore_ascii_case(b"DELIVERBY") {
            self.deliver_by = true;
        } else if keyword.eq_ignore_ascii_case(b"MT-PRIORITY") {
            self.priority = true;
        } else if keyword.eq_ignore_ascii_case(b"LIMITS") {
            self.note_limits(words);
        } else if let Some((name, first)) = keyword.split_at_checked(4)
            && name.eq_ignore_ascii_case(b"AUTH")
            && matches!(first, [] | [b'=', ..])
        {
            // Some say `AUTH=LOGIN`, as it was done before there was an RFC; an empty name is none.
            for name in std::iter::once(first.get(1..).unwrap_or_default()).chain(words) {
                self.auth = Mechanism::of_name(name).map_or(self.auth, |mechanism| self.auth.with(mechanism));
            }
        } else if keyword.eq_ignore_ascii_case(b"SIZE") {
            self.size = Some(words.next().map_or(0, size_limit));
        }
    }

    /// Reads the limits of RFC 9422; the list is ignored where any of it is malformed (EXT-09). RCPTDOMAINMAX is met
    /// by never mixing domains.
    fn note_limits<'a>(&mut self, words: impl Iterator<Item = &'a [u8]>) {
        let (mut rcpt_max, mut mail_max) = (None, None);
        for word in words {
            let Some(equals) = memchr::memchr(b'=', word) else { return };
            let (name, value) = (&word[..equals], &word[equals + 1..]);
            let digits = (1..=6).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
            let number = digits.then(|| size_limit(value) as u32).filter(|number| *number > 0);
            if name.eq_ignore_ascii_case(b"RCPTMAX") {
                rcpt_max = number;
            } else if name.eq_ignore_ascii_case(b"MAILMAX") {
                mail_max = number;
            } else {
                continue;
            }
            if number.is_none() {
                return;
            }
        }
        (self.rcpt_max, self.mail_max) = (rcpt_max, mail_max);
    }

    /// Whether a message goes by BDAT; one that may hold anything cannot go otherwise (BDT-10, BDT-11).
    pub(super) fn by_chunk(&self, offer: &Offer<'_, '_>) -> bool {
        self.chunking && (self.chunking_wanted || offer.text.binary)
    }

    /// Why this next hop cannot take a message at all (EXT-02, EXT-04, BDT-11).
    pub(super) fn objection(&self, offer: &Offer<'_, '_>) -> Option<&'static [u8]> {
        match self.size {
            Some(limit) if limit > 0 && offer.size_bytes > limit => {
                return Some(b"5.3.4 message is larger than the next hop takes");
            }
            _ => {}
        }
        let returned = offer.parameters.deliver_by.is_some_and(|deliver| deliver.late == Late::Return);
        if returned && !self.deliver_by {
            return Some(b"5.3.3 message is to be given back if late, and the next hop does not do so");
        }
        if offer.text.binary && !(self.binary && self.chunking) {
            return Some(b"5.6.3 message is binary and the next hop does not take it");
        }
        if offer.text.eight_bit && !offer.text.binary && !self.eight_bit {
            return Some(b"5.6.3 message has 8-bit content and the next hop does not take it");
        }
        None
    }
}

/// The number, as large as there are when it does not fit, and 0 (no limit) for what is none.
fn size_limit(word: &[u8]) -> u64 {
    if !word.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    word.iter().fold(0u64, |n, b| n.saturating_mul(10).saturating_add(u64::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXT-09.
    #[test]
    fn limits_are_read_whole_or_not_at_all() {
        for (line, rcpt_max, mail_max) in [
            (&b"LIMITS RCPTMAX=20 MAILMAX=5 RCPTDOMAINMAX=1"[..], Some(20), Some(5)),
            (b"limits rcptmax=1", Some(1), None),
            (b"LIMITS", None, None),
            (b"LIMITS RCPTMAX=20 MAILMAX", None, None),
            (b"LIMITS RCPTMAX=0", None, None),
            (b"LIMITS RCPTMAX=many MAILMAX=5", None, None),
            (b"LIMITS RCPTMAX=1234567", None, None),
            (b"LIMITS OTHER=x MAILMAX=5", None, Some(5)),
        ] {
            let mut features = Features::default();
            features.note(line);
            assert_eq!((features.rcpt_max, features.mail_max), (rcpt_max, mail_max), "{}", line.escape_ascii());
        }
    }

    /// EXT-10, EXT-02.
    #[test]
    fn odd_keywords_are_read_or_ignored() {
        let mut features = Features::default();
        for line in [&b"pipelining"[..], b"  8BitMime\t", b"AUTH=LOGIN PLAIN", b"", b"\xff\x00", b"size\t 100  x"] {
            features.note(line);
        }
        let auth = Mechanisms::NONE.with(Mechanism::Login).with(Mechanism::Plain);
        let expected = Features { pipelining: true, size: Some(100), eight_bit: true, auth, ..Features::default() };
        assert_eq!(features, expected);
        for (line, limit) in [
            (&b"SIZE"[..], 0),
            (b"SIZE 0", 0),
            (b"SIZE many", 0),
            (b"SIZE -1", 0),
            (b"SIZE 99999999999999999999999", u64::MAX),
        ] {
            features.note(line);
            assert_eq!(features.size, Some(limit));
        }
    }
}
