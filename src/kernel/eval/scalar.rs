//! What each operation does to the bits of one element.
//!
//! Elements travel as their bits, zero-extended to 64; a mask's lane is 0 or 1. An operation is
//! chosen once for an instruction and then called lane by lane.

use crate::base::DType;
use crate::ir::scalar::Combine;
use crate::kernel::ir::{Op, Ty};

/// An operation on up to three elements; the ones that it does not take are ignored.
pub type ElementFn = fn(u64, u64, u64) -> u64;

/// The function for operands of this type (for `Select`: of the branches); `None` where the
/// operation is not defined on the type.
pub fn element_fn(op: Op, ty: Ty) -> Option<ElementFn> {
    match (op, ty) {
        (Op::Select, _) => Some(|c, a, b| if c != 0 { a } else { b }),
        // The divisor is a positive constant; anything else is refused by the type check.
        (Op::Div, Ty::Index) => {
            Some(|a, b, _| (a as i64).checked_div_euclid(b as i64).unwrap_or(0) as u64)
        }
        (Op::Rem, Ty::Index) => {
            Some(|a, b, _| (a as i64).checked_rem_euclid(b as i64).unwrap_or(0) as u64)
        }
        (op, ty) => match ty.dtype() {
            DType::F32 => f32_fn(op),
            DType::F64 => f64_fn(op),
            DType::I8 => i8_fn(op),
            DType::I16 => i16_fn(op),
            DType::I32 => i32_fn(op),
            DType::I64 => i64_fn(op),
            DType::U8 => u8_fn(op),
            DType::U16 => u16_fn(op),
            DType::U32 => u32_fn(op),
            DType::U64 => u64_fn(op),
            DType::Bool => mask_fn(op),
            DType::F16 | DType::BF16 => None,
        },
    }
}

/// The lanewise step of a fold.
pub fn fold_op(combine: Combine) -> Option<Op> {
    match combine {
        Combine::Sum => Some(Op::Add),
        Combine::Prod => Some(Op::Mul),
        Combine::Max => Some(Op::Max),
        Combine::Min => Some(Op::Min),
        Combine::Any => Some(Op::Or),
        Combine::All => Some(Op::And),
        Combine::ArgMax | Combine::ArgMin => None,
    }
}

macro_rules! float_fns {
    ($name:ident, $t:ident, $bits:ty) => {
        fn $name(op: Op) -> Option<ElementFn> {
            fn v(bits: u64) -> $t {
                $t::from_bits(bits as $bits)
            }
            fn r(v: $t) -> u64 {
                v.to_bits() as u64
            }
            Some(match op {
                Op::Add => |a, b, _| r(v(a) + v(b)),
                Op::Sub => |a, b, _| r(v(a) - v(b)),
                Op::Mul => |a, b, _| r(v(a) * v(b)),
                Op::Div => |a, b, _| r(v(a) / v(b)),
                Op::Neg => |a, _, _| r(-v(a)),
                Op::Abs => |a, _, _| r(v(a).abs()),
                Op::Sqrt => |a, _, _| r(v(a).sqrt()),
                Op::Floor => |a, _, _| r(v(a).floor()),
                Op::Ceil => |a, _, _| r(v(a).ceil()),
                Op::Trunc => |a, _, _| r(v(a).trunc()),
                Op::Round => |a, _, _| r(v(a).round_ties_even()),
                Op::Fma => |a, b, c| r(v(a).mul_add(v(b), v(c))),
                Op::Min => |a, b, _| if v(a) < v(b) { a } else { b },
                Op::Max => |a, b, _| if v(a) > v(b) { a } else { b },
                Op::Eq => |a, b, _| (v(a) == v(b)) as u64,
                Op::Ne => |a, b, _| (v(a) != v(b)) as u64,
                Op::Lt => |a, b, _| (v(a) < v(b)) as u64,
                Op::Le => |a, b, _| (v(a) <= v(b)) as u64,
                Op::Gt => |a, b, _| (v(a) > v(b)) as u64,
                Op::Ge => |a, b, _| (v(a) >= v(b)) as u64,
                Op::Exp => |a, _, _| r(f64::exp(v(a) as f64) as $t),
                Op::Expm1 => |a, _, _| r(f64::exp_m1(v(a) as f64) as $t),
                Op::Log => |a, _, _| r(f64::ln(v(a) as f64) as $t),
                Op::Log1p => |a, _, _| r(f64::ln_1p(v(a) as f64) as $t),
                Op::Sin => |a, _, _| r(f64::sin(v(a) as f64) as $t),
                Op::Cos => |a, _, _| r(f64::cos(v(a) as f64) as $t),
                Op::Tanh => |a, _, _| r(f64::tanh(v(a) as f64) as $t),
                Op::Erf => |a, _, _| r(erf(v(a) as f64) as $t),
                Op::Pow => |a, b, _| r(f64::powf(v(a) as f64, v(b) as f64) as $t),
                Op::Scale => |a, b, _| r(libm::ldexp(v(a) as f64, v(b) as i32) as $t),
                Op::Rem | Op::And | Op::Or | Op::Xor | Op::Not => return None,
                Op::Shl | Op::Shr | Op::Select => return None,
            })
        }
    };
}
float_fns!(f32_fn, f32, u32);
float_fns!(f64_fn, f64, u64);

