//! The independent book: what was offered, promised, written, taken and reported; and what that must add up to.
//!
//! It never asks the relay what it thinks. It reads what leaves it: replies, blocks on their way to disk, and what
//! next hops took. Every breach panics with what was expected.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use ringpost::base::ids::MessageId;
use ringpost::base::time::Now;
use ringpost::mail::date::Day;
use ringpost::queue::record::{self, AcceptView, HEADER_BYTES, Kind, VerdictView, padded};
use ringpost::queue::{RecipientState, ShardStart, VerdictOutcome};
use ringpost::shard::orders::Target;

use crate::plan::{Plan, SECOND_US, SMART_HOST, Zone};

/// In the liveness phase everything that was on its way when an order came has ended after so long.
pub const HELD_ENDED_US: u64 = 60 * SECOND_US;

/// How sure it is that a recipient is settled in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    /// On its way to disk, or in a write that failed: may or may not be there after a crash.
    Said,
    Durable,
}

/// A next hop took a message for a recipient.
#[derive(Debug)]
struct Take {
    at_us: u64,
    /// When the relay was given the whole 250.
    seen_us: Option<u64>,
    /// A crash came before the verdict was durable.
    crashed: bool,
}

#[derive(Debug)]
pub struct Recipient {
    pub address: String,
    pub domain: usize,
    pub refused: bool,
    takes: Vec<Take>,
    /// It may fail: a next hop said so, or its domain takes no mail.
    excused: bool,
    /// Reports of its failure that its sender's next hop took.
    reports: Vec<Take>,
    /// A crash came before its last verdict was durable.
    may_have_two_reports: bool,
    unreported: bool,
    verdict: Verdict,
}

#[derive(Debug)]
pub struct Message {
    pub sender: Option<String>,
    pub sender_domain: usize,
    pub recipients: Vec<Recipient>,
    pub body: Rc<[u8]>,
    /// Must be refused whatever happens.
    pub poisoned: bool,
    /// The client has handed its last byte to the network.
    pub complete: bool,
    /// Answered 5xx, or 4xx in a run of the relay that has not crashed since.
    pub refused: bool,
    acked: Option<MessageId>,
    offered_us: u64,
    bounce_excused: bool,
}

/// What an accepting record was seen to be of.
struct Known {
    message: usize,
    bounce: bool,
    /// By the record's order.
    recipients: Vec<usize>,
    shard: usize,
    /// Number of the write that holds it.
    write: u64,
    written: bool,
    /// When it was made, as the record says: a full batch or a slow disk may let it wait.
    arrived_us: u64,
}

enum Fact {
    Accept(MessageId),
    Terminal(usize, usize),
}

/// What was taken, to be told when the reply arrives: message and recipient and which take of it, or which report.
#[derive(Clone, Copy, Debug)]
pub struct TakeName {
    message: usize,
    recipient: usize,
    report: bool,
    take: usize,
}

#[derive(Default)]
pub struct Ledger {
    pub messages: Vec<Message>,
    by_address: HashMap<String, (usize, usize)>,
    known: HashMap<MessageId, Known>,
    writes: HashMap<(usize, u64), Vec<Fact>>,
    outstanding: Vec<BTreeSet<u64>>,
    /// Sites that refused the null reverse-path.
    null_refused: BTreeSet<usize>,
    /// Sites with a handshake that did not come to its end: tried in clear for a while.
    pub tls_failed: BTreeSet<usize>,
    /// Sites of which DNS said what is not so.
    pub lied_about: BTreeSet<usize>,
    /// Recipients taken from the new source, by site.
    pub from_new: HashMap<usize, u32>,
    /// Days that the relay's clock has shown.
    pub days: BTreeSet<Day>,
    /// Sites of which DNS named more hosts than there are.
    pub renamed: BTreeSet<usize>,
    /// By so much the wall clock was set forward before the relay's last start.
    pub ahead_us: u64,
    /// What the operator wants held, and since when.
    pub holds: Vec<(Target, u64)>,
    /// The alias table: a list for some messages.
    pub table: String,
    /// The clients' messages a second, over all shards; 0: as many as there are.
    pub rate: u32,
    /// When the faults ended.
    pub calm_since_us: u64,
    /// The number of shards changed.
    pub reshards: bool,
    /// Recipients settled and reports taken since the faults ended.
    pub settled_in_calm: u64,
    pub crashes: u32,
    pub taken: u64,
    pub twice: u64,
    pub windows: u64,
    pub bounced: u64,
    pub acked: u64,
}

