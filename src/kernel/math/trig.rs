//! sin and cos.
//!
//! x = n · π/2 + r. Up to a limit, n times the leading parts of π/2 is exact (Cody and Waite); for
//! larger numbers, in a branch that is taken where a lane needs it, x · 2/π is summed exactly,
//! modulo 4, from digits of 2/π (Payne and Hanek) in f64, or in integers (`turns`).

use super::float::Floats;
use super::table::*;
use super::turns;
use crate::base::DType;
use crate::ir::scalar::Combine;
use crate::kernel::ir::{Inst, Op, Region, Ty, Val};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wave {
    Sin,
    Cos,
}

/// The remainder as a sum of two, and n in the low bits of an integer.
type Reduced = [Val; 3];

pub fn wave(f: &mut Floats, x: Val, wave: Wave) -> Val {
    let near = reduce_near(f, x);
    let size = f.abs(x);
    let far = f.is(Op::Gt, size, f.pick(1500.0, 3e6));
    let any = f.b.fold(Combine::Any, far);
    // The branch, with the operations of its side inside.
    f.b.enter();
    let distant = match f.is_f32() && !f.means.double {
        true => turns::reduce(f, x),
        false => reduce_far(f, x),
    };
    let chosen: Vec<Val> = (0..3).map(|i| f.select(far, distant[i], near[i])).collect();
    let then = Region { params: vec![], insts: f.b.leave(), yields: chosen };
    let els = Region { params: vec![], insts: vec![], yields: near.to_vec() };
    let types: Vec<Ty> = near.iter().map(|v| f.b.ty(*v)).collect();
    let results: Vec<Val> = types.into_iter().map(|ty| f.b.fresh(ty)).collect();
    f.b.push(Inst::If { results: results.clone(), cond: any, then, els });
    let result = quadrant(f, [results[0], results[1], results[2]], wave);
    match wave {
        Wave::Cos => result,
        Wave::Sin => {
            let zero = f.is(Op::Eq, x, 0.0);
            f.select(zero, x, result)
        }
    }
}

fn reduce_near(f: &mut Floats, x: Val) -> Reduced {
    let (scale, magic) = (f.c(std::f64::consts::FRAC_2_PI), f.c(f.magic()));
    let rounded = f.mul_add(x, scale, magic);
    let n = f.sub(rounded, magic);
    let quadrant = f.bits(rounded);
    let parts = f.pick(PI_2_F32, PI_2_F64).map(|c| f.c(c));
    let mut r = x;
    let mut low = f.c(0.0);
    for part in parts {
        let p = f.mul(n, part);
        let next = f.sub(r, p);
        let error = f.sub(r, next);
        let error = f.sub(error, p);
        low = f.add(low, error);
        r = next;
    }
    [r, low, quadrant]
}

/// x · 2/π modulo 4 as the exact sum of its products with the digits of 2/π. The digits reach to
/// 2⁻²⁸⁸: enough for every f32, and for f64 below 2¹²⁰.
fn reduce_far(f: &mut Floats, x: Val) -> Reduced {
    let lanes = f.lanes;
    let (dtype, is_f32) = (f.dtype, f.is_f32());
    let signed = f.b.convert(x, DType::F64);
    let wide = f.b.op(Op::Abs, &[signed]);
    let d = &mut Floats { b: &mut *f.b, dtype: DType::F64, lanes, means: f.means };
    let pieces = match is_f32 {
        true => vec![wide],
        false => {
            let (bits, mask) = (d.bits(wide), d.ic(!((1 << 27) - 1)));
            let high = d.op(Op::And, &[bits, mask]);
            let high = d.value(high);
            vec![high, d.sub(wide, high)]
        }
    };
    // f32 needs the digits to 2⁻²¹⁶: 128 bits above the point, and twice its precision below.
    let digits = if is_f32 { 9 } else { TWO_OVER_PI.len() };
    let (mut sum, mut rest) = (d.c(0.0), d.c(0.0));
    for (i, digit) in TWO_OVER_PI[..digits].iter().enumerate() {
        for piece in &pieces {
            let c = d.c(digit * 2f64.powi(-24 * (i as i32 + 1)));
            let (quarter, four) = (d.c(0.25), d.c(4.0));
            let product = d.mul(*piece, c);
            let turns = d.mul(product, quarter);
            let turns = d.op(Op::Floor, &[turns]);
            let turns = d.mul(turns, four);
            let product = d.sub(product, turns);
            let (s, error) = d.two_sum(sum, product);
            sum = s;
            rest = d.add(rest, error);
        }
    }
    let magic = d.c(d.magic());
    let rounded = d.add(sum, magic);
    let n = d.sub(rounded, magic);
    let fraction = d.sub(sum, n);
    let (fraction, low) = d.two_sum(fraction, rest);
    let scale = d.c(std::f64::consts::FRAC_PI_2);
    let scale_low = d.c(PI_2_LOW);
    let (r, error) = d.two_product(fraction, scale);
    let low = d.mul(low, scale);
    let more = d.mul(fraction, scale_low);
    let low = d.add(low, more);
    let low = d.add(low, error);
    // All terms were positive; -x turns the other way.
    let (plus, minus) = (d.c(1.0), d.c(-1.0));
    let negative = d.is(Op::Lt, signed, 0.0);
    let sign = d.select(negative, minus, plus);
    let (r, low, n) = (d.mul(r, sign), d.mul(low, sign), d.mul(n, sign));
    let rounded = d.add(n, magic);
    let quadrant = d.bits(rounded);
    if !is_f32 {
        return [r, low, quadrant];
    }
    let high = f.b.convert(r, dtype);
    let back = f.b.convert(high, DType::F64);
    let left = f.b.op(Op::Sub, &[r, back]);
    let low = f.b.convert(left, dtype);
    let quadrant = f.b.convert(quadrant, DType::I32);
    [high, low, quadrant]
}

/// sin or cos of r + low in quadrant n.
fn quadrant(f: &mut Floats, [r, low, n]: Reduced, wave: Wave) -> Val {
    let z = f.mul(r, r);
    // sin(r + low) = r + (r³ S(r²) + low)
    let s = f.poly(z, f.pick(SIN_F32, SIN_F64));
    let cube = f.mul(z, r);
    let s = f.mul_add(cube, s, low);
    let sine = f.add(r, s);
    // cos(r + low) = 1 - r²/2 + (r⁴ C(r²) - r low), with the rounding error of 1 - r²/2 put back.
    let c = f.poly(z, f.pick(COS_F32, COS_F64));
    let fourth = f.mul(z, z);
    let product = f.mul(r, low);
    let c = f.mul(fourth, c);
    let c = f.sub(c, product);
    let (half, one) = (f.c(0.5), f.c(1.0));
    let h = f.mul(z, half);
    let base = f.sub(one, h);
    let error = f.sub(one, base);
    let error = f.sub(error, h);
    let c = f.add(error, c);
    let cosine = f.add(base, c);
    let n = match wave {
        Wave::Sin => n,
        Wave::Cos => {
            let one = f.ic(1);
            f.op(Op::Add, &[n, one])
        }
    };
    let (odd, zero, two) = (f.ic(1), f.ic(0), f.ic(2));
    let low_bit = f.op(Op::And, &[n, odd]);
    let swap = f.op(Op::Ne, &[low_bit, zero]);
    let value = f.select(swap, cosine, sine);
    let up = f.ic(f.pick(30, 62));
    let sign = f.op(Op::And, &[n, two]);
    let sign = f.op(Op::Shl, &[sign, up]);
    let bits = f.bits(value);
    let bits = f.op(Op::Xor, &[bits, sign]);
    f.value(bits)
}
