//! What stands in a segment: records, their headers and checksums, and how each kind is laid out.
//!
//! Everything is little endian. A record is a header of 32 bytes and a payload; records are packed, each starting
//! on a multiple of 8. The header says where the record stands (life and offset), so that a record of the
//! segment's last life, or one that a disk put in the wrong place, is never taken for one of this life; it also says
//! how far the log was durable when the record was made, by which recovery tells damage from a torn tail.
//! Reading never panics: what does not check out is `None`. Writing asserts its arguments. Pure.

use std::borrow::Cow;
use std::ops::Range;

use crate::base::checksum::crc32c;
use crate::base::ids::{MessageId, Position, ShardId};
use crate::base::limits::{DISK_ALIGN_BYTES, VERDICT_TEXT_MAX_BYTES};
use crate::base::time::UnixMs;
use crate::mail::parameters::{ParameterBlock, by_member};
use crate::mail::text::Text;

/// Size of a record's header.
pub const HEADER_BYTES: usize = 32;
/// Records start on multiples of this.
pub const RECORD_ALIGN_BYTES: usize = 8;
/// Version of the format; in each start record. Version 2 added texts in plain form, version 3 parameters of MAIL and RCPT,
/// version 4 groups of recipients with a reverse-path of their own.
pub const FORMAT_VERSION: u32 = 4;
/// The oldest version that is still read: what later ones added, it has as zeros.
pub const FORMAT_VERSION_OLDEST: u32 = 1;
/// Where the first batch of a segment begins: the sector before it holds the start record alone.
pub const FIRST_BATCH_OFFSET: u32 = DISK_ALIGN_BYTES as u32;

const MAGIC: u16 = u16::from_le_bytes(*b"RP");
const CRC_AT: usize = 28;
const START_BYTES: usize = 16;
const CUT_ENTRY_BYTES: usize = 12;
const ACCEPT_FIXED_BYTES: usize = 56;
const CHUNK_REF_BYTES: usize = 12;
const RECIPIENT_FIXED_BYTES: usize = 13;
const VERDICT_FIXED_BYTES: usize = 16;
const VERDICT_ENTRY_BYTES: usize = 20;
/// Bit of a recipient's state.
const DELAY_REPORTED: u8 = 0x80;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first record of a segment's life, alone in its sector.
    Start = 1,
    /// A part of a body that was too long to wait for its end.
    Chunk = 2,
    /// A message: envelope, prefix, the last (or only) part of the body. With it the message is accepted.
    Accept = 3,
    /// What became of recipients.
    Verdict = 4,
    /// Where earlier lives end; what stands behind does not count.
    Cut = 5,
}

/// The part of a record before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Length of the payload.
    pub length_bytes: u32,
    /// Where it stands.
    pub position: Position,
    /// How far its log was durable when it was made.
    pub durable: Position,
    /// Whose log it is.
    pub shard: ShardId,
}

/// `length` rounded up to where the next record may start.
pub const fn padded(length: usize) -> usize {
    length.next_multiple_of(RECORD_ALIGN_BYTES)
}

