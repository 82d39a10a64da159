//! What crosses threads, tried by loom in every order of the threads' steps with a few preemptions: the mailboxes between shards.
//! The code is that of the relay, with loom's locks in place of the standard one and a locked queue in place of crossbeam's.
//!
//! The protocols that run over the mailboxes are checked whole beside their code: `src/schedule/permit/model.rs` has every
//! order of parcels, `src/queue/log/order_model.rs` every order of the disk's answers and every moment of a crash.

#![cfg(test)]

#[path = "../../src/runtime/mailbox.rs"]
mod mailbox;

/// What mailboxes are made of here.
mod sync {
    use std::collections::VecDeque;
    use std::ops::Deref;

    pub(crate) use loom::sync::{Arc, Mutex};

    /// Crossbeam's queue promises that each call takes effect at one moment: so does this.
    pub(crate) struct Queue<T>(Mutex<VecDeque<T>>);

    impl<T> Queue<T> {
        pub(crate) fn new() -> Queue<T> {
            Queue(Mutex::new(VecDeque::new()))
        }
        pub(crate) fn push(&self, value: T) {
            self.0.lock().unwrap().push_back(value);
        }
        pub(crate) fn pop(&self) -> Option<T> {
            self.0.lock().unwrap().pop_front()
        }
        pub(crate) fn is_empty(&self) -> bool {
            self.0.lock().unwrap().is_empty()
        }
    }

    pub(crate) struct Padded<T>(T);

    impl<T> Padded<T> {
        pub(crate) fn new(value: T) -> Padded<T> {
            Padded(value)
        }
    }

    impl<T> Deref for Padded<T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.0
        }
    }
}

use std::future::poll_fn;

use mailbox::Mailbox;

/// Tries every order with up to three switches from a thread that could have gone on: with more it takes hours, and what
/// goes wrong between threads goes wrong with fewer.
fn in_every_order(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(run);
}

/// Reads so many letters, sleeping where there are none: loom fails if it is not woken.
fn read(mailbox: &Mailbox<(u32, u32)>, count: usize) -> Vec<(u32, u32)> {
    loom::future::block_on(async {
        let (mut all, mut letters) = (Vec::new(), Vec::new());
        while all.len() < count {
            poll_fn(|cx| mailbox.poll_take(cx, &mut letters)).await;
            all.append(&mut letters);
        }
        mailbox.close();
        all
    })
}

/// One sender, letter by letter: none is missed, and they come in order.
#[test]
fn a_sleeping_reader_is_woken_for_each_letter() {
    in_every_order(|| {
        let mailbox = Mailbox::default();
        let sender = mailbox.clone();
        let thread = loom::thread::spawn(move || (0..2).for_each(|number| sender.post([(0, number)])));
        assert_eq!(read(&mailbox, 2), [(0, 0), (0, 1)]);
        thread.join().unwrap();
    });
}

/// Two senders, one of them with a burst: no letter is left while the reader sleeps, and the order of each holds.
#[test]
fn two_senders_lose_nothing_between_them() {
    in_every_order(|| {
        let mailbox = Mailbox::default();
        let threads: Vec<_> = (0..2)
            .map(|from| {
                let sender = mailbox.clone();
                loom::thread::spawn(move || sender.post((0..=from).map(|number| (from, number))))
            })
            .collect();
        let letters = read(&mailbox, 3);
        for from in 0..2 {
            let of: Vec<u32> = letters.iter().filter(|letter| letter.0 == from).map(|letter| letter.1).collect();
            assert_eq!(of, (0..=from).collect::<Vec<_>>());
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
