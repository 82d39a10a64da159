//! Who clients are: mechanisms and verifiers of AUTH, on a thread of their own (AUT-01..AUT-09; RFC 4954); and who we are to
//! next hops.
//!
//! A shard's session sends a step of an exchange here and gets exactly one answer, whatever goes wrong; a failure is answered no
//! sooner than its delay, which also hides how long the look took (AUT-08). Passwords are hashed on few threads beside, so
//! that hashing stalls neither mail nor other exchanges. What an exchange remembers is in its answer: nothing
//! is kept here but failures of late. Secrets and names of users who failed are in no report.
//!
//! - `prover`: our own credentials. `users`: the file and its verifiers. `scram`: SCRAM-SHA-256. `ntlm`: NTLM. `kerberos`: GSSAPI and
//!   GSS-SPNEGO, by the system's library in `gssapi`. `tokens`: JWTs. `service`: HTTP. `limiter`: failures.

#[doc(hidden)]
pub mod fuzzed;
mod gssapi;
mod kerberos;
mod limiter;
mod ntlm;
mod prover;
mod scram;
mod service;
mod tokens;
mod users;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use zeroize::Zeroizing;

use crate::base::limits;
use crate::config::{AuthSettings, KerberosSettings, LogLevel};
use crate::runtime::wall;
use crate::smtp::auth::{AuthAnswer, AuthRequest, ExchangeState, Mechanism, User};
use crate::smtp::ntlm::{Response, authenticate};
use crate::smtp::sasl::{self, Bearer};

use gssapi::{Acceptor, Trouble};
use kerberos::{Exchange, Outcome};
use limiter::{Key, Limiter};
pub use prover::{ProofReply, Prover};
use scram::{First, Misfit, Pending, Proof};
use service::Services;
use tokens::Tokens;
use users::Users;
pub use users::{Keep, make_line};

/// Where an answer goes: called once, on this thread; must not block.
pub type Reply = Box<dyn FnOnce(AuthAnswer) + Send>;
/// Tells the operator.
pub type Report = Arc<dyn Fn(LogLevel, String) + Send + Sync>;

/// What somebody who was asked knows of a user.
enum Found {
    /// It is this one.
    Yes(Arc<User>),
    /// It is not who it says.
    No,
    /// It could not be found out.
    Unknown,
}

struct Step {
    request: Box<AuthRequest>,
    reply: Reply,
}

/// The way to the thread, which ends when the last handle is gone.
#[derive(Clone)]
pub struct Authenticator {
    steps: mpsc::Sender<Step>,
}

