//! Scaled dot-product attention.
//!
//! A composite: its expansion is scores, mask, softmax, weighted sum; a generator that knows the op
//! never materializes the scores. A row masked everywhere gives 0 (and a `lse` of −∞).

use super::check::{data, f32s, sample_of};
use super::common::{attr, operand, optional};
use super::norm::kept;
use super::number::{Number, Real, widen, with_real};
use super::*;
use crate::base::Shape;
use crate::base::shape::broadcast;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar_eval::{Bool, convert, wide};

pub static ROWS: &[OpRow] = &[OpRow {
    name: "attention",
    doc: "`softmax(q · kᵀ · scale + mask) · v`, and the logarithm of the sum of exponentials that the \
          softmax divides by (`lse`). Heads of `k` and `v` are shared by neighbouring heads of `q` \
          where `q` has a multiple of them. A row that is masked everywhere gives 0.",
    operands: &[
        operand("q", "[…, heads, seq, dim] or [seq, dim]"),
        operand("k", "[…, heads of k and v, keys, dim]"),
        operand("v", "[…, heads of k and v, keys, values]"),
        optional("mask", "broadcasts to […, heads, seq, keys]; bool: true keeps; float: is added"),
        optional("offset", "[], an integer: the place of the first row of `q` among the keys"),
    ],
    attrs: &[
        attr(
            "causal",
            AttrKind::Bool,
            Preset::Bool(false),
            "row i sees the keys up to i + offset only (offset 0 where it is absent)",
        ),
        attr("scale", AttrKind::Float, Preset::None, "factor of the scores; absent: 1 / √dim"),
    ],
    results: &["out", "lse"],
    infer,
    eval,
    class: |_| Class::Composite,
    expand: Some(expand),
    gradient: Gradient::Expansion,
    tolerance: Tolerance::SUM,
    samples,
}];

/// Extents of an attention; `lead` are the axes before the heads.
struct Layout {
    lead: Vec<Dim>,
    /// Heads of `q` and of `k`; absent where the operands are matrices.
    heads: Option<(Dim, Dim)>,
    seq: Dim,
    keys: Dim,
    dim: Dim,
    values: Dim,
}

impl Layout {
    /// From the types of q, k and v, whose ranks are equal and at least 2.
    fn of(types: &[TensorType]) -> Layout {
        let [q, k, v] = [0, 1, 2].map(|i| &types[i].shape.0);
        let r = q.len();
        Layout {
            lead: q[..r.saturating_sub(3)].to_vec(),
            heads: (r > 2).then(|| (q[r - 3].clone(), k[r - 3].clone())),
            seq: q[r - 2].clone(),
            keys: k[r - 2].clone(),
            dim: q[r - 1].clone(),
            values: v[r - 1].clone(),
        }
    }

    /// `[lead…, heads of q, rows, columns]`.
    fn per_head(&self, tail: &[&Dim]) -> Shape {
        let heads = self.heads.iter().map(|h| &h.0);
        Shape(self.lead.iter().chain(heads).chain(tail.iter().copied()).cloned().collect())
    }

    fn scores(&self) -> Shape {
        self.per_head(&[&self.seq, &self.keys])
    }

    /// `[lead…, heads of k, (heads of q / heads of k) · seq, columns]`: the rows of all heads that
    /// share a head of `k`, under one another.
    fn grouped(&self, columns: &Dim) -> Result<Shape, OpError> {
        let Some((of_q, of_k)) = &self.heads else {
            return Ok(Shape(vec![self.seq.clone(), columns.clone()]));
        };
        let share = of_q.floor_div(of_k).unwrap_or(Dim::ONE);
        let rows = share.mul(&self.seq).ok_or_else(OpError::overflow)?;
        Ok(Shape([&self.lead[..], &[of_k.clone(), rows, columns.clone()]].concat()))
    }
}

