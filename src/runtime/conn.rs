//! One connection: a reader task while it lives, a writer task only while the socket takes no more.
//!
//! Lives on the shard's thread. Bytes are read into the shard's one scratch buffer and handed to the shard inside the
//! poll, so that an idle connection holds no buffer. There are no timers here: deadlines are the shard's, which
//! aborts. Inside TLS the same bytes go through `tls` on their way in and out. The errors of the socket become `Closed`; nothing here panics on what a peer does.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_lite::{AsyncRead as _, AsyncWrite as _};
use glommio::net::TcpStream;
use socket2::SockRef;

use super::balance::Seat;
use super::executor::Shell;
use super::gate::Place;
use super::tls::{self, Opened, Tls};
use crate::base::ids::ConnId;
use crate::shard::{CloseReason, Input};

/// Slices gathered into one write.
const SLICES_MAX: usize = 64;
/// Bytes written to one connection before others get their turn.
const WRITE_TURN_BYTES: usize = 1 << 20;
/// Reads of what a peer still had to say when writing to it failed, or when we close.
const LAST_READS_MAX: usize = 8;

/// A connection's socket and what its tasks need to know.
pub(crate) struct Conn {
    id: ConnId,
    stream: RefCell<TcpStream>,
    fd: RawFd,
    paused: Cell<bool>,
    /// Ended from our side or the peer's: its tasks end at their next look.
    over: Cell<bool>,
    /// To be closed when its outbox is empty.
    pub(super) closing: Cell<bool>,
    /// The writer task is at work.
    writing: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    /// Inside TLS, or on the way there: `tls` holds it. A flag of its own, so that the path in clear looks at nothing else.
    sealed: Cell<bool>,
    tls: RefCell<Option<Box<Tls>>>,
    /// In the line of handshakes.
    place: Place,
    /// A client's place on this shard.
    _seat: Option<Seat>,
}

/// How far a write came.
enum Written {
    /// The outbox has nothing to send.
    All,
    /// The turn is over.
    Turn,
    /// The socket takes no more for now.
    Blocked,
    /// The connection is gone.
    Gone,
}

impl Conn {
    pub(crate) fn new(id: ConnId, stream: TcpStream, seat: Option<Seat>) -> Rc<Conn> {
        let fd = stream.as_raw_fd();
        Rc::new(Conn {
            id,
            stream: RefCell::new(stream),
            fd,
            paused: Cell::new(false),
            over: Cell::new(false),
            closing: Cell::new(false),
            writing: Cell::new(false),
            reader: RefCell::new(None),
            writer: RefCell::new(None),
            sealed: Cell::new(false),
            tls: RefCell::new(None),
            place: Place::default(),
            _seat: seat,
        })
    }

    /// From here on everything is TLS, the handshake first. The outbox is empty: nothing in clear is left to write.
    pub(crate) fn begin_tls(&self, tls: Tls) {
        assert!(!self.sealed.replace(true), "TLS is begun once");
        *self.tls.borrow_mut() = Some(Box::new(tls));
    }

    /// True if records wait that the socket did not take yet.
    fn has_records(&self) -> bool {
        self.sealed.get() && self.tls.borrow().as_ref().is_some_and(|tls| !tls.outgoing().is_empty())
    }

    pub(crate) fn pause(&self) {
        self.paused.set(true);
    }

    pub(crate) fn resume(&self) {
        self.paused.set(false);
        wake(&self.reader);
    }

    /// Closes in order: what was written still arrives. What the peer had sent already is thrown away first, for
    /// unread bytes would turn the close into a reset that can overtake our last reply.
    pub(crate) fn end(&self) {
        if let Some(tls) = self.tls.borrow_mut().as_mut() {
            tls::last_words(tls, |slices| send(self.fd, slices));
        }
        let mut waste = [0u8; 4096];
        for _ in 0..LAST_READS_MAX {
            if !matches!(receive(self.fd, &mut waste), Ok(count) if count == waste.len()) {
                break;
            }
        }
        // glommio's pending poll keeps the socket alive for another turn; the FIN should not wait for it.
        let _ = SockRef::from(&self.socket()).shutdown(Shutdown::Both);
        self.stop_tasks();
    }

    /// Closes at once with a reset.
    pub(crate) fn abort(&self) {
        let _ = SockRef::from(&self.socket()).set_linger(Some(std::time::Duration::ZERO));
        self.stop_tasks();
    }

