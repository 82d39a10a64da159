//! Line plots as SVG text. Pure: numbers in, markup out; what is not finite is left out.

use std::fmt::Write;

/// Size of a plot, in the units of its view box.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;

/// Colours that can be told apart, also by most who see few colours.
pub const COLOURS: [&str; 8] = ["#0b6e99", "#d1495b", "#3c8d40", "#b8860b", "#6a4c93", "#5f6b73", "#e0762f", "#1f9e9a"];

/// A scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Even steps from 0.
    Linear,
    /// Powers of ten.
    Log,
    /// Percentiles: 0, 90, 99, 99.9, each as far from the last as the one before.
    Nines,
}

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Line {
    /// Index of its colour.
    pub colour: usize,
    /// Dashed or whole.
    pub dashed: bool,
    /// Told when pointed at.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What is to the right.
    pub x_title: &'static str,
    /// What is upwards.
    pub y_title: &'static str,
    /// Scale to the right.
    pub x_scale: Scale,
    /// Scale upwards.
    pub y_scale: Scale,
    /// Lines.
    pub lines: Vec<Line>,
}

/// A scale with its ends: places values on 0 to 1.
struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Axis {
        let most = values.clone().fold(0.0, f64::max);
        match scale {
            Scale::Linear => Axis { scale, from: 0.0, to: ceiling(most) },
            Scale::Log => {
                let least = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
                let (from, to) = (least.min(most).log10().floor(), most.max(1e-9).log10().ceil());
                let from = if from.is_finite() { from } else { to - 1.0 };
                Axis { scale, from, to: to.max(from + 1.0) }
            }
            Scale::Nines => {
                let depth = values.filter(|value| *value < 1.0).map(nines).fold(1.0, f64::max);
                Axis { scale, from: 0.0, to: depth.ceil() }
            }
        }
    }

    fn place(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(1e-12).log10(),
            Scale::Nines => nines(value).min(self.to),
        };
        (value - self.from) / (self.to - self.from)
    }

    /// Where the ticks are, and what they say.
    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.to);
                let count = (self.to / step).round() as u32;
                (0..=count).map(|tick| f64::from(tick) * step).map(|value| (value, short(value))).collect()
            }
            Scale::Log => {
                (self.from as i32..=self.to as i32).map(|power| 10f64.powi(power)).map(|v| (v, short(v))).collect()
            }
            Scale::Nines => (0..=self.to as i32)
                .map(|nines| 1.0 - 10f64.powi(-nines))
                .map(|value| (value, percent(value)))
                .collect(),
        }
    }
}

/// How many nines: 0.9 is 1, 0.99 is 2.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-9).log10()
}

fn percent(quantile: f64) -> String {
    let text = format!("{:.6}", quantile * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The distance of ticks for an axis from 0 to `most`: 1, 2 or 5 times a power of ten, four to eight of them.
fn step(most: f64) -> f64 {
    let rough = most.max(1e-9) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| digit * power >= rough * 0.999).unwrap_or(10.0);
    digit * power
}

fn ceiling(most: f64) -> f64 {
    let step = step(most);
    ((most / step).ceil() * step).max(step)
}

/// A number as an axis shows it.
pub fn short(value: f64) -> String {
    match value {
        big if big >= 1e6 => trimmed(big / 1e6) + "M",
        thousands if thousands >= 1e4 => trimmed(thousands / 1e3) + "k",
        other => trimmed(other),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Text as markup may hold it.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Plot {
    /// The plot as an `svg` element.
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points).filter(|p| p.0.is_finite() && p.1.is_finite());
        let (x, y) = (
            Axis::over(self.x_scale, points().map(|point| point.0)),
            Axis::over(self.y_scale, points().map(|point| point.1)),
        );
        let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let up = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by {}\">\n",
            self.y_title, self.x_title
        );
        // Writing to a string cannot fail, here and below.
        for (value, label) in y.ticks() {
            let at = up(value);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 8.0,
                at + 4.0
            );
        }
        for (value, label) in x.ticks() {
            let at = across(value);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + 18.0
            );
        }
        let _ = writeln!(
            out,
            "<text class=\"title\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text class=\"title\" transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 6.0,
            self.x_title,
            (TOP + bottom) / 2.0,
            self.y_title
        );
        for line in &self.lines {
            let finite = line.points.iter().filter(|point| point.0.is_finite() && point.1.is_finite());
            let points: Vec<String> =
                finite.map(|point| format!("{:.1},{:.1}", across(point.0), up(point.1))).collect();
            let colour = COLOURS[line.colour % COLOURS.len()];
            let dashes = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let name = escaped(&line.name);
            let _ = match points.as_slice() {
                [] => Ok(()),
                [only] => {
                    let (cx, cy) = only.split_once(',').unwrap_or_default();
                    writeln!(
                        out,
                        "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"4\" fill=\"{colour}\"><title>{name}</title></circle>"
                    )
                }
                _ => writeln!(
                    out,
                    "<polyline class=\"line\" stroke=\"{colour}\"{dashes} points=\"{}\"><title>{name}</title></polyline>",
                    points.join(" ")
                ),
            };
        }
        out + "</svg>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>, x_scale: Scale, y_scale: Scale) -> String {
        let line = Line { colour: 0, dashed: false, name: "a <b>".into(), points };
        Plot { x_title: "x", y_title: "y", x_scale, y_scale, lines: vec![line] }.svg()
    }

    #[test]
    fn whatever_comes_in_stays_inside() {
        let odd = [0.0, 1.0, 0.5, 1e-12, 1e12, f64::NAN, f64::INFINITY];
        for x_scale in [Scale::Linear, Scale::Log, Scale::Nines] {
            for y_scale in [Scale::Linear, Scale::Log] {
                let points = odd.iter().flat_map(|x| odd.iter().map(|y| (*x, *y))).collect();
                let svg = plot(points, x_scale, y_scale);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                assert!(svg.contains("a &lt;b&gt;"));
                plot(Vec::new(), x_scale, y_scale);
            }
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        for most in [0.0, 0.3, 1.0, 7.0, 4321.0, 99_999.0] {
            let axis = Axis::over(Scale::Linear, [most].into_iter());
            let ticks = axis.ticks();
            assert!((2..=9).contains(&ticks.len()) && axis.to >= most, "{most}: {ticks:?}");
        }
        let nines = Axis::over(Scale::Nines, [0.5, 0.999].into_iter()).ticks();
        assert_eq!(nines.iter().map(|tick| tick.1.as_str()).collect::<Vec<_>>(), ["0%", "90%", "99%", "99.9%"]);
        assert_eq!([0.001, 0.5, 5.0, 2500.0, 40_000.0, 1.5e6].map(short), ["0.001", "0.5", "5", "2500", "40k", "1.5M"]);
    }
}
