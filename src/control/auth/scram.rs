//! SCRAM-SHA-256, our side of it: verifiers, and the two steps of an exchange (RFC 5802, RFC 7677).
//!
//! A verifier proves that a client knows the password without holding it. An unknown user gets an exchange that looks like
//! any other, the same each time, and fails at its end (AUT-08). Runs on the control thread; a step costs a few hashes,
//! making a verifier from a password thousands. Errors: what does not fit the grammar is `Malformed`.

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::smtp::auth::ChannelBinding;
use crate::smtp::sasl::{self, Binding};

/// Rounds of PBKDF2 in verifiers that we make: some 5 ms of a core, which is what a client pays too.
const ROUNDS: u32 = 16_384;
/// What a verifier may have; RFC 7677 4 wants 4096 at least, and more than this is a slip.
pub(super) const ROUNDS_ALLOWED: std::ops::RangeInclusive<u32> = 4096..=10_000_000;
const SALT_BYTES: usize = 16;
/// Random bytes of a nonce, ours as a server and as a client.
pub(super) const NONCE_BYTES: usize = 18;

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Verifier {
    rounds: u32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

pub(super) fn keyed(key: &[u8], text: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    tag.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

pub(super) fn hashed(text: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, text).as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system has randomness");
    bytes
}

impl Verifier {
    /// From a password, with a salt of its own.
    pub(super) fn of_password(password: &[u8]) -> Verifier {
        Verifier::derive(password, &random::<SALT_BYTES>(), ROUNDS)
    }

    fn derive(password: &[u8], salt: &[u8], rounds: u32) -> Verifier {
        let mut salted = zeroize::Zeroizing::new([0; 32]);
        let rounds_wanted = rounds.try_into().expect("rounds are never none");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds_wanted, salt, password, &mut *salted);
        let stored_key = hashed(&keyed(&*salted, b"Client Key"));
        Verifier { rounds, salt: salt.to_vec(), stored_key, server_key: keyed(&*salted, b"Server Key") }
    }

    /// Reads `SCRAM-SHA-256$rounds:salt$stored:server`, as PostgreSQL writes it too.
    pub(super) fn parse(text: &str) -> Option<Verifier> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let ((rounds, salt), (stored, server)) = (head.split_once(':')?, keys.split_once(':')?);
        let key = |text: &str| STANDARD.decode(text).ok()?.try_into().ok();
        let rounds = rounds.parse().ok().filter(|rounds| ROUNDS_ALLOWED.contains(rounds))?;
        let salt = STANDARD.decode(salt).ok().filter(|salt| (1..=64).contains(&salt.len()))?;
        Some(Verifier { rounds, salt, stored_key: key(stored)?, server_key: key(server)? })
    }

    /// True if this is the password. Costs all the rounds.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        let derived = Verifier::derive(password, &self.salt, self.rounds);
        constant_time::verify_slices_are_equal(&derived.stored_key, &self.stored_key).is_ok()
    }

    /// What stands in for the verifier of a user who is not there: the same for a name as long as the machine lives, and
    /// matched by no password.
    pub(super) fn of_nobody(secret: &[u8; 32], user: &str, like: Option<&Verifier>) -> Verifier {
        let part = |what: &[u8]| keyed(secret, &[what, user.as_bytes()].concat());
        let (rounds, salt_bytes) = like.map_or((ROUNDS, SALT_BYTES), |like| (like.rounds, like.salt.len()));
        let salt = [part(b"salt\0"), part(b"more\0")].concat()[..salt_bytes].to_vec();
        Verifier { rounds, salt, stored_key: part(b"stored\0"), server_key: part(b"server\0") }
    }
}

impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [salt, stored, server] = [&self.salt[..], &self.stored_key, &self.server_key].map(|b| STANDARD.encode(b));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.rounds)
    }
}

/// Who begins an exchange.
pub(super) struct First<'a> {
    message: sasl::ScramFirst<'a>,
    /// What the client has to send back in its last message: its header and the channel binding.
    binding: Vec<u8>,
}

/// Why an exchange ends with its first message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It does not fit the grammar, or the mechanism that was chosen.
    Malformed,
    /// It binds to what this session does not have.
    NoSuchBinding,
    /// The client can bind, and saw no offer of ours to do so although we made one: somebody in between took it away.
    OfferTaken,
}

