//! AUTH as the shard sees it: the question goes out, the answer comes back, and meanwhile the client waits.
//!
//! Nothing is hashed or looked up here: that is another thread's (`control/auth`). A client that is gone when its answer
//! comes is not missed; what the exchange remembered goes with the answer.

use crate::base::ids::ConnId;
use crate::base::time::Now;
use crate::shard::conns::{Conn, Side};
use crate::shard::{Effect, Shard};
use crate::smtp::auth::AuthAnswer;
use crate::smtp::server::Waiting;

impl Shard {
    /// The session asked who its client is: what comes behind waits for the answer.
    pub(super) fn ask_who(&mut self, id: ConnId, conn: &mut Conn, input: &[u8], effects: &mut Vec<Effect>) {
        let inbound = conn.inbound();
        effects.push(Effect::Authenticate { conn: id, request: inbound.server.take_request() });
        inbound.awaiting = true;
        inbound.leftover.extend_from_slice(input);
    }

    /// The answer is here.
    pub(super) fn authenticated(&mut self, now: Now, id: ConnId, answer: AuthAnswer, effects: &mut Vec<Effect>) {
        let Some(mut conn) = self.conns.take(id) else { return };
        match &answer {
            AuthAnswer::Accepted(_) => self.counters.authenticated += 1,
            AuthAnswer::Refused | AuthAnswer::TooMany => self.counters.auth_refused += 1,
            AuthAnswer::Challenge { .. } | AuthAnswer::Malformed | AuthAnswer::Unavailable => {}
        }
        let Conn { outbox, side: Side::In(inbound), .. } = &mut *conn else {
            unreachable!("only clients prove who they are")
        };
        outbox.write(|out| inbound.server.authenticated(answer, out));
        if inbound.server.waiting() == Waiting::Over {
            inbound.leftover.clear();
            conn.closing = true;
        }
        self.go_on(now, id, conn, effects);
    }
}
