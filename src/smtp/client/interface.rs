//! What a client session and its caller say to each other: wishes and offers in, verdicts and states out.
//!
//! Plain types without behaviour; the session that lives by them is in the [parent](super).

use std::path::Path;
use std::sync::Arc;

use crate::base::bytes::Outbox;
use crate::config::TimeoutSettings;
use crate::mail::parameters::{MessageParameters, RecipientParameters};
use crate::mail::text::{Form, Text};

/// What all sessions of a source address share.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The name said in EHLO and HELO (RTE-12).
    pub hello: Box<str>,
    /// How long to wait for what.
    pub timeouts: TimeoutSettings,
    /// Bodies go by BDAT to who offers CHUNKING.
    pub chunking: bool,
    /// What a next hop calls itself is kept.
    pub keeps_name: bool,
}

/// Whether a session is to be inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsWish {
    /// No: STARTTLS is never said.
    Never,
    /// If the next hop offers it; if not, or if it answers STARTTLS with a refusal, in clear.
    IfOffered,
    /// Yes, or there is no session (TLS-07).
    Always,
}

/// How a session proves who we are before it sends (AUT-10; RFC 4954).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The file with the credentials.
    pub credentials: Arc<Path>,
    /// Inside TLS the next hop proved its name.
    pub proven: bool,
    /// A password may be said to who proved nothing, and AUTH in clear.
    pub allow_clear: bool,
}

/// What a message needs that not every next hop can do. A session that finds its next hop unable ends before the first
/// message; another host of the domain may be able (EXT-06, RTL-02).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// SMTPUTF8: an address or the header is not ASCII.
    pub utf8: bool,
    /// REQUIRETLS, inside TLS.
    pub require_tls: bool,
    /// No more than the relay's own policy, whatever the domain publishes; its hosts need nothing for it.
    pub tls_optional: bool,
}

impl Needs {
    /// Why a message fails if no host of its domain can.
    pub const fn failure(self) -> &'static str {
        if self.require_tls {
            "5.7.30 no mail host of the domain gives TLS with REQUIRETLS"
        } else {
            "5.6.7 no mail host of the domain takes addresses and headers that are not ASCII"
        }
    }
}

impl std::fmt::Display for Needs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [(self.utf8, "smtputf8"), (self.require_tls, "requiretls"), (self.tls_optional, "no-tls")];
        let words: Vec<&str> = words.iter().filter(|(needed, _)| *needed).map(|(_, word)| *word).collect();
        if words.is_empty() { f.write_str("nothing") } else { f.write_str(&words.join(",")) }
    }
}

/// What of a message's parameters a next hop was told, so that it is its turn to report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// What the sender wants reported (DSN-08).
    pub dsn: bool,
    /// When the message is to be delivered (RFC 2852).
    pub deliver_by: bool,
}

/// One recipient of an offer.
#[derive(Clone, Copy, Debug)]
pub struct OfferedRecipient<'m> {
    /// The mailbox.
    pub address: &'m [u8],
    /// What its RCPT said when it came.
    pub said: RecipientParameters<'m>,
}

impl<'m> From<&'m [u8]> for OfferedRecipient<'m> {
    fn from(address: &'m [u8]) -> OfferedRecipient<'m> {
        OfferedRecipient { address, said: RecipientParameters::default() }
    }
}

/// One transaction to be done: a sender, recipients of one domain (RTE-18, RTE-19), and what there is to say of the body.
pub struct Offer<'a, 'm> {
    /// The caller's name for it, given back in every call of the handler.
    pub handle: u32,
    /// The reverse-path without brackets; empty for the null one.
    pub sender: &'m [u8],
    /// The mailboxes, at least one; a verdict names them by their index here.
    pub recipients: &'a mut dyn ExactSizeIterator<Item = OfferedRecipient<'m>>,
    /// Octets of the message in plain form (RFC 1870 3).
    pub size_bytes: u64,
    /// What the message is like.
    pub text: Text,
    /// What its MAIL said when it came, passed on to who knows of it (DSN-09, EXT-11).
    pub parameters: MessageParameters<'m>,
    /// Seconds until it is to be delivered, if it is: what is left of `parameters.deliver_by`.
    pub by_seconds: i64,
}