fn infer(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let dtype = ctx.same_float(&["q", "k", "v"])?;
    let [q, k, v] = [ctx.need("q")?, ctx.need("k")?, ctx.need("v")?];
    let rank = q.rank();
    if rank < 2 || k.rank() != rank || v.rank() != rank {
        let error = ctx.clash("`q`, `k` and `v` must have the same number of axes, two at least");
        return Err(error.help("the layout is […, heads, seq, dim]; `split_heads` makes it"));
    }
    let l = Layout::of(ctx.types);
    if k.shape.0[rank - 1] != l.dim {
        return Err(ctx.clash("the last axes of `q` and `k` differ"));
    }
    if k.shape.0[..rank - 1] != v.shape.0[..rank - 1] {
        return Err(ctx.clash("`k` and `v` must agree in all axes but the last"));
    }
    if k.shape.0[..l.lead.len()] != l.lead[..] {
        return Err(ctx.clash("the axes before the heads differ"));
    }
    if let Some((of_q, of_k)) = &l.heads
        && of_q != of_k
        && of_q.modulo(of_k) != Some(Dim::Const(0))
    {
        let error = ctx.clash(format!("{of_q} heads of `q` do not share {of_k} heads of `k`"));
        return Err(error.help("the heads of `k` must divide those of `q`"));
    }
    if let Some(mask) = ctx.operand("mask") {
        if mask.dtype != DType::Bool && mask.dtype != dtype {
            let message = format!("attention: `mask` is {}, not bool or {dtype}", mask.dtype);
            return Err(OpError::dtype(message).help("bool keeps where true; a float is added"));
        }
        if broadcast(&mask.shape, &l.scores()).as_ref() != Some(&l.scores()) {
            return Err(ctx.clash(format!("`mask` does not broadcast to {}", l.scores())));
        }
    }
    if ctx.operand("offset").is_some() {
        if ctx.integer("offset")?.rank() != 0 {
            return Err(ctx.clash("`offset` must be a scalar"));
        }
        if !ctx.op.bool("causal") {
            return Err(ctx.bad_attr("`offset` has a meaning only with `causal = true`"));
        }
    }
    if ctx.op.opt_float("scale").is_none() && l.dim.as_const().is_none() {
        let error = ctx.clash(format!("the default scale needs to know the extent `{}`", l.dim));
        return Err(error.help("give `scale`"));
    }
    let out = TensorType::new(dtype, l.per_head(&[&l.seq, &l.values]));
    Ok(vec![out, TensorType::new(dtype, l.per_head(&[&l.seq]))])
}

fn scale(op: &Op, dim: &Dim) -> f64 {
    let default = 1.0 / (dim.as_const().unwrap_or(1) as f64).sqrt();
    op.opt_float("scale").unwrap_or(default)
}

fn expand(b: &mut Builder, ctx: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let l = Layout::of(ctx.types);
    let (dtype, inner) = (ctx.types[0].dtype, ctx.types[0].dtype.compute());
    if l.keys == Dim::Const(0) {
        let (zero, least) = (b.scalar(dtype, 0.0), b.scalar(dtype, f64::NEG_INFINITY));
        let out = b.broadcast_to(zero, &ctx.results[0].shape)?;
        return Ok(vec![out, b.broadcast_to(least, &ctx.results[1].shape)?]);
    }
    let mut operands = [0; 3].map(|_| ctx.operands[0]);
    for (i, v) in ctx.operands[..3].iter().enumerate() {
        operands[i] = b.cast(*v, inner)?;
    }
    let [q, k, v] = operands;
    let q = b.reshape(q, &l.grouped(&l.dim)?)?;
    let products = b.op("matmul", &[q, k], &[("transpose_b", Attr::Bool(true))])?;
    let products = b.reshape(products, &l.scores())?;
    let scores = b.bin_const("mul", products, scale(ctx.op, &l.dim))?;
    let scores = masked(b, ctx, &l, scores)?;

    // exp(s − top) / Σ, with top = 0 and Σ = 1 where everything is masked.
    let last = [ctx.types[0].rank() as i64 - 1];
    let least = b.scalar(inner, f64::NEG_INFINITY);
    let (zero, one) = (b.scalar(inner, 0.0), b.scalar(inner, 1.0));
    let top = kept(b, "amax", scores, &last)?;
    let nothing = b.bin("eq", top, least)?;
    let top = b.op("where", &[nothing, zero, top], &[])?;
    let below = b.bin("sub", scores, top)?;
    let powers = b.un("exp", below)?;
    let total = kept(b, "sum", powers, &last)?;
    let divisor = b.op("where", &[nothing, one, total], &[])?;
    // The sum of products is divided, since it has fewer elements than there are powers.
    let inverse = b.bin("div", one, divisor)?;
    let powers = b.reshape(powers, &l.grouped(&l.keys)?)?;
    let out = b.bin("matmul", powers, v)?;
    let out = b.reshape(out, &ctx.results[0].shape)?;
    let out = b.bin("mul", out, inverse)?;
    let log = b.un("log", total)?;
    let lse = b.bin("add", top, log)?;
    let lse = b.reshape(lse, &ctx.results[1].shape)?;
    Ok(vec![b.cast(out, dtype)?, b.cast(lse, dtype)?])
}

