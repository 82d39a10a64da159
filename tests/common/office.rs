//! A relay with submission listeners and users, for tests of clients who prove who they are.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::free_address;
use super::programs::shown;
use super::relay::{Relay, Setup, program};
use super::sink::Sink;

/// Nothing that a log or a reply may show.
pub(crate) const PASSWORD: &str = "corr3ct-horse";

/// A relay with all roles, and its users: alice with a SCRAM verifier, bob with an argon2 one, carol with an NT hash, dave without a
/// password.
pub(crate) struct Office {
    pub(crate) setup: Setup,
    pub(crate) relay: Relay,
    pub(crate) submission: SocketAddr,
    pub(crate) submissions: SocketAddr,
}

fn user_line(name: &str, more: &[&str]) -> String {
    let mut command = Command::new(program());
    command.args(["user", "add", name]).args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Where none is kept it need not be read.
    let _ = child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", shown(&output.stdout, &output.stderr));
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(line.starts_with(name) && line.ends_with('\n') && !line.contains(PASSWORD), "{line}");
    line
}

/// Makes the file of the users.
pub(crate) fn users_file(setup: &Setup) -> PathBuf {
    let path = setup.dir().join("users");
    let alice = user_line("alice", &["--senders", "alice@example.com"]);
    let others = [("bob", &["--argon2"][..]), ("carol", &["--nt"]), ("dave", &["--kerberos"])];
    let lines = others.iter().fold(alice, |lines, (name, more)| lines + &user_line(name, more));
    std::fs::write(&path, lines).unwrap();
    path
}

impl Office {
    /// Starts it, with its settings changed.
    pub(crate) fn open(sink: &Sink, change: impl FnOnce(Setup) -> Setup) -> Office {
        let (submission, submissions) = (free_address(), free_address());
        let setup = Setup::to(sink.address())
            .set("listen.submission", submission)
            .set("listen.submissions", submissions)
            .set("auth.failure_delay_ms", 50);
        let users = users_file(&setup);
        let setup = change(setup.set("auth.users", users.display()));
        let relay = setup.start();
        Office { setup, relay, submission, submissions }
    }

    /// Ends the relay; no secret is in what it reported.
    pub(crate) fn close(self) {
        let errors = self.relay.errors();
        let encoded = ["Y29ycjNjdC1ob3JzZ", "ycjNjdC1ob3JzZ", "b3JyM2N0LWhvcnNl", "cnIzY3QtaG9yc2"];
        for secret in [PASSWORD].iter().chain(&encoded) {
            assert!(!errors.contains(secret), "AUT-08: {errors}");
        }
        self.relay.stop();
    }
}
