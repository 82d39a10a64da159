//! Tenants that an operator gave a rate (QUE-14): their messages wait beside all lists, and so many a second go on.
//!
//! The rate holds over all shards, by the same means as a site's (`schedule::rate`): the home of the tenant's name has its bucket,
//! and allows messages to whoever asks. What is allowed leaves the row for its site's list, and takes its right when it is sent;
//! should that take too long it comes back. A row's entries are hints: what was given up or held meanwhile is passed over.
//! No tenant without such an order, and no relay without any, pays for it.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::base::ids::MessageId;
use crate::base::time::{Mono, Now};
use crate::schedule::fair::TenantId;
use crate::schedule::rate::Purse;
use crate::schedule::site::JobId;
use crate::shard::backlog::JobState;
use crate::shard::parcel::SiteName;
use crate::shard::{Effect, Shard};

/// The tenants with a rate.
#[derive(Default)]
pub(super) struct Paced {
    tenants: FxHashMap<TenantId, Pace>,
    /// A job of theirs is on its way to its site's list.
    passing: bool,
}

struct Pace {
    /// What its home shard follows from; no site has such a name.
    name: SiteName,
    /// 0: it has none any more, but may be answered a question that was asked before.
    messages_per_second: u32,
    purse: Purse,
    waiting: VecDeque<(JobId, MessageId)>,
    /// It is to be asked for more at the end of this step.
    hungry: bool,
}

impl Shard {
    /// Makes rates hold that were given in an earlier run; before the first step.
    pub fn pace(&mut self, now: Now, rates: &[(Box<str>, u32)]) {
        for (tenant, messages_per_second) in rates {
            self.set_rate(now.mono, tenant, *messages_per_second);
        }
    }

    /// A tenant has so many messages a second from now on; 0: as many as it likes. Gives the jobs that it concerns.
    pub(super) fn set_rate(&mut self, now: Mono, tenant: &str, messages_per_second: u32) -> u64 {
        let Some(id) = self.settings.tenant_named(tenant) else { return 0 };
        let jobs: Vec<JobId> = self.jobs_of_tenant(id);
        let name = format!("rate of tenant {tenant}").into();
        let fresh =
            || Pace { name, messages_per_second, purse: Purse::default(), waiting: VecDeque::new(), hungry: false };
        let pace = self.paced.tenants.entry(id).or_insert_with(fresh);
        pace.messages_per_second = messages_per_second;
        if messages_per_second == 0 {
            let waiting = std::mem::take(&mut pace.waiting);
            for (job, message) in waiting {
                self.pass(now, job, message);
            }
            return jobs.len() as u64;
        }
        for &job in &jobs {
            if self.stop_waiting(job) {
                self.await_pace(job);
            }
        }
        jobs.len() as u64
    }

    pub(super) fn jobs_of_tenant(&self, tenant: TenantId) -> Vec<JobId> {
        let jobs = self.backlog.jobs.iter().map(|(job, _)| job as JobId);
        jobs.filter(|&job| self.backlog.share(job).tenant == tenant).collect()
    }

    /// True if a job that would enter a list has to wait for its tenant's rate: it stands in the row then. One that was in a list
    /// before goes back there, and takes its right when it is sent.
    pub(super) fn is_put_in_row(&mut self, job: JobId) -> bool {
        if self.paced.passing || self.paced.tenants.is_empty() {
            return false;
        }
        let pace = self.paced.tenants.get(&self.backlog.share(job).tenant);
        let waits = pace.is_some_and(|pace| pace.messages_per_second > 0);
        if waits {
            self.put_on_hold(job);
            self.await_pace(job);
        }
        waits
    }

    /// Puts a job that is on hold into its tenant's row.
    pub(super) fn await_pace(&mut self, job: JobId) {
        let share = self.backlog.share(job);
        let message = self.backlog.messages[self.backlog.jobs[job as usize].message as usize].id;
        let Some(pace) = self.paced.tenants.get_mut(&share.tenant) else { return };
        pace.waiting.push_back((job, message));
        pace.hungry = true;
    }

    /// Takes the right to send a job, if its tenant needs one. False if there is none: it has left its list.
    pub(super) fn take_pace(&mut self, now: Mono, job: JobId) -> bool {
        if self.paced.tenants.is_empty() {
            return true;
        }
        let tenant = self.backlog.share(job).tenant;
        let pace = self.paced.tenants.get_mut(&tenant).filter(|pace| pace.messages_per_second > 0);
        let has_right = pace.is_none_or(|pace| pace.purse.take(now));
        if !has_right {
            self.stop_waiting(job);
            self.await_pace(job);
        }
        has_right
    }

    /// A job that took its right is not sent after all.
    pub(super) fn give_pace_back(&mut self, job: JobId) {
        if !self.paced.tenants.is_empty() {
            let tenant = self.backlog.share(job).tenant;
            self.paced.tenants.get_mut(&tenant).into_iter().for_each(|pace| pace.purse.give_back());
        }
    }

    /// Asks the homes of tenants for whom something waits. False if there was nothing to ask.
    pub(super) fn ask_for_pace(&mut self, now: Now, effects: &mut Vec<Effect>) -> bool {
        if self.paced.tenants.is_empty() || self.draining.is_some() {
            return false;
        }
        let mut questions = Vec::new();
        for pace in self.paced.tenants.values_mut().filter(|pace| pace.hungry) {
            pace.hungry = false;
            if pace.messages_per_second > 0 && !pace.waiting.is_empty() && pace.purse.ask() {
                questions.push((pace.name.clone(), pace.waiting.len() as u32, pace.messages_per_second));
            }
        }
        let asked = !questions.is_empty();
        for (name, messages, per_second) in questions {
            self.ask_home(now, name, messages, per_second, effects);
        }
        asked
    }

    /// The home of a tenant's rate allows messages: as many go on. One that has no rate any more needs no right.
    pub(super) fn pace_allowed(&mut self, now: Now, name: &SiteName, messages: u32) {
        let Some((&tenant, pace)) = self.paced.tenants.iter_mut().find(|(_, pace)| pace.name == *name) else { return };
        pace.purse.fill(now.mono, messages);
        pace.hungry = true;
        let mut left = messages;
        while left > 0 {
            let next = self.paced.tenants.get_mut(&tenant).and_then(|pace| pace.waiting.pop_front());
            let Some((job, message)) = next else { break };
            left -= u32::from(self.pass(now.mono, job, message));
        }
    }

    /// Lets a job go on, if it is still there and nobody else holds it; tells whether it did.
    fn pass(&mut self, now: Mono, job: JobId, message: MessageId) -> bool {
        let entry = self.backlog.jobs.get(job as usize);
        let entry = entry.filter(|entry| self.backlog.messages[entry.message as usize].id == message);
        let passes = entry.is_some_and(|entry| entry.state == JobState::OnHold) && !self.is_on_hold(job);
        if passes {
            self.paced.passing = true;
            self.make_ready(now, job);
            self.paced.passing = false;
        }
        passes
    }
}
