//! Convolutions by Winograd's algorithm: fewer products, by sums before and after them.
//!
//! `Y = Aᵀ · (Σ_c U ⊙ (Bᵀ · d · B)) · A` over tiles of `tile` × `tile` results, which read tiles `d` of
//! `tile + 2` elements along each axis; `U = G · g · Gᵀ` of the 3 × 3 weights `g` is the operand. The
//! matrices are those of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015).
//! The scheduler makes such nodes of convolutions (`schedule/layout`).

use super::common::{attr, operand};
use super::number::{Real, with_real};
use super::window::{PAD, pads};
use super::*;
use crate::base::{Shape, TensorType};
use crate::ir::attr::{AttrKind, Preset};

/// Extent of the kernel.
pub const KERNEL: usize = 3;

/// The matrices for tiles of so many results along an axis.
pub struct Matrices {
    /// `tile` lines over the places of a tile.
    pub output: &'static [&'static [f64]],
    /// A line for each place, over the places.
    pub input: &'static [&'static [f64]],
    /// A line for each place, over the kernel.
    pub weight: &'static [[f64; KERNEL]],
}

/// F(2, 3).
static TWO: Matrices = Matrices {
    output: &[&[1., 1., 1., 0.], &[0., 1., -1., -1.]],
    input: &[&[1., 0., -1., 0.], &[0., 1., 1., 0.], &[0., -1., 1., 0.], &[0., 1., 0., -1.]],
    weight: &[[1., 0., 0.], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0., 0., 1.]],
};

/// F(4, 3).
static FOUR: Matrices = Matrices {
    output: &[
        &[1., 1., 1., 1., 1., 0.],
        &[0., 1., -1., 2., -2., 0.],
        &[0., 1., 1., 4., 4., 0.],
        &[0., 1., -1., 8., -8., 1.],
    ],
    input: &[
        &[4., 0., -5., 0., 1., 0.],
        &[0., -4., -4., 1., 1., 0.],
        &[0., 4., -4., -1., 1., 0.],
        &[0., -2., -1., 2., 1., 0.],
        &[0., 2., -1., -2., 1., 0.],
        &[0., 4., 0., -5., 0., 1.],
    ],
    weight: &[
        [0.25, 0., 0.],
        [-1. / 6., -1. / 6., -1. / 6.],
        [-1. / 6., 1. / 6., -1. / 6.],
        [1. / 24., 1. / 12., 1. / 6.],
        [1. / 24., -1. / 12., 1. / 6.],
        [0., 0., 1.],
    ],
};

impl Matrices {
    /// `None` for tiles that have no matrices here.
    pub fn of(tile: usize) -> Option<&'static Matrices> {
        match tile {
            2 => Some(&TWO),
            4 => Some(&FOUR),
            _ => None,
        }
    }
}

const TILE: AttrSpec =
    attr("tile", AttrKind::Int, Preset::Int(2), "results of a tile along each axis: 2 or 4");

pub static ROWS: &[OpRow] = &[OpRow {
    name: "winograd_conv2d",
    doc: "The cross-correlation of `x` with 3 × 3 weights, zero outside of `x`, by Winograd's \
          algorithm. `weight` holds them transformed: `weight[i · (tile + 2) + j]` is place (i, j) \
          of `G · g · Gᵀ`.",
    operands: &[operand("x", "[N, C, H, W]"), operand("weight", "[(tile + 2)², C, O]")],
    attrs: &[TILE, PAD],
    results: &["y"],
    infer,
    eval,
    class: |ctx| match spec(ctx) {
        Ok(spec) => Class::Window(spec),
        // Inference refused it; nothing looks at this.
        Err(_) => Class::Composite,
    },
    expand: None,
    gradient: Gradient::Unwritten,
    tolerance: Tolerance::SUM,
    samples,
}];

fn tile(op: &Op) -> Result<usize, OpError> {
    let tile = op.int("tile");
    let known = usize::try_from(tile).ok().filter(|t| Matrices::of(*t).is_some());
    known.ok_or_else(|| {
        OpError::attr(format!("`winograd_conv2d` in tiles of {tile} results"))
            .help("`tile` is 2 or 4")
    })
}

fn spec(ctx: &OpCtx) -> Result<WindowSpec, OpError> {
    let tile = tile(ctx.op)?;
    let (kernel, ones) = (vec![KERNEL; 2], vec![1; 2]);
    let spatial = &ctx.need("x")?.shape.0[2..];
    let pad = pads(ctx, spatial, &kernel, &ones, &ones)?;
    let kind = WindowKind::Winograd { tile };
    Ok(WindowSpec { kind, kernel, stride: ones.clone(), dilation: ones, pad })
}

fn infer(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let dtype = ctx.same_float(&["x", "weight"])?;
    let (x, weight) = (&ctx.need("x")?.shape.0, &ctx.need("weight")?.shape.0);
    if x.len() != 4 || weight.len() != 3 {
        let message = "`x` must be [N, C, H, W] and `weight` [(tile + 2)², C, O]";
        return Err(ctx.clash(message));
    }
    let spec = spec(ctx)?;
    let WindowKind::Winograd { tile } = spec.kind else { unreachable!("it was just made") };
    let places = Dim::from((tile + KERNEL - 1).pow(2));
    if weight[0] != places || weight[1] != x[1] {
        let message = format!(
            "`weight` has {} places and {} channels, where tiles have {places} and `x` has {}",
            weight[0], weight[1], x[1]
        );
        return Err(ctx.clash(message));
    }
    let along = |i: usize| {
        let padded = x[2 + i].add(&Dim::from(spec.pad[i].0 + spec.pad[i].1));
        let out = padded.and_then(|d| d.sub(&Dim::from(KERNEL - 1)));
        let out = out.ok_or_else(OpError::overflow)?;
        match out.as_const().is_some_and(|n| n < 1) {
            true => Err(ctx.clash(format!("the window is larger than spatial axis {i}"))),
            false => Ok(out),
        }
    };
    let dims = vec![x[0].clone(), weight[2].clone(), along(0)?, along(1)?];
    Ok(vec![TensorType::new(dtype, Shape(dims))])
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let [x, weight] = [&ctx.operands[0], &ctx.operands[1]];
    let types = [x.ty(), weight.ty()];
    let spec = spec(&OpCtx { op: ctx.op, types: &types, regions: &[] })?;
    let (shape, dtype) = (ctx.result_shape(0), x.dtype());
    let (x, weight) = (super::number::widen(x), super::number::widen(weight));
    let y = with_real!(dtype, T => {
        Tensor::from_slice(&shape, &typed::<T>(&spec, &x, &weight, &shape))
    });
    Ok(vec![crate::ir::scalar_eval::convert(&y, dtype)])
}

