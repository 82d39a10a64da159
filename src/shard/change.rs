//! Other settings while the shard runs: what they mean for what there is.
//!
//! New sessions, either way, begin under the new settings; those that are open keep what they were told: who may relay, what EHLO
//! offered, how long they wait. Where only limits changed they hold at once. Else mail that waits is routed anew, by the domain in
//! its record, and so finds its new next hop and limits; deferred mail when its time comes. Nothing under way is cut, nothing is lost and nothing sent twice: no verdict comes
//! of a change.

use std::rc::Rc;
use std::sync::Arc;

use crate::config::{Role, RouteSettings, Settings, SiteMatch, TlsPolicies};
use crate::shard::{Effect, Shard, delivery, intake};

impl Shard {
    /// New settings hold, with the shards, tenants and sources as they were.
    pub(super) fn change(&mut self, settings: Arc<Settings>, effects: &mut Vec<Effect>) {
        let kept = |settings: &Settings| (settings.shards, settings.tenants.len(), settings.sources.len());
        assert_eq!(kept(&settings), kept(&self.settings), "a relay keeps its shards, tenants and sources");
        self.server_settings = Role::ALL.map(|role| Rc::new(intake::server_settings(&settings, role)));
        self.client_settings = delivery::client_settings(&settings);
        let before = std::mem::replace(&mut self.settings, settings);
        if before.warm_ups != self.settings.warm_ups || before.sites != self.settings.sites {
            self.change_warm_ups(effects);
        }
        let now = &*self.settings;
        if Ways::of(&before) != Ways::of(now) {
            self.sites.change(&self.settings);
            self.reroute_all();
        } else if (&before.site, &before.sites, &before.warm_ups) != (&now.site, &now.sites, &now.warm_ups) {
            for site in self.sites.change_limits(&self.settings) {
                self.want_pump(site);
            }
        }
    }
}

/// What of the settings decides which way mail goes and which limits hold for it; all but the limits themselves.
#[derive(PartialEq, Eq)]
struct Ways<'a> {
    hostname: &'a str,
    route: RouteSettings,
    policies: &'a TlsPolicies,
    rules: Vec<(&'a str, &'a SiteMatch)>,
}

impl Ways<'_> {
    fn of(settings: &Settings) -> Ways<'_> {
        Ways {
            hostname: &settings.hostname,
            route: RouteSettings { connections: 0, ..settings.route.clone() },
            policies: &settings.tls.policies,
            rules: settings.sites.iter().map(|rule| (&*rule.name, &rule.of)).collect(),
        }
    }
}
