//! ETRN as the shard sees it: an order to all shards to try what waits for a domain, and the answer when all have obeyed (FND-06;
//! RFC 1985).
//!
//! It is the order that an operator gives by `retry`: pauses end, what is held stays held. The client waits for the answer, as
//! behind AUTH. How many may wait at a time is bounded; more are told that it could not be done (458).

use crate::base::ids::ConnId;
use crate::base::limits;
use crate::base::time::Now;
use crate::config::Settings;
use crate::shard::conns::{Conn, Side};
use crate::shard::orders::{Order, Target};
use crate::shard::{Effect, Shard};
use crate::smtp::server::Asking;
use std::net::IpAddr;

/// What a client at this address may ask for.
pub(super) fn asking(settings: &Settings, peer: IpAddr) -> Asking {
    let aliases = &settings.aliases;
    Asking { may_ask: aliases.may_ask(peer), is_told: aliases.is_told(peer), may_etrn: aliases.may_etrn(peer) }
}

impl Shard {
    /// The session would have it started what waits for a node: what comes behind waits for the answer.
    pub(super) fn start_node(&mut self, id: ConnId, conn: &mut Conn, input: &[u8], effects: &mut Vec<Effect>) -> bool {
        let Conn { outbox, side: Side::In(inbound), .. } = conn else { unreachable!("only clients say ETRN") };
        let node = inbound.server.node();
        let target = match node.with_subdomains {
            true => Target::DomainsBelow(node.domain.clone()),
            false => Target::Domain(node.domain.clone()),
        };
        if self.nodes_starting >= limits::ETRN_WAITING_MAX || self.is_held(&target) {
            outbox.write(|out| inbound.server.node_started(None, out));
            return false;
        }
        self.nodes_starting += 1;
        self.counters.nodes_started += 1;
        effects.push(Effect::OrderAll { conn: id, order: Order::Retry, target });
        inbound.awaiting = true;
        inbound.leftover.extend_from_slice(input);
        true
    }

    /// All shards obeyed; it concerned so many jobs.
    pub(super) fn all_ordered(&mut self, now: Now, id: ConnId, jobs: u64, effects: &mut Vec<Effect>) {
        self.nodes_starting -= 1;
        let Some(mut conn) = self.conns.take(id) else { return };
        let Conn { outbox, side: Side::In(inbound), .. } = &mut *conn else { unreachable!("only clients say ETRN") };
        outbox.write(|out| inbound.server.node_started(Some(jobs), out));
        self.go_on(now, id, conn, effects);
    }
}
