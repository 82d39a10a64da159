//! What a shard counts. Plain numbers, read by the shell; all only grow unless their name says otherwise.
//!
//! Each stands once, with what it counts and what an operator should make of it: that text is the metric's help.

use crate::base::histogram::Histogram;
use crate::schedule::refusal::Reason;

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} clients, {} messages accepted, {} recipients delivered, {} failed, {} attempts deferred, {} of unknown outcome, {} reports sent, \
             {} parcels to other shards, {} messages and {} recipients in the queue, {:.3} copies of a body byte",
            self.accepted_connections,
            self.accepted_messages,
            self.delivered,
            self.failed,
            self.deferred,
            self.unknown_outcome,
            self.bounces,
            self.parcels,
            self.messages_live,
            self.recipients_open,
            self.copied_bytes as f64 / self.body_bytes.max(1) as f64,
        )
    }
}

/// How long things took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies {
    /// From a message's end to its record being durable, in microseconds; reports of our own not counted.
    pub commit_us: Histogram,
    /// From a message's arrival to the next hop's yes, in milliseconds, for each transaction that delivered something.
    pub delivery_ms: Histogram,
}

/// One counter, for whoever shows them all.
#[derive(Debug)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// What it counts, and what to make of it.
    pub text: &'static str,
    /// Its value.
    pub read: fn(&Counters) -> u64,
}

/// The counters that go down too.
const GAUGES: &[&str] = &["connections_in", "connections_out", "messages_live", "recipients_open"];

impl Known {
    /// It goes down too.
    pub fn is_gauge(&self) -> bool {
        GAUGES.contains(&self.name)
    }
}