fn bounce_number(address: &str) -> Option<usize> {
    address.strip_prefix('s')?.split('@').next()?.parse().ok()
}

impl Ledger {
    pub fn new(plan: &Plan) -> Ledger {
        Ledger { outstanding: vec![BTreeSet::new(); plan.shards.max(3)], ..Ledger::default() }
    }

    /// A message that a client is about to offer.
    pub fn offer(
        &mut self,
        plan: &Plan,
        now_us: u64,
        null_sender: bool,
        sender_domain: usize,
        domains: &[usize],
        body: (Rc<[u8]>, bool, bool),
    ) -> usize {
        let number = self.messages.len();
        let (body, eight_bit, poisoned) = body;
        let dead = |domain: usize| !plan.smart_host && plan.zones[domain] != Zone::Hosts;
        let recipients = domains
            .iter()
            .enumerate()
            .map(|(index, &domain)| Recipient {
                address: format!("r{number}x{index}@d{domain}.test"),
                domain,
                refused: false,
                takes: Vec::new(),
                excused: eight_bit || dead(domain),
                reports: Vec::new(),
                may_have_two_reports: false,
                unreported: false,
                verdict: Verdict::Open,
            })
            .collect::<Vec<_>>();
        for (index, recipient) in recipients.iter().enumerate() {
            self.by_address.insert(recipient.address.clone(), (number, index));
        }
        self.messages.push(Message {
            sender: (!null_sender).then(|| format!("s{number}@d{sender_domain}.test")),
            sender_domain,
            recipients,
            body,
            poisoned,
            complete: false,
            refused: false,
            acked: None,
            offered_us: now_us,
            bounce_excused: dead(sender_domain),
        });
        number
    }

    // ---- the disk ----

    /// A block goes to disk: what is in it?
    pub fn write_issued(&mut self, now_us: u64, now: Now, shard: usize, write: u64, offset: u32, bytes: &[u8]) {
        if offset == 0 {
            return;
        }
        self.outstanding[shard].insert(write);
        let mut facts = Vec::new();
        let mut at = 0;
        while let Some((header, payload)) = bytes.get(at..).and_then(record::open) {
            at += padded(HEADER_BYTES + payload.len());
            match header.kind {
                Kind::Accept => self.accept_issued((now_us, now), shard, write, payload, &mut facts),
                Kind::Verdict => self.verdict_issued(payload, &mut facts),
                Kind::Start | Kind::Chunk | Kind::Cut => {}
            }
        }
        assert!(at > 0, "a block that holds no record was written at {offset}");
        self.writes.insert((shard, write), facts);
    }

