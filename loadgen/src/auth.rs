//! AUTH at both ends (RFC 4954): PLAIN (RFC 4616), LOGIN, and SCRAM-SHA-256 (RFC 5802, RFC 7677).
//!
//! Pure but for the nonces of SCRAM, which are the system's randomness. The keys that SCRAM derives from a password are
//! kept, so that the thousands of iterations are made once per salt and not on every connection. User names are taken
//! as they are, without SASLprep. Whatever the other end says is a failed login at worst; nothing panics.

use std::sync::Mutex;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 18;
/// Iterations of a sink's SCRAM: the least that RFC 7677 allows.
const ITERATIONS: u32 = 4096;
/// The most iterations a server may ask for: more would only stop the sender.
const ITERATIONS_MAX: u32 = 1_000_000;
const SALT: &[u8] = b"loadgen sink";
/// Salted keys that are kept.
const KEPT_MAX: usize = 64;

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Mechanism {
    /// PLAIN.
    Plain,
    /// LOGIN.
    Login,
    /// SCRAM-SHA-256.
    ScramSha256,
}

impl Mechanism {
    /// Its name in EHLO's answer.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
        }
    }
}

/// All of them, as a sink offers them.
pub const MECHANISMS: [Mechanism; 3] = [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256];

/// Who somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
}

impl std::str::FromStr for Credentials {
    type Err = String;

    fn from_str(text: &str) -> Result<Credentials, String> {
        let parts = text.split_once(':').filter(|(user, _)| !user.is_empty());
        let (user, password) = parts.ok_or_else(|| format!("`{text}` is no USER:PASSWORD"))?;
        Ok(Credentials { user: user.into(), password: password.into() })
    }
}

struct Salted {
    salt: Vec<u8>,
    iterations: u32,
    key: [u8; KEY_BYTES],
}

/// How one end logs in, or lets in. Shared by all sessions.
pub struct Auth {
    /// The sender's choice; a sink takes what the client chooses.
    pub mechanism: Mechanism,
    credentials: Credentials,
    kept: Mutex<Vec<Salted>>,
}

impl Auth {
    /// With these credentials.
    pub fn new(mechanism: Mechanism, credentials: Credentials) -> Auth {
        Auth { mechanism, credentials, kept: Mutex::new(Vec::new()) }
    }

    fn salted(&self, salt: &[u8], iterations: u32) -> [u8; KEY_BYTES] {
        let mut kept = self.kept.lock().expect("no holder panics");
        if let Some(known) = kept.iter().find(|known| known.salt == salt && known.iterations == iterations) {
            return known.key;
        }
        let mut key = [0; KEY_BYTES];
        let rounds = std::num::NonZeroU32::new(iterations).unwrap_or(std::num::NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, self.credentials.password.as_bytes(), &mut key);
        if kept.len() == KEPT_MAX {
            kept.remove(0);
        }
        kept.push(Salted { salt: salt.to_vec(), iterations, key });
        key
    }

    fn plain(&self) -> Vec<u8> {
        [b"\0", self.credentials.user.as_bytes(), b"\0", self.credentials.password.as_bytes()].concat()
    }
}

/// What an end does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Says this (base64), and goes on.
    Say(String),
    /// The other end is who it should be.
    Done,
    /// It is not, or speaks another language.
    Failed,
}

/// A login under way on the sending side.
#[derive(Debug)]
pub struct Login {
    mechanism: Mechanism,
    step: u32,
    /// SCRAM: `n=USER,r=NONCE`.
    client_first: String,
    /// SCRAM: what the server must prove itself with.
    server_signature: Vec<u8>,
}

impl Login {
    /// Begins; the second part is the line to send, without its end.
    pub fn begin(auth: &Auth) -> (Login, String) {
        let mechanism = auth.mechanism;
        let mut login = Login { mechanism, step: 0, client_first: String::new(), server_signature: Vec::new() };
        let line = match mechanism {
            Mechanism::Plain => format!("AUTH PLAIN {}", BASE64.encode(auth.plain())),
            Mechanism::Login => "AUTH LOGIN".to_string(),
            Mechanism::ScramSha256 => {
                login.client_first = format!("n={},r={}", escaped(&auth.credentials.user), nonce());
                format!("AUTH SCRAM-SHA-256 {}", BASE64.encode(format!("n,,{}", login.client_first)))
            }
        };
        (login, line)
    }

