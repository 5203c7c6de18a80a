//! The kernel IR: how one launch computes, as structured SSA over explicit vectors and memory.
//!
//! A [`Kernel`] is a function of buffers, run once for each point of its grid, in any order. There
//! is no control-flow graph: loops and branches are instructions that own regions. Printing and
//! parsing is in `print` and `parse`; what must hold is in `verify`; what it means is in `eval`.
//!
//! - A bool in memory is one byte, 0 or 1; in a register it is a mask. f16 and bf16 occur only as
//!   what loads give, stores take and `Convert` makes or consumes.
//! - Offsets count elements. Every access lies inside its buffer for all iterations.
//! - `valid` lanes of a load or store touch memory; the others read as `fill`, or write nothing.

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use crate::base::DType;
use crate::base::machine::Numerics;
use crate::ir::scalar::Combine;

/// The type of a register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ty {
    /// A signed 64-bit integer for addresses and loop counters.
    Index,
    /// One element; never bool (that is `Mask(1)`).
    Scalar(DType),
    /// 2, 4, … 64 elements; never bool.
    Vector(DType, u16),
    /// One bit a lane; `Mask(1)` is a scalar condition.
    Mask(u16),
}

impl Ty {
    /// The register that holds `lanes` elements of this dtype.
    pub fn of(dtype: DType, lanes: u16) -> Ty {
        match (dtype, lanes) {
            (DType::Bool, n) => Ty::Mask(n),
            (d, 1) => Ty::Scalar(d),
            (d, n) => Ty::Vector(d, n),
        }
    }

    pub fn lanes(self) -> u16 {
        match self {
            Ty::Index | Ty::Scalar(_) => 1,
            Ty::Vector(_, n) | Ty::Mask(n) => n,
        }
    }

    /// The element type; that of an index is i64, that of a mask is bool.
    pub fn dtype(self) -> DType {
        match self {
            Ty::Index => DType::I64,
            Ty::Scalar(d) | Ty::Vector(d, _) => d,
            Ty::Mask(_) => DType::Bool,
        }
    }

    /// The same elements in another number of lanes.
    pub fn with_lanes(self, lanes: u16) -> Ty {
        Ty::of(self.dtype(), lanes)
    }
}

/// A register of a kernel, defined once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Val(pub u32);

/// The bits of one element.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lit {
    pub dtype: DType,
    /// The element's bits, zero-extended.
    pub bits: u64,
}

/// Lanewise operations. Arithmetic on integers wraps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Op {
    Add,
    Sub,
    Mul,
    /// Floats: IEEE. Integers: towards zero; by zero gives 0; MIN / -1 gives MIN.
    /// On `Index`: rounds towards minus infinity, the divisor is a positive constant.
    Div,
    /// Integers only; the sign of the dividend; by zero gives 0.
    /// On `Index`: in `0..divisor`, the divisor is a positive constant.
    Rem,
    Neg,
    Abs,
    Sqrt,
    Floor,
    Ceil,
    Trunc,
    /// To nearest, ties to even.
    Round,
    /// `a · b + c`, rounded once. Only in kernels of the fused class.
    Fma,
    /// `a < b ? a : b`: the second where one is NaN.
    Min,
    /// `a > b ? a : b`: the second where one is NaN.
    Max,
    // Integers and masks.
    And,
    Or,
    Xor,
    Not,
    /// The amount is taken modulo the bits of the type; `Shr` is arithmetic on signed integers.
    Shl,
    Shr,
    // To a mask; comparisons with NaN are false, `Ne` is true.
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// `mask ? a : b`, each lane.
    Select,
    // f32 and f64 only; `expand_math` turns them into the operations above for CPU targets.
    Exp,
    Expm1,
    Log,
    Log1p,
    Sin,
    Cos,
    Tanh,
    Erf,
    Pow,
    /// `a · 2ᵇ` for floats and a whole `b`, rounded once. Legal on AVX-512 only, where `expand_math`
    /// leaves it in the place of several operations.
    Scale,
}

/// A comparison.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Op {
    /// The comparison that an operation is, if it is one.
    pub fn order(self) -> Option<Order> {
        Some(match self {
            Op::Eq => Order::Eq,
            Op::Ne => Order::Ne,
            Op::Lt => Order::Lt,
            Op::Le => Order::Le,
            Op::Gt => Order::Gt,
            Op::Ge => Order::Ge,
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
            | Op::Select
            | Op::Exp
            | Op::Expm1
            | Op::Log
            | Op::Log1p
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Erf
            | Op::Pow
            | Op::Scale => return None,
        })
    }
}

/// Operations across lanes, or from one element type to another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LaneOp {
    /// One element into every lane.
    Splat,
    /// One lane.
    Extract(u16),
    /// The vector (first) with one lane replaced by the scalar (second).
    Insert(u16),
    /// Lanes `from .. from + (lanes of the result)`.
    Slice(u16),
    /// Operands one after the other; scalars count as one lane.
    Concat,
    /// Lane `i` of the result is lane `[i]` of the operand.
    Shuffle(Vec<u16>),
    /// The same bits as another type of the same width.
    Bitcast,
    /// The value in another element type: float to integer truncates and saturates, NaN gives 0;
    /// integers wrap; floats round to nearest even; a mask gives 0 or 1; `Index` converts to and
    /// from integers by wrapping.
    Convert,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Buf {
    Param(u16),
    Scratch(u16),
}

