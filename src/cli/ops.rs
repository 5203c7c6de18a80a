//! `dlc ops`: the op table, as documentation.

use serde_json::{Value as Json, json};

use super::args::Global;
use super::out;
use super::report::Failure;
use crate::base::diag::did_you_mean;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::op::{self, Arity, Gradient, OpRow};

#[derive(clap::Args)]
pub struct Args {
    /// One op; all of them without it
    name: Option<String>,
}

pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let Some(name) = &args.name else { return all(global) };
    let Some(row) = op::find(name) else {
        let failure = Failure::usage(format!("there is no op `{name}`"));
        return Err(match did_you_mean(name, op::table().map(|r| r.name)) {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure,
        });
    };
    if global.json { out::json(&as_json(row)) } else { out::text(&page(row)) }
}

fn all(global: &Global) -> Result<(), Failure> {
    if global.json {
        return out::json(&json!({ "ops": op::table().map(as_json).collect::<Vec<_>>() }));
    }
    let line = |row: &OpRow| {
        let first = row.doc.split(". ").next().unwrap_or(row.doc).trim_end_matches('.');
        format!("{:<24} {first}\n", row.name)
    };
    out::text(&op::table().map(line).collect::<String>())
}

fn page(row: &OpRow) -> String {
    let operand = |o: &op::OperandSpec| match o.arity {
        Arity::One => o.name.to_string(),
        Arity::Optional => format!("{}?", o.name),
        Arity::Variadic => format!("{}…", o.name),
    };
    let operands: Vec<String> = row.operands.iter().map(operand).collect();
    let mut text = format!(
        "{}({}) -> {}\n\n{}\n",
        row.name,
        operands.join(", "),
        row.results.join(", "),
        row.doc
    );
    if !row.operands.is_empty() {
        text.push_str("\nOperands\n");
        for o in row.operands {
            text.push_str(&format!("  {:<14} {}\n", operand(o), o.doc));
        }
    }
    if !row.attrs.is_empty() {
        text.push_str("\nAttributes\n");
        for a in row.attrs {
            let head = format!("{}: {}{}", a.name, kind(a.kind), default(a.default));
            text.push_str(&format!("  {head:<34} {}\n", a.doc));
        }
    }
    text.push_str(&format!("\nGradient: {}\nTargets: {}\n", gradient(row), TARGETS.join(", ")));
    text
}

const TARGETS: &[&str] = &["cpu", "cpu:clif", "reference"];

fn kind(kind: AttrKind) -> String {
    match kind {
        AttrKind::Int => "int".into(),
        AttrKind::Float => "float".into(),
        AttrKind::Bool => "bool".into(),
        AttrKind::Word(words) => words.join(" | "),
        AttrKind::Str => "text".into(),
        AttrKind::Ints => "[int]".into(),
        AttrKind::Dims => "[dim]".into(),
        AttrKind::DType => "dtype".into(),
        AttrKind::Tensor => "tensor".into(),
        AttrKind::IntsOr(words) => format!("[int] | {}", words.join(" | ")),
    }
}

fn default(preset: Preset) -> String {
    match preset {
        Preset::Required => String::new(),
        Preset::None => " = none".into(),
        Preset::Int(v) => format!(" = {v}"),
        Preset::Float(v) => format!(" = {v:?}"),
        Preset::Bool(v) => format!(" = {v}"),
        Preset::Str(v) => format!(" = {v}"),
        Preset::Ints(v) => format!(" = {v:?}"),
    }
}

fn gradient(row: &OpRow) -> String {
    match row.gradient {
        Gradient::Zero(why) => format!("none: {why}"),
        Gradient::Expansion => "through its expansion".into(),
        Gradient::Rule(_) => "yes".into(),
        Gradient::Unwritten => "comes with a later version".into(),
    }
}

fn as_json(row: &OpRow) -> Json {
    let operands = row.operands.iter().map(|o| {
        let arity = match o.arity {
            Arity::One => "one",
            Arity::Optional => "optional",
            Arity::Variadic => "variadic",
        };
        json!({ "name": o.name, "arity": arity, "doc": o.doc })
    });
    let attrs = row.attrs.iter().map(|a| {
        let value = default(a.default);
        let value = value.strip_prefix(" = ");
        json!({ "name": a.name, "kind": kind(a.kind), "default": value, "doc": a.doc })
    });
    json!({
        "name": row.name,
        "doc": row.doc,
        "operands": operands.collect::<Vec<_>>(),
        "attributes": attrs.collect::<Vec<_>>(),
        "results": row.results,
        "gradient": gradient(row),
        "targets": TARGETS,
    })
}
