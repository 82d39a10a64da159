//! Delivery: from a site's list to the next hop.
//!
//! A job is sent when its site may be tried, a connection of the site is free, and its accepting record is at
//! hand; what is cold is read back first, without holding up what is hot. The body goes out as slices of the
//! log's blocks. While one message's body goes out, the next one's envelope rides behind it: one round trip a
//! message (RFC 2920 3.1). What replies mean is decided in `outcome`.

use std::net::SocketAddr;

use crate::base::bytes::{Outbox, Slice};
use crate::base::ids::{ConnId, Position};
use crate::base::limits;
use crate::base::time::{Mono, Now};
use crate::config::{Settings, TlsPolicy};
use crate::queue::record::{AcceptView, RecipientView};
use crate::queue::{Log, ReadId, record};
use crate::route::mx::{self, Plan};
use crate::route::{Answer, NextHop, QueryId};
use crate::schedule::backoff::Backoff;
use crate::schedule::site::{JobId, SiteId, Targets};
use crate::shard::backlog::{Backlog, JobState};
use crate::shard::conns::{Conn, Outbound, Side};
use crate::shard::outcome::Results;
use crate::shard::timers::Timer;
use crate::shard::{CloseReason, Effect, Level, Shard};
use crate::smtp::client::{
    Client, ClientHandler, ClientSettings, ClientState, ClientVerdict, Offer, SessionEnd, Timeouts,
};

/// What a read is for.
pub(super) enum Reading {
    /// A job's accepting record.
    Record { job: JobId, position: Position },
    /// The next part of a body that is going out.
    Chunk { conn: ConnId, position: Position },
    /// A part of a message that reclaim moves.
    Copy { message: u32, position: Position },
}

/// Reads under way at a time for records of jobs.
const READS_MAX: usize = 64;

/// Parts of an outbox that are fetched ahead.
const FETCH_AHEAD: usize = 3;

/// Of a long body, so much is taken from memory at once; the rest is fetched as the connection takes it.
const BODY_AT_ONCE_BYTES: usize = 256 << 10;

pub(super) fn client_settings(settings: &Settings) -> ClientSettings {
    let limits = &settings.timeout;
    let timeouts = Timeouts {
        greeting_ms: limits.greeting_ms,
        hello_ms: limits.hello_ms,
        mail_ms: limits.mail_ms,
        rcpt_ms: limits.rcpt_ms,
        data_ms: limits.data_ms,
        data_block_ms: limits.data_block_ms,
        data_end_ms: limits.data_end_ms,
        quit_ms: limits.quit_ms,
        tls_ms: limits.tls_ms,
    };
    ClientSettings { hello: settings.hostname.clone(), timeouts }
}

/// The shard as a client session sees it: bodies to send, and somewhere to put verdicts.
struct Hand<'a> {
    backlog: &'a Backlog,
    log: &'a Log,
    results: &'a mut Results,
}

impl ClientHandler for Hand<'_> {
    fn push_body(&mut self, handle: u32, out: &mut Outbox) {
        let job = &self.backlog.jobs[handle as usize];
        let record = job.record.as_ref().expect("a job is offered with its record at hand");
        let view = AcceptView::read(record).expect("the record was verified when it came");
        out.push_slice(record.part(view.prefix.start, view.prefix.end));
        let mut at_once = BODY_AT_ONCE_BYTES;
        for chunk in &self.backlog.messages[job.message as usize].chunks {
            match self.log.chunk(chunk).filter(|slice| slice.len() <= at_once) {
                Some(slice) => {
                    at_once -= slice.len();
                    out.push_slice(slice);
                }
                None => {
                    at_once = 0;
                    out.push_later(chunk.position.0, chunk.length_bytes as usize);
                }
            }
        }
        out.push_slice(record.part(view.tail.start, view.tail.end));
    }

    fn verdict(&mut self, handle: u32, recipient: usize, verdict: ClientVerdict<'_>) {
        self.results.note(handle, recipient, verdict);
    }

    fn finished(&mut self, handle: u32) {
        self.results.finished.push(handle);
    }
}

/// The open recipients of a job, one by one.
struct OpenRecipients<I> {
    left: usize,
    open: u128,
    all: I,
}

