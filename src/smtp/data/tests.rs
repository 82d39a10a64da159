//! The codec against twins that look at one byte at a time, over every split.

use super::*;
use proptest::prelude::*;

/// What one message's data came to.
#[derive(Debug, PartialEq, Eq, Default, Clone)]
struct Outcome {
    wire: Vec<u8>,
    body_bytes: u64,
    eight_bit: bool,
    bare_line_end: bool,
    long_line: bool,
    /// Bytes behind the end of data; `None` if it never came.
    left: Option<usize>,
}

/// The decoder, fed piece by piece.
fn decode(pieces: &[&[u8]]) -> Outcome {
    let mut decoder = DataDecoder::new();
    let mut outcome = Outcome::default();
    for (index, piece) in pieces.iter().enumerate() {
        let mut input = *piece;
        loop {
            match decoder.step(&mut input) {
                Step::More => break assert!(input.is_empty()),
                Step::Piece(bytes) => outcome.wire.extend_from_slice(bytes),
                Step::End => {
                    outcome.left = Some(input.len() + pieces[index + 1..].iter().map(|p| p.len()).sum::<usize>());
                    break;
                }
            }
        }
        if outcome.left.is_some() {
            break;
        }
    }
    assert_eq!(decoder.wire_bytes(), outcome.wire.len() as u64);
    outcome.body_bytes = decoder.body_bytes();
    outcome.eight_bit = decoder.eight_bit();
    outcome.bare_line_end = decoder.bare_line_end();
    outcome.long_line = decoder.long_line();
    outcome
}

/// The naive twin: the whole text at once, byte by byte, without the bytes a decoder would hold back at the end.
fn decode_naively(text: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut line_start, mut length, mut at) = (true, 0, 0);
    while at < text.len() {
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
        at += 1;
    }
    outcome
}

/// Lengths of lines, ended by CRLF alone, their CRLF counted.
fn naive_lines(text: &[u8]) -> Vec<usize> {
    let mut lines = vec![0];
    for at in 0..text.len() {
        if at > 0 && text[..at].ends_with(b"\r\n") {
            lines.push(0);
        }
        *lines.last_mut().unwrap() += 1;
    }
    lines
}

fn unstuff_naively(wire: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for (at, &byte) in wire.iter().enumerate() {
        if !(byte == b'.' && (at == 0 || wire[..at].ends_with(b"\r\n"))) {
            text.push(byte);
        }
    }
    text
}

fn stuff_naively(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (at, &byte) in text.iter().enumerate() {
        if byte == b'.' && (at == 0 || text[..at].ends_with(b"\r\n")) {
            wire.push(b'.');
        }
        wire.push(byte);
    }
    wire
}

fn unstuffed(pieces: &[&[u8]]) -> Vec<u8> {
    let mut unstuffer = Unstuffer::new();
    pieces.iter().flat_map(|piece| unstuffer.view(piece)).flatten().copied().collect()
}

fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
    let mut stuffer = Stuffer::new();
    pieces.iter().flat_map(|piece| stuffer.view(piece)).flatten().copied().collect()
}

/// Bytes that make trouble, and runs that come near the bound of a line.
fn hostile_text() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => Just(b"\r\n".to_vec()),
        3 => Just(b".".to_vec()),
        2 => Just(b"\r".to_vec()),
        2 => Just(b"\n".to_vec()),
        2 => Just(b"a".to_vec()),
        2 => Just(b"\r\n.\r\n".to_vec()),
        1 => Just(b"\0".to_vec()),
        1 => Just(b"\xfc".to_vec()),
        1 => (990..1003_usize).prop_map(|length| vec![b'x'; length]),
    ];
    proptest::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
}

/// Cuts anywhere, empty pieces too.
fn cut<'t>(text: &'t [u8], cuts: &[proptest::sample::Index]) -> Vec<&'t [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    at.extend([0, text.len()]);
    at.sort_unstable();
    at.windows(2).map(|w| &text[w[0]..w[1]]).collect()
}

#[test]
fn only_crlf_dot_crlf_ends_data() {
    // DAT-01: the list of the row, each inside a line and followed by the true end.
    for fake in [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r.\n",
        "\n.\r",
        "\r.\r\n",
        "\r\n.\r",
        "\r\r\n.\r\r\n",
        "\r\n.\r\r\n",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
    ] {
        let text = format!("a{fake}b\r\n.\r\nQUIT\r\n");
        let outcome = decode(&[text.as_bytes()]);
        assert_eq!(outcome.left, Some(6), "{fake:?}");
        assert_eq!(outcome.wire, text.as_bytes()[..text.len() - 9], "{fake:?}");
        let bare = !matches!(fake, "\r\n\0.\r\n" | "\r\n.\0\r\n");
        assert_eq!(outcome.bare_line_end, bare, "DAT-03 {fake:?}");
    }
}

#[test]
fn every_two_cuts_of_a_hostile_message_give_the_same() {
    // PIP-02, DAT-15
    let text: &[u8] = b".a\r\n..\r\n.\r.\r\n.\xfc\r\r\n\n.\r\n\r\n...\r\n.\0\r\n\r\n.\r\nMAIL";
    let whole = decode_naively(text);
    assert_eq!(whole.left, Some(4));
    for first in 0..=text.len() {
        for second in first..=text.len() {
            assert_eq!(decode(&[&text[..first], &text[first..second], &text[second..]]), whole, "{first} {second}");
        }
    }
    assert_eq!(decode(&text.chunks(1).collect::<Vec<_>>()), whole);
}

