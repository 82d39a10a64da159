//! What a message is made of, apart from the protocol that carries it: addresses and what they stand for, the envelope and its parameters,
//! trace fields, reports, signatures.

pub mod address;
pub mod aliases;
pub mod date;
pub mod dkim;
pub mod dsn;
pub mod envelope;
pub mod parameters;
pub mod text;
pub mod tls_report;
pub mod trace;
