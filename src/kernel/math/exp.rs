//! exp, expm1, tanh; log, log1p.

use super::float::Floats;
use super::table::*;
use crate::kernel::ir::{Op, Val};

/// x = n · log 2 + r, |r| ≤ 0.36: n as a float, n as an integer, r.
fn reduce(f: &mut Floats, x: Val) -> (Val, Val, Val) {
    let (log2e, magic) = (f.c(std::f64::consts::LOG2_E), f.c(f.magic()));
    let near = f.mul_add(x, log2e, magic);
    let n = f.sub(near, magic);
    let (near, base) = (f.bits(near), f.bits_of(f.magic()));
    let integer = f.op(Op::Sub, &[near, base]);
    // n times the first part is exact in both numeric classes.
    let [high, low] = f.pick(LN2_F32, LN2_F64).map(|c| f.c(-c));
    let r = f.mul_add(n, high, x);
    let r = f.mul_add(n, low, r);
    (n, integer, r)
}

/// (exp r - 1 - r) for |r| ≤ 0.36.
fn exp_tail(f: &mut Floats, r: Val) -> Val {
    let q = f.poly(r, f.pick(EXP_F32, EXP_F64));
    let square = f.mul(r, r);
    f.mul(square, q)
}

/// Limits beyond which exp is 0 and infinite; what may be NaN stands second.
fn clamp(f: &mut Floats, x: Val, low: f64, high: f64) -> Val {
    let (low, high) = (f.c(low), f.c(high));
    let x = f.op(Op::Min, &[high, x]);
    f.op(Op::Max, &[low, x])
}

pub fn exp(f: &mut Floats, x: Val) -> Val {
    exp_of_sum(f, x, None)
}

/// exp(x + low) for a small `low`.
pub fn exp_of_sum(f: &mut Floats, x: Val, low: Option<Val>) -> Val {
    let (least, most) = f.pick((-104.0, 89.0), (-746.0, 710.0));
    let x = clamp(f, x, least, most);
    let (whole, n, mut r) = reduce(f, x);
    if let Some(low) = low {
        r = f.add(r, low);
    }
    let tail = exp_tail(f, r);
    let (one, shift) = (f.c(1.0), f.ic(1));
    let p = f.add(r, tail);
    let p = f.add(p, one);
    if f.means.scales {
        return f.op(Op::Scale, &[p, whole]);
    }
    // In two steps, so that overflow and subnormal results come by themselves.
    let half = f.op(Op::Shr, &[n, shift]);
    let rest = f.op(Op::Sub, &[n, half]);
    let (half, rest) = (f.power_of_two(half), f.power_of_two(rest));
    let p = f.mul(p, half);
    f.mul(p, rest)
}

/// 2ⁿ (1 + r + tail) - 1, computed at half the size: s = 2ⁿ⁻¹, ((s - 1/2) + s r) + s tail.
pub fn expm1(f: &mut Floats, x: Val) -> Val {
    let (least, most) = f.pick((-20.0, 89.0), (-40.0, 710.0));
    let clamped = clamp(f, x, least, most);
    let (_, n, r) = reduce(f, clamped);
    let tail = exp_tail(f, r);
    let (one, half) = (f.ic(1), f.c(0.5));
    let n = f.op(Op::Sub, &[n, one]);
    let s = f.power_of_two(n);
    let base = f.sub(s, half);
    let linear = f.mul(s, r);
    let sum = f.add(base, linear);
    let tail = f.mul(s, tail);
    let sum = f.add(sum, tail);
    let two = f.c(2.0);
    let result = f.mul(sum, two);
    // Tiny numbers are their own expm1; so is -0.
    let size = f.abs(x);
    let tiny = f.is(Op::Lt, size, f.pick(1e-9, 1e-18));
    f.select(tiny, x, result)
}

/// Below 0.625 an odd polynomial; above, 1 - 2 / (exp 2x + 1).
pub fn tanh(f: &mut Floats, x: Val) -> Val {
    let size = f.abs(x);
    let double = f.add(size, size);
    let e = exp(f, double);
    let (one, two) = (f.c(1.0), f.c(2.0));
    let e = f.add(e, one);
    let rest = f.div(two, e);
    let large = f.sub(one, rest);
    let z = f.mul(x, x);
    let p = f.poly(z, f.pick(TANH_F32, TANH_F64));
    let cube = f.mul(z, size);
    let small = f.mul_add(cube, p, size);
    let is_small = f.is(Op::Lt, size, 0.625);
    let result = f.select(is_small, small, large);
    f.signed(result, x)
}

