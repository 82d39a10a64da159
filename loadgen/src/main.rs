//! The `loadgen` command: arguments to plans, plans to reports.
//!
//! Exit codes: 0 all good, 1 something was lost, corrupted or failed, 2 wrong usage.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::perform(cli::Arguments::read()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(cli::Failure::Usage(text)) => {
            eprintln!("loadgen: {text}");
            ExitCode::from(2)
        }
        Err(cli::Failure::Io(error)) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}
