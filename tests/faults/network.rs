//! The network is hostile on both sides of the relay: late, narrow, stalling, resetting, also between the final dot and
//! its reply. Nothing is lost; duplicates are at most the recipients of the transactions cut on the way out.

use std::collections::HashSet;
use std::time::Duration;

use loadgen::client::Pipeline;
use loadgen::schedule::Schedule;
use loadgen::send::SendPlan;
use loadgen::sink::SinkPlan;

use crate::proxy::{Proxy, Weather};
use crate::stage::{Load, Setting, Stage, Told, free_address};
use crate::{Campaign, scratch};

const SECONDS: u64 = 300;
const RECIPIENTS: u32 = 3;
const SETTLE_LONGEST: Duration = Duration::from_secs(180);

fn storms() -> [(&'static str, Weather); 4] {
    let calm = Weather { bytes_longest: 200_000, ..Weather::default() };
    [
        ("delay and narrow links", Weather { delay_ms: 60, narrow: 0.5, ..calm }),
        ("resets", Weather { delay_ms: 5, reset: 0.7, ..calm }),
        ("loss that lasts", Weather { delay_ms: 5, stall: 0.4, stall_longest: Duration::from_secs(6), ..calm }),
        ("resets between dot and reply", Weather { delay_ms: 5, reset_behind_dot: 0.7, reset: 0.1, ..calm }),
    ]
}

pub(crate) fn run(campaign: &Campaign) -> Told<Vec<String>> {
    let seconds = campaign.rounds.unwrap_or(if campaign.short { 4 } else { SECONDS });
    let mut broken = Vec::new();
    for (name, weather) in storms() {
        println!("-- {name}");
        let time = Duration::from_secs(seconds) / 4;
        broken.extend(storm(campaign, weather, time)?.into_iter().map(|text| format!("{name}: {text}")));
    }
    Ok(broken)
}

fn load(seed: u64) -> Vec<Load> {
    let plan = |sessions, rate, pipeline| SendPlan {
        sessions,
        schedule: Some(Schedule::constant(rate)),
        duration: Duration::from_secs(86_400),
        sizes: "1KiB:60,10KiB:30,60KiB:10".parse().expect("sizes"),
        recipients: RECIPIENTS,
        domains: 2,
        pipeline,
        messages_per_session: 10,
        // A session that stalls is given up sooner than the relay does.
        reply_timeout: Duration::from_secs(8),
        seed,
        ..SendPlan::default()
    };
    vec![
        Load::new("group", plan(24, 80.0, Pipeline::Group)),
        Load::new("across", plan(24, 80.0, Pipeline::Across)),
        Load::new("lock step", plan(16, 20.0, Pipeline::None)),
    ]
}

fn storm(campaign: &Campaign, weather: Weather, time: Duration) -> Told<Vec<String>> {
    let dir = scratch()?;
    let mut setting =
        Setting::new(dir.path(), load(campaign.seed)).set("shards", 2).set("queue.segment_bytes", 8 << 20);
    // Where nothing stalls the relay is to wait for what is late, and so deliver it once.
    let patience_ms = if weather.stall > 0.0 { 3000 } else { 60_000 };
    for timeout in ["connect", "greeting", "hello", "mail", "rcpt", "data", "data_block", "data_end"] {
        setting = setting.set(&format!("timeout.{timeout}_ms"), patience_ms);
    }
    let setting = setting.set("relay.data_idle_ms", 5000).set("site.default.messages_per_connection", 20);
    // The proxy knows the end of a message by its dot.
    let setting = setting.set("site.default.chunking", weather.reset_behind_dot == 0.0);
    let outside = free_address();
    let inward = Proxy::anywhere(setting.listen, weather, campaign.seed)?;
    let outward = Proxy::anywhere(outside, weather, campaign.seed + 1)?;
    let setting = Setting {
        sink: SinkPlan::new(outside),
        next_hop: Some(outward.address()),
        entrance: Some(inward.address()),
        ..setting
    };
    let mut stage = Stage::open(&setting)?;
    stage.load()?;
    stage.play(time)?;
    inward.calm();
    outward.calm();
    stage.end_loads(SETTLE_LONGEST)?;
    stage.settle(SETTLE_LONGEST, &HashSet::new())?;
    let outcome = stage.close(&HashSet::new())?;
    println!("on the way in: {}", inward.happened());
    println!("on the way out: {}", outward.happened());
    let at_most = outward.happened().ended() * u64::from(RECIPIENTS);
    println!("duplicates: {}; recipients of transactions cut on the way out: at most {at_most}", outcome.duplicated());
    Ok(outcome.judge(at_most))
}
