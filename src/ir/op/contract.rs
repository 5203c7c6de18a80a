//! Contractions: matmul, dense, einsum.
//!
//! All of them are sums of products over labelled axes, [`ContractSpec`]; `dense` with a bias is the
//! contraction and an addition. Sums run in ascending order of the summed index, from zero.

use std::collections::BTreeMap;

use super::check::{data, f32s, sample, sample_of};
use super::common::{attr, operand, optional};
use super::number::{Number, strides, walk, widen, with_number};
use super::*;
use crate::base::Shape;
use crate::base::shape::broadcast;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar_eval::convert;

pub static ROWS: &[OpRow] = &[
    OpRow {
        name: "matmul",
        doc: "The matrix product `a @ b`. `a` is […, m, k] and `b` […, k, n]; leading axes \
              broadcast as in NumPy; a vector counts as one row (`a`) or one column (`b`), whose \
              axis the result drops.",
        operands: &[operand("a", "[…, m, k] or [k]"), operand("b", "[…, k, n] or [k]")],
        attrs: &[
            attr("transpose_a", AttrKind::Bool, Preset::Bool(false), "`a` is […, k, m]"),
            attr("transpose_b", AttrKind::Bool, Preset::Bool(false), "`b` is […, n, k]"),
        ],
        results: &["y"],
        infer: infer_matmul,
        eval: eval_contract,
        class: |ctx| Class::Contract(matmul_spec(ctx)),
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::SUM,
        samples: matmul_samples,
    },
    OpRow {
        name: "dense",
        doc: "The fully connected layer `x @ transpose(weight) + bias`, over the last axis of `x`.",
        operands: &[
            operand("x", "[…, in]"),
            operand("weight", "[out, in]"),
            optional("bias", "[out]"),
        ],
        attrs: &[],
        results: &["y"],
        infer: infer_dense,
        eval: eval_dense,
        class: |ctx| match ctx.operand("bias") {
            Some(_) => Class::Composite,
            None => Class::Contract(dense_spec(ctx)),
        },
        expand: Some(expand_dense),
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::SUM,
        samples: dense_samples,
    },
    OpRow {
        name: "einsum",
        doc: "The sum of products of two operands by an equation such as `bij,bkj->bik`: one letter \
              for each axis; a letter missing after the arrow is summed over. An axis of extent 1 \
              broadcasts where its letter is kept.",
        operands: &[
            operand("a", "axes as before the comma"),
            operand("b", "axes as after the comma"),
        ],
        attrs: &[attr("equation", AttrKind::Str, Preset::Required, "`ij,jk->ik`")],
        results: &["y"],
        infer: infer_einsum,
        eval: eval_contract,
        class: |ctx| Class::Contract(einsum_spec(ctx).unwrap_or(EMPTY_SPEC)),
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::SUM,
        samples: einsum_samples,
    },
];

/// What an equation that inference refused stands for; nothing looks at it.
const EMPTY_SPEC: ContractSpec = ContractSpec { lhs: vec![], rhs: vec![], out: vec![] };

/// Labels of the matrix axes of matmul and dense; batch axes count from 0.
const M: u8 = 253;
const N: u8 = 254;
const K: u8 = 255;
const MAX_RANK: usize = 64;

fn infer_matmul(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let dtype = ctx.same_number(&["a", "b"])?;
    let (a, b) = (&ctx.need("a")?.shape.0, &ctx.need("b")?.shape.0);
    if a.is_empty() || b.is_empty() {
        let error = ctx.clash("a scalar has no matrix product");
        return Err(error.help("use `*` to multiply by a scalar"));
    }
    if a.len().max(b.len()) > MAX_RANK {
        return Err(ctx.clash(format!("more than {MAX_RANK} axes")));
    }
    let spec = matmul_spec(ctx);
    let inner = |labels: &[u8], dims: &[Dim]| {
        dims[labels.iter().position(|l| *l == K).expect("K is a label of both")].clone()
    };
    let (ka, kb) = (inner(&spec.lhs, a), inner(&spec.rhs, b));
    if ka != kb {
        let error = ctx.clash(format!("the inner extents differ: {ka} against {kb}"));
        let flipped = b.len() >= 2 && b[b.len() - 2 + usize::from(!spec_is_flipped(ctx))] == ka;
        return Err(match flipped {
            true => error.help("with `transpose_b` the other way round they would match"),
            false => error.help("`a` is […, m, k] and `b` is […, k, n] with the same k"),
        });
    }
    contracted(ctx, &spec, dtype)
}

