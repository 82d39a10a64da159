//! Fair shares of a site: whose job is next, among classes and tenants (deficit round robin).
//!
//! Why not one list: a million bulk messages of one tenant would stand in front of a password reset of another. So each
//! class and tenant has a row of its own, and rows take turns:
//!
//! 1. Classes, by [`limits::URGENT_TURNS`] and its kin: while urgent jobs wait they go first, but of each round of turns every class that
//!    has jobs gets its part, so that nobody starves.
//! 2. Tenants within a class (Shreedhar and Varghese 1995): the row whose turn it is gets as many recipients as its tenant's
//!    weight allows, on top of what it did not use or minus what it took too much; then the next.
//!
//! Pure and shard-local. A row takes 28 bytes and stays until the site has no jobs at all; nothing allocates once a tenant
//! has been seen. Looking for a row is a walk over those of one site, at most classes times tenants, usually one.

use crate::base::limits;
use crate::schedule::list::{Links, List};
use crate::schedule::site::JobId;

/// How urgent a message is (RFC 6710).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Class {
    /// Before others.
    Urgent,
    /// Where nothing is said.
    #[default]
    Normal,
    /// Behind others.
    Bulk,
}

impl Class {
    /// Of a priority from -9 to 9, 0 being normal.
    pub fn of_priority(priority: i8) -> Class {
        match priority {
            1.. => Class::Urgent,
            0 => Class::Normal,
            _ => Class::Bulk,
        }
    }
}

/// Turns of a round, by class.
const CLASS_TURNS: [u32; 3] = [limits::URGENT_TURNS, limits::NORMAL_TURNS, limits::BULK_TURNS];

/// Index of a tenant in the configuration; 0 is whoever has no entry there.
pub type TenantId = u16;

/// Whose message it is and how urgent: with what it shares, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Share {
    /// For whom it is sent.
    pub tenant: TenantId,
    /// How urgent it is.
    pub class: Class,
}

#[derive(Debug)]
struct Row {
    share: Share,
    jobs: List,
    /// Recipients it may still send before it is the next row's turn; less than 0 after one job of many.
    credit: i32,
}

/// The jobs of a site that may be sent, by class and tenant.
#[derive(Debug, Default)]
pub struct Fair {
    rows: Vec<Row>,
    jobs: u32,
    /// Once there are several rows. Most sites have one, and there may be very many sites.
    rounds: Option<Box<Rounds>>,
}

/// Whose turn it is.
#[derive(Debug, Default)]
struct Rounds {
    /// Jobs that each class may still send in this round.
    turns: [u32; 3],
    /// The row whose turn it is, by class; what is no row of the class is nobody's turn.
    current: [u32; 3],
}

impl Fair {
    /// How many jobs.
    pub fn len(&self) -> usize {
        self.jobs as usize
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.jobs == 0
    }

    /// Puts a job at the end of its row.
    pub fn push_back(&mut self, links: &mut Links, job: JobId, share: Share) {
        self.row(share).push_back(links, job);
        self.jobs += 1;
    }

    /// Puts a job at the head of its row.
    pub fn push_front(&mut self, links: &mut Links, job: JobId, share: Share) {
        self.row(share).push_front(links, job);
        self.jobs += 1;
    }

    /// Takes a job out.
    pub fn remove(&mut self, links: &mut Links, job: JobId, share: Share) {
        self.row(share).remove(links, job);
        self.jobs -= 1;
        if self.jobs == 0 {
            self.rows.clear();
            self.rounds = None;
        }
    }

    /// A job of a share was sent, to so many recipients.
    pub fn charge(&mut self, share: Share, recipients: u32) {
        if let Some(rounds) = &mut self.rounds {
            let turns = &mut rounds.turns[share.class as usize];
            *turns = turns.saturating_sub(1);
        }
        if let Some(row) = self.rows.iter_mut().find(|row| row.share == share) {
            row.credit = row.credit.saturating_sub_unsigned(recipients);
        }
    }

    /// The job that is next; the same until it is taken out or charged. `weights` are the tenants', at least 1; one without
    /// has 1.
    pub fn front(&mut self, weights: &[u16]) -> Option<JobId> {
        if let [only] = &self.rows[..] {
            return only.jobs.front();
        }
        let class = self.class_next()?;
        loop {
            let at = self.rounds().current[class] as usize;
            if let Some(row) = self.rows.get(at)
                && row.share.class as usize == class
                && row.credit > 0
                && let Some(job) = row.jobs.front()
            {
                return Some(job);
            }
            // A row that went empty saves nothing up.
            if let Some(row) = self.rows.get_mut(at).filter(|row| row.jobs.is_empty()) {
                row.credit = row.credit.min(0);
            }
            let next = self.next_row(class, at);
            self.rounds().current[class] = next as u32;
            let row = &mut self.rows[next];
            let weight = weights.get(usize::from(row.share.tenant)).copied().unwrap_or(1).max(1);
            row.credit = row.credit.saturating_add(i32::from(weight) * limits::TENANT_TURN_RECIPIENTS as i32);
        }
    }

    /// All jobs, row by row.
    pub fn iter<'a>(&'a self, links: &'a Links) -> impl Iterator<Item = JobId> + 'a {
        self.rows.iter().flat_map(|row| row.jobs.iter(links))
    }

    fn row(&mut self, share: Share) -> &mut List {
        let at = self.rows.iter().position(|row| row.share == share).unwrap_or_else(|| {
            if self.rows.is_empty() {
                // Likewise.
                self.rows.reserve_exact(1);
            }
            self.rows.push(Row { share, jobs: List::default(), credit: 0 });
            self.rows.len() - 1
        });
        &mut self.rows[at].jobs
    }