impl<'a, I: Iterator<Item = RecipientView<'a>>> Iterator for OpenRecipients<I> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let skip = self.open.trailing_zeros();
        self.open = (self.open >> skip) >> 1;
        let recipient = self.all.nth(skip as usize).expect("a job's recipients stand in its record");
        Some(recipient.address)
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<'a, I: Iterator<Item = RecipientView<'a>>> ExactSizeIterator for OpenRecipients<I> {}

impl Shard {
    fn backoff_of_sites(&self) -> Backoff {
        Backoff { first_ms: self.settings.retry.site_first_ms, longest_ms: self.settings.retry.site_longest_ms }
    }

    /// Puts a job at the end of its site's list.
    pub(super) fn make_ready(&mut self, job: JobId) {
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::Ready;
        let site = entry.site;
        self.sites.table[site as usize].ready.push_back(job);
        self.want_pump(site);
    }

    /// Puts a job at the head of its site's list: it was there before.
    pub(super) fn make_ready_again(&mut self, job: JobId) {
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::Ready;
        let site = entry.site;
        self.sites.table[site as usize].ready.push_front(job);
        self.want_pump(site);
    }

    /// Lets every site that may have something to do, do it.
    pub(super) fn pump_sites(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let mut next = 0;
        while next < self.to_pump.len() {
            let site = self.to_pump[next];
            next += 1;
            if self.sites.table.contains(site as usize) {
                self.pump(now, site, effects);
            }
        }
        self.to_pump.clear();
    }

    fn pump(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        self.give_up_if_hopeless(now, site, effects);
        // Permits that other shards wait for: a connection with nothing to do gives its own up first.
        let owed = self.sites.permits.owed(&self.sites.table[site as usize].name);
        for _ in 0..owed {
            let Some(id) = self.sites.table[site as usize].idle.pop() else { break };
            self.use_idle(now, id, effects);
        }
        let entry = &mut self.sites.table[site as usize];
        if self.draining.is_none() && !entry.ready.is_empty() && !entry.paused(now.mono) {
            for _ in 0..entry.idle.len() {
                let entry = &mut self.sites.table[site as usize];
                if entry.ready.is_empty() {
                    break;
                }
                let Some(id) = entry.idle.pop() else { break };
                self.use_idle(now, id, effects);
            }
            self.dial_more(now, site, effects);
            // The answer may have been known already.
            self.give_up_if_hopeless(now, site, effects);
        }
        let entry = &self.sites.table[site as usize];
        // What is not used at once keeps others from it: a site that pauses wants no more than it has.
        let more = !entry.paused(now.mono) && self.draining.is_none();
        let wanted = if more { entry.useful_connections().max(entry.connections) } else { entry.connections };
        self.want_permits(site, wanted, effects);
        self.forget_idle_site(now.mono, site);
    }

    /// Gives a connection that was just taken from its site's idle ones something to do, or ends it.
    fn use_idle(&mut self, now: Now, id: ConnId, effects: &mut Vec<Effect>) {
        let mut conn = self.conns.take(id).expect("an idle connection is not taken");
        conn.outbound().idle = false;
        self.after_client(now, id, conn, effects);
    }

    /// Fails what waits for a site to which no mail can go, while the answer that says so holds.
    fn give_up_if_hopeless(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        let entry = &mut self.sites.table[site as usize];
        if let Targets::Hopeless { code, text, until } = entry.targets {
            if now.mono < until {
                self.fail_all(now, site, code, text, effects);
            } else {
                entry.targets = Targets::Unknown;
            }
        }
    }

    fn dial_more(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        loop {
            let entry = &self.sites.table[site as usize];
            let wanted = entry.useful_connections();
            // A site that failed is tried with one connection until it works again (QUE-05).
            let probing = entry.failures > 0 || entry.tried > 0;
            if entry.opening as usize >= entry.ready.len()
                || (probing && entry.connections > 0)
                || self.conns.outbound >= limits::CONNECTIONS_OUT_MAX
            {
                return;
            }
            if entry.tried == 0 && entry.connections > 0 {
                self.mix_targets(now, site);
            }
            let entry = &self.sites.table[site as usize];
            let Some(address) = entry.target(now.mono) else {
                self.find_targets(now, site, effects);
                if self.sites.table[site as usize].target(now.mono).is_none() {
                    return;
                }
                continue;
            };
            let name = entry.name.clone();
            self.want_permits(site, wanted, effects);
            if !self.sites.permits.take(&name) {
                return;
            }
            self.dial(now, site, address, effects);
        }
    }

