//! CPU of each thread of a relay, second by second: how evenly its shards are loaded.
//!
//! Read from `/proc` once per second, with the kernel's own nanoseconds where it keeps them. Any relay, any number of
//! processes; threads that live shorter than a second may be missed. Bounded: threads beyond [`THREADS_MAX`] are not
//! followed, and a report keeps the busiest few. Used by the thread that runs a scenario. Nothing here fails.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::clock::SECOND_NS;

/// The most threads followed.
pub const THREADS_MAX: usize = 4096;
/// The most threads a report keeps.
pub const KEPT_MAX: usize = 16;

/// A thread's load over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadLoad {
    /// Its name, as the kernel has it.
    pub name: String,
    /// Its number.
    pub thread: u32,
    /// Time since the load began in seconds, and cores used in the second before.
    pub cores: Vec<(f64, f64)>,
}

impl ThreadLoad {
    /// CPU over the whole run, in core seconds, for moments a second long.
    pub fn total(&self) -> f64 {
        self.cores.iter().map(|(_, cores)| cores).sum()
    }
}

/// All threads of a relay.
#[derive(Debug, Default)]
pub struct Threads {
    last: HashMap<u32, u64>,
    loads: HashMap<u32, ThreadLoad>,
}

impl Threads {
    /// Looks at all threads of these processes; `at_s` is now, `past_s` the time since the last look.
    pub fn look(&mut self, pids: &[u32], at_s: f64, past_s: f64) {
        for thread in pids.iter().flat_map(|pid| numbers(&format!("/proc/{pid}/task"))) {
            let Some(now_ns) = cpu_ns(thread) else { continue };
            // A thread that is new has begun since the last look, or before the first: then it has no past to tell from.
            let known = self.last.insert(thread, now_ns);
            let Some(before_ns) = known.or((past_s > 0.0 && self.last.len() > 1).then_some(0)) else { continue };
            let is_full = self.loads.len() >= THREADS_MAX;
            let load = match self.loads.entry(thread) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(_) if is_full => continue,
                Entry::Vacant(new) => {
                    // It may have ended since its time was read; without a name it would tell nobody anything.
                    let Ok(name) = fs::read_to_string(format!("/proc/{thread}/comm")) else { continue };
                    new.insert(ThreadLoad { name: name.trim().to_string(), thread, cores: Vec::new() })
                }
            };
            let spent_ns = now_ns.saturating_sub(before_ns) as f64;
            load.cores.push((at_s, spent_ns / SECOND_NS as f64 / past_s.max(1e-3)));
        }
    }

    /// The busiest threads, by name and number.
    pub fn busiest(self) -> Vec<ThreadLoad> {
        let mut loads: Vec<ThreadLoad> = self.loads.into_values().filter(|load| load.total() > 0.0).collect();
        loads.sort_by(|a, b| b.total().total_cmp(&a.total()));
        loads.truncate(KEPT_MAX);
        loads.sort_by(|a, b| (&a.name, a.thread).cmp(&(&b.name, b.thread)));
        loads
    }
}

fn numbers(folder: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// CPU of a thread so far: in nanoseconds if the kernel counts them, else in its ticks.
fn cpu_ns(thread: u32) -> Option<u64> {
    if let Ok(text) = fs::read_to_string(format!("/proc/{thread}/schedstat"))
        && let Some(ns) = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok())
    {
        return Some(ns);
    }
    let text = fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) * crate::system::tick_ns())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_shows_with_its_name() {
        let (stop, ready) = (std::sync::atomic::AtomicBool::new(false), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            let spin = || {
                ready.wait();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            std::thread::Builder::new().name("spinning".into()).spawn_scoped(scope, spin).unwrap();
            ready.wait();
            let (mut threads, pid) = (Threads::default(), std::process::id());
            threads.look(&[pid], 0.0, 0.0);
            let begun = std::time::Instant::now();
            // As long as the machine needs to give it any time at all.
            while cpu_ns_of("spinning", pid) < 20_000_000 && begun.elapsed().as_secs() < 60 {
                std::thread::yield_now();
            }
            threads.look(&[pid], 1.0, 1.0);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let busiest = threads.busiest();
            let found = busiest.iter().find(|load| load.name == "spinning").unwrap();
            assert!(found.total() >= 0.01 && found.cores.last().unwrap().0 == 1.0, "{found:?}");
        });
    }

    fn cpu_ns_of(name: &str, pid: u32) -> u64 {
        let named = |thread: &u32| fs::read_to_string(format!("/proc/{thread}/comm")).is_ok_and(|n| n.trim() == name);
        numbers(&format!("/proc/{pid}/task")).into_iter().filter(named).filter_map(cpu_ns).sum()
    }

    #[test]
    fn what_is_gone_is_passed_over() {
        let mut threads = Threads::default();
        threads.look(&[u32::MAX], 1.0, 1.0);
        assert!(threads.busiest().is_empty());
    }
}
