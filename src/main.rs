//! `ringpost`: arguments, then settings, then shards and the resolver, then waiting for the end.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. The result goes to standard output, reports to
//! standard error.

mod cli;
mod demo;
mod top;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use clap::Parser as _;

use cli::{At, Check, Cli, Command, Configuration, Explain, Ordered, Place, Queue, Spool, Target, Tune, User};
use ringpost::base::ids::MessageId;
use ringpost::config::{self, Changes, Listener, Machine, Role, Settings, Values};
use ringpost::control::auth::{self, Authenticator, Keep, Prover};
use ringpost::control::http::{Holds, Server, client};
use ringpost::control::reports::{self, Reports};
use ringpost::control::resolver::{Resolver, ResolverSettings, check_names};
use ringpost::control::warm_up::{self, Keeper};
use ringpost::mail::address::parse_forward_path;
use ringpost::mail::date::Day;
use ringpost::queue::ShardStart;
use ringpost::queue::spool::{self, SpoolSettings};
use ringpost::route::explain::{Fact, Present, Whose};
use ringpost::route::{self, Answer, QueryId};
use ringpost::runtime::ahead;
use ringpost::runtime::report::Reporter;
use ringpost::runtime::tls::Keys;
use ringpost::runtime::{
    self, Ask, Authenticate, Build, Crew, Lend, NoteTls, Options, Prove, Request, Sockets, privileges,
};
use ringpost::shard::{Level, Setup, Shard};
use ringpost::smtp::auth::AuthAnswer;
use ringpost::tune::topology::Topology;
use ringpost::tune::{self, placement, search};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a command did not do what it was asked.
enum Trouble {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Failed(String),
}

fn failed(error: impl std::fmt::Display) -> Trouble {
    Trouble::Failed(error.to_string())
}

fn main() -> ExitCode {
    // Wrong usage ends inside with 2, --help and --version with 0.
    let result = match Cli::parse().command {
        Command::Run(configuration) => run(&configuration),
        Command::Demo(wanted) => demo::demo(&wanted).map_err(Trouble::Failed),
        Command::Check(wanted) => check(&wanted),
        Command::Explain(wanted) => explain(&wanted),
        Command::Dkim(configuration) => dkim_records(&configuration),
        Command::Tune(wanted) => tune(&wanted),
        Command::Queue { what } => queue(what),
        Command::User { what } => add_user(what),
        Command::Sites(at) => sites(&at),
        Command::Top(at) if at.json => {
            top::json(at.http).map_err(Trouble::Failed).and_then(|text| say(&format!("{text}\n")))
        }
        Command::Top(at) => top::show(at.http).map_err(Trouble::Failed),
        Command::Spool { what: Spool::Verify { dir, json } } => verify(&dir, json),
        Command::Spool { what: Spool::Salvage { dir, into, json } } => salvage(&dir, &into, json),
    };
    let (code, text) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Trouble::Failed(text)) => (1, text),
        Err(Trouble::Usage(text)) => (2, text),
    };
    eprintln!("ringpost: {text}");
    ExitCode::from(code)
}

fn load(configuration: &Configuration) -> Result<Settings, Trouble> {
    Ok(load_values(configuration)?.0)
}

/// Settings, and where each value comes from.
fn load_values(configuration: &Configuration) -> Result<(Settings, Values), Trouble> {
    let text = match &configuration.config {
        None => None,
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|error| Trouble::Usage(format!("cannot read {}: {error}", path.display())))?,
        ),
    };
    let machine = Machine {
        hostname: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        cores: runtime::allowed_cores().map_err(failed)?.len(),
    };
    let wrong = |error: config::ConfigError| Trouble::Usage(error.to_string());
    config::load_values(text.as_deref(), &configuration.set, &machine).map_err(wrong)
}

fn check(wanted: &Check) -> Result<(), Trouble> {
    let mut settings = load(&wanted.configuration)?;
    runtime::probe::io_uring().map_err(Trouble::Failed)?;
    Keys::check(&settings).map_err(failed)?;
    read_files(&mut settings)?;
    Prover::check(&settings.route.next_hops).map_err(Trouble::Failed)?;
    runtime::placement(&settings).map_err(|error| Trouble::Usage(error.to_string()))?;
    if let Some(note) = settings.fit(runtime::probe::raise_open_files()) {
        say(&format!("{note}\n"))?;
    }
    say(&format!("the configuration is right, and this machine can run it with {} shards\n", settings.shards))?;
    if wanted.dns { check_dns(&settings) } else { Ok(()) }
}

