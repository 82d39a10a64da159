//! Ringpost: a durable, thread-per-core SMTP relay for bulk outbound mail.
//!
//! A message passes these rooms, in this order (`docs/flow.md` draws it):
//!
//! 1. [`runtime`]: sockets, disk, clock and mesh of one core; the only folder that names glommio or libc.
//! 2. [`smtp`]: the protocol, both sides, bytes in and bytes out.
//! 3. [`mail`]: addresses, envelopes, trace fields, reports.
//! 4. [`shard`]: one core's post office, a pure state machine that joins the others.
//! 5. [`queue`]: the durable log, what is in it, and what recovery makes of it.
//! 6. [`schedule`]: when what is tried: wheel, back-off, sites, permits.
//! 7. [`route`]: where mail for a domain goes.
//! 8. [`control`]: the ordinary thread beside the shards; the only folder that names tokio.
//!
//! [`tune`] finds the settings for a machine by measuring. [`config`] is what an operator says, [`base`] the small nouns that all use. Without the default feature
//! `runtime` the crate is the pure core alone.

pub mod base;
pub mod config;
#[cfg(feature = "runtime")]
pub mod control;
pub mod mail;
pub mod queue;
pub mod route;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod schedule;
pub mod shard;
pub mod smtp;
#[cfg(feature = "runtime")]
pub mod tune;