/// Writes the header, checksum included, before the payload that already stands in `record[HEADER_BYTES..]`.
pub fn seal(record: &mut [u8], kind: Kind, position: Position, durable: Position, shard: ShardId) {
    let length = u32::try_from(record.len() - HEADER_BYTES).expect("a record is shorter than a block");
    record[0..2].copy_from_slice(&MAGIC.to_le_bytes());
    record[2] = kind as u8;
    record[3] = 0;
    record[4..8].copy_from_slice(&length.to_le_bytes());
    record[8..16].copy_from_slice(&position.0.to_le_bytes());
    record[16..24].copy_from_slice(&durable.0.to_le_bytes());
    record[24..26].copy_from_slice(&shard.0.to_le_bytes());
    record[26..28].fill(0);
    let sum = checksum(record);
    record[CRC_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
}

fn checksum(record: &[u8]) -> u32 {
    crc32c(&[&record[..CRC_AT], &record[HEADER_BYTES..]])
}

/// Reads a header, without its checksum: for finding out how long the record claims to be.
pub fn header(bytes: &[u8]) -> Option<Header> {
    let mut reader = Reader(bytes.get(..HEADER_BYTES)?);
    if reader.u16()? != MAGIC {
        return None;
    }
    let kind = match reader.u8()? {
        1 => Kind::Start,
        2 => Kind::Chunk,
        3 => Kind::Accept,
        4 => Kind::Verdict,
        5 => Kind::Cut,
        _ => return None,
    };
    if reader.u8()? != 0 {
        return None;
    }
    let length_bytes = reader.u32()?;
    let (position, durable) = (Position(reader.u64()?), Position(reader.u64()?));
    let shard = ShardId(reader.u16()?);
    (reader.u16()? == 0).then_some(Header { kind, length_bytes, position, durable, shard })
}

/// The length of the payload as a header has it, whatever else is wrong with that.
pub fn length_field(header: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(header.get(4..8)?.try_into().ok()?))
}

/// The header and payload of the record at the start of `bytes`, if its checksum holds.
pub fn open(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let header = header(bytes)?;
    let record = bytes.get(..HEADER_BYTES.checked_add(header.length_bytes as usize)?)?;
    let stored = u32::from_le_bytes(record[CRC_AT..HEADER_BYTES].try_into().expect("four bytes"));
    (checksum(record) == stored).then_some((header, &record[HEADER_BYTES..]))
}

/// The payload of a record read back from disk, if it is the one asked for: shard, position and checksum agree.
pub fn verify(bytes: &[u8], shard: ShardId, position: Position) -> Option<&[u8]> {
    let (header, payload) = open(bytes)?;
    (header.shard == shard && header.position == position).then_some(payload)
}

// ---- places ----

/// Where a message's accepting record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Of the record.
    pub position: Position,
    /// Length of its payload.
    pub length_bytes: u32,
    /// How often the message was copied forward to get here; 0 for where it was accepted.
    pub copies: u16,
}

impl Place {
    /// How much to read to get the whole record, header included.
    pub const fn record_bytes(&self) -> u32 {
        HEADER_BYTES as u32 + self.length_bytes
    }
}

/// Where a part of a body stands. Holds its segment until settled or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Of the chunk record.
    pub position: Position,
    /// Length of its payload, which is the body part.
    pub length_bytes: u32,
}

impl ChunkRef {
    /// How much to read to get the whole record, header included.
    pub const fn record_bytes(&self) -> u32 {
        HEADER_BYTES as u32 + self.length_bytes
    }
}

// ---- start and cut ----

/// Payload of a start record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Version of the format.
    pub version: u32,
    /// Size of the segment file.
    pub segment_bytes: u32,
}

impl Start {
    /// Length of a whole start record.
    pub const RECORD_BYTES: usize = HEADER_BYTES + START_BYTES;

    /// Writes the payload.
    pub fn write(&self, out: &mut [u8]) {
        let mut writer = Writer::new(out);
        writer.u32(self.version);
        writer.u32(self.segment_bytes);
        writer.u64(0);
        writer.end();
    }

    /// Reads the payload.
    pub fn read(payload: &[u8]) -> Option<Start> {
        let mut reader = Reader(payload);
        Some(Start { version: reader.u32()?, segment_bytes: reader.u32()? })
    }
}

/// One life's end, as a cut record tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutEntry {
    /// Which life.
    pub life: u32,
    /// Where it ends; what stands at or behind this offset does not count.
    pub from_bytes: u32,
    /// True if a write failed, so that something may stand behind; false if the segment was just full.
    pub failed: bool,
}

impl CutEntry {
    /// Length of the payload that tells of so many lives.
    pub const fn payload_bytes(entries: usize) -> usize {
        entries * CUT_ENTRY_BYTES
    }

    /// Writes a payload of entries.
    pub fn write(entries: &[CutEntry], out: &mut [u8]) {
        let mut writer = Writer::new(out);
        for entry in entries {
            writer.u32(entry.life);
            writer.u32(entry.from_bytes);
            writer.u32(u32::from(entry.failed));
        }
        writer.end();
    }

