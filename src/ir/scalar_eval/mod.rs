//! What each [`ScalarFn`] computes, on elements and on whole tensors: the definition for targets.
//!
//! In: operands of the dtypes that inference admits. Out: the result in the operands' dtype.
//! Arithmetic runs in the dtype itself (f16 and bf16 in f32, rounded at the end). Transcendental
//! functions of f32 are computed in f64 and rounded once, so they are right to half an ulp and a
//! little; those of f64 are as good as `libm`, about one ulp. Nothing depends on the machine.

mod element;
mod zip;

use std::borrow::Cow;
use std::cmp::Ordering;

pub use element::{Bool, Num, Scalar};

use super::scalar::ScalarFn;
use crate::base::tensor::Element;
use crate::base::{DType, Tensor};
use zip::zip;

/// Runs `$body` with `$T` standing for the element type of a dtype.
macro_rules! for_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {{
        use $crate::base::DType as D;
        use $crate::ir::scalar_eval::Bool;
        macro_rules! with {
            ($t:ty) => {{
                type $T = $t;
                $body
            }};
        }
        match $dtype {
            D::F32 => with!(f32),
            D::F64 => with!(f64),
            D::F16 => with!(half::f16),
            D::BF16 => with!(half::bf16),
            D::I8 => with!(i8),
            D::I16 => with!(i16),
            D::I32 => with!(i32),
            D::I64 => with!(i64),
            D::U8 => with!(u8),
            D::U16 => with!(u16),
            D::U32 => with!(u32),
            D::U64 => with!(u64),
            D::Bool => with!(Bool),
        }
    }};
}
pub(crate) use for_dtype;

/// The element-wise function of whole tensors, each broadcast to `shape` (which inference gave).
/// For `Where` the first operand is bool; for `Cast` there is one operand.
pub fn apply(f: ScalarFn, operands: &[Tensor], shape: &[usize]) -> Tensor {
    use ScalarFn::*;
    let dtype = operands[operands.len() - 1].dtype();
    match f {
        Cast(to) => convert(&operands[0], to),
        Where => for_dtype!(dtype, T => {
            let [c, a, b] = [0, 1, 2].map(|i| &operands[i]);
            let (c, a, b) = (wide::<Bool>(c, shape), wide::<T>(a, shape), wide::<T>(b, shape));
            let pick = |i: usize| if c[i].0 != 0 { a[i] } else { b[i] };
            Tensor::from_slice(shape, &(0..c.len()).map(pick).collect::<Vec<T>>())
        }),
        Random { key } => {
            let (hi, lo) = (wide::<u32>(&operands[0], shape), wide::<u32>(&operands[1], shape));
            let word = |(&a, &b): (&u32, &u32)| threefry2x32(key, [a, b])[0];
            Tensor::from_slice(shape, &hi.iter().zip(&*lo).map(word).collect::<Vec<u32>>())
        }
        IsNan | IsInf => for_dtype!(dtype, T => {
            let x = wide::<T>(&operands[0], shape);
            collect_bool(shape, x.iter().map(|&x| T::test(f, x)))
        }),
        Eq => ordered(operands, shape, |o| o == Some(Ordering::Equal)),
        Ne => ordered(operands, shape, |o| o != Some(Ordering::Equal)),
        Lt => ordered(operands, shape, |o| o == Some(Ordering::Less)),
        Le => ordered(operands, shape, |o| matches!(o, Some(Ordering::Less | Ordering::Equal))),
        Gt => ordered(operands, shape, |o| o == Some(Ordering::Greater)),
        Ge => ordered(operands, shape, |o| matches!(o, Some(Ordering::Greater | Ordering::Equal))),
        Neg | Abs | Sign | Relu | Floor | Ceil | Round | Trunc | Sqrt | Rsqrt | Reciprocal
        | Exp | Expm1 | Log | Log1p | Sin | Cos | Tanh | Sigmoid | Erf | Gelu | GeluTanh | Silu
        | Softplus | Not => for_dtype!(dtype, T => {
            let x = wide::<T>(&operands[0], shape);
            Tensor::from_slice(shape, &x.iter().map(|&x| T::unary(f, x)).collect::<Vec<T>>())
        }),
        Add | Sub | Mul | Div | FloorDiv | Mod | Pow | Min | Max | And | Or | Xor | Shl | Shr => {
            for_dtype!(dtype, T => {
                let (x, y) = (&operands[0], &operands[1]);
                match f {
                    // What prepares weights, in loops of their own.
                    Add => zip(x, y, shape, T::add),
                    Mul => zip(x, y, shape, T::mul),
                    f => zip(x, y, shape, |a, b| T::binary(f, a, b)),
                }
            })
        }
    }
}

