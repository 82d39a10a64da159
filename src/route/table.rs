//! What the configuration says of single domains: exact names, then the longest matching `.suffix` (RTE-26).
//!
//! Built once from the configuration; looking up allocates nothing. Domains are matched without regard to case.

use rustc_hash::FxHashMap;

use crate::base::limits;

/// A value for each of some domains, and for all below others.
#[derive(Clone, Debug)]
pub struct DomainTable<T> {
    /// Exact names, and suffixes with their leading dot; lower case.
    entries: FxHashMap<Box<str>, T>,
}

impl<T> Default for DomainTable<T> {
    fn default() -> Self {
        DomainTable { entries: FxHashMap::default() }
    }
}

impl<T> DomainTable<T> {
    /// Says something of a domain, or with a leading dot of all names below it. Replaces what was said under the same name.
    pub fn insert(&mut self, domain: &str, value: T) {
        self.entries.insert(domain.to_ascii_lowercase().into(), value);
    }

    /// What is said of a domain, with the name under which it was inserted.
    pub fn get(&self, domain: &[u8]) -> Option<(&str, &T)> {
        if self.entries.is_empty() {
            return None;
        }
        let mut buffer = [0; limits::DOMAIN_MAX_BYTES];
        let name = lower(domain, &mut buffer)?;
        let suffixes = memchr::memchr_iter(b'.', name.as_bytes()).map(|dot| &name[dot..]);
        let found = std::iter::once(name).chain(suffixes).find_map(|key| self.entries.get_key_value(key));
        found.map(|(key, value)| (&**key, value))
    }
}

/// The domain in lower case; `None` if it is longer than domains are or not UTF-8.
fn lower<'a>(domain: &[u8], buffer: &'a mut [u8; limits::DOMAIN_MAX_BYTES]) -> Option<&'a str> {
    let buffer = buffer.get_mut(..domain.len())?;
    buffer.copy_from_slice(domain);
    buffer.make_ascii_lowercase();
    std::str::from_utf8(buffer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RTE-26.
    #[test]
    fn the_most_specific_entry_wins() {
        let mut table = DomainTable::default();
        assert_eq!(table.get(b"Example.ORG"), None);
        table.insert("Example.org", 1);
        table.insert(".example.org", 2);
        table.insert(".deep.example.org", 3);
        for (domain, found) in [
            ("example.ORG", Some(("example.org", &1))),
            ("a.example.org", Some((".example.org", &2))),
            ("a.b.example.org", Some((".example.org", &2))),
            ("a.deep.example.org", Some((".deep.example.org", &3))),
            ("deep.example.org", Some((".example.org", &2))),
            ("notexample.org", None),
            ("org", None),
            ("", None),
        ] {
            assert_eq!(table.get(domain.as_bytes()), found, "{domain}");
        }
        assert_eq!(table.get(&[b'a'; 300]), None);
    }
}
