//! What is known of a message's text as it is stored, as far as it decides how the text may leave.
//!
//! Found at intake, kept in the accepting record, read by who delivers. Pure.

/// The two shapes of one text (RFC 5321 4.5.2, RFC 3030 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As DATA carries it: dots at line starts doubled, the last line ended, without the final `.` line.
    Wire,
    /// As BDAT carries it, which is as the author wrote it.
    Plain,
}

/// A stored text in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Text {
    /// It holds octets over 127 (EXT-04).
    pub eight_bit: bool,
    /// It is stored in plain form, and its wire form differs. If not: in wire form.
    pub plain: bool,
    /// It was declared `BODY=BINARYMIME`: it may hold anything, and may leave by BDAT only (BDT-11).
    pub binary: bool,
    /// Its last line has no CRLF. Only in plain form.
    pub open_end: bool,
}

impl Text {
    /// As flags of an accepting record.
    pub const fn bits(self) -> u16 {
        self.eight_bit as u16 | (self.plain as u16) << 1 | (self.binary as u16) << 2 | (self.open_end as u16) << 3
    }

    /// From the flags of an accepting record; flags of other things are ignored.
    pub const fn from_bits(bits: u16) -> Text {
        Text { eight_bit: bits & 1 != 0, plain: bits & 2 != 0, binary: bits & 4 != 0, open_end: bits & 8 != 0 }
    }

    /// The form in which it is stored.
    pub const fn form(self) -> Form {
        if self.plain { Form::Plain } else { Form::Wire }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_back() {
        for bits in 0..16 {
            assert_eq!(Text::from_bits(bits).bits(), bits);
        }
        assert_eq!(Text::default().bits(), 0);
        assert_eq!(Text { eight_bit: true, ..Text::default() }.bits(), 1, "as the first format had it");
    }
}
