//! The envelope of the transaction being received: sender, recipients and what MAIL declared.
//!
//! One arena per session, emptied and filled again for each message, so that a warm session allocates nothing.
//! Addresses are stored as parsed: local part in its case, domain as given (SES-08). Parameters that go with the message
//! are kept as the accepting record will have them (QUE-02). Shard-local.

use std::ops::Range;

use super::address::domain_of;
use super::parameters::{self, Group, GroupKind, MessageParameters, RecipientParameters};
use super::trace::HeaderSays;

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
    /// `SMTPUTF8` of MAIL (EXT-05).
    pub utf8: bool,
    /// What else MAIL said, as a record has it.
    message: Vec<u8>,
    /// What RCPT said of recipients: number, NOTIFY and ORCPT in `texts`.
    said: Vec<(u32, Range<usize>, Range<usize>)>,
    texts: Vec<u8>,
    parameters_bytes: usize,
    /// Recipients as RCPT gave them, those behind an address of the alias table counted as one.
    given: usize,
    /// Where each recipient comes from; empty while none comes from the alias table.
    origins: Vec<Origin>,
    /// The groups of recipients of lists: reverse-path in `texts`.
    groups: Vec<(GroupKind, Range<usize>)>,
}

/// Where a recipient comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    /// Its group in `Envelope::groups`, and one more; 0: none.
    group: u16,
    /// It was not given by RCPT, but stands behind what was.
    expanded: bool,
}

