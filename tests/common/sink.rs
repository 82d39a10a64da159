//! A next hop that records every byte and does what a script says: a thread per connection, nothing clever.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{relay::any_port, wait_until};

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mail {
    /// The whole MAIL command, without CRLF.
    pub(crate) mail: String,
    /// The reverse-path.
    pub(crate) sender: String,
    /// The forward-paths that were taken.
    pub(crate) recipients: Vec<String>,
    /// The text, dot-stuffed, without the final dot; if `chunked`, as it came.
    pub(crate) wire: Vec<u8>,
    /// It came by BDAT.
    pub(crate) chunked: bool,
    /// Where from.
    pub(crate) peer: IpAddr,
    /// What EHLO or HELO said last.
    pub(crate) hello: String,
}

/// What a script makes of a command.
pub(crate) enum Act {
    /// The usual reply.
    Usual,
    /// This reply, without CRLF.
    Say(String),
    /// This reply, and the end.
    SayAndClose(String),
    /// The end.
    Close,
}

/// Called with the verb (`CONNECT`, `EHLO`, `MAIL`, `RCPT`, `DATA`, `.`, ...) and the whole line.
type Script = dyn Fn(&str, &str) -> Act + Send + Sync;

struct Shared {
    script: Box<Script>,
    mails: Mutex<Vec<Mail>>,
    complaints: Mutex<Vec<String>>,
    streams: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

/// A listening next hop.
pub(crate) struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sink {
    /// Takes everything.
    pub(crate) fn start() -> Sink {
        Sink::at(any_port(), |_, _| Act::Usual)
    }

    /// Takes everything, and offers CHUNKING and BINARYMIME.
    pub(crate) fn chunking() -> Sink {
        let hello =
            "250-sink.example.org\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250-CHUNKING\r\n250 BINARYMIME";
        Sink::scripted(move |verb, _| if verb == "EHLO" { Act::Say(hello.into()) } else { Act::Usual })
    }

    /// Follows a script.
    pub(crate) fn scripted(script: impl Fn(&str, &str) -> Act + Send + Sync + 'static) -> Sink {
        Sink::at(any_port(), script)
    }

    /// Follows a script at a given address.
    pub(crate) fn at(address: SocketAddr, script: impl Fn(&str, &str) -> Act + Send + Sync + 'static) -> Sink {
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            mails: Mutex::default(),
            complaints: Mutex::default(),
            streams: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if all.over.load(Ordering::SeqCst) {
                    return;
                }
                all.streams.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&all);
                std::thread::spawn(move || {
                    Session { shared: &shared, stream, input: Vec::new(), hello: String::new() }.run()
                });
            }
        });
        Sink { address, shared }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections taken so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.streams.lock().unwrap().len()
    }

    /// What has come so far.
    pub(crate) fn mails(&self) -> Vec<Mail> {
        let complaints = self.shared.complaints.lock().unwrap();
        assert!(complaints.is_empty(), "the next hop complains: {complaints:?}");
        self.shared.mails.lock().unwrap().clone()
    }

    /// Waits for so many messages, and a moment more for any too many.
    pub(crate) fn wait_for(&self, count: usize, longest: Duration) -> Vec<Mail> {
        let enough = wait_until(longest, || self.shared.mails.lock().unwrap().len() >= count);
        std::thread::sleep(Duration::from_millis(50));
        let mails = self.mails();
        assert!(enough, "{} of {count} messages after {longest:?}", mails.len());
        assert_eq!(mails.len(), count, "too many: {:?}", mails.iter().map(|mail| &mail.recipients).collect::<Vec<_>>());
        mails
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for stream in self.shared.streams.lock().unwrap().iter() {
            // Closed by the other side is fine.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, which gives the port back.
        let _ = TcpStream::connect(self.address);
    }
}

struct Session<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    input: Vec<u8>,
    hello: String,
}

