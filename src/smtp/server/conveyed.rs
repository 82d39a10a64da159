//! XCLIENT and XFORWARD in a session: who may say them, and what follows (XCL-01, XCL-02).
//!
//! XCLIENT puts another client in the place of the one that is connected: its address, perhaps its user. The session is then at its
//! greeting again, but for TLS, the count of errors, and the right to say XCLIENT again, which stays the connection's. XFORWARD
//! says where the next message comes from, for the log alone, and is forgotten with the transaction.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::Server;
use crate::smtp::auth::{Senders, User};
use crate::smtp::reply::{self, Reply};
use crate::smtp::xclient::{Claim, Forwarded, Told};

impl Server {
    /// Takes an XCLIENT command; or why not.
    pub(super) fn take_claim(&mut self, arguments: &[u8]) -> Option<Reply> {
        if !self.peer.may_convey {
            return Some(reply::NOT_LISTED);
        }
        if self.in_transaction {
            return Some(reply::CONVEYED_IN_TRANSACTION);
        }
        self.claim = Claim::read(arguments).map(Box::new);
        if self.claim.is_none() { Some(reply::BAD_ARGUMENT) } else { None }
    }

    /// The address that the client said after `ServerEvent::Conveyed`, if it did; unspecified if it does not know it.
    pub fn conveyed_address(&self) -> Option<IpAddr> {
        match self.claim.as_ref().and_then(|claim| claim.address.as_ref())? {
            Told::Is(address) => Some(address.to_canonical()),
            Told::Unavailable => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        }
    }

    /// The user that the client said after `ServerEvent::Conveyed`, if it did.
    pub fn conveyed_user(&self) -> Option<&str> {
        match self.claim.as_ref()?.login.as_ref()? {
            Told::Is(name) => Some(name),
            Told::Unavailable => None,
        }
    }

    /// The caller's answer to `ServerEvent::Conveyed`: whether we relay for that client now, or `None` if it may not connect.
    pub fn introduced(&mut self, may_relay: Option<bool>, out: &mut Vec<u8>) {
        let address = self.conveyed_address();
        let claim = self.claim.take().expect("an answer follows a claim");
        let Some(may_relay) = may_relay else { return self.end_session(reply::CONVEYED_TOO_MANY, out) };
        self.peer.may_relay = may_relay;
        self.peer.address = address.unwrap_or(self.peer.address);
        let user = self.user.take();
        self.begin_anew();
        self.user = match claim.login {
            None => user.filter(|_| address.is_none()),
            Some(Told::Unavailable) => None,
            // Whoever checked it answers for its senders, too.
            Some(Told::Is(name)) => Some(Arc::new(User { name, senders: Senders::Any })),
        };
        self.greet(out);
    }

    /// Takes an XFORWARD command.
    pub(super) fn take_forwarded(&mut self, arguments: &[u8]) -> Reply {
        if !self.peer.may_forward {
            return reply::NOT_LISTED;
        }
        if self.in_transaction {
            return reply::CONVEYED_IN_TRANSACTION;
        }
        let mut forwarded = self.forwarded.take().unwrap_or_default();
        let taken = forwarded.take(arguments);
        self.forwarded = Some(forwarded).filter(|forwarded| **forwarded != Forwarded::default());
        if taken { reply::FORWARDED } else { reply::BAD_ARGUMENT }
    }

    /// Where the message comes from, as a listed client says; until its verdict.
    pub fn forwarded(&self) -> Option<&Forwarded> {
        self.forwarded.as_deref()
    }
}