impl<'a> First<'a> {
    /// Reads the first message, with the channel binding's flag judged by the rules of RFC 5802 6. `plus`: the mechanism that was
    /// chosen binds to the TLS session; `plus_offered`: it was offered.
    pub(super) fn read(
        message: &'a [u8],
        plus: bool,
        plus_offered: bool,
        channel: &ChannelBinding,
    ) -> Result<First<'a>, Misfit> {
        let message = sasl::scram_first(message).ok_or(Misfit::Malformed)?;
        let mut binding = message.header.as_bytes().to_vec();
        match message.binding {
            Binding::To(name) if plus => binding.extend_from_slice(channel.data(name).ok_or(Misfit::NoSuchBinding)?),
            Binding::ServerLacks if plus_offered && !plus => return Err(Misfit::OfferTaken),
            Binding::No | Binding::ServerLacks if !plus => {}
            _ => return Err(Misfit::Malformed),
        }
        Ok(First { message, binding })
    }

    /// Who the client says it is.
    pub(super) fn user(&self) -> &str {
        &self.message.user
    }

    /// Whom it wants to act for.
    pub(super) fn authorize(&self) -> Option<&str> {
        self.message.authorize.as_deref()
    }

    /// Our first message, and what to remember.
    pub(super) fn answer(&self, verifier: Verifier) -> (Vec<u8>, Pending) {
        self.answer_with(verifier, &STANDARD.encode(random::<NONCE_BYTES>()))
    }

    fn answer_with(&self, verifier: Verifier, our_nonce: &str) -> (Vec<u8>, Pending) {
        let nonce = format!("{}{our_nonce}", self.message.nonce);
        let text = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.rounds);
        let signed = format!("{},{text},", self.message.bare);
        (text.into_bytes(), Pending { nonce, signed, binding: STANDARD.encode(&self.binding), verifier })
    }
}

/// An exchange whose proof is due.
pub(super) struct Pending {
    nonce: String,
    /// The start of what both sides sign.
    signed: String,
    binding: String,
    verifier: Verifier,
}

/// How an exchange ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The client knows the password; this proves to it that we know the verifier.
    Good(Vec<u8>),
    /// It does not.
    Bad,
    /// That was no proof.
    Malformed,
}

