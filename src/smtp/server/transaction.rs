//! The transaction of a session: envelope and text, from MAIL to the verdict (RFC 5321 3.3).
//!
//! A session that sent nothing yet holds none, so that one that stands idle is small; the first MAIL makes it, and the ones
//! behind it use it again. What is wrong with a text is looked for while it comes and told at its end.

use super::{Server, ServerEvent, ServerSettings, Waiting, storage_reply};
use crate::base::limits::MESSAGE_HARD_FACTOR;
use crate::mail::envelope::{Body, Envelope};
use crate::mail::trace::HeaderScan;
use crate::queue::LogRefusal;
use crate::smtp::data::{DataDecoder, PlainScan, Step};
use crate::smtp::reply::{self, Reply};

/// What MAIL and all behind it brought.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) envelope: Envelope,
    /// The text, if it comes by DATA.
    pub(super) data: DataDecoder,
    /// The text, if it comes by BDAT.
    pub(super) plain: PlainScan,
    pub(super) header: HeaderScan,
    pub(super) storage_refusal: Option<LogRefusal>,
}

impl Server {
    /// The transaction that MAIL began.
    pub(super) fn transaction(&self) -> &Transaction {
        self.transaction.as_deref().expect("asked for inside a transaction")
    }

    /// True if mail was begun in this session at some time.
    pub fn has_begun(&self) -> bool {
        self.transaction.is_some()
    }

    pub(super) fn transaction_mut(&mut self) -> &mut Transaction {
        self.transaction.get_or_insert_default()
    }

    pub(super) fn begin_data(&mut self, argument: bool) -> Reply {
        if argument {
            reply::BAD_ARGUMENT
        } else if !self.in_transaction {
            reply::MAIL_FIRST
        } else if self.envelope().is_empty() {
            reply::NO_RECIPIENTS
        } else if self.chunked {
            reply::CHUNKS_BEGUN
        } else if self.envelope().body == Body::BinaryMime {
            reply::BINARY_BY_DATA
        } else {
            self.waiting = Waiting::Data;
            let header = self.header_scan(false);
            let transaction = self.transaction_mut();
            transaction.data = DataDecoder::new();
            transaction.header = header;
            reply::SEND_DATA
        }
    }

    pub(super) fn next_data<'b>(&mut self, input: &mut &'b [u8], out: &mut Vec<u8>) -> ServerEvent<'b> {
        loop {
            let hard_max = self.settings.message_bytes_max.saturating_mul(MESSAGE_HARD_FACTOR);
            let transaction = self.transaction_mut();
            match transaction.data.step(input) {
                Step::More => return ServerEvent::NeedMore,
                Step::End => return self.end_of_data(out),
                Step::Piece(piece) => {
                    transaction.header.feed(piece);
                    if transaction.data.wire_bytes() > hard_max {
                        self.end_session(reply::FAR_TOO_LARGE, out);
                        *input = &[];
                        return ServerEvent::Close;
                    }
                    if self.message_refusal().is_none() {
                        return ServerEvent::Body(piece);
                    }
                }
            }
        }
    }

    pub(super) fn header_scan(&self, plain: bool) -> HeaderScan {
        HeaderScan::new(plain, self.settings.submission).watching(self.envelope().utf8)
    }

    /// Why the message is refused now that its header is known in whole (BLK-07).
    pub(super) fn header_refusal(&self) -> Option<Reply> {
        (self.settings.submission && self.transaction().header.from_fields() != 1).then_some(reply::FROM_FIELDS)
    }

    /// Why the message will be refused at its end, as far as is known. In order of weight, not of time, so that
    /// the reply does not hang on how the bytes were split.
    pub(super) fn message_refusal(&self) -> Option<Reply> {
        let Transaction { envelope, data, plain, header, storage_refusal } = self.transaction();
        let (bare_line_end, long_line, body_bytes) = if self.chunked {
            let lines = envelope.body != Body::BinaryMime;
            (lines && plain.bare_line_end(), lines && plain.long_line(), plain.bytes())
        } else {
            (data.bare_line_end(), data.long_line(), data.body_bytes())
        };
        let refusal = text_refusal(&self.settings, bare_line_end, long_line, body_bytes, *header);
        refusal.or_else(|| storage_refusal.map(storage_reply))
    }

    fn end_of_data(&mut self, out: &mut Vec<u8>) -> ServerEvent<'static> {
        match self.message_refusal().or(self.header_refusal()) {
            None => {
                self.waiting = Waiting::Verdict;
                ServerEvent::MessageEnd
            }
            Some(refusal) => {
                refusal.write(out);
                self.end_transaction();
                self.waiting = Waiting::Command;
                ServerEvent::MessageDropped
            }
        }
    }
}

/// What is wrong with a text, whichever way it came (DAT-03, SIZ-06, SIZ-08, TRC-06, FND-09).
pub(crate) fn text_refusal(
    settings: &ServerSettings,
    bare_line_end: bool,
    long_line: bool,
    body_bytes: u64,
    header: HeaderScan,
) -> Option<Reply> {
    if bare_line_end {
        Some(reply::BARE_LINE_END)
    } else if long_line {
        Some(reply::DATA_LINE_TOO_LONG)
    } else if body_bytes > settings.message_bytes_max {
        Some(reply::TOO_LARGE)
    } else if header.received_fields() > settings.received_fields_max {
        Some(reply::LOOPING)
    } else {
        None
    }
}
