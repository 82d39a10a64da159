//! What a message is made of: addresses, the envelope, trace fields. Pure; nothing here speaks SMTP.

pub mod address;
pub mod envelope;
pub mod trace;