fn spec_is_flipped(ctx: &OpCtx) -> bool {
    ctx.op.bool("transpose_b")
}

fn matmul_spec(ctx: &OpCtx) -> ContractSpec {
    let ranks: Vec<usize> = ctx.types.iter().map(TensorType::rank).collect();
    let batch = ranks.iter().map(|r| r.saturating_sub(2)).max().unwrap_or(0);
    let labels = |rank: usize, matrix: [u8; 2], flipped: bool| -> Vec<u8> {
        if rank < 2 {
            return vec![K; rank];
        }
        let lead = (batch - (rank - 2)..batch).map(|i| i as u8);
        let [x, y] = if flipped { [matrix[1], matrix[0]] } else { matrix };
        lead.chain([x, y]).collect()
    };
    let rank = |i: usize| ranks.get(i).copied().unwrap_or(0);
    let lhs = labels(rank(0), [M, K], ctx.op.bool("transpose_a"));
    let rhs = labels(rank(1), [K, N], ctx.op.bool("transpose_b"));
    let mut out: Vec<u8> = (0..batch as u8).collect();
    out.extend([M].iter().filter(|l| lhs.contains(l)));
    out.extend([N].iter().filter(|l| rhs.contains(l)));
    ContractSpec { lhs, rhs, out }
}

/// The result type of a contraction; its summed extents must have been compared.
fn contracted(ctx: &OpCtx, spec: &ContractSpec, dtype: DType) -> Result<Vec<TensorType>, OpError> {
    let extent = |labels: &[u8], ty: &TensorType, l: u8| -> Shape {
        let at = labels.iter().position(|x| *x == l);
        Shape(vec![at.map_or(Dim::ONE, |i| ty.shape.0[i].clone())])
    };
    let dims = spec.out.iter().map(|&l| {
        let (x, y) = (extent(&spec.lhs, &ctx.types[0], l), extent(&spec.rhs, &ctx.types[1], l));
        let both = broadcast(&x, &y).ok_or_else(|| {
            ctx.clash(format!("extents {} and {} do not broadcast", x.0[0], y.0[0]))
                .help("leading axes must be equal, or 1 in one of the operands")
        })?;
        Ok(both.0[0].clone())
    });
    Ok(vec![TensorType::new(dtype, Shape(dims.collect::<Result<_, OpError>>()?))])
}

fn infer_dense(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let dtype = ctx.same_number(&["x", "weight", "bias"])?;
    let (x, weight) = (&ctx.need("x")?.shape.0, &ctx.need("weight")?.shape.0);
    let [out, inner] = weight.as_slice() else {
        return Err(ctx.clash("`weight` must be [out, in]"));
    };
    let Some((last, lead)) = x.split_last() else {
        return Err(ctx.clash("`x` must be […, in], not a scalar"));
    };
    if lead.len() >= MAX_RANK {
        return Err(ctx.clash(format!("more than {MAX_RANK} axes")));
    }
    if last != inner {
        let message = format!("the last axis of `x` has {last} elements, `weight` takes {inner}");
        return Err(ctx
            .clash(message)
            .help("`weight` is [out, in]: in is the extent of `x`'s last axis"));
    }
    ctx.expect_shape("bias", std::slice::from_ref(out))?;
    let dims = lead.iter().chain([out]).cloned().collect();
    Ok(vec![TensorType::new(dtype, Shape(dims))])
}

fn dense_spec(ctx: &OpCtx) -> ContractSpec {
    let lead: Vec<u8> = (0..ctx.types[0].rank().saturating_sub(1)).map(|i| i as u8).collect();
    let with = |l: u8| lead.iter().copied().chain([l]).collect();
    ContractSpec { lhs: with(K), rhs: vec![N, K], out: with(N) }
}

