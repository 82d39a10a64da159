//! Commands: one line becomes one value that borrows from it.
//!
//! Verbs and keywords without case, arguments as strict as the grammar (SES-08, SES-09, SES-21). Nothing here
//! knows the state of a session. Pure, allocates nothing, panics on no input.

use crate::base::time::UnixMs;
use crate::mail::address::{self, AddressError, Path};
use crate::mail::date;
use crate::mail::envelope::Body;
use crate::mail::parameters::{ENVID_MAX_BYTES, Late, Notify, RecipientParameters, is_orcpt, is_xtext};

/// A command that a session can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// EHLO, or HELO if not `extended` (RFC 5321 4.1.1.1).
    Hello {
        /// True for EHLO.
        extended: bool,
        /// The name given; a plausible host name or address literal (SES-05).
        name: &'a [u8],
    },
    /// MAIL (RFC 5321 4.1.1.2).
    Mail {
        /// The reverse-path.
        sender: Path<'a>,
        /// What follows it.
        parameters: Parameters<'a>,
    },
    /// RCPT (RFC 5321 4.1.1.3).
    Rcpt {
        /// The forward-path.
        recipient: Path<'a>,
        /// What follows it.
        parameters: Parameters<'a>,
    },
    /// DATA (RFC 5321 4.1.1.4). An argument is an error, but one that the session judges: see DAT-13.
    Data {
        /// True if something followed the verb.
        argument: bool,
    },
    /// BDAT (RFC 3030 2). What follows the line is not for this parser, so a wrong one is the session's to judge.
    Bdat {
        /// Octets that follow the line, saturated at `u64::MAX`; `None` if that cannot be read (BDT-05).
        size_bytes: Option<u64>,
        /// True for the last chunk of the message.
        last: bool,
        /// True if something else stood behind the size.
        argument: bool,
    },
    /// RSET.
    Reset,
    /// NOOP, with anything behind it.
    Noop,
    /// QUIT.
    Quit,
    /// HELP, with anything behind it.
    Help,
    /// VRFY of something.
    Verify {
        /// What followed the verb; not empty.
        name: &'a [u8],
    },
    /// EXPN; who may say it is the session's to judge, before what it says (FND-05).
    Expand {
        /// What followed the verb.
        name: &'a [u8],
    },
    /// ETRN (RFC 1985); likewise (FND-06).
    Etrn {
        /// What followed the verb.
        node: &'a [u8],
    },
    /// AUTH (RFC 4954 4).
    Auth {
        /// The mechanism's name, in any case.
        mechanism: &'a [u8],
        /// The initial response in base64.
        initial: Option<&'a [u8]>,
    },
    /// STARTTLS (RFC 3207 4).
    StartTls {
        /// True if something followed the verb: an error, but one that the session judges.
        argument: bool,
    },
    /// XCLIENT; who may say it is the session's to judge, before what it says (XCL-01).
    XClient {
        /// What followed the verb: `xclient::Claim`.
        arguments: &'a [u8],
    },
    /// XFORWARD.
    XForward {
        /// What followed the verb: `xclient::Forwarded`.
        arguments: &'a [u8],
    },
}

/// Why a line is no command that a session can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// No verb that SMTP knows: 500.
    Unknown,
    /// A verb of SMTP that is not offered here: 502.
    NotImplemented,
    /// An argument missing, or one too many, or a wrong one: 501.
    Argument,
    /// The reverse-path is wrong.
    Sender(AddressError),
    /// The forward-path is wrong.
    Recipient(AddressError),
}

/// The longest verbs, STARTTLS and XFORWARD.
const VERB_MAX_BYTES: usize = 8;

