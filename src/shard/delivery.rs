//! Delivery: from a site's list to the next hop.
//!
//! A job is sent when a connection of its site is free and its accepting record is at hand (`dispatch` sees to the
//! one, `reading` to the other). The body goes out as slices of the log's blocks. While one message's body goes out,
//! the next one's envelope rides behind it: one round trip a message (RFC 2920 3.1). What replies mean is decided in
//! `outcome`.

use std::iter::Peekable;
use std::net::IpAddr;
use std::rc::Rc;

use crate::base::bytes::Outbox;
use crate::base::ids::ConnId;
use crate::base::limits;
use crate::base::time::{Mono, Now};
use crate::config::{Settings, SourceSettings};
use crate::mail::parameters::RecipientParameters;
use crate::mail::text::Form;
use crate::queue::Log;
use crate::queue::record::{AcceptView, RecipientView};
use crate::route::egress::{Asked, Proxy, Socks, push_haproxy_header};
use crate::route::reports::Fault;
use crate::route::safety::Safety;
use crate::schedule::site::{JobId, SiteId};
use crate::schedule::throttle::asks_for_less;
use crate::shard::backlog::{Backlog, JobState};
use crate::shard::body;
use crate::shard::conns::{Conn, Outbound, Race, Side};
use crate::shard::outcome::Results;
use crate::shard::reading::READS_MAX;
use crate::shard::{CloseReason, Effect, Level, Shard};
use crate::smtp::auth::ProofAnswer;
use crate::smtp::client::{
    Client, ClientHandler, ClientSettings, ClientState, ClientVerdict, Needs, Offer, OfferedRecipient, Passed,
    SessionEnd, TlsWish,
};
use crate::smtp::data::View;

/// What sessions from each source share, without and with BDAT.
pub(super) fn client_settings(settings: &Settings) -> Vec<[Rc<ClientSettings>; 2]> {
    let of = |source: &SourceSettings| {
        [false, true].map(|chunking| {
            Rc::new(ClientSettings {
                hello: source.hello.clone(),
                timeouts: settings.timeout.clone(),
                chunking,
                keeps_name: settings.tls.reports.is_some(),
            })
        })
    };
    settings.sources.iter().map(of).collect()
}

/// The shard as a client session sees it: bodies to send, and somewhere to put verdicts.
struct Hand<'a> {
    backlog: &'a Backlog,
    log: &'a Log,
    results: &'a mut Results,
    view: &'a mut Option<View>,
}

impl ClientHandler for Hand<'_> {
    fn push_body(&mut self, handle: u32, form: Form, out: &mut Outbox) {
        let job = &self.backlog.jobs[handle as usize];
        let record = self.backlog.record(handle).expect("a job is offered with its record at hand");
        let message = &self.backlog.messages[job.message as usize];
        *self.view = body::push_body(self.log, record, &message.chunks, form, out);
    }

    fn verdict(&mut self, handle: u32, recipient: usize, verdict: ClientVerdict<'_>) {
        self.results.note(handle, recipient, verdict);
    }

    fn finished(&mut self, handle: u32, passed: Passed) {
        self.results.finished.push((handle, passed));
    }
}

/// The open recipients of a job, one by one.
struct OpenRecipients<I, S: Iterator> {
    left: usize,
    open: u128,
    all: I,
    /// Number in the record of the next in `all`.
    number: u32,
    /// What RCPT said of some of them.
    said: Peekable<S>,
}

