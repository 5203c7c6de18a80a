//! Drawing a model: a graph under construction with values for its sources.
//!
//! In: a seed. Out: a [`Case`], and what its results may differ by. Small integers keep most sums
//! exact in every order, so that a wrong element is a different number and never a matter of
//! tolerance; floats, NaN and infinities, and subnormals take turns with them.

use dlc::base::{DType, Shape, Tensor, TensorType};
use dlc::ir::eval::Env;
use dlc::ir::op::sample::{Rng, tensor};
use dlc::ir::{Attr, Builder, Graph, Value};
use dlc::pipeline::Level;

/// What the elements of sources are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Data {
    Integers,
    Floats,
    /// Integers, and in the inputs NaN and infinities among them.
    Specials,
    /// Integers; what is not a factor is scaled down to subnormals of f32.
    Subnormals,
}

/// A model, values for its sources, and how to compile it.
pub struct Case {
    pub graph: Graph,
    pub env: Env,
    pub data: Data,
    pub dtype: DType,
    pub level: Level,
    pub threads: usize,
    /// Whether integers of moderate size go through without a rounding.
    pub exact: bool,
    /// Terms of all sums together.
    pub terms: usize,
}

pub struct Draw {
    rng: Rng,
    graph: Graph,
    env: Env,
    data: Data,
    pub dtype: DType,
    exact: bool,
    terms: usize,
    level: Option<Level>,
    /// Products that one contraction may take.
    pub budget: usize,
}

impl Draw {
    pub fn new(seed: u64) -> Draw {
        let mut d = Draw {
            rng: Rng(seed.wrapping_mul(0x2545f4914f6cdd1d) ^ 0x3c79ac492ba7b653),
            graph: Graph::new("shapes"),
            env: Env::default(),
            data: Data::Integers,
            dtype: DType::F32,
            exact: true,
            terms: 0,
            level: None,
            budget: 0,
        };
        // Around 50,000 products code is made with more effort.
        d.budget = d.pick(&[2_000, 20_000, 40_000, 200_000]);
        if d.one_in(8) {
            use DType::{BF16, F16, F64, I8, I32, I64};
            d.dtype = d.pick(&[F64, F16, BF16, I8, I32, I64]);
        }
        let all = [Data::Integers, Data::Floats, Data::Specials, Data::Subnormals];
        d.data = match d.dtype {
            DType::F32 => all[d.pick(&[0, 0, 0, 1, 1, 2, 2, 3])],
            DType::F64 | DType::F16 | DType::BF16 => all[d.pick(&[0, 1, 2])],
            _ => Data::Integers,
        };
        d.exact = d.data != Data::Floats;
        d
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.rng.below(n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// An op that fits by construction.
    pub fn op(&mut self, name: &str, operands: &[Value], attrs: &[(&str, Attr)]) -> Value {
        self.try_op(name, operands, attrs).unwrap_or_else(|e| panic!("{name} {attrs:?}: {e}"))
    }

    pub fn try_op(
        &mut self,
        name: &str,
        operands: &[Value],
        attrs: &[(&str, Attr)],
    ) -> Result<Value, String> {
        Builder::new(&mut self.graph).op(name, operands, attrs).map_err(|e| e.to_string())
    }

    pub fn shape(&self, v: Value) -> Vec<usize> {
        self.graph.ty(v).shape.concrete().expect("all dimensions are numbers")
    }

    /// Notes that results are sums of so many terms.
    pub fn sums(&mut self, terms: usize) {
        self.terms += terms;
    }

    /// Notes an op that rounds.
    pub fn rounds(&mut self) {
        self.exact = false;
    }

    /// Compiles at this level, and not at any.
    pub fn compile_at(&mut self, level: Level) {
        self.level = Some(level);
    }

    /// An input.
    pub fn input(&mut self, shape: &[usize]) -> Value {
        let scale = if self.data == Data::Subnormals { 2f64.powi(-147) } else { 1.0 };
        let t = self.tensor(shape, scale, self.data == Data::Specials);
        self.source(t, 0)
    }

    /// A parameter.
    pub fn param(&mut self, shape: &[usize]) -> Value {
        let t = self.tensor(shape, 1.0, false);
        self.source(t, 1)
    }

    /// A tensor that is computed on: mostly an input.
    pub fn values(&mut self, shape: &[usize]) -> Value {
        let kind = self.pick(&[0, 0, 0, 0, 1, 2]);
        let scale = if self.data == Data::Subnormals { 2f64.powi(-147) } else { 1.0 };
        let t = self.tensor(shape, scale, self.data == Data::Specials && kind == 0);
        self.source(t, kind)
    }

    /// A tensor of factors: mostly a parameter.
    pub fn weights(&mut self, shape: &[usize]) -> Value {
        let t = self.tensor(shape, 1.0, false);
        let kind = self.pick(&[0, 1, 1, 1, 1, 2]);
        self.source(t, kind)
    }

    fn tensor(&mut self, shape: &[usize], scale: f64, specials: bool) -> Tensor {
        let n: usize = shape.iter().product();
        let narrow = self.dtype.bytes() < 4;
        let data: Vec<f64> = (0..n)
            .map(|_| match self.data {
                Data::Floats => 2.0 * self.rng.unit() - 1.0,
                _ if specials && self.rng.below(1 + n as u64 / 2) == 0 => {
                    self.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY])
                }
                _ if narrow => self.rng.below(3) as f64 - 1.0,
                _ => scale * (self.rng.below(7) as f64 - 3.0),
            })
            .collect();
        tensor(self.dtype, shape, &data)
    }

