//! Commands: the parser against a twin that takes the line apart with strings and the path twin (SES-08, SES-09, SES-21).

use ringpost::mail::date::parse_internet;
use ringpost::mail::envelope::Body;
use ringpost::mail::parameters::{Late, Notify, is_orcpt, is_xtext};
use ringpost::smtp::command::{
    By, Command, CommandError, Hold, MailParameters, Offered, ParameterError, Parameters, parse, rcpt_parameters,
};

use super::address;

const LATER: &[&str] = &["TURN", "SEND", "SOML", "SAML", "ATRN", "BURL"];

/// Any bytes are a line without its CRLF.
pub fn run(data: &[u8]) {
    if data.len() > 1000 {
        return;
    }
    let found = parse(data);
    let padded = [data, b" \t "].concat();
    assert_eq!(format!("{:?}", parse(&padded)), format!("{found:?}"), "blanks at the end count for nothing");
    let blanks = data.iter().rev().take_while(|b| b" \t".contains(b)).count();
    let line = &data[..data.len() - blanks];
    let mut halves = line.splitn(2, |&b| b == b' ');
    let verb = String::from_utf8_lossy(halves.next().unwrap_or_default()).to_ascii_uppercase();
    let argument = halves.next();
    let rest = argument.unwrap_or_default();
    match (&*verb, found) {
        ("DATA", Ok(Command::Data { argument })) | ("STARTTLS", Ok(Command::StartTls { argument })) => {
            assert_eq!(argument, !rest.is_empty());
        }
        ("BDAT", Ok(Command::Bdat { size_bytes, last, argument })) => {
            let text = String::from_utf8_lossy(rest).to_ascii_uppercase();
            let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            let digits = words.first().filter(|word| word.len() <= 20 && word.chars().all(|c| c.is_ascii_digit()));
            let size = digits.map(|word| u64::try_from(word.parse::<u128>().unwrap()).unwrap_or(u64::MAX));
            assert_eq!((size_bytes, last), (size, words.get(1) == Some(&"LAST")));
            assert_eq!(argument, words.len() > 2 || (words.len() == 2 && !last));
        }
        ("AUTH", found) => {
            let words: Vec<&[u8]> = rest.split(|&b| b == b' ').filter(|word| !word.is_empty()).collect();
            let twin = match words[..] {
                [mechanism] => Ok(Command::Auth { mechanism, initial: None }),
                [mechanism, initial] => Ok(Command::Auth { mechanism, initial: Some(initial) }),
                _ => Err(CommandError::Argument),
            };
            assert_eq!(found, twin);
        }
        ("NOOP", Ok(Command::Noop)) | ("HELP", Ok(Command::Help)) => {}
        ("RSET" | "QUIT", Err(CommandError::Argument)) => assert!(!rest.is_empty()),
        ("VRFY", Ok(Command::Verify { name })) => assert!(!rest.is_empty() && name == rest),
        ("EXPN", Ok(Command::Expand { name: given })) | ("ETRN", Ok(Command::Etrn { node: given })) => {
            assert_eq!(given, rest);
        }
        ("VRFY", Err(CommandError::Argument)) | ("RSET", Ok(Command::Reset)) | ("QUIT", Ok(Command::Quit)) => {
            assert!(rest.is_empty());
        }
        ("EHLO" | "HELO", Ok(Command::Hello { extended, name })) => {
            assert_eq!((extended, name), (verb == "EHLO", rest));
            assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic));
        }
        ("EHLO" | "HELO", Err(CommandError::Argument)) => {}
        ("MAIL", found) => path(rest, b"FROM:", address::reverse, found),
        ("RCPT", found) => path(rest, b"TO:", address::forward, found),
        (verb, Err(CommandError::NotImplemented)) => assert!(LATER.contains(&verb)),
        (verb, Err(CommandError::Unknown)) => assert!(!LATER.contains(&verb)),
        (verb, found) => panic!("{verb}: {found:?}"),
    }
}

type PathTwin = fn(&[u8]) -> Option<(&[u8], &[u8])>;

fn path(rest: &[u8], keyword: &[u8], twin: PathTwin, found: Result<Command<'_>, CommandError>) {
    let behind = rest.get(..keyword.len()).filter(|head| head.eq_ignore_ascii_case(keyword));
    let Some(text) = behind.map(|_| &rest[keyword.len()..]) else {
        return assert_eq!(found, Err(CommandError::Argument));
    };
    let good = twin(text).filter(|(_, rest)| rest.is_empty() || rest[0] == b' ');
    match (found, good) {
        (
            Ok(
                Command::Mail { sender: path, parameters: found }
                | Command::Rcpt { recipient: path, parameters: found },
            ),
            Some((mailbox, rest)),
        ) => {
            assert_eq!(path.mailbox, mailbox);
            parameters(found, rest);
        }
        (Err(CommandError::Sender(_) | CommandError::Recipient(_)), None) => {}
        (found, good) => panic!("{found:?}, but {good:?}"),
    }
}

