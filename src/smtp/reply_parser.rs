//! Reads what a next hop answers: lines of `250-text` or `250 text`, cut anywhere by the network.
//!
//! Pure, shard-local; holds at most one unfinished line of `limits::REPLY_LINE_MAX_BYTES`. Nothing a peer sends
//! panics; what is no reply is an error, after which the stream is out of step and the session must end (RTE-21).
//! Lenient where it does no harm: a line may end in a bare LF, a reply may lack its text (EXT-10).

use memchr::memchr;

use crate::base::limits;

/// One line of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLine<'a> {
    /// The code, 200 to 599.
    pub code: u16,
    /// What follows code and separator, as it came, without the line end.
    pub text: &'a [u8],
    /// False for a line that only continues the reply.
    pub first: bool,
    /// True for the line that ends the reply.
    pub last: bool,
}

/// Why the stream is no longer a stream of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadReply {
    /// No three digits from 200 to 599, or neither blank, dash nor line end behind them.
    Garbage,
    /// The lines of one reply carry different codes (RFC 5321 4.2.1).
    MixedCodes,
    /// Longer than `limits::REPLY_LINE_MAX_BYTES`.
    LineTooLong,
    /// More lines than `limits::REPLY_LINES_MAX`.
    TooManyLines,
}

/// Cuts a byte stream into reply lines.
#[derive(Default, Debug)]
pub struct ReplyParser {
    /// An unfinished line, from a receive before this one.
    partial: Vec<u8>,
    /// The partial line was given out and is to be forgotten.
    partial_done: bool,
    /// Code and lines so far of the reply being read; no lines: between replies.
    code: u16,
    lines: usize,
}

impl ReplyParser {
    /// At the start of a stream.
    pub fn new() -> ReplyParser {
        ReplyParser::default()
    }

    /// Takes one line from the front of `input`. `None`: all of `input` was taken and its line is not finished.
    pub fn next<'l, 'b: 'l>(&'l mut self, input: &mut &'b [u8]) -> Result<Option<ReplyLine<'l>>, BadReply> {
        if self.partial_done {
            self.partial.clear();
            self.partial_done = false;
        }
        let end = memchr(b'\n', input);
        let taken = end.map_or(input.len(), |at| at + 1);
        if self.partial.len() + taken > limits::REPLY_LINE_MAX_BYTES {
            return Err(BadReply::LineTooLong);
        }
        let (head, rest) = input.split_at(taken);
        *input = rest;
        if end.is_none() {
            self.partial.extend_from_slice(head);
            return Ok(None);
        }
        let line: &'l [u8] = if self.partial.is_empty() {
            head
        } else {
            self.partial.extend_from_slice(head);
            self.partial_done = true;
            &self.partial[..]
        };
        let (code, text, last) = split_line(line).ok_or(BadReply::Garbage)?;
        let first = self.lines == 0;
        if !first && code != self.code {
            return Err(BadReply::MixedCodes);
        }
        self.code = code;
        self.lines += 1;
        if self.lines > limits::REPLY_LINES_MAX {
            return Err(BadReply::TooManyLines);
        }
        if last {
            self.lines = 0;
        }
        Ok(Some(ReplyLine { code, text, first, last }))
    }

    /// Bytes held for an unfinished line.
    pub fn held_bytes(&self) -> usize {
        self.partial.len()
    }
}

/// Code, text and whether the line is the reply's last, of a line with its LF.
fn split_line(line: &[u8]) -> Option<(u16, &[u8], bool)> {
    let mut line = line.strip_suffix(b"\n")?;
    while let [head @ .., b'\r'] = line {
        line = head;
    }
    let [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = line else {
        return None;
    };
    let code = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    match rest {
        [] => Some((code, rest, true)),
        [b' ' | b'\t', text @ ..] => Some((code, text, true)),
        [b'-', text @ ..] => Some((code, text, false)),
        _ => None,
    }
}

/// Adds a reply line's text to `text`: one blank between lines, controls and 8-bit octets as `?`, the enhanced code
/// of the first line not repeated, never more than `limits::VERDICT_TEXT_MAX_BYTES` in all (EXT-08, DSN-13).
pub fn gather_text(text: &mut Vec<u8>, line: &ReplyLine<'_>) {
    let mut more = line.text;
    if line.first {
        text.clear();
    } else if let Some((code, length)) = enhanced_code(more)
        && enhanced_code(text).is_some_and(|(first, _)| first == code)
    {
        more = more[length..].trim_ascii_start();
    }
    if !text.is_empty() && !more.is_empty() && text.len() < limits::VERDICT_TEXT_MAX_BYTES {
        text.push(b' ');
    }
    let room = limits::VERDICT_TEXT_MAX_BYTES - text.len();
    text.extend(more.iter().take(room).map(|&byte| match byte {
        b'\t' => b' ',
        b' '..=b'~' => byte,
        _ => b'?',
    }));
}

/// An enhanced status code: class, subject, detail (RFC 3463).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u8,
    /// 0 to 999.
    pub subject: u16,
    /// 0 to 999.
    pub detail: u16,
}