    /// Who is at the other end, as TLS was told at its beginning, or else as the socket says. Unspecified if it is gone.
    pub(crate) fn peer(&self) -> IpAddr {
        if let Some(tls) = &*self.tls.borrow() {
            return tls.peer();
        }
        let address = SockRef::from(&self.socket()).peer_addr().ok().and_then(|address| address.as_socket());
        address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
    }

    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and lives as long as the connection.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    fn stop_tasks(&self) {
        self.over.set(true);
        wake(&self.reader);
        wake(&self.writer);
    }

    fn remember(&self, place: &RefCell<Option<Waker>>, cx: &Context<'_>) {
        let mut place = place.borrow_mut();
        if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *place = Some(cx.waker().clone());
        }
    }
}

fn wake(place: &RefCell<Option<Waker>>) {
    let waker = place.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn receive(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `into.len()` bytes into `into`.
    let count = unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

fn send(fd: RawFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    // SAFETY: `IoSlice` has the layout of `iovec`; the kernel only reads what the slices borrow.
    let count = unsafe { libc::sendmsg(fd, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Waits until a dialled connection stands, then reads from it like from any other.
pub(crate) async fn dialled(shell: Rc<Shell>, conn: Rc<Conn>) {
    let stands = poll_fn(|cx| {
        if conn.over.get() {
            return Poll::Ready(None);
        }
        // An empty write waits for the connection and gives its error.
        let ready = Pin::new(&mut *conn.stream.borrow_mut()).poll_write(cx, &[]);
        if ready.is_pending() {
            conn.remember(&conn.reader, cx);
        }
        ready.map(Some)
    })
    .await;
    match stands {
        None => {}
        Some(Ok(_)) => {
            let local = local_ip(&conn.stream.borrow());
            shell.give(Input::Connected { conn: conn.id, local });
            read_loop(shell, conn).await;
        }
        Some(Err(error)) => gone(&shell, &conn, failed(&error)),
    }
}

/// Our end of a connection; none of one through the file system.
fn local_ip(stream: &TcpStream) -> Option<IpAddr> {
    // SAFETY: the stream owns the descriptor and outlives the borrow.
    let descriptor = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    SockRef::from(&descriptor).local_addr().ok()?.as_socket().map(|local| local.ip().to_canonical())
}

/// Reads until the connection ends.
pub(crate) async fn read_loop(shell: Rc<Shell>, conn: Rc<Conn>) {
    while poll_fn(|cx| poll_read(&shell, &conn, cx)).await {
        glommio::executor().yield_if_needed().await;
    }
}

/// One read and what follows from it; false when the connection is over.
fn poll_read(shell: &Rc<Shell>, conn: &Rc<Conn>, cx: &mut Context<'_>) -> Poll<bool> {
    if conn.over.get() {
        return Poll::Ready(false);
    }
    // Nothing is read while paused or while the last reply leaves; both see the end of the connection when they
    // read, or write, again.
    if conn.paused.get() || conn.closing.get() {
        conn.remember(&conn.reader, cx);
        return Poll::Pending;
    }
    if conn.sealed.get() {
        return poll_read_sealed(shell, conn, cx);
    }
    let mut scratch = shell.scratch.borrow_mut();
    let read = Pin::new(&mut *conn.stream.borrow_mut()).poll_read(cx, &mut scratch);
    match read {
        Poll::Pending => {
            conn.remember(&conn.reader, cx);
            Poll::Pending
        }
        Poll::Ready(Ok(count)) if count > 0 => {
            shell.step(Input::Received { conn: conn.id, bytes: &scratch[..count] });
            // What follows may read with the scratch buffer too.
            drop(scratch);
            shell.perform();
            Poll::Ready(!conn.over.get())
        }
        Poll::Ready(Ok(_)) => {
            drop(scratch);
            gone(shell, conn, CloseReason::PeerClosed);
            Poll::Ready(false)
        }
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => Poll::Ready(true),
        Poll::Ready(Err(error)) => {
            drop(scratch);
            gone(shell, conn, failed(&error));
            Poll::Ready(false)
        }
    }
}

/// One read inside TLS: at most one flight of a handshake, which waits for our answer and has to be let in by the gate, so that a
/// core does few handshakes' work between others' turns (TLS-13).
fn poll_read_sealed(shell: &Rc<Shell>, conn: &Rc<Conn>, cx: &mut Context<'_>) -> Poll<bool> {
    let mut scratch = shell.scratch.borrow_mut();
    let mut place = conn.tls.borrow_mut();
    let tls = place.as_mut().expect("a sealed connection has its TLS");
    let handshake = !tls.can_seal();
    if handshake && !shell.gate.is_open(&conn.place, cx) {
        conn.remember(&conn.reader, cx);
        return Poll::Pending;
    }
    let kept = tls.kept();
    let count = match Pin::new(&mut *conn.stream.borrow_mut()).poll_read(cx, &mut scratch[kept..]) {
        Poll::Pending => {
            conn.remember(&conn.reader, cx);
            return Poll::Pending;
        }
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => return Poll::Ready(true),
        Poll::Ready(result) => result,
    };
    let mut plain = shell.plain.borrow_mut();
    plain.clear();
    if handshake {
        shell.gate.pass(&conn.place);
    }
    let opened = match &count {
        Ok(count) if *count > 0 => tls.open(&mut scratch, *count, &mut plain),
        _ => Ok(Opened::default()),
    };
    drop((place, scratch));
    let reason = match (count, opened) {
        (Ok(count), Ok(Opened { secured, ended })) if count > 0 => {
            if let Some(info) = secured {
                shell.step(Input::Secured { conn: conn.id, info });
            }
            if !plain.is_empty() {
                shell.step(Input::Received { conn: conn.id, bytes: &plain });
            }
            ended.then_some(CloseReason::PeerClosed)
        }
        // The end without close_notify: whatever was not whole by then is not (TLS-12).
        (Ok(_), Ok(_)) => Some(CloseReason::PeerClosed),
        (Err(error), _) => Some(failed(&error)),
        (Ok(_), Err(broken)) => {
            shell.tls_broken(conn.id, &broken);
            Some(broken.reason())
        }
    };
    drop(plain);
    // What the handshake answers is in no outbox, so that no effect speaks of it.
    flush(shell, conn);
    shell.perform();
    if let Some(reason) = reason {
        gone(shell, conn, reason);
    }
    Poll::Ready(!conn.over.get())
}

fn failed(error: &io::Error) -> CloseReason {
    CloseReason::Failed { errno: error.raw_os_error().unwrap_or(0) }
}

/// The connection ended by itself: tells the shard, unless the shard ended it first.
fn gone(shell: &Rc<Shell>, conn: &Rc<Conn>, reason: CloseReason) {
    if shell.forget(conn.id) {
        conn.end();
        shell.give(Input::Closed { conn: conn.id, reason });
    }
}

/// Writes what waits, at once if the socket takes it. Called while effects are performed: steps, but leaves their
/// effects to the caller's loop.
pub(crate) fn flush(shell: &Rc<Shell>, conn: &Rc<Conn>) {
    if conn.writing.get() || conn.over.get() {
        return;
    }
    match write(shell, conn) {
        Written::All | Written::Gone => {}
        Written::Turn | Written::Blocked => {
            conn.writing.set(true);
            glommio::spawn_local(write_loop(shell.clone(), conn.clone())).detach();
        }
    }
}

/// Goes on writing when the socket takes more, until nothing is left.
async fn write_loop(shell: Rc<Shell>, conn: Rc<Conn>) {
    loop {
        let written = poll_fn(|cx| {
            if conn.over.get() {
                return Poll::Ready(Written::Gone);
            }
            let written = write(&shell, &conn);
            if !matches!(written, Written::Blocked) {
                return Poll::Ready(written);
            }
            match poll_writable(&shell, &conn, cx) {
                Poll::Ready(()) => Poll::Ready(Written::Turn),
                Poll::Pending => {
                    conn.remember(&conn.writer, cx);
                    Poll::Pending
                }
            }
        })
        .await;
        if matches!(written, Written::All) {
            conn.writing.set(false);
        }
        shell.perform();
        if !matches!(written, Written::Turn) {
            return;
        }
        glommio::executor().yield_now().await;
    }
}

/// Writes until nothing is left, the socket is full or the turn is over; steps after each write.
fn write(shell: &Rc<Shell>, conn: &Rc<Conn>) -> Written {
    if conn.sealed.get() {
        return write_sealed(shell, conn);
    }
    let mut turn_bytes = 0;
    while turn_bytes < WRITE_TURN_BYTES {
        let sent = shell.with_outbox(conn.id, |outbox| {
            let Some(outbox) = outbox.filter(|outbox| outbox.sendable()) else { return Ok(0) };
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = outbox.gather(&mut slices);
            send(conn.fd, &slices[..filled])
        });
        match sent {
            Ok(0) => {
                finish_close(shell, conn);
                return Written::All;
            }
            Ok(count) => {
                turn_bytes += count;
                shell.step(Input::Sent { conn: conn.id, count });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Blocked,
            Err(error) => {
                last_words(shell, conn);
                return lost(shell, conn, failed(&error));
            }
        }
    }
    Written::Turn
}

/// Like `write`, with the outbox sealed into records, which wait here until the socket has taken them all: only then are
/// their plain bytes `Sent`, so that the shard never takes for sent what is not.
fn write_sealed(shell: &Rc<Shell>, conn: &Rc<Conn>) -> Written {
    let mut turn_bytes = 0;
    while turn_bytes < WRITE_TURN_BYTES {
        let mut place = conn.tls.borrow_mut();
        let tls = place.as_mut().expect("a sealed connection has its TLS");
        if tls.outgoing().is_empty() && tls.can_seal() {
            let sealed = shell.with_outbox(conn.id, |outbox| {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let filled = outbox.map_or(0, |outbox| outbox.gather(&mut slices));
                tls.seal(&slices[..filled], &mut shell.plain.borrow_mut())
            });
            if let Err(broken) = sealed {
                drop(place);
                shell.tls_broken(conn.id, &broken);
                return lost(shell, conn, broken.reason());
            }
        }
        if tls.outgoing().is_empty() {
            drop(place);
            finish_close(shell, conn);
            return Written::All;
        }
        match send(conn.fd, &[IoSlice::new(tls.outgoing())]) {
            Ok(count) => {
                turn_bytes += count;
                let out = tls.took(count);
                drop(place);
                if out > 0 {
                    shell.step(Input::Sent { conn: conn.id, count: out });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Blocked,
            Err(error) => {
                drop(place);
                return lost(shell, conn, failed(&error));
            }
        }
    }
    Written::Turn
}

/// The connection broke while writing: tells the shard, unless the shard ended it first; leaves the effects to the caller.
fn lost(shell: &Rc<Shell>, conn: &Rc<Conn>, reason: CloseReason) -> Written {
    if shell.forget(conn.id) {
        conn.end();
        shell.step(Input::Closed { conn: conn.id, reason });
    }
    Written::Gone
}

/// Waits for the socket to take more; glommio's only way to do so is to write, so the first slice goes along.
fn poll_writable(shell: &Rc<Shell>, conn: &Rc<Conn>, cx: &mut Context<'_>) -> Poll<()> {
    if conn.sealed.get() {
        return poll_writable_sealed(shell, conn, cx);
    }
    let ready = shell.with_outbox(conn.id, |outbox| {
        let mut slices = [IoSlice::new(&[]); 1];
        match outbox.map_or(0, |outbox| outbox.gather(&mut slices)) {
            0 => Poll::Ready(Ok(0)),
            _ => Pin::new(&mut *conn.stream.borrow_mut()).poll_write(cx, &slices[0]),
        }
    });
    match ready {
        Poll::Pending => Poll::Pending,
        // An error shows again, and is told, with the next write.
        Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
        Poll::Ready(Ok(count)) => {
            shell.step(Input::Sent { conn: conn.id, count });
            Poll::Ready(())
        }
    }
}

fn poll_writable_sealed(shell: &Rc<Shell>, conn: &Rc<Conn>, cx: &mut Context<'_>) -> Poll<()> {
    let mut place = conn.tls.borrow_mut();
    let tls = place.as_mut().expect("a sealed connection has its TLS");
    if tls.outgoing().is_empty() {
        return Poll::Ready(());
    }
    match Pin::new(&mut *conn.stream.borrow_mut()).poll_write(cx, tls.outgoing()) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
        Poll::Ready(Ok(count)) => {
            let out = tls.took(count);
            drop(place);
            if out > 0 {
                shell.step(Input::Sent { conn: conn.id, count: out });
            }
            Poll::Ready(())
        }
    }
}

/// Ends a connection that the shard closed, once nothing is left to send.
pub(crate) fn finish_close(shell: &Rc<Shell>, conn: &Rc<Conn>) {
    let empty = shell.with_outbox(conn.id, |outbox| outbox.is_none_or(|outbox| outbox.is_empty()));
    if conn.closing.get() && empty && !conn.has_records() && shell.forget(conn.id) {
        conn.end();
    }
}

/// Reads what the peer said before it went, for instance why: the failed write would hide it.
fn last_words(shell: &Rc<Shell>, conn: &Rc<Conn>) {
    // Borrowed already only if this write follows from a read, which took what there was.
    let Ok(mut scratch) = shell.scratch.try_borrow_mut() else { return };
    for _ in 0..LAST_READS_MAX {
        if conn.paused.get() || conn.closing.get() || conn.over.get() {
            return;
        }
        match receive(conn.fd, &mut scratch) {
            Ok(count) if count > 0 => shell.step(Input::Received { conn: conn.id, bytes: &scratch[..count] }),
            _ => return,
        }
    }
}
