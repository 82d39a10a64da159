//! The keeper of the book of days' limits (`schedule::warm_up`): a thread that serves all shards and writes down what it lends
//! before they hear of it.
//!
//! An ordinary thread of its own, which waits for shards and for the disk, and for nothing else. Whatever shards ask for while it
//! writes is the next writing. What cannot be written is not lent: shards ask again, and the operator is told when it begins and
//! when it ends. A file that cannot be read is an error at the start, since a day's limit could be had twice.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::base::ids::ShardId;
use crate::runtime::report::Reporter;
use crate::runtime::{LendReply, replace_file};
use crate::schedule::warm_up::{Book, Outcome, Request};
use crate::shard::Level;

/// Where the book is kept, in the spool's directory.
const FILE: &str = "warm-up";

/// Requests that one writing serves.
const REQUESTS_AT_ONCE: usize = 4096;

/// What an earlier run wrote.
pub fn load(spool: &Path) -> Result<Book, String> {
    let path = spool.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Book::default()),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    Book::parse(&text).map_err(|error| {
        format!("{}: {error}; mend it, or remove it if days' limits may begin anew today", path.display())
    })
}

enum Letter {
    Request(ShardId, Request, LendReply),
    Stop,
}

/// The way to the keeper.
pub struct Keeper {
    letters: Sender<Letter>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it with the book of a spool.
    pub fn start(book: Book, spool: &Path, reporter: Reporter) -> io::Result<Keeper> {
        let (letters, taken) = channel();
        let mut desk =
            Desk { book, path: spool.join(FILE), reporter, ways: HashMap::new(), unwritten: false, failing: false };
        let thread = std::thread::Builder::new().name("warm-up".into()).spawn(move || desk.serve(&taken))?;
        Ok(Keeper { letters, thread: Some(thread) })
    }

    /// How shards speak to it.
    pub fn lend(&self) -> crate::runtime::Lend {
        let letters = self.letters.clone();
        // It is gone only when the process ends.
        Arc::new(move |from, request, reply| drop(letters.send(Letter::Request(from, request, reply))))
    }

    /// Writes down what came back, and ends.
    pub fn stop(mut self) {
        let _ = self.letters.send(Letter::Stop);
        self.thread.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

struct Desk {
    book: Book,
    path: PathBuf,
    reporter: Reporter,
    /// How each shard is told something.
    ways: HashMap<ShardId, LendReply>,
    /// The book is not what the file says.
    unwritten: bool,
    /// The last writing failed.
    failing: bool,
}

impl Desk {
    fn serve(&mut self, letters: &Receiver<Letter>) {
        let mut stopping = false;
        while !stopping {
            let Ok(first) = letters.recv() else { return };
            let (mut lent, mut outcomes) = (false, Vec::new());
            for letter in std::iter::once(first).chain(letters.try_iter()).take(REQUESTS_AT_ONCE) {
                match letter {
                    Letter::Stop => stopping = true,
                    Letter::Request(from, request, way) => {
                        self.unwritten |= matches!(request, Request::Return { .. });
                        self.ways.insert(from, way);
                        lent |= self.book.serve(from, request, &mut outcomes);
                    }
                }
            }
            if lent || (stopping && self.unwritten) {
                self.write(&mut outcomes);
            }
            for outcome in outcomes {
                match outcome {
                    Outcome::Report(text) => self.reporter.report(Level::Info, text),
                    Outcome::Tell(shard, notice) => self.ways[&shard](notice),
                }
            }
        }
    }

    fn write(&mut self, outcomes: &mut [Outcome]) {
        let result = replace_file(&self.path, self.book.text().as_bytes(), 0o666);
        self.unwritten = result.is_err();
        let file = self.path.display();
        match result {
            Ok(()) if !std::mem::take(&mut self.failing) => {}
            Ok(()) => self.reporter.report(Level::Info, format!("{file} can be written again")),
            Err(error) => {
                self.book.failed(outcomes);
                if !std::mem::replace(&mut self.failing, true) {
                    let text = format!("cannot write {file}: {error}; mail from sources that are warmed up waits");
                    self.reporter.report(Level::Error, text);
                }
            }
        }
    }
}