/// Reads the files that the settings hold the content of. `run` does so as the user that the relay runs as by then, like every
/// reload: what only root can read is noticed at the start.
fn read_files(settings: &mut Settings) -> Result<(), Trouble> {
    read_aliases(settings)?;
    read_signing_keys(settings)
}

fn read_aliases(settings: &mut Settings) -> Result<(), Trouble> {
    let read = settings.aliases.read(|file| std::fs::read_to_string(file));
    read.map_err(|error| Trouble::Usage(error.to_string()))
}

fn read_signing_keys(settings: &mut Settings) -> Result<(), Trouble> {
    let read = settings.dkim.read(runtime::signing::read_key, runtime::signing::new_digest);
    read.map_err(|error| Trouble::Usage(error.to_string()))
}

/// Prints what DNS is to say of each DKIM key, as a zone file has it: a text of DNS is a row of strings of 255 octets at most.
fn dkim_records(configuration: &Configuration) -> Result<(), Trouble> {
    let mut settings = load(configuration)?;
    read_signing_keys(&mut settings)?;
    let Some(ring) = &settings.dkim.ring else {
        return Err(Trouble::Usage("no key has a name (dkim.NAME.key)".into()));
    };
    ring.keys().into_iter().try_for_each(|key| {
        let record = key.record();
        let strings = record.as_bytes().chunks(255).map(|part| format!("\"{}\"", String::from_utf8_lossy(part)));
        say(&format!("{}. IN TXT ( {} )\n", key.record_name(), strings.collect::<Vec<_>>().join(" ")))
    })
}

/// Whether DNS knows the DKIM keys, and sources' names and addresses belong together (BLK-01, RTE-12).
fn check_dns(settings: &Settings) -> Result<(), Trouble> {
    let dns = ResolverSettings::of(settings, false);
    let keys = settings.dkim.ring.as_ref().map_or_else(Vec::new, |ring| ring.keys());
    let lines =
        check_names(&dns, &settings.sources, &keys).map_err(|error| Trouble::Failed(format!("no DNS: {error}")))?;
    if lines.is_empty() {
        return say(
            "no source has an address, and there is no DKIM key: DNS was not asked (source.address, source.NAME.address, dkim.NAME.key)\n",
        );
    }
    let (right, wrong): (Vec<_>, Vec<_>) = lines.into_iter().partition(Result::is_ok);
    right.into_iter().flatten().try_for_each(|line| say(&format!("{line}\n")))?;
    let wrong: Vec<_> = wrong.into_iter().filter_map(Result::err).collect();
    if wrong.is_empty() { Ok(()) } else { Err(Trouble::Failed(wrong.join("\n"))) }
}

