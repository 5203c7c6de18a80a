//! The op table: one row for each op, and a row owns everything about its op.
//!
//! A row holds the name, the documentation, operands and attributes, shape inference, the reference
//! evaluation, the lowering class, the gradient, the tolerance and sample inputs. Passes and targets
//! look at the [`Class`], or ask the row; they never match on its name.
//!
//! Invariant: an [`Op`]'s attributes stand in the order of its row's schema, one for each entry,
//! defaults filled in; `present` has one bit for each operand of the row.

mod activation;
mod arrange;
pub mod attention;
pub mod batch_norm;
mod binary;
mod check;
pub mod class;
pub mod common;
pub mod contract;
pub mod conv_transpose;
mod cumulative;
pub mod dropout;
pub mod elementwise;
mod fill;
mod heads;
pub mod index;
mod index_eval;
pub mod norm;
mod number;
mod pad;
pub mod random;
pub mod reduce;
pub mod region;
pub mod sample;
mod slice;
pub mod softmax;
pub mod sort;
mod source;
pub mod statistic;
mod unary;
pub mod view;
pub mod view_eval;
pub mod walk;
pub mod window;
mod window_eval;
mod window_samples;
pub mod winograd;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

pub use class::*;

use super::attr::{Attr, AttrSpec};
use super::eval::EvalCtx;
use super::graph::{Graph, Value};
use crate::base::{DType, Dim, Tensor, TensorType};
use crate::ir::builder::Builder;

/// How often an operand occurs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arity {
    One,
    /// May be absent.
    Optional,
    /// Any number, zero included; only as the last operand.
    Variadic,
}

#[derive(Clone, Copy, Debug)]
pub struct OperandSpec {
    pub name: &'static str,
    pub arity: Arity,
    pub doc: &'static str,
}

/// The gradient of a row.
#[derive(Clone, Copy)]
pub enum Gradient {
    /// The derivative is zero or does not exist; why.
    Zero(&'static str),
    /// The op is differentiated through its expansion.
    Expansion,
    /// Adds the operands' gradients, given those of the results.
    Rule(GradientRule),
    /// Differentiable; its rule is not written yet.
    Unwritten,
}

/// `(builder, op's operands, op's results, results' gradients) -> operands' gradients`.
pub type GradientRule =
    fn(&mut Builder, &[Value], &[Value], &[Option<Value>]) -> Vec<Option<Value>>;

/// An expansion: the values that stand for the results.
pub type Expand = fn(&mut Builder, &ExpandCtx) -> Result<Vec<Value>, OpError>;

/// How far a float result may lie from the f64 reference: `|a − b| ≤ abs + rel · |b|`, for f32.
/// Narrower dtypes scale it by the ratio of their unit roundoffs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tolerance {
    pub rel: f64,
    pub abs: f64,
}

impl Tolerance {
    /// Data movement and integers: nothing may differ.
    pub const EXACT: Tolerance = Tolerance { rel: 0.0, abs: 0.0 };
    /// A few roundings.
    pub const TIGHT: Tolerance = Tolerance { rel: 1e-6, abs: 1e-6 };
    /// Sums of many terms.
    pub const SUM: Tolerance = Tolerance { rel: 1e-5, abs: 1e-5 };
}

/// Operands and attributes on which a row is tried: by the walk of the table and by random graphs.
pub struct Sample {
    pub operands: Vec<Option<Tensor>>,
    pub attrs: Vec<(&'static str, Attr)>,
    /// Bodies of ops that own regions.
    pub regions: Vec<Graph>,
}

pub struct OpRow {
    pub name: &'static str,
    /// One sentence, then details; shapes in the words of `operands`.
    pub doc: &'static str,
    pub operands: &'static [OperandSpec],
    pub attrs: &'static [AttrSpec],
    /// Names of the results, in order.
    pub results: &'static [&'static str],
    /// Types of the results. Called with the operands' types, open dimensions and all.
    pub infer: fn(&OpCtx) -> Result<Vec<TensorType>, OpError>,
    /// The definition of the op, on tensors. Floats are computed in the dtype of the operands
    /// (narrow ones in f32, rounded at the end); sums run in sequence.
    pub eval: fn(&EvalCtx) -> Result<Vec<Tensor>, OpError>,
    /// What passes and targets need to know.
    pub class: fn(&OpCtx) -> Class,
    /// For ops of class `Composite`: the same in simpler ops. Shapes may be open.
    pub expand: Option<Expand>,
    pub gradient: Gradient,
    pub tolerance: Tolerance,
    pub samples: fn() -> Vec<Sample>,
}