fn expand_dense(b: &mut Builder, ctx: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let y = b.op("dense", &ctx.operands[..2], &[])?;
    Ok(vec![match ctx.operand("bias") {
        Some(bias) => b.op("add", &[y, bias], &[])?,
        None => y,
    }])
}

fn infer_einsum(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let dtype = ctx.same_number(&["a", "b"])?;
    let spec = einsum_spec(ctx)?;
    let mut summed: BTreeMap<u8, &Dim> = BTreeMap::new();
    for (labels, ty) in [(&spec.lhs, &ctx.types[0]), (&spec.rhs, &ctx.types[1])] {
        for (l, d) in labels.iter().zip(&ty.shape.0).filter(|(l, _)| !spec.out.contains(l)) {
            let known = *summed.entry(*l).or_insert(d);
            if known != d {
                let letter = *l as char;
                return Err(
                    ctx.clash(format!("`{letter}` is {known} in one operand, {d} in the other"))
                );
            }
        }
    }
    contracted(ctx, &spec, dtype)
}

/// Labels are the letters' own codes.
fn einsum_spec(ctx: &OpCtx) -> Result<ContractSpec, OpError> {
    let equation: String = ctx.op.str("equation").split_whitespace().collect();
    let help = "two operands and a result, one letter an axis: `bij,bkj->bik`";
    let bad =
        |what: String| ctx.bad_attr(format!("{what} in the equation `{equation}`")).help(help);
    let (left, out) = equation.split_once("->").ok_or_else(|| bad("no `->`".into()))?;
    let (lhs, rhs) = left.split_once(',').ok_or_else(|| bad("no `,`".into()))?;
    let spec = ContractSpec { lhs: lhs.into(), rhs: rhs.into(), out: out.into() };
    for labels in [&spec.lhs, &spec.rhs, &spec.out] {
        if let Some(l) = labels.iter().find(|l| !l.is_ascii_alphabetic()) {
            return Err(bad(format!("`{}` is not a letter", l.escape_ascii())));
        }
        if let Some(i) = (1..labels.len()).find(|&i| labels[..i].contains(&labels[i])) {
            return Err(bad(format!("`{}` occurs twice in one term", labels[i] as char)));
        }
    }
    for (labels, ty) in [&spec.lhs, &spec.rhs].into_iter().zip(ctx.types) {
        if labels.len() != ty.rank() {
            return Err(bad(format!("{} letters for {ty}", labels.len())));
        }
    }
    let sources = |l: &u8| (spec.lhs.contains(l), spec.rhs.contains(l));
    if let Some(l) = spec.out.iter().find(|l| sources(l) == (false, false)) {
        return Err(bad(format!("`{}` stands only after the arrow", *l as char)));
    }
    let alone = |l: &&u8| !spec.out.contains(l) && sources(l) != (true, true);
    if let Some(l) = spec.lhs.iter().chain(&spec.rhs).find(alone) {
        let message = format!("`{}` is summed over but occurs in one operand only", *l as char);
        return Err(bad(message).help("sum that operand with `sum` first"));
    }
    Ok(spec)
}

fn eval_contract(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let Class::Contract(spec) = ctx.class() else { unreachable!("these rows are contractions") };
    Ok(vec![contract(&spec, &ctx.operands[0], &ctx.operands[1])])
}

fn eval_dense(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let types: Vec<TensorType> = ctx.operands.iter().map(Tensor::ty).collect();
    let spec = dense_spec(&OpCtx { op: ctx.op, types: &types, regions: ctx.regions });
    let dtype = ctx.operands[0].dtype();
    let y = contract(&spec, &widen(&ctx.operands[0]), &widen(&ctx.operands[1]));
    let Some(bias) = ctx.operand("bias") else { return Ok(vec![convert(&y, dtype)]) };
    let bias = widen(bias);
    let y = with_number!(dtype, T => {
        let bias = bias.as_slice::<T>();
        let sums = y.as_slice::<T>().iter().zip(bias.iter().cycle());
        Tensor::from_slice(y.shape(), &sums.map(|(a, b)| a.plus(*b)).collect::<Vec<T>>())
    });
    Ok(vec![convert(&y, dtype)])
}

