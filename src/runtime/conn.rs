//! One connection: a reader task while it lives, a writer task only while the socket takes no more.
//!
//! Lives on the shard's thread. Bytes are read into the shard's one scratch buffer and handed to the shard inside the
//! poll, so that an idle connection holds no buffer. There are no timers here: deadlines are the shard's, which
//! aborts. The errors of the socket become `Closed`; nothing here panics on what a peer does.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_lite::{AsyncRead as _, AsyncWrite as _};
use glommio::net::TcpStream;
use socket2::SockRef;

use super::executor::Shell;
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
    pub(crate) fn new(id: ConnId, stream: TcpStream) -> Rc<Conn> {
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
        })
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
            shell.give(Input::Connected { conn: conn.id });
            read_loop(shell, conn).await;
        }
        Some(Err(error)) => gone(&shell, &conn, failed(&error)),
    }
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
    let mut turn_bytes = 0;
    while turn_bytes < WRITE_TURN_BYTES {
        let sent = shell.with_outbox(conn.id, |outbox| {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = outbox.map_or(0, |outbox| outbox.gather(&mut slices));
            if filled == 0 { Ok(0) } else { send(conn.fd, &slices[..filled]) }
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
                if shell.forget(conn.id) {
                    conn.end();
                    shell.step(Input::Closed { conn: conn.id, reason: failed(&error) });
                }
                return Written::Gone;
            }
        }
    }
    Written::Turn
}

/// Waits for the socket to take more; glommio's only way to do so is to write, so the first slice goes along.
fn poll_writable(shell: &Rc<Shell>, conn: &Rc<Conn>, cx: &mut Context<'_>) -> Poll<()> {
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

/// Ends a connection that the shard closed, once nothing is left to send.
pub(crate) fn finish_close(shell: &Rc<Shell>, conn: &Rc<Conn>) {
    let empty = shell.with_outbox(conn.id, |outbox| outbox.is_none_or(|outbox| outbox.is_empty()));
    if conn.closing.get() && empty && shell.forget(conn.id) {
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
