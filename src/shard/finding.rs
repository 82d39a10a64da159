//! Finding: from a job's destination to its site, by what DNS says.
//!
//! A job whose destination's answer is known goes to the site at once; the others wait with their destination until the
//! answer comes (never before the message is committed). An answer that is too old is asked for again when the next job of the
//! destination would be sent, so a domain that moves takes its waiting mail with it. A destination without an answer
//! pauses; one to which no mail can go fails what waits, a bounded number at a time.

use crate::base::limits;
use crate::base::time::{Mono, Now};
use crate::route::decide::Ways;
use crate::route::{Answer, QueryId};
use crate::schedule::destination::{Answered, DestinationId};
use crate::schedule::site::{JobId, NO_SITE, SiteId};
use crate::shard::backlog::{Job, JobState};
use crate::shard::reading::READS_MAX;
use crate::shard::timers::Timer;
use crate::shard::{Effect, Level, Shard};

/// Jobs sent back to their destinations at one look at a site; the rest follows at the next.
pub(super) const SENT_BACK_MAX: usize = 64;

/// Why mail waited for a next hop.
pub(super) const UNREACHED: &str = "the next hop could not be reached";

impl Shard {
    /// A job may be sent: to its site's list, or to its destination's if DNS must be asked first.
    pub(super) fn make_ready(&mut self, now: Mono, job: JobId) {
        if self.is_kept_back(job) || self.is_put_in_row(job) {
            return;
        }
        let destination = self.backlog.jobs[job as usize].destination;
        match self.sites.destinations[destination as usize].site_now(now) {
            Some(site) => self.give_to_site(job, site),
            None => {
                self.backlog.jobs[job as usize].state = JobState::Waiting;
                let entry = &mut self.sites.destinations[destination as usize];
                entry.waiting.push_back(&mut self.backlog.links, job);
                self.want_finding(destination);
            }
        }
    }

    /// Puts a job back at the head of the list it was in.
    pub(super) fn make_ready_again(&mut self, job: JobId) {
        if self.is_kept_back(job) {
            return;
        }
        let entry = &mut self.backlog.jobs[job as usize];
        if entry.site == NO_SITE {
            entry.state = JobState::Waiting;
            let destination = entry.destination;
            let waiting = &mut self.sites.destinations[destination as usize].waiting;
            waiting.push_front(&mut self.backlog.links, job);
            self.want_finding(destination);
        } else {
            entry.state = JobState::Ready;
            let site = entry.site;
            let share = self.backlog.share(job);
            self.sites.table[site as usize].ready.push_front(&mut self.backlog.links, job, share);
            self.want_pump(site);
        }
    }

    fn give_to_site(&mut self, job: JobId, site: SiteId) {
        let share = self.backlog.share(job);
        let entry = &mut self.backlog.jobs[job as usize];
        entry.state = JobState::Ready;
        entry.site = site;
        let place = &mut self.sites.table[site as usize];
        place.jobs += 1;
        place.ready.push_back(&mut self.backlog.links, job, share);
        self.want_pump(site);
    }

    /// A job that is in no list is its site's no more.
    pub(super) fn leave_site(&mut self, job: JobId) {
        let site = std::mem::replace(&mut self.backlog.jobs[job as usize].site, NO_SITE);
        if site != NO_SITE {
            self.sites.table[site as usize].jobs -= 1;
            self.want_pump(site);
        }
    }

    /// A job of a destination is over.
    pub(super) fn leave_destination(&mut self, now: Mono, destination: DestinationId) {
        let entry = &mut self.sites.destinations[destination as usize];
        entry.jobs -= 1;
        if entry.jobs == 0 {
            self.sites.linger(now, destination, &mut self.wheel);
        }
    }

    /// Takes a job that waits out of the list it is in.
    pub(super) fn take_from_list(&mut self, job: JobId) {
        let share = self.backlog.share(job);
        let Job { state, destination, site, .. } = self.backlog.jobs[job as usize];
        let links = &mut self.backlog.links;
        match state {
            JobState::Waiting => self.sites.destinations[destination as usize].waiting.remove(links, job),
            JobState::Ready => self.sites.table[site as usize].ready.remove(links, job, share),
            state => panic!("a job that is {state:?} is in no list"),
        }
    }

