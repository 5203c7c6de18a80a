//! Attention by the parts of a template against the loops.

use super::fusion::{Mode, fuse};
use super::lower::lower_group;
use crate::base::machine::{Isa, Machine};
use crate::base::tensor::AlignedBytes;
use crate::base::{DType, Tensor, TensorType};
use crate::ir::attr::Attr;
use crate::ir::builder::Builder;
use crate::ir::compare::{allclose, scaled};
use crate::ir::graph::{Graph, Value};
use crate::ir::op::sample::f32s;
use crate::ir::op::walk::cases;
use crate::ir::op::{Class, RegionKind, Tolerance, find};
use crate::kernel::attention::Attention;
use crate::kernel::eval::run_all;
use crate::kernel::generate::attention::attention;
use crate::kernel::generate::loops;
use crate::kernel::ir::Kernel;
use crate::kernel::nest::Nest;
use crate::kernel::product::Operand;
use crate::kernel::verify::verify;

fn machine() -> Machine {
    Machine::new(Isa::Gpu, 16)
}

/// The nest of the only group of a graph, and its operands' values.
fn nest(graph: &Graph, inputs: &[Tensor]) -> (Nest, Vec<Vec<u8>>) {
    let fused = fuse(graph, Mode::Together).unwrap().graph;
    let mut groups = fused.ids().filter(|id| fused.class(*id) == Class::Region(RegionKind::Do));
    let group = groups.next().expect("there is one");
    assert!(groups.next().is_none(), "one group");
    let node = fused.node(group);
    let value = |v: &Value| {
        let at = fused.inputs.iter().position(|i| *i == v.node).expect("an input");
        inputs[at].bytes().to_vec()
    };
    let operands = node.operands().iter().map(value).collect();
    (lower_group("k", &node.regions[0]).unwrap(), operands)
}

/// The results in buffers of all slots.
fn results(nest: &Nest, buffers: &[Vec<u8>]) -> Vec<Tensor> {
    let tensor = |(slot, bytes): (&crate::kernel::nest::Slot, &Vec<u8>)| {
        Tensor::from_bytes(slot.dtype, &slot.shape, AlignedBytes::copy_of(bytes)).unwrap()
    };
    nest.slots.iter().zip(buffers).skip(nest.operands).map(tensor).collect()
}

/// Runs parts of an attention, with matrices behind the buffers of the nest.
struct Parts<'a> {
    a: &'a Attention,
    buffers: Vec<Vec<u8>>,
}

impl Parts<'_> {
    /// What stands in the last of these matrices afterwards.
    fn run(&mut self, kernel: &Kernel, matrices: &[&[f32]]) -> Vec<f32> {
        verify(kernel).unwrap_or_else(|e| panic!("{e}"));
        let own = self.buffers.len();
        self.buffers.extend(matrices.iter().map(|m| bytemuck::cast_slice(m).to_vec()));
        run_all(kernel, &mut self.buffers).unwrap_or_else(|e| panic!("{e}"));
        let last = bytemuck::pod_collect_to_vec(self.buffers.last().unwrap());
        self.buffers.truncate(own);
        last
    }

    /// The elements of an operand, by (group, row or column, step).
    fn operand(
        &mut self,
        o: &Operand,
        steps: u32,
        others: u32,
    ) -> impl Fn(usize, usize, usize) -> f32 + use<> {
        let [groups, steps, others] = [self.a.groups, steps, others].map(|n| n as usize);
        let all = self.run(&o.kernel, &[&vec![f32::NAN; groups * steps * others]]);
        let by_steps = o.by_steps;
        move |group, other, step| match by_steps {
            true => all[(group * others + other) * steps + step],
            false => all[(group * steps + step) * others + other],
        }
    }

    fn all(&mut self) {
        let &Attention { groups, rows, keys, depth, width, .. } = self.a;
        let a = self.a;
        let query = self.operand(&a.query, depth, rows);
        let key = self.operand(&a.key, depth, keys);
        let value = self.operand(&a.value, keys, width);
        let [groups, rows, keys, depth, width] =
            [groups, rows, keys, depth, width].map(|n| n as usize);
        let point = |i: usize, inner: usize| (i / inner / rows, i / inner % rows, i % inner);
        let product = |i: usize| {
            let (g, r, k) = point(i, keys);
            (0..depth).map(|d| query(g, r, d) * key(g, k, d)).sum()
        };
        let products: Vec<f32> = (0..groups * rows * keys).map(product).collect();
        let scores = self.run(&a.score, &[&products, &vec![f32::NAN; products.len()]]);
        let of_row = |row: usize| &scores[row * keys..][..keys];
        let top = |row| of_row(row).iter().fold(f32::NEG_INFINITY, |t, s| t.max(*s));
        let tops: Vec<f32> = (0..groups * rows).map(top).collect();
        let shift = |row: usize| if tops[row] == f32::NEG_INFINITY { 0.0 } else { tops[row] };
        let weight = |row: usize, k: usize| (of_row(row)[k] - shift(row)).exp();
        let total = |row| (0..keys).map(|k| weight(row, k)).sum();
        let totals: Vec<f32> = (0..groups * rows).map(total).collect();
        let sum = |i: usize| {
            let (g, r, c) = point(i, width);
            (0..keys).map(|k| weight(g * rows + r, k) * value(g, c, k)).sum()
        };
        let sums: Vec<f32> = (0..groups * rows * width).map(sum).collect();
        let wide = |of_row: &[f32]| (0..sums.len()).map(|i| of_row[i / width]).collect::<Vec<_>>();
        self.run(&a.finish, &[&sums, &wide(&tops), &wide(&totals)]);
        if let Some(of_rows) = &a.of_rows {
            self.run(of_rows, &[&tops, &totals]);
        }
    }
}

