//! Models to `.dlm` parts and back.

use std::collections::BTreeMap;

use super::dlm::{DimRange, Manifest, Parts, Port, Tuned};
use crate::base::{DType, TensorType};
use crate::front::{self, Constants, LoadOptions};
use crate::import::Weights;
use crate::ir::graph::{DimDecl, Graph};
use crate::ir::print::print_graph;
use crate::model::{Diagnostics, Model, Options};
#[cfg(feature = "gpu")]
use crate::{runtime::gpu::device::Device, target::Kind};

/// What a model's file holds: the graph as it was read, its weights, and what it was compiled for.
pub fn parts(model: &Model) -> Parts {
    let printed = print_graph(model.source());
    let port = |(name, ty): (String, TensorType)| Port {
        name,
        dtype: ty.dtype.name().into(),
        shape: ty.shape.dims().iter().map(|d| d.to_string()).collect(),
    };
    let dim = |d: DimDecl| DimRange { name: d.symbol.to_string(), low: d.low, high: d.high };
    let options = model.options();
    let level = format!("{:?}", options.level).trim_start_matches('O').to_string();
    let manifest = Manifest {
        model: model.source().name.to_string(),
        options: BTreeMap::from([
            ("target".into(), options.target.row.name.into()),
            ("opt".into(), level),
            ("strict".into(), options.control.settings.strict.to_string()),
            ("precision".into(), precision_name(options.control.settings.narrow).into()),
        ]),
        inputs: model.inputs().into_iter().map(port).collect(),
        outputs: model.outputs().into_iter().map(port).collect(),
        dims: model.source().open_dims().into_iter().map(dim).collect(),
        tuned: tuned(options),
    };
    let mut weights = Weights::default();
    for id in &model.source().params {
        let path = model.source().node(*id).op.str("name");
        if let Some(t) = model.weights().get(path) {
            weights.insert(path, t.clone());
        }
    }
    let mut constants = Weights::default();
    constants.tensors.extend(printed.constants);
    Parts { manifest, graph: printed.text, weights, constants }
}

fn tuned(options: &Options) -> Option<Tuned> {
    let tiles = options.target.machine.tiles.clone();
    (!tiles.is_empty()).then(|| Tuned { machine: measured_on(options), tiles })
}

/// The target, and on a GPU the adapter.
fn measured_on(options: &Options) -> String {
    let target = options.target.describe();
    #[cfg(feature = "gpu")]
    if options.target.row.kind == Kind::Gpu {
        let device = Device::shared(options.adapter.as_deref());
        let name = device.map_or("none".to_string(), |d| d.adapter.name.clone());
        return format!("{target} {name}");
    }
    target
}

fn precision_name(narrow: Option<DType>) -> &'static str {
    narrow.unwrap_or(DType::F32).name()
}

/// What a file's model rounds operands of products to.
pub fn precision(manifest: &Manifest) -> Option<DType> {
    let given = manifest.options.get("precision")?;
    [DType::F16, DType::BF16].into_iter().find(|d| d.name() == given)
}

/// Takes over the machine choices of a file. False where they are another machine's: these are left
/// alone, and results are the same.
pub fn take_tiles(manifest: &Manifest, options: &mut Options) -> bool {
    let Some(tuned) = &manifest.tuned else { return true };
    let same = tuned.machine == measured_on(options);
    if same {
        options.target.machine.tiles = tuned.tiles.clone();
    }
    same
}

/// The graph and the weights of a file.
pub fn open(name: &str, parts: Parts) -> Result<(Graph, Weights), Diagnostics> {
    Ok((parse(name, &parts.graph, parts.constants)?, parts.weights))
}

pub(super) fn parse(name: &str, text: &str, constants: Weights) -> Result<Graph, Diagnostics> {
    let constants: Constants = constants.tensors.into_iter().collect();
    let options = LoadOptions { constants: &constants, ..LoadOptions::default() };
    let loaded = front::load(&format!("{name}/graph.dl"), text, &options);
    let (lowered, said) = match loaded.diagnostics.is_empty() {
        true => loaded.module.lower(None, false),
        false => (None, loaded.diagnostics),
    };
    match lowered {
        Some(l) => Ok(l.graph),
        None => Err(Diagnostics { sources: loaded.module.into_sources(), list: said }),
    }
}