impl<'a, I, S> Iterator for OpenRecipients<I, S>
where
    I: Iterator<Item = RecipientView<'a>>,
    S: Iterator<Item = (u32, RecipientParameters<'a>)>,
{
    type Item = OfferedRecipient<'a>;
    fn next(&mut self) -> Option<OfferedRecipient<'a>> {
        self.left = self.left.checked_sub(1)?;
        let skip = self.open.trailing_zeros();
        self.open = (self.open >> skip) >> 1;
        let recipient = self.all.nth(skip as usize).expect("a job's recipients stand in its record");
        let number = self.number + skip;
        self.number = number + 1;
        while self.said.next_if(|(other, _)| *other < number).is_some() {}
        let said = self.said.next_if(|(other, _)| *other == number).map_or(Default::default(), |(_, said)| said);
        Some(OfferedRecipient { address: recipient.address, said })
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<'a, I, S> ExactSizeIterator for OpenRecipients<I, S>
where
    I: Iterator<Item = RecipientView<'a>>,
    S: Iterator<Item = (u32, RecipientParameters<'a>)>,
{
}

impl Shard {
    /// What ends every dealing with an outbound connection: fetch, flush, watch, put back.
    pub(super) fn put_outbound(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        if !self.fetch_body(id, &mut conn, effects) {
            return self.cut(now, id, conn, effects);
        }
        Shard::flush(id, &mut conn, effects);
        self.watch(now.mono, id, &mut conn);
        self.conns.put(id, conn);
    }

    /// Cuts a connection in the middle of a body, so that the next hop cannot take half of it for the whole.
    pub(super) fn cut(&mut self, now: Now, id: ConnId, conn: Box<Conn>, effects: &mut Vec<Effect>) {
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
            let job = self.first_known(now.mono, site)?;
            if self.backlog.record(job).is_none() {
                if self.loads_enough(site) {
                    // What comes next looks after it.
                    return None;
                }
                if self.reads.len() >= READS_MAX {
                    self.wait_for_reads(site);
                    return None;
                }
            }
            let allowed = self.may_offer(now, site, self.recipients_at_once(site, job), effects);
            if allowed == 0 {
                return None;
            }
            if !self.have_record(job, effects) {
                continue;
            }
            if !self.take_pace(now.mono, job) {
                continue;
            }
            if !self.may_send(now, site, effects) {
                self.give_pace_back(job);
                return None;
            }
            self.take_from_list(job);
            let message = &self.backlog.messages[self.backlog.jobs[job as usize].message as usize];
            if message.terms.as_ref().is_some_and(|terms| terms.too_late(now.wall)) {
                self.fail_job(now, job, 0, "5.4.7 not delivered in the time that its sender gave", effects);
                continue;
            }
            self.leave_the_rest(job, allowed);
            self.take_allowance(now, site, job);
            let (share, recipients) = (self.backlog.share(job), self.backlog.jobs[job as usize].open.count_ones());
            self.sites.table[site as usize].ready.charge(share, recipients);
            return Some(job);
        }
    }

    /// A transaction has no more recipients than the site takes, and than may be offered: what a job has beyond that goes back as
    /// another.
    fn leave_the_rest(&mut self, job: JobId, allowed: u32) {
        let entry = &self.backlog.jobs[job as usize];
        let most = self.sites.table[entry.site as usize].limits.recipients.min(allowed as usize);
        if entry.open.count_ones() as usize > most {
            let rest = self.backlog.split(job, most);
            let entry = &self.backlog.jobs[rest as usize];
            self.sites.destinations[entry.destination as usize].jobs += 1;
            self.sites.table[entry.site as usize].jobs += 1;
            self.make_ready_again(rest);
        }
    }

    /// Begins one more transaction on a connection that can take it. False if there is nothing to begin.
    fn offer_job(&mut self, now: Now, conn: &mut Conn, effects: &mut Vec<Effect>) -> bool {
        let Conn { outbox, side: Side::Out(outbound), .. } = conn else { unreachable!("offered to a client") };
        let Some(job) = self.next_job(now, outbound.site, effects) else { return false };
        self.see_job(now, outbound, job, effects);
        let entry = &mut self.backlog.jobs[job as usize];
        assert_eq!(entry.state, JobState::Ready, "at most one attempt of a recipient is in flight");
        entry.state = JobState::Offered;
        let entry = &self.backlog.jobs[job as usize];
        let record = self.backlog.record(job).cloned().expect("next_job gives it at hand");
        let view = AcceptView::read(&record).expect("the record was verified when it came");
        // Our own fields go out too, and no line of theirs begins with a dot (EXT-02; RFC 1870 6.2).
        let size_bytes = view.body_bytes + view.prefix.len() as u64;
        let number = usize::from(entry.first);
        let sender = view.sender_of(number);
        let mut recipients = OpenRecipients {
            left: entry.open.count_ones() as usize,
            open: entry.open,
            all: view.recipients_from(number),
            number: entry.first.into(),
            said: view.parameters().recipients().peekable(),
        };
        let mut parameters = view.parameters().message();
        if view.parameters().stretch(number).is_list() {
            (parameters.ret, parameters.envid) = (None, None);
        }
        let by_seconds = parameters.deliver_by.map_or(0, |deliver| {
            let (ahead, behind) = (deliver.by - now.wall, now.wall - deliver.by);
            ahead as i64 / 1000 - behind as i64 / 1000
        });
        let (sender, recipients) = (&*sender, &mut recipients);
        let offer = Offer { handle: job, sender, recipients, size_bytes, text: view.text, parameters, by_seconds };
        let mut hand =
            Hand { backlog: &self.backlog, log: &self.log, results: &mut self.results, view: &mut outbound.view };
        outbound.transactions += 1;
        self.counters.transactions += 1;
        outbound.client.offer(now.mono, offer, &mut hand, outbox);
        true
    }

    /// The session of a connection to a site.
    pub(super) fn new_client(&self, now: Now, site: SiteId, safety: &Safety, wish: TlsWish) -> Client {
        let site = &self.sites.table[site as usize];
        let settings = &self.client_settings[usize::from(site.source)][usize::from(site.limits.chunking)];
        Client::new(settings.clone(), now.mono)
            .with_protocol(site.protocol())
            .with_tls(wish)
            .with_needs(site.needs)
            .with_login(site.login(safety))
    }

    pub(super) fn connected(&mut self, now: Now, id: ConnId, local: Option<IpAddr>, effects: &mut Vec<Effect>) {
        let Some(mut conn) = self.conns.take(id) else { return };
        self.win_race(now, &mut conn, effects);
        let outbound = conn.outbound();
        outbound.connected = true;
        self.note_local(outbound, local);
        outbound.client = self.new_client(now, outbound.site, &outbound.safety, outbound.wish);
        self.greet_proxy(&mut conn);
        let outbound = conn.outbound();
        conn.deadline = outbound.client.deadline();
        Shard::flush(id, &mut conn, effects);
        self.watch(now.mono, id, &mut conn);
        self.conns.put(id, conn);
    }

    /// Says what a proxy is to hear first, where there is one.
    fn greet_proxy(&mut self, conn: &mut Conn) {
        let Conn { outbox, side: Side::Out(outbound), .. } = conn else { unreachable!("only next hops are dialled") };
        let source = &self.settings.sources[usize::from(self.sites.table[outbound.site as usize].source)];
        let target = outbound.address;
        match source.proxy {
            None => {}
            Some(Proxy::Haproxy(_)) => {
                let from = source.address_for(target.ip()).flatten();
                outbox.write(|out| push_haproxy_header(out, from, target));
            }
            Some(Proxy::Socks5(_)) => {
                outbox.write(|out| outbound.socks = Some(Box::new(Socks::begin(target, out))));
            }
        }
    }

    /// What a SOCKS server says until the connection stands behind it. `Err`: it does not.
    fn hear_proxy<'b>(&mut self, conn: &mut Conn, bytes: &'b [u8]) -> Result<&'b [u8], &'static str> {
        let Conn { outbox, side: Side::Out(outbound), .. } = conn else { unreachable!("only next hops are dialled") };
        let Some(socks) = &mut outbound.socks else { return Ok(bytes) };
        let mut asked = Asked::Waiting;
        outbox.write(|out| asked = socks.feed(bytes, out));
        match asked {
            Asked::Waiting => Ok(&[]),
            Asked::Open(used) => {
                outbound.socks = None;
                Ok(&bytes[used..])
            }
            Asked::Refused(why) => Err(why),
        }
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
        self.feed(now, &mut conn);
        let mut rest = match self.hear_proxy(&mut conn, bytes) {
            Ok(rest) => rest,
            Err(why) => {
                let outbound = conn.outbound();
                let (name, address) = (&self.sites.table[outbound.site as usize].name, outbound.address);
                effects.push(Effect::Report(Level::Info, format!("{name}: no connection to {address}: {why}")));
                return self.cut(now, id, conn, effects);
            }
        };
        while !rest.is_empty() {
            // The next envelope must be there before the reply that lets the body go, to ride behind it.
            if self.may_ride(now, conn.outbound()) {
                self.offer_job(now, &mut conn, effects);
            }
            let Conn { outbox, side: Side::Out(outbound), .. } = &mut *conn else { unreachable!() };
            let mut hand =
                Hand { backlog: &self.backlog, log: &self.log, results: &mut self.results, view: &mut outbound.view };
            rest = outbound.client.receive(now.mono, rest, &mut hand, outbox);
        }
        self.after_client(now, id, conn, effects);
    }

    /// True if a job offered now would ride behind the body of the one under way.
    fn may_ride(&mut self, now: Now, outbound: &mut Outbound) -> bool {
        outbound.client.state() == ClientState::Busy
            && outbound.client.can_take()
            && !self.should_end(now.mono, outbound)
            && !self.sites.table[outbound.site as usize].paused(now.mono)
    }

    /// A busy connection will look for one more job with its next reply.
    fn grow_hungry(&mut self, now: Now, outbound: &mut Outbound) {
        if outbound.client.state() == ClientState::Busy
            && outbound.client.pipelines()
            && outbound.hungry.is_none()
            && !self.should_end(now.mono, outbound)
        {
            outbound.hungry = Some(now.mono);
            self.sites.table[outbound.site as usize].grow_hungry(now.mono);
        }
    }

    /// The connection has had its look at the site's list, or will have none.
    fn feed(&mut self, now: Now, conn: &mut Conn) {
        let outbound = conn.outbound();
        if let Some(since) = outbound.hungry.take() {
            self.sites.table[outbound.site as usize].feed(now.mono, since);
        }
    }

    pub(super) fn leave_idle(&mut self, id: ConnId, conn: &mut Conn) {
        let outbound = conn.outbound();
        if std::mem::take(&mut outbound.idle) {
            self.sites.table[outbound.site as usize].idle.retain(|&other| other != id);
        }
    }

    /// True if the connection should take no more transactions; once it should, that stands.
    fn should_end(&mut self, now: Mono, outbound: &mut Outbound) -> bool {
        // While other sites stand in line for a connection.
        let share = (!self.waiting_for_slot.is_empty()).then(|| self.even_share());
        let site = &mut self.sites.table[outbound.site as usize];
        let age_ms = now.ms_since(outbound.dialled);
        // A turn serves one message at least, however long the next hop took to be ready: else shards that share one
        // permit pass it round and deliver nothing.
        // What is being read back is still to be sent.
        let nothing_to_do = site.ready.is_empty() && site.loading == 0;
        let turn_over = nothing_to_do
            || outbound.transactions >= limits::CONNECTION_TURN_MESSAGES
            || (outbound.transactions > 0 && age_ms >= limits::CONNECTION_TURN_MS);
        if outbound.ending {
            return true;
        }
        let allowed = site.allowed();
        outbound.ending = self.draining.is_some()
            || site.connections - site.ending > allowed
            || outbound.transactions >= site.limits.messages_per_connection
            || outbound.client.transactions_max().is_some_and(|most| outbound.transactions >= most)
            || (outbound.transactions > 0 && age_ms >= site.limits.age_ms)
            || (turn_over && self.sites.permits.owed(&site.name) > 0)
            || share.is_some_and(|share| nothing_to_do || (site.connections - site.ending) as usize > share)
            || ((outbound.transactions > 0 || site.ready.is_empty()) && site.hosts.makes_way(now, outbound.address));
        site.ending += u32::from(outbound.ending);
        outbound.ending
    }

    /// Looks at what a session came to: judges its verdicts, gives it work, lets it rest, or ends it.
    pub(super) fn after_client(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        loop {
            let in_clear = !conn.outbound().client.is_secured();
            let judged = self.judge(now, in_clear, effects);
            self.note_verdicts(now, judged, conn.outbound(), effects);
            let outbound = conn.outbound();
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
                ClientState::Proving => {
                    let request = outbound.client.take_proof_request();
                    conn.deadline = outbound.client.deadline();
                    effects.extend(request.map(|request| Effect::Prove { conn: id, request }));
                    break;
                }
                ClientState::Opening | ClientState::Busy | ClientState::Closing => {
                    conn.deadline = outbound.client.deadline();
                    break;
                }
            }
            if !std::mem::replace(&mut outbound.was_ready, true) {
                let entry = &mut self.sites.table[outbound.site as usize];
                entry.opened();
                entry.hosts.answered(now.mono, outbound.address);
                if entry.needs != Needs::default() {
                    entry.note_ability(outbound.address, true);
                }
                self.note_test(outbound, effects);
                self.see_ready(outbound);
                // It may have one more now.
                self.want_pump(outbound.site);
            }
            let site = outbound.site;
            if self.should_end(now.mono, conn.outbound()) {
                let Conn { outbox, side: Side::Out(outbound), .. } = &mut *conn else { unreachable!() };
                outbound.client.quit(now.mono, outbox);
            } else if self.sites.table[site as usize].paused(now.mono) || !self.offer_job(now, &mut conn, effects) {
                conn.outbound().idle = true;
                let entry = &mut self.sites.table[site as usize];
                conn.deadline = now.mono.plus_ms(entry.limits.idle_ms);
                entry.idle.push(id);
                self.note_rest(site);
                break;
            }
        }
        self.grow_hungry(now, conn.outbound());
        self.put_outbound(now, id, conn, effects);
    }

    /// Mail goes to a host whatever its domain's policy says, if that is only being tested; but it is noted (STS-02).
    fn note_test(&mut self, outbound: &Outbound, effects: &mut Vec<Effect>) {
        let Safety::Tested { named } = outbound.safety else { return };
        if named && outbound.certified {
            return;
        }
        self.counters.sts_testing_failures += 1;
        let why = if named { "does not prove its name" } else { "is not named by it" };
        let (name, address) = (&self.sites.table[outbound.site as usize].name, outbound.address);
        let text = format!("{name}: an MTA-STS policy is being tested, and {address} {why}");
        effects.push(Effect::Report(Level::Info, text));
    }

    /// What a next hop is to be told of who we are.
    pub(super) fn proven(&mut self, now: Now, id: ConnId, answer: ProofAnswer, effects: &mut Vec<Effect>) {
        let Some(mut conn) = self.conns.take(id) else { return };
        let Conn { outbox, side: Side::Out(outbound), .. } = &mut *conn else {
            unreachable!("a client proves nothing")
        };
        outbound.client.proven(now.mono, answer, outbox);
        self.after_client(now, id, conn, effects);
    }

    /// The next hop said nothing for too long, or the connection rested long enough.
    pub(super) fn next_hop_silent(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        if conn.outbound().idle {
            let entry = &self.sites.table[conn.outbound().site as usize];
            if entry.keeps_its_last(now.mono) {
                conn.deadline = now.mono.plus_ms(entry.limits.idle_ms);
                return self.put_outbound(now, id, conn, effects);
            }
            self.leave_idle(id, &mut conn);
            let Conn { outbox, side: Side::Out(outbound), .. } = &mut *conn else { unreachable!() };
            outbound.client.quit(now.mono, outbox);
        } else if conn.outbound().race == Race::Ahead && !conn.outbound().connected {
            return self.begin_race(now, id, conn, effects);
        } else if !conn.outbound().connected {
            return self.end_session(now, id, conn, SessionEnd::TimedOut, true, effects);
        } else {
            let outbound = conn.outbound();
            let mut hand =
                Hand { backlog: &self.backlog, log: &self.log, results: &mut self.results, view: &mut outbound.view };
            outbound.client.timed_out(now.mono, &mut hand);
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
        let outbound = conn.outbound();
        outbound.fault = match reason {
            CloseReason::Tls(fault) => Some(fault),
            CloseReason::PeerClosed => Some(Fault::CLOSED),
            CloseReason::Failed { .. } => None,
        };
        let mut hand =
            Hand { backlog: &self.backlog, log: &self.log, results: &mut self.results, view: &mut outbound.view };
        outbound.client.closed(&mut hand);
        let in_clear = !conn.outbound().client.is_secured();
        let judged = self.judge(now, in_clear, effects);
        self.note_verdicts(now, judged, conn.outbound(), effects);
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
        self.feed(now, &mut conn);
        self.unwatch(&mut conn);
        if tell_shell {
            effects.push(if conn.outbound().client.says_goodbye() {
                Effect::Close { conn: id }
            } else {
                Effect::Abort { conn: id }
            });
        }
        if let Race::With(rival) = conn.outbound().race {
            let rival = self.conns.get_mut(rival).expect("a rival lasts as long as the race");
            rival.outbound().race = Race::None;
            return self.lose_race(now, id, conn, effects);
        }
        let outbound = conn.outbound();
        self.see_end(now, outbound, end, effects);
        let site = outbound.site;
        let entry = &mut self.sites.table[site as usize];
        let mut crowded = false;
        if let SessionEnd::Throttled { code } = end
            && asks_for_less(code, outbound.client.end_text())
            && self.draining.is_none()
        {
            // While others go on there are too many of us, which is no failure of the host; the last one of us tells.
            crowded = entry.connections > 1;
            let words = format!("{code} {}", String::from_utf8_lossy(outbound.client.end_text()));
            self.complained(now, site, &words, effects);
        }
        let outbound = conn.outbound();
        let entry = &mut self.sites.table[site as usize];
        entry.connections -= 1;
        self.sites.connected -= usize::from(entry.connections == 0);
        entry.ending -= u32::from(outbound.ending);
        if !outbound.was_ready {
            entry.opening -= 1;
            self.counters.failed_dials += 1;
        }
        if end == SessionEnd::TlsFailed {
            self.counters.tls_failed_out += 1;
            if matches!(outbound.safety, Safety::IfOffered | Safety::Tested { .. }) {
                // Not the next hop's failure yet: it is tried in clear at once (TLS-06).
                entry.go_clear(now.mono, outbound.address);
                end = SessionEnd::Quit;
            }
        }
        let unable = matches!(end, SessionEnd::Unable | SessionEnd::NoTls) && entry.needs != Needs::default();
        let all_unable = unable && entry.note_ability(outbound.address, false);
        let in_vain = !outbound.useful && end != SessionEnd::Quit && (!outbound.was_ready || outbound.transactions > 0);
        if in_vain && !crowded && self.draining.is_none() {
            let (level, why) = match end.is_login() {
                // Nobody but the operator can mend that.
                true => (Level::Warning, String::from_utf8_lossy(outbound.client.end_text())),
                false => (Level::Info, "".into()),
            };
            let text = format!("{}: session with {} failed: {end} {why}", entry.name, outbound.address);
            effects.push(Effect::Report(level, text.trim_end().to_owned()));
            let (mut backoff, address) = (self.backoff_of_sites(), outbound.address);
            let entry = &mut self.sites.table[site as usize];
            if end.is_login() {
                // Who is refused again and again is locked out (AUT-10).
                backoff.first_ms = backoff.longest_ms;
                entry.tried = limits::ADDRESSES_TRIED_MAX;
                entry.login_in_doubt = true;
            }
            if let Some(until) = entry.failed(now.mono, address, &backoff, &mut self.rng) {
                self.paused(now, site, until, effects);
            }
        }
        self.conns.remove(id, false);
        self.give_back_permit(site, effects);
        if all_unable {
            self.give_up_unable(now.mono, site);
        }
        self.want_pump(site);
    }
}
