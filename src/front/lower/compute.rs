//! Arithmetic at compile time: integers are exact and checked, `/` divides evenly, dimensions are
//! expressions over open symbols.

use crate::base::codes;
use crate::base::{DType, Dim};
use crate::front::ast::{InfixOp, PrefixOp};

use super::value::{Callee, Val};

/// Why a compile-time operation has no result; the caller knows the place.
#[derive(Debug)]
pub(super) struct Trouble {
    pub code: &'static str,
    pub message: String,
    pub help: Option<&'static str>,
}

impl Trouble {
    pub fn new(code: &'static str, message: impl Into<String>) -> Trouble {
        Trouble { code, message: message.into(), help: None }
    }

    fn help(mut self, help: &'static str) -> Trouble {
        self.help = Some(help);
        self
    }

    pub fn overflow() -> Trouble {
        Trouble::new(codes::CT_OVERFLOW, "a compile-time number overflows 64 bits")
    }
}

/// Lists and texts stay below this length.
pub(super) const MAX_LIST: usize = 1 << 20;

pub(super) fn prefix(op: PrefixOp, v: &Val) -> Result<Val, Trouble> {
    Ok(match (op, v) {
        (PrefixOp::Neg, Val::Int(v)) => Val::Int(v.checked_neg().ok_or_else(Trouble::overflow)?),
        (PrefixOp::Neg, Val::Float(v)) => Val::Float(-v),
        (PrefixOp::Neg, Val::Dim(d)) => dim(d.neg())?,
        (PrefixOp::Not, Val::Bool(b)) => Val::Bool(!b),
        (op, v) => {
            let symbol = if op == PrefixOp::Neg { "-" } else { "not" };
            let message = format!("`{symbol}` does not take {}", v.describe());
            return Err(Trouble::new(codes::CT_KIND, message));
        }
    })
}

pub(super) fn infix(op: InfixOp, a: &Val, b: &Val) -> Result<Val, Trouble> {
    use InfixOp as I;
    let unfit = || {
        let message =
            format!("`{}` does not take {} and {}", op.symbol(), a.describe(), b.describe());
        Trouble::new(codes::CT_KIND, message)
    };
    if let I::Eq | I::Ne = op {
        let equal = equal(a, b).ok_or_else(unfit)?;
        return Ok(Val::Bool(equal == (op == I::Eq)));
    }
    match (a, b) {
        (Val::Bool(x), Val::Bool(y)) if matches!(op, I::And | I::Or) => {
            Ok(Val::Bool(if op == I::And { *x && *y } else { *x || *y }))
        }
        (Val::Str(x), Val::Str(y)) if op == I::Add && x.len() + y.len() <= MAX_LIST => {
            Ok(Val::str(&format!("{x}{y}")))
        }
        (Val::List(x), Val::List(y)) if op == I::Add && x.len() + y.len() <= MAX_LIST => {
            Ok(Val::list([x.as_slice(), y.as_slice()].concat()))
        }
        _ => match (number(a), number(b)) {
            (Some(Number::Int(x)), Some(Number::Int(y))) => {
                ints(op, x, y).unwrap_or_else(|| Err(unfit()))
            }
            (Some(Number::Float(x)), Some(y)) => {
                floats(op, x, y.as_f64().ok_or_else(unfit)?).ok_or_else(unfit)
            }
            (Some(x), Some(Number::Float(y))) => {
                floats(op, x.as_f64().ok_or_else(unfit)?, y).ok_or_else(unfit)
            }
            (Some(x), Some(y)) => {
                dims(op, &x.into_dim(), &y.into_dim()).unwrap_or_else(|| Err(unfit()))
            }
            _ => Err(unfit()),
        },
    }
}

enum Number {
    Int(i64),
    Dim(Dim),
    Float(f64),
}

impl Number {
    fn as_f64(&self) -> Option<f64> {
        match self {
            Number::Int(v) => Some(*v as f64),
            Number::Float(v) => Some(*v),
            Number::Dim(_) => None,
        }
    }

    fn into_dim(self) -> Dim {
        match self {
            Number::Int(v) => Dim::Const(v),
            Number::Dim(d) => d,
            Number::Float(_) => unreachable!("floats are handled before dimensions"),
        }
    }
}

