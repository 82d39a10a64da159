//! Runs side by side: medians with their spread, as text and as comma-separated values.
//!
//! Pure. Figures that a run does not have are left blank, never shown as nothing.

use std::fmt::Write;

use crate::floor::FloorReport;
use crate::report::{FLUSHES_SEEN_MIN, FloorRatio, Report};

/// A relay and its runs of one scenario.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its runs, in the order they were made.
    pub runs: &'a [Report],
}

/// Several values of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
    /// How many.
    pub count: usize,
}

impl Spread {
    /// Over the values there are; None without any.
    pub fn over(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (count, middle) = (values.len(), values.len() / 2);
        let median = match count {
            0 => return None,
            odd if odd % 2 == 1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        Some(Spread { median, least: values[0], most: values[count - 1], count })
    }
}

/// One figure of a run, and how it is shown.
struct Figure {
    title: &'static str,
    /// Digits behind the point.
    digits: usize,
    /// Show the span and the ratio to the first relay.
    compared: bool,
    of: fn(&Report) -> Option<f64>,
}

const fn figure(title: &'static str, digits: usize, of: fn(&Report) -> Option<f64>) -> Figure {
    Figure { title, digits, compared: false, of }
}

const fn compared(title: &'static str, digits: usize, of: fn(&Report) -> Option<f64>) -> Figure {
    Figure { title, digits, compared: true, of }
}

const MIB: f64 = (1 << 20) as f64;

/// What the text shows.
const SHOWN: &[Figure] = &[
    compared("delivered/s", 0, |r| r.delivered_per_s),
    compared("cpu us/msg", 1, |r| Some(r.relay?.cpu_us_per_message)),
    figure("system", 1, |r| Some(r.relay?.system_us_per_message)),
    figure("p50 ms", 2, |r| Some(r.accept.p50_us as f64 / 1000.0)),
    figure("p99 ms", 1, |r| Some(r.accept.p99_us as f64 / 1000.0)),
    figure("flushes/msg", 3, |r| Some(r.disk?.flushes_per_message)),
    figure("KiB/msg", 1, |r| Some(r.disk?.written_kib_per_message)),
    figure("RSS MiB", 0, |r| Some(r.relay?.rss_peak_bytes as f64 / MIB)),
    figure("PSS MiB", 0, |r| Some(r.relay?.pss_bytes? as f64 / MIB)),
    figure("processes", 0, |r| Some(r.relay?.processes_peak as f64)),
    figure("out conns", 0, |r| Some(r.sink?.connections_peak as f64)),
    figure("trips/msg", 2, |r| r.sink_round_trips_per_message),
];

/// What the comma-separated values hold beside the names: one line per run.
const KEPT: &[Figure] = &[
    figure("accepted_per_s", 1, |r| Some(r.accepted_per_s)),
    figure("delivered_per_s", 1, |r| r.delivered_per_s),
    figure("load_s", 3, |r| Some(r.load_s)),
    figure("drain_s", 3, |r| Some(r.drain_s)),
    figure("relay_cpu_us_per_message", 2, |r| Some(r.relay?.cpu_us_per_message)),
    figure("relay_user_us_per_message", 2, |r| Some(r.relay?.user_us_per_message)),
    figure("relay_system_us_per_message", 2, |r| Some(r.relay?.system_us_per_message)),
    figure("sender_cpu_us_per_message", 2, |r| Some(r.sender_cpu_us_per_message)),
    figure("sink_cpu_us_per_message", 2, |r| r.sink_cpu_us_per_message),
    figure("accept_p50_us", 0, |r| Some(r.accept.p50_us as f64)),
    figure("accept_p90_us", 0, |r| Some(r.accept.p90_us as f64)),
    figure("accept_p99_us", 0, |r| Some(r.accept.p99_us as f64)),
    figure("accept_p999_us", 0, |r| Some(r.accept.p999_us as f64)),
    figure("accept_max_us", 0, |r| Some(r.accept.max_us as f64)),
    figure("end_to_end_p50_us", 0, |r| Some(r.end_to_end?.p50_us as f64)),
    figure("end_to_end_p99_us", 0, |r| Some(r.end_to_end?.p99_us as f64)),
    figure("disk_writes_per_message", 3, |r| Some(r.disk?.writes_per_message)),
    figure("disk_kib_per_message", 2, |r| Some(r.disk?.written_kib_per_message)),
    figure("disk_flushes_per_message", 4, |r| Some(r.disk?.flushes_per_message)),
    figure("relay_rss_peak_bytes", 0, |r| Some(r.relay?.rss_peak_bytes as f64)),
    figure("relay_pss_bytes", 0, |r| Some(r.relay?.pss_bytes? as f64)),
    figure("relay_processes_peak", 0, |r| Some(r.relay?.processes_peak as f64)),
    figure("relay_threads_peak", 0, |r| Some(r.relay?.threads_peak as f64)),
    figure("sink_connections_peak", 0, |r| Some(r.sink?.connections_peak as f64)),
    figure("sink_round_trips_per_message", 3, |r| r.sink_round_trips_per_message),
    figure("acknowledged", 0, |r| Some(r.ledger.acknowledged as f64)),
    figure("arrived", 0, |r| Some(r.ledger.arrived as f64)),
    figure("lost", 0, |r| Some(r.ledger.lost as f64)),
    figure("duplicated", 0, |r| Some(r.ledger.duplicated as f64)),
    figure("corrupted", 0, |r| Some(r.ledger.corrupted as f64)),
    figure("refused", 0, |r| Some(r.ledger.refused as f64)),
    figure("deferred", 0, |r| Some(r.ledger.deferred as f64)),
    figure("reordered", 0, |r| Some(r.sink?.reordered as f64)),
    figure("reordered_by", 0, |r| Some(r.sink?.reordered_by as f64)),
    figure("handshakes", 0, |r| Some(r.sender.handshakes as f64)),
    figure("handshakes_resumed", 0, |r| Some(r.sender.handshakes_resumed as f64)),
    figure("sources", 0, |r| Some(r.sink?.sources as f64)),
    figure("source_rate_peak", 0, |r| Some(r.sink?.source_rate_peak as f64)),
    figure("late_starts", 0, |r| Some(r.sender.late_starts as f64)),
    figure("missed_starts", 0, |r| Some(r.sender.missed_starts as f64)),
];

/// Titles and rows, all of the same width.
pub struct Table {
    /// Titles of the columns.
    pub titles: Vec<String>,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
}

/// How often a relay flushes, in words: what stands behind its 250.
pub fn durability(flushes_per_message: f64) -> String {
    match flushes_per_message {
        none if none < FLUSHES_SEEN_MIN => "none seen".into(),
        few if few < 0.95 => format!("1 per {:.1}", 1.0 / few),
        each => format!("{each:.1} each"),
    }
}

impl Table {
    /// Medians of each case, their span where several runs were made, and ratios to the first case. With a floor also the
    /// ratio to that.
    pub fn of(cases: &[Case<'_>], floor: Option<&FloorReport>) -> Table {
        let mut titles = vec!["relay".to_string(), "runs".into()];
        for figure in SHOWN {
            titles.push(figure.title.into());
            if figure.compared {
                titles.extend(["min-max".into(), "x".into()]);
            }
        }
        titles.extend(["durable".into(), "lost".into()]);
        titles.extend(floor.map(|_| "x floor".to_string()));
        Table { titles, rows: cases.iter().map(|case| row(case, cases, floor)).collect() }
    }

    /// In columns, names to the left and figures to the right.
    pub fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.titles[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.titles.len()).map(width).collect();
        let mut text = String::new();
        for cells in std::iter::once(&self.titles).chain(&self.rows) {
            let mut line = format!("{:<width$}", cells[0], width = widths[0]);
            for (cell, width) in cells.iter().zip(&widths).skip(1) {
                // Writing to a string cannot fail.
                let _ = write!(line, "  {cell:>width$}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn row(case: &Case<'_>, cases: &[Case<'_>], floor: Option<&FloorReport>) -> Vec<String> {
    let mut cells = vec![case.name.to_string(), case.runs.len().to_string()];
    for figure in SHOWN {
        let spread = Spread::over(case.runs.iter().filter_map(figure.of));
        let digits = figure.digits;
        cells.push(spread.map_or(String::new(), |spread| format!("{:.digits$}", spread.median)));
        if figure.compared {
            let span = spread.filter(|spread| spread.count > 1);
            cells.push(
                span.map_or(String::new(), |spread| format!("{:.digits$}-{:.digits$}", spread.least, spread.most)),
            );
            let first = cases.first().and_then(|first| Spread::over(first.runs.iter().filter_map(figure.of)));
            let ratio = spread.zip(first).map(|(spread, first)| spread.median / first.median);
            cells.push(ratio.filter(|ratio| ratio.is_finite()).map_or(String::new(), |ratio| format!("{ratio:.2}")));
        }
    }
    let own = |run: &Report| Some(run.disk?.own_flushes_per_message(run.load_s + run.drain_s));
    let flushes = Spread::over(case.runs.iter().filter_map(own));
    cells.push(flushes.map_or(String::new(), |spread| durability(spread.median)));
    cells.push(case.runs.iter().map(|run| run.ledger.lost).sum::<u64>().to_string());
    if let Some(floor) = floor {
        let cpu = Spread::over(case.runs.iter().filter_map(|run| Some(run.relay?.cpu_us_per_message)));
        let ratio = cpu.map(|cpu| FloorRatio::new(floor, cpu.median, flushes.map(|spread| spread.median)).ratio);
        cells.push(ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
    }
    cells
}

/// Every run on a line of its own, with all its figures (RFC 4180).
pub fn comma_separated(cases: &[Case<'_>]) -> String {
    let titles = ["relay", "run", "sessions", "size", "recipients", "pace"].into_iter();
    let mut text = titles.chain(KEPT.iter().map(|figure| figure.title)).collect::<Vec<_>>().join(",") + "\r\n";
    for case in cases {
        for (number, run) in case.runs.iter().enumerate() {
            let asked = &run.asked;
            let mut cells = vec![
                quoted(case.name),
                (number + 1).to_string(),
                asked.sessions.to_string(),
                quoted(&asked.sizes),
                asked.recipients.to_string(),
                quoted(&asked.pace()),
            ];
            for figure in KEPT {
                let digits = figure.digits;
                cells.push((figure.of)(run).map_or(String::new(), |value| format!("{value:.digits$}")));
            }
            text.push_str(&(cells.join(",") + "\r\n"));
        }
    }
    text
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: &[f64]) -> Option<Spread> {
        Spread::over(values.iter().copied())
    }

    #[test]
    fn medians_and_spans() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0, count: 3 }));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(spread(&[f64::NAN, 5.0]).unwrap().count, 1);
    }

    #[test]
    fn ratios_are_to_the_first() {
        let run = |delivered_per_s| Report { delivered_per_s: Some(delivered_per_s), ..Report::default() };
        let (slow, fast) = ([run(100.0), run(120.0), run(90.0)], [run(400.0)]);
        let cases = [Case { name: "slow", runs: &slow }, Case { name: "fast, really", runs: &fast }];
        let table = Table::of(&cases, None);
        assert_eq!(&table.rows[0][..5], ["slow", "3", "100", "90-120", "1.00"]);
        assert_eq!(&table.rows[1][..5], ["fast, really", "1", "400", "", "4.00"]);
        let text = table.text();
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().next().unwrap().starts_with("relay         runs  delivered/s"), "{text}");
        let values = comma_separated(&cases);
        assert_eq!(values.lines().count(), 5);
        assert!(values.lines().nth(4).unwrap().starts_with("\"fast, really\",1,"));
        let columns = |line: &str| line.matches(',').count();
        assert_eq!(columns(values.lines().next().unwrap()), columns(values.lines().nth(1).unwrap()));
    }

    #[test]
    fn durability_in_words() {
        assert_eq!([0.0, 0.1, 1.0, 3.8].map(durability), ["none seen", "1 per 10.0", "1.0 each", "3.8 each"]);
    }
}
