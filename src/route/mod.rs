//! Stub.
use std::net::IpAddr;
/// Query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryId(pub u64);
/// Host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailHost {
    /// p.
    pub preference: u16,
    /// n.
    pub name: Box<str>,
    /// a.
    pub addresses: Vec<IpAddr>,
}
/// Answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Mail.
    Mail {
        /// h.
        hosts: Vec<MailHost>,
        /// t.
        ttl_s: u32,
    },
    /// Null.
    NullMx {
        /// t.
        ttl_s: u32,
    },
    /// No.
    NoSuchDomain {
        /// t.
        ttl_s: u32,
    },
    /// Temp.
    Temporary {
        /// t.
        text: Box<str>,
    },
}
