//! `dlc check`: parse, resolve and infer shapes; all errors at once.

use serde_json::json;

use super::args::Global;
use super::load::{Spec, display_name, files, text};
use super::out;
use super::report::{Failure, Reporter};
use crate::base::diag::Severity;
use crate::front::{self, LoadOptions};
use crate::model::Diagnostics;

#[derive(clap::Args)]
pub struct Args {
    /// `.dl` files; `-` is standard input
    #[arg(required = true)]
    models: Vec<Spec>,
}

pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let reporter = Reporter::new(global);
    let (mut rows, mut status) = (vec![], 0);
    for spec in &args.models {
        let (errors, warnings) = match check(spec, &reporter) {
            Ok(counts) => counts,
            Err(failure) => {
                status = status.max(failure.status);
                reporter.failure(failure);
                (1, 0)
            }
        };
        if errors > 0 {
            status = status.max(1);
        } else if !global.json && !global.quiet {
            eprintln!("{}: no errors", display_name(&spec.path));
        }
        rows.push(json!({ "file": spec.path, "errors": errors, "warnings": warnings }));
    }
    if global.json {
        out::json(&json!({ "files": rows }))?;
    }
    match status {
        0 => Ok(()),
        status => Err(Failure { diagnostics: Diagnostics::default(), status }),
    }
}

/// Counts of errors and warnings; what was found is shown.
fn check(spec: &Spec, reporter: &Reporter) -> Result<(usize, usize), Failure> {
    if spec.path.ends_with(".dlm") || spec.path.ends_with(".onnx") {
        let args = <super::compile::Plain as clap::Parser>::parse_from(["dlc"]).compile;
        super::load::load(spec, &args, super::load::Missing::Ignore)?;
        return Ok((0, 0));
    }
    let source = text(&spec.path)?;
    let options = LoadOptions { resolver: files().text, ..LoadOptions::default() };
    let loaded = front::load(&display_name(&spec.path), &source, &options);
    let mut list = loaded.diagnostics;
    list.extend(loaded.module.check());
    let errors = list.iter().filter(|d| d.severity == Severity::Error).count();
    let warnings = list.len() - errors;
    let sources = loaded.module.into_sources();
    match errors {
        0 => reporter.warnings(&sources, &list),
        _ => reporter.failure(Failure { diagnostics: Diagnostics { sources, list }, status: 1 }),
    }
    Ok((errors, warnings))
}
