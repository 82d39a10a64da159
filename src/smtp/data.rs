//! The dot codec, the only one: message data as DATA carries it (RFC 5321 4.5.2), and as BDAT does (RFC 3030 2).
//!
//! What DATA brings is stored and sent on in *wire form*: the bytes as they came, dots still doubled, without the
//! final `.` line. [`DataDecoder`] finds the end of that form and judges it. What BDAT brings is stored in *plain
//! form*, as it came; its end is counted, and [`PlainScan`] judges it. [`Unstuffer`] and [`Stuffer`] are views
//! between the two, slices of what they are given with nothing copied; [`View`] is either.
//!
//! Only `CR LF . CR LF` ends data (DAT-01). A CR without LF or an LF without CR is noted and never taken for a
//! line end, so the message can be refused with the stream still in step (DAT-03). All octets pass (DAT-08).
//!
//! One call judges a whole receive in two sweeps over memory that is in cache: for dots behind a line end (memmem), and
//! for CRs, LFs and 8-bit octets (a loop that the compiler turns into wide instructions). The length of lines is looked
//! at in leaps of the longest permitted one. No sweep looks at bytes one at a time. Pure; the naive twins are in the tests.

use std::sync::LazyLock;

use memchr::{memchr_iter, memmem, memrchr_iter};
use multiversion::multiversion;

use crate::base::limits::DATA_LINE_MAX_BYTES;
use crate::mail::text::{Form, Text};

/// The line that ends data, without the CRLF before it, which is the text's own (DAT-07).
pub const END_OF_DATA: &[u8] = b".\r\n";

/// Finds dots behind an LF: at the start of a line, if a CR stands before.
static LINE_DOT: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\n."));

/// What a step of the decoder gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'b> {
    /// All input was taken; the data goes on.
    More,
    /// The next bytes of the wire form.
    Piece(&'b [u8]),
    /// The data ended. What is left of the input is behind it (DAT-15).
    End,
}

/// Where in a line the bytes taken so far end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Edge {
    /// Behind a CRLF, or nothing was taken yet.
    #[default]
    LineStart,
    /// Behind a dot at a line's start, which is not given out yet.
    Dot,
    /// Behind a dot and a CR at a line's start, neither given out yet.
    DotCr,
    /// Behind a CR inside a line.
    Cr,
    /// Anywhere else.
    Text,
}

/// What is watched of every text, piece after piece: its line ends, its longest line, its octets.
#[derive(Clone, Debug, Default)]
struct Lines {
    edge: Edge,
    /// Bytes of the open line; in wire form without a dot at its start.
    open_bytes: usize,
    eight_bit: bool,
    bare_line_end: bool,
    long_line: bool,
}

impl Lines {
    /// Takes the next piece of a text in this form.
    fn take(&mut self, piece: &[u8], form: Form) {
        let (Some(&first), Some(&last)) = (piece.first(), piece.last()) else { return };
        self.measure(piece, form);
        let (apart, octets) = sweep(piece);
        self.bare_line_end |= apart || (self.edge == Edge::Cr) != (first == b'\n');
        self.eight_bit |= !octets.is_ascii();
        self.edge = match last {
            b'\r' => Edge::Cr,
            b'\n' if self.ends_line(piece, piece.len() - 1) => Edge::LineStart,
            _ => Edge::Text,
        };
    }

    /// True if the LF at `newline` stands behind a CR.
    fn ends_line(&self, piece: &[u8], newline: usize) -> bool {
        if newline > 0 { piece[newline - 1] == b'\r' } else { self.edge == Edge::Cr }
    }

