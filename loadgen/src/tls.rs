//! TLS for both ends: keys, and a socket that is plain or secured. The only file that names rustls.
//!
//! [`ClientTls`] and [`ServerTls`] are made once and shared by all threads, their caches of sessions included. A [`Wire`]
//! lives on its connection's thread; plain, it adds nothing to the socket. Secured, it reads large pieces from the
//! socket, not record by record, and holds back what the socket does not take yet. A peer that breaks the protocol is
//! an error of its connection; nothing panics. TLS 1.2 and 1.3.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::path::Path;
use std::sync::Arc;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, HandshakeKind, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme,
};

/// The name a sink's own certificate is made for.
pub const SINK_NAME: &str = "sink.loadgen.test";
/// Sealed bytes read from a socket at a time.
const SEALED_BYTES: usize = 64 << 10;
/// Room for a record that began in an earlier read.
const RECORD_ROOM_BYTES: usize = 18 << 10;
/// Buffers for [`Wire::read`] are at least this large, so that whatever is opened finds room.
pub const READ_MIN_BYTES: usize = 2 * RECORD_ROOM_BYTES;
/// Sessions kept for resumption; each server name keeps a few.
const RESUMABLE: usize = 256;

/// When a connection is secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Never.
    #[default]
    None,
    /// Behind STARTTLS (RFC 3207).
    StartTls,
    /// From the first byte (RFC 8314 3).
    Implicit,
}

/// How a handshake went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// With all its cryptography.
    Full,
    /// From a session known before.
    Resumed,
}

/// What a sender asks of a server's TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsAsked {
    /// Name that is sent and, with roots, must be proved; None for the target's host.
    pub name: Option<String>,
    /// Certificates (PEM) of which one must stand behind the server's; None takes any certificate.
    pub roots: Option<std::path::PathBuf>,
    /// A full handshake on every connection.
    pub no_resumption: bool,
}

/// The sending side's keys.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl ClientTls {
    /// For servers called `host`, unless another name was asked for.
    pub fn new(asked: &TlsAsked, host: &str) -> io::Result<ClientTls> {
        let name = asked.name.as_deref().unwrap_or(host);
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is no name that TLS can carry"));
        let name = ServerName::try_from(name.to_string()).map_err(|_| wrong())?;
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?;
        let mut config = match &asked.roots {
            Some(path) => builder.with_root_certificates(roots(path)?).with_no_client_auth(),
            None => {
                let algorithms = provider().signature_verification_algorithms;
                let any = Arc::new(AnyCertificate { algorithms });
                builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth()
            }
        };
        config.resumption =
            if asked.no_resumption { Resumption::disabled() } else { Resumption::in_memory_sessions(RESUMABLE) };
        Ok(ClientTls { config: Arc::new(config), name })
    }
}

/// A sink's keys: a certificate of its own, signed by itself.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    certificate: String,
}

impl ServerTls {
    /// Makes a certificate for [`SINK_NAME`].
    pub fn self_signed() -> io::Result<ServerTls> {
        let made = rcgen::generate_simple_self_signed([SINK_NAME.to_string()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let certificate = made.cert.pem();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
            .map_err(io::Error::other)?;
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(io::Error::other)?;
        // Tickets resume in both versions; nothing is to be remembered here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(ServerTls { config: Arc::new(config), certificate })
    }

    /// The certificate, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(path: &Path) -> io::Result<RootCertStore> {
    let named = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {error}", path.display()))
    };
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut store = RootCertStore::empty();
    for certificate in certificates.map_err(|error| named(&error))? {
        store.add(certificate).map_err(|error| named(&error))?;
    }
    if store.is_empty() { Err(named(&"holds no certificate")) } else { Ok(store) }
}

/// Takes any certificate, but not a signature that is wrong: the work of a handshake is done in full.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

struct Secured {
    connection: Connection,
    /// The last read left the socket empty.
    drained: bool,
    handshake_told: bool,
}

/// A connection's socket, plain or secured.
pub struct Wire {
    socket: TcpStream,
    secured: Option<Box<Secured>>,
}

thread_local! {
    /// What was read from a socket and is not opened yet; empty between calls.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Wire {
    /// A plain socket.
    pub fn plain(socket: TcpStream) -> Wire {
        Wire { socket, secured: None }
    }

    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// From now on all is secured, this end being the client. The handshake begins at once, or when the socket connects.
    pub fn secure_as_client(&mut self, tls: &ClientTls) -> io::Result<()> {
        let connection = ClientConnection::new(Arc::clone(&tls.config), tls.name.clone()).map_err(io::Error::other)?;
        self.secure(Connection::Client(connection))
    }

    /// From now on all is secured, this end being the server.
    pub fn secure_as_server(&mut self, tls: &ServerTls) -> io::Result<()> {
        let connection = ServerConnection::new(Arc::clone(&tls.config)).map_err(io::Error::other)?;
        self.secure(Connection::Server(connection))
    }

    fn secure(&mut self, connection: Connection) -> io::Result<()> {
        self.secured = Some(Box::new(Secured { connection, drained: false, handshake_told: false }));
        self.push().map(drop)
    }

    /// True if sealed bytes wait for the socket.
    pub fn has_pending(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.connection.wants_write())
    }