    fn accept_issued(
        &mut self,
        (now_us, now): (u64, Now),
        shard: usize,
        write: u64,
        payload: &[u8],
        facts: &mut Vec<Fact>,
    ) {
        let view = AcceptView::read(payload).expect("the relay writes well-formed records");
        let mut message = None;
        let mut bounce = false;
        let mut recipients = Vec::new();
        for recipient in view.recipients() {
            let address = std::str::from_utf8(recipient.address).expect("addresses here are text");
            let number = match self.by_address.get(address) {
                Some(&(number, index)) => {
                    recipients.push(index);
                    number
                }
                None => {
                    bounce = true;
                    recipients.push(0);
                    bounce_number(address).unwrap_or_else(|| panic!("a message for {address}, who was never named"))
                }
            };
            assert!(message.is_none_or(|other| other == number), "a record mixes two messages");
            message = Some(number);
        }
        let message = message.expect("a message has recipients");
        let late_ms = now.wall - view.arrived;
        let arrived_us = now_us.saturating_sub(late_ms * 1000 + 1000);
        let known = Known { message, bounce, recipients, shard, write, written: false, arrived_us };
        if view.copies == 0 {
            assert_eq!(view.id.shard.0 as usize, shard, "a message is named by its shard");
            if let Some(old) = self.known.insert(view.id, known) {
                let before = &mut self.messages[old.message];
                if before.acked == Some(view.id) {
                    // Where the directory of a shard went, its names may come again once nothing speaks of them.
                    let settled = before.recipients.iter().all(|r| r.refused || r.verdict == Verdict::Durable);
                    assert!(self.reshards && settled, "the name {} was given twice", view.id);
                    before.acked = None;
                }
            }
            facts.push(Fact::Accept(view.id));
        } else if !bounce {
            for (index, recipient) in view.recipients().enumerate() {
                if recipient.state != RecipientState::Open {
                    self.say(message, known.recipients[index], facts);
                }
            }
        }
    }

    fn verdict_issued(&mut self, payload: &[u8], facts: &mut Vec<Fact>) {
        let view = VerdictView::read(payload).expect("the relay writes well-formed records");
        let known = self.known.get(&view.message).expect("a verdict is about a message that was written before");
        if known.bounce {
            return;
        }
        let message = known.message;
        let terminal: Vec<usize> = view
            .verdicts()
            .filter(|verdict| verdict.outcome != VerdictOutcome::Deferred)
            .map(|verdict| {
                let index = known.recipients[verdict.recipient as usize];
                let recipient = &self.messages[message].recipients[index];
                if verdict.outcome == VerdictOutcome::Delivered {
                    assert!(
                        !recipient.takes.is_empty(),
                        "{} is noted as delivered, but no one took it",
                        recipient.address
                    );
                }
                index
            })
            .collect();
        for index in terminal {
            self.say(message, index, facts);
        }
    }

    fn say(&mut self, message: usize, index: usize, facts: &mut Vec<Fact>) {
        let recipient = &mut self.messages[message].recipients[index];
        if recipient.verdict == Verdict::Open {
            recipient.verdict = Verdict::Said;
        }
        facts.push(Fact::Terminal(message, index));
    }

    /// A write ended.
    pub fn write_done(&mut self, shard: usize, write: u64, well: bool) {
        self.outstanding[shard].remove(&write);
        if !well {
            // What was on its way beside it is given up; the next segment says so.
            self.outstanding[shard].clear();
        }
        for fact in self.writes.remove(&(shard, write)).unwrap_or_default() {
            match fact {
                _ if !well => {}
                Fact::Accept(id) => self.known.get_mut(&id).expect("it was issued").written = true,
                Fact::Terminal(message, index) => {
                    let verdict = &mut self.messages[message].recipients[index].verdict;
                    let before = std::mem::replace(verdict, Verdict::Durable);
                    self.settled_in_calm += u64::from(before != Verdict::Durable);
                }
            }
        }
    }

    // ---- promises ----

    /// Reads a reply that stands in a client's outbox: no 250 before its record and all before it are on disk.
    pub fn reply_stands(&mut self, line: &str) -> Option<MessageId> {
        let id: MessageId = line.trim_end().rsplit(' ').next()?.parse().ok()?;
        let known = self.known.get(&id).unwrap_or_else(|| panic!("250 for {id}, whose record was never written"));
        assert!(known.written, "250 for {id} while the write {} that holds it is not done", known.write);
        let earlier = self.outstanding[known.shard].range(..known.write).next();
        assert!(earlier.is_none(), "250 for {id} while the earlier write {earlier:?} is not done");
        Some(id)
    }

    /// The reply left the relay: from now on it is answerable.
    pub fn reply_left(&mut self, id: MessageId) {
        let known = &self.known[&id];
        assert!(!known.bounce, "a bounce has no client");
        let message = &mut self.messages[known.message];
        assert!(message.complete, "250 for message {}, whose end was not sent yet", known.message);
        assert!(!message.poisoned, "250 for message {}, which breaks the rules", known.message);
        assert!(message.acked.is_none(), "message {} was answered twice", known.message);
        message.acked = Some(id);
        self.acked += 1;
    }