    /// Answers a 334.
    pub fn answer(&mut self, auth: &Auth, challenge: &[u8]) -> Step {
        self.step += 1;
        match (self.mechanism, self.step) {
            (Mechanism::Login, 1) => Step::Say(BASE64.encode(&auth.credentials.user)),
            (Mechanism::Login, 2) => Step::Say(BASE64.encode(&auth.credentials.password)),
            (Mechanism::ScramSha256, 1) => self.prove(auth, challenge).map_or(Step::Failed, Step::Say),
            (Mechanism::ScramSha256, 2) if self.is_proved(challenge) => Step::Say(String::new()),
            _ => Step::Failed,
        }
    }

    /// The client's last message, for the server's first.
    fn prove(&mut self, auth: &Auth, challenge: &[u8]) -> Option<String> {
        let server_first = decoded(challenge)?;
        let (combined, salt) = (attribute(&server_first, "r=")?, attribute(&server_first, "s=")?);
        let iterations = attribute(&server_first, "i=")?.parse().ok().filter(|i| (1..=ITERATIONS_MAX).contains(i))?;
        let own = attribute(&self.client_first, "r=")?;
        if !combined.starts_with(own) || combined.len() == own.len() {
            return None;
        }
        let keys = Keys::new(auth.salted(&BASE64.decode(salt).ok()?, iterations));
        // "biws" is "n,,": no channel binding.
        let without_proof = format!("c=biws,r={combined}");
        let message = format!("{},{server_first},{without_proof}", self.client_first);
        self.server_signature = mac(&keys.server, message.as_bytes());
        let proof = BASE64.encode(xor(&keys.client, &mac(&keys.stored, message.as_bytes())));
        Some(BASE64.encode(format!("{without_proof},p={proof}")))
    }

    fn is_proved(&self, challenge: &[u8]) -> bool {
        let signature = decoded(challenge).and_then(|text| BASE64.decode(attribute(&text, "v=")?).ok());
        !self.server_signature.is_empty() && signature.as_deref() == Some(&self.server_signature)
    }
}

/// A login under way on the accepting side.
#[derive(Debug)]
pub struct Admission {
    mechanism: Mechanism,
    user: Vec<u8>,
    /// SCRAM: both first messages, and the nonce of both.
    first_messages: String,
    combined: String,
    proved: bool,
}

impl Admission {
    /// Begins with what follows AUTH: a mechanism and perhaps its first answer. None for a mechanism that is not offered.
    pub fn begin(auth: &Auth, words: &[u8]) -> Option<(Admission, Step)> {
        let (name, first) = match memchr::memchr(b' ', words) {
            Some(blank) => (&words[..blank], Some(words[blank + 1..].trim_ascii())),
            None => (words, None),
        };
        let mechanism = MECHANISMS.into_iter().find(|known| name.eq_ignore_ascii_case(known.name().as_bytes()))?;
        let mut admission = Admission {
            mechanism,
            user: Vec::new(),
            first_messages: String::new(),
            combined: String::new(),
            proved: false,
        };
        let step = match first {
            Some(first) => admission.answer(auth, first),
            None if mechanism == Mechanism::Login => Step::Say(BASE64.encode("Username:")),
            None => Step::Say(String::new()),
        };
        Some((admission, step))
    }

    /// Takes what the client says to a 334.
    pub fn answer(&mut self, auth: &Auth, said: &[u8]) -> Step {
        let yes = |good: bool| if good { Step::Done } else { Step::Failed };
        match self.mechanism {
            Mechanism::Plain => yes(BASE64.decode(said).is_ok_and(|said| {
                // The identity to act as may be given, and is not looked at.
                let own = auth.plain();
                said.ends_with(&own) && said.iter().filter(|b| **b == 0).count() == 2
            })),
            Mechanism::Login if self.user.is_empty() => match BASE64.decode(said) {
                Ok(user) if !user.is_empty() => {
                    self.user = user;
                    Step::Say(BASE64.encode("Password:"))
                }
                _ => Step::Failed,
            },
            Mechanism::Login => yes(self.user == auth.credentials.user.as_bytes()
                && BASE64.decode(said).is_ok_and(|said| said == auth.credentials.password.as_bytes())),
            Mechanism::ScramSha256 if self.proved => yes(said.is_empty()),
            Mechanism::ScramSha256 if self.combined.is_empty() => {
                self.challenge(auth, said).map_or(Step::Failed, Step::Say)
            }
            Mechanism::ScramSha256 => self.check(auth, said).map_or(Step::Failed, Step::Say),
        }
    }

    fn challenge(&mut self, auth: &Auth, said: &[u8]) -> Option<String> {
        let said = decoded(said)?;
        let bare = said.strip_prefix("n,,")?;
        if attribute(bare, "n=")? != escaped(&auth.credentials.user) {
            return None;
        }
        self.combined = format!("{}{}", attribute(bare, "r=")?, nonce());
        let server_first = format!("r={},s={},i={ITERATIONS}", self.combined, BASE64.encode(SALT));
        self.first_messages = format!("{bare},{server_first}");
        Some(BASE64.encode(server_first))
    }

