//! What a reply that is no success is about, whoever says it and in whatever words (BLK-08).
//!
//! Enhanced codes tell where receivers use them as RFC 3463 has them; big ones have numbers and tags of their own, and some
//! say it in words only. What is surest is looked at first. The list that this was made from and is tested against is
//! `tests/replies/receivers.txt`. For logs and counters: whether a recipient failed or waits, its code alone decides, and whether a site
//! slows down, `throttle`. Pure, works on any bytes.

use std::fmt::{self, Display, Formatter};

use crate::schedule::throttle::{asks_for_less, contains};
use crate::smtp::reply_parser::enhanced_code;

/// What a reply is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no such mailbox, or it is closed: the address does not belong into the sender's list.
    BadAddress,
    /// The mailbox is full.
    Full,
    /// Too much comes, or too fast.
    Throttle,
    /// We, or the sender, are on somebody's list.
    Block,
    /// The message or how it comes breaks a rule of the receiver's: authentication, content, DNS, TLS.
    Policy,
    /// Anything else.
    Other,
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::BadAddress => "bad address",
            Reason::Full => "full",
            Reason::Throttle => "throttle",
            Reason::Block => "block",
            Reason::Policy => "policy",
            Reason::Other => "other",
        })
    }
}

/// Rules about how mail comes: whatever else the reply says, these mend it.
const RULES: &[&str] = &[
    "dmarc",
    "unauthenticated",
    "authentication check",
    "sender policy framework",
    "ptr ",
    "reverse dns",
    "reverse hostname",
    "tls required",
];
/// Lists that we are on.
const LISTS: &[&str] = &[
    "block list",
    "blocklist",
    "blacklist",
    "blocked using",
    "spamhaus",
    "banned",
    "[bl",
    "unsolicited mail",
    "not authorized to send email directly",
];
const RATES: &[&str] = &["too quickly", "at a rate", "rate limit"];
const FULL: &[&str] = &["quota", "mailbox full", "mailbox is full", "storage allocation"];
const NOBODY: &[&str] = &[
    "user unknown",
    "unknown user",
    "no such user",
    "does not exist",
    "doesn't have a",
    "mailbox unavailable",
    "mailbox not found",
    "user not found",
    "recipient not found",
    "invalid mailbox",
    "invalid recipient",
    "no such mailbox",
    "recipient address rejected",
];

/// What a reply is about; `Other` for one that is a success.
pub fn reason(code: u16, text: &[u8]) -> Reason {
    let says = |words: &[&str]| words.iter().any(|word| contains(text, word.as_bytes()));
    let permanent = code / 100 == 5;
    if !permanent && code / 100 != 4 {
        return Reason::Other;
    }
    let (subject, detail) = enhanced_code(text).map_or((0, 0), |(code, _)| (code.subject, code.detail));
    // RFC 7372, and what Google, Microsoft and Yahoo made of the rest of x.7.
    let about_rules = subject == 7 && matches!(detail, 9 | 20..=27 | 509 | 515);
    let about_address = subject == 1 && matches!(detail, 1 | 2 | 3 | 6 | 10) || (subject, detail) == (2, 1);
    if about_rules || says(RULES) {
        Reason::Policy
    } else if permanent && says(LISTS) {
        Reason::Block
    } else if asks_for_less(code, text) || (!permanent && says(RATES)) {
        Reason::Throttle
    } else if (subject, detail) == (2, 2) || says(FULL) {
        Reason::Full
    } else if permanent && (about_address || says(NOBODY)) {
        Reason::BadAddress
    } else if permanent && (subject == 7 || says(&["policy", "spam"])) {
        Reason::Policy
    } else {
        Reason::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// BLK-08: every reply of the recorded list is told for what it is.
    #[test]
    fn replies_of_big_receivers_are_classed_right() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/replies/receivers.txt");
        let (mut seen, mut receiver) = (0, "");
        let list = std::fs::read_to_string(path).unwrap();
        for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix("== ") {
                receiver = name;
                continue;
            }
            let (class, reply) = line.split_once(": ").expect("class: reply");
            let (code, text) = reply.split_once(' ').expect("a code and a text");
            let found = reason(code.parse().unwrap(), text.as_bytes());
            assert_eq!(found.to_string(), class, "{receiver}: {reply}");
            seen += 1;
        }
        assert!(seen >= 40, "{seen} replies");
    }

    proptest! {
        #[test]
        fn any_reply_has_a_reason(code in 0u16..1000, text in proptest::collection::vec(any::<u8>(), 0..80)) {
            let found = reason(code, &text);
            prop_assert!(matches!(code / 100, 4 | 5) || found == Reason::Other);
            prop_assert!(!asks_for_less(code, &text) || matches!(found, Reason::Throttle | Reason::Policy));
        }
    }
}
