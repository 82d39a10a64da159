//! What reaches a shard from other threads: parcels of other shards, answers of the resolver, orders of the main thread.
//!
//! One mailbox per shard, written by any thread, emptied by one task of its shard. The lock is held for a push or a
//! swap only. The first letter of a burst takes the reader's waker and wakes its executor; the rest find no waker,
//! so a burst costs one wake. (A glommio waker may be used from a foreign thread: it is queued with the executor's
//! notifier, whose sleep handshake is fenced.) Letters to a shard that has stopped are dropped with the mailbox.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::base::ids::ShardId;
use crate::route::{Answer, QueryId};
use crate::shard::parcel::Parcel;

/// One letter.
pub(crate) enum Letter {
    /// From another shard.
    Parcel { from: ShardId, parcel: Parcel },
    /// From the resolver.
    Resolved { query: QueryId, answer: Answer },
    /// From the main thread: take no more work.
    Drain,
    /// From the main thread: end now.
    Stop,
}

#[derive(Default)]
struct Held {
    letters: Vec<Letter>,
    waker: Option<Waker>,
}

/// One shard's mailbox; clones are the same mailbox.
#[derive(Clone, Default)]
pub(crate) struct Mailbox(Arc<Mutex<Held>>);

impl Mailbox {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing that runs under the lock can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts letters in, in order, and wakes the reader if it sleeps. From any thread.
    pub(crate) fn post(&self, letters: impl IntoIterator<Item = Letter>) {
        let waker = {
            let mut held = self.held();
            held.letters.extend(letters);
            held.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Swaps everything that waits into `into`, which must be empty; waits for the first. For one task only.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, into: &mut Vec<Letter>) -> Poll<()> {
        assert!(into.is_empty(), "letters left unread");
        let mut held = self.held();
        if held.letters.is_empty() {
            held.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut held.letters, into);
        Poll::Ready(())
    }

    /// Lets go of the reader's waker, so that none outlives its executor.
    pub(crate) fn close(&self) {
        let waker = self.held().waker.take();
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::poll_fn;
    use glommio::LocalExecutorBuilder;

    /// Foreign threads wake a sleeping executor, nothing is lost, and each sender's order holds.
    #[test]
    fn letters_from_foreign_threads_arrive_in_order() {
        let (box_a, senders, each) = (Mailbox::default(), 3u16, 2_000u64);
        let reader = box_a.clone();
        let executor = LocalExecutorBuilder::default()
            .spawn(move || async move {
                let mut next = [0u64; 3];
                let mut letters = Vec::new();
                while next.iter().sum::<u64>() < u64::from(senders) * each {
                    poll_fn(|cx| reader.poll_take(cx, &mut letters)).await;
                    for letter in letters.drain(..) {
                        let Letter::Resolved { query, .. } = letter else { panic!("unexpected letter") };
                        let (from, number) = ((query.0 >> 32) as usize, query.0 & 0xffff_ffff);
                        assert_eq!(number, next[from]);
                        next[from] += 1;
                    }
                }
                reader.close();
            })
            .unwrap();
        let threads: Vec<_> = (0..u64::from(senders))
            .map(|from| {
                let mailbox = box_a.clone();
                std::thread::spawn(move || {
                    for number in 0..each {
                        let query = QueryId(from << 32 | number);
                        mailbox.post([Letter::Resolved { query, answer: Answer::NullMx { ttl_s: 1 } }]);
                        if number % 97 == 0 {
                            std::thread::sleep(std::time::Duration::from_micros(300));
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        executor.join().unwrap();
    }
}
