//! What a shard counts. Plain numbers, read by the shell; all only grow unless their name says otherwise.

use crate::base::histogram::Histogram;

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

/// A shard's counters at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inbound connections now.
    pub connections_in: u64,
    /// Outbound connections now.
    pub connections_out: u64,
    /// Messages in responsibility now.
    pub messages_live: u64,
    /// Recipients not settled now.
    pub recipients_open: u64,
    /// Inbound connections since the start.
    pub accepted_connections: u64,
    /// Inbound connections refused because all places were taken (SES-26).
    pub refused_connections: u64,
    /// AUTH exchanges that ended well.
    pub authenticated: u64,
    /// AUTH exchanges refused (AUT-04).
    pub auth_refused: u64,
    /// Inbound connections that went inside TLS.
    pub tls_in: u64,
    /// Outbound connections that went inside TLS.
    pub tls_out: u64,
    /// Of both, those that took up an earlier TLS session.
    pub tls_resumed: u64,
    /// TLS handshakes begun with next hops that did not come to their end (TLS-06).
    pub tls_failed_out: u64,
    /// Messages answered for: by 250, or by a receipt.
    pub accepted_messages: u64,
    /// Of them, those that came by another way than SMTP (FND-09).
    pub injected_messages: u64,
    /// Injected messages that were refused, for whatever reason.
    pub refused_injections: u64,
    /// Messages answered 4xx because the log could not take them.
    pub refused_by_log: u64,
    /// Messages committed whose client was gone before the 250.
    pub orphaned_acknowledgements: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Recipients failed for good.
    pub failed: u64,
    /// Attempts that ended with a temporary failure, per recipient.
    pub deferred: u64,
    /// Deferred because no reply came after the final dot: each may be delivered twice (RTE-16).
    pub unknown_outcome: u64,
    /// Failure reports made.
    pub bounces: u64,
    /// Failures that could not be reported: null reverse-path or a report that did not fit (DSN-02).
    pub unreported_failures: u64,
    /// Outbound connections dialled.
    pub dials: u64,
    /// Outbound connections that could not be used.
    pub failed_dials: u64,
    /// Times that a site was slowed down because its next hop asked for less (RTE-25).
    pub throttled: u64,
    /// Transactions begun at next hops.
    pub transactions: u64,
    /// Body parts read back from disk.
    pub reads: u64,
    /// Body octets that clients sent.
    pub body_bytes: u64,
    /// Body octets copied by this process between the receive buffer and the next hop's socket: into the log's blocks, and
    /// before that where pieces are gathered.
    pub copied_bytes: u64,
    /// Messages copied forward by reclaim.
    pub copied_forward: u64,
    /// Damaged records met while reading back.
    pub damaged_reads: u64,
    /// Parcels sent to other shards.
    pub parcels: u64,
}