fn explain(wanted: &Explain) -> Result<(), Trouble> {
    let (mut settings, values) = load_values(&wanted.configuration)?;
    read_aliases(&mut settings)?;
    let domain = domain_asked(&wanted.recipient).map_err(Trouble::Usage)?;
    let tenant = match &wanted.tenant {
        None => 0,
        Some(name) => {
            let known = settings.tenant_named(name);
            known.ok_or_else(|| Trouble::Usage(format!("{name:?} is no tenant of the configuration")))?
        }
    };
    let whose = Whose { tenant, sender: wanted.sender.as_deref().unwrap_or_default() };
    let answer = match route::explain::question(&settings, domain, whose) {
        None => None,
        Some(question) => {
            let resolver = Resolver::start(&ResolverSettings::of(&settings, false))
                .map_err(|error| Trouble::Failed(format!("no DNS: {error}")))?;
            let (reply, answer) = std::sync::mpsc::channel();
            // The receiver is there until the answer came.
            let reply = Box::new(move |_, answer| drop(reply.send(answer)));
            resolver.ask(QueryId(0), question, reply);
            Some(answer.recv().map_err(failed)?)
        }
    };
    let holds = Holds::load(&settings.queue.dir).map_err(Trouble::Failed)?;
    let book = warm_up::load(&settings.queue.dir).map_err(Trouble::Failed)?;
    let present = Present { holds: holds.targets(), book: &book, today: Day::of(runtime::wall()) };
    let mut explanation = route::explain::explain(&settings, &values, domain, whose, answer.as_ref(), present);
    let table = settings.aliases.table.as_ref();
    if let Some(entry) = table.and_then(|table| table.find(wanted.recipient.as_bytes())) {
        let from = "aliases.file".to_owned();
        explanation.facts.insert(0, Fact { about: "table", value: entry.described(), from });
    }
    if !wanted.json {
        return say(&explanation.to_string());
    }
    let facts: Vec<_> = explanation
        .facts
        .iter()
        .map(|fact| serde_json::json!({ "about": fact.about, "value": fact.value, "from": fact.from }))
        .collect();
    let address =
        |(ip, used): &(std::net::IpAddr, bool)| serde_json::json!({ "address": ip.to_string(), "used": used });
    let hosts: Vec<_> = explanation
        .hosts
        .iter()
        .map(|host| {
            let addresses: Vec<_> = host.addresses.iter().map(address).collect();
            serde_json::json!({ "preference": host.preference, "name": host.name, "addresses": addresses, "tls": host.tls })
        })
        .collect();
    let all = serde_json::json!({
        "domain": explanation.domain, "outcome": explanation.outcome, "facts": facts, "hosts": hosts,
    });
    say(&format!("{all}\n"))
}

/// The domain of a recipient as RCPT would take it, or of a bare domain.
fn domain_asked(recipient: &str) -> Result<&str, String> {
    let domain = recipient.rsplit_once('@').map_or(recipient, |(_, domain)| domain);
    let mailbox = if recipient.contains('@') { recipient.to_owned() } else { format!("postmaster@{recipient}") };
    match parse_forward_path(format!("<{mailbox}>").as_bytes()) {
        Ok((_, [])) => Ok(domain),
        _ => Err(format!("{recipient:?} is no recipient; write user@domain or a domain")),
    }
}

fn run(configuration: &Configuration) -> Result<(), Trouble> {
    let mut settings = load(configuration)?;
    let cores = runtime::placement(&settings).map_err(|error| Trouble::Usage(error.to_string()))?;
    // Before any thread starts, so that all inherit it.
    runtime::block_signals().map_err(failed)?;
    runtime::probe::io_uring().map_err(Trouble::Failed)?;
    let few_files = settings.fit(runtime::probe::raise_open_files());
    let sockets = Sockets::bind(&settings.listen, settings.shards.into(), &cores, &settings.socket).map_err(failed)?;
    let (http_socket, note) = http_socket(&settings)?;
    if let Some(user) = &settings.user {
        privileges::become_user(user).map_err(failed)?;
    }
    if settings.landlock {
        privileges::confine(&settings, configuration.config.as_deref()).map_err(failed)?;
    }
    read_files(&mut settings)?;
    let mut settings = Arc::new(settings);
    let reporter = Reporter::start(settings.log_level).map_err(failed)?;
    few_files.into_iter().chain(note).for_each(|note| reporter.report(Level::Warning, note));
    let (_lock, starts) = spool::open_spool(&SpoolSettings {
        dir: settings.queue.dir.clone(),
        shards: settings.shards,
        segment_bytes: settings.queue.segment_bytes,
        segments_max: settings.queue.segments_max,
        open: ahead::open,
    })
    .map_err(failed)?;
    let recovered: usize = starts.iter().map(|start| start.messages.len()).sum();
    reporter.report(Level::Info, format!("{recovered} messages found in {}", settings.queue.dir.display()));
    let (keys, note) = Keys::load(&settings).map_err(failed)?;
    note.into_iter().for_each(|note| reporter.report(Level::Info, note));
    let holds = Holds::load(&settings.queue.dir).map_err(Trouble::Failed)?;
    let ask = resolver(&settings, &reporter);
    let users: Users = Arc::new(RwLock::new(authenticator(&settings, &reporter)?));
    let prove = prover(&settings)?;
    let book = warm_up::load(&settings.queue.dir).map_err(Trouble::Failed)?;
    let keeper = Keeper::start(book, &settings.queue.dir, reporter.clone()).map_err(failed)?;
    let (note_tls, inbox) = reports::desk();
    let others = (prove, keeper.lend(), note_tls);
    let options = options(&settings, sockets, keys, authenticate(users.clone()), others);
    let mut crew = Crew::start(options, builds(&settings, starts, &holds), &ask, reporter.clone()).map_err(failed)?;
    runtime::watch_signals(crew.events()).map_err(failed)?;
    let reports = Reports::start(inbox, settings.clone(), crew.shards(), reporter.clone()).map_err(failed)?;
    let mut server = None;
    if crew.wait_ready().map_err(failed)? {
        let start = |socket| Server::start(socket, crew.shards(), settings.clone(), holds, reporter.clone());
        server = http_socket.map(start).transpose().map_err(failed)?;
        say(&ready_line(&settings, crew.listeners(), server.as_ref().map(Server::address)))?;
        while crew.wait_request().map_err(failed)? == Request::Reload {
            reload(configuration, &mut settings, &mut crew, (server.as_ref(), &users, &reports), &reporter);
        }
    }
    reporter.report(Level::Info, "draining".to_owned());
    crew.finish();
    keeper.stop();
    reports.stop();
    server.into_iter().for_each(Server::stop);
    reporter.report(Level::Info, "stopped".to_owned());
    reporter.flush();
    Ok(())
}

