//! Listening sockets: one per shard and address, so that the kernel spreads connections over the shards; a unix socket is
//! one that all shards take from.
//!
//! They are made on the main thread, so that a wrong address ends the start with a clear message, and begin to
//! listen on their shard's thread once the shard can accept mail. Running out of descriptors pauses accepting and is
//! reported (QUE-09); it neither spins nor ends anything.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd as _, IntoRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::net::TcpListener;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::executor::Shell;
use crate::config::{Endpoint, Role, SocketSettings};
use crate::shard::Level;

/// Pause after the descriptors or the memory for them ran out.
const FULL_PAUSE: Duration = Duration::from_millis(100);
/// How long an address may be another's before that is an error, and the pause between tries.
const IN_USE_LONGEST: Duration = Duration::from_secs(2);
const IN_USE_PAUSE: Duration = Duration::from_millis(10);
/// Connections taken before others get their turn.
const ACCEPTS_PER_TURN: u32 = 64;

/// A listening socket of one shard, and what it is for.
pub(crate) struct Door {
    pub(crate) socket: Socket,
    pub(crate) role: Role,
    /// See `Listener::proxied`.
    pub(crate) proxied: bool,
}

/// A socket per shard, whose cores are given, for one endpoint; gives the endpoint too, with the port the kernel chose for port 0.
pub(crate) fn bind(
    endpoint: &Endpoint,
    cores: &[usize],
    wanted: &SocketSettings,
) -> io::Result<(Endpoint, Vec<Socket>)> {
    match endpoint {
        Endpoint::Tcp(address) => {
            bind_tcp(*address, cores, wanted).map(|(bound, sockets)| (Endpoint::Tcp(bound), sockets))
        }
        Endpoint::Unix(path) => bind_unix(path, cores.len()).map(|sockets| (endpoint.clone(), sockets)),
    }
}

fn bind_unix(path: &Path, shards: usize) -> io::Result<Vec<Socket>> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A socket at which nobody listens is left from an earlier life. Anything else that stands there is not ours.
    if path.metadata().is_ok_and(|found| found.file_type().is_socket())
        && socket.connect(&address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address)?;
    // Who may reach it is for its directory to say, whatever the mask of whoever starts us.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    (0..shards).map(|_| socket.try_clone()).collect()
}

fn bind_tcp(address: SocketAddr, cores: &[usize], wanted: &SocketSettings) -> io::Result<(SocketAddr, Vec<Socket>)> {
    if address.port() != 0 {
        // With SO_REUSEPORT a second relay would quietly take part of the first one's mail.
        listen_alone(address, wanted)?;
    }
    let mut bound = address;
    let mut sockets = Vec::with_capacity(cores.len());
    for core in cores {
        let socket = socket(address, wanted)?;
        socket.set_reuse_port(true)?;
        if wanted.by_core {
            // Of all sockets that could take a connection, the kernel prefers those of the core it is working on.
            socket.set_cpu_affinity(*core)?;
        }
        socket.bind(&bound.into())?;
        if let Some(local) = socket.local_addr()?.as_socket() {
            bound = local;
        }
        sockets.push(socket);
    }
    Ok((bound, sockets))
}

/// Listens for a moment where nobody else does. The kernel takes a relay's rings apart after its end, and only then lets go of
/// its sockets: whoever is started right behind it waits for that.
fn listen_alone(address: SocketAddr, wanted: &SocketSettings) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let alone = socket(address, wanted)?;
        match alone.bind(&address.into()).and_then(|()| alone.listen(1)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < IN_USE_LONGEST => {
                std::thread::sleep(IN_USE_PAUSE);
            }
            done => return done,
        }
    }
}

fn socket(address: SocketAddr, wanted: &SocketSettings) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // All this is inherited by every connection that is accepted.
    socket.set_tcp_nodelay(true)?;
    set_buffers(&socket, wanted)?;
    Ok(socket)
}

/// Fixes the sizes of the kernel's buffers that are set; before the socket is connected, for the window to follow.
pub(super) fn set_buffers(socket: &Socket, wanted: &SocketSettings) -> io::Result<()> {
    if wanted.receive_bytes > 0 {
        socket.set_recv_buffer_size(wanted.receive_bytes)?;
    }
    if wanted.send_bytes > 0 {
        socket.set_send_buffer_size(wanted.send_bytes)?;
    }
    Ok(())
}

