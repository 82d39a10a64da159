//! What a message is made of, apart from the protocol that carries it: addresses, the envelope, trace fields, reports.

pub mod address;
pub mod dsn;
pub mod envelope;
pub mod text;
pub mod trace;