/// The contraction of two tensors of one dtype: the reference for [`ContractSpec`].
pub fn contract(spec: &ContractSpec, lhs: &Tensor, rhs: &Tensor) -> Tensor {
    let dtype = lhs.dtype();
    let (lhs, rhs) = (widen(lhs), widen(rhs));
    let y = with_number!(dtype, T => {
        let lhs = Labelled { data: lhs.as_slice::<T>(), shape: lhs.shape(), labels: &spec.lhs };
        let rhs = Labelled { data: rhs.as_slice::<T>(), shape: rhs.shape(), labels: &spec.rhs };
        let (shape, data) = contract_typed(&spec.out, lhs, rhs);
        Tensor::from_slice(&shape, &data)
    });
    convert(&y, dtype)
}

#[derive(Clone, Copy)]
struct Labelled<'a, T> {
    data: &'a [T],
    shape: &'a [usize],
    labels: &'a [u8],
}

impl<T: Number> Labelled<'_, T> {
    fn extent(&self, label: u8) -> usize {
        self.labels.iter().position(|l| *l == label).map_or(1, |i| self.shape[i])
    }

    /// Elements between neighbours along a label; 0 where it broadcasts.
    fn stride(&self, label: u8) -> usize {
        let at = self.labels.iter().position(|l| *l == label).filter(|&i| self.shape[i] != 1);
        at.map_or(0, |i| strides(self.shape)[i])
    }

    /// A copy whose axes stand in this order (labels it lacks are passed over).
    fn ordered(&self, order: &[u8]) -> (Vec<T>, Vec<usize>, Vec<u8>) {
        let labels: Vec<u8> = order.iter().copied().filter(|l| self.labels.contains(l)).collect();
        let shape: Vec<usize> = labels.iter().map(|l| self.extent(*l)).collect();
        let steps: Vec<usize> = labels.iter().map(|l| self.stride(*l)).collect();
        let mut data = Vec::with_capacity(self.data.len());
        walk(&shape, [&steps], |[o]| data.push(self.data[o]));
        (data, shape, labels)
    }
}

fn contract_typed<T: Number>(
    out: &[u8],
    lhs: Labelled<T>,
    rhs: Labelled<T>,
) -> (Vec<usize>, Vec<T>) {
    let extent = |l: &u8| match (lhs.extent(*l), rhs.extent(*l)) {
        (1, n) => n,
        (n, _) => n,
    };
    let shape: Vec<usize> = out.iter().map(extent).collect();
    if shape.contains(&0) {
        return (shape, vec![]);
    }
    let summed: Vec<u8> = lhs.labels.iter().copied().filter(|l| !out.contains(l)).collect();
    // The rows of the operand that varies along the last axis of the result are laid side by side,
    // so that the innermost loop is a scaled row added to a row; products commute.
    let last: Vec<u8> = out.last().copied().into_iter().collect();
    let order = [&out[..out.len() - last.len()], &summed, &last].concat();
    let swap = last.iter().any(|l| rhs.extent(*l) == 1);
    let (scale, rows) = if swap { (rhs, lhs) } else { (lhs, rhs) };
    let (copied_data, copied_shape, copied_labels) = rows.ordered(&order);
    let rows = Labelled { data: &copied_data, shape: &copied_shape, labels: &copied_labels };

    let of = |x: &Labelled<T>, labels: &[u8]| -> Vec<usize> {
        labels.iter().map(|l| x.stride(*l)).collect()
    };
    let mut terms = vec![];
    let sum_extents: Vec<usize> = summed.iter().map(extent).collect();
    walk(&sum_extents, [&of(&scale, &summed), &of(&rows, &summed)], |t| terms.push(t));
    let width = last.iter().map(extent).product::<usize>();
    let (step_s, step_r) =
        (last.iter().map(|l| scale.stride(*l)).sum(), last.iter().map(|l| rows.stride(*l)).sum());
    let outer = &out[..out.len() - last.len()];
    let outer_extents: Vec<usize> = outer.iter().map(extent).collect();
    let mut result = Vec::with_capacity(shape.iter().product());
    walk(&outer_extents, [&of(&scale, outer), &of(&rows, outer)], |[s0, r0]| {
        let start = result.len();
        result.resize(start + width, T::default());
        for [s, r] in &terms {
            add_scaled(
                &mut result[start..],
                &scale.data[s0 + s..],
                step_s,
                &rows.data[r0 + r..],
                step_r,
            );
        }
    });
    (shape, result)
}

