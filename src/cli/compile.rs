//! `dlc compile`: a model to files.

use std::path::{Path, PathBuf};

use super::args::{Compile, Global, ModelArg, later};
use super::emit;
use super::load::{self, Missing};
use super::out;
use super::report::{Failure, Reporter, reason};
#[cfg(feature = "cpu")]
use crate::artifact::code;
use crate::artifact::{dlm, model_file};
use crate::model::Model;
use crate::placed::Placed;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The compiled model; default: MODEL-STEM.dlm in the current folder
    #[arg(short, long, value_name = "OUT.dlm")]
    output: Option<PathBuf>,
    /// Prefix of names in object files
    #[arg(long)]
    name: Option<String>,
    /// dlm, ir, kernels, clif or asm; to PATH, or to MODEL-STEM with the kind's extension
    #[arg(long, value_name = "KIND[=PATH]")]
    emit: Vec<String>,
    #[command(flatten)]
    compile: Compile,
}

/// The shared options alone, for their defaults.
#[derive(clap::Parser)]
pub struct Plain {
    #[command(flatten)]
    pub compile: Compile,
}

pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    if args.name.is_some() {
        return Err(later("`--name`"));
    }
    let reporter = Reporter::new(global);
    let spec = &args.model.model;
    let start = std::time::Instant::now();
    let model = load::model(spec, &args.compile, Missing::Refuse, &reporter)?;
    let mut written: Vec<(String, PathBuf, u64)> = vec![];
    let mut wanted: Vec<(String, Option<PathBuf>)> = vec![];
    if let Some(path) = &args.output {
        wanted.push(("dlm".into(), Some(path.clone())));
    }
    for item in &args.emit {
        let (kind, path) =
            item.split_once('=').map_or((item.as_str(), None), |(k, p)| (k, Some(p.into())));
        wanted.push((kind.into(), path));
    }
    if wanted.is_empty() {
        wanted.push(("dlm".into(), None));
    }
    // What can fail does so before anything is written.
    let open = !model.open_dims().is_empty();
    let placed = if open { None } else { Some(model.placed(&Default::default())?) };
    let launches = |p: &Placed| p.programs().map(|p| p.launches.len()).sum::<usize>();
    let kernels = |p: &Placed| p.programs().map(|p| p.kernels.len()).sum::<usize>();
    let mut files = vec![];
    for (kind, path) in wanted {
        let bytes = match kind.as_str() {
            "dlm" => file(&model, &reporter)?,
            _ => emit::text(&kind, &model)?.into_bytes(),
        };
        let path =
            path.unwrap_or_else(|| PathBuf::from(format!("{}.{}", spec.stem(), extension(&kind))));
        files.push((kind, path, bytes));
    }
    for (kind, path, bytes) in files {
        write(&path, &bytes)?;
        written.push((kind, path, bytes.len() as u64));
    }
    let ms = start.elapsed().as_secs_f64() * 1e3;
    if global.json {
        let files: Vec<_> = written
            .iter()
            .map(|(kind, path, bytes)| serde_json::json!({ "kind": kind, "path": path, "bytes": bytes }))
            .collect();
        return out::json(&serde_json::json!({
            "model": &*model.source().name,
            "target": model.options().target.row.name,
            "files": files,
            "launches": placed.as_deref().map(launches),
            "kernels": placed.as_deref().map(kernels),
            "arena_bytes": placed.as_deref().map(Placed::arena_bytes),
            "weights_bytes": model.weights().tensors.values().map(|t| t.bytes().len()).sum::<usize>(),
            "compile_ms": ms,
        }));
    }
    if global.quiet {
        return Ok(());
    }
    let mut text = String::new();
    for (kind, path, bytes) in &written {
        text.push_str(&format!("{kind}: {} ({bytes} bytes)\n", path.display()));
    }
    let weights: usize = model.weights().tensors.values().map(|t| t.bytes().len()).sum();
    text.push_str(&format!("model {}: {weights} bytes of weights", model.source().name));
    match placed {
        Some(p) => text.push_str(&format!(
            ", {} launches of {} kernels, {} bytes of arena\n",
            launches(&p),
            kernels(&p),
            p.arena_bytes()
        )),
        None => {
            let dims: Vec<String> = model.open_dims().iter().map(|d| d.to_string()).collect();
            text.push_str(&format!(", compiled for each value of {} when run\n", dims.join(", ")));
        }
    }
    if model.options().place.is_some() && written.iter().any(|(kind, _, _)| kind == "dlm") {
        text.push_str("a .dlm keeps no queues: `--place` is for its runs too\n");
    }
    text.push_str(&format!("target {}, {ms:.1} ms\n", model.options().target.row.name));
    out::text(&text)
}

/// A `.dlm`; with code where this user has a key to seal it with.
#[cfg(feature = "cpu")]
fn file(model: &Model, reporter: &Reporter) -> Result<Vec<u8>, Failure> {
    let parts = model_file::parts(model);
    let seal = super::seal::made().unwrap_or_else(|e| {
        reporter.note(&format!("no machine code is stored: {e}"));
        None
    });
    let Some(seal) = seal else { return Ok(dlm::write(&parts, None)?) };
    let compiled = code::compiled(model)?;
    let sealed = compiled.as_ref().map(|c| dlm::Sealed {
        code: &c.code,
        prepared: &c.prepared,
        seal: &seal,
    });
    Ok(dlm::write(&parts, sealed)?)
}

#[cfg(not(feature = "cpu"))]
fn file(model: &Model, _: &Reporter) -> Result<Vec<u8>, Failure> {
    Ok(dlm::write(&model_file::parts(model), None)?)
}

fn extension(kind: &str) -> &str {
    match kind {
        "ir" => "core.dl",
        other => other,
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    crate::base::atomic_file::write(path, bytes)
        .map_err(|e| Failure::usage(format!("cannot write `{}`: {}", path.display(), reason(&e))))
}