/// Reads a line without its CRLF. Blanks at its end do not count (SES-21).
pub fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
    let line = trim_end(line);
    let verb_end = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
    let mut verb = [0; VERB_MAX_BYTES];
    verb.get_mut(..verb_end).ok_or(CommandError::Unknown)?.copy_from_slice(&line[..verb_end]);
    verb.make_ascii_uppercase();
    let argument = line.get(verb_end + 1..).unwrap_or(b"");
    match &verb[..verb_end] {
        b"MAIL" => mail(argument),
        b"RCPT" => rcpt(argument),
        b"DATA" => Ok(Command::Data { argument: !argument.is_empty() }),
        b"BDAT" => Ok(bdat(argument)),
        b"EHLO" => hello(argument, true),
        b"HELO" => hello(argument, false),
        b"RSET" => alone(argument, Command::Reset),
        b"QUIT" => alone(argument, Command::Quit),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"AUTH" => auth(argument),
        b"STARTTLS" => Ok(Command::StartTls { argument: !argument.is_empty() }),
        b"XCLIENT" => Ok(Command::XClient { arguments: argument }),
        b"XFORWARD" => Ok(Command::XForward { arguments: argument }),
        b"VRFY" if argument.is_empty() => Err(CommandError::Argument),
        b"VRFY" => Ok(Command::Verify { name: argument }),
        b"EXPN" => Ok(Command::Expand { name: argument }),
        b"ETRN" => Ok(Command::Etrn { node: argument }),
        b"TURN" | b"SEND" | b"SOML" | b"SAML" | b"ATRN" | b"BURL" => Err(CommandError::NotImplemented),
        _ => Err(CommandError::Unknown),
    }
}

fn trim_end(line: &[u8]) -> &[u8] {
    let blanks = line.iter().rev().take_while(|&&b| b == b' ' || b == b'\t').count();
    &line[..line.len() - blanks]
}

fn alone<'a>(argument: &[u8], command: Command<'a>) -> Result<Command<'a>, CommandError> {
    if argument.is_empty() { Ok(command) } else { Err(CommandError::Argument) }
}

fn hello(name: &[u8], extended: bool) -> Result<Command<'_>, CommandError> {
    if address::is_hello_name(name) { Ok(Command::Hello { extended, name }) } else { Err(CommandError::Argument) }
}

/// A mechanism, and an initial response behind it or nothing.
fn auth(argument: &[u8]) -> Result<Command<'_>, CommandError> {
    let mut words = argument.split(|&b| b == b' ').filter(|word| !word.is_empty());
    let mechanism = words.next().ok_or(CommandError::Argument)?;
    let initial = words.next();
    if words.next().is_some() { Err(CommandError::Argument) } else { Ok(Command::Auth { mechanism, initial }) }
}

fn mail(argument: &[u8]) -> Result<Command<'_>, CommandError> {
    let path = strip_keyword(argument, b"FROM:").ok_or(CommandError::Argument)?;
    let (sender, rest) = address::parse_reverse_path(path).map_err(CommandError::Sender)?;
    let parameters = Parameters::behind_path(rest).ok_or(CommandError::Sender(AddressError::Brackets))?;
    Ok(Command::Mail { sender, parameters })
}

fn rcpt(argument: &[u8]) -> Result<Command<'_>, CommandError> {
    let path = strip_keyword(argument, b"TO:").ok_or(CommandError::Argument)?;
    let (recipient, rest) = address::parse_forward_path(path).map_err(CommandError::Recipient)?;
    let parameters = Parameters::behind_path(rest).ok_or(CommandError::Recipient(AddressError::Brackets))?;
    Ok(Command::Rcpt { recipient, parameters })
}

/// A size, and LAST behind it or nothing (RFC 3030 2).
fn bdat(argument: &[u8]) -> Command<'static> {
    let mut words = argument.split(|&b| b == b' ').filter(|word| !word.is_empty());
    let size_bytes = size_value(words.next());
    let marker = words.next();
    let last = marker.is_some_and(|word| word.eq_ignore_ascii_case(b"LAST"));
    Command::Bdat { size_bytes, last, argument: words.next().is_some() || (marker.is_some() && !last) }
}

fn strip_keyword<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then_some(rest)
}

/// The parameters behind a path, one `KEYWORD[=value]` after the other (RFC 5321 4.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters<'a>(&'a [u8]);

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    /// As given; compare without case.
    pub keyword: &'a [u8],
    /// What stood behind `=`; never empty.
    pub value: Option<&'a [u8]>,
}

