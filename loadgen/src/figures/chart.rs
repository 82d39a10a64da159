//! One picture of relays side by side: what each delivers, and what a message costs it. SVG text, for pages in light and
//! dark. Pure: figures in, markup out.

use std::fmt::Write;

use super::Figures;
use super::plot::{escaped, short};
use crate::report::Report;
use crate::table::Spread;

const WIDTH: f64 = 860.0;
/// Room left of the names.
const MARGIN: f64 = 8.0;
const NAMES: f64 = 150.0;
const PANEL: f64 = 328.0;
const GAP: f64 = 36.0;
/// Room right of the longest bar for its number.
const NUMBER: f64 = 64.0;
const TOP: f64 = 58.0;
const ROW: f64 = 42.0;
const BAR: f64 = 20.0;
const BOTTOM: f64 = 46.0;

const STYLE: &str = "text{font:13px system-ui,'Segoe UI','DejaVu Sans',sans-serif;fill:#1d2529}\
    .soft{font-size:11px;fill:#55636b}.title{font-weight:600}.bar{fill:#7d8b93}.best{fill:#0b6e99}.span{stroke:#1d2529;stroke-width:1.5}\
    .rule{stroke:#cfd6da}@media (prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9aa7b0}.bar{fill:#75828b}.best{fill:#3aa0d0}\
    .span{stroke:#e6edf3}.rule{stroke:#3a444b}}";

/// A figure of the picture.
struct Panel {
    title: &'static str,
    more_is_better: bool,
    of: fn(&Report) -> Option<f64>,
}

const PANELS: [Panel; 2] = [
    Panel { title: "Delivered, messages a second", more_is_better: true, of: |run| run.delivered_per_s },
    Panel {
        title: "CPU of the relay, microseconds a message",
        more_is_better: false,
        of: |run| Some(run.relay?.cpu_us_per_message),
    },
];

/// The picture: medians as bars, least and most as lines on them. The best of each side has a colour of its own.
pub fn chart(figures: &Figures) -> String {
    let rows = figures.cases.len();
    let height = TOP + ROW * rows as f64 + BOTTOM;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Relays side by side\"><style>{STYLE}</style>\n"
    );
    for (row, case) in figures.cases.iter().enumerate() {
        let middle = TOP + ROW * row as f64 + BAR / 2.0;
        let version = case.version.as_deref().map(|version| version.strip_prefix(&case.name).unwrap_or(version).trim());
        let lift = if version.is_some() { -2.0 } else { 4.5 };
        // Writing to a string cannot fail.
        let _ =
            writeln!(out, "<text x=\"{MARGIN}\" y=\"{:.1}\">{}</text>", middle + lift, escaped(&cut(&case.name, 20)));
        if let Some(version) = version {
            let _ = writeln!(
                out,
                "<text class=\"soft\" x=\"{MARGIN}\" y=\"{:.1}\">{}</text>",
                middle + 12.0,
                escaped(&cut(version, 22))
            );
        }
    }
    for (index, panel) in PANELS.iter().enumerate() {
        let left = NAMES + index as f64 * (PANEL + GAP);
        out += &panel.svg(figures, left, height - BOTTOM);
    }
    if let Some(run) = figures.cases.iter().find_map(|case| case.runs.first()) {
        let runs = figures.cases.iter().map(|case| case.runs.len()).max().unwrap_or(0);
        let words = format!("{}; medians of {runs} runs each, lines from the least to the most", run.asked.line());
        let _ =
            writeln!(out, "<text class=\"soft\" x=\"{MARGIN}\" y=\"{:.1}\">{}</text>", height - 12.0, escaped(&words));
    }
    out + "</svg>\n"
}

impl Panel {
    fn svg(&self, figures: &Figures, left: f64, bottom: f64) -> String {
        let spreads: Vec<Option<Spread>> =
            figures.cases.iter().map(|case| Spread::over(case.runs.iter().filter_map(self.of))).collect();
        let medians = || spreads.iter().flatten().map(|spread| spread.median);
        let most = spreads.iter().flatten().map(|spread| spread.most).fold(0.0, f64::max);
        let best = if self.more_is_better { medians().reduce(f64::max) } else { medians().reduce(f64::min) };
        let place = |value: f64| left + value / if most > 0.0 { most } else { 1.0 } * (PANEL - NUMBER);
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<text class=\"title\" x=\"{left:.1}\" y=\"22\">{}</text>", self.title);
        let hint = if self.more_is_better { "more is better" } else { "less is better" };
        let _ = writeln!(out, "<text class=\"soft\" x=\"{left:.1}\" y=\"39\">{hint}</text>");
        let _ = writeln!(out, "<path class=\"rule\" d=\"M{left:.1} {:.1}V{bottom:.1}\"/>", TOP - 8.0);
        for (row, spread) in spreads.iter().enumerate() {
            let top = TOP + ROW * row as f64;
            let Some(spread) = spread else {
                let _ =
                    writeln!(out, "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\">none</text>", left + 6.0, top + 14.0);
                continue;
            };
            let end = place(spread.median);
            let class = if Some(spread.median) == best { "bar best" } else { "bar" };
            let width = (end - left).max(1.0);
            let _ = writeln!(
                out,
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>"
            );
            let (from, to) = (place(spread.least), place(spread.most));
            if to - from >= 2.0 {
                let middle = top + BAR / 2.0;
                let _ = writeln!(out, "<path class=\"span\" d=\"M{from:.1} {middle:.1}H{to:.1}\"/>");
            }
            let number = if spread.median < 10_000.0 { grouped(spread.median) } else { short(spread.median) };
            let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\">{number}</text>", to.max(end) + 7.0, top + 14.5);
        }
        out
    }
}

/// Whole numbers with a comma before the last three digits; small ones with one digit behind the point.
fn grouped(value: f64) -> String {
    match value {
        small if small < 100.0 => format!("{small:.1}"),
        large if large < 999.5 => format!("{large:.0}"),
        large => {
            let whole = large.round() as u64;
            format!("{},{:03}", whole / 1000, whole % 1000)
        }
    }
}

/// The first letters of a text, and dots if that is not all.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.into() } else { text.chars().take(most - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::NamedRuns;

    #[test]
    fn relays_stand_side_by_side() {
        let run = |rate| Report { delivered_per_s: Some(rate), ..Report::default() };
        let case = |name: &str, rates: &[f64]| NamedRuns {
            name: name.into(),
            version: None,
            runs: rates.iter().map(|rate| run(*rate)).collect(),
        };
        let cases = vec![case("slow <one>", &[900.0, 1000.0, 1100.0]), case("fast", &[20_000.0]), case("absent", &[])];
        let svg = chart(&Figures { cases, floor: None });
        assert!(svg.contains("slow &lt;one&gt;") && svg.contains(">1,000<") && svg.contains(">20k<"), "{svg}");
        assert_eq!((svg.matches("class=\"bar best\"").count(), svg.matches(">none<").count()), (1, 4));
        assert!(svg.contains("@media (prefers-color-scheme:dark)") && !svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!([0.4, 99.94, 100.0, 1234.5, 9999.0].map(grouped), ["0.4", "99.9", "100", "1,235", "9,999"]);
        chart(&Figures::default());
    }
}
