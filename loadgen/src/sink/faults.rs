//! What a sink does wrong on purpose. Probabilities per occasion, drawn from the seed; all 0 by default.

use std::time::Duration;

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

/// The faults of a sink.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Faults {
    /// At MAIL.
    pub mail: Denial,
    /// At each RCPT.
    pub rcpt: Denial,
    /// At DATA.
    pub data: Denial,
    /// At the final dot.
    pub end: Denial,
    /// Probability of closing the connection in a message's body.
    pub drop_before_dot: f64,
    /// Probability of closing behind the final dot, unanswered; the message is thrown away and does not count as arrived,
    /// so that a relay that takes silence for a yes loses it, and one that sends it again does not duplicate it.
    pub drop_after_dot: f64,
    /// Shortest and longest wait before each group of replies.
    pub delay: Option<(Duration, Duration)>,
    /// Messages on a connection before it is closed with 421; 0 for no end.
    pub messages_per_connection: u64,
    /// Largest message taken, as declared or as it came, in bytes; 0 for no limit.
    pub size_max_bytes: u64,
    /// Offer no PIPELINING.
    pub no_pipelining: bool,
}
