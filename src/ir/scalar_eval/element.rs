//! Functions of single elements, type by type.
//!
//! In: elements of one type and a [`ScalarFn`] that inference admits on it. Out: an element of the
//! same type. Narrow floats go through f32, transcendental functions through f64.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use crate::base::DType;
use crate::base::tensor::Element;
use crate::ir::scalar::ScalarFn;

/// A number on its way from one dtype to another, without loss.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Num {
    Float(f64),
    Int(i128),
}

/// One element of a bool tensor: 0 or 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable, Debug)]
#[repr(transparent)]
pub struct Bool(pub u8);

impl Element for Bool {
    const DTYPE: DType = DType::Bool;
}

impl From<bool> for Bool {
    fn from(v: bool) -> Bool {
        Bool(v as u8)
    }
}

/// Functions of single elements. Which functions a type has is the business of inference; asking
/// for another one is a bug of the caller and panics.
pub trait Scalar: Element + PartialOrd {
    fn num(self) -> Num;
    fn from_num(n: Num) -> Self;
    fn unary(f: ScalarFn, x: Self) -> Self;
    fn binary(f: ScalarFn, x: Self, y: Self) -> Self;

    /// `binary` of `Add`, for loops.
    fn add(x: Self, y: Self) -> Self {
        Self::binary(ScalarFn::Add, x, y)
    }

    /// `binary` of `Mul`, for loops.
    fn mul(x: Self, y: Self) -> Self {
        Self::binary(ScalarFn::Mul, x, y)
    }

    /// `IsNan`, else `IsInf`.
    fn test(f: ScalarFn, x: Self) -> bool;
}

fn undefined(f: ScalarFn, on: DType) -> ! {
    unreachable!("inference admits no {f:?} on {on}")
}

macro_rules! float {
    ($t:ident) => {
        impl Scalar for $t {
            fn num(self) -> Num {
                Num::Float(self as f64)
            }

            fn from_num(n: Num) -> $t {
                match n {
                    Num::Float(v) => v as $t,
                    Num::Int(v) => v as $t,
                }
            }

            fn unary(f: ScalarFn, x: $t) -> $t {
                use ScalarFn::*;
                match f {
                    Neg => -x,
                    Abs => x.abs(),
                    Sign if x > 0.0 => 1.0,
                    Sign if x < 0.0 => -1.0,
                    Sign => x,
                    Relu if x <= 0.0 => 0.0,
                    Relu => x,
                    Floor => x.floor(),
                    Ceil => x.ceil(),
                    Round => x.round_ties_even(),
                    Trunc => x.trunc(),
                    Sqrt => x.sqrt(),
                    Reciprocal => 1.0 / x,
                    Rsqrt | Exp | Expm1 | Log | Log1p | Sin | Cos | Tanh | Sigmoid | Erf | Gelu
                    | GeluTanh | Silu | Softplus => transcendental(f, x as f64) as $t,
                    IsNan
                    | IsInf
                    | Not
                    | Cast(_)
                    | Add
                    | Sub
                    | Mul
                    | Div
                    | FloorDiv
                    | Mod
                    | Pow
                    | Min
                    | Max
                    | And
                    | Or
                    | Xor
                    | Shl
                    | Shr
                    | Eq
                    | Ne
                    | Lt
                    | Le
                    | Gt
                    | Ge
                    | Where
                    | Random { .. } => undefined(f, <$t>::DTYPE),
                }
            }

            #[inline]
            fn add(x: $t, y: $t) -> $t {
                x + y
            }

            #[inline]
            fn mul(x: $t, y: $t) -> $t {
                x * y
            }

            fn binary(f: ScalarFn, x: $t, y: $t) -> $t {
                use ScalarFn::*;
                match f {
                    Add => x + y,
                    Sub => x - y,
                    Mul => x * y,
                    Div => x / y,
                    FloorDiv => (x / y).floor(),
                    // `%` is exact, with the sign of the dividend.
                    Mod => match x % y {
                        r if r != 0.0 && (r < 0.0) != (y < 0.0) => r + y,
                        r => r,
                    },
                    Pow => libm::pow(x as f64, y as f64) as $t,
                    Min if x.is_nan() || x < y => x,
                    Max if x.is_nan() || x > y => x,
                    Min | Max => y,
                    Neg
                    | Abs
                    | Sign
                    | Relu
                    | Floor
                    | Ceil
                    | Round
                    | Trunc
                    | Sqrt
                    | Rsqrt
                    | Reciprocal
                    | Exp
                    | Expm1
                    | Log
                    | Log1p
                    | Sin
                    | Cos
                    | Tanh
                    | Sigmoid
                    | Erf
                    | Gelu
                    | GeluTanh
                    | Silu
                    | Softplus
                    | IsNan
                    | IsInf
                    | Not
                    | Cast(_)
                    | And
                    | Or
                    | Xor
                    | Shl
                    | Shr
                    | Eq
                    | Ne
                    | Lt
                    | Le
                    | Gt
                    | Ge
                    | Where
                    | Random { .. } => undefined(f, <$t>::DTYPE),
                }
            }

            fn test(f: ScalarFn, x: $t) -> bool {
                if f == ScalarFn::IsNan { x.is_nan() } else { x.is_infinite() }
            }
        }
    };
}
float!(f32);
float!(f64);