/// `buf[base + plus]`, in elements.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Addr {
    pub buf: Buf,
    /// An `Index`.
    pub base: Val,
    pub plus: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LoadMode {
    /// Lane `i` reads element `i` from the address.
    Contig,
    /// Every lane reads the element at the address.
    Splat,
    /// Lane `i` reads the element at the address plus lane `i` of this i64 vector.
    Gather(Val),
}

/// Operands of an instruction: four or fewer, for all but long concatenations.
pub type Args = smallvec::SmallVec<[Val; 4]>;

#[derive(Clone, PartialEq, Debug)]
pub enum Inst {
    /// An element in every lane of the register.
    Const {
        dst: Val,
        value: Lit,
    },
    /// The coordinate of the grid point, along grid axis 0, 1 or 2.
    Grid {
        dst: Val,
        axis: u8,
    },
    /// The invocation's coordinate inside its workgroup; 0 on the CPU.
    Local {
        dst: Val,
        axis: u8,
    },
    Op {
        dst: Val,
        op: Op,
        args: Args,
    },
    /// All lanes combined by a halving tree: lane i with lane i + n/2. `Sum`, `Prod`, `Max`, `Min`
    /// (with the instruction's NaN rule, lower lane first), `Any`, `All`.
    Fold {
        dst: Val,
        combine: Combine,
        v: Val,
    },
    /// A scalar of every invocation of the workgroup, combined along local axis 1 by a halving tree:
    /// invocation i with i + n/2; the extent of that axis is a power of two. All invocations with the same
    /// coordinate along axis 0 get the result. `Max` and `Min` of floats give NaN where one is NaN. A
    /// barrier before and behind.
    GroupFold {
        dst: Val,
        combine: Combine,
        v: Val,
    },
    Lane {
        dst: Val,
        op: LaneOp,
        args: Args,
    },
    Load {
        dst: Val,
        at: Addr,
        mode: LoadMode,
        valid: u16,
        fill: Option<Lit>,
    },
    Store {
        at: Addr,
        v: Val,
        valid: u16,
    },
    /// A hint: the cache line at this address is wanted before long. Nothing is read, so the address
    /// need not lie inside the buffer.
    Prefetch {
        at: Addr,
    },
    /// `body.params` are the counter, then the carried values; it yields the next carried values.
    /// Runs for `lo, lo + step, …` below `hi`; `step > 0`. Results are the last carried values.
    For {
        results: Vec<Val>,
        lo: Val,
        hi: Val,
        step: i64,
        init: Vec<Val>,
        body: Region,
        unroll: u32,
    },
    If {
        results: Vec<Val>,
        cond: Val,
        then: Region,
        els: Region,
    },
    Barrier,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Region {
    pub params: Vec<Val>,
    pub insts: Vec<Inst>,
    pub yields: Vec<Val>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

/// A buffer that the caller passes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Param {
    pub name: String,
    pub elem: DType,
    /// In elements.
    pub len: u64,
    pub access: Access,
}

/// Whose a scratch buffer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Scope {
    /// One for each worker; holds nothing from one grid point to the next.
    Worker,
    /// One for each workgroup.
    Shared,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Scratch {
    pub elem: DType,
    /// In elements.
    pub len: u64,
    pub scope: Scope,
}

/// Beside its code a stored kernel needs no body: `serde` leaves out how it computes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Kernel {
    pub name: String,
    pub numerics: Numerics,
    /// Grid points (GPU: workgroups) along each axis; axis 0 runs fastest.
    pub grid: [u32; 3],
    /// Invocations of a workgroup; all 1 on the CPU.
    pub local: [u32; 3],
    pub params: Vec<Param>,
    /// Pairs (written parameter, read parameter) that may be one buffer.
    pub inplace: Vec<(u16, u16)>,
    pub scratch: Vec<Scratch>,
    /// Types of all registers, by `Val`.
    #[serde(skip)]
    pub types: Vec<Ty>,
    #[serde(skip)]
    pub body: Region,
    /// What the whole is, where the machine may have a template for it.
    #[serde(skip)]
    pub pattern: Option<Pattern>,
}

impl Kernel {
    pub fn ty(&self, v: Val) -> Ty {
        self.types[v.0 as usize]
    }

    pub fn grid_points(&self) -> u64 {
        self.grid.iter().map(|&n| n as u64).product()
    }

    /// Bytes of worker scratch, each buffer rounded up to 64.
    pub fn scratch_bytes(&self) -> u64 {
        let of = |s: &Scratch| (s.len * s.elem.bytes() as u64).next_multiple_of(64);
        self.scratch.iter().filter(|s| s.scope == Scope::Worker).map(of).sum()
    }
}