/// `m · v`, a sum of the entries that are not zero.
fn product<T: Real>(m: &[&[f64]], v: impl Fn(usize) -> T) -> Vec<T> {
    let line = |line: &&[f64]| {
        let terms = line.iter().enumerate().filter(|(_, c)| **c != 0.0);
        terms.fold(T::default(), |sum, (i, c)| sum.plus(T::of(*c).times(v(i))))
    };
    m.iter().map(line).collect()
}

/// `m · d · mᵀ` of a square of side `n`.
fn both_axes<T: Real>(m: &[&[f64]], d: &[T], n: usize) -> Vec<T> {
    let columns: Vec<Vec<T>> = (0..n).map(|x| product(m, |y| d[y * n + x])).collect();
    (0..m.len()).flat_map(|i| product(m, |x| columns[x][i])).collect()
}

fn typed<T: Real>(spec: &WindowSpec, x: &Tensor, weight: &Tensor, shape: &[usize]) -> Vec<T> {
    let WindowKind::Winograd { tile } = spec.kind else { unreachable!("one of these") };
    let matrices = Matrices::of(tile).expect("inference looked");
    let side = tile + KERNEL - 1;
    let (input, u) = (x.as_slice::<T>(), weight.as_slice::<T>());
    let [channels, h, w] = [1, 2, 3].map(|i| x.shape()[i]);
    let [images, outputs, lines, points] = [0, 1, 2, 3].map(|i| shape[i]);
    let mut y = vec![T::default(); images * outputs * lines * points];
    for n in 0..images {
        for (top, left) in (0..lines.div_ceil(tile))
            .flat_map(|i| (0..points.div_ceil(tile)).map(move |j| (i * tile, j * tile)))
        {
            let mut sums = vec![vec![T::default(); side * side]; outputs];
            for c in 0..channels {
                let at = |i: usize| {
                    let row = (top + i / side).checked_sub(spec.pad[0].0).filter(|r| *r < h);
                    let column = (left + i % side).checked_sub(spec.pad[1].0).filter(|c| *c < w);
                    let place = row.zip(column).map(|(r, q)| ((n * channels + c) * h + r) * w + q);
                    place.map_or(T::default(), |p| input[p])
                };
                let d: Vec<T> = (0..side * side).map(at).collect();
                let v = both_axes(matrices.input, &d, side);
                for (o, sums) in sums.iter_mut().enumerate() {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.plus(v[i].times(u[(i * channels + c) * outputs + o]));
                    }
                }
            }
            for (o, sums) in sums.iter().enumerate() {
                let results = both_axes(matrices.output, sums, side);
                for (i, result) in results.iter().enumerate() {
                    let (row, column) = (top + i / tile, left + i % tile);
                    if row < lines && column < points {
                        y[((n * outputs + o) * lines + row) * points + column] = *result;
                    }
                }
            }
        }
    }
    y
}

fn samples() -> Vec<Sample> {
    use super::check::{data, f32s, sample};
    let tile = |n: i64| ("tile", Attr::Int(n));
    let pad = |v: &[i64]| ("pad", Attr::Ints(v.to_vec()));
    let same = || ("pad", Attr::Str("same".into()));
    vec![
        sample([f32s(&[2, 5, 7, 6], 1), f32s(&[16, 5, 3], 2)], &[tile(2)]),
        sample([f32s(&[2, 5, 7, 6], 1), f32s(&[16, 5, 3], 2)], &[tile(2), same()]),
        sample([f32s(&[1, 32, 9, 8], 3), f32s(&[16, 32, 48], 4)], &[tile(2), same()]),
        sample([f32s(&[1, 16, 5, 11], 3), f32s(&[16, 16, 35], 4)], &[pad(&[0, 1, 2, 3])]),
        sample([f32s(&[3, 7, 9, 5], 5), f32s(&[36, 7, 4], 6)], &[tile(4), same()]),
        sample([f32s(&[1, 16, 10, 12], 5), f32s(&[36, 16, 32], 6)], &[tile(4)]),
        sample([f32s(&[1, 16, 3, 3], 5), f32s(&[36, 16, 16], 6)], &[tile(4), pad(&[2, 0, 1, 4])]),
        sample([f32s(&[0, 4, 5, 5], 7), f32s(&[16, 4, 3], 8)], &[same()]),
        sample([f32s(&[1, 0, 5, 5], 7), f32s(&[16, 0, 3], 8)], &[same()]),
        sample([data(DType::F64, &[1, 3, 6, 5], 9), data(DType::F64, &[16, 3, 9], 10)], &[same()]),
        sample(
            [data(DType::BF16, &[1, 3, 6, 5], 9), data(DType::BF16, &[16, 3, 9], 10)],
            &[same()],
        ),
    ]
}
