//! BDAT: a message in counted chunks, each with its reply (BDT-01..BDT-09; RFC 3030 2).
//!
//! The octets of a chunk are read whatever becomes of it, so that the stream stays in step; only two things end the
//! session: a size that cannot be read, since then nobody knows where the next command begins, and one beyond all
//! bounds. A chunk that is refused ends the transaction. Chunks are judged where they end, so replies do not hang on how the
//! bytes were split. Nothing is kept per chunk: a million of them cost what one does (BDT-07).
//!
//! What comes so is not looked at for dots or ends of data (BDT-06). Bare CR and LF and long lines are refused as they
//! are in DATA, but for BINARYMIME, which may hold anything and never leaves by DATA.

use super::{Server, ServerEvent, Waiting};
use crate::base::limits::MESSAGE_HARD_FACTOR;
use crate::mail::envelope::Body;
use crate::mail::text::Text;
use crate::smtp::data::PlainScan;
use crate::smtp::reply::{self, Reply};

/// The chunk being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bdat {
    left_bytes: u64,
    last: bool,
    /// Why its octets are thrown away, if they are.
    refusal: Option<Reply>,
}

impl Server {
    /// Takes a BDAT command; its reply comes when its octets were read.
    pub(super) fn begin_chunk(&mut self, size_bytes: Option<u64>, last: bool, argument: bool, out: &mut Vec<u8>) {
        let Some(left_bytes) = size_bytes else {
            return self.end_session(reply::CHUNK_SIZE, out);
        };
        let limit = self.settings.message_bytes_max;
        let together = left_bytes.saturating_add(if self.chunked { self.transaction().plain.bytes() } else { 0 });
        if together > limit.saturating_mul(MESSAGE_HARD_FACTOR) {
            return self.end_session(reply::FAR_TOO_LARGE, out);
        }
        let refusal = if argument {
            Some(reply::BAD_ARGUMENT)
        } else if !self.in_transaction {
            Some(reply::MAIL_FIRST)
        } else if self.envelope().is_empty() {
            Some(reply::NO_RECIPIENTS)
        } else if together > limit {
            Some(reply::TOO_LARGE)
        } else {
            None
        };
        if refusal.is_none() && !self.chunked {
            self.chunked = true;
            let header = self.header_scan(true);
            let transaction = self.transaction_mut();
            transaction.plain = PlainScan::default();
            transaction.header = header;
        }
        self.bdat = Some(Bdat { left_bytes, last, refusal });
        self.waiting = Waiting::Data;
    }

    /// The next octets of the chunk, or its end.
    pub(super) fn next_of_chunk<'b>(&mut self, input: &mut &'b [u8], out: &mut Vec<u8>) -> Option<ServerEvent<'b>> {
        let bdat = self.bdat.as_mut().expect("asked for only inside a chunk");
        if bdat.left_bytes == 0 {
            return self.end_of_chunk(out);
        }
        if input.is_empty() {
            return Some(ServerEvent::NeedMore);
        }
        let length = usize::try_from(bdat.left_bytes).unwrap_or(usize::MAX).min(input.len());
        let (piece, rest) = input.split_at(length);
        *input = rest;
        bdat.left_bytes -= length as u64;
        if bdat.refusal.is_some() {
            return None;
        }
        let transaction = self.transaction_mut();
        transaction.plain.feed(piece);
        transaction.header.feed(piece);
        self.message_refusal().is_none().then_some(ServerEvent::Body(piece))
    }

    fn end_of_chunk(&mut self, out: &mut Vec<u8>) -> Option<ServerEvent<'static>> {
        let Bdat { last, refusal, .. } = self.bdat.take().expect("a chunk that ends was begun");
        self.waiting = Waiting::Command;
        if let Some(refusal) = refusal {
            self.end_transaction();
            self.answer(refusal, out);
            return None;
        }
        if last {
            self.transaction_mut().plain.end();
        }
        let header_refusal = if last { self.header_refusal() } else { None };
        match self.message_refusal().or(header_refusal) {
            Some(refusal) => {
                refusal.write(out);
                self.end_transaction();
                None
            }
            None if last => {
                self.waiting = Waiting::Verdict;
                Some(ServerEvent::MessageEnd)
            }
            None => {
                reply::CHUNK_TAKEN.write(out);
                None
            }
        }
    }

    /// What a text that came by BDAT is like.
    pub(super) fn plain_text(&self) -> Text {
        self.transaction().plain.text(self.envelope().body == Body::BinaryMime)
    }
}
