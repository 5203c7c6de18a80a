//! pow: exp(y · log |x|) in f64, or in f32 where there is no f64, with the logarithm as a sum of two numbers.
//!
//! Edges as in IEEE 754 `pow`: x⁰ = 1 and 1ʸ = 1 even for NaN; a negative base needs an integer
//! exponent and is negative for an odd one; (-1)^±∞ = 1.

use super::exp::{exp_of_sum, split};
use super::float::Floats;
use super::table::*;
use crate::base::DType;
use crate::kernel::ir::{Op, Val};

pub fn pow(f: &mut Floats, x: Val, y: Val) -> Val {
    let (dtype, lanes, means) = (f.dtype, f.lanes, f.means);
    let by = if means.double { DType::F64 } else { dtype };
    let (x, y) = (f.b.convert(x, by), f.b.convert(y, by));
    let d = &mut Floats { b: &mut *f.b, dtype: by, lanes, means };
    let magnitude = power(d, x, y);
    let result = edges(d, x, y, magnitude);
    f.b.convert(result, dtype)
}

/// |x|ʸ for finite x other than 0.
fn power(d: &mut Floats, x: Val, y: Val) -> Val {
    let size = d.abs(x);
    let (high, low) = log_of(d, size);
    // Beyond 2⁷⁰ the result is 0, 1 or infinite, as it is there.
    let (least, most) = (d.c(-(2f64.powi(70))), d.c(2f64.powi(70)));
    let y = d.op(Op::Min, &[most, y]);
    let y = d.op(Op::Max, &[least, y]);
    let (p, error) = d.two_product(high, y);
    let more = d.mul(low, y);
    let error = d.add(error, more);
    let reach = d.abs(p);
    let inside = d.is(Op::Lt, reach, 800.0);
    let zero = d.c(0.0);
    let error = d.select(inside, error, zero);
    exp_of_sum(d, p, Some(error))
}

/// log x as a sum of two. With s = (m - 1) / (m + 1), log m = 2s + s³ (2/3 + s² T(s²)): all but
/// T in pairs, so that the relative error is below 2⁻⁶³ (f32: 2⁻³⁵).
fn log_of(d: &mut Floats, x: Val) -> (Val, Val) {
    let (e, m) = split(d, x);
    let (one, two) = (d.c(1.0), d.c(2.0));
    let g = d.sub(m, one);
    let (below, below_low) = d.two_sum(g, two);
    let s = d.div(g, below);
    let (back, back_low) = d.two_product(s, below);
    let left = d.sub(g, back);
    let left = d.sub(left, back_low);
    let more = d.mul(s, below_low);
    let left = d.sub(left, more);
    let s_low = d.div(left, below);
    let (z, z_low) = d.two_product(s, s);
    let double = d.add(s_low, s_low);
    let more = d.mul(s, double);
    let z_low = d.add(z_low, more);
    // b = 2/3 + z T(z)
    let tail = d.poly(z, LOG_TAIL);
    let tail = d.mul(z, tail);
    let [third, third_low] = d.pick(TWO_THIRDS_F32, TWO_THIRDS_F64).map(|c| d.c(c));
    let (b, b_low) = d.two_sum(third, tail);
    let b_low = d.add(b_low, third_low);
    let (w, w_low) = multiply(d, (z, z_low), (b, b_low));
    let (u, u_low) = d.two_sum(two, w);
    let u_low = d.add(u_low, w_low);
    let (log, log_low) = multiply(d, (s, s_low), (u, u_low));
    let [ln2, ln2_low] = d.pick(LN2_F32, LN2_F64).map(|c| d.c(c));
    let (whole, whole_low) = (d.mul(e, ln2), d.mul(e, ln2_low));
    let (sum, error) = d.two_sum(whole, log);
    let error = d.add(error, log_low);
    let error = d.add(error, whole_low);
    let high = d.add(sum, error);
    let rest = d.sub(sum, high);
    (high, d.add(rest, error))
}

fn multiply(d: &mut Floats, (a, a_low): (Val, Val), (b, b_low): (Val, Val)) -> (Val, Val) {
    let (p, error) = d.two_product(a, b);
    let (x, y) = (d.mul(a, b_low), d.mul(a_low, b));
    let cross = d.add(x, y);
    (p, d.add(error, cross))
}

fn edges(d: &mut Floats, x: Val, y: Val, magnitude: Val) -> Val {
    let [zero, one, half, two] = [0.0, 1.0, 0.5, 2.0].map(|c| d.c(c));
    let [inf, nan] = [f64::INFINITY, f64::NAN].map(|c| d.c(c));
    let size = d.abs(x);
    // 0 and ∞ as bases.
    let up = d.is(Op::Gt, y, 0.0);
    let (of_zero, of_inf) = (d.select(up, zero, inf), d.select(up, inf, zero));
    let base_zero = d.is(Op::Eq, size, 0.0);
    let base_inf = d.is(Op::Eq, size, f64::INFINITY);
    let result = d.select(base_zero, of_zero, magnitude);
    let result = d.select(base_inf, of_inf, result);
    // The sign, where the exponent is odd.
    let floor = d.op(Op::Floor, &[y]);
    let whole = d.op(Op::Eq, &[floor, y]);
    let halved = d.mul(y, half);
    let even = d.op(Op::Floor, &[halved]);
    let even = d.mul(even, two);
    let uneven = d.op(Op::Ne, &[even, y]);
    let odd = d.op(Op::And, &[whole, uneven]);
    let signed = d.with_sign(result, x);
    let result = d.select(odd, signed, result);
    // Negative finite bases with a fraction as exponent, and NaN.
    let negative = d.is(Op::Lt, x, 0.0);
    let finite = d.is(Op::Lt, size, f64::INFINITY);
    let fraction = d.op(Op::Not, &[whole]);
    let undefined = d.op(Op::And, &[negative, finite]);
    let undefined = d.op(Op::And, &[undefined, fraction]);
    let no_x = d.op(Op::Ne, &[x, x]);
    let no_y = d.op(Op::Ne, &[y, y]);
    let undefined = d.op(Op::Or, &[undefined, no_x]);
    let undefined = d.op(Op::Or, &[undefined, no_y]);
    let result = d.select(undefined, nan, result);
    let flat = d.is(Op::Eq, y, 0.0);
    let unit = d.is(Op::Eq, x, 1.0);
    let is_one = d.op(Op::Or, &[flat, unit]);
    d.select(is_one, one, result)
}
