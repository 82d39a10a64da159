//! Replies of next hops: any split against a twin that has the whole text (EXT-10, RTE-21).

use ringpost::base::limits;
use ringpost::smtp::reply_parser::{BadReply, ReplyParser, enhanced_code, gather_text};

type Seen = (u16, Vec<u8>, bool, bool);

/// Any bytes are what a next hop says.
pub fn run(data: &[u8]) {
    let twin = naive(data);
    assert_eq!(read(&[data]), twin);
    assert_eq!(read(&super::pieces(data)), twin);
    assert_eq!(read(&super::crumbs(data)), twin);
    if let Some((code, length)) = enhanced_code(data) {
        let written = format!("{}.{}.{}", code.class, code.subject, code.detail);
        let text = str::from_utf8(&data[..length]).expect("digits and dots");
        let trimmed: Vec<u16> = text.split('.').map(|number| number.parse().expect("a number")).collect();
        assert_eq!(trimmed, [u16::from(code.class), code.subject, code.detail], "{written}");
        assert!(matches!(data.get(length), None | Some(b' ' | b'\t')));
    }
}

/// All lines up to the first bad one, and what is bad about it.
fn read(pieces: &[&[u8]]) -> (Vec<Seen>, Option<BadReply>) {
    let mut parser = ReplyParser::new();
    let (mut seen, mut text) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut input = *piece;
        loop {
            match parser.next(&mut input) {
                Ok(Some(line)) => {
                    gather_text(&mut text, &line);
                    assert!(text.len() <= limits::VERDICT_TEXT_MAX_BYTES);
                    assert!(text.iter().all(|b| (b' '..=b'~').contains(b)));
                    seen.push((line.code, line.text.to_vec(), line.first, line.last));
                }
                Ok(None) => break assert!(input.is_empty()),
                Err(bad) => return (seen, Some(bad)),
            }
            assert!(parser.held_bytes() <= limits::REPLY_LINE_MAX_BYTES);
        }
    }
    (seen, None)
}

fn naive(data: &[u8]) -> (Vec<Seen>, Option<BadReply>) {
    let mut seen: Vec<Seen> = Vec::new();
    let mut lines = 0;
    for line in data.split_inclusive(|&b| b == b'\n') {
        if line.len() > limits::REPLY_LINE_MAX_BYTES {
            return (seen, Some(BadReply::LineTooLong));
        }
        if !line.ends_with(b"\n") {
            break;
        }
        let end = line.iter().rposition(|b| !b"\r\n".contains(b)).map_or(0, |at| at + 1);
        // Only one LF ends a line, but any number of CRs before it.
        let line = &line[..end];
        let digits = line.get(..3).filter(|d| d.iter().all(u8::is_ascii_digit));
        let code: u16 = digits.map_or(0, |d| str::from_utf8(d).expect("digits").parse().expect("digits"));
        if !(200..600).contains(&code) || !matches!(line.get(3), None | Some(b' ' | b'\t' | b'-')) {
            return (seen, Some(BadReply::Garbage));
        }
        let first = lines == 0;
        if !first && seen.last().is_some_and(|last| last.0 != code) {
            return (seen, Some(BadReply::MixedCodes));
        }
        lines += 1;
        if lines > limits::REPLY_LINES_MAX {
            return (seen, Some(BadReply::TooManyLines));
        }
        let last = line.get(3) != Some(&b'-');
        seen.push((code, line.get(4..).unwrap_or_default().to_vec(), first, last));
        if last {
            lines = 0;
        }
    }
    (seen, None)
}
