//! One self-contained page: plots, tables, and what was asked. No scripts, nothing is fetched.

use super::plot::{COLOURS, Line, Plot, Scale, escaped};
use super::{Figures, NamedRuns};
use crate::report::Report;
use crate::series::Moment;
use crate::table::Table;
use crate::threads::ThreadLoad;

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; color: #1d2529; background: #fff; margin: 0 auto; max-width: 1080px; padding: 28px 24px 60px; }
h1 { font-size: 24px; margin: 0 0 2px; } h2 { font-size: 18px; margin: 34px 0 4px; }
p { margin: 4px 0 12px; color: #55636b; }
ul.legend { list-style: none; padding: 0; margin: 14px 0; display: flex; flex-wrap: wrap; gap: 6px 22px; }
ul.legend i { display: inline-block; width: 22px; height: 4px; border-radius: 2px; margin-right: 8px; vertical-align: 3px; }
ul.legend small { color: #55636b; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, 'DejaVu Sans', sans-serif; fill: #55636b; } svg text.title { fill: #1d2529; font-size: 13px; }
svg .grid { stroke: #e6eaec; stroke-width: 1; } svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: 100%; }
th { text-align: right; font-weight: 600; color: #55636b; border-bottom: 2px solid #cfd6da; padding: 4px 7px; vertical-align: bottom; }
td { text-align: right; border-bottom: 1px solid #e6eaec; padding: 4px 7px; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; font-weight: 600; }
.trouble { color: #b02a37; }
";

type Track = fn(&Moment) -> f64;

/// The page.
pub fn page(figures: &Figures) -> String {
    let cases = figures.cases();
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n<title>loadgen report</title><style>{STYLE}</style></head><body>\n<h1>Load report</h1>\n"
    );
    if let Some(run) = figures.cases.iter().find_map(|case| case.runs.first()) {
        out += &format!("<p>{}</p>\n", escaped(&run.asked.line()));
    }
    out += &legend(figures);
    out += "<h2>Side by side</h2>\n<p>Medians over the runs; x is the ratio to the first relay. CPU is the relay's, per arrived recipient.</p>\n";
    let table = Table::of(&cases, figures.floor.as_ref());
    // A wide table is hard to read on a page: speed first, then what it costs.
    out +=
        &html_table(&table, &["relay", "runs", "delivered/s", "cpu us/msg", "system", "p50 ms", "p99 ms", "x floor"]);
    out += "<h2>Durability and cost</h2>\n<p>Flushes of the disk's cache per message tell what stands behind a 250. The disk's counters are the whole machine's.</p>\n";
    out += &html_table(
        &table,
        &[
            "relay",
            "durable",
            "flushes/msg",
            "KiB/msg",
            "RSS MiB",
            "PSS MiB",
            "processes",
            "out conns",
            "trips/msg",
            "lost",
        ],
    );
    out += &percentiles(figures);
    out += "<h2>Throughput over time</h2>\n<p>Whole lines: recipients delivered per second. Dashed: messages accepted per second.</p>\n";
    let rates: [(Track, bool); 2] = [(|m| m.delivered_per_s, false), (|m| m.accepted_per_s, true)];
    out += &over_time(figures, "per second", &rates);
    out += "<h2>CPU of the relay over time</h2>\n<p>In cores. Whole lines: user and system together. Dashed: system alone.</p>\n";
    let cpu: [(Track, bool); 2] =
        [(|m| m.relay_user_cores + m.relay_system_cores, false), (|m| m.relay_system_cores, true)];
    out += &over_time(figures, "cores", &cpu);
    for case in &figures.cases {
        out += &threads(case);
    }
    for case in &figures.cases {
        for trouble in case.runs.iter().flat_map(|run| &run.troubles) {
            out += &format!("<p class=\"trouble\">{}: {}</p>\n", escaped(&case.name), escaped(trouble));
        }
    }
    out + "</body></html>\n"
}

fn legend(figures: &Figures) -> String {
    let mut out = "<ul class=\"legend\">\n".to_string();
    for (index, case) in figures.cases.iter().enumerate() {
        // A version that begins with the relay's name would say it twice.
        let version = case.version.as_deref().map(|version| version.strip_prefix(&case.name).unwrap_or(version).trim());
        let version = version.map_or(String::new(), |version| format!(" <small>{}</small>", escaped(version)));
        let colour = COLOURS[index % COLOURS.len()];
        out += &format!("<li><i style=\"background:{colour}\"></i>{}{version}</li>\n", escaped(&case.name));
    }
    out + "</ul>\n"
}

/// The columns of these titles, each with the span and ratio that follow it.
fn html_table(table: &Table, wanted: &[&str]) -> String {
    let mut columns = Vec::new();
    let mut taken = false;
    for (index, title) in table.titles.iter().enumerate() {
        taken = wanted.contains(&title.as_str()) || (taken && ["min-max", "x"].contains(&title.as_str()));
        if taken {
            columns.push(index);
        }
    }
    let row = |cells: &[String], tag: &str| {
        let cells: String = columns.iter().map(|index| format!("<{tag}>{}</{tag}>", escaped(&cells[*index]))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let body: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
    format!("<div class=\"wide\"><table>\n{}{body}</table></div>\n", row(&table.titles, "th"))
}

fn percentiles(figures: &Figures) -> String {
    let plot = |name: &str, points: &dyn Fn(&Report) -> Vec<(f64, f64)>| {
        let plot = Plot {
            x_title: "part of the messages",
            y_title: "milliseconds",
            x_scale: Scale::Nines,
            y_scale: Scale::Log,
            lines: lines(figures, points, false),
        };
        format!("<h2>{name}</h2>\n{}", plot.svg())
    };
    let of = |points: &[crate::latency::Point]| {
        let whole = points.iter().filter(|point| point.count > 0 && point.quantile < 1.0);
        whole.map(|point| (point.quantile, point.us as f64 / 1000.0)).collect()
    };
    plot("Latency of acceptance: start of a message to its 250", &|run| of(&run.accept_distribution))
        + &plot("Latency end to end: start of a message to its arrival", &|run| {
            of(run.end_to_end_distribution.as_deref().unwrap_or_default())
        })
}

fn over_time(figures: &Figures, y_title: &'static str, tracks: &[(Track, bool)]) -> String {
    let mut all = Vec::new();
    for (track, dashed) in tracks {
        let points = |run: &Report| run.series.iter().map(|moment| (moment.at_s, track(moment))).collect();
        all.extend(lines(figures, &points, *dashed));
    }
    Plot { x_title: "seconds", y_title, x_scale: Scale::Linear, y_scale: Scale::Linear, lines: all }.svg()
}

/// The load of a relay's busiest threads in its first run that has any: one colour per thread.
fn threads(case: &NamedRuns) -> String {
    let Some(run) = case.runs.iter().find(|run| !run.threads.is_empty()) else { return String::new() };
    let mut busiest: Vec<&ThreadLoad> = run.threads.iter().collect();
    busiest.sort_by(|a, b| b.total().total_cmp(&a.total()));
    busiest.truncate(COLOURS.len());
    let all: f64 = run.threads.iter().map(ThreadLoad::total).sum();
    // Threads that only wait are no part of the picture.
    busiest.retain(|load| load.total() >= all / 200.0);
    let mut out = format!("<h2>Load of the threads of {}</h2>\n<ul class=\"legend\">\n", escaped(&case.name));
    let mut lines = Vec::new();
    for (colour, load) in busiest.iter().enumerate() {
        let share = load.total() / all.max(1e-9) * 100.0;
        let name = format!("{} ({})", load.name, load.thread);
        out += &format!(
            "<li><i style=\"background:{}\"></i>{} <small>{share:.0} %</small></li>\n",
            COLOURS[colour],
            escaped(&name)
        );
        lines.push(Line { colour, dashed: false, name, points: load.cores.clone() });
    }
    let plot = Plot { x_title: "seconds", y_title: "cores", x_scale: Scale::Linear, y_scale: Scale::Linear, lines };
    out + "</ul>\n" + &plot.svg()
}

/// A line for each run: one colour per relay.
fn lines(figures: &Figures, points: &dyn Fn(&Report) -> Vec<(f64, f64)>, dashed: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    for (colour, case) in figures.cases.iter().enumerate() {
        for (number, run) in case.runs.iter().enumerate() {
            let name = format!("{}, run {}", case.name, number + 1);
            lines.push(Line { colour, dashed, name, points: points(run) });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_fetches_nothing_and_escapes_names() {
        let mut figures = Figures::default();
        let mut run = Report { kind: crate::report::KIND.into(), ..Report::default() };
        run.troubles.push("1 < 2".into());
        run.series.push(Moment { at_s: 1.0, accepted_per_s: 5.0, ..Moment::default() });
        figures.add(&serde_json::to_vec(&run).unwrap(), "a<script>").unwrap();
        let page = page(&figures);
        assert!(page.contains("a&lt;script&gt;") && page.contains("1 &lt; 2"));
        for fetched in ["<script", "src=", "href=", "url(", "@import", "http"] {
            assert!(!page.contains(fetched), "{fetched}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }
}
