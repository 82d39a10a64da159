//! A small file system of its own on a loop device: to fill, and to cut the power of.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::SKIPPED;
use crate::stage::Told;

/// `_IOR('X', 125, u32)`, the same for ext4 (EXT4_IOC_SHUTDOWN) and xfs (XFS_IOC_GOINGDOWN).
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// What is in the journal's memory is not written either.
const NO_LOG_FLUSH: u32 = 2;
const UNMOUNT_LONGEST: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
        }
    }
}

/// A mounted file system; taken away when dropped.
pub(crate) struct Volume {
    dir: TempDir,
    mounted: bool,
}

impl Volume {
    /// Makes and mounts one; the reason begins with [`SKIPPED`] where that cannot be had.
    pub(crate) fn make(kind: Kind, size_bytes: u64, more: &[&str]) -> Told<Volume> {
        // SAFETY: plain call.
        if unsafe { libc::geteuid() } != 0 {
            return Err(format!("{SKIPPED}only root can mount a file system"));
        }
        let dir = crate::scratch()?;
        let (image, at) = (dir.path().join("image"), dir.path().join("at"));
        let made = File::create(&image).and_then(|file| file.set_len(size_bytes)).and_then(|()| fs::create_dir(&at));
        made.map_err(|error| format!("no image: {error}"))?;
        let mut make = match kind {
            // No blocks kept for root: full is full.
            Kind::Ext4 => command("mkfs.ext4", &["-q", "-F", "-m", "0"]),
            Kind::Xfs => command("mkfs.xfs", &["-q", "-f"]),
        };
        run(make.args(more).arg(&image)).map_err(|text| format!("{SKIPPED}no {}: {text}", kind.name()))?;
        let mut volume = Volume { dir, mounted: false };
        volume.mount().map_err(|text| format!("{SKIPPED}no loop mounts here: {text}"))?;
        Ok(volume)
    }

    /// Mounts a copy of an image that holds a file system already.
    pub(crate) fn of_copy(kind: Kind, image: &Path) -> Told<Volume> {
        let dir = crate::scratch()?;
        let at = dir.path().join("at");
        fs::create_dir(&at).map_err(|error| error.to_string())?;
        run(command("cp", &["--sparse=always"]).arg(image).arg(dir.path().join("image")))?;
        let mut volume = Volume { dir, mounted: false };
        volume.mount().map_err(|text| format!("this {} cannot be mounted: {text}", kind.name()))?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("at")
    }

    /// Stops the file system as if its power were gone: nothing is written from now on.
    pub(crate) fn cut(&self) -> Told<()> {
        let root = File::open(self.path()).map_err(|error| format!("{}: {error}", self.path().display()))?;
        let flags = NO_LOG_FLUSH;
        // SAFETY: the call reads one u32 that lives until it returns.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const flags) };
        if result == 0 { Ok(()) } else { Err(format!("shutdown: {}", std::io::Error::last_os_error())) }
    }

    /// Mounted again, as after a start of the machine: the journal is replayed.
    pub(crate) fn remount(&mut self) -> Told<()> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Told<()> {
        run(command("mount", &["-o", "loop"]).arg(self.dir.path().join("image")).arg(self.path()))?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Told<()> {
        let begun = Instant::now();
        loop {
            match run(command("umount", &[]).arg(self.path())) {
                Ok(()) => {
                    self.mounted = false;
                    return Ok(());
                }
                // The files of a process that was killed may take a moment to be let go.
                Err(_) if begun.elapsed() < UNMOUNT_LONGEST => std::thread::sleep(Duration::from_millis(20)),
                Err(text) => return Err(text),
            }
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted
            && let Err(text) = self.unmount()
        {
            eprintln!("left mounted: {text}");
        }
    }
}

/// A program of the system, also of those directories that only root has in its path.
pub(crate) fn command(name: &str, arguments: &[&str]) -> Command {
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file());
    let mut command = Command::new(found.unwrap_or_else(|| name.into()));
    command.args(arguments);
    command
}

fn run(command: &mut Command) -> Told<()> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} {}: {}", command.get_program().display(), output.status, text.trim()))
}
