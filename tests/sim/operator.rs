//! An operator: orders about mail that waits, and other settings while the relay runs.
//!
//! What holds is kept beside the relay and told again to the next run, as the real program does. Some holds last into the
//! liveness phase: what comes to a next hop then, though it is held, is a breach.

use std::sync::Arc;

use ringpost::base::ids::OperationId;
use ringpost::config::{Host, HostPort, Settings};
use ringpost::mail::aliases::Aliases;
use ringpost::shard::Input;
use ringpost::shard::orders::{Order, Target};

use crate::dice::Dice;
use crate::ledger::HELD_ENDED_US;
use crate::plan::{SECOND_US, SMART_HOST, TENANT, host_address};
use crate::world::{Event, World};

/// What an operator does.
#[derive(Clone, Debug)]
pub enum Act {
    Order(Order, What),
    Change(Change),
}

/// What an order is about, as the seed has it.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// One of the messages that got 250 so far.
    Message(u64),
    Domain(usize),
    /// All that the configuration sends the same way as a domain's mail.
    Way(usize),
    /// The clients' mail.
    Tenant,
}

/// Other settings.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub connections: u32,
    pub messages_per_second: u32,
    pub messages_per_connection: u32,
    /// The relay calls itself otherwise, and the smart host, too: all mail is routed anew.
    pub reroute: bool,
}

/// What the operator does in the safety phase, in no order.
pub fn draw(dice: &mut Dice, domains: usize, safety_us: u64, may_expire: bool) -> Vec<(u64, Act)> {
    let mut acts = Vec::new();
    for _ in 0..dice.range(1, 6) {
        let at = dice.range(SECOND_US, safety_us);
        let domain = dice.below(domains as u64) as usize;
        let what = match dice.below(3) {
            0 => What::Message(dice.number()),
            1 => What::Domain(domain),
            _ => What::Way(domain),
        };
        acts.push((
            at,
            match dice.below(10) {
                0..3 => Act::Order(Order::Hold, what),
                3 => Act::Order(Order::Release, what),
                4 if may_expire => Act::Order(Order::Expire, what),
                4..7 => Act::Order(Order::Retry, what),
                _ => Act::Change(Change {
                    connections: dice.pick(&[1, 2, 5, 20]),
                    messages_per_second: dice.pick(&[0, 0, 5, 50]),
                    messages_per_connection: dice.pick(&[1, 5, 10_000]),
                    reroute: dice.permille(400),
                }),
            },
        ));
    }
    if dice.permille(300) {
        let messages_per_second = dice.pick(&[1, 5, 50]);
        acts.push((dice.range(SECOND_US, safety_us), Act::Order(Order::Rate { messages_per_second }, What::Tenant)));
    }
    if dice.permille(150) {
        acts.push((dice.range(SECOND_US, safety_us), Act::Order(Order::Hold, What::Tenant)));
    }
    acts
}

impl Change {
    fn make(self, dice: &mut Dice, before: &Settings, smart_host: bool) -> Settings {
        let mut settings = before.clone();
        settings.site.connections = self.connections;
        settings.site.messages_per_second = self.messages_per_second;
        settings.site.messages_per_connection = self.messages_per_connection;
        if self.reroute {
            settings.hostname = dice.pick(&["relay.test", "other.test"]).into();
            if smart_host {
                let name = dice.permille(500);
                let host =
                    if name { Host::Name("hub.test".into()) } else { Host::Address(host_address(SMART_HOST, 0)) };
                settings.route.default = Some(Arc::new(HostPort { host, port: 25 }.into()));
            }
        }
        settings
    }
}

impl World {
    /// The operator does something; if the relay is down, as soon as it is up.
    pub fn operate(&mut self, act: Act) {
        if !self.is_up() {
            let delay = self.dice.range(SECOND_US, 3 * SECOND_US);
            return self.after(delay, Event::Operate(act));
        }
        match act {
            Act::Order(order, what) => {
                if let Some(target) = self.target(what) {
                    self.order(order, &target);
                }
            }
            Act::Change(change) => self.change(change),
        }
    }

