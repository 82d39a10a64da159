//! A destination: where mail goes as far as the configuration knows, a domain's mail hosts or a smart host, until DNS says
//! which site that is today.
//!
//! Jobs of a destination whose answer is known wait in its site's list; the others wait here. So domains with the same mail
//! hosts share one site (RTE-24), and one that moves takes its mail with it. Pure and shard-local.

use std::sync::Arc;

use crate::base::rng::Rng;
use crate::base::time::Mono;
use crate::route::decide::Decision;
use crate::route::sts::Sts;
use crate::schedule::backoff::Backoff;
use crate::schedule::list::List;
use crate::schedule::site::{NO_SITE, SiteId};
use crate::shard::parcel::SiteName;

/// Index of a destination in its shard's table.
pub type DestinationId = u32;

/// What is known of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Nothing, or it is too old.
    No,
    /// The resolver was asked.
    Asked,
    /// Its mail goes to its site, until the moment given.
    Known {
        /// When the answer is too old.
        until: Mono,
    },
    /// No mail can go there (no such domain, null MX); holds until the moment given.
    Hopeless {
        /// Reply code and text with enhanced code, as a next hop would have said it.
        code: u16,
        /// The text.
        text: &'static str,
        /// When to ask again.
        until: Mono,
    },
}

/// One destination.
#[derive(Debug)]
pub struct Destination {
    /// What the configuration decided.
    pub decision: Decision,
    /// What the decision was called when it was made.
    pub name: SiteName,
    /// What DNS says.
    pub answered: Answered,
    /// The site it led to last, whether that still holds or not; `NO_SITE` before the first answer.
    pub site: SiteId,
    /// What the last answer said of the domain's MTA-STS policy, where that was asked.
    pub sts: Option<Arc<Sts>>,
    /// Jobs that wait for the answer.
    pub waiting: List,
    /// All jobs, the deferred ones included.
    pub jobs: u32,
    /// It is to be looked at in this step.
    pub marked: bool,
    /// It waits until a question about it may be asked of the resolver.
    pub unasked: bool,
    /// It is in the row of those to be forgotten.
    pub lingers: bool,
    /// An operator wants nothing sent.
    pub suspended: bool,
    /// Answers in a row that were none.
    pub failures: u32,
    /// Not asked for before this moment.
    pub paused_until: Mono,
    /// Other routes hold by now: no mail is given to it any more.
    pub retired: bool,
    /// Tells it from another one that had its place before.
    pub generation: u32,
}

impl Destination {
    /// A destination that nothing is known of.
    pub fn new(decision: Decision, name: SiteName, generation: u32) -> Destination {
        Destination {
            decision,
            name,
            answered: Answered::No,
            site: NO_SITE,
            sts: None,
            waiting: List::default(),
            jobs: 0,
            marked: false,
            unasked: false,
            lingers: false,
            suspended: false,
            failures: 0,
            paused_until: Mono::default(),
            retired: false,
            generation,
        }
    }

    /// The site that its mail goes to now, if that is known and nobody minds.
    pub fn site_now(&self, now: Mono) -> Option<SiteId> {
        if self.suspended {
            return None;
        }
        matches!(self.answered, Answered::Known { until } if now < until).then_some(self.site)
    }

    /// True while the resolver is left alone.
    pub fn paused(&self, now: Mono) -> bool {
        now < self.paused_until
    }

    /// The resolver had no answer: it is not asked again for a while, longer each time in a row.
    pub fn pause(&mut self, now: Mono, backoff: &Backoff, rng: &mut Rng) {
        self.answered = Answered::No;
        self.failures = self.failures.saturating_add(1);
        self.paused_until = now.plus_ms(backoff.delay_ms(self.failures, rng));
    }

    /// True if nothing speaks of it.
    pub fn unused(&self, now: Mono) -> bool {
        self.jobs == 0 && self.answered != Answered::Asked && !self.paused(now)
    }
}