    // ---- next hops ----

    /// A next hop takes a message for these recipients; or a bounce.
    pub fn take(
        &mut self,
        plan: &Plan,
        now_us: u64,
        (site, orphan): (usize, bool),
        sender: &str,
        recipients: &[String],
        data: &[u8],
    ) -> Vec<TakeName> {
        assert!(!recipients.is_empty(), "a body was sent for no one");
        assert!(recipients.len() <= plan.settings.site.recipients, "more recipients in a transaction than set");
        let domain_of = |address: &str| address.rsplit('@').next().unwrap_or_default().to_string();
        let mut names = Vec::new();
        for recipient in recipients {
            assert_eq!(domain_of(recipient), domain_of(&recipients[0]), "domains are mixed in a transaction");
            self.must_not_be_held(plan, now_us, recipient, &domain_of(recipient));
            if let Some(&(number, index)) = self.by_address.get(recipient) {
                names.push(self.take_original(plan, now_us, (site, orphan), sender, data, number, index));
            } else {
                names.extend(self.take_bounce(plan, now_us, orphan, sender, recipient, data));
            }
        }
        names
    }

    #[expect(clippy::too_many_arguments)]
    fn take_original(
        &mut self,
        plan: &Plan,
        now_us: u64,
        (site, orphan): (usize, bool),
        sender: &str,
        data: &[u8],
        number: usize,
        index: usize,
    ) -> TakeName {
        let crashes = self.crashes;
        let message = &mut self.messages[number];
        let recipient = &mut message.recipients[index];
        let name = format!("message {number} for {}", recipient.address);
        assert!(site == recipient.domain || site == SMART_HOST && plan.smart_host, "{name} came to site {site}");
        assert_eq!(sender, message.sender.as_deref().unwrap_or(""), "{name}: wrong reverse-path");
        assert!(message.complete, "{name} was delivered, but never offered completely");
        assert!(!message.poisoned && !message.refused, "{name} was delivered, but had been refused");
        assert!(!recipient.refused, "{name} was delivered, but its RCPT had been refused");
        check_body(&name, data, &message.body);
        // What the relay had sent before it let go of the connection is a window by itself.
        if !orphan {
            assert!(recipient.verdict != Verdict::Durable, "{name} is delivered after its last verdict was durable");
            must_be_excused(&recipient.takes, &format!("{name} is delivered twice, after {crashes} crashes"));
        }
        self.taken += 1;
        self.twice += u64::from(!recipient.takes.is_empty());
        let take = take_at(&mut recipient.takes, now_us);
        TakeName { message: number, recipient: index, report: false, take }
    }

