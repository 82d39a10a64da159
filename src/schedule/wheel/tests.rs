//! The wheel against its naive twin: an ordered map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Timers by tick and order of setting.
#[derive(Default)]
struct Twin {
    timers: BTreeMap<(u64, u64), u64>,
    now: u64,
}

impl Twin {
    fn advance(&mut self, now: Mono) -> Vec<u64> {
        self.now = self.now.max(now.0 >> TICK_BITS);
        let later = self.timers.split_off(&(self.now + 1, 0));
        std::mem::replace(&mut self.timers, later).into_values().collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64),
    Cancel(usize),
    Advance(u64),
}

/// Spans from nothing to years, all magnitudes alike.
fn span_us() -> impl Strategy<Value = u64> {
    (0u32..52).prop_flat_map(|bits| 0..(1u64 << bits))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => span_us().prop_map(Step::Insert),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => (0u32..36).prop_flat_map(|bits| (0..(1u64 << bits)).prop_map(Step::Advance)),
        1 => Just(Step::Advance(u64::MAX)),
    ]
}

proptest! {
    #[test]
    fn wheel_equals_its_twin(start in span_us(), steps in prop::collection::vec(step(), 0..300)) {
        let (mut now, mut twin) = (Mono(start), Twin { now: start >> TICK_BITS, ..Twin::default() });
        let mut wheel = Wheel::new(now);
        let mut ids = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let number = number as u64;
            match step {
                Step::Insert(span) => {
                    let due = Mono((now.0 + span).saturating_sub(5000));
                    ids.push((wheel.insert(due, number), tick_of(due), number));
                    twin.timers.insert((tick_of(due), number), number);
                }
                Step::Cancel(pick) if !ids.is_empty() => {
                    let (id, tick, number) = ids[pick % ids.len()];
                    prop_assert_eq!(wheel.cancel(id), twin.timers.remove(&(tick, number)).is_some());
                    prop_assert!(!wheel.cancel(id));
                }
                Step::Cancel(_) => {}
                // To the moment the wheel itself names, or by a span.
                Step::Advance(span) => {
                    let next = wheel.next_due();
                    let to = if span == u64::MAX && next != Mono::NEVER { next.max(now) } else { Mono(now.0 + span % (1 << 50)) };
                    now = to;
                    let mut fired = Vec::new();
                    let mut last = 0;
                    wheel.advance(now, &mut |key| fired.push(key));
                    for number in &fired {
                        let tick = ids.iter().find(|(_, _, n)| n == number).unwrap().1;
                        // What was overdue when set fires together, in the order it was set.
                        prop_assert!(tick >= last || tick <= twin.now, "out of order");
                        last = last.max(tick);
                    }
                    fired.sort_unstable();
                    let mut expected = twin.advance(now);
                    expected.sort_unstable();
                    prop_assert_eq!(fired, expected);
                }
            }
            prop_assert_eq!(wheel.len(), twin.timers.len());
            match twin.timers.keys().next() {
                None => prop_assert_eq!(wheel.next_due(), Mono::NEVER),
                Some((tick, _)) => {
                    prop_assert!(wheel.next_due().0 <= (*tick).max(now.0 >> TICK_BITS) << TICK_BITS);
                    prop_assert!(wheel.next_due().0 >> TICK_BITS >= now.0 >> TICK_BITS);
                }
            }
        }
    }
}

/// Never before its time, at most a tick after, and following `next_due` ends after a bounded number of wakes.
#[test]
fn fires_on_time_and_wakes_seldom() {
    for due in [1, 1023, 1024, 1025, 70_000, 4_200_000, 300_000_000, 14_400_000_000, 432_000_000_000] {
        let mut wheel = Wheel::new(Mono(777_777_777));
        let due = Mono(777_777_777 + due);
        wheel.insert(due, ());
        let (mut fired, mut wakes, mut now) = (None, 0, Mono(0));
        while fired.is_none() {
            now = wheel.next_due();
            wheel.advance(now, &mut |()| fired = Some(now));
            wakes += 1;
            assert!(wakes <= WHEELS, "{due:?}");
        }
        assert!(now >= due && now.0 <= due.0 + 1024, "{due:?} fired at {now:?}");
        assert_eq!(wheel.next_due(), Mono::NEVER);
    }
}

#[test]
fn extremes_are_no_panic() {
    let mut wheel = Wheel::new(Mono(5));
    let never = wheel.insert(Mono::NEVER, 1);
    wheel.insert(Mono(0), 2);
    let mut fired = Vec::new();
    wheel.advance(Mono(5), &mut |key| fired.push(key));
    assert_eq!(fired, [2]);
    assert!(wheel.cancel(never) && wheel.is_empty());
    wheel.insert(Mono::NEVER, 3);
    wheel.advance(Mono(u64::MAX), &mut |key| fired.push(key));
    wheel.advance(Mono(0), &mut |key| fired.push(key));
    assert!(wheel.next_due() >= Mono(u64::MAX >> TICK_BITS << TICK_BITS) || wheel.is_empty());
}

/// No allocation in steady state: a slab that has grown once serves any number of timers, one after the other.
#[test]
fn memory_is_reused() {
    let mut wheel = Wheel::default();
    let mut fired = 0;
    for round in 0..100u64 {
        for timer in 0..1000 {
            wheel.insert(Mono(round * 1_000_000 + timer * 900), timer);
        }
        wheel.advance(Mono((round + 1) * 1_000_000), &mut |_| fired += 1);
    }
    assert_eq!((fired, wheel.timers.len(), wheel.len()), (100_000, 1000, 0));
}
