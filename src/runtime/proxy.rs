//! The PROXY header of a fresh connection, read before anything else sees it (PRX-01, PRX-02).
//!
//! On the shard's thread, a task for each connection. Never a byte more is read than the header has (`smtp::proxy`), so that a
//! greeting or a handshake follows as if there had been none. A connection that is not from a listed load balancer, or brings no header
//! in good time, is closed without a word to the other end; the operator hears of it, seldom. How many are awaited is bounded.

use std::future::Future as _;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_lite::{AsyncReadExt as _, future::poll_fn};
use glommio::net::TcpStream;
use glommio::timer::Timer;

use super::balance::Seat;
use super::executor::Shell;
use crate::base::limits::{PROXY_HEADER_MS, PROXY_HEADERS_MAX};
use crate::config::Role;
use crate::shard::Level;
use crate::smtp::proxy::{Conveyed, HEADER_MAX_BYTES, HeaderReader};

/// Reads the header of a connection that has `peer` and `local` as its real ends, then lets the shard greet whom it conveys.
pub(super) fn await_header(
    shell: &Rc<Shell>,
    stream: TcpStream,
    role: Role,
    seat: Seat,
    peer: SocketAddr,
    local: IpAddr,
) {
    // Dropping the stream ends the connection.
    let closed = move |shell: &Shell, why: &str| {
        let text = format!("closed a connection from {} that should begin with a PROXY header: {why}", peer.ip());
        shell.report_seldom(Level::Info, text);
    };
    if !shell.proxies.borrow().iter().any(|network| network.contains(&peer.ip().to_canonical())) {
        return closed(shell, "it is not in proxy.networks");
    }
    if shell.headers_awaited.get() >= PROXY_HEADERS_MAX {
        return closed(shell, "too many are awaited");
    }
    shell.headers_awaited.set(shell.headers_awaited.get() + 1);
    let shell = shell.clone();
    glommio::spawn_local(async move {
        let mut stream = stream;
        let conveyed = in_time(&mut stream).await;
        shell.headers_awaited.set(shell.headers_awaited.get() - 1);
        match conveyed {
            Ok(Conveyed::Socket) => shell.introduce(stream, role, seat, peer, local),
            Ok(Conveyed::Client { peer, local }) => shell.introduce(stream, role, seat, peer, local),
            Err(why) => closed(&shell, why),
        }
    })
    .detach();
}

async fn in_time(stream: &mut TcpStream) -> Result<Conveyed, &'static str> {
    let mut timer = pin!(Timer::new(Duration::from_millis(PROXY_HEADER_MS)));
    let mut header = pin!(read(stream));
    poll_fn(|cx| match (header.as_mut().poll(cx), timer.as_mut().poll(cx)) {
        (Poll::Ready(result), _) => Poll::Ready(result),
        (Poll::Pending, Poll::Ready(_)) => Poll::Ready(Err("it did not come in time")),
        (Poll::Pending, Poll::Pending) => Poll::Pending,
    })
    .await
}

async fn read(stream: &mut TcpStream) -> Result<Conveyed, &'static str> {
    let mut reader = HeaderReader::default();
    let mut piece = [0; HEADER_MAX_BYTES];
    loop {
        let wanted = reader.wants().min(piece.len());
        match stream.read(&mut piece[..wanted]).await {
            Ok(0) => return Err("it ended early"),
            Err(_) => return Err("the connection broke"),
            Ok(count) => match reader.feed(&piece[..count]) {
                Ok(None) => {}
                Ok(Some(conveyed)) => return Ok(conveyed),
                Err(_) => return Err("what came is none"),
            },
        }
    }
}
