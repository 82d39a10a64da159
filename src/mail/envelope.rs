//! The envelope of the transaction being received: sender, recipients and what MAIL declared.
//!
//! One arena per session, emptied and filled again for each message, so that a warm session allocates nothing.
//! Addresses are stored as parsed: local part in its case, domain as given (SES-08). Shard-local.

/// What MAIL said of the body (EXT-03; RFC 6152).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Body {
    /// `BODY=7BIT`, or nothing said.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
    /// `BODY=BINARYMIME` (BDT-11; RFC 3030 3).
    BinaryMime,
}

/// Who sends, who gets.
#[derive(Debug, Default)]
pub struct Envelope {
    /// The sender, then the recipients, one behind the other.
    bytes: Vec<u8>,
    sender_end: usize,
    /// Where each recipient ends in `bytes`.
    ends: Vec<u32>,
    /// What MAIL said of the body.
    pub body: Body,
    /// `SIZE=` of MAIL, in bytes (EXT-01).
    pub declared_size: Option<u64>,
}

impl Envelope {
    /// An empty envelope.
    pub fn new() -> Envelope {
        Envelope::default()
    }

    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sender_end = 0;
        self.ends.clear();
        self.body = Body::SevenBit;
        self.declared_size = None;
    }

    /// Sets the reverse-path. Panics if there are recipients.
    pub fn set_sender(&mut self, mailbox: &[u8]) {
        assert!(self.ends.is_empty(), "the sender comes before the recipients");
        self.bytes.clear();
        self.bytes.extend_from_slice(mailbox);
        self.sender_end = mailbox.len();
    }

    /// Adds a recipient; its number is the length before.
    pub fn push_recipient(&mut self, mailbox: &[u8]) {
        self.push_recipient_parts(&[mailbox]);
    }

    /// Adds a recipient given in pieces.
    pub fn push_recipient_parts(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.ends.push(u32::try_from(self.bytes.len()).expect("an envelope is far below 4 GiB"));
    }

    /// The reverse-path; empty for the null one.
    pub fn sender(&self) -> &[u8] {
        &self.bytes[..self.sender_end]
    }

    /// Number of recipients.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True without recipients.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The recipient of that number. Panics if there is none.
    pub fn recipient(&self, index: usize) -> &[u8] {
        let start = if index == 0 { self.sender_end } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }

    /// All recipients in the order given.
    pub fn recipients(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.recipient(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_put_in_and_forgets_on_clear() {
        let mut envelope = Envelope::new();
        for _ in 0..2 {
            assert!(envelope.sender().is_empty() && envelope.is_empty());
            envelope.set_sender(b"a@b");
            envelope.push_recipient(b"c@d");
            envelope.push_recipient_parts(&[b"postmaster", b"@", b"e"]);
            envelope.body = Body::EightBitMime;
            envelope.declared_size = Some(7);
            assert_eq!(envelope.sender(), b"a@b");
            assert_eq!(envelope.recipients().collect::<Vec<_>>(), [b"c@d".as_slice(), b"postmaster@e"]);
            assert_eq!(envelope.recipients().len(), envelope.len());
            envelope.clear();
            assert_eq!((envelope.body, envelope.declared_size), (Body::SevenBit, None));
        }
    }
}
