//! What rows of several operands check alike, with every operand's type in the message; samples.

use super::sample::{ints, uniform};
use super::*;
use crate::base::Shape;

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
        common::axis(self.op, self.op.int("axis"), rank).map_err(|e| self.noted(e))
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

impl Builder<'_> {
    /// `result[.., i, ..] = i` along an axis.
    pub(super) fn iota(
        &mut self,
        shape: Vec<Dim>,
        axis: usize,
        dtype: DType,
    ) -> Result<Value, OpError> {
        let attrs = [
            ("shape", Attr::Dims(shape)),
            ("axis", Attr::Int(axis as i64)),
            ("dtype", Attr::DType(dtype)),
        ];
        self.op("iota", &[], &attrs)
    }

    /// The number of elements of a shape, as a scalar. An open number is the sum of as many ones, a
    /// constant as soon as the dimensions are bound.
    pub(super) fn count(&mut self, shape: &Shape, dtype: DType) -> Result<Value, OpError> {
        let total = shape.numel().ok_or_else(OpError::overflow)?;
        if let Some(n) = total.as_const() {
            return Ok(self.scalar(dtype, n as f64));
        }
        let one = self.scalar(DType::I64, 1.0);
        let ones = self.broadcast_to(one, shape)?;
        let n = self.op("sum", &[ones], &[])?;
        self.cast(n, dtype)
    }
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

/// Ordinary values: floats in -2..2, small integers. `seed` tells one operand from another.
pub(super) fn data(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    match dtype.is_float() {
        true => uniform(dtype, shape, seed, -2.0, 2.0),
        false if dtype.is_signed_int() => ints(dtype, shape, seed, -9, 9),
        false => ints(dtype, shape, seed, 0, 1 + 18 * i64::from(dtype != DType::Bool)),
    }
}

/// [`data`] in f32.
pub(super) fn f32s(shape: &[usize], seed: u64) -> Tensor {
    data(DType::F32, shape, seed)
}