    fn target(&mut self, what: What) -> Option<Target> {
        match what {
            What::Message(lot) => self.ledger.acknowledged(lot).map(Target::Message),
            What::Domain(domain) => Some(Target::Domain(format!("d{domain}.test").into())),
            What::Way(domain) => Some(Target::Site(self.plan.way(&format!("d{domain}.test")).into())),
            What::Tenant => Some(Target::Tenant(TENANT.into())),
        }
    }

    fn order(&mut self, order: Order, target: &Target) {
        let (number, name) = match order {
            Order::Hold => (0, "hold"),
            Order::Release => (1, "release"),
            Order::Expire => (2, "expire"),
            Order::Retry => (3, "retry"),
            Order::Rate { .. } => (4, "rate"),
        };
        self.trace.note(self.now, "order", number, 0, || format!("{order:?} {target:?}"));
        self.dice.drawn(name);
        match order {
            Order::Hold => {
                self.ledger.hold(target, self.now);
                // A machine that slept hears of it late.
                if self.calm {
                    self.release_later(target.clone());
                }
            }
            Order::Release => self.ledger.holds.retain(|(held, _)| held != target),
            Order::Expire => self.ledger.given_up(target, self.plan.smart_host),
            Order::Retry => {}
            Order::Rate { messages_per_second } => {
                self.ledger.rate = messages_per_second;
                self.lift_rate_in_time();
            }
        }
        for shard in 0..self.plan.shards {
            let operation = OperationId(self.next_number());
            self.step(shard, Input::Operate { operation, order, target });
            assert_eq!(self.operated.take(), Some(operation), "an order is answered in its step, once");
        }
    }

    fn change(&mut self, change: Change) {
        self.dice.drawn(if change.reroute { "reroute" } else { "limits" });
        self.trace.note(self.now, "change", change.connections.into(), change.reroute.into(), || format!("{change:?}"));
        let settings = Arc::new(change.make(&mut self.dice, &self.plan.settings, self.plan.smart_host));
        // What is under way goes on beside what is routed otherwise.
        if change.reroute {
            self.connections_before += std::mem::take(&mut self.connections_most);
        }
        self.connections_most = self.connections_most.max(settings.site.connections);
        self.plan.settings = settings;
        for shard in 0..self.plan.shards {
            self.step(shard, Input::Change { settings: Arc::clone(&self.plan.settings) });
        }
    }

    /// The alias table has grown, and is read again.
    pub fn change_table(&mut self) {
        let mut settings = Settings::clone(&self.plan.settings);
        let table = Aliases::parse(&self.ledger.table).expect("the lists are right");
        settings.aliases.table = Some(Arc::new(table));
        self.plan.settings = Arc::new(settings);
        for shard in 0..self.plan.shards {
            self.step(shard, Input::Change { settings: Arc::clone(&self.plan.settings) });
        }
    }

    /// In the liveness phase a rate does not last.
    pub fn lift_rate_in_time(&mut self) {
        if self.calm && self.ledger.rate > 0 {
            let delay = self.dice.range(0, 3 * HELD_ENDED_US);
            let lift = Act::Order(Order::Rate { messages_per_second: 0 }, What::Tenant);
            self.after(delay, Event::Operate(lift));
            self.extend(delay);
        }
    }

    /// What holds now is released in the course of the liveness phase, which is longer by that.
    pub fn release_in_time(&mut self) {
        for (target, _) in self.ledger.holds.clone() {
            self.release_later(target);
        }
    }

    fn release_later(&mut self, target: Target) {
        let delay = self.dice.range(0, 3 * HELD_ENDED_US);
        self.after(delay, Event::Release(target));
        self.extend(delay);
    }

    pub fn release(&mut self, target: &Target) {
        if self.is_up() {
            return self.order(Order::Release, target);
        }
        self.after(SECOND_US, Event::Release(target.clone()));
        self.extend(SECOND_US);
    }
}
