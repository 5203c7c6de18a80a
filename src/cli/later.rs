//! Subcommands that later versions bring: they are known, and say so.

use super::args::later;
use super::report::Failure;

#[derive(clap::Subcommand)]
pub enum Command {
    /// A folder with a model, data and a README (later)
    New(Rest),
    /// Rows in, named predictions out (later)
    Predict(Rest),
    /// A target against the reference on seeded inputs (later)
    Verify(Rest),
    /// ONNX to `.dl` text and weights (later)
    Import(Rest),
    /// Train as the file's `train` block says (later)
    Train(Rest),
    /// Metrics on a data set (later)
    Eval(Rest),
    /// To int8, with the loss of accuracy measured (later)
    Quantize(Rest),
    /// Serve a compiled model (later)
    Serve(Rest),
    /// Language server (later)
    Lsp(Rest),
}

#[derive(clap::Args)]
pub struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

pub fn refusal(command: &Command) -> Failure {
    let name = match command {
        Command::New(_) => "new",
        Command::Predict(_) => "predict",
        Command::Verify(_) => "verify",
        Command::Import(_) => "import",
        Command::Train(_) => "train",
        Command::Eval(_) => "eval",
        Command::Quantize(_) => "quantize",
        Command::Serve(_) => "serve",
        Command::Lsp(_) => "lsp",
    };
    later(&format!("`dlc {name}`"))
}
