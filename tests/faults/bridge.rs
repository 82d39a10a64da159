//! Takes plain SMTP on one side and says it inside TLS, by STARTTLS, on the other: so the load generator, which speaks no
//! TLS, sends its load through it. A thread per connection; whatever fails ends that connection, as a network would.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use crate::stage::Told;

const STALL_LONGEST: Duration = Duration::from_secs(30);
const POLL_MS: i32 = 200;

/// A listening bridge; dropping it ends its connections soon.
pub(crate) struct Bridge {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Bridge {
    /// Listens on a port of its own and passes on to `target`.
    pub(crate) fn start(target: SocketAddr) -> Told<Bridge> {
        let failed = |error: io::Error| format!("no bridge: {error}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let config = Arc::new(config());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (config, ended) = (Arc::clone(&config), Arc::clone(&ended));
                std::thread::spawn(move || {
                    // A connection that fails is one that ends.
                    let _ = pass(&client, target, config, &ended);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(Bridge { address, over })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the accepting thread; if it cannot be reached it is gone.
        let _ = TcpStream::connect(self.address);
    }
}

/// Takes any certificate: the relay's is its own.
#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

impl ServerCertVerifier for Anyone {
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
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

fn config() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows them")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(schemes)))
        .with_no_client_auth()
}

fn pass(client: &TcpStream, target: SocketAddr, config: Arc<ClientConfig>, over: &AtomicBool) -> io::Result<()> {
    let mut relay = TcpStream::connect_timeout(&target, STALL_LONGEST)?;
    for stream in [client, &relay] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALL_LONGEST))?;
        stream.set_write_timeout(Some(STALL_LONGEST))?;
    }
    read_reply(&mut relay)?;
    relay.write_all(b"EHLO bridge.example.com\r\n")?;
    read_reply(&mut relay)?;
    relay.write_all(b"STARTTLS\r\n")?;
    read_reply(&mut relay)?;
    let name = ServerName::try_from("relay.example.com").expect("a name");
    let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut relay)?;
    }
    (&mut &*client).write_all(b"220 bridge.example.com ESMTP\r\n")?;
    let mut piece = vec![0; 64 << 10];
    while !over.load(Ordering::Relaxed) {
        let (from_client, from_relay) = readable(client, &relay)?;
        if from_client {
            let count = (&mut &*client).read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            tls.writer().write_all(&piece[..count])?;
            while tls.wants_write() {
                tls.write_tls(&mut relay)?;
            }
        }
        if from_relay {
            if tls.read_tls(&mut relay)? == 0 {
                return Ok(());
            }
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let count = tls.reader().read(&mut piece)?;
                (&mut &*client).write_all(&piece[..count])?;
                left = left.saturating_sub(count);
            }
        }
    }
    Ok(())
}

/// Reads to the end of a reply in clear; any but a 2yz is an error.
fn read_reply(stream: &mut TcpStream) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.ends_with(b"\r\n") {
            if line.first() != Some(&b'2') {
                return Err(io::Error::other("not now"));
            }
            if line.get(3) != Some(&b'-') {
                return Ok(());
            }
            line.clear();
        }
    }
}

fn readable(one: &TcpStream, other: &TcpStream) -> io::Result<(bool, bool)> {
    let wait = |stream: &TcpStream| libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut both = [wait(one), wait(other)];
    // SAFETY: two entries, both alive during the call.
    if unsafe { libc::poll(both.as_mut_ptr(), 2, POLL_MS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((both[0].revents != 0, both[1].revents != 0))
}
