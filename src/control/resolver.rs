//! DNS for all shards.
