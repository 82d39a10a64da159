//! The readers of this room behind plain types, for the fuzzer (`tests/fuzz`): the file of users, what services answer, and what we
//! say to whatever next hops say. Nobody else calls them.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Found;
use super::prover::{Answerer, Credentials, scram_first};
use super::scram::keyed;
use super::service;
use super::users::{Table, Verifier};
use crate::smtp::auth::{ExchangeState, Mechanism, ProofAnswer, ProofRequest, User};

/// The users of a file.
pub struct Known(Table);

impl Known {
    /// Reads the file's text.
    pub fn read(text: &str) -> Result<Known, String> {
        Table::parse(text).map(Known)
    }

    /// A user, and the verifier as it is written.
    pub fn find(&self, name: &str) -> Option<(Arc<User>, String)> {
        let entry = self.0.find(name)?;
        let verifier = match &entry.verifier {
            Verifier::Argon2(text) => text.to_string(),
            Verifier::Scram(verifier) => verifier.to_string(),
            Verifier::Nt(hash) => hash.to_string(),
            Verifier::Kerberos => "kerberos".to_owned(),
        };
        Some((entry.user.clone(), verifier))
    }
}

/// What a service knows of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knows {
    /// It is this one.
    User(Arc<User>),
    /// It is nobody.
    Nobody,
    /// Nothing for certain.
    Nothing,
}

fn knows(found: Found) -> Knows {
    match found {
        Found::Yes(user) => Knows::User(user),
        Found::No => Knows::Nobody,
        Found::Unknown => Knows::Nothing,
    }
}

/// Whose a token is by the answer of the service that introspects it.
pub fn introspected(answer: &[u8], claim: &str) -> Knows {
    knows(service::introspected(answer, claim))
}

/// What follows from the answer of a service that knows the password.
pub fn confirmed(answer: &[u8], user: &str) -> Knows {
    knows(service::confirmed(answer, user))
}

/// We, towards a next hop.
pub struct Proving {
    answerer: Answerer,
    credentials: Credentials,
}

impl Proving {
    /// With these credentials, as their file has them.
    pub fn with(text: &str) -> Result<Proving, String> {
        Ok(Proving { answerer: Answerer::default(), credentials: Credentials::parse(text)? })
    }

    /// Begins SCRAM with a nonce that is known.
    pub fn begin_scram(&self, nonce: &str) -> ProofAnswer {
        scram_first(&self.credentials.user, nonce)
    }

    /// What is said to a challenge.
    pub fn answer(
        &mut self,
        mechanism: Mechanism,
        challenge: Option<&[u8]>,
        state: Option<ExchangeState>,
    ) -> ProofAnswer {
        let (credentials, challenge) = (Arc::from(Path::new("file")), challenge.map(<[u8]>::to_vec));
        self.answerer.answer_as(&self.credentials, ProofRequest { credentials, mechanism, challenge, state })
    }

    /// What a next hop that knows the password shows for an exchange.
    pub fn verdict(&self, salt: &[u8], rounds: u32, signed: &str) -> String {
        let password = stringprep::saslprep(&self.credentials.password);
        let password = password.as_deref().unwrap_or(&self.credentials.password);
        let mut salted = [0; 32];
        let rounds = rounds.try_into().expect("rounds are never none");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password.as_bytes(), &mut salted);
        format!("v={}", STANDARD.encode(keyed(&keyed(&salted, b"Server Key"), signed.as_bytes())))
    }
}