    /// Where the first job of a site goes is not known any more: it goes back to its destination. False if it is known.
    fn send_back(&mut self, now: Mono, site: SiteId) -> bool {
        let Some(job) = self.sites.next_job(site) else { return false };
        let destination = self.backlog.jobs[job as usize].destination;
        if self.sites.destinations[destination as usize].site_now(now) == Some(site) {
            return false;
        }
        self.take_from_list(job);
        self.leave_site(job);
        self.make_ready(now, job);
        true
    }

    /// The first job of a site of which is known that it goes there. Those before it ask again; if they are many, the site
    /// is looked at again soon: an answer may be there already, so that none comes any more to look at it for.
    pub(super) fn first_known(&mut self, now: Mono, site: SiteId) -> Option<JobId> {
        for _ in 0..SENT_BACK_MAX {
            if !self.send_back(now, site) {
                return self.sites.next_job(site);
            }
        }
        self.wheel.insert(now.plus_ms(1), Timer::Site(site));
        None
    }

    /// Marks a destination as to be looked at in this step.
    pub(super) fn want_finding(&mut self, destination: DestinationId) {
        // Who waited for something may name one that was forgotten meanwhile.
        if let Some(entry) = self.sites.destinations.get_mut(destination as usize)
            && !std::mem::replace(&mut entry.marked, true)
        {
            self.to_find.push(destination);
        }
    }

    /// Looks at every destination that is marked.
    pub(super) fn find_sites(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(destination) = self.to_find.pop() {
            if let Some(entry) = self.sites.destinations.get_mut(destination as usize) {
                entry.marked = false;
                self.find(now, destination, effects);
            }
        }
    }

    fn find(&mut self, now: Now, destination: DestinationId, effects: &mut Vec<Effect>) {
        let entry = &mut self.sites.destinations[destination as usize];
        if let Answered::Hopeless { code, text, until } = entry.answered {
            if now.mono < until {
                return self.fail_all(now, destination, code, text, effects);
            }
            entry.answered = Answered::No;
        }
        if entry.waiting.is_empty() || entry.suspended || entry.paused(now.mono) || entry.answered == Answered::Asked {
            return;
        }
        if entry.site_now(now.mono).is_some() {
            return self.let_go(destination);
        }
        if self.draining.is_some() {
            return;
        }
        let next_hop = &entry.decision.next_hop;
        if let Some(answer) = next_hop.known_answer() {
            return self.use_answer(now, destination, &answer, Mono::NEVER, effects);
        }
        let question = self.sites.router.question(&entry.decision).expect("what is not known can be asked for");
        if let Some(answer) = self.sites.answers.get(now.mono, &question) {
            let until = self.sites.answers.good_until(&question);
            return self.use_answer(now, destination, &answer, until, effects);
        }
        if self.queries.len() >= self.queries_max {
            if !std::mem::replace(&mut entry.unasked, true) {
                self.waiting_to_ask.push_back(destination);
            }
            return;
        }
        entry.answered = Answered::Asked;
        self.next_query += 1;
        let query = QueryId(self.next_query);
        self.queries.insert(query, destination);
        effects.push(Effect::Resolve { query, question });
    }

    /// Lets destinations ask that could not before, as many as the resolver has room for.
    pub(super) fn let_destinations_ask(&mut self) {
        for _ in self.queries.len()..self.queries_max {
            let Some(destination) = self.waiting_to_ask.pop_front() else { return };
            if let Some(entry) = self.sites.destinations.get_mut(destination as usize) {
                entry.unasked = false;
            }
            self.want_finding(destination);
        }
    }

    pub(super) fn resolved(&mut self, now: Now, query: QueryId, answer: Answer, effects: &mut Vec<Effect>) {
        let Some(destination) = self.queries.remove(&query) else { return };
        let entry = &mut self.sites.destinations[destination as usize];
        if entry.retired {
            entry.answered = Answered::No;
            return;
        }
        let decision = &self.sites.destinations[destination as usize].decision;
        let question = self.sites.router.question(decision).expect("it was asked for");
        let answer = self.sites.answers.put(now.mono, question.clone(), answer);
        let until = self.sites.answers.good_until(&question);
        self.use_answer(now, destination, &answer, until, effects);
    }

