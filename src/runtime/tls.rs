//! TLS: keys, policies of trust, and one connection's records. The only room that names rustls; `dane` proves next hops by TLSA records, `faults` says in
//! a word what was wrong.
//!
//! [`Keys`] is made once on the main thread and shared by all shards, session caches and ticket keys included, so that a
//! session resumes on whichever core it comes back to. `Tls` lives on its shard's thread, beside one socket: bytes
//! from the socket go in and come out as plain bytes, plain bytes go in and come out as records. It does no I/O, so its
//! tests need no socket. It keeps an unfinished record and records that the socket did not take yet, and nothing else:
//! an idle connection holds no buffer.
//!
//! TLS 1.2 and 1.3 only, with rustls' suites (TLS-08). Whatever a peer sends is a `Broken` at worst; panics are ours.

mod binding;
mod dane;
mod faults;

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ServerSessionMemoryCache, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{
    CipherSuite, ClientConfig, CommonState, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion,
};

use super::Failure;
use super::files::replace_file;
use crate::base::limits;
use crate::config::{Role, Settings};
use crate::route::reports::{Fault, ResultType};
use crate::route::safety::{Dane, Identity};
use crate::shard::{CloseReason, TlsInfo, TlsRole};
use crate::smtp::auth::ChannelBinding;
use dane::DaneVerifier;
pub(crate) use faults::is_about_certificate;

/// Names of the self-signed pair in the queue's directory.
const OWN_CERTIFICATE: &str = "tls-certificate.pem";
const OWN_KEY: &str = "tls-key.pem";

/// Most plain bytes in one record (RFC 8446 5.1), and what a record costs on top at most in the suites there are.
const RECORD_BYTES: usize = 16 << 10;
const RECORD_OVER_BYTES: usize = 32;

static VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// What all TLS connections of the relay share.
#[derive(Clone)]
pub struct Keys {
    /// For clients; `None`: STARTTLS is not offered.
    server: Option<ServerKeys>,
    /// For next hops whose certificate nobody asks for.
    any: Arc<ClientConfig>,
    /// For next hops that must prove their name; `None`: there are no authorities, and no policy asks for any.
    proven: Option<Proven>,
}

/// How a name is proved.
#[derive(Clone)]
struct Proven {
    config: Arc<ClientConfig>,
    /// The same question, asked where nothing but a note follows from it.
    verifier: Arc<WebPkiServerVerifier>,
}

/// What clients get to see of us.
#[derive(Clone)]
struct ServerKeys {
    /// For each role of a listener, at its number: each has ticket keys and remembered sessions of its own (TLS-11).
    configs: [Arc<ServerConfig>; Role::ALL.len()],
    /// What binds an exchange of AUTH to our certificate.
    end_point: Option<Arc<[u8]>>,
}

impl Keys {
    /// Loads what the settings name; the note says where a certificate was made. Without a certificate in the settings,
    /// one is taken from the queue's directory, or made there.
    pub fn load(settings: &Settings) -> Result<(Keys, Option<String>), Failure> {
        let tls = &settings.tls;
        let clients = tls.client_roots.as_deref();
        let mut note = None;
        let server = match (&tls.pair, tls.offer) {
            (_, false) => None,
            (Some((certificate, key)), true) => Some(server_keys(certificate, key, clients)?),
            (None, true) => {
                let (certificate, key) = own_files(&settings.queue.dir);
                if !certificate.exists() || !key.exists() {
                    make_own(&settings.hostname, &certificate, &key)?;
                    note = Some(format!(
                        "made a self-signed certificate for {} in {}; tls.certificate and tls.key name a better one",
                        settings.hostname,
                        certificate.display()
                    ));
                }
                Some(server_keys(&certificate, &key, clients)?)
            }
        };
        // Without a policy that verifies, only mail that needs REQUIRETLS asks for it.
        let proven = match roots("tls.roots", &tls.roots) {
            Ok(roots) => {
                let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
                    .build()
                    .map_err(|error| trouble("tls.roots", &tls.roots, error))?;
                Some(Proven { config: shared_config(verifier.clone())?, verifier })
            }
            Err(error) if settings.verifies() => return Err(error),
            Err(_) => None,
        };
        Ok((Keys { server, any: shared_config(Arc::new(AnyCertificate(provider())))?, proven }, note))
    }

    /// Looks whether the files that the settings name can be used, and makes none.
    pub fn check(settings: &Settings) -> Result<(), Failure> {
        if let (Some((certificate, key)), true) = (&settings.tls.pair, settings.tls.offer) {
            server_keys(certificate, key, settings.tls.client_roots.as_deref())?;
        }
        if settings.verifies() {
            roots("tls.roots", &settings.tls.roots)?;
        }
        Ok(())
    }

