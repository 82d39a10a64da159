//! The protocol, both sides, and its grammar: bytes and time in, bytes and events out. No socket, clock or task;
//! shard-local.

pub mod auth;
pub mod client;
pub mod command;
pub mod data;
pub mod line;
pub mod ntlm;
pub mod proxy;
pub mod reply;
pub mod reply_parser;
pub mod sasl;
pub mod server;
pub mod xclient;
