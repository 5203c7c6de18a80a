//! What rows share: schema constructors, axis arithmetic, dtype and shape checks.
//!
//! Every check names the op, says what was expected and what came, and carries both shapes or
//! dtypes as notes; the front end adds the place.

use super::*;
use crate::base::{Shape, shape};
use crate::ir::attr::{AttrKind, Preset};

// ---- Schema entries ----------------------------------------------------------------------------

pub const fn attr(
    name: &'static str,
    kind: AttrKind,
    default: Preset,
    doc: &'static str,
) -> AttrSpec {
    AttrSpec { name, kind, default, doc }
}

/// An operand that must be there.
pub const fn operand(name: &'static str, doc: &'static str) -> OperandSpec {
    OperandSpec { name, arity: Arity::One, doc }
}

pub const fn optional(name: &'static str, doc: &'static str) -> OperandSpec {
    OperandSpec { name, arity: Arity::Optional, doc }
}

pub const fn variadic(name: &'static str, doc: &'static str) -> OperandSpec {
    OperandSpec { name, arity: Arity::Variadic, doc }
}

pub const KEEPDIMS: AttrSpec =
    attr("keepdims", AttrKind::Bool, Preset::Bool(false), "reduced axes stay, with extent 1");

// ---- Operands ----------------------------------------------------------------------------------

/// Whether a node with this op may have that many operand values.
pub fn check_operands(op: &Op, count: usize) -> Result<(), OpError> {
    let (mut fixed, mut more) = (0, false);
    for (i, spec) in op.row.operands.iter().enumerate() {
        let present = op.present >> i & 1 == 1;
        match spec.arity {
            Arity::One if !present => {
                let message = format!("`{}` misses its operand `{}`", op.row.name, spec.name);
                return Err(OpError::new("E0305", message).help(spec.doc));
            }
            Arity::One | Arity::Optional => fixed += present as usize,
            Arity::Variadic => more = true,
        }
    }
    match count == fixed || more && count > fixed {
        true => Ok(()),
        false => {
            let names: Vec<String> =
                op.row.operands.iter().map(|o| format!("`{}`", o.name)).collect();
            let (name, names) = (op.row.name, names.join(", "));
            let message = format!("`{name}` of {names} here takes {fixed} of them, not {count}");
            Err(OpError::new("E0305", message))
        }
    }
}

// ---- Axes --------------------------------------------------------------------------------------

/// An axis counted from the front; negative ones count from the end.
pub fn axis(op: &Op, axis: i64, rank: usize) -> Result<usize, OpError> {
    let r = rank as i64;
    let at = if axis < 0 { axis.checked_add(r) } else { Some(axis) };
    match at {
        Some(a) if (0..r).contains(&a) => Ok(a as usize),
        _ => Err(OpError::attr(format!(
            "`{}` has axis {axis}, but its operand has {}",
            op.row.name,
            axes_count(rank)
        ))
        .help(match rank {
            0 => "a scalar has no axes".to_string(),
            _ => format!("axes run from {} to {}", -r, r - 1),
        })),
    }
}

/// The attribute `name` as sorted axes without repetition; all axes where it is absent.
pub fn axes(op: &Op, name: &str, rank: usize) -> Result<Vec<usize>, OpError> {
    if matches!(op.attr(name), Attr::None) {
        return Ok((0..rank).collect());
    }
    let mut out: Vec<usize> =
        op.ints(name).iter().map(|&a| axis(op, a, rank)).collect::<Result<_, _>>()?;
    out.sort_unstable();
    match out.windows(2).find(|w| w[0] == w[1]) {
        Some(w) => Err(OpError::attr(format!("`{}` names axis {} twice", op.row.name, w[0]))),
        None => Ok(out),
    }
}

fn axes_count(rank: usize) -> String {
    match rank {
        1 => "1 axis".into(),
        n => format!("{n} axes"),
    }
}

// ---- Dtypes ------------------------------------------------------------------------------------

/// Sets of dtypes that an operand may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    Any,
    /// Floats and integers.
    Number,
    Float,
    Int,
    /// Integers and bool.
    Bits,
    Bool,
}

impl Domain {
    pub fn contains(self, d: DType) -> bool {
        match self {
            Domain::Any => true,
            Domain::Number => d != DType::Bool,
            Domain::Float => d.is_float(),
            Domain::Int => d.is_int(),
            Domain::Bits => d.is_int() || d == DType::Bool,
            Domain::Bool => d == DType::Bool,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Domain::Any => "anything",
            Domain::Number => "numbers",
            Domain::Float => "floats",
            Domain::Int => "integers",
            Domain::Bits => "integers or bool",
            Domain::Bool => "bool",
        }
    }

    fn cure(self) -> &'static str {
        match self {
            Domain::Bool => "compare it, or cast it: `cast(x, bool)`",
            Domain::Int | Domain::Bits => "cast it: `cast(x, i32)`",
            Domain::Any | Domain::Number | Domain::Float => "cast it: `cast(x, f32)`",
        }
    }
}

