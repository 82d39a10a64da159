//! Every reply that the session gives, as finished text.
//!
//! Replies echo nothing the client said but the domain of ETRN (SES-12), are written whole at compile time except for our own name, the
//! size limit, what EHLO offers, addresses of the alias table and the message's name, and carry an enhanced code on every 2xx, 4xx and 5xx line (EXT-08; RFC
//! 2034). Pure.

use std::io::Write;

use crate::base::ids::MessageId;
use crate::base::time::UnixMs;
use crate::mail::date::write_internet;
use crate::smtp::auth::{self, Mechanisms};
use crate::smtp::xclient::{XCLIENT_OFFER, XFORWARD_OFFER};

/// A reply of fixed text: one or more lines, each with its CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply(&'static str);

impl Reply {
    /// Appends it.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }

    /// The first digit is 5.
    pub const fn is_refusal(self) -> bool {
        self.0.as_bytes()[0] == b'5'
    }

    /// The first digit is 4.
    pub const fn is_deferral(self) -> bool {
        self.0.as_bytes()[0] == b'4'
    }

    /// The whole text.
    pub const fn text(self) -> &'static str {
        self.0
    }
}

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident = $text:expr;)*) => {
        $($(#[$doc])* pub const $name: Reply = Reply(concat!($text, "\r\n"));)*
        #[cfg(test)]
        const ALL: &[Reply] = &[$($name),*];
    };
}

replies! {
    /// XFORWARD (XCL-01).
    FORWARDED = "250 2.0.0 Noted";
    /// XCLIENT or XFORWARD of a client that is not listed (XCL-01).
    NOT_LISTED = "550 5.7.1 Not for you to say";
    /// XCLIENT or XFORWARD in a transaction (XCL-02).
    CONVEYED_IN_TRANSACTION = "503 5.5.1 Not inside a transaction";
    /// XCLIENT: the client that was named has as many connections as it may (XCL-02, SES-26).
    CONVEYED_TOO_MANY = "421 4.7.0 Too many connections of that client; closing";
    /// MAIL was taken.
    SENDER_OK = "250 2.1.0 Sender OK";
    /// RCPT was taken.
    RECIPIENT_OK = "250 2.1.5 Recipient OK";
    /// RSET.
    RESET = "250 2.0.0 Reset";
    /// NOOP.
    NOOP = "250 2.0.0 OK";
    /// QUIT.
    BYE = "221 2.0.0 Bye";
    /// EXPN of a list with more members than are shown (FND-05).
    LONG_LIST = "252 2.1.5 A list with too many members to show; will deliver to all of them";
    /// VRFY: nothing is verified, nothing is denied (SES-14).
    CANNOT_VERIFY = "252 2.0.0 Cannot verify, but will try to deliver";
    /// HELP (FND-11; RFC 5321 4.1.1.8).
    HELP = "214-2.0.0 EHLO name  begin, learn the extensions\r\n\
            214-2.0.0 HELO name  begin without extensions\r\n\
            214-2.0.0 MAIL FROM:<path> [SIZE=bytes] [BODY=7BIT|8BITMIME|BINARYMIME] [SMTPUTF8]\r\n\
            214-2.0.0   [RET=FULL|HDRS] [ENVID=name] [BY=seconds;R|N] [MT-PRIORITY=-9..9]  begin a message\r\n\
            214-2.0.0 RCPT TO:<path> [NOTIFY=NEVER|SUCCESS,FAILURE,DELAY] [ORCPT=type;address]  add a recipient\r\n\
            214-2.0.0 DATA  send the message; a line with only a dot ends it\r\n\
            214-2.0.0 BDAT bytes [LAST]  send so many bytes of the message\r\n\
            214-2.0.0 STARTTLS  go on inside TLS\r\n\
            214-2.0.0 AUTH mechanism [response]  prove who you are\r\n\
            214-2.0.0 RSET  forget the message begun\r\n\
            214-2.0.0 NOOP  do nothing\r\n\
            214-2.0.0 VRFY address  ask what is known of it, for who may\r\n\
            214-2.0.0 EXPN address  ask who is behind it, for who may\r\n\
            214-2.0.0 ETRN [@]domain  start what waits for it, for who may\r\n\
            214-2.0.0 HELP  this text\r\n\
            214-2.0.0 QUIT  end\r\n\
            214 2.0.0 Documentation: docs/operating.md in the source of Ringpost; the protocol is RFC 5321";
    /// DATA: go ahead.
    SEND_DATA = "354 End with a line that holds only a dot";

    /// AUTH: it is who it says (AUT-02; RFC 4954 4).
    AUTHENTICATED = "235 2.7.0 Authentication succeeded";
    /// AUTH: it is not, or is nobody known (AUT-04, AUT-08).
    AUTH_REFUSED = "535 5.7.8 Authentication credentials invalid";
    /// AUTH: whoever knows cannot be asked (AUT-04).
    AUTH_UNAVAILABLE = "454 4.7.0 Cannot check credentials now; try again later";
    /// AUTH: too many failures (AUT-04).
    AUTH_TOO_MANY = "421 4.7.0 Too many failed authentications; closing";
    /// AUTH: the client gave the exchange up (AUT-03).
    AUTH_CANCELLED = "501 5.7.0 Authentication cancelled";
    /// AUTH: the response is no base64 (AUT-03).
    BAD_BASE64 = "501 5.5.2 Cannot decode base64";
    /// AUTH: the response does not fit the mechanism (AUT-02).
    MALFORMED_RESPONSE = "501 5.5.2 Response does not fit the mechanism";
    /// AUTH: no such mechanism here, or not in clear (AUT-01, AUT-04).
    MECHANISM_UNKNOWN = "504 5.5.4 Mechanism not offered";
    /// AUTH after success (AUT-05).
    AUTHENTICATED_ALREADY = "503 5.5.1 Authenticated already";
    /// AUTH in a transaction (AUT-05).
    AUTH_IN_TRANSACTION = "503 5.5.1 Not in a transaction";
    /// MAIL where AUTH is demanded (AUT-06).
    AUTH_FIRST = "530 5.7.0 Authentication required";
    /// Anything where TLS is demanded first (TLS-09, AUT-01).
    TLS_FIRST = "530 5.7.0 STARTTLS first";
    /// MAIL from a mailbox that is not the user's (AUT-06).
    SENDER_NOT_OWNED = "550 5.7.1 Sender address is not yours";
    /// A submitted message without From, or with several (BLK-07; RFC 6409 8).
    FROM_FIELDS = "550 5.6.0 Want exactly one From field";
    /// Marketing that cannot be unsubscribed from with one click (BLK-05; RFC 8058).
    NO_ONE_CLICK = "550 5.7.1 Want a signed List-Unsubscribe with an https URI, and List-Unsubscribe-Post: List-Unsubscribe=One-Click";

    /// BDAT, not the last: the chunk is there (BDT-01).
    CHUNK_TAKEN = "250 2.0.0 Chunk taken";

    /// A verb that nobody knows (SES-09).
    UNKNOWN_COMMAND = "500 5.5.1 Unknown command";
    /// STARTTLS: the handshake comes next (TLS-01).
    START_TLS = "220 2.0.0 Ready to start TLS";
    /// STARTTLS where none is offered (TLS-01).
    NO_TLS = "454 4.7.0 TLS not available";
    /// STARTTLS inside TLS (TLS-01).
    TLS_ALREADY = "503 5.5.1 TLS is on already";
    /// A line with bare CR or LF (DAT-02).
    BROKEN_LINE = "500 5.5.2 Bare CR or LF in a command; lines end with CR LF";
    /// A command line over the bound (SIZ-04).
    LINE_TOO_LONG = "500 5.5.2 Command line too long";
    /// A known verb that is not offered.
    NOT_IMPLEMENTED = "502 5.5.1 Command not implemented";
    /// Wrong argument.
    BAD_ARGUMENT = "501 5.5.4 Wrong argument";
    /// Malformed or repeated parameter.
    BAD_PARAMETER = "501 5.5.4 Wrong parameter or value";
    /// Unknown parameter.
    UNKNOWN_PARAMETER = "555 5.5.4 Parameter not offered";
    /// The sender is not in angle brackets (SES-21).
    SENDER_BRACKETS = "501 5.1.7 Want <address> right behind FROM: and nothing but parameters after it";
    /// The sender is no mailbox.
    SENDER_SYNTAX = "501 5.1.7 Sender is not a valid address";
    /// Sender over its bound (SIZ-01).
    SENDER_TOO_LONG = "501 5.1.7 Sender address too long";
    /// The recipient is not in angle brackets (SES-21).
    RECIPIENT_BRACKETS = "501 5.1.3 Want <address> right behind TO: and nothing but parameters after it";
    /// The recipient is no mailbox.
    RECIPIENT_SYNTAX = "501 5.1.3 Recipient is not a valid address";
    /// Recipient over its bound (SIZ-01).
    RECIPIENT_TOO_LONG = "501 5.1.3 Recipient address too long";
    /// Octets over 127 in an address without SMTPUTF8, or that are no UTF-8 (SES-20, EXT-05).
    ADDRESS_EIGHT_BIT = "553 5.6.7 Address is not ASCII; say SMTPUTF8 to MAIL, and use UTF-8";
    /// MAIL before EHLO or HELO.
    HELLO_FIRST = "503 5.5.1 EHLO or HELO first";
    /// MAIL in a transaction.
    SENDER_GIVEN = "503 5.5.1 Sender already given";
    /// RCPT or DATA without MAIL.
    MAIL_FIRST = "503 5.5.1 MAIL first";
    /// RCPT or DATA after BDAT (BDT-04).
    CHUNKS_BEGUN = "503 5.5.1 BDAT begun; go on with BDAT, or RSET";
    /// DATA where MAIL said BINARYMIME (BDT-11).
    BINARY_BY_DATA = "503 5.5.1 BINARYMIME goes by BDAT only";
    /// BDAT whose size cannot be read: nobody knows where the next command begins (BDT-05).
    CHUNK_SIZE = "501 5.5.4 Want BDAT bytes [LAST]; closing, since what follows may be no command";
    /// DATA with no recipient taken (DAT-12).
    NO_RECIPIENTS = "554 5.5.1 No valid recipients";
    /// Something followed DATA before it was answered (DAT-13).
    DATA_NOT_AWAITED = "554 5.5.0 Data before 354; closing";
    /// Not a client we relay for (SES-22).
    RELAY_DENIED = "550 5.7.1 Relay access denied";
    /// RCPT or VRFY of an address whose mail goes elsewhere now, which this client is not told (FND-03).
    HAS_MOVED = "550 5.1.6 Mailbox has moved";
    /// RCPT or VRFY of an address that is nobody's any more (FND-03).
    NOBODY = "550 5.1.1 No such mailbox here";
    /// EXPN of what is no list (FND-05).
    NO_LIST = "550 5.1.1 No list of that name here";
    /// ETRN of a client that may not (FND-06; RFC 1985 5).
    NODE_NOT_ALLOWED = "459 4.7.1 Node not allowed: you are not one of those who may start it";
    /// The addresses behind all recipients together are too many (FND-04).
    TOO_MANY_EXPANDED = "452 4.5.3 Too many addresses behind the recipients; send the others in another transaction";
    /// The parameters of all recipients together are too long.
    TOO_MANY_PARAMETERS = "452 4.5.3 Too many parameters; send the other recipients in another transaction";
    /// One recipient too many (SIZ-09).
    TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients";
    /// `SIZE=` or the message over the limit (EXT-01, DAT-10).
    TOO_LARGE = "552 5.3.4 Message too large";
    /// After a turned-away greeting, until QUIT (SES-02).
    TURNED_AWAY = "503 5.3.2 No service for you here; only QUIT";

    /// The message held a bare CR or LF (DAT-03).
    BARE_LINE_END = "550 5.6.11 Bare CR or LF in the message; lines end with CR LF";
    /// A line of the message is over the bound (SIZ-06).
    DATA_LINE_TOO_LONG = "500 5.6.0 A line of the message is longer than 1000 octets";
    /// Too many Received fields (TRC-06).
    LOOPING = "554 5.4.6 Too many Received fields; the message loops";
    /// No room on disk (EXT-01).
    STORAGE_FULL = "452 4.3.1 No room; try again later";
    /// The disk fails.
    STORAGE_FAILING = "451 4.3.0 Storage fails; try again later";

    /// The message is far over the limit (DAT-10).
    FAR_TOO_LARGE = "421 4.3.4 Message far too large; closing";
    /// Too many errors (SES-10).
    TOO_MANY_ERRORS = "421 4.7.0 Too many errors; closing";
    /// Idle too long (SES-23, DAT-14).
    IDLE_TOO_LONG = "421 4.4.2 Idle too long; closing";
    /// Shutting down (SES-24).
    SHUTTING_DOWN = "421 4.3.2 Shutting down; closing";
}

/// An address is known: as it stands for itself (VRFY), or is one of several (EXPN).
pub const KNOWN: &str = "250 2.1.5";
/// Taken, and the client is told where it goes (FND-03; RFC 5321 3.4).
pub const WILL_FORWARD: &str = "251 2.1.5 User not local; will forward to";
/// Not taken, and the client is told where to send it (FND-03; RFC 5321 3.4).
pub const PLEASE_TRY: &str = "551 5.1.6 User not local; please try";

/// A line of `text` with an address behind it; `mark` is `-` if the reply goes on.
pub fn write_address(out: &mut Vec<u8>, text: &str, mark: u8, address: &[u8]) {
    let (code, words) = text.split_at(3);
    out.extend_from_slice(code.as_bytes());
    out.push(mark);
    out.extend_from_slice(words.trim_start().as_bytes());
    out.extend_from_slice(b" <");
    out.extend_from_slice(address);
    out.extend_from_slice(b">\r\n");
}

/// What waits for a node was started: so many messages, `None` if that could not be done (FND-06; RFC 1985 5.3). How many wait for
/// domains below one is not known to all shards exactly.
pub fn write_node_started(out: &mut Vec<u8>, domain: &str, with_subdomains: bool, messages: Option<u64>) {
    match (messages, with_subdomains) {
        (None, _) => push(out, format_args!("458 4.3.0 Unable to queue messages for node {domain}\r\n")),
        (Some(0), true) => push(out, format_args!("250 2.0.0 Queuing for node {domain} and below started\r\n")),
        (Some(_), true) => {
            push(out, format_args!("252 2.0.0 Pending messages for node {domain} and below started\r\n"))
        }
        (Some(0), false) => push(out, format_args!("251 2.0.0 No messages waiting for node {domain}\r\n")),
        (Some(messages), false) => {
            push(out, format_args!("253 2.0.0 {messages} pending messages for node {domain} started\r\n"));
        }
    }
}

/// The greeting (SES-01; RFC 5321 4.2): our name first.
pub fn write_greeting(out: &mut Vec<u8>, hostname: &str) {
    push(out, format_args!("220 {hostname} ESMTP Ringpost\r\n"));
}

/// The greeting that turns a client away (SES-02; RFC 5321 3.1).
pub fn write_refusing_greeting(out: &mut Vec<u8>, hostname: &str) {
    push(out, format_args!("554 {hostname} No SMTP service for you here\r\n"));
}

/// What the reply to EHLO offers beside that which is always there.
#[derive(Clone, Copy, Debug)]
pub struct Offers<'a> {
    /// Our name.
    pub hostname: &'a str,
    /// Largest message.
    pub message_bytes_max: u64,
    /// Recipients of one transaction (EXT-09).
    pub recipients_max: usize,
    /// STARTTLS (TLS-01).
    pub start_tls: bool,
    /// REQUIRETLS (RTL-01).
    pub require_tls: bool,
    /// FUTURERELEASE: so many seconds, and until when that is (RFC 4865 3).
    pub future_release: Option<(u32, UnixMs)>,
    /// AUTH (AUT-01).
    pub mechanisms: Mechanisms,
    /// XCLIENT (XCL-01).
    pub xclient: bool,
    /// XFORWARD (XCL-01).
    pub xforward: bool,
    /// EXPN (SES-14).
    pub expn: bool,
    /// ETRN (FND-06).
    pub etrn: bool,
}