impl Authenticator {
    /// Starts the thread; `hostname` is what NTLM tells. An error: a file that the settings name cannot be used, or the system gives no thread.
    pub fn start(settings: &AuthSettings, hostname: &str, report: Report) -> Result<Authenticator, String> {
        let (steps, inbox) = mpsc::channel(limits::AUTH_WAITING_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(limits::AUTH_HASHES_AT_ONCE)
            .build()
            .map_err(|error| error.to_string())?;
        let checker = {
            let _inside = runtime.enter();
            Checker::new(settings, hostname, report)?
        };
        let run = move || runtime.block_on(serve(inbox, Arc::new(checker)));
        thread::Builder::new().name("auth".into()).spawn(run).map_err(|error| error.to_string())?;
        Ok(Authenticator { steps })
    }

    /// Asks; the answer comes once.
    pub fn ask(&self, request: Box<AuthRequest>, reply: Reply) {
        if let Err(refused) = self.steps.try_send(Step { request, reply }) {
            (refused.into_inner().reply)(AuthAnswer::Unavailable);
        }
    }
}

async fn serve(mut inbox: mpsc::Receiver<Step>, checker: Arc<Checker>) {
    let places = Arc::new(Semaphore::new(limits::AUTH_WAITING_MAX));
    while let Some(Step { request, reply }) = inbox.recv().await {
        let Ok(place) = places.clone().try_acquire_owned() else {
            reply(AuthAnswer::Unavailable);
            continue;
        };
        let checker = checker.clone();
        tokio::spawn(async move {
            reply(checker.step(*request).await);
            drop(place);
        });
    }
}

/// What an exchange remembers.
enum Memory {
    /// LOGIN: the name was asked for.
    LoginName,
    /// LOGIN: the password was asked for.
    LoginPassword(String),
    /// SCRAM: the proof was asked for.
    Scram(Pending, Name),
    /// NTLM: the proof was asked for.
    Ntlm(ntlm::Pending),
    /// GSSAPI and GSS-SPNEGO: more was asked for.
    Kerberos(Exchange),
    /// SCRAM: our own proof was given, the client has nothing more to say.
    Proven(Arc<User>),
    /// A token was refused, and the client was told why.
    TokenRefused(Option<Name>),
}

type Name = Box<str>;

/// A step judged, with the name whose failure it is.
struct Judged {
    answer: AuthAnswer,
    user: Option<Name>,
}

impl From<AuthAnswer> for Judged {
    fn from(answer: AuthAnswer) -> Judged {
        Judged { answer, user: None }
    }
}

struct Checker {
    users: Option<Users>,
    tokens: Option<Tokens>,
    services: Services,
    kerberos: Option<Kerberos>,
    hostname: Box<str>,
    limiter: Mutex<Limiter>,
    failure_delay: Duration,
    /// From which the verifiers of users come who are not there.
    secret: [u8; 32],
    report: Report,
}

/// Whose Kerberos tickets are believed.
struct Kerberos {
    acceptor: Arc<Acceptor>,
    realm: Option<Box<str>>,
}

impl Kerberos {
    fn open(settings: &KerberosSettings) -> Result<Kerberos, String> {
        Ok(Kerberos { acceptor: Arc::new(Acceptor::open(settings)?), realm: settings.realm.clone() })
    }
}

impl Checker {
    fn new(settings: &AuthSettings, hostname: &str, report: Report) -> Result<Checker, String> {
        Ok(Checker {
            users: settings.users.as_deref().map(Users::open).transpose()?,
            tokens: settings.jwt.as_ref().map(|jwt| Tokens::new(jwt, &settings.token_claim)).transpose()?,
            services: Services::new(settings)?,
            kerberos: settings.kerberos.as_ref().map(Kerberos::open).transpose()?,
            hostname: hostname.into(),
            limiter: Mutex::new(Limiter::new(settings)),
            failure_delay: Duration::from_millis(settings.failure_delay_ms),
            secret: machine_secret(),
            report,
        })
    }

    async fn step(&self, request: AuthRequest) -> AuthAnswer {
        let begun = Instant::now();
        let (peer, mechanism) = (request.peer, request.mechanism);
        let mut keys = vec![Key::address(peer), Key::network(peer)];
        if self.blocks(&keys) {
            return AuthAnswer::TooMany;
        }
        let judged = self.judge(request).await;
        if matches!(judged.answer, AuthAnswer::Refused) {
            keys.extend(judged.user.map(Key::User));
            self.limiter.lock().unwrap_or_else(PoisonError::into_inner).failed(Instant::now(), keys);
            (self.report)(LogLevel::Info, format!("AUTH {} of {peer} was refused", mechanism.name()));
            tokio::time::sleep_until((begun + self.failure_delay).into()).await;
        }
        judged.answer
    }

    fn blocks(&self, keys: &[Key]) -> bool {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).blocks(Instant::now(), keys)
    }