impl OpRow {
    pub fn attr_index(&self, name: &str) -> Option<usize> {
        self.attrs.iter().position(|a| a.name == name)
    }

    pub fn operand_index(&self, name: &str) -> Option<usize> {
        self.operands.iter().position(|o| o.name == name)
    }
}

impl fmt::Debug for OpRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// An op with its attributes: what a node of the graph does.
#[derive(Clone, Debug)]
pub struct Op {
    pub row: &'static OpRow,
    /// One for each entry of `row.attrs`.
    pub attrs: Vec<Attr>,
    /// Bit `i`: operand `i` of the row is there. A node's operand vector holds only present ones,
    /// in the row's order (all of a variadic operand's values at its place).
    pub present: u32,
}

impl PartialEq for Op {
    fn eq(&self, other: &Op) -> bool {
        std::ptr::eq(self.row, other.row)
            && self.present == other.present
            && self.attrs == other.attrs
    }
}

impl Op {
    /// All operands present, the given attributes, defaults for the others. Panics where an
    /// attribute does not exist or a required one is missing: for ops that dlc itself makes.
    pub fn new(row: &'static OpRow, given: &[(&str, Attr)]) -> Op {
        let present = (1u32 << row.operands.len()) - 1;
        Op::with_operands(row, present, given)
    }

    /// Like [`Op::new`], with only the operands in `present`.
    pub fn with_operands(row: &'static OpRow, present: u32, given: &[(&str, Attr)]) -> Op {
        let mut attrs: Vec<Option<Attr>> = row.attrs.iter().map(|a| a.default.value()).collect();
        for (name, value) in given {
            let i = row.attr_index(name).expect("an attribute of the row");
            attrs[i] = Some(value.clone());
        }
        let attrs = attrs.into_iter().map(|a| a.expect("required attributes are given")).collect();
        Op { row, attrs, present }
    }

    pub fn attr(&self, name: &str) -> &Attr {
        &self.attrs[self.row.attr_index(name).expect("an attribute of the row")]
    }

    pub fn int(&self, name: &str) -> i64 {
        match self.attr(name) {
            Attr::Int(v) => *v,
            other => unreachable!("attribute {name} is an integer by the schema: {other:?}"),
        }
    }

    pub fn opt_int(&self, name: &str) -> Option<i64> {
        match self.attr(name) {
            Attr::Int(v) => Some(*v),
            _ => None,
        }
    }

    pub fn float(&self, name: &str) -> f64 {
        match self.attr(name) {
            Attr::Float(v) => *v,
            Attr::Int(v) => *v as f64,
            other => unreachable!("attribute {name} is a float by the schema: {other:?}"),
        }
    }

    pub fn opt_float(&self, name: &str) -> Option<f64> {
        match self.attr(name) {
            Attr::Float(v) => Some(*v),
            Attr::Int(v) => Some(*v as f64),
            _ => None,
        }
    }

    pub fn bool(&self, name: &str) -> bool {
        matches!(self.attr(name), Attr::Bool(true))
    }

    pub fn str(&self, name: &str) -> &str {
        match self.attr(name) {
            Attr::Str(s) => s,
            other => unreachable!("attribute {name} is text by the schema: {other:?}"),
        }
    }

    /// A list; a single integer is a list of one, an absent one is empty.
    pub fn ints(&self, name: &str) -> Vec<i64> {
        match self.attr(name) {
            Attr::Ints(v) => v.clone(),
            Attr::Int(v) => vec![*v],
            _ => vec![],
        }
    }

    pub fn dims(&self, name: &str) -> Vec<Dim> {
        match self.attr(name) {
            Attr::Dims(v) => v.clone(),
            Attr::Ints(v) => v.iter().map(|&d| Dim::Const(d)).collect(),
            Attr::Int(v) => vec![Dim::Const(*v)],
            _ => vec![],
        }
    }

    pub fn dtype(&self, name: &str) -> DType {
        match self.attr(name) {
            Attr::DType(d) => *d,
            other => unreachable!("attribute {name} is a dtype by the schema: {other:?}"),
        }
    }

    /// Where the operand of this index of the row stands in a node's operand vector.
    pub fn operand_position(&self, index: usize) -> Option<usize> {
        (self.present >> index & 1 == 1)
            .then(|| (self.present & ((1u32 << index) - 1)).count_ones() as usize)
    }
}

