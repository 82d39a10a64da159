//! AUTH in a session: lines, base64 and the order of things (AUT-01..AUT-07; RFC 4954).
//!
//! An exchange is a row of steps: the client's response goes to the caller, the caller's answer becomes a challenge or the
//! end. While the caller looks, nothing is read. A line that is `*` alone gives an exchange up. Failures are
//! counted for the whole session; past the bound the next one ends it (AUT-04).

use std::sync::Arc;

use super::{Server, ServerEvent, Waiting};
use crate::base::limits::{AUTH_CHALLENGES_MAX, AUTH_FAILURES_MAX};
use crate::mail::trace::Protocol;
use crate::smtp::auth::{self, AuthAnswer, AuthRequest, ExchangeState, Mechanism, Mechanisms, User};
use crate::smtp::reply::{self, Reply};

/// An exchange that was begun.
#[derive(Debug)]
pub(super) struct Exchange {
    mechanism: Mechanism,
    /// What the last answer left.
    state: Option<ExchangeState>,
    /// How often the client was asked for more.
    challenges: u32,
}

impl Server {
    /// The mechanisms offered now.
    pub(super) fn mechanisms(&self) -> Mechanisms {
        match self.cipher {
            None => self.settings.auth.in_clear,
            Some(_) if self.binding.as_ref().is_some_and(|binding| binding.suffices()) => self.settings.auth.inside_tls,
            Some(_) => self.settings.auth.inside_tls.without(Mechanism::ScramSha256Plus),
        }
    }

    /// Takes an AUTH command (AUT-01, AUT-05).
    pub(super) fn begin_auth(
        &mut self,
        mechanism: &[u8],
        initial: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Option<ServerEvent<'static>> {
        let offered = self.mechanisms();
        let refusal = if offered.is_empty() && self.cipher.is_none() && !self.settings.auth.inside_tls.is_empty() {
            Some(reply::TLS_FIRST)
        } else if offered.is_empty() {
            Some(reply::NOT_IMPLEMENTED)
        } else if self.hello.is_empty() || self.protocol == Protocol::Smtp {
            Some(reply::HELLO_FIRST)
        } else if self.user.is_some() {
            Some(reply::AUTHENTICATED_ALREADY)
        } else if self.in_transaction {
            Some(reply::AUTH_IN_TRANSACTION)
        } else {
            None
        };
        let known = Mechanism::of_name(mechanism).filter(|known| offered.contains(*known));
        let (refusal, mechanism) = match (refusal, known) {
            (None, None) => (Some(reply::MECHANISM_UNKNOWN), Mechanism::Plain),
            (refusal, known) => (refusal, known.unwrap_or(Mechanism::Plain)),
        };
        if let Some(refusal) = refusal {
            self.answer(refusal, out);
            return None;
        }
        self.exchange = Some(Exchange { mechanism, state: None, challenges: 0 });
        match initial {
            Some(initial) => self.take_response(initial, out),
            // The client speaks first in these: the empty challenge asks for it (AUT-02).
            None if mechanism != Mechanism::Login => {
                reply::write_challenge(out, b"");
                None
            }
            None => Some(self.ask(None)),
        }
    }

    /// Takes a response line (AUT-03).
    pub(super) fn take_response(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<ServerEvent<'static>> {
        let response = if line == b"*" { None } else { auth::decode(line) };
        match response {
            Some(response) => Some(self.ask(Some(response))),
            None => {
                self.exchange = None;
                self.answer(if line == b"*" { reply::AUTH_CANCELLED } else { reply::BAD_BASE64 }, out);
                None
            }
        }
    }

    fn ask(&mut self, response: Option<zeroize::Zeroizing<Vec<u8>>>) -> ServerEvent<'static> {
        let exchange = self.exchange.as_mut().expect("an exchange was begun");
        let request = AuthRequest {
            mechanism: exchange.mechanism,
            response,
            state: exchange.state.take(),
            peer: self.peer.address,
            binding: self.binding.as_deref().cloned().unwrap_or_default(),
            plus_offered: self.mechanisms().contains(Mechanism::ScramSha256Plus),
        };
        self.request = Some(Box::new(request));
        self.waiting = Waiting::Credentials;
        ServerEvent::Authenticate
    }

    /// What `ServerEvent::Authenticate` asks; once for each.
    pub fn take_request(&mut self) -> Box<AuthRequest> {
        self.request.take().expect("a request follows Authenticate")
    }

    /// Whoever was asked has answered: a challenge, or the end of the exchange.
    pub fn authenticated(&mut self, answer: AuthAnswer, out: &mut Vec<u8>) {
        assert_eq!(self.waiting, Waiting::Credentials, "an answer follows a request");
        self.waiting = Waiting::Command;
        let exchange = self.exchange.take().expect("an exchange was begun");
        match answer {
            AuthAnswer::Challenge { text, state } if exchange.challenges < AUTH_CHALLENGES_MAX => {
                reply::write_challenge(out, &text);
                let challenges = exchange.challenges + 1;
                self.exchange = Some(Exchange { state: Some(state), challenges, ..exchange });
            }
            AuthAnswer::Accepted(user) => {
                self.set_user(user);
                reply::AUTHENTICATED.write(out);
            }
            AuthAnswer::Refused => self.auth_failed(out),
            AuthAnswer::Malformed | AuthAnswer::Challenge { .. } => self.answer(reply::MALFORMED_RESPONSE, out),
            AuthAnswer::Unavailable => reply::AUTH_UNAVAILABLE.write(out),
            AuthAnswer::TooMany => self.end_session(reply::AUTH_TOO_MANY, out),
        }
        if self.ends_after_verdict {
            self.end_session(reply::SHUTTING_DOWN, out);
        }
    }

    fn auth_failed(&mut self, out: &mut Vec<u8>) {
        self.auth_failures += 1;
        if self.auth_failures > AUTH_FAILURES_MAX {
            self.end_session(reply::AUTH_TOO_MANY, out);
        } else {
            self.answer(reply::AUTH_REFUSED, out);
        }
    }

    /// The client is this user from here on (TRC-04).
    pub(super) fn set_user(&mut self, user: Arc<User>) {
        self.protocol = self.protocol.authenticated();
        self.user = Some(user);
    }

    /// Who the client proved to be.
    pub fn user(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }

    /// Why MAIL from this mailbox is not taken from this client, if it is not (AUT-06, TLS-09).
    pub(super) fn refuse_sender(&self, mailbox: &[u8]) -> Option<Reply> {
        match &self.user {
            Some(user) if !user.senders.allow(mailbox) => Some(reply::SENDER_NOT_OWNED),
            None if self.settings.auth.demanded && self.mechanisms().is_empty() => Some(reply::TLS_FIRST),
            None if self.settings.auth.demanded => Some(reply::AUTH_FIRST),
            _ => None,
        }
    }
}