impl Pending {
    /// Judges the client's last message.
    pub(super) fn judge(&self, message: &[u8]) -> Proof {
        let Some(last) = sasl::scram_final(message) else { return Proof::Malformed };
        let Some(proof) = STANDARD.decode(last.proof).ok().and_then(|p| <[u8; 32]>::try_from(p).ok()) else {
            return Proof::Malformed;
        };
        let signed = format!("{}{}", self.signed, last.without_proof);
        let signature = keyed(&self.verifier.stored_key, signed.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        let known = constant_time::verify_slices_are_equal(&hashed(&client_key), &self.verifier.stored_key).is_ok();
        if !known || last.nonce != self.nonce || last.binding != self.binding {
            return Proof::Bad;
        }
        let verdict = keyed(&self.verifier.server_key, signed.as_bytes());
        Proof::Good(format!("v={}", STANDARD.encode(verdict)).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange that RFC 7677 3 prints.
    #[test]
    fn the_example_of_the_rfc_runs() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::derive(b"pencil", &salt, 4096);
        let first = First::read(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", false, false, &ChannelBinding::default()).unwrap();
        let (text, pending) = first.answer_with(verifier.clone(), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let good = Proof::Good(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_vec());
        assert_eq!(pending.judge(last), good);
        // One byte off anywhere, or a binding that was not agreed on, proves nothing.
        for at in 0..last.len() {
            let mut wrong = last.to_vec();
            wrong[at] ^= 1;
            assert_ne!(pending.judge(&wrong), good, "at {at}");
        }
        assert!(verifier.matches(b"pencil") && !verifier.matches(b"pencils"));
        assert!(Verifier::parse(&verifier.to_string()) == Some(verifier));
    }

    /// AUT-01: RFC 5802 6, every flag with and without PLUS, with and without the offer.
    #[test]
    fn bindings_are_what_was_agreed_on() {
        let channel = ChannelBinding { exporter: Some([7; 32]), end_point: Some([8u8; 48].as_slice().into()) };
        let none = ChannelBinding::default();
        let read = |flag: &str, plus, offered, channel: &ChannelBinding| {
            let first = format!("{flag},,n=u,r=x");
            First::read(first.as_bytes(), plus, offered, channel).map(|first| first.binding)
        };
        let bound = |flag: &str, data: &[u8]| Ok([flag.as_bytes(), b",,", data].concat());
        let (exporter, end_point) = ("p=tls-exporter", "p=tls-server-end-point");
        assert_eq!(read(exporter, true, true, &channel), bound(exporter, &[7; 32]));
        assert_eq!(read(end_point, true, true, &channel), bound(end_point, &[8; 48]));
        assert_eq!(read("y", false, false, &none), bound("y", b""));
        assert_eq!(read("n", false, false, &none), bound("n", b""));
        assert_eq!(read("n", false, true, &channel), bound("n", b""), "it cannot bind");
        assert_eq!(read("y", false, true, &channel), Err(Misfit::OfferTaken));
        assert_eq!(
            read("y", true, true, &channel),
            Err(Misfit::Malformed),
            "it saw the offer that it says was not there"
        );
        assert_eq!(read("n", true, true, &channel), Err(Misfit::Malformed), "PLUS without a binding");
        assert_eq!(read(exporter, false, true, &channel), Err(Misfit::Malformed), "a binding without PLUS");
        for unknown in ["p=tls-unique", "p=x", "p=TLS-EXPORTER"] {
            assert_eq!(read(unknown, true, true, &channel), Err(Misfit::NoSuchBinding), "{unknown}");
        }
        assert_eq!(read(exporter, true, true, &none), Err(Misfit::NoSuchBinding));
    }

    /// A proof made for one session is none in another: who sits in between has two.
    #[test]
    fn a_proof_is_bound_to_its_session() {
        let salt = [5; 16];
        let verifier = Verifier::derive(b"pencil", &salt, 4096);
        let channel = ChannelBinding { exporter: Some([7; 32]), end_point: None };
        let first = First::read(b"p=tls-exporter,,n=user,r=abc", true, true, &channel).unwrap();
        let (text, pending) = first.answer_with(verifier, "def");
        let prove = |data: &[u8]| {
            let mut salted = [0; 32];
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, 4096.try_into().unwrap(), &salt, b"pencil", &mut salted);
            let client_key = keyed(&salted, b"Client Key");
            let binding = STANDARD.encode([b"p=tls-exporter,,", data].concat());
            let without = format!("c={binding},r=abcdef");
            let signed = format!("n=user,r=abc,{},{without}", String::from_utf8(text.clone()).unwrap());
            let signature = keyed(&hashed(&client_key), signed.as_bytes());
            let proof: Vec<u8> = client_key.iter().zip(signature).map(|(byte, mask)| byte ^ mask).collect();
            pending.judge(format!("{without},p={}", STANDARD.encode(proof)).as_bytes())
        };
        assert!(matches!(prove(&[7; 32]), Proof::Good(_)));
        assert_eq!(prove(&[6; 32]), Proof::Bad);
        assert_eq!(prove(b""), Proof::Bad);
    }

    #[test]
    fn nobody_looks_like_somebody_and_stays_the_same() {
        // AUT-08
        let secret = [3; 32];
        let known = Verifier::derive(b"x", &[1; 12], 5000);
        let nobody = |user| Verifier::of_nobody(&secret, user, Some(&known));
        assert!(nobody("eve") == nobody("eve") && nobody("eve") != nobody("mallory"));
        assert_eq!((nobody("eve").rounds, nobody("eve").salt.len()), (5000, 12));
        assert!(Verifier::parse(&nobody("eve").to_string()).is_some());
        for bad in ["", "SCRAM-SHA-256$1:AA==$AA==:AA==", "SCRAM-SHA-1$4096:AA==$AA==:AA==", "SCRAM-SHA-256$4096:$x:y"]
        {
            assert!(Verifier::parse(bad).is_none(), "{bad}");
        }
    }
}
