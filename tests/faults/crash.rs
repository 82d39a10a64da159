//! The relay is killed at random moments under mixed load: DATA and BDAT, in clear and inside TLS, large messages, many
//! recipients, a next hop that defers and hangs up, and segments so small that they are used again all the time.

use std::collections::HashSet;
use std::time::Duration;

use loadgen::client::{Body, Pipeline};
use loadgen::rng::Rng;
use loadgen::schedule::Schedule;
use loadgen::send::SendPlan;
use loadgen::sink::faults::{Denial, Faults};
use loadgen::tls::TlsMode;

use crate::stage::{Load, Setting, Stage, Told};
use crate::{Campaign, scratch};

const KILLS: u64 = 500;
const SHORTEST_MS: u64 = 50;
const LONGEST_MS: u64 = 1200;
/// The slowest reply of the next hop.
const DELAY: Duration = Duration::from_millis(20);
const SETTLE_LONGEST: Duration = Duration::from_secs(120);

/// Loads of every kind.
pub(crate) fn mixed(seed: u64) -> Vec<Load> {
    let plan = |sessions, rate, sizes: &str, recipients, domains| SendPlan {
        sessions,
        schedule: Some(Schedule::constant(rate)),
        // Until it is told to end.
        duration: Duration::from_secs(86_400),
        sizes: sizes.parse().expect("sizes"),
        recipients,
        domains,
        pipeline: Pipeline::Group,
        messages_per_session: 50,
        seed,
        ..SendPlan::default()
    };
    vec![
        Load::new("three each", plan(16, 150.0, "1KiB:60,10KiB:30,100KiB:10", 3, 3)),
        Load::new("hundred each", plan(4, 4.0, "2KiB:100", 100, 10)),
        Load::new("large", plan(3, 1.0, "4MiB:80,12MiB:20", 1, 1)),
        Load::new("across", SendPlan { pipeline: Pipeline::Across, ..plan(6, 150.0, "1KiB:80,20KiB:20", 1, 5) }),
        Load::new("inside TLS", SendPlan { tls: TlsMode::StartTls, ..plan(8, 60.0, "1KiB:70,50KiB:30", 1, 3) }),
        Load::new(
            "BDAT",
            SendPlan { body: Body::Bdat { chunk_bytes: 9_000 }, ..plan(6, 60.0, "1KiB:70,60KiB:30", 2, 3) },
        ),
    ]
}

/// A next hop that defers and hangs up now and then.
pub(crate) fn awkward() -> Faults {
    Faults {
        rcpt: Denial { defer: 0.02, ..Denial::default() },
        end: Denial { defer: 0.02, ..Denial::default() },
        drop_before_dot: 0.005,
        drop_after_dot: 0.005,
        delay: Some((Duration::ZERO, DELAY)),
        ..Faults::default()
    }
}

pub(crate) fn run(campaign: &Campaign) -> Told<Vec<String>> {
    let kills = campaign.rounds.unwrap_or(if campaign.short { 5 } else { KILLS });
    let dir = scratch()?;
    let mut setting = Setting::new(dir.path(), mixed(campaign.seed))
        .set("shards", 2)
        .set("queue.segment_bytes", 8 << 20)
        .set("queue.segments", 64)
        .set("queue.memory_bytes", 4 << 20);
    setting.sink.faults = awkward();
    setting.sink.seed = campaign.seed;
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    let mut rng = Rng::new(campaign.seed);
    for kill in 1..=kills {
        // A relay that never gets on proves little: now and then one lives until mail went through, however slow the machine.
        if kill % 4 == 0 {
            let (accepted, arrived) = (stage.sent().acknowledged, stage.sink().recipients);
            let goes_on = |stage: &Stage| stage.sent().acknowledged > accepted && stage.sink().recipients > arrived;
            if !stage.until(SETTLE_LONGEST, goes_on)? {
                return Err(format!("before kill {kill} no mail went through for {SETTLE_LONGEST:?}"));
            }
        }
        stage.play(Duration::from_millis(SHORTEST_MS + rng.below(LONGEST_MS - SHORTEST_MS)))?;
        stage.kill();
        stage.start_relay().map_err(|text| format!("after kill {kill}: {text}"))?;
        if kill % 50 == 0 {
            println!("{kill} kills, {} messages acknowledged", stage.sent().acknowledged);
        }
    }
    stage.end_loads(SETTLE_LONGEST)?;
    stage.settle(SETTLE_LONGEST, &HashSet::new())?;
    let outcome = stage.close(&HashSet::new())?;
    println!("duplicates: {}; recipients in flight at the kills: at most {}", outcome.duplicated(), outcome.in_flight);
    let mut broken = outcome.judge_kills();
    broken.extend(outcome.judge(outcome.in_flight));
    Ok(broken)
}