#[test]
fn an_empty_message_ends_at_once() {
    let outcome = decode(&[b".\r\n"]);
    assert_eq!((outcome.left, outcome.wire.len(), outcome.body_bytes), (Some(0), 0, 0));
}

#[test]
fn a_line_of_1000_octets_passes_without_its_doubled_dot() {
    // SIZ-06
    for (octets, dot, long) in [(998, "", false), (999, "", true), (998, ".", false), (999, ".", true)] {
        let text = format!("a\r\n{dot}{}\r\nb\r\n.\r\n", "x".repeat(octets));
        for size in [text.len(), 700, 1] {
            let outcome = decode(&text.as_bytes().chunks(size).collect::<Vec<_>>());
            assert_eq!(outcome.long_line, long, "{octets} {dot:?} in {size}");
        }
    }
}

#[test]
fn a_text_without_line_end_gets_one() {
    // DAT-07
    for (text, ending) in [("", ""), ("a", "\r\n"), ("a\r\n", ""), ("a\n", "\r\n"), ("a\r", "\r\n")] {
        let mut stuffer = Stuffer::new();
        stuffer.view(text.as_bytes()).for_each(drop);
        assert_eq!(stuffer.ending(), ending.as_bytes(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn any_split_decodes_as_the_twin_does(
        text in hostile_text(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let twin = decode_naively(&text);
        prop_assert_eq!(decode(&cut(&text, &cuts)), twin.clone());
        prop_assert_eq!(decode(&text.chunks(1).collect::<Vec<_>>()), twin);
    }

    #[test]
    fn views_equal_their_twins_over_any_split(
        text in hostile_text(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        // DAT-05, DAT-06
        let pieces = cut(&text, &cuts);
        prop_assert_eq!(unstuffed(&pieces), unstuff_naively(&text));
        let wire = stuffed(&pieces);
        prop_assert_eq!(&wire, &stuff_naively(&text));
        prop_assert_eq!(unstuffed(&cut(&wire, &cuts)), text.clone());
        prop_assert_eq!(stuff(&text).flatten().copied().collect::<Vec<u8>>(), wire.clone());
        prop_assert_eq!(unstuff(&wire).flatten().copied().collect::<Vec<u8>>(), text);
    }

    #[test]
    fn a_plain_text_is_judged_as_its_wire_form_is(
        text in hostile_text(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        // BDT-06, DAT-03, DAT-07
        let wire = [stuff_naively(&text), b"\r\n.\r\n".to_vec()].concat();
        let twin = decode_naively(&wire);
        for pieces in [cut(&text, &cuts), text.chunks(1).collect(), vec![&text[..]]] {
            let mut scan = PlainScan::default();
            pieces.iter().for_each(|piece| scan.feed(piece));
            prop_assert_eq!(scan.open_end(), !text.is_empty() && !text.ends_with(b"\r\n"));
            scan.end();
            prop_assert_eq!((scan.bytes(), scan.eight_bit()), (text.len() as u64, twin.eight_bit));
            prop_assert_eq!(scan.dots(), stuff_naively(&text) != text);
            prop_assert_eq!(scan.bare_line_end(), twin.bare_line_end || text.ends_with(b"\r"));
            let lines = naive_lines(&text);
            prop_assert_eq!(scan.long_line(), lines.iter().any(|length| *length > DATA_LINE_MAX_BYTES));
            for wanted in [Form::Wire, Form::Plain] {
                let mut view = View::to(wanted);
                let seen: Vec<u8> = pieces.iter().flat_map(|piece| view.view(piece)).flatten().copied().collect();
                prop_assert_eq!(seen, if wanted == Form::Wire { stuff_naively(&text) } else { unstuff_naively(&text) });
            }
        }
    }

    #[test]
    fn the_plain_length_is_that_of_the_plain_text(text in hostile_text()) {
        // DAT-08, EXT-01: what the decoder counts is what the view shows.
        let outcome = decode(&[&text]);
        prop_assert_eq!(outcome.body_bytes, unstuffed(&[&outcome.wire]).len() as u64);
    }
}

/// Not a test of right or wrong: prints what a 10 KiB body of 75-column lines costs
/// (`cargo test --release -- --ignored --nocapture speed_of`).
#[test]
#[ignore = "a measurement"]
fn speed_of_the_decoder() {
    let mut text = Vec::new();
    while text.len() < 10 << 10 {
        text.extend_from_slice(&[b'x'; 75]);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(END_OF_DATA);
    let rounds = 100_000;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        let mut decoder = DataDecoder::new();
        let mut input = std::hint::black_box(text.as_slice());
        while !matches!(decoder.step(&mut input), Step::End | Step::More) {}
        assert!(!decoder.bare_line_end() && decoder.body_bytes() > 0);
    }
    let nanoseconds = start.elapsed().as_nanos() / rounds;
    println!("{nanoseconds} ns for {} bytes", text.len());
}
