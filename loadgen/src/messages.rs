//! What became of each message and when, as comma-separated values: written while a run goes on, so that millions of
//! messages need no memory.
//!
//! Two kinds of rows, told by the first column: `answered`, when a message has its last word at the sender, and
//! `arrived`, when a recipient's copy is whole at the sink. A message is found again by its number. Each worker fills a page of its own and
//! hands it over when it is full. A file that cannot be written to any more is told once, at the end.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const PAGE_BYTES: usize = 256 << 10;
const TITLES: &str = "event,message,recipient,planned_ns,started_ns,at_ns,took_us,outcome\r\n";

/// The file that all workers of a run write to.
#[derive(Debug)]
pub struct MessageFile {
    file: Mutex<File>,
    failed: AtomicBool,
}

impl MessageFile {
    /// Makes it, in the place of an older one.
    pub fn create(path: &Path) -> io::Result<Arc<MessageFile>> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut file = File::create(path).map_err(named)?;
        file.write_all(TITLES.as_bytes()).map_err(named)?;
        Ok(Arc::new(MessageFile { file: Mutex::new(file), failed: AtomicBool::new(false) }))
    }

    /// True if something could not be written.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// A worker's page; what is on it is written at the latest when it is dropped.
pub struct Page {
    to: Arc<MessageFile>,
    text: Vec<u8>,
}

impl Page {
    /// An empty page.
    pub fn of(to: &Arc<MessageFile>) -> Page {
        Page { to: Arc::clone(to), text: Vec::with_capacity(PAGE_BYTES) }
    }

    /// A message has its last word.
    pub fn answered(&mut self, message: u64, planned_ns: u64, started_ns: u64, at_ns: u64, outcome: &str) {
        let took_us = at_ns.saturating_sub(planned_ns) / 1000;
        self.row(format_args!("answered,{message},,{planned_ns},{started_ns},{at_ns},{took_us},{outcome}\r\n"));
    }

    /// A recipient's copy is here.
    pub fn arrived(&mut self, message: u64, recipient: u32, planned_ns: u64, at_ns: u64, is_whole: bool) {
        let took_us = at_ns.saturating_sub(planned_ns) / 1000;
        let outcome = if is_whole { "whole" } else { "corrupted" };
        self.row(format_args!("arrived,{message},{recipient},{planned_ns},,{at_ns},{took_us},{outcome}\r\n"));
    }

    fn row(&mut self, row: std::fmt::Arguments<'_>) {
        // Writing to a vector cannot fail.
        let _ = self.text.write_fmt(row);
        if self.text.len() > PAGE_BYTES - 256 {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let written = self.to.file.lock().expect("no holder panics").write_all(&self.text);
        if written.is_err() {
            self.to.failed.store(true, Ordering::Relaxed);
        }
        self.text.clear();
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_several_workers_stay_whole() {
        let path = std::env::temp_dir().join(format!("loadgen-messages-{}.csv", std::process::id()));
        let file = MessageFile::create(&path).unwrap();
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let mut page = Page::of(&file);
                scope.spawn(move || {
                    for message in 0..5000 {
                        page.answered(message * 3 + worker, 1_000_000, 1_500_000, 3_000_000, "acknowledged");
                        page.arrived(message * 3 + worker, 0, 1_000_000, 5_000_000, true);
                    }
                });
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let columns = TITLES.matches(',').count();
        assert_eq!(text.lines().count(), 30_001);
        assert!(text.lines().all(|line| line.matches(',').count() == columns) && !file.has_failed());
        assert!(text.contains("answered,7,,1000000,1500000,3000000,2000,acknowledged\r\n"));
        assert!(text.contains("arrived,14999,0,1000000,,5000000,4000,whole\r\n"));
        std::fs::remove_file(&path).unwrap();
        assert!(MessageFile::create(Path::new("/no/such/place")).unwrap_err().to_string().contains("/no/such"));
    }
}