    /// Reads a payload.
    pub fn read(payload: &[u8]) -> impl Iterator<Item = CutEntry> + '_ {
        payload.chunks_exact(CUT_ENTRY_BYTES).filter_map(|entry| {
            let mut reader = Reader(entry);
            Some(CutEntry { life: reader.u32()?, from_bytes: reader.u32()?, failed: reader.u32()? != 0 })
        })
    }
}

// ---- accept ----

/// What is known of a recipient when an accepting record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecipientState {
    /// Still to be delivered.
    Open = 0,
    /// A next hop took responsibility. Terminal.
    Delivered = 1,
    /// Given up. Terminal.
    Failed = 2,
}

/// One recipient to be written.
#[derive(Clone, Copy, Debug)]
pub struct DraftRecipient<'a> {
    /// The mailbox, without brackets.
    pub address: &'a [u8],
    /// `Open`, but for copies.
    pub state: RecipientState,
    /// Attempts made; 0, but for copies.
    pub attempts: u16,
    /// Not tried before this moment; 0: at once.
    pub due: UnixMs,
    /// Its sender was told that it takes long.
    pub delay_reported: bool,
}

impl DraftRecipient<'_> {
    /// One of a new message, to be delivered at once.
    pub const fn open(address: &[u8]) -> DraftRecipient<'_> {
        DraftRecipient { address, state: RecipientState::Open, attempts: 0, due: UnixMs(0), delay_reported: false }
    }
}

/// The recipients of a message to be written; asked for each one twice.
pub trait RecipientList {
    /// How many.
    fn count(&self) -> usize;
    /// Each one by its number.
    fn get(&self, index: usize) -> DraftRecipient<'_>;
}

impl RecipientList for &[DraftRecipient<'_>] {
    fn count(&self) -> usize {
        self.len()
    }
    fn get(&self, index: usize) -> DraftRecipient<'_> {
        self[index]
    }
}

impl RecipientList for Vec<DraftRecipient<'_>> {
    fn count(&self) -> usize {
        self.len()
    }
    fn get(&self, index: usize) -> DraftRecipient<'_> {
        self[index]
    }
}

/// Says that an accepting record is a copy of one that stands elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct CopyOf {
    /// The name the message keeps.
    pub id: MessageId,
    /// `copies` of the place it is copied from; the new place has one more.
    pub copies: u16,
}

/// A message to be written.
#[derive(Clone, Copy)]
pub struct Draft<'a> {
    /// None for a new message.
    pub copy_of: Option<CopyOf>,
    /// When it was accepted.
    pub arrived: UnixMs,
    /// What the body is like.
    pub text: Text,
    /// Size of the body, unstuffed.
    pub body_bytes: u64,
    /// Reverse-path without brackets; empty for the null one.
    pub sender: &'a [u8],
    /// Everyone it goes to.
    pub recipients: &'a dyn RecipientList,
    /// What MAIL and RCPT said beside the addresses, as `mail::parameters` has it; empty for nothing.
    pub parameters: &'a [u8],
    /// The parts of the body that went ahead, in order.
    pub chunks: &'a [ChunkRef],
    /// The last (or only) part of the body.
    pub tail: &'a [&'a [u8]],
}

