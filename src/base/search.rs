//! Every state that a small model can come to, for tests: looked at breadth first, so that what fails is told with one of the
//! shortest ways to it. Two states are one if their essence is: a hash of all that the future depends on.

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasher, BuildHasherDefault, Hash};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rustc_hash::FxHasher;

/// A protocol small enough to be looked at whole.
pub(crate) trait Model {
    type State;
    type Act: Copy + Debug;

    fn first(&self) -> Self::State;

    /// What can happen next.
    fn acts(&self, state: &Self::State) -> Vec<Self::Act>;

    /// The state behind it; panics if what happens must not.
    fn step(&self, state: &Self::State, act: Self::Act) -> Self::State;

    /// Panics if something that must always hold does not.
    fn check(&self, state: &Self::State);

    fn essence(&self, state: &Self::State) -> impl Hash;
}

/// Looks at all states; tells how many there are. `look` sees each once, to tell whether the search got anywhere.
pub(crate) fn search<M: Model>(model: &M, mut look: impl FnMut(&M::State)) -> usize {
    let hasher = BuildHasherDefault::<FxHasher>::default();
    // Two hashes, for one of 64 bits may meet another by chance.
    let name = |state: &M::State| {
        let essence = model.essence(state);
        (hasher.hash_one(&essence), hasher.hash_one((1u8, &essence)))
    };
    let first = model.first();
    let mut seen = HashSet::from([name(&first)]);
    // How each state was come to first: from which, by what.
    let mut ways: Vec<Option<(usize, M::Act)>> = vec![None];
    let mut open = VecDeque::from([(0, first)]);
    while let Some((from, state)) = open.pop_front() {
        look(&state);
        for act in model.acts(&state) {
            let next = catch_unwind(AssertUnwindSafe(|| {
                let next = model.step(&state, act);
                let is_new = seen.insert(name(&next));
                if is_new {
                    model.check(&next);
                }
                is_new.then_some(next)
            }));
            let next = next.unwrap_or_else(|cause| {
                let mut way = vec![act];
                let mut at = from;
                while let Some((before, act)) = ways[at] {
                    way.push(act);
                    at = before;
                }
                way.reverse();
                eprintln!("after {way:?}");
                resume_unwind(cause)
            });
            if let Some(next) = next {
                ways.push(Some((from, act)));
                open.push_back((ways.len() - 1, next));
            }
        }
    }
    seen.len()
}