/// Says that an operand's dtype is outside of what the op takes.
pub fn expect_dtype(op: &Op, what: &str, ty: &TensorType, domain: Domain) -> Result<(), OpError> {
    if domain.contains(ty.dtype) {
        return Ok(());
    }
    Err(OpError::dtype(format!(
        "`{}` takes {}, but `{what}` is {}",
        op.row.name,
        domain.words(),
        ty.dtype
    ))
    .note(format!("`{what}` is {ty}"))
    .help(domain.cure()))
}

/// All of these types have one dtype, which is returned. Panics where there is none.
pub fn one_dtype(op: &Op, types: &[TensorType]) -> Result<DType, OpError> {
    let first = &types[0];
    match types.iter().find(|t| t.dtype != first.dtype) {
        None => Ok(first.dtype),
        Some(other) => Err(OpError::dtype(format!(
            "`{}` takes operands of one dtype, but these are {} and {}",
            op.row.name, first.dtype, other.dtype
        ))
        .note(format!("operands: {}", list(types)))
        .help(format!("convert one of them: `cast(…, {})`", first.dtype))),
    }
}

// ---- Shapes ------------------------------------------------------------------------------------

/// NumPy's broadcasting of all these shapes, aligned at the right. An open dimension broadcasts
/// only against 1 or itself.
pub fn broadcast_all(op: &Op, types: &[TensorType]) -> Result<Shape, OpError> {
    let mut out = types[0].shape.clone();
    for t in &types[1..] {
        if t.shape != out {
            out = shape::broadcast(&out, &t.shape).ok_or_else(|| clash(op, types))?;
        }
    }
    Ok(out)
}

fn clash(op: &Op, types: &[TensorType]) -> OpError {
    let open = types.iter().any(|t| t.shape.concrete().is_none());
    let shapes: Vec<String> = types.iter().map(|t| t.shape.to_string()).collect();
    OpError::shape(format!("`{}` cannot broadcast {}", op.row.name, shapes.join(" with ")))
        .note(format!("operands: {}", list(types)))
        .help(match open {
            true => "aligned at the right, extents must be equal or 1; an open dimension fits only itself or 1",
            false => "aligned at the right, extents must be equal or 1",
        })
}

/// The rank of an operand must be at least this.
pub fn expect_rank(op: &Op, what: &str, ty: &TensorType, least: usize) -> Result<(), OpError> {
    if ty.rank() >= least {
        return Ok(());
    }
    Err(OpError::shape(format!(
        "`{}` takes `{what}` with at least {}, but it has {}",
        op.row.name,
        axes_count(least),
        axes_count(ty.rank())
    ))
    .note(format!("`{what}` is {ty}")))
}

/// Extents given as an attribute: integers of at least 0, or open dimensions, few enough that the
/// number of elements can be counted.
pub fn shape_attr(op: &Op, name: &str) -> Result<Shape, OpError> {
    let shape = Shape(op.dims(name));
    if let Some(d) = shape.0.iter().find(|d| d.as_const().is_some_and(|v| v < 0)) {
        return Err(OpError::attr(format!(
            "`{}` has extent {d} in `{name} = {shape}`",
            op.row.name
        ))
        .help("extents are 0 or more"));
    }
    shape.numel().ok_or_else(OpError::overflow)?;
    Ok(shape)
}

pub fn list(types: &[TensorType]) -> String {
    types.iter().map(TensorType::to_string).collect::<Vec<_>>().join(", ")
}

/// The dtype attribute, or this one where it is absent.
pub fn dtype_or(op: &Op, name: &str, default: DType) -> DType {
    match op.attr(name) {
        Attr::DType(d) => *d,
        _ => default,
    }
}

// ---- Building ----------------------------------------------------------------------------------

/// Short names for what expansions are made of.
impl Builder<'_> {
    /// An op of one operand, without attributes.
    pub fn un(&mut self, name: &str, x: Value) -> Result<Value, OpError> {
        self.op(name, &[x], &[])
    }

    /// An op of two operands, without attributes.
    pub fn bin(&mut self, name: &str, x: Value, y: Value) -> Result<Value, OpError> {
        self.op(name, &[x, y], &[])
    }

    /// `name(x, constant)` with the constant in the dtype of `x`.
    pub fn bin_const(&mut self, name: &str, x: Value, c: f64) -> Result<Value, OpError> {
        let c = self.scalar(self.ty(x).dtype, c);
        self.bin(name, x, c)
    }

    /// `x` in this dtype; itself where it has it.
    pub fn cast(&mut self, x: Value, to: DType) -> Result<Value, OpError> {
        if self.ty(x).dtype == to {
            return Ok(x);
        }
        self.op("cast", &[x], &[("dtype", Attr::DType(to))])
    }

    pub fn reshape(&mut self, x: Value, shape: &Shape) -> Result<Value, OpError> {
        if self.ty(x).shape == *shape {
            return Ok(x);
        }
        self.op("reshape", &[x], &[("shape", Attr::Dims(shape.0.clone()))])
    }

    pub fn broadcast_to(&mut self, x: Value, shape: &Shape) -> Result<Value, OpError> {
        if self.ty(x).shape == *shape {
            return Ok(x);
        }
        self.op("broadcast_to", &[x], &[("shape", Attr::Dims(shape.0.clone()))])
    }
}