/// The enhanced code that a reply text starts with, and its length in bytes.
pub fn enhanced_code(text: &[u8]) -> Option<(EnhancedCode, usize)> {
    let (&class @ (b'2' | b'4' | b'5'), rest) = text.split_first()? else {
        return None;
    };
    let (subject, rest) = dotted_number(rest)?;
    let (detail, rest) = dotted_number(rest)?;
    match rest.first() {
        None | Some(b' ' | b'\t') => {
            Some((EnhancedCode { class: class - b'0', subject, detail }, text.len() - rest.len()))
        }
        _ => None,
    }
}

/// `.` and one to three digits, and what follows.
fn dotted_number(text: &[u8]) -> Option<(u16, &[u8])> {
    let text = text.strip_prefix(b".")?;
    let digits = text.iter().take(4).take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || digits > 3 {
        return None;
    }
    let value = text[..digits].iter().fold(0, |n, b| n * 10 + u16::from(b - b'0'));
    Some((value, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = Result<Vec<(u16, Vec<u8>, bool, bool)>, BadReply>;

    fn parse(pieces: &[&[u8]]) -> Owned {
        let mut parser = ReplyParser::new();
        let mut lines = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(line) = parser.next(&mut input)? {
                lines.push((line.code, line.text.to_vec(), line.first, line.last));
            }
            assert!(input.is_empty());
        }
        Ok(lines)
    }

    #[test]
    fn reads_plain_multiline_and_textless_replies() {
        let lines = parse(&[b"220 a b\r\n250-x\r\n250-\r\n250\r\n354 \r\n250\tq\n"]).unwrap();
        let codes: Vec<_> = lines.iter().map(|l| (l.0, l.2, l.3)).collect();
        assert_eq!(
            codes,
            [
                (220, true, true),
                (250, true, false),
                (250, false, false),
                (250, false, true),
                (354, true, true),
                (250, true, true)
            ]
        );
    }

    /// RTE-21.
    #[test]
    fn refuses_what_is_no_reply() {
        for (bad, why) in [
            (&b"hello\r\n"[..], BadReply::Garbage),
            (b"25\r\n", BadReply::Garbage),
            (b"199 x\r\n", BadReply::Garbage),
            (b"650 x\r\n", BadReply::Garbage),
            (b"250OK\r\n", BadReply::Garbage),
            (b"\r\n", BadReply::Garbage),
            (b"250-a\r\n251 b\r\n", BadReply::MixedCodes),
        ] {
            assert_eq!(parse(&[bad]), Err(why), "{}", bad.escape_ascii());
        }
        assert_eq!(parse(&[&[b'2'; limits::REPLY_LINE_MAX_BYTES + 1]]), Err(BadReply::LineTooLong));
        let endless = b"250-x\r\n".repeat(limits::REPLY_LINES_MAX + 1);
        assert_eq!(parse(&[&endless]), Err(BadReply::TooManyLines));
    }

    #[test]
    fn text_is_cleaned_bounded_and_keeps_one_enhanced_code() {
        let mut text = Vec::new();
        let line = |text, first| ReplyLine { code: 550, text, first, last: true };
        gather_text(&mut text, &line(b"5.7.1 no\x01\xff", true));
        gather_text(&mut text, &line(b"5.7.1 really\tnot", false));
        assert_eq!(text, b"5.7.1 no?? really not");
        for _ in 0..limits::VERDICT_TEXT_MAX_BYTES {
            gather_text(&mut text, &line(b"more", false));
        }
        assert_eq!(text.len(), limits::VERDICT_TEXT_MAX_BYTES);
    }

    #[test]
    fn enhanced_codes() {
        let code = |class, subject, detail| EnhancedCode { class, subject, detail };
        assert_eq!(enhanced_code(b"5.7.26 x"), Some((code(5, 7, 26), 6)));
        assert_eq!(enhanced_code(b"4.2.2"), Some((code(4, 2, 2), 5)));
        for none in [&b""[..], b"5", b"5.", b"5.1", b"5.1.", b"3.1.1 x", b"5.1.1x", b"5.1.1111 x", b"5..1 x"] {
            assert_eq!(enhanced_code(none), None);
        }
    }

    proptest! {
        /// Any bytes, any split: the same lines or the same error, and bounded memory.
        #[test]
        fn splits_do_not_matter(
            parts in prop::collection::vec(prop_oneof![
                Just(b"250-".to_vec()), Just(b"250 ok\r\n".to_vec()), Just(b"\r\n".to_vec()), Just(b"550 5.1.1 no\n".to_vec()),
                prop::collection::vec(any::<u8>(), 0..20)], 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let whole: Vec<u8> = parts.concat();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(whole.len() + 1)).collect();
            at.extend([0, whole.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|w| &whole[w[0]..w[1]]).collect();
            prop_assert_eq!(parse(&[&whole]), parse(&pieces));
        }
    }
}
