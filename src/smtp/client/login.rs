//! Proving who we are to a next hop, before the first transaction (AUT-10; RFC 4954).
//!
//! The session chooses the mechanism and knows lines, base64 and the order of things; what is said in them is made
//! elsewhere (`control/login`), where the credentials are. What the exchange has to remember travels along, as it does
//! when clients prove who they are to us.
//!
//! - The strongest mechanism that both sides know is used; no other is tried when it fails.
//! - A password goes only to who proved its name inside TLS, and nothing at all outside TLS, unless `allow_clear`.
//! - 235 before the next hop proved that it knows the password, where the mechanism makes it do so, is no success.

use super::{Awaiting, Client, Login, SessionEnd};
use crate::base::bytes::Outbox;
use crate::base::limits;
use crate::base::time::Mono;
use crate::smtp::auth::{self, ExchangeState, Mechanism, Mechanisms, ProofAnswer, ProofRequest, Said};

/// Where an exchange stands.
pub(super) struct Exchange {
    mechanism: Mechanism,
    /// What the next hop said last, as it stood in its line.
    challenge: Vec<u8>,
    /// What the step before left.
    state: Option<ExchangeState>,
    /// The question that the caller has not taken yet.
    request: Option<Box<ProofRequest>>,
    /// AUTH was said.
    begun: bool,
    /// The next hop may say 235.
    complete: bool,
}

impl Exchange {
    /// The last line of a reply.
    pub(super) fn note_challenge(&mut self, text: &[u8]) {
        self.challenge.clear();
        self.challenge.extend_from_slice(text);
    }
}

impl Client {
    /// Nothing stands before the first transaction any more but AUTH, if there is to be any.
    pub(super) fn log_in(&mut self, out: &mut Outbox) {
        let Some(login) = &self.login else { return self.become_ready() };
        let usable = usable(login, self.secured);
        let Some(mechanism) = self.features.auth.iter().find(|mechanism| usable.contains(*mechanism)) else {
            self.words(b"4.7.0 the next hop offers no mechanism of AUTH that may be used");
            return self.leave(SessionEnd::NoLogin, out);
        };
        self.exchange = Some(Box::new(Exchange {
            mechanism,
            challenge: Vec::new(),
            state: None,
            request: None,
            begun: false,
            complete: false,
        }));
        if mechanism == Mechanism::Login {
            // There the next hop speaks first.
            return self.say_auth(None, out);
        }
        self.ask_for_proof(None);
    }

    fn ask_for_proof(&mut self, challenge: Option<Vec<u8>>) {
        let login = self.login.as_ref().expect("nobody logs in unasked");
        let exchange = self.exchange.as_mut().expect("an exchange is under way");
        exchange.request = Some(Box::new(ProofRequest {
            credentials: login.credentials.clone(),
            mechanism: exchange.mechanism,
            challenge,
            state: exchange.state.take(),
        }));
        self.awaiting = Awaiting::Proof;
    }

    /// What is to be answered before the session goes on; once for each time that it is `ClientState::Proving`.
    pub fn take_proof_request(&mut self) -> Option<Box<ProofRequest>> {
        self.exchange.as_mut()?.request.take()
    }

    /// The answer to `take_proof_request`. Nothing happens if the session does not wait for one any more.
    pub fn proven(&mut self, now: Mono, answer: ProofAnswer, out: &mut Outbox) {
        if self.over.is_some() || self.awaiting != Awaiting::Proof {
            return;
        }
        let exchange = self.exchange.as_mut().expect("an exchange is under way");
        let begun = exchange.begun;
        match answer {
            ProofAnswer::Say(Said { text, state, complete }) => {
                exchange.state = state;
                exchange.complete = complete;
                if begun {
                    let mut line = Vec::new();
                    auth::encode(&text, &mut line);
                    line.extend_from_slice(b"\r\n");
                    self.awaiting = Awaiting::Auth;
                    self.send_secret(line, out);
                } else {
                    self.say_auth(Some(&text), out);
                }
            }
            ProofAnswer::Impossible(why) => {
                if begun {
                    // Nobody waits for the reply, which is 501.
                    out.push(b"*\r\n");
                }
                self.words(why.as_bytes());
                self.leave(SessionEnd::NoLogin, out);
            }
        }
        self.arm(now);
    }

    /// AUTH, with an initial response if there is one.
    fn say_auth(&mut self, initial: Option<&[u8]>, out: &mut Outbox) {
        let exchange = self.exchange.as_mut().expect("an exchange is under way");
        exchange.begun = true;
        let mut line = [b"AUTH ", exchange.mechanism.name().as_bytes()].concat();
        if let Some(text) = initial {
            line.push(b' ');
            auth::encode(text, &mut line);
        }
        line.extend_from_slice(b"\r\n");
        self.awaiting = Awaiting::Auth;
        self.send_secret(line, out);
    }

    /// Sends a line and wipes our copy of it; the outbox is the last to hold it.
    fn send_secret(&mut self, line: Vec<u8>, out: &mut Outbox) {
        let line = zeroize::Zeroizing::new(line);
        self.send(&line, out);
    }

    pub(super) fn auth_reply(&mut self, code: u16, out: &mut Outbox) {
        let exchange = self.exchange.as_mut().expect("an exchange is under way");
        match code / 100 {
            2 if exchange.complete => {
                self.exchange = None;
                self.features.logged_in = true;
                self.become_ready();
            }
            2 => {
                self.words(b"4.7.0 the next hop did not prove that it knows our password");
                self.leave(SessionEnd::NoLogin, out);
            }
            3 => {
                let challenge = std::mem::take(&mut exchange.challenge);
                match auth::decode(challenge.trim_ascii()).filter(|text| text.len() <= limits::AUTH_CHALLENGE_MAX_BYTES)
                {
                    Some(text) => self.ask_for_proof(Some(text.to_vec())),
                    None => {
                        out.push(b"*\r\n");
                        self.words(b"4.7.0 the next hop's challenge is no base64");
                        self.leave(SessionEnd::NoLogin, out);
                    }
                }
            }
            _ => self.leave(SessionEnd::LoginRefused { code }, out),
        }
    }
}

/// The mechanisms that may be used in a session.
fn usable(login: &Login, secured: bool) -> Mechanisms {
    let mut usable = Mechanisms::NONE;
    if secured || login.allow_clear {
        usable = usable.with(Mechanism::ScramSha256);
    }
    if (secured && login.proven) || login.allow_clear {
        usable = usable.with(Mechanism::Plain).with(Mechanism::Login);
    }
    usable
}
