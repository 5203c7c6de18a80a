//! Attributes: compile-time parameters of ops, held in the order of the row's schema.

use crate::base::{DType, Dim, Tensor};

/// The value of one attribute.
#[derive(Clone, Debug)]
pub enum Attr {
    /// An optional attribute that was not given.
    None,
    Int(i64),
    /// Compared by its bits, so that a NaN equals itself.
    Float(f64),
    Bool(bool),
    Str(String),
    Ints(Vec<i64>),
    Dims(Vec<Dim>),
    DType(DType),
    Tensor(Tensor),
}

impl PartialEq for Attr {
    fn eq(&self, other: &Attr) -> bool {
        match (self, other) {
            (Attr::None, Attr::None) => true,
            (Attr::Int(a), Attr::Int(b)) => a == b,
            (Attr::Float(a), Attr::Float(b)) => a.to_bits() == b.to_bits(),
            (Attr::Bool(a), Attr::Bool(b)) => a == b,
            (Attr::Str(a), Attr::Str(b)) => a == b,
            (Attr::Ints(a), Attr::Ints(b)) => a == b,
            (Attr::Dims(a), Attr::Dims(b)) => a == b,
            (Attr::DType(a), Attr::DType(b)) => a == b,
            (Attr::Tensor(a), Attr::Tensor(b)) => a == b,
            _ => false,
        }
    }
}

/// What an attribute may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttrKind {
    Int,
    Float,
    Bool,
    /// One of these words (held as `Str`).
    Word(&'static [&'static str]),
    /// Any text.
    Str,
    /// A list; a single integer stands for a list of one.
    Ints,
    /// A list of integers or open dimensions.
    Dims,
    DType,
    Tensor,
    /// A list or a single integer, or one of these words (`pad = 1`, `pad = [1, 2]`, `pad = same`).
    IntsOr(&'static [&'static str]),
}

/// The default of an attribute, in a form that a table can hold.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Preset {
    Required,
    /// Absent, which the op gives a meaning of its own (said in the attribute's doc).
    None,
    Int(i64),
    Float(f64),
    Bool(bool),
    Str(&'static str),
    Ints(&'static [i64]),
}

/// One row of an op's attribute schema.
#[derive(Clone, Copy, Debug)]
pub struct AttrSpec {
    pub name: &'static str,
    pub kind: AttrKind,
    pub default: Preset,
    pub doc: &'static str,
}

impl Preset {
    /// The attribute's value where none is given; `None` where one must be.
    pub fn value(self) -> Option<Attr> {
        Some(match self {
            Preset::Required => return None,
            Preset::None => Attr::None,
            Preset::Int(v) => Attr::Int(v),
            Preset::Float(v) => Attr::Float(v),
            Preset::Bool(v) => Attr::Bool(v),
            Preset::Str(v) => Attr::Str(v.into()),
            Preset::Ints(v) => Attr::Ints(v.to_vec()),
        })
    }
}
