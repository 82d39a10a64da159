//! What shards say to each other: permits and rates of sites, and nothing else (messages never cross cores).

/// The name of a site: where mail for it goes, for instance `smarthost 127.0.0.1:2602` or `mx mail.example.org`.
/// The same on all shards; its hash chooses the home shard.
pub type SiteName = std::sync::Arc<str>;

/// One parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parcel {
    /// To the home shard: this shard wants so many connections to the site in all (what it holds plus what it lacks).
    /// Replaces what it wanted before; equal to what it holds: satisfied.
    Want {
        /// Which site.
        site: SiteName,
        /// Connections wanted.
        connections: u32,
        /// The most that all shards together may have.
        limit: u32,
    },
    /// From the home shard: so many more connections may be opened.
    Grant {
        /// Which site.
        site: SiteName,
        /// How many more.
        connections: u32,
    },
    /// From the home shard: give back so many as soon as a connection is idle or has ended a message.
    Recall {
        /// Which site.
        site: SiteName,
        /// How many.
        connections: u32,
    },
    /// To the home shard: this shard could send so many messages to the site now, and may send none. Asked once until it is
    /// answered.
    Ask {
        /// Which site.
        site: SiteName,
        /// How many.
        messages: u32,
        /// The site's rate, in messages a second; at least 1.
        per_second: u32,
    },
    /// From the home shard: so many messages may be sent.
    Allow {
        /// Which site.
        site: SiteName,
        /// How many.
        messages: u32,
    },
    /// To the home shard: so many permits come back.
    Return {
        /// Which site.
        site: SiteName,
        /// How many.
        connections: u32,
    },
}
