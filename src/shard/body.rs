//! The body as it leaves: which parts of the log, in which form.
//!
//! Most bodies read the same in both forms and leave as slices of the log's blocks. One that does not is seen through
//! a [`View`] on its way into the outbox: slices still, cut at its dots; only where dots are so many that the slices would be
//! crumbs is it copied. Parts that are on disk only are seen when they have come, in order (DAT-06, DAT-07, BDT-06).

use crate::base::bytes::{Outbox, Slice, heap_block};
use crate::mail::text::Form;
use crate::queue::record::AcceptView;
use crate::queue::{ChunkRef, Log};
use crate::smtp::data::View;

/// Of a long body, so much is taken from memory at once; the rest is fetched as the connection takes it.
const BODY_AT_ONCE_BYTES: usize = 256 << 10;

/// A view makes slices as long as this on average, or copies.
const SLICE_LEAST_BYTES: usize = 512;

/// Puts a message into the outbox. A view that has more to see, once parts on disk have come, is given back.
pub(super) fn push_body(log: &Log, record: &Slice, chunks: &[ChunkRef], form: Form, out: &mut Outbox) -> Option<View> {
    let accept = AcceptView::read(record).expect("the record was verified when it came");
    let text = accept.text;
    let tail = record.part(accept.tail.start, accept.tail.end);
    let stored_bytes = chunks.iter().map(|chunk| u64::from(chunk.length_bytes)).sum::<u64>() + tail.len() as u64;
    // Wire form without doubled dots is plain form.
    let same = text.form() == form || (form == Form::Plain && stored_bytes == accept.body_bytes);
    let mut body =
        Body { log, out, view: (!same).then(|| View::to(form)), at_once_bytes: BODY_AT_ONCE_BYTES, held: false };
    // Our own fields read the same in both forms.
    body.out.push_slice(record.part(accept.prefix.start, accept.prefix.end));
    chunks.iter().for_each(|chunk| body.push_chunk(chunk));
    body.push(tail);
    let (view, held) = (body.view, body.held);
    if form == Form::Wire && text.open_end {
        out.push(b"\r\n");
    }
    view.filter(|_| held)
}

struct Body<'a> {
    log: &'a Log,
    out: &'a mut Outbox,
    view: Option<View>,
    at_once_bytes: usize,
    /// Something before is to be fetched, so the view cannot see what comes behind it yet.
    held: bool,
}

impl Body<'_> {
    fn push_chunk(&mut self, chunk: &ChunkRef) {
        match self.log.chunk(chunk).filter(|slice| slice.len() <= self.at_once_bytes) {
            Some(slice) => {
                self.at_once_bytes -= slice.len();
                self.push(slice);
            }
            None => {
                self.at_once_bytes = 0;
                self.held = true;
                self.out.push_later(chunk.position.0, chunk.length_bytes as usize);
            }
        }
    }

    fn push(&mut self, slice: Slice) {
        match &mut self.view {
            None => self.out.push_slice(slice),
            Some(_) if self.held => self.out.push_held(slice),
            Some(view) => see(view, &slice, &mut |slice| self.out.push_slice(slice)),
        }
    }
}

/// Puts a part that was fetched in its place. False if it is not awaited.
pub(super) fn fill(out: &mut Outbox, view: Option<&mut View>, name: u64, slice: Slice) -> bool {
    let filled = out.fill(name, slice, view.is_some());
    if let Some(view) = view {
        out.release(|slice, give| see(view, slice, give));
    }
    filled
}

/// Gives a slice as the view shows it: as parts of it, but a copy of all behind so many that they would be crumbs.
fn see(view: &mut View, slice: &Slice, give: &mut dyn FnMut(Slice)) {
    let base = slice.as_ptr() as usize;
    let mut parts = view.view(slice);
    for part in parts.by_ref().take(1 + slice.len() / SLICE_LEAST_BYTES) {
        let start = part.as_ptr() as usize - base;
        give(slice.part(start, start + part.len()));
    }
    let rest: Vec<u8> = parts.flatten().copied().collect();
    if !rest.is_empty() {
        let length = rest.len();
        give(Slice::new(heap_block(rest), 0, length));
    }
}
