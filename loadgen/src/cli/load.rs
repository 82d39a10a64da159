//! Arguments that several commands share: the load, and what a sink does with it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use loadgen::auth::{Credentials, Mechanism};
use loadgen::client::{Body, Pipeline};
use loadgen::http::{HttpPlan, JSON_TEMPLATE, Shape};
use loadgen::schedule::Schedule;
use loadgen::send::SendPlan;
use loadgen::sink::SinkPlan;
use loadgen::sink::faults::{Delays, Denial, Faults};
use loadgen::sink::profiles;
use loadgen::tls::{TlsAsked, TlsMode};
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

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum TlsArgument {
    /// All in the clear
    None,
    /// Secured behind STARTTLS
    Starttls,
    /// Secured from the first byte
    Implicit,
}

impl TlsArgument {
    fn mode(self) -> TlsMode {
        match self {
            TlsArgument::None => TlsMode::None,
            TlsArgument::Starttls => TlsMode::StartTls,
            TlsArgument::Implicit => TlsMode::Implicit,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum BodyArgument {
    /// DATA
    Data,
    /// BDAT: no answer is waited for before the body
    Bdat,
}

#[derive(Clone, Copy, ValueEnum)]
enum AuthArgument {
    Plain,
    Login,
    ScramSha256,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ViaArgument {
    Smtp,
    /// One POST per message
    Http,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShapeArgument {
    /// message/rfc822, the envelope in the query
    Query,
    /// message/rfc822, the envelope in X-Envelope-From and X-Envelope-To
    Fields,
    /// JSON by a template
    Json,
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
    /// How a message's text is handed over
    #[arg(long, value_enum, default_value = "data")]
    body: BodyArgument,
    /// Bytes of a chunk with BDAT, 0 for the whole message in one
    #[arg(long, value_parser = parse_size, default_value = "0")]
    chunk: u64,
    /// Messages under way on a session at most, with BDAT across messages
    #[arg(long, default_value_t = 2)]
    depth: u32,
    /// When connections are secured
    #[arg(long, value_enum, default_value = "none")]
    tls: TlsArgument,
    /// Server name to ask for (default: the target's host)
    #[arg(long)]
    tls_name: Option<String>,
    /// Take only certificates that one of these (PEM) stands behind (default: any certificate)
    #[arg(long)]
    tls_roots: Option<PathBuf>,
    /// Make a full handshake on every connection
    #[arg(long)]
    no_resumption: bool,
    /// Log in, as USER:PASSWORD
    #[arg(long)]
    login: Option<Credentials>,
    /// How to log in
    #[arg(long, value_enum, default_value = "plain")]
    auth: AuthArgument,
    /// Addresses to send from in turn, by comma: any of 127.0.0.0/8 on loopback
    #[arg(long, value_delimiter = ',')]
    source: Vec<IpAddr>,
    /// What to hand messages over by
    #[arg(long, value_enum, default_value = "smtp", requires_if("http", "url"))]
    via: ViaArgument,
    /// Where to POST, as http://127.0.0.1:8025/v1/messages
    #[arg(long)]
    url: Option<String>,
    /// What a POST carries
    #[arg(long, value_enum, default_value = "json")]
    http_shape: ShapeArgument,
    /// The JSON, with {from}, {to} (strings by comma) and {raw} in it
    #[arg(long, default_value = JSON_TEMPLATE)]
    http_template: String,
    /// A further header field, as "Authorization: Bearer x"; may be given several times
    #[arg(long)]
    http_field: Vec<String>,
    /// Open loop: starts per second, the same as --schedule constant:RATE (default: closed loop)
    #[arg(long, conflicts_with = "schedule")]
    rate: Option<Schedule>,
    /// Open loop: constant:500, poisson:500, steps:100,200,400@5s, ramp:100..900@30s, burst:100,900@1s/10s; poisson: may
    /// stand before any of these
    #[arg(long)]
    schedule: Option<Schedule>,
    /// Open loop: a file of starts, one a line: seconds from the beginning, and if wanted size and recipients
    #[arg(long, conflicts_with_all = ["schedule", "rate", "folder"])]
    trace: Option<PathBuf>,
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
    /// The plan; it is looked at.
    pub(super) fn plan(&self) -> Result<SendPlan, String> {
        let bounded = self.duration.is_some() || self.trace.is_some();
        let messages = self.messages.unwrap_or(if bounded { 0 } else { 10_000 });
        let http = match (&self.url, self.via) {
            (Some(url), ViaArgument::Http) => {
                let shape = match self.http_shape {
                    ShapeArgument::Query => Shape::Query,
                    ShapeArgument::Fields => Shape::Fields,
                    ShapeArgument::Json => Shape::Json(self.http_template.clone()),
                };
                Some(HttpPlan::new(url, shape, self.http_field.clone())?)
            }
            _ => None,
        };
        let mechanism = match self.auth {
            AuthArgument::Plain => Mechanism::Plain,
            AuthArgument::Login => Mechanism::Login,
            AuthArgument::ScramSha256 => Mechanism::ScramSha256,
        };
        let plan = SendPlan {
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
            body: match self.body {
                BodyArgument::Data => Body::Data,
                BodyArgument::Bdat => Body::Bdat { chunk_bytes: self.chunk },
            },
            depth: self.depth,
            tls: match &http {
                Some(http) if http.is_secured => TlsMode::Implicit,
                _ => self.tls.mode(),
            },
            tls_asked: TlsAsked {
                name: self.tls_name.clone(),
                roots: self.tls_roots.clone(),
                no_resumption: self.no_resumption,
            },
            auth: self.login.clone().map(|credentials| (mechanism, credentials)),
            sources: self.source.clone(),
            http,
            trace: self.trace.clone(),
            // What a command wants beyond the load itself it puts in.
            message_file: None,
            watched: false,
            reconnect: !self.no_reconnect,
            reply_timeout: self.reply_timeout,
            give_up: self.give_up,
            workers: self.workers,
            core: self.core,
            seed: self.seed,
        };
        plan.check().map(|()| plan)
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
    /// Wait before the greeting
    #[arg(long, value_parser = parse_span)]
    delay_greeting: Option<(Duration, Duration)>,
    /// Wait at EHLO
    #[arg(long, value_parser = parse_span)]
    delay_ehlo: Option<(Duration, Duration)>,
    /// Wait at MAIL
    #[arg(long, value_parser = parse_span)]
    delay_mail: Option<(Duration, Duration)>,
    /// Wait at each RCPT
    #[arg(long, value_parser = parse_span)]
    delay_rcpt: Option<(Duration, Duration)>,
    /// Wait at DATA
    #[arg(long, value_parser = parse_span)]
    delay_data: Option<(Duration, Duration)>,
    /// Wait at the end of each message
    #[arg(long, value_parser = parse_span)]
    delay_end: Option<(Duration, Duration)>,
    /// Replies leave a byte at a time, with this wait between
    #[arg(long, value_parser = parse_duration)]
    tarpit: Option<Duration>,
    /// Defer a recipient until this long after a source first tried it
    #[arg(long, value_parser = parse_duration)]
    greylist: Option<Duration>,
    /// Connections of one source at a time before further ones get 421
    #[arg(long, default_value_t = 0)]
    source_connections: u64,
    /// Messages of one source in a second before MAIL is deferred
    #[arg(long, default_value_t = 0)]
    source_rate: u64,
    /// Messages per connection before it is closed with 421
    #[arg(long, default_value_t = 0)]
    connection_messages: u64,
    /// Largest message taken
    #[arg(long, value_parser = parse_size, default_value = "0")]
    size_max: u64,
    /// Offer no PIPELINING
    #[arg(long)]
    no_pipelining: bool,
    /// Offer no CHUNKING
    #[arg(long)]
    no_chunking: bool,
    /// How the sink's connections are secured, with a certificate made for the occasion
    #[arg(long, value_enum, default_value = "none")]
    sink_tls: TlsArgument,
    /// The sink takes mail only from who logs in with this USER:PASSWORD
    #[arg(long)]
    sink_login: Option<Credentials>,
    /// Answer for names at this address as well (see the sink's profile), as 127.0.0.1:5353
    #[arg(long)]
    dns: Option<SocketAddr>,
    /// Behaviour of receivers from a TOML file, in the place of the options above
    #[arg(long)]
    sink_profile: Option<PathBuf>,
    /// Sink threads
    #[arg(long, default_value_t = 1)]
    sink_workers: usize,
    /// Core of the first sink thread; each takes the connections that are made on its core
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
            delays: Delays {
                greeting: self.delay_greeting,
                ehlo: self.delay_ehlo,
                mail: self.delay_mail,
                rcpt: self.delay_rcpt,
                data: self.delay_data,
                end: self.delay_end,
            },
            tarpit: self.tarpit,
            greylist: self.greylist,
            source_connections: self.source_connections,
            source_rate: self.source_rate,
            messages_per_connection: self.connection_messages,
            size_max_bytes: self.size_max,
            no_pipelining: self.no_pipelining,
            no_chunking: self.no_chunking,
        };
        let (profiles, zones) = self.sink_profile.as_deref().map(profiles::load).transpose()?.unwrap_or_default();
        Ok(SinkPlan {
            listen,
            workers: self.sink_workers,
            core: self.sink_core,
            faults,
            profiles,
            tls: self.sink_tls.mode(),
            auth: self.sink_login.clone(),
            dns: self.dns.map(|address| (address, zones)),
            message_file: None,
            seed,
        })
    }
}
