//! Arguments that several commands share: the load, and what a sink does with it.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use loadgen::client::Pipeline;
use loadgen::send::SendPlan;
use loadgen::sink::SinkPlan;
use loadgen::sink::faults::{Denial, Faults};
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
    /// Message size, or a mix such as 1KiB:70,10KiB:25,100KiB:5
    #[arg(long, short = 's', default_value = "10KiB")]
    size: SizeMix,
    /// Recipients per message
    #[arg(long, short = 'r', default_value_t = 1)]
    recipients: u32,
    /// Domains that recipients are spread over
    #[arg(long, default_value_t = 1)]
    domains: u32,
    /// Grouping of commands
    #[arg(long, short = 'p', value_enum, default_value = "group")]
    pipeline: PipelineArgument,
    /// Open loop: starts per second on a fixed schedule (default: closed loop)
    #[arg(long)]
    rate: Option<f64>,
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
            rate: self.rate.unwrap_or(0.0),
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
    /// Sink threads
    #[arg(long, default_value_t = 1)]
    sink_workers: usize,
    /// Core of the first sink thread
    #[arg(long)]
    sink_core: Option<usize>,
}

impl FaultArguments {
    pub(super) fn plan(&self, listen: Vec<SocketAddr>, seed: u64) -> SinkPlan {
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
        SinkPlan { listen, workers: self.sink_workers, core: self.sink_core, faults, seed }
    }
}
