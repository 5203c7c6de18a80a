//! Scalar functions as kernel operations.
//!
//! Registers hold narrow floats as f32; `dtype` is the graph's dtype of the operands, so that a
//! cast to f16 rounds. Every definition here is that of [`ScalarFn`], and `kernel/eval.rs` checks
//! it against the reference evaluator.

use super::build::KernelBuilder;
use super::ir::{LaneOp, Op, Ty, Val};
use crate::base::DType;
use crate::ir::scalar::ScalarFn;

/// Emits `f` on registers of equal lanes whose graph dtype is `dtype` (for `Where`: of the branches).
pub fn emit_fn(b: &mut KernelBuilder, f: ScalarFn, dtype: DType, args: &[Val]) -> Val {
    let x = args[0];
    let float = dtype.is_float();
    let boolean = dtype == DType::Bool;
    match f {
        ScalarFn::Neg if float => b.op(Op::Neg, &[x]),
        ScalarFn::Neg => {
            let zero = like(b, x, 0.0);
            b.op(Op::Sub, &[zero, x])
        }
        ScalarFn::Abs if dtype.is_unsigned_int() || boolean => x,
        ScalarFn::Abs => b.op(Op::Abs, &[x]),
        ScalarFn::Sign => sign(b, dtype, x),
        ScalarFn::Relu if boolean || dtype.is_unsigned_int() => x,
        ScalarFn::Relu => {
            let zero = like(b, x, 0.0);
            b.op(Op::Max, &[zero, x])
        }
        ScalarFn::Floor if float => b.op(Op::Floor, &[x]),
        ScalarFn::Ceil if float => b.op(Op::Ceil, &[x]),
        ScalarFn::Round if float => b.op(Op::Round, &[x]),
        ScalarFn::Trunc if float => b.op(Op::Trunc, &[x]),
        ScalarFn::Floor | ScalarFn::Ceil | ScalarFn::Round | ScalarFn::Trunc => x,
        ScalarFn::Sqrt => b.op(Op::Sqrt, &[x]),
        ScalarFn::Rsqrt => {
            let root = b.op(Op::Sqrt, &[x]);
            reciprocal(b, root)
        }
        ScalarFn::Reciprocal => reciprocal(b, x),
        ScalarFn::Exp => b.op(Op::Exp, &[x]),
        ScalarFn::Expm1 => b.op(Op::Expm1, &[x]),
        ScalarFn::Log => b.op(Op::Log, &[x]),
        ScalarFn::Log1p => b.op(Op::Log1p, &[x]),
        ScalarFn::Sin => b.op(Op::Sin, &[x]),
        ScalarFn::Cos => b.op(Op::Cos, &[x]),
        ScalarFn::Tanh => b.op(Op::Tanh, &[x]),
        ScalarFn::Erf => b.op(Op::Erf, &[x]),
        ScalarFn::Sigmoid => sigmoid(b, x),
        ScalarFn::Silu => {
            let s = sigmoid(b, x);
            b.op(Op::Mul, &[x, s])
        }
        ScalarFn::Gelu => gelu(b, x),
        ScalarFn::GeluTanh => gelu_tanh(b, x),
        ScalarFn::Softplus => softplus(b, x),
        ScalarFn::IsNan => b.op(Op::Ne, &[x, x]),
        ScalarFn::IsInf => {
            let inf = like(b, x, f64::INFINITY);
            let magnitude = b.op(Op::Abs, &[x]);
            b.op(Op::Eq, &[magnitude, inf])
        }
        ScalarFn::Not => b.op(Op::Not, &[x]),
        ScalarFn::Cast(to) => cast(b, dtype, to, x),
        ScalarFn::Add if boolean => b.op(Op::Or, args),
        ScalarFn::Mul if boolean => b.op(Op::And, args),
        ScalarFn::Min if boolean => b.op(Op::And, args),
        ScalarFn::Max if boolean => b.op(Op::Or, args),
        ScalarFn::Add => b.op(Op::Add, args),
        ScalarFn::Sub => b.op(if boolean { Op::Xor } else { Op::Sub }, args),
        ScalarFn::Mul => b.op(Op::Mul, args),
        ScalarFn::Div => b.op(Op::Div, args),
        ScalarFn::FloorDiv => floor_div(b, dtype, x, args[1]),
        ScalarFn::Mod => modulo(b, dtype, x, args[1]),
        ScalarFn::Pow if float => b.op(Op::Pow, args),
        ScalarFn::Pow => integer_pow(b, dtype, x, args[1]),
        ScalarFn::Min => nan_keeping(b, Op::Min, float, x, args[1]),
        ScalarFn::Max => nan_keeping(b, Op::Max, float, x, args[1]),
        ScalarFn::And => b.op(Op::And, args),
        ScalarFn::Or => b.op(Op::Or, args),
        ScalarFn::Xor => b.op(Op::Xor, args),
        ScalarFn::Shl => b.op(Op::Shl, args),
        ScalarFn::Shr => b.op(Op::Shr, args),
        ScalarFn::Eq => compare(b, Op::Eq, boolean, args),
        ScalarFn::Ne => compare(b, Op::Ne, boolean, args),
        ScalarFn::Lt => compare(b, Op::Lt, boolean, args),
        ScalarFn::Le => compare(b, Op::Le, boolean, args),
        ScalarFn::Gt => compare(b, Op::Gt, boolean, args),
        ScalarFn::Ge => compare(b, Op::Ge, boolean, args),
        ScalarFn::Where => choose(b, x, args[1], args[2]),
        ScalarFn::Random { key } => threefry(b, key, x, args[1]),
    }
}

