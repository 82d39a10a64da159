//! Small nouns that every room uses: bytes, ids, time, randomness, bounds.
//!
//! Nothing here does I/O, reads a clock or takes a lock.

pub mod bytes;
pub mod checksum;
pub mod histogram;
pub mod ids;
pub mod limits;
pub mod names;
pub mod rng;
#[cfg(test)]
pub(crate) mod search;
pub mod time;
