//! Throttling: what a next hop says when it wants less, and how a site slows down and recovers (RTE-25).
//!
//! A site may use so many connections as its limit says, or fewer: its *ceiling*. A reply that asks for less halves the
//! ceiling, from the connections in use; recovering adds one connection at a time, while mail is taken. So a site finds
//! by itself what its next hop bears, and comes back to the limit when the trouble is over. At one connection there is
//! nothing to halve: there the site pauses, longer each time (`Slowed::AtFloor`).
//!
//! Many connections hear the same complaint at once, so what comes within [`limits::THROTTLE_HOLD_MS`] counts once, and
//! for so long no connection is opened. Pure, shard-local: each shard judges what its own connections are told.

use crate::base::limits;
use crate::base::time::Mono;
use crate::smtp::reply_parser::enhanced_code;

/// True if a reply that is no success asks for less, now: 421; 4yz with 4.7.x, of which 4.7.28 is one; or one of Yahoo's
/// `[TSnn]` tags. Greylisting looks alike and is none: it concerns one sender and recipient, and slower is not better.
pub fn asks_for_less(code: u16, text: &[u8]) -> bool {
    if code / 100 != 4 || contains(text, b"greylist") || contains(text, b"graylist") {
        return false;
    }
    let security = enhanced_code(text).is_some_and(|(enhanced, _)| (enhanced.class, enhanced.subject) == (4, 7));
    code == 421 || security || contains(text, b"[ts0")
}

/// True if the text has these words, in any case.
pub(super) fn contains(text: &[u8], lower: &[u8]) -> bool {
    text.windows(lower.len()).any(|window| window.eq_ignore_ascii_case(lower))
}

/// What a complaint led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slowed {
    /// Nothing: it was one of many that came together.
    Already,
    /// The ceiling is lower now.
    To(u32),
    /// One connection was too much already: the site is to pause.
    AtFloor,
}

/// How far a site holds itself back. Most never did, and there may be very many of them.
#[derive(Clone, Debug, Default)]
pub struct Throttle(Option<Box<Held>>);

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Connections that the site allows itself; `None`: as many as its limit.
    ceiling: Option<u32>,
    /// Until then complaints count as one with the last, and no connection is opened.
    hold_until: Mono,
    /// Not before this moment is the ceiling raised.
    raise_at: Mono,
}

impl Throttle {
    /// Connections the site may have, of `limit`.
    pub fn allowed(&self, limit: u32) -> u32 {
        self.ceiling().map_or(limit, |ceiling| ceiling.min(limit))
    }

    /// The ceiling, while there is one.
    pub fn ceiling(&self) -> Option<u32> {
        self.0.as_ref()?.ceiling
    }

    /// Until when no connection is to be opened, if that is so.
    pub fn holds(&self, now: Mono) -> Option<Mono> {
        self.0.as_ref().map(|held| held.hold_until).filter(|until| now < *until)
    }

    /// When nothing is worth remembering any more, of a site that has nothing to do.
    pub fn forgets_at(&self) -> Mono {
        let held = self.0.as_ref().filter(|held| held.ceiling.is_some());
        held.map_or(Mono::default(), |held| held.raise_at.plus_ms(limits::THROTTLE_MEMORY_MS))
    }

    /// The next hop asked for less while `in_use` connections were in use.
    pub fn complaint(&mut self, now: Mono, in_use: u32) -> Slowed {
        let held = self.0.get_or_insert_default();
        held.raise_at = now.plus_ms(limits::THROTTLE_RECOVER_MS);
        if now < held.hold_until {
            return Slowed::Already;
        }
        held.hold_until = now.plus_ms(limits::THROTTLE_HOLD_MS);
        let before = held.ceiling.map_or(in_use, |ceiling| ceiling.min(in_use)).max(1);
        let ceiling = (before / 2).max(1);
        held.ceiling = Some(ceiling);
        if before == 1 { Slowed::AtFloor } else { Slowed::To(ceiling) }
    }

