//! From the settings that hold to those that are wanted, while the relay runs: what changes, and what cannot.
//!
//! Pure. What was given away when the relay started stays as it is until a restart: sockets that listen, the spool, threads
//! and their cores, the resolver; tenants and sources, since mail in the queue names them by number. All else is taken over.
//! Nothing here fails: whoever reads a file has found its errors before.

use super::Settings;
use super::auth::KERBEROS_REPLAYS;

/// What becomes of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// What holds from now on.
    pub settings: Settings,
    /// Groups of keys that changed.
    pub changed: Vec<&'static str>,
    /// Groups of keys that are wanted otherwise, and wait for a restart.
    pub kept: Vec<&'static str>,
}

impl Changes {
    /// From what holds to what is wanted.
    pub fn between(current: &Settings, wanted: Settings) -> Changes {
        // Each stands in one of the two lists below; a new one fails here first.
        let Settings {
            hostname: _,
            listen: _,
            http: _,
            relay: _,
            route: _,
            tls: _,
            auth: _,
            aliases: _,
            dkim: _,
            queue: _,
            shards: _,
            cores: _,
            socket: _,
            site: _,
            sites: _,
            tenants: _,
            retry: _,
            report: _,
            timeout: _,
            dns_servers: _,
            dns_trust: _,
            sources: _,
            warm_ups: _,
            pool: _,
            log_level: _,
            drain_ms: _,
            user: _,
            landlock: _,
        } = current;
        let mut settings = wanted;
        let mut kept = Vec::new();
        let names = |settings: &Settings| settings.tenants.iter().map(|tenant| tenant.name.clone()).collect::<Vec<_>>();
        if names(&settings) != names(current) {
            // Both name tenants by number.
            settings.route.tenants.clone_from(&current.route.tenants);
            if settings.dkim != current.dkim {
                kept.push("dkim");
                settings.dkim.clone_from(&current.dkim);
            }
        }
        let sources =
            |settings: &Settings| settings.sources.iter().map(|source| source.name.clone()).collect::<Vec<_>>();
        if sources(&settings) != sources(current) {
            // They stand in the order of sources, and name some.
            settings.warm_ups.clone_from(&current.warm_ups);
        }
        macro_rules! keep {
            ($($name:literal: $($field:ident).+;)*) => {
                $(if settings.$($field).+ != current.$($field).+ {
                    kept.push($name);
                    settings.$($field).+.clone_from(&current.$($field).+);
                })*
            };
        }
        keep! {
            "listen": listen;
            "listen.http": http.listen;
            "queue": queue;
            "shards": shards;
            "cores": cores;
            "listen.backlog and socket": socket;
            "dns.servers": dns_servers;
            "dns.trust": dns_trust;
            "route.sts_port": route.sts_port;
            "tenant": tenants;
            "source": sources;
            "source.pool": pool;
            "user": user;
            "landlock": landlock;
        }
        if let Some(kerberos) = &mut settings.auth.kerberos {
            // It lies in the queue's directory, which stays.
            kerberos.replays = settings.queue.dir.join(KERBEROS_REPLAYS);
        }
        let mut changed = Vec::new();
        macro_rules! compare {
            ($($name:literal: $field:ident;)*) => {
                $(if settings.$field != current.$field {
                    changed.push($name);
                })*
            };
        }
        compare! {
            "relay.hostname": hostname;
            "http": http;
            "relay": relay;
            "route": route;
            "tls": tls;
            "auth": auth;
            "aliases and etrn": aliases;
            "dkim": dkim;
            "site": site;
            "sites with limits of their own": sites;
            "retry": retry;
            "report": report;
            "timeout": timeout;
            "log.level": log_level;
            "source.NAME.warm_up": warm_ups;
            "drain_ms": drain_ms;
        }
        Changes { settings, changed, kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, load};

    fn settings(sets: &[&str]) -> Settings {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        load(None, &sets, &Machine { hostname: "relay.test".into(), cores: 2 }).unwrap()
    }

    #[test]
    fn what_can_change_changes_and_the_rest_is_named() {
        let current = settings(&[]);
        assert_eq!(
            Changes::between(&current, settings(&[])),
            Changes { settings: current.clone(), changed: vec![], kept: vec![] }
        );
        let wanted = settings(&[
            "listen.relay=127.0.0.1:2600",
            "listen.http=",
            "queue.dir=elsewhere",
            "shards=7",
            "cores=0",
            "listen.backlog=7",
            "dns.servers=127.0.0.1:53",
            "relay.hostname=other.test",
            "http.watchers=10.0.0.0/8",
            "relay.networks=10.0.0.0/8",
            "route.default=192.0.2.1:25",
            "tls.offer=false",
            "site.default.connections=7",
            "retry.first_ms=7",
            "report.delay_ms=7",
            "timeout.data_ms=7",
            "source.address=192.0.2.2",
            "log.level=debug",
            "drain_ms=7",
        ]);
        let Changes { settings, changed, kept } = Changes::between(&current, wanted.clone());
        assert_eq!(
            kept,
            ["listen", "listen.http", "queue", "shards", "cores", "listen.backlog and socket", "dns.servers", "source"]
        );
        assert_eq!(changed.len(), 11, "{changed:?}");
        assert_eq!(
            (&settings.listen, &settings.queue, settings.shards),
            (&current.listen, &current.queue, current.shards)
        );
        assert_eq!((&settings.relay, &settings.route), (&wanted.relay, &wanted.route));
        assert_eq!((settings.http.listen, &settings.http.watchers), (current.http.listen, &wanted.http.watchers));
    }

    /// Routes and DKIM keys name tenants by number, which is that of the list that stays.
    #[test]
    fn what_names_tenants_stays_with_them() {
        const B: [&str; 6] = [
            "tenant.b.networks=192.0.2.2",
            "tenant.b.route=192.0.2.20:25",
            "dkim.b.domain=b.test",
            "dkim.b.selector=s",
            "dkim.b.key=/b",
            "dkim.b.tenants=b",
        ];
        const A: [&str; 6] = [
            "tenant.a.networks=192.0.2.1",
            "tenant.a.route=192.0.2.10:25",
            "dkim.a.domain=a.test",
            "dkim.a.selector=s",
            "dkim.a.key=/a",
            "dkim.a.tenants=a",
        ];
        let current = settings(&B);
        for wanted in [settings(&[A, B].concat()), settings(&[])] {
            let Changes { settings, kept, .. } = Changes::between(&current, wanted);
            assert_eq!(kept, ["dkim", "tenant"]);
            assert_eq!((&settings.tenants, &settings.dkim), (&current.tenants, &current.dkim));
            assert_eq!(settings.route.tenants, current.route.tenants);
        }
        // Of the same tenants all can change.
        let others = ["dkim.c.domain=c.test", "dkim.c.selector=s", "dkim.c.key=/c", "dkim.c.tenants=b"];
        let mut changed = B.to_vec();
        changed[1] = "tenant.b.route=192.0.2.30:25";
        changed.extend(others);
        let wanted = settings(&changed);
        let Changes { settings, changed, kept } = Changes::between(&current, wanted.clone());
        assert_eq!((settings, kept.len()), (wanted, 0));
        assert_eq!(changed, ["route", "dkim"]);
    }

    /// The queue stays where it is, and what Kerberos keeps in it too.
    #[test]
    fn replays_are_kept_in_the_queue_that_stays() {
        const SET: [&str; 2] = ["auth.kerberos_keytab=/keytab", "auth.users=/users"];
        let current = settings(&[&SET[..], &["queue.dir=/here"]].concat());
        let Changes { settings, changed, kept } =
            Changes::between(&current, settings(&[&SET[..], &["queue.dir=/there"]].concat()));
        assert_eq!((settings, changed.len(), &kept[..]), (current, 0, &["queue"][..]));
    }

    /// Warm-ups change while the sources stay, which they name by number.
    #[test]
    fn warm_ups_change_with_the_same_sources() {
        const SOURCES: [&str; 4] = [
            "source.a.address=192.0.2.1",
            "source.b.address=192.0.2.2",
            "source.b.warm_up.began=2026-11-28",
            "source.b.warm_up.messages.default=50",
        ];
        let current = settings(&SOURCES);
        let other = [&SOURCES[..], &["source.b.warm_up.messages.default=70", "source.b.warm_up.overflow=a"]].concat();
        let Changes { settings: changed, changed: names, kept } = Changes::between(&current, settings(&other));
        assert_eq!(
            (&changed.warm_ups, names, kept.len()),
            (&settings(&other).warm_ups, vec!["source.NAME.warm_up"], 0)
        );
        let more = [&other[..], &["source.aa.address=192.0.2.3"]].concat();
        let Changes { settings: changed, changed: names, kept } = Changes::between(&current, settings(&more));
        assert_eq!((changed, names.len(), kept), (current, 0, vec!["source"]));
    }
}
