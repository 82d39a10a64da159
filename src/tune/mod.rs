//! `ringpost tune`: finds the settings for a machine by measuring, and says why.
//!
//! 1. [`topology`]: what the machine is made of. [`placement`]: where shards could run.
//! 2. `survey` of the runtime: how the disk commits, written to as the log writes.
//! 3. [`search`]: the relay as a child process between load and sink, once for each placement and each setting in question.
//! 4. [`choose`]: what the figures say. [`host`]: what the rest of the system should allow.
//! 5. [`findings`]: the figures and the choice; [`report`]: as text, JSON and a file that `ringpost run --config` takes.
//!
//! Runs on the main thread, which is the relay's parent; pure but for `topology` and `host`, which read files, and `search`. Besides the
//! demonstration the only room that names `loadgen`: the search needs both ends of a load, and shares no code with them.

pub mod choose;
pub mod findings;
pub mod host;
pub mod placement;
pub mod report;
pub mod search;
pub mod topology;
