//! The ordinary thread beside the shards, on tokio: what is slow and rare.
pub mod auth;
pub mod resolver;
