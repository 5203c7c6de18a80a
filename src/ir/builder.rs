//! Building graphs: adds an op after checking it by its row.

use super::attr::Attr;
use super::graph::{Graph, Loc, Node, NodeId, Output, StatePair, Value};
use super::op::{self, Op, OpCtx, OpError, OpRow};
use crate::base::{DType, Shape, Tensor, TensorType};

/// Appends nodes to a graph, all with one source location until it is changed.
pub struct Builder<'g> {
    pub graph: &'g mut Graph,
    pub loc: Option<Loc>,
}

impl<'g> Builder<'g> {
    pub fn new(graph: &'g mut Graph) -> Builder<'g> {
        Builder { graph, loc: None }
    }

    pub fn ty(&self, v: Value) -> &TensorType {
        self.graph.ty(v)
    }

    /// Adds an op; its row infers the results' types.
    pub fn push(
        &mut self,
        op: Op,
        operands: Vec<Value>,
        regions: Vec<Graph>,
    ) -> Result<NodeId, OpError> {
        op::common::check_operands(&op, operands.len())?;
        let types: Vec<TensorType> = operands.iter().map(|v| self.graph.ty(*v).clone()).collect();
        let results = OpCtx { op: &op, types: &types, regions: &regions }.infer()?;
        let mut node = Node::new(op, operands, results);
        node.regions = regions;
        node.loc = self.loc.clone();
        Ok(self.graph.add(node))
    }

    /// An op with all operands of its row and one result.
    pub fn op(
        &mut self,
        name: &str,
        operands: &[Value],
        attrs: &[(&str, Attr)],
    ) -> Result<Value, OpError> {
        let row = row(name);
        // Optional operands count as absent from the right.
        let present = match row.operands.last() {
            Some(last) if last.arity == op::Arity::Variadic => (1u32 << row.operands.len()) - 1,
            _ => (1u32 << operands.len()) - 1,
        };
        let node = self.push(Op::with_operands(row, present, attrs), operands.to_vec(), vec![])?;
        Ok(Value { node, result: 0 })
    }

    pub fn constant(&mut self, value: Tensor) -> Value {
        let op = Op::new(row("constant"), &[("value", Attr::Tensor(value))]);
        let node = self.push(op, vec![], vec![]).expect("a tensor is a valid constant");
        Value { node, result: 0 }
    }

    /// A rank-0 constant of this dtype; integers round towards zero.
    pub fn scalar(&mut self, dtype: DType, v: f64) -> Value {
        let value = super::eval::scalar_tensor(dtype, v);
        self.constant(value)
    }

    /// An input of the graph. `name` must be new.
    pub fn input(&mut self, name: &str, ty: TensorType) -> Value {
        let op = source("input", name, &ty);
        let id = self.source(op, ty);
        self.graph.inputs.push(id);
        Value { node: id, result: 0 }
    }

    /// A parameter with its initial value's recipe (`glorot_uniform`, `zeros`, `normal(0.02)` …).
    pub fn param(&mut self, path: &str, ty: TensorType, init: &str, frozen: bool) -> Value {
        let mut op = source("param", path, &ty);
        let set = |op: &mut Op, name: &str, v: Attr| {
            let i = op.row.attr_index(name).expect("an attribute of the row");
            op.attrs[i] = v;
        };
        set(&mut op, "init", Attr::Str(init.into()));
        set(&mut op, "frozen", Attr::Bool(frozen));
        let id = self.source(op, ty);
        self.graph.params.push(id);
        Value { node: id, result: 0 }
    }

    /// A state; its next value is itself until [`Builder::set_state`].
    pub fn state(&mut self, path: &str, ty: TensorType, init: &str) -> Value {
        let mut op = source("state", path, &ty);
        let i = op.row.attr_index("init").expect("an attribute of the row");
        op.attrs[i] = Attr::Str(init.into());
        let id = self.source(op, ty);
        let value = Value { node: id, result: 0 };
        self.graph.states.push(StatePair { node: id, next: value });
        value
    }

    /// Sets the value that a state takes at the end of a run.
    pub fn set_state(&mut self, state: Value, next: Value) {
        let pair = self.graph.states.iter_mut().find(|s| s.node == state.node);
        pair.expect("a state of this graph").next = next;
    }

    fn source(&mut self, op: Op, ty: TensorType) -> NodeId {
        let mut node = Node::new(op, vec![], vec![ty]);
        node.loc = self.loc.clone();
        self.graph.add(node)
    }

    pub fn output(&mut self, name: &str, value: Value) {
        self.graph.outputs.push(Output { name: name.into(), value });
    }
}

impl Graph {
    /// A node by itself: its operands are inputs `x0`, `x1` …, its first result is the output `y`.
    pub fn alone(&self, id: NodeId) -> Graph {
        let node = self.node(id);
        let mut alone = Graph::new("");
        let mut b = Builder::new(&mut alone);
        let types = node.operands().iter().map(|v| self.ty(*v).clone()).enumerate();
        let operands = types.map(|(i, ty)| b.input(&format!("x{i}"), ty)).collect();
        let mut copy = Node::new(node.op.clone(), operands, node.results.clone());
        copy.regions = node.regions.clone();
        let node = b.graph.add(copy);
        b.output("y", Value { node, result: 0 });
        alone
    }
}

fn row(name: &str) -> &'static OpRow {
    op::find(name).expect("an op of the table")
}

/// `input`, `param`, `state`: the type is an attribute pair, so that inference gives it back.
fn source(kind: &str, name: &str, ty: &TensorType) -> Op {
    let Shape(dims) = ty.shape.clone();
    Op::new(
        row(kind),
        &[
            ("name", Attr::Str(name.into())),
            ("dtype", Attr::DType(ty.dtype)),
            ("shape", Attr::Dims(dims)),
        ],
    )
}
