//! From text and weights files to what [`Model::new`](crate::model::Model::new) takes.
//!
//! Files come in through a [`Files`], so that the library itself opens none that its caller does
//! not open.

use crate::base::diag::{Diagnostic, Severity};
use crate::base::source::SourceMap;
use crate::base::tensor::{AlignedBytes, SharedBytes};
use crate::base::{DType, Tensor};
pub use crate::front::RenameRule;
use crate::front::{self, LoadOptions, WeightsOf};
use crate::import::{FormatError, Weights, safetensors};
use crate::ir::graph::Graph;
use crate::model::{Diagnostics, Model, Options, WeightSource, of_ops, random_weights};

/// How files are read: imports as text, weights as bytes. Paths are as the model writes them, put
/// behind the folder of the file that names them.
pub struct Files<'a> {
    pub text: &'a (dyn Fn(&str) -> Result<String, String> + Sync),
    pub bytes: &'a dyn Fn(&str) -> Result<SharedBytes, FormatError>,
}

/// A model that was read: its graph, the files its `weights` clauses name, and what was said.
pub struct Read {
    pub graph: Graph,
    pub weights: Vec<WeightsOf>,
    pub sources: SourceMap,
    /// Warnings only.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a model in source or core form: the one of this name, or the last.
pub fn read(
    name: &str,
    text: &str,
    model: Option<&str>,
    files: &Files,
) -> Result<Read, Diagnostics> {
    let options = LoadOptions { resolver: files.text, ..LoadOptions::default() };
    let loaded = front::load(name, text, &options);
    let mut list = loaded.diagnostics;
    let (lowered, said) = match list.iter().any(|d| d.severity == Severity::Error) {
        true => (None, loaded.module.check()),
        false => loaded.module.lower(model, false),
    };
    list.extend(said);
    let sources = loaded.module.into_sources();
    match lowered {
        Some(l) => Ok(Read { graph: l.graph, weights: l.weights, sources, warnings: list }),
        None => Err(Diagnostics { sources, list }),
    }
}

/// The weights of a model that was read, from where the options say. Parameters that are found
/// nowhere are missing in the result.
pub fn weights(
    graph: &Graph,
    clauses: &[WeightsOf],
    renames: &[RenameRule],
    options: &Options,
    files: &Files,
) -> Result<Weights, Diagnostics> {
    match &options.weights {
        WeightSource::Random => {
            let bound = graph.bind(&options.dims).map_err(of_ops)?;
            random_weights(&bound, options.seed)
        }
        WeightSource::Given(given) => renamed(graph, "", given, renames),
        WeightSource::Declared => {
            let mut all = Weights::default();
            for clause in clauses {
                let bytes = (files.bytes)(&clause.file).map_err(|e| placed(e, clause))?;
                let stored = safetensors::read(bytes).map_err(|e| placed(e, clause))?;
                let rules = [&clause.renames[..], renames].concat();
                all.tensors.extend(renamed(graph, &clause.prefix, &stored, &rules)?.tensors);
            }
            Ok(all)
        }
    }
}

fn placed(e: FormatError, clause: &WeightsOf) -> Diagnostics {
    let mut d = e.within(clause.file.clone()).diagnostic();
    d.span = Some(clause.span);
    d.into()
}

/// The stored tensors under the names of the parameters below `prefix`.
fn renamed(
    graph: &Graph,
    prefix: &str,
    stored: &Weights,
    rules: &[RenameRule],
) -> Result<Weights, Diagnostics> {
    let mut out = Weights::default();
    for id in &graph.params {
        let path = graph.node(*id).op.str("name");
        let inner = match prefix {
            "" => Some(path),
            p => path.strip_prefix(p).and_then(|rest| rest.strip_prefix('.')),
        };
        let Some(inner) = inner else { continue };
        let rule = rules.iter().find_map(|r| theirs(r, inner).map(|name| (name, r)));
        let name = rule.as_ref().map_or(inner, |(name, _)| name.as_str());
        let Some(found) = stored.get(name) else { continue };
        let tensor = match rule {
            Some((_, r)) if !r.permute.is_empty() => {
                permuted(found, &r.permute).ok_or_else(|| {
                    let message =
                        format!("the axes of `{name}` cannot be permuted by {:?}", r.permute);
                    Diagnostics::from(Diagnostic::error("E0714", None, message))
                })?
            }
            _ => found.clone(),
        };
        out.insert(path, tensor);
    }
    Ok(out)
}

/// The name in the file that a rule gives a parameter; `*` stands for the same text in both.
fn theirs(rule: &RenameRule, ours: &str) -> Option<String> {
    let Some((before, after)) = rule.ours.split_once('*') else {
        return (rule.ours == ours).then(|| rule.theirs.clone());
    };
    let middle = ours.strip_prefix(before)?.strip_suffix(after)?;
    Some(rule.theirs.replace('*', middle))
}

/// Axis `i` of the result is axis `perm[i]` of the tensor; `[-1]` reverses all.
fn permuted(t: &Tensor, perm: &[i64]) -> Option<Tensor> {
    let rank = t.rank();
    let perm: Vec<usize> = match perm {
        [-1] => (0..rank).rev().collect(),
        p => p.iter().map(|&i| usize::try_from(i).ok()).collect::<Option<_>>()?,
    };
    let mut sorted = perm.clone();
    sorted.sort();
    if !sorted.into_iter().eq(0..rank) {
        return None;
    }
    let shape: Vec<usize> = perm.iter().map(|&p| t.shape()[p]).collect();
    let mut strides = vec![1usize; rank];
    for i in (0..rank.saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * t.shape()[i + 1];
    }
    let width = t.dtype().bytes();
    let mut bytes = AlignedBytes::zeroed(t.bytes().len());
    let mut at = vec![0usize; rank];
    for chunk in bytes.as_mut().chunks_exact_mut(width) {
        let from: usize = at.iter().zip(&perm).map(|(i, p)| i * strides[*p]).sum();
        chunk.copy_from_slice(&t.bytes()[from * width..(from + 1) * width]);
        for axis in (0..rank).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    debug_assert!(t.dtype() != DType::Bool || width == 1);
    Tensor::from_bytes(t.dtype(), &shape, bytes)
}

/// Reads, binds weights and compiles, all in one.
pub fn model(
    name: &str,
    text: &str,
    which: Option<&str>,
    options: Options,
    files: &Files,
) -> Result<Model, Diagnostics> {
    let read = read(name, text, which, files)?;
    let sources = read.sources;
    let with_sources = |d: Diagnostics, sources| Diagnostics { sources, list: d.list };
    let weights = match weights(&read.graph, &read.weights, &[], &options, files) {
        Ok(w) => w,
        Err(d) => return Err(with_sources(d, sources)),
    };
    Model::new(read.graph, weights, options, &mut |_, _| {}).map_err(|d| with_sources(d, sources))
}
