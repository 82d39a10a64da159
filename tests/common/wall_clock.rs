//! The wall clock of a relay that is started with a library of ours before the system's: it can be moved while the relay runs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A wall clock that can be moved.
pub(crate) struct WallClock {
    /// Where the library is to be built, from [`WallClock::source`].
    pub(crate) library: PathBuf,
    path: PathBuf,
    file: File,
}

impl WallClock {
    /// One that is right, with its files in a directory; its library is not there yet.
    pub(crate) fn make(dir: &Path) -> io::Result<WallClock> {
        let (library, path) = (dir.join("clock.so"), dir.join("clock"));
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        let clock = WallClock { library, path, file };
        clock.set(0)?;
        Ok(clock)
    }

    /// What the library is made of.
    pub(crate) fn source() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shims/clock.c")
    }

    /// From now on it is off by so much.
    pub(crate) fn set(&self, off_ms: i64) -> io::Result<()> {
        self.file.write_all_at(&off_ms.to_ne_bytes(), 0)
    }

    /// What the relay is to be started with.
    pub(crate) fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("RINGPOST_CLOCK", &self.path)]
    }
}
