//! Arguments that several commands share: the load, and what a sink does with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use loadgen::client::Pipeline;
use loadgen::schedule::Schedule;
use loadgen::send::SendPlan;
use loadgen::sink::SinkPlan;
use loadgen::sink::faults::{Denial, Faults};
use loadgen::sink::profiles;
use loadgen::units::{SizeMix, parse_duration, parse_probability, parse_size, parse_span};

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum PipelineArgument {
    /// Lock step: each command waits for its reply
    None,
    /// MAIL, RCPT and DATA together: two round trips a message
    Group,
    /// Body and next envelope together: one round trip a message
    Across,
}

#[derive(Args)]
pub(super) struct LoadArguments {
    /// Sessions at a time
    #[arg(long, short = 'c', default_value_t = 20)]
    sessions: u32,
    /// Messages altogether (default: 10000 if there is no duration either)
    #[arg(long, short = 'n')]
    messages: Option<u64>,
    /// How long to start messages, as 10s or 1.5
    #[arg(long, short = 'd', value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Time at the start that does not count
    #[arg(long, value_parser = parse_duration, default_value = "0")]
    warm_up: Duration,
    /// Messages per connection, 0 for no end
    #[arg(long, default_value_t = 0)]
    per_session: u64,
    /// Message size, a mix such as 1KiB:70,10KiB:25,100KiB:5, or lognormal:MEDIAN,SIGMA
    #[arg(long, short = 's', default_value = "10KiB")]
    size: SizeMix,
    /// Send the messages of a folder (a file each) in the place of made-up ones
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Recipients per message
    #[arg(long, short = 'r', default_value_t = 1)]
    recipients: u32,
    /// Domains that recipients are spread over
    #[arg(long, default_value_t = 1)]
    domains: u32,
    /// Spread recipients by Zipf's law with this exponent, as 1.1 (default: evenly)
    #[arg(long, default_value_t = 0.0)]
    zipf: f64,
    /// Grouping of commands
    #[arg(long, short = 'p', value_enum, default_value = "group")]
    pipeline: PipelineArgument,
    /// Open loop: starts per second, the same as --schedule constant:RATE (default: closed loop)
    #[arg(long, conflicts_with = "schedule")]
    rate: Option<Schedule>,
    /// Open loop: constant:500, poisson:500, steps:100,200,400@5s, ramp:100..900@30s, burst:100,900@1s/10s; poisson: may
    /// stand before any of these
    #[arg(long)]
    schedule: Option<Schedule>,
    /// Wait of a session between a last word and its next message, as 50ms or 5..50ms
    #[arg(long, value_parser = parse_span)]
    think: Option<(Duration, Duration)>,
    /// Give a connection up for good when it is lost or refused
    #[arg(long)]
    no_reconnect: bool,
    /// Longest wait for a reply
    #[arg(long, value_parser = parse_duration, default_value = "60")]
    reply_timeout: Duration,
    /// Longest silence of the whole server before the rest is not sent
    #[arg(long, value_parser = parse_duration, default_value = "60")]
    give_up: Duration,
    /// Sender threads
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Core of the first sender thread
    #[arg(long)]
    core: Option<usize>,
    /// Seed of texts, faults and kills
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

impl LoadArguments {
    pub(super) fn plan(&self) -> SendPlan {
        let messages = self.messages.unwrap_or(if self.duration.is_some() { 0 } else { 10_000 });
        SendPlan {
            sessions: self.sessions,
            messages,
            duration: self.duration.unwrap_or_default(),
            warm_up: self.warm_up,
            schedule: self.schedule.clone().or(self.rate.clone()),
            think: self.think,
            folder: self.folder.clone(),
            zipf: self.zipf,
            messages_per_session: self.per_session,
            sizes: self.size.clone(),
            recipients: self.recipients,
            domains: self.domains,
            pipeline: match self.pipeline {
                PipelineArgument::None => Pipeline::None,
                PipelineArgument::Group => Pipeline::Group,
                PipelineArgument::Across => Pipeline::Across,
            },
            reconnect: !self.no_reconnect,
            reply_timeout: self.reply_timeout,
            give_up: self.give_up,
            workers: self.workers,
            core: self.core,
            seed: self.seed,
        }
    }
}

#[derive(Args)]
pub(super) struct FaultArguments {
    /// Probability of refusing MAIL with 5xx
    #[arg(long, value_parser = parse_probability, default_value = "0")]
    refuse_mail: f64,
    /// Probability of deferring MAIL with 4xx
    #[arg(long, value_parser = parse_probability, default_value = "0")]
    defer_mail: f64,
    /// Probability of refusing a RCPT
    #[arg(long, value_parser = parse_probability, default_value = "0")]
    refuse_rcpt: f64,
    /// Probability of deferring a RCPT
    #[arg(long, value_parser = parse_probability, default_value = "0")]
    defer_rcpt: f64,
    /// Probability of refusing DATA
    #[arg(long, value_parser = parse_probability, default_value = "0")]
    refuse_data: f64,
    /// Probability of deferring DATA
    #[arg(long, value_parser = parse_probability, default_value = "0")]
    defer_data: f64,
    /// Probability of refusing a message at its end
    #[arg(long, value_parser = parse_probability, default_value = "0")]
    refuse_end: f64,
    /// Probability of deferring a message at its end
    #[arg(long, value_parser = parse_probability, default_value = "0")]
    defer_end: f64,
    /// Probability of dropping the connection in a body
    #[arg(long, value_parser = parse_probability, default_value = "0")]
    drop_before_dot: f64,
    /// Probability of dropping the connection and the message behind its final dot
    #[arg(long, value_parser = parse_probability, default_value = "0")]
    drop_after_dot: f64,
    /// Wait before each group of replies, as 50ms or 5..50ms
    #[arg(long, value_parser = parse_span)]
    delay: Option<(Duration, Duration)>,
    /// Messages per connection before it is closed with 421
    #[arg(long, default_value_t = 0)]
    connection_messages: u64,
    /// Largest message taken
    #[arg(long, value_parser = parse_size, default_value = "0")]
    size_max: u64,
    /// Offer no PIPELINING
    #[arg(long)]
    no_pipelining: bool,
    /// Behaviour of receivers from a TOML file, in the place of the options above
    #[arg(long)]
    sink_profile: Option<PathBuf>,
    /// Sink threads
    #[arg(long, default_value_t = 1)]
    sink_workers: usize,
    /// Core of the first sink thread
    #[arg(long)]
    sink_core: Option<usize>,
}

impl FaultArguments {
    pub(super) fn plan(&self, listen: Vec<SocketAddr>, seed: u64) -> Result<SinkPlan, String> {
        let faults = Faults {
            mail: Denial { refuse: self.refuse_mail, defer: self.defer_mail },
            rcpt: Denial { refuse: self.refuse_rcpt, defer: self.defer_rcpt },
            data: Denial { refuse: self.refuse_data, defer: self.defer_data },
            end: Denial { refuse: self.refuse_end, defer: self.defer_end },
            drop_before_dot: self.drop_before_dot,
            drop_after_dot: self.drop_after_dot,
            delay: self.delay,
            messages_per_connection: self.connection_messages,
            size_max_bytes: self.size_max,
            no_pipelining: self.no_pipelining,
        };
        let profiles = self.sink_profile.as_deref().map(profiles::load).transpose()?.unwrap_or_default();
        Ok(SinkPlan { listen, workers: self.sink_workers, core: self.sink_core, faults, profiles, seed })
    }
}
