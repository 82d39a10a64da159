//! Lists of jobs: each job is in one list at most, and can be taken out of the middle of a long one at once.
//!
//! The links of all lists stand in one table beside the jobs, eight bytes for each; a list itself is its two ends. Nothing
//! allocates but the table as it grows. Pure; a job that is put into a list while it is in one is a panic.

use crate::schedule::site::JobId;

/// No job.
pub const NO_JOB: JobId = u32::MAX;

/// What stands beside a job that is in no list.
const UNLINKED: Link = Link { before: NO_JOB - 1, after: NO_JOB - 1 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    before: JobId,
    after: JobId,
}

/// The links of all lists, by job.
#[derive(Debug, Default)]
pub struct Links(Vec<Link>);

impl Links {
    fn enter(&mut self, job: JobId, link: Link) {
        assert!(job < NO_JOB - 1, "more jobs than names for them");
        if self.0.len() <= job as usize {
            self.0.resize(job as usize + 1, UNLINKED);
        }
        assert_eq!(self.0[job as usize], UNLINKED, "a job is in one list at most");
        self.0[job as usize] = link;
    }
}

/// A row of jobs.
#[derive(Debug)]
pub struct List {
    first: JobId,
    last: JobId,
    len: u32,
}

impl Default for List {
    fn default() -> List {
        List { first: NO_JOB, last: NO_JOB, len: 0 }
    }
}

impl List {
    /// How many jobs.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first job.
    pub fn front(&self) -> Option<JobId> {
        (self.first != NO_JOB).then_some(self.first)
    }

    /// Puts a job at the end.
    pub fn push_back(&mut self, links: &mut Links, job: JobId) {
        links.enter(job, Link { before: self.last, after: NO_JOB });
        match self.last {
            NO_JOB => self.first = job,
            last => links.0[last as usize].after = job,
        }
        self.last = job;
        self.len += 1;
    }

    /// Puts a job at the head.
    pub fn push_front(&mut self, links: &mut Links, job: JobId) {
        links.enter(job, Link { before: NO_JOB, after: self.first });
        match self.first {
            NO_JOB => self.last = job,
            first => links.0[first as usize].before = job,
        }
        self.first = job;
        self.len += 1;
    }

    /// Takes a job of this list out of it.
    pub fn remove(&mut self, links: &mut Links, job: JobId) {
        let link = std::mem::replace(&mut links.0[job as usize], UNLINKED);
        assert_ne!(link, UNLINKED, "only what is in a list leaves it");
        match link.before {
            NO_JOB => self.first = link.after,
            before => links.0[before as usize].after = link.after,
        }
        match link.after {
            NO_JOB => self.last = link.before,
            after => links.0[after as usize].before = link.before,
        }
        self.len -= 1;
    }

    /// Takes the first job out.
    pub fn pop_front(&mut self, links: &mut Links) -> Option<JobId> {
        let job = self.front()?;
        self.remove(links, job);
        Some(job)
    }

    /// The jobs in order.
    pub fn iter<'a>(&self, links: &'a Links) -> impl Iterator<Item = JobId> + use<'a> {
        let mut next = self.first;
        std::iter::from_fn(move || {
            let job = next;
            (job != NO_JOB).then(|| {
                next = links.0[job as usize].after;
                job
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Two lists over one table do what two double-ended queues do.
        #[test]
        fn lists_are_queues(steps in prop::collection::vec((0u8..4, 0usize..2, 0u32..40), 1..300)) {
            let mut links = Links::default();
            let mut lists = [List::default(), List::default()];
            let mut twins = [VecDeque::new(), VecDeque::new()];
            for (what, which, job) in steps {
                let held = twins.iter().position(|twin: &VecDeque<JobId>| twin.contains(&job));
                match (what, held) {
                    (0, None) => {
                        lists[which].push_back(&mut links, job);
                        twins[which].push_back(job);
                    }
                    (1, None) => {
                        lists[which].push_front(&mut links, job);
                        twins[which].push_front(job);
                    }
                    (2, Some(holder)) => {
                        lists[holder].remove(&mut links, job);
                        twins[holder].retain(|&other| other != job);
                    }
                    (3, _) => prop_assert_eq!(lists[which].pop_front(&mut links), twins[which].pop_front()),
                    _ => {}
                }
                for (list, twin) in lists.iter().zip(&twins) {
                    prop_assert!(list.iter(&links).eq(twin.iter().copied()));
                    prop_assert_eq!((list.len(), list.front()), (twin.len(), twin.front().copied()));
                }
            }
        }
    }
}