macro_rules! int_fns {
    ($name:ident, $t:ident, $bits:ty) => {
        fn $name(op: Op) -> Option<ElementFn> {
            fn v(bits: u64) -> $t {
                bits as $t
            }
            fn r(v: $t) -> u64 {
                v as $bits as u64
            }
            Some(match op {
                Op::Add => |a, b, _| r(v(a).wrapping_add(v(b))),
                Op::Sub => |a, b, _| r(v(a).wrapping_sub(v(b))),
                Op::Mul => |a, b, _| r(v(a).wrapping_mul(v(b))),
                Op::Div => |a, b, _| if v(b) == 0 { 0 } else { r(v(a).wrapping_div(v(b))) },
                Op::Rem => |a, b, _| if v(b) == 0 { 0 } else { r(v(a).wrapping_rem(v(b))) },
                Op::Neg => |a, _, _| r((0 as $t).wrapping_sub(v(a))),
                #[allow(unused_comparisons)]
                Op::Abs => |a, _, _| if v(a) < 0 { r((0 as $t).wrapping_sub(v(a))) } else { a },
                Op::Min => |a, b, _| if v(a) < v(b) { a } else { b },
                Op::Max => |a, b, _| if v(a) > v(b) { a } else { b },
                Op::And => |a, b, _| a & b,
                Op::Or => |a, b, _| a | b,
                Op::Xor => |a, b, _| a ^ b,
                Op::Not => |a, _, _| r(!v(a)),
                Op::Shl => |a, b, _| r(v(a).wrapping_shl(b as u32)),
                Op::Shr => |a, b, _| r(v(a).wrapping_shr(b as u32)),
                Op::Eq => |a, b, _| (a == b) as u64,
                Op::Ne => |a, b, _| (a != b) as u64,
                Op::Lt => |a, b, _| (v(a) < v(b)) as u64,
                Op::Le => |a, b, _| (v(a) <= v(b)) as u64,
                Op::Gt => |a, b, _| (v(a) > v(b)) as u64,
                Op::Ge => |a, b, _| (v(a) >= v(b)) as u64,
                Op::Sqrt | Op::Floor | Op::Ceil | Op::Trunc | Op::Round | Op::Fma => return None,
                Op::Exp | Op::Expm1 | Op::Log | Op::Log1p | Op::Sin | Op::Cos => return None,
                Op::Tanh | Op::Erf | Op::Pow | Op::Scale | Op::Select => return None,
            })
        }
    };
}
int_fns!(i8_fn, i8, u8);
int_fns!(i16_fn, i16, u16);
int_fns!(i32_fn, i32, u32);
int_fns!(i64_fn, i64, u64);
int_fns!(u8_fn, u8, u8);
int_fns!(u16_fn, u16, u16);
int_fns!(u32_fn, u32, u32);
int_fns!(u64_fn, u64, u64);

fn mask_fn(op: Op) -> Option<ElementFn> {
    match op {
        Op::And => Some(|a, b, _| a & b),
        Op::Or => Some(|a, b, _| a | b),
        Op::Xor | Op::Ne => Some(|a, b, _| a ^ b),
        Op::Not => Some(|a, _, _| a ^ 1),
        Op::Eq => Some(|a, b, _| (a == b) as u64),
        Op::Lt => Some(|a, b, _| (a < b) as u64),
        Op::Le => Some(|a, b, _| (a <= b) as u64),
        Op::Gt => Some(|a, b, _| (a > b) as u64),
        Op::Ge => Some(|a, b, _| (a >= b) as u64),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Rem | Op::Neg | Op::Abs => None,
        Op::Sqrt | Op::Floor | Op::Ceil | Op::Trunc | Op::Round | Op::Fma => None,
        Op::Min | Op::Max | Op::Shl | Op::Shr | Op::Select => None,
        Op::Exp | Op::Expm1 | Op::Log | Op::Log1p | Op::Sin | Op::Cos => None,
        Op::Tanh | Op::Erf | Op::Pow | Op::Scale => None,
    }
}

/// erf x = 2/√π · exp(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (1·3·…·(2n+1)): all terms have one sign, so nothing
/// cancels. From 6 on the result rounds to ±1.
pub fn erf(x: f64) -> f64 {
    if x.is_nan() || x == 0.0 {
        return x;
    }
    if x.abs() >= 6.0 {
        return 1f64.copysign(x);
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > sum.abs() * 1e-18 {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}