/// The reply to EHLO with the extensions offered (SES-03).
pub fn write_offers(out: &mut Vec<u8>, offers: &Offers<'_>) {
    let Offers { hostname, message_bytes_max, recipients_max, .. } = *offers;
    push(
        out,
        format_args!(
            "250-{hostname}\r\n250-PIPELINING\r\n250-SIZE {message_bytes_max}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-CHUNKING\r\n250-BINARYMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n\
             250-LIMITS RCPTMAX={recipients_max}\r\n250-DELIVERBY\r\n250-MT-PRIORITY\r\n"
        ),
    );
    if let Some((seconds, until)) = offers.future_release {
        push(out, format_args!("250-FUTURERELEASE {seconds} "));
        write_internet(out, until);
        out.extend_from_slice(b"\r\n");
    }
    if offers.require_tls {
        out.extend_from_slice(b"250-REQUIRETLS\r\n");
    }
    if offers.start_tls {
        out.extend_from_slice(b"250-STARTTLS\r\n");
    }
    if !offers.mechanisms.is_empty() {
        out.extend_from_slice(b"250-AUTH");
        offers.mechanisms.iter().for_each(|mechanism| push(out, format_args!(" {}", mechanism.name())));
        out.extend_from_slice(b"\r\n");
    }
    if offers.xclient {
        push(out, format_args!("250-XCLIENT {XCLIENT_OFFER}\r\n"));
    }
    if offers.xforward {
        push(out, format_args!("250-XFORWARD {XFORWARD_OFFER}\r\n"));
    }
    if offers.expn {
        out.extend_from_slice(b"250-EXPN\r\n");
    }
    if offers.etrn {
        out.extend_from_slice(b"250-ETRN\r\n");
    }
    out.extend_from_slice(b"250 HELP\r\n");
}