impl Session<'_> {
    fn run(mut self) {
        let _ = self.stream.set_nodelay(true);
        // A connection that ends ends the session; what it leaves open is nobody's.
        let _ = self.talk();
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn talk(&mut self) -> Option<()> {
        self.answer("CONNECT", "", "220 sink.example.org ESMTP")?;
        let (mut mail, mut recipients) = (None::<String>, Vec::new());
        loop {
            let line = self.read_to(b"\r\n")?;
            let line = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let usual = match &*verb {
                "EHLO" => {
                    "250-sink.example.org\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES"
                }
                "MAIL" | "RCPT" => "250 2.1.0 fine",
                "RSET" | "NOOP" | "HELO" => "250 2.0.0 fine",
                "DATA" if recipients.is_empty() => "503 5.5.1 no recipients",
                "DATA" => "354 go on",
                "BDAT" => {
                    let wire = self.read_chunk(&line)?;
                    self.complain_if(recipients.is_empty(), "a chunk for no one (BDT-10)");
                    let said = self.answer(".", "", "250 2.0.0 kept")?;
                    self.keep(&said, &mut mail, &mut recipients, wire, true);
                    continue;
                }
                "QUIT" => "221 2.0.0 bye",
                _ => {
                    self.complain_if(true, &format!("unknown command {line:?}"));
                    "500 5.5.1 what?"
                }
            };
            let said = self.answer(&verb, &line, usual)?;
            match (&*verb, said.as_bytes()[0]) {
                ("MAIL", b'2') => {
                    let before = mail.replace(line);
                    self.complain_if(before.is_some(), "MAIL inside a transaction");
                }
                ("RCPT", b'2') => recipients.push(path(&line)),
                ("RSET" | "EHLO" | "HELO", _) => {
                    if verb != "RSET" {
                        self.hello = line.get(5..).unwrap_or_default().to_owned();
                    }
                    mail = None;
                    recipients.clear();
                }
                ("DATA", b'3') => {
                    let wire = self.read_body()?;
                    let said = self.answer(".", "", "250 2.0.0 kept")?;
                    self.keep(&said, &mut mail, &mut recipients, wire, false);
                }
                ("QUIT", _) => return None,
                _ => {}
            }
        }
    }

    /// The transaction is over; its message is kept if that was said.
    fn keep(&self, said: &str, mail: &mut Option<String>, recipients: &mut Vec<String>, wire: Vec<u8>, chunked: bool) {
        let (mail, recipients) = (mail.take().unwrap_or_default(), std::mem::take(recipients));
        if said.starts_with('2') {
            let sender = path(&mail);
            let peer = self.stream.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip());
            let hello = self.hello.clone();
            let mail = Mail { mail, sender, recipients, wire, chunked, peer, hello };
            self.shared.mails.lock().unwrap().push(mail);
        }
    }

    /// One chunk, which is to be the last.
    fn read_chunk(&mut self, line: &str) -> Option<Vec<u8>> {
        let words: Vec<&str> = line.split(' ').collect();
        self.complain_if(words.len() != 3 || words[2] != "LAST", "not one whole chunk");
        let size: usize = words[1].parse().ok()?;
        while self.input.len() < size {
            let mut piece = [0; 65536];
            match self.stream.read(&mut piece) {
                Ok(length @ 1..) => self.input.extend_from_slice(&piece[..length]),
                _ => return None,
            }
        }
        let rest = self.input.split_off(size);
        Some(std::mem::replace(&mut self.input, rest))
    }

    fn read_body(&mut self) -> Option<Vec<u8>> {
        // The CRLF before the dot is the last line's own, or that of DATA itself.
        self.input.splice(0..0, *b"\r\n");
        let whole = self.read_to(b"\r\n.\r\n")?;
        let wire = whole[2..whole.len() - 3].to_vec();
        let bare = |at: usize, byte: u8| match byte {
            b'\r' => wire.get(at + 1) != Some(&b'\n'),
            b'\n' => at == 0 || wire[at - 1] != b'\r',
            _ => false,
        };
        let any_bare = wire.iter().enumerate().any(|(at, byte)| bare(at, *byte));
        self.complain_if(any_bare, "a bare CR or LF in data (DAT-04)");
        // 1,000 with CRLF; a doubled dot does not count.
        let any_long =
            wire.split(|byte| *byte == b'\n').any(|line| line.len() > 999 + usize::from(line.starts_with(b".")));
        self.complain_if(any_long, "a line of more than 1000 octets (SIZ-07)");
        Some(wire)
    }

    /// Reads up to and with `end`.
    fn read_to(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.input[from..].windows(end.len()).position(|window| window == end) {
                let rest = self.input.split_off(from + at + end.len());
                return Some(std::mem::replace(&mut self.input, rest));
            }
            from = self.input.len().saturating_sub(end.len() - 1);
            let mut piece = [0; 65536];
            match self.stream.read(&mut piece) {
                Ok(length @ 1..) => self.input.extend_from_slice(&piece[..length]),
                _ => return None,
            }
        }
    }

    /// Replies as the script says; what was said, or None if the session is over.
    fn answer(&mut self, verb: &str, line: &str, usual: &str) -> Option<String> {
        let (said, over) = match (self.shared.script)(verb, line) {
            Act::Usual => (usual.to_owned(), false),
            Act::Say(reply) => (reply, false),
            Act::SayAndClose(reply) => (reply, true),
            Act::Close => return None,
        };
        self.stream.write_all(format!("{said}\r\n").as_bytes()).ok()?;
        (!over).then_some(said)
    }

    fn complain_if(&self, wrong: bool, what: &str) {
        if wrong {
            self.shared.complaints.lock().unwrap().push(what.to_owned());
        }
    }
}

/// What stands between `<` and the last `>`.
fn path(line: &str) -> String {
    let from = line.find('<').map_or(0, |at| at + 1);
    line[from..line.rfind('>').unwrap_or(line.len())].to_owned()
}