    fn dial(&mut self, now: Now, site: SiteId, address: SocketAddr, effects: &mut Vec<Effect>) {
        let entry = &mut self.sites.table[site as usize];
        entry.connections += 1;
        entry.opening += 1;
        self.counters.dials += 1;
        let wish = entry.tls_wish(now.mono, address);
        let client = Client::new(self.client_settings.clone(), now.mono).with_tls(wish);
        let id = self.conns.insert(Side::Out(Outbound {
            client,
            site,
            address,
            wish,
            tls_begun: false,
            connected: false,
            dialled: now.mono,
            was_ready: false,
            idle: false,
            transactions: 0,
            useful: false,
        }));
        let mut conn = self.conns.take(id).expect("it was just inserted");
        conn.deadline = now.mono.plus_ms(self.settings.timeout.connect_ms);
        self.watch(now.mono, id, &mut conn);
        self.conns.put(id, conn);
        effects.push(Effect::Dial { conn: id, address, source: self.settings.source });
    }

    /// Finds out where a site's mail goes: at once for an address, by asking for a name.
    fn find_targets(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        let entry = &mut self.sites.table[site as usize];
        if entry.targets == Targets::Asked {
            return;
        }
        if let Some(answer) = entry.next_hop.known_answer() {
            return self.use_answer(now, site, &answer, Mono::NEVER, effects);
        }
        let (domain, address_only) = entry.next_hop.question().expect("what is not known can be asked for");
        let domain: Box<str> = domain.into();
        if let Some(answer) = self.sites.answers.get(now.mono, &domain, address_only) {
            let until = self.sites.answers.good_until(&domain, address_only);
            return self.use_answer(now, site, &answer, until, effects);
        }
        entry.targets = Targets::Asked;
        self.next_query += 1;
        let query = QueryId(self.next_query);
        self.queries.insert(query, site);
        effects.push(Effect::Resolve { query, domain, address_only });
    }

    /// Draws lots again among hosts of equal preference, so that connections spread over them (RTE-03).
    fn mix_targets(&mut self, now: Now, site: SiteId) {
        let entry = &mut self.sites.table[site as usize];
        let (Targets::Known { addresses, .. }, Some((name, false))) = (&mut entry.targets, entry.next_hop.question())
        else {
            return;
        };
        if addresses.len() > 1
            && let Some(answer) = self.sites.answers.get(now.mono, name, false)
            && let Plan::Try(targets) = mx::plan(&entry.next_hop, &answer, &self.sites.mx_policy, &mut self.rng)
        {
            let port = self.settings.route.mx_port;
            *addresses = targets.into_iter().map(|target| SocketAddr::new(target.address, port)).collect();
        }
    }

    pub(super) fn resolved(&mut self, now: Now, query: QueryId, answer: Answer, effects: &mut Vec<Effect>) {
        let Some(site) = self.queries.remove(&query) else { return };
        let (name, address_only) = self.sites.table[site as usize].next_hop.question().expect("it was asked for");
        let answer = self.sites.answers.put(now.mono, name, address_only, answer);
        let until = self.sites.answers.good_until(name, address_only);
        self.use_answer(now, site, &answer, until, effects);
    }

    /// Makes a site's targets from what is known of its next hop.
    fn use_answer(&mut self, now: Now, site: SiteId, answer: &Answer, until: Mono, effects: &mut Vec<Effect>) {
        let entry = &mut self.sites.table[site as usize];
        let port = match entry.next_hop {
            NextHop::SmartHost { port, .. } => port,
            NextHop::Mx { .. } => self.settings.route.mx_port,
        };
        match mx::plan(&entry.next_hop, answer, &self.sites.mx_policy, &mut self.rng) {
            Plan::Try(targets) => {
                let (addresses, hosts) = targets
                    .into_iter()
                    .map(|target| (SocketAddr::new(target.address, port), target.host.into()))
                    .unzip();
                entry.targets = Targets::Known { addresses, hosts, until };
                entry.next_target = 0;
                self.want_pump(site);
            }
            Plan::Fail { code, text } => {
                entry.targets = Targets::Hopeless { code, text, until };
                self.want_pump(site);
            }
            Plan::Defer { text } => {
                entry.targets = Targets::Unknown;
                effects.push(Effect::Report(Level::Warning, format!("{}: {text}; its mail waits", entry.name)));
                self.pause_site(now, site, effects);
            }
        }
    }

