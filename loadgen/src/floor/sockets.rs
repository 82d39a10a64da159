//! Bare sockets: sources, a middle that passes on, and drains, with one read and one write per leg.
//!
//! All connections are made before the clock starts. A message is one or two legs, each so many bytes one way and a short
//! answer the other way; nobody sends more than a leg before its answer, so a read that fills the leg has emptied the
//! socket. The middle answers a message as soon as it has it and its way out is free.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use super::FloorPlan;
use crate::system::{self, ThreadUsage};

/// What MAIL, RCPT and DATA with an address each come to.
const ENVELOPE_BYTES: usize = 110;
/// The three answers to them.
const ENVELOPE_ANSWER_BYTES: usize = 60;
/// The answer to the final dot.
const END_ANSWER_BYTES: usize = 40;
const EVENTS_MAX: usize = 1024;
/// Silence of this length is a fault of the measurement, and ends it.
const SILENCE_LONGEST: Duration = Duration::from_secs(20);

/// Messages through bare sockets.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SocketFloor {
    /// Messages that came out.
    pub messages: u64,
    /// CPU of the middle per message, in microseconds.
    pub cpu_us_per_message: f64,
    /// Its part in user mode.
    pub user_us_per_message: f64,
    /// Its part in the kernel.
    pub system_us_per_message: f64,
    /// Messages per second, in and out.
    pub messages_per_s: f64,
    /// Bytes that the drains took, envelopes included.
    pub bytes_out: u64,
}

/// A leg: bytes that go there, and bytes that come back.
#[derive(Clone, Copy)]
struct Leg {
    ask: usize,
    answer: usize,
}

fn legs(plan: &FloorPlan) -> Vec<Leg> {
    let body = plan.size_bytes as usize;
    match plan.round_trips {
        1 => vec![Leg { ask: ENVELOPE_BYTES + body, answer: ENVELOPE_ANSWER_BYTES + END_ANSWER_BYTES }],
        _ => vec![
            Leg { ask: ENVELOPE_BYTES, answer: ENVELOPE_ANSWER_BYTES },
            Leg { ask: body, answer: END_ANSWER_BYTES },
        ],
    }
}

type Socket = mio::net::TcpStream;

/// True if the socket is just not ready.
fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The sending side of a message.
#[derive(Default)]
struct Asking {
    leg: usize,
    /// Bytes of the message before this leg.
    base: usize,
    sent: usize,
    heard: usize,
    busy: bool,
}

impl Asking {
    fn begin(&mut self) {
        *self = Asking { busy: true, ..Asking::default() };
    }

