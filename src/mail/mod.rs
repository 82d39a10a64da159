//! What a message is made of, apart from the protocol that carries it.
pub mod dsn;
pub mod trace;