impl Draft<'_> {
    /// Length of the payload with a prefix of `prefix_bytes`.
    pub fn payload_bytes(&self, prefix_bytes: usize) -> usize {
        ACCEPT_FIXED_BYTES
            + self.chunks.len() * CHUNK_REF_BYTES
            + self.sender.len()
            + self.recipients_bytes()
            + self.parameters.len()
            + prefix_bytes
            + self.tail_bytes()
    }

    fn recipients_bytes(&self) -> usize {
        (0..self.recipients.count()).map(|i| RECIPIENT_FIXED_BYTES + self.recipients.get(i).address.len()).sum()
    }

    fn tail_bytes(&self) -> usize {
        self.tail.iter().map(|part| part.len()).sum()
    }

    /// Writes the payload; `out` is exactly as long as [`Draft::payload_bytes`] says.
    pub fn write(&self, id: MessageId, prefix: &[u8], out: &mut [u8]) {
        let mut writer = Writer::new(out);
        writer.u16(id.shard.0);
        writer.u16(self.text.bits());
        writer.u16(self.copy_of.map_or(0, |copy| copy.copies.saturating_add(1)));
        writer.u16(u16::try_from(self.sender.len()).expect("a path is shorter than 64 KiB"));
        writer.u64(id.position.0);
        writer.u64(self.arrived.0);
        writer.u64(self.body_bytes);
        writer.u32(self.chunks.len() as u32);
        writer.u32(self.recipients.count() as u32);
        writer.u32(self.recipients_bytes() as u32);
        writer.u32(prefix.len() as u32);
        writer.u32(self.tail_bytes() as u32);
        writer.u32(self.parameters.len() as u32);
        for chunk in self.chunks {
            writer.u64(chunk.position.0);
            writer.u32(chunk.length_bytes);
        }
        writer.bytes(self.sender);
        for index in 0..self.recipients.count() {
            let recipient = self.recipients.get(index);
            writer.u8(recipient.state as u8 | if recipient.delay_reported { DELAY_REPORTED } else { 0 });
            writer.u16(recipient.attempts);
            writer.u64(recipient.due.0);
            writer.u16(u16::try_from(recipient.address.len()).expect("a path is shorter than 64 KiB"));
            writer.bytes(recipient.address);
        }
        writer.bytes(self.parameters);
        writer.bytes(prefix);
        for part in self.tail {
            writer.bytes(part);
        }
        writer.end();
    }
}

/// An accepting record's payload, read in place.
#[derive(Clone, Debug)]
pub struct AcceptView<'a> {
    payload: &'a [u8],
    /// The message's name.
    pub id: MessageId,
    /// How often it was copied.
    pub copies: u16,
    /// What the body is like.
    pub text: Text,
    /// When it was accepted.
    pub arrived: UnixMs,
    /// Size of the body, unstuffed.
    pub body_bytes: u64,
    chunks: Range<usize>,
    sender: Range<usize>,
    recipient_count: usize,
    recipients: Range<usize>,
    parameters: Range<usize>,
    /// Where in the payload the prefix stands.
    pub prefix: Range<usize>,
    /// Where in the payload the last (or only) part of the body stands.
    pub tail: Range<usize>,
}

/// One recipient as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecipientView<'a> {
    /// The mailbox.
    pub address: &'a [u8],
    /// Its state when the record was written.
    pub state: RecipientState,
    /// Attempts made by then.
    pub attempts: u16,
    /// Not tried before this moment.
    pub due: UnixMs,
    /// Its sender was told that it takes long.
    pub delay_reported: bool,
}

impl<'a> AcceptView<'a> {
    /// Reads the fixed part and checks that all parts together are the payload.
    pub fn read(payload: &'a [u8]) -> Option<AcceptView<'a>> {
        let mut reader = Reader(payload);
        let shard = ShardId(reader.u16()?);
        let flags = reader.u16()?;
        let copies = reader.u16()?;
        let sender_bytes = usize::from(reader.u16()?);
        let id = MessageId { shard, position: Position(reader.u64()?) };
        let arrived = UnixMs(reader.u64()?);
        let body_bytes = reader.u64()?;
        let chunk_count = reader.u32()? as usize;
        let recipient_count = reader.u32()? as usize;
        let recipients_bytes = reader.u32()? as usize;
        let prefix_bytes = reader.u32()? as usize;
        let tail_bytes = reader.u32()? as usize;
        let parameters_bytes = reader.u32()? as usize;
        let mut at = ACCEPT_FIXED_BYTES;
        let mut take = |length: usize| {
            let range = at..at.checked_add(length)?;
            at = range.end;
            Some(range)
        };
        let view = AcceptView {
            payload,
            id,
            copies,
            text: Text::from_bits(flags),
            arrived,
            body_bytes,
            chunks: take(chunk_count.checked_mul(CHUNK_REF_BYTES)?)?,
            sender: take(sender_bytes)?,
            recipient_count,
            recipients: take(recipients_bytes)?,
            parameters: take(parameters_bytes)?,
            prefix: take(prefix_bytes)?,
            tail: take(tail_bytes)?,
        };
        (at == payload.len()).then_some(view)
    }

    /// Reverse-path; empty for the null one.
    pub fn sender(&self) -> &'a [u8] {
        &self.payload[self.sender.clone()]
    }

