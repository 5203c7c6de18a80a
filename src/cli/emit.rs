//! `dlc emit KIND MODEL`: one of the compiler's texts.

use std::io::Write;
use std::path::PathBuf;

use super::args::{Compile, Global, ModelArg, later};
use super::load::{self, Missing};
use super::out;
use super::report::{Failure, Reporter, reason};
use super::shaders::Bundle;
use crate::base::atomic_file;
use crate::ir::print::print_graph;
use crate::kernel;
use crate::model::Model;
use crate::target::Kind;

#[derive(clap::Args)]
pub struct Args {
    /// ir, kernels, clif, asm or wgsl
    kind: String,
    #[command(flatten)]
    model: ModelArg,
    /// With `wgsl --json`: where to write the values of constants, as shaders read them
    #[arg(long, value_name = "FILE")]
    values: Option<PathBuf>,
    #[command(flatten)]
    compile: Compile,
}

pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    known(&args.kind)?;
    let reporter = Reporter::new(global);
    // Shaders are for one target alone.
    let compile = match &args.kind[..] {
        "wgsl" => &Compile { target: "gpu".into(), ..args.compile.clone() },
        _ => &args.compile,
    };
    if args.values.is_some() && !(args.kind == "wgsl" && global.json) {
        let failure = Failure::usage("`--values` stands beside a document of shaders");
        return Err(failure.help("`dlc emit wgsl MODEL --json --values FILE`"));
    }
    let missing = if args.values.is_some() { Missing::Refuse } else { Missing::Ignore };
    let model = load::model(&args.model.model, compile, missing, &reporter)?;
    if args.kind == "wgsl" && global.json {
        let (bundle, plan) = (Bundle::of(&model)?, model.plan(&Default::default())?);
        if let Some(path) = &args.values {
            let program = plan.ready(model.weights())?;
            let write = |out: &mut dyn Write| bundle.write_values(&program, out);
            atomic_file::write_with(path, write).map_err(|e| {
                Failure::usage(format!("cannot write `{}`: {}", path.display(), reason(&e)))
            })?;
        }
        return out::json(&bundle.json(&plan.program));
    }
    let text = text(&args.kind, &model)?;
    if global.json {
        return out::json(&serde_json::json!({ "kind": args.kind, "text": text }));
    }
    out::text(&text)
}

fn known(kind: &str) -> Result<(), Failure> {
    match kind {
        "ir" | "kernels" | "clif" | "asm" | "wgsl" | "dlm" => Ok(()),
        "obj" | "lib" | "header" | "web" | "rust" | "onnx" => Err(later(&format!("`emit {kind}`"))),
        _ => Err(Failure::usage(format!("there is no kind `{kind}` to emit"))
            .help("kinds of text: ir, kernels, clif, asm, wgsl")),
    }
}

/// The text of one kind.
pub fn text(kind: &str, model: &Model) -> Result<String, Failure> {
    known(kind)?;
    match kind {
        "ir" => Ok(print_graph(model.graph()?).text),
        "dlm" => Err(Failure::usage("a `.dlm` is no text").help("`dlc compile -o OUT.dlm`")),
        _ => {
            let plan = model.plan(&Default::default())?;
            if kind == "kernels" {
                return Ok(plan.program.kernels.iter().map(kernel::print::print_kernel).collect());
            }
            if kind == "wgsl" {
                if model.options().target.row.kind != Kind::Gpu {
                    let failure = Failure::usage("`wgsl` is text of the target gpu");
                    return Err(failure.help("`--target gpu`, or `dlc emit wgsl`"));
                }
                return Ok(Bundle::of(model)?.text(&plan.program));
            }
            machine_text(kind, model, &plan.program.kernels)
        }
    }
}

#[cfg(feature = "cpu")]
fn machine_text(
    kind: &str,
    model: &Model,
    kernels: &[kernel::ir::Kernel],
) -> Result<String, Failure> {
    use crate::target::cpu;
    let target = &model.options().target;
    if !matches!(target.row.kind, Kind::Cpu(_) | Kind::Cranelift) {
        let message = format!("target `{}` has no machine code", target.row.name);
        return Err(Failure::usage(message));
    }
    let print = if kind == "clif" { cpu::print_clif } else { cpu::print_assembly };
    let mut text = String::new();
    for k in kernels {
        text.push_str(&print(k, target).map_err(|e| Failure::fault(e.to_string()))?);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(not(feature = "cpu"))]
fn machine_text(kind: &str, _: &Model, _: &[kernel::ir::Kernel]) -> Result<String, Failure> {
    Err(Failure::usage(format!("this dlc was built without `{kind}` (feature `cpu`)")))
}