/// An op in its place: what inference and classification may look at.
#[derive(Clone, Copy)]
pub struct OpCtx<'a> {
    pub op: &'a Op,
    /// Types of the present operands.
    pub types: &'a [TensorType],
    pub regions: &'a [Graph],
}

impl<'a> OpCtx<'a> {
    /// The type of the operand of this name, if it is there.
    pub fn operand(&self, name: &str) -> Option<&'a TensorType> {
        let index = self.op.row.operand_index(name).expect("an operand of the row");
        self.types.get(self.op.operand_position(index)?)
    }
}

impl OpCtx<'_> {
    /// The results' types by the row. They can exist: no extent is negative, and the bytes of each
    /// can be counted.
    pub fn infer(&self) -> Result<Vec<TensorType>, OpError> {
        let results = (self.op.row.infer)(self)?;
        for t in &results {
            let negative = |d: &Dim| d.as_const().is_some_and(|v| v < 0);
            if t.shape.dims().iter().any(negative) {
                return Err(OpError::shape(format!("`{}` would be {t}", self.op.row.name)));
            }
            let count = t.shape.numel().ok_or_else(OpError::overflow)?;
            let bytes = count.mul(&Dim::from(t.dtype.bytes())).ok_or_else(OpError::overflow)?;
            if bytes.as_const().is_some_and(|n| isize::try_from(n).is_err()) {
                return Err(OpError::overflow());
            }
        }
        Ok(results)
    }
}

/// What an expansion is given.
pub struct ExpandCtx<'a> {
    pub op: &'a Op,
    pub operands: &'a [Value],
    pub types: &'a [TensorType],
    pub results: &'a [TensorType],
    /// The node's own regions; an expansion may move copies of them into what it builds.
    pub regions: &'a [Graph],
}

impl ExpandCtx<'_> {
    /// The value of the operand of this name, if it is there.
    pub fn operand(&self, name: &str) -> Option<Value> {
        let index = self.op.row.operand_index(name).expect("an operand of the row");
        self.operands.get(self.op.operand_position(index)?).copied()
    }
}

/// What is wrong with a use of an op; the front end adds the place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    pub code: &'static str,
    pub message: String,
    pub notes: Vec<String>,
    pub help: Option<String>,
}

impl OpError {
    pub fn new(code: &'static str, message: impl Into<String>) -> OpError {
        OpError { code, message: message.into(), notes: vec![], help: None }
    }

    /// Shapes that do not fit each other.
    pub fn shape(message: impl Into<String>) -> OpError {
        OpError::new("E0301", message)
    }

    /// Dtypes that do not fit.
    pub fn dtype(message: impl Into<String>) -> OpError {
        OpError::new("E0302", message)
    }

    /// An attribute out of its range.
    pub fn attr(message: impl Into<String>) -> OpError {
        OpError::new("E0303", message)
    }

    /// A dimension too large to count with.
    pub fn overflow() -> OpError {
        OpError::new("E0304", "a dimension overflows 64 bits")
    }

    pub fn note(mut self, note: impl Into<String>) -> OpError {
        self.notes.push(note.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> OpError {
        self.help = Some(help.into());
        self
    }
}

/// The files of the table.
static FILES: &[&[OpRow]] = &[
    source::ROWS,
    contract::ROWS,
    dropout::ROWS,
    conv_transpose::ROWS,
    attention::ROWS,
    index::ROWS,
    region::ROWS,
    sort::ROWS,
    batch_norm::ROWS,
    norm::ROWS,
    softmax::ROWS,
    window::ROWS,
    winograd::ROWS,
    unary::ROWS,
    binary::ROWS,
    activation::ROWS,
    reduce::ROWS,
    statistic::ROWS,
    view::ROWS,
    slice::ROWS,
    pad::ROWS,
    arrange::ROWS,
    heads::ROWS,
    fill::ROWS,
    random::ROWS,
    cumulative::ROWS,
];

static BY_NAME: LazyLock<BTreeMap<&'static str, &'static OpRow>> = LazyLock::new(|| {
    FILES.iter().flat_map(|rows| rows.iter()).map(|row| (row.name, row)).collect()
});

/// All rows, by name.
pub fn table() -> impl Iterator<Item = &'static OpRow> {
    BY_NAME.values().copied()
}

/// The row of this name.
pub fn find(name: &str) -> Option<&'static OpRow> {
    BY_NAME.get(name).copied()
}