    /// These, and what only the ones before have: a session that was offered STARTTLS under the settings before may still ask
    /// for it.
    pub(crate) fn or(self, before: &Keys) -> Keys {
        Keys {
            server: self.server.or_else(|| before.server.clone()),
            any: self.any,
            proven: self.proven.or_else(|| before.proven.clone()),
        }
    }

    /// The TLS of one connection, before its handshake. The first records of a client wait in it.
    pub(crate) fn begin(&self, role: TlsRole, peer: IpAddr) -> Result<Tls, Broken> {
        let mut end_point = None;
        let mut tested = None;
        let side = match role {
            TlsRole::Server { listener } => {
                let keys = self.server.as_ref().expect("the shard offers STARTTLS where there is a certificate");
                end_point.clone_from(&keys.end_point);
                Side::Server(Box::new(UnbufferedServerConnection::new(keys.configs[listener as usize].clone())?))
            }
            TlsRole::Client { host, identity } => {
                let is_test = identity == Identity::Tested;
                let (config, host) = match (identity, &self.proven) {
                    (Identity::Any | Identity::Tested, _) => (self.any.clone(), host),
                    (Identity::Name, Some(proven)) => (proven.config.clone(), host),
                    (Identity::Name, None) => return Err(Broken::ours("tls.roots names no authority")),
                    (Identity::Dane(dane), _) => (dane_config(dane.clone())?, dane.base.clone()),
                };
                // A name that TLS cannot carry, or an address, is proved by the address and not sent (TLS-08).
                let name = ServerName::try_from(host.to_string()).unwrap_or(ServerName::IpAddress(peer.into()));
                if is_test {
                    let verifier = self.proven.as_ref().map(|proven| proven.verifier.clone());
                    tested = Some(Tested { verifier, name: name.clone() });
                }
                Side::Client(Box::new(UnbufferedClientConnection::new(config, name)?))
            }
        };
        let mut tls = Tls {
            side,
            peer,
            exporter: None,
            end_point,
            tested,
            secured: false,
            broken: false,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            written: 0,
            sealed_bytes: 0,
        };
        // A client speaks first.
        tls.process(&mut [], &mut Vec::new())?;
        Ok(tls)
    }
}

fn own_files(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join(OWN_CERTIFICATE), dir.join(OWN_KEY))
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

fn trouble(what: &str, path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure(format!("cannot use {what} {}: {error}", path.display()))
}

/// With `clients`, those who show a certificate from these authorities are known by it; nobody has to.
fn server_keys(certificate: &Path, key: &Path, clients: Option<&Path>) -> Result<ServerKeys, Failure> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| trouble("tls.certificate", certificate, error))?;
    let end_point = chain.first().and_then(|certificate| binding::end_point(certificate));
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| trouble("tls.key", key, error))?;
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => WebPkiClientVerifier::builder_with_provider(roots("tls.client_roots", path)?.into(), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| trouble("tls.client_roots", path, error))?,
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)
        .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, private))
        .map_err(|error| trouble("tls.certificate", certificate, error))?;
    config.key_log = Arc::new(binding::Ear);
    // All that we offer are sound; whose order counts is not for an attacker to say (TLS-08).
    config.ignore_client_order = true;
    let mut configs = Vec::new();
    for _ in Role::ALL {
        let mut config = config.clone();
        config.ticketer =
            aws_lc_rs::Ticketer::new().map_err(|error| Failure(format!("no keys for tickets: {error}")))?;
        config.session_storage = ServerSessionMemoryCache::new(limits::TLS_SESSIONS_MAX);
        configs.push(Arc::new(config));
    }
    let configs = configs.try_into().expect("one for each role");
    Ok(ServerKeys { configs, end_point })
}

fn roots(key: &str, path: &Path) -> Result<RootCertStore, Failure> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| trouble(key, path, error))?;
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates);
    if store.is_empty() { Err(trouble(key, path, "it holds no certificate of an authority")) } else { Ok(store) }
}

/// Each configuration has sessions of its own, so that none made with an unproven next hop stands in for a proof.
fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    resumption: Resumption,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS)?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.resumption = resumption;
    Ok(Arc::new(config))
}

