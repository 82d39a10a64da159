//! The ordinary threads beside the shards, on tokio: what is slow and rare, and what speaks another protocol than SMTP.
pub mod auth;
pub mod http;
pub mod reports;
pub mod resolver;
pub mod sts;
pub mod warm_up;
mod web;
