//! The SMTP state machines and their grammar: bytes and time in, bytes and events out, no I/O.
pub mod client;
pub mod reply_parser;