    fn take_bounce(
        &mut self,
        plan: &Plan,
        now_us: u64,
        orphan: bool,
        sender: &str,
        recipient: &str,
        data: &[u8],
    ) -> Vec<TakeName> {
        let number = bounce_number(recipient).unwrap_or_else(|| panic!("mail for {recipient}, who was never named"));
        assert_eq!(sender, "", "a report comes from the null reverse-path");
        let message = &mut self.messages[number];
        assert_eq!(message.sender.as_deref(), Some(recipient), "a report goes to the sender");
        assert!(message.complete, "message {number} is reported, but never offered completely");
        let lied = !plan.smart_host;
        let expired = now_us - message.offered_us + self.ahead_us >= plan.settings.retry.expire_ms * 1000;
        let text = String::from_utf8_lossy(data);
        let mut names = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("Final-Recipient: rfc822;")) {
            let address = line.trim();
            let &(about, index) = self.by_address.get(address).unwrap_or_else(|| panic!("a report about {address}"));
            assert_eq!(about, number, "a report about another message");
            let failed = &mut message.recipients[index];
            let excused = failed.excused || lied && self.lied_about.contains(&failed.domain);
            assert!(excused || expired, "{address} is reported as failed, but nothing final was said of it");
            if !orphan && !failed.may_have_two_reports {
                must_be_excused(&failed.reports, &format!("{address} is reported as failed twice"));
            }
            let take = take_at(&mut failed.reports, now_us);
            names.push(TakeName { message: number, recipient: index, report: true, take });
        }
        assert!(!names.is_empty(), "a report about no one:\n{text}");
        self.bounced += 1;
        self.settled_in_calm += 1;
        names
    }

    /// The relay was given the whole reply to what was taken.
    pub fn reply_seen(&mut self, now_us: u64, name: TakeName) {
        let recipient = &mut self.messages[name.message].recipients[name.recipient];
        let takes = if name.report { &mut recipient.reports } else { &mut recipient.takes };
        takes[name.take].seen_us = Some(now_us);
    }

    /// A next hop said something final about a recipient.
    pub fn excuse(&mut self, address: &str) {
        if let Some(&(number, index)) = self.by_address.get(address) {
            self.messages[number].recipients[index].excused = true;
        } else if let Some(number) = bounce_number(address) {
            self.messages[number].bounce_excused = true;
        }
    }

    /// A next hop said something final about a whole reverse-path.
    pub fn excuse_sender(&mut self, sender: &str, site: usize) {
        if sender.is_empty() {
            self.null_refused.insert(site);
        } else if let Some(number) = bounce_number(sender) {
            self.messages[number].recipients.iter_mut().for_each(|recipient| recipient.excused = true);
        }
    }

    /// The relay says that a failure of a message cannot be reported.
    pub fn unreported(&mut self, plan: &Plan, now_us: u64, id: MessageId) {
        let Some(known) = self.known.get(&id) else { return };
        let message = &mut self.messages[known.message];
        if known.bounce {
            let expired = now_us + self.ahead_us >= known.arrived_us + plan.settings.retry.expire_ms * 1000;
            let site = if plan.smart_host { SMART_HOST } else { message.sender_domain };
            let excused = self.null_refused.contains(&site) || self.lied_about.contains(&site);
            assert!(
                message.bounce_excused || expired || excused,
                "the report about message {} failed, but nothing final was said of it",
                known.message
            );
            message.bounce_excused = true;
        } else {
            assert!(message.sender.is_none(), "the failure of {id} is not reported, though it has a sender");
            message.recipients.iter_mut().for_each(|recipient| recipient.unreported = true);
        }
    }

    // ---- the operator ----

    pub fn hold(&mut self, target: &Target, now_us: u64) {
        if self.holds.iter().all(|(held, _)| held != target) {
            self.holds.push((target.clone(), now_us));
        }
    }

    /// What a relay that starts is told to hold.
    pub fn held(&self) -> Vec<Target> {
        self.holds.iter().map(|(target, _)| target.clone()).collect()
    }

    /// One of the messages that got 250 so far.
    pub fn acknowledged(&self, lot: u64) -> Option<MessageId> {
        let all = || self.messages.iter().filter_map(|message| message.acked);
        all().nth(lot as usize % all().count().max(1))
    }

    /// The operator gives up all that a target stands for: it may fail.
    pub fn given_up(&mut self, target: &Target, smart_host: bool) {
        for message in &mut self.messages {
            let is_of = |domain: usize| match target {
                Target::Message(id) => message.acked == Some(*id),
                Target::Domain(name) => **name == *format!("d{domain}.test"),
                Target::Site(name) => smart_host || **name == *format!("d{domain}.test"),
                Target::Tenant(_) => true,
                Target::DomainsBelow(_) => unreachable!("nobody orders that here"),
            };
            message.bounce_excused |= is_of(message.sender_domain);
            message.recipients.iter_mut().for_each(|recipient| recipient.excused |= is_of(recipient.domain));
        }
    }

    /// Mail came to a next hop: what is held does not go there once that which was on its way has ended.
    fn must_not_be_held(&self, plan: &Plan, now_us: u64, recipient: &str, domain: &str) {
        for (target, since_us) in &self.holds {
            let held = match target {
                Target::Domain(held) => **held == *domain,
                Target::Site(name) => **name == *plan.way(domain),
                Target::Message(id) => {
                    let message = self.by_address.get(recipient).map(|(message, _)| &self.messages[*message]);
                    message.is_some_and(|message| message.acked == Some(*id))
                }
                Target::Tenant(_) => self.by_address.contains_key(recipient),
                Target::DomainsBelow(_) => unreachable!("nobody orders that here"),
            };
            let ended = self.calm_since_us > 0 && now_us > self.calm_since_us.max(*since_us) + HELD_ENDED_US;
            assert!(!held || !ended, "{recipient} came to a next hop, and {target:?} is held since {since_us}");
        }
    }

    // ---- crashes ----

    /// All shards stop at once. `prompt_us`: by then a verdict is durable if the disk is well.
    pub fn crash(&mut self, now_us: u64, prompt_us: Option<u64>) {
        self.crashes += 1;
        self.outstanding.iter_mut().for_each(BTreeSet::clear);
        self.writes.clear();
        for message in &mut self.messages {
            for recipient in &mut message.recipients {
                recipient.reports.iter_mut().for_each(|report| report.crashed = true);
                if recipient.verdict == Verdict::Durable {
                    continue;
                }
                // Its report may be durable and itself not: then there will be another.
                recipient.may_have_two_reports = true;
                for take in recipient.takes.iter_mut().filter(|take| !take.crashed) {
                    let Some(seen_us) = take.seen_us else { continue };
                    if let Some(prompt_us) = prompt_us {
                        let late_us = now_us - seen_us;
                        assert!(
                            late_us <= prompt_us,
                            "{} was delivered {late_us} us ago and the verdict is still not durable",
                            recipient.address
                        );
                    }
                    take.crashed = true;
                    self.windows += 1;
                }
            }
        }
    }

    /// What recovery found must be what was promised.
    pub fn recovered(&mut self, starts: &[ShardStart]) {
        let mut open: HashMap<MessageId, Vec<String>> = HashMap::new();
        for start in starts {
            for found in &start.messages {
                let addresses = found.recipients.iter().map(|r| String::from_utf8_lossy(&r.address).into_owned());
                assert!(open.insert(found.id, addresses.collect()).is_none(), "{} was recovered twice", found.id);
                assert!(self.known.contains_key(&found.id), "{} was recovered, but never written", found.id);
            }
        }
        for message in &mut self.messages {
            let Some(id) = message.acked else { continue };
            let found = open.get(&id);
            for recipient in message.recipients.iter_mut().filter(|recipient| !recipient.refused) {
                let is_open = found.is_some_and(|found| found.contains(&recipient.address));
                let name = &recipient.address;
                match recipient.verdict {
                    Verdict::Open if is_open => {}
                    Verdict::Open => {
                        // With all segments in trouble what is settled may go before its verdict is on disk.
                        let settled = recipient.excused || recipient.takes.iter().any(|take| take.seen_us.is_some());
                        assert!(settled, "{name} of {id} was lost: 250, no verdict, and not recovered");
                        recipient.verdict = Verdict::Durable;
                    }
                    Verdict::Durable => assert!(!is_open, "{name} of {id} came back after its durable verdict"),
                    Verdict::Said if is_open => recipient.verdict = Verdict::Open,
                    Verdict::Said => recipient.verdict = Verdict::Durable,
                }
            }
        }
        for (id, addresses) in &open {
            let Some(known) = self.known.get(id).filter(|known| !known.bounce) else { continue };
            let message = &mut self.messages[known.message];
            assert!(message.complete && !message.poisoned, "{id} was recovered, but never offered whole");
            if message.acked.is_none() {
                let still_open = |r: &&mut Recipient| addresses.contains(&r.address);
                message.recipients.iter_mut().filter(still_open).for_each(|r| r.verdict = Verdict::Open);
            }
        }
    }

    /// A refusal by the log may be forgotten by a crash: the message may be whole on disk.
    pub fn forgive_refusals(&mut self) {
        for message in self.messages.iter_mut().filter(|message| !message.poisoned) {
            message.refused = false;
        }
    }

    // ---- the end ----

    /// Recipients that are not settled, for whoever looks into a failure.
    pub fn open_recipients(&self) -> String {
        let mut text = String::new();
        for message in &self.messages {
            let ids = self.known.iter().filter(|(_, known)| !known.bounce).map(|(id, known)| (known.message, *id));
            for recipient in message.recipients.iter().filter(|r| !r.refused && r.verdict != Verdict::Durable) {
                let number = self.by_address[&recipient.address].0;
                let id = ids.clone().find(|(message, _)| *message == number).map(|(_, id)| id.to_string());
                if let (Some(id), true) = (id, message.complete) {
                    text += &format!(
                        "\n  {} of {id}, taken {} times, {:?}",
                        recipient.address,
                        recipient.takes.len(),
                        recipient.verdict
                    );
                }
            }
        }
        text
    }

    /// Everything is settled: does the book balance?
    pub fn balance(&self, plan: &Plan, now_us: u64) {
        let expire_us = plan.settings.retry.expire_ms * 1000;
        for (number, message) in self.messages.iter().enumerate() {
            if message.acked.is_none() {
                continue;
            }
            let age_us = now_us - message.offered_us + self.ahead_us;
            for recipient in message.recipients.iter().filter(|recipient| !recipient.refused) {
                if !recipient.takes.is_empty() {
                    continue;
                }
                let name = format!("message {number} for {}", recipient.address);
                let site = if plan.smart_host { SMART_HOST } else { recipient.domain };
                let null_refused = message.sender.is_none() && self.null_refused.contains(&site);
                let lied = self.lied_about.contains(&site);
                assert!(
                    recipient.excused || lied || null_refused || age_us >= expire_us,
                    "{name} is lost: 250, never taken, and nothing final was said of it"
                );
                let told = match message.sender {
                    None => recipient.unreported || self.crashes > 0,
                    Some(_) => {
                        let site = if plan.smart_host { SMART_HOST } else { message.sender_domain };
                        !recipient.reports.is_empty() || message.bounce_excused || self.lied_about.contains(&site)
                    }
                };
                assert!(told, "{name} failed and its sender was not told: {recipient:?}");
            }
        }
    }

    /// Nothing was delivered or failed that is not noted for good.
    pub fn all_noted(&self) {
        for message in self.messages.iter().filter(|message| message.acked.is_some()) {
            for recipient in message.recipients.iter().filter(|recipient| !recipient.refused) {
                assert_eq!(
                    recipient.verdict,
                    Verdict::Durable,
                    "{} is settled without a durable verdict",
                    recipient.address
                );
            }
        }
    }
}

