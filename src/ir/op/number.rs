//! Typed arithmetic of the reference evaluation.
//!
//! The rows with large inner loops (contractions, windows, normalizations) are written once over
//! [`Number`] or [`Real`] and run at the operands' own dtype: f16 and bf16 are widened to f32 first
//! and rounded at the end, integers wrap. Nothing here knows an op.

use half::{bf16, f16};

use crate::base::tensor::Element;
use crate::base::{DType, Tensor};

/// An element type with a sum and a product.
pub(super) trait Number: Element + PartialOrd + Default {
    const ONE: Self;
    /// No element is less (floats: −∞).
    const LEAST: Self;
    /// No element is greater (floats: ∞).
    const GREATEST: Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn is_nan(self) -> bool;
}

macro_rules! numbers {
    (float $($t:ty),*) => { $(impl Number for $t {
        const ONE: Self = 1.0;
        const LEAST: Self = <$t>::NEG_INFINITY;
        const GREATEST: Self = <$t>::INFINITY;
        fn plus(self, other: Self) -> Self { self + other }
        fn times(self, other: Self) -> Self { self * other }
        fn is_nan(self) -> bool { <$t>::is_nan(self) }
    })* };
    (int $($t:ty),*) => { $(impl Number for $t {
        const ONE: Self = 1;
        const LEAST: Self = <$t>::MIN;
        const GREATEST: Self = <$t>::MAX;
        fn plus(self, other: Self) -> Self { self.wrapping_add(other) }
        fn times(self, other: Self) -> Self { self.wrapping_mul(other) }
        fn is_nan(self) -> bool { false }
    })* };
}
numbers!(float f32, f64);
numbers!(int i8, i16, i32, i64, u8, u16, u32, u64);

/// f32 and f64: what normalizations and softmax compute in.
pub(super) trait Real: Number {
    fn of(v: f64) -> Self;
    fn minus(self, other: Self) -> Self;
    fn over(self, other: Self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn rsqrt(self) -> Self {
        Self::ONE.over(self.sqrt())
    }
}

macro_rules! reals {
    ($($t:ty),*) => { $(impl Real for $t {
        fn of(v: f64) -> Self { v as $t }
        fn minus(self, other: Self) -> Self { self - other }
        fn over(self, other: Self) -> Self { self / other }
        fn exp(self) -> Self { <$t>::exp(self) }
        fn ln(self) -> Self { <$t>::ln(self) }
        fn sqrt(self) -> Self { <$t>::sqrt(self) }
    })* };
}
reals!(f32, f64);

/// Runs `$body` with `$T` the element type of a dtype, narrow floats as f32, bool as `u8`.
/// The operands' tensors must have gone through [`widen`].
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 | DType::F16 | DType::BF16 => {
                type $T = f32;
                $body
            }
            DType::F64 => {
                type $T = f64;
                $body
            }
            DType::I8 => {
                type $T = i8;
                $body
            }
            DType::I16 => {
                type $T = i16;
                $body
            }
            DType::I32 => {
                type $T = i32;
                $body
            }
            DType::I64 => {
                type $T = i64;
                $body
            }
            DType::U8 | DType::Bool => {
                type $T = u8;
                $body
            }
            DType::U16 => {
                type $T = u16;
                $body
            }
            DType::U32 => {
                type $T = u32;
                $body
            }
            DType::U64 => {
                type $T = u64;
                $body
            }
        }
    };
}
pub(super) use with_number;

/// Runs `$body` with `$T` f64 for f64 and f32 for every other float (inference admits floats only).
macro_rules! with_real {
    ($dtype:expr, $T:ident => $body:expr) => {
        if $dtype == DType::F64 {
            type $T = f64;
            $body
        } else {
            type $T = f32;
            $body
        }
    };
}
pub(super) use with_real;

/// The tensor in the dtype its arithmetic is done in: narrow floats become f32, bool its bytes.
pub(super) fn widen(t: &Tensor) -> Tensor {
    match t.dtype() {
        DType::F16 => {
            let data: Vec<f32> = t.as_slice::<f16>().iter().map(|v| v.to_f32()).collect();
            Tensor::from_slice(t.shape(), &data)
        }
        DType::BF16 => {
            let data: Vec<f32> = t.as_slice::<bf16>().iter().map(|v| v.to_f32()).collect();
            Tensor::from_slice(t.shape(), &data)
        }
        DType::Bool => Tensor::from_slice(t.shape(), t.as_bools()),
        DType::F32
        | DType::F64
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64 => t.clone(),
    }
}

/// The inverse of [`widen`] for a result that is to have this dtype; f32 rounds to nearest even.
pub(super) fn narrow(t: Tensor, dtype: DType) -> Tensor {
    match dtype {
        DType::F16 => {
            let data: Vec<f16> = t.as_slice::<f32>().iter().map(|v| f16::from_f32(*v)).collect();
            Tensor::from_slice(t.shape(), &data)
        }
        DType::BF16 => {
            let data: Vec<bf16> = t.as_slice::<f32>().iter().map(|v| bf16::from_f32(*v)).collect();
            Tensor::from_slice(t.shape(), &data)
        }
        DType::Bool => {
            let data: Vec<bool> = t.as_slice::<u8>().iter().map(|v| *v != 0).collect();
            Tensor::from_bools(t.shape(), &data)
        }
        DType::F32
        | DType::F64
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64 => t,
    }
}

/// A floating tensor in f32 or f64 from values in f64, for samples and tests.
pub(super) fn floats(dtype: DType, shape: &[usize], data: &[f64]) -> Tensor {
    match dtype {
        DType::F64 => Tensor::from_slice(shape, data),
        _ => {
            let data: Vec<f32> = data.iter().map(|v| *v as f32).collect();
            narrow(Tensor::from_slice(shape, &data), dtype)
        }
    }
}

/// Row-major strides in elements.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i].max(1);
    }
    out
}

/// Calls `visit` with the offset in each of several strided operands, for every point of a box, in
/// row-major order. A box without axes has one point.
pub(super) fn walk<const N: usize>(
    extents: &[usize],
    strides: [&[usize]; N],
    mut visit: impl FnMut([usize; N]),
) {
    if extents.contains(&0) {
        return;
    }
    let mut at = vec![0usize; extents.len()];
    let mut offsets = [0usize; N];
    loop {
        visit(offsets);
        let mut axis = extents.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            at[axis] += 1;
            if at[axis] < extents[axis] {
                for (o, s) in offsets.iter_mut().zip(strides) {
                    *o += s[axis];
                }
                break;
            }
            for (o, s) in offsets.iter_mut().zip(strides) {
                *o -= s[axis] * (extents[axis] - 1);
            }
            at[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_visits_a_box_in_row_major_order() {
        let mut seen = vec![];
        walk(&[2, 3], [&[3, 1], &[1, 2]], |o| seen.push(o));
        assert_eq!(seen, [[0, 0], [1, 2], [2, 4], [3, 1], [4, 3], [5, 5]]);
        let mut count = 0;
        walk(&[], [&[]], |[o]| count += 1 + o);
        walk(&[4, 0], [&[0, 1]], |_| count += 100);
        assert_eq!(count, 1);
    }

    #[test]
    fn narrow_floats_go_through_f32() {
        let t = floats(DType::BF16, &[2], &[1.0, 3.1415926]);
        assert_eq!(widen(&t).as_slice::<f32>(), [1.0, 3.140625]);
        assert_eq!(narrow(widen(&t), DType::BF16), t);
    }
}
