//! What an operator orders while the relay runs: mail held and let go again, given up, or tried at once (QUE-14).
//!
//! A held job is in no list: nothing can send it. A site that is held is suspended as a whole, its jobs stay in its list. What
//! is on its way to a next hop when the order comes ends as it ends; what comes back from there is held then. Holding
//! settles nothing and writes no verdict, so nothing is lost by it; who gives the orders keeps those that hold over a restart. Giving up
//! is a failure like any other, with its report, a bounded number at a time.
//!
//! Domains are told apart by a checksum that each job carries; where a mistake would lose mail the record is asked, too.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::base::ids::{MessageId, OperationId};
use crate::base::limits;
use crate::base::time::{Mono, Now};
use crate::mail::address::domain_of;
use crate::queue::record::AcceptView;
use crate::route::NextHop;
use crate::route::decide::Decision;
use crate::schedule::destination::DestinationId;
use crate::schedule::fair::TenantId;
use crate::schedule::site::{JobId, NO_SITE};
use crate::shard::backlog::{Job, JobState, domain_mark};
use crate::shard::reading::READS_MAX;
use crate::shard::terms;
use crate::shard::timers::Timer;
use crate::shard::{Effect, Level, Shard};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send nothing of it until it is released.
    Hold,
    /// Undo `Hold` of the same target.
    Release,
    /// Give it up now, with a report to the sender.
    Expire,
    /// Try it now, whatever pauses there are.
    Retry,
    /// Send no more of it than so many messages a second, over all shards; for tenants.
    Rate {
        /// 0: as many as there are.
        messages_per_second: u32,
    },
}

/// What it is to be done to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One message.
    Message(MessageId),
    /// All recipients of a domain, in lower case; those to come too.
    Domain(Box<str>),
    /// The same of a domain, and of those below it as far as mail for them goes by their own mail hosts or a route that names them.
    DomainsBelow(Box<str>),
    /// All of a tenant, by its name; what comes to be later too.
    Tenant(Box<str>),
    /// All that goes to a site, to a rule's sites (a provider), or by a destination (a recipient domain, a smart host), by the
    /// name that `ringpost explain` and the reports give it; what comes to be later too.
    Site(Box<str>),
}

/// Why a job is on hold although no order that stands concerns it.
#[derive(Clone)]
enum Purpose {
    /// It is given up; only if its recipients are of this domain, if one was ordered.
    Expire(Option<Arc<str>>),
    /// It is routed anew.
    Reroute,
    /// Nothing of it is sent: it is a list, or an alias of several, and its sender is told that the message got there.
    Tell,
}

/// What is to be done with a job, named so that a job that took its place is not meant.
struct Errand {
    job: JobId,
    message: MessageId,
    purpose: Purpose,
}

/// How far a job's errand is.
enum Progress {
    Done,
    /// Its record is being read, or is to be.
    Reading,
    /// It is on its way to a next hop, or deferred.
    Elsewhere,
}

/// The orders that stand, but for those about sites, and what is to be done with jobs one by one.
#[derive(Default)]
pub(super) struct Orders {
    messages: FxHashSet<MessageId>,
    tenants: FxHashSet<TenantId>,
    /// By the checksum that jobs carry.
    domains: FxHashMap<u32, Box<str>>,
    errands: VecDeque<Errand>,
    /// A timer is set for them.
    timed: bool,
}

impl Shard {
    /// Makes orders to hold stand that were given in an earlier run; before the first step.
    pub fn hold(&mut self, now: Now, targets: &[Target]) {
        for target in targets {
            self.obey(now, Order::Hold, target);
        }
    }

    pub(super) fn operate(
        &mut self,
        now: Now,
        operation: OperationId,
        order: Order,
        target: &Target,
        effects: &mut Vec<Effect>,
    ) {
        let jobs = self.obey(now, order, target);
        if jobs > 0 {
            let text = format!("shard {}: ordered to {order:?} {target:?}: {jobs} jobs", self.id.0);
            effects.push(Effect::Report(Level::Info, text));
        }
        effects.push(Effect::Operated { operation, jobs });
    }

    /// Does what is ordered, or begins to. Gives the jobs that it concerns.
    fn obey(&mut self, now: Now, order: Order, target: &Target) -> u64 {
        if let (Order::Rate { messages_per_second }, Target::Tenant(tenant)) = (order, target) {
            return self.set_rate(now.mono, tenant, messages_per_second);
        }
        let jobs = self.jobs_of_target(target);
        match order {
            Order::Hold => self.begin_hold(target, &jobs),
            Order::Release => self.end_hold(now.mono, target, &jobs),
            Order::Expire => jobs.iter().for_each(|&job| self.begin_expiry(job, target)),
            Order::Retry => jobs.iter().for_each(|&job| self.try_now(now, job)),
            // Sites have limits of their own, and nothing else a rate.
            Order::Rate { .. } => return 0,
        }
        jobs.len() as u64
    }

