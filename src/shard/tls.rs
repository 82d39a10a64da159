//! TLS as the shard sees it: when a connection's handshake begins, and what is forgotten when it is done.
//!
//! The handshake itself, and every record, are the shell's. Here is only the order of things: no byte in clear is read
//! once a handshake was agreed on, and no handshake begins before the last byte in clear is out (TLS-02, TLS-05).

use crate::base::ids::ConnId;
use crate::base::time::Now;
use crate::route::safety::{Identity, Safety};
use crate::shard::conns::{Conn, Side};
use crate::shard::{Effect, Shard, TlsInfo, TlsRole};
use crate::smtp::client::ClientState;
use crate::smtp::server::Waiting;

impl Shard {
    /// The next hop waits for the handshake: begins it, once. False if the next hop answered before STARTTLS was out,
    /// which no honest one does.
    #[must_use]
    pub(super) fn begin_tls(&mut self, id: ConnId, conn: &mut Conn, effects: &mut Vec<Effect>) -> bool {
        if !conn.outbox.is_empty() {
            return false;
        }
        let outbound = conn.outbound();
        if std::mem::replace(&mut outbound.tls_begun, true) {
            return true;
        }
        let site = &self.sites.table[outbound.site as usize];
        let host = site.hosts.name(outbound.address).unwrap_or_else(|| outbound.address.ip().to_string().into());
        let identity = match &outbound.safety {
            Safety::Always(identity) => identity.clone(),
            Safety::Tested { .. } => Identity::Tested,
            Safety::IfOffered | Safety::Never => Identity::Any,
        };
        effects.push(Effect::StartTls { conn: id, role: TlsRole::Client { host, identity } });
        true
    }

    /// A handshake is done: the session begins anew inside TLS (TLS-03, TLS-05).
    pub(super) fn secured(&mut self, now: Now, id: ConnId, info: TlsInfo, effects: &mut Vec<Effect>) {
        let Some(mut conn) = self.conns.take(id) else { return };
        if conn.closing {
            return self.conns.put(id, conn);
        }
        self.counters.tls_resumed += u64::from(info.resumed);
        let Conn { outbox, side, .. } = &mut *conn;
        match side {
            Side::In(inbound) => {
                assert_eq!(inbound.server.waiting(), Waiting::Handshake, "a handshake was not asked for");
                self.counters.tls_in += 1;
                if info.certified && !inbound.role.is_submission() {
                    inbound.server.let_relay();
                }
                outbox.write(|out| inbound.server.secured(info.cipher, info.binding, out));
                self.set_client_deadline(now, id, &mut conn);
                self.put_inbound(id, conn, effects);
            }
            Side::Out(outbound) => {
                assert_eq!(outbound.client.state(), ClientState::Handshake, "a handshake was not asked for");
                self.counters.tls_out += 1;
                outbound.certified = info.certified;
                outbound.fault = info.fault;
                outbound.client.secured(now.mono, outbox);
                self.after_client(now, id, conn, effects);
            }
        }
    }
}
