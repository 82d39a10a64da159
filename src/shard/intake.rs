//! Intake: from a client's first byte to the accepting record in the log.
//!
//! Body bytes go from the receive buffer into the log's block, once. What does not end inside one receive
//! becomes chunk records as it comes, so a connection's memory is bounded whatever the message's size; pieces
//! too small for a record of their own are gathered first. The 250 is not written here: see `commit`.
//!
//! Every refusal is an SMTP reply; nothing from a client panics.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::base::ids::{ConnId, MessageId, Position};
use crate::base::limits;
use crate::base::time::{Mono, Now, UnixMs};
use crate::config::{Role, Settings};
use crate::mail::dkim::Signed;
use crate::mail::envelope::Envelope;
use crate::mail::parameters::ParameterBlock;
use crate::mail::text::Text;
use crate::mail::trace::{Fixes, HeaderSays, Protocol, TraceFacts, write_fixes, write_received};
use crate::queue::{ChunkRef, Draft, DraftRecipient, LogRefusal, RecipientList};
use crate::schedule::fair::{Share, TenantId};
use crate::schedule::list::NO_JOB;
use crate::shard::backlog::{JOB_RECIPIENTS_MAX, Message, MessageSlot};
use crate::shard::commit::{Committing, Waiter};
use crate::shard::conns::{Conn, Inbound, Side};
use crate::shard::terms::{self, Terms};
use crate::shard::timers::Timer;
use crate::shard::{Effect, Shard, TlsRole, etrn};
use crate::smtp::reply::Reply;
use crate::smtp::server::{AuthSettings, Peer, Server, ServerEvent, ServerSettings, Waiting};

pub(super) fn server_settings(settings: &Settings, role: Role) -> ServerSettings {
    let submission = role.is_submission();
    ServerSettings {
        hostname: settings.hostname.clone(),
        message_bytes_max: settings.relay.message_bytes_max,
        recipients_max: settings.relay.recipients_max,
        errors_max: settings.relay.errors_max,
        received_fields_max: settings.relay.received_fields_max,
        command_idle_ms: settings.relay.command_idle_ms,
        data_idle_ms: settings.relay.data_idle_ms,
        tls: settings.tls.offer && role != Role::Submissions,
        auth: if submission { settings.auth.offered() } else { AuthSettings::default() },
        submission,
        hold_max_s: settings.relay.hold_max_s,
        aliases: settings.aliases.table.clone(),
        users_ask: settings.aliases.users_ask,
        etrn: !settings.aliases.etrn.is_empty(),
    }
}

/// A whole message as it came, whichever way.
pub(super) struct Arrival<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) text: Text,
    /// What its header says; that it needs SMTPUTF8 only where the envelope says that it was asked for.
    pub(super) header: HeaderSays,
    /// Bytes of the text, doubled dots not counted.
    pub(super) body_bytes: u64,
    /// Records that hold the beginning of the body.
    pub(super) chunks: &'a [ChunkRef],
    /// The rest of it.
    pub(super) tail: &'a [&'a [u8]],
    /// The name the client gave; empty if it gave none.
    pub(super) hello: &'a [u8],
    pub(super) peer: IpAddr,
    /// Of whose part of the relay it is.
    pub(super) share: Share,
    pub(super) protocol: Protocol,
    pub(super) cipher: Option<&'static str>,
    /// Fields to be added.
    pub(super) fixes: Fixes,
    /// What is signed of it, if it is.
    pub(super) signed: Option<&'a Signed>,
}

/// Parts of a body seen in this receive that are in no record yet, in order.
#[derive(Default)]
struct Run<'b> {
    parts: [&'b [u8]; 8],
    count: usize,
    length_bytes: usize,
}

impl<'b> Run<'b> {
    fn parts(&self) -> &[&'b [u8]] {
        &self.parts[..self.count]
    }

    /// False if there is no place left.
    fn push(&mut self, slice: &'b [u8]) -> bool {
        if slice.is_empty() {
            return true;
        }
        if self.count == self.parts.len() {
            return false;
        }
        self.parts[self.count] = slice;
        self.count += 1;
        self.length_bytes += slice.len();
        true
    }
}