/// Whether a nest is attention; its parts then give what the loops give.
fn check(what: &str, (nest, operands): (Nest, Vec<Vec<u8>>)) -> bool {
    let Some(a) = attention(&nest, &machine()) else { return false };
    let of_results = nest.slots[nest.operands..].iter();
    let empty = of_results.map(|s| vec![0u8; s.numel() as usize * s.dtype.bytes()]);
    let buffers: Vec<Vec<u8>> = operands.into_iter().chain(empty).collect();
    let mut by_loops = buffers.clone();
    run_all(&loops::build(&nest, &machine()), &mut by_loops).unwrap();
    let mut parts = Parts { a: &a, buffers };
    parts.all();
    for (got, want) in results(&nest, &parts.buffers).iter().zip(results(&nest, &by_loops)) {
        let Tolerance { rel, abs } = scaled(Tolerance::SUM, got.dtype());
        allclose(got, &want, rel, abs).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    true
}

/// Masks, offsets, shared heads, rows without keys, the logarithm of the sum, in all floats.
#[test]
fn samples_of_the_op() {
    let mut kinds = [0, 0];
    for case in cases(find("attention").unwrap()) {
        let case = case.unwrap();
        let types: Vec<TensorType> = case.env.inputs.iter().map(Tensor::ty).collect();
        let empty = case.env.inputs.iter().any(|t| t.numel() == 0);
        let (what, wide) = (format!("sample {}", case.index), types[0].dtype == DType::F64);
        let is = check(&what, nest(&case.graph, &case.env.inputs));
        assert_eq!(is, !empty && !wide, "{what}");
        kinds[is as usize] += 1;
    }
    assert!(kinds[1] > 20, "{kinds:?}");
}

/// Heads that a view takes out of rows of [sequence, 3 · heads · dim], and results put back behind
/// each other, changed.
#[test]
fn views_and_what_is_made_of_the_result() {
    for (heads, of_keys, seq) in [(3, 3, 11), (4, 2, 6), (4, 1, 1)] {
        let dim = 8;
        let mut graph = Graph::new("");
        let mut b = Builder::new(&mut graph);
        let wide = (heads + 2 * of_keys) * dim;
        let all = TensorType::of(DType::F32, &[2, seq, wide]);
        let x = b.input("x", all.clone());
        let more = b.input("more", TensorType::of(DType::F32, &[2, seq, heads * dim]));
        let mut from = 0;
        let mut part = |b: &mut Builder, heads: usize| {
            let ints = |all: &[usize]| Attr::Ints(all.iter().map(|n| *n as i64).collect());
            let attrs = [
                ("axes", ints(&[2])),
                ("starts", ints(&[from])),
                ("ends", ints(&[from + heads * dim])),
            ];
            from += heads * dim;
            let x = b.op("slice", &[x], &attrs).unwrap();
            let shape = TensorType::of(DType::F32, &[2, seq, heads, dim]).shape;
            let x = b.reshape(x, &shape).unwrap();
            b.op("transpose", &[x], &[("perm", ints(&[0, 2, 1, 3]))]).unwrap()
        };
        let qkv = [part(&mut b, heads), part(&mut b, of_keys), part(&mut b, of_keys)];
        let y = b.op("attention", &qkv, &[("causal", Attr::Bool(true))]).unwrap();
        let y = b.op("transpose", &[y], &[("perm", Attr::Ints(vec![0, 2, 1, 3]))]).unwrap();
        let shape = TensorType::of(DType::F32, &[2, seq, heads * dim]).shape;
        let y = b.reshape(y, &shape).unwrap();
        let y = b.bin("add", y, more).unwrap();
        let y = b.op("relu", &[y], &[]).unwrap();
        b.output("y", y);
        let inputs = [wide, heads * dim].map(|n| f32s(&[2, seq, n], 3));
        let what = format!("{heads} heads, {of_keys} of keys, {seq} rows");
        assert!(check(&what, nest(&graph, &inputs)), "{what}");
    }
}

/// What is made of a weighted sum, its weights and their sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Exact,
    /// The greatest score is taken as it is, −∞ too.
    Top,
    /// Values are weighted by something else than what is summed up.
    Weights,
    /// The divisor is that of another row.
    Row,
    /// The greatest score is that of other scores, or of fewer.
    Scores,
    Fewer,
}

