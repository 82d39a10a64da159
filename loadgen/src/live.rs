//! The live view of a run: a screen of its own with throughput, latency, CPU and the ledger, redrawn a few times a second.
//!
//! Lives on the thread that runs the scenario. Drawing is pure ([`View::draw`]); [`Screen`] owns the terminal and gives it
//! back when it is dropped, also by a panic. `q`, Escape or Ctrl-C asks the run to end in order. A terminal that cannot be
//! drawn to any more is given up, the run goes on.

use std::collections::VecDeque;
use std::io::{self, Stderr};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{cursor, execute};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};
use ratatui::{Frame, Terminal};

use crate::clock::seconds;
use crate::progress::Progress;
use crate::system;
use crate::units::human_ns;

/// Moments that the plot shows at most: ten minutes, and each moment a fifth of a second.
const HISTORY_MAX: usize = 3000;

/// What is shown.
#[derive(Debug, Default)]
pub struct View {
    title: String,
    now: Progress,
    accepted: VecDeque<(f64, f64)>,
    delivered: VecDeque<(f64, f64)>,
}

impl View {
    /// Nothing yet.
    pub fn new(title: &str) -> View {
        View { title: title.into(), ..View::default() }
    }

    /// Takes a moment in.
    pub fn add(&mut self, now: &Progress) {
        if now.elapsed_ns < self.now.elapsed_ns {
            // Another run begins.
            self.accepted.clear();
            self.delivered.clear();
        }
        self.now = *now;
        for (history, rate) in [(&mut self.accepted, now.rate_in), (&mut self.delivered, now.rate_out)] {
            if history.len() == HISTORY_MAX {
                history.pop_front();
            }
            history.push_back((seconds(now.elapsed_ns), rate));
        }
    }

    /// Draws the whole screen.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [Constraint::Length(1), Constraint::Length(1), Constraint::Min(6), Constraint::Length(8)];
        let [head, share, plot, below] = Layout::vertical(rows).areas(frame.area());
        let now = &self.now;
        let kills = if now.kills > 0 { format!("   kills {}", now.kills) } else { String::new() };
        let text = format!(" {}   {} {:.1} s{kills}   q ends", self.title, now.phase, seconds(now.elapsed_ns));
        frame.render_widget(Line::from(text).style(Style::new().add_modifier(Modifier::BOLD)), head);
        let part = now.share.unwrap_or(0.0).clamp(0.0, 1.0);
        let gauge = Gauge::default().ratio(part).use_unicode(true).gauge_style(Style::new().fg(Color::Cyan));
        frame.render_widget(gauge.label(format!("{:.0} %", part * 100.0)), share);
        self.draw_rates(frame, plot);
        let columns = [Constraint::Percentage(30), Constraint::Percentage(34), Constraint::Percentage(36)];
        let [latency, cpu, ledger] = Layout::horizontal(columns).areas(below);
        frame.render_widget(table("accept latency", &self.latency_rows()), latency);
        frame.render_widget(table("load", &self.load_rows()), cpu);
        frame.render_widget(table("ledger, recipients", &self.ledger_rows()), ledger);
    }

    fn draw_rates(&self, frame: &mut Frame<'_>, area: Rect) {
        let parts = |history: &VecDeque<(f64, f64)>| history.iter().copied().collect::<Vec<_>>();
        let (accepted, delivered) = (parts(&self.accepted), parts(&self.delivered));
        let most = accepted.iter().chain(&delivered).map(|point| point.1).fold(1.0, f64::max) * 1.1;
        let from = accepted.first().map_or(0.0, |point| point.0);
        let to = accepted.last().map_or(1.0, |point| point.0).max(from + 1.0);
        let line = |name, colour, points| {
            let style = Style::new().fg(colour);
            Dataset::default().name(name).marker(Marker::Braille).graph_type(GraphType::Line).style(style).data(points)
        };
        let title = format!(" in {:.0}/s   out {:.0}/s ", self.now.rate_in, self.now.rate_out);
        let sets = vec![line("accepted", Color::Cyan, &accepted), line("delivered", Color::Yellow, &delivered)];
        let chart = Chart::new(sets)
            .block(Block::bordered().title(title))
            .x_axis(Axis::default().bounds([from, to]).labels([format!("{from:.0} s"), format!("{to:.0} s")]))
            .y_axis(Axis::default().bounds([0.0, most]).labels(["0".to_string(), format!("{most:.0}")]));
        frame.render_widget(chart, area);
    }

    fn latency_rows(&self) -> Vec<(&'static str, String)> {
        let Some(accept) = self.now.accept else { return Vec::new() };
        let show = |us: u64| human_ns(us * 1000);
        vec![
            ("p50", show(accept.p50_us)),
            ("p90", show(accept.p90_us)),
            ("p99", show(accept.p99_us)),
            ("p99.9", show(accept.p999_us)),
            ("max", show(accept.max_us)),
        ]
    }

    fn load_rows(&self) -> Vec<(&'static str, String)> {
        let now = &self.now;
        vec![
            ("relay", now.relay_cores.map_or("-".into(), |cores| format!("{cores:.2} cores"))),
            ("sender and sink", format!("{:.2} cores", now.ends_cores)),
            ("in flight", now.in_flight.to_string()),
            ("messages begun", now.started.to_string()),
            ("acknowledged", now.acknowledged.to_string()),
        ]
    }

    fn ledger_rows(&self) -> Vec<(&'static str, String)> {
        let Some(tally) = self.now.tally else { return Vec::new() };
        vec![
            ("acknowledged", tally.acknowledged.to_string()),
            ("arrived", tally.arrived.to_string()),
            ("on their way", tally.lost.to_string()),
            ("refused, deferred", format!("{}, {}", tally.refused, tally.deferred)),
            ("duplicated", tally.duplicated.to_string()),
            ("corrupted", tally.corrupted.to_string()),
        ]
    }
}

