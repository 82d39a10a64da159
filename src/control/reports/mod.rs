//! TLS reports to the domains that want them (RPT-01; RFC 8460): counted over all shards, kept over restarts, sent once a day.
//!
//! A thread of its own on tokio, on which no mail depends: what goes wrong here is reported to the operator and tried again, and shards never
//! wait for it. `books` has the days, `document` writes what they say, `send` asks DNS and gives reports to the queue and to web
//! servers. What was counted is written down now and then; a report is noted as begun before it leaves, so that none leaves twice.

mod books;
mod document;
#[doc(hidden)]
pub mod fuzzed;
mod send;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::base::limits;
use crate::base::rng::Rng;
use crate::config::Settings;
use crate::mail::date::Day;
use crate::mail::tls_report::About;
use crate::route::reports::Seen;
use crate::route::reports::record::Destination;
use crate::runtime::report::Reporter;
use crate::runtime::{NoteTls, Shards, replace_file, wall};
use crate::shard::Level;
use books::{Books, Page, Turn};
use send::{Post, Ways};

/// How often it is looked whether something is due.
const LOOK: Duration = Duration::from_secs(1);

/// What the files are called, in the spool's directory, with a day between.
const COUNTS: &str = "tls-report-counts-";
const OWED: &str = "tls-report-owed-";
const ENDING: &str = ".json";

/// What shards saw, on its way to be counted.
pub struct Inbox {
    seen: mpsc::Receiver<Vec<Seen>>,
    lost: Arc<AtomicU64>,
}

/// Where shards tell what they saw, and where it arrives.
pub fn desk() -> (NoteTls, Inbox) {
    let (sender, seen) = mpsc::channel(limits::TLS_REPORT_BATCHES_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let count = lost.clone();
    let note = Arc::new(move |batch: Vec<Seen>| {
        if let Err(refused) = sender.try_send(batch) {
            count.fetch_add(refused.into_inner().len() as u64, Ordering::Relaxed);
        }
    });
    (note, Inbox { seen, lost })
}

/// The thread that counts and sends.
pub struct Reports {
    settings: watch::Sender<Arc<Settings>>,
    stop: watch::Sender<bool>,
    thread: thread::JoinHandle<()>,
}

impl Reports {
    /// Starts it.
    pub fn start(inbox: Inbox, settings: Arc<Settings>, shards: Shards, reporter: Reporter) -> io::Result<Reports> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let dir = settings.queue.dir.clone();
        let (settings, watched) = watch::channel(settings);
        let office = Office {
            books: Books::default(),
            dir,
            settings: watched,
            shards,
            reporter,
            rng: Rng::new(wall().0),
            ways: None,
            work: JoinSet::new(),
            write_at: None,
        };
        let thread = thread::Builder::new().name("tls-reports".into()).spawn(move || {
            runtime.block_on(office.run(inbox, stopped));
            runtime.shutdown_background();
        })?;
        Ok(Reports { settings, stop, thread })
    }

    /// What holds from now on.
    pub fn change(&self, settings: Arc<Settings>) {
        self.settings.send_replace(settings);
    }

    /// Writes down what was counted, and ends the thread. Call it when the shards are done.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        // A panic there was reported where it happened.
        let _ = self.thread.join();
    }
}

/// What one piece of work came to.
enum Done {
    /// Where a domain wants its report; an error: DNS does not say now.
    Looked(Turn, Result<Option<Vec<Destination>>, Box<str>>),
    /// Who did not get it, and why; and who did.
    Sent { day: Day, domain: Box<str>, sent: Vec<Destination>, failed: Vec<(Destination, Box<str>)> },
}

struct Office {
    books: Books,
    dir: PathBuf,
    settings: watch::Receiver<Arc<Settings>>,
    shards: Shards,
    reporter: Reporter,
    rng: Rng,
    /// DNS and web, or why not; made when they are needed first.
    ways: Option<Result<Arc<Ways>, Box<str>>>,
    work: JoinSet<Done>,
    /// When what was counted is written down.
    write_at: Option<Instant>,
}