/// Bits count as the integer that they spell.
fn number(v: &Val) -> Option<Number> {
    Some(match v {
        Val::Int(v) => Number::Int(*v),
        Val::Bits(v) => Number::Int(i64::try_from(*v).ok()?),
        Val::Float(v) => Number::Float(*v),
        Val::Dim(d) => Number::Dim(d.clone()),
        _ => return None,
    })
}

/// `None` where the operator does not take integers.
fn ints(op: InfixOp, x: i64, y: i64) -> Option<Result<Val, Trouble>> {
    use InfixOp as I;
    let checked = |v: Option<i64>| Some(v.map(Val::Int).ok_or_else(Trouble::overflow));
    match op {
        I::Add => checked(x.checked_add(y)),
        I::Sub => checked(x.checked_sub(y)),
        I::Mul => checked(x.checked_mul(y)),
        I::Div if y == 0 => Some(Err(Trouble::new(codes::INEXACT, "a division by zero"))),
        I::Div if x.checked_rem(y).is_some_and(|r| r != 0) => Some(Err(Trouble::new(
            codes::INEXACT,
            format!("{x} / {y} does not come out even"),
        )
        .help(
            "`floordiv(a, b)` rounds down; for a fraction make one side a float, as in `7.0 / 2`",
        ))),
        I::Div => checked(x.checked_div(y)),
        I::Pow if y < 0 => Some(Ok(Val::Float((x as f64).powf(y as f64)))),
        I::Pow => checked(match (x, u32::try_from(y)) {
            (0 | 1, _) => Some(if y == 0 { 1 } else { x }),
            (-1, _) => Some(if y % 2 == 0 { 1 } else { -1 }),
            (_, Ok(y)) => x.checked_pow(y),
            (_, Err(_)) => None,
        }),
        I::Lt => Some(Ok(Val::Bool(x < y))),
        I::Le => Some(Ok(Val::Bool(x <= y))),
        I::Gt => Some(Ok(Val::Bool(x > y))),
        I::Ge => Some(Ok(Val::Bool(x >= y))),
        I::Or | I::And | I::Eq | I::Ne | I::MatMul => None,
    }
}

fn floats(op: InfixOp, x: f64, y: f64) -> Option<Val> {
    use InfixOp as I;
    Some(match op {
        I::Add => Val::Float(x + y),
        I::Sub => Val::Float(x - y),
        I::Mul => Val::Float(x * y),
        I::Div => Val::Float(x / y),
        I::Pow => Val::Float(x.powf(y)),
        I::Lt => Val::Bool(x < y),
        I::Le => Val::Bool(x <= y),
        I::Gt => Val::Bool(x > y),
        I::Ge => Val::Bool(x >= y),
        I::Or | I::And | I::Eq | I::Ne | I::MatMul => return None,
    })
}

/// Arithmetic with at least one open dimension.
fn dims(op: InfixOp, x: &Dim, y: &Dim) -> Option<Result<Val, Trouble>> {
    use InfixOp as I;
    Some(match op {
        I::Add => dim(x.add(y)),
        I::Sub => dim(x.sub(y)),
        I::Mul => dim(x.mul(y)),
        I::Div => match x.div_exact(y) {
            Some(d) => dim(Some(d)),
            None => Err(Trouble::new(
                codes::INEXACT,
                format!("`{x} / {y}` does not come out even for every value of the dimensions"),
            )
            .help("`floordiv(a, b)` rounds down")),
        },
        I::Pow => match y.as_const() {
            Some(n @ 0..=16) => (0..n)
                .try_fold(Dim::ONE, |p, _| p.mul(x))
                .map_or_else(|| Err(Trouble::overflow()), |d| dim(Some(d))),
            _ => return None,
        },
        // The sign of a difference that is a plain integer settles an order of open dimensions.
        I::Lt | I::Le | I::Gt | I::Ge => match x.sub(y).and_then(|d| d.as_const()) {
            Some(diff) => Ok(Val::Bool(match op {
                I::Lt => diff < 0,
                I::Le => diff <= 0,
                I::Gt => diff > 0,
                _ => diff >= 0,
            })),
            None => Err(Trouble::new(
                codes::NOT_CONSTANT,
                format!("whether `{x} {} {y}` holds depends on open dimensions", op.symbol()),
            )
            .help("bind the dimension (`--set`), or choose at run time with `cond`")),
        },
        I::Or | I::And | I::Eq | I::Ne | I::MatMul => return None,
    })
}

