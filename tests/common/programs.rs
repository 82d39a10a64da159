//! Programs from outside: found, run with a time limit, never left behind.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait_until;

/// Where a program is; fails the test with what to install if it is nowhere.
pub(crate) fn need(program: &str, package: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/usr/sbin", "/sbin"]);
    let found = places.map(|place| Path::new(place).join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("{program} is missing; run tests/setup, or install it with: apt-get install {package}")
    })
}

/// The Python environment that `tests/setup` makes.
pub(crate) fn python() -> PathBuf {
    let python = root().join("target/test-python/bin/python");
    assert!(python.is_file(), "{} is missing; run tests/setup", python.display());
    python
}

/// A script beside the tests.
pub(crate) fn script(name: &str) -> PathBuf {
    root().join("tests/peers").join(name)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// True if we may do what only root may.
pub(crate) fn is_root() -> bool {
    // SAFETY: plain call.
    unsafe { libc::geteuid() == 0 }
}

/// A certificate for 127.0.0.1, which is its own authority, and its key: two files in `dir`.
pub(crate) fn certificate(dir: &Path) -> (String, String) {
    let (certificate, key) = (dir.join("c.pem"), dir.join("k.pem"));
    let mut command = Command::new(need("openssl", "openssl"));
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=hop.example"]);
    command.args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    succeed(&mut command, Duration::from_secs(60));
    (certificate.display().to_string(), key.display().to_string())
}

/// Runs a program to its end, without input; fails the test if it takes too long.
pub(crate) fn run(command: &mut Command, longest: Duration) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let mut status = None;
    wait_until(longest, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let Some(status) = status else { panic!("{command:?} ran longer than {longest:?}: {}", shown(&stdout, &stderr)) };
    Output { status, stdout, stderr }
}

/// Runs a program and expects status 0; its standard output.
pub(crate) fn succeed(command: &mut Command, longest: Duration) -> String {
    let output = run(command, longest);
    assert!(output.status.success(), "{command:?}: {}: {}", output.status, shown(&output.stdout, &output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both outputs as text.
pub(crate) fn shown(stdout: &[u8], stderr: &[u8]) -> String {
    format!("{}\n{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
}

fn reader(from: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    let mut from = from.expect("piped");
    std::thread::spawn(move || {
        let mut all = Vec::new();
        // What was read before an error is still worth showing.
        let _ = from.read_to_end(&mut all);
        all
    })
}

/// A program that runs beside the test and is killed when dropped.
pub(crate) struct Running {
    child: Child,
    output: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts it; both outputs are kept.
    pub(crate) fn start(command: &mut Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        let output = Some(reader(child.stdout.take()));
        Running { child, output }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: plain call; the child is not waited for yet, so the number is its.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Ends it with SIGTERM (SIGKILL a moment later); its standard output.
    pub(crate) fn end(mut self) -> String {
        // SAFETY: plain call; the child is not waited for yet.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        wait_until(Duration::from_secs(3), || !matches!(self.child.try_wait(), Ok(None)));
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let output = self.output.take().unwrap().join().unwrap();
        String::from_utf8_lossy(&output).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