/// What is wrong with the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterError {
    /// Not `KEYWORD` nor `KEYWORD=value`, or given twice, or a value that the keyword cannot have: 501.
    Malformed,
    /// A keyword of no extension offered: 555 (SES-09).
    Unknown,
}

impl<'a> Parameters<'a> {
    /// What follows a path's `>`: nothing, or a space and parameters; `None` for other text.
    fn behind_path(rest: &'a [u8]) -> Option<Parameters<'a>> {
        match rest.first() {
            None => Some(Parameters(b"")),
            Some(b' ') => Some(Parameters(rest)),
            Some(_) => None,
        }
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = Result<Parameter<'a>, ParameterError>;

    fn next(&mut self) -> Option<Self::Item> {
        let blanks = self.0.iter().take_while(|&&b| b == b' ').count();
        let text = &self.0[blanks..];
        if text.is_empty() {
            return None;
        }
        let end = text.iter().position(|&b| b == b' ').unwrap_or(text.len());
        self.0 = &text[end..];
        Some(parameter(&text[..end]))
    }
}

fn parameter(text: &[u8]) -> Result<Parameter<'_>, ParameterError> {
    let end = text.iter().position(|&b| b == b'=').unwrap_or(text.len());
    let keyword = &text[..end];
    let value = text.get(end + 1..);
    let keyword_good = keyword.first().is_some_and(u8::is_ascii_alphanumeric)
        && keyword.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-');
    // An address in UTF-8 may stand in ORCPT only (RFC 6533 3).
    let utf8 = keyword.eq_ignore_ascii_case(b"ORCPT");
    let value_byte = |b: &u8| matches!(b, b'!'..=b'<' | b'>'..=b'~') || (utf8 && !b.is_ascii());
    let value_good = value.is_none_or(|v| !v.is_empty() && v.iter().all(value_byte));
    if keyword_good && value_good { Ok(Parameter { keyword, value }) } else { Err(ParameterError::Malformed) }
}

/// Which extensions a session offers, so that their parameters are known. None without EHLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The client said EHLO: all that need no more than that.
    pub extended: bool,
    /// REQUIRETLS (RTL-01).
    pub require_tls: bool,
    /// FUTURERELEASE (RFC 4865).
    pub future_release: bool,
}

/// What MAIL may say beside the sender (EXT-01, EXT-03, EXT-05, EXT-11, DSN-10, RTL-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MailParameters<'a> {
    /// `SIZE=`, saturated at `u64::MAX`.
    pub size_bytes: Option<u64>,
    /// `BODY=`.
    pub body: Option<Body>,
    /// `AUTH=` was given; who sent it first is nothing we would take anybody's word for (AUT-07).
    pub auth: Option<()>,
    /// `SMTPUTF8`.
    pub utf8: bool,
    /// `RET=`, as given: FULL or HDRS.
    pub ret: Option<&'a [u8]>,
    /// `ENVID=`, as given.
    pub envid: Option<&'a [u8]>,
    /// `REQUIRETLS`.
    pub require_tls: bool,
    /// `MT-PRIORITY=`.
    pub priority: Option<i8>,
    /// `HOLDFOR=` or `HOLDUNTIL=`.
    pub hold: Option<Hold>,
    /// `BY=`.
    pub deliver_by: Option<By>,
}

/// Until when a message is not to be sent (RFC 4865 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// So many seconds.
    For {
        /// At most nine digits.
        seconds: u32,
    },
    /// Until a moment.
    Until(UnixMs),
}

/// In what time a message is to be delivered (RFC 2852 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// From now; may be past if the sender only wants to be told.
    pub seconds: i32,
    /// What if it is not.
    pub late: Late,
    /// With `T`.
    pub traced: bool,
}

