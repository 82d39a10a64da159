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
    /// Show the main job: a relay, a load and a sink on loopback, and the ledger at the end.
    Demo(Demo),
    /// Check the configuration and whether this machine can run the relay.
    Check(Check),
    /// Say what would become of mail for a recipient, and which key or DNS answer decides each part of it.
    Explain(Explain),
    /// Print the DNS records of the DKIM keys.
    Dkim(Configuration),
    /// Find the settings for this machine by measuring its disk and the relay on it, and write them to a file.
    Tune(Tune),
    /// Look into the queue; works while the relay runs.
    Queue {
        #[command(subcommand)]
        what: Queue,
    },
    /// Look after the file of users.
    User {
        #[command(subcommand)]
        what: User,
    },
    /// Watch a running relay: rates, shards, sites.
    Top(At),
    /// List the busiest sites of a running relay: jobs, connections, pauses.
    Sites(At),
    /// Look after the spool.
    Spool {
        #[command(subcommand)]
        what: Spool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Print a line for the file of `auth.users`; the password is the first line of standard input.
    Add {
        /// The user's name.
        name: String,
        /// The senders it may use: addresses, `@domain`, or `@.domain` for all below, with commas. Default: any.
        #[arg(long, default_value = "")]
        senders: String,
        /// Keep an argon2 hash in place of a SCRAM verifier; SCRAM mechanisms do not work with it.
        #[arg(long)]
        argon2: bool,
        /// Keep an NT hash, for NTLM, PLAIN and LOGIN: whoever reads it can log in without knowing the password.
        #[arg(long, conflicts_with = "argon2")]
        nt: bool,
        /// Keep nothing and read no password: the user proves who it is by a Kerberos ticket.
        #[arg(long, conflicts_with_all = ["argon2", "nt"])]
        kerberos: bool,
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
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) configuration: Configuration,
    /// Ask DNS whether it knows each DKIM key, and whether the name that each source says in EHLO belongs to its addresses, and they to it.
    #[arg(long)]
    pub(crate) dns: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The recipient, or a domain.
    pub(crate) recipient: String,
    /// For a message of this tenant.
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// For a message from this mailbox.
    #[arg(long)]
    pub(crate) sender: Option<String>,
    #[command(flatten)]
    pub(crate) configuration: Configuration,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Messages to send.
    #[arg(long, default_value_t = 200_000)]
    pub(crate) messages: u64,
    /// Sessions sending at a time.
    #[arg(long, default_value_t = 100)]
    pub(crate) sessions: u32,
    /// Size of a message.
    #[arg(long, value_name = "BYTES", default_value_t = 10 << 10)]
    pub(crate) size_bytes: u64,
    /// Shards of the relay (default: one per core).
    #[arg(long)]
    pub(crate) shards: Option<u16>,
    /// Where to make the directory for the queue, on a real disk (default: /var/tmp).
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Override a key of the relay's configuration.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Tune {
    #[command(flatten)]
    pub(crate) configuration: Configuration,
    /// One short run of each placement, and no runs of other settings: half a minute on two cores.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measured time of each run (default: 6, quick: 2).
    #[arg(long, value_name = "SECONDS")]
    pub(crate) seconds: Option<f64>,
    /// Runs of each placement and setting (default: 3, quick: 1).
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// Sessions that send at a time, for each shard.
    #[arg(long, default_value_t = 50)]
    pub(crate) sessions: u32,
    /// Size of a message.
    #[arg(long, value_name = "BYTES", default_value_t = 10 << 10)]
    pub(crate) size_bytes: u64,
    /// Where to write the settings; a file that another program wrote is left alone.
    #[arg(long, value_name = "FILE", default_value = "ringpost-tune.toml")]
    pub(crate) out: PathBuf,
    /// Write a page with the runs' figures, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Measure nothing: say where shards would run, and why.
    #[arg(long)]
    pub(crate) explain: bool,
    /// Explain another machine: a file that describes it, or a directory with its /sys and /proc.
    #[arg(long, value_name = "PATH")]
    pub(crate) machine: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
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
    /// Send nothing of it until it is released; of a domain or site, of what is to come too. The relay must run.
    Hold(Ordered),
    /// Undo `hold` of the same target.
    Release(Ordered),
    /// Give it up now, and report that to the senders.
    Expire(Ordered),
    /// Try it now, whatever pauses there are.
    Retry(Ordered),
    /// Send no more of a tenant's mail than so many messages a second, over all shards, until another rate is ordered.
    Rate {
        /// The tenant.
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// 0: as many as there are.
        #[arg(long, value_name = "NUMBER")]
        messages_per_second: u32,
        #[command(flatten)]
        at: At,
    },
    /// List what is held, and which tenants have a rate.
    Holds(At),
}

/// What an order is about.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Ordered {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) at: At,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// One message, by its name as in the 250 reply.
    #[arg(long, value_name = "ID")]
    pub(crate) message: Option<String>,
    /// All recipients of a domain.
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// All that goes to a site, by its name as `ringpost sites` has it.
    #[arg(long)]
    pub(crate) site: Option<String>,
    /// All of a tenant of the configuration.
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
}

/// The relay that is asked.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// Where it listens for HTTP.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8025")]
    pub(crate) http: std::net::SocketAddr,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
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
    /// Save what can be saved from a damaged spool, which is only read: whole messages into a new spool, the rest as files.
    Salvage {
        /// The damaged spool; no relay may be using it.
        dir: PathBuf,
        /// A new directory: `queue` in it is the new spool, `aside` has what is not whole.
        #[arg(long, value_name = "NEW")]
        into: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}
