//! Reading a message body as it comes: finds the marker field, carries the checksum over everything behind it, finds the
//! end. Keeps nothing but a header line that was split, and the addresses a bounce names.
//!
//! Pure; one per connection. The end is CRLF "." CRLF and nothing else (RFC 5321 4.1.1.4); dots put in are taken out
//! (4.5.2). The search leans on memchr and looks at single bytes only where slices meet.

use memchr::memmem::Finder;

use crate::marker::{self, Marker};

const LINE_MAX_BYTES: usize = 1024;
const BOUNCED_MAX: usize = 1024;

/// Where in the text the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Middle,
    /// Behind CR.
    Cr,
    /// At the start of a line.
    Start,
    /// Behind the dot at the start of a line.
    Dot,
    /// Behind CR behind that dot.
    DotCr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Looking for the marker.
    Header,
    /// Behind the marker: everything counts.
    Summed,
    /// A message without a marker.
    Unmarked,
}

/// What a message turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its marker, if it had a readable one.
    pub marker: Option<Marker>,
    /// True if size and checksum are as the marker tells.
    pub intact: bool,
    /// Bytes of the message, unstuffed.
    pub bytes: u64,
}

/// A body being read.
pub struct BodyReader {
    place: Place,
    part: Part,
    line: Vec<u8>,
    marker: Option<Marker>,
    sum: u32,
    summed_bytes: u64,
    bytes: u64,
    line_dot: Finder<'static>,
    /// Recipients that the lines of a bounce name, while `is_bounce`.
    pub bounced: Vec<(u64, u32)>,
    is_bounce: bool,
}

impl Default for BodyReader {
    fn default() -> BodyReader {
        BodyReader {
            place: Place::Start,
            part: Part::Header,
            line: Vec::new(),
            marker: None,
            sum: 0,
            summed_bytes: 0,
            bytes: 0,
            line_dot: Finder::new(b"\n."),
            bounced: Vec::new(),
            is_bounce: false,
        }
    }
}

impl BodyReader {
    /// Makes ready for the next message.
    pub fn begin(&mut self, is_bounce: bool) {
        self.place = Place::Start;
        self.part = Part::Header;
        self.line.clear();
        self.marker = None;
        self.sum = 0;
        self.summed_bytes = 0;
        self.bytes = 0;
        self.bounced.clear();
        self.is_bounce = is_bounce;
    }

    /// Takes bytes from `input`, all of them or up to the end of the message. Some when the message has ended.
    pub fn read(&mut self, input: &mut &[u8]) -> Option<Verified> {
        loop {
            // Where slices meet, or a line starts with a dot: byte by byte until in the middle of a line.
            while self.place != Place::Middle {
                let (&byte, rest) = input.split_first()?;
                *input = rest;
                if self.step(byte) {
                    return Some(self.finish());
                }
            }
            let found = self.line_dot.find(input);
            // The line end belongs to the text; the dot behind it is looked at by `step`.
            let text = found.map_or(*input, |at| &input[..=at]);
            if text.is_empty() {
                return None;
            }
            *input = &input[text.len()..];
            let before_last = if text.len() > 1 { text[text.len() - 2] } else { 0 };
            self.place = match text[text.len() - 1] {
                b'\n' if before_last == b'\r' => Place::Start,
                b'\r' => Place::Cr,
                _ => Place::Middle,
            };
            self.text(text);
        }
    }

