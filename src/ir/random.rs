//! Random graphs, built from the op table's own rules: for tests and fuzzing.
//!
//! In: a seed and limits. Out: a graph that verifies, with tensors for its sources; the same for the
//! same seed everywhere. Each op is drawn from the table. Its operands and attributes begin as one of
//! the row's samples; operands are then replaced by values that the graph has already (of the same
//! type, or after a cast and a reshape), attributes by draws from their schema, and what inference
//! refuses is drawn again.
//!
//! Invariant: graphs are well conditioned. Every value is computed along with a twin whose floats are
//! disturbed by a small noise after each op; an op whose twin strays (a comparison of near-equals,
//! the rounding of a computed number, the difference of two large ones) is not taken. So whoever
//! computes such a graph within the tolerances gets the same integers, and floats nearby.

use std::sync::LazyLock;

use super::attr::{Attr, AttrKind};
use super::eval::{Env, EvalCtx, Precision, Results, evaluate};
use super::graph::{Graph, Loc, Node, Output, Value};
use super::op::sample::{Rng, tensor};
use super::op::{self, Arity, Op, OpCtx, OpError, OpRow, Sample, Tolerance};
use super::{Builder, NodeId};
use crate::base::{DType, Dim, Tensor, TensorType};

/// What a random graph may be.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Ops drawn; adaptors (casts, reshapes) and sources come on top.
    pub ops: usize,
    /// Elements of any value.
    pub numel: usize,
    /// Magnitude of any float.
    pub magnitude: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { ops: 16, numel: 4096, magnitude: 1e3 }
    }
}

/// A graph and values for its inputs, params and states.
#[derive(Clone)]
pub struct RandomGraph {
    pub graph: Graph,
    pub env: Env,
    /// How far each output, and after them each next value, may lie from the reference: several
    /// times what noise well above every rounding did to it.
    pub slack: Vec<f64>,
}

impl RandomGraph {
    /// What the reference makes of it, in the graph's own dtypes.
    pub fn expected(&self) -> Result<Results, OpError> {
        evaluate(&self.graph, &self.env, Precision::Own)
    }