    /// Hands sealed bytes to the socket; false if it takes no more for now.
    pub fn push(&mut self) -> io::Result<bool> {
        let Some(secured) = &mut self.secured else { return Ok(true) };
        while secured.connection.wants_write() {
            match secured.connection.write_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// True if the last read, which gave `count` bytes for a buffer of `room`, left nothing in the socket.
    pub fn is_drained(&self, count: usize, room: usize) -> bool {
        self.secured.as_ref().map_or(count < room, |secured| secured.drained)
    }

    /// How the handshake went; once, when it is over.
    pub fn take_handshake(&mut self) -> Option<Handshake> {
        let secured = self.secured.as_mut().filter(|s| !s.handshake_told && !s.connection.is_handshaking())?;
        secured.handshake_told = true;
        match secured.connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => Some(Handshake::Resumed),
            _ => Some(Handshake::Full),
        }
    }

    /// Tells the other end that no more comes; whether it hears does not matter.
    pub fn say_goodbye(&mut self) {
        if let Some(secured) = &mut self.secured {
            secured.connection.send_close_notify();
            let _ = self.push();
        }
    }

    fn read_secured(&mut self, sealed: &mut [u8], buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = match self.socket.read(sealed) {
                Ok(0) => return Ok(0),
                other => other?,
            };
            let secured = self.secured.as_mut().expect("only called when secured");
            secured.drained = count < sealed.len();
            let (mut left, mut filled, mut closed) = (&sealed[..count], 0, false);
            while !left.is_empty() && !closed {
                secured.connection.read_tls(&mut left)?;
                if let Err(error) = secured.connection.process_new_packets() {
                    // An alert for the other end's log, if the socket takes it.
                    let _ = secured.connection.write_tls(&mut self.socket);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
                closed = loop {
                    match secured.connection.reader().read(&mut buffer[filled..]) {
                        Ok(0) => break true,
                        Ok(more) => filled += more,
                        Err(_) => break false,
                    }
                };
            }
            self.push()?;
            if filled > 0 || closed {
                return Ok(filled);
            }
        }
    }
}

impl Read for Wire {
    /// Plain bytes; `Ok(0)` at the end of the stream. A secured socket needs a buffer of [`READ_MIN_BYTES`].
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.secured.is_none() {
            return self.socket.read(buffer);
        }
        assert!(buffer.len() >= READ_MIN_BYTES, "what is opened finds room");
        let room = SEALED_BYTES.min(buffer.len() - RECORD_ROOM_BYTES);
        SEALED.with_borrow_mut(|sealed| {
            sealed.resize(SEALED_BYTES, 0);
            self.read_secured(&mut sealed[..room], buffer)
        })
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.secured {
            None => self.socket.write(bytes),
            Some(_) => self.write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.push()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Some(secured) = &mut self.secured else { return self.socket.write_vectored(slices) };
        // Before the end of the handshake a bounded buffer takes it: when that is full, what is read next goes on.
        let taken = secured.connection.writer().write_vectored(slices)?;
        self.push()?;
        if taken == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push().map(drop)
    }
}

impl Source for Wire {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}
