//! Outbound connections: our own socket, bound to its source and connecting, given to glommio while it does.
//!
//! Lives on the shard's thread. Whatever goes wrong is a `Closed` with its number; the deadline is the shard's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _};

use glommio::net::TcpStream;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::listen::set_buffers;
use crate::config::{Endpoint, SocketSettings};

/// A socket on its way somewhere. It stands once it can be written to without an error.
pub(crate) fn dial(to: &Endpoint, source: Option<IpAddr>, wanted: &SocketSettings) -> io::Result<TcpStream> {
    let (socket, address) = match to {
        Endpoint::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_tcp_nodelay(true)?;
            (socket, SockAddr::from(*address))
        }
        Endpoint::Unix(path) => (Socket::new(Domain::UNIX, Type::STREAM, None)?, SockAddr::unix(path)?),
    };
    socket.set_nonblocking(true)?;
    set_buffers(&socket, wanted)?;
    if let Some(source) = source {
        choose_port_late(&socket);
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&address) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    // SAFETY: the descriptor is a stream socket of ours and given away.
    Ok(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) })
}

/// Lets the kernel choose the port when connecting, so that one port serves many destinations. Without it binding
/// works too, with fewer ports to go round, so a refusal is no error.
fn choose_port_late(socket: &Socket) {
    let on: libc::c_int = 1;
    // SAFETY: the option value is a local integer of the given size.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::AsyncWrite;
    use futures_lite::future::poll_fn;
    use glommio::LocalExecutor;
    use std::pin::Pin;

    /// An empty write is ready when the connection stands or failed, and not before.
    #[test]
    fn standing_and_refused_connections_are_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = Endpoint::Tcp(listener.local_addr().unwrap());
        let wanted = SocketSettings::default();
        LocalExecutor::default().run(async move {
            let mut stream = dial(&to, Some("127.0.0.2".parse().unwrap()), &wanted).unwrap();
            poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &[])).await.unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), "127.0.0.2".parse::<IpAddr>().unwrap());
            drop(listener);
            match dial(&to, None, &wanted) {
                Ok(mut stream) => {
                    let error = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &[])).await.unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
                }
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED)),
            }
        });
    }
}
