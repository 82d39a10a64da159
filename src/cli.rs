//! The command line: what may be asked of `ringpost`, as types. `main.rs` does it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A durable, thread-per-core SMTP relay for bulk outbound mail.
#[derive(Debug, Parser)]
#[command(name = "ringpost", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the relay in the foreground.
    Run(Configuration),
    /// Check the configuration and whether this machine can run the relay.
    Check(Configuration),
    /// Look into the queue; works while the relay runs.
    Queue {
        #[command(subcommand)]
        what: Queue,
    },
    /// Look after the spool.
    Spool {
        #[command(subcommand)]
        what: Spool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Configuration {
    /// The configuration file (TOML); without it the defaults hold.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override a key; may be given more than once, the last wins.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The spool.
    #[arg(long, value_name = "DIR", default_value = "./ringpost-queue")]
    pub(crate) dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// List the messages that have recipients to be delivered.
    Ls(Place),
    /// Show one message and its text as stored (wire form).
    Show {
        /// Its name, as in the 250 reply.
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Count messages, recipients and bytes by shard.
    Stats(Place),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Spool {
    /// Read every record and check it.
    Verify {
        /// The spool.
        dir: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}