    /// The reverse-path of the transaction in which the recipient of that number is sent to (FND-04).
    pub fn sender_of(&self, number: usize) -> Cow<'a, [u8]> {
        let stretch = self.parameters().stretch(number);
        let sender = stretch.sender(self.sender());
        let member = stretch.is_by_member().then(|| self.recipients_from(number).next()).flatten();
        match member.and_then(|member| by_member(sender, member.address)) {
            Some(path) => Cow::Owned(path),
            None => Cow::Borrowed(sender),
        }
    }

    /// Our own fields before the body.
    pub fn prefix(&self) -> &'a [u8] {
        &self.payload[self.prefix.clone()]
    }

    /// What MAIL and RCPT said beside the addresses.
    pub fn parameters(&self) -> ParameterBlock<'a> {
        ParameterBlock(&self.payload[self.parameters.clone()])
    }

    /// How many recipients it has.
    pub fn recipient_count(&self) -> usize {
        self.recipient_count
    }

    /// The recipients in order; ends early if they are malformed.
    pub fn recipients(&self) -> impl Iterator<Item = RecipientView<'a>> + Clone + use<'a> {
        self.recipients_from(0)
    }

    /// The recipients from that number on. Those before it are stepped over, which for the last of thousands takes
    /// microseconds.
    pub fn recipients_from(&self, number: usize) -> impl Iterator<Item = RecipientView<'a>> + Clone + use<'a> {
        let mut reader = Reader(&self.payload[self.recipients.clone()]);
        for _ in 0..number {
            let Some(length) = reader.0.get(RECIPIENT_FIXED_BYTES - 2..RECIPIENT_FIXED_BYTES) else { break };
            let length = RECIPIENT_FIXED_BYTES + usize::from(u16::from_le_bytes([length[0], length[1]]));
            reader.0 = reader.0.get(length..).unwrap_or_default();
        }
        std::iter::from_fn(move || {
            let state = reader.u8()?;
            let delay_reported = state & DELAY_REPORTED != 0;
            let state = match state & !DELAY_REPORTED {
                0 => RecipientState::Open,
                1 => RecipientState::Delivered,
                2 => RecipientState::Failed,
                _ => return None,
            };
            let (attempts, due) = (reader.u16()?, UnixMs(reader.u64()?));
            let length = usize::from(reader.u16()?);
            Some(RecipientView { address: reader.bytes(length)?, state, attempts, due, delay_reported })
        })
        .take(self.recipient_count.saturating_sub(number))
    }

    /// The parts of the body that went ahead, in order.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = ChunkRef> + use<'a> {
        self.payload[self.chunks.clone()].chunks_exact(CHUNK_REF_BYTES).map(|entry| {
            let (position, length) = entry.split_at(8);
            ChunkRef {
                position: Position(u64::from_le_bytes(position.try_into().expect("eight bytes"))),
                length_bytes: u32::from_le_bytes(length.try_into().expect("four bytes")),
            }
        })
    }
}

// ---- verdict ----

/// What became of one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VerdictOutcome {
    /// A next hop took responsibility. Terminal.
    Delivered = 1,
    /// Given up. Terminal.
    Failed = 2,
    /// To be tried again when due.
    Deferred = 3,
}

