//! Contractions: matmuls, convolutions and all other sums of products, in register tiles.
//!
//! In: a nest whose only reduction is a sum of products of two operands, with whatever is made of
//! the sums on the spot. Out: a kernel whose grid points are tiles of rows × columns: columns lie
//! in lanes, along the last axis of the result; rows are points of an axis that only the other
//! operand has. For each step of the sum a tile loads a few vectors of the one operand (`wide`)
//! and broadcasts as many elements of the other (`narrow`) as it has rows.
//!
//! - Numeric rule: every element is one ascending chain of multiply-adds over the reduced axes in
//!   row-major order, whatever the tile and the machine. The generic loops keep the same rule for
//!   every nest that [`is_contraction`] accepts, so both give the same bits.
//! - Products with padding are left out, not multiplied by zero: where guards depend on the
//!   columns, tiles are told apart by what their guards say; where they depend on the row of an
//!   image, the loop over the kernel's rows is clipped.

mod operand;
mod plan;
mod product;
mod space;
mod tiles;
mod tiling;

use crate::base::machine::Machine;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::{Buf, Kernel, Val};
use crate::kernel::nest::Nest;
use plan::Plan;
pub use plan::is_small;
pub use product::product;
use tiling::Tiling;
pub use tiling::{Extent, candidates, panel_width};

/// Whether each element of the nest's reduction is one ascending chain. Depends on the nest alone.
pub fn is_contraction(nest: &Nest) -> bool {
    Plan::of(nest, 0).is_some()
}

/// `None` where the nest is no contraction, shares nothing, or would need too many kinds of tiles.
pub fn build(nest: &Nest, machine: &Machine) -> Option<Kernel> {
    let plan = Plan::of(nest, 0).filter(Plan::shares)?;
    let (plan, tiling) = tiled(plan, 0, machine)?;
    Some(tiles::build(&plan, &tiling, machine))
}

/// What [`build`] cuts into tiles; `None` where it builds nothing, or has no choice.
pub fn extent(nest: &Nest, machine: &Machine) -> Option<Extent> {
    let plan = Plan::of(nest, 0).filter(Plan::shares)?;
    (!plan.lanewise && Tiling::of(&plan, machine).is_some()).then(|| tiling::extent(&plan))
}

/// The same within a larger kernel: loops over tiles at one point of the first axes of the nest.
/// `next` elements behind lies what the same tiles read of the wide operand next. False, and
/// nothing is emitted, where the nest is no contraction for tiles.
pub fn within(
    b: &mut KernelBuilder,
    nest: &Nest,
    machine: &Machine,
    slots: &[Buf],
    (point, next): (&[Val], Option<i64>),
) -> bool {
    let Some(plan) = Plan::of(nest, point.len()) else { return false };
    let Some((plan, tiling)) = tiled(plan, point.len(), machine) else { return false };
    tiles::within(b, &plan, &tiling, slots, (point, next));
    true
}

/// The plan with its tiles: those of a small map, if they are not of too many kinds.
fn tiled<'a>(plan: Plan<'a>, fixed: usize, machine: &Machine) -> Option<(Plan<'a>, Tiling)> {
    let small = plan.of_small_map(fixed);
    if let Some((small, tiling)) = small.and_then(|s| Tiling::of(&s, machine).map(|t| (s, t))) {
        return Some((small, tiling));
    }
    let tiling = Tiling::of(&plan, machine)?;
    Some((plan, tiling))
}