impl<'a> MailParameters<'a> {
    /// Reads MAIL's parameters; those of no extension offered are unknown.
    pub fn read(parameters: Parameters<'a>, offered: Offered) -> Result<MailParameters<'a>, ParameterError> {
        let mut known = MailParameters::default();
        for parameter in parameters {
            let Parameter { keyword, value } = parameter?;
            let is = |name: &str| keyword.eq_ignore_ascii_case(name.as_bytes());
            if !offered.extended {
                return Err(ParameterError::Unknown);
            } else if is("SIZE") {
                set_once(&mut known.size_bytes, size_value(value))?;
            } else if is("BODY") {
                set_once(&mut known.body, body_value(value))?;
            } else if is("AUTH") {
                set_once(&mut known.auth, value.filter(|value| is_xtext(value)).map(|_| ()))?;
            } else if is("SMTPUTF8") {
                set_flag(&mut known.utf8, value)?;
            } else if is("RET") {
                set_once(&mut known.ret, value.filter(|value| is_ret(value)))?;
            } else if is("ENVID") {
                let good = |value: &&[u8]| value.len() <= ENVID_MAX_BYTES && is_xtext(value);
                set_once(&mut known.envid, value.filter(good))?;
            } else if is("REQUIRETLS") && offered.require_tls {
                set_flag(&mut known.require_tls, value)?;
            } else if is("MT-PRIORITY") {
                set_once(&mut known.priority, priority_value(value))?;
            } else if is("HOLDFOR") && offered.future_release {
                let seconds = value.filter(|value| value.len() <= 9).and_then(|value| size_value(Some(value)));
                set_once(&mut known.hold, seconds.map(|seconds| Hold::For { seconds: seconds as u32 }))?;
            } else if is("HOLDUNTIL") && offered.future_release {
                set_once(&mut known.hold, value.and_then(date::parse_internet).map(Hold::Until))?;
            } else if is("BY") {
                set_once(&mut known.deliver_by, by_value(value))?;
            } else {
                return Err(ParameterError::Unknown);
            }
        }
        Ok(known)
    }
}

/// What RCPT may say beside the recipient (DSN-10; RFC 3461 4.1, 4.2). Without `extended` (the client said HELO) nothing.
pub fn rcpt_parameters(parameters: Parameters<'_>, extended: bool) -> Result<RecipientParameters<'_>, ParameterError> {
    let (mut notify, mut orcpt) = (None, None);
    for parameter in parameters {
        let Parameter { keyword, value } = parameter?;
        if extended && keyword.eq_ignore_ascii_case(b"NOTIFY") {
            set_once(&mut notify, value.filter(|value| Notify::parse(value).is_some()))?;
        } else if extended && keyword.eq_ignore_ascii_case(b"ORCPT") {
            set_once(&mut orcpt, value.filter(|value| is_orcpt(value)))?;
        } else {
            return Err(ParameterError::Unknown);
        }
    }
    Ok(RecipientParameters { notify: notify.unwrap_or_default(), orcpt: orcpt.unwrap_or_default() })
}

fn set_flag(flag: &mut bool, value: Option<&[u8]>) -> Result<(), ParameterError> {
    let twice = std::mem::replace(flag, true);
    if twice || value.is_some() { Err(ParameterError::Malformed) } else { Ok(()) }
}

fn set_once<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), ParameterError> {
    if place.is_some() || value.is_none() {
        return Err(ParameterError::Malformed);
    }
    *place = value;
    Ok(())
}

/// RFC 1870 3, RFC 3030 2: one to twenty digits.
fn size_value(value: Option<&[u8]>) -> Option<u64> {
    let digits = value.filter(|v| (1..=20).contains(&v.len()) && v.iter().all(u8::is_ascii_digit))?;
    let step = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, step))
}

/// RFC 3461 4.3.
fn is_ret(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"FULL") || value.eq_ignore_ascii_case(b"HDRS")
}

/// RFC 6710 3: -9 to 9, without zeros in front or a sign of plus.
fn priority_value(value: Option<&[u8]>) -> Option<i8> {
    let (sign, digit) = match value? {
        [b'-', digit @ b'1'..=b'9'] => (-1, digit),
        [digit @ b'0'..=b'9'] => (1, digit),
        _ => return None,
    };
    Some(sign * (digit - b'0') as i8)
}

