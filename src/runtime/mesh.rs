//! What reaches a shard from other threads: parcels of other shards, answers of the resolver, messages and
//! questions of the control thread, orders of the main thread.
//!
//! One mailbox per shard, written by any thread and emptied by one task of its shard; a burst costs one wake. (A glommio
//! waker may be used from a foreign thread: it is queued with the executor's notifier, whose sleep handshake is
//! fenced.) Letters to a shard that has stopped are dropped with the mailbox.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::balance::Seat;
use super::tls::Keys;
use crate::base::ids::{ConnId, ShardId};
use crate::config::{Role, Settings};
use crate::mail::envelope::Envelope;
use crate::route::{Answer, QueryId};
use crate::schedule::warm_up::Notice;
use crate::shard::orders::{Order, Target};
use crate::shard::parcel::Parcel;
use crate::shard::{Origin, Receipt, ShardReport};
use crate::smtp::auth::{AuthAnswer, ProofAnswer};
use crate::smtp::reply::Reply;

/// One letter.
pub(crate) enum Letter {
    /// From another shard.
    Parcel { from: ShardId, parcel: Parcel },
    /// From the resolver.
    Resolved { query: QueryId, answer: Answer },
    /// From the control thread: a message that came by another way than SMTP.
    Inject(Box<Injection>),
    /// From the control thread: an operator's order.
    Operate(Box<Operation>),
    /// From the control thread: what do you do?
    Report(ReportReply),
    /// From whoever checks credentials.
    Authenticated { conn: ConnId, answer: AuthAnswer },
    /// From whoever has our credentials.
    Proven { conn: ConnId, answer: ProofAnswer },
    /// From the keeper of the book of days' limits.
    Allowance(Notice),
    /// From whichever shard was the last to obey: an order to all was obeyed, and concerned so many jobs.
    Ordered { conn: ConnId, jobs: u64 },
    /// From another shard: a fresh connection, nothing of which was read.
    Client { socket: OwnedFd, role: Role, proxied: bool, seat: Seat },
    /// From the main thread: what holds from now on.
    Change(Box<(Arc<Settings>, Keys)>),
    /// From the main thread: take no more work.
    Drain,
    /// From the main thread: end now.
    Stop,
}

/// Takes an injected message's fate; called once, on the shard's thread; must not block. Dropped if the shard stops first.
pub type InjectionReply = Box<dyn FnOnce(Result<Receipt, Reply>) + Send>;
/// Takes a shard's report; as above.
pub type ReportReply = Box<dyn FnOnce(ShardReport) + Send>;

/// Takes the number of jobs that an order concerned; as above.
pub type OperationReply = Box<dyn FnOnce(u64) + Send>;

/// A whole message for a shard.
pub struct Injection {
    /// Who brought it.
    pub origin: Origin,
    /// From whom and for whom; its addresses were read by `mail::address`.
    pub envelope: Envelope,
    /// Its text in plain form, header included.
    pub body: Vec<u8>,
    /// Where its fate goes.
    pub reply: InjectionReply,
}

/// An operator's order to a shard.
pub struct Operation {
    /// What is to be done.
    pub order: Order,
    /// To what.
    pub target: Target,
    /// Where the number of jobs goes that it concerned; as above.
    pub reply: OperationReply,
}

/// The way to all shards for the other threads of the process; clones are the same way.
#[derive(Clone)]
pub struct Shards(Arc<[Mailbox]>);

impl Shards {
    pub(crate) fn new(mailboxes: &[Mailbox]) -> Shards {
        Shards(mailboxes.into())
    }

    /// How many there are, at least 1.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Hands a message to the shard of that number. Panics if there is none.
    pub fn inject(&self, shard: usize, injection: Injection) {
        self.0[shard].post([Letter::Inject(Box::new(injection))]);
    }

    /// Orders something of the shard of that number. Panics if there is none.
    pub fn operate(&self, shard: usize, operation: Operation) {
        self.0[shard].post([Letter::Operate(Box::new(operation))]);
    }

    /// Orders something of all shards; `then` gets the number of jobs that it concerned when all have answered, or stopped.
    pub(crate) fn operate_all(&self, order: Order, target: &Target, then: impl FnOnce(u64) + Send + Sync + 'static) {
        let tally = Arc::new(Tally { jobs: AtomicU64::new(0), then: Some(Box::new(then)) });
        for shard in 0..self.count() {
            let tally = tally.clone();
            let reply = Box::new(move |jobs| {
                tally.jobs.fetch_add(jobs, Ordering::AcqRel);
            });
            self.operate(shard, Operation { order, target: target.clone(), reply });
        }
    }

    /// Asks the shard of that number what it does. Panics if there is none.
    pub fn report(&self, shard: usize, reply: ReportReply) {
        self.0[shard].post([Letter::Report(reply)]);
    }
}

/// What shards answer to an order, added up; told when the last of them lets go of it.
struct Tally {
    jobs: AtomicU64,
    then: Option<Box<dyn FnOnce(u64) + Send + Sync>>,
}

impl Drop for Tally {
    fn drop(&mut self) {
        if let Some(then) = self.then.take() {
            then(*self.jobs.get_mut());
        }
    }
}

/// One shard's mailbox.
pub(crate) type Mailbox = super::mailbox::Mailbox<Letter>;

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
