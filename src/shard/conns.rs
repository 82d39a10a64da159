//! The connections of one shard, inbound and outbound, by name.
//!
//! A connection is *taken* while something is done with it and *put back* afterwards, so that the rest of the
//! shard can be used meanwhile; whoever looks for a taken connection finds none.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use slab::Slab;

use crate::base::bytes::{Outbox, Slice};
use crate::base::ids::ConnId;
use crate::base::time::Mono;
use crate::config::Role;
use crate::queue::ChunkRef;
use crate::route::egress::Socks;
use crate::route::reports::Fault;
use crate::route::safety::Safety;
use crate::schedule::fair::Share;
use crate::schedule::site::SiteId;
use crate::schedule::wheel::TimerId;
use crate::shard::body;
use crate::shard::signing::Incoming;
use crate::shard::tls_reports::Watch;
use crate::smtp::auth::User;
use crate::smtp::client::{Client, TlsWish};
use crate::smtp::data::View;
use crate::smtp::server::Server;

/// One connection, either way.
pub(super) struct Conn {
    pub(super) outbox: Outbox,
    /// The shell was told to flush and has not come to the end of what can be sent.
    pub(super) flushing: bool,
    /// The connection ends when its outbox is empty; nothing is read from it any more.
    pub(super) closing: bool,
    /// The moment at which the other side has been silent for too long.
    pub(super) deadline: Mono,
    /// The wheel's entry, and when it fires; earlier than or at the deadline.
    pub(super) timer: Option<(TimerId, Mono)>,
    pub(super) side: Side,
}

#[expect(clippy::large_enum_variant, reason = "one side of each connection, which has an allocation of its own")]
pub(super) enum Side {
    In(Inbound),
    /// Apart, so that a client's takes no more room for it.
    Out(Box<Outbound>),
}

/// A client's connection.
pub(super) struct Inbound {
    pub(super) server: Server,
    pub(super) peer: IpAddr,
    /// What the listener was for that it came to.
    pub(super) role: Role,
    /// The user whose sessions count this one.
    pub(super) counted_user: Option<Arc<User>>,
    /// Of whose part of the relay its messages are.
    pub(super) share: Share,
    /// An incomplete command line, or what came behind a message that waits for its commit.
    pub(super) leftover: Vec<u8>,
    /// The start of a body that came in pieces too small for records of their own.
    pub(super) gathered: Vec<u8>,
    /// Records of the body so far.
    pub(super) chunks: Vec<ChunkRef>,
    /// The message that comes, as far as it is signed.
    pub(super) signing: Option<Box<Incoming>>,
    /// A message of this connection waits for its commit, or its AUTH for an answer; nothing is read from the session until then.
    pub(super) awaiting: bool,
    /// The shell was told not to read.
    pub(super) paused: bool,
    /// It is among those that are looked at again when less waits for the disk.
    pub(super) held_back: bool,
    /// It was refused for want of room, and is not read from for a while.
    pub(super) rests: bool,
    /// STARTTLS was answered; the handshake begins when the reply is out.
    pub(super) tls_due: bool,
    /// When the data of the current message began, `NEVER` outside of one, and how much of it came: for the least rate (DAT-14).
    pub(super) data_since: Mono,
    pub(super) data_bytes: u64,
}

/// A connection to a next hop.
pub(super) struct Outbound {
    pub(super) client: Client,
    /// Through which the rest of the body in the outbox is seen.
    pub(super) view: Option<View>,
    pub(super) site: SiteId,
    pub(super) address: SocketAddr,
    /// What was asked of its host's TLS when it was dialled, whatever DNS says since.
    pub(super) safety: Safety,
    /// It showed a certificate inside TLS; one that proves its name where that is tested.
    pub(super) certified: bool,
    /// What is to be told of its TLS in a report; none once it is, or if nobody is told.
    pub(super) watch: Option<Box<Watch>>,
    /// Why its handshake failed, or why it does not prove its name where that is tested.
    pub(super) fault: Option<Fault>,
    pub(super) wish: TlsWish,
    /// The shell was told to begin the handshake.
    pub(super) tls_begun: bool,
    pub(super) connected: bool,
    pub(super) dialled: Mono,
    /// The session came so far that a transaction could be begun.
    pub(super) was_ready: bool,
    /// In its site's list of connections with nothing to do.
    pub(super) idle: bool,
    /// Since when it waits for a reply with which it will take one more job; counted by its site.
    pub(super) hungry: Option<Mono>,
    /// Transactions begun.
    pub(super) transactions: u32,
    /// Something was delivered or judged: the site is alive.
    pub(super) useful: bool,
    /// It takes no more transactions.
    pub(super) ending: bool,
    pub(super) race: Race,
    /// The conversation with a SOCKS server, while it lasts.
    pub(super) socks: Option<Box<Socks>>,
}

