//! The report of several runs: raw files in, a table, comma-separated values, percentile files and one page out.
//!
//! Pure but for reading the files. A file is told by its `kind`; one that is neither of a run, a comparison nor a floor is
//! an error that names it.

pub mod chart;
pub mod page;
pub mod plot;

use std::io;
use std::path::Path;

use crate::compare::{self, Comparison};
use crate::floor::{self, FloorReport};
use crate::latency::Point;
use crate::report::{self, Report};
use crate::table::Case;

/// Everything that was read.
#[derive(Default)]
pub struct Figures {
    /// Relays and their runs, in the order of the files.
    pub cases: Vec<NamedRuns>,
    /// The last floor that was read.
    pub floor: Option<FloorReport>,
}

/// A relay's runs.
pub struct NamedRuns {
    /// What it is called.
    pub name: String,
    /// Its version, if known.
    pub version: Option<String>,
    /// Its runs.
    pub runs: Vec<Report>,
}

impl Figures {
    /// Reads raw files of `run`, `compare` and `floor`.
    pub fn load(paths: &[impl AsRef<Path>]) -> io::Result<Figures> {
        let mut figures = Figures::default();
        for path in paths {
            let path = path.as_ref();
            let named = |error: &dyn std::fmt::Display| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
            };
            let bytes = std::fs::read(path).map_err(|error| io::Error::new(error.kind(), named(&error).to_string()))?;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            figures.add(&bytes, &stem).map_err(|error| named(&error))?;
        }
        Ok(figures)
    }

    /// Adds one file's contents; `stem` names a run.
    pub fn add(&mut self, bytes: &[u8], stem: &str) -> Result<(), String> {
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let kind = value["kind"].as_str().unwrap_or_default().to_string();
        let wrong = |error: serde_json::Error| error.to_string();
        match kind.as_str() {
            report::KIND => {
                let run: Report = serde_json::from_value(value).map_err(wrong)?;
                self.cases.push(NamedRuns { name: stem.to_string(), version: None, runs: vec![run] });
            }
            compare::KIND => {
                self.add_comparison(serde_json::from_value(value).map_err(wrong)?);
            }
            floor::KIND => self.floor = Some(serde_json::from_value(value).map_err(wrong)?),
            _ => return Err("is no raw result of run, compare or floor".into()),
        }
        Ok(())
    }

    /// Those of one comparison.
    pub fn of(comparison: Comparison) -> Figures {
        let mut figures = Figures::default();
        figures.add_comparison(comparison);
        figures
    }

    fn add_comparison(&mut self, comparison: Comparison) {
        self.floor = comparison.floor.or(self.floor.take());
        let entries = comparison.entries.into_iter();
        self.cases.extend(entries.map(|e| NamedRuns { name: e.name, version: e.version, runs: e.runs }));
    }

    /// For a table.
    pub fn cases(&self) -> Vec<Case<'_>> {
        self.cases.iter().map(|case| Case { name: &case.name, runs: &case.runs }).collect()
    }
}

/// A distribution in the text form that HdrHistogram's plotters read, in milliseconds.
pub fn percentile_file(points: &[Point], mean_us: f64) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for point in points {
        let ms = point.us as f64 / 1000.0;
        text += &format!("{ms:12.3} {:2.12} {:10}", point.quantile, point.count);
        if point.quantile < 1.0 {
            text += &format!(" {:14.2}", 1.0 / (1.0 - point.quantile));
        }
        text.push('\n');
    }
    let last = points.last().copied().unwrap_or_default();
    text + &format!(
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]\n#[Buckets = {:12}, SubBuckets     = {:12}]\n",
        mean_us / 1000.0,
        0.0,
        last.us as f64 / 1000.0,
        last.count,
        22,
        2048
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;

    #[test]
    fn files_are_told_by_their_kind() {
        let mut figures = Figures::default();
        let run = serde_json::to_vec(&Report { kind: report::KIND.into(), ..Report::default() }).unwrap();
        figures.add(&run, "first").unwrap();
        assert_eq!((figures.cases().len(), figures.cases[0].name.as_str()), (1, "first"));
        assert!(figures.add(b"{\"kind\":\"other\"}", "x").unwrap_err().contains("no raw result"));
        assert!(figures.add(b"{\"kind\":\"run\"}", "x").is_err() && figures.add(b"nonsense", "x").is_err());
        let error = Figures::load(&["/no/such/file.json"]).err().unwrap();
        assert!(error.to_string().contains("/no/such/file.json"));
    }

    #[test]
    fn percentiles_are_written_for_plotters() {
        let mut latency = Latency::default();
        (1..=1000).for_each(|ms| latency.record_ns(ms * 1_000_000));
        let text = percentile_file(&latency.distribution(), 500_500.0);
        let rows: Vec<&str> = text.lines().skip(2).filter(|line| !line.starts_with('#')).collect();
        let values = |line: &str| line.split_whitespace().map(|w| w.parse::<f64>().unwrap()).collect::<Vec<_>>();
        assert!(rows.len() > 10 && rows.windows(2).all(|two| values(two[0])[0] <= values(two[1])[0]));
        assert_eq!(values(rows.last().unwrap())[1..], [1.0, 1000.0]);
        assert!(text.contains("#[Max     =") && text.contains("Total count    =         1000]"));
    }
}