/// Begins to listen; on the shard's thread.
pub(crate) fn listen(socket: Socket, backlog: u32) -> io::Result<TcpListener> {
    socket.listen(backlog.try_into().unwrap_or(i32::MAX))?;
    // SAFETY: the descriptor is a listening socket of ours and given away.
    Ok(unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) })
}

/// Takes connections for as long as the shard lives.
pub(crate) async fn accept_loop(shell: Rc<Shell>, listener: TcpListener, role: Role, proxied: bool) {
    let mut taken = 0u32;
    loop {
        match listener.accept().await {
            // A peer that is gone already has no address; dropping the stream ends it.
            Ok(stream) => shell.arrived(stream, role, proxied),
            Err(error) => match error.raw_os_error() {
                Some(errno @ (libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) => {
                    let why = io::Error::from_raw_os_error(errno);
                    let text =
                        format!("cannot accept connections: {why}; raise the limit on open files (LimitNOFILE=)");
                    shell.report_seldom(Level::Error, text);
                    glommio::timer::sleep(FULL_PAUSE).await;
                }
                // The connection broke before it was taken, or the network had an error pending on it.
                Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::EPERM | libc::ENETDOWN) => {}
                _ => {
                    shell.report_seldom(Level::Error, format!("cannot accept connections: {error}"));
                    glommio::timer::sleep(FULL_PAUSE).await;
                }
            },
        }
        taken = taken.wrapping_add(1);
        if taken.is_multiple_of(ACCEPTS_PER_TURN) {
            glommio::executor().yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_a_port_and_a_stranger_does_not() {
        let wanted = SocketSettings { receive_bytes: 64 << 10, send_bytes: 32 << 10, ..SocketSettings::default() };
        let (address, sockets) = bind_tcp("127.0.0.1:0".parse().unwrap(), &[0, 1, 2], &wanted).unwrap();
        assert_eq!(sockets.len(), 3);
        sockets.iter().for_each(|socket| socket.listen(16).unwrap());
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap().as_socket() == Some(address)));
        // The kernel doubles what is asked for, for its own bookkeeping.
        assert_eq!(sockets[0].recv_buffer_size().unwrap(), 128 << 10);
        assert_eq!(sockets[0].send_buffer_size().unwrap(), 64 << 10);
        let second = bind_tcp(address, &[0], &wanted).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        bind_tcp(address, &[0, 1], &wanted).unwrap();
        if let Ok((six, _)) = bind_tcp("[::1]:0".parse().unwrap(), &[0], &wanted) {
            assert!(six.is_ipv6());
        }
    }

    /// What the kernel is about to let go of is waited for, as behind the end of a relay.
    #[test]
    fn an_address_that_becomes_free_is_taken() {
        let (address, sockets) = bind_tcp("127.0.0.1:0".parse().unwrap(), &[0], &SocketSettings::default()).unwrap();
        sockets[0].listen(1).unwrap();
        let before = std::thread::spawn(move || {
            std::thread::sleep(10 * IN_USE_PAUSE);
            drop(sockets);
        });
        bind_tcp(address, &[0], &SocketSettings::default()).unwrap();
        before.join().unwrap();
    }

    #[test]
    fn a_connection_goes_to_the_shard_on_the_core_it_came_to() {
        let cores = crate::runtime::allowed_cores().unwrap();
        let wanted = SocketSettings { by_core: true, ..SocketSettings::default() };
        let (address, sockets) = bind_tcp("127.0.0.1:0".parse().unwrap(), &cores, &wanted).unwrap();
        for socket in &sockets {
            socket.listen(64).unwrap();
            socket.set_nonblocking(true).unwrap();
        }
        for (own, core) in cores.into_iter().enumerate() {
            let client = glommio::LocalExecutorBuilder::new(glommio::Placement::Fixed(core))
                .spawn(move || async move {
                    (0..8).map(|_| std::net::TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
                })
                .unwrap();
            let connections = client.join().unwrap();
            for (index, socket) in sockets.iter().enumerate() {
                let taken = std::iter::from_fn(|| socket.accept().ok()).count();
                assert_eq!(taken, if index == own { connections.len() } else { 0 }, "core {core}, shard {index}");
            }
        }
    }

    #[test]
    fn a_unix_socket_left_behind_is_taken_over_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("smtp");
        let sockets = bind_unix(&path, 2).unwrap();
        sockets[0].listen(4).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(bind_unix(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        bind_unix(&path, 1).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not a socket").unwrap();
        assert_eq!(bind_unix(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"not a socket");
    }
}
