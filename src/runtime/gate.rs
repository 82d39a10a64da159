//! How many TLS handshakes a shard works at before everybody else has had a turn (TLS-13).
//!
//! A flight of a handshake costs a hundred times what a command does: a flood of them would fill each turn of the executor, and
//! sessions that stand would wait behind all. So a turn has places for few; whoever finds none, or others waiting, waits in line,
//! and a task calls some in each turn for as long as there is a line. Handshakes lose nothing by it: a core does no more of
//! them either way. On the shard's thread; panics and fails at nothing.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

/// Flights worked at in one turn: about a millisecond.
const FLIGHTS_PER_TURN: usize = 4;

/// Between turns, at least; little beside what the flights of a turn take.
const TURN_PAUSE: Duration = Duration::from_micros(20);

/// A shard's places for handshakes.
#[derive(Default)]
pub(super) struct Gate {
    taken: Cell<usize>,
    line: RefCell<VecDeque<(Rc<Cell<bool>>, Waker)>>,
    calling: Cell<bool>,
}

/// Where a connection stands in the line, if it does; true once it is called.
#[derive(Default)]
pub(super) struct Place(Cell<Option<Rc<Cell<bool>>>>);

impl Gate {
    /// True if a handshake may be worked at now; else the task is woken when it may. Nobody overtakes.
    pub(super) fn is_open(self: &Rc<Self>, place: &Place, cx: &Context<'_>) -> bool {
        if let Some(called) = place.0.take() {
            let open = called.get();
            place.0.set(Some(called));
            return open;
        }
        if self.taken.get() < FLIGHTS_PER_TURN && self.line.borrow().is_empty() {
            return true;
        }
        let called = Rc::new(Cell::new(false));
        self.line.borrow_mut().push_back((called.clone(), cx.waker().clone()));
        place.0.set(Some(called));
        if !self.calling.replace(true) {
            glommio::spawn_local(call(self.clone())).detach();
        }
        false
    }

    /// A flight was worked at, by one to whom the gate was open.
    pub(super) fn pass(&self, place: &Place) {
        // Who was called is counted already.
        if place.0.take().is_none() {
            self.taken.set(self.taken.get() + 1);
        }
    }
}

/// The reactor's next turn, with everything that came in from sockets meanwhile. Yielding is not enough: tasks that are ready are run
/// one after the other, for up to 100 ms, before anybody looks at a socket. Nor is a timer that is over when it is first looked at.
async fn next_turn() {
    glommio::timer::sleep(TURN_PAUSE).await;
}

/// Calls some in each turn, until nobody waits.
async fn call(gate: Rc<Gate>) {
    loop {
        next_turn().await;
        let count = gate.line.borrow().len().min(FLIGHTS_PER_TURN);
        gate.taken.set(count);
        if count == 0 {
            break;
        }
        let next: Vec<_> = gate.line.borrow_mut().drain(..count).collect();
        for (called, waker) in next {
            called.set(true);
            waker.wake();
        }
    }
    gate.calling.set(false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::poll_fn;
    use std::task::Poll;

    fn arrive(gate: &Rc<Gate>, number: u32, done: &Rc<RefCell<Vec<u32>>>) {
        let (gate, done) = (gate.clone(), done.clone());
        glommio::spawn_local(async move {
            let place = Place::default();
            poll_fn(|cx| if gate.is_open(&place, cx) { Poll::Ready(()) } else { Poll::Pending }).await;
            gate.pass(&place);
            done.borrow_mut().push(number);
        })
        .detach();
    }

    /// Of a hundred that come at once few are let in each turn, all of them in the end, and in their order, although others
    /// come in every turn.
    #[test]
    fn a_turn_has_few_places_and_nobody_is_overtaken() {
        glommio::LocalExecutorBuilder::default()
            .spawn(|| async {
                let (gate, done) = (Rc::new(Gate::default()), Rc::new(RefCell::new(Vec::new())));
                (0..100).for_each(|number| arrive(&gate, number, &done));
                let (mut before, mut turns, mut come) = (0, 0, 100);
                while done.borrow().len() < 300 {
                    if come < 300 {
                        (come..come + 8).for_each(|number| arrive(&gate, number, &done));
                        come += 8;
                    }
                    next_turn().await;
                    let now = done.borrow().len();
                    assert!(now - before <= 4 * FLIGHTS_PER_TURN, "{} in one turn", now - before);
                    (before, turns) = (now, turns + 1);
                }
                assert!(turns >= 300 / (4 * FLIGHTS_PER_TURN), "all in {turns} turns");
                assert!(done.borrow().is_sorted());
                // The line is gone, and with it the task that calls.
                while gate.calling.get() {
                    next_turn().await;
                }
                assert_eq!(gate.taken.get(), 0);
            })
            .unwrap()
            .join()
            .unwrap();
    }
}
