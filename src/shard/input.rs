//! What the world tells a shard: the only way in is [`Shard::step`](crate::shard::Shard::step).
//!
//! The glommio shell and the simulator make these from completions; nothing here is a socket, file or clock.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::bytes::Block;
use crate::base::ids::{ConnId, InjectionId, OperationId, ShardId};
use crate::config::{Role, Settings};
use crate::mail::envelope::Envelope;
use crate::queue::{DiskError, ReadId, SegmentSlot, WriteId};
use crate::route::reports::Fault;
use crate::route::{Answer, QueryId};
use crate::schedule::warm_up::Notice;
use crate::shard::orders::{Order, Target};
use crate::shard::parcel::Parcel;
use crate::smtp::auth::{AuthAnswer, ChannelBinding, ProofAnswer};

/// One thing that happened.
pub enum Input<'a> {
    /// A client connected. The first effect is `Open` with the connection's name, or `Refuse`.
    Accepted {
        /// The client's address; 127.0.0.1 if it came by a unix socket.
        peer: SocketAddr,
        /// The address it connected to.
        local: IpAddr,
        /// What the listener is for.
        role: Role,
    },
    /// Bytes came in on a connection. The shell keeps none of them: the shard takes all.
    Received {
        /// Which connection.
        conn: ConnId,
        /// What came; never empty.
        bytes: &'a [u8],
    },
    /// So many bytes of the connection's outbox went out.
    Sent {
        /// Which connection.
        conn: ConnId,
        /// How many, at most what the outbox held.
        count: usize,
    },
    /// A dialled connection stands.
    Connected {
        /// Which connection.
        conn: ConnId,
        /// Our end of it, where it has an address.
        local: Option<IpAddr>,
    },
    /// The TLS handshake that `StartTls` began is done: from here on `Received` is what came inside TLS, and what is in
    /// the outbox goes out inside it. If it fails, `Closed` comes instead.
    Secured {
        /// Which connection.
        conn: ConnId,
        /// What was agreed on.
        info: TlsInfo,
    },
    /// What `Authenticate` asked is known.
    Authenticated {
        /// Whose connection; it may be gone.
        conn: ConnId,
        /// What came of it.
        answer: AuthAnswer,
    },
    /// What `Prove` asked is known.
    Proven {
        /// Which connection; it may be gone.
        conn: ConnId,
        /// What there is to say.
        answer: ProofAnswer,
    },
    /// The connection is gone: the peer closed, an error, or a dial that failed. Not given after `Close` was performed.
    Closed {
        /// Which connection.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// A whole message came by another way than SMTP. Answered by `Effect::Injected` once its fate is known, exactly once.
    Inject {
        /// Its name until then.
        injection: InjectionId,
        /// Who brought it.
        origin: Origin,
        /// From whom and for whom; its addresses were read by `mail::address`.
        envelope: &'a Envelope,
        /// Its text in plain form, header included.
        body: &'a [u8],
    },
    /// A write of the log ended.
    Written {
        /// Which write.
        write: WriteId,
        /// Durable, or why not.
        result: Result<(), DiskError>,
    },
    /// A read of the log ended.
    ReadBack {
        /// Which read.
        read: ReadId,
        /// Exactly the bytes asked for, or why not.
        result: Result<Block, DiskError>,
    },
    /// A segment file was made and filled with zeros, or could not be.
    SegmentPrepared {
        /// Which slot.
        slot: SegmentSlot,
        /// Ready, or why not.
        result: Result<(), DiskError>,
    },
    /// The resolver answered.
    Resolved {
        /// Which question.
        query: QueryId,
        /// The answer; failures too.
        answer: Answer,
    },
    /// The book of what was lent of days' limits has something to say, and has it on disk.
    Allowance(Notice),
    /// Another shard sent something.
    Parcel {
        /// Who.
        from: ShardId,
        /// What.
        parcel: Parcel,
    },
    /// The moment asked for by `WakeAt` has come; harmless at any other time.
    Tick,
    /// An operator orders something. Answered by `Effect::Operated` in the same step.
    Operate {
        /// Its name.
        operation: OperationId,
        /// What is to be done.
        order: Order,
        /// To what.
        target: &'a Target,
    },
    /// All shards obeyed the order of `OrderAll`.
    Ordered {
        /// Whose connection; it may be gone.
        conn: ConnId,
        /// Jobs that it concerned, on all shards.
        jobs: u64,
    },
    /// Other settings hold from now on: for sessions that begin, for what is begun, and for mail that waits.
    Change {
        /// The same for all shards; number of shards, spool and listeners are as they were.
        settings: Arc<Settings>,
    },
    /// Stop taking work: 421 to every client, finish or defer what is on its way, then `Drained`.
    Drain,
}

/// Who brought a message that did not come by SMTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client at this address, which has to be one that may relay.
    Client(IpAddr),
    /// The relay itself, which is of no tenant.
    Own,
}

/// What the two sides of a TLS connection agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// The cipher suite by its registered name.
    pub cipher: &'static str,
    /// An earlier session was taken up again.
    pub resumed: bool,
    /// What an AUTH exchange may be bound to.
    pub binding: ChannelBinding,
    /// The peer showed a certificate; of a client, one that was asked for and is from an authority we trust; of a next hop that is
    /// tested, one that proves its name.
    pub certified: bool,
    /// Why a next hop that is tested does not prove its name.
    pub fault: Option<Fault>,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed its sending side, or the connection was shut in order.
    PeerClosed,
    /// Reset, unreachable, refused or timed out, as the operating system's error number says.
    Failed {
        /// `errno`; 0 if unknown.
        errno: i32,
    },
    /// TLS broke, or the peer did not prove what it was to prove.
    Tls(Fault),
}
