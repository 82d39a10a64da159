//! Ringpost: a durable, thread-per-core SMTP relay for bulk outbound mail.
pub mod base;
pub mod queue;
