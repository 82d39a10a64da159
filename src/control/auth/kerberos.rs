//! Exchanges of GSSAPI and GSS-SPNEGO, step by step (RFC 4752, RFC 4178).
//!
//! Both begin with tokens until the client is known. GSS-SPNEGO ends there; in GSSAPI follow an offer of layers, of which we have none
//! but the empty one (TLS is the layer of SMTP), and the client's choice with the user it wants to act for. Who the client is
//! is a principal of Kerberos; the user is its name, without the realm if that is ours. A step blocks. Panics on nothing a client says.

use std::sync::Arc;

use super::gssapi::{Accepted, Acceptor, Context, Tokens, Trouble};
use crate::smtp::auth::Mechanism;
use crate::smtp::sasl;

/// We offer no layer, and so no length of its messages.
const LAYERS_OFFERED: [u8; 4] = [sasl::NO_LAYER, 0, 0, 0];

/// What a client's response led to.
pub(super) enum Outcome {
    /// It has to say more.
    Challenge(Vec<u8>, Exchange),
    /// It is this principal, and acts for this user if it names one.
    Principal { name: String, authorize: String },
    /// It said what does not belong here.
    Malformed,
    /// It is refused, or cannot be judged, and the operator is told why.
    Failed(Trouble),
}

enum Stage {
    /// Tokens are exchanged.
    Tokens,
    /// The client got the last token and owes an empty response.
    LastToken(String),
    /// The client has to choose a layer.
    Layers(String),
}

/// An exchange that was begun.
pub(super) struct Exchange {
    context: Context,
    has_layers: bool,
    stage: Stage,
}

impl Exchange {
    pub(super) fn new(acceptor: Arc<Acceptor>, mechanism: Mechanism) -> Exchange {
        let has_layers = mechanism == Mechanism::Gssapi;
        let tokens = if has_layers { Tokens::Kerberos } else { Tokens::Negotiated };
        Exchange { context: Context::new(acceptor, tokens), has_layers, stage: Stage::Tokens }
    }

    /// Takes a response. Blocks.
    pub(super) fn step(self, response: &[u8], channel: Option<&[u8]>) -> Outcome {
        self.judge(response, channel).unwrap_or_else(Outcome::Failed)
    }

    fn judge(mut self, response: &[u8], channel: Option<&[u8]>) -> Result<Outcome, Trouble> {
        match std::mem::replace(&mut self.stage, Stage::Tokens) {
            Stage::Tokens => match self.context.accept(response, channel)? {
                Accepted::More(token) => Ok(Outcome::Challenge(token, self)),
                Accepted::Principal { name, token } if token.is_empty() => self.known(name),
                Accepted::Principal { name, token } => {
                    self.stage = Stage::LastToken(name);
                    Ok(Outcome::Challenge(token, self))
                }
            },
            Stage::LastToken(name) if response.is_empty() => self.known(name),
            Stage::LastToken(_) => Ok(Outcome::Malformed),
            Stage::Layers(name) => {
                let choice = self.context.unwrap(response)?;
                let authorize = sasl::gssapi_choice(&choice).map(str::to_owned);
                Ok(authorize.map_or(Outcome::Malformed, |authorize| Outcome::Principal { name, authorize }))
            }
        }
    }

    /// The client is known.
    fn known(mut self, name: String) -> Result<Outcome, Trouble> {
        if !self.has_layers {
            return Ok(Outcome::Principal { name, authorize: String::new() });
        }
        let offer = self.context.wrap(&LAYERS_OFFERED)?;
        self.stage = Stage::Layers(name);
        Ok(Outcome::Challenge(offer, self))
    }
}

/// The user's name that a principal stands for: without the realm if it is ours. One whose name has an `@` of its own
/// stays whole.
pub(super) fn user_of<'a>(principal: &'a str, realm: Option<&str>) -> &'a str {
    let own = realm.and_then(|realm| principal.strip_suffix(realm)?.strip_suffix('@'));
    own.filter(|name| !name.contains(['@', '\\'])).unwrap_or(principal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FND-08: nobody becomes somebody else by the realm.
    #[test]
    fn only_our_realm_is_left_out() {
        let user = |principal| user_of(principal, Some("EXAMPLE.ORG"));
        assert_eq!((user("alice@EXAMPLE.ORG"), user("alice/admin@EXAMPLE.ORG")), ("alice", "alice/admin"));
        for whole in [
            "alice@OTHER.ORG",
            "alice@example.org",
            "alice",
            "EXAMPLE.ORG",
            "alice@EVIL\\@EXAMPLE.ORG",
            "a\\@b@EXAMPLE.ORG",
        ] {
            assert_eq!(user(whole), whole);
        }
        assert_eq!(user_of("alice@EXAMPLE.ORG", None), "alice@EXAMPLE.ORG");
    }
}