/// `acc[j] += scale[j · step_s] · row[j · step_r]`.
fn add_scaled<T: Number>(acc: &mut [T], scale: &[T], step_s: usize, row: &[T], step_r: usize) {
    if step_s == 0 && step_r > 0 {
        return T::add_scaled(acc, scale[0], row, step_r);
    }
    for (j, a) in acc.iter_mut().enumerate() {
        *a = a.plus(scale[j * step_s].times(row[j * step_r]));
    }
}

fn matmul_samples() -> Vec<Sample> {
    let flag = |name: &'static str| (name, Attr::Bool(true));
    let mut samples = vec![
        sample([f32s(&[5, 7], 1), f32s(&[7, 3], 2)], &[]),
        sample([f32s(&[7, 5], 1), f32s(&[3, 7], 2)], &[flag("transpose_a"), flag("transpose_b")]),
        sample([f32s(&[2, 1, 4, 6], 1), f32s(&[3, 6, 5], 2)], &[]),
        sample([f32s(&[17, 33], 1), f32s(&[19, 33], 2)], &[flag("transpose_b")]),
        sample([f32s(&[9], 1), f32s(&[9], 2)], &[]),
        sample([f32s(&[9], 1), f32s(&[2, 9, 3], 2)], &[]),
        sample([f32s(&[2, 4, 9], 1), f32s(&[9], 2)], &[]),
        sample([f32s(&[3, 0], 1), f32s(&[0, 2], 2)], &[]),
        sample([f32s(&[0, 4, 3], 1), f32s(&[3, 2], 2)], &[]),
        sample([f32s(&[64, 70], 3), f32s(&[70, 65], 4)], &[]),
    ];
    let special = Tensor::from_slice(&[2, 3], &[f32::NAN, 1.0, 2.0, f32::INFINITY, 1.0, 0.5]);
    samples.push(sample([special, f32s(&[3, 4], 5)], &[]));
    for dtype in [DType::F64, DType::BF16, DType::F16, DType::I8, DType::I32, DType::I64, DType::U8]
    {
        samples.push(sample([data(dtype, &[4, 6], 6), data(dtype, &[6, 5], 7)], &[]));
    }
    samples
}

fn dense_samples() -> Vec<Sample> {
    let mut samples = vec![
        sample_of(vec![Some(f32s(&[3, 7], 1)), Some(f32s(&[5, 7], 2)), None], &[]),
        sample([f32s(&[7], 1), f32s(&[5, 7], 2), f32s(&[5], 3)], &[]),
        sample([f32s(&[2, 3, 70], 1), f32s(&[33, 70], 2), f32s(&[33], 3)], &[]),
        sample([f32s(&[0, 4], 1), f32s(&[5, 4], 2), f32s(&[5], 3)], &[]),
        sample([f32s(&[2, 0], 1), f32s(&[3, 0], 2), f32s(&[3], 3)], &[]),
    ];
    for dtype in [DType::F64, DType::BF16, DType::I32] {
        samples.push(sample(
            [data(dtype, &[4, 6], 6), data(dtype, &[5, 6], 7), data(dtype, &[5], 8)],
            &[],
        ));
    }
    samples
}

