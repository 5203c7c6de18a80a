//! erf: an odd polynomial below 1; above, 1 - exp(polynomial), which approximates log(erfc x).

use super::exp::exp;
use super::float::Floats;
use super::table::*;
use crate::kernel::ir::{Op, Val};

pub fn erf(f: &mut Floats, x: Val) -> Val {
    let size = f.abs(x);
    let z = f.mul(x, x);
    let p = f.poly(z, f.pick(ERF_F32, ERF_F64));
    let small = f.mul_add(x, p, x);
    // From 4 (f32) and 6 (f64) on the result is 1.
    let (end, one) = (f.c(f.pick(4.0, 6.0)), f.c(1.0));
    let clamped = f.op(Op::Min, &[end, size]);
    let log = match f.is_f32() {
        true => shifted(f, clamped, 2.0, ERFC_F32),
        false => {
            let near = shifted(f, clamped, 1.75, ERFC_F64);
            let far = shifted(f, clamped, 4.25, ERFC_FAR);
            let is_near = f.is(Op::Lt, clamped, 2.5);
            f.select(is_near, near, far)
        }
    };
    let rest = exp(f, log);
    let large = f.sub(one, rest);
    let large = f.with_sign(large, x);
    let is_small = f.is(Op::Lt, size, 1.0);
    let result = f.select(is_small, small, large);
    let zero = f.is(Op::Eq, x, 0.0);
    f.select(zero, x, result)
}

fn shifted(f: &mut Floats, x: Val, by: f64, coefficients: &[f64]) -> Val {
    let by = f.c(by);
    let t = f.sub(x, by);
    f.poly(t, coefficients)
}