/// The functions that no processor has an instruction for, in f64.
fn transcendental(f: ScalarFn, x: f64) -> f64 {
    use ScalarFn::*;
    match f {
        Rsqrt => 1.0 / x.sqrt(),
        Exp => libm::exp(x),
        Expm1 => libm::expm1(x),
        Log => libm::log(x),
        Log1p => libm::log1p(x),
        Sin => libm::sin(x),
        Cos => libm::cos(x),
        Tanh => libm::tanh(x),
        Sigmoid => sigmoid(x),
        Erf => libm::erf(x),
        // Φ by erfc keeps its digits where erf is close to -1.
        Gelu => x * (0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)),
        // (1 + tanh u) / 2 = sigmoid(2u), without the cancellation.
        GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x * sigmoid(2.0 * u)
        }
        Silu => x * sigmoid(x),
        Softplus if x.is_nan() => x,
        Softplus => x.max(0.0) + libm::log1p(libm::exp(-x.abs())),
        Neg
        | Abs
        | Sign
        | Relu
        | Floor
        | Ceil
        | Round
        | Trunc
        | Sqrt
        | Reciprocal
        | IsNan
        | IsInf
        | Not
        | Cast(_)
        | Add
        | Sub
        | Mul
        | Div
        | FloorDiv
        | Mod
        | Pow
        | Min
        | Max
        | And
        | Or
        | Xor
        | Shl
        | Shr
        | Eq
        | Ne
        | Lt
        | Le
        | Gt
        | Ge
        | Where
        | Random { .. } => undefined(f, DType::F64),
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

macro_rules! narrow {
    ($t:ident) => {
        impl Scalar for $t {
            fn num(self) -> Num {
                Num::Float(self.to_f64())
            }

            fn from_num(n: Num) -> $t {
                $t::from_f32(f32::from_num(n))
            }

            fn unary(f: ScalarFn, x: $t) -> $t {
                $t::from_f32(f32::unary(f, x.to_f32()))
            }

            fn binary(f: ScalarFn, x: $t, y: $t) -> $t {
                $t::from_f32(f32::binary(f, x.to_f32(), y.to_f32()))
            }

            fn test(f: ScalarFn, x: $t) -> bool {
                f32::test(f, x.to_f32())
            }
        }
    };
}
narrow!(f16);
narrow!(bf16);

