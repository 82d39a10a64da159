//! A hierarchical timing wheel: millions of deadlines, each set, moved and dropped in constant time.
//!
//! Time is cut into ticks of 1 ms (1024 us, so that a shift makes a tick). There are seven wheels of 64 slots; a slot
//! of the first is one tick wide, a slot of each next as wide as the whole wheel before it, together 2^42 ticks, more
//! than a century. A timer hangs in the wheel of the highest six-bit digit in which its tick differs from the present
//! one. So every wheel only holds what lies ahead in its current round, slots never mix two rounds, and a bit per slot
//! tells where the next timers are without walking empty slots.
//!
//! When the present comes to a slot of a higher wheel, its timers are hung anew, now closer: a timer moves at most six
//! times in its life. Timers of one tick fire in no certain order. What is due now or was due in
//! the past hangs in a list of its own and fires first at the next [`Wheel::advance`].
//!
//! A timer fires never before its due time and at most one tick after it, if `advance` is called in time.
//! Shard-local. Timers live in one slab linked by index: no allocation once it has grown to the most timers there
//! ever were at a time. More than `u32::MAX - 1` timers are a panic.

use std::num::NonZero;

use crate::base::time::Mono;

const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const WHEELS: usize = 7;
/// One tick is `2^TICK_BITS` microseconds.
const TICK_BITS: u32 = 10;
/// Deadlines beyond the last wheel, `Mono::NEVER` among them, count as its end, 142 years after the clock's start.
const TICK_MAX: u64 = (1 << (DIGIT_BITS as u64 * WHEELS as u64)) - 1;
/// The list of what is due already, behind the slots of all wheels.
const DUE: usize = WHEELS * SLOTS;
const NONE: u32 = u32::MAX;

/// A timer that was set. Once it fired or was cancelled its name is dead and never names another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    /// Never 0, so that a timer or none takes no more than a timer.
    generation: NonZero<u32>,
}

/// Deadlines, each with a key that says what is due.
pub struct Wheel<K> {
    /// The tick up to which everything fired.
    now: u64,
    timers: Vec<Timer<K>>,
    /// First of the unused timers, linked by `next`.
    unused: u32,
    count: usize,
    /// Slots of all wheels and the list of due ones, each a ring's first and last timer.
    lists: Box<[List; DUE + 1]>,
    /// A bit for every slot that is not empty.
    filled: [u64; WHEELS],
}

struct Timer<K> {
    /// Rounded up to a whole tick, so that nothing fires early.
    tick: u64,
    key: Option<K>,
    generation: NonZero<u32>,
    /// Where it hangs: an index of `lists`.
    list: u32,
    next: u32,
    previous: u32,
}

#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

impl<K: Copy> Default for Wheel<K> {
    fn default() -> Self {
        Self::new(Mono(0))
    }
}

impl<K: Copy> Wheel<K> {
    /// Without timers, at the moment `now`.
    pub fn new(now: Mono) -> Self {
        Wheel {
            now: now.0 >> TICK_BITS,
            timers: Vec::new(),
            unused: NONE,
            count: 0,
            lists: Box::new([List { first: NONE, last: NONE }; DUE + 1]),
            filled: [0; WHEELS],
        }
    }

    /// How many timers are set.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if no timer is set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sets a timer. A due time in the past, or now, fires at the next [`advance`](Self::advance).
    pub fn insert(&mut self, due: Mono, key: K) -> TimerId {
        let tick = tick_of(due);
        let index = match self.unused {
            NONE => {
                let index = u32::try_from(self.timers.len()).ok().filter(|index| *index != NONE);
                let timer =
                    Timer { tick, key: None, generation: NonZero::<u32>::MIN, list: 0, next: NONE, previous: NONE };
                self.timers.push(timer);
                index.expect("fewer timers than 2^32")
            }
            index => {
                self.unused = self.timers[index as usize].next;
                index
            }
        };
        let timer = &mut self.timers[index as usize];
        timer.tick = tick;
        timer.key = Some(key);
        let generation = timer.generation;
        self.count += 1;
        self.hang(index);
        TimerId { index, generation }
    }