fn table(title: &'static str, rows: &[(&'static str, String)]) -> Paragraph<'static> {
    let line = |(name, value): &(&'static str, String)| {
        Line::from(vec![Span::raw(format!(" {name:<17} ")), Span::styled(value.clone(), Style::new().fg(Color::Cyan))])
    };
    Paragraph::new(rows.iter().map(line).collect::<Vec<_>>()).block(Block::bordered().title(format!(" {title} ")))
}

/// The terminal, while it is ours.
pub struct Screen {
    view: View,
    terminal: Option<Terminal<CrosstermBackend<Stderr>>>,
}

impl Screen {
    /// Takes the terminal. An error if there is none.
    pub fn open(title: &str) -> io::Result<Screen> {
        enable_raw_mode()?;
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
        execute!(io::stderr(), EnterAlternateScreen, cursor::Hide)?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stderr()))?;
        Ok(Screen { view: View::new(title), terminal: Some(terminal) })
    }

    /// Shows a moment, and looks whether the run is to end.
    pub fn show(&mut self, now: &Progress) {
        self.view.add(now);
        let Some(terminal) = &mut self.terminal else { return };
        if terminal.draw(|frame| self.view.draw(frame)).is_err() {
            self.terminal = None;
            return;
        }
        while event::poll(Duration::ZERO).unwrap_or(false) {
            let Ok(Event::Key(key)) = event::read() else { continue };
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                system::interrupt();
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// What cannot be given back is the terminal's own trouble.
fn give_back() {
    let _ = execute!(io::stderr(), LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::LatencySummary;
    use crate::ledger::Tally;
    use ratatui::backend::TestBackend;

    fn shown(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(row).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn everything_has_its_place() {
        let mut view = View::new("ours");
        for step in 1..50u64 {
            view.add(&Progress {
                phase: "sending",
                elapsed_ns: step * 200_000_000,
                rate_in: 1000.0 + step as f64,
                rate_out: 900.0,
                share: Some(0.25),
                kills: 2,
                relay_cores: Some(0.87),
                accept: Some(LatencySummary { p50_us: 1500, p99_us: 20_000, ..LatencySummary::default() }),
                tally: Some(Tally { acknowledged: 4711, lost: 12, ..Tally::default() }),
                ..Progress::default()
            });
        }
        let text = shown(&view, 100, 30);
        for part in [
            "ours   sending 9.8 s   kills 2",
            "25 %",
            "in 1049/s   out 900/s",
            "p50               1.50 ms",
            "relay             0.87 cores",
            "acknowledged      4711",
            "on their way      12",
        ] {
            assert!(text.contains(part), "{part} is not on\n{text}");
        }
        // A run before this one is forgotten, and a small screen is no fault.
        view.add(&Progress { elapsed_ns: 1, ..Progress::default() });
        assert_eq!(view.accepted.len(), 1);
        shown(&view, 20, 5);
        shown(&View::default(), 1, 1);
    }
}
