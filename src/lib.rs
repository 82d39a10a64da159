//! Ringpost: a durable, thread-per-core SMTP relay for bulk outbound mail.
pub mod base;
#[cfg(feature = "runtime")]
pub mod control;
pub mod mail;
pub mod route;
pub mod smtp;