    /// Takes bytes as they are, without dots (BDAT); [`BodyReader::end`] tells when they end.
    pub fn take(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.text(bytes);
        }
    }

    /// The end of a message that came by [`BodyReader::take`].
    pub fn end(&mut self) -> Verified {
        // A line that has no end is a line.
        if self.part != Part::Summed && !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            self.one_line(&line);
        }
        self.finish()
    }

    /// One byte at a place where it matters. True at the end of the message.
    fn step(&mut self, byte: u8) -> bool {
        let place = self.place;
        self.place = match (place, byte) {
            (Place::Start, b'.') => Place::Dot,
            (Place::Dot, b'\r') => Place::DotCr,
            (Place::DotCr, b'\n') => return true,
            (Place::Cr, b'\n') => Place::Start,
            (_, b'\r') => Place::Cr,
            _ => Place::Middle,
        };
        match (place, byte) {
            // Not yet known whether the line is over, or a dot that was put in.
            (Place::Start, b'.') | (Place::Dot, b'\r') => {}
            (Place::DotCr, _) => {
                self.text(b"\r");
                self.text(&[byte]);
            }
            _ => self.text(&[byte]),
        }
        false
    }

    /// Unstuffed text, in any split.
    fn text(&mut self, text: &[u8]) {
        self.bytes += text.len() as u64;
        match self.part {
            Part::Summed => self.add(text),
            Part::Unmarked if !self.is_bounce => {}
            _ => self.lines(text),
        }
    }

    fn add(&mut self, text: &[u8]) {
        self.sum = crc32c::crc32c_append(self.sum, text);
        self.summed_bytes += text.len() as u64;
    }

    fn lines(&mut self, mut text: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', text) {
            let (line, rest) = text.split_at(end + 1);
            text = rest;
            if self.line.is_empty() {
                self.one_line(line);
            } else {
                self.keep(line);
                let mut whole = std::mem::take(&mut self.line);
                self.one_line(&whole);
                whole.clear();
                self.line = whole;
            }
            match self.part {
                Part::Summed => return self.add(text),
                Part::Unmarked if !self.is_bounce => return,
                _ => {}
            }
        }
        self.keep(text);
    }

    /// Keeps the start of a line; what is beyond any line of ours is dropped.
    fn keep(&mut self, text: &[u8]) {
        let room = LINE_MAX_BYTES.saturating_sub(self.line.len());
        self.line.extend_from_slice(&text[..text.len().min(room)]);
    }

    fn one_line(&mut self, line: &[u8]) {
        if self.is_bounce {
            self.bounce_line(line);
        } else if marker::is_marker(line) {
            match marker::parse(line) {
                Some((marker, begun)) => {
                    self.marker = Some(marker);
                    self.sum = begun;
                    self.part = Part::Summed;
                }
                None => self.part = Part::Unmarked,
            }
        } else if line == b"\r\n" {
            self.part = Part::Unmarked;
        }
    }

    /// `Final-Recipient: rfc822; ADDRESS` (RFC 3464 2.3.2).
    fn bounce_line(&mut self, line: &[u8]) {
        const FIELD: &[u8] = b"Final-Recipient:";
        if line.len() > FIELD.len() && line[..FIELD.len()].eq_ignore_ascii_case(FIELD) {
            let address = line[FIELD.len()..].splitn(2, |b| *b == b';').nth(1).unwrap_or_default().trim_ascii();
            if let Some(recipient) = marker::parse_recipient(address.strip_prefix(b"<").unwrap_or(address))
                && self.bounced.len() < BOUNCED_MAX
            {
                self.bounced.push(recipient);
            }
        }
    }

    fn finish(&mut self) -> Verified {
        let intact = self.marker.is_some_and(|m| m.sum == self.sum && m.size_bytes == self.summed_bytes);
        Verified { marker: self.marker, intact, bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{Corpus, Letter};
    use crate::units::SizeMix;

    /// A whole message on the wire, with something prepended as relays do.
    fn wire(size: u64) -> Vec<u8> {
        let corpus = Corpus::new(&SizeMix::fixed(size), 5);
        let letter = Letter { run: 1, id: 3, recipients: 1, sent_ns: 5 };
        let (mut wire, mut tail) = (b"Received: from somewhere\r\n\tby elsewhere; now\r\n".to_vec(), Vec::new());
        corpus.write(&letter, &mut wire, &mut tail);
        wire.extend_from_slice(&corpus.template(3).wire);
        wire.extend_from_slice(&tail);
        wire
    }

    fn read_in(reader: &mut BodyReader, wire: &[u8], step: usize) -> Option<Verified> {
        reader.begin(false);
        let mut ended = None;
        for mut part in wire.chunks(step) {
            assert!(ended.is_none());
            ended = reader.read(&mut part);
            assert!(part.is_empty());
        }
        ended
    }

    #[test]
    fn whole_in_every_split() {
        let wire = wire(1500);
        let mut reader = BodyReader::default();
        for step in 1..wire.len() + 1 {
            let verified = read_in(&mut reader, &wire, step).expect("ended");
            assert!(verified.intact, "step {step}");
            assert_eq!(verified.marker.unwrap().id, 3);
        }
    }

    #[test]
    fn chunks_are_taken_as_they_are() {
        let corpus = Corpus::in_form(&SizeMix::fixed(1500), 5, crate::corpus::Form::Plain);
        let letter = Letter { run: 1, id: 3, recipients: 1, sent_ns: 5 };
        let (mut text, mut tail) = (Vec::new(), Vec::new());
        corpus.write(&letter, &mut text, &mut tail);
        text.extend_from_slice(&corpus.template(3).wire);
        text.extend_from_slice(&tail);
        let mut reader = BodyReader::default();
        for step in [1, 2, 7, 100, 1500] {
            reader.begin(false);
            text.chunks(step).for_each(|part| reader.take(part));
            let verified = reader.end();
            assert!(verified.intact && verified.bytes == 1500, "step {step}");
        }
    }

    #[test]
    fn any_changed_byte_shows() {
        let wire = wire(900);
        let marker = memchr::memmem::find(&wire, b"run=").unwrap();
        let mut reader = BodyReader::default();
        for at in marker..wire.len() - 5 {
            let mut damaged = wire.clone();
            damaged[at] ^= 0x41;
            let verified = read_in(&mut reader, &damaged, 4096);
            assert!(verified.is_none_or(|v| !v.intact), "at {at}");
        }
    }

    #[test]
    fn only_the_true_end_ends() {
        let mut reader = BodyReader::default();
        for wire in
            [&b"a\n.\n"[..], b"a\r\n.\n", b"a\n.\r\n", b"a\r.\r", b"a\r\n..\r\n", b"a\r\n.\rb\r\n", b"a\r\n.\r\r\n"]
        {
            assert_eq!(read_in(&mut reader, wire, 1), None, "{wire:?}");
            assert_eq!(read_in(&mut reader, wire, 64), None, "{wire:?}");
        }
        assert_eq!(read_in(&mut reader, b".\r\n", 64).unwrap().bytes, 0);
        assert_eq!(read_in(&mut reader, b"\r\n.\r\n", 64).unwrap().bytes, 2);
        assert_eq!(read_in(&mut reader, b"a\r\r\n..b\r\n.\r\n", 64).unwrap().bytes, 8);
    }

    #[test]
    fn bounces_name_their_recipients() {
        let mut reader = BodyReader::default();
        reader.begin(true);
        let mut text =
            &b"Subject: no\r\n\r\nFinal-Recipient: rfc822; 000000000042.7@d3.loadgen.test\r\nX-Loadgen: x\r\n.\r\n"[..];
        assert!(reader.read(&mut text).unwrap().marker.is_none());
        assert_eq!(reader.bounced, [(42, 7)]);
    }
}
