//! The command line: arguments in, results on standard output, diagnostics on standard error.
//!
//! One file for each subcommand. Exit status: 0 done, 1 the model or the data is at fault, 2 wrong
//! usage or a file that cannot be read or written, 101 a bug in dlc. What automation relies on is
//! written down in `docs/cli.md`.

mod args;
mod bench;
mod check;
mod compile;
mod doctor;
mod emit;
mod explain;
mod fmt;
mod inspect;
#[cfg(feature = "gpu")]
mod kept;
mod later;
mod load;
mod ops;
mod out;
mod profile;
mod report;
mod run;
mod schema;
#[cfg(any(feature = "cpu", feature = "gpu"))]
mod seal;
mod shaders;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use args::Global;
use report::{BUG, Failure, Reporter};

/// A deep-learning graph compiler: models in, fused machine code out.
#[derive(Parser)]
#[command(name = "dlc", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Parse, resolve and infer shapes; all errors at once
    Check(check::Args),
    /// Canonical layout of `.dl` files
    Fmt(fmt::Args),
    /// Compile a model to a file
    Compile(compile::Args),
    /// Print one of the compiler's texts: ir, kernels, clif, asm
    Emit(emit::Args),
    /// Run a model once
    Run(run::Args),
    /// Time a model
    Bench(bench::Args),
    /// Look at a model on its way through the compiler
    Inspect(inspect::Args),
    /// The op table
    Ops(ops::Args),
    /// Explain an error code
    Explain(explain::Args),
    /// This machine: features, peaks, a self-test on each target
    Doctor(doctor::Args),
    /// Shell completions
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// The manual page
    Man,
    /// The JSON schema of a subcommand's result
    Schema(schema::Args),
    #[command(flatten)]
    Later(later::Command),
}

/// Runs a command line and gives the exit status.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are results, everything else is wrong usage.
            let status = if e.use_stderr() { 2 } else { 0 };
            let _ = e.print();
            return ExitCode::from(status);
        }
    };
    let global = cli.global.clone();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| dispatch(cli)));
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            let status = failure.status;
            Reporter::new(&global).failure(failure);
            if status == BUG { bug() } else { ExitCode::from(status) }
        }
        Err(_) => bug(),
    }
}

fn bug() -> ExitCode {
    eprintln!("dlc: this is a bug in dlc; please report it with the call and the model");
    ExitCode::from(BUG)
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Check(args) => check::run(&args, global),
        Command::Fmt(args) => fmt::run(&args, global),
        Command::Compile(args) => compile::run(&args, global),
        Command::Emit(args) => emit::run(&args, global),
        Command::Run(args) => run::run(&args, global),
        Command::Bench(args) => bench::run(&args, global),
        Command::Inspect(args) => inspect::run(&args, global),
        Command::Ops(args) => ops::run(&args, global),
        Command::Explain(args) => explain::run(&args, global),
        Command::Doctor(args) => doctor::run(&args, global),
        Command::Completions { shell } => {
            let mut text = vec![];
            clap_complete::generate(shell, &mut Cli::command(), "dlc", &mut text);
            out::bytes(&text)
        }
        Command::Man => {
            let mut text = vec![];
            let man = clap_mangen::Man::new(Cli::command());
            man.render(&mut text).map_err(|e| Failure::usage(format!("the manual page: {e}")))?;
            out::bytes(&text)
        }
        Command::Schema(args) => schema::run(&args),
        Command::Later(command) => Err(later::refusal(&command)),
    }
}
