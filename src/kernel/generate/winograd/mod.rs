//! Convolutions of 3 × 3 by Winograd's algorithm (see `ir::op::winograd`).
//!
//! In: a nest with a stage in tiles, and whatever is made of it on the spot. Out: a kernel whose grid
//! points are blocks of tiles, and panels of output channels. A block goes through three steps, with
//! scratch of the worker between them:
//!
//! 1. `input`: `V = Bᵀ · d · B` for each tile and input channel, `[place, tile, channel]`;
//! 2. `products`: for a panel, at each place, `M = V · U` over the channels, `[place, tile, column]`,
//!    with the tiles of matrix products (`contract`);
//! 3. `output`: `Aᵀ · M · A`, what is made of it, and where it goes.
//!
//! Numeric rule: sums before and after the products in the order of `lines`, first down the columns of
//! a tile, then along its lines; each product is one ascending chain over the channels. How many
//! tiles a block has, and how many columns a panel, changes nothing.

mod input;
mod lines;
mod output;
mod products;
mod repair;

use super::loops::{declare, grid_point};
use crate::base::DType;
use crate::base::machine::Machine;
use crate::ir::index::Expr;
use crate::ir::op::winograd::KERNEL;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::{Addr, Buf, Kernel, Lit, LoadMode, Op, Val};
use crate::kernel::nest::{Keep, Nest};

/// Vectors of a panel.
const VECTORS: usize = 2;
/// Tiles of a block, at most: whole register tiles of products.
const TILES: i64 = 28;
/// Output channels for which a block is worth another grid point, with transforms of its own.
const COLUMNS: i64 = 128;

/// Columns of a panel of transformed weights.
pub fn panel_width(columns: usize, bytes: usize, machine: &Machine) -> usize {
    let lanes = (machine.vector_bytes as usize / bytes).max(1);
    let fits = |v: &usize| columns.is_multiple_of(v * lanes);
    (1..=VECTORS).rev().find(fits).map_or(VECTORS * lanes, |v| v * lanes)
}

/// `None` where no stage is in tiles.
pub fn build(nest: &Nest, machine: &Machine) -> Option<Kernel> {
    let plan = Plan::of(nest, machine)?;
    let mut b = KernelBuilder::new(&nest.name, machine.numerics());
    let slots = declare(nest, &mut b);
    let point = grid_point(&mut b, &[plan.blocks, plan.chunks]);
    let places = plan.places();
    let v = b.scratch(plan.dtype, (places * plan.block * plan.pitch).max(1) as u64);
    let m = b.scratch(plan.dtype, (places * plan.block * plan.width).max(1) as u64);
    let bufs = [slots, vec![v, m]].concat();
    let block = plan.at(&mut b, point[0]);
    plan.input(&mut b, &bufs, &block);
    let full = plan.columns / plan.width;
    let each = (full as u64).div_ceil(plan.chunks as u64) as i64;
    let first = b.times(point[1], each);
    let (end, all) = (b.offset(first, each), b.index(full));
    let end = b.op(Op::Min, &[end, all]);
    b.for_loop((first, end, 1), &[], |b, panel, _| {
        plan.products(b, &bufs, panel, plan.width);
        plan.output(b, &bufs, &block, (panel, plan.width));
        vec![]
    });
    let rest = plan.columns % plan.width;
    if rest > 0 {
        let panel = b.index(full);
        plan.products(&mut b, &bufs, panel, rest);
        plan.output(&mut b, &bufs, &block, (panel, rest));
    }
    Some(b.finish())
}

struct Plan<'a> {
    nest: &'a Nest,
    machine: &'a Machine,
    /// The stage in tiles.
    sum: u16,
    /// Kept stages, that one among them, in order.
    kept: Vec<u16>,
    /// Results of a tile along each axis, and the elements that it reads.
    tile: i64,
    side: i64,
    channels: i64,
    columns: i64,
    /// Of the result.
    lines: i64,
    points: i64,
    /// Images, and tiles of each: down, and across.
    images: i64,
    down: i64,
    across: i64,
    dtype: DType,
    lanes: i64,
    /// Columns of a panel.
    width: i64,
    /// Elements of scratch from a tile to the next one.
    pitch: i64,
    /// Tiles of a block, and how many blocks.
    block: i64,
    blocks: i64,
    /// Parts of the panels, each with a grid point.
    chunks: i64,
}

/// A block of tiles.
struct Block {
    first: Val,
}

/// One tile: its image, and its place there.
struct Tile {
    image: Val,
    down: Val,
    across: Val,
}