    async fn judge(&self, mut request: AuthRequest) -> Judged {
        let memory = request.state.take().map(|state| state.take::<Memory>().expect("a state of ours"));
        match (request.mechanism, memory, request.response.take()) {
            (Mechanism::Plain, None, Some(message)) => self.plain(&request, &message).await,
            (Mechanism::Login, None, None) => challenge(b"Username:".to_vec(), Memory::LoginName),
            (Mechanism::Login, None | Some(Memory::LoginName), Some(name)) => match sasl::name(&name) {
                Some(name) => challenge(b"Password:".to_vec(), Memory::LoginPassword(name.to_owned())),
                None => AuthAnswer::Malformed.into(),
            },
            (Mechanism::Login, Some(Memory::LoginPassword(name)), Some(password)) if !password.is_empty() => {
                self.password(&request, &name, "", &password).await
            }
            (Mechanism::ScramSha256 | Mechanism::ScramSha256Plus, None, Some(message)) => {
                self.scram_first(&request, &message)
            }
            (_, Some(Memory::Scram(pending, name)), Some(message)) => self.scram_final(&pending, name, &message),
            (_, Some(Memory::Proven(user)), Some(nothing)) if nothing.is_empty() => AuthAnswer::Accepted(user).into(),
            (Mechanism::OauthBearer, None, Some(message)) => self.token(sasl::oauth_bearer(&message)).await,
            (Mechanism::Xoauth2, None, Some(message)) => self.token(sasl::xoauth2(&message)).await,
            (Mechanism::Ntlm, None, Some(message)) => self.ntlm_first(&message),
            (_, Some(Memory::Ntlm(pending)), Some(message)) => self.ntlm_last(&request, &pending, &message),
            (Mechanism::Gssapi | Mechanism::GssSpnego, None, Some(token)) => {
                self.holder_of(&request, None, token).await
            }
            (_, Some(Memory::Kerberos(exchange)), Some(token)) => self.holder_of(&request, Some(exchange), token).await,
            (_, Some(Memory::TokenRefused(user)), _) => Judged { answer: AuthAnswer::Refused, user },
            _ => AuthAnswer::Malformed.into(),
        }
    }

    async fn plain(&self, request: &AuthRequest, message: &[u8]) -> Judged {
        match sasl::plain(message) {
            Some(plain) => self.password(request, plain.user, plain.authorize, plain.password).await,
            None => AuthAnswer::Malformed.into(),
        }
    }

    /// Whoever acts for somebody else must be that one.
    async fn password(&self, request: &AuthRequest, user: &str, authorize: &str, password: &[u8]) -> Judged {
        let name: Name = user.into();
        if self.blocks(&[Key::User(name.clone())]) {
            return AuthAnswer::TooMany.into();
        }
        let found = match self.entry(user) {
            None if self.services.knows_passwords() => self.services.check_password(request, user, password).await,
            entry => self.hashed(entry, password).await,
        };
        let answer = match found {
            Found::Yes(found) if authorize.is_empty() || authorize == &*found.name => AuthAnswer::Accepted(found),
            Found::Yes(_) | Found::No => AuthAnswer::Refused,
            Found::Unknown => AuthAnswer::Unavailable,
        };
        Judged { answer, user: Some(name) }
    }

    /// Hashes the password beside this thread; also where there is no such user, as long as for one that is.
    async fn hashed(&self, entry: Option<Arc<users::Entry>>, password: &[u8]) -> Found {
        let anybody = || self.users.as_ref().and_then(|users| users.table().0.anybody());
        let (entry, known) = match entry {
            Some(entry) => (entry, true),
            None => match anybody() {
                Some(entry) => (entry, false),
                None => return Found::No,
            },
        };
        let password = Zeroizing::new(password.to_vec());
        let matched = tokio::task::spawn_blocking(move || {
            let matched = entry.verifier.matches(&password);
            (matched && known).then(|| entry.user.clone())
        });
        match matched.await {
            Ok(Some(user)) => Found::Yes(user),
            Ok(None) => Found::No,
            Err(_) => Found::Unknown,
        }
    }

    fn entry(&self, user: &str) -> Option<Arc<users::Entry>> {
        let (table, trouble) = self.users.as_ref()?.table();
        trouble.into_iter().for_each(|text| (self.report)(LogLevel::Error, text));
        table.find(user)
    }