/// A dimension as a value, unless it overflowed.
pub(super) fn dim(d: Option<Dim>) -> Result<Val, Trouble> {
    d.map(Val::dim).ok_or_else(Trouble::overflow)
}

/// `None` where values of these kinds are never compared.
pub(super) fn equal(a: &Val, b: &Val) -> Option<bool> {
    Some(match (a, b) {
        (Val::Bool(x), Val::Bool(y)) => x == y,
        (Val::DType(x), Val::DType(y)) => x == y,
        (Val::Recipe(x), Val::Recipe(y)) => x == y,
        (Val::List(x), Val::List(y)) => {
            x.len() == y.len()
                && x.iter().zip(y.iter()).try_fold(true, |all, (a, b)| Some(equal(a, b)? && all))?
        }
        _ => match (text(a), text(b)) {
            (Some(x), Some(y)) => x == y,
            // `reduce == none` where `reduce` may also be a number: unlike kinds are unequal.
            (Some(_), None) | (None, Some(_)) => false,
            (None, None) => match (number(a)?, number(b)?) {
                (Number::Int(x), Number::Int(y)) => x == y,
                (Number::Dim(x), Number::Dim(y)) => x == y,
                (Number::Dim(_), _) | (_, Number::Dim(_)) => false,
                (x, y) => x.as_f64()? == y.as_f64()?,
            },
        },
    })
}

pub(super) fn text(v: &Val) -> Option<&str> {
    match v {
        Val::Str(s) => Some(s),
        Val::Word(w) => Some(&w.text),
        // `reduce = sum` names a way to reduce, not the op.
        Val::Callee(Callee::Op(row)) => Some(row.name),
        Val::Callee(Callee::Function(f)) => Some(f.name()),
        _ => None,
    }
}

/// The value of a bit pattern in a float dtype; `None` where it does not fit the width.
pub(super) fn float_of_bits(bits: u64, dtype: DType) -> Option<f64> {
    Some(match dtype {
        DType::F64 => f64::from_bits(bits),
        DType::F32 => f64::from(f32::from_bits(u32::try_from(bits).ok()?)),
        DType::F16 => half::f16::from_bits(u16::try_from(bits).ok()?).to_f64(),
        DType::BF16 => half::bf16::from_bits(u16::try_from(bits).ok()?).to_f64(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Symbol;

    fn int(op: InfixOp, a: i64, b: i64) -> Result<Val, Trouble> {
        infix(op, &Val::Int(a), &Val::Int(b))
    }

    #[test]
    fn integers_are_exact_and_checked() {
        assert!(matches!(int(InfixOp::Div, 6, 3), Ok(Val::Int(2))));
        assert_eq!(int(InfixOp::Div, 7, 2).unwrap_err().code, codes::INEXACT);
        assert_eq!(int(InfixOp::Div, 7, 0).unwrap_err().code, codes::INEXACT);
        assert_eq!(int(InfixOp::Div, i64::MIN, -1).unwrap_err().code, codes::CT_OVERFLOW);
        assert_eq!(int(InfixOp::Pow, 10, 30).unwrap_err().code, codes::CT_OVERFLOW);
        assert!(matches!(int(InfixOp::Pow, -1, i64::MAX), Ok(Val::Int(-1))));
        assert!(matches!(int(InfixOp::Pow, 2, -1), Ok(Val::Float(0.5))));
        assert!(prefix(PrefixOp::Neg, &Val::Int(i64::MIN)).is_err());
    }

    #[test]
    fn dimensions_compare_by_normal_form() {
        let t = Val::Dim(Dim::symbol(Symbol::new("t")));
        let t4 = infix(InfixOp::Mul, &t, &Val::Int(4)).unwrap();
        assert!(matches!(infix(InfixOp::Div, &t4, &t), Ok(Val::Int(4))));
        assert_eq!(infix(InfixOp::Div, &t, &Val::Int(2)).unwrap_err().code, codes::INEXACT);
        assert!(matches!(infix(InfixOp::Eq, &t, &Val::Int(4)), Ok(Val::Bool(false))));
        let next = infix(InfixOp::Add, &t, &Val::Int(1)).unwrap();
        assert!(matches!(infix(InfixOp::Lt, &t, &next), Ok(Val::Bool(true))));
        assert_eq!(infix(InfixOp::Lt, &t, &Val::Int(4)).unwrap_err().code, codes::NOT_CONSTANT);
    }
}
