//! Who we are to next hops: what AUTH exchanges as a client say, on a thread of their own (AUT-10; RFC 4954).
//!
//! A shard's session sends a step of an exchange here and gets exactly one answer. Credentials are files, `user:password`
//! in their first line, read anew for every exchange, so that one that changes needs no restart. They leave this thread as
//! nothing but responses, and are in no report (AUT-08). Deriving a key for SCRAM takes thousands of hashes: the last one of
//! each next hop is kept, for as long as password, salt and rounds stay the same.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use aws_lc_rs::{constant_time, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::scram::{NONCE_BYTES, ROUNDS_ALLOWED, hashed, keyed, random};
use crate::base::limits;
use crate::config::NextHopSettings;
use crate::smtp::auth::{ExchangeState, Mechanism, ProofAnswer, ProofRequest, Said};

/// Where an answer goes: called once, on this thread; must not block.
pub type ProofReply = Box<dyn FnOnce(ProofAnswer) + Send>;

struct Step {
    request: Box<ProofRequest>,
    reply: ProofReply,
}

/// The way to the thread, which begins with the first question and ends with the handle.
#[derive(Default)]
pub struct Prover {
    /// `None`: the system gives no thread.
    steps: OnceLock<Option<SyncSender<Step>>>,
}

impl Prover {
    fn start() -> Option<SyncSender<Step>> {
        let (steps, inbox) = sync_channel(limits::AUTH_WAITING_MAX);
        let run = move || serve(&inbox, Answerer::default());
        thread::Builder::new().name("login".into()).spawn(run).ok().map(|_| steps)
    }

    /// Looks whether all files of credentials can be used.
    pub fn check(next_hops: &[Arc<NextHopSettings>]) -> Result<(), String> {
        for hop in next_hops {
            if let Some(path) = &hop.credentials {
                Credentials::read(path)
                    .map_err(|why| format!("next_hop.{}.credentials {}: {why}", hop.name, path.display()))?;
            }
        }
        Ok(())
    }

    /// Asks; the answer comes once.
    pub fn ask(&self, request: Box<ProofRequest>, reply: ProofReply) {
        let Some(steps) = self.steps.get_or_init(Prover::start) else {
            return reply(impossible("4.3.2 the system gives no thread"));
        };
        if let Err(TrySendError::Full(step) | TrySendError::Disconnected(step)) =
            steps.try_send(Step { request, reply })
        {
            (step.reply)(impossible("4.3.2 too many proofs are waiting"));
        }
    }
}

fn serve(inbox: &Receiver<Step>, mut answerer: Answerer) {
    while let Ok(Step { request, reply }) = inbox.recv() {
        reply(answerer.answer(*request));
    }
}

fn impossible(why: &str) -> ProofAnswer {
    ProofAnswer::Impossible(why.into())
}

/// A name and a password.
pub(super) struct Credentials {
    pub(super) user: Zeroizing<String>,
    pub(super) password: Zeroizing<String>,
}

/// The longest name and the longest password, so that what is said of them fits a line.
const PART_MAX_BYTES: usize = 1024;

impl Credentials {
    fn read(path: &Path) -> Result<Credentials, String> {
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| error.to_string())?);
        Credentials::parse(&text)
    }

    pub(super) fn parse(text: &str) -> Result<Credentials, String> {
        let line = text.lines().next().unwrap_or_default();
        let (user, password) = line.split_once(':').ok_or("its first line must be user:password")?;
        let good = |part: &str| !part.is_empty() && part.len() <= PART_MAX_BYTES && !part.contains('\0');
        if !good(user) || !good(password) {
            return Err(format!("user and password must have 1 to {PART_MAX_BYTES} bytes"));
        }
        Ok(Credentials { user: Zeroizing::new(user.to_owned()), password: Zeroizing::new(password.to_owned()) })
    }
}

/// What an exchange remembers.
enum Memory {
    /// LOGIN: the name was said.
    LoginName,
    /// SCRAM: the first message without its header, and our nonce, were said.
    ScramFirst { bare: Zeroizing<String>, nonce: String },
    /// SCRAM: the proof was given; this is what the next hop has to show for its own.
    ScramFinal([u8; 32]),
    /// SCRAM: it was shown.
    Done,
}

/// The keys of SCRAM, and what they were derived from.
struct Derived {
    from: [u8; 32],
    salted: Zeroizing<[u8; 32]>,
}

#[derive(Default)]
pub(super) struct Answerer {
    /// By file.
    keys: HashMap<Arc<Path>, Derived>,
}

impl Answerer {
    fn answer(&mut self, request: ProofRequest) -> ProofAnswer {
        match Credentials::read(&request.credentials) {
            Ok(credentials) => self.answer_as(&credentials, request),
            Err(why) => ProofAnswer::Impossible(format!("4.3.5 {}: {why}", request.credentials.display()).into()),
        }
    }