/// Reads the configuration again, and makes hold what a running relay can change. What is wrong changes nothing.
fn reload(
    configuration: &Configuration,
    settings: &mut Arc<Settings>,
    crew: &mut Crew,
    (server, users, reports): (Option<&Server>, &Users, &Reports),
    reporter: &Reporter,
) {
    let loaded = load(configuration).and_then(|mut wanted| {
        read_files(&mut wanted)?;
        let few_files = wanted.fit(runtime::probe::raise_open_files());
        few_files.into_iter().for_each(|note| reporter.report(Level::Warning, note));
        let changes = Changes::between(settings, wanted);
        // Always: the files may hold others than before under the same names.
        let (keys, note) = Keys::load(&changes.settings).map_err(failed)?;
        let authenticator = authenticator(&changes.settings, reporter)?;
        Prover::check(&changes.settings.route.next_hops).map_err(Trouble::Failed)?;
        Ok((changes, keys, note, authenticator))
    });
    let (changes, keys, note, authenticator) = match loaded {
        Ok(loaded) => loaded,
        Err(Trouble::Usage(text) | Trouble::Failed(text)) => {
            return reporter.report(Level::Error, format!("reload: nothing was changed: {text}"));
        }
    };
    note.into_iter().for_each(|note| reporter.report(Level::Info, note));
    if !changes.kept.is_empty() {
        let kept = changes.kept.join(", ");
        reporter.report(Level::Warning, format!("reload: these change only with a restart: {kept}"));
    }
    *settings = Arc::new(changes.settings);
    reporter.set_level(settings.log_level);
    *users.write().unwrap_or_else(PoisonError::into_inner) = authenticator;
    crew.change(settings, &keys);
    server.into_iter().for_each(|server| server.change(settings.clone()));
    reports.change(settings.clone());
    let changed = if changes.changed.is_empty() { "no key".to_owned() } else { changes.changed.join(", ") };
    reporter.report(
        Level::Info,
        format!("reload: changed {changed}; certificates, users, aliases and DKIM keys were read again"),
    );
}

fn options(
    settings: &Settings,
    sockets: Sockets,
    keys: Keys,
    authenticate: Authenticate,
    (prove, lend, note_tls): (Prove, Lend, NoteTls),
) -> Options {
    Options {
        note_tls,
        sockets,
        authenticate,
        proxies: settings.relay.proxies.clone(),
        prove,
        lend,
        keys,
        queue_dir: settings.queue.dir.clone(),
        segment_bytes: settings.queue.segment_bytes,
        socket: settings.socket,
        drain_ms: settings.drain_ms,
    }
}

