//! TLS without the cipher: handshakes that succeed, fail or stall, and what comes in clear where nothing in clear may.
//!
//! As in the shell, a handshake begins with an empty outbox; what came in clear and was not given to the shard yet is
//! taken for part of it, which ends the connection.

use ringpost::base::ids::ConnId;
use ringpost::config::TlsPolicy;
use ringpost::route::safety::Identity;
use ringpost::shard::{CloseReason, Input, TlsInfo, TlsRole};

use crate::net::{End, Peer};
use crate::world::{Event, World};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Clear,
    Handshake,
    Inside,
}

impl World {
    pub fn start_tls(&mut self, shard: usize, name: ConnId, role: TlsRole) {
        let index = *self.by_name.get(&(shard, name)).expect("only open connections go inside TLS");
        let outbox = self.shards[shard].as_ref().and_then(|shard| shard.outbox(name));
        assert!(outbox.is_some_and(|outbox| outbox.is_empty()), "bytes in clear wait while the handshake begins");
        let policy = self.plan.settings.tls.policies.default;
        let conn = &mut self.conns[index];
        assert_eq!(conn.layer, Layer::Clear, "a connection goes inside TLS once");
        conn.layer = Layer::Handshake;
        match (&conn.peer, role) {
            (Peer::Client(_), TlsRole::Server { .. }) => {}
            (Peer::Hop(hop), TlsRole::Client { identity, .. }) => {
                assert_ne!(policy, TlsPolicy::None, "a handshake that nobody wants");
                assert_eq!(identity == Identity::Name, policy == TlsPolicy::Verify);
                assert!(hop.start_tls, "a handshake that the next hop was not asked for");
            }
            (_, role) => panic!("the wrong side of a handshake: {role:?}"),
        }
        self.trace.note(self.now, "handshake", index as u64, 0, || format!("conn {index}"));
        if !self.dice.fault("tls_stall", self.faults.tls_stall) {
            let delay = self.dice.range(2, 3 * self.plan.net_latency_us);
            self.after_here(delay, Event::Handshake { conn: index });
        }
    }

    /// The last byte of a handshake came, or ought to have.
    pub fn handshake(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if !conn.open || conn.layer != Layer::Handshake || conn.is_lost() {
            return;
        }
        let (shard, name) = (conn.shard, conn.name);
        if let Peer::Client(client) = &conn.peer {
            let client = &self.clients[*client];
            if client.over || client.silent {
                return;
            }
            // What it sent in clear behind STARTTLS is under way, or it has not seen the 220 yet.
            if !client.handshaking && conn.nothing_comes() {
                return self.after_here(self.plan.net_latency_us, Event::Handshake { conn: index });
            }
        }
        let conn = &self.conns[index];
        // Any 2yz is taken for consent, also of a next hop that is past all reason.
        let alone = matches!(&conn.peer, Peer::Hop(hop) if hop.dead);
        let fails = alone || !conn.nothing_comes() || self.dice.fault("tls_fail", self.faults.tls_fail);
        self.trace.note(self.now, "secured", index as u64, (!fails).into(), || format!("conn {index}: {}", !fails));
        if fails {
            return self.fail_handshake(index);
        }
        self.conns[index].layer = Layer::Inside;
        if let Peer::Hop(hop) = &mut self.conns[index].peer {
            hop.secured();
        }
        let info = TlsInfo {
            cipher: "TLS_AES_128_GCM_SHA256",
            resumed: self.dice.permille(500),
            binding: Default::default(),
            certified: false,
            fault: None,
        };
        self.step(shard, Input::Secured { conn: name, info });
        if let Peer::Client(number) = self.conns[index].peer {
            self.clients[number].secured = true;
            self.client_receives(index, number, b"");
        }
    }

    /// Not a handshake, or none that comes to its end: the shell closes.
    pub fn fail_handshake(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let (shard, name) = (conn.shard, conn.name);
        self.forget(index);
        self.end_down(index, End::Reset);
        self.step(shard, Input::Closed { conn: name, reason: CloseReason::Failed { errno: 71 } });
    }
}
