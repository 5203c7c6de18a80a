//! `dlc explain CODE`: an error code, with a failing and a corrected example.

use serde_json::json;

use super::args::Global;
use super::out;
use super::report::Failure;
use crate::base::codes;
use crate::base::diag::did_you_mean;

#[derive(clap::Args)]
pub struct Args {
    /// `E0301`, say
    code: String,
}

pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let wanted = args.code.to_uppercase();
    let Some(code) = codes::TABLE.iter().find(|c| c.code == wanted) else {
        let near = did_you_mean(&wanted, codes::TABLE.iter().map(|c| c.code));
        let failure = Failure::usage(format!("there is no code `{}`", args.code));
        return Err(match near {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure,
        });
    };
    if global.json {
        return out::json(&json!({
            "code": code.code, "title": code.title, "explanation": code.explanation,
            "failing": code.failing, "corrected": code.corrected,
        }));
    }
    let mut text = format!("{}: {}\n\n{}\n", code.code, code.title, code.explanation);
    for (title, example) in [("Wrong", code.failing), ("Right", code.corrected)] {
        if !example.is_empty() {
            let body: String = example.lines().map(|l| format!("    {l}\n")).collect();
            text.push_str(&format!("\n{title}:\n\n{body}"));
        }
    }
    out::text(&text)
}