macro_rules! int {
    ($t:ident) => {
        impl Scalar for $t {
            fn num(self) -> Num {
                Num::Int(self as i128)
            }

            fn from_num(n: Num) -> $t {
                match n {
                    Num::Float(v) => v as $t,
                    Num::Int(v) => v as $t,
                }
            }

            #[allow(unused_comparisons)]
            fn unary(f: ScalarFn, x: $t) -> $t {
                use ScalarFn::*;
                match f {
                    Neg => x.wrapping_neg(),
                    Abs if x < 0 => x.wrapping_neg(),
                    Abs => x,
                    // Wraps to -1 on signed types; no unsigned number is below 0.
                    Sign if x < 0 => (0 as $t).wrapping_sub(1),
                    Sign => (x > 0) as $t,
                    Relu => x.max(0),
                    Floor | Ceil | Round | Trunc => x,
                    Not => !x,
                    Sqrt
                    | Rsqrt
                    | Reciprocal
                    | Exp
                    | Expm1
                    | Log
                    | Log1p
                    | Sin
                    | Cos
                    | Tanh
                    | Sigmoid
                    | Erf
                    | Gelu
                    | GeluTanh
                    | Silu
                    | Softplus
                    | IsNan
                    | IsInf
                    | Cast(_)
                    | Add
                    | Sub
                    | Mul
                    | Div
                    | FloorDiv
                    | Mod
                    | Pow
                    | Min
                    | Max
                    | And
                    | Or
                    | Xor
                    | Shl
                    | Shr
                    | Eq
                    | Ne
                    | Lt
                    | Le
                    | Gt
                    | Ge
                    | Where
                    | Random { .. } => undefined(f, <$t>::DTYPE),
                }
            }

            #[allow(unused_comparisons)]
            fn binary(f: ScalarFn, x: $t, y: $t) -> $t {
                use ScalarFn::*;
                match f {
                    Add => x.wrapping_add(y),
                    Sub => x.wrapping_sub(y),
                    Mul => x.wrapping_mul(y),
                    Div | FloorDiv | Mod if y == 0 => 0,
                    Div => x.wrapping_div(y),
                    FloorDiv => {
                        let (q, r) = (x.wrapping_div(y), x.wrapping_rem(y));
                        if r != 0 && (r < 0) != (y < 0) { q.wrapping_sub(1) } else { q }
                    }
                    Mod => {
                        let r = x.wrapping_rem(y);
                        if r != 0 && (r < 0) != (y < 0) { r.wrapping_add(y) } else { r }
                    }
                    Pow => {
                        // A negative exponent is 1 / x^|y|, which truncates to 0 but for ±1.
                        if y < 0 {
                            return match (x, y % 2 == 0) {
                                (1, _) => 1,
                                (_, even) if x.wrapping_add(1) == 0 => {
                                    if even {
                                        1
                                    } else {
                                        x
                                    }
                                }
                                _ => 0,
                            };
                        }
                        let (mut power, mut base, mut rest) = (1 as $t, x, y);
                        while rest > 0 {
                            if rest & 1 == 1 {
                                power = power.wrapping_mul(base);
                            }
                            base = base.wrapping_mul(base);
                            rest >>= 1;
                        }
                        power
                    }
                    Min => x.min(y),
                    Max => x.max(y),
                    And => x & y,
                    Or => x | y,
                    Xor => x ^ y,
                    // The wrapping shifts take the amount modulo the bits of the type.
                    Shl => x.wrapping_shl(y as u32),
                    Shr => x.wrapping_shr(y as u32),
                    Neg
                    | Abs
                    | Sign
                    | Relu
                    | Floor
                    | Ceil
                    | Round
                    | Trunc
                    | Sqrt
                    | Rsqrt
                    | Reciprocal
                    | Exp
                    | Expm1
                    | Log
                    | Log1p
                    | Sin
                    | Cos
                    | Tanh
                    | Sigmoid
                    | Erf
                    | Gelu
                    | GeluTanh
                    | Silu
                    | Softplus
                    | IsNan
                    | IsInf
                    | Not
                    | Cast(_)
                    | Eq
                    | Ne
                    | Lt
                    | Le
                    | Gt
                    | Ge
                    | Where
                    | Random { .. } => undefined(f, <$t>::DTYPE),
                }
            }

            fn test(f: ScalarFn, _: $t) -> bool {
                undefined(f, <$t>::DTYPE)
            }
        }
    };
}
int!(i8);
int!(i16);
int!(i32);
int!(i64);
int!(u8);
int!(u16);
int!(u32);
int!(u64);

