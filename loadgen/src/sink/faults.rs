//! What a sink does wrong on purpose, or slowly. Probabilities per occasion, drawn from the seed; nothing by default.

use std::collections::HashMap;
use std::time::Duration;

use crate::auth::Auth;

/// Shortest and longest wait.
pub type Span = (Duration, Duration);

/// A probability each of refusing for good (5xx) and for now (4xx).
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Denial {
    /// Probability of 5xx.
    pub refuse: f64,
    /// Probability of 4xx.
    pub defer: f64,
}

impl Denial {
    /// The same for mail with a sender; without refusals for a report: a refused report can be reported to nobody, and
    /// the ledger would count what it tells of as lost.
    pub fn for_mail_of(self, is_report: bool) -> Denial {
        Denial { refuse: if is_report { 0.0 } else { self.refuse }, ..self }
    }
}

/// Waits before the answer to a verb; those of a group add up.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Delays {
    /// Before the greeting.
    pub greeting: Option<Span>,
    /// At EHLO or HELO.
    pub ehlo: Option<Span>,
    /// At MAIL.
    pub mail: Option<Span>,
    /// At each RCPT.
    pub rcpt: Option<Span>,
    /// At DATA.
    pub data: Option<Span>,
    /// At the end of a message.
    pub end: Option<Span>,
}

/// The faults of a sink.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Faults {
    /// At MAIL.
    pub mail: Denial,
    /// At each RCPT.
    pub rcpt: Denial,
    /// At DATA, or a message's first BDAT.
    pub data: Denial,
    /// At the end of a message.
    pub end: Denial,
    /// Probability of closing the connection in a message's body.
    pub drop_before_dot: f64,
    /// Probability of closing behind the final dot, unanswered; the message is thrown away and does not count as arrived,
    /// so that a relay that takes silence for a yes loses it, and one that sends it again does not duplicate it.
    pub drop_after_dot: f64,
    /// Shortest and longest wait before each group of replies.
    pub delay: Option<Span>,
    /// Waits per verb.
    pub delays: Delays,
    /// Replies leave a byte at a time, with this wait between.
    pub tarpit: Option<Duration>,
    /// A recipient is deferred until this long after a source first tried it.
    pub greylist: Option<Duration>,
    /// Connections of one source at a time, before further ones get 421; 0 for no end.
    pub source_connections: u64,
    /// Messages of one source in a second, before MAIL is deferred; 0 for no end.
    pub source_rate: u64,
    /// Messages on a connection before it is closed with 421; 0 for no end.
    pub messages_per_connection: u64,
    /// Largest message taken, as declared or as it came, in bytes; 0 for no limit.
    pub size_max_bytes: u64,
    /// Offer no PIPELINING.
    pub no_pipelining: bool,
    /// Offer no CHUNKING.
    pub no_chunking: bool,
}

/// All that sessions of a sink share: kinds of receivers, and who may come in.
#[derive(Default)]
pub struct Manners {
    /// Kinds of receivers; a session is told which one it is. Never empty.
    pub kinds: Vec<Faults>,
    /// Domains with a kind of their own, in lower case; `*.` before a name stands for all below it.
    pub domains: HashMap<Vec<u8>, usize>,
    /// STARTTLS is offered.
    pub starttls: bool,
    /// Who may log in.
    pub auth: Option<Auth>,
    /// MAIL is only taken from who did.
    pub auth_required: bool,
}

impl Manners {
    /// One kind of receiver, for whom all else is plain.
    pub fn of(faults: Faults) -> Manners {
        Manners { kinds: vec![faults], ..Manners::default() }
    }

    /// The kind that a recipient's domain has, if it has one of its own.
    pub fn of_recipient(&self, address: &[u8]) -> Option<usize> {
        if self.domains.is_empty() {
            return None;
        }
        let domain = address[memchr::memrchr(b'@', address)? + 1..].to_ascii_lowercase();
        let mut rest = &domain[..];
        let exact = self.domains.get(rest);
        exact.copied().or_else(|| {
            loop {
                rest = &rest[memchr::memchr(b'.', rest)? + 1..];
                if let Some(kind) = self.domains.get(&[b"*.", rest].concat()) {
                    return Some(*kind);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_have_kinds_of_their_own() {
        let mut manners = Manners::of(Faults::default());
        assert_eq!(manners.of_recipient(b"a@b.test"), None);
        manners.domains = HashMap::from([(b"b.test".to_vec(), 1), (b"*.b.test".to_vec(), 2), (b"*.test".to_vec(), 3)]);
        let kind = |address: &str| manners.of_recipient(address.as_bytes());
        assert_eq!([kind("a@B.test"), kind("a@x.y.b.test"), kind("a@c.test")], [Some(1), Some(2), Some(3)]);
        assert_eq!([kind("a@test"), kind("nobody"), kind("a@")], [None; 3]);
    }
}
