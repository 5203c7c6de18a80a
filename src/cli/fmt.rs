//! `dlc fmt`: the canonical layout of `.dl` files.

use super::args::Global;
use super::load::{display_name, text};
use super::out;
use super::report::{Failure, Reporter, reason};
use crate::front;
use crate::model::Diagnostics;

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail where a file is not in its canonical layout
    #[arg(long)]
    check: bool,
    /// `.dl` files; `-` is standard input, formatted to standard output
    #[arg(required = true)]
    files: Vec<String>,
}

pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let reporter = Reporter::new(global);
    let (mut status, mut changed) = (0u8, vec![]);
    for path in &args.files {
        match one(path, args.check) {
            Ok(true) => changed.push(path.clone()),
            Ok(false) => {}
            Err(failure) => {
                status = status.max(failure.status);
                reporter.failure(failure);
            }
        }
    }
    if global.json {
        out::json(&serde_json::json!({ "changed": changed }))?;
    } else if !global.quiet {
        for path in &changed {
            let verb = if args.check { "would be reformatted" } else { "reformatted" };
            eprintln!("{}: {verb}", display_name(path));
        }
    }
    if args.check && !changed.is_empty() {
        status = status.max(1);
    }
    match status {
        0 => Ok(()),
        status => Err(Failure { diagnostics: Diagnostics::default(), status }),
    }
}

/// Whether the file was not in its canonical layout.
fn one(path: &str, check: bool) -> Result<bool, Failure> {
    let before = text(path)?;
    let formatted = front::fmt::format(&display_name(path), &before)
        .map_err(|(sources, list)| Diagnostics { sources, list })?;
    if path == "-" && !check {
        out::text(&formatted)?;
        return Ok(false);
    }
    if formatted == before {
        return Ok(false);
    }
    if !check {
        crate::base::atomic_file::write(path.as_ref(), formatted.as_bytes())
            .map_err(|e| Failure::usage(format!("cannot write `{path}`: {}", reason(&e))))?;
    }
    Ok(true)
}