impl<'a> Plan<'a> {
    fn of(nest: &'a Nest, machine: &'a Machine) -> Option<Plan<'a>> {
        let kept: Vec<u16> = (0..nest.stages.len() as u16)
            .filter(|s| nest.stages[*s as usize].keep != Keep::Inline)
            .collect();
        let sum = *kept.iter().find(|s| nest.stages[**s as usize].tile.is_some())?;
        let stage = &nest.stages[sum as usize];
        let tile = stage.tile? as i64;
        let (&[images, columns, lines, points], &[channels, side, _]) =
            (&stage.axes[..], &stage.reduce[..])
        else {
            return None;
        };
        debug_assert_eq!(side, tile + KERNEL as i64 - 1);
        let dtype = stage.dtype.compute();
        let lanes = (machine.vector_bytes as i64 / dtype.bytes() as i64).max(1);
        let width = panel_width(columns as usize, dtype.bytes(), machine) as i64;
        let of = |n: i64| (n as u64).div_ceil(tile as u64) as i64;
        let (down, across) = (of(lines), of(points));
        let all = images * down * across;
        // Tiles lie an odd number of vectors apart.
        let pitch = ((channels as u64).div_ceil(lanes as u64) as i64 | 1) * lanes;
        // A block stays in half of the second cache, its products of a panel near the first one.
        let bytes = side * side * pitch * dtype.bytes() as i64;
        let fits = (machine.caches[1] as i64 / 2 / bytes).max(1);
        // Weights that stay in no cache are read once for all tiles, if those fit.
        let weights = side * side * channels * columns * dtype.bytes() as i64;
        let room = match weights > machine.caches[1] as i64 {
            true if all <= fits => fits,
            _ => fits.min(TILES),
        };
        let blocks_of = |most: i64| (all as u64).div_ceil(most.max(1) as u64) as i64;
        let few = blocks_of(room);
        // Two threads share an even number.
        let blocks = if few > 1 && few % 2 == 1 { blocks_of(room / 2) } else { few };
        let block = if blocks == 0 { 0 } else { (all as u64).div_ceil(blocks as u64) as i64 };
        let chunks = match columns % width {
            0 => (columns / COLUMNS.max(width)).clamp(1, 4),
            _ => 1,
        };
        let blocks = if columns == 0 { 0 } else { blocks };
        Some(Plan {
            nest,
            machine,
            sum,
            kept,
            tile,
            side,
            channels,
            columns,
            lines,
            points,
            images,
            down,
            across,
            dtype,
            lanes,
            width,
            pitch,
            block,
            blocks,
            chunks,
        })
    }

    /// Places of a tile.
    fn places(&self) -> i64 {
        self.side * self.side
    }

    fn tiles(&self) -> i64 {
        self.images * self.down * self.across
    }

    fn at(&self, b: &mut KernelBuilder, number: Val) -> Block {
        Block { first: b.times(number, self.block) }
    }

    /// A loop over the tiles of a block; in the last block some may be missing.
    fn each_tile(
        &self,
        b: &mut KernelBuilder,
        block: &Block,
        there: impl Fn(&mut KernelBuilder, Val, &Tile),
        missing: impl Fn(&mut KernelBuilder, Val),
    ) {
        let (zero, end) = (b.index(0), b.index(self.block));
        b.for_loop((zero, end, 1), &[], |b, i, _| {
            let number = b.add(block.first, i);
            if self.block * self.blocks == self.tiles() {
                let tile = self.tile(b, number);
                there(b, i, &tile);
                return vec![];
            }
            let all = b.index(self.tiles());
            let inside = b.op(Op::Lt, &[number, all]);
            b.if_else(
                inside,
                |b| {
                    let tile = self.tile(b, number);
                    there(b, i, &tile);
                    vec![]
                },
                |b| {
                    missing(b, i);
                    vec![]
                },
            );
            vec![]
        });
    }

    fn tile(&self, b: &mut KernelBuilder, number: Val) -> Tile {
        let (across, each) = (b.index(self.across), b.index(self.down * self.across));
        let (image, rest) = match self.images {
            1 => (b.index(0), number),
            _ => (b.op(Op::Div, &[number, each]), b.op(Op::Rem, &[number, each])),
        };
        let down = b.op(Op::Div, &[rest, across]);
        Tile { image, down, across: b.op(Op::Rem, &[rest, across]) }
    }

    /// The scratch of transformed inputs, and of products.
    fn scratch(bufs: &[Buf]) -> (Buf, Buf) {
        let n = bufs.len();
        (bufs[n - 2], bufs[n - 1])
    }

    /// A vector of scratch: zeros where there are no columns, since nothing was stored there.
    fn columns(&self, b: &mut KernelBuilder, at: Addr, valid: u16) -> Val {
        let (lanes, zero) = (self.lanes as u16, Lit::int(self.dtype, 0));
        b.load_as(at, lanes, LoadMode::Contig, valid, (valid < lanes).then_some(zero))
    }

    /// The result at a place of a tile, over the axes image, ·, down, across.
    fn result(&self, (row, column): (i64, i64)) -> [Expr; 2] {
        [(2, row), (3, column)].map(|(axis, at)| Expr::axis(axis).scale(self.tile).plus(at))
    }
}