    /// Goes on as far as the socket lets it; true when the message has its last answer.
    fn go(&mut self, socket: &mut Socket, legs: &[Leg], message: &[u8], scratch: &mut [u8]) -> io::Result<bool> {
        while self.busy {
            let Leg { ask, answer } = legs[self.leg];
            if self.sent < ask {
                let rest = &message[self.base + self.sent..self.base + ask];
                match would_block(socket.write(rest))? {
                    Some(count) => self.sent += count,
                    None => return Ok(false),
                }
                // The answer cannot be there yet: an event tells.
                return if self.sent == ask { Ok(false) } else { continue };
            }
            match would_block(socket.read(&mut scratch[..answer - self.heard]))? {
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(count) => self.heard += count,
                None => return Ok(false),
            }
            if self.heard == answer {
                (self.leg, self.base, self.sent, self.heard) = (self.leg + 1, self.base + ask, 0, 0);
                if self.leg == legs.len() {
                    self.busy = false;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// The taking side of a message.
#[derive(Default)]
struct Taking {
    leg: usize,
    base: usize,
    taken: usize,
}

/// What came of a read.
enum Taken {
    /// No more for now.
    Wait,
    /// The message is whole; its last leg is not yet answered.
    Whole,
    /// The other side has closed.
    Closed,
}

impl Taking {
    fn go(&mut self, socket: &mut Socket, legs: &[Leg], room: &mut [u8], answers: &[u8]) -> io::Result<Taken> {
        loop {
            let Leg { ask, answer } = legs[self.leg];
            match would_block(socket.read(&mut room[self.base + self.taken..self.base + ask]))? {
                Some(0) => return Ok(Taken::Closed),
                Some(count) => self.taken += count,
                None => return Ok(Taken::Wait),
            }
            if self.taken < ask {
                continue;
            }
            if self.leg + 1 == legs.len() {
                return Ok(Taken::Whole);
            }
            // An answer is far smaller than any socket's buffer, and the last one was read.
            socket.write_all(&answers[..answer])?;
            (self.leg, self.base, self.taken) = (self.leg + 1, self.base + ask, 0);
            return Ok(Taken::Wait);
        }
    }

    fn answer(&mut self, socket: &mut Socket, legs: &[Leg], answers: &[u8]) -> io::Result<()> {
        *self = Taking::default();
        socket.write_all(&answers[..legs[legs.len() - 1].answer])
    }
}

/// A connected pair of sockets: who asks, and who answers.
fn pair(listener: &TcpListener) -> io::Result<(Socket, Socket)> {
    let asks = TcpStream::connect(listener.local_addr()?)?;
    let (answers, _) = listener.accept()?;
    for socket in [&asks, &answers] {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
    }
    Ok((Socket::from_std(asks), Socket::from_std(answers)))
}

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

fn wait(poll: &mut Poll, events: &mut Events) -> io::Result<()> {
    match poll.poll(events, Some(SILENCE_LONGEST)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Ok(()) if events.is_empty() => Err(io::Error::new(io::ErrorKind::TimedOut, "the floor's sockets fell silent")),
        other => other,
    }
}

/// What a thread of the measurement ends with.
struct Done {
    messages: u64,
    bytes: u64,
    usage: ThreadUsage,
    spent: Duration,
}

/// Passes the plan's messages through.
pub(super) fn measure(plan: &FloorPlan) -> io::Result<SocketFloor> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (mut sources, mut middles, mut drains) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.sessions {
        let (source, inward) = pair(&listener)?;
        let (outward, drain) = pair(&listener)?;
        sources.push(source);
        middles.push((inward, outward));
        drains.push(drain);
    }
    let legs = legs(plan);
    let (done, drained) = std::thread::scope(|scope| {
        let drains = on_core(scope, plan.end_core, || drain(drains, &legs));
        let middle = on_core(scope, plan.core, || pass(middles, &legs, plan.messages));
        let sources = on_core(scope, plan.end_core, || source(sources, &legs, plan.messages));
        let (sources, middle, drains) = (joined(sources), joined(middle), joined(drains));
        sources.and(middle).and_then(|middle| drains.map(|drains| (middle, drains)))
    })?;
    let per_message = |ns: u64| ns as f64 / 1000.0 / plan.messages as f64;
    let usage = done.usage;
    Ok(SocketFloor {
        messages: drained.messages,
        cpu_us_per_message: per_message(usage.user_ns + usage.system_ns),
        user_us_per_message: per_message(usage.user_ns),
        system_us_per_message: per_message(usage.system_ns),
        messages_per_s: done.messages as f64 / done.spent.as_secs_f64().max(1e-9),
        bytes_out: drained.bytes,
    })
}

fn on_core<'s, F>(scope: &'s Scope<'s, '_>, core: Option<usize>, work: F) -> ScopedJoinHandle<'s, io::Result<Done>>
where
    F: FnOnce() -> io::Result<Done> + Send + 's,
{
    scope.spawn(move || {
        core.map(system::pin_to_core);
        work()
    })
}

fn joined(thread: ScopedJoinHandle<'_, io::Result<Done>>) -> io::Result<Done> {
    thread.join().expect("no thread of the floor panics")
}

fn source(mut sockets: Vec<Socket>, legs: &[Leg], messages: u64) -> io::Result<Done> {
    let mut poll = Poll::new()?;
    for (index, socket) in sockets.iter_mut().enumerate() {
        poll.registry().register(socket, Token(index), BOTH)?;
    }
    let message = vec![b'm'; legs.iter().map(|leg| leg.ask).sum()];
    let mut asking: Vec<Asking> = sockets.iter().map(|_| Asking::default()).collect();
    let mut scratch = vec![0; ENVELOPE_ANSWER_BYTES + END_ANSWER_BYTES];
    let mut events = Events::with_capacity(EVENTS_MAX);
    let (mut begun, mut done) = (0, 0);
    while done < messages {
        wait(&mut poll, &mut events)?;
        for event in &events {
            let index = event.token().0;
            loop {
                if !asking[index].busy && begun < messages {
                    begun += 1;
                    asking[index].begin();
                }
                if !asking[index].go(&mut sockets[index], legs, &message, &mut scratch)? {
                    break;
                }
                done += 1;
            }
        }
    }
    Ok(Done { messages: done, bytes: 0, usage: ThreadUsage::default(), spent: Duration::ZERO })
}

fn drain(mut sockets: Vec<Socket>, legs: &[Leg]) -> io::Result<Done> {
    let mut poll = Poll::new()?;
    for (index, socket) in sockets.iter_mut().enumerate() {
        poll.registry().register(socket, Token(index), Interest::READABLE)?;
    }
    let message_bytes: usize = legs.iter().map(|leg| leg.ask).sum();
    let mut room = vec![0; message_bytes];
    let answers = vec![b'a'; ENVELOPE_ANSWER_BYTES + END_ANSWER_BYTES];
    let mut taking: Vec<Taking> = sockets.iter().map(|_| Taking::default()).collect();
    let mut events = Events::with_capacity(EVENTS_MAX);
    let (mut open, mut messages) = (sockets.len(), 0);
    while open > 0 {
        wait(&mut poll, &mut events)?;
        for event in &events {
            let (socket, taking) = (&mut sockets[event.token().0], &mut taking[event.token().0]);
            match taking.go(socket, legs, &mut room, &answers)? {
                Taken::Wait => {}
                Taken::Closed => {
                    open -= 1;
                    poll.registry().deregister(socket)?;
                }
                Taken::Whole => {
                    messages += 1;
                    taking.answer(socket, legs, &answers)?;
                }
            }
        }
    }
    let bytes = messages * message_bytes as u64;
    Ok(Done { messages, bytes, usage: ThreadUsage::default(), spent: Duration::ZERO })
}

/// One message on its way in and one on its way out.
struct Passage {
    inward: Socket,
    outward: Socket,
    taking: Taking,
    asking: Asking,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Whole, and waits for the way out.
    held: bool,
}

impl Passage {
    fn hand_over(&mut self, legs: &[Leg], answers: &[u8], scratch: &mut [u8]) -> io::Result<()> {
        std::mem::swap(&mut self.inbox, &mut self.outbox);
        self.held = false;
        self.taking.answer(&mut self.inward, legs, answers)?;
        self.asking.begin();
        // What just began cannot be answered yet.
        self.asking.go(&mut self.outward, legs, &self.outbox, scratch).map(|_| ())
    }
}

fn pass(sockets: Vec<(Socket, Socket)>, legs: &[Leg], messages: u64) -> io::Result<Done> {
    let mut poll = Poll::new()?;
    let message_bytes = legs.iter().map(|leg| leg.ask).sum();
    let mut passages = Vec::new();
    for (index, (mut inward, mut outward)) in sockets.into_iter().enumerate() {
        poll.registry().register(&mut inward, Token(2 * index), Interest::READABLE)?;
        poll.registry().register(&mut outward, Token(2 * index + 1), BOTH)?;
        let (inbox, outbox) = (vec![0; message_bytes], vec![0; message_bytes]);
        let (taking, asking) = (Taking::default(), Asking::default());
        passages.push(Passage { inward, outward, taking, asking, inbox, outbox, held: false });
    }
    let answers = vec![b'a'; ENVELOPE_ANSWER_BYTES + END_ANSWER_BYTES];
    let mut scratch = answers.clone();
    let mut events = Events::with_capacity(EVENTS_MAX);
    let (begun, before) = (Instant::now(), system::thread_usage());
    let mut done = 0;
    while done < messages {
        wait(&mut poll, &mut events)?;
        for event in &events {
            let passage = &mut passages[event.token().0 / 2];
            if event.token().0 % 2 == 1 {
                if passage.asking.go(&mut passage.outward, legs, &passage.outbox, &mut scratch)? {
                    done += 1;
                    if passage.held {
                        passage.hand_over(legs, &answers, &mut scratch)?;
                    }
                }
            } else if !passage.held
                && let Taken::Whole = passage.taking.go(&mut passage.inward, legs, &mut passage.inbox, &answers)?
            {
                passage.held = true;
                if !passage.asking.busy {
                    passage.hand_over(legs, &answers, &mut scratch)?;
                }
            }
        }
    }
    Ok(Done { messages: done, bytes: 0, usage: system::thread_usage().since(&before), spent: begun.elapsed() })
}
