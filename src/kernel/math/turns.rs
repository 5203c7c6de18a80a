//! Large f32 modulo π/2 in integers of 32 bits, for machines without f64.
//!
//! |x| = m · 2ᵉ, a whole m below 2²⁴. Of 2/π · 2ᵉ only the bits worth 2 or less matter, since those above make
//! whole turns: 96 bits of 2/π from there on, times m, modulo 2⁹⁶, are the quadrant and a fraction of it
//! with 70 bits that count (Payne and Hanek).

use super::float::Floats;
use super::table::*;
use crate::base::DType;
use crate::kernel::ir::{Lit, Op, Ty, Val};

/// Zeros before the first bit of 2/π, for small exponents.
const BEFORE: i64 = 16;
/// Words of the digits that any f32 may need.
const WORDS: usize = 7;

/// The words of 2/π, behind the zeros; the most significant one first.
fn words() -> [u32; WORDS] {
    let mut words = [0u32; WORDS];
    let mut bit = BEFORE as usize;
    for digit in TWO_OVER_PI {
        for i in (0..24).rev() {
            if let Some(word) = words.get_mut(bit / 32) {
                *word |= (digit as u32 >> i & 1) << (31 - bit % 32);
            }
            bit += 1;
        }
    }
    words
}

/// Operations on integers of 32 bits.
struct Words<'f, 'b> {
    f: &'f mut Floats<'b>,
}

impl Words<'_, '_> {
    fn c(&mut self, v: u32) -> Val {
        let ty = Ty::of(DType::U32, self.f.lanes);
        self.f.b.constant(ty, Lit { dtype: DType::U32, bits: v as u64 })
    }

    /// With a constant on the right.
    fn by(&mut self, op: Op, a: Val, c: u32) -> Val {
        let c = self.c(c);
        self.f.op(op, &[a, c])
    }

    fn op(&mut self, op: Op, a: Val, b: Val) -> Val {
        self.f.op(op, &[a, b])
    }

    /// Two words, shifted left together: what is then in the upper one.
    fn joined(&mut self, high: Val, low: Val, by: Val) -> Val {
        let last = self.c(31);
        let rest = self.op(Op::Sub, last, by);
        let (high, low) = (self.op(Op::Shl, high, by), self.by(Op::Shr, low, 1));
        let low = self.op(Op::Shr, low, rest);
        self.op(Op::Or, high, low)
    }

    /// 96 bits of 2/π from bit `at` on, in 16 at a time, the least significant ones first.
    fn window(&mut self, at: Val) -> Vec<Val> {
        let (first, shift) = (self.by(Op::Shr, at, 5), self.by(Op::And, at, 31));
        let words = words();
        let mut near = vec![];
        for i in 0..4 {
            let mut word = self.c(words[i]);
            for k in 1..WORDS - 3 {
                let (here, other) = (self.by(Op::Eq, first, k as u32), self.c(words[k + i]));
                word = self.f.select(here, other, word);
            }
            near.push(word);
        }
        let mut parts = vec![];
        for pair in near.windows(2).rev() {
            let word = self.joined(pair[0], pair[1], shift);
            parts.extend([self.by(Op::And, word, 0xffff), self.by(Op::Shr, word, 16)]);
        }
        parts
    }

    /// The product of 96 bits and 24, modulo 2⁹⁶; the parts have 16 bits each.
    fn product(&mut self, a: &[Val], m: Val) -> Vec<Val> {
        let factors = [self.by(Op::And, m, 0xffff), self.by(Op::Shr, m, 16)];
        let mut columns: Vec<Vec<Val>> = vec![vec![]; a.len() + 2];
        for (i, part) in a.iter().enumerate() {
            for (j, factor) in factors.into_iter().enumerate() {
                let p = self.op(Op::Mul, *part, factor);
                columns[i + j].push(self.by(Op::And, p, 0xffff));
                if i + j + 1 < a.len() {
                    columns[i + j + 1].push(self.by(Op::Shr, p, 16));
                }
            }
        }
        let mut carry = self.c(0);
        let mut parts = vec![];
        for column in &columns[..a.len()] {
            let sum = column.iter().fold(carry, |sum, v| self.op(Op::Add, sum, *v));
            parts.push(self.by(Op::And, sum, 0xffff));
            carry = self.by(Op::Shr, sum, 16);
        }
        parts
    }

    fn word(&mut self, high: Val, low: Val) -> Val {
        let high = self.by(Op::Shl, high, 16);
        self.op(Op::Or, high, low)
    }
}

/// The remainder of x as a sum of two, and the quadrant in the low bits of an integer. |x| ≥ 2¹⁰; NaN where it is
/// not finite.
pub fn reduce(f: &mut Floats, x: Val) -> [Val; 3] {
    let size = f.abs(x);
    let bits = f.b.bitcast(size, DType::U32);
    let mut w = Words { f: &mut *f };
    let exponent = w.by(Op::Shr, bits, 23);
    let m = w.by(Op::And, bits, 0x7f_ffff);
    let m = w.by(Op::Or, m, 0x80_0000);
    // Bit j of 2/π, which is worth 2⁻ʲ, is bit BEFORE - 1 + j of the words; the first that counts is e - 1.
    let at = w.by(Op::Sub, exponent, (150 + 2 - BEFORE) as u32);
    let window = w.window(at);
    let p = w.product(&window, m);
    let (high, low) = (w.word(p[5], p[4]), w.word(p[3], p[2]));
    let quadrant = w.by(Op::Shr, high, 30);
    let two = w.c(2);
    let fraction = w.joined(high, low, two);
    let below = w.joined(low, p[1], two);
    // From half a quadrant on it is the next one, and the fraction negative.
    let next = w.by(Op::Shr, fraction, 31);
    let n = w.op(Op::Add, quadrant, next);
    let n = f.b.bitcast(n, DType::I32);
    let fraction = f.b.bitcast(fraction, DType::I32);
    // As floats: the first 24 bits, and the rest.
    let first = f.b.convert(fraction, DType::F32);
    let back = f.b.convert(first, DType::I32);
    let rest = f.op(Op::Sub, &[fraction, back]);
    let rest = f.b.convert(rest, DType::F32);
    let below = f.b.convert(below, DType::F32);
    let (one, tiny) = (f.c(2f64.powi(-32)), f.c(2f64.powi(-64)));
    let (first, rest, below) = (f.mul(first, one), f.mul(rest, one), f.mul(below, tiny));
    let rest = f.add(rest, below);
    let (fraction, low) = f.two_sum(first, rest);
    let whole = std::f64::consts::FRAC_PI_2;
    let (scale, scale_low) = (f.c(whole), f.c(whole - whole as f32 as f64));
    let (r, error) = f.two_product(fraction, scale);
    let low = f.mul(low, scale);
    let more = f.mul(fraction, scale_low);
    let low = f.add(low, more);
    let low = f.add(low, error);
    let finite = f.is(Op::Lt, size, f64::INFINITY);
    let nan = f.c(f64::NAN);
    let r = f.select(finite, r, nan);
    // -x turns the other way.
    let negative = f.is(Op::Lt, x, 0.0);
    let (minus_r, minus_low) = (f.op(Op::Neg, &[r]), f.op(Op::Neg, &[low]));
    let minus_n = f.op(Op::Neg, &[n]);
    [
        f.select(negative, minus_r, r),
        f.select(negative, minus_low, low),
        f.select(negative, minus_n, n),
    ]
}