/// Who has the bodies and wants the verdicts.
pub trait ClientHandler {
    /// Append the message, trace fields and body, in this form: wire form, or exactly `Offer::size_bytes` octets of plain
    /// form. At most once per offer, and only when at least one recipient was accepted.
    fn push_body(&mut self, handle: u32, form: Form, out: &mut Outbox);
    /// The outcome of one recipient: exactly once for each of every offer.
    fn verdict(&mut self, handle: u32, recipient: usize, verdict: ClientVerdict<'_>);
    /// All recipients of the offer have their verdict; the handle is not named again.
    fn finished(&mut self, handle: u32, passed: Passed);
}

/// What became of one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientVerdict<'a> {
    /// In one word.
    pub outcome: Outcome,
    /// The reply's code; 0 if no reply stands behind the verdict.
    pub code: u16,
    /// The reply's text, all lines, printable ASCII, at most `limits::VERDICT_TEXT_MAX_BYTES`; without a reply our own words.
    pub text: &'a [u8],
    /// Which command the verdict belongs to.
    pub phase: Phase,
}

/// The outcome of one recipient in one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2yz to the whole message: the next hop is responsible now.
    Delivered,
    /// Permanent: 5yz, or a message the next hop cannot take (EXT-02, EXT-04). No other host is tried (RTE-14).
    Failed,
    /// To be tried again later.
    Deferred,
    /// The whole message was sent and no reply came: deferred, and perhaps delivered twice in the end (RTE-16).
    Unknown,
    /// Never really tried: the session ended before the next hop answered anything of a transaction behind another, or
    /// it wants fewer recipients in one transaction (SIZ-10). To be tried at once, and no attempt counted.
    NotTried,
}

/// The part of a transaction a verdict belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before or between commands.
    Session,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The final dot, or the last chunk.
    Dot,
}

/// Whether there is a session and what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// Waiting for greeting, EHLO, HELO or STARTTLS.
    Opening,
    /// The next hop waits for the TLS handshake: the caller does it, then calls `secured`; or `closed` if it fails.
    Handshake,
    /// The next hop waits for our proof: the caller has `take_proof_request` answered, then calls `proven`.
    Proving,
    /// Idle and fit for a transaction.
    Ready,
    /// A transaction is on its way.
    Busy,
    /// QUIT was sent.
    Closing,
    /// Over; `Client::says_goodbye` tells how to close the connection.
    Over(SessionEnd),
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// We said QUIT.
    Quit,
    /// The connection was lost, or the next hop ended an idle session.
    PeerClosed,
    /// 421 anywhere, or 4yz to greeting, EHLO or HELO: the next hop wants no more of us for now (RTE-13, RTE-17).
    Throttled {
        /// The reply's code; its text is `Client::end_text`.
        code: u16,
    },
    /// 5yz to greeting or HELO (RTE-13).
    Refused {
        /// The reply's code; its text is `Client::end_text`.
        code: u16,
    },
    /// The next hop does not speak SMTP (RTE-21).
    Broken,
    /// It took too long (RTE-15).
    TimedOut,
    /// TLS is wanted and not to be had: the next hop does not offer it, or refuses it.
    NoTls,
    /// The next hop cannot do what the messages need; another host may be able.
    Unable,
    /// The TLS handshake did not come to its end (TLS-06).
    TlsFailed,
    /// The next hop takes no mechanism that may be used, or the exchange led nowhere; `Client::end_text` says why (AUT-10).
    NoLogin,
    /// It does not believe that we are who we say, or cannot find out (AUT-10).
    LoginRefused {
        /// The reply's code; its text is `Client::end_text`.
        code: u16,
    },
}

impl SessionEnd {
    /// Another connection, or another host, would fare no better for a while: what is wrong is the credentials.
    pub const fn is_login(self) -> bool {
        matches!(self, SessionEnd::NoLogin | SessionEnd::LoginRefused { .. })
    }
}

impl std::fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SessionEnd::Quit => f.write_str("ended in order"),
            SessionEnd::PeerClosed => f.write_str("the connection was lost"),
            SessionEnd::Throttled { code } => write!(f, "the next hop wants no more for now ({code})"),
            SessionEnd::Refused { code } => write!(f, "the next hop refuses service ({code})"),
            SessionEnd::Broken => f.write_str("the next hop does not speak SMTP"),
            SessionEnd::TimedOut => f.write_str("no answer in time"),
            SessionEnd::NoTls => f.write_str("the next hop gives no TLS, and the policy wants it"),
            SessionEnd::Unable => f.write_str("the next hop cannot do what the message needs"),
            SessionEnd::TlsFailed => f.write_str("the TLS handshake failed"),
            SessionEnd::NoLogin => f.write_str("the next hop takes no AUTH that may be used"),
            SessionEnd::LoginRefused { code } => write!(f, "the next hop refuses our credentials ({code})"),
        }
    }
}
