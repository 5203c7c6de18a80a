//! Parameters whose elements travel in fours.
//!
//! A parameter that is only read and written four elements at a time, at multiples of four, is declared as an
//! array of vectors: drivers make one access of it, where four elements with names of their own often
//! stay four.

use crate::kernel::ir::{Addr, Buf, Inst, Kernel, LoadMode, Op, Region, Ty, Val};

/// Elements of a vector.
pub const LANES: i64 = 4;

/// Of each of the first parameters, whether all kernels have it in fours; those that do not begin at
/// multiples of four elements (`aligned`) are left out.
pub fn wide(kernels: &[&Kernel], aligned: &[bool]) -> Vec<bool> {
    let mut seen = vec![Seen::Never; aligned.len()];
    for kernel in kernels {
        let mut walk = Walk { kernel, factors: vec![1; kernel.types.len()], seen: &mut seen };
        walk.region(&kernel.body);
    }
    seen.iter().zip(aligned).map(|(seen, aligned)| *aligned && *seen == Seen::InFours).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Never,
    InFours,
    Otherwise,
}

struct Walk<'k> {
    kernel: &'k Kernel,
    /// The greatest divisor of 4 that each index is known to be a multiple of.
    factors: Vec<i64>,
    seen: &'k mut [Seen],
}

impl Walk<'_> {
    fn region(&mut self, region: &Region) {
        for inst in &region.insts {
            match inst {
                Inst::Const { dst, value } => {
                    self.set(*dst, common(value.as_int().unwrap_or(1)));
                }
                Inst::Op { dst, op, args } => {
                    let of = |i: usize| self.factors[args[i].0 as usize];
                    let factor = match op {
                        Op::Add | Op::Sub | Op::Min | Op::Max | Op::Rem => of(0).min(of(1)),
                        Op::Mul => (of(0) * of(1)).min(LANES),
                        Op::Select => of(1).min(of(2)),
                        _ => 1,
                    };
                    self.set(*dst, factor);
                }
                Inst::Load { dst, at, mode, valid, .. } => {
                    let whole = *mode == LoadMode::Contig && *valid as i64 == LANES;
                    self.access(at, self.kernel.ty(*dst), whole);
                }
                Inst::Store { at, v, valid } => {
                    self.access(at, self.kernel.ty(*v), *valid as i64 == LANES);
                }
                Inst::For { lo, step, body, .. } => {
                    let factor = self.factors[lo.0 as usize].min(common(*step));
                    self.set(body.params[0], factor);
                    self.region(body);
                }
                Inst::If { then, els, .. } => {
                    self.region(then);
                    self.region(els);
                }
                Inst::Grid { .. }
                | Inst::Local { .. }
                | Inst::Fold { .. }
                | Inst::GroupFold { .. }
                | Inst::Lane { .. }
                | Inst::Prefetch { .. }
                | Inst::Barrier => {}
            }
        }
    }

    fn set(&mut self, v: Val, factor: i64) {
        self.factors[v.0 as usize] = factor;
    }

    fn access(&mut self, at: &Addr, ty: Ty, whole: bool) {
        let Buf::Param(param) = at.buf else { return };
        let Some(seen) = self.seen.get_mut(param as usize) else { return };
        let vector = matches!(ty, Ty::Vector(_, n) if n as i64 == LANES);
        let even = self.factors[at.base.0 as usize] == LANES && at.plus % LANES == 0;
        *seen = match *seen != Seen::Otherwise && whole && vector && even {
            true => Seen::InFours,
            false => Seen::Otherwise,
        };
    }
}

/// The greatest divisor of 4 that divides a number.
fn common(n: i64) -> i64 {
    if n % 4 == 0 {
        4
    } else if n % 2 == 0 {
        2
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DType;
    use crate::base::machine::Numerics;
    use crate::kernel::build::KernelBuilder;
    use crate::kernel::ir::Access;

    /// y[at .. at + 4] = x[…]: `at` is `scale` times the grid point, and `plus`.
    fn copy(scale: i64, plus: i64) -> Kernel {
        let mut b = KernelBuilder::new("copy", Numerics::Separate);
        let x = b.param("x", DType::F32, 64, Access::Read);
        let y = b.param("y", DType::F32, 64, Access::Write);
        b.set_grid([8, 1, 1]);
        let g = b.grid(0);
        let base = b.times(g, scale);
        let v = b.load(Addr { buf: x, base, plus: 0 }, 4);
        b.store(Addr { buf: y, base, plus }, v);
        b.finish()
    }

    #[test]
    fn fours_are_found_by_their_factors() {
        let all = [true, true];
        assert_eq!(wide(&[&copy(4, 0)], &all), [true, true]);
        assert_eq!(wide(&[&copy(4, 8)], &all), [true, true]);
        assert_eq!(wide(&[&copy(4, 2)], &all), [true, false]);
        assert_eq!(wide(&[&copy(6, 0)], &all), [false, false]);
        assert_eq!(wide(&[&copy(4, 0)], &[true, false]), [true, false]);
        assert_eq!(wide(&[&copy(4, 0), &copy(4, 1)], &all), [true, false]);
        assert_eq!(wide(&[], &all), [false, false]);
    }
}
