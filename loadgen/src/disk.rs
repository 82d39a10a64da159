//! What a block device was asked to do: write requests, bytes and cache flushes, as the kernel counts them.
//!
//! The counters are the device's, not a process's: they are worth something on a machine where nobody else writes. Any
//! thread. A directory without a block device of its own (tmpfs, overlay, network) has no counters, which is no error.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const SECTOR_BYTES: u64 = 512;

/// The counters of a device, or the difference of two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCounts {
    /// Write requests that reached the device, after merging.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Cache flushes.
    pub flushes: u64,
}

impl DiskCounts {
    /// What was added since an earlier reading.
    pub fn since(&self, earlier: &DiskCounts) -> DiskCounts {
        DiskCounts {
            writes: self.writes.saturating_sub(earlier.writes),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            flushes: self.flushes.saturating_sub(earlier.flushes),
        }
    }
}

/// The block device below a directory.
#[derive(Clone, Debug)]
pub struct Disk {
    stat: PathBuf,
    /// Flushes are counted for the whole disk only, so for a partition this is another file.
    flush_stat: PathBuf,
}

impl Disk {
    /// The device below `path`; None where there is none that counts.
    pub fn below(path: &Path) -> Option<Disk> {
        let device = fs::metadata(path).ok()?.dev();
        let name = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
        let entry = fs::canonicalize(name).ok()?;
        let stat = entry.join("stat");
        let whole = if entry.join("partition").exists() { entry.parent()?.join("stat") } else { stat.clone() };
        let disk = Disk { stat, flush_stat: whole };
        disk.read().map(|_| disk)
    }

    /// The counters now.
    pub fn read(&self) -> Option<DiskCounts> {
        let own = parse(&fs::read_to_string(&self.stat).ok()?)?;
        if self.stat == self.flush_stat {
            return Some(own);
        }
        let whole = parse(&fs::read_to_string(&self.flush_stat).ok()?)?;
        Some(DiskCounts { flushes: whole.flushes, ..own })
    }
}

/// Reads a `stat` file: writes are the 5th field, sectors written the 7th, flushes the 16th (since Linux 5.5).
fn parse(text: &str) -> Option<DiskCounts> {
    let fields: Vec<u64> = text.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    Some(DiskCounts {
        writes: *fields.get(4)?,
        written_bytes: fields.get(6)?.saturating_mul(SECTOR_BYTES),
        flushes: fields.get(15).copied().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_from_their_places() {
        let text = " 1 2 3 4 50 6 70 8 9 10 11 12 13 14 15 160 17\n";
        let counts = parse(text).unwrap();
        assert_eq!(counts, DiskCounts { writes: 50, written_bytes: 70 * 512, flushes: 160 });
        let later = DiskCounts { writes: 60, written_bytes: 71 * 512, flushes: 160 };
        assert_eq!(later.since(&counts), DiskCounts { writes: 10, written_bytes: 512, flushes: 0 });
        // Old kernels count no flushes; a broken file counts nothing.
        assert_eq!(parse("1 2 3 4 5 6 7 8 9 10 11").unwrap().flushes, 0);
        assert!(parse("").is_none() && parse("1 2 x").is_none());
    }

    #[test]
    fn what_has_no_device_has_no_counters() {
        assert!(Disk::below(Path::new("/proc")).is_none());
        assert!(Disk::below(Path::new("/no/such/place")).is_none());
    }
}
