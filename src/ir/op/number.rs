//! Typed arithmetic of the reference evaluation.
//!
//! The rows with large inner loops (contractions, windows, normalizations) are written once over
//! [`Number`] or [`Real`] and run at the operands' own dtype: f16 and bf16 are widened to f32 first
//! and rounded at the end, integers wrap. Nothing here knows an op.

use crate::base::Tensor;
use crate::base::tensor::Element;
use crate::ir::scalar_eval::convert;

/// An element type with a sum and a product.
pub(super) trait Number: Element + PartialOrd + Default {
    const ONE: Self;
    /// No element is less (floats: −∞).
    const LEAST: Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn is_nan(self) -> bool;
    /// `acc[i] += factor · x[i · step]`: the innermost loop of every contraction and convolution,
    /// written with indices and plain operators so that builds without optimization run it too.
    fn add_scaled(acc: &mut [Self], factor: Self, x: &[Self], step: usize);
}

macro_rules! numbers {
    (float $($t:ty),*) => { $(impl Number for $t {
        const ONE: Self = 1.0;
        const LEAST: Self = <$t>::NEG_INFINITY;
        fn plus(self, other: Self) -> Self { self + other }
        fn times(self, other: Self) -> Self { self * other }
        fn is_nan(self) -> bool { <$t>::is_nan(self) }
        fn add_scaled(acc: &mut [Self], factor: Self, x: &[Self], step: usize) {
            let (mut i, mut at, n) = (0, 0, acc.len());
            if step == 1 {
                let x = &x[..n];
                while i < n {
                    acc[i] += factor * x[i];
                    i += 1;
                }
                return;
            }
            while i < n {
                acc[i] += factor * x[at];
                i += 1;
                at += step;
            }
        }
    })* };
    (int $($t:ty),*) => { $(impl Number for $t {
        const ONE: Self = 1;
        const LEAST: Self = <$t>::MIN;
        fn plus(self, other: Self) -> Self { self.wrapping_add(other) }
        fn times(self, other: Self) -> Self { self.wrapping_mul(other) }
        fn is_nan(self) -> bool { false }
        fn add_scaled(acc: &mut [Self], factor: Self, x: &[Self], step: usize) {
            for (a, x) in acc.iter_mut().zip(x.iter().step_by(step.max(1))) {
                *a = a.wrapping_add(factor.wrapping_mul(*x));
            }
        }
    })* };
}
numbers!(float f32, f64);
numbers!(int i8, i16, i32, i64, u8, u16, u32, u64);

/// f32 and f64: what normalizations and softmax compute in. Transcendental functions go through
/// f64, as everywhere in the reference.
pub(super) trait Real: Number {
    fn of(v: f64) -> Self;
    fn minus(self, other: Self) -> Self;
    fn over(self, other: Self) -> Self;
    fn exponential(self) -> Self;
    fn logarithm(self) -> Self;
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
        fn exponential(self) -> Self { libm::exp(self as f64) as $t }
        fn logarithm(self) -> Self { libm::log(self as f64) as $t }
        fn sqrt(self) -> Self { <$t>::sqrt(self) }
    })* };
}
reals!(f32, f64);

/// Runs `$body` with `$T` the element type that numbers of a dtype are computed in. The operands'
/// tensors must have gone through [`widen`]; inference admits no bool.
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
            DType::Bool => unreachable!("inference admits no bool"),
            DType::U8 => {
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

/// The tensor in the dtype its arithmetic is done in: narrow floats become f32.
pub(super) fn widen(t: &Tensor) -> Tensor {
    convert(t, t.dtype().compute())
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
}
