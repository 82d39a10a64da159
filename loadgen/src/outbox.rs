//! What a connection still has to send: its own small bytes, and bodies by reference, written together in one call.
//!
//! Lives on its connection's thread. Memory is bounded by what the session puts in, one body and two envelopes. Errors of
//! the socket are handed on.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;

const SLICES_MAX: usize = 16;

enum Piece {
    Own { from: usize, to: usize },
    Shared { bytes: Arc<[u8]>, from: usize, to: usize },
}

/// Bytes on their way out.
#[derive(Default)]
pub struct Outbox {
    own: Vec<u8>,
    pieces: VecDeque<Piece>,
    /// Bytes of `own` that are covered by pieces, written or not.
    covered: usize,
}

impl Outbox {
    /// The buffer for own bytes: only append to it.
    pub fn own(&mut self) -> &mut Vec<u8> {
        &mut self.own
    }

    /// Puts a shared body behind everything so far.
    pub fn push_shared(&mut self, bytes: &Arc<[u8]>) {
        self.push_part(bytes, 0..bytes.len());
    }

    /// Puts a part of a shared body behind everything so far.
    pub fn push_part(&mut self, bytes: &Arc<[u8]>, part: std::ops::Range<usize>) {
        assert!(part.end <= bytes.len(), "a part is of the whole");
        self.cover();
        if !part.is_empty() {
            self.pieces.push_back(Piece::Shared { bytes: Arc::clone(bytes), from: part.start, to: part.end });
        }
    }

    /// True when everything is written.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.covered == self.own.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.own.clear();
        self.pieces.clear();
        self.covered = 0;
    }

    /// Writes until all is out or the socket takes no more; `Ok(true)` when all is out. A partial write is not the end:
    /// only `WouldBlock` is, since readiness is told by edges.
    pub fn write_to(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        self.cover();
        while !self.pieces.is_empty() {
            match self.write_once(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.clear();
        Ok(true)
    }

    fn cover(&mut self) {
        let to = self.own.len();
        if self.covered < to {
            match self.pieces.back_mut() {
                Some(Piece::Own { to: end, .. }) if *end == self.covered => *end = to,
                _ => self.pieces.push_back(Piece::Own { from: self.covered, to }),
            }
            self.covered = to;
        }
    }

    fn write_once(&self, socket: &mut impl Write) -> io::Result<usize> {
        if let (1, Some(Piece::Own { from, to })) = (self.pieces.len(), self.pieces.front()) {
            return socket.write(&self.own[*from..*to]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(match piece {
                Piece::Own { from, to } => &self.own[*from..*to],
                Piece::Shared { bytes, from, to } => &bytes[*from..*to],
            });
            count += 1;
        }
        socket.write_vectored(&slices[..count])
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let (from, left) = match self.pieces.front_mut().expect("no more is written than was there") {
                Piece::Own { from, to } => {
                    let left = *to - *from;
                    (from, left)
                }
                Piece::Shared { from, to, .. } => {
                    let left = *to - *from;
                    (from, left)
                }
            };
            if count < left {
                *from += count;
                return;
            }
            count -= left;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Trickle(Vec<u8>, usize);
    impl Write for Trickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn keeps_the_order_whatever_the_socket_takes() {
        for step in 1..40 {
            let mut outbox = Outbox::default();
            let body: Arc<[u8]> = Arc::from(&b"the body of it"[..]);
            outbox.own().extend_from_slice(b"head ");
            outbox.own().extend_from_slice(b"more ");
            outbox.push_shared(&body);
            outbox.own().extend_from_slice(b" tail");
            outbox.push_part(&body, 4..8);
            let mut socket = Trickle(Vec::new(), step);
            assert!(outbox.write_to(&mut socket).unwrap() && outbox.is_empty());
            assert_eq!(socket.0, b"head more the body of it tailbody");
        }
    }
}
