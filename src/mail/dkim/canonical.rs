//! The two relaxed canonicalizations (RFC 6376 3.4.2, 3.4.4).
//!
//! A body comes in pieces: what may still turn out to be nothing, white space at a line's end and empty lines at the body's, is held back as
//! a flag and a count. Lines that need no change, nearly all, are found by a loop that the compiler makes wide and are copied whole.

use memchr::memchr;

/// White space as RFC 6376 2.8 has it.
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Appends a field, its last CRLF there or not, in canonical form with CRLF. What is no field has no such form.
pub fn relax_field(field: &[u8], out: &mut Vec<u8>) {
    let colon = memchr(b':', field).unwrap_or(field.len());
    let (name, value) = field.split_at(colon);
    let name = name.trim_ascii_end();
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let (start, mut space) = (out.len(), false);
    let value = value.get(1..).unwrap_or_default();
    for &byte in value {
        match byte {
            b' ' | b'\t' => space = true,
            // Of a fold, or of the end.
            b'\r' | b'\n' => {}
            _ => {
                if space && out.len() > start {
                    out.push(b' ');
                }
                space = false;
                out.push(byte);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// CRLFs are given out in runs of so many.
const LINE_ENDS: &[u8; 64] = b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\
\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n";

/// A body on its way to its canonical form, which is given out in pieces.
#[derive(Clone, Debug, Default)]
pub struct RelaxedBody {
    /// CRLFs that nothing stood behind yet.
    line_ends: u64,
    /// White space that nothing stood behind yet in its line.
    space: bool,
    /// A CR that nothing stood behind yet at all.
    cr: bool,
    /// Something was given out: the body is not empty.
    begun: bool,
}

impl RelaxedBody {
    /// Takes the next piece of the body; gives out what is known of the canonical form with it.
    pub fn feed(&mut self, piece: &[u8], out: &mut impl FnMut(&[u8])) {
        let mut rest = piece;
        if self.cr && !rest.is_empty() {
            self.cr = false;
            rest = self.behind_cr(rest, out);
        }
        while let Some(end) = memchr(b'\r', rest) {
            self.take(&rest[..end], out);
            let behind = &rest[end + 1..];
            if behind.is_empty() {
                self.cr = true;
                return;
            }
            rest = self.behind_cr(behind, out);
        }
        self.take(rest, out);
    }

    /// Gives out the rest: a body that is not empty ends with one CRLF.
    pub fn end(&mut self, out: &mut impl FnMut(&[u8])) {
        if std::mem::take(&mut self.cr) {
            self.put(b"\r", out);
        }
        if self.begun {
            out(b"\r\n");
        }
    }

    /// A CR came, and this behind it: ends the line with an LF, and is part of it without one.
    fn behind_cr<'b>(&mut self, behind: &'b [u8], out: &mut impl FnMut(&[u8])) -> &'b [u8] {
        match behind.strip_prefix(b"\n") {
            Some(rest) => {
                self.space = false;
                self.line_ends += 1;
                rest
            }
            None => {
                self.put(b"\r", out);
                behind
            }
        }
    }

    /// Takes a part of one line.
    fn take(&mut self, part: &[u8], out: &mut impl FnMut(&[u8])) {
        let (Some(&first), Some(&last)) = (part.first(), part.last()) else { return };
        let touches_space = is_space(last) || (self.space && is_space(first));
        if !touches_space && !needs_change(part) {
            return self.put(part, out);
        }
        for (number, word) in part.split(|&byte| is_space(byte)).enumerate() {
            self.space |= number > 0;
            if !word.is_empty() {
                self.put(word, out);
            }
        }
    }

    /// Gives out what was held back, and this.
    fn put(&mut self, text: &[u8], out: &mut impl FnMut(&[u8])) {
        while self.line_ends > 0 {
            let now = self.line_ends.min(LINE_ENDS.len() as u64 / 2);
            out(&LINE_ENDS[..2 * now as usize]);
            self.line_ends -= now;
        }
        if std::mem::take(&mut self.space) {
            out(b" ");
        }
        out(text);
        self.begun = true;
    }
}

/// It holds white space that is not one space between two other bytes.
fn needs_change(part: &[u8]) -> bool {
    let pairs = part.iter().zip(part.get(1..).unwrap_or_default());
    pairs.fold(false, |found, (&byte, &next)| found | (byte == b'\t') | (byte == b' ' && is_space(next)))
}