    fn waits(&self, class: usize) -> bool {
        self.rows.iter().any(|row| row.share.class as usize == class && !row.jobs.is_empty())
    }

    /// The class whose job is next; a new round of turns begins when nobody who waits has any left.
    fn class_next(&mut self) -> Option<usize> {
        let mut waiting = (0..3).filter(|&class| self.waits(class));
        let first = waiting.next()?;
        let turns = self.rounds.as_ref().map_or([0; 3], |rounds| rounds.turns);
        if turns[first] > 0 {
            return Some(first);
        }
        if let Some(class) = waiting.find(|&class| turns[class] > 0) {
            return Some(class);
        }
        self.rounds().turns = CLASS_TURNS;
        Some(first)
    }

    fn rounds(&mut self) -> &mut Rounds {
        self.rounds.get_or_insert_default()
    }

    /// The next row of a class with jobs, behind a place; there is one.
    fn next_row(&self, class: usize, at: usize) -> usize {
        let rows = self.rows.len();
        let all = (1..=rows).map(|step| (at.min(rows) + step) % rows);
        let fits = |&row: &usize| self.rows[row].share.class as usize == class && !self.rows[row].jobs.is_empty();
        all.into_iter().find(fits).expect("a class that is next has jobs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const fn share(tenant: TenantId, class: Class) -> Share {
        Share { tenant, class }
    }

    struct Queue {
        fair: Fair,
        links: Links,
        shares: HashMap<JobId, (Share, u32)>,
        next: JobId,
    }

    impl Queue {
        fn new() -> Queue {
            Queue { fair: Fair::default(), links: Links::default(), shares: HashMap::new(), next: 0 }
        }
        fn add(&mut self, share: Share, recipients: u32) {
            self.fair.push_back(&mut self.links, self.next, share);
            self.shares.insert(self.next, (share, recipients));
            self.next += 1;
        }
        fn send(&mut self, weights: &[u16]) -> Option<(Share, u32)> {
            let job = self.fair.front(weights)?;
            assert_eq!(self.fair.front(weights), Some(job), "it stays the next one");
            let (share, recipients) = self.shares[&job];
            self.fair.remove(&mut self.links, job, share);
            self.fair.charge(share, recipients);
            Some((share, recipients))
        }
    }

    /// An urgent job waits for nothing but the job being sent, however many others are in front.
    #[test]
    fn urgent_jobs_are_next() {
        let mut queue = Queue::new();
        for _ in 0..1000 {
            queue.add(share(1, Class::Bulk), 1);
        }
        for _ in 0..20 {
            for _ in 0..10 {
                queue.send(&[]);
            }
            queue.add(share(2, Class::Urgent), 1);
            let sent: Vec<Class> = (0..3).map(|_| queue.send(&[]).unwrap().0.class).collect();
            assert!(sent.contains(&Class::Urgent), "{sent:?}");
        }
    }

    /// Classes get their parts of each round while all of them wait.
    #[test]
    fn no_class_starves() {
        let mut queue = Queue::new();
        for _ in 0..2000 {
            for class in [Class::Bulk, Class::Normal, Class::Urgent] {
                queue.add(share(0, class), 1);
            }
        }
        let mut sent = [0; 3];
        for _ in 0..CLASS_TURNS.iter().sum::<u32>() * 10 {
            sent[queue.send(&[]).unwrap().0.class as usize] += 1;
        }
        assert_eq!(sent, CLASS_TURNS.map(|turns| turns * 10));
    }

    /// Tenants share by weight and recipients, whatever the size of their jobs and the length of their rows.
    #[test]
    fn tenants_share_by_weight() {
        let mut queue = Queue::new();
        for _ in 0..20_000 {
            queue.add(share(1, Class::Normal), 1);
        }
        for _ in 0..2_000 {
            queue.add(share(2, Class::Normal), 50);
            queue.add(share(3, Class::Normal), 3);
        }
        let weights = [1, 1, 1, 3];
        let mut sent = [0u32; 4];
        while sent.iter().sum::<u32>() < 9_000 {
            let (share, recipients) = queue.send(&weights).unwrap();
            sent[usize::from(share.tenant)] += recipients;
        }
        for (tenant, part) in [(1, 1_800), (2, 1_800), (3, 5_400)] {
            assert!(sent[tenant].abs_diff(part) <= 200, "{sent:?}");
        }
    }

    proptest! {
        /// Whatever comes and goes: every job leaves once, each row in its order, and there is a next one while any waits.
        #[test]
        fn every_job_leaves_once(steps in prop::collection::vec((0u16..4, 0u8..3, 0u32..60, 0usize..4), 1..200)) {
            let mut queue = Queue::new();
            let mut last: HashMap<Share, JobId> = HashMap::new();
            let mut left = 0;
            let weights = [1, 5, 1, 2];
            let mut send = |queue: &mut Queue| {
                let Some(job) = queue.fair.front(&weights) else { return 0 };
                let (share, _) = queue.send(&weights).expect("it has a next one");
                assert!(last.insert(share, job).is_none_or(|before| before < job), "out of its row's order");
                1
            };
            for (tenant, class, recipients, sends) in steps {
                let class = [Class::Urgent, Class::Normal, Class::Bulk][usize::from(class)];
                queue.add(share(tenant, class), recipients + 1);
                (0..sends).for_each(|_| left += send(&mut queue));
            }
            while !queue.fair.is_empty() {
                left += send(&mut queue);
            }
            prop_assert_eq!(left, queue.next);
        }
    }
}
