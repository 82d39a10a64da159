//! The protocol of one connection, whichever it is: SMTP or HTTP. Pure, like both.

use super::Shared;
use crate::client::{self, Feed, State};
use crate::http;
use crate::outbox::Outbox;

/// A session of either protocol.
pub(super) enum Talk {
    Smtp(client::Session),
    Http(http::Session),
}

impl Default for Talk {
    fn default() -> Talk {
        Talk::Smtp(client::Session::default())
    }
}

impl Talk {
    /// A fresh session of what the run speaks.
    pub(super) fn new(shared: &Shared) -> Talk {
        if shared.http.is_some() { Talk::Http(http::Session::default()) } else { Talk::default() }
    }

    pub(super) fn state(&self) -> State {
        match self {
            Talk::Smtp(session) => session.state(),
            Talk::Http(session) => session.state(),
        }
    }

    /// The connection stands. SMTP waits to be greeted.
    pub(super) fn opened(&mut self, shared: &Shared, feed: &mut impl Feed, out: &mut Outbox) {
        if let (Talk::Http(session), Some(http)) = (self, &shared.http) {
            session.opened(&shared.script, http, feed, out);
        }
    }

    pub(super) fn receive(&mut self, bytes: &[u8], shared: &Shared, feed: &mut impl Feed, out: &mut Outbox) {
        match (self, &shared.http) {
            (Talk::Smtp(session), _) => session.receive(bytes, &shared.script, feed, out),
            (Talk::Http(session), Some(http)) => session.receive(bytes, &shared.script, http, feed, out),
            (Talk::Http(_), None) => unreachable!("HTTP is only spoken with its script"),
        }
    }

    pub(super) fn start(&mut self, shared: &Shared, feed: &mut impl Feed, out: &mut Outbox) {
        match (self, &shared.http) {
            (Talk::Smtp(session), _) => session.start(&shared.script, feed, out),
            (Talk::Http(session), Some(http)) => session.start(&shared.script, http, feed, out),
            (Talk::Http(_), None) => unreachable!("HTTP is only spoken with its script"),
        }
    }

    /// The socket is secured, as the session asked.
    pub(super) fn secured(&mut self, out: &mut Outbox) {
        if let Talk::Smtp(session) = self {
            session.secured(out);
        }
    }

    pub(super) fn quit(&mut self, out: &mut Outbox) {
        match self {
            Talk::Smtp(session) => session.quit(out),
            Talk::Http(session) => session.quit(),
        }
    }

    pub(super) fn closed(&mut self, feed: &mut impl Feed) {
        match self {
            Talk::Smtp(session) => session.closed(feed),
            Talk::Http(session) => session.closed(feed),
        }
    }
}
