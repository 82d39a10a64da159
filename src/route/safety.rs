//! What is asked of the TLS of one host: what the configuration wants, what its DNS proves, and what its domain publishes.
//!
//! Pure. MTA-STS policies are `sts`'s. TLSA records are judged here (DAN-02, DAN-04; RFC 7672 2.2, 3.1); whether a certificate matches one is for the shell.

use std::sync::Arc;

/// Whether a session with a host goes inside TLS, and what the host has to prove there (TLS-07).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Safety {
    /// STARTTLS is never said.
    Never,
    /// If offered, with any certificate; in clear if the handshake fails.
    #[default]
    IfOffered,
    /// The same, but it is noted if the host is none that its domain's MTA-STS policy, which is being tested, names, or would
    /// not prove its name (STS-02).
    Tested {
        /// The policy names it.
        named: bool,
    },
    /// Or there is no session.
    Always(Identity),
}

/// What a host has to prove inside TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nothing.
    Any,
    /// Nothing, but it is looked whether it could prove its name.
    Tested,
    /// Its name, by a certificate from an authority we trust.
    Name,
    /// That it has one of these keys or certificates.
    Dane(Arc<Dane>),
}

/// TLSA records that can be used, and what they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dane {
    /// The TLSA base domain: the name under which the records stand, sent as SNI and looked for with usage 2 (DAN-03).
    pub base: Arc<str>,
    /// At least one, each with usage 2 or 3.
    pub records: Arc<[Tlsa]>,
    /// Beside the base domain, a name that a certificate may be for where usage 2 has names checked: the recipient domain's
    /// (RFC 7672 3.2.2).
    pub domain: Option<Arc<str>>,
}

/// One TLSA record (RFC 6698 2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tlsa {
    /// 2: an authority; 3: the host itself.
    pub usage: u8,
    /// 0: the certificate; 1: its key.
    pub selector: u8,
    /// 0: as it is; 1: its SHA-256; 2: its SHA-512.
    pub matching: u8,
    /// What is to be matched.
    pub data: Box<[u8]>,
}

impl Tlsa {
    /// True if something can be proved by it; usages 0 and 1 have no meaning between relays (DAN-04; RFC 7672 3.1.3).
    pub fn is_usable(&self) -> bool {
        let length_fits = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == 32,
            2 => self.data.len() == 64,
            _ => false,
        };
        matches!(self.usage, 2 | 3) && self.selector <= 1 && length_fits
    }
}

/// What DNS proves about a host's TLS. Only an answer that is signed, as a resolver says that we trust, proves anything
/// (DAN-01).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostTls {
    /// Nothing: it was not asked, is not signed, or says that there are no records (DAN-05).
    #[default]
    Unknown,
    /// That there are no records; and that it is the domain's host (RTL-02).
    Signed,
    /// Records of which some can be used: those, for the host by itself. Their base domain is its name, or the end of its aliases
    /// (RFC 7672 2.2.2). Apart from what holds it: there may be very many hosts, and of most nothing is published.
    Records(Arc<Dane>),
    /// Records of which none can be used: TLS is wanted, and no proof (DAN-04).
    Unusable,
    /// No answer, or one that is forged: the host counts as unreachable (DAN-05; RFC 7672 2.1.2).
    Failed,
}

impl HostTls {
    /// What these records of a base domain say, of an answer that is signed; bounded by `limits::TLSA_RECORDS_MAX`.
    pub fn of_records(base: &str, records: Vec<Tlsa>) -> HostTls {
        let mut usable: Vec<Tlsa> = records.into_iter().filter(Tlsa::is_usable).collect();
        if usable.is_empty() {
            return HostTls::Unusable;
        }
        // The order in which a server happens to give them makes no other target.
        usable.sort();
        usable.truncate(crate::base::limits::TLSA_RECORDS_MAX);
        HostTls::Records(Arc::new(Dane { base: base.into(), records: usable.into(), domain: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlsa(usage: u8, selector: u8, matching: u8, length: usize) -> Tlsa {
        Tlsa { usage, selector, matching, data: vec![usage; length].into() }
    }

    /// DAN-04.
    #[test]
    fn only_records_that_prove_something_are_used() {
        for (usage, selector, matching, length, usable) in [
            (3, 1, 1, 32, true),
            (2, 0, 2, 64, true),
            (3, 0, 0, 700, true),
            (0, 1, 1, 32, false),
            (1, 1, 1, 32, false),
            (4, 1, 1, 32, false),
            (255, 1, 1, 32, false),
            (3, 2, 1, 32, false),
            (3, 1, 3, 32, false),
            (3, 1, 1, 31, false),
            (3, 1, 2, 32, false),
            (3, 1, 0, 0, false),
        ] {
            assert_eq!(
                tlsa(usage, selector, matching, length).is_usable(),
                usable,
                "{usage} {selector} {matching} {length}"
            );
        }
        assert_eq!(HostTls::of_records("mx.test", vec![tlsa(1, 1, 1, 32), tlsa(0, 0, 1, 32)]), HostTls::Unusable);
        let mixed = vec![tlsa(3, 1, 1, 32), tlsa(1, 1, 1, 32), tlsa(2, 1, 1, 32)];
        let HostTls::Records(dane) = HostTls::of_records("mx.test", mixed) else { panic!("two can be used") };
        assert_eq!((&*dane.base, &dane.domain), ("mx.test", &None));
        assert_eq!(dane.records.iter().map(|record| record.usage).collect::<Vec<_>>(), [2, 3]);
    }
}
