//! `ringpost demo`: the main job in one go. A relay, a load and a sink on loopback, and the ledger at the end.
//!
//! The relay is this same program in a process of its own, so that its CPU time can be told from the load's; load,
//! sink and ledger are `loadgen`'s, which shares no code with it. Good only if nothing was lost or corrupted.

use std::path::PathBuf;
use std::time::Duration;

use loadgen::client::Pipeline;
use loadgen::progress::Line;
use loadgen::run::{self, Scenario};
use loadgen::send::SendPlan;
use loadgen::units::SizeMix;

use crate::cli::Demo;

/// Where the queue of a demonstration lies: on a disk, which `/tmp` often is not.
const PARENT: &str = "/var/tmp";

/// Runs the demonstration and prints its report. The error says what went wrong, in words for the operator.
pub(crate) fn demo(wanted: &Demo) -> Result<(), String> {
    let scenario = scenario(wanted)?;
    let dir = scenario.dir.clone().expect("the demonstration names its directory");
    eprintln!(
        "ringpost demo: a relay with {}, {} sessions sending {} messages of {} bytes, and a sink; queue in {}",
        wanted.shards.map_or("a shard on each core".to_owned(), |shards| format!("{shards} shard(s)")),
        wanted.sessions,
        wanted.messages,
        wanted.size_bytes,
        dir.display()
    );
    let mut line = Line::new(true);
    let outcome = run::run(&scenario, &mut |now| line.show(now));
    line.clear();
    let outcome =
        outcome.map_err(|error| format!("the demonstration failed: {error}; the queue is in {}", dir.display()))?;
    print!("{}", outcome.report);
    if !outcome.is_good() {
        return Err(format!(
            "something was lost, corrupted or did not end in order; the queue is kept in {}",
            dir.display()
        ));
    }
    println!("\nnothing lost, nothing corrupted: every 250 was on disk, and every message arrived whole");
    std::fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))
}

fn scenario(wanted: &Demo) -> Result<Scenario, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find my own program: {error}"))?;
    let parent = wanted.dir.clone().unwrap_or_else(|| PathBuf::from(PARENT));
    let dir = parent.join(format!("ringpost-demo-{}", std::process::id()));
    let mut relay = vec![program.to_string_lossy().into_owned(), "run".into()];
    let sets = [
        "listen.relay={listen}".to_owned(),
        "route.default={sink}".into(),
        "queue.dir={dir}/queue".into(),
        "log.level=warning".into(),
        // As many ways out as in, so that what comes in does not pile up.
        format!("site.default.connections={}", wanted.sessions),
    ];
    let shards = wanted.shards.map(|shards| format!("shards={shards}"));
    for set in sets.into_iter().chain(shards).chain(wanted.set.iter().cloned()) {
        relay.extend(["--set".into(), set]);
    }
    Ok(Scenario {
        relay: Some(relay),
        dir: Some(dir),
        load: SendPlan {
            sessions: wanted.sessions,
            messages: wanted.messages,
            sizes: SizeMix::fixed(wanted.size_bytes),
            pipeline: Pipeline::Group,
            ..SendPlan::default()
        },
        drain_longest: Duration::from_secs(120),
        ..Scenario::default()
    })
}
