//! The samples of a row as one-node graphs with their reference results: what the walk of the table,
//! self-tests and random graphs go through.

use super::*;
use crate::ir::compare::{Mismatch, against_reference};
use crate::ir::eval::{Env, Precision, evaluate};
use crate::ir::graph::NodeId;

/// One sample, ready to be run anywhere.
pub struct Case {
    pub row: &'static OpRow,
    /// The number of the sample in its row.
    pub index: usize,
    /// One input for each operand, the node, one output for each result.
    pub graph: Graph,
    pub node: NodeId,
    pub env: Env,
    /// Results in the op's own dtype, and with every float in f64.
    pub own: Vec<Tensor>,
    pub exact: Vec<Tensor>,
}

/// Every sample of a row; an error names the sample that the row itself does not take.
pub fn cases(row: &'static OpRow) -> impl Iterator<Item = Result<Case, String>> {
    (row.samples)().into_iter().enumerate().map(move |(index, sample)| {
        let fail = |e: OpError| format!("{} sample {index}: {e} {:?}", row.name, e.notes);
        let (graph, node, env) = graph_of(row, sample).map_err(fail)?;
        let run = |p| evaluate(&graph, &env, p).map(|r| r.outputs).map_err(fail);
        let (own, exact) = (run(Precision::Own)?, run(Precision::F64)?);
        Ok(Case { row, index, graph, node, env, own, exact })
    })
}

impl Case {
    /// Whether these results are right, by the row's tolerance.
    pub fn check(&self, got: &[Tensor]) -> Result<(), String> {
        if got.len() != self.own.len() {
            return Err(format!("{} results instead of {}", got.len(), self.own.len()));
        }
        let fail = |(i, m): (usize, Mismatch)| format!("result {i}: {m}");
        let pairs = got.iter().zip(&self.own).zip(&self.exact).enumerate();
        pairs.into_iter().try_for_each(|(i, ((g, o), e))| {
            against_reference(g, o, e, self.row.tolerance).map_err(|m| fail((i, m)))
        })
    }

    /// The same with the node replaced by its row's expansion, for composites.
    pub fn expanded(&self) -> Result<Option<Graph>, OpError> {
        let Some(expand) = self.row.expand else { return Ok(None) };
        if self.graph.class(self.node) != Class::Composite {
            return Ok(None);
        }
        let node = self.graph.node(self.node);
        let types = self.graph.op_types(self.node);
        let mut graph = Graph::new("expanded");
        let mut b = Builder::new(&mut graph);
        let operands = inputs(&mut b, &types);
        let ctx = ExpandCtx {
            op: &node.op,
            operands: &operands,
            types: &types,
            results: &node.results,
            regions: &node.regions,
        };
        let values = expand(&mut b, &ctx)?;
        values.iter().enumerate().for_each(|(i, v)| b.output(&format!("out{i}"), *v));
        Ok(Some(graph))
    }
}

/// A graph of one op: inputs `in0 …`, outputs `out0 …`, and the inputs' values.
pub fn graph_of(row: &'static OpRow, sample: Sample) -> Result<(Graph, NodeId, Env), OpError> {
    // A variadic operand counts as present, however many values it has.
    let is_there = |i: usize| match row.operands[i].arity {
        Arity::Variadic => true,
        Arity::One | Arity::Optional => sample.operands.get(i).is_some_and(Option::is_some),
    };
    let present = (0..row.operands.len()).filter(|&i| is_there(i)).fold(0u32, |p, i| p | 1 << i);
    let tensors: Vec<Tensor> = sample.operands.into_iter().flatten().collect();
    let types: Vec<TensorType> = tensors.iter().map(Tensor::ty).collect();
    let mut graph = Graph::new(row.name);
    let mut b = Builder::new(&mut graph);
    let operands = inputs(&mut b, &types);
    let op = Op::with_operands(row, present, &sample.attrs);
    let node = b.push(op, operands, sample.regions)?;
    for i in 0..b.graph.node(node).results.len() {
        b.output(&format!("out{i}"), Value { node, result: i as u16 });
    }
    Ok((graph, node, Env { inputs: tensors, ..Env::default() }))
}

fn inputs(b: &mut Builder, types: &[TensorType]) -> Vec<Value> {
    types.iter().enumerate().map(|(i, t)| b.input(&format!("in{i}"), t.clone())).collect()
}
