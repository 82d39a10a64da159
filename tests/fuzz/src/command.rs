//! Commands: the parser against a twin that takes the line apart with strings and the path twin (SES-08, SES-09, SES-21).

use ringpost::mail::envelope::Body;
use ringpost::smtp::command::{Command, CommandError, MailParameters, ParameterError, Parameters, parse};

use super::address;

const LATER: &[&str] = &["EXPN", "TURN", "SEND", "SOML", "SAML", "ETRN", "ATRN", "BURL"];

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
        ("VRFY", Ok(Command::Verify)) | ("RSET" | "QUIT", Err(CommandError::Argument)) => assert!(!rest.is_empty()),
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
    assert_eq!(MailParameters::read(found, true), twin);
    assert_eq!(found.is_empty(), text.is_empty());
    if text.iter().any(|&b| b != b' ') {
        assert!(MailParameters::read(found, false).is_err(), "HELO knows no parameters");
    }
}

fn one(word: &[u8], known: &mut MailParameters) -> Result<(), ParameterError> {
    let word = str::from_utf8(word).ok().filter(|word| word.is_ascii()).ok_or(ParameterError::Malformed)?;
    let (keyword, value) = word.split_once('=').map_or((word, None), |(keyword, value)| (keyword, Some(value)));
    let keyword_good = !keyword.starts_with('-')
        && !keyword.is_empty()
        && keyword.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let value_good = value.is_none_or(|v| !v.is_empty() && v.chars().all(|c| c.is_ascii_graphic() && c != '='));
    if !keyword_good || !value_good {
        return Err(ParameterError::Malformed);
    }
    match (&*keyword.to_ascii_uppercase(), value.map(str::to_ascii_uppercase).as_deref()) {
        ("SIZE", Some(digits)) if known.size_bytes.is_none() => {
            let number = digits.len() <= 20 && digits.chars().all(|c| c.is_ascii_digit());
            let value: u128 = if number {
                digits.parse().map_err(|_| ParameterError::Malformed)?
            } else {
                return Err(ParameterError::Malformed);
            };
            known.size_bytes = Some(u64::try_from(value).unwrap_or(u64::MAX));
            Ok(())
        }
        ("BODY", Some("7BIT")) if known.body.is_none() => {
            known.body = Some(Body::SevenBit);
            Ok(())
        }
        ("BODY", Some("8BITMIME")) if known.body.is_none() => {
            known.body = Some(Body::EightBitMime);
            Ok(())
        }
        ("BODY", Some("BINARYMIME")) if known.body.is_none() => {
            known.body = Some(Body::BinaryMime);
            Ok(())
        }
        ("AUTH", Some(_)) if known.auth.is_none() => {
            // A plus sign stands before two digits of a number to the base 16 in capitals, and nowhere else.
            let value = value.expect("it was looked at");
            let good = value.split('+').skip(1).all(|part| {
                let two = part.get(..2).unwrap_or_default();
                two.len() == 2 && two.chars().all(|c| c.is_ascii_digit() || ('A'..='F').contains(&c))
            });
            known.auth = good.then_some(());
            if good { Ok(()) } else { Err(ParameterError::Malformed) }
        }
        ("SIZE" | "BODY" | "AUTH", _) => Err(ParameterError::Malformed),
        _ => Err(ParameterError::Unknown),
    }
}