/// Who answers questions about domains. Without DNS the relay runs all the same: a smart host may need none.
fn resolver(settings: &Settings, reporter: &Reporter) -> Ask {
    match Resolver::start(&ResolverSettings::of(settings, true)) {
        Ok(resolver) => {
            if let Some(why) = resolver.no_policies().filter(|_| settings.verifies()) {
                reporter.report(Level::Warning, format!("no MTA-STS policy can be fetched: {why}"));
            }
            Arc::new(move |query, question, reply| resolver.ask(query, question, reply))
        }
        Err(error) => {
            let text = format!("no DNS: {error}; mail that needs it waits; set dns.servers or mend /etc/resolv.conf");
            reporter.report(Level::Warning, text);
            Arc::new(|query, _, reply| reply(query, Answer::Temporary { text: "there is no resolver".into() }))
        }
    }
}

/// Who knows the users now; none where nobody can submit.
type Users = Arc<RwLock<Option<Authenticator>>>;

fn authenticator(settings: &Settings, reporter: &Reporter) -> Result<Option<Authenticator>, Trouble> {
    if !settings.listen.iter().any(|listener| listener.role.is_submission()) {
        return Ok(None);
    }
    let reporter = reporter.clone();
    let report = Arc::new(move |level, text| reporter.report(level, text));
    Authenticator::start(&settings.auth, &settings.hostname, report).map(Some).map_err(Trouble::Failed)
}

/// Asks whoever knows the users at the moment.
fn authenticate(users: Users) -> Authenticate {
    Arc::new(move |request, reply| match &*users.read().unwrap_or_else(PoisonError::into_inner) {
        Some(authenticator) => authenticator.ask(request, reply),
        None => reply(AuthAnswer::Unavailable),
    })
}

/// Where HTTP listens, if it is to. A default address that another process has is no reason to carry no mail, only for a note.
fn http_socket(settings: &Settings) -> Result<(Option<TcpListener>, Option<String>), Trouble> {
    let Some(address) = settings.http.listen else { return Ok((None, None)) };
    match TcpListener::bind(address) {
        Ok(socket) => Ok((Some(socket), None)),
        Err(error) if settings.http.is_default() => {
            let note =
                format!("no HTTP: cannot listen on {address}: {error}; set listen.http to another, or to nothing");
            Ok((None, Some(note)))
        }
        Err(error) => Err(Trouble::Failed(format!("cannot listen on {address} for HTTP: {error}"))),
    }
}

/// Who has our credentials.
fn prover(settings: &Settings) -> Result<Prove, Trouble> {
    Prover::check(&settings.route.next_hops).map_err(Trouble::Failed)?;
    let prover = Prover::default();
    Ok(Arc::new(move |request, reply| prover.ask(request, reply)))
}

/// How to make each shard, on its own thread.
fn builds(settings: &Arc<Settings>, starts: Vec<ShardStart>, holds: &Holds) -> Vec<Build> {
    let build = |start| -> Build {
        let (settings, targets, rates) = (settings.clone(), holds.targets().to_vec(), holds.rates().to_vec());
        let seed = seed();
        Box::new(move |id, blocks, now| {
            let mut shard = Shard::new(Setup { id, settings, start, blocks, seed, now });
            shard.hold(now, &targets);
            shard.pace(now, &rates);
            shard
        })
    };
    starts.into_iter().map(build).collect()
}

/// Different at every start and for every shard: the standard library's hasher keys are.
fn seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}

/// What it is ready for, by role; `smtp` is the relay's.
fn ready_line(settings: &Settings, listeners: &[Listener], http: Option<SocketAddr>) -> String {
    let mut line = String::from("ready");
    for role in Role::ALL {
        let of_role = listeners.iter().filter(|listener| listener.role == role);
        let endpoints: Vec<String> = of_role.map(|listener| listener.endpoint.to_string()).collect();
        if !endpoints.is_empty() {
            let name = if role == Role::Relay { "smtp" } else { role.name() };
            line += &format!(" {name}={}", endpoints.join(","));
        }
    }
    let http = http.map_or(String::new(), |address| format!(" http={address}"));
    format!("{line}{http} shards={} queue={}\n", settings.shards, settings.queue.dir.display())
}

