//! What rows check and declare alike: table entries, operand checks with both shapes in the message,
//! axes, and deterministic sample data.

use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};

pub(super) const fn attr(
    name: &'static str,
    kind: AttrKind,
    default: Preset,
    doc: &'static str,
) -> AttrSpec {
    AttrSpec { name, kind, default, doc }
}

pub(super) const fn one(name: &'static str, doc: &'static str) -> OperandSpec {
    OperandSpec { name, arity: Arity::One, doc }
}

pub(super) const fn optional(name: &'static str, doc: &'static str) -> OperandSpec {
    OperandSpec { name, arity: Arity::Optional, doc }
}

pub(super) const fn variadic(name: &'static str, doc: &'static str) -> OperandSpec {
    OperandSpec { name, arity: Arity::Variadic, doc }
}

impl<'a> OpCtx<'a> {
    /// The type of an operand that the row requires.
    pub(super) fn need(&self, name: &str) -> Result<&'a TensorType, OpError> {
        self.operand(name).ok_or_else(|| {
            let message = format!("{}: the operand `{name}` is missing", self.op.row.name);
            OpError::new("E0306", message)
        })
    }

    /// An error about shapes, with every operand's type in the notes.
    pub(super) fn clash(&self, message: impl std::fmt::Display) -> OpError {
        self.noted(OpError::shape(format!("{}: {message}", self.op.row.name)))
    }

    /// An error about an attribute.
    pub(super) fn bad_attr(&self, message: impl std::fmt::Display) -> OpError {
        OpError::attr(format!("{}: {message}", self.op.row.name))
    }

    fn noted(&self, mut error: OpError) -> OpError {
        let mut types = self.types.iter();
        for (i, spec) in self.op.row.operands.iter().enumerate() {
            let count = match (self.op.present >> i & 1, spec.arity) {
                (0, _) => 0,
                (_, Arity::Variadic) => types.len(),
                (_, Arity::One | Arity::Optional) => 1,
            };
            for ty in types.by_ref().take(count) {
                error = error.note(format!("`{}` is {ty}", spec.name));
            }
        }
        error
    }

    /// All these operands (those present) have one dtype, which is returned.
    pub(super) fn same_dtype(&self, names: &[&str]) -> Result<DType, OpError> {
        let mut first: Option<DType> = None;
        for ty in names.iter().filter_map(|n| self.operand(n)) {
            if first.is_some_and(|d| d != ty.dtype) {
                let message = format!("{}: the operands' element types differ", self.op.row.name);
                return Err(self.noted(OpError::dtype(message)).help("convert one with `cast`"));
            }
            first = Some(ty.dtype);
        }
        first.ok_or_else(|| self.clash("no operands"))
    }

    /// Like [`OpCtx::same_dtype`], floats only.
    pub(super) fn same_float(&self, names: &[&str]) -> Result<DType, OpError> {
        let dtype = self.same_dtype(names)?;
        if dtype.is_float() {
            return Ok(dtype);
        }
        let message = format!("{} needs floats, not {dtype}", self.op.row.name);
        Err(self.noted(OpError::dtype(message)).help("convert with `cast(x, f32)`"))
    }

    /// Like [`OpCtx::same_dtype`], anything but bool.
    pub(super) fn same_number(&self, names: &[&str]) -> Result<DType, OpError> {
        let dtype = self.same_dtype(names)?;
        if dtype != DType::Bool {
            return Ok(dtype);
        }
        let message = format!("{} does not work on bool", self.op.row.name);
        Err(self.noted(OpError::dtype(message)).help("convert with `cast(x, i32)`"))
    }

    /// The operand of this name is an integer.
    pub(super) fn integer(&self, name: &str) -> Result<&'a TensorType, OpError> {
        let ty = self.need(name)?;
        if ty.dtype.is_int() {
            return Ok(ty);
        }
        let message = format!("{}: `{name}` needs integers, not {}", self.op.row.name, ty.dtype);
        Err(self.noted(OpError::dtype(message)).help("convert with `cast(x, i32)`"))
    }

    /// The integer attribute `axis` as an index below `rank`; negative counts from the end.
    pub(super) fn axis(&self, rank: usize) -> Result<usize, OpError> {
        let axis = self.op.int("axis");
        normal_axis(axis, rank).ok_or_else(|| {
            let range = match rank {
                0 => "a scalar has no axes".to_string(),
                _ => format!("it must lie in -{rank}..{rank}"),
            };
            self.noted(self.bad_attr(format!("axis {axis} does not exist: {range}")))
        })
    }

    /// The operand has exactly this shape.
    pub(super) fn expect_shape(&self, name: &str, shape: &[Dim]) -> Result<(), OpError> {
        match self.operand(name) {
            Some(ty) if ty.shape.0 != shape => {
                Err(self.clash(format!("`{name}` must be {}", Shape(shape.to_vec()))))
            }
            _ => Ok(()),
        }
    }
}

/// Negative axes count from the end.
pub(super) fn normal_axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
    (0..rank).contains(&axis).then_some(axis as usize)
}

/// A sample with all operands given.
pub(super) fn sample(
    operands: impl IntoIterator<Item = Tensor>,
    attrs: &[(&'static str, Attr)],
) -> Sample {
    let operands = operands.into_iter().map(Some).collect();
    Sample { operands, attrs: attrs.to_vec(), regions: vec![] }
}

/// A sample in which some operands may be absent.
pub(super) fn sample_of(operands: Vec<Option<Tensor>>, attrs: &[(&'static str, Attr)]) -> Sample {
    Sample { operands, attrs: attrs.to_vec(), regions: vec![] }
}

/// Deterministic data without a pattern: multiples of 1/64 in -2..2 for floats (which every float
/// type holds exactly), small integers otherwise. `seed` tells one operand from another.
pub(super) fn data(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x2545_F491_4F6C_DD1D;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as i64
    };
    let n: usize = shape.iter().product();
    let draws: Vec<i64> = (0..n).map(|_| next()).collect();
    use super::number::floats;
    macro_rules! ints {
        ($t:ty, $lo:expr, $n:expr) => {{
            let data: Vec<$t> = draws.iter().map(|v| (v % $n + $lo) as $t).collect();
            Tensor::from_slice(shape, &data)
        }};
    }
    match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {
            let data: Vec<f64> = draws.iter().map(|v| (v % 256 - 128) as f64 / 64.0).collect();
            floats(dtype, shape, &data)
        }
        DType::I8 => ints!(i8, -9, 19),
        DType::I16 => ints!(i16, -9, 19),
        DType::I32 => ints!(i32, -9, 19),
        DType::I64 => ints!(i64, -9, 19),
        DType::U8 => ints!(u8, 0, 19),
        DType::U16 => ints!(u16, 0, 19),
        DType::U32 => ints!(u32, 0, 19),
        DType::U64 => ints!(u64, 0, 19),
        DType::Bool => {
            let data: Vec<bool> = draws.iter().map(|v| v % 2 == 0).collect();
            Tensor::from_bools(shape, &data)
        }
    }
}

/// [`data`] in f32.
pub(super) fn f32s(shape: &[usize], seed: u64) -> Tensor {
    data(DType::F32, shape, seed)
}
