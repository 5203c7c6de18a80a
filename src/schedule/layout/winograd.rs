//! Convolutions of 3 × 3 that are done by Winograd's algorithm.
//!
//! In: a dense convolution whose operand and result lie in blocks of channels. Out: the node
//! `winograd_conv2d` in its place, over weights that the recipe transforms once (`G · g · Gᵀ`) and lays
//! out in panels: `[O / w, place, C, w]`. Which convolutions, and in which tiles, follows from their
//! shapes and from what the level allows, since it changes how results are rounded.

use super::super::consts::Split;
use super::{derived, shape, transpose};
use crate::base::machine::Machine;
use crate::base::{DType, Tensor};
use crate::ir::attr::Attr;
use crate::ir::builder::Builder;
use crate::ir::graph::{Graph, NodeId, Value};
use crate::ir::op::winograd::{KERNEL, Matrices};
use crate::ir::op::{Class, OpError, View, WindowKind, WindowSpec};
use crate::kernel::generate::winograd::panel_width;

/// Channels, of the operand and of the result, from which fewer products outweigh the transforms.
const FEWEST: usize = 16;
/// Tiles from which the weights, which grow, are read often enough; and elements of weights that
/// stay in a cache anyway.
const MANY: usize = 32;
const CACHED: usize = 1 << 14;
/// Results along an axis from which tiles of four pay: fewer fill their last tiles badly.
const LARGE: usize = 12;
/// The same for tiles of two.
const SMALL: usize = 4;

/// A convolution as tiles.
struct Tiled {
    tile: usize,
    pad: Vec<i64>,
    channels: usize,
    outputs: usize,
}

/// Puts the algorithm in the place of a convolution, if it pays; `largest` is the largest tile.
pub fn replace(
    split: &mut Split,
    id: NodeId,
    largest: usize,
    machine: &Machine,
) -> Result<bool, OpError> {
    let Some(tiled) = Tiled::of(&split.run, id, largest) else { return Ok(false) };
    let [x, w] = [0, 1].map(|i| split.run.node(id).operands()[i]);
    let width = panel_width(tiled.outputs, DType::F32.bytes(), machine);
    let label = format!("winograd{}x{width}", tiled.tile);
    let stored = derived(split, w, &label, |b, w| tiled.weights(b, w, width))?;
    let (names, loc) = (split.run.node(id).names.clone(), split.run.node(id).loc.clone());
    let mut b = Builder { graph: &mut split.run, loc };
    let (c, o) = (tiled.channels, tiled.outputs);
    let weights = transpose(&mut b, stored, &[1, 2, 0, 3])?;
    let weights = b.reshape(weights, &shape(&[tiled.places(), c, o]))?;
    let attrs = [("tile", Attr::Int(tiled.tile as i64)), ("pad", Attr::Ints(tiled.pad.clone()))];
    let y = b.op("winograd_conv2d", &[x, weights], &attrs)?;
    split.run.node_mut(y.node).names = names;
    for (_, user, operand) in split.run.users(id) {
        split.run.set_operand(user, operand as usize, y);
    }
    split.run.remove(id);
    Ok(true)
}

impl Tiled {
    fn of(graph: &Graph, id: NodeId, largest: usize) -> Option<Tiled> {
        let Class::Window(WindowSpec { kind, kernel, stride, dilation, pad }) = graph.class(id)
        else {
            return None;
        };
        let [x, w] = [0, 1].map(|i| graph.node(id).operands()[i]);
        let weights = graph.ty(w).shape.concrete()?;
        let result = graph.node(id).results[0].shape.concrete()?;
        let (&[outputs, channels, ..], &[images, _, lines, points]) = (&weights[..], &result[..])
        else {
            return None;
        };
        let single = |v: &[usize]| v.iter().all(|n| *n == 1);
        let plain = kind == WindowKind::Conv { groups: 1 }
            && kernel == [KERNEL; 2]
            && single(&stride)
            && single(&dilation)
            && graph.ty(x).dtype == DType::F32;
        let filled = |tile: &usize| lines.min(points) >= if *tile > 2 { LARGE } else { SMALL };
        let read = |tile: &usize| {
            let tiles = images * lines.div_ceil(*tile) * points.div_ceil(*tile);
            tiles >= MANY || channels * outputs <= CACHED
        };
        let sizes = [4, 2].into_iter().filter(|tile| *tile <= largest);
        let tile = sizes.filter(filled).find(read)?;
        let in_blocks = is_blocked(graph, x) && result_is_blocked(graph, id);
        let pad = pad.iter().map(|p| p.0).chain(pad.iter().map(|p| p.1));
        let pad = pad.map(|n| n as i64).collect();
        (plain && channels.min(outputs) >= FEWEST && in_blocks).then_some(Tiled {
            tile,
            pad,
            channels,
            outputs,
        })
    }

    fn places(&self) -> usize {
        (self.tile + KERNEL - 1).pow(2)
    }

    /// `[O / w, place, C, w]` of `[O, C, 3, 3]`: a product with the Kronecker square of `G`.
    fn weights(&self, b: &mut Builder, w: Value, width: usize) -> Result<Value, OpError> {
        let g = Matrices::of(self.tile).expect("a tile that was chosen").weight;
        let (places, taps) = (self.places(), KERNEL * KERNEL);
        let side = g.len();
        let entry = |at: usize| {
            let (tap, place) = (at / places, at % places);
            (g[place / side][tap / KERNEL] * g[place % side][tap % KERNEL]) as f32
        };
        let square: Vec<f32> = (0..taps * places).map(entry).collect();
        let square = b.constant(Tensor::from_slice(&[taps, places], &square));
        let (o, c) = (self.outputs, self.channels);
        let w = b.reshape(w, &shape(&[o * c, taps]))?;
        let u = b.op("matmul", &[w, square], &[])?;
        let u = b.reshape(u, &shape(&[o / width, width, c, places]))?;
        transpose(b, u, &[0, 3, 2, 1])
    }
}

/// Whether a value is a view of one that is stored in blocks.
fn is_blocked(graph: &Graph, v: Value) -> bool {
    let mut at = v;
    loop {
        match graph.class(at.node) {
            Class::View(View::Relayout { .. }) => return true,
            Class::View(View::Reshape | View::Transpose(_)) => {
                at = graph.node(at.node).operands()[0];
            }
            _ => return false,
        }
    }
}

/// Whether what a convolution computes goes to a store in blocks, by elementwise ops.
fn result_is_blocked(graph: &Graph, id: NodeId) -> bool {
    let mut open = vec![id];
    while let Some(at) = open.pop() {
        for (_, user, _) in graph.users(at) {
            match graph.class(user) {
                Class::View(View::Relayout { .. }) => return true,
                Class::Elementwise(_) => open.push(user),
                _ => {}
            }
        }
    }
    false
}