impl Envelope {
    /// What a record has of a recipient beside its address, at most.
    pub const RECIPIENT_BYTES: usize = 16;

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
        self.utf8 = false;
        self.message.clear();
        self.said.clear();
        self.texts.clear();
        self.parameters_bytes = 0;
        self.given = 0;
        self.origins.clear();
        self.groups.clear();
    }

    /// Sets the reverse-path. Panics if there are recipients.
    pub fn set_sender(&mut self, mailbox: &[u8]) {
        assert!(self.ends.is_empty(), "the sender comes before the recipients");
        self.bytes.clear();
        self.bytes.extend_from_slice(mailbox);
        self.sender_end = mailbox.len();
    }

    /// Keeps what MAIL said beside the sender. Once for each transaction.
    pub fn set_parameters(&mut self, parameters: &MessageParameters<'_>) {
        self.utf8 = parameters.utf8;
        // Whether the header needs it, too, is known at the end of the message.
        parameters::write_message(&mut self.message, &MessageParameters { utf8: false, ..*parameters });
        self.parameters_bytes = self.message.len();
    }

    /// Keeps what RCPT said of the recipient added last.
    pub fn set_recipient_parameters(&mut self, parameters: &RecipientParameters<'_>) {
        if *parameters == RecipientParameters::default() {
            return;
        }
        let mut keep = |text: &[u8]| {
            let start = self.texts.len();
            self.texts.extend_from_slice(text);
            start..self.texts.len()
        };
        let (notify, orcpt) = (keep(parameters.notify), keep(parameters.orcpt));
        let number = self.ends.len().checked_sub(1).expect("a recipient before its parameters");
        self.said.push((number as u32, notify, orcpt));
        self.parameters_bytes += parameters::recipient_bytes(parameters);
    }

    /// How much the record will hold of what MAIL and RCPT said beside the addresses.
    pub fn parameters_bytes(&self) -> usize {
        self.parameters_bytes
    }

    /// Appends the parameters as a record has them, nothing if there are none; `order` names the recipients in the order
    /// in which they are recorded, `header` is what the header says.
    pub fn write_parameters(&self, order: &[u16], header: HeaderSays, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.message);
        let (utf8, utf8_header, tls_optional) = (self.utf8, header.utf8, header.tls_optional);
        parameters::write_message(out, &MessageParameters { utf8, utf8_header, tls_optional, ..Default::default() });
        if !self.groups.is_empty() {
            self.write_groups(order, out);
        }
        if self.said.is_empty() {
            return;
        }
        for (number, &recipient) in order.iter().enumerate() {
            // They were noted in the order of RCPT.
            if let Ok(at) = self.said.binary_search_by_key(&u32::from(recipient), |(number, ..)| *number) {
                let (_, notify, orcpt) = &self.said[at];
                let said =
                    RecipientParameters { notify: &self.texts[notify.clone()], orcpt: &self.texts[orcpt.clone()] };
                parameters::write_recipient(out, number as u32, &said);
            }
        }
    }

    /// Appends the groups; `order` has each one's recipients together.
    fn write_groups(&self, order: &[u16], out: &mut Vec<u8>) {
        let mut first = 0;
        for stretch in order.chunk_by(|&a, &b| self.origin(a).group == self.origin(b).group) {
            if let Some(group) = usize::from(self.origin(stretch[0]).group).checked_sub(1) {
                let (kind, path) = &self.groups[group];
                let group = Group { kind: *kind, reverse_path: &self.texts[path.clone()] };
                parameters::write_group(out, first, stretch.len() as u32, group);
            }
            first += stretch.len() as u32;
        }
    }

    /// The same sender and what MAIL said, without recipients.
    pub(crate) fn without_recipients(&self) -> Envelope {
        Envelope {
            bytes: self.sender().to_vec(),
            sender_end: self.sender_end,
            body: self.body,
            declared_size: self.declared_size,
            utf8: self.utf8,
            parameters_bytes: self.message.len(),
            message: self.message.clone(),
            ..Envelope::default()
        }
    }

    /// What RCPT said of the recipient of that number.
    pub(crate) fn said_of(&self, number: usize) -> RecipientParameters<'_> {
        let found = self.said.binary_search_by_key(&(number as u32), |(number, ..)| *number);
        found.map_or(RecipientParameters::default(), |at| {
            let (_, notify, orcpt) = &self.said[at];
            RecipientParameters { notify: &self.texts[notify.clone()], orcpt: &self.texts[orcpt.clone()] }
        })
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
        self.end_recipient();
        self.given += 1;
        if !self.origins.is_empty() {
            self.origins.push(Origin::default());
        }
    }

    fn end_recipient(&mut self) {
        self.ends.push(u32::try_from(self.bytes.len()).expect("an envelope is far below 4 GiB"));
    }

    /// Adds a recipient for whom an address of the alias table stood; of a group, with its reverse-path, if it is a list's.
    /// `note_given` says when all that stand behind one address are there.
    pub(super) fn push_expanded(&mut self, mailbox: &[u8], group: Option<(GroupKind, &[u8])>) {
        let group = group.map_or(0, |(kind, path)| self.group(kind, path));
        self.origins.resize(self.ends.len(), Origin::default());
        self.bytes.extend_from_slice(mailbox);
        self.end_recipient();
        self.origins.push(Origin { group, expanded: true });
    }

    /// One recipient more was given, and all that it stands for is there.
    pub(super) fn note_given(&mut self) {
        self.given += 1;
    }

    /// The place of a group, and one more. The last one is the likeliest.
    fn group(&mut self, kind: GroupKind, path: &[u8]) -> u16 {
        let known = self.groups.iter().rposition(|(other, range)| *other == kind && self.texts[range.clone()] == *path);
        let at = known.unwrap_or_else(|| {
            let start = self.texts.len();
            self.texts.extend_from_slice(path);
            self.groups.push((kind, start..self.texts.len()));
            self.parameters_bytes += parameters::group_bytes(path);
            self.groups.len() - 1
        });
        u16::try_from(at + 1).expect("the bound of parameters allows far fewer groups")
    }

    fn origin(&self, recipient: u16) -> Origin {
        self.origins.get(usize::from(recipient)).copied().unwrap_or_default()
    }

    /// How many recipients RCPT gave.
    pub fn given(&self) -> usize {
        self.given
    }

    /// True if some recipients stand behind an address of the alias table.
    pub fn is_expanded(&self) -> bool {
        !self.origins.is_empty()
    }

    /// How much of a record its recipients take at most.
    pub fn recipients_bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * Envelope::RECIPIENT_BYTES
    }

    /// Puts the recipients in the order in which they are recorded: by group, then by domain, in it those that need SMTPUTF8 last. Whom
    /// the alias table names again is left out (FND-04).
    pub fn sort(&self, order: &mut Vec<u16>) {
        order.clear();
        order.extend(0..self.len() as u16);
        if self.is_expanded() {
            self.leave_out_twins(order);
        }
        if order.len() < 2 {
            return;
        }
        order.sort_by(|&a, &b| {
            let (one, other) = (self.recipient(a.into()), self.recipient(b.into()));
            let by_domain = compare_domains(domain_of(one), domain_of(other));
            // Of one domain, those that need SMTPUTF8 stand together.
            let order = if self.utf8 { by_domain.then(other.is_ascii().cmp(&one.is_ascii())) } else { by_domain };
            if self.is_expanded() { self.origin(a).group.cmp(&self.origin(b).group).then(order) } else { order }
        });
    }

    fn leave_out_twins(&self, order: &mut Vec<u16>) {
        let parts = |number: u16| {
            let mailbox = self.recipient(number.into());
            let domain = domain_of(mailbox);
            (&mailbox[..mailbox.len() - domain.len()], domain)
        };
        let told = |number: u16| {
            let group = usize::from(self.origin(number).group).checked_sub(1);
            group.is_some_and(|group| self.groups[group].0.is_told())
        };
        order.sort_by(|&a, &b| {
            let ((a_local, a_domain), (b_local, b_domain)) = (parts(a), parts(b));
            let by_address = a_local.cmp(b_local).then_with(|| compare_domains(a_domain, b_domain));
            // Of twins, one that is sent to and was given goes first.
            let rank = |number: u16| (told(number), self.origin(number).expanded, number);
            by_address.then_with(|| rank(a).cmp(&rank(b)))
        });
        order.dedup_by(|later, earlier| {
            let ((one_local, one_domain), (local, domain)) = (parts(*earlier), parts(*later));
            self.origin(*later).expanded
                && told(*later) == told(*earlier)
                && one_local == local
                && one_domain.eq_ignore_ascii_case(domain)
        });
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

/// Orders domains without regard to case, so that recipients of one domain stand together.
fn compare_domains(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::parameters::ParameterBlock;

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

    #[test]
    fn parameters_follow_their_recipients_into_the_order_of_the_record() {
        // QUE-02, DSN-09
        let mut envelope = Envelope::new();
        for _ in 0..2 {
            let mut block = Vec::new();
            envelope.write_parameters(&[], HeaderSays::default(), &mut block);
            assert!(block.is_empty() && envelope.parameters_bytes() == 0);
            envelope.set_sender(b"a@b");
            envelope.set_parameters(&MessageParameters { ret: Some(b"HDRS"), utf8: true, ..Default::default() });
            let said = |notify, orcpt| RecipientParameters { notify, orcpt };
            for (address, said) in [
                (&b"1@z"[..], said(&b"NEVER"[..], &b""[..])),
                (b"2@y", RecipientParameters::default()),
                (b"3@x", said(b"", b"rfc822;q@x")),
            ] {
                envelope.push_recipient(address);
                envelope.set_recipient_parameters(&said);
            }
            envelope.write_parameters(&[2, 1, 0], HeaderSays { utf8: true, tls_optional: true }, &mut block);
            let block = ParameterBlock(&block);
            let (utf8, utf8_header, tls_optional) = (true, true, true);
            let message =
                MessageParameters { ret: Some(b"HDRS"), utf8, utf8_header, tls_optional, ..Default::default() };
            assert_eq!(block.message(), message);
            let recipients: Vec<_> = block.recipients().collect();
            assert_eq!(recipients, [(0, said(b"", b"rfc822;q@x")), (2, said(b"NEVER", b""))]);
            envelope.clear();
        }
    }
}
