//! Command lines: any split gives what one look at the whole text gives (DAT-02, SIZ-04).

use ringpost::base::limits::COMMAND_LINE_MAX_BYTES;
use ringpost::smtp::line::{Line, LineReader};

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Whole(Vec<u8>),
    Broken,
    TooLong,
}

/// Any bytes are a stream of lines.
pub fn run(data: &[u8]) {
    let twin = naive(data);
    assert_eq!(read(&[data]), twin);
    assert_eq!(read(&super::pieces(data)), twin);
    assert_eq!(read(&super::crumbs(data)), twin);
}

fn read(pieces: &[&[u8]]) -> (Vec<Seen>, Vec<u8>) {
    let mut reader = LineReader::default();
    let (mut seen, mut carry) = (Vec::new(), Vec::new());
    for piece in pieces {
        carry.extend_from_slice(piece);
        let mut input = carry.as_slice();
        loop {
            seen.push(match reader.take(&mut input, COMMAND_LINE_MAX_BYTES) {
                Line::Whole(line) => Seen::Whole(line.to_vec()),
                Line::Broken => Seen::Broken,
                Line::TooLong => Seen::TooLong,
                Line::Incomplete => break,
            });
        }
        carry = input.to_vec();
        assert!(carry.len() < COMMAND_LINE_MAX_BYTES);
    }
    (seen, carry)
}

fn naive(mut text: &[u8]) -> (Vec<Seen>, Vec<u8>) {
    let mut seen = Vec::new();
    while let Some(end) = text.windows(2).position(|pair| pair == b"\r\n") {
        let line = &text[..end];
        text = &text[end + 2..];
        seen.push(if end + 2 > COMMAND_LINE_MAX_BYTES {
            Seen::TooLong
        } else if line.iter().any(|b| b"\r\n".contains(b)) {
            Seen::Broken
        } else {
            Seen::Whole(line.to_vec())
        });
    }
    // Of a line that is too long already nothing is kept.
    let kept = if text.len() < COMMAND_LINE_MAX_BYTES { text } else { b"" };
    (seen, kept.to_vec())
}