    /// Compares results with the expected ones: integers exactly, floats within the slack.
    pub fn check(&self, expected: &Results, got: &Results) -> Result<(), String> {
        let all = |r: &Results| [&r.outputs[..], &r.states].concat();
        let (expected, got) = (all(expected), all(got));
        if expected.len() != got.len() {
            return Err(format!("{} results, expected {}", got.len(), expected.len()));
        }
        for (k, (e, g)) in expected.iter().zip(&got).enumerate() {
            if e.ty() != g.ty() {
                return Err(format!("result {k} is {}, expected {}", g.ty(), e.ty()));
            }
            for i in 0..e.numel() {
                let (a, b) = (e.get_f64(i), g.get_f64(i));
                // A NaN is never within.
                let within = (a - b).abs() <= self.slack[k];
                if !within {
                    let slack = self.slack[k];
                    return Err(format!(
                        "result {k}, element {i}: got {b}, expected {a} within {slack:.2e}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The graph of a seed.
pub fn random_graph(seed: u64, limits: &Limits) -> RandomGraph {
    let rows: &[Choice] = &CHOICES;
    let mut g = Generator {
        rng: Rng(seed.wrapping_mul(0x2545f4914f6cdd1d) ^ 0x5851f42d4c957f2d),
        limits,
        graph: Graph::new(&format!("random_{seed}")),
        env: Env::default(),
        values: vec![],
    };
    let mut drawn = 0;
    // A row may have no sample that fits the limits, so attempts are bounded too.
    for _ in 0..limits.ops * 16 {
        let choice = &rows[g.below(rows.len())];
        let before = g.mark();
        if g.draw(choice).is_some() {
            drawn += 1;
        } else {
            g.rewind(before);
        }
        if drawn == limits.ops {
            break;
        }
    }
    g.finish()
}

/// A row with operands, and its samples without infinities and NaN.
struct Choice {
    row: &'static OpRow,
    samples: Vec<Sample>,
    /// Those with an operand in f32.
    favoured: Vec<usize>,
}

/// Made once, for samples are large: a function of the table alone.
static CHOICES: LazyLock<Vec<Choice>> = LazyLock::new(|| {
    let finite = |t: &Tensor| (0..t.numel()).all(|i| t.get_f64(i).is_finite());
    let is_f32 = |s: &Sample| s.operands.iter().flatten().any(|t| t.dtype() == DType::F32);
    op::table()
        .filter(|row| !row.operands.is_empty())
        .map(|row| {
            let mut samples = (row.samples)();
            samples.retain(|s| s.operands.iter().flatten().all(finite));
            let favoured = (0..samples.len()).filter(|i| is_f32(&samples[*i])).collect();
            Choice { row, samples, favoured }
        })
        .filter(|choice| !choice.samples.is_empty())
        .collect()
});

/// A value of the graph with what it computes.
struct Known {
    value: Value,
    exact: Tensor,
    /// The same along runs with noise after each op.
    noisy: [Tensor; 2],
}

struct Generator<'a> {
    rng: Rng,
    limits: &'a Limits,
    graph: Graph,
    env: Env,
    values: Vec<Known>,
}

/// A point to go back to: lengths of everything that grows.
struct Mark {
    values: usize,
    inputs: usize,
    params: usize,
    states: usize,
}

impl Generator<'_> {
    fn below(&mut self, n: usize) -> usize {
        self.rng.below(n.max(1) as u64) as usize
    }

    fn chance(&mut self, p: f64) -> bool {
        self.rng.unit() < p
    }

    fn mark(&self) -> Mark {
        let g = &self.graph;
        Mark {
            values: self.values.len(),
            inputs: g.inputs.len(),
            params: g.params.len(),
            states: g.states.len(),
        }
    }

    /// Removes all nodes that were added since, latest first.
    fn rewind(&mut self, mark: Mark) {
        for known in self.values.drain(mark.values..).rev() {
            if self.graph.contains(known.value.node) && known.value.result == 0 {
                self.graph.remove(known.value.node);
            }
        }
        self.graph.inputs.truncate(mark.inputs);
        self.graph.params.truncate(mark.params);
        self.graph.states.truncate(mark.states);
        self.env.inputs.truncate(mark.inputs);
        self.env.params.truncate(mark.params);
        self.env.states.truncate(mark.states);
    }

    /// Adds one op of this row, with the sources and adaptors that it needs.
    fn draw(&mut self, choice: &Choice) -> Option<()> {
        let row = choice.row;
        let sample = self.pick_sample(choice)?;
        let mut present = 0u32;
        let mut operands = vec![];
        for (i, spec) in row.operands.iter().enumerate() {
            let mut given = match spec.arity {
                Arity::Variadic => sample.operands.get(i..).unwrap_or(&[]).to_vec(),
                Arity::One | Arity::Optional => vec![sample.operands.get(i).cloned().flatten()],
            };
            given.retain(Option::is_some);
            if spec.arity == Arity::Variadic || !given.is_empty() {
                present |= 1 << i;
            }
            for wanted in given.into_iter().flatten() {
                operands.push(self.operand(&wanted)?);
            }
        }
        let op = Op::with_operands(row, present, &sample.attrs);
        if self.chance(0.3) {
            // A draw that fails leaves the sample's attributes.
            let mutated = self.mutate(&op);
            if self.push(mutated, &operands, sample.regions.clone()).is_some() {
                return Some(());
            }
        }
        if self.chance(0.3) {
            // Other shapes than the sample's: any known values.
            let any: Option<Vec<Value>> = operands.iter().map(|v| self.similar(*v)).collect();
            if any.and_then(|o| self.push(op.clone(), &o, sample.regions.clone())).is_some() {
                return Some(());
            }
        }
        self.push(op, &operands, sample.regions.clone()).map(|_| ())
    }

    /// A sample within the limits; f32 ones are preferred.
    fn pick_sample<'c>(&mut self, choice: &'c Choice) -> Option<&'c Sample> {
        let i = match self.chance(0.7) && !choice.favoured.is_empty() {
            true => choice.favoured[self.below(choice.favoured.len())],
            false => self.below(choice.samples.len()),
        };
        let sample = &choice.samples[i];
        let small = |t: &Tensor| t.numel() <= self.limits.numel;
        sample.operands.iter().flatten().all(small).then_some(sample)
    }

    /// A value of the wanted tensor's type and about its range: a known one, a known one cast and
    /// reshaped, or a new source.
    fn operand(&mut self, wanted: &Tensor) -> Option<Value> {
        let ty = wanted.ty();
        let range = Range::of(wanted);
        if self.chance(0.85) {
            let fits: Vec<usize> = (0..self.values.len())
                .filter(|i| {
                    let t = &self.values[*i].exact;
                    t.ty() == ty && range.holds(t)
                })
                .collect();
            if !fits.is_empty() {
                // Recent values make deep graphs.
                let k = self.below(fits.len()).max(self.below(fits.len()));
                return Some(self.values[fits[k]].value);
            }
            if let Some(v) = self.adapted(wanted, &range) {
                return Some(v);
            }
        }
        self.source(wanted.clone())
    }

    /// A known value with as many elements and a fitting range, cast and reshaped.
    fn adapted(&mut self, wanted: &Tensor, range: &Range) -> Option<Value> {
        let fits: Vec<usize> = (0..self.values.len())
            .filter(|i| {
                let t = &self.values[*i].exact;
                t.numel() == wanted.numel() && t.numel() > 0 && range.holds(t)
            })
            .collect();
        if fits.is_empty() {
            return None;
        }
        let at = fits[self.below(fits.len())];
        let mut v = self.values[at].value;
        if self.graph.ty(v).dtype != wanted.dtype() {
            let to = [("dtype", Attr::DType(wanted.dtype()))];
            v = self.push(Op::new(op::find("cast")?, &to), &[v], vec![])?;
        }
        if self.graph.ty(v).shape != wanted.ty().shape {
            let dims = wanted.shape().iter().map(|&d| Dim::from(d)).collect();
            let to = [("shape", Attr::Dims(dims))];
            v = self.push(Op::new(op::find("reshape")?, &to), &[v], vec![])?;
        }
        Some(v)
    }

    /// Another known value of the same dtype and about the same range, of any shape.
    fn similar(&mut self, v: Value) -> Option<Value> {
        let own = self.values.iter().find(|k| k.value == v)?;
        let (dtype, range) = (own.exact.dtype(), Range::of(&own.exact));
        let fits: Vec<Value> = self
            .values
            .iter()
            .filter(|k| k.exact.dtype() == dtype && range.holds(&k.exact))
            .map(|k| k.value)
            .collect();
        fits.get(self.below(fits.len())).copied()
    }

    fn source(&mut self, t: Tensor) -> Option<Value> {
        let ty = t.ty();
        let kind = self.below(10);
        let mut b = Builder::new(&mut self.graph);
        let (inputs, params) = (self.env.inputs.len(), self.env.params.len());
        let value = match kind {
            0..5 => {
                self.env.inputs.push(t.clone());
                b.input(&format!("x{inputs}"), ty)
            }
            5..7 => {
                self.env.params.push(t.clone());
                b.param(&format!("layer.{params}.weight"), ty, "glorot_uniform", kind == 5)
            }
            7 => {
                let states = self.env.states.len();
                self.env.states.push(t.clone());
                b.state(&format!("s{states}"), ty, "zeros")
            }
            _ => b.constant(t.clone()),
        };
        self.values.push(Known { value, exact: t.clone(), noisy: [t.clone(), t] });
        Some(value)
    }

    /// The op with some attributes drawn anew by their kind.
    fn mutate(&mut self, op: &Op) -> Op {
        let mut op = op.clone();
        for i in 0..op.attrs.len() {
            if !self.chance(0.5) {
                continue;
            }
            let small = |g: &mut Self| g.below(6) as i64 - 2;
            op.attrs[i] = match op.row.attrs[i].kind {
                AttrKind::Int => Attr::Int(small(self)),
                AttrKind::Float => Attr::Float([0.5, 1.0, 2.0, 0.125, -1.0][self.below(5)]),
                AttrKind::Bool => Attr::Bool(self.chance(0.5)),
                AttrKind::Word(words) => Attr::Str(words[self.below(words.len())].into()),
                AttrKind::Ints | AttrKind::IntsOr(_) => {
                    let n = 1 + self.below(3);
                    Attr::Ints((0..n).map(|_| small(self)).collect())
                }
                AttrKind::DType => {
                    let all = DType::ALL;
                    Attr::DType(all[self.below(all.len())])
                }
                AttrKind::Str | AttrKind::Dims | AttrKind::Tensor => op.attrs[i].clone(),
            };
        }
        op
    }

    /// Adds a node if inference, evaluation and conditioning allow it. Its first result.
    fn push(&mut self, op: Op, operands: &[Value], mut regions: Vec<Graph>) -> Option<Value> {
        for region in &mut regions {
            self.grow(region);
        }
        let types: Vec<TensorType> = operands.iter().map(|v| self.graph.ty(*v).clone()).collect();
        let ctx = OpCtx { op: &op, types: &types, regions: &regions };
        let results = ctx.infer().ok()?;
        for t in &results {
            if t.shape.numel()?.as_extent()? > self.limits.numel {
                return None;
            }
        }
        let known = |v: &Value| self.values.iter().find(|k| k.value == *v);
        let operands_known: Option<Vec<&Known>> = operands.iter().map(known).collect();
        let operands_known = operands_known?;
        let run = |of: &dyn Fn(&Known) -> Tensor| {
            let tensors: Vec<Tensor> = operands_known.iter().map(|k| of(k)).collect();
            (op.row.eval)(&EvalCtx {
                op: &op,
                operands: &tensors,
                regions: &regions,
                results: &results,
                precision: Precision::Own,
            })
            .ok()
        };
        let exact = run(&|k| k.exact.clone())?;
        let (first, second) = (run(&|k| k.noisy[0].clone())?, run(&|k| k.noisy[1].clone())?);
        let mut twins: Vec<(Tensor, [Tensor; 2])> = vec![];
        for (e, (a, b)) in exact.into_iter().zip(first.into_iter().zip(second)) {
            let noisy = [a, b].map(|t| disturbed(&t, op.row.tolerance, &mut self.rng));
            if noisy.iter().any(|n| !steady(&e, n, self.limits.magnitude)) {
                return None;
            }
            twins.push((e, noisy));
        }
        let mut node = Node::new(op, operands.to_vec(), results);
        node.regions = regions;
        if self.chance(0.3) {
            let name = format!("n{}", self.graph.id_bound());
            node.names.push((0, name.into()));
        }
        if self.chance(0.3) {
            let line = self.below(100) as u32;
            node.loc = Some(Loc { file: "random.dl".into(), line, column: 1 });
        }
        let id = self.graph.add(node);
        for (result, (exact, noisy)) in twins.into_iter().enumerate() {
            let value = Value { node: id, result: result as u16 };
            self.values.push(Known { value, exact, noisy });
        }
        Some(Value { node: id, result: 0 })
    }

    /// Makes a region's outputs a little less simple, keeping their types.
    fn grow(&mut self, region: &mut Graph) {
        for i in 0..region.outputs.len() {
            let value = region.outputs[i].value;
            let ty = region.ty(value).clone();
            if !self.chance(0.5) || !ty.dtype.is_float() {
                continue;
            }
            let same: Vec<Value> = region
                .ids()
                .map(|node| Value { node, result: 0 })
                .filter(|v| *region.ty(*v) == ty)
                .collect();
            let other = same.get(self.below(same.len())).copied().unwrap_or(value);
            let mut b = Builder::new(region);
            let grown = match self.below(4) {
                0 => b.op("tanh", &[value], &[]),
                1 => b.op("add", &[value, other], &[]),
                2 => b.op("mul", &[other, value], &[]),
                _ => b.op("neg", &[value], &[]),
            };
            if let Ok(grown) = grown {
                region.outputs[i].value = grown;
            }
        }
    }

    /// Outputs are all values that nothing reads, and some others; states take what fits.
    fn finish(mut self) -> RandomGraph {
        let candidates: Vec<Value> = self.values.iter().map(|k| k.value).collect();
        let is_source = |g: &Graph, id: NodeId| g.node(id).operands().is_empty();
        for v in candidates.iter().rev() {
            let unused = self.graph.use_count(v.node) == 0 && !is_source(&self.graph, v.node);
            if unused || self.chance(0.05) {
                let name = format!("out{}", self.graph.outputs.len()).into();
                self.graph.outputs.push(Output { name, value: *v });
            }
        }
        for i in 0..self.graph.states.len() {
            let ty = self.graph.node(self.graph.states[i].node).results[0].clone();
            let fits: Vec<Value> =
                candidates.iter().copied().filter(|v| *self.graph.ty(*v) == ty).collect();
            self.graph.states[i].next = fits[self.below(fits.len())];
        }
        let states = self.graph.states.iter().map(|s| s.next);
        let results: Vec<Value> =
            self.graph.outputs.iter().map(|o| o.value).chain(states).collect();
        let slack = results
            .iter()
            .map(|v| self.values.iter().find(|k| k.value == *v).map_or(0.0, slack))
            .collect();
        self.graph.compact();
        RandomGraph { graph: self.graph, env: self.env, slack }
    }
}

/// The values that an operand may take: those of its sample, a little more.
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    fn of(t: &Tensor) -> Range {
        let all = (0..t.numel()).map(|i| t.get_f64(i));
        let (low, high) = all.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        // Floats of both signs take any number; positive ones stay positive, indices in range.
        let wide = if t.dtype().is_float() && low < 0.0 { 8.0 } else { 1.0 };
        Range { low: low * wide, high: high * wide }
    }

    fn holds(&self, t: &Tensor) -> bool {
        (0..t.numel()).all(|i| (self.low..=self.high).contains(&t.get_f64(i)))
    }
}

/// The noise of a dtype, relative to a value.
fn noise(dtype: DType) -> f64 {
    match dtype {
        DType::F64 | DType::F32 => 1e-5,
        DType::F16 => 4e-3,
        DType::BF16 => 3e-2,
        DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64
        | DType::Bool => 0.0,
    }
}

/// Four times what the noise did, and at least a few roundings of the largest element.
fn slack(known: &Known) -> f64 {
    let t = &known.exact;
    let scale = (0..t.numel()).map(|i| t.get_f64(i).abs()).fold(1.0, f64::max);
    let strayed = known
        .noisy
        .iter()
        .flat_map(|n| (0..t.numel()).map(move |i| (t.get_f64(i) - n.get_f64(i)).abs()));
    4.0 * strayed.fold(0.0, f64::max) + noise(t.dtype()) / 10.0 * scale
}

/// The tensor with noise on floats: relative, and what the op may be off by where its results are tiny.
fn disturbed(t: &Tensor, tolerance: Tolerance, rng: &mut Rng) -> Tensor {
    let noise = noise(t.dtype());
    if noise == 0.0 {
        return t.clone();
    }
    let tiny = tolerance.abs * noise / self::noise(DType::F32);
    let mut value = |i: usize| {
        let v = t.get_f64(i);
        v + (noise * v.abs() + tiny) * (2.0 * rng.unit() - 1.0)
    };
    let data: Vec<f64> = (0..t.numel()).map(&mut value).collect();
    tensor(t.dtype(), t.shape(), &data)
}

/// Finite, not too large, and close to the disturbed twin; integers equal.
fn steady(exact: &Tensor, noisy: &Tensor, magnitude: f64) -> bool {
    let limit = 30.0 * noise(exact.dtype());
    let scale = (0..exact.numel()).map(|i| exact.get_f64(i).abs()).fold(1.0, f64::max);
    if exact.dtype().is_float() && scale > magnitude {
        return false;
    }
    (0..exact.numel()).all(|i| {
        let (a, b) = (exact.get_f64(i), noisy.get_f64(i));
        a.is_finite() && b.is_finite() && (a - b).abs() <= limit * scale
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::print::print_graph;
    use crate::ir::verify::verify_compact;

    #[test]
    fn graphs_verify_evaluate_and_repeat() {
        for seed in 0..20 {
            let limits = Limits::default();
            let r = random_graph(seed, &limits);
            assert_eq!(verify_compact(&r.graph), Ok(()), "{}", print_graph(&r.graph).text);
            assert!(!r.graph.outputs.is_empty(), "seed {seed}");
            let results = r.expected().unwrap();
            assert_eq!(results.outputs.len(), r.graph.outputs.len());
            assert_eq!(r.check(&results, &r.expected().unwrap()), Ok(()));
            let wide = evaluate(&r.graph, &r.env, Precision::F64).unwrap();
            assert_eq!(wide.outputs.len(), r.graph.outputs.len());
            let again = random_graph(seed, &limits);
            assert_eq!(print_graph(&again.graph).text, print_graph(&r.graph).text);
        }
    }
}