    /// The site as a whole is left alone for a while; what has waited too long fails now.
    fn pause_site(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) {
        let backoff = self.backoff_of_sites();
        let entry = &mut self.sites.table[site as usize];
        let until = entry.pause(now.mono, &backoff, &mut self.rng);
        self.paused(now, site, until, effects);
    }

    fn paused(&mut self, now: Now, site: SiteId, until: Mono, effects: &mut Vec<Effect>) {
        self.wheel.insert(until, Timer::Site(site));
        let entry = &self.sites.table[site as usize];
        effects.push(Effect::Report(
            Level::Info,
            format!(
                "{}: paused for {} ms after {} failures in a row, {} jobs wait",
                entry.name,
                until.ms_since(now.mono),
                entry.failures,
                entry.jobs
            ),
        ));
        let expired: Vec<JobId> = entry
            .ready
            .iter()
            .copied()
            .filter(|&job| self.expired(now, job))
            .take(limits::EXPIRED_AT_ONCE_MAX)
            .collect();
        for job in expired {
            if self.have_record(job, effects) {
                self.take_from_ready(job);
                self.fail_job(now, job, 0, "4.4.7 Delivery time expired: the next hop could not be reached", effects);
            }
        }
    }

    pub(super) fn expired(&self, now: Now, job: JobId) -> bool {
        now.mono >= self.backlog.messages[self.backlog.jobs[job as usize].message as usize].expires
    }

    fn take_from_ready(&mut self, job: JobId) {
        let site = self.backlog.jobs[job as usize].site;
        let ready = &mut self.sites.table[site as usize].ready;
        if let Some(at) = ready.iter().position(|&other| other == job) {
            ready.remove(at);
        }
    }

    /// No mail can go to this site: what waits for it fails, a bounded number at a time.
    fn fail_all(&mut self, now: Now, site: SiteId, code: u16, text: &'static str, effects: &mut Vec<Effect>) {
        for _ in 0..limits::EXPIRED_AT_ONCE_MAX {
            let Some(&job) = self.sites.table[site as usize].ready.front() else { return };
            if self.reads.len() >= READS_MAX {
                self.wait_for_reads(site);
                return;
            }
            if self.have_record(job, effects) {
                self.take_from_ready(job);
                self.fail_job(now, job, code, text, effects);
            }
        }
        self.wheel.insert(now.mono.plus_ms(1), Timer::Site(site));
    }

    /// So many reads are under way that this site must wait; it goes on when one of them ends, whosever it is.
    fn wait_for_reads(&mut self, site: SiteId) {
        if !self.waiting_for_reads.contains(&site) {
            self.waiting_for_reads.push(site);
        }
    }

    /// True if the job's record is at hand. If not, a read is begun and the job leaves its list until it ends.
    fn have_record(&mut self, job: JobId, effects: &mut Vec<Effect>) -> bool {
        let entry = &self.backlog.jobs[job as usize];
        if entry.record.is_some() {
            return true;
        }
        let place = self.backlog.messages[entry.message as usize].place;
        if let Some(record) = self.log.record(&place) {
            self.backlog.jobs[job as usize].record = Some(record);
            return true;
        }
        self.take_from_ready(job);
        self.backlog.jobs[job as usize].state = JobState::Loading;
        self.read(Reading::Record { job, position: place.position }, place.position, place.length_bytes, effects);
        false
    }

    /// Begins to read a whole record, header included.
    pub(super) fn read(&mut self, what: Reading, position: Position, payload_bytes: u32, effects: &mut Vec<Effect>) {
        let (slot, offset_bytes) = self.log.locate(position).expect("what is read is not settled");
        let length_bytes = record::HEADER_BYTES as u32 + payload_bytes;
        self.next_read += 1;
        let read = ReadId(self.next_read);
        self.reads.insert(read, what);
        self.counters.reads += 1;
        effects.push(Effect::Read { read, slot, offset_bytes, length_bytes });
    }

