//! `ringpost tune` on this machine and on described ones: what it writes, the relay takes.

#![cfg(feature = "runtime")]

mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::programs;
use common::relay::{program, ringpost};

/// A few seconds of measurements, on a machine that may be busy.
const TUNE_LONGEST: Duration = Duration::from_secs(240);

fn tune(dir: &Path, arguments: &[&str]) -> Output {
    let queue = format!("queue.dir={}", dir.join("queue").display());
    let out = dir.join("tuned.toml");
    let mut command = Command::new(program());
    command.args(["tune", "--set", &queue, "--out"]).arg(out).args(arguments).current_dir(dir);
    programs::run(&mut command, TUNE_LONGEST)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A short real run: a row for every measurement, a file that the relay takes with a reason for every key, and nothing left
/// behind.
#[test]
fn a_quick_run_writes_what_the_relay_takes() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let page = dir.path().join("page.html");
    let ran = tune(dir.path(), &["--quick", "--seconds", "0.3", "--sessions", "10", "--html", page.to_str().unwrap()]);
    let (out, errors) = (text(&ran.stdout), text(&ran.stderr));
    assert!(ran.status.success(), "{out}{errors}");
    let rows = |part: &str| out.lines().filter(|line| line.contains(part)).count();
    assert!(rows(" KiB ") >= 9, "{out}");
    assert!(rows(" ms ") >= 1 && rows("> ") >= 1, "{out}");
    for key in ["shards = ", "cores = ", "queue.batch_bytes = ", "queue.writes_in_flight = "] {
        assert!(rows(key) == 1, "{key}: {out}");
    }
    let written = dir.path().join("tuned.toml");
    let file = std::fs::read_to_string(&written).unwrap();
    let keys: Vec<&str> = file.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).collect();
    assert!(keys.len() >= 5, "{file}");
    let checked = ringpost(&["check", "--config", written.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    assert!(std::fs::read_to_string(page).unwrap().contains("<svg"));
    assert!(!dir.path().join("queue").exists(), "the queue's directory was made for the measurement alone");
}

/// A machine that is not this one: where its shards would run, in words and as JSON.
#[test]
fn a_described_machine_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let machine = dir.path().join("machine.toml");
    let words = "cores = 64\nthreads_per_core = 2\nnodes = 2\n[[interfaces]]\nname = 'eth0'\nnode = 1\nqueues = 16\n";
    std::fs::write(&machine, words).unwrap();
    let machine = machine.to_str().unwrap();
    let ran = tune(dir.path(), &["--machine", machine]);
    let out = text(&ran.stdout);
    assert!(ran.status.success() && out.contains("cores = \"16-31,0-15\""), "{out}{}", text(&ran.stderr));
    let ran = tune(dir.path(), &["--machine", machine, "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(value["placements"][0]["shards"], 32);
    assert_eq!(value["placements"][0]["interrupts"].as_array().map(Vec::len), Some(16));
    let ran = tune(dir.path(), &["--explain"]);
    assert!(ran.status.success() && text(&ran.stdout).contains("by rule"), "{}", text(&ran.stderr));
    assert!(!dir.path().join("tuned.toml").exists());
}

/// A file that tune did not write is left as it is, before anything is measured.
#[test]
fn files_of_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("tuned.toml");
    std::fs::write(&out, "shards = 1\n").unwrap();
    let ran = tune(dir.path(), &["--quick"]);
    assert_eq!(ran.status.code(), Some(2), "{}", text(&ran.stderr));
    assert!(text(&ran.stderr).contains("--out"));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "shards = 1\n");
}