/// RFC 2852 4: up to nine digits with or without a sign, a semicolon, R or N, perhaps T. Who wants a late message back must
/// give some time.
fn by_value(value: Option<&[u8]>) -> Option<By> {
    let (time, mode) = value.and_then(|value| value.split_at_checked(memchr::memchr(b';', value)?))?;
    let (sign, digits) = match time {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    let seconds = sign * size_value(Some(digits).filter(|digits| digits.len() <= 9))? as i32;
    let (late, traced) = match mode.to_ascii_uppercase().as_slice() {
        b";R" => (Late::Return, false),
        b";RT" => (Late::Return, true),
        b";N" => (Late::Notify, false),
        b";NT" => (Late::Notify, true),
        _ => return None,
    };
    (late == Late::Notify || seconds > 0).then_some(By { seconds, late, traced })
}

/// RFC 6152 2, RFC 3030 3.
fn body_value(value: Option<&[u8]>) -> Option<Body> {
    match value? {
        v if v.eq_ignore_ascii_case(b"7BIT") => Some(Body::SevenBit),
        v if v.eq_ignore_ascii_case(b"8BITMIME") => Some(Body::EightBitMime),
        v if v.eq_ignore_ascii_case(b"BINARYMIME") => Some(Body::BinaryMime),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn verbs_have_no_case_and_exact_length() {
        // SES-08, SES-09
        for noop in ["NOOP", "noop", "NoOp", "NOOP x y", "NOOP \t "] {
            assert_eq!(parse(noop.as_bytes()), Ok(Command::Noop), "{noop}");
        }
        for unknown in
            ["", " NOOP", "NOOPS", "NOO", "NOOP\tx", "N\0OP", "\u{fc}", "STARTTLSX", "STARTTLSXYZ", "GET / HTTP/1.1"]
        {
            assert_eq!(parse(unknown.as_bytes()), Err(CommandError::Unknown), "{unknown}");
        }
        for known in ["SOML FROM:<a@b>", "TURN"] {
            assert_eq!(parse(known.as_bytes()), Err(CommandError::NotImplemented), "{known}");
        }
        for argument in [
            "AUTH",
            "EHLO",
            "HELO ",
            "EHLO a b",
            "EHLO  a",
            "RSET x",
            "QUIT now",
            "VRFY",
            "MAIL",
            "MAIL x",
            "RCPT FROM:<a@b>",
        ] {
            assert_eq!(parse(argument.as_bytes()), Err(CommandError::Argument), "{argument}");
        }
        let plain = |initial| Ok(Command::Auth { mechanism: b"plain", initial });
        assert_eq!(parse(b"AUTH plain"), plain(None));
        assert_eq!(parse(b"auth plain ="), plain(Some(b"=".as_slice())));
        assert_eq!(parse(b"AUTH plain a b"), Err(CommandError::Argument));
        assert_eq!(parse(b"DATA"), Ok(Command::Data { argument: false }));
        assert_eq!(parse(b"data x"), Ok(Command::Data { argument: true }));
        assert_eq!(parse(b"starttls"), Ok(Command::StartTls { argument: false }));
        assert_eq!(parse(b"STARTTLS x"), Ok(Command::StartTls { argument: true }));
        assert_eq!(parse(b"ehlo [192.0.2.1]"), Ok(Command::Hello { extended: true, name: b"[192.0.2.1]" }));
    }

    #[test]
    fn strict_about_blanks_and_brackets() {
        // SES-21
        assert!(matches!(parse(b"mail from:<a@b> \t"), Ok(Command::Mail { parameters, .. }) if parameters.is_empty()));
        let brackets = Err(CommandError::Sender(AddressError::Brackets));
        for bad in
            ["MAIL FROM: <a@b>", "MAIL FROM:a@b", "MAIL FROM:<a@b>x", "MAIL FROM:<a@b>>", "MAIL FROM:<a@b>\tSIZE=1"]
        {
            assert_eq!(parse(bad.as_bytes()), brackets, "{bad}");
        }
        assert_eq!(parse(b"MAIL FROM :<a@b>"), Err(CommandError::Argument));
        assert_eq!(parse(b"RCPT TO:<>"), Err(CommandError::Recipient(AddressError::LocalPart)));
    }

    #[test]
    fn sizes_of_chunks() {
        // BDT-05
        let sized = |size_bytes, last, argument| Ok(Command::Bdat { size_bytes, last, argument });
        for (line, command) in [
            ("BDAT 0", sized(Some(0), false, false)),
            ("bdat 005 last", sized(Some(5), true, false)),
            ("BDAT  7  LAST  ", sized(Some(7), true, false)),
            ("BDAT 7 FIRST", sized(Some(7), false, true)),
            ("BDAT 7 LAST x", sized(Some(7), true, true)),
            ("BDAT 9223372036854775808", sized(Some(1 << 63), false, false)),
            ("BDAT 18446744073709551616 LAST", sized(Some(u64::MAX), true, false)),
            ("BDAT 99999999999999999999", sized(Some(u64::MAX), false, false)),
        ] {
            assert_eq!(parse(line.as_bytes()), command, "{line}");
        }
        let long = format!("BDAT {}", "9".repeat(100));
        for line in ["BDAT", "BDAT ", "BDAT -1", "BDAT +5", "BDAT 0x5", "BDAT 5.0", "BDAT LAST", "BDAT 5LAST", &long] {
            assert!(matches!(parse(line.as_bytes()), Ok(Command::Bdat { size_bytes: None, .. })), "{line}");
        }
    }

    const ALL: Offered = Offered { extended: true, require_tls: true, future_release: true };

    fn read_offered(text: &str, offered: Offered) -> Result<MailParameters<'_>, ParameterError> {
        // What stands behind the path begins with a blank.
        MailParameters::read(Parameters(text.as_bytes()), offered)
    }

    fn read(text: &str) -> Result<MailParameters<'_>, ParameterError> {
        read_offered(text, ALL)
    }

    #[test]
    fn parameters_of_mail() {
        // EXT-01, EXT-03, SES-09
        let both = MailParameters { size_bytes: Some(10), body: Some(Body::EightBitMime), ..MailParameters::default() };
        assert_eq!(read("size=10 Body=8bitMIME"), Ok(both));
        assert_eq!(read("BODY=7BIT").unwrap().body, Some(Body::SevenBit));
        assert_eq!(read("BODY=binaryMIME").unwrap().body, Some(Body::BinaryMime));
        // AUT-07
        assert_eq!(read("AUTH=<>").unwrap().auth, Some(()));
        assert_eq!(read("AUTH=e+3Dmc2@example.com").unwrap().auth, Some(()));
        assert_eq!(read("SIZE=99999999999999999999").unwrap().size_bytes, Some(u64::MAX));
        for malformed in [
            "SIZE",
            "SIZE=",
            "SIZE=-1",
            "SIZE=+1",
            "SIZE=0x1",
            "SIZE=1 SIZE=1",
            "SIZE=100000000000000000000",
            "BODY",
            "BODY=BINARY",
            "BODY=7BIT BODY=7BIT",
            "AUTH",
            "AUTH=+3d",
            "AUTH=a+",
            "AUTH=<> AUTH=<>",
            "=",
            "=x",
            "-A=1",
            "A_B=1",
            "SIZE=1=1",
            "X=\u{fc}",
            "X=\x01",
        ] {
            assert_eq!(read(malformed), Err(ParameterError::Malformed), "{malformed}");
        }
        for unknown in ["NOTIFY=NEVER", "SMTPUTF=8", "X-Y=z"] {
            assert_eq!(read(unknown), Err(ParameterError::Unknown), "{unknown}");
        }
        for offered in ["SIZE=1", "SMTPUTF8", "RET=HDRS", "MT-PRIORITY=0", "BY=1;R", "REQUIRETLS", "HOLDFOR=1"] {
            assert!(read(offered).is_ok(), "{offered}");
            let nothing = Offered { extended: false, ..ALL };
            assert_eq!(read_offered(offered, nothing), Err(ParameterError::Unknown), "{offered}");
        }
        let less = Offered { require_tls: false, future_release: false, ..ALL };
        for missing in ["REQUIRETLS", "HOLDFOR=1", "HOLDUNTIL=2026-11-28T12:00:00Z"] {
            assert_eq!(read_offered(missing, less), Err(ParameterError::Unknown), "{missing}");
        }
    }

    #[test]
    fn parameters_of_extensions() {
        // EXT-05, EXT-11, DSN-10, RTL-01
        let all = read("smtputf8 Ret=hdrs EnvID=a+2Bb requiretls mt-priority=-9 holdfor=60 by=-5;nt").unwrap();
        let by = By { seconds: -5, late: Late::Notify, traced: true };
        assert!(all.utf8 && all.require_tls);
        assert_eq!((all.ret, all.envid), (Some(&b"hdrs"[..]), Some(&b"a+2Bb"[..])));
        assert_eq!((all.priority, all.hold, all.deliver_by), (Some(-9), Some(Hold::For { seconds: 60 }), Some(by)));
        let until = |text: &str| read(text).map(|all| all.hold);
        assert_eq!(until("HOLDUNTIL=1970-01-01T00:00:01Z"), Ok(Some(Hold::Until(UnixMs(1000)))));
        assert_eq!(read("BY=+999999999;R").unwrap().deliver_by.unwrap().seconds, 999_999_999);
        let long = format!("ENVID={}", "a".repeat(101));
        for malformed in [
            "SMTPUTF8=1",
            "SMTPUTF8 SMTPUTF8",
            "REQUIRETLS=1",
            "RET",
            "RET=BODY",
            "RET=FULL RET=FULL",
            "ENVID=+2",
            "ENVID",
            "ENVID=a ENVID=a",
            &long,
            "MT-PRIORITY",
            "MT-PRIORITY=10",
            "MT-PRIORITY=-0",
            "MT-PRIORITY=+1",
            "MT-PRIORITY=01",
            "HOLDFOR=",
            "HOLDFOR=-1",
            "HOLDFOR=1000000000",
            "HOLDFOR=1 HOLDUNTIL=2026-11-28T12:00:00Z",
            "HOLDUNTIL=tomorrow",
            "BY",
            "BY=1",
            "BY=1;X",
            "BY=;R",
            "BY=0;R",
            "BY=-1;R",
            "BY=1;RTT",
            "BY=1000000000;N",
            "BY=1;R BY=1;R",
        ] {
            assert_eq!(read(malformed), Err(ParameterError::Malformed), "{malformed}");
        }
    }

    #[test]
    fn parameters_of_rcpt() {
        // DSN-10, SIZ-03
        let read = |text: &'static str| rcpt_parameters(Parameters(text.as_bytes()), true);
        let (notify, orcpt) = (&b"Failure,DELAY"[..], &b"rfc822;Bob+40x@d"[..]);
        assert_eq!(read(" notify=Failure,DELAY ORCPT=rfc822;Bob+40x@d"), Ok(RecipientParameters { notify, orcpt }));
        assert!(read("ORCPT=utf-8;b\u{fc}b@d").is_ok());
        for malformed in [
            "NOTIFY",
            "NOTIFY=NEVER,SUCCESS",
            "NOTIFY=NEVER NOTIFY=NEVER",
            "ORCPT=bob",
            "ORCPT=rfc822;b\u{fc}b@d",
            "ORCPT=a;b ORCPT=a;b",
        ] {
            assert_eq!(read(malformed), Err(ParameterError::Malformed), "{malformed}");
        }
        assert_eq!(read("RET=FULL"), Err(ParameterError::Unknown));
        assert_eq!(rcpt_parameters(Parameters(b" NOTIFY=NEVER"), false), Err(ParameterError::Unknown));
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_panic(head in "(MAIL FROM:|RCPT TO:|EHLO |)", tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let line = [head.as_bytes(), &tail].concat();
            if let Ok(Command::Mail { parameters, .. }) = parse(&line) {
                let _ = MailParameters::read(parameters, ALL);
                let _ = rcpt_parameters(parameters, true);
            }
        }
    }
}