    pub(super) fn read_back(
        &mut self,
        now: Now,
        read: ReadId,
        result: Result<crate::base::bytes::Block, crate::queue::DiskError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(what) = self.reads.remove(&read) else { return };
        while let Some(site) = self.waiting_for_reads.pop() {
            self.want_pump(site);
        }
        let (Reading::Record { position, .. } | Reading::Chunk { position, .. } | Reading::Copy { position, .. }) =
            what;
        let payload = match result {
            Err(error) => Err(error.to_string()),
            Ok(block) => match record::verify(block.bytes(), self.id, position) {
                Some(payload) => {
                    let end = record::HEADER_BYTES + payload.len();
                    Ok(Slice::new(block.clone(), record::HEADER_BYTES, end))
                }
                None => Err("its checksum or name is wrong".to_string()),
            },
        };
        if let Err(problem) = &payload {
            self.counters.damaged_reads += 1;
            effects.push(Effect::Report(
                Level::Error,
                format!("shard {}: queue record at {:x}-{:x} cannot be read: {problem}; its message waits; run `ringpost spool verify`", self.id.0, position.life(), position.offset_bytes()),
            ));
        }
        match what {
            Reading::Record { job, .. } => match payload {
                Ok(record) => {
                    self.backlog.jobs[job as usize].record = Some(record);
                    self.make_ready_again(job);
                }
                Err(_) => self.defer_unread(now, job),
            },
            Reading::Chunk { conn: id, .. } => {
                let Some(mut conn) = self.conns.take(id) else { return };
                match payload {
                    Ok(slice) => {
                        conn.outbox.fill(position.0, slice);
                        self.put_outbound(now, id, conn, effects);
                    }
                    Err(_) => self.cut(now, id, conn, effects),
                }
            }
            Reading::Copy { message, .. } => self.copy_part_came(message, payload.ok(), effects),
        }
    }

    /// Fetches the next parts of a body that are not in memory. False if one is nowhere any more: the message was
    /// settled while its body was still going out, and only cutting the connection is right.
    #[must_use]
    fn fetch_body(&mut self, id: ConnId, conn: &mut Conn, effects: &mut Vec<Effect>) -> bool {
        while let Some((name, length)) = conn.outbox.fetch_next(FETCH_AHEAD) {
            let position = Position(name);
            let chunk = crate::queue::ChunkRef { position, length_bytes: length as u32 };
            match self.log.chunk(&chunk) {
                Some(slice) => {
                    conn.outbox.fill(name, slice);
                }
                None if self.log.locate(position).is_none() => return false,
                None => self.read(Reading::Chunk { conn: id, position }, position, length as u32, effects),
            }
        }
        true
    }

    /// What ends every dealing with an outbound connection: fetch, flush, watch, put back.
    fn put_outbound(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        if !self.fetch_body(id, &mut conn, effects) {
            return self.cut(now, id, conn, effects);
        }
        Shard::flush(id, &mut conn, effects);
        self.watch(now.mono, id, &mut conn);
        self.conns.put(id, conn);
    }

    /// Cuts a connection in the middle of a body, so that the next hop cannot take half of it for the whole.
    fn cut(&mut self, now: Now, id: ConnId, conn: Box<Conn>, effects: &mut Vec<Effect>) {
        effects.push(Effect::Abort { conn: id });
        self.next_hop_gone(now, id, conn, CloseReason::PeerClosed, effects);
    }

    pub(super) fn sent_out(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        let drained = conn.outbox.is_empty();
        let outbound = conn.outbound();
        outbound.client.sent_progress(now.mono, drained);
        if outbound.connected && !outbound.idle {
            conn.deadline = outbound.client.deadline();
        }
        if !drained && !self.fetch_body(id, &mut conn, effects) {
            return self.cut(now, id, conn, effects);
        }
        conn.flushing = conn.outbox.sendable();
        self.watch(now.mono, id, &mut conn);
        self.conns.put(id, conn);
    }

    /// The next job of a site whose record is at hand, out of its list.
    fn next_job(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) -> Option<JobId> {
        loop {
            let entry = &mut self.sites.table[site as usize];
            let &job = entry.ready.front()?;
            if self.backlog.jobs[job as usize].record.is_none() && self.reads.len() >= READS_MAX {
                self.wait_for_reads(site);
                return None;
            }
            if !self.have_record(job, effects) {
                continue;
            }
            if self.expired(now, job) {
                self.take_from_ready(job);
                self.fail_job(now, job, 0, "4.4.7 Delivery time expired", effects);
                continue;
            }
            let per_second = self.settings.site.messages_per_second as f64 / f64::from(self.settings.shards);
            let entry = &mut self.sites.table[site as usize];
            if let Err(when) = entry.take_token(now.mono, per_second) {
                self.wheel.insert(when, Timer::Site(site));
                return None;
            }
            entry.ready.pop_front();
            return Some(job);
        }
    }

