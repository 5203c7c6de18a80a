//! The reference evaluator: the definition of what a graph computes.
//!
//! It runs node after node by the rows' `eval`, in one of two ways: in the graph's own dtypes, or
//! with every float widened to f64 (the yardstick that tolerances are measured against).
//! In: a graph with bound dimensions, one tensor for each input, param and state.
//! Out: one tensor for each output, and the next value of each state.

use std::collections::BTreeMap;

use super::graph::{Graph, NodeId, Value};
use super::op::{Op, OpCtx, OpError};
use crate::base::{DType, Tensor, TensorType};
use crate::ir::op::Class;
use crate::ir::op::Source;

/// The dtypes in which floats are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// As the graph says; sums run in sequence.
    Own,
    /// Every float is f64.
    F64,
}

/// What a row's `eval` is given.
pub struct EvalCtx<'a> {
    pub op: &'a Op,
    /// The present operands.
    pub operands: &'a [Tensor],
    pub regions: &'a [Graph],
    /// Inferred from the graph: shapes are bound. Floats may be computed wider than said here.
    pub results: &'a [TensorType],
    pub precision: Precision,
}

impl EvalCtx<'_> {
    /// The operand of this name, if it is there.
    pub fn operand(&self, name: &str) -> Option<&Tensor> {
        let index = self.op.row.operand_index(name).expect("an operand of the row");
        self.operands.get(self.op.operand_position(index)?)
    }

    /// Extents of result `i`.
    pub fn result_shape(&self, i: usize) -> Vec<usize> {
        self.results[i].shape.concrete().expect("shapes are bound before evaluation")
    }

    /// The class of the op, from the types of the operands at hand.
    pub fn class(&self) -> Class {
        let types: Vec<TensorType> = self.operands.iter().map(Tensor::ty).collect();
        (self.op.row.class)(&OpCtx { op: self.op, types: &types, regions: self.regions })
    }

    /// Runs a region on its inputs.
    pub fn region(&self, region: usize, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, OpError> {
        let graph = &self.regions[region];
        let env = Env { inputs, ..Env::default() };
        Ok(evaluate(graph, &env, self.precision)?.outputs)
    }
}

/// Values of a graph's sources, in the order of its signature.
#[derive(Clone, Default)]
pub struct Env {
    pub inputs: Vec<Tensor>,
    pub params: Vec<Tensor>,
    pub states: Vec<Tensor>,
}

pub struct Results {
    pub outputs: Vec<Tensor>,
    /// The next value of each state.
    pub states: Vec<Tensor>,
}

/// Evaluates a graph whose dimensions are bound. Errors are those of ops that only see at run time
/// that their data is wrong; shapes were checked when the graph was built.
pub fn evaluate(graph: &Graph, env: &Env, precision: Precision) -> Result<Results, OpError> {
    let values = evaluate_all(graph, env, precision, &|_| true)?;
    let get = |v: Value| values[&v].clone();
    Ok(Results {
        outputs: graph.outputs.iter().map(|o| get(o.value)).collect(),
        states: graph.states.iter().map(|s| get(s.next)).collect(),
    })
}

/// Evaluates the nodes that `wanted` picks (with all they depend on picked too), and returns every
/// value computed. Without a source's tensor in `env` that source must not be picked.
pub fn evaluate_all(
    graph: &Graph,
    env: &Env,
    precision: Precision,
    wanted: &dyn Fn(NodeId) -> bool,
) -> Result<BTreeMap<Value, Tensor>, OpError> {
    let mut values: BTreeMap<Value, Tensor> = BTreeMap::new();
    let mut bind = |ids: &mut dyn Iterator<Item = NodeId>, tensors: &[Tensor]| {
        for (id, t) in ids.zip(tensors) {
            values.insert(Value { node: id, result: 0 }, widened(t.clone(), precision));
        }
    };
    bind(&mut graph.inputs.iter().copied(), &env.inputs);
    bind(&mut graph.params.iter().copied(), &env.params);
    bind(&mut graph.states.iter().map(|s| s.node), &env.states);
    for id in graph.topological() {
        let node = graph.node(id);
        let is_bound =
            |c: Class| matches!(c, Class::Source(Source::Input | Source::Param | Source::State));
        if !wanted(id) || is_bound(graph.class(id)) {
            continue;
        }
        let operands: Vec<Tensor> = node.operands().iter().map(|v| values[v].clone()).collect();
        let ctx = EvalCtx {
            op: &node.op,
            operands: &operands,
            regions: &node.regions,
            results: &node.results,
            precision,
        };
        for (i, t) in (node.op.row.eval)(&ctx)?.into_iter().enumerate() {
            let value = Value { node: id, result: i as u16 };
            values.insert(value, widened(t, precision));
        }
    }
    Ok(values)
}

fn widened(t: Tensor, precision: Precision) -> Tensor {
    if precision == Precision::Own || !t.dtype().is_float() || t.dtype() == DType::F64 {
        return t;
    }
    let data: Vec<f64> = (0..t.numel()).map(|i| t.get_f64(i)).collect();
    Tensor::from_slice(t.shape(), &data)
}

/// A rank-0 tensor; integers truncate and saturate.
pub fn scalar_tensor(dtype: DType, v: f64) -> Tensor {
    use half::{bf16, f16};
    match dtype {
        DType::F32 => Tensor::from_slice(&[], &[v as f32]),
        DType::F64 => Tensor::from_slice(&[], &[v]),
        DType::F16 => Tensor::from_slice(&[], &[f16::from_f64(v)]),
        DType::BF16 => Tensor::from_slice(&[], &[bf16::from_f64(v)]),
        DType::I8 => Tensor::from_slice(&[], &[v as i8]),
        DType::I16 => Tensor::from_slice(&[], &[v as i16]),
        DType::I32 => Tensor::from_slice(&[], &[v as i32]),
        DType::I64 => Tensor::from_slice(&[], &[v as i64]),
        DType::U8 => Tensor::from_slice(&[], &[v as u8]),
        DType::U16 => Tensor::from_slice(&[], &[v as u16]),
        DType::U32 => Tensor::from_slice(&[], &[v as u32]),
        DType::U64 => Tensor::from_slice(&[], &[v as u64]),
        DType::Bool => Tensor::from_bools(&[], &[v != 0.0]),
    }
}
