//! What MAIL and RCPT asked for, as far as it matters while a message waits. Most messages ask for nothing and have no terms;
//! the rest is read from the accepting record when it is needed.

use crate::base::limits::HOLD_MAX_S;
use crate::base::time::{Mono, Now, UnixMs};
use crate::mail::address::domain_of;
use crate::mail::parameters::{DeliverBy, Late, ParameterBlock};
use crate::schedule::fair::{Class, Share};
use crate::smtp::client::Needs;

/// The terms of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Someone may be to be told that the message went on (DSN-08).
    pub(super) tells_success: bool,
    /// From then on its sender is told, once, that it takes long; never, if nobody wants to be told (DSN-07).
    pub(super) delay_at: UnixMs,
    /// When it is to be delivered.
    pub(super) deliver_by: Option<DeliverBy>,
    /// Not sent before.
    pub(super) held_until: Option<UnixMs>,
    /// How urgent it is; `None`: nothing was said (EXT-11; RFC 6710).
    class: Option<Class>,
    utf8_header: bool,
    require_tls: bool,
    tls_optional: bool,
}

impl Terms {
    /// The terms of a message that was accepted at a moment; none if nothing was said. Without a deadline of its own a
    /// message takes long from `delay_ms` on.
    pub(super) fn of(block: ParameterBlock<'_>, arrived: UnixMs, delay_ms: u64) -> Option<Box<Terms>> {
        if block.is_empty() {
            return None;
        }
        let said = block.message();
        let traced = said.deliver_by.is_some_and(|deliver| deliver.traced || deliver.late == Late::Notify);
        let delay_at = match said.deliver_by {
            Some(DeliverBy { by, late: Late::Notify, .. }) => by,
            _ if !block.recipients().any(|(_, said)| said.wants().delay) => UnixMs(u64::MAX),
            _ => said.held_until.unwrap_or(arrived).max(arrived) + delay_ms,
        };
        Some(Box::new(Terms {
            tells_success: traced || block.recipients().any(|(_, said)| said.wants().success),
            delay_at,
            deliver_by: said.deliver_by,
            held_until: said.held_until,
            class: said.priority.map(Class::of_priority),
            utf8_header: said.utf8_header,
            require_tls: said.require_tls,
            tls_optional: said.tls_optional,
        }))
    }

    /// What a next hop must be able to do, to take the message for this recipient.
    pub(super) fn needs(&self, sender: &[u8], recipient: &[u8]) -> Needs {
        let utf8 = self.utf8_header || !sender.is_ascii() || !recipient.is_ascii();
        Needs { utf8, require_tls: self.require_tls, tls_optional: self.tls_optional }
    }

    /// It must not be delivered any more.
    pub(super) fn too_late(&self, now: UnixMs) -> bool {
        self.deliver_by.is_some_and(|deliver| deliver.late == Late::Return && now >= deliver.by)
    }
}

/// When a message is given up: so long after it was accepted or may first be sent, or when its sender wants it back.
pub(super) fn expires(terms: Option<&Terms>, now: Now, arrived: UnixMs, expire_ms: u64) -> Mono {
    let begun = terms.and_then(|terms| terms.held_until).map_or(arrived, |held| held.max(arrived));
    // A clock that went back gives no message more time than it was given (QUE-11).
    let held_ms = terms.map_or(0, |_| (begun - now.wall).min(u64::from(HOLD_MAX_S) * 1000));
    let left_ms = held_ms + expire_ms.saturating_sub(now.wall - begun);
    let back = terms.and_then(|terms| terms.deliver_by).filter(|deliver| deliver.late == Late::Return);
    now.mono.plus_ms(back.map_or(left_ms, |deliver| left_ms.min(deliver.by - now.wall)))
}

/// With what a message shares its ways: as all of its client's, but for the priority that it says itself.
pub(super) fn share(terms: Option<&Terms>, of_client: Share) -> Share {
    Share { class: terms.and_then(|terms| terms.class).unwrap_or(of_client.class), ..of_client }
}

/// The recipients, `first` on, that share a job with it: of its domain and with its needs, `most` at most.
pub(super) fn run<'a>(
    terms: Option<&Terms>,
    sender: &[u8],
    recipients: impl Iterator<Item = &'a [u8]> + Clone,
    most: usize,
) -> (&'a [u8], Needs, usize) {
    let mut rest = recipients.clone();
    let first = rest.next().expect("a run has a first");
    let domain = domain_of(first);
    let needs = |recipient: &[u8]| terms.map_or(Needs::default(), |terms| terms.needs(sender, recipient));
    let wanted = needs(first);
    let count = recipients
        .take(most)
        .take_while(|other| {
            domain_of(other).eq_ignore_ascii_case(domain) && (terms.is_none() || needs(other) == wanted)
        })
        .count();
    (domain, wanted, count)
}