impl Scalar for Bool {
    fn num(self) -> Num {
        Num::Int(self.0 as i128)
    }

    fn from_num(n: Num) -> Bool {
        match n {
            Num::Float(v) => (v != 0.0).into(),
            Num::Int(v) => (v != 0).into(),
        }
    }

    fn unary(f: ScalarFn, x: Bool) -> Bool {
        if f == ScalarFn::Not { Bool(x.0 ^ 1) } else { undefined(f, DType::Bool) }
    }

    fn binary(f: ScalarFn, x: Bool, y: Bool) -> Bool {
        let logic =
            [(ScalarFn::And, x.0 & y.0), (ScalarFn::Or, x.0 | y.0), (ScalarFn::Xor, x.0 ^ y.0)];
        let found = logic.iter().find(|(g, _)| *g == f);
        found.map_or_else(|| undefined(f, DType::Bool), |(_, v)| Bool(*v))
    }

    fn test(f: ScalarFn, _: Bool) -> bool {
        undefined(f, DType::Bool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_edges() {
        use ScalarFn::*;
        assert_eq!(i8::binary(Div, -128, -1), -128);
        assert_eq!(i8::binary(Div, 7, 0), 0);
        assert_eq!(i8::binary(FloorDiv, -7, 2), -4);
        assert_eq!(i8::binary(FloorDiv, -128, -1), -128);
        assert_eq!(i8::binary(Mod, -7, 3), 2);
        assert_eq!(i8::binary(Mod, 7, -3), -2);
        assert_eq!(i8::binary(Pow, -1, -3), -1);
        assert_eq!(i8::binary(Pow, -2, 7), -128);
        assert_eq!(i32::binary(Pow, 3, -1), 0);
        assert_eq!(u64::binary(Pow, 2, 64), 0);
        assert_eq!(i8::binary(Shl, 1, 9), 2);
        assert_eq!(i8::binary(Shr, -128, 7), -1);
        assert_eq!(u8::binary(Shr, 128, 15), 1);
        assert_eq!(i8::unary(Sign, -5), -1);
        assert_eq!(i8::unary(Abs, -128), -128);
    }

    #[test]
    fn casts() {
        let from = |v: f64| Num::Float(v);
        assert_eq!(i32::from_num(from(f64::NAN)), 0);
        assert_eq!(i8::from_num(from(-1e9)), -128);
        assert_eq!(u8::from_num(from(-1.5)), 0);
        assert_eq!(i8::from_num(Num::Int(300)), 44);
        assert_eq!(Bool::from_num(from(f64::NAN)), Bool(1));
        // 2²⁴ + 1 rounds to even.
        assert_eq!(f32::from_num(Num::Int(16_777_217)), 16_777_216.0);
        assert_eq!(f16::from_num(from(1e6)), f16::INFINITY);
    }

    #[test]
    fn floats_at_the_edges() {
        use ScalarFn::*;
        assert!(f32::unary(Relu, f32::NAN).is_nan());
        assert_eq!(f32::unary(Softplus, 200.0), 200.0);
        assert_eq!(f32::unary(Softplus, f32::NEG_INFINITY), 0.0);
        assert_eq!(f32::unary(Sigmoid, f32::NEG_INFINITY), 0.0);
        assert_eq!(f32::unary(Gelu, -20.0), -0.0);
        assert!(f64::unary(Gelu, -30.0) < 0.0);
        assert_eq!(f32::unary(GeluTanh, f32::INFINITY), f32::INFINITY);
        assert_eq!(f32::unary(Round, 2.5), 2.0);
        for f in [Min, Max] {
            assert!(f32::binary(f, f32::NAN, 1.0).is_nan());
            assert!(f32::binary(f, 1.0, f32::NAN).is_nan());
        }
        assert_eq!(f32::binary(Mod, -1.0, f32::INFINITY), f32::INFINITY);
    }
}
