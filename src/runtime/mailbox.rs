//! A mailbox: a queue that any thread writes and one task empties, which wakes that task once for a burst.
//!
//! Only a reader that found nothing leaves its waker; the first letter of a burst takes it and wakes the executor, the rest
//! find none. The order that matters: the writer puts the letter in and then looks for a waker, the reader leaves the waker
//! and then looks for letters, so one of the two sees the other. What it is made of comes from `sync` beside it: in the
//! relay crossbeam's queue and the standard lock, and in `tests/models` those of loom, which tries this very file in
//! every order of its threads' steps.

use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use super::sync::{Arc, Mutex, Padded, Queue};

struct Shared<T> {
    letters: Queue<T>,
    /// Of a reader that found nothing. On a cache line of its own: writers look at it, the reader rarely.
    waker: Padded<Mutex<Option<Waker>>>,
}

/// One reader's mailbox; clones are the same mailbox.
pub(crate) struct Mailbox<T>(Arc<Shared<T>>);

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Mailbox(Arc::clone(&self.0))
    }
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Mailbox(Arc::new(Shared { letters: Queue::new(), waker: Padded::new(Mutex::new(None)) }))
    }
}

impl<T> Mailbox<T> {
    /// Nothing that runs under the lock can leave it half done.
    fn take_waker(&self) -> Option<Waker> {
        self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts letters in, in order, and wakes the reader if it sleeps. From any thread.
    pub(crate) fn post(&self, letters: impl IntoIterator<Item = T>) {
        letters.into_iter().for_each(|letter| self.0.letters.push(letter));
        if let Some(waker) = self.take_waker() {
            waker.wake();
        }
    }

    /// Moves everything that waits into `into`, which must be empty; waits for the first. For one task only.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, into: &mut Vec<T>) -> Poll<()> {
        assert!(into.is_empty(), "letters left unread");
        if self.0.letters.is_empty() {
            *self.0.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        }
        // Looked at behind the waker: a letter posted in between is either seen here or finds the waker.
        while let Some(letter) = self.0.letters.pop() {
            into.push(letter);
        }
        if into.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Lets go of the reader's waker, so that none outlives its executor.
    pub(crate) fn close(&self) {
        drop(self.take_waker());
    }
}
