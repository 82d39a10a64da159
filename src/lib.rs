//! Ringpost: a durable, thread-per-core SMTP relay for bulk outbound mail.
pub mod base;
pub mod config;
pub mod schedule;
pub mod shard;
