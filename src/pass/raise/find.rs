//! Looking backwards from a value: what it is computed from.

use super::super::{class_of, constant};
use crate::base::Dim;
use crate::ir::op::{Class, View};
use crate::ir::scalar::{Combine, ScalarFn};
use crate::ir::{Attr, Graph, Node, Value};

/// Product trees deeper than this are not looked through.
const DEPTH: usize = 4;

pub struct Find<'a> {
    pub graph: &'a Graph,
    /// By id: results that one op reads.
    pub single: &'a [bool],
}

impl<'a> Find<'a> {
    pub fn node(&self, v: Value) -> &'a Node {
        self.graph.node(v.node)
    }

    pub fn is_single(&self, v: Value) -> bool {
        self.single.get(v.node.0 as usize) == Some(&true)
    }

    /// The extents of a value.
    pub fn dims(&self, v: Value) -> &'a [Dim] {
        self.graph.ty(v).shape.dims()
    }

    /// The operands, where the value is the first result of the op of this name.
    pub fn op(&self, v: Value, name: &str) -> Option<&'a Node> {
        let node = self.node(v);
        (v.result == 0 && node.op.row.name == name).then_some(node)
    }

    /// The operands of this elementwise function of one or two operands.
    pub fn unary(&self, v: Value, f: ScalarFn) -> Option<Value> {
        self.function(self.node(v), f).map(|o| o[0])
    }

    pub fn binary(&self, v: Value, f: ScalarFn) -> Option<[Value; 2]> {
        self.function(self.node(v), f).and_then(|o| o.try_into().ok())
    }

    pub fn function(&self, node: &'a Node, f: ScalarFn) -> Option<&'a [Value]> {
        (class_of(self.graph, node) == Class::Elementwise(f)).then(|| node.operands())
    }

    /// The operands of a commutative function in an order in which `first` holds.
    pub fn either(
        &self,
        v: Value,
        f: ScalarFn,
        first: impl Fn(Value) -> bool,
    ) -> Option<[Value; 2]> {
        let [a, b] = self.binary(v, f)?;
        match (first(a), first(b)) {
            (true, _) => Some([a, b]),
            (_, true) => Some([b, a]),
            _ => None,
        }
    }

    /// The number that a constant of one number holds, through views.
    pub fn number(&self, v: Value) -> Option<f64> {
        let v = self.stripped(v);
        let t = constant(self.graph, v)?;
        (t.numel() == 1).then(|| t.get_f64(0))
    }

    /// About this number, to the precision of narrow floats written as text.
    pub fn is_about(&self, v: f64, wanted: f64) -> bool {
        (v - wanted).abs() <= 1e-3 * wanted.abs()
    }

    /// What a value is a broadcast or a reshape of.
    pub fn stripped(&self, mut v: Value) -> Value {
        while let Class::View(View::Broadcast | View::Reshape) = class_of(self.graph, self.node(v))
        {
            v = self.node(v).operands()[0];
        }
        v
    }

    /// Whether the extents of `v` are those of `x` with 1 along `axes`, or those of `x` in full.
    fn is_kept(&self, v: Value, x: Value, axes: &[usize]) -> bool {
        let (of_v, of_x) = (self.dims(v), self.dims(x));
        let kept = |i: usize| if axes.contains(&i) { &Dim::ONE } else { &of_x[i] };
        of_v.len() == of_x.len() && (of_v == of_x || (0..of_x.len()).all(|i| of_v[i] == *kept(i)))
    }

    /// The axes, where `v` is this reduction of `x` and stands beside `x` with those axes kept.
    pub fn reduced(&self, v: Value, x: Value, combine: Combine) -> Option<Vec<usize>> {
        let node = self.node(self.stripped(v));
        let Class::Reduce(spec) = class_of(self.graph, node) else { return None };
        let fits =
            spec.combine == combine && node.operands()[0] == x && self.is_kept(v, x, &spec.axes);
        fits.then_some(spec.axes)
    }

    /// The operand and the axes, where `v` is a mean with its axes kept: the op, or a sum divided by
    /// the number of elements.
    pub fn mean(&self, v: Value) -> Option<(Value, Vec<usize>)> {
        let inner = self.stripped(v);
        let found = match self.op(inner, "mean") {
            Some(node) => {
                let x = node.operands()[0];
                (x, self.axes(node, self.dims(x).len())?)
            }
            None => self.divided_sum(inner)?,
        };
        self.is_kept(v, found.0, &found.1).then_some(found)
    }

    fn divided_sum(&self, v: Value) -> Option<(Value, Vec<usize>)> {
        let (sum, count) = match self.binary(v, ScalarFn::Div) {
            Some([sum, n]) => (sum, self.number(n)?),
            None => {
                let [n, sum] = self.either(v, ScalarFn::Mul, |c| self.number(c).is_some())?;
                (sum, 1.0 / self.number(n)?)
            }
        };
        let node = self.node(self.stripped(sum));
        let Class::Reduce(spec) = class_of(self.graph, node) else { return None };
        let x = node.operands()[0];
        let extents = spec.axes.iter().map(|a| self.dims(x)[*a].as_const());
        let n = extents.product::<Option<i64>>()? as f64;
        let fits = spec.combine == Combine::Sum && (n - count).abs() <= 1e-6 * n;
        fits.then_some((x, spec.axes))
    }

    /// The attribute `axis`, counted from the front; absent: all.
    pub fn axes(&self, node: &Node, rank: usize) -> Option<Vec<usize>> {
        if *node.op.attr("axis") == Attr::None {
            return Some((0..rank).collect());
        }
        let from_front = |a: i64| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok();
        let mut axes: Vec<usize> =
            node.op.ints("axis").into_iter().map(from_front).collect::<Option<_>>()?;
        axes.sort_unstable();
        Some(axes)
    }

    /// The square of what, in any way of writing it.
    pub fn square(&self, v: Value) -> Option<Value> {
        if let Some(node) = self.op(v, "square") {
            return Some(node.operands()[0]);
        }
        if let Some([x, p]) = self.binary(v, ScalarFn::Pow) {
            return (self.number(p)? == 2.0).then_some(x);
        }
        let [a, b] = self.binary(v, ScalarFn::Mul)?;
        (a == b).then_some(a)
    }

    /// A tree of products, and quotients by numbers, as one number times the other factors.
    pub fn factors(&self, node: &'a Node) -> (f64, Vec<Value>) {
        let mut number = 1.0;
        let mut others = vec![];
        self.collect(node, None, &mut number, &mut others, DEPTH);
        (number, others)
    }

    /// [`Find::factors`] of a value.
    pub fn factors_of(&self, v: Value) -> (f64, Vec<Value>) {
        let mut number = 1.0;
        let mut others = vec![];
        self.collect(self.node(v), Some(v), &mut number, &mut others, DEPTH);
        (number, others)
    }

    fn collect(
        &self,
        node: &'a Node,
        v: Option<Value>,
        number: &mut f64,
        others: &mut Vec<Value>,
        depth: usize,
    ) {
        if let Some(c) = v.and_then(|v| self.number(v)) {
            *number *= c;
            return;
        }
        if depth > 0 {
            if let Some([a, b]) = self.function(node, ScalarFn::Mul) {
                for v in [*a, *b] {
                    self.collect(self.node(v), Some(v), number, others, depth - 1);
                }
                return;
            }
            if let Some([a, b]) = self.function(node, ScalarFn::Div)
                && let Some(c) = self.number(*b)
            {
                *number /= c;
                self.collect(self.node(*a), Some(*a), number, others, depth - 1);
                return;
            }
        }
        others.extend(v);
    }
}
