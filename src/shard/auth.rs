//! AUTH as the shard sees it: the question goes out, the answer comes back, and meanwhile the client waits.
//!
//! Nothing is hashed or looked up here: that is another thread's (`control/auth`). A client that is gone when its answer
//! comes is not missed; what the exchange remembered goes with the answer.

use crate::base::ids::ConnId;
use crate::base::time::Now;
use crate::shard::conns::{Conn, Inbound, Side};
use crate::shard::{Effect, Shard};
use crate::smtp::auth::AuthAnswer;

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
        let answer = self.counted(conn.inbound(), answer);
        match &answer {
            AuthAnswer::Accepted(_) => self.counters.authenticated += 1,
            AuthAnswer::Refused | AuthAnswer::TooMany => self.counters.auth_refused += 1,
            AuthAnswer::Challenge { .. } | AuthAnswer::Malformed | AuthAnswer::Unavailable => {}
        }
        let Conn { outbox, side: Side::In(inbound), .. } = &mut *conn else {
            unreachable!("only clients prove who they are")
        };
        outbox.write(|out| inbound.server.authenticated(answer, out));
        self.go_on(now, id, conn, effects);
    }

    /// The answer, unless the user has as many sessions as it may.
    fn counted(&mut self, inbound: &mut Inbound, answer: AuthAnswer) -> AuthAnswer {
        let AuthAnswer::Accepted(user) = &answer else { return answer };
        // STARTTLS makes a session prove anew who it is (TLS-03).
        if let Some(before) = inbound.counted_user.take() {
            self.crowd.leave_user(&before.name);
        }
        if !self.crowd.enter_user(&user.name, self.settings.auth.sessions_per_user) {
            return AuthAnswer::TooMany;
        }
        inbound.counted_user = Some(user.clone());
        answer
    }
}