fn shared_config(verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>, Failure> {
    client_config(verifier, Resumption::in_memory_sessions(limits::TLS_SESSIONS_MAX))
        .map_err(|error| Failure(format!("no TLS: {error}")))
}

/// For one connection: a session that was proved by other records is not taken up again.
fn dane_config(dane: Arc<Dane>) -> Result<Arc<ClientConfig>, rustls::Error> {
    client_config(Arc::new(DaneVerifier::new(dane, provider())), Resumption::disabled())
}

/// Makes a self-signed certificate and its key. Each takes its name when it is whole and synced, the certificate last:
/// what fails or crashes on the way leaves no certificate, and the next start makes a new pair.
fn make_own(hostname: &str, certificate: &Path, key: &Path) -> Result<(), Failure> {
    let made = rcgen::generate_simple_self_signed(vec![hostname.to_owned()])
        .map_err(|error| Failure(format!("cannot make a certificate for {hostname}: {error}")))?;
    let failed = |path: &Path, error: std::io::Error| Failure(format!("cannot write {}: {error}", path.display()));
    // An old one whose key is gone must not meet the new key.
    match std::fs::remove_file(certificate) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(certificate, error)),
        _ => {}
    }
    let write = |path: &Path, text: String, mode: u32| {
        replace_file(path, text.as_bytes(), mode).map_err(|error| failed(path, error))
    };
    write(key, made.signing_key.serialize_pem(), 0o600)?;
    write(certificate, made.cert.pem(), 0o644)
}

/// Takes every certificate: where no name is to be proved, a signature proves nothing either, for whoever sits in
/// between has a key too (RFC 7435). The records are sealed all the same.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The peer broke TLS, or proved nothing that we believe; what to tell an operator, and what the peer's domain.
#[derive(Debug)]
pub(crate) struct Broken {
    text: String,
    /// None: it went wrong here.
    fault: Option<Fault>,
}

impl Broken {
    fn ours(text: impl Into<String>) -> Broken {
        Broken { text: text.into(), fault: None }
    }

