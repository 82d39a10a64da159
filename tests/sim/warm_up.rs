//! The book of days' limits in the simulated world: it takes its time, its disk fails, and what is not on it is gone with the
//! machine. What next hops took of the new source is counted, and no receiver may have more than its days allow.

use std::net::IpAddr;

use ringpost::base::ids::ShardId;
use ringpost::base::time::UnixMs;
use ringpost::mail::date::Day;
use ringpost::schedule::warm_up::{Book, Outcome, Request};
use ringpost::shard::Input;

use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::plan::{Plan, SMART_HOST};
use crate::world::{Event, WALL_BEGIN_MS, World};

/// Where mail comes from that is above the limit.
pub const OLD: &str = "30.0.0.2";
/// The source that is warmed up.
pub const NEW: &str = "30.0.0.1";
/// No clock goes further in a run.
const DAYS: usize = 12;

/// The settings of a run with a new source.
pub fn draw(dice: &mut Dice) -> Vec<String> {
    let began = Day(Day::of(UnixMs(WALL_BEGIN_MS)).0 - dice.below(3) as u32);
    let list: Vec<String> = (0..DAYS).map(|_| dice.range(1, 30).to_string()).collect();
    let mut sets = vec![
        format!("source.new.address={NEW}"),
        format!("source.old.address={OLD}"),
        "source.pool=new".to_owned(),
        format!("source.new.warm_up.began={began}"),
        format!("source.new.warm_up.messages.default={}", list.join(",")),
        "source.new.warm_up.overflow=old".to_owned(),
    ];
    if dice.permille(300) {
        // An end that has a limit itself, and leads back.
        sets.extend([
            "source.pool=new,old".to_owned(),
            format!("source.old.warm_up.began={began}"),
            "source.old.warm_up.messages.default=".to_owned() + &["100000"; DAYS].join(","),
            "source.old.warm_up.overflow=new".to_owned(),
        ]);
    }
    sets
}

/// The book, and what is known of its keeping.
#[derive(Default)]
pub struct Keeper {
    book: Book,
    /// What is on disk.
    written: String,
}

impl World {
    /// A shard has something to say to the book. What it says is heard in order, for each takes the same time.
    pub fn tell_book(&mut self, shard: usize, request: Request) {
        self.trace.note(self.now, "book", shard as u64, 0, || format!("{shard}: {request:?}"));
        let delay = self.plan.write_latency_us;
        self.after_here(delay, Event::Book { shard, request });
    }

    /// The book is opened.
    pub fn open_book(&mut self, shard: usize, request: Request) {
        let mut outcomes = Vec::new();
        if self.keeper.book.serve(ShardId(shard as u16), request, &mut outcomes) {
            if self.dice.fault("write_error", self.faults.write_error) {
                self.keeper.book.failed(&mut outcomes);
            } else {
                self.keeper.written = self.keeper.book.text();
            }
        }
        for outcome in outcomes {
            match outcome {
                Outcome::Tell(shard, notice) => self.step(usize::from(shard.0), Input::Allowance(notice)),
                Outcome::Report(text) => self.trace.note(self.now, "report", 0, text.len() as u64, || text.clone()),
            }
        }
    }

    /// The machine stopped: what was not written is forgotten.
    pub fn reopen_book(&mut self) {
        self.keeper.book = Book::parse(&self.keeper.written).expect("what was written can be read");
    }
}

impl Ledger {
    /// A next hop takes a message for so many recipients from a source.
    pub fn take_from(&mut self, plan: &Plan, site: usize, source: Option<IpAddr>, recipients: usize) {
        // Who is told of other mail hosts than there are sees other receivers.
        let lied = self.lied_about.contains(&site) || self.renamed.contains(&site);
        if !plan.warm_up || lied || source != Some(NEW.parse().expect("an address")) {
            return;
        }
        let warm_up = plan.settings.warm_ups[1].as_ref().expect("the first is the new one");
        let (_, list) = &warm_up.lists[0];
        let limit = |day: &Day| list[day.0.saturating_sub(warm_up.began.0) as usize];
        // What is under way when a day ends is of the day before; the smart host has two names.
        let most = self.days.iter().map(limit).sum::<u32>() * if site == SMART_HOST { 2 } else { 1 };
        let taken = self.from_new.entry(site).or_default();
        *taken += recipients as u32;
        assert!(*taken <= most, "{taken} recipients at site {site} from the new source; {most} are allowed");
    }
}
