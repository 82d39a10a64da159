//! The protocol: bytes in, replies and events out. No socket, clock or task; shard-local.

pub mod command;
pub mod data;
pub mod line;
pub mod reply;
pub mod server;