    fn scram_first(&self, request: &AuthRequest, message: &[u8]) -> Judged {
        let plus = request.mechanism == Mechanism::ScramSha256Plus;
        let first = match First::read(message, plus, request.plus_offered, &request.binding) {
            Ok(first) => first,
            Err(Misfit::Malformed) => return AuthAnswer::Malformed.into(),
            Err(Misfit::NoSuchBinding) => return AuthAnswer::Refused.into(),
            Err(Misfit::OfferTaken) => {
                let text = format!(
                    "{} saw no offer of SCRAM-SHA-256-PLUS: somebody between may have taken it away",
                    request.peer
                );
                (self.report)(LogLevel::Warning, text);
                return AuthAnswer::Refused.into();
            }
        };
        let name: Name = first.user().into();
        if self.blocks(&[Key::User(name.clone())]) {
            return AuthAnswer::TooMany.into();
        }
        let scram = |entry: &users::Entry| match &entry.verifier {
            users::Verifier::Scram(verifier) => Some(verifier.clone()),
            users::Verifier::Argon2(_) | users::Verifier::Nt(_) | users::Verifier::Kerberos => None,
        };
        let same = first.authorize().is_none_or(|authorize| authorize == first.user());
        let verifier = self.entry(first.user()).filter(|_| same).and_then(|entry| scram(&entry));
        let verifier = verifier.unwrap_or_else(|| {
            let anybody = self.users.as_ref().and_then(|users| users.table().0.anybody());
            scram::Verifier::of_nobody(&self.secret, first.user(), anybody.and_then(|entry| scram(&entry)).as_ref())
        });
        let (text, pending) = first.answer(verifier);
        if text.len() > limits::AUTH_CHALLENGE_MAX_BYTES {
            return AuthAnswer::Malformed.into();
        }
        challenge(text, Memory::Scram(pending, name))
    }

    fn scram_final(&self, pending: &Pending, name: Name, message: &[u8]) -> Judged {
        match pending.judge(message) {
            Proof::Malformed => AuthAnswer::Malformed.into(),
            Proof::Bad => Judged { answer: AuthAnswer::Refused, user: Some(name) },
            Proof::Good(text) => match self.entry(&name) {
                Some(entry) => challenge(text, Memory::Proven(entry.user.clone())),
                // Taken out of the file just now.
                None => Judged { answer: AuthAnswer::Refused, user: Some(name) },
            },
        }
    }

    fn ntlm_first(&self, message: &[u8]) -> Judged {
        match ntlm::Pending::begin(message, &self.hostname, wall().0) {
            Some((text, pending)) => challenge(text, Memory::Ntlm(pending)),
            None => AuthAnswer::Malformed.into(),
        }
    }

    fn ntlm_last(&self, request: &AuthRequest, pending: &ntlm::Pending, message: &[u8]) -> Judged {
        let Some(read) = authenticate(message) else { return AuthAnswer::Malformed.into() };
        let name: Name = read.user.as_str().into();
        if self.blocks(&[Key::User(name.clone())]) {
            return AuthAnswer::TooMany.into();
        }
        let told = |level, why: &str| (self.report)(level, format!("AUTH NTLM of {}: {why}", request.peer));
        let entry = self.entry(&read.user);
        let hash = entry.as_ref().and_then(|entry| match &entry.verifier {
            users::Verifier::Nt(hash) => Some(hash.clone()),
            _ => None,
        });
        // Nobody's hash takes as long and fits nothing.
        let judged_by = hash.clone().unwrap_or_else(ntlm::NtHash::of_nobody);
        let proof = match &read.response {
            Response::Older => {
                told(LogLevel::Info, "the client knows no version 2");
                ntlm::Proof::Bad
            }
            Response::Second(response) => {
                pending.judge(message, (&read.user, &read.domain), response, &judged_by, &request.binding)
            }
        };
        if proof == ntlm::Proof::ElsewhereBound {
            told(LogLevel::Warning, "it is bound to another TLS session: somebody between may pass it on");
        }
        match entry {
            Some(entry) if hash.is_some() && proof == ntlm::Proof::Good => {
                AuthAnswer::Accepted(entry.user.clone()).into()
            }
            _ => Judged { answer: AuthAnswer::Refused, user: Some(name) },
        }
    }