    /// Drops a timer; false if it fired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        match self.timers.get(id.index as usize) {
            Some(timer) if timer.generation == id.generation && timer.key.is_some() => {
                self.unhang(id.index);
                self.free(id.index);
                true
            }
            _ => false,
        }
    }

    /// When [`advance`](Self::advance) has something to do: never later than the tick in which the earliest timer
    /// fires, `NEVER` without timers. It may be earlier: then advancing brings timers closer and nothing fires.
    pub fn next_due(&self) -> Mono {
        if self.lists[DUE].first != NONE {
            return Mono(self.now << TICK_BITS);
        }
        match self.next_slot() {
            None => Mono::NEVER,
            Some((_, start)) => Mono(start << TICK_BITS),
        }
    }

    /// Fires everything due up to `now`, in order of due ticks. Does nothing if `now` lies in the past.
    pub fn advance(&mut self, now: Mono, fire: &mut dyn FnMut(K)) {
        let until = now.0 >> TICK_BITS;
        self.fire_due(fire);
        while let Some((list, start)) = self.next_slot().filter(|(_, start)| *start <= until) {
            assert!(start > self.now, "time only grows");
            self.now = start;
            self.hang_anew(list);
            self.fire_due(fire);
        }
        self.now = self.now.max(until);
    }

    /// The slot whose time comes first, and the tick when it does.
    ///
    /// A lower wheel's slots all come before a higher wheel's: they lie in the round that is going on.
    fn next_slot(&self) -> Option<(usize, u64)> {
        let wheel = (0..WHEELS).find(|&wheel| self.filled[wheel] != 0)?;
        let slot = self.filled[wheel].trailing_zeros() as usize;
        let shift = DIGIT_BITS * wheel as u32;
        let round = self.now >> shift >> DIGIT_BITS << DIGIT_BITS;
        Some((wheel * SLOTS + slot, (round | slot as u64) << shift))
    }

    /// Hangs a timer where its tick belongs as seen from now.
    fn hang(&mut self, index: u32) {
        let tick = self.timers[index as usize].tick;
        let list = if tick <= self.now {
            DUE
        } else {
            let wheel = ((tick ^ self.now).ilog2() / DIGIT_BITS) as usize;
            let slot = (tick >> (DIGIT_BITS * wheel as u32)) as usize % SLOTS;
            self.filled[wheel] |= 1 << slot;
            wheel * SLOTS + slot
        };
        let last = std::mem::replace(&mut self.lists[list].last, index);
        match last {
            NONE => self.lists[list].first = index,
            last => self.timers[last as usize].next = index,
        }
        let timer = &mut self.timers[index as usize];
        (timer.list, timer.previous, timer.next) = (list as u32, last, NONE);
    }

    fn unhang(&mut self, index: u32) {
        let Timer { list, previous, next, .. } = self.timers[index as usize];
        let list = list as usize;
        match previous {
            NONE => self.lists[list].first = next,
            previous => self.timers[previous as usize].next = next,
        }
        match next {
            NONE => self.lists[list].last = previous,
            next => self.timers[next as usize].previous = previous,
        }
        if self.lists[list].first == NONE && list != DUE {
            self.filled[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    /// Empties a slot whose time has come: its timers are due, or hang closer.
    fn hang_anew(&mut self, list: usize) {
        let mut index = std::mem::replace(&mut self.lists[list], List { first: NONE, last: NONE }).first;
        self.filled[list / SLOTS] &= !(1 << (list % SLOTS));
        while index != NONE {
            let next = self.timers[index as usize].next;
            self.hang(index);
            index = next;
        }
    }

    fn fire_due(&mut self, fire: &mut dyn FnMut(K)) {
        while self.lists[DUE].first != NONE {
            let index = self.lists[DUE].first;
            let key = self.timers[index as usize].key.expect("a timer that hangs is set");
            self.unhang(index);
            self.free(index);
            fire(key);
        }
    }

    fn free(&mut self, index: u32) {
        let timer = &mut self.timers[index as usize];
        timer.key = None;
        timer.generation = timer.generation.checked_add(1).unwrap_or(NonZero::<u32>::MIN);
        timer.next = self.unused;
        self.unused = index;
        self.count -= 1;
    }
}

/// The first tick that begins no earlier than `due`.
fn tick_of(due: Mono) -> u64 {
    due.0.div_ceil(1 << TICK_BITS).min(TICK_MAX)
}

#[cfg(test)]
mod tests;
