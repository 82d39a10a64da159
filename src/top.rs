//! `ringpost top`: what a running relay does, on a screen that is drawn anew each second, or as one line of JSON.
//!
//! Asks `/v1/stats` and `/v1/sites` over HTTP like any other watcher. Drawing is pure ([`View::draw`]); the terminal is given back
//! however it ends. `q`, Escape or Ctrl-C ends it. A relay that does not answer is shown as such, and asked again.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Row, Table};
use ringpost::control::http::client;
use serde_json::Value;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// One look at the relay.
struct Look {
    at: Instant,
    stats: Value,
    sites: Value,
}

fn look(address: SocketAddr) -> Result<Look, String> {
    let stats = client::ask(address, "/v1/stats", None)?;
    let sites = client::ask(address, "/v1/sites", None)?;
    Ok(Look { at: Instant::now(), stats, sites })
}

/// The text of one look, as JSON.
pub(crate) fn json(address: SocketAddr) -> Result<String, String> {
    let Look { mut stats, mut sites, .. } = look(address)?;
    stats["sites"] = sites["sites"].take();
    Ok(stats.to_string())
}

/// Shows the relay until the user has seen enough.
pub(crate) fn show(address: SocketAddr) -> Result<(), String> {
    let mut view = View { address, now: Err("asking".to_owned()), before: None };
    view.look();
    let mut terminal =
        ratatui::try_init().map_err(|error| format!("no terminal to draw on: {error}; --json needs none"))?;
    let shown = view.run(&mut terminal);
    ratatui::restore();
    shown.map_err(|error| error.to_string())
}

/// What is shown.
struct View {
    address: SocketAddr,
    now: Result<Look, String>,
    before: Option<Look>,
}

impl View {
    fn run(&mut self, terminal: &mut ratatui::DefaultTerminal) -> io::Result<()> {
        loop {
            terminal.draw(|frame| self.draw(frame))?;
            let next = Instant::now() + PAUSE;
            while event::poll(next.saturating_duration_since(Instant::now()))? {
                if let Event::Key(key) = event::read()? {
                    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    if control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                        return Ok(());
                    }
                }
            }
            self.look();
        }
    }

    fn look(&mut self) {
        if let Ok(last) = std::mem::replace(&mut self.now, look(self.address)) {
            self.before = Some(last);
        }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let look = match &self.now {
            Ok(look) => look,
            Err(problem) => return frame.render_widget(Line::from(problem.as_str()).style(bold), frame.area()),
        };
        let shards = look.stats["shards"].as_array().map_or(0, Vec::len) as u16;
        let rows = [Constraint::Length(1), Constraint::Length(6), Constraint::Length(shards + 3), Constraint::Min(3)];
        let [head, all, each, below] = Layout::vertical(rows).areas(frame.area());
        let up_s = number(&look.stats, "up_ms") / 1000;
        let version = look.stats["version"].as_str().unwrap_or_default();
        let text = format!(" ringpost {version} at {}   up {up_s} s   q ends", self.address);
        frame.render_widget(Line::from(text).style(bold), head);
        self.draw_totals(frame, all, look);
        self.draw_shards(frame, each, look);
        draw_sites(frame, below, look);
    }

    /// By how much a counter grew in a second.
    fn rate(&self, look: &Look, counter: &str) -> f64 {
        let Some(before) = &self.before else { return 0.0 };
        let grown = number(&look.stats["total"], counter).saturating_sub(number(&before.stats["total"], counter));
        grown as f64 / (look.at - before.at).as_secs_f64().max(0.001)
    }

    fn draw_totals(&self, frame: &mut Frame<'_>, area: Rect, look: &Look) {
        let total = &look.stats["total"];
        let rates = ["accepted_messages", "delivered", "deferred", "failed"].map(|counter| self.rate(look, counter));
        let times = |of: &str, part: &str| number(&look.stats[of], part);
        let rows = [
            Row::new([
                format!("accepted {:.0}/s", rates[0]),
                format!("delivered {:.0}/s", rates[1]),
                format!("deferred {:.0}/s", rates[2]),
                format!("failed {:.0}/s", rates[3]),
            ]),
            Row::new([
                format!("queue {} messages", number(total, "messages_live")),
                format!("{} recipients", number(total, "recipients_open")),
                format!("in {} connections", number(total, "connections_in")),
                format!("out {}", number(total, "connections_out")),
            ]),
            Row::new([
                format!("commit p50 {} us", times("commit_us", "p50")),
                format!("p99 {} us", times("commit_us", "p99")),
                format!("delivery p50 {} ms", times("delivery_ms", "p50")),
                format!("p99 {} ms", times("delivery_ms", "p99")),
            ]),
        ];
        frame.render_widget(Table::new(rows, [Constraint::Fill(1); 4]).block(Block::bordered()), area);
    }

    fn draw_shards(&self, frame: &mut Frame<'_>, area: Rect, look: &Look) {
        let before = |at: usize| self.before.as_ref().map(|before| (&before.stats["shards"][at], look.at - before.at));
        let rows = look.stats["shards"].as_array().into_iter().flatten().enumerate().map(|(at, shard)| {
            let rate = |counter: &str| {
                before(at).map_or(0.0, |(old, time)| {
                    number(shard, counter).saturating_sub(number(old, counter)) as f64 / time.as_secs_f64().max(0.001)
                })
            };
            Row::new([
                number(shard, "shard").to_string(),
                format!("{:.0}", rate("accepted_messages")),
                format!("{:.0}", rate("delivered")),
                number(shard, "messages_live").to_string(),
                number(shard, "connections_in").to_string(),
                number(shard, "connections_out").to_string(),
            ])
        });
        let head =
            Row::new(["shard", "in/s", "out/s", "queue", "clients", "next hops"]).style(Style::new().fg(Color::Cyan));
        frame.render_widget(Table::new(rows, [Constraint::Fill(1); 6]).header(head).block(Block::bordered()), area);
    }
}