    /// The connection's end, for the shard.
    pub(crate) fn reason(&self) -> CloseReason {
        self.fault.map_or(CloseReason::Failed { errno: libc::EPROTO }, CloseReason::Tls)
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<rustls::Error> for Broken {
    fn from(error: rustls::Error) -> Broken {
        Broken { text: error.to_string(), fault: Some(faults::fault(&error)) }
    }
}

/// A next hop that need not prove its name, but is looked at as if.
struct Tested {
    /// None where there are no authorities.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    name: ServerName<'static>,
}

impl Tested {
    /// Why it does not prove its name: of our own making if there is no fault.
    fn prove_name(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<(), Option<Fault>> {
        let (Some(verifier), Some([host, others @ ..])) = (&self.verifier, chain) else { return Err(None) };
        let verified = verifier.verify_server_cert(host, others, &self.name, &[], UnixTime::now());
        verified.map(|_| ()).map_err(|error| Some(faults::fault(&error)))
    }
}

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What came of bytes from the socket.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The handshake came to its end with these bytes; plain bytes came behind it.
    pub(crate) secured: Option<TlsInfo>,
    /// The peer said close_notify: nothing comes after the plain bytes given.
    pub(crate) ended: bool,
}

/// One connection's TLS.
pub(crate) struct Tls {
    side: Side,
    /// Who is at the other end: a socket that failed cannot tell any more.
    peer: IpAddr,
    /// What an AUTH exchange can be bound to once the handshake is done: what one comes from, and the other.
    exporter: Option<binding::Secret>,
    end_point: Option<Arc<[u8]>>,
    tested: Option<Tested>,
    /// The handshake is done.
    secured: bool,
    /// The connection is of no use any more; rustls is not asked again.
    broken: bool,
    /// The start of a record, or of a message of the handshake.
    incoming: Vec<u8>,
    /// Records on their way out, and how much of them the socket took.
    outgoing: Vec<u8>,
    written: usize,
    /// Plain bytes that are in `outgoing`.
    sealed_bytes: usize,
}

/// What one look at the connection came to.
enum Turn {
    Again,
    Blocked,
    Ended,
}

impl Tls {
    /// Who is at the other end.
    pub(crate) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Room to leave at the start of the buffer for what is kept from earlier reads, in bytes.
    pub(crate) fn kept(&self) -> usize {
        self.incoming.len()
    }

    /// True if plain bytes can be sealed: the handshake is done, and nothing broke.
    pub(crate) fn can_seal(&self) -> bool {
        self.secured && !self.broken
    }

    /// Takes `count` bytes that were read into `buffer` behind the room for `kept()`; appends what they hold to `plain`.
    pub(crate) fn open(&mut self, buffer: &mut [u8], count: usize, plain: &mut Vec<u8>) -> Result<Opened, Broken> {
        assert!(!self.broken, "nothing is read from a broken connection");
        let kept = self.incoming.len();
        buffer[..kept].copy_from_slice(&self.incoming);
        let filled = kept + count;
        let (taken, ended) = self.process(&mut buffer[..filled], plain)?;
        if filled - taken > limits::TLS_KEPT_MAX_BYTES {
            self.broken = true;
            return Err(Broken {
                text: "a message of the handshake is too long".to_owned(),
                fault: Some(Fault { result: ResultType::ValidationFailure, reason: "handshake-too-long" }),
            });
        }
        self.incoming.clear();
        self.incoming.extend_from_slice(&buffer[taken..filled]);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
        let secured = if self.secured { None } else { self.look_whether_secured() };
        Ok(Opened { secured, ended })
    }

    /// Works through records until more must come; gives how many bytes of `records` are done with, and whether the
    /// peer ended. What is to be answered goes to `outgoing`.
    fn process(&mut self, records: &mut [u8], plain: &mut Vec<u8>) -> Result<(usize, bool), Broken> {
        let mut taken = 0;
        let mut ended = false;
        loop {
            let (discard, turn) = self.turn(&mut records[taken..], plain);
            taken += discard;
            match turn {
                Ok(Turn::Again) => {}
                Ok(Turn::Ended) => {
                    ended = true;
                    break;
                }
                Ok(Turn::Blocked) => break,
                Err(broken) => {
                    // What remains to be said is the alert, if there is one; it comes first.
                    let _ = self.turn(&mut records[taken..], &mut Vec::new());
                    self.broken = true;
                    return Err(broken);
                }
            }
        }
        Ok((taken, ended))
    }

    /// One step. rustls remembers places in the bytes given, so they are the same each time but for what is discarded.
    fn turn(&mut self, records: &mut [u8], plain: &mut Vec<u8>) -> (usize, Result<Turn, Broken>) {
        let out = &mut self.outgoing;
        match &mut self.side {
            Side::Server(server) => {
                let result = turn(server.process_tls_records(records), plain, out);
                if !self.secured {
                    self.exporter = binding::told().or(self.exporter.take());
                }
                result
            }
            Side::Client(client) => turn(client.process_tls_records(records), plain, out),
        }
    }

    fn look_whether_secured(&mut self) -> Option<TlsInfo> {
        let common: &CommonState = match &self.side {
            Side::Server(server) => server,
            Side::Client(client) => client,
        };
        let (handshaking, suite, kind) =
            (common.is_handshaking(), common.negotiated_cipher_suite(), common.handshake_kind());
        if handshaking {
            return None;
        }
        let chain = common.peer_certificates();
        let (certified, fault) = match self.tested.take() {
            Some(tested) => {
                let proved = tested.prove_name(chain);
                (proved.is_ok(), proved.err().flatten())
            }
            None => (chain.is_some(), None),
        };
        self.secured = true;
        let cipher = suite.map_or("unknown", |suite| registered_name(suite.suite()));
        let exporter = self.exporter.take().zip(suite).and_then(|(secret, suite)| binding::exporter(suite, &secret));
        let binding = ChannelBinding { exporter, end_point: self.end_point.take() };
        Some(TlsInfo { cipher, resumed: kind == Some(HandshakeKind::Resumed), binding, certified, fault })
    }

    /// Records that wait for the socket.
    pub(crate) fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.written..]
    }

    /// The socket took so many bytes of `outgoing()`. Gives the plain bytes that are out with them: all that were
    /// sealed, once all records are.
    pub(crate) fn took(&mut self, count: usize) -> usize {
        self.written += count;
        assert!(self.written <= self.outgoing.len(), "the socket took more than there was");
        if self.written < self.outgoing.len() {
            return 0;
        }
        self.written = 0;
        self.outgoing.clear();
        if self.outgoing.capacity() > limits::OUTBOX_KEEP_BYTES {
            self.outgoing = Vec::new();
        }
        std::mem::take(&mut self.sealed_bytes)
    }