/// A comparison, by what it says of an order; `None` is no order: a NaN is there.
fn ordered(operands: &[Tensor], shape: &[usize], holds: fn(Option<Ordering>) -> bool) -> Tensor {
    for_dtype!(operands[0].dtype(), T => {
        let (x, y) = (wide::<T>(&operands[0], shape), wide::<T>(&operands[1], shape));
        collect_bool(shape, x.iter().zip(y.iter()).map(|(x, y)| holds(x.partial_cmp(y))))
    })
}

/// `Cast`: see [`ScalarFn::Cast`]. Narrow floats are reached through f32.
pub fn convert(x: &Tensor, to: DType) -> Tensor {
    if x.dtype() == to {
        return x.clone();
    }
    for_dtype!(x.dtype(), T => for_dtype!(to, U => {
        let data: Vec<U> = x.as_slice::<T>().iter().map(|v| U::from_num(v.num())).collect();
        Tensor::from_slice(x.shape(), &data)
    }))
}

/// The elements of a tensor broadcast to a shape (NumPy's rule, aligned at the right).
pub fn wide<'a, T: Element>(x: &'a Tensor, shape: &[usize]) -> Cow<'a, [T]> {
    let data = x.as_slice::<T>();
    let n: usize = shape.iter().product();
    if x.shape() == shape || (data.len() == n && n > 0) {
        return Cow::Borrowed(data);
    }
    if data.len() == 1 {
        return Cow::Owned(vec![data[0]; n]);
    }
    // Axis by axis from the innermost: `block` holds what is already broadcast of one element of
    // the remaining outer axes.
    let lead = shape.len() - x.rank();
    let mut out = data.to_vec();
    let mut block = 1;
    for (i, &extent) in shape.iter().enumerate().rev() {
        let own = if i < lead { 1 } else { x.shape()[i - lead] };
        if own == 1 && extent != 1 {
            let mut next = Vec::with_capacity(out.len() * extent);
            for chunk in out.chunks(block) {
                (0..extent).for_each(|_| next.extend_from_slice(chunk));
            }
            out = next;
        }
        block *= extent;
        if block == 0 {
            return Cow::Owned(vec![]);
        }
    }
    Cow::Owned(out)
}

fn collect_bool(shape: &[usize], values: impl Iterator<Item = bool>) -> Tensor {
    Tensor::from_slice(shape, &values.map(Bool::from).collect::<Vec<Bool>>())
}

/// Threefry-2x32 with 20 rounds (Salmon et al., SC 2011, §4.2 and its rotation constants).
pub fn threefry2x32(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];
    const PARITY: u32 = 0x1BD1_1BDA;
    let ks = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let mut x = [counter[0].wrapping_add(ks[0]), counter[1].wrapping_add(ks[1])];
    for round in 0..20 {
        x[0] = x[0].wrapping_add(x[1]);
        x[1] = x[1].rotate_left(ROTATIONS[round % 8]) ^ x[0];
        // A word of the key schedule goes in after every fourth round.
        if round % 4 == 3 {
            let s = round / 4 + 1;
            x[0] = x[0].wrapping_add(ks[s % 3]);
            x[1] = x[1].wrapping_add(ks[(s + 1) % 3]).wrapping_add(s as u32);
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with Random123 (`kat_vectors`, threefry2x32, 20 rounds).
    #[test]
    fn threefry_known_answers() {
        assert_eq!(threefry2x32([0, 0], [0, 0]), [0x6b200159, 0x99ba4efe]);
        let ones = [u32::MAX, u32::MAX];
        assert_eq!(threefry2x32(ones, ones), [0x1cb996fc, 0xbb002be7]);
        let pi = ([0x13198a2e, 0x03707344], [0x243f6a88, 0x85a308d3]);
        assert_eq!(threefry2x32(pi.0, pi.1), [0xc4923a9c, 0x483df7a0]);
    }

    #[test]
    fn broadcasting() {
        let x = Tensor::from_slice(&[2, 1, 2], &[1i32, 2, 3, 4]);
        assert_eq!(*wide::<i32>(&x, &[2, 2, 2]), [1, 2, 1, 2, 3, 4, 3, 4]);
        let column = Tensor::from_slice(&[2, 1], &[5i32, 6]);
        assert_eq!(*wide::<i32>(&column, &[2, 2, 2]), [5, 5, 6, 6, 5, 5, 6, 6]);
        assert!(wide::<i32>(&column, &[0, 2, 3]).is_empty());
    }
}