macro_rules! counters {
    ($(#[$meta:meta])* pub struct Counters { $($(#[doc = $text:literal])+ pub $name:ident: u64,)* }) => {
        $(#[$meta])*
        pub struct Counters { $($(#[doc = $text])+ pub $name: u64,)* }

        impl Counters {
            /// All of them.
            pub const ALL: &[Known] = &[$(Known {
                name: stringify!($name),
                text: concat!($($text),+),
                read: |counters| counters.$name,
            }),*];
        }
    };
}

impl Counters {
    /// A next hop's reply that was no success was about this.
    pub(super) fn note_reason(&mut self, reason: Reason) {
        match reason {
            Reason::BadAddress => self.replies_bad_address += 1,
            Reason::Full => self.replies_full += 1,
            Reason::Throttle => self.replies_throttle += 1,
            Reason::Block => self.replies_block += 1,
            Reason::Policy => self.replies_policy += 1,
            Reason::Other => {}
        }
    }
}

counters! {
    /// A shard's counters at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inbound connections now.
    /// At `listen.connections`: clients get 421; raise it, or find out who keeps them open.
    pub connections_in: u64,
    /// Outbound connections now.
    /// Many with few deliveries: next hops are slow to answer.
    pub connections_out: u64,
    /// Messages in responsibility now.
    /// Growing for long: more comes in than goes out; see the busiest sites.
    pub messages_live: u64,
    /// Recipients not settled now.
    /// Far above messages_live: few messages for many.
    pub recipients_open: u64,
    /// Inbound connections since the start.
    /// Far apart between shards: few clients with many messages each; let them open more connections.
    pub accepted_connections: u64,
    /// Inbound connections refused because all places were taken (SES-26).
    /// Growing: raise `listen.connections`, or ask clients to reuse theirs.
    pub refused_connections: u64,
    /// Domains whose mail was started by ETRN (FND-06).
    /// Growing fast: somebody asks again and again; see `etrn.networks`.
    pub nodes_started: u64,
    /// AUTH exchanges that ended well.
    pub authenticated: u64,
    /// AUTH exchanges refused (AUT-04).
    pub auth_refused: u64,
    /// Inbound connections that went inside TLS.
    /// Not growing while accepted_connections does: clients send in clear.
    pub tls_in: u64,
    /// Outbound connections that went inside TLS.
    /// Not growing while dials does: next hops offer no TLS, or `site.default.tls` forbids it.
    pub tls_out: u64,
    /// Of both, those that took up an earlier TLS session.
    /// Low beside tls_in: clients begin anew each time, which costs CPU.
    pub tls_resumed: u64,
    /// TLS handshakes begun with next hops that did not come to their end (TLS-06).
    /// Growing: see the log for which next hops; with `may` their mail goes in clear.
    pub tls_failed_out: u64,
    /// Sessions with next hops that MTA-STS policies being tested would not have allowed (STS-02).
    /// Growing: the log says which; their domains will want to know before they enforce it.
    pub sts_testing_failures: u64,
    /// Messages answered for: by 250, or by a receipt.
    /// What this relay has answered for: its rate is the load.
    pub accepted_messages: u64,
    /// Of them, those that came by another way than SMTP (FND-09).
    /// Its part of accepted_messages is what comes over HTTP.
    pub injected_messages: u64,
    /// Injected messages that were refused, for whatever reason.
    /// Growing: the answers say why; look at the clients.
    pub refused_injections: u64,
    /// Messages that got DKIM signatures (BLK-01).
    /// Far below accepted_messages: see unsigned_messages.
    pub signed_messages: u64,
    /// Messages that would be signed, and were not: From has no key, is not there once, or the header is broken or too long.
    /// Growing: somebody sends as a domain without a key; see the From fields of what is in the queue.
    pub unsigned_messages: u64,
    /// Messages answered 4xx because the log could not take them.
    /// Growing: the disk is full, failing or too slow; see the log.
    pub refused_by_log: u64,
    /// Messages committed whose client was gone before the 250.
    /// Growing: clients give up before the 250 and send again; raise their timeout or look at commit_seconds.
    pub orphaned_acknowledgements: u64,
    /// Recipients delivered.
    /// Its rate is what goes out.
    pub delivered: u64,
    /// Of them, those delivered outside TLS (BLK-06).
    /// Its part of delivered is what anybody on the way can read; `encrypt` or `verify` for the domains that can do better makes it less.
    pub delivered_in_clear: u64,
    /// Recipients failed for good.
    /// Its part of delivered is the bounce rate; a sudden rise is a bad list or a block.
    pub failed: u64,
    /// Attempts that ended with a temporary failure, per recipient.
    /// A rise: a next hop asks for less or greylists; see site_ceiling and the log.
    pub deferred: u64,
    /// Deferred because no reply came after the final dot: each may be delivered twice (RTE-16).
    /// Growing: a next hop breaks off or takes longer than `timeout.data_end_ms`.
    pub unknown_outcome: u64,
    /// Failure reports made.
    /// A sudden rise is a bad list or a forged sender.
    pub bounces: u64,
    /// Failures that could not be reported: null reverse-path or a report that did not fit (DSN-02).
    /// Growing: somebody sends with an empty reverse-path to addresses that do not exist.
    pub unreported_failures: u64,
    /// Outbound connections dialled.
    /// Close to delivered: connections are not reused; see `site.default.idle_ms`.
    pub dials: u64,
    /// Outbound connections that could not be used.
    /// A rise: the network or a next hop is down.
    pub failed_dials: u64,
    /// Replies that said there is no such mailbox (BLK-08).
    /// Many beside delivered: clean the lists of recipients; receivers judge senders by it.
    pub replies_bad_address: u64,
    /// Replies that said the mailbox is full.
    pub replies_full: u64,
    /// Replies that said too much comes, to a host or to one mailbox.
    /// Growing: lower the limits of the site or spread mail over more time.
    pub replies_throttle: u64,
    /// Replies that said we or the sender stand on a list.
    /// Any: see the log for whose, and ask to be taken off it.
    pub replies_block: u64,
    /// Replies that said a rule of the receiver was broken: authentication, content, DNS, TLS.
    /// Any: the log has the words; look at SPF, DKIM, DMARC and the PTR record first.
    pub replies_policy: u64,
    /// Times that a site was slowed down because its next hop asked for less (RTE-25).
    /// Growing: lower the limits of the site or talk to its provider.
    pub throttled: u64,
    /// Transactions begun at next hops.
    /// Its rate beside delivered tells recipients for each transaction.
    pub transactions: u64,
    /// Body parts read back from disk.
    /// Growing: the queue no longer fits `queue.memory_bytes`, which costs disk reads.
    pub reads: u64,
    /// Body octets that clients sent.
    /// Its rate is the load in bytes.
    pub body_bytes: u64,
    /// Body octets copied by this process between the receive buffer and the next hop's socket: into the log's blocks, and
    /// before that where pieces are gathered.
    /// Beside body_bytes: copies of each byte, about 1.
    pub copied_bytes: u64,
    /// Messages copied forward by reclaim.
    /// A high rate: a few old messages hold many segments; the disk is small for this queue.
    pub copied_forward: u64,
    /// Damaged records met while reading back.
    /// Not 0: the disk returns other bytes than were written; run `ringpost spool verify` and replace it.
    pub damaged_reads: u64,
    /// Parcels sent to other shards.
    /// High beside delivered: `site.default.connections` is small for so many shards.
    pub parcels: u64,
}
}