    pub(super) fn answer_as(&mut self, credentials: &Credentials, mut request: ProofRequest) -> ProofAnswer {
        let path = request.credentials;
        let memory = request.state.take().map(|state| state.take::<Memory>().expect("a state of ours"));
        let Credentials { user, password } = credentials;
        match (request.mechanism, memory, request.challenge.as_deref()) {
            (Mechanism::Plain, None, None) => {
                say(Zeroizing::new([b"\0", user.as_bytes(), b"\0", password.as_bytes()].concat()), None, true)
            }
            // What it asks for is said in many ways and always in this order (AUT-09).
            (Mechanism::Login, None, Some(_)) => say(bytes(user), Some(Memory::LoginName), false),
            (Mechanism::Login, Some(Memory::LoginName), Some(_)) => say(bytes(password), Some(Memory::Done), true),
            (Mechanism::ScramSha256, None, None) => scram_first(user, &STANDARD.encode(random::<NONCE_BYTES>())),
            (Mechanism::ScramSha256, Some(Memory::ScramFirst { bare, nonce }), Some(challenge)) => {
                self.scram_final(&path, password, &bare, &nonce, challenge)
            }
            (Mechanism::ScramSha256, Some(Memory::ScramFinal(signature)), Some(verdict)) => {
                let shown = verdict.strip_prefix(b"v=").and_then(|text| STANDARD.decode(text).ok());
                match shown.is_some_and(|shown| constant_time::verify_slices_are_equal(&shown, &signature).is_ok()) {
                    true => say(Zeroizing::default(), Some(Memory::Done), true),
                    false => impossible("4.7.0 the next hop does not know our password"),
                }
            }
            _ => impossible("4.7.0 the next hop asks for more than the mechanism has"),
        }
    }

    fn scram_final(
        &mut self,
        path: &Arc<Path>,
        password: &str,
        bare: &str,
        nonce: &str,
        challenge: &[u8],
    ) -> ProofAnswer {
        let Some(first) = ServerFirst::read(challenge).filter(|first| first.nonce.starts_with(nonce)) else {
            return impossible("4.7.0 the next hop's SCRAM message cannot be read");
        };
        let salted = self.salted(path, password, &first);
        let client_key = keyed(&*salted, b"Client Key");
        let without_proof = format!("c=biws,r={}", first.nonce);
        let signed = format!("{bare},{},{without_proof}", first.whole);
        let mut proof = keyed(&hashed(&client_key), signed.as_bytes());
        proof.iter_mut().zip(client_key).for_each(|(byte, key)| *byte ^= key);
        let signature = keyed(&keyed(&*salted, b"Server Key"), signed.as_bytes());
        let text = format!("{without_proof},p={}", STANDARD.encode(proof));
        say(Zeroizing::new(text.into_bytes()), Some(Memory::ScramFinal(signature)), false)
    }

    fn salted(&mut self, path: &Arc<Path>, password: &str, first: &ServerFirst<'_>) -> Zeroizing<[u8; 32]> {
        let prepared =
            Zeroizing::new(stringprep::saslprep(password).map_or(password.to_owned(), |text| text.into_owned()));
        let rounds = first.rounds.to_be_bytes();
        let from = hashed(&Zeroizing::new([&first.salt[..], &rounds, prepared.as_bytes()].concat()));
        match self.keys.get(path) {
            Some(derived) if derived.from == from => derived.salted.clone(),
            _ => {
                let mut salted = Zeroizing::new([0; 32]);
                let rounds = first.rounds.try_into().expect("rounds are never none");
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &first.salt, prepared.as_bytes(), &mut *salted);
                self.keys.insert(path.clone(), Derived { from, salted: salted.clone() });
                salted
            }
        }
    }
}

pub(super) fn scram_first(user: &str, nonce: &str) -> ProofAnswer {
    let name = Zeroizing::new(user.replace('=', "=3D").replace(',', "=2C"));
    let bare = Zeroizing::new(format!("n={},r={nonce}", *name));
    let text = Zeroizing::new([b"n,,", bare.as_bytes()].concat());
    say(text, Some(Memory::ScramFirst { bare, nonce: nonce.to_owned() }), false)
}

/// The next hop's first message (RFC 5802 7).
struct ServerFirst<'a> {
    whole: &'a str,
    nonce: &'a str,
    salt: Vec<u8>,
    rounds: u32,
}

impl ServerFirst<'_> {
    fn read(message: &[u8]) -> Option<ServerFirst<'_>> {
        let whole = str::from_utf8(message).ok()?;
        let mut attributes = whole.split(',');
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let salt = STANDARD.decode(attributes.next()?.strip_prefix("s=")?).ok()?;
        // Fewer are no protection; far more are a way to keep us busy (RFC 7677 4).
        let rounds = attributes.next()?.strip_prefix("i=")?.parse().ok().filter(|n| ROUNDS_ALLOWED.contains(n))?;
        Some(ServerFirst { whole, nonce, salt, rounds })
    }
}

fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