    fn source(&mut self, t: Tensor, kind: usize) -> Value {
        let ty = t.ty();
        let (inputs, params) = (self.env.inputs.len(), self.env.params.len());
        let mut b = Builder::new(&mut self.graph);
        match kind {
            0 => {
                self.env.inputs.push(t);
                b.input(&format!("x{inputs}"), ty)
            }
            1 => {
                self.env.params.push(t);
                b.param(&format!("w{params}"), ty, "zeros", false)
            }
            _ => b.constant(t),
        }
    }

    pub fn scalar(&mut self, v: f64) -> Value {
        let dtype = self.dtype;
        Builder::new(&mut self.graph).scalar(dtype, v)
    }

    pub fn reshape(&mut self, x: Value, shape: &[usize]) -> Value {
        let to: Shape = TensorType::of(self.dtype, shape).shape;
        Builder::new(&mut self.graph).reshape(x, &to).expect("as many elements")
    }

    pub fn permute(&mut self, x: Value, perm: &[usize]) -> Value {
        let perm = perm.iter().map(|a| *a as i64).collect();
        self.op("transpose", &[x], &[("perm", Attr::Ints(perm))])
    }

    /// Up to three elementwise ops, as they stand behind a contraction or before one.
    pub fn elementwise(&mut self, mut y: Value, channels: usize, most: usize) -> Value {
        let float = self.dtype.is_float();
        for _ in 0..self.below(most + 1) {
            let shape = self.shape(y);
            // One number for each channel, or all of them.
            let mut column = vec![1; shape.len().saturating_sub(channels)];
            if let (Some(first), Some(n)) = (column.first_mut(), shape.get(channels)) {
                *first = *n;
            }
            y = match self.below(if float { 12 } else { 8 }) {
                0 | 1 => self.op("relu", &[y], &[]),
                2 | 3 => {
                    let bias = self.weights_like_values(&column);
                    self.op("add", &[y, bias], &[])
                }
                4 => {
                    let rest = self.values(&shape);
                    let both = if self.one_in(2) { [y, rest] } else { [rest, y] };
                    self.op("add", &both, &[])
                }
                5 => {
                    let scale = self.weights(&column);
                    self.op("mul", &[y, scale], &[])
                }
                6 => {
                    let factor = self.pick(&[2.0, -1.0, 0.0, 4.0]);
                    let factor = self.scalar(factor);
                    self.op("mul", &[y, factor], &[])
                }
                7 => {
                    let (name, bound) = self.pick(&[("minimum", 6.0), ("maximum", -2.0)]);
                    let bound = self.scalar(bound);
                    self.op(name, &[y, bound], &[])
                }
                rounded => {
                    self.rounds();
                    let name = ["tanh", "gelu", "sigmoid", "silu"][rounded - 8];
                    self.op(name, &[y], &[])
                }
            };
        }
        y
    }

    /// A bias is a parameter, but no factor.
    fn weights_like_values(&mut self, shape: &[usize]) -> Value {
        let scale = if self.data == Data::Subnormals { 2f64.powi(-147) } else { 1.0 };
        let t = self.tensor(shape, scale, false);
        let kind = self.pick(&[0, 1, 1, 1]);
        self.source(t, kind)
    }

    pub fn bias(&mut self, channels: usize) -> Value {
        self.weights_like_values(&[channels])
    }

    pub fn finish(mut self, outputs: &[Value]) -> Case {
        let mut b = Builder::new(&mut self.graph);
        for (i, v) in outputs.iter().enumerate() {
            b.output(&format!("y{i}"), *v);
        }
        let any = self.pick(&[Level::O0, Level::O1, Level::O2, Level::O2, Level::O2, Level::O2]);
        let level = self.level.unwrap_or(any);
        let threads = self.pick(&[1, 1, 1, 1, 1, 1, 1, 2]);
        self.graph.compact();
        let Draw { graph, env, data, dtype, exact, terms, .. } = self;
        Case { graph, env, data, dtype, level, threads, exact, terms }
    }
}
