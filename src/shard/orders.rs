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
use crate::schedule::site::{JobId, NO_SITE};
use crate::shard::backlog::{JobState, domain_mark};
use crate::shard::reading::{READS_MAX, Reading};
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
}

/// What it is to be done to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One message.
    Message(MessageId),
    /// All recipients of a domain, in lower case; those to come too.
    Domain(Box<str>),
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
        let jobs = self.jobs_of_target(target);
        match order {
            Order::Hold => self.begin_hold(target, &jobs),
            Order::Release => self.end_hold(now.mono, target, &jobs),
            Order::Expire => jobs.iter().for_each(|&job| self.begin_expiry(job, target)),
            Order::Retry => jobs.iter().for_each(|&job| self.try_now(now, job)),
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
            Target::Site(name) => self.jobs_of_name(name),
        }
    }

    fn begin_hold(&mut self, target: &Target, jobs: &[JobId]) {
        match target {
            Target::Message(id) => drop(self.standing.messages.insert(*id)),
            Target::Domain(domain) => {
                drop(self.standing.domains.insert(domain_mark(domain.as_bytes()), domain.clone()))
            }
            Target::Site(name) => return self.suspend(name, true),
        }
        jobs.iter().for_each(|&job| self.stop_waiting(job));
    }

    fn end_hold(&mut self, now: Mono, target: &Target, jobs: &[JobId]) {
        match target {
            Target::Message(id) => drop(self.standing.messages.remove(id)),
            Target::Domain(domain) => drop(self.standing.domains.remove(&domain_mark(domain.as_bytes()))),
            Target::Site(name) => return self.suspend(name, false),
        }
        for &job in jobs {
            if self.backlog.jobs[job as usize].state == JobState::OnHold && !self.is_on_hold(job) {
                self.make_ready(now, job);
            }
        }
    }

    fn is_on_hold(&self, job: JobId) -> bool {
        let entry = &self.backlog.jobs[job as usize];
        let Orders { messages, domains, .. } = &self.standing;
        entry.errand
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
        let kept = self.is_on_hold(job);
        if kept {
            self.put_on_hold(job);
        }
        kept
    }

    /// A job that is in no list is in none until it is released.
    fn put_on_hold(&mut self, job: JobId) {
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::OnHold;
        if !entry.errand {
            entry.record = None;
        }
        self.leave_site(job);
    }

    /// Puts a job on hold if it waits in a list. What is elsewhere is put there when it comes back.
    fn stop_waiting(&mut self, job: JobId) {
        if matches!(self.backlog.jobs[job as usize].state, JobState::Ready | JobState::Waiting) {
            self.take_from_list(job);
            self.put_on_hold(job);
        }
    }

    fn send_on_errand(&mut self, job: JobId, purpose: Purpose) {
        let entry = &mut self.backlog.jobs[job as usize];
        entry.errand = true;
        let message = self.backlog.messages[entry.message as usize].id;
        self.standing.errands.push_back(Errand { job, message, purpose });
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
            Target::Message(_) | Target::Site(_) => None,
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
        let Some(record) = entry.record.clone().or_else(|| self.log.record(&place)) else {
            if self.reads.len() < READS_MAX {
                self.backlog.jobs[job as usize].state = JobState::Loading;
                let what = Reading::Record { job, position: place.position };
                self.read(what, place.position, place.length_bytes, effects);
            }
            return Progress::Reading;
        };
        let view = AcceptView::read(&record).expect("the record was verified when it came");
        let first = view.recipients().nth(entry.recipient(0)).expect("a job's recipients stand in its record");
        let domain = domain_of(first.address);
        match &errand.purpose {
            Purpose::Expire(wanted)
                if wanted.as_ref().is_none_or(|wanted| wanted.as_bytes().eq_ignore_ascii_case(domain)) =>
            {
                self.backlog.jobs[job as usize].record = Some(record);
                self.fail_job(now, job, 0, "5.4.7 Given up by the operator of the relay", effects);
                // Without room for its report it is there still.
                let is_there = self.backlog.jobs.get(job as usize).is_some_and(|entry| entry.errand);
                return if is_there { Progress::Elsewhere } else { Progress::Done };
            }
            Purpose::Expire(_) => {}
            Purpose::Reroute => self.reroute(now.mono, job, domain, view.sender()),
        }
        self.backlog.jobs[job as usize].errand = false;
        self.make_ready(now.mono, job);
        Progress::Done
    }

    /// Gives a job that is in no list the destination that the routes in force have for its domain.
    fn reroute(&mut self, now: Mono, job: JobId, domain: &[u8], sender: &[u8]) {
        let via = self.sites.router.via(self.backlog.share(job).tenant, sender);
        let before = self.backlog.jobs[job as usize].destination;
        let decision = &self.sites.destinations[before as usize].decision;
        let (source, needs) = (decision.source, decision.needs);
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