    /// Looks at Kerberos tickets beside this thread. There is nothing to guess in them, so a name's failures do not count.
    async fn holder_of(&self, request: &AuthRequest, begun: Option<Exchange>, response: Zeroizing<Vec<u8>>) -> Judged {
        let Some(kerberos) = &self.kerberos else { return AuthAnswer::Malformed.into() };
        let exchange = begun.unwrap_or_else(|| Exchange::new(kerberos.acceptor.clone(), request.mechanism));
        let channel = request.binding.end_point_data();
        let step = move || exchange.step(&response, channel.as_deref());
        let told = |level, why: &str| {
            (self.report)(level, format!("AUTH {} of {}: {why}", request.mechanism.name(), request.peer));
        };
        match tokio::task::spawn_blocking(step).await {
            Ok(Outcome::Challenge(text, _)) if text.len() > limits::AUTH_CHALLENGE_MAX_BYTES => {
                AuthAnswer::Malformed.into()
            }
            Ok(Outcome::Challenge(text, exchange)) => challenge(text, Memory::Kerberos(exchange)),
            Ok(Outcome::Malformed) => AuthAnswer::Malformed.into(),
            Ok(Outcome::Principal { name, authorize }) => {
                let judged = self.holder(kerberos, &name, &authorize);
                if matches!(judged.answer, AuthAnswer::Refused) {
                    // Proved, and so nothing that was typed into the wrong field.
                    told(LogLevel::Info, &format!("{name:?} is not in auth.users, or wants to be somebody else"));
                }
                judged
            }
            Ok(Outcome::Failed(Trouble::Refused(why))) => {
                told(LogLevel::Info, &why);
                AuthAnswer::Refused.into()
            }
            Ok(Outcome::Failed(Trouble::NoKeys(why))) => {
                told(LogLevel::Error, &why);
                AuthAnswer::Unavailable.into()
            }
            Err(_) => AuthAnswer::Unavailable.into(),
        }
    }

    /// The user that a Kerberos ticket's holder is: one who is listed, and acts for nobody else.
    fn holder(&self, kerberos: &Kerberos, principal: &str, authorize: &str) -> Judged {
        let user = kerberos::user_of(principal, kerberos.realm.as_deref());
        match self.entry(user) {
            Some(entry) if ["", user, principal].contains(&authorize) => {
                AuthAnswer::Accepted(entry.user.clone()).into()
            }
            _ => AuthAnswer::Refused.into(),
        }
    }

    /// A token that is not good is told so in a challenge, which the client answers before it is refused (RFC 7628 3.2.3).
    async fn token(&self, bearer: Option<Bearer<'_>>) -> Judged {
        let Some(Bearer { user, token }) = bearer else { return AuthAnswer::Malformed.into() };
        let found = match &self.tokens {
            Some(tokens) if tokens::is_jwt(token) || !self.services.knows_tokens() => tokens.check(token),
            _ => self.services.check_token(token).await,
        };
        match found {
            Found::Yes(found) if user.is_none_or(|user| user == &*found.name) => AuthAnswer::Accepted(found).into(),
            Found::Yes(_) | Found::No => {
                let text = br#"{"status":"invalid_token"}"#.to_vec();
                challenge(text, Memory::TokenRefused(user.map(Into::into)))
            }
            Found::Unknown => AuthAnswer::Unavailable.into(),
        }
    }
}

fn challenge(text: Vec<u8>, memory: Memory) -> Judged {
    AuthAnswer::Challenge { text, state: ExchangeState::new(memory) }.into()
}

/// The same as long as the machine lives, and nothing that anybody outside could know.
fn machine_secret() -> [u8; 32] {
    use aws_lc_rs::{digest, rand};
    let mut secret = [0; 32];
    match std::fs::read("/etc/machine-id") {
        Ok(id) if !id.is_empty() => {
            let whole = digest::digest(&digest::SHA256, &[b"ringpost users\0", &id[..]].concat());
            secret.copy_from_slice(whole.as_ref());
        }
        _ => rand::fill(&mut secret).expect("the system has randomness"),
    }
    secret
}

#[cfg(test)]
mod tests;
