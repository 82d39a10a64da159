//! DNS: answers that change, fail, come late, or are not so.

use std::net::IpAddr;

use ringpost::route::{Answer, MailHost, QueryId};

use crate::plan::{SECOND_US, SMART_HOST, Zone, host_address};
use crate::world::{Event, World};

impl World {
    pub fn resolve(&mut self, shard: usize, query: QueryId, domain: &str, address_only: bool) {
        let (site, zone) = if domain == "hub.test" {
            assert!(address_only, "a smart host's name has no MX");
            (SMART_HOST, Zone::Hosts)
        } else {
            assert!(!address_only, "mail for a domain goes by MX");
            let site: usize = domain
                .strip_prefix('d')
                .and_then(|rest| rest.strip_suffix(".test"))
                .and_then(|n| n.parse().ok())
                .unwrap_or_else(|| panic!("a question about {domain}"));
            (site, self.plan.zones[site])
        };
        let ttl_s = self.dice.pick(&[0, 5, 60]);
        let lies = site != SMART_HOST && zone == Zone::Hosts && self.dice.fault("dns_lie", self.faults.dns_lie);
        let answer = match zone {
            _ if self.dice.fault("dns_failure", self.faults.dns_failure) => {
                Answer::Temporary { text: "SERVFAIL".into() }
            }
            _ if lies => self.lie(domain, site, ttl_s),
            Zone::NullMx => Answer::NullMx { ttl_s },
            Zone::Nowhere => Answer::NoSuchDomain { ttl_s },
            Zone::Hosts if site == SMART_HOST => {
                let host = MailHost {
                    preference: 0,
                    name: "hub.test".into(),
                    addresses: vec![host_address(site, 0)],
                    tls: Default::default(),
                };
                Answer::Mail { hosts: vec![host], ttl_s, sts: None }
            }
            Zone::Hosts => {
                // A site is a set of mail hosts in their order, and its limits are that set's: a domain keeps to one.
                let count = 1 + site % 4;
                let mut hosts: Vec<_> = (0..count)
                    .map(|host| MailHost {
                        preference: ((site + host) % 3) as u16 * 10,
                        name: format!("mx{host}.{domain}").into(),
                        addresses: self.addresses(site, host),
                        tls: Default::default(),
                    })
                    .collect();
                if self.dice.permille(200) {
                    hosts.push(MailHost {
                        preference: 0,
                        name: "gone.test".into(),
                        addresses: Vec::new(),
                        tls: Default::default(),
                    });
                }
                Answer::Mail { hosts, ttl_s, sts: None }
            }
        };
        self.trace.note(self.now, "resolve", query.0, site as u64, || format!("{shard}: {domain} {answer:?}"));
        let slow = self.dice.fault("dns_slow", self.faults.dns_slow);
        let delay = if slow { self.dice.skewed(SECOND_US, 45 * SECOND_US) } else { self.dice.range(10, 100_000) };
        self.after_here(delay, Event::Resolved { shard, query, answer });
    }

    fn addresses(&mut self, site: usize, host: usize) -> Vec<IpAddr> {
        (0..self.dice.range(1, 2) as usize).map(|n| host_address(site, host * 2 + n)).collect()
    }

    /// What is not so: no such domain, no mail, hosts at which no mail host can be, ourselves, far too many hosts.
    fn lie(&mut self, domain: &str, site: usize, ttl_s: u32) -> Answer {
        let host = |preference, name: String, addresses: Vec<IpAddr>| MailHost {
            preference,
            name: name.into(),
            addresses,
            tls: Default::default(),
        };
        let mut kind = self.dice.below(5);
        // A name has the same addresses whosever mail host it is, so that only one domain can have ours: where routes say where its
        // mail goes, nobody asks whether it is us.
        if kind == 3 && *self.named_us.get_or_insert(site) != site {
            kind = 4;
        }
        if kind < 4 {
            self.ledger.lied_about.insert(site);
        } else {
            self.ledger.renamed.insert(site);
        }
        let hosts = match kind {
            0 => return Answer::NoSuchDomain { ttl_s },
            1 => return Answer::NullMx { ttl_s },
            2 => {
                let nowhere =
                    ["127.0.0.1", "10.1.2.3", "0.0.0.0", "169.254.1.1", "::1", "224.0.0.1", "::ffff:127.0.0.1"];
                let addresses = nowhere.iter().map(|text| text.parse().expect("an address")).collect();
                vec![host(0, format!("mx.{domain}"), addresses)]
            }
            3 => vec![host(0, "relay.test".into(), self.addresses(site, 0))],
            _ => (0..100)
                .map(|number| {
                    host(number % 7, format!("mx{number}.{domain}"), self.addresses(site, usize::from(number % 4)))
                })
                .collect(),
        };
        Answer::Mail { hosts, ttl_s, sts: None }
    }
}