fn draw_sites(frame: &mut Frame<'_>, area: Rect, look: &Look) {
    let rows = look.sites["sites"].as_array().into_iter().flatten().map(|site| {
        let state = match number(site, "paused_ms") {
            _ if site["suspended"] == true => "held".to_owned(),
            0 => site["ceiling"].as_u64().map_or(String::new(), |ceiling| format!("slowed to {ceiling}")),
            ms => format!("pauses {} s", ms.div_ceil(1000)),
        };
        let [jobs, ready, connections] = ["jobs", "ready", "connections"].map(|of| number(site, of).to_string());
        Row::new([jobs, ready, connections, state, site["site"].as_str().unwrap_or_default().to_owned()])
    });
    let widths = [
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(12),
        Constraint::Length(16),
        Constraint::Fill(1),
    ];
    let head = Row::new(["jobs", "ready", "connections", "state", "site"]).style(Style::new().fg(Color::Cyan));
    frame.render_widget(Table::new(rows, widths).header(head).block(Block::bordered()), area);
}

fn number(of: &Value, member: &str) -> u64 {
    of[member].as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    fn look_at(accepted: u64, at: Instant) -> Look {
        let shard = json!({ "shard": 0, "accepted_messages": accepted, "delivered": 7, "messages_live": 3 });
        let stats =
            json!({ "version": "1", "up_ms": 5000, "total": { "accepted_messages": accepted }, "shards": [shard] });
        let sites = json!({ "sites": [{ "site": "mx example.org", "jobs": 9, "paused_ms": 1500 }] });
        Look { at, stats, sites }
    }

    fn drawn(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(100, 24)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn rates_and_sites_are_shown() {
        let start = Instant::now();
        let mut view = View {
            address: "127.0.0.1:8025".parse().unwrap(),
            now: Ok(look_at(300, start + Duration::from_secs(2))),
            before: Some(look_at(100, start)),
        };
        let text = drawn(&view);
        for part in ["accepted 100/s", "mx example.org", "pauses 2 s", "up 5 s"] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        view.now = Err("the relay does not answer".to_owned());
        assert!(drawn(&view).contains("does not answer"));
    }
}