impl Shard {
    pub(super) fn client_connected(&mut self, now: Now, peer: IpAddr, role: Role, effects: &mut Vec<Effect>) {
        self.counters.accepted_connections += 1;
        let sealed = role == Role::Submissions;
        // Who expects TLS can be told nothing in clear.
        let refusal = |greeting: &'static [u8]| Effect::Refuse { greeting: if sealed { b"" } else { greeting } };
        if self.draining.is_some() {
            self.counters.refused_connections += 1;
            effects.push(refusal(b"421 4.3.2 Service is shutting down, try again later\r\n"));
            return;
        }
        if self.conns.inbound >= self.settings.relay.connections_max {
            self.counters.refused_connections += 1;
            effects.push(refusal(b"421 4.3.2 Too many connections, try again later\r\n"));
            return;
        }
        let peer = peer.to_canonical();
        if !self.crowd.enter(peer, &self.settings.relay) {
            self.counters.refused_connections += 1;
            effects.push(refusal(b"421 4.7.0 Too many connections from you, try again later\r\n"));
            return;
        }
        // Users of a submission listener are known by AUTH alone.
        let may_relay = !role.is_submission() && self.settings.relay.may_relay(peer);
        let settings = self.server_settings[role as usize].clone();
        let relay = &self.settings.relay;
        let listed = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&peer));
        let (may_convey, may_forward) = (listed(&relay.xclients), listed(&relay.xforwarders));
        let asking = etrn::asking(&self.settings, peer);
        let peer_facts = Peer { address: peer, may_relay, may_convey, may_forward, asking };
        let server = if sealed { Server::new_sealed(settings, peer_facts) } else { Server::new(settings, peer_facts) };
        let id = self.conns.insert(Side::In(Inbound {
            server,
            peer,
            role,
            counted_user: None,
            share: self.settings.share_of(peer),
            leftover: Vec::new(),
            gathered: Vec::new(),
            chunks: Vec::new(),
            signing: None,
            awaiting: false,
            paused: false,
            held_back: false,
            rests: false,
            tls_due: false,
            data_since: Mono::NEVER,
            data_bytes: 0,
        }));
        effects.push(Effect::Open { conn: id });
        let mut conn = self.conns.take(id).expect("it was just inserted");
        let Conn { outbox, side: Side::In(inbound), .. } = &mut *conn else { unreachable!() };
        if sealed {
            inbound.tls_due = true;
        } else {
            outbox.write(|out| inbound.server.greet(out));
        }
        self.set_client_deadline(now, id, &mut conn);
        self.put_inbound(id, conn, effects);
    }

    pub(super) fn receive_in(
        &mut self,
        now: Now,
        id: ConnId,
        conn: &mut Conn,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let inbound = conn.inbound();
        if inbound.awaiting {
            inbound.leftover.extend_from_slice(bytes);
        } else if inbound.leftover.is_empty() {
            self.serve(now, id, conn, bytes, effects);
        } else {
            let mut joined = std::mem::take(&mut inbound.leftover);
            joined.extend_from_slice(bytes);
            self.serve(now, id, conn, &joined, effects);
        }
    }

    /// Runs the session over `input` until it is used up, a message waits for its commit, or the session is over.
    pub(super) fn serve(&mut self, now: Now, id: ConnId, conn: &mut Conn, input: &[u8], effects: &mut Vec<Effect>) {
        let mut input = input;
        let mut run = Run::default();
        conn.inbound().server.set_room(self.log.no_room());
        conn.inbound().server.set_clock(now.wall);
        loop {
            let Conn { outbox, side: Side::In(inbound), .. } = conn else { unreachable!("only clients are served") };
            match outbox.write(|out| inbound.server.next(&mut input, out)) {
                ServerEvent::Body(slice) => {
                    inbound.data_bytes += slice.len() as u64;
                    self.counters.body_bytes += slice.len() as u64;
                    self.feed_signing(inbound, slice);
                    if inbound.role != Role::Null && !run.push(slice) {
                        if let Err(why) = self.keep(inbound, &run) {
                            inbound.server.storage_refused(why);
                        }
                        run = Run::default();
                        run.push(slice);
                    }
                }
                ServerEvent::MessageEnd if inbound.role == Role::Null => {
                    outbox.write(|out| inbound.server.discarded(out));
                }
                ServerEvent::MessageEnd => {
                    let mut refusal = None;
                    if inbound.gathered.len() + run.length_bytes > limits::CHUNK_MAX_BYTES {
                        refusal = self.keep(inbound, &run).err();
                        run = Run::default();
                    }
                    if let Some(why) = refusal {
                        self.refuse(conn, why);
                        continue;
                    }
                    let awaiting = self.message_end(now, id, conn, &run);
                    run = Run::default();
                    if awaiting {
                        conn.inbound().leftover.extend_from_slice(input);
                        break;
                    }
                }
                ServerEvent::MessageDropped => {
                    run = Run::default();
                    self.forget_body(inbound);
                }
                ServerEvent::NeedMore => {
                    if let Err(why) = self.keep(inbound, &run) {
                        inbound.server.storage_refused(why);
                    }
                    inbound.leftover.extend_from_slice(input);
                    break;
                }
                ServerEvent::StartTls => {
                    self.forget_body(inbound);
                    inbound.tls_due = true;
                    break;
                }
                ServerEvent::Authenticate => {
                    self.ask_who(id, conn, input, effects);
                    break;
                }
                ServerEvent::Etrn => {
                    if self.start_node(id, conn, input, effects) {
                        break;
                    }
                }
                ServerEvent::Conveyed => self.introduce(conn),
                ServerEvent::Close => {
                    self.forget_body(inbound);
                    conn.closing = true;
                    break;
                }
            }
        }
        if conn.inbound().server.take_room_refusal() {
            self.let_rest(now, id, conn.inbound());
        }
        self.set_client_deadline(now, id, conn);
        Shard::flush(id, conn, effects);
    }

    /// Puts a run of body bytes away before the receive buffer goes: into records if it is long enough. An error says
    /// that the message is to be refused.
    fn keep(&mut self, inbound: &mut Inbound, run: &Run<'_>) -> Result<(), LogRefusal> {
        if run.length_bytes == 0 {
            return Ok(());
        }
        let together = inbound.gathered.len() + run.length_bytes;
        if together < limits::CHUNK_MIN_BYTES {
            for part in run.parts() {
                inbound.gathered.extend_from_slice(part);
            }
            self.counters.copied_bytes += run.length_bytes as u64;
            return Ok(());
        }
        let mut kept = Ok(());
        let gathered = std::mem::take(&mut inbound.gathered);
        let mut record: Vec<&[u8]> = Vec::with_capacity(run.count + 2);
        let mut length = 0;
        for part in std::iter::once(&gathered[..]).chain(run.parts().iter().copied()) {
            let mut part = part;
            while !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(limits::CHUNK_MAX_BYTES - length));
                record.push(now);
                length += now.len();
                part = later;
                if length == limits::CHUNK_MAX_BYTES {
                    kept = kept.and(self.append_chunk(inbound, &record));
                    record.clear();
                    length = 0;
                }
            }
        }
        if length > 0 {
            kept = kept.and(self.append_chunk(inbound, &record));
        }
        inbound.gathered = gathered;
        inbound.gathered.clear();
        kept
    }

    fn append_chunk(&mut self, inbound: &mut Inbound, parts: &[&[u8]]) -> Result<(), LogRefusal> {
        inbound.chunks.push(self.log.append_chunk(parts)?);
        Ok(())
    }

    /// The log does not take a whole message: says so, and forgets it.
    fn refuse(&mut self, conn: &mut Conn, why: LogRefusal) {
        self.counters.refused_by_log += 1;
        let Conn { outbox, side: Side::In(inbound), .. } = conn else { unreachable!("only clients send messages") };
        outbox.write(|out| inbound.server.refused_for_room(why, out));
        self.forget_body(inbound);
    }

    /// A whole message is not taken: says so, and forgets it.
    fn turn_away(&mut self, conn: &mut Conn, why: Reply) {
        let Conn { outbox, side: Side::In(inbound), .. } = conn else { unreachable!("only clients send messages") };
        outbox.write(|out| inbound.server.refused(why, out));
        self.forget_body(inbound);
    }

    /// The body of a refused or broken-off message is garbage.
    fn forget_body(&mut self, inbound: &mut Inbound) {
        self.log.drop_chunks(&inbound.chunks);
        inbound.chunks.clear();
        inbound.gathered.clear();
        inbound.signing = None;
        inbound.data_since = Mono::NEVER;
    }

    /// A whole message is there: append its accepting record. True if the session now waits for the commit.
    fn message_end(&mut self, now: Now, id: ConnId, conn: &mut Conn, run: &Run<'_>) -> bool {
        let Conn { side: Side::In(inbound), .. } = conn else { unreachable!("only clients send messages") };
        inbound.data_since = Mono::NEVER;
        let signed = self.end_signing(inbound.signing.take());
        if let Some(refusal) = self.one_click_refusal(inbound.share.tenant, signed.as_ref()) {
            self.turn_away(conn, refusal);
            return false;
        }
        let facts = inbound.server.facts();
        let mut tail: [&[u8]; 9] = [&[]; 9];
        tail[0] = &inbound.gathered;
        tail[1..=run.count].copy_from_slice(run.parts());
        let arrival = Arrival {
            envelope: inbound.server.envelope(),
            text: facts.text,
            header: facts.header,
            body_bytes: facts.body_bytes,
            chunks: &inbound.chunks,
            tail: &tail[..=run.count],
            hello: inbound.server.hello(),
            peer: inbound.peer,
            share: inbound.share,
            protocol: inbound.server.protocol(),
            cipher: inbound.server.cipher(),
            fixes: facts.fixes,
            signed: signed.as_ref(),
        };
        match self.take_message(now, &arrival, Waiter::Client(id)) {
            Ok(()) => {
                inbound.chunks.clear();
                inbound.gathered.clear();
                inbound.awaiting = true;
                true
            }
            Err(why) => {
                self.refuse(conn, why);
                false
            }
        }
    }

    /// Appends the accepting record of a whole message, and makes its jobs; they are held until it is durable.
    pub(super) fn take_message(&mut self, now: Now, arrival: &Arrival<'_>, waiter: Waiter) -> Result<(), LogRefusal> {
        let envelope = arrival.envelope;
        let order = &mut self.by_domain;
        envelope.sort(order);
        let parameters = &mut self.parameters;
        parameters.clear();
        envelope.write_parameters(order, arrival.header, parameters);
        let parameters = &parameters[..];
        let terms = Terms::of(ParameterBlock(parameters), now.wall, self.settings.report.delay_ms);
        let trace = TraceFacts {
            hello: arrival.hello,
            peer: arrival.peer,
            hostname: &self.settings.hostname,
            protocol: arrival.protocol,
            utf8: envelope.utf8,
            priority: terms.as_ref().and_then(|_| ParameterBlock(parameters).message().priority),
            cipher: arrival.cipher,
            for_recipient: (envelope.len() == 1 && !envelope.is_expanded()).then(|| envelope.recipient(0)),
            when: now.wall,
            id: MessageId { shard: self.id, position: Position::default() },
        };
        let held_until = terms.as_ref().and_then(|terms| terms.held_until).unwrap_or_default();
        let recipients = ByDomain { envelope, order, held_until };
        let draft = Draft {
            copy_of: None,
            arrived: now.wall,
            text: arrival.text,
            body_bytes: arrival.body_bytes,
            sender: envelope.sender(),
            recipients: &recipients,
            parameters,
            chunks: arrival.chunks,
            tail: arrival.tail,
        };
        let mut has_signature = None;
        let appended = self.log.append_accept(&draft, &mut |id, out| {
            let trace = TraceFacts { id, ..trace };
            write_received(out, &trace);
            write_fixes(out, arrival.fixes, &trace);
            // The last change: what is signed now is what leaves (BLK-03).
            has_signature = arrival.signed.map(|signed| signed.write(out, now.wall));
        })?;
        match has_signature {
            Some(true) => self.counters.signed_messages += 1,
            Some(false) => self.counters.unsigned_messages += 1,
            None => {}
        }
        let message = self.backlog.messages.insert(Message {
            id: appended.id,
            place: appended.place,
            chunks: arrival.chunks.into(),
            arrived: now.wall,
            expires: terms::expires(terms.as_deref(), now, now.wall, self.settings.retry.expire_ms),
            share: terms::share(terms.as_deref(), arrival.share),
            terms,
            open_jobs: 0,
            first_job: NO_JOB,
            copying: false,
            committed: false,
        }) as u32;
        self.cut_into_jobs(message, envelope, arrival.share.tenant);
        self.committing.push_back(Committing {
            ticket: appended.ticket,
            waiter,
            since: now.mono,
            message,
            report: None,
        });
        Ok(())
    }

    /// Cuts a message whose recipients are recorded in the order of `by_domain`, with `parameters`, into jobs.
    pub(super) fn cut_into_jobs(&mut self, message: MessageSlot, envelope: &Envelope, tenant: TenantId) {
        let source = self.draw_source(tenant);
        let (order, parameters) = (std::mem::take(&mut self.by_domain), std::mem::take(&mut self.parameters));
        let most = self.settings.site.recipients.min(JOB_RECIPIENTS_MAX);
        let mut first = 0;
        while first < order.len() {
            let stretch = ParameterBlock(&parameters).stretch(first);
            let sender = stretch.sender(envelope.sender());
            let via = self.sites.router.via(tenant, sender);
            let terms = self.backlog.messages[message as usize].terms.as_deref();
            let rest = order[first..order.len().min(stretch.end)].iter().map(|&i| envelope.recipient(i.into()));
            let most = if stretch.is_by_member() { 1 } else { most };
            let (domain, needs, count) = terms::run(terms, sender, rest, most);
            let routed = self.sites.add_job_of(domain, source, via, needs);
            let open = if count == 128 { u128::MAX } else { (1 << count) - 1 };
            let job = self.backlog.add_job(message, routed, first as u16, open, 0);
            if stretch.is_told() {
                self.tell_of_expansion(job);
            }
            first += count;
        }
        (self.by_domain, self.parameters) = (order, parameters);
    }

    /// The peer is expected to say something within this time.
    pub(super) fn set_client_deadline(&mut self, now: Now, id: ConnId, conn: &mut Conn) {
        let inbound = conn.inbound();
        let silence_ms = match inbound.server.waiting() {
            Waiting::Data => {
                if inbound.data_since == Mono::NEVER {
                    (inbound.data_since, inbound.data_bytes) = (now.mono, 0);
                }
                self.settings.relay.data_idle_ms
            }
            Waiting::Command => {
                if !inbound.server.in_message() {
                    inbound.data_since = Mono::NEVER;
                }
                self.settings.relay.command_idle_ms
            }
            Waiting::Handshake => self.settings.timeout.tls_ms,
            // The disk's turn, not the client's.
            Waiting::Verdict | Waiting::Credentials | Waiting::Orders | Waiting::Over => {
                self.settings.relay.command_idle_ms
            }
        };
        // Nothing before `NEVER`.
        let taken_ms = now.mono.ms_since(inbound.data_since);
        let too_slow = taken_ms > self.settings.relay.data_idle_ms
            && inbound.data_bytes < taken_ms * limits::DATA_RATE_MIN_BYTES_PER_SECOND / 1000;
        conn.deadline = if too_slow { now.mono } else { now.mono.plus_ms(silence_ms) };
        self.watch(now.mono, id, conn);
    }

    /// The client said nothing for too long: 421 and close (SES-23, DAT-14).
    pub(super) fn client_silent(&mut self, now: Now, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        let Conn { outbox, closing, side: Side::In(inbound), .. } = &mut *conn else { unreachable!() };
        if *closing || inbound.server.waiting() == Waiting::Handshake {
            // It does not even take our last words, or could not be told any (TLS-13).
            self.forget_client(id, conn);
            effects.push(Effect::Abort { conn: id });
            return;
        }
        // It waits for us.
        if inbound.awaiting || inbound.rests {
            self.set_client_deadline(now, id, &mut conn);
            self.put_inbound(id, conn, effects);
            return;
        }
        outbox.write(|out| inbound.server.timed_out(out));
        *closing = true;
        self.forget_body(inbound);
        conn.deadline = now.mono.plus_ms(limits::QUIT_TIMEOUT_MS);
        self.watch(now.mono, id, &mut conn);
        Shard::flush(id, &mut conn, effects);
        self.put_inbound(id, conn, effects);
    }

    /// The client's connection is gone. A message that waits for its commit stays ours.
    pub(super) fn client_gone(&mut self, id: ConnId, conn: Box<Conn>) {
        self.forget_client(id, conn);
    }

    pub(super) fn forget_client(&mut self, id: ConnId, mut conn: Box<Conn>) {
        self.unwatch(&mut conn);
        let Side::In(inbound) = &mut conn.side else { unreachable!() };
        self.crowd.leave(inbound.peer);
        if let Some(user) = inbound.counted_user.take() {
            self.crowd.leave_user(&user.name);
        }
        self.forget_body(inbound);
        self.conns.remove(id, true);
    }

    /// Puts an inbound connection back, or ends it if it has nothing more to say; reads from it or not.
    pub(super) fn put_inbound(&mut self, id: ConnId, mut conn: Box<Conn>, effects: &mut Vec<Effect>) {
        Shard::flush(id, &mut conn, effects);
        if conn.closing && conn.outbox.is_empty() {
            effects.push(Effect::Close { conn: id });
            self.forget_client(id, conn);
            return;
        }
        if conn.inbound().tls_due && conn.outbox.is_empty() {
            conn.inbound().tls_due = false;
            let listener = conn.inbound().role;
            effects.push(Effect::StartTls { conn: id, role: TlsRole::Server { listener } });
        }
        let unread = conn.outbox.len() > limits::OUTBOX_MAX_BYTES;
        let crowded = self.log.crowded();
        let inbound = conn.inbound();
        let pause = crowded || unread || inbound.rests || inbound.leftover.len() > limits::LEFTOVER_MAX_BYTES;
        if pause != inbound.paused {
            inbound.paused = pause;
            effects.push(if pause { Effect::Pause { conn: id } } else { Effect::Resume { conn: id } });
        }
        // Also who was paused for another reason before.
        if crowded && !std::mem::replace(&mut inbound.held_back, true) {
            self.held_back.push(id);
        }
        self.conns.put(id, conn);
    }

    /// Does not read from a client for a while, for it was refused for want of room. Refusing costs nearly what taking does, and
    /// clients that ask again at once, or come anew, would leave no time to send what is there.
    fn let_rest(&mut self, now: Now, id: ConnId, inbound: &mut Inbound) {
        if std::mem::replace(&mut inbound.rests, true) {
            return;
        }
        let in_turn_ms = self.resting.len() as u64 * 1000 / limits::REFUSALS_PER_SECOND;
        let until = now.mono.plus_ms(in_turn_ms.clamp(limits::REFUSED_REST_MS, limits::REFUSED_REST_MAX_MS));
        if self.resting.is_empty() {
            self.wheel.insert(until, Timer::Resting);
        }
        self.resting.push_back((until, id));
    }

    /// Reads again from clients that have rested, in the order in which they were refused.
    pub(super) fn resting_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(&(until, id)) = self.resting.front() {
            if now.mono < until {
                // Many at a time: a timer for each would be too much.
                self.wheel.insert(until.max(now.mono.plus_ms(limits::REFUSED_REST_MS / 20)), Timer::Resting);
                return;
            }
            self.resting.pop_front();
            if let Some(mut conn) = self.conns.take(id) {
                conn.inbound().rests = false;
                self.set_client_deadline(now, id, &mut conn);
                self.put_inbound(id, conn, effects);
            }
        }
    }

    /// Reads again from clients that were paused because too much waited for the disk, once it does not.
    pub(super) fn let_clients_go_on(&mut self, effects: &mut Vec<Effect>) {
        if self.held_back.is_empty() || self.log.crowded() {
            return;
        }
        for id in std::mem::take(&mut self.held_back) {
            if let Some(mut conn) = self.conns.take(id) {
                conn.inbound().held_back = false;
                self.put_inbound(id, conn, effects);
            }
        }
    }
}

/// The recipients of an envelope in the order in which they are recorded.
pub(super) struct ByDomain<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) order: &'a [u16],
    pub(super) held_until: UnixMs,
}

impl RecipientList for ByDomain<'_> {
    fn count(&self) -> usize {
        self.order.len()
    }
    fn get(&self, index: usize) -> DraftRecipient<'_> {
        let address = self.envelope.recipient(self.order[index].into());
        DraftRecipient { due: self.held_until, ..DraftRecipient::open(address) }
    }
}
