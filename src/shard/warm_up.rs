//! Warm-up as the shard sees it: how many recipients it may still offer to a receiver from a source today, asked for in batches
//! of the book that all shards share (`schedule::warm_up`), and what becomes of mail that is above.
//!
//! A site whose source is warmed up begins nothing before it has an allowance. Where the day's limit is used up, mail that waits
//! goes from another source, if one is named, and else waits for the next day: its sites are looked at then, and now and
//! then before. A source that is known to be used up itself takes nothing, so that mail does not go round between sources that
//! name each other; that is remembered for as long as the day lasts.
//!
//! What was lent and is not used goes back after a while, and so does what a session did not try. Without such a source none of
//! this costs anything.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::base::limits;
use crate::base::time::{Mono, Now};
use crate::config::SourceId;
use crate::mail::date::Day;
use crate::schedule::site::{JobId, SiteId};
use crate::schedule::warm_up::{Count, Notice, Request, WarmUp, Word};
use crate::shard::finding::SENT_BACK_MAX;
use crate::shard::sites::draw;
use crate::shard::timers::Timer;
use crate::shard::{Effect, Shard};

/// Counts beyond which those with nothing to remember are forgotten.
const SWEEP_LEAST: usize = 256;

/// What this shard knows of the counts that its sites belong to.
pub(super) struct WarmUps {
    table: FxHashMap<Count, Allowance>,
    /// Of jobs under way: with which day's limit they count.
    offered: FxHashMap<JobId, Day>,
    /// A timer is set for then, or an earlier one will set it.
    timed: Mono,
    sweep_at: usize,
}

impl Default for WarmUps {
    fn default() -> WarmUps {
        WarmUps {
            table: FxHashMap::default(),
            offered: FxHashMap::default(),
            timed: Mono::NEVER,
            sweep_at: SWEEP_LEAST,
        }
    }
}

/// What may still be offered of one count.
#[derive(Default)]
struct Allowance {
    /// For this day.
    day: Day,
    /// So many recipients.
    left: u32,
    /// What all shards have of the day's limit, as the book said last.
    used: u32,
    /// The book is asked for so many.
    asked: Option<u32>,
    /// Other limits hold since it was asked.
    outdated: bool,
    /// The book had fewer than were asked for.
    spent: bool,
    /// The same, of whatever day, and nothing was lent without a limit since.
    refused: bool,
    /// Not asked before.
    retry_at: Mono,
    /// What is left is kept until then.
    keep_until: Mono,
    /// Sites that wait for it; some may be gone by now.
    waiting: Vec<SiteId>,
}

impl Allowance {
    /// What is left goes back to the book, if anything is.
    fn release(&mut self, count: &Count) -> Option<Effect> {
        let recipients = std::mem::take(&mut self.left);
        (recipients > 0).then(|| give_back(count, self.day, recipients))
    }

    /// It is this day: what was left of the one before goes back.
    fn turn(&mut self, count: &Count, today: Day) -> Option<Effect> {
        if self.day == today {
            return None;
        }
        let before = self.release(count);
        (self.day, self.used, self.spent) = (today, 0, false);
        before
    }

    /// There is something to remember.
    fn is_needed(&self, today: Day) -> bool {
        self.left > 0 || self.asked.is_some() || !self.waiting.is_empty() || (self.spent && self.day == today)
    }
}

fn give_back(count: &Count, day: Day, recipients: u32) -> Effect {
    Effect::Allowance(Request::Return { count: count.clone(), day, recipients })
}

impl Shard {
    /// How many recipients may be offered to a site now; 0: none, and the site is looked at again when that changes. Where there
    /// are fewer than `least`, there will not be more today.
    pub(super) fn may_offer(&mut self, now: Now, site: SiteId, least: u32, effects: &mut Vec<Effect>) -> u32 {
        let Some(plan) = self.sites.table[site as usize].warm_up.clone() else { return u32::MAX };
        let today = Day::of(now.wall);
        let Some(limit) = plan.steps.limit(today) else {
            self.warm_up_is_over(&plan.count, effects);
            return u32::MAX;
        };
        self.sweep_warm_ups(today);
        let entry = self.warm_ups.table.entry(plan.count.clone()).or_default();
        effects.extend(entry.turn(&plan.count, today));
        if entry.left >= least || (entry.spent && entry.left > 0) {
            return entry.left;
        }
        if !entry.spent && entry.asked.is_none() && now.mono >= entry.retry_at {
            let batch = WarmUp::batch(limit, self.settings.shards);
            // Who was lent something lately will want more; who was not has what it needs now.
            let goes_on = now.mono < entry.keep_until;
            let ahead = if goes_on { batch } else { batch.min(self.sites.table[site as usize].ready.len() as u32) };
            let recipients = ahead.max(least - entry.left);
            entry.asked = Some(recipients);
            let (count, above) = (plan.count.clone(), plan.above.clone());
            effects.push(Effect::Allowance(Request::Lend { count, day: today, recipients, limit, above }));
        }
        self.await_allowance(now, site, &plan);
        0
    }