    /// Begins one more transaction on a connection that can take it. False if there is nothing to begin.
    fn offer_job(&mut self, now: Now, conn: &mut Conn, effects: &mut Vec<Effect>) -> bool {
        let Conn { outbox, side: Side::Out(outbound), .. } = conn else { unreachable!("offered to a client") };
        let Some(job) = self.next_job(now, outbound.site, effects) else { return false };
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::Offered;
        let message = &self.backlog.messages[entry.message as usize];
        let (body_bytes, eight_bit) = (message.body_bytes, message.eight_bit);
        let entry = &self.backlog.jobs[job as usize];
        let record = entry.record.clone().expect("next_job gives it at hand");
        let view = AcceptView::read(&record).expect("the record was verified when it came");
        // Our own fields go out too, and no line of theirs begins with a dot (EXT-02; RFC 1870 6.2).
        let size_bytes = body_bytes + view.prefix.len() as u64;
        let mut recipients = OpenRecipients {
            left: entry.open.count_ones() as usize,
            open: entry.open,
            all: view.recipients().skip(entry.first.into()),
        };
        let offer = Offer { handle: job, sender: view.sender(), recipients: &mut recipients, size_bytes, eight_bit };
        let mut hand = Hand { backlog: &self.backlog, log: &self.log, results: &mut self.results };
        outbound.transactions += 1;
        self.counters.transactions += 1;
        outbound.client.offer(now.mono, offer, &mut hand, outbox);
        true
    }

    pub(super) fn connected(&mut self, now: Now, id: ConnId) {
        let Some(mut conn) = self.conns.take(id) else { return };
        let outbound = conn.outbound();
        outbound.connected = true;
        outbound.client = Client::new(self.client_settings.clone(), now.mono).with_tls(outbound.wish);
        conn.deadline = outbound.client.deadline();
        self.watch(now.mono, id, &mut conn);
        self.conns.put(id, conn);
    }

    pub(super) fn receive_out(
        &mut self,
        now: Now,
        id: ConnId,
        mut conn: Box<Conn>,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        self.leave_idle(id, &mut conn);
        // The next envelope must be there before the reply that lets the body go, to ride behind it.
        let outbound = conn.outbound();
        if outbound.client.state() == ClientState::Busy
            && outbound.client.can_take()
            && !self.should_end(now.mono, conn.outbound())
            && !self.sites.table[conn.outbound().site as usize].paused(now.mono)
        {
            self.offer_job(now, &mut conn, effects);
        }
        let Conn { outbox, side: Side::Out(outbound), .. } = &mut *conn else { unreachable!() };
        let mut hand = Hand { backlog: &self.backlog, log: &self.log, results: &mut self.results };
        outbound.client.receive(now.mono, bytes, &mut hand, outbox);
        self.after_client(now, id, conn, effects);
    }

    pub(super) fn leave_idle(&mut self, id: ConnId, conn: &mut Conn) {
        let outbound = conn.outbound();
        if std::mem::take(&mut outbound.idle) {
            self.sites.table[outbound.site as usize].idle.retain(|&other| other != id);
        }
    }

    /// True if the connection should take no more transactions.
    fn should_end(&self, now: Mono, outbound: &Outbound) -> bool {
        let site = &self.sites.table[outbound.site as usize];
        // A turn serves one message at least, however long the next hop took to be ready: else shards that share one
        // permit pass it round and deliver nothing.
        let turn_over = site.ready.is_empty()
            || outbound.transactions >= limits::CONNECTION_TURN_MESSAGES
            || (outbound.transactions > 0 && now.ms_since(outbound.dialled) >= limits::CONNECTION_TURN_MS);
        self.draining.is_some()
            || outbound.transactions >= self.settings.site.messages_per_connection
            || (turn_over && self.sites.permits.owed(&site.name) > 0)
    }