/// What stands behind a path, a twin of `MailParameters::read`.
fn parameters(found: Parameters<'_>, text: &[u8]) {
    let mut twin = Ok(MailParameters::default());
    for word in text.split(|&b| b == b' ').filter(|word| !word.is_empty()) {
        let Ok(known) = &mut twin else { break };
        match one(word, known) {
            Ok(()) => {}
            Err(error) => twin = Err(error),
        }
    }
    assert_eq!(MailParameters::read(found, ALL), twin);
    if let Ok(said) = rcpt_parameters(found, true) {
        assert!(said.notify.is_empty() || Notify::parse(said.notify).is_some());
        assert!(said.orcpt.is_empty() || is_orcpt(said.orcpt));
    }
    assert_eq!(found.is_empty(), text.is_empty());
    if text.iter().any(|&b| b != b' ') {
        let nothing = Offered { extended: false, ..ALL };
        assert!(MailParameters::read(found, nothing).is_err(), "HELO knows no parameters");
        assert!(rcpt_parameters(found, false).is_err(), "HELO knows no parameters");
    }
}

const ALL: Offered = Offered { extended: true, require_tls: true, future_release: true };

fn one<'a>(word: &'a [u8], known: &mut MailParameters<'a>) -> Result<(), ParameterError> {
    let (key, value) = match word.iter().position(|&b| b == b'=') {
        Some(equals) => (&word[..equals], Some(&word[equals + 1..])),
        None => (word, None),
    };
    let keyword = str::from_utf8(key).ok().map(str::to_ascii_uppercase).ok_or(ParameterError::Malformed)?;
    let keyword_good = !keyword.starts_with('-')
        && !keyword.is_empty()
        && keyword.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let printable = |v: &[u8]| v.iter().all(|b| b.is_ascii_graphic() && *b != b'=' || (keyword == "ORCPT" && *b > 127));
    if !keyword_good || value.is_some_and(|v| v.is_empty() || !printable(v)) {
        return Err(ParameterError::Malformed);
    }
    let upper = value.map(|v| String::from_utf8_lossy(v).to_ascii_uppercase());
    let digits = |text: &str, most: usize| {
        let good = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        good.then(|| u64::try_from(text.parse::<u128>().expect("digits")).unwrap_or(u64::MAX))
    };
    let done = match (&*keyword, upper.as_deref()) {
        ("SIZE", Some(text)) => fill(&mut known.size_bytes, digits(text, 20)),
        ("BODY", Some("7BIT")) => fill(&mut known.body, Some(Body::SevenBit)),
        ("BODY", Some("8BITMIME")) => fill(&mut known.body, Some(Body::EightBitMime)),
        ("BODY", Some("BINARYMIME")) => fill(&mut known.body, Some(Body::BinaryMime)),
        ("SMTPUTF8", None) => !std::mem::replace(&mut known.utf8, true),
        ("REQUIRETLS", None) => !std::mem::replace(&mut known.require_tls, true),
        ("RET", Some("FULL" | "HDRS")) => fill(&mut known.ret, value),
        ("ENVID", Some(_)) => fill(&mut known.envid, value.filter(|v| v.len() <= 100 && is_xtext(v))),
        ("MT-PRIORITY", Some(text)) => {
            let number = text.parse::<i8>().ok().filter(|n| (-9..=9).contains(n) && n.to_string() == text);
            fill(&mut known.priority, number)
        }
        ("HOLDFOR", Some(text)) => {
            let seconds = digits(text, 9).map(|seconds| Hold::For { seconds: seconds as u32 });
            fill(&mut known.hold, seconds)
        }
        ("HOLDUNTIL", Some(_)) => fill(&mut known.hold, value.and_then(parse_internet).map(Hold::Until)),
        ("BY", Some(text)) => fill(&mut known.deliver_by, by(text, digits)),
        ("AUTH", Some(_)) => fill(&mut known.auth, value.filter(|v| is_xtext(v)).map(|_| ())),
        ("SIZE" | "BODY" | "SMTPUTF8" | "REQUIRETLS" | "RET" | "ENVID" | "MT-PRIORITY" | "HOLDFOR", _) => false,
        ("HOLDUNTIL" | "BY" | "AUTH", _) => false,
        _ => return Err(ParameterError::Unknown),
    };
    if done { Ok(()) } else { Err(ParameterError::Malformed) }
}

fn fill<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let good = place.is_none() && value.is_some();
    if good {
        *place = value;
    }
    good
}

fn by(text: &str, digits: impl Fn(&str, usize) -> Option<u64>) -> Option<By> {
    let (time, mode) = text.split_once(';')?;
    let (negative, number) = match time.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, time.strip_prefix('+').unwrap_or(time)),
    };
    let seconds = digits(number, 9)? as i32 * if negative { -1 } else { 1 };
    let (late, traced) = match mode {
        "R" | "RT" => (Late::Return, mode.len() == 2),
        "N" | "NT" => (Late::Notify, mode.len() == 2),
        _ => return None,
    };
    (late == Late::Notify || seconds > 0).then_some(By { seconds, late, traced })
}
