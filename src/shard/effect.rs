//! What a shard wants done. The shell performs effects in order; each is remembered nowhere else.

use std::net::IpAddr;
use std::sync::Arc;

use crate::base::bytes::Block;
use crate::base::ids::{ConnId, InjectionId, MessageId, OperationId, ShardId};
use crate::base::time::Mono;
use crate::config::Endpoint;
pub use crate::config::LogLevel as Level;
use crate::config::Role;
use crate::queue::{Proof, ReadId, SegmentSlot, WriteId};
use crate::route::reports::Seen;
use crate::route::safety::Identity;
use crate::route::{QueryId, Question};
use crate::schedule::warm_up::Request;
use crate::shard::orders::{Order, Target};
use crate::shard::parcel::Parcel;
use crate::smtp::auth::{AuthRequest, ProofRequest};
use crate::smtp::reply::Reply;

/// Which side of a TLS handshake is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsRole {
    /// The client began it.
    Server {
        /// What it came to our listener for: sessions resume within a role only (TLS-11).
        listener: Role,
    },
    /// We begin it.
    Client {
        /// The next hop's name, or its address if it has none.
        host: Arc<str>,
        /// What it has to prove.
        identity: Identity,
    },
}

/// Says that an injected message is durable: for its client what the 250 is for one of SMTP (QUE-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    id: MessageId,
}

impl Receipt {
    /// No proof, no receipt.
    pub(super) fn new(_proof: Proof, id: MessageId) -> Receipt {
        Receipt { id }
    }

    /// The message's name in the queue.
    pub fn id(self) -> MessageId {
        self.id
    }
}

/// One thing to do.
pub enum Effect {
    /// The connection just accepted is known by this name; start reading.
    Open {
        /// Its name.
        conn: ConnId,
    },
    /// Write these bytes to the connection just accepted and close it.
    Refuse {
        /// A whole greeting line; empty: nothing can be said.
        greeting: &'static [u8],
    },
    /// The connection's outbox holds bytes: gather, write, report `Sent`; go on when the socket takes more.
    Flush {
        /// Which connection.
        conn: ConnId,
    },
    /// Close when the outbox is empty. The name is dead afterwards; no further input names it.
    Close {
        /// Which connection.
        conn: ConnId,
    },
    /// Close at once and forget what was not sent. The name is dead afterwards.
    Abort {
        /// Which connection.
        conn: ConnId,
    },
    /// Stop reading from the connection until `Resume`.
    Pause {
        /// Which connection.
        conn: ConnId,
    },
    /// Read again.
    Resume {
        /// Which connection.
        conn: ConnId,
    },
    /// The connection's outbox is empty: do the TLS handshake, then `Secured`; or `Closed` if it fails. What came in clear
    /// after the bytes the shard was given is taken for part of the handshake, never for mail.
    StartTls {
        /// Which connection.
        conn: ConnId,
        /// Which side of the handshake is ours.
        role: TlsRole,
    },
    /// Find out whether a client is who it says, off this thread; then `Authenticated`, once.
    Authenticate {
        /// Whose connection.
        conn: ConnId,
        /// What it said.
        request: Box<AuthRequest>,
    },
    /// Find out what a next hop is to be told of who we are, off this thread; then `Proven`, once.
    Prove {
        /// The session with it.
        conn: ConnId,
        /// What it said.
        request: Box<ProofRequest>,
    },
    /// Connect; then `Connected`, or `Closed` with the reason. Deadlines are the shard's: it sends `Abort`.
    Dial {
        /// The name of the connection to be.
        conn: ConnId,
        /// Where to.
        to: Endpoint,
        /// The source address to bind, if not any.
        source: Option<IpAddr>,
    },
    /// Carry this to the book of what was lent of days' limits, in order; what the book says comes back as `Allowance`.
    Allowance(Request),
    /// The fate of an injected message.
    Injected {
        /// Its name, which is dead afterwards.
        injection: InjectionId,
        /// Durable, or why not: the reply that a client of SMTP would have had.
        outcome: Result<Receipt, Reply>,
    },
    /// Order something of all shards, this one too, as an operator would; then `Ordered`, once.
    OrderAll {
        /// Whose client wants it.
        conn: ConnId,
        /// What is to be done.
        order: Order,
        /// To what.
        target: Target,
    },
    /// An operator's order is obeyed, or will be before long.
    Operated {
        /// Its name.
        operation: OperationId,
        /// Jobs that it concerned.
        jobs: u64,
    },
    /// Write a whole block durably at an aligned offset, then `Written`.
    Write {
        /// Its name.
        write: WriteId,
        /// Which segment file.
        slot: SegmentSlot,
        /// Where, a multiple of `DISK_ALIGN_BYTES`.
        offset_bytes: u32,
        /// What; its length is a multiple of `DISK_ALIGN_BYTES`.
        block: Block,
    },
    /// Read, then `ReadBack`.
    Read {
        /// Its name.
        read: ReadId,
        /// Which segment file.
        slot: SegmentSlot,
        /// Where; any alignment.
        offset_bytes: u32,
        /// How much.
        length_bytes: u32,
    },
    /// Make the segment file, fill it with zeros, sync it and its directory, then `SegmentPrepared`. One that is there
    /// is replaced whole, never overwritten in place.
    PrepareSegment {
        /// Which slot.
        slot: SegmentSlot,
    },
    /// Ask the resolver, then `Resolved`.
    Resolve {
        /// The question's name.
        query: QueryId,
        /// What to ask.
        question: Question,
    },
    /// Carry a parcel to another shard.
    Parcel {
        /// To whom.
        to: ShardId,
        /// What.
        parcel: Parcel,
    },
    /// Give a `Tick` at this moment; replaces the moment asked for before.
    WakeAt(Mono),
    /// What sessions with mail hosts showed of TLS, for the reports to their domains.
    TlsSeen(Vec<Seen>),
    /// Something an operator should see, by level.
    Report(Level, String),
    /// The drain is over: nothing is on its way.
    Drained,
}
