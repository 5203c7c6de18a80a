//! Functions of single elements, and the ways to combine many into one.
//!
//! A [`ScalarFn`] is what an elementwise op does to one element; passes, nests and targets match on
//! it exhaustively. Arithmetic on f16 and bf16 is done in f32 and rounded where a value is stored.

use crate::base::DType;

/// A function of one, two or three scalars. Unless said otherwise operands and result share a dtype.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ScalarFn {
    // One operand, any number.
    /// Integers wrap.
    Neg,
    /// Integers wrap: the least signed integer stays.
    Abs,
    /// 1 where x > 0, -1 where x < 0, else x itself: a zero of its sign, or NaN.
    Sign,
    /// 0 where x ≤ 0, else x; NaN stays.
    Relu,
    // One operand, floats (`Floor` … `Trunc` are the identity on integers).
    Floor,
    Ceil,
    /// To the nearest integer, ties to even.
    Round,
    Trunc,
    /// Rounded correctly.
    Sqrt,
    Rsqrt,
    Reciprocal,
    // From here to `Softplus`, and `Pow`: f32 within 2 ulp of the exact value, see `scalar_eval`.
    Exp,
    Expm1,
    Log,
    Log1p,
    Sin,
    Cos,
    Tanh,
    Sigmoid,
    Erf,
    /// `x · Φ(x)`, by erf; NaN at -∞ (-∞ · 0).
    Gelu,
    /// `x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    GeluTanh,
    /// `x · sigmoid(x)`; NaN at -∞ (-∞ · 0).
    Silu,
    /// `log(1 + exp(x))`, stable.
    Softplus,
    // Float to bool.
    IsNan,
    IsInf,
    // bool to bool, or the complement of an integer's bits.
    Not,
    /// To another dtype. Float to integer truncates and saturates, NaN gives 0; integers wrap;
    /// to bool is `x != 0` (true for NaN). To f16 and bf16 by way of f32, each step to nearest even.
    Cast(DType),
    // Two operands.
    Add,
    Sub,
    Mul,
    /// Integers: truncates towards zero; division by zero gives 0, MIN / -1 wraps.
    Div,
    /// Rounds towards minus infinity; integers by zero give 0.
    FloorDiv,
    /// `x - y · ⌊x / y⌋`, exactly (C's `fmod`, plus y where the signs differ), so that it has the
    /// divisor's sign and an infinite divisor leaves an x of its sign; integers by zero give 0, floats
    /// NaN.
    Mod,
    /// Integers: wrapping; a negative exponent gives 0 (±1 for the bases ±1). Floats: IEEE 754's
    /// `pow`.
    Pow,
    /// Propagates NaN; of zeros of both signs either one.
    Min,
    /// Propagates NaN.
    Max,
    /// Bitwise on integers, logical on bool.
    And,
    Or,
    Xor,
    /// By the amount modulo the bits of the type.
    Shl,
    /// Arithmetic on signed, logical on unsigned integers.
    Shr,
    // Two operands of one dtype to bool.
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    // bool, then two of one dtype.
    Where,
    /// One u32 from two u32 counters (first word, second word) and the key in the function:
    /// Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    /// SC 2011), the first word of the result.
    Random {
        key: [u32; 2],
    },
}

impl ScalarFn {
    pub fn arity(self) -> usize {
        use ScalarFn::*;
        match self {
            Neg | Abs | Sign | Relu | Floor | Ceil | Round | Trunc | Sqrt | Rsqrt | Reciprocal
            | Exp | Expm1 | Log | Log1p | Sin | Cos | Tanh | Sigmoid | Erf | Gelu | GeluTanh
            | Silu | Softplus | IsNan | IsInf | Not | Cast(_) => 1,
            Add
            | Sub
            | Mul
            | Div
            | FloorDiv
            | Mod
            | Pow
            | Min
            | Max
            | And
            | Or
            | Xor
            | Shl
            | Shr
            | Eq
            | Ne
            | Lt
            | Le
            | Gt
            | Ge
            | Random { .. } => 2,
            Where => 3,
        }
    }

    /// The dtype of the result for operands of this dtype (for `Where`: of the two branches).
    pub fn result(self, operand: DType) -> DType {
        use ScalarFn::*;
        match self {
            IsNan | IsInf | Eq | Ne | Lt | Le | Gt | Ge => DType::Bool,
            Cast(to) => to,
            Random { .. } => DType::U32,
            Neg | Abs | Sign | Relu | Floor | Ceil | Round | Trunc | Sqrt | Rsqrt | Reciprocal
            | Exp | Expm1 | Log | Log1p | Sin | Cos | Tanh | Sigmoid | Erf | Gelu | GeluTanh
            | Silu | Softplus | Not | Add | Sub | Mul | Div | FloorDiv | Mod | Pow | Min | Max
            | And | Or | Xor | Shl | Shr | Where => operand,
        }
    }

    /// A rough price in FLOP, for the choice between computing again and keeping.
    pub fn flops(self) -> u64 {
        use ScalarFn::*;
        match self {
            Neg | Abs | Relu | Not | Add | Sub | Mul | Min | Max | And | Or | Xor | Shl | Shr
            | Eq | Ne | Lt | Le | Gt | Ge | Where | IsNan | IsInf | Cast(_) | Floor | Ceil
            | Round | Trunc | Sign => 1,
            Div | Sqrt | Rsqrt | Reciprocal | FloorDiv | Mod => 6,
            Exp | Expm1 | Log | Log1p | Sin | Cos | Tanh | Sigmoid | Silu => 20,
            Erf | Gelu | GeluTanh | Softplus | Random { .. } => 40,
            Pow => 60,
        }
    }
}

/// How a reduction makes one value of many.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Combine {
    Sum,
    Prod,
    /// Propagates NaN.
    Max,
    /// Propagates NaN.
    Min,
    Any,
    All,
    /// The index (i64) of the first greatest element; of the first NaN if there is one.
    ArgMax,
    /// The index (i64) of the first least element; of the first NaN if there is one.
    ArgMin,
}

impl Combine {
    pub fn result(self, operand: DType) -> DType {
        match self {
            Combine::Sum | Combine::Prod | Combine::Max | Combine::Min => operand,
            Combine::Any | Combine::All => DType::Bool,
            Combine::ArgMax | Combine::ArgMin => DType::I64,
        }
    }
}
