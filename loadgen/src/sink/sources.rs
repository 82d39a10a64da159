//! Who sends: connections and rate of each source address, for limits and for what was seen at the peak; and the greylist.
//!
//! Shared by all workers. A source is looked up once per connection; counting a message takes a few atomics. Bounded:
//! sources beyond [`SOURCES_MAX`] share one place, a full greylist forgets everything.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::{SECOND_NS, nanos};

/// The most sources that are told apart.
const SOURCES_MAX: usize = 1 << 16;
/// The most recipients that a greylist remembers.
const GREYLIST_MAX: usize = 1 << 20;

/// One source address.
#[derive(Default)]
pub(super) struct Source {
    open: AtomicU64,
    second: AtomicU64,
    in_second: AtomicU64,
}

/// All of them.
#[derive(Default)]
pub(super) struct Sources {
    known: Mutex<HashMap<IpAddr, Arc<Source>>>,
    open_peak: AtomicU64,
    rate_peak: AtomicU64,
    tried: Mutex<HashMap<u64, u64>>,
}

impl Sources {
    /// A connection of this source begins. False if it has `most` already (0 for no end); then it counts for nothing.
    pub(super) fn open(&self, address: IpAddr, most: u64) -> Option<Arc<Source>> {
        let source = {
            let mut known = self.known.lock().expect("no holder panics");
            let address = if known.len() < SOURCES_MAX || known.contains_key(&address) {
                address
            } else {
                IpAddr::from([0, 0, 0, 0])
            };
            Arc::clone(known.entry(address).or_default())
        };
        let open = source.open.fetch_add(1, Relaxed) + 1;
        if most > 0 && open > most {
            source.open.fetch_sub(1, Relaxed);
            return None;
        }
        self.open_peak.fetch_max(open, Relaxed);
        Some(source)
    }

    /// A message of this source begins. False if it has had `most` in this second already (0 for no end).
    pub(super) fn message(&self, source: &Source, most: u64, now_ns: u64) -> bool {
        let second = now_ns / SECOND_NS;
        if source.second.swap(second, Relaxed) != second {
            source.in_second.store(0, Relaxed);
        }
        let count = source.in_second.fetch_add(1, Relaxed) + 1;
        if most > 0 && count > most {
            return false;
        }
        if count > self.rate_peak.load(Relaxed) {
            self.rate_peak.fetch_max(count, Relaxed);
        }
        true
    }

    /// True if this source may not send to this recipient yet, having first tried less than `wait` ago.
    pub(super) fn is_grey(&self, address: IpAddr, recipient: &[u8], wait: Duration, now_ns: u64) -> bool {
        let mut hasher = DefaultHasher::new();
        (address, recipient).hash(&mut hasher);
        let mut tried = self.tried.lock().expect("no holder panics");
        if tried.len() >= GREYLIST_MAX {
            tried.clear();
        }
        let first_ns = *tried.entry(hasher.finish()).or_insert(now_ns);
        now_ns.saturating_sub(first_ns) < nanos(wait)
    }

    /// How many sources there were.
    pub(super) fn count(&self) -> u64 {
        self.known.lock().expect("no holder panics").len() as u64
    }

    /// The most connections of one source at one time.
    pub(super) fn open_peak(&self) -> u64 {
        self.open_peak.load(Relaxed)
    }

    /// The most messages of one source in one second.
    pub(super) fn rate_peak(&self) -> u64 {
        self.rate_peak.load(Relaxed)
    }
}

impl Source {
    /// A connection of this source is over.
    pub(super) fn close(&self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_peaks_are_per_source() {
        let sources = Sources::default();
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = sources.open(a, 2).unwrap();
        assert!(sources.open(a, 2).is_some() && sources.open(a, 2).is_none() && sources.open(b, 2).is_some());
        first.close();
        assert!(sources.open(a, 2).is_some());
        assert_eq!((sources.count(), sources.open_peak()), (2, 2));
        let taken = (0..5).filter(|_| sources.message(&first, 3, 7 * SECOND_NS)).count();
        assert_eq!((taken, sources.rate_peak()), (3, 3));
        assert!(sources.message(&first, 3, 8 * SECOND_NS), "a new second");
    }

    #[test]
    fn a_greylist_lets_in_who_comes_again() {
        let (sources, source, wait) = (Sources::default(), IpAddr::from([127, 0, 0, 1]), Duration::from_secs(2));
        assert!(sources.is_grey(source, b"a@b", wait, SECOND_NS));
        assert!(
            sources.is_grey(source, b"a@b", wait, 2 * SECOND_NS)
                && sources.is_grey(source, b"c@b", wait, 3 * SECOND_NS)
        );
        assert!(!sources.is_grey(source, b"a@b", wait, 3 * SECOND_NS));
    }
}