/// The scores with −∞ where a key is not to be seen.
fn masked(
    b: &mut Builder,
    ctx: &ExpandCtx,
    l: &Layout,
    mut scores: Value,
) -> Result<Value, OpError> {
    let inner = ctx.types[0].dtype.compute();
    let least = b.scalar(inner, f64::NEG_INFINITY);
    if let Some(mask) = ctx.operand("mask") {
        scores = match b.ty(mask).dtype {
            DType::Bool => b.op("where", &[mask, scores, least], &[])?,
            _ => {
                let mask = b.cast(mask, inner)?;
                b.bin("add", scores, mask)?
            }
        };
    }
    if ctx.op.bool("causal") {
        let mut rows = b.iota(vec![l.seq.clone(), Dim::ONE], 0, DType::I64)?;
        if let Some(offset) = ctx.operand("offset") {
            let offset = b.cast(offset, DType::I64)?;
            rows = b.bin("add", rows, offset)?;
        }
        let columns = b.iota(vec![l.keys.clone()], 0, DType::I64)?;
        let seen = b.bin("le", columns, rows)?;
        scores = b.op("where", &[seen, scores, least], &[])?;
    }
    Ok(scores)
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let types: Vec<TensorType> = ctx.operands.iter().map(Tensor::ty).collect();
    let l = Layout::of(&types);
    let dtype = ctx.operands[0].dtype();
    let extent = |d: &Dim| d.as_extent().expect("shapes are bound before evaluation");
    let [seq, keys, dim, values] = [&l.seq, &l.keys, &l.dim, &l.values].map(extent);
    let (heads, of_k) = l.heads.as_ref().map_or((1, 1), |(q, k)| (extent(q), extent(k)));
    let shapes = [ctx.result_shape(0), ctx.result_shape(1)];
    let score_shape = l.scores().concrete().expect("shapes are bound before evaluation");
    let mask = ctx.operand("mask").map(widen);
    let offset = ctx.operand("offset").and_then(|o| o.get_i64(0)).unwrap_or(0);
    let limit = |row: usize| match ctx.op.bool("causal") {
        true => offset.saturating_add(row as i64),
        false => i64::MAX,
    };
    let [q, k, v] = [0, 1, 2].map(|i| widen(&ctx.operands[i]));
    let (out, lse) = with_real!(dtype, T => {
        let [q, k, v] = [&q, &k, &v].map(|t| t.as_slice::<T>());
        let keep = mask.as_ref().filter(|m| m.dtype() == DType::Bool);
        let keep = keep.map(|m| wide::<Bool>(m, &score_shape));
        let added = mask.as_ref().filter(|m| m.dtype() != DType::Bool);
        let added = added.map(|m| wide::<T>(m, &score_shape));
        let factor = T::of(scale(ctx.op, &l.dim));
        let (mut out, mut lse) = (Vec::new(), Vec::<T>::new());
        for row in 0..shapes[1].iter().product() {
            let (batch, head) = (row / seq / heads, row / seq % heads);
            let first = (batch * of_k + head * of_k / heads) * keys;
            let q = &q[row * dim..][..dim];
            let score = |j: usize| {
                let seen = keep.as_ref().is_none_or(|m| m[row * keys + j].0 != 0);
                if !seen || j as i64 > limit(row % seq) {
                    return T::LEAST;
                }
                let pairs = q.iter().zip(&k[(first + j) * dim..]);
                let dot = pairs.fold(T::default(), |s, (a, b)| s.plus(a.times(*b)));
                let dot = dot.times(factor);
                added.as_ref().map_or(dot, |m| dot.plus(m[row * keys + j]))
            };
            let scores: Vec<T> = (0..keys).map(score).collect();
            let max = |a: T, b: &T| if a.is_nan() || a > *b { a } else { *b };
            let top = scores.iter().fold(T::LEAST, max);
            let nothing = top == T::LEAST;
            let top = if nothing { T::default() } else { top };
            let powers: Vec<T> = scores.iter().map(|s| s.minus(top).exponential()).collect();
            let total = powers.iter().fold(T::default(), |s, p| s.plus(*p));
            let divisor = if nothing { T::ONE } else { total };
            let mut sums = vec![T::default(); values];
            for (j, p) in powers.iter().enumerate() {
                let weight = p.over(divisor);
                let v = &v[(first + j) * values..][..values];
                sums.iter_mut().zip(v).for_each(|(s, v)| *s = s.plus(weight.times(*v)));
            }
            out.extend(sums);
            lse.push(top.plus(total.logarithm()));
        }
        (Tensor::from_slice(&shapes[0], &out), Tensor::from_slice(&shapes[1], &lse))
    });
    Ok(vec![convert(&out, dtype), convert(&lse, dtype)])
}

