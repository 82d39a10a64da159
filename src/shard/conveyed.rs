//! XCLIENT as the shard sees it: another client takes the place of the one that is connected, with all that follows from an
//! address (XCL-01, XCL-02): whether we relay for it, whose mail it is, and the counts of connections.

use crate::shard::conns::{Conn, Side};
use crate::shard::{Shard, etrn};

impl Shard {
    /// Judges the client that the session heard of, as if it had connected.
    pub(super) fn introduce(&mut self, conn: &mut Conn) {
        let Conn { outbox, side: Side::In(inbound), .. } = conn else { unreachable!("only clients speak for others") };
        let (address, user) = (inbound.server.conveyed_address(), inbound.server.conveyed_user());
        let settings = &self.settings;
        let has_room = user.is_none_or(|user| self.crowd.enter_user(user, settings.auth.sessions_per_user));
        if !has_room || address.is_some_and(|address| !self.crowd.enter(address, &settings.relay)) {
            if let Some(user) = user.filter(|_| has_room) {
                self.crowd.leave_user(user);
            }
            outbox.write(|out| inbound.server.introduced(None, out));
            return;
        }
        let mut may_relay = inbound.server.peer().may_relay;
        if let Some(address) = address {
            self.crowd.leave(inbound.peer);
            inbound.peer = address;
            inbound.share = settings.share_of(address);
            may_relay = !inbound.role.is_submission() && settings.relay.may_relay(address);
        }
        let before = inbound.counted_user.take();
        outbox.write(|out| inbound.server.introduced(Some(may_relay), out));
        if address.is_some() {
            inbound.server.set_asking(etrn::asking(settings, inbound.peer));
        }
        inbound.counted_user = inbound.server.user().cloned();
        if let Some(before) = before
            .filter(|before| !inbound.counted_user.as_ref().is_some_and(|now| std::sync::Arc::ptr_eq(before, now)))
        {
            self.crowd.leave_user(&before.name);
        }
    }
}