fn einsum_samples() -> Vec<Sample> {
    let eq = |s: &str| [("equation", Attr::Str(s.into()))];
    vec![
        sample([f32s(&[3, 4], 1), f32s(&[4, 5], 2)], &eq("ij,jk->ik")),
        sample([f32s(&[2, 3, 4, 5], 1), f32s(&[2, 3, 6, 5], 2)], &eq("bhid,bhjd->bhij")),
        sample([f32s(&[3, 4], 1), f32s(&[3, 4], 2)], &eq("ij, ij -> ")),
        sample([f32s(&[3], 1), f32s(&[4], 2)], &eq("i,j->ji")),
        sample([f32s(&[3, 1], 1), f32s(&[3, 4], 2)], &eq("ij,ij->ji")),
        sample([f32s(&[3, 4, 2], 1), f32s(&[2, 4, 5], 2)], &eq("aij,jib->ba")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Symbol;

    fn infer(name: &str, attrs: &[(&str, Attr)], types: &[TensorType]) -> Result<String, OpError> {
        let row = find(name).unwrap();
        let present = (1u32 << types.len()) - 1;
        let op = Op::with_operands(row, present, attrs);
        Ok((row.infer)(&OpCtx { op: &op, types, regions: &[] })?[0].to_string())
    }

    fn f32_of(dims: &[Dim]) -> TensorType {
        TensorType::new(DType::F32, Shape(dims.to_vec()))
    }

    #[test]
    fn open_dimensions_stay_open_and_distinct() {
        let (b, n) = (Dim::symbol(Symbol::new("b")), Dim::symbol(Symbol::new("n")));
        let x = f32_of(&[b.clone(), n.clone(), Dim::Const(8)]);
        assert_eq!(
            infer("matmul", &[], &[x.clone(), f32_of(&[Dim::Const(8), n.clone()])]).unwrap(),
            "f32[b, n, n]"
        );
        let error =
            infer("matmul", &[], &[x.clone(), f32_of(&[b.clone(), Dim::Const(3)])]).unwrap_err();
        assert_eq!(error.code, "E0301");
        assert_eq!(error.notes, ["`a` is f32[b, n, 8]", "`b` is f32[b, 3]"]);
        let twice = [("transpose_b", Attr::Bool(true))];
        assert_eq!(infer("matmul", &twice, &[x.clone(), x.clone()]).unwrap(), "f32[b, n, n]");
        let other = f32_of(&[n, Dim::Const(8), Dim::Const(3)]);
        assert!(infer("matmul", &[], &[x, other]).is_err(), "b does not broadcast against n");
    }

    #[test]
    fn a_result_too_large_to_count_is_refused() {
        let mut graph = Graph::new("large");
        let mut b = Builder::new(&mut graph);
        let side = 1 << 40;
        let column = b.input("x", TensorType::of(DType::F32, &[side, 1]));
        let row = b.input("y", TensorType::of(DType::F32, &[1, side]));
        assert_eq!(b.bin("matmul", column, row).unwrap_err().code, "E0304");
    }

    #[test]
    fn matmul_by_hand() {
        let a = Tensor::from_slice(&[2, 3], &[1i32, 2, 3, 4, 5, 6]);
        let b = Tensor::from_slice(&[3, 2], &[1i32, 0, 0, 1, 1, 1]);
        let spec = ContractSpec { lhs: vec![0, 2], rhs: vec![2, 1], out: vec![0, 1] };
        assert_eq!(contract(&spec, &a, &b).as_slice::<i32>(), [4, 5, 10, 11]);
        let transposed = ContractSpec { out: vec![1, 0], ..spec };
        assert_eq!(contract(&transposed, &a, &b).as_slice::<i32>(), [4, 10, 5, 11]);
        let wraps = Tensor::from_slice(&[1, 1], &[100i8]);
        assert_eq!(contract(&transposed, &wraps, &wraps).as_slice::<i8>(), [16]);
    }

    #[test]
    fn equations_are_checked() {
        let t = TensorType::of(DType::F32, &[3, 4]);
        let run = |e: &str| {
            infer("einsum", &[("equation", Attr::Str(e.into()))], &[t.clone(), t.clone()])
        };
        assert_eq!(run("ij,kj->ik").unwrap(), "f32[3, 3]");
        for bad in [
            "ij,jk",
            "ij->i",
            "ij,jk->ik",
            "ij,ik->j",
            "ii,jk->j",
            "i,ij->j",
            "ij,ij->z",
            "i.,ij->",
        ] {
            assert!(run(bad).is_err(), "{bad}");
        }
    }
}