    fn check(&mut self, auth: &Auth, said: &[u8]) -> Option<String> {
        let said = decoded(said)?;
        let (without_proof, proof) = said.rsplit_once(",p=")?;
        if without_proof != format!("c=biws,r={}", self.combined) {
            return None;
        }
        let keys = Keys::new(auth.salted(SALT, ITERATIONS));
        let message = format!("{},{without_proof}", self.first_messages);
        let client = xor(&BASE64.decode(proof).ok()?, &mac(&keys.stored, message.as_bytes()));
        if digest(&SHA256, &client).as_ref() != keys.stored {
            return None;
        }
        self.proved = true;
        Some(BASE64.encode(format!("v={}", BASE64.encode(mac(&keys.server, message.as_bytes())))))
    }
}

/// What both ends derive from a salted password (RFC 5802 3).
struct Keys {
    client: Vec<u8>,
    stored: Vec<u8>,
    server: Vec<u8>,
}

impl Keys {
    fn new(salted: [u8; KEY_BYTES]) -> Keys {
        let client = mac(&salted, b"Client Key");
        Keys { stored: digest(&SHA256, &client).as_ref().to_vec(), server: mac(&salted, b"Server Key"), client }
    }
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

fn nonce() -> String {
    let mut bytes = [0; NONCE_BYTES];
    // Without randomness the nonce repeats, which a load test survives.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    BASE64.encode(bytes)
}

fn escaped(user: &str) -> String {
    user.replace('=', "=3D").replace(',', "=2C")
}

fn decoded(said: &[u8]) -> Option<String> {
    String::from_utf8(BASE64.decode(said).ok()?).ok()
}

fn attribute<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.split(',').find_map(|part| part.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(mechanism: Mechanism, text: &str) -> Auth {
        Auth::new(mechanism, text.parse().unwrap())
    }

    /// Plays both ends; true if the server lets the client in.
    fn admitted(client: &Auth, server: &Auth) -> bool {
        let (mut login, line) = Login::begin(client);
        let (mut admission, mut step) = Admission::begin(server, &line.as_bytes()["AUTH ".len()..]).unwrap();
        for _ in 0..5 {
            let Step::Say(challenge) = step else { return step == Step::Done };
            let Step::Say(answer) = login.answer(client, challenge.as_bytes()) else { return false };
            step = admission.answer(server, answer.as_bytes());
        }
        false
    }

    #[test]
    fn both_ends_agree_on_who_may_enter() {
        for mechanism in MECHANISMS {
            let right = auth(mechanism, "us=er,x:pass:word");
            assert!(admitted(&auth(mechanism, "us=er,x:pass:word"), &right), "{mechanism:?}");
            assert!(!admitted(&auth(mechanism, "us=er,x:pass"), &right), "{mechanism:?}");
            assert!(!admitted(&auth(mechanism, "user:pass:word"), &right), "{mechanism:?}");
        }
        assert!("nobody".parse::<Credentials>().is_err() && ":x".parse::<Credentials>().is_err());
    }

    /// The example of RFC 7677 3.
    #[test]
    fn scram_gives_the_proof_of_the_standard() {
        let auth = auth(Mechanism::ScramSha256, "user:pencil");
        let (mut login, _) = Login::begin(&auth);
        login.client_first = "n=user,r=rOprNGfwEbeRWgbNEkqO".into();
        let first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let Step::Say(proof) = login.answer(&auth, BASE64.encode(first).as_bytes()) else { panic!("no answer") };
        assert!(decoded(proof.as_bytes()).unwrap().ends_with(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="));
        let last = BASE64.encode("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(login.answer(&auth, last.as_bytes()), Step::Say(String::new()));
    }

    #[test]
    fn nonsense_fails() {
        for mechanism in MECHANISMS {
            let auth = auth(mechanism, "a:b");
            for said in ["", "=", "%%", "bm9uc2Vuc2U=", "cj0scz0saT0w"] {
                let (mut login, _) = Login::begin(&auth);
                if mechanism != Mechanism::Login {
                    assert_eq!(login.answer(&auth, said.as_bytes()), Step::Failed);
                }
                let words = format!("{} {said}", mechanism.name());
                if let Some((mut admission, Step::Say(_))) = Admission::begin(&auth, words.as_bytes()) {
                    assert_eq!(admission.answer(&auth, said.as_bytes()), Step::Failed);
                }
            }
        }
        assert!(Admission::begin(&auth(Mechanism::Plain, "a:b"), b"CRAM-MD5").is_none());
    }
}