    fn jobs_of_target(&self, target: &Target) -> Vec<JobId> {
        let jobs = self.backlog.jobs.iter().map(|(job, entry)| (job as JobId, entry));
        match target {
            Target::Message(id) => {
                let found = self.backlog.messages.iter().find(|(_, message)| message.id == *id);
                found.map_or(Vec::new(), |(slot, _)| self.backlog.jobs_of(slot as u32).collect())
            }
            Target::Domain(domain) => {
                let mark = domain_mark(domain.as_bytes());
                jobs.filter(|(_, entry)| entry.domain == mark).map(|(job, _)| job).collect()
            }
            Target::DomainsBelow(domain) => {
                let mark = domain_mark(domain.as_bytes());
                let leading = self.destinations_below(domain);
                let is_meant = |entry: &Job| entry.domain == mark || leading.contains(&entry.destination);
                jobs.filter(|(_, entry)| is_meant(entry)).map(|(job, _)| job).collect()
            }
            Target::Tenant(name) => {
                self.settings.tenant_named(name).map_or(Vec::new(), |tenant| self.jobs_of_tenant(tenant))
            }
            Target::Site(name) => self.jobs_of_name(name),
        }
    }

    /// The destinations of a domain and those below it: by their mail hosts, or by a route that names one of them.
    fn destinations_below(&self, domain: &str) -> FxHashSet<DestinationId> {
        let is_below =
            |name: &str| name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let leads = |decision: &Decision| match &decision.next_hop {
            NextHop::Mx { domain } => is_below(domain),
            NextHop::Configured(hop) => {
                let routes = self.settings.route.domains.iter();
                let mut to_it = routes.filter(|(_, route)| route.as_ref() == Some(hop));
                to_it.any(|(name, _)| is_below(name.strip_prefix('.').unwrap_or(name)))
            }
        };
        let all = self.sites.destinations.iter();
        all.filter(|(_, entry)| leads(&entry.decision)).map(|(at, _)| at as DestinationId).collect()
    }

    /// True if an order holds the whole target.
    pub(super) fn is_held(&self, target: &Target) -> bool {
        match target {
            Target::Domain(domain) | Target::DomainsBelow(domain) => {
                self.standing.domains.contains_key(&domain_mark(domain.as_bytes()))
            }
            Target::Message(id) => self.standing.messages.contains(id),
            Target::Tenant(name) => {
                self.settings.tenant_named(name).is_some_and(|tenant| self.standing.tenants.contains(&tenant))
            }
            Target::Site(_) => false,
        }
    }

    fn begin_hold(&mut self, target: &Target, jobs: &[JobId]) {
        match target {
            Target::Message(id) => drop(self.standing.messages.insert(*id)),
            Target::Domain(domain) => {
                drop(self.standing.domains.insert(domain_mark(domain.as_bytes()), domain.clone()))
            }
            Target::Tenant(name) => self.standing.tenants.extend(self.settings.tenant_named(name)),
            Target::DomainsBelow(_) => unreachable!("they are tried, never held"),
            Target::Site(name) => return self.suspend(name, true),
        }
        for &job in jobs {
            self.stop_waiting(job);
        }
    }

    fn end_hold(&mut self, now: Mono, target: &Target, jobs: &[JobId]) {
        match target {
            Target::Message(id) => drop(self.standing.messages.remove(id)),
            Target::Domain(domain) => drop(self.standing.domains.remove(&domain_mark(domain.as_bytes()))),
            Target::Tenant(name) => {
                if let Some(tenant) = self.settings.tenant_named(name) {
                    self.standing.tenants.remove(&tenant);
                }
            }
            Target::DomainsBelow(_) => unreachable!("they are tried, never held"),
            Target::Site(name) => return self.suspend(name, false),
        }
        for &job in jobs {
            if self.backlog.jobs[job as usize].state == JobState::OnHold && !self.is_on_hold(job) {
                self.make_ready(now, job);
            }
        }
    }

