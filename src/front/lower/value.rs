//! What an expression can be while a model is written out: compile-time values, tensors, and the
//! things that are called.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::base::source::Span;
use crate::base::{DType, Dim, TensorType};
use crate::front::project::UnitId;
use crate::ir;
use crate::ir::op::OpRow;

use super::function::Function;

/// Which graph a tensor belongs to; regions are graphs of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct RegionId(pub u32);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct LayerId(pub usize);

#[derive(Clone, Debug)]
pub(super) struct TensorVal {
    pub region: RegionId,
    pub value: ir::Value,
    pub ty: Rc<TensorType>,
}

/// A name that stood for nothing where it was read; ops may know it as a word (`same`, `none`).
#[derive(Debug)]
pub(super) struct Word {
    pub text: String,
    pub span: Span,
    /// What may have been meant, should it turn out to be no word either.
    pub near: Option<String>,
}

/// What a call gave: its results, and the names that can be read from outside.
#[derive(Debug)]
pub(super) struct Results {
    pub values: Vec<(Option<String>, Val)>,
    pub names: BTreeMap<String, Val>,
    /// Blocks return exactly these; an op's further results may be left alone.
    pub exact: bool,
    pub callee: String,
}

#[derive(Clone, Debug)]
pub(super) enum Callee {
    Op(&'static OpRow),
    Block(UnitId, usize),
    Model(UnitId, usize),
    Function(Function),
}

#[derive(Clone, Debug)]
pub(super) enum Val {
    /// The result of something that was wrong and has been reported.
    Poison,
    Int(i64),
    /// An extent that is not a plain integer.
    Dim(Dim),
    Float(f64),
    Bits(u64),
    Bool(bool),
    Str(Rc<str>),
    Word(Rc<Word>),
    DType(DType),
    /// How a parameter begins: `normal(0.02)`.
    Recipe(Rc<str>),
    List(Rc<Vec<Val>>),
    Tensor(TensorVal),
    Results(Rc<Results>),
    Layer(LayerId),
    /// A scope whose parameters can be read: its path.
    Scope(Rc<str>),
    Callee(Callee),
    Module(UnitId),
    /// The name `op`: the ops themselves, behind the blocks of the same names.
    Ops,
}

impl Val {
    pub fn dim(d: Dim) -> Val {
        match d {
            Dim::Const(v) => Val::Int(v),
            d => Val::Dim(d),
        }
    }

    pub fn str(s: &str) -> Val {
        Val::Str(s.into())
    }

    pub fn list(items: Vec<Val>) -> Val {
        Val::List(Rc::new(items))
    }

    /// The value itself where results of a call stand for their first one.
    pub fn first(self) -> Val {
        let mut v = self;
        // A block may return another block's results: a chain as deep as blocks nest.
        while let Val::Results(r) = &v {
            match r.values.first() {
                Some((_, inner)) if r.values.len() == 1 || !r.exact => v = inner.clone(),
                _ => return v,
            }
        }
        v
    }

    pub fn is_poison(&self) -> bool {
        match self {
            Val::Poison => true,
            Val::Results(r) => r.values.iter().any(|(_, v)| matches!(v, Val::Poison)),
            Val::List(items) => items.iter().any(|v| matches!(v, Val::Poison)),
            _ => false,
        }
    }

    /// Known at compile time, and a number or the like (not a thing to call).
    pub fn is_constant(&self) -> bool {
        match self {
            Val::Int(_)
            | Val::Dim(_)
            | Val::Float(_)
            | Val::Bits(_)
            | Val::Bool(_)
            | Val::Str(_)
            | Val::Word(_)
            | Val::DType(_)
            | Val::Recipe(_) => true,
            Val::List(items) => items.iter().all(Val::is_constant),
            Val::Poison
            | Val::Tensor(_)
            | Val::Results(_)
            | Val::Layer(_)
            | Val::Scope(_)
            | Val::Callee(_)
            | Val::Module(_)
            | Val::Ops => false,
        }
    }

    /// For messages: what kind of value this is, with its value or type where that is short.
    pub fn describe(&self) -> String {
        match self {
            Val::Poison => "something unknown".into(),
            Val::Int(v) => format!("the integer {v}"),
            Val::Dim(d) => format!("the dimension `{d}`"),
            Val::Float(v) => format!("the number {v}"),
            Val::Bits(v) => format!("the bits {v:#x}"),
            Val::Bool(v) => format!("`{v}`"),
            Val::Str(_) => "a text".into(),
            Val::Word(w) => format!("the word `{}`", w.text),
            Val::DType(d) => format!("the dtype {d}"),
            Val::Recipe(r) => format!("the initial value `{r}`"),
            Val::List(items) => format!("a list of {}", items.len()),
            Val::Tensor(t) => format!("a tensor {}", t.ty),
            Val::Results(r) => format!("the {} results of `{}`", r.values.len(), r.callee),
            Val::Layer(_) => "a layer".into(),
            Val::Scope(path) => format!("the parameters of `{path}`"),
            Val::Callee(Callee::Op(row)) => format!("the op `{}`", row.name),
            Val::Callee(Callee::Block(..)) => "a block".into(),
            Val::Callee(Callee::Model(..)) => "a model".into(),
            Val::Callee(Callee::Function(f)) => format!("the function `{}`", f.name()),
            Val::Module(_) => "an imported file".into(),
            Val::Ops => "the ops".into(),
        }
    }
}