impl Office {
    async fn run(mut self, mut inbox: Inbox, mut stopped: watch::Receiver<bool>) {
        self.read();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_on = self.settings.borrow().tls.reports.is_some();
            tokio::select! {
                batch = inbox.seen.recv() => match batch {
                    Some(batch) => self.count(batch),
                    None => break,
                },
                done = self.work.join_next(), if !self.work.is_empty() => self.follow(done),
                _ = look.tick(), if is_on => self.look(&inbox.lost),
                _ = self.settings.changed() => {}
                _ = stopped.wait_for(|stopped| *stopped) => break,
            }
            if self.write_at.is_some_and(|at| at <= Instant::now()) {
                self.write(true);
            }
        }
        while let Ok(batch) = inbox.seen.try_recv() {
            self.count(batch);
        }
        self.write(true);
    }

    fn count(&mut self, batch: Vec<Seen>) {
        batch.into_iter().for_each(|seen| self.books.count(seen));
        let pause = Duration::from_millis(limits::TLS_REPORT_WRITE_PAUSE_MS);
        self.write_at.get_or_insert_with(|| Instant::now() + pause);
    }

    /// Looks what the clock asks for.
    fn look(&mut self, lost: &AtomicU64) {
        let settings = self.settings.borrow().clone();
        let Some(wanted) = &settings.tls.reports else { return };
        let now = wall();
        match lost.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => self.books.leave_out(Day::of(now), lost),
        }
        for (day, left_out) in self.books.close(now.0, wanted.delay_ms, &mut self.rng) {
            if left_out > 0 {
                let text = format!(
                    "TLS reports of {}: {left_out} sessions are in none, for there were too many domains or policies",
                    day
                );
                self.reporter.report(Level::Warning, text);
            }
        }
        let room = limits::TLS_REPORTS_AT_ONCE.saturating_sub(self.work.len());
        let turns = self.books.due(now.0, room);
        let mut ready = Vec::new();
        for turn in turns {
            match (self.ways(&settings), &turn.left) {
                (Err(why), _) => self.failed(turn, &why),
                (Ok(_), Some(_)) => ready.push(turn),
                (Ok(ways), None) => drop(self.work.spawn(async move {
                    let looked = ways.destinations(&turn.domain).await;
                    Done::Looked(turn, looked)
                })),
            }
        }
        self.begin(ready, &settings);
        self.write(false);
    }

    fn ways(&mut self, settings: &Settings) -> Result<Arc<Ways>, Box<str>> {
        self.ways.get_or_insert_with(|| Ways::open(settings).map(Arc::new)).clone()
    }

    /// Does what follows from work that is done, all of it at once: a write each time would be many.
    fn follow(&mut self, first: Option<Result<Done, tokio::task::JoinError>>) {
        let settings = self.settings.borrow().clone();
        let mut ready = Vec::new();
        let mut next = first;
        while let Some(done) = next {
            match done {
                Ok(Done::Looked(turn, Ok(Some(left)))) if !left.is_empty() => {
                    ready.push(Turn { left: Some(left), ..turn });
                }
                Ok(Done::Looked(turn, Ok(_))) => self.books.settle(turn.day, &turn.domain),
                Ok(Done::Looked(turn, Err(why))) => self.failed(turn, &why),
                Ok(Done::Sent { day, domain, sent, failed }) => self.sent(day, domain, &sent, failed),
                // A panic was reported where it happened; what it was at counts as begun.
                Err(_) => {}
            }
            next = self.work.try_join_next();
        }
        self.begin(ready, &settings);
        self.write(false);
    }

    /// Sends reports whose destinations are known, once it is noted on the disk that they are begun.
    fn begin(&mut self, ready: Vec<Turn>, settings: &Settings) {
        if ready.is_empty() {
            return;
        }
        let Some(wanted) = &settings.tls.reports else {
            // Switched off meanwhile; they wait for being switched on.
            return ready.into_iter().for_each(|turn| self.failed(turn, "reports are switched off"));
        };
        ready.iter().for_each(|turn| self.books.begin(turn.day, &turn.domain));
        if !self.write(false) {
            return ready.into_iter().for_each(|turn| self.failed(turn, "what is begun cannot be noted in queue.dir"));
        }
        let Some(Ok(ways)) = self.ways.clone() else { return };
        for Turn { day, domain, left } in ready {
            let about = About { day, domain: &domain, submitter: wanted.submitter(), relay: &settings.hostname };
            let counted = self.books.counted(day, &domain);
            let text = document::report(&about, &wanted.organization, &wanted.contact, counted);
            let post = Post::new(&about, &wanted.from, document::packed(&text), left.unwrap_or_default(), wall());
            let (ways, shards) = (ways.clone(), self.shards.clone());
            self.work.spawn(async move {
                let (sent, failed) = ways.send(&shards, post).await;
                Done::Sent { day, domain, sent, failed }
            });
        }
    }

    fn sent(&mut self, day: Day, domain: Box<str>, sent: &[Destination], failed: Vec<(Destination, Box<str>)>) {
        if !sent.is_empty() {
            let to: Vec<String> = sent.iter().map(Destination::text).collect();
            let text = format!("TLS report of {} for {domain}: sent to {}", day, to.join(", "));
            self.reporter.report(Level::Info, text);
        }
        let why: Vec<String> = failed.iter().map(|(to, why)| format!("{}: {why}", to.text())).collect();
        let left: Vec<Destination> = failed.into_iter().map(|(to, _)| to).collect();
        match left.is_empty() {
            true => self.books.settle(day, &domain),
            false => self.failed(Turn { day, domain, left: Some(left) }, &why.join("; ")),
        }
    }

    fn failed(&mut self, Turn { day, domain, left }: Turn, why: &str) {
        let goes_on = self.books.put_back(day, &domain, left, wall().0);
        let (level, then) =
            if goes_on { (Level::Info, "it is tried again") } else { (Level::Warning, "it is given up") };
        let text = format!("TLS report of {} for {domain}: {why}; {then}", day);
        self.reporter.report(level, text);
    }

    /// Takes over what a relay before left.
    fn read(&mut self) {
        let mut days: BTreeMap<Day, bool> = BTreeMap::new();
        for name in
            fs::read_dir(&self.dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok())
        {
            for (head, is_owed) in [(COUNTS, false), (OWED, true)] {
                let day = name.strip_prefix(head).and_then(|rest| rest.strip_suffix(ENDING)).and_then(Day::parse);
                if let Some(day) = day {
                    *days.entry(day).or_default() |= !is_owed;
                }
            }
        }
        let delay_ms = self.settings.borrow().tls.reports.as_ref().map_or(0, |wanted| wanted.delay_ms);
        for (day, counted) in days {
            if !counted {
                // Of a day that was settled.
                remove(&self.path(day, true));
                continue;
            }
            let counts = self.content(day, false).unwrap_or_default();
            let owed = self.content(day, true);
            self.books.read(day, &counts, owed, wall().0, delay_ms, &mut self.rng);
        }
    }

    /// What stands in a file, if it is there. Of one that cannot be read the operator is told, and it counts as empty: a
    /// report that is lost is better than one that comes twice.
    fn content(&self, day: Day, is_owed: bool) -> Option<Map<String, Value>> {
        let path = self.path(day, is_owed);
        let read = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error),
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
        };
        Some(read.unwrap_or_else(|why| {
            let text = format!("TLS reports: {} cannot be read, and what it holds is in none: {why}", path.display());
            self.reporter.report(Level::Warning, text);
            Map::new()
        }))
    }

    fn path(&self, day: Day, is_owed: bool) -> PathBuf {
        self.dir.join(format!("{}{}{ENDING}", if is_owed { OWED } else { COUNTS }, day))
    }

    /// Brings the files up to date, with `counts` those of what is counted, too. False if one could not be written.
    fn write(&mut self, counts: bool) -> bool {
        let mut good = true;
        for page in self.books.pages(wall().0, counts) {
            let Page { day, is_owed, text } = &page;
            let path = self.path(*day, *is_owed);
            match text {
                None => remove(&path),
                Some(text) => {
                    if let Err(error) = replace_file(&path, text.as_bytes(), 0o666) {
                        good = false;
                        self.books.not_written(&page);
                        let text = format!("TLS reports: cannot write {}: {error}", path.display());
                        self.reporter.report(Level::Warning, text);
                    }
                }
            }
        }
        if counts {
            let pause = Duration::from_millis(limits::TLS_REPORT_WRITE_PAUSE_MS);
            self.write_at = self.books.is_changed().then(|| Instant::now() + pause);
        }
        good
    }
}

fn remove(path: &Path) {
    // It may not be there; if it stays it is found, and removed, at the next start.
    let _ = fs::remove_file(path);
}