    /// Seals what the slices hold, at most `limits::TLS_SEAL_BYTES`, into `outgoing`. Panics while something waits
    /// there, or before the handshake is done.
    pub(crate) fn seal(&mut self, slices: &[IoSlice<'_>], joined: &mut Vec<u8>) -> Result<(), Broken> {
        assert!(self.outgoing.is_empty() && self.can_seal(), "what was sealed before goes out first");
        // Many short slices in one record: a record costs more than a copy.
        joined.clear();
        for slice in slices {
            let room = limits::TLS_SEAL_BYTES - joined.len();
            joined.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        if joined.is_empty() {
            return Ok(());
        }
        self.write(Some(joined))?;
        self.sealed_bytes = joined.len();
        Ok(())
    }

    /// Says close_notify, if the handshake came so far, behind what waits.
    pub(crate) fn say_goodbye(&mut self) {
        if self.secured && !self.broken {
            // It may be too late for it, if we said it before.
            let _ = self.write(None);
        }
    }

    /// Appends sealed bytes, or close_notify for `None`.
    fn write(&mut self, plain: Option<&[u8]>) -> Result<(), Broken> {
        loop {
            let (records, out) = (&mut self.incoming[..], &mut self.outgoing);
            let (discard, done) = match &mut self.side {
                Side::Server(server) => write_turn(server.process_tls_records(records), plain, out),
                Side::Client(client) => write_turn(client.process_tls_records(records), plain, out),
            };
            self.incoming.drain(..discard);
            self.broken |= done.is_err();
            if done? {
                return Ok(());
            }
        }
    }
}

/// One step of reading: what the connection's state asks for.
fn turn<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> (usize, Result<Turn, Broken>) {
    let mut discard = status.discard;
    let result = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Turn::Again),
                Some(Err(error)) => break Err(error.into()),
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => append(out, 0, |room| match data.encode(room) {
            Ok(length) => Ok(Ok(length)),
            Err(EncodeError::InsufficientSize(need)) => Ok(Err(need.required_size)),
            Err(error) => Err(Broken::ours(error.to_string())),
        })
        .map(|()| Turn::Again),
        // The socket's writer does not care which record is which; order is all that matters.
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Ok(Turn::Again)
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Turn::Blocked),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Turn::Ended),
        // Early data is never offered.
        Ok(_) => Err(Broken::ours("a state of TLS that nobody asked for")),
    };
    (discard, result)
}

/// One step of writing; true when the bytes, or close_notify for `None`, are in `out`.
fn write_turn<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> (usize, Result<bool, Broken>) {
    match status {
        UnbufferedStatus { discard, state: Ok(ConnectionState::WriteTraffic(mut traffic)), .. } => {
            let room = plain.map_or(0, <[u8]>::len);
            let done = append(out, room + (room / RECORD_BYTES + 1) * RECORD_OVER_BYTES, |room| {
                let sealed = match plain {
                    Some(plain) => traffic.encrypt(plain, room),
                    None => traffic.queue_close_notify(room),
                };
                match sealed {
                    Ok(length) => Ok(Ok(length)),
                    Err(EncryptError::InsufficientSize(need)) => Ok(Err(need.required_size)),
                    Err(error) => Err(Broken::ours(error.to_string())),
                }
            });
            (discard, done.map(|()| true))
        }
        status => {
            // Nothing comes in here, for all that came was worked through; only answers may be due.
            let (discard, turn) = turn(status, &mut Vec::new(), out);
            let done = match turn {
                Ok(Turn::Again) => Ok(false),
                Ok(Turn::Blocked | Turn::Ended) => Err(Broken::ours("the connection takes nothing more")),
                Err(error) => Err(error),
            };
            (discard, done)
        }
    }
}

/// Lets `fill` write at the end of `out`; it says how much it wrote, or how much more `room` it needs.
fn append(
    out: &mut Vec<u8>,
    mut room: usize,
    mut fill: impl FnMut(&mut [u8]) -> Result<Result<usize, usize>, Broken>,
) -> Result<(), Broken> {
    let start = out.len();
    loop {
        out.resize(start + room, 0);
        match fill(&mut out[start..])? {
            Ok(length) => {
                out.truncate(start + length);
                return Ok(());
            }
            Err(need) => {
                assert!(need > room, "more room is needed than was asked for");
                room = need;
            }
        }
    }
}

/// The name in IANA's registry; rustls writes those of TLS 1.3 in its own way.
fn registered_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        suite => suite.as_str().unwrap_or("unknown"),
    }
}

/// Sends what it can of the last words, without waiting.
pub(crate) fn last_words(tls: &mut Tls, send: impl Fn(&[IoSlice<'_>]) -> io::Result<usize>) {
    tls.say_goodbye();
    if !tls.outgoing().is_empty() {
        // A peer that takes no more, or has gone, learns it from the close.
        let _ = send(&[IoSlice::new(tls.outgoing())]);
    }
}

#[cfg(test)]
mod tests;