impl Inst {
    /// The registers that the instruction defines.
    pub fn defs(&self) -> &[Val] {
        use std::slice::from_ref;
        match self {
            Inst::Const { dst, .. }
            | Inst::Grid { dst, .. }
            | Inst::Local { dst, .. }
            | Inst::Op { dst, .. }
            | Inst::Fold { dst, .. }
            | Inst::GroupFold { dst, .. }
            | Inst::Lane { dst, .. }
            | Inst::Load { dst, .. } => from_ref(dst),
            Inst::For { results, .. } | Inst::If { results, .. } => results,
            Inst::Store { .. } | Inst::Prefetch { .. } | Inst::Barrier => &[],
        }
    }

    /// As [`Inst::defs`], to be changed.
    pub fn defs_mut(&mut self) -> &mut [Val] {
        use std::slice::from_mut;
        match self {
            Inst::Const { dst, .. }
            | Inst::Grid { dst, .. }
            | Inst::Local { dst, .. }
            | Inst::Op { dst, .. }
            | Inst::Fold { dst, .. }
            | Inst::GroupFold { dst, .. }
            | Inst::Lane { dst, .. }
            | Inst::Load { dst, .. } => from_mut(dst),
            Inst::For { results, .. } | Inst::If { results, .. } => results,
            Inst::Store { .. } | Inst::Prefetch { .. } | Inst::Barrier => &mut [],
        }
    }

    /// Calls `f` for each register that the instruction itself reads (not those inside its
    /// regions), in order.
    pub fn for_each_arg(&self, mut f: impl FnMut(Val)) {
        match self {
            Inst::Const { .. } | Inst::Grid { .. } | Inst::Local { .. } | Inst::Barrier => {}
            Inst::Op { args, .. } | Inst::Lane { args, .. } => args.iter().for_each(|v| f(*v)),
            Inst::Fold { v, .. } | Inst::GroupFold { v, .. } => f(*v),
            Inst::Load { at, mode, .. } => {
                f(at.base);
                match mode {
                    LoadMode::Contig | LoadMode::Splat => {}
                    LoadMode::Gather(idx) => f(*idx),
                }
            }
            Inst::Store { at, v, .. } => [at.base, *v].into_iter().for_each(f),
            Inst::Prefetch { at } => f(at.base),
            Inst::For { lo, hi, init, .. } => [lo, hi].into_iter().chain(init).for_each(|v| f(*v)),
            Inst::If { cond, .. } => f(*cond),
        }
    }

    /// The registers that [`Inst::for_each_arg`] visits.
    pub fn args(&self) -> Vec<Val> {
        let mut all = vec![];
        self.for_each_arg(|v| all.push(v));
        all
    }
}

impl Lit {
    /// The value rounded to the dtype; integers truncate and saturate.
    pub fn new(dtype: DType, v: f64) -> Lit {
        let bits = match dtype {
            DType::F32 => (v as f32).to_bits() as u64,
            DType::F64 => v.to_bits(),
            DType::F16 => half::f16::from_f64(v).to_bits() as u64,
            DType::BF16 => half::bf16::from_f64(v).to_bits() as u64,
            DType::I8 => v as i8 as u8 as u64,
            DType::I16 => v as i16 as u16 as u64,
            DType::I32 => v as i32 as u32 as u64,
            DType::I64 => v as i64 as u64,
            DType::U8 => v as u8 as u64,
            DType::U16 => v as u16 as u64,
            DType::U32 => v as u32 as u64,
            DType::U64 => v as u64,
            DType::Bool => (v != 0.0) as u64,
        };
        Lit { dtype, bits }
    }

    /// An integer, wrapped into the dtype; floats round.
    pub fn int(dtype: DType, v: i64) -> Lit {
        if dtype.is_float() || dtype == DType::Bool {
            return Lit::new(dtype, v as f64);
        }
        let mask = u64::MAX >> (64 - 8 * dtype.bytes() as u32);
        Lit { dtype, bits: v as u64 & mask }
    }

    pub fn index(v: i64) -> Lit {
        Lit { dtype: DType::I64, bits: v as u64 }
    }

    /// The integer that the bits stand for, sign-extended; `None` for floats.
    pub fn as_int(self) -> Option<i64> {
        let shift = 64 - 8 * self.dtype.bytes() as u32;
        match self.dtype.is_float() {
            true => None,
            false if self.dtype.is_signed_int() => Some(((self.bits << shift) as i64) >> shift),
            false => Some(self.bits as i64),
        }
    }

    /// The value as f64; 64-bit integers may round.
    pub fn as_f64(self) -> f64 {
        match self.dtype {
            DType::F32 => f32::from_bits(self.bits as u32) as f64,
            DType::F64 => f64::from_bits(self.bits),
            DType::F16 => half::f16::from_bits(self.bits as u16).to_f64(),
            DType::BF16 => half::bf16::from_bits(self.bits as u16).to_f64(),
            DType::U64 => self.bits as f64,
            DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::Bool => self.as_int().unwrap_or(0) as f64,
        }
    }
}
