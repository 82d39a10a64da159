//! When and how much: deadlines, pauses between attempts, and how many connections a site may have.
//!
//! Each shard has its own of everything here; what must hold over all shards (a site's connections) is settled by
//! parcels with the site's home shard. Pure: time and randomness are handed in.

pub mod backoff;
pub mod destination;
pub mod fair;
pub mod hosts;
pub mod list;
pub mod permit;
pub mod rate;
pub mod refusal;
pub mod site;
pub mod throttle;
pub mod warm_up;
pub mod wheel;
