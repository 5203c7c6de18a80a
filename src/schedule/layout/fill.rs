//! Channels filled up to whole blocks.
//!
//! In: a fusion group that computes a map `[N, C, spatial…]` where [`BLOCK`] does not divide `C`: a
//! window perhaps, and elementwise ops. Out: the same ops over `C'` channels, the next multiple:
//! parameters get zeros (in the recipe), other maps are read whole. What the added channels hold
//! does not matter: the map stands for a slice of itself, and nothing reads beyond.

use std::collections::{BTreeMap, BTreeSet};

use super::super::consts::Split;
use super::maps::{BLOCK, Conv};
use super::{derived, pad, slice};
use crate::ir::attr::Attr;
use crate::ir::builder::Builder;
use crate::ir::graph::{NodeId, Value};
use crate::ir::op::{Class, OpError, Source, WindowKind};

/// Channels that are added, at most: half of those there are.
const ADDED: usize = 2;

/// Whether so many channels are worth whole blocks.
pub fn pays(channels: usize) -> bool {
    (channels.next_multiple_of(BLOCK) - channels) * ADDED <= channels
}

/// The group over whole blocks: its root, and the new place of each of its nodes. `whole` knows
/// the maps that slices stand for.
pub fn fill(
    split: &mut Split,
    (root, members): (NodeId, &BTreeSet<NodeId>),
    conv: Option<(NodeId, Conv)>,
    whole: &BTreeMap<Value, Value>,
) -> Result<BTreeMap<NodeId, NodeId>, OpError> {
    let shape = split.run.node(root).results[0].shape.concrete().unwrap_or_default();
    let (rank, channels) = (shape.len(), shape[1]);
    let filled = channels.next_multiple_of(BLOCK);
    let mut at: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    let order = split.run.topological();
    for id in order.into_iter().filter(|id| members.contains(id)) {
        let node = split.run.node(id).clone();
        let dense = conv == Some((id, Conv::Dense));
        let depthwise = conv == Some((id, Conv::Depthwise));
        let mut operands = vec![];
        for (i, v) in node.operands().iter().enumerate() {
            // Aligned at the right; weights have their outputs first.
            let axis = match (dense || depthwise) && i == 1 {
                true => Some(0),
                false => (split.run.ty(*v).rank() + 1).checked_sub(rank),
            };
            operands.push(match at.get(&v.node) {
                Some(new) => Value { node: *new, result: v.result },
                None if dense && i == 0 => *v,
                None => operand(split, *v, axis, (channels, filled), whole)?,
            });
        }
        let mut op = node.op.clone();
        if let Class::Window(spec) = split.run.class(id)
            && matches!(spec.kind, WindowKind::Conv { .. })
            && depthwise
        {
            let groups = op.row.attr_index("groups").expect("convolutions have groups");
            op.attrs[groups] = Attr::Int(filled as i64);
        }
        let mut b = Builder::new(&mut split.run);
        b.loc = node.loc.clone();
        let new = b.push(op, operands, vec![])?;
        split.run.node_mut(new).names = node.names.clone();
        at.insert(id, new);
    }
    Ok(at)
}

/// What an operand from outside the group is over whole blocks.
fn operand(
    split: &mut Split,
    v: Value,
    axis: Option<usize>,
    (channels, filled): (usize, usize),
    whole: &BTreeMap<Value, Value>,
) -> Result<Value, OpError> {
    if let Some(map) = whole.get(&v) {
        return Ok(*map);
    }
    let shape = split.run.ty(v).shape.concrete().unwrap_or_default();
    let Some(axis) = axis.filter(|a| shape[*a] == channels) else { return Ok(v) };
    debug_assert!(matches!(split.run.class(v.node), Class::Source(Source::Param)));
    let mut widths = vec![0; 2 * shape.len()];
    widths[2 * axis + 1] = (filled - channels) as i64;
    derived(split, v, &format!("{axis}+{}", filled - channels), |b, x| pad(b, x, &widths))
}

/// The first `channels` of a map.
pub fn first(b: &mut Builder, map: Value, channels: usize) -> Result<Value, OpError> {
    slice(b, map, 1, channels)
}