    /// A receiver has no limit any more. Who reported that it was used up says so.
    fn warm_up_is_over(&mut self, count: &Count, effects: &mut Vec<Effect>) {
        if let Some(entry) = self.warm_ups.table.get_mut(count)
            && std::mem::take(&mut entry.refused)
        {
            effects.push(Effect::Allowance(Request::Over { count: count.clone() }));
        }
    }

    fn await_allowance(&mut self, now: Now, site: SiteId, plan: &WarmUp) {
        let entry = self.warm_ups.table.get_mut(&plan.count).expect("it was just asked about");
        if !std::mem::replace(&mut self.sites.table[site as usize].waits_for_allowance, true) {
            entry.waiting.push(site);
        }
        let spent = entry.spent;
        let look = match entry.asked {
            _ if spent => now.mono.plus_ms(Day::left_ms(now.wall).min(limits::WARM_UP_LOOK_MS)),
            Some(_) => Mono::NEVER,
            None => entry.retry_at,
        };
        self.look_at_warm_ups(look);
        if spent && !plan.overflow.is_empty() {
            self.want_pump(site);
        }
    }

    /// True if a site with mail may open connections, or use those it has. If its day's limit is used up, what waits may go
    /// elsewhere.
    pub(super) fn may_begin(&mut self, now: Now, site: SiteId, effects: &mut Vec<Effect>) -> bool {
        if self.sites.table[site as usize].warm_up.is_none() {
            return true;
        }
        let Some(job) = self.sites.next_job(site) else { return false };
        let least = self.recipients_at_once(site, job);
        if self.may_offer(now, site, least, effects) > 0 {
            return true;
        }
        self.spill(now, site);
        false
    }

    /// Recipients that one transaction would have of a job.
    pub(super) fn recipients_at_once(&self, site: SiteId, job: JobId) -> u32 {
        let most = self.sites.table[site as usize].limits.recipients;
        (self.backlog.jobs[job as usize].open.count_ones() as usize).min(most) as u32
    }

    /// Connections that a site has use for, as far as its allowance goes.
    pub(super) fn allowance_of(&self, now: Now, site: SiteId) -> usize {
        let plan = self.sites.table[site as usize].warm_up.as_ref();
        let Some(plan) = plan.filter(|plan| plan.steps.limit(Day::of(now.wall)).is_some()) else { return usize::MAX };
        self.warm_ups.table.get(&plan.count).map_or(0, |entry| entry.left as usize)
    }

    /// A job goes to its site now, by what [`may_offer`](Self::may_offer) said.
    pub(super) fn take_allowance(&mut self, now: Now, site: SiteId, job: JobId) {
        let Some(plan) = &self.sites.table[site as usize].warm_up else { return };
        if plan.steps.limit(Day::of(now.wall)).is_none() {
            return;
        }
        let entry = self.warm_ups.table.get_mut(&plan.count).expect("it may be offered");
        let recipients = self.backlog.jobs[job as usize].open.count_ones();
        // The limit of the day is never exceeded: this is where that is so.
        entry.left = entry.left.checked_sub(recipients).expect("no more is offered than may be");
        entry.keep_until = now.mono.plus_ms(limits::WARM_UP_KEEP_MS);
        self.warm_ups.offered.insert(job, entry.day);
    }