/// A constant of the type of `v`.
pub fn like(b: &mut KernelBuilder, v: Val, c: f64) -> Val {
    let ty = b.ty(v);
    b.number(ty.dtype(), ty.lanes(), c)
}

/// `mask ? a : c`, for masks too.
pub fn choose(b: &mut KernelBuilder, mask: Val, a: Val, c: Val) -> Val {
    if !matches!(b.ty(a), Ty::Mask(_)) {
        return b.op(Op::Select, &[mask, a, c]);
    }
    let not = b.op(Op::Not, &[mask]);
    let (yes, no) = (b.op(Op::And, &[mask, a]), b.op(Op::And, &[not, c]));
    b.op(Op::Or, &[yes, no])
}

/// Min or max that gives NaN where either operand is NaN.
pub fn nan_keeping(b: &mut KernelBuilder, op: Op, float: bool, x: Val, y: Val) -> Val {
    // The instruction gives y where one is NaN, so only a NaN in x is lost.
    let m = b.op(op, &[x, y]);
    if !float {
        return m;
    }
    let nan = b.op(Op::Ne, &[x, x]);
    b.op(Op::Select, &[nan, x, m])
}

fn compare(b: &mut KernelBuilder, op: Op, boolean: bool, args: &[Val]) -> Val {
    if !boolean {
        return b.op(op, args);
    }
    let bytes: Vec<Val> = args.iter().map(|v| b.convert(*v, DType::U8)).collect();
    b.op(op, &bytes)
}

fn reciprocal(b: &mut KernelBuilder, x: Val) -> Val {
    let one = like(b, x, 1.0);
    b.op(Op::Div, &[one, x])
}

fn sign(b: &mut KernelBuilder, dtype: DType, x: Val) -> Val {
    if dtype == DType::Bool {
        return x;
    }
    let (zero, one) = (like(b, x, 0.0), like(b, x, 1.0));
    let positive = b.op(Op::Gt, &[x, zero]);
    // What is neither above nor below zero is itself: ±0 and NaN.
    let mut out = b.op(Op::Select, &[positive, one, x]);
    if !dtype.is_unsigned_int() {
        let minus = like(b, x, -1.0);
        let negative = b.op(Op::Lt, &[x, zero]);
        out = b.op(Op::Select, &[negative, minus, out]);
    }
    out
}

