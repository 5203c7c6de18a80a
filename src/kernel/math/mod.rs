//! Step 1 of legalizing: mathematical functions as polynomials.
//!
//! In: a kernel with `Exp` … `Pow` on f32 and f64. Out: the same kernel in operations that every
//! CPU emitter has, in the kernel's numeric class; edges (NaN, infinities, overflow, zeros) are
//! repaired by `Select`. Each result depends on its own lane only.
//!
//! Bounds, in units in the last place, checked by the tests in both numeric classes, subnormal
//! operands and results included:
//!
//! | | f32 | f64 |
//! | --- | --- | --- |
//! | exp, expm1, log, log1p, tanh, erf | 2 | 4 |
//! | sin, cos | 2, all finite x | 4, for \|x\| < 2¹²⁰; beyond, some value in -1 … 1 |
//! | pow | 1; 2 without f64 | 4 |

mod erf;
mod exp;
mod float;
mod pow;
mod table;
#[cfg(test)]
mod tests;
mod trig;
mod turns;

use std::borrow::Cow;

use super::build::KernelBuilder;
use super::ir::*;
use super::rebuild::{Map, Outcome, Rule, rebuild};
use crate::base::DType;
use float::Floats;
use trig::Wave;

/// What functions may be made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Means {
    /// `Op::Scale` is legal.
    pub scales: bool,
    /// Functions of f32 may compute in f64.
    pub double: bool,
}

/// Expands the mathematical functions of a well-formed kernel.
pub fn expand_math(kernel: &Kernel, means: Means) -> Cow<'_, Kernel> {
    if !has_math(&kernel.body) {
        return Cow::Borrowed(kernel);
    }
    Cow::Owned(rebuild(kernel, KernelBuilder::like(kernel), &mut Expand { means }))
}

fn has_math(region: &Region) -> bool {
    region.insts.iter().any(|inst| match inst {
        Inst::Op { op, .. } => is_math(*op),
        Inst::For { body, .. } => has_math(body),
        Inst::If { then, els, .. } => has_math(then) || has_math(els),
        Inst::Const { .. }
        | Inst::Grid { .. }
        | Inst::Local { .. }
        | Inst::Fold { .. }
        | Inst::GroupFold { .. }
        | Inst::Lane { .. }
        | Inst::Load { .. }
        | Inst::Store { .. }
        | Inst::Prefetch { .. }
        | Inst::Barrier => false,
    })
}

fn is_math(op: Op) -> bool {
    matches!(
        op,
        Op::Exp
            | Op::Expm1
            | Op::Log
            | Op::Log1p
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Erf
            | Op::Pow
    )
}

struct Expand {
    means: Means,
}

impl Rule for Expand {
    fn inst(&mut self, b: &mut KernelBuilder, inst: &Inst, map: &Map) -> Outcome {
        match inst {
            Inst::Op { op, args, .. } if is_math(*op) => {
                Outcome::Value(expand(b, *op, &map.args(args), self.means))
            }
            Inst::Op { .. }
            | Inst::Const { .. }
            | Inst::Grid { .. }
            | Inst::Local { .. }
            | Inst::Fold { .. }
            | Inst::GroupFold { .. }
            | Inst::Lane { .. }
            | Inst::Load { .. }
            | Inst::Store { .. }
            | Inst::Prefetch { .. }
            | Inst::For { .. }
            | Inst::If { .. }
            | Inst::Barrier => Outcome::Copy,
        }
    }
}

/// The expansion of a mathematical function on f32 or f64 registers.
fn expand(b: &mut KernelBuilder, op: Op, args: &[Val], means: Means) -> Val {
    let (dtype, lanes) = (b.ty(args[0]).dtype(), b.ty(args[0]).lanes());
    debug_assert!(matches!(dtype, DType::F32 | DType::F64));
    let f = &mut Floats { b, dtype, lanes, means };
    match op {
        Op::Exp => exp::exp(f, args[0]),
        Op::Expm1 => exp::expm1(f, args[0]),
        Op::Log => exp::log(f, args[0]),
        Op::Log1p => exp::log1p(f, args[0]),
        Op::Sin => trig::wave(f, args[0], Wave::Sin),
        Op::Cos => trig::wave(f, args[0], Wave::Cos),
        Op::Tanh => exp::tanh(f, args[0]),
        Op::Erf => erf::erf(f, args[0]),
        Op::Pow => pow::pow(f, args[0], args[1]),
        Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Div
        | Op::Rem
        | Op::Neg
        | Op::Abs
        | Op::Sqrt
        | Op::Floor
        | Op::Ceil
        | Op::Trunc
        | Op::Round
        | Op::Fma
        | Op::Min
        | Op::Max
        | Op::And
        | Op::Or
        | Op::Xor
        | Op::Not
        | Op::Shl
        | Op::Shr
        | Op::Eq
        | Op::Ne
        | Op::Lt
        | Op::Le
        | Op::Gt
        | Op::Ge
        | Op::Select
        | Op::Scale => f.op(op, args),
    }
}