    /// So many recipients of a job that was offered were not tried after all; the others count.
    pub(super) fn settle_allowance(&mut self, now: Now, job: JobId, untried: u32) {
        let Some(day) = self.warm_ups.offered.remove(&job) else { return };
        let site = self.backlog.jobs[job as usize].site;
        let plan = self.sites.table.get(site as usize).and_then(|site| site.warm_up.as_ref());
        let entry = plan.and_then(|plan| self.warm_ups.table.get_mut(&plan.count));
        if let Some(entry) = entry.filter(|entry| untried > 0 && entry.day == day) {
            entry.left += untried;
            entry.keep_until = now.mono.plus_ms(limits::WARM_UP_KEEP_MS);
            let look = entry.keep_until;
            self.look_at_warm_ups(look);
        }
    }

    /// The book has something to say.
    pub(super) fn allowance_told(&mut self, now: Now, notice: Notice, effects: &mut Vec<Effect>) {
        let Notice { count, day, word } = notice;
        let entry = self.warm_ups.table.entry(count.clone()).or_default();
        match word {
            Word::Lent { recipients, used } => {
                let asked = entry.asked.take().expect("nothing is lent that was not asked for");
                let outdated = std::mem::take(&mut entry.outdated);
                if outdated || day != entry.day {
                    effects.extend((recipients > 0).then(|| give_back(&count, day, recipients)));
                } else {
                    entry.left += recipients;
                    entry.used = used;
                    entry.spent = recipients < asked;
                    entry.refused |= entry.spent;
                    entry.keep_until = now.mono.plus_ms(limits::WARM_UP_KEEP_MS);
                }
            }
            Word::Back => entry.spent &= day != entry.day,
            Word::Failed => {
                (entry.asked, entry.outdated) = (None, false);
                entry.retry_at = now.mono.plus_ms(limits::WARM_UP_RETRY_MS);
            }
        }
        let look = if entry.left > 0 { entry.keep_until } else { Mono::NEVER };
        let waiting = std::mem::take(&mut entry.waiting);
        self.look_at_warm_ups(look);
        self.stop_awaiting_allowance(waiting);
    }

    fn stop_awaiting_allowance(&mut self, waiting: Vec<SiteId>) {
        for site in waiting {
            if let Some(entry) = self.sites.table.get_mut(site as usize) {
                entry.waits_for_allowance = false;
            }
            self.want_pump(site);
        }
    }

    fn look_at_warm_ups(&mut self, at: Mono) {
        if at < self.warm_ups.timed {
            self.warm_ups.timed = at;
            self.wheel.insert(at, Timer::WarmUp);
        }
    }

