//! What is done to the relay while the load goes on, and when: planned in a file, or drawn from a seed.
//!
//! Pure: the run asks what is due and does it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::nanos;
use crate::rng::Rng;
use crate::units::parse_duration;

/// The most events of a plan.
pub const EVENTS_MAX: usize = 10_000;

/// What is done to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// SIGKILL to all its processes, then it is started again.
    Kill,
    /// SIGTERM, then it is started again.
    Restart,
    /// SIGSTOP to all its processes, then SIGCONT.
    Pause,
}

/// One deed and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Since the load began.
    pub at: Duration,
    /// What is done.
    pub deed: Deed,
    /// How long until it is undone.
    pub down: Duration,
}

/// An event as a file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventText {
    at: String,
    #[serde(rename = "do")]
    deed: Deed,
    #[serde(default)]
    down: Option<String>,
}

impl EventText {
    /// Reads its times.
    pub fn event(&self) -> Result<Event, String> {
        let down = self.down.as_deref().map_or(Ok(Duration::ZERO), parse_duration)?;
        Ok(Event { at: parse_duration(&self.at)?, deed: self.deed, down })
    }
}

/// Kills of the relay while the load goes on, each some time after the relay's last start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kills {
    /// How many.
    pub count: u32,
    /// Shortest time from a start of the relay to its kill.
    pub shortest: Duration,
    /// Longest.
    pub longest: Duration,
    /// Seed of the times.
    pub seed: u64,
}

/// What is still to be done.
#[derive(Debug)]
pub(super) struct Agenda {
    events: Vec<Event>,
    next: usize,
    kills: Option<Kills>,
    kills_left: u32,
    kill_at_ns: Option<u64>,
    begun_ns: u64,
    rng: Rng,
    /// What was done last and when it is to be undone.
    undo: Option<(u64, Deed)>,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Do(Deed),
    Undo(Deed),
}

impl Agenda {
    pub(super) fn new(events: &[Event], kills: Option<Kills>) -> Agenda {
        let mut events = events.to_vec();
        events.sort_by_key(|event| event.at);
        Agenda {
            events,
            next: 0,
            kills,
            kills_left: kills.map_or(0, |kills| kills.count),
            kill_at_ns: None,
            begun_ns: 0,
            rng: Rng::new(kills.map_or(0, |kills| kills.seed)),
            undo: None,
        }
    }

    /// The load begins.
    pub(super) fn begin(&mut self, now_ns: u64) {
        self.begun_ns = now_ns;
        self.draw(now_ns);
    }

    fn draw(&mut self, now_ns: u64) {
        self.kill_at_ns = self.kills.filter(|_| self.kills_left > 0).map(|kills| {
            let spread = nanos(kills.longest.saturating_sub(kills.shortest));
            now_ns + nanos(kills.shortest) + self.rng.below(spread + 1)
        });
    }

    /// What is due; asked until there is nothing. What overlaps waits until the deed before it is undone.
    pub(super) fn due(&mut self, now_ns: u64) -> Option<Step> {
        if let Some((at_ns, deed)) = self.undo {
            if now_ns < at_ns {
                return None;
            }
            self.undo = None;
            return Some(Step::Undo(deed));
        }
        if let Some(event) = self.events.get(self.next)
            && now_ns >= self.begun_ns + nanos(event.at)
        {
            self.next += 1;
            self.undo = Some((now_ns + nanos(event.down), event.deed));
            return Some(Step::Do(event.deed));
        }
        if self.kill_at_ns.is_some_and(|at_ns| now_ns >= at_ns) {
            self.kills_left -= 1;
            self.kill_at_ns = None;
            self.undo = Some((now_ns, Deed::Kill));
            return Some(Step::Do(Deed::Kill));
        }
        None
    }

    /// The relay runs again.
    pub(super) fn restarted(&mut self, now_ns: u64) {
        self.draw(now_ns);
    }

    /// True while something was done that is not undone yet.
    pub(super) fn is_down(&self) -> bool {
        self.undo.is_some()
    }

    /// True when nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.undo.is_none() && self.next == self.events.len() && self.kill_at_ns.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ms: u64, deed: Deed, down_ms: u64) -> Event {
        Event { at: Duration::from_millis(at_ms), deed, down: Duration::from_millis(down_ms) }
    }

    #[test]
    fn deeds_are_done_and_undone_in_order() {
        let events = [event(20, Deed::Pause, 30), event(10, Deed::Kill, 0), event(40, Deed::Restart, 5)];
        let mut agenda = Agenda::new(&events, None);
        agenda.begin(1_000_000_000);
        let (mut steps, mut at_ms) = (Vec::new(), 0);
        while !agenda.is_over() {
            while let Some(step) = agenda.due(1_000_000_000 + at_ms * 1_000_000) {
                steps.push((at_ms, step));
            }
            at_ms += 5;
            assert!(at_ms < 1000);
        }
        use {Deed::*, Step::*};
        let wanted = [
            (10, Do(Kill)),
            (10, Undo(Kill)),
            (20, Do(Pause)),
            (50, Undo(Pause)),
            (50, Do(Restart)),
            (55, Undo(Restart)),
        ];
        assert_eq!(steps, wanted);
    }

    #[test]
    fn drawn_kills_keep_their_distance_from_the_start() {
        let (shortest, longest) = (Duration::from_millis(10), Duration::from_millis(20));
        let mut agenda = Agenda::new(&[], Some(Kills { count: 3, shortest, longest, seed: 7 }));
        agenda.begin(0);
        let (mut kills, mut last_ms) = (0, 0);
        for at_ms in 0..1000 {
            match agenda.due(at_ms * 1_000_000) {
                Some(Step::Do(Deed::Kill)) => {
                    assert!((10..=21).contains(&(at_ms - last_ms)), "{at_ms} {last_ms}");
                    kills += 1;
                }
                Some(Step::Undo(_)) => {
                    last_ms = at_ms;
                    agenda.restarted(at_ms * 1_000_000);
                }
                _ => {}
            }
        }
        assert!(kills == 3 && agenda.is_over());
    }

    #[test]
    fn events_are_read() {
        let text: EventText = toml::from_str("at = \"2s\"\ndo = \"pause\"\ndown = \"500ms\"\n").unwrap();
        assert_eq!(text.event(), Ok(event(2000, Deed::Pause, 500)));
        assert!(toml::from_str::<EventText>("at = \"2s\"\ndo = \"dance\"\n").is_err());
        assert!(toml::from_str::<EventText>("at = \"soon\"\ndo = \"kill\"\n").unwrap().event().is_err());
    }
}