    /// Mail was taken while `in_use` connections were in use: after a while without a complaint, one more is allowed. True
    /// if that takes the ceiling away, because it reached the limit.
    pub fn taken(&mut self, now: Mono, in_use: u32, limit: u32) -> bool {
        let Some(held) = self.0.as_mut() else { return false };
        let Some(ceiling) = held.ceiling else { return false };
        // A ceiling that is not reached says nothing about what the next hop would bear.
        if now < held.raise_at || in_use < ceiling {
            return false;
        }
        held.raise_at = now.plus_ms(limits::THROTTLE_RECOVER_MS);
        held.ceiling = (ceiling + 1 < limit).then_some(ceiling + 1);
        held.ceiling.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RTE-25, BLK-08: replies that ask for less, and replies that say something else.
    #[test]
    fn complaints_are_told_from_other_replies() {
        for (code, text) in [
            (421, "4.7.28 Our system has detected an unusual rate of unsolicited mail"),
            (421, "4.7.0 [TS01] Messages from 192.0.2.1 temporarily deferred due to user complaints"),
            (451, "4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation"),
            (450, "4.7.1 Error: too much mail from 192.0.2.1"),
            (421, "4.3.2 too many connections"),
            (421, "closing"),
            (450, "[TS02] deferred"),
        ] {
            assert!(asks_for_less(code, text.as_bytes()), "{code} {text}");
        }
        for (code, text) in [
            (450, "4.2.1 mailbox busy"),
            (452, "4.2.2 over quota"),
            (451, "4.3.0 try again"),
            (451, "4.7.1 Greylisting in action, please come back later"),
            (450, "4.2.0 Graylisted"),
            (550, "5.7.1 blocked"),
            (554, "5.7.9 message not accepted for policy reasons"),
            (250, "2.0.0 4.7.28 is only text"),
            (0, "4.4.2 connection lost"),
        ] {
            assert!(!asks_for_less(code, text.as_bytes()), "{code} {text}");
        }
    }

    #[test]
    fn halved_by_complaints_and_raised_one_by_one() {
        let (mut throttle, limit) = (Throttle::default(), 20);
        let mut now = Mono(1);
        assert_eq!(throttle.allowed(limit), 20);
        assert_eq!(throttle.complaint(now, 16), Slowed::To(8));
        for _ in 0..7 {
            assert_eq!(throttle.complaint(now, 16), Slowed::Already);
        }
        let mut seen = Vec::new();
        loop {
            now = throttle.holds(now).expect("it holds after a complaint");
            let slowed = throttle.complaint(now, 16);
            seen.push(slowed);
            if slowed == Slowed::AtFloor {
                break;
            }
        }
        assert_eq!(seen, [Slowed::To(4), Slowed::To(2), Slowed::To(1), Slowed::AtFloor]);
        assert_eq!(throttle.allowed(limit), 1);
        for expected in 2..limit {
            assert!(!throttle.taken(now.plus_ms(limits::THROTTLE_RECOVER_MS - 1), expected - 1, limit));
            now = now.plus_ms(limits::THROTTLE_RECOVER_MS);
            assert!(!throttle.taken(now, expected - 2, limit), "the ceiling is not reached");
            assert!(!throttle.taken(now, expected - 1, limit));
            assert_eq!(throttle.allowed(limit), expected);
        }
        assert!(throttle.taken(now.plus_ms(limits::THROTTLE_RECOVER_MS), limit - 1, limit));
        assert_eq!((throttle.ceiling(), throttle.allowed(limit)), (None, limit));
    }

    #[test]
    fn a_limit_of_one_goes_straight_to_the_floor_and_back() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.complaint(Mono(1), 1), Slowed::AtFloor);
        assert!(throttle.taken(Mono(1).plus_ms(limits::THROTTLE_RECOVER_MS), 1, 1));
        assert_eq!(Throttle::default().complaint(Mono(1), 0), Slowed::AtFloor);
    }
}