/// `1 / (1 + exp(-x))`.
fn sigmoid(b: &mut KernelBuilder, x: Val) -> Val {
    let minus = b.op(Op::Neg, &[x]);
    let e = b.op(Op::Exp, &[minus]);
    let one = like(b, x, 1.0);
    let denominator = b.op(Op::Add, &[one, e]);
    b.op(Op::Div, &[one, denominator])
}

/// `x · (1 + erf(x / √2)) / 2`.
fn gelu(b: &mut KernelBuilder, x: Val) -> Val {
    let (scale, half, one) =
        (like(b, x, std::f64::consts::FRAC_1_SQRT_2), like(b, x, 0.5), like(b, x, 1.0));
    let scaled = b.op(Op::Mul, &[x, scale]);
    let erf = b.op(Op::Erf, &[scaled]);
    let cdf2 = b.op(Op::Add, &[one, erf]);
    let hx = b.op(Op::Mul, &[half, x]);
    b.op(Op::Mul, &[hx, cdf2])
}

fn gelu_tanh(b: &mut KernelBuilder, x: Val) -> Val {
    let (c, k) = (like(b, x, 0.044715), like(b, x, (2.0 / std::f64::consts::PI).sqrt()));
    let (half, one) = (like(b, x, 0.5), like(b, x, 1.0));
    let square = b.op(Op::Mul, &[x, x]);
    let cube = b.op(Op::Mul, &[square, x]);
    let inner = b.mul_add(c, cube, x);
    let scaled = b.op(Op::Mul, &[k, inner]);
    let t = b.op(Op::Tanh, &[scaled]);
    let t1 = b.op(Op::Add, &[one, t]);
    let hx = b.op(Op::Mul, &[half, x]);
    b.op(Op::Mul, &[hx, t1])
}

/// `max(x, 0) + log1p(exp(-|x|))`.
fn softplus(b: &mut KernelBuilder, x: Val) -> Val {
    let zero = like(b, x, 0.0);
    let top = b.op(Op::Max, &[zero, x]);
    let magnitude = b.op(Op::Abs, &[x]);
    let minus = b.op(Op::Neg, &[magnitude]);
    let e = b.op(Op::Exp, &[minus]);
    let l = b.op(Op::Log1p, &[e]);
    b.op(Op::Add, &[top, l])
}

fn cast(b: &mut KernelBuilder, from: DType, to: DType, x: Val) -> Val {
    if from == to {
        return x;
    }
    if to == DType::Bool {
        let zero = like(b, x, 0.0);
        return b.op(Op::Ne, &[x, zero]);
    }
    let converted = b.convert(x, to);
    // Registers hold narrow floats as f32, but the rounding is real.
    b.convert(converted, to.compute())
}

fn floor_div(b: &mut KernelBuilder, dtype: DType, x: Val, y: Val) -> Val {
    let q = b.op(Op::Div, &[x, y]);
    if dtype.is_float() {
        return b.op(Op::Floor, &[q]);
    }
    if !dtype.is_signed_int() {
        return q;
    }
    let adjust = rounds_up(b, x, y);
    let one = like(b, x, 1.0);
    let lower = b.op(Op::Sub, &[q, one]);
    b.op(Op::Select, &[adjust, lower, q])
}

/// Whether the remainder is not zero and has another sign than the divisor.
fn rounds_up(b: &mut KernelBuilder, x: Val, y: Val) -> Val {
    let r = b.op(Op::Rem, &[x, y]);
    let zero = like(b, x, 0.0);
    let inexact = b.op(Op::Ne, &[r, zero]);
    let signs = b.op(Op::Xor, &[r, y]);
    let differ = b.op(Op::Lt, &[signs, zero]);
    b.op(Op::And, &[inexact, differ])
}