    /// Looks at what a session came to: judges its verdicts, gives it work, lets it rest, or ends it.
    pub(super) fn after_client(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        loop {
            let judged = self.judge(now, effects);
            let outbound = conn.outbound();
            outbound.useful |= judged;
            match outbound.client.state() {
                ClientState::Over(end) => return self.end_session(now, id, conn, end, true, effects),
                ClientState::Ready => {}
                ClientState::Handshake => {
                    conn.deadline = outbound.client.deadline();
                    if !self.begin_tls(id, &mut conn, effects) {
                        return self.cut(now, id, conn, effects);
                    }
                    break;
                }
                ClientState::Opening | ClientState::Busy | ClientState::Closing => {
                    conn.deadline = outbound.client.deadline();
                    break;
                }
            }
            if !std::mem::replace(&mut outbound.was_ready, true) {
                self.sites.table[outbound.site as usize].opening -= 1;
            }
            let site = outbound.site;
            if self.should_end(now.mono, conn.outbound()) {
                let Conn { outbox, side: Side::Out(outbound), .. } = &mut *conn else { unreachable!() };
                outbound.client.quit(now.mono, outbox);
            } else if self.sites.table[site as usize].paused(now.mono) || !self.offer_job(now, &mut conn, effects) {
                conn.outbound().idle = true;
                conn.deadline = now.mono.plus_ms(self.settings.site.idle_ms);
                self.sites.table[site as usize].idle.push(id);
                break;
            }
        }
        self.put_outbound(now, id, conn, effects);
    }

    /// The next hop said nothing for too long, or the connection rested long enough.
    pub(super) fn next_hop_silent(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        if conn.outbound().idle {
            self.leave_idle(id, &mut conn);
            let Conn { outbox, side: Side::Out(outbound), .. } = &mut *conn else { unreachable!() };
            outbound.client.quit(now.mono, outbox);
        } else if !conn.outbound().connected {
            return self.end_session(now, id, conn, SessionEnd::TimedOut, true, effects);
        } else {
            let mut hand = Hand { backlog: &self.backlog, log: &self.log, results: &mut self.results };
            conn.outbound().client.timed_out(now.mono, &mut hand);
        }
        self.after_client(now, id, conn, effects);
    }

    /// The connection is gone under us.
    pub(super) fn next_hop_gone(
        &mut self,
        now: Now,
        id: ConnId,
        mut conn: Box<Conn>,
        reason: CloseReason,
        effects: &mut Vec<Effect>,
    ) {
        self.leave_idle(id, &mut conn);
        if let (CloseReason::Failed { errno }, false) = (reason, conn.outbound().connected) {
            effects.push(Effect::Report(
                Level::Debug,
                format!("connect to {} failed: {}", conn.outbound().address, std::io::Error::from_raw_os_error(errno)),
            ));
        }
        let mut hand = Hand { backlog: &self.backlog, log: &self.log, results: &mut self.results };
        conn.outbound().client.closed(&mut hand);
        let judged = self.judge(now, effects);
        conn.outbound().useful |= judged;
        let end = match conn.outbound().client.state() {
            ClientState::Over(end) => end,
            _ => SessionEnd::PeerClosed,
        };
        self.end_session(now, id, conn, end, false, effects);
    }

    /// A session is over: its permit goes back, and the site learns what to think of it.
    fn end_session(
        &mut self,
        now: Now,
        id: ConnId,
        mut conn: Box<Conn>,
        mut end: SessionEnd,
        tell_shell: bool,
        effects: &mut Vec<Effect>,
    ) {
        self.leave_idle(id, &mut conn);
        self.unwatch(&mut conn);
        if tell_shell {
            effects.push(if conn.outbound().client.says_goodbye() {
                Effect::Close { conn: id }
            } else {
                Effect::Abort { conn: id }
            });
        }
        let outbound = conn.outbound();
        let site = outbound.site;
        let entry = &mut self.sites.table[site as usize];
        entry.connections -= 1;
        if !outbound.was_ready {
            entry.opening -= 1;
            self.counters.failed_dials += 1;
        }
        if end == SessionEnd::TlsFailed {
            self.counters.tls_failed_out += 1;
            if entry.tls == TlsPolicy::May {
                // Not the next hop's failure yet: it is tried in clear at once (TLS-06).
                entry.go_clear(now.mono, outbound.address);
                end = SessionEnd::Quit;
            }
        }
        let in_vain = !outbound.useful && end != SessionEnd::Quit && (!outbound.was_ready || outbound.transactions > 0);
        if outbound.useful {
            entry.succeeded();
        }
        if in_vain && self.draining.is_none() {
            effects.push(Effect::Report(
                Level::Info,
                format!("{}: session with {} failed: {end}", entry.name, outbound.address),
            ));
            let backoff = self.backoff_of_sites();
            let entry = &mut self.sites.table[site as usize];
            if let Some(until) = entry.failed(now.mono, &backoff, &mut self.rng) {
                self.paused(now, site, until, effects);
            }
        }
        self.conns.remove(id, false);
        self.give_back_permit(site, effects);
        self.want_pump(site);
    }
}
