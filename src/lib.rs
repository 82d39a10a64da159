//! Ringpost: a durable, thread-per-core SMTP relay for bulk outbound mail.
pub mod base;
pub mod mail;
pub mod queue;
pub mod smtp;