/// Notes that something is taken, and gives its place among the takes.
fn take_at(takes: &mut Vec<Take>, now_us: u64) -> usize {
    takes.push(Take { at_us: now_us, seen_us: None, crashed: false });
    takes.len() - 1
}

/// Taken again is only what the relay saw no reply to, or crashed behind.
fn must_be_excused(takes: &[Take], what: &str) {
    for take in takes {
        let excused = take.seen_us.is_none() || take.crashed;
        assert!(excused, "{what}, without excuse: taken at {} and the reply seen at {:?}", take.at_us, take.seen_us);
    }
}

/// The body as it was offered, behind exactly one trace field.
fn check_body(name: &str, data: &[u8], body: &[u8]) {
    assert!(
        data.ends_with(body),
        "{name}: the body is not the one that was offered ({} bytes, {} offered)",
        data.len(),
        body.len()
    );
    let prefix = &data[..data.len() - body.len()];
    assert!(prefix.starts_with(b"Received: from ") && prefix.ends_with(b"\r\n"), "{name}: wrong prefix {prefix:?}");
    for (at, _) in prefix.windows(2).enumerate().filter(|(_, two)| two == b"\r\n") {
        let folded = prefix.get(at + 2).is_none_or(|next| matches!(next, b' ' | b'\t'));
        assert!(folded, "{name}: more than one field was added: {}", String::from_utf8_lossy(prefix));
    }
}