    /// An order that stands concerns it, or it is to be looked at for itself.
    pub(super) fn is_on_hold(&self, job: JobId) -> bool {
        let entry = &self.backlog.jobs[job as usize];
        let Orders { messages, tenants, domains, .. } = &self.standing;
        entry.errand
            || !tenants.is_empty() && tenants.contains(&self.backlog.share(job).tenant)
            || !domains.is_empty() && domains.contains_key(&entry.domain)
            || !messages.is_empty() && messages.contains(&self.backlog.messages[entry.message as usize].id)
    }

    /// True if a job in no list, that would enter one, was put on hold instead: by an order, or because its routes do not hold
    /// any more.
    pub(super) fn is_kept_back(&mut self, job: JobId) -> bool {
        let entry = &self.backlog.jobs[job as usize];
        if self.sites.destinations[entry.destination as usize].retired && !entry.errand {
            self.send_on_errand(job, Purpose::Reroute);
        }
        if self.is_on_hold(job) {
            self.put_on_hold(job);
            return true;
        }
        false
    }

    /// A job that is in no list is in none until it is released.
    pub(super) fn put_on_hold(&mut self, job: JobId) {
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::OnHold;
        if !entry.errand {
            self.backlog.drop_record(job);
        }
        self.leave_site(job);
    }

    /// Puts a job on hold if it waits in a list, and tells whether it did. What is elsewhere is put there when it comes back.
    pub(super) fn stop_waiting(&mut self, job: JobId) -> bool {
        let waits = matches!(self.backlog.jobs[job as usize].state, JobState::Ready | JobState::Waiting);
        if waits {
            self.take_from_list(job);
            self.put_on_hold(job);
        }
        waits
    }

    fn send_on_errand(&mut self, job: JobId, purpose: Purpose) {
        let entry = &mut self.backlog.jobs[job as usize];
        entry.errand = true;
        let message = self.backlog.messages[entry.message as usize].id;
        self.standing.errands.push_back(Errand { job, message, purpose });
    }

    /// A job, new and in no list, is of an address that stood for others: its sender wants to know of it, and that is all (FND-04).
    pub(super) fn tell_of_expansion(&mut self, job: JobId) {
        self.send_on_errand(job, Purpose::Tell);
    }

    fn begin_expiry(&mut self, job: JobId, target: &Target) {
        let entry = &mut self.backlog.jobs[job as usize];
        if let Some(timer) = entry.timer.take() {
            self.wheel.cancel(timer);
            self.put_on_hold(job);
        } else {
            self.stop_waiting(job);
        }
        let domain = match target {
            Target::Domain(domain) => Some(Arc::from(&**domain)),
            Target::Message(_) | Target::DomainsBelow(_) | Target::Tenant(_) | Target::Site(_) => None,
        };
        self.send_on_errand(job, Purpose::Expire(domain));
    }

    /// Other routes hold: what waits is routed anew before it is sent, what is deferred or under way when it comes back.
    pub(super) fn reroute_all(&mut self) {
        let waits = |state| matches!(state, JobState::Ready | JobState::Waiting);
        let jobs: Vec<JobId> =
            self.backlog.jobs.iter().filter(|(_, job)| waits(job.state)).map(|(job, _)| job as JobId).collect();
        for job in jobs {
            self.send_on_errand(job, Purpose::Reroute);
            self.stop_waiting(job);
        }
    }

    /// Does what is to be done with jobs one by one, a bounded number at a time; with what is on its way to a next hop, when it
    /// comes back. Those whose records are being read stay in front, so that not more records are in memory than are looked at.
    pub(super) fn run_errands(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let (mut at, mut done) = (0, 0);
        for _ in 0..self.standing.errands.len().min(limits::EXPIRED_AT_ONCE_MAX) {
            let errand = self.standing.errands.remove(at).expect("no more are looked at than there are");
            match self.run_errand(now, &errand, effects) {
                Progress::Done => done += 1,
                Progress::Reading => {
                    self.standing.errands.insert(at, errand);
                    at += 1;
                }
                Progress::Elsewhere => self.standing.errands.push_back(errand),
            }
        }
        if !self.standing.errands.is_empty() && !std::mem::replace(&mut self.standing.timed, true) {
            let pause_ms = if done > 0 { 1 } else { limits::ORDERS_PAUSE_MS };
            self.wheel.insert(now.mono.plus_ms(pause_ms), Timer::Orders);
        }
    }

    /// Time to go on with what is to be done with jobs one by one.
    pub(super) fn orders_due(&mut self) {
        self.standing.timed = false;
    }

