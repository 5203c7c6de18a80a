//! The reference evaluator: the definition of what a graph computes.
//!
//! It runs node after node by the rows' `eval`, in one of two ways: in the graph's own dtypes, or
//! with every float widened to f64 (the yardstick that tolerances are measured against).
//! In: a graph with bound dimensions, one tensor for each input, param and state.
//! Out: one tensor for each output, and the next value of each state.

use std::collections::BTreeMap;

use super::graph::{Graph, NodeId, Value};
use super::op::{Op, OpCtx, OpError};
use super::scalar_eval::{Num, Scalar, convert, for_dtype};
use crate::base::{DType, Tensor, TensorType};
use crate::ir::op::Class;

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
    let results = graph.outputs.iter().map(|o| o.value);
    let kept: Vec<Value> = results.chain(graph.states.iter().map(|s| s.next)).collect();
    let mut run = Run::new(graph, precision);
    run.bind(env);
    run.free_after_last_use(&kept);
    run.all(&|_| true)?;
    let get = |v: &Value| run.get(*v);
    let n = graph.outputs.len();
    Ok(Results {
        outputs: kept[..n].iter().map(get).collect(),
        states: kept[n..].iter().map(get).collect(),
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
    let mut run = Run::new(graph, precision);
    run.bind(env);
    run.all(wanted)?;
    let value = |(node, results): (usize, Vec<Option<Tensor>>)| {
        let node = NodeId(node as u32);
        let named =
            move |(i, t): (usize, Option<Tensor>)| Some((Value { node, result: i as u16 }, t?));
        results.into_iter().enumerate().filter_map(named)
    };
    Ok(run.values.into_iter().enumerate().flat_map(value).collect())
}

/// No tensor of the evaluator is larger than this: a model may ask for any size.
pub const MAX_BYTES: u64 = 1 << 32;

/// One evaluation.
struct Run<'g> {
    graph: &'g Graph,
    precision: Precision,
    /// Results of each node, by its id; empty where it has not been computed.
    values: Vec<Vec<Option<Tensor>>>,
    /// How many operands have yet to read a result of each node; `None`: nothing is freed.
    uses: Option<Vec<usize>>,
}

impl<'g> Run<'g> {
    fn new(graph: &'g Graph, precision: Precision) -> Run<'g> {
        Run { graph, precision, values: vec![vec![]; graph.id_bound()], uses: None }
    }

    fn bind(&mut self, env: &Env) {
        let g = self.graph;
        let states = g.states.iter().map(|s| &s.node);
        let sources = (g.inputs.iter().zip(&env.inputs))
            .chain(g.params.iter().zip(&env.params))
            .chain(states.zip(&env.states));
        for (id, t) in sources {
            self.values[id.0 as usize] = vec![Some(widened(t.clone(), self.precision))];
        }
    }

    /// Values go when the last node that reads them has run; those of `kept` stay.
    fn free_after_last_use(&mut self, kept: &[Value]) {
        let mut uses = vec![0; self.values.len()];
        let operands = self.graph.ids().flat_map(|id| self.graph.node(id).operands());
        for v in operands.chain(kept) {
            uses[v.node.0 as usize] += 1;
        }
        self.uses = Some(uses);
    }

    fn all(&mut self, wanted: &dyn Fn(NodeId) -> bool) -> Result<(), OpError> {
        for id in self.graph.topological() {
            if wanted(id) && self.values[id.0 as usize].is_empty() {
                self.node(id)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, id: NodeId) -> Result<(), OpError> {
        let node = self.graph.node(id);
        for ty in &node.results {
            if ty.bytes().is_none_or(|b| b > MAX_BYTES) {
                let message = format!("`{}` makes {ty}: too large to evaluate", node.op.row.name);
                return Err(OpError::new("E0304", message));
            }
        }
        let operands: Vec<Tensor> = node.operands().iter().map(|v| self.get(*v)).collect();
        let ctx = EvalCtx {
            op: &node.op,
            operands: &operands,
            regions: &node.regions,
            results: &node.results,
            precision: self.precision,
        };
        let results = (node.op.row.eval)(&ctx)?;
        let widen = |t| Some(widened(t, self.precision));
        self.values[id.0 as usize] = results.into_iter().map(widen).collect();
        if let Some(uses) = &mut self.uses {
            for v in node.operands() {
                let left = &mut uses[v.node.0 as usize];
                *left -= 1;
                if *left == 0 {
                    self.values[v.node.0 as usize] = vec![];
                }
            }
            if uses[id.0 as usize] == 0 {
                self.values[id.0 as usize] = vec![];
            }
        }
        Ok(())
    }

    fn get(&self, v: Value) -> Tensor {
        let result = self.values[v.node.0 as usize].get(v.result as usize);
        result.cloned().flatten().expect("operands are evaluated before their users")
    }
}

fn widened(t: Tensor, precision: Precision) -> Tensor {
    match precision == Precision::F64 && t.dtype().is_float() {
        true => convert(&t, DType::F64),
        false => t,
    }
}

/// A rank-0 tensor; integers truncate and saturate.
pub fn scalar_tensor(dtype: DType, v: f64) -> Tensor {
    for_dtype!(dtype, T => Tensor::from_slice(&[], &[T::from_num(Num::Float(v))]))
}