fn say(text: Zeroizing<Vec<u8>>, memory: Option<Memory>, complete: bool) -> ProofAnswer {
    // A name full of commas grows threefold, and a next hop's nonce may be as long as its line.
    if text.len() > limits::AUTH_CHALLENGE_MAX_BYTES {
        return impossible("4.7.0 what is to be said is too long for the exchange");
    }
    ProofAnswer::Say(Said { text, state: memory.map(ExchangeState::new), complete })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        file: tempfile::NamedTempFile,
        answerer: Answerer,
    }

    fn world(line: &str) -> World {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), line).unwrap();
        World { file, answerer: Answerer::default() }
    }

    impl World {
        fn ask(&mut self, mechanism: Mechanism, challenge: Option<&str>, state: Option<ExchangeState>) -> ProofAnswer {
            let (credentials, challenge) = (self.file.path().into(), challenge.map(|text| text.as_bytes().to_vec()));
            self.answerer.answer(ProofRequest { credentials, mechanism, challenge, state })
        }
    }

    fn said(answer: ProofAnswer) -> (String, Option<ExchangeState>, bool) {
        let ProofAnswer::Say(Said { text, state, complete }) = answer else { panic!("{answer:?}") };
        (String::from_utf8(text.to_vec()).unwrap(), state, complete)
    }

    /// AUT-10: the exchange that RFC 7677 3 prints, and one byte off anywhere in the next hop's proof.
    #[test]
    fn the_example_of_the_rfc_runs() {
        let mut world = world("user:pencil\n");
        let (first, state, complete) = said(scram_first("user", "rOprNGfwEbeRWgbNEkqO"));
        assert_eq!((&*first, complete), ("n,,n=user,r=rOprNGfwEbeRWgbNEkqO", false));
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, state, complete) = said(world.ask(Mechanism::ScramSha256, Some(challenge), state));
        assert_eq!(
            (&*last, complete),
            (
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
                false
            )
        );
        let verdict = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        let (empty, _, complete) = said(world.ask(Mechanism::ScramSha256, Some(verdict), state));
        assert_eq!((&*empty, complete), ("", true));
        for wrong in ["v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "e=invalid-proof", "", "v="] {
            let state = Some(ExchangeState::new(Memory::ScramFinal([7; 32])));
            let answer = world.ask(Mechanism::ScramSha256, Some(wrong), state);
            assert!(matches!(answer, ProofAnswer::Impossible(_)), "{wrong}");
        }
    }

    /// AUT-10: what a next hop says is not believed where the mechanism does not.
    #[test]
    fn wrong_challenges_get_no_proof() {
        let mut world = world("a,b=c:secret");
        for wrong in [
            "",
            "r=other,s=AAAA,i=4096",
            "r=non,s=AAAA,i=4096",
            "r=nonce1,s=AAAA,i=1",
            "r=nonce1,s=AAAA,i=99999999",
            "r=nonce1,s=*,i=4096",
            "r=nonce1,i=4096",
        ] {
            let (first, state, _) = said(scram_first("a,b=c", "nonce"));
            assert_eq!(first, "n,,n=a=2Cb=3Dc,r=nonce");
            let answer = world.ask(Mechanism::ScramSha256, Some(wrong), state);
            assert!(matches!(answer, ProofAnswer::Impossible(_)), "{wrong}");
        }
        assert!(matches!(world.ask(Mechanism::Plain, Some("more"), None), ProofAnswer::Impossible(_)));
        assert!(matches!(world.ask(Mechanism::Xoauth2, None, None), ProofAnswer::Impossible(_)));
    }

    #[test]
    fn what_is_said_is_bounded() {
        let name = ",".repeat(PART_MAX_BYTES);
        assert!(matches!(scram_first(&name, "nonce"), ProofAnswer::Impossible(_)));
        let mut world = world("user:secret");
        let long = "x".repeat(limits::AUTH_CHALLENGE_MAX_BYTES - 30);
        for (nonce, good) in [("", true), (long.as_str(), false)] {
            let (_, state, _) = said(scram_first("user", "nonce"));
            let challenge = format!("r=nonce{nonce},s=AAAA,i=4096");
            let answer = world.ask(Mechanism::ScramSha256, Some(&challenge), state);
            assert_eq!(matches!(answer, ProofAnswer::Say(_)), good, "{answer:?}");
        }
    }

    #[test]
    fn passwords_are_said_as_the_mechanisms_have_it() {
        let mut world = world("user:pass:word\nmore\n");
        let (plain, state, complete) = said(world.ask(Mechanism::Plain, None, None));
        assert_eq!((&*plain, state.is_none(), complete), ("\0user\0pass:word", true, true));
        let (name, state, complete) = said(world.ask(Mechanism::Login, Some("Username:"), None));
        assert_eq!((&*name, complete), ("user", false));
        // A file that changes is read anew.
        std::fs::write(world.file.path(), "user:other").unwrap();
        let (password, state, complete) = said(world.ask(Mechanism::Login, Some(""), state));
        assert_eq!((&*password, complete), ("other", true));
        assert!(matches!(world.ask(Mechanism::Login, Some("more"), state), ProofAnswer::Impossible(_)));
        for wrong in ["", "user", ":word", "user:", "\n"] {
            std::fs::write(world.file.path(), wrong).unwrap();
            assert!(matches!(world.ask(Mechanism::Plain, None, None), ProofAnswer::Impossible(_)), "{wrong}");
        }
    }
}
