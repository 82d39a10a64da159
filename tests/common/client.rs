//! A plain SMTP client in lock step that shows what was said.

use std::fmt::{self, Debug, Formatter};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

const REPLY_LONGEST: Duration = Duration::from_secs(20);

/// A reply, all its lines.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) text: String,
}

impl Reply {
    /// True if code and, behind it, enhanced code are these: `550 5.7.1`.
    pub(crate) fn is(&self, start: &str) -> bool {
        self.text.starts_with(start)
    }
}

impl Debug for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

/// A connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects and reads a 220.
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let (client, greeting) = Client::connect_any(address);
        assert_eq!(greeting.code, 220, "{greeting:?}");
        client
    }

    /// Connects from an address of this machine's own, and reads a 220.
    pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        socket.connect_timeout(&address.into(), REPLY_LONGEST).unwrap();
        let (client, greeting) = Client::over(socket.into());
        assert_eq!(greeting.code, 220, "{greeting:?}");
        client
    }

    /// Connects and reads whatever greets.
    pub(crate) fn connect_any(address: SocketAddr) -> (Client, Reply) {
        Client::over(TcpStream::connect_timeout(&address, REPLY_LONGEST).unwrap())
    }

    fn over(stream: TcpStream) -> (Client, Reply) {
        stream.set_read_timeout(Some(REPLY_LONGEST)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Client { stream: BufReader::new(stream) };
        let greeting = client.reply();
        (client, greeting)
    }

    /// Reads one reply. A connection that ends reads as code 0.
    pub(crate) fn reply(&mut self) -> Reply {
        let mut text = String::new();
        loop {
            let from = text.len();
            if !matches!(self.stream.read_line(&mut text), Ok(1..)) {
                return Reply { code: 0, text };
            }
            let line = &text[from..];
            assert!(line.ends_with("\r\n"), "a reply line without CRLF: {line:?}");
            if line.as_bytes().get(3) != Some(&b'-') {
                return Reply { code: line[..3].parse().unwrap(), text };
            }
        }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends a command and reads its reply.
    pub(crate) fn say(&mut self, command: &str) -> Reply {
        self.send(format!("{command}\r\n").as_bytes());
        self.reply()
    }

    /// Sends a message in wire form, CRLF-ended or empty; the last reply is returned, the others are as they should be.
    pub(crate) fn deliver(&mut self, sender: &str, recipients: &[&str], wire: &[u8]) -> Reply {
        let hello = self.say("EHLO client.example.com");
        assert_eq!(hello.code, 250, "{hello:?}");
        let mail = self.say(&format!("MAIL FROM:<{sender}>"));
        if mail.code != 250 {
            return mail;
        }
        for recipient in recipients {
            let reply = self.say(&format!("RCPT TO:<{recipient}>"));
            assert_eq!(reply.code, 250, "{reply:?}");
        }
        let data = self.say("DATA");
        assert_eq!(data.code, 354, "{data:?}");
        assert!(wire.is_empty() || wire.ends_with(b"\r\n"), "wire form ends a line");
        self.send(&[wire, b".\r\n"].concat());
        self.reply()
    }

    /// Sends a message as it is by BDAT, in chunks of this size; the last reply is returned, the others are as they should be.
    pub(crate) fn deliver_chunks(&mut self, sender: &str, recipients: &[&str], text: &[u8], size: usize) -> Reply {
        assert!(self.say("EHLO client.example.com").text.contains("-CHUNKING\r\n"));
        assert_eq!(self.say(&format!("MAIL FROM:<{sender}>")).code, 250);
        for recipient in recipients {
            assert_eq!(self.say(&format!("RCPT TO:<{recipient}>")).code, 250);
        }
        let mut rest = text;
        while rest.len() > size {
            let (chunk, behind) = rest.split_at(size);
            self.send(&[format!("BDAT {size}\r\n").as_bytes(), chunk].concat());
            let reply = self.reply();
            assert!(reply.is("250 2.0.0 Chunk"), "{reply:?}");
            rest = behind;
        }
        self.send(&[format!("BDAT {} LAST\r\n", rest.len()).as_bytes(), rest].concat());
        self.reply()
    }

    /// True if the other side has closed.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        matches!(std::io::Read::read_to_end(&mut self.stream, &mut rest), Ok(0))
    }
}