/// The reply to HELO.
pub fn write_hello(out: &mut Vec<u8>, hostname: &str) {
    push(out, format_args!("250 {hostname}\r\n"));
}

/// The message was taken and thrown away: `listen.null`.
pub fn write_discarded(out: &mut Vec<u8>) {
    out.extend_from_slice(b"250 2.0.0 discarded\r\n");
}

/// Asks the client of an AUTH exchange for its next response (RFC 4954 4).
pub fn write_challenge(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(b"334 ");
    auth::encode(text, out);
    out.extend_from_slice(b"\r\n");
}

/// The message is ours, under this name.
pub fn write_queued(out: &mut Vec<u8>, id: MessageId) {
    push(out, format_args!("250 2.0.0 queued as {id}\r\n"));
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes everything");
}

/// Panics unless `bytes` is exactly so many well-formed replies (SES-11, SES-12, SIZ-05); gives their codes.
#[cfg(test)]
pub(crate) fn assert_replies(bytes: &[u8]) -> Vec<u16> {
    let text = std::str::from_utf8(bytes).expect("ASCII");
    let mut codes = Vec::new();
    let mut open: Option<u16> = None;
    for line in text.split_inclusive("\r\n") {
        assert!(line.ends_with("\r\n") && line.len() <= 512, "{line:?}");
        let inside = &line[..line.len() - 2];
        assert!(inside.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)), "{line:?}");
        let digits = inside.as_bytes();
        assert!((b'2'..=b'5').contains(&digits[0]) && (b'0'..=b'5').contains(&digits[1]) && digits[2].is_ascii_digit());
        let code: u16 = inside[..3].parse().unwrap();
        assert!(open.is_none_or(|o| o == code), "one code in all lines of a reply: {text}");
        match digits[3] {
            b'-' => open = Some(code),
            b' ' => {
                codes.push(code);
                open = None;
            }
            _ => panic!("{line:?}"),
        }
    }
    assert!(open.is_none(), "a reply without its last line: {text}");
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Position, ShardId};
    use crate::smtp::auth::Mechanism;

    #[test]
    fn every_reply_is_well_formed_with_its_enhanced_code() {
        // SES-11, SES-12, SIZ-05, EXT-08
        for reply in ALL {
            let code = assert_replies(reply.text().as_bytes());
            assert_eq!(code.len(), 1);
            for line in reply.text().lines() {
                let class = &line[..1];
                assert_eq!(reply.is_refusal(), class == "5");
                if class != "3" {
                    let fields: Vec<&str> = line[4..].split(' ').next().unwrap().split('.').collect();
                    assert_eq!(fields.len(), 3, "{line}");
                    assert_eq!(fields[0], class, "{line}");
                    assert!(fields.iter().all(|f| f.len() <= 3 && f.bytes().all(|b| b.is_ascii_digit())), "{line}");
                }
            }
        }
    }

    #[test]
    fn composed_replies_are_well_formed_with_the_longest_name() {
        // SES-01, SES-03, SIZ-05
        let hostname = "h".repeat(crate::base::limits::DOMAIN_MAX_BYTES);
        let mut out = Vec::new();
        write_greeting(&mut out, &hostname);
        write_refusing_greeting(&mut out, &hostname);
        write_offers(
            &mut out,
            &Offers {
                hostname: &hostname,
                message_bytes_max: u64::MAX,
                recipients_max: usize::MAX,
                start_tls: true,
                require_tls: true,
                future_release: Some((u32::MAX, UnixMs(253_402_300_799_000))),
                mechanisms: Mechanism::ALL.into_iter().fold(Mechanisms::NONE, Mechanisms::with),
                xclient: true,
                xforward: true,
                expn: true,
                etrn: true,
            },
        );
        write_hello(&mut out, &hostname);
        write_challenge(&mut out, b"");
        write_queued(&mut out, MessageId { shard: ShardId(u16::MAX), position: Position(u64::MAX) });
        let address = format!("{}@{hostname}", "l".repeat(crate::base::limits::LOCAL_PART_MAX_BYTES));
        write_address(&mut out, KNOWN, b'-', address.as_bytes());
        for text in [KNOWN, WILL_FORWARD, PLEASE_TRY] {
            write_address(&mut out, text, b' ', address.as_bytes());
        }
        for (with_subdomains, messages) in
            [(true, None), (true, Some(0)), (true, Some(1)), (false, Some(0)), (false, Some(u64::MAX))]
        {
            write_node_started(&mut out, &hostname, with_subdomains, messages);
        }
        let codes = [220, 554, 250, 250, 334, 250, 250, 251, 551, 458, 250, 252, 251, 253];
        assert_eq!(assert_replies(&out), codes);
    }
}