fn tune(wanted: &Tune) -> Result<(), Trouble> {
    if wanted.explain || wanted.machine.is_some() {
        let topology = tune_topology(wanted).map_err(Trouble::Usage)?;
        let placements = placement::candidates(&topology);
        return say(&match wanted.json {
            true => format!("{}\n", tune::report::explanation_json(&topology, &placements)),
            false => tune::report::explanation(&topology, &placements),
        });
    }
    let settings = load(&wanted.configuration)?;
    let seconds = wanted.seconds.unwrap_or(if wanted.quick { 2.0 } else { 6.0 });
    if !(0.1..=3600.0).contains(&seconds) || wanted.rounds == Some(0) || wanted.sessions == 0 || wanted.size_bytes == 0
    {
        return Err(Trouble::Usage("tune: seconds must be 0.1 to 3600; rounds, sessions and size at least 1".into()));
    }
    // Before minutes are spent on what could not be written.
    tune_check_out(&wanted.out)?;
    let plan = search::Wanted {
        program: std::env::current_exe().map_err(failed)?,
        rounds: wanted.rounds.unwrap_or(if wanted.quick { 1 } else { 3 }),
        run: Duration::from_secs_f64(seconds),
        point: Duration::from_millis(if wanted.quick { 250 } else { 1000 }),
        settings: !wanted.quick,
        sessions: wanted.sessions,
        size_bytes: wanted.size_bytes,
    };
    let found = search::tune(&settings, &plan, &mut |what| eprintln!("ringpost tune: {what}"));
    let (findings, reports) = found.map_err(|error| Trouble::Failed(format!("tune: {error}")))?;
    let written = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|error| Trouble::Failed(format!("cannot write {}: {error}", path.display())))
    };
    written(&wanted.out, tune::report::file(&findings))?;
    if let Some(path) = &wanted.html {
        written(path, search::page(reports))?;
    }
    if wanted.json {
        return say(&format!("{}\n", tune::report::json(&findings)));
    }
    say(&format!("{}\nwritten to {}\n", tune::report::text(&findings), wanted.out.display()))
}

fn tune_topology(wanted: &Tune) -> Result<Topology, String> {
    let Some(path) = &wanted.machine else { return Topology::read(Path::new("/")) };
    let named = |error: String| format!("{}: {error}", path.display());
    if path.is_dir() {
        return Topology::read(path).map_err(named);
    }
    let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
    Topology::described(&text).map_err(named)
}