    /// Looks for lines that are too long, from the last line end that a permitted line could have to the next, so that
    /// of most lines nothing is looked at.
    fn measure(&mut self, piece: &[u8], form: Form) {
        let not_counted = |from: usize| usize::from(form == Form::Wire && piece.get(from) == Some(&b'.'));
        // Where the open line's counted bytes begin, less what earlier pieces brought of it.
        let opening = if self.edge == Edge::LineStart { not_counted(0) } else { 0 };
        let mut line_start = opening as isize - self.open_bytes as isize;
        let mut from = 0;
        loop {
            let reach = (line_start + DATA_LINE_MAX_BYTES as isize).max(0) as usize;
            let (newline, long) = if reach < piece.len() {
                match self.last_line_end(piece, from, reach) {
                    Some(newline) => (Some(newline), false),
                    None => (self.first_line_end(piece, reach), true),
                }
            } else {
                (self.last_line_end(piece, from, piece.len()), false)
            };
            self.long_line |= long;
            let Some(newline) = newline else { break };
            from = newline + 1;
            line_start = (from + not_counted(from)) as isize;
        }
        self.open_bytes = (piece.len() as isize - line_start) as usize;
    }

    /// The last LF of a CR LF in `from..to`.
    fn last_line_end(&self, piece: &[u8], from: usize, to: usize) -> Option<usize> {
        memrchr_iter(b'\n', &piece[from..to]).map(|at| from + at).find(|&at| self.ends_line(piece, at))
    }

    /// The first LF of a CR LF from `from` on.
    fn first_line_end(&self, piece: &[u8], from: usize) -> Option<usize> {
        memchr_iter(b'\n', &piece[from..]).map(|at| from + at).find(|&at| self.ends_line(piece, at))
    }
}

/// Whether a CR stands without LF or an LF without CR inside the piece, and all its octets, one over the other. Simple
/// enough for the compiler to take many bytes at a time, as many as the machine can.
#[multiversion(targets("x86_64+avx512f+avx512bw", "x86_64+avx2"))]
fn sweep(piece: &[u8]) -> (bool, u8) {
    let (mut apart, mut octets) = (false, *piece.last().unwrap_or(&0));
    for (&byte, &next) in piece.iter().zip(piece.get(1..).unwrap_or_default()) {
        apart |= (byte == b'\r') != (next == b'\n');
        octets |= byte;
    }
    (apart, octets)
}

/// Takes one message's data in whatever pieces it comes.
#[derive(Clone, Debug, Default)]
pub struct DataDecoder {
    lines: Lines,
    wire_bytes: u64,
    /// Dots at line starts, which the plain text has not.
    dots: u64,
}

impl DataDecoder {
    /// A decoder for one message, right behind the CRLF of DATA.
    pub fn new() -> DataDecoder {
        DataDecoder::default()
    }

    /// Takes bytes from `input` and advances it. Call until it gives `More` or `End`.
    pub fn step<'b>(&mut self, input: &mut &'b [u8]) -> Step<'b> {
        loop {
            let Some(&byte) = input.first() else { return Step::More };
            match (self.lines.edge, byte) {
                (Edge::LineStart, b'.') if END_OF_DATA.starts_with(head(input)) => self.lines.edge = Edge::Dot,
                (Edge::Dot, b'\r') => self.lines.edge = Edge::DotCr,
                (Edge::DotCr, b'\n') => {
                    *input = &input[1..];
                    return Step::End;
                }
                (Edge::Dot, _) => return self.late_dot(b"."),
                (Edge::DotCr, _) => return self.late_dot(b".\r"),
                _ => return self.scan(input),
            }
            *input = &input[1..];
        }
    }

    /// Gives out what was held back because it looked like the end, and was not.
    fn late_dot(&mut self, held: &'static [u8]) -> Step<'static> {
        self.dots += 1;
        self.lines.open_bytes = held.len() - 1;
        self.wire_bytes += held.len() as u64;
        self.lines.edge = if held.len() == 1 { Edge::Text } else { Edge::Cr };
        Step::Piece(held)
    }

    /// Takes all of the input, or all up to a line that ends the data or may turn out to.
    fn scan<'b>(&mut self, input: &mut &'b [u8]) -> Step<'b> {
        let chunk = *input;
        self.dots += u64::from(self.lines.edge == Edge::LineStart && chunk[0] == b'.');
        let mut end = chunk.len();
        for newline in LINE_DOT.find_iter(chunk) {
            if !self.lines.ends_line(chunk, newline) {
                continue;
            }
            if END_OF_DATA.starts_with(head(&chunk[newline + 1..])) {
                end = newline + 1;
                break;
            }
            self.dots += 1;
        }
        let piece = &chunk[..end];
        *input = &chunk[end..];
        self.lines.take(piece, Form::Wire);
        self.wire_bytes += piece.len() as u64;
        Step::Piece(piece)
    }

    /// Bytes of the text as the author wrote it: CRLFs counted, doubled dots not (EXT-01; RFC 1870 5).
    pub fn body_bytes(&self) -> u64 {
        self.wire_bytes - self.dots
    }

    /// Bytes given out.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// An octet over 127 was seen.
    pub fn eight_bit(&self) -> bool {
        self.lines.eight_bit
    }

    /// A CR without LF or an LF without CR was seen (DAT-03).
    pub fn bare_line_end(&self) -> bool {
        self.lines.bare_line_end
    }

    /// A line over `limits::DATA_LINE_MAX_BYTES` was seen (SIZ-06).
    pub fn long_line(&self) -> bool {
        self.lines.long_line
    }
}

