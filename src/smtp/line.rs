//! Command lines: only CRLF ends one (DAT-02; RFC 5321 2.3.8).
//!
//! A line is taken from the input in place. What is not whole yet stays with the caller, up to
//! a bound that the caller says; longer lines are dropped as they come, so memory does not grow with them
//! (SIZ-04). Pure; any bytes are fine.

use memchr::{memchr, memchr_iter};

/// What the input held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'b> {
    /// A line, without its CRLF.
    Whole(&'b [u8]),
    /// A line with a bare CR or LF in it: to be refused, not run (DAT-02).
    Broken,
    /// A line over the bound, skipped up to and with its CRLF (SIZ-04).
    TooLong,
    /// No CRLF yet. What the input still holds must be given again with more behind it.
    Incomplete,
}

/// Takes line after line.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineReader {
    skipping: Skipping,
}

/// Whether an over-long line is being dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Skipping {
    #[default]
    No,
    /// Yes; the last byte dropped was no CR.
    Yes,
    /// Yes; the last byte dropped was a CR.
    YesAfterCr,
}

impl LineReader {
    /// Takes the next line of at most `bytes_max` with its CRLF, and advances `input` over it.
    pub fn take<'b>(&mut self, input: &mut &'b [u8], bytes_max: usize) -> Line<'b> {
        if self.skipping != Skipping::No {
            return self.skip(input);
        }
        match line_end(input) {
            Some(end) => {
                let line = &input[..end];
                *input = &input[end..];
                judge(line, bytes_max)
            }
            None if input.len() < bytes_max => Line::Incomplete,
            None => {
                self.skipping = Skipping::Yes;
                self.skip(input)
            }
        }
    }

    fn skip<'b>(&mut self, input: &mut &'b [u8]) -> Line<'b> {
        if self.skipping == Skipping::YesAfterCr && input.first() == Some(&b'\n') {
            *input = &input[1..];
        } else if let Some(end) = line_end(input) {
            *input = &input[end..];
        } else {
            if let Some(&last) = input.last() {
                self.skipping = if last == b'\r' { Skipping::YesAfterCr } else { Skipping::Yes };
            }
            *input = &[];
            return Line::Incomplete;
        }
        self.skipping = Skipping::No;
        Line::TooLong
    }
}

/// Where the first line ends, behind its CRLF.
fn line_end(input: &[u8]) -> Option<usize> {
    memchr_iter(b'\n', input).find(|&at| at > 0 && input[at - 1] == b'\r').map(|at| at + 1)
}

/// Judges a line with its CRLF.
fn judge(line: &[u8], bytes_max: usize) -> Line<'_> {
    let text = &line[..line.len() - 2];
    if line.len() > bytes_max {
        Line::TooLong
    } else if memchr(b'\r', text).is_some() || memchr(b'\n', text).is_some() {
        Line::Broken
    } else {
        Line::Whole(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::COMMAND_LINE_MAX_BYTES;
    use proptest::prelude::*;

    /// What a whole input holds, fed in pieces as a connection would.
    fn lines(pieces: &[&[u8]]) -> (Vec<Option<Vec<u8>>>, Vec<u8>) {
        let mut reader = LineReader::default();
        let (mut found, mut carry) = (Vec::new(), Vec::new());
        for piece in pieces {
            carry.extend_from_slice(piece);
            let mut input = carry.as_slice();
            loop {
                match reader.take(&mut input, COMMAND_LINE_MAX_BYTES) {
                    Line::Whole(line) => found.push(Some(line.to_vec())),
                    Line::Broken | Line::TooLong => found.push(None),
                    Line::Incomplete => break,
                }
            }
            carry = input.to_vec();
            assert!(carry.len() < COMMAND_LINE_MAX_BYTES, "SIZ-04: memory is bounded");
        }
        (found, carry)
    }

    #[test]
    fn only_crlf_ends_a_line() {
        // DAT-02, SES-25
        let (found, rest) = lines(&[b"NOOP\r\nA\nB\r\nC\rD\r\n\r\r\nE\r\n\r\nF\n"]);
        let whole = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(found, [whole("NOOP"), None, None, None, whole("E"), whole("")]);
        assert_eq!(rest, b"F\n");
    }

    #[test]
    fn the_bound_is_exact() {
        // SIZ-04
        for (length, ok) in [(COMMAND_LINE_MAX_BYTES, true), (COMMAND_LINE_MAX_BYTES + 1, false), (1 << 20, false)] {
            let mut text = vec![b'x'; length - 2];
            text.extend_from_slice(b"\r\nQUIT\r\n");
            for size in [text.len(), 1000, 1] {
                if size == 1 && length > 1 << 16 {
                    continue;
                }
                let (found, rest) = lines(&text.chunks(size).collect::<Vec<_>>());
                assert_eq!(found.len(), 2, "{length} in {size}");
                assert_eq!(found[0].is_some(), ok, "{length} in {size}");
                assert_eq!(found[1].as_deref(), Some(b"QUIT".as_slice()));
                assert!(rest.is_empty());
            }
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(
            parts in proptest::collection::vec(prop_oneof![
                Just(b"\r".to_vec()), Just(b"\n".to_vec()), Just(b"\r\n".to_vec()), Just(b"a".to_vec()),
                Just(vec![b'x'; COMMAND_LINE_MAX_BYTES - 2]), Just(vec![b'y'; COMMAND_LINE_MAX_BYTES])], 0..20),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let text = parts.concat();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(lines(&pieces).0, lines(&[&text]).0);
        }
    }
}