    /// Does with a destination what the answer about it says.
    fn use_answer(
        &mut self,
        now: Now,
        destination: DestinationId,
        answer: &Answer,
        until: Mono,
        effects: &mut Vec<Effect>,
    ) {
        let backoff = self.backoff_of_sites();
        self.see_answer(now, destination, answer, effects);
        let entry = &mut self.sites.destinations[destination as usize];
        match self.sites.router.ways(&entry.decision, answer) {
            Ways::Try(targets) => {
                entry.failures = 0;
                if let Some(old) = self.sites.lead(destination, targets, until) {
                    self.want_pump(old);
                }
                self.let_go(destination);
            }
            Ways::Fail { code, text } => {
                entry.answered = Answered::Hopeless { code, text, until };
                self.want_finding(destination);
            }
            Ways::Defer { text } => {
                entry.pause(now.mono, &backoff, &mut self.rng);
                self.wheel.insert(entry.paused_until, Timer::Destination(destination));
                effects.push(Effect::Report(Level::Warning, format!("{}: {text}; its mail waits", entry.name)));
                let waiting = entry.waiting.iter(&self.backlog.links);
                let old = waiting.filter(|&job| self.is_old(now, job)).take(limits::EXPIRED_AT_ONCE_MAX).collect();
                self.look_after_old(now, old, UNREACHED, effects);
            }
        }
    }

    /// No host of a site can do what its mail needs: its destinations are without hope for a while, and what waits goes back to
    /// them to fail, a bounded number at a time (EXT-06, RTL-02).
    pub(super) fn give_up_unable(&mut self, now: Mono, site: SiteId) {
        let text = self.sites.table[site as usize].needs.failure();
        let until = now.plus_ms(limits::UNABLE_MEMORY_MS);
        for (_, entry) in self.sites.destinations.iter_mut().filter(|(_, entry)| entry.site == site) {
            entry.answered = Answered::Hopeless { code: 0, text, until };
        }
        self.go_on_giving_up(now, site);
    }

    /// Sends the next jobs of a site that was given up back to their destinations; the rest follows soon.
    pub(super) fn go_on_giving_up(&mut self, now: Mono, site: SiteId) {
        let more = (0..SENT_BACK_MAX).all(|_| self.send_back(now, site));
        self.sites.table[site as usize].given_up = more;
        if more {
            self.wheel.insert(now.plus_ms(1), Timer::Site(site));
        }
    }

    /// The site is known: what waited goes there.
    fn let_go(&mut self, destination: DestinationId) {
        let site = self.sites.destinations[destination as usize].site;
        loop {
            let waiting = &mut self.sites.destinations[destination as usize].waiting;
            let Some(job) = waiting.pop_front(&mut self.backlog.links) else { return };
            self.give_to_site(job, site);
        }
    }

    /// No mail can go there: what waits fails.
    fn fail_all(
        &mut self,
        now: Now,
        destination: DestinationId,
        code: u16,
        text: &'static str,
        effects: &mut Vec<Effect>,
    ) {
        for _ in 0..limits::EXPIRED_AT_ONCE_MAX {
            let Some(job) = self.sites.destinations[destination as usize].waiting.front() else { return };
            if self.reads.len() >= READS_MAX {
                self.wait_for_reads_to_fail(destination);
                return;
            }
            if self.have_record(job, effects) {
                self.take_from_list(job);
                self.fail_job(now, job, code, text, effects);
            }
        }
        self.wheel.insert(now.mono.plus_ms(1), Timer::Destination(destination));
    }

    /// Fails jobs that waited too long, and says why; tells of those that wait long.
    pub(super) fn look_after_old(&mut self, now: Now, old: Vec<JobId>, why: &str, effects: &mut Vec<Effect>) {
        for job in old {
            if !self.have_record(job, effects) {
                continue;
            }
            if !self.expired(now, job) {
                self.report_delay(now, job, effects);
            } else {
                self.take_from_list(job);
                self.fail_job(now, job, 0, &format!("4.4.7 Delivery time expired: {why}"), effects);
            }
        }
    }
}