/// Judges one message's plain text in whatever pieces it comes.
#[derive(Clone, Debug, Default)]
pub struct PlainScan {
    lines: Lines,
    bytes: u64,
    dots: bool,
}

impl PlainScan {
    /// Looks at the next bytes.
    pub fn feed(&mut self, piece: &[u8]) {
        self.dots = self.dots
            || (self.lines.edge == Edge::LineStart && piece.first() == Some(&b'.'))
            || LINE_DOT.find_iter(piece).any(|newline| self.lines.ends_line(piece, newline));
        self.lines.take(piece, Form::Plain);
        self.bytes += piece.len() as u64;
    }

    /// The text is whole: a CR at its very end is a bare one.
    pub fn end(&mut self) {
        self.lines.bare_line_end |= self.lines.edge == Edge::Cr;
    }

    /// What the text is like. One that reads the same in both forms counts as wire form.
    pub fn text(&self, binary: bool) -> Text {
        let open_end = self.open_end();
        Text { eight_bit: self.lines.eight_bit, plain: binary || open_end || self.dots, binary, open_end }
    }

    /// Bytes looked at.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An octet over 127 was seen.
    pub fn eight_bit(&self) -> bool {
        self.lines.eight_bit
    }

    /// A dot at a line start was seen, which the wire form doubles.
    pub fn dots(&self) -> bool {
        self.dots
    }

    /// The last line lacks its CRLF.
    pub fn open_end(&self) -> bool {
        self.lines.edge != Edge::LineStart
    }

    /// A CR without LF or an LF without CR was seen (DAT-03).
    pub fn bare_line_end(&self) -> bool {
        self.lines.bare_line_end
    }

    /// A line over `limits::DATA_LINE_MAX_BYTES` was seen (SIZ-06).
    pub fn long_line(&self) -> bool {
        self.lines.long_line
    }
}

/// As much of `text` as the end of data is long.
fn head(text: &[u8]) -> &[u8] {
    &text[..text.len().min(END_OF_DATA.len())]
}

/// The line edge that the views carry from slice to slice: `Dot` and `DotCr` do not occur.
impl Edge {
    fn behind(self, text: &[u8]) -> Edge {
        match text {
            [] => self,
            [.., b'\r'] => Edge::Cr,
            [.., b'\r', b'\n'] => Edge::LineStart,
            [b'\n'] if self == Edge::Cr => Edge::LineStart,
            _ => Edge::Text,
        }
    }

    /// The dot at a line start that only the edge can tell: in the first two bytes.
    fn first_dot(self, text: &[u8]) -> Option<usize> {
        match (self, text) {
            (Edge::LineStart, [b'.', ..]) => Some(0),
            (Edge::Cr, [b'\n', b'.', ..]) => Some(1),
            _ => None,
        }
    }
}