fn samples() -> Vec<Sample> {
    let causal = ("causal", Attr::Bool(true));
    let qkv = |dtype: DType, q: &[usize], k: &[usize], v: &[usize]| {
        [data(dtype, q, 1), data(dtype, k, 2), data(dtype, v, 3)].map(Some)
    };
    let f32_qkv = |q: &[usize], k: &[usize], v: &[usize]| qkv(DType::F32, q, k, v);
    let with = |x: [Option<Tensor>; 3], mask: Option<Tensor>, offset: Option<Tensor>| {
        x.into_iter().chain([mask, offset]).collect::<Vec<_>>()
    };
    let plain = || f32_qkv(&[2, 3, 5, 4], &[2, 3, 7, 4], &[2, 3, 7, 6]);
    let mut keep =
        data(DType::Bool, &[2, 1, 5, 7], 4).as_bools().iter().map(|b| *b != 0).collect::<Vec<_>>();
    keep[14..21].fill(false);
    keep[35..42].fill(false);
    let keep = Tensor::from_bools(&[2, 1, 5, 7], &keep);
    let mut added = f32s(&[5, 7], 5).as_slice::<f32>().to_vec();
    added[7..14].fill(f32::NEG_INFINITY);
    added[22] = f32::NEG_INFINITY;
    let added = Tensor::from_slice(&[5, 7], &added);
    let at = |v: i64| Some(Tensor::from_slice(&[], &[v]));
    let flag = std::slice::from_ref(&causal);
    let mut samples = vec![
        sample_of(with(plain(), None, None), &[]),
        sample_of(with(plain(), None, None), &[("scale", Attr::Float(0.25))]),
        sample_of(with(plain(), None, None), flag),
        sample_of(with(plain(), None, at(2)), flag),
        sample_of(with(plain(), None, at(-3)), flag),
        sample_of(with(plain(), None, at(100)), flag),
        sample_of(with(plain(), Some(keep.clone()), None), &[]),
        sample_of(with(plain(), Some(added.clone()), None), &[]),
        sample_of(with(plain(), Some(keep), Some(Tensor::from_slice(&[], &[1i32]))), flag),
        sample_of(with(f32_qkv(&[6, 4, 8], &[2, 5, 8], &[2, 5, 8]), None, None), flag),
        sample_of(with(f32_qkv(&[2, 4, 3, 2], &[2, 1, 5, 2], &[2, 1, 5, 3]), None, None), &[]),
        sample_of(with(f32_qkv(&[5, 4], &[7, 4], &[7, 3]), Some(added), None), &[]),
        sample_of(with(f32_qkv(&[1, 33, 16], &[1, 40, 16], &[1, 40, 16]), None, at(7)), flag),
        sample_of(with(f32_qkv(&[2, 3, 4], &[2, 0, 4], &[2, 0, 4]), None, None), &[]),
        sample_of(with(f32_qkv(&[0, 3, 4], &[0, 5, 4], &[0, 5, 4]), None, None), &[]),
    ];
    // Enough rows for blocks of them, and a few rows more.
    let rows = || f32_qkv(&[2, 3, 19, 5], &[2, 3, 23, 5], &[2, 3, 23, 18]);
    let every_third: Vec<bool> = (0..19 * 23).map(|i| i / 23 == 4 || i % 3 == 0).collect();
    let keep = Tensor::from_bools(&[19, 23], &every_third);
    samples.extend([
        sample_of(with(rows(), None, None), &[]),
        sample_of(with(rows(), None, at(-2)), flag),
        sample_of(with(rows(), Some(keep), None), flag),
        sample_of(with(rows(), Some(data(DType::F32, &[2, 1, 1, 23], 6)), None), &[]),
        sample_of(with(f32_qkv(&[4, 9, 8], &[2, 21, 8], &[2, 21, 16]), None, None), flag),
        sample_of(with(f32_qkv(&[64, 16], &[32, 16], &[32, 1]), None, None), &[]),
        sample_of(with(f32_qkv(&[3, 40, 1], &[3, 1, 1], &[3, 1, 64]), None, None), &[]),
    ]);
    for dtype in [DType::F64, DType::BF16, DType::F16] {
        for (rows, keys) in [(4, 5), (35, 6)] {
            let x = qkv(dtype, &[2, rows, 3], &[2, keys, 3], &[2, keys, 2]);
            samples.push(sample_of(with(x, None, None), &[]));
        }
    }
    samples
}