/// Floats: `x − ⌊x / y⌋ · y`.
fn modulo(b: &mut KernelBuilder, dtype: DType, x: Val, y: Val) -> Val {
    if dtype.is_float() {
        let q = floor_div(b, dtype, x, y);
        let product = b.op(Op::Mul, &[q, y]);
        return b.op(Op::Sub, &[x, product]);
    }
    let r = b.op(Op::Rem, &[x, y]);
    if !dtype.is_signed_int() {
        return r;
    }
    let adjust = rounds_up(b, x, y);
    let sum = b.op(Op::Add, &[r, y]);
    b.op(Op::Select, &[adjust, sum, r])
}

/// By squaring, all bits of the exponent; a negative exponent gives 0, but ±1 for the bases ±1.
fn integer_pow(b: &mut KernelBuilder, dtype: DType, x: Val, y: Val) -> Val {
    let (zero, one) = (like(b, x, 0.0), like(b, x, 1.0));
    let (mut result, mut square, mut rest) = (one, x, y);
    for _ in 0..dtype.bytes() * 8 {
        let bit = b.op(Op::And, &[rest, one]);
        let odd = b.op(Op::Ne, &[bit, zero]);
        let product = b.op(Op::Mul, &[result, square]);
        result = b.op(Op::Select, &[odd, product, result]);
        square = b.op(Op::Mul, &[square, square]);
        rest = b.op(Op::Shr, &[rest, one]);
    }
    if !dtype.is_signed_int() {
        return result;
    }
    // The sign bits that Shr drags in only multiply by powers of ±1, so those bases are right.
    let minus = like(b, x, -1.0);
    let (is_one, is_minus) = (b.op(Op::Eq, &[x, one]), b.op(Op::Eq, &[x, minus]));
    let unit = b.op(Op::Or, &[is_one, is_minus]);
    let negative = b.op(Op::Lt, &[y, zero]);
    let kept = b.op(Op::Select, &[unit, result, zero]);
    b.op(Op::Select, &[negative, kept, result])
}

/// Threefry-2x32, 20 rounds; the first word.
fn threefry(b: &mut KernelBuilder, key: [u32; 2], c0: Val, c1: Val) -> Val {
    const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let ks = [key[0], key[1], 0x1BD1_1BDA ^ key[0] ^ key[1]];
    let word = |b: &mut KernelBuilder, k: u32| like(b, c0, k as f64);
    let (k0, k1) = (word(b, ks[0]), word(b, ks[1]));
    let (mut x, mut y) = (b.op(Op::Add, &[c0, k0]), b.op(Op::Add, &[c1, k1]));
    for round in 0..5usize {
        for r in ROTATIONS[round % 2] {
            x = b.op(Op::Add, &[x, y]);
            let (left, right) = (word(b, r), word(b, 32 - r));
            let (hi, lo) = (b.op(Op::Shl, &[y, left]), b.op(Op::Shr, &[y, right]));
            let rotated = b.op(Op::Or, &[hi, lo]);
            y = b.op(Op::Xor, &[rotated, x]);
        }
        let (a, c) = (ks[(round + 1) % 3], ks[(round + 2) % 3].wrapping_add(round as u32 + 1));
        let (a, c) = (word(b, a), word(b, c));
        x = b.op(Op::Add, &[x, a]);
        y = b.op(Op::Add, &[y, c]);
    }
    x
}

/// Scalars side by side in one register; itself for one.
pub fn gather_lanes(b: &mut KernelBuilder, lanes: &[Val]) -> Val {
    if lanes.len() == 1 {
        return lanes[0];
    }
    if lanes.iter().all(|v| v == &lanes[0]) {
        return b.splat(lanes[0], lanes.len() as u16);
    }
    let ty = b.ty(lanes[0]).with_lanes(lanes.len() as u16);
    b.lane(LaneOp::Concat, ty, lanes)
}
