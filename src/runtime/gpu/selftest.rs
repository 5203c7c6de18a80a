//! Whether cooperative matrices give right sums on a device.
//!
//! They are an experiment of the drivers, whose faults nothing else would show: a workgroup that is no
//! whole number of subgroups, say, gives sums of several times the value. So before a tile is used for
//! the first time a product of small integers, which is exact in any order, is computed with it.

use std::sync::Arc;

use super::device::Device;
use super::session::{Compiled, Session};
use crate::base::diag::Diagnostic;
use crate::base::machine::{Isa, Machine};
use crate::base::{DType, Tensor, TensorType};
use crate::ir::builder::Builder;
use crate::ir::eval::{Env, Precision, evaluate};
use crate::ir::graph::Graph;
use crate::ir::op::OpError;
use crate::schedule::build::assemble;
use crate::schedule::consts::split;
use crate::schedule::fusion::{Mode, fuse};
use crate::schedule::program::Program;
use crate::target::wgsl::{Coop, Matmul, all_coop_tiles};

/// Steps of the sums: several rounds of the largest tiles, the last one not full.
const STEPS: usize = 72;

impl Device {
    /// Whether the largest and the smallest tile of cooperative matrices give right sums; `None` where there
    /// are none.
    pub fn self_test(self: &Arc<Device>) -> Option<bool> {
        let tiles = all_coop_tiles(&self.allowed().features);
        let (first, last) = (*tiles.first()?, *tiles.last()?);
        Some([first, last].into_iter().all(|tile| self.multiplies(tile)))
    }

    /// Whether products by this tile are right here. Tried once.
    pub fn multiplies(self: &Arc<Device>, tile: Coop) -> bool {
        let known = self.tried.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(works) = known.get(&tile) {
            return *works;
        }
        drop(known);
        let works = try_tile(self, tile).unwrap_or(false);
        let mut known = self.tried.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *known.entry(tile).or_insert(works)
    }
}

/// A product of two tiles by two, and a little more.
fn try_tile(device: &Arc<Device>, tile: Coop) -> Result<bool, Box<Diagnostic>> {
    let of = |e: OpError| Box::new(Diagnostic::error(e.code, None, e.message));
    let (rows, columns) = tile.extent();
    let shapes = [[rows as usize + 3, STEPS], [STEPS, columns as usize + 5]];
    let mut graph = Graph::new("product");
    let mut b = Builder::new(&mut graph);
    let [x, y] = [("x", shapes[0]), ("y", shapes[1])]
        .map(|(name, shape)| b.input(name, TensorType::of(DType::F16, &shape)));
    let product = b.op("matmul", &[x, y], &[]).map_err(of)?;
    b.output("product", product);
    let inputs: Vec<Tensor> = shapes.iter().map(|shape| integers(shape)).collect();
    let env = Env { inputs, ..Env::default() };
    let wanted = evaluate(&graph, &env, Precision::Own).map_err(of)?.outputs;

    let mut limits = device.allowed();
    (limits.features.matmul, limits.features.coop) = (Matmul::Coop, Some(tile));
    let program = Arc::new(program(&graph).map_err(of)?);
    let compiled = Arc::new(Compiled::within(program, device.clone(), &limits, None)?);
    if !compiled.tiles().eq([tile]) {
        return Ok(false);
    }
    let mut session = Session::new(compiled)?;
    for (i, input) in env.inputs.iter().enumerate() {
        session.set_input(i, input.bytes())?;
    }
    session.run()?;
    Ok(session.output_tensor(0)?.bytes() == wanted[0].bytes())
}

fn program(graph: &Graph) -> Result<Program, OpError> {
    let fusion = fuse(&split(graph).run, Mode::Together)?;
    let machine = Machine::new(Isa::Gpu, 16);
    Ok(assemble(&fusion.graph, &fusion.groups, &machine, Mode::Together)?.program)
}

/// Small integers without a pattern that a tile could repeat.
fn integers(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let of = |i: usize| half::f16::from_f32((i * i % 11 + i / 7 % 3) as f32 - 6.0);
    Tensor::from_slice(shape, &(0..n).map(of).collect::<Vec<_>>())
}
