//! The moment of a step, and the one timer of a shard.
//!
//! Lives on the shard's thread. Deadlines are kept by the shard in its own wheel; the shell only knows the earliest
//! moment it asked for, behind a single glommio timer that is armed again only when that moment comes nearer.
//! Nothing here can fail.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use glommio::timer::Timer;

use crate::base::time::{Mono, Now, UnixMs};

/// The wall clock is read again when the monotonic one has moved by so much: one of the two system calls per step
/// (through the vDSO, but still) is saved, and a record's time is at most that much behind.
const WALL_REFRESH_US: u64 = 500;

/// A shard's clock: microseconds since it was made, and the wall clock.
pub(crate) struct Clock {
    start: Instant,
    read: Cell<Now>,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { start: Instant::now(), read: Cell::new(Now { mono: Mono(0), wall: wall() }) }
    }

    /// The moment, never earlier than the last one given.
    pub(crate) fn now(&self) -> Now {
        let last = self.read.get();
        let mono = Mono((self.start.elapsed().as_micros() as u64).max(last.mono.0));
        if mono.0 - last.mono.0 < WALL_REFRESH_US && last.mono.0 != 0 {
            return Now { mono, wall: last.wall };
        }
        let now = Now { mono, wall: wall() };
        self.read.set(now);
        now
    }
}

/// The wall clock, as the system has it.
pub fn wall() -> UnixMs {
    UnixMs(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}

/// The shard's only timer.
pub(crate) struct Alarm {
    due: Cell<Mono>,
    armed: Cell<Mono>,
    timer: RefCell<Option<Timer>>,
    waker: RefCell<Option<Waker>>,
}

impl Alarm {
    pub(crate) fn new() -> Alarm {
        Alarm {
            due: Cell::new(Mono::NEVER),
            armed: Cell::new(Mono::NEVER),
            timer: RefCell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// Replaces the moment. A later one leaves the timer alone: it finds out when it fires.
    pub(crate) fn set(&self, due: Mono) {
        self.due.set(due);
        if due < self.armed.get()
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// Ready when the moment has come, which is then forgotten. For one task only.
    pub(crate) fn poll(&self, clock: &Clock, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let (now, due) = (clock.now().mono, self.due.get());
            if due <= now {
                self.due.set(Mono::NEVER);
                return Poll::Ready(());
            }
            let mut timer = self.timer.borrow_mut();
            if due < self.armed.get() {
                *timer = Some(Timer::new(Duration::from_micros(due.0 - now.0)));
                self.armed.set(due);
            }
            if let Some(armed) = timer.as_mut()
                && Pin::new(armed).poll(cx).is_ready()
            {
                *timer = None;
                self.armed.set(Mono::NEVER);
                continue;
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::poll_fn;
    use glommio::LocalExecutor;
    use std::rc::Rc;

    #[test]
    fn time_never_goes_back_and_the_wall_is_fresh() {
        let clock = Clock::new();
        let mut last = Now::default();
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now.mono >= last.mono);
            last = now;
        }
        std::thread::sleep(Duration::from_millis(5));
        assert!(wall() - clock.now().wall <= 1);
    }

    #[test]
    fn the_alarm_follows_an_earlier_and_a_later_moment() {
        LocalExecutor::default().run(async {
            let (clock, alarm) = (Rc::new(Clock::new()), Rc::new(Alarm::new()));
            let task = {
                let (clock, alarm) = (clock.clone(), alarm.clone());
                glommio::spawn_local(async move { poll_fn(|cx| alarm.poll(&clock, cx)).await })
            };
            alarm.set(clock.now().mono.plus_ms(60_000));
            glommio::executor().yield_now().await;
            let due = clock.now().mono.plus_ms(20);
            alarm.set(due);
            glommio::executor().yield_now().await;
            let later = due.plus_ms(20);
            alarm.set(later);
            task.await;
            assert!(clock.now().mono >= later, "fired before its moment");
        });
    }
}