/// x = 2ᵉ m, √½ ≤ m < √2: (e as a float, m). x is positive.
pub fn split(f: &mut Floats, x: Val) -> (Val, Val) {
    let least = f.pick(f32::MIN_POSITIVE as f64, f64::MIN_POSITIVE);
    let up = f.mantissa();
    let small = f.is(Op::Lt, x, least);
    let scale = f.c(2f64.powi(up as i32));
    let scaled = f.mul(x, scale);
    let x = f.select(small, scaled, x);
    let (lift, zero) = (f.c(-(up as f64)), f.c(0.0));
    let lift = f.select(small, lift, zero);
    let bits = f.bits(x);
    let (root, shift) = (f.bits_of(std::f64::consts::FRAC_1_SQRT_2), f.ic(up));
    let above = f.op(Op::Sub, &[bits, root]);
    let e = f.op(Op::Shr, &[above, shift]);
    let exponent = f.op(Op::Shl, &[e, shift]);
    let m = f.op(Op::Sub, &[bits, exponent]);
    let m = f.value(m);
    // A small integer in the low bits of the magic number is that number plus the integer.
    let (base, magic) = (f.bits_of(f.magic()), f.c(f.magic()));
    let e = f.op(Op::Add, &[base, e]);
    let e = f.value(e);
    let e = f.sub(e, magic);
    (f.add(e, lift), m)
}

/// log(1 + g) + e · log 2 + c, for 1 + g in √½ … √2 and a small c. With s = g / (2 + g),
/// log(1 + g) = 2 artanh s = g - g²/2 + s · (g²/2 + s² R(s²)), whose terms lose nothing.
fn log_sum(f: &mut Floats, g: Val, e: Val, c: Option<Val>) -> Val {
    let (two, half) = (f.c(2.0), f.c(0.5));
    let below = f.add(g, two);
    let s = f.div(g, below);
    let z = f.mul(s, s);
    let r = f.poly(z, f.pick(LOG_F32, LOG_F64));
    let r = f.mul(z, r);
    let square = f.mul(g, g);
    let square = f.mul(square, half);
    let inner = f.add(square, r);
    let [high, low] = f.pick(LN2_F32, LN2_F64).map(|c| f.c(c));
    let mut correction = f.mul(e, low);
    if let Some(c) = c {
        correction = f.add(correction, c);
    }
    let inner = f.mul_add(s, inner, correction);
    let inner = f.sub(inner, square);
    let sum = f.add(inner, g);
    f.mul_add(e, high, sum)
}

/// Repairs the edges of a logarithm of `u`: NaN below 0, -∞ at 0, ∞ at ∞.
fn log_edges(f: &mut Floats, u: Val, result: Val) -> Val {
    let (nan, least, inf) = (f.c(f64::NAN), f.c(f64::NEG_INFINITY), f.c(f64::INFINITY));
    let zero = f.is(Op::Eq, u, 0.0);
    let outside = f.select(zero, least, nan);
    let positive = f.is(Op::Gt, u, 0.0);
    let result = f.select(positive, result, outside);
    let infinite = f.is(Op::Eq, u, f64::INFINITY);
    f.select(infinite, inf, result)
}

pub fn log(f: &mut Floats, x: Val) -> Val {
    let (e, m) = split(f, x);
    let one = f.c(1.0);
    let g = f.sub(m, one);
    let result = log_sum(f, g, e, None);
    log_edges(f, x, result)
}

/// log u + c / u, where u + c = 1 + x exactly; near 0 the polynomial takes x itself.
pub fn log1p(f: &mut Floats, x: Val) -> Val {
    let one = f.c(1.0);
    let (u, error) = f.two_sum(one, x);
    let (e, m) = split(f, u);
    let correction = f.div(error, u);
    let reduced = f.sub(m, one);
    let zero = f.c(0.0);
    let above = f.is(Op::Gt, x, -0.29);
    let below = f.is(Op::Lt, x, 0.41);
    let near = f.op(Op::And, &[above, below]);
    let g = f.select(near, x, reduced);
    let e = f.select(near, zero, e);
    let correction = f.select(near, zero, correction);
    let result = log_sum(f, g, e, Some(correction));
    let result = log_edges(f, u, result);
    let size = f.abs(x);
    let tiny = f.is(Op::Lt, size, f.pick(1e-9, 1e-18));
    f.select(tiny, x, result)
}