    fn run_errand(&mut self, now: Now, errand: &Errand, effects: &mut Vec<Effect>) -> Progress {
        let job = errand.job;
        let is_meant = |message: u32| self.backlog.messages[message as usize].id == errand.message;
        if !self.backlog.jobs.get(job as usize).is_some_and(|entry| is_meant(entry.message)) {
            return Progress::Done;
        }
        // Another errand may have let it go.
        self.backlog.jobs[job as usize].errand = true;
        self.stop_waiting(job);
        match self.backlog.jobs[job as usize].state {
            JobState::OnHold => {}
            JobState::Loading => return Progress::Reading,
            _ => return Progress::Elsewhere,
        }
        let entry = &self.backlog.jobs[job as usize];
        assert_eq!(entry.site, NO_SITE, "what is on hold is no site's");
        let place = self.backlog.messages[entry.message as usize].place;
        let Some(record) = self.backlog.record(job).cloned().or_else(|| self.record_at_hand(&place)) else {
            if self.reads.len() < READS_MAX {
                self.backlog.jobs[job as usize].state = JobState::Loading;
                self.read_record(job, &place, effects);
            }
            return Progress::Reading;
        };
        let view = AcceptView::read(&record).expect("the record was verified when it came");
        let entry = &self.backlog.jobs[job as usize];
        let first = view.recipients_from(entry.recipient(0)).next().expect("a job's recipients stand in its record");
        let first = first.address;
        let domain = domain_of(first);
        match &errand.purpose {
            Purpose::Expire(wanted)
                if wanted.as_ref().is_none_or(|wanted| wanted.as_bytes().eq_ignore_ascii_case(domain)) =>
            {
                self.backlog.keep_record(job, record);
                self.fail_job(now, job, 0, "5.4.7 Given up by the operator of the relay", effects);
                return self.told_or_waiting(job);
            }
            Purpose::Expire(_) => {}
            // At the start the log takes nothing yet.
            Purpose::Tell if !self.log.ready() => return Progress::Elsewhere,
            Purpose::Tell => {
                self.backlog.keep_record(job, record);
                self.settle_expanded(now, job, effects);
                return self.told_or_waiting(job);
            }
            Purpose::Reroute => {
                let sender = view.parameters().stretch(entry.recipient(0)).sender(view.sender());
                self.reroute(now.mono, job, first, sender);
            }
        }
        self.backlog.jobs[job as usize].errand = false;
        self.make_ready(now.mono, job);
        Progress::Done
    }

    /// Without room for its report a job that was to be settled is there still.
    fn told_or_waiting(&self, job: JobId) -> Progress {
        let is_there = self.backlog.jobs.get(job as usize).is_some_and(|entry| entry.errand);
        if is_there { Progress::Elsewhere } else { Progress::Done }
    }

    /// Gives a job that is in no list, and whose first recipient is this, the destination that the routes in force have for its domain.
    fn reroute(&mut self, now: Mono, job: JobId, first: &[u8], sender: &[u8]) {
        let via = self.sites.router.via(self.backlog.share(job).tenant, sender);
        let Job { message, destination: before, .. } = self.backlog.jobs[job as usize];
        let terms = self.backlog.messages[message as usize].terms.as_deref();
        // Not those of the old decision, which has forgotten what it made of them (RTL-04).
        let (domain, needs, _) = terms::run(terms, sender, std::iter::once(first), 1);
        let source = self.sites.destinations[before as usize].decision.source;
        let routed = self.sites.add_job_of(domain, source, via, needs);
        let entry = &mut self.backlog.jobs[job as usize];
        (entry.destination, entry.domain) = (routed.destination, routed.domain);
        self.leave_destination(now, before);
    }

    /// Ends whatever pause a job waits for, but for the time that its sender wants it held (EXT-11; RFC 4865).
    fn try_now(&mut self, now: Now, job: JobId) {
        let entry = &mut self.backlog.jobs[job as usize];
        let terms = self.backlog.messages[entry.message as usize].terms.as_ref();
        if terms.and_then(|terms| terms.held_until).is_some_and(|until| now.wall < until) {
            return;
        }
        let destination = entry.destination;
        let timer = entry.timer.take();
        let place = &mut self.sites.destinations[destination as usize];
        place.paused_until = now.mono;
        let site = place.site;
        if let Some(entry) = self.sites.table.get_mut(site as usize) {
            entry.paused_until = now.mono;
            entry.hosts.try_now(now.mono);
            self.want_pump(site);
        }
        self.want_finding(destination);
        if let Some(timer) = timer {
            self.wheel.cancel(timer);
            self.make_ready(now.mono, job);
        }
    }
}