    /// Another day may have begun, something may be of no use any more, and what waits may be too old.
    pub(super) fn warm_ups_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.warm_ups.timed = Mono::NEVER;
        let today = Day::of(now.wall);
        let (mut next, mut free, mut kept) = (Mono::NEVER, Vec::new(), Vec::new());
        for (count, entry) in &mut self.warm_ups.table {
            effects.extend(entry.turn(count, today));
            if entry.left > 0 && now.mono >= entry.keep_until {
                effects.extend(entry.release(count));
                // There is something left, then.
                entry.spent = false;
            }
            if entry.left > 0 {
                next = next.min(entry.keep_until);
            }
            if entry.spent {
                kept.extend_from_slice(&entry.waiting);
            } else if entry.asked.is_none() && now.mono >= entry.retry_at {
                free.append(&mut entry.waiting);
            } else if entry.asked.is_none() && !entry.waiting.is_empty() {
                next = next.min(entry.retry_at);
            }
        }
        if !kept.is_empty() {
            next = next.min(now.mono.plus_ms(Day::left_ms(now.wall).min(limits::WARM_UP_LOOK_MS)));
        }
        for site in kept {
            let Some(entry) = self.sites.table.get(site as usize) else { continue };
            let ready = entry.ready.iter(&self.backlog.links);
            let old: Vec<JobId> =
                ready.filter(|&job| self.is_old(now, job)).take(limits::EXPIRED_AT_ONCE_MAX).collect();
            if old.len() == limits::EXPIRED_AT_ONCE_MAX {
                next = next.min(now.mono.plus_ms(limits::WARM_UP_RETRY_MS));
            }
            self.look_after_old(now, old, "the day's limit of its source was used up", effects);
        }
        self.stop_awaiting_allowance(free);
        if next != Mono::NEVER {
            self.look_at_warm_ups(next.max(now.mono.plus_ms(1)));
        }
    }

    /// Other limits may hold: what was lent by the old ones goes back, and all that waits asks anew.
    pub(super) fn change_warm_ups(&mut self, effects: &mut Vec<Effect>) {
        let mut waiting = Vec::new();
        for (count, entry) in &mut self.warm_ups.table {
            effects.extend(entry.release(count));
            (entry.outdated, entry.spent) = (entry.asked.is_some(), false);
            waiting.append(&mut entry.waiting);
        }
        // What they were counted with may be another count by now.
        self.warm_ups.offered.clear();
        self.stop_awaiting_allowance(waiting);
    }

    /// The shard begins nothing any more: what it was lent goes back.
    pub(super) fn return_allowances(&mut self, effects: &mut Vec<Effect>) {
        for (count, entry) in &mut self.warm_ups.table {
            effects.extend(entry.release(count));
        }
    }

    /// Gives jobs of a site whose day's limit is used up to other sources, a bounded number at a time.
    fn spill(&mut self, now: Now, site: SiteId) {
        let open = self.open_overflow(now, site);
        if open.is_empty() {
            return;
        }
        for _ in 0..SENT_BACK_MAX {
            let Some(job) = self.sites.next_job(site) else { return };
            let source = draw(&self.settings, &open, &mut self.rng);
            self.take_from_list(job);
            self.leave_site(job);
            let before = self.backlog.jobs[job as usize].destination;
            self.backlog.jobs[job as usize].destination = self.sites.add_job_from(before, source);
            self.leave_destination(now.mono, before);
            self.make_ready(now.mono, job);
        }
        self.wheel.insert(now.mono.plus_ms(1), Timer::Site(site));
    }

    /// The sources that take what is above a site's day's limit: of those that it names, the ones that can reach it and are not
    /// used up; if there are none, of those that these name, and so on. None while the limit is not used up.
    fn open_overflow(&self, now: Now, site: SiteId) -> Vec<SourceId> {
        let today = Day::of(now.wall);
        let place = &self.sites.table[site as usize];
        let is_spent = |plan: &WarmUp| {
            let entry = self.warm_ups.table.get(&plan.count).filter(|entry| entry.day == today);
            plan.steps.limit(today).is_some() && entry.is_some_and(|entry| entry.spent && entry.left == 0)
        };
        let Some(plan) = place.warm_up.as_ref().filter(|plan| is_spent(plan)) else { return Vec::new() };
        let mut ready = place.ready.iter(&self.backlog.links);
        let Some(job) = ready.next() else { return Vec::new() };
        let decision = &self.sites.destinations[self.backlog.jobs[job as usize].destination as usize].decision;
        let targets = place.hosts.targets();
        let reaches = |source: SourceId| {
            let source = &self.settings.sources[usize::from(source)];
            targets.iter().any(|target| source.address_for(target.address.ip()).is_some())
        };
        let plan_of = |source| self.sites.router.site(&decision.from_source(source), targets).warm_up;
        let mut seen = vec![place.source];
        let mut level: Vec<Arc<[SourceId]>> = vec![plan.overflow.clone()];
        while !level.is_empty() {
            let (mut open, mut next) = (Vec::new(), Vec::new());
            for &source in level.iter().flat_map(|sources| sources.iter()) {
                if seen.contains(&source) {
                    continue;
                }
                seen.push(source);
                match plan_of(source) {
                    Some(plan) if is_spent(&plan) => next.push(plan.overflow.clone()),
                    _ if reaches(source) => open.push(source),
                    _ => {}
                }
            }
            if !open.is_empty() {
                return open;
            }
            level = next;
        }
        Vec::new()
    }

    /// Of the day's limit that holds for a site what is used, as far as this shard knows, and the limit.
    pub(super) fn day_of_site(&self, now: Now, site: SiteId) -> Option<(u32, u32)> {
        let today = Day::of(now.wall);
        let plan = self.sites.table[site as usize].warm_up.as_ref()?;
        let limit = plan.steps.limit(today)?;
        let entry = self.warm_ups.table.get(&plan.count).filter(|entry| entry.day == today);
        Some((entry.map_or(0, |entry| entry.used), limit))
    }

    /// Forgets counts with nothing to remember, once there are many.
    fn sweep_warm_ups(&mut self, today: Day) {
        let WarmUps { table, sweep_at, .. } = &mut self.warm_ups;
        if table.len() >= *sweep_at {
            table.retain(|_, entry| entry.is_needed(today));
            *sweep_at = (2 * table.len()).max(SWEEP_LEAST);
        }
    }
}
