//! Rows in blocks: attention, and what else multiplies matrices row by row.
//!
//! In: a nest with kept rows of which one at least is a sum of products. Out: a kernel whose grid
//! points are blocks of rows. A block runs the stages one after the other over all of its rows; what
//! the stages hand on lies in scratch of the worker with the rows side by side, so that
//!
//! - products have tiles: the first one (`q · kᵀ`) has rows in lanes, which needs a transposed copy of
//!   the block's rows (`parts` packs it), the second (`weights · v`) broadcasts what the rows hold;
//! - reductions along a row go through all rows of a block at once.
//!
//! Numeric rule: every reduction is one ascending chain. How many rows a block has changes nothing.

mod parts;

use super::loops::{declare, grid_point};
use super::{contract, loops};
use crate::base::DType;
use crate::base::machine::Machine;
use crate::ir::index::{Expr, Term};
use crate::ir::scalar::{Combine, ScalarFn};
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::{Buf, Kernel, Op, Val};
use crate::kernel::nest::{Keep, Nest, Scalar, Stage};
use parts::{Block, Parts};

/// Nests with fewer rows are left to the generic loops.
const FEWEST: i64 = 8;
/// Reductions that are longer should not be one chain.
const LONGEST: i64 = 1 << 14;
/// Vectors that the rows of a block fill.
const VECTORS: i64 = 2;

/// Whether blocks of rows pay. Depends on the nest alone, since the order of sums follows.
fn matches(nest: &Nest) -> bool {
    let Some(row) = nest.shared.checked_sub(1) else { return false };
    let kept: Vec<&Stage> = nest.stages.iter().filter(|s| s.keep != Keep::Inline).collect();
    let sizes = |s: &&Stage| {
        s.extents().iter().all(|&n| n > 0)
            && s.reduce.iter().product::<i64>() <= LONGEST
            && s.dtype == s.dtype.compute()
    };
    kept.iter().all(|s| sizes(s) && s.axes[row] >= FEWEST)
        && kept.iter().any(|s| product(nest, s) && s.axes[nest.shared..].iter().any(|&n| n > 1))
        && !nest.stages.iter().any(dynamic)
}

/// `None` where blocks of rows do not pay.
pub fn build(nest: &Nest, machine: &Machine) -> Option<Kernel> {
    if !matches(nest) {
        return None;
    }
    let mut b = KernelBuilder::new(&nest.name, machine.numerics());
    let slots = declare(nest, &mut b);
    let row = nest.shared - 1;
    let axes = &nest.stages.iter().find(|s| s.keep != Keep::Inline).expect("it matched").axes;
    let (m, pitch) = (axes[row], rows_of_a_block(nest, machine));
    let (full, rest) = (m / pitch, m % pitch);
    let mut around = axes[..nest.shared].to_vec();
    around[row] = full + (rest > 0) as i64;
    let parts = |rows, blocks, first| Parts::of(nest, &Block { row, pitch, rows, blocks, first });
    let blocks = (full > 0).then(|| parts(pitch, full, 0));
    let last = (rest > 0).then(|| parts(rest, 1, full * pitch));
    let point = grid_point(&mut b, &around);
    let scratch = blocks.iter().chain(&last).next().map_or(&[][..], |p| &p.scratch);
    let bufs: Vec<Buf> = scratch.iter().map(|(dtype, len)| b.scratch(*dtype, *len)).collect();
    let bufs = [slots, bufs].concat();
    let emit = |b: &mut KernelBuilder, parts: &Parts, point: &[Val]| {
        for part in &parts.nests {
            if !contract::within(b, part, machine, &bufs, (point, None)) {
                loops::within(b, part, machine, &bufs, point);
            }
        }
    };
    let emit_last = |b: &mut KernelBuilder, parts: &Parts| {
        let mut point = point.clone();
        point[row] = b.index(0);
        emit(b, parts, &point);
    };
    match (&blocks, &last) {
        (Some(blocks), Some(last)) => {
            let end = b.index(full);
            let inner = b.op(Op::Lt, &[point[row], end]);
            b.if_else(
                inner,
                |b| {
                    emit(b, blocks, &point);
                    vec![]
                },
                |b| {
                    emit_last(b, last);
                    vec![]
                },
            );
        }
        (Some(blocks), None) => emit(&mut b, blocks, &point),
        (None, Some(last)) => emit_last(&mut b, last),
        (None, None) => {}
    }
    Some(b.finish())
}

/// As many rows as fill some vectors, and no more than leave a block in the second cache.
fn rows_of_a_block(nest: &Nest, machine: &Machine) -> i64 {
    let kept = nest.stages.iter().filter(|s| s.keep != Keep::Inline);
    let bytes = kept.clone().map(|s| s.dtype.bytes()).max().unwrap_or(4).max(4) as i64;
    let lanes = (machine.vector_bytes as i64 / bytes).max(2);
    let own = kept.map(|s| s.axes[nest.shared..].iter().product::<i64>()).max().unwrap_or(1);
    let room = machine.caches[1] as i64 / 4 / bytes / own.max(1);
    lanes * (room / lanes).clamp(1, VECTORS)
}

/// A sum of products.
fn product(nest: &Nest, stage: &Stage) -> bool {
    stage.combine == Some(Combine::Sum)
        && stage.dtype != DType::Bool
        && matches!(stage.body.0.last(), Some(Scalar::Fn(ScalarFn::Mul, _)))
        && nest.dtype(&stage.body, stage.body.0.len() as u16 - 1) == stage.dtype
}

/// Whether a stage reads at places that are known at run time only.
fn dynamic(stage: &Stage) -> bool {
    fn expr(e: &Expr) -> bool {
        e.terms.iter().any(|(t, _)| match t {
            Term::Axis(_) => false,
            Term::FloorDiv(e, _) | Term::Mod(e, _) => expr(e),
            Term::Dyn { .. } => true,
        })
    }
    stage.body.0.iter().any(|s| match s {
        Scalar::Load { map, .. } => map.0.iter().any(expr),
        Scalar::Axis(e) => expr(e),
        Scalar::Guarded { guards, .. } => guards.iter().any(|g| expr(&g.expr)),
        Scalar::Const(_) | Scalar::Fn(..) => false,
    })
}
