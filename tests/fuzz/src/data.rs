//! The dot codec: decoder, stuffer and unstuffer against twins that look at one byte at a time, over any split
//! (DAT-01..DAT-08).

use ringpost::base::limits::DATA_LINE_MAX_BYTES;
use ringpost::smtp::data::{DataDecoder, PlainScan, Step, Stuffer, Unstuffer};

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    wire: Vec<u8>,
    body_bytes: u64,
    eight_bit: bool,
    bare_line_end: bool,
    long_line: bool,
    /// Bytes behind the end of data; `None` if it never came.
    left: Option<usize>,
}

/// Any bytes are message data, and any bytes are a text.
pub fn run(data: &[u8]) {
    let pieces = super::pieces(data);
    let single = super::crumbs(data);
    let twin = decode_naively(data);
    for split in [&pieces, &single, &vec![data]] {
        assert_eq!(decode(split), twin);
        let mut stuffer = Stuffer::new();
        let wire: Vec<u8> = split.iter().flat_map(|piece| stuffer.view(piece)).flatten().copied().collect();
        assert_eq!(wire, stuff_naively(data));
        assert_eq!(stuffer.ending().is_empty(), data.is_empty() || data.ends_with(b"\r\n"));
        let mut unstuffer = Unstuffer::new();
        let text: Vec<u8> = split.iter().flat_map(|piece| unstuffer.view(piece)).flatten().copied().collect();
        assert_eq!(text, unstuff_naively(data));
        scan(split, data, &wire);
        round_trip(data, wire, stuffer.ending());
    }
    let mut unstuffer = Unstuffer::new();
    assert_eq!(twin.body_bytes, unstuffer.view(&twin.wire).map(|part| part.len() as u64).sum::<u64>());
}

/// What is known of a plain text is what its wire form shows (BDT-06).
fn scan(pieces: &[&[u8]], text: &[u8], wire: &[u8]) {
    let mut scan = PlainScan::default();
    pieces.iter().for_each(|piece| scan.feed(piece));
    assert_eq!(scan.open_end(), !text.is_empty() && !text.ends_with(b"\r\n"));
    scan.end();
    let ended = [wire, if scan.open_end() { b"\r\n" } else { b"" }, b".\r\n"].concat();
    let twin = decode_naively(&ended);
    assert_eq!((scan.bytes(), scan.eight_bit()), (text.len() as u64, twin.eight_bit));
    assert_eq!(scan.dots(), wire != text);
    // A CR at the end would be made whole by the ending.
    assert_eq!(scan.bare_line_end(), twin.bare_line_end || text.ends_with(b"\r"));
    assert_eq!(scan.long_line(), naive_long_line(text));
}

fn naive_long_line(text: &[u8]) -> bool {
    let mut length = 0;
    (0..text.len()).any(|at| {
        length = if at > 0 && text[..at].ends_with(b"\r\n") { 1 } else { length + 1 };
        length > DATA_LINE_MAX_BYTES
    })
}

/// What is stuffed, ended and read again is what it was, and all of it (DAT-05..07).
fn round_trip(text: &[u8], mut wire: Vec<u8>, ending: &[u8]) {
    let expected = [text, ending].concat();
    wire.extend_from_slice(ending);
    wire.extend_from_slice(b".\r\nbehind");
    let outcome = decode(&[&wire]);
    assert_eq!(outcome.left, Some(6));
    let mut unstuffer = Unstuffer::new();
    let plain: Vec<u8> = unstuffer.view(&outcome.wire).flatten().copied().collect();
    assert_eq!(plain, expected);
}

fn decode(pieces: &[&[u8]]) -> Outcome {
    let mut decoder = DataDecoder::new();
    let mut outcome = Outcome::default();
    'all: for (index, piece) in pieces.iter().enumerate() {
        let mut input = *piece;
        loop {
            match decoder.step(&mut input) {
                Step::More => break assert!(input.is_empty()),
                Step::Piece(bytes) => {
                    assert!(!bytes.is_empty());
                    outcome.wire.extend_from_slice(bytes);
                }
                Step::End => {
                    outcome.left = Some(input.len() + pieces[index + 1..].iter().map(|p| p.len()).sum::<usize>());
                    break 'all;
                }
            }
        }
    }
    assert_eq!(decoder.wire_bytes(), outcome.wire.len() as u64);
    outcome.body_bytes = decoder.body_bytes();
    outcome.eight_bit = decoder.eight_bit();
    outcome.bare_line_end = decoder.bare_line_end();
    outcome.long_line = decoder.long_line();
    outcome
}

fn decode_naively(text: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut line_start, mut length) = (true, 0);
    for at in 0..text.len() {
        if line_start && text[at..].starts_with(b".\r\n") {
            outcome.left = Some(text.len() - at - 3);
            break;
        }
        if line_start && (&text[at..] == b"." || &text[at..] == b".\r") {
            break;
        }
        let byte = text[at];
        outcome.wire.push(byte);
        let stuffed = line_start && byte == b'.';
        outcome.body_bytes += u64::from(!stuffed);
        length += usize::from(!stuffed);
        outcome.long_line |= length > DATA_LINE_MAX_BYTES;
        outcome.eight_bit |= byte > 127;
        line_start = byte == b'\n' && at > 0 && text[at - 1] == b'\r';
        outcome.bare_line_end |= byte == b'\n' && !line_start;
        outcome.bare_line_end |= byte == b'\r' && text.get(at + 1).is_some_and(|&next| next != b'\n');
        if line_start {
            length = 0;
        }
    }
    outcome
}

fn at_line_start(text: &[u8], at: usize) -> bool {
    at == 0 || text[..at].ends_with(b"\r\n")
}

fn unstuff_naively(wire: &[u8]) -> Vec<u8> {
    let kept = wire.iter().enumerate().filter(|&(at, &byte)| byte != b'.' || !at_line_start(wire, at));
    kept.map(|(_, &byte)| byte).collect()
}

fn stuff_naively(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (at, &byte) in text.iter().enumerate() {
        if byte == b'.' && at_line_start(text, at) {
            wire.push(b'.');
        }
        wire.push(byte);
    }
    wire
}