/// Attention written out, and what is nearly that, which stays with the loops.
#[test]
fn only_attention_is() {
    let all =
        [Change::Exact, Change::Top, Change::Weights, Change::Row, Change::Scores, Change::Fewer];
    for change in all {
        let mut graph = Graph::new("");
        let mut b = Builder::new(&mut graph);
        let shapes = [[2, 9, 8], [2, 12, 8], [2, 12, 5]].map(|s| TensorType::of(DType::F32, &s));
        let [q, k, v] = [0, 1, 2].map(|i| b.input(&format!("x{i}"), shapes[i].clone()));
        let s = b.op("matmul", &[q, k], &[("transpose_b", Attr::Bool(true))]).unwrap();
        let keys = [("axis", Attr::Ints(vec![-1])), ("keepdims", Attr::Bool(true))];
        let first =
            [("axes", 2), ("starts", 0), ("ends", 7)].map(|(n, i)| (n, Attr::Ints(vec![i])));
        let of = if change == Change::Scores {
            b.bin_const("mul", s, 0.5).unwrap()
        } else if change == Change::Fewer {
            b.op("slice", &[s], &first).unwrap()
        } else {
            s
        };
        let top = b.op("amax", &[of], &keys).unwrap();
        let (least, zero) = (b.scalar(DType::F32, f64::NEG_INFINITY), b.scalar(DType::F32, 0.0));
        let nothing = b.bin("eq", top, least).unwrap();
        let guarded = b.op("where", &[nothing, zero, top], &[]).unwrap();
        let below = b.bin("sub", s, if change == Change::Top { top } else { guarded }).unwrap();
        let e = b.un("exp", below).unwrap();
        let z = b.op("sum", &[e], &keys).unwrap();
        let weights = if change == Change::Weights { b.bin("mul", e, s).unwrap() } else { e };
        let o = b.bin("matmul", weights, v).unwrap();
        let z = if change == Change::Row {
            let z = b.reshape(z, &TensorType::of(DType::F32, &[9, 2, 1]).shape).unwrap();
            b.op("transpose", &[z], &[("perm", Attr::Ints(vec![1, 0, 2]))]).unwrap()
        } else {
            z
        };
        let y = b.bin("div", o, z).unwrap();
        b.output("y", y);
        let nest = lower_group("k", &graph).unwrap();
        let operands = nest.slots[..3].iter().enumerate();
        let filled = operands.map(|(i, s)| f32s(&s.shape, i as u64));
        let filled = filled.map(|t| t.bytes().to_vec()).collect();
        let is = check(&format!("{change:?}"), (nest, filled));
        assert_eq!(is, change == Change::Exact, "{change:?}");
    }
}