/// One recipient's verdict to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictDraft<'a> {
    /// Number of the recipient in the accepting record.
    pub recipient: u32,
    /// What became of it.
    pub outcome: VerdictOutcome,
    /// Attempts made, this one included.
    pub attempts: u16,
    /// When to try again.
    pub due: UnixMs,
    /// Its sender was told that it takes long, now or before.
    pub delay_reported: bool,
    /// Reply code; 0 for none.
    pub code: u16,
    /// Reply text; cut to `VERDICT_TEXT_MAX_BYTES`.
    pub text: &'a [u8],
}

impl<'a> VerdictDraft<'a> {
    /// The first recipient is delivered at once, as tests have it.
    #[cfg(test)]
    pub(crate) fn delivered(text: &'a [u8]) -> VerdictDraft<'a> {
        VerdictDraft {
            recipient: 0,
            outcome: VerdictOutcome::Delivered,
            attempts: 1,
            due: UnixMs(0),
            delay_reported: false,
            code: 250,
            text,
        }
    }

    fn kept_text(&self) -> &'a [u8] {
        &self.text[..self.text.len().min(VERDICT_TEXT_MAX_BYTES)]
    }

    /// Length of the payload of these verdicts.
    pub fn payload_bytes(verdicts: &[VerdictDraft<'_>]) -> usize {
        VERDICT_FIXED_BYTES + verdicts.iter().map(|v| VERDICT_ENTRY_BYTES + v.kept_text().len()).sum::<usize>()
    }

    /// Writes the payload; `out` is exactly as long as [`VerdictDraft::payload_bytes`] says.
    pub fn write(message: MessageId, verdicts: &[VerdictDraft<'_>], out: &mut [u8]) {
        let mut writer = Writer::new(out);
        writer.u16(message.shard.0);
        writer.u16(0);
        writer.u32(verdicts.len() as u32);
        writer.u64(message.position.0);
        for verdict in verdicts {
            let text = verdict.kept_text();
            writer.u32(verdict.recipient);
            writer.u8(verdict.outcome as u8);
            writer.u8(u8::from(verdict.delay_reported));
            writer.u16(verdict.attempts);
            writer.u64(verdict.due.0);
            writer.u16(verdict.code);
            writer.u16(text.len() as u16);
            writer.bytes(text);
        }
        writer.end();
    }
}

/// A verdict record's payload, read in place.
#[derive(Clone, Copy, Debug)]
pub struct VerdictView<'a> {
    /// Which message.
    pub message: MessageId,
    count: usize,
    entries: &'a [u8],
}

impl<'a> VerdictView<'a> {
    /// Reads the fixed part.
    pub fn read(payload: &'a [u8]) -> Option<VerdictView<'a>> {
        let mut reader = Reader(payload);
        let shard = ShardId(reader.u16()?);
        reader.u16()?;
        let count = reader.u32()? as usize;
        let message = MessageId { shard, position: Position(reader.u64()?) };
        Some(VerdictView { message, count, entries: reader.0 })
    }

    /// The verdicts; ends early if they are malformed.
    pub fn verdicts(&self) -> impl Iterator<Item = VerdictDraft<'a>> + use<'a> {
        let mut reader = Reader(self.entries);
        std::iter::from_fn(move || {
            let recipient = reader.u32()?;
            let outcome = match reader.u8()? {
                1 => VerdictOutcome::Delivered,
                2 => VerdictOutcome::Failed,
                3 => VerdictOutcome::Deferred,
                _ => return None,
            };
            let delay_reported = reader.u8()? & 1 != 0;
            let (attempts, due, code) = (reader.u16()?, UnixMs(reader.u64()?), reader.u16()?);
            let length = usize::from(reader.u16()?);
            Some(VerdictDraft { recipient, outcome, attempts, due, delay_reported, code, text: reader.bytes(length)? })
        })
        .take(self.count)
    }
}

// ---- bytes in and out ----

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut [u8]) -> Self {
        Writer { out, at: 0 }
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }
    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
    fn end(self) {
        assert_eq!(self.at, self.out.len(), "a record is exactly as long as it said");
    }
}

#[derive(Clone)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
    fn u8(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }
    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(2)?.try_into().ok()?))
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests;
