//! What `ringpost spool salvage` promises of a damaged spool (`docs/operating.md`), held against what the spool held before the
//! damage: every message that was not hit is in the new one, to the byte and with all that was known of its recipients, and
//! what is not whole was set aside.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::stage::{Told, program, spool_report};

/// The messages of a spool by their names: all that `ringpost queue show` tells of each.
pub(crate) type Messages = BTreeMap<String, Value>;

/// What a flip touches, so that salvage may do without it.
pub(crate) struct Touched {
    /// Messages that may be gone, or of which less is known.
    pub(crate) messages: HashSet<String>,
    /// What was settled or refused may be back: what said so is gone.
    pub(crate) back: bool,
    /// It was reported as damage.
    pub(crate) reported: bool,
}

/// Reads every open message of a spool.
pub(crate) fn messages(queue: &Path) -> Told<Messages> {
    let dir = [OsStr::new("--json"), OsStr::new("--dir"), queue.as_os_str()];
    let listed = ask([OsStr::new("queue"), OsStr::new("ls")].into_iter().chain(dir))?;
    let mut all = Messages::new();
    for name in listed.as_array().into_iter().flatten().filter_map(|message| message["id"].as_str()) {
        let show = [OsStr::new("queue"), OsStr::new("show"), OsStr::new(name)];
        all.insert(name.to_owned(), ask(show.into_iter().chain(dir))?);
    }
    Ok(all)
}

/// Salvages a spool into a new directory and looks at what came of it; tells how many messages are as they were before.
pub(crate) fn check(queue: &Path, into: &Path, before: &Messages, touched: &Touched) -> Told<u64> {
    let salvage = [OsStr::new("spool"), OsStr::new("salvage"), OsStr::new("--json"), queue.as_os_str()];
    let said = ask(salvage.into_iter().chain([OsStr::new("--into"), into.as_os_str()]))?;
    let fresh = into.join("queue");
    if spool_report(&fresh)?.damaged > 0 {
        return Err("salvage: its new spool is damaged, too".into());
    }
    let after = messages(&fresh)?;
    let (mut saved, mut gone) = (0, 0);
    for (name, message) in before {
        let hit = touched.messages.contains(name);
        match after.get(name) {
            Some(now) if now == message => saved += 1,
            Some(now) if now["text"] != message["text"] => {
                return Err(format!("salvage: the text of message {name} is not what it was"));
            }
            Some(_) if hit => {}
            Some(now) => {
                let now = &now["message"];
                return Err(format!("salvage: message {name} is now {now} and was {}", message["message"]));
            }
            None if hit => gone += 1,
            None => return Err(format!("salvage: message {name} was not hit and is not saved")),
        }
    }
    if let Some(name) = after.keys().find(|name| !before.contains_key(*name) && !touched.back) {
        return Err(format!("salvage: message {name} was not in the queue before"));
    }
    let [counted, incomplete, ranges] = ["messages", "incomplete", "ranges"].map(|of| said[of].as_u64().unwrap_or(0));
    if counted != after.len() as u64 {
        return Err(format!("salvage: {counted} messages are said to be saved, {} are", after.len()));
    }
    let aside = fs::read_dir(into.join("aside")).map_err(|error| format!("salvage: {error}"))?.count() as u64;
    if aside != 2 * incomplete + ranges || (gone > 0 && touched.reported && aside == 0) {
        return Err(format!("salvage: {gone} messages are gone, {aside} files are set aside: {said}"));
    }
    Ok(saved)
}

/// Runs the relay's program for an answer in JSON.
fn ask<'a>(words: impl Iterator<Item = &'a OsStr>) -> Told<Value> {
    let words: Vec<&OsStr> = words.collect();
    let output = Command::new(program()).args(&words).output().map_err(|error| format!("{words:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{words:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{words:?}: {error}"))
}