/// Two connections to one host in its two families, of which the first that stands is used (RTE-10; RFC 8305). Together
/// they count as one connection of the site and have one permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Race {
    /// Runs alone.
    None,
    /// A rival is to be dialled if it does not stand soon.
    Ahead,
    /// Against this one.
    With(ConnId),
}

impl Conn {
    pub(super) fn inbound(&mut self) -> &mut Inbound {
        match &mut self.side {
            Side::In(inbound) => inbound,
            Side::Out(_) => unreachable!("asked for the inbound side of an outbound connection"),
        }
    }

    pub(super) fn outbound(&mut self) -> &mut Outbound {
        match &mut self.side {
            Side::Out(outbound) => outbound,
            Side::In(_) => unreachable!("asked for the outbound side of an inbound connection"),
        }
    }

    /// Puts a part of the body in its place that was fetched.
    pub(super) fn fill_body(&mut self, name: u64, slice: Slice) {
        let Conn { outbox, side: Side::Out(outbound), .. } = self else { unreachable!("bodies go to next hops") };
        body::fill(outbox, outbound.view.as_mut(), name, slice);
    }

    pub(super) fn is_inbound(&self) -> bool {
        matches!(self.side, Side::In(_))
    }
}

struct Slot {
    generation: u32,
    /// `None` while taken.
    conn: Option<Box<Conn>>,
}

/// All connections of the shard.
#[derive(Default)]
pub(super) struct Conns {
    slots: Slab<Slot>,
    next_generation: u32,
    pub(super) inbound: usize,
    pub(super) outbound: usize,
}

impl Conns {
    pub(super) fn insert(&mut self, side: Side) -> ConnId {
        match side {
            Side::In(_) => self.inbound += 1,
            Side::Out(_) => self.outbound += 1,
        }
        self.next_generation = self.next_generation.wrapping_add(1);
        let generation = self.next_generation;
        let conn = Box::new(Conn {
            outbox: Outbox::new(),
            flushing: false,
            closing: false,
            deadline: Mono::NEVER,
            timer: None,
            side,
        });
        let slot = self.slots.insert(Slot { generation, conn: Some(conn) });
        ConnId { slot: slot as u32, generation }
    }

    fn slot(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot as usize).filter(|slot| slot.generation == id.generation)
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Conn> {
        let slot = self.slots.get(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
        slot.conn.as_deref()
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.slot(id)?.conn.as_deref_mut()
    }

    pub(super) fn take(&mut self, id: ConnId) -> Option<Box<Conn>> {
        self.slot(id)?.conn.take()
    }

    /// Panics if the connection was not taken.
    pub(super) fn put(&mut self, id: ConnId, conn: Box<Conn>) {
        let slot = self.slot(id).expect("a taken connection keeps its slot");
        assert!(slot.conn.is_none(), "put back what was not taken");
        slot.conn = Some(conn);
    }

    /// Ends a connection, taken or not: its name finds nothing any more.
    pub(super) fn remove(&mut self, id: ConnId, inbound: bool) {
        assert!(self.slot(id).is_some(), "a connection ends once");
        self.slots.remove(id.slot as usize);
        if inbound {
            self.inbound -= 1;
        } else {
            self.outbound -= 1;
        }
    }

    /// The names of all connections, for a drain.
    pub(super) fn names(&self) -> Vec<ConnId> {
        self.slots.iter().map(|(slot, entry)| ConnId { slot: slot as u32, generation: entry.generation }).collect()
    }
}
