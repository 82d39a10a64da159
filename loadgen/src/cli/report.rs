//! `loadgen report`: its arguments.

use std::path::PathBuf;

use clap::Args;

use loadgen::compare::file_name;
use loadgen::figures::chart::chart;
use loadgen::figures::{Figures, page, percentile_file};
use loadgen::table::{self, Table};

use super::Failure;

#[derive(Args)]
pub(super) struct ReportArguments {
    /// Raw results, as `run`, `compare` and `floor` wrote them with --json
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write all figures of all runs as comma-separated values
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Write one page with plots and tables
    #[arg(long)]
    html: Option<PathBuf>,
    /// Draw messages a second and CPU a message side by side, as SVG
    #[arg(long)]
    chart: Option<PathBuf>,
    /// Write the latencies of each run as .hgrm files into this directory
    #[arg(long)]
    hgrm: Option<PathBuf>,
}

pub(super) fn perform(arguments: &ReportArguments) -> Result<bool, Failure> {
    let figures = Figures::load(&arguments.files)?;
    let cases = figures.cases();
    if let Some(floor) = &figures.floor {
        println!("{floor}");
    }
    if !cases.is_empty() {
        print!("{}", Table::of(&cases, figures.floor.as_ref()).text());
    }
    if let Some(path) = &arguments.csv {
        std::fs::write(path, table::comma_separated(&cases))?;
    }
    if let Some(path) = &arguments.html {
        std::fs::write(path, page::page(&figures))?;
    }
    if let Some(path) = &arguments.chart {
        std::fs::write(path, chart(&figures))?;
    }
    if let Some(dir) = &arguments.hgrm {
        std::fs::create_dir_all(dir)?;
        for case in &cases {
            for (number, run) in case.runs.iter().enumerate() {
                let stem = format!("{}-{}", file_name(case.name), number + 1);
                let accept = percentile_file(&run.accept_distribution, run.accept.mean_us);
                std::fs::write(dir.join(format!("{stem}-accept.hgrm")), accept)?;
                if let (Some(points), Some(summary)) = (&run.end_to_end_distribution, &run.end_to_end) {
                    let text = percentile_file(points, summary.mean_us);
                    std::fs::write(dir.join(format!("{stem}-end-to-end.hgrm")), text)?;
                }
            }
        }
    }
    Ok(true)
}