fn tune_check_out(path: &Path) -> Result<(), Trouble> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.starts_with(tune::report::FILE_HEAD) => Err(Trouble::Usage(format!(
            "{} is there and was not written by ringpost tune; name another with --out",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Prints a line for the file of `auth.users`; the password, where there is one, is the first line of standard input.
fn add_user(User::Add { name, senders, argon2, nt, kerberos }: User) -> Result<(), Trouble> {
    let mut password = zeroize::Zeroizing::new(String::new());
    if !kerberos {
        std::io::stdin().read_line(&mut password).map_err(failed)?;
    }
    let password = password.trim_end_matches(['\r', '\n']).as_bytes();
    let keep = match (kerberos, nt, argon2) {
        (true, _, _) => Keep::Nothing,
        (_, true, _) => Keep::Nt(password),
        (_, _, true) => Keep::Argon2(password),
        _ => Keep::Scram(password),
    };
    let line = auth::make_line(&name, keep, &senders);
    if nt {
        eprintln!(
            "ringpost: this line holds an NT hash (MD4): whoever reads it can log in as {name} without the password"
        );
    }
    say(&format!("{}\n", line.map_err(Trouble::Usage)?))
}

fn queue(what: Queue) -> Result<(), Trouble> {
    match what {
        Queue::Ls(Place { dir, json }) => {
            let messages = spool::list(&dir).map_err(failed)?;
            if json {
                let items: Vec<String> = messages.iter().map(|message| message.to_json()).collect();
                return say(&format!("[{}]\n", items.join(",")));
            }
            messages.iter().try_for_each(|message| say(&format!("{message}\n")))
        }
        Queue::Show { id, place } => {
            let id: MessageId = id.parse().map_err(|error| Trouble::Usage(format!("{id}: {error}")))?;
            let (message, text) = spool::show(&place.dir, id).map_err(failed)?;
            let text = String::from_utf8_lossy(&text);
            if place.json {
                let text = serde_json::Value::from(text.as_ref());
                return say(&format!("{{\"message\":{},\"text\":{text}}}\n", message.to_json()));
            }
            say(&format!("{message}\n\n{text}\n"))
        }
        Queue::Stats(Place { dir, json }) => print_report(&spool::verify(&dir).map_err(failed)?, json),
        Queue::Hold(ordered) => order("hold", &ordered),
        Queue::Release(ordered) => order("release", &ordered),
        Queue::Expire(ordered) => order("expire", &ordered),
        Queue::Retry(ordered) => order("retry", &ordered),
        Queue::Rate { tenant, messages_per_second, at } => {
            let rate = serde_json::json!({
                "order": "rate", "tenant": tenant, "messages_per_second": messages_per_second,
            });
            give_order(&rate, "rate", &at)
        }
        Queue::Holds(at) => {
            let said = client::ask(at.http, "/v1/holds", None).map_err(Trouble::Failed)?;
            if at.json {
                return say(&format!("{}\n", said["holds"]));
            }
            let holds = said["holds"].as_array().into_iter().flatten().filter_map(|hold| hold.as_object());
            holds.into_iter().try_for_each(|hold| {
                let words = hold.iter().map(|(kind, value)| match value.as_str() {
                    Some(name) => format!("{kind} {name}"),
                    None => format!("{kind} {value}"),
                });
                say(&format!("{}\n", words.rev().collect::<Vec<_>>().join(" ")))
            })
        }
    }
}

/// Orders something of the running relay.
fn order(order: &str, ordered: &Ordered) -> Result<(), Trouble> {
    let Target { message, domain, site, tenant } = &ordered.target;
    let mut wanted = serde_json::json!({ "order": order });
    for (kind, name) in [("message", message), ("domain", domain), ("site", site), ("tenant", tenant)] {
        if let Some(name) = name {
            wanted[kind] = name.as_str().into();
        }
    }
    give_order(&wanted, order, &ordered.at)
}

fn give_order(wanted: &serde_json::Value, order: &str, at: &At) -> Result<(), Trouble> {
    let said = client::ask(at.http, "/v1/queue", Some(wanted)).map_err(Trouble::Failed)?;
    say(&if at.json { format!("{said}\n") } else { format!("{order}: {} jobs\n", said["jobs"]) })
}

fn sites(at: &At) -> Result<(), Trouble> {
    let said = client::ask(at.http, "/v1/sites", None).map_err(Trouble::Failed)?;
    if at.json {
        return say(&format!("{}\n", said["sites"]));
    }
    say(&format!("{:>9} {:>9} {:>11} {:>9}  site\n", "jobs", "ready", "connections", "paused"))?;
    said["sites"].as_array().into_iter().flatten().try_for_each(|site| {
        let paused = match site["paused_ms"].as_u64() {
            _ if site["suspended"] == true => "held".to_owned(),
            _ if site["day_limit"].is_u64() && site["day_used"].as_u64() >= site["day_limit"].as_u64() => {
                "day full".to_owned()
            }
            Some(ms @ 1..) => format!("{} s", ms.div_ceil(1000)),
            _ => "-".to_owned(),
        };
        let name = site["site"].as_str().unwrap_or_default();
        let [jobs, ready, connections] =
            ["jobs", "ready", "connections"].map(|of| site[of].as_u64().unwrap_or_default());
        say(&format!("{jobs:>9} {ready:>9} {connections:>11} {paused:>9}  {name}\n"))
    })
}

fn verify(dir: &Path, json: bool) -> Result<(), Trouble> {
    let report = spool::verify(dir).map_err(failed)?;
    print_report(&report, json)?;
    match report.damage.len() {
        0 => Ok(()),
        count => Err(Trouble::Failed(format!("{count} damaged places"))),
    }
}

fn salvage(dir: &Path, into: &Path, json: bool) -> Result<(), Trouble> {
    let salvaged = spool::salvage(dir, into).map_err(failed)?;
    say(&if json { format!("{}\n", salvaged.to_json()) } else { format!("{salvaged}\n") })
}

fn print_report(report: &spool::Report, json: bool) -> Result<(), Trouble> {
    say(&if json { format!("{}\n", report.to_json()) } else { format!("{report}\n") })
}

/// Prints to standard output; a reader that has gone is no failure of ours.
fn say(text: &str) -> Result<(), Trouble> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(failed(error)),
        _ => Ok(()),
    }
}
