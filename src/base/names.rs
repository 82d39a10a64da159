//! Finds things by name that know their names themselves: a table of their numbers only, for where there may be very many.
//!
//! Whoever asks says which name a number has. A number that is in the table must have the name that it was put in with.
//! Pure; a name that is there twice, or not, where it must not or must be, is a panic.

use std::hash::{BuildHasher as _, BuildHasherDefault};

use hashbrown::HashTable;
use rustc_hash::FxHasher;

/// Numbers by name.
#[derive(Clone, Debug, Default)]
pub struct Names(HashTable<u32>);

impl Names {
    /// The number with a name.
    pub fn get<'a>(&self, name: &str, name_of: impl Fn(u32) -> &'a str) -> Option<u32> {
        self.0.find(hash(name), |&number| name_of(number) == name).copied()
    }

    /// Takes in a number, whose name is not there yet.
    pub fn insert<'a>(&mut self, number: u32, name_of: impl Fn(u32) -> &'a str) {
        let name = name_of(number);
        assert!(self.get(name, &name_of).is_none(), "{name} is there already");
        self.0.insert_unique(hash(name), number, |&number| hash(name_of(number)));
    }

    /// Takes out a number, which is there.
    pub fn remove(&mut self, number: u32, name: &str) {
        let found = self.0.find_entry(hash(name), |&there| there == number);
        found.unwrap_or_else(|_| panic!("{name} is not there")).remove();
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

fn hash(name: &str) -> u64 {
    BuildHasherDefault::<FxHasher>::default().hash_one(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// The same as a map that has the names, too.
        #[test]
        fn finds_what_a_map_finds(orders in proptest::collection::vec((0u8..3, 0u32..40), 0..200)) {
            let names: Vec<String> = (0..40).map(|number| format!("mx{number}.example")).collect();
            let name_of = |number: u32| &*names[number as usize];
            let (mut table, mut map) = (Names::default(), HashMap::new());
            for (order, number) in orders {
                let name = name_of(number);
                match (order, map.contains_key(name)) {
                    (0, false) => {
                        table.insert(number, name_of);
                        map.insert(name, number);
                    }
                    (1, true) => {
                        table.remove(number, name);
                        map.remove(name);
                    }
                    _ => prop_assert_eq!(table.get(name, name_of), map.get(name).copied()),
                }
            }
            for name in &names {
                prop_assert_eq!(table.get(name, name_of), map.get(&**name).copied());
            }
        }
    }
}
