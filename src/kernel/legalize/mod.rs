//! From any CPU kernel to one that an emitter can print instruction by instruction.
//!
//! Legalizing changes no bit of a result. Its steps: [`expand_math`] (transcendental functions
//! as polynomials, which define these functions), [`narrow()`] where wanted (i64 as i32), [`widen()`] (narrow elements as i32), [`split()`] (vectors as registers), and
//! removal of what nobody uses.
//!
//! # What an emitter must support
//! `V` is a vector that fills a register (`vector_bytes`), or one of half, a quarter … of that down to
//! [`Form::narrowest`] bytes; `L4` and `L8` are its lanes of 4 and 8 bytes.
//! Elements: f32, f64, i32, u32, i64, u64; scalars (s) of these, `Index`, `Mask(1)`; `Mask(L4)` and
//! `Mask(L8)`, made by comparisons of vectors with that many lanes.
//!
//! | Instruction | Forms |
//! | --- | --- |
//! | Const | every type above, and narrow scalars where a load was partial |
//! | Grid | |
//! | Add Sub Neg Abs Min Max, comparisons, Select | s and V of every element, Index |
//! | Mul | s of every element, Index; V of 4-byte elements and f64 |
//! | Div | s of every element; V of floats; Index by a positive constant |
//! | Rem | s of integers; Index by a positive constant |
//! | Sqrt Floor Ceil Trunc Round, Fma (fused class only) | s and V of floats |
//! | And Or Xor Not | s and V of integers, masks |
//! | Shl Shr | s of integers; V of integers by one constant |
//! | Lane Splat, Extract, Insert, Shuffle (one operand) | V |
//! | Lane Concat | L4 or L8 scalars, or two V, to V; two masks to one |
//! | Lane Slice | of a V, to a narrower V; of a mask; at multiples of the result's lanes |
//! | Lane Bitcast | s and V, same width |
//! | Lane Convert | s between all elements and Index; V between f32 and i32; narrow, see below |
//! | Load, Store | s and V; `Splat` loads of V; `valid < lanes` only where [`Form::masked`] |
//! | For, If | with registers of the types above |
//!
//! Narrow integers (i8, i16, u8, u16) are only loaded and converted to i32, or converted from i32
//! and stored: scalars, and with [`Form::packed`] also L4 of them; f16 with [`Form::half`] likewise from and
//! to f32. bf16, f16 without [`Form::half`], bool in
//! memory, gathers and folds do not occur.

mod memory;
mod narrow;
mod split;
#[cfg(test)]
mod tests;
mod widen;

pub use narrow::narrow;
pub use split::split;
pub use widen::widen;

use std::borrow::Cow;

use super::ir::Kernel;
use super::math::{Means, expand_math};
use super::simplify::dce;
use crate::base::machine::{Isa, Machine};

/// What the legal form is for one machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// Bytes of a vector register; 0: scalars only.
    pub vector_bytes: u32,
    /// Bytes of the narrowest vectors: the machine also has those in between, by powers of two.
    pub narrowest: u32,
    /// Loads and stores of some lanes of a vector: a fill for the others, no access outside.
    pub masked: bool,
    /// Loads, stores and conversions of as many narrow integers as a vector has 4-byte lanes.
    pub packed: bool,
    /// What mathematical functions may be made of.
    pub means: Means,
    /// i64 that are known to hold 32 bits are computed as i32.
    pub short: bool,
    /// Elements of f16 are loaded, stored and converted to and from f32.
    pub half: bool,
}

impl Form {
    pub fn of(machine: &Machine) -> Form {
        let vector_bytes = machine.vector_bytes;
        let narrowest = vector_bytes.min(16);
        let scales = machine.isa == Isa::X86_64V4 && vector_bytes > 16;
        Form {
            vector_bytes,
            narrowest,
            masked: vector_bytes > 16,
            packed: true,
            means: Means { scales, double: true },
            short: false,
            half: false,
        }
    }

    /// Lanes of the vectors that hold `n` elements of 4 or 8 bytes; 1 where none does.
    fn lanes(self, bytes: usize, n: u16) -> u16 {
        let (most, least) = (self.vector_bytes as usize / bytes, self.narrowest as usize / bytes);
        match bytes {
            4 | 8 if least > 1 && n as usize >= least => n.min(most as u16),
            _ => 1,
        }
    }
}

/// The kernel in the legal form of this machine. The kernel passes `check_types`.
pub fn legalize(kernel: &Kernel, machine: &Machine) -> Kernel {
    legalize_to(kernel, Form::of(machine))
}

/// The kernel in a given legal form.
pub fn legalize_to(kernel: &Kernel, form: Form) -> Kernel {
    let kernel = expand_math(kernel, form.means);
    let kernel = if form.short { Cow::Owned(narrow(&kernel).into_owned()) } else { kernel };
    dce(split(&widen(&kernel, form.half), form))
}
