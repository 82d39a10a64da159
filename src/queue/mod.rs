//! The durable log of a shard.

/// Says that a message is durable. Only the log makes one, and the session's 250 takes it.
pub struct Proof(());

impl Proof {
    /// A proof for tests of the session, which have no log.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Proof {
        Proof(())
    }
}

/// Why the log does not take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRefusal {
    /// No room: 452 4.3.1.
    Full,
    /// The disk fails: 451 4.3.0.
    Failing,
}