/// The plain text of a wire form that is given slice after slice, in any split (DAT-05).
#[derive(Clone, Debug, Default)]
pub struct Unstuffer {
    edge: Edge,
}

impl Unstuffer {
    /// At the start of a message.
    pub fn new() -> Unstuffer {
        Unstuffer::default()
    }

    /// The plain text of the next slice, as parts of it.
    pub fn view<'b>(&mut self, wire: &'b [u8]) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        self.slices(wire)
    }

    fn slices<'b>(&mut self, wire: &'b [u8]) -> Slices<'b> {
        let first_dot = self.edge.first_dot(wire);
        self.edge = self.edge.behind(wire);
        Slices::new(wire, first_dot, 0)
    }
}

/// The wire form of a plain text that is given slice after slice, in any split (DAT-06).
#[derive(Clone, Debug, Default)]
pub struct Stuffer {
    edge: Edge,
}

impl Stuffer {
    /// At the start of a message.
    pub fn new() -> Stuffer {
        Stuffer::default()
    }

    /// The wire form of the next slice, as parts of it; a doubled dot is in two of them.
    pub fn view<'b>(&mut self, text: &'b [u8]) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        self.slices(text)
    }

    fn slices<'b>(&mut self, text: &'b [u8]) -> Slices<'b> {
        let first_dot = self.edge.first_dot(text);
        self.edge = self.edge.behind(text);
        Slices::new(text, first_dot, 1)
    }

    /// What the text lacks to end with a CRLF, as DATA needs (DAT-07): nothing, or a CRLF.
    pub fn ending(&self) -> &'static [u8] {
        if self.edge == Edge::LineStart { b"" } else { b"\r\n" }
    }
}

/// A text on its way from the form it is stored in to the other one.
#[derive(Clone, Debug)]
pub enum View {
    /// To plain form.
    Unstuff(Unstuffer),
    /// To wire form.
    Stuff(Stuffer),
}

impl View {
    /// At the start of a text that is stored in one form and wanted in the other.
    pub fn to(wanted: Form) -> View {
        match wanted {
            Form::Plain => View::Unstuff(Unstuffer::new()),
            Form::Wire => View::Stuff(Stuffer::new()),
        }
    }

    /// The next slice in the other form, as parts of it.
    pub fn view<'b>(&mut self, text: &'b [u8]) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        match self {
            View::Unstuff(unstuffer) => unstuffer.slices(text),
            View::Stuff(stuffer) => stuffer.slices(text),
        }
    }
}

/// The plain text of a whole wire form.
pub fn unstuff(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    Unstuffer::new().view(wire)
}

/// The wire form of a whole plain text.
pub fn stuff(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    Stuffer::new().view(text)
}

/// Parts of a text, cut at the dots at line starts: such a dot is in no part, or in two.
struct Slices<'b> {
    text: &'b [u8],
    /// Where the next part starts; past the end when all are given.
    start: usize,
    first_dot: Option<usize>,
    breaks: memmem::FindIter<'b, 'static>,
    /// 0: the dot is dropped; 1: it ends one part and starts the next.
    doubled: usize,
}

impl<'b> Slices<'b> {
    fn new(text: &'b [u8], first_dot: Option<usize>, doubled: usize) -> Slices<'b> {
        Slices { text, start: 0, first_dot, breaks: LINE_DOT.find_iter(text), doubled }
    }
}

impl Slices<'_> {
    /// The next dot at the start of a line that starts in this text.
    fn next_dot(&mut self) -> Option<usize> {
        let text = self.text;
        self.breaks.by_ref().find(|&newline| newline > 0 && text[newline - 1] == b'\r').map(|newline| newline + 1)
    }
}

impl<'b> Iterator for Slices<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        while self.start < self.text.len() {
            let from = self.start;
            let to = match self.first_dot.take().or_else(|| self.next_dot()) {
                Some(dot) => {
                    self.start = dot + 1 - self.doubled;
                    dot + self.doubled
                }
                None => {
                    self.start = self.text.len();
                    self.text.len()
                }
            };
            if from < to {
                return Some(&self.text[from..to]);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
