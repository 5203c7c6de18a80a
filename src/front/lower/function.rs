//! Functions of compile-time values, and the recipes of initial values.
//!
//! A function is tried where every argument is known at compile time; otherwise the op of the same
//! name is meant (`sqrt(64)` is 8.0, `sqrt(x)` an op).

use crate::base::codes;

use super::compute::{self, MAX_LIST, Trouble};
use super::value::Val;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Function {
    /// The number of items of a list.
    Len,
    FloorDiv,
    Mod,
    Min,
    Max,
    Abs,
    Sqrt,
    Exp,
    Log,
    Floor,
    Ceil,
    Round,
    /// `range(3)` is `[0, 1, 2]`.
    Range,
    /// `repeated(v, n)`: a list of n times v.
    Repeated,
    /// `per_axis(v, n)`: a number n times, or a list of n as it is.
    PerAxis,
    /// The tensors of the parameters whose paths match a pattern.
    Params,
}

const ALL: [(&str, Function); 16] = [
    ("len", Function::Len),
    ("floordiv", Function::FloorDiv),
    ("mod", Function::Mod),
    ("min", Function::Min),
    ("max", Function::Max),
    ("abs", Function::Abs),
    ("sqrt", Function::Sqrt),
    ("exp", Function::Exp),
    ("log", Function::Log),
    ("floor", Function::Floor),
    ("ceil", Function::Ceil),
    ("round", Function::Round),
    ("range", Function::Range),
    ("repeated", Function::Repeated),
    ("per_axis", Function::PerAxis),
    ("params", Function::Params),
];

impl Function {
    pub fn find(name: &str) -> Option<Function> {
        ALL.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
    }

    pub fn name(self) -> &'static str {
        ALL.iter().find(|(_, f)| *f == self).map_or("", |(n, _)| n)
    }

    pub fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().map(|(n, _)| *n)
    }

    /// The value for constant arguments. `Params` is not a function of its arguments alone and is
    /// answered by the caller.
    pub fn apply(self, args: &[Val]) -> Result<Val, Trouble> {
        let unfit = || {
            let kinds: Vec<String> = args.iter().map(Val::describe).collect();
            let message = format!("`{}` does not take {}", self.name(), kinds.join(" and "));
            Trouble::new(codes::CT_KIND, message)
        };
        let float = |f: fn(f64) -> f64| match args {
            [Val::Int(v)] => Ok(Val::Float(f(*v as f64))),
            [Val::Float(v)] => Ok(Val::Float(f(*v))),
            _ => Err(unfit()),
        };
        let integer = |f: fn(f64) -> f64| match args {
            [Val::Int(v)] => Ok(Val::Int(*v)),
            [Val::Float(v)] if f(*v).abs() < 9.0e18 => Ok(Val::Int(f(*v) as i64)),
            _ => Err(unfit()),
        };
        match self {
            Function::Len => match args {
                [Val::List(items)] => Ok(Val::Int(items.len() as i64)),
                _ => Err(unfit()),
            },
            Function::FloorDiv | Function::Mod => match args {
                [a, b] => {
                    let (Some(a), Some(b)) = (as_dim(a), as_dim(b)) else { return Err(unfit()) };
                    if b.as_const() == Some(0) {
                        return Err(Trouble::new(codes::INEXACT, "a division by zero"));
                    }
                    let floor = self == Function::FloorDiv;
                    compute::dim(if floor { a.floor_div(&b) } else { a.modulo(&b) })
                }
                _ => Err(unfit()),
            },
            Function::Min | Function::Max => {
                let items = match args {
                    [Val::List(items)] => items.as_slice(),
                    _ => args,
                };
                let (first, rest) = items.split_first().ok_or_else(unfit)?;
                let op = crate::front::ast::InfixOp::Lt;
                rest.iter().try_fold(first.clone(), |best, v| {
                    let (low, high) = if self == Function::Min { (v, &best) } else { (&best, v) };
                    match compute::infix(op, low, high)? {
                        Val::Bool(true) => Ok(v.clone()),
                        _ => Ok(best),
                    }
                })
            }
            Function::Abs => match args {
                [Val::Int(v)] => v.checked_abs().map(Val::Int).ok_or_else(Trouble::overflow),
                [Val::Float(v)] => Ok(Val::Float(v.abs())),
                _ => Err(unfit()),
            },
            Function::Sqrt => float(f64::sqrt),
            Function::Exp => float(f64::exp),
            Function::Log => float(f64::ln),
            Function::Floor => integer(f64::floor),
            Function::Ceil => integer(f64::ceil),
            Function::Round => integer(f64::round_ties_even),
            Function::Range => {
                let (low, high) = match args {
                    [Val::Int(n)] => (0, *n),
                    [Val::Int(a), Val::Int(b)] => (*a, *b),
                    _ => return Err(unfit()),
                };
                match high.checked_sub(low) {
                    Some(n) if n <= MAX_LIST as i64 => {
                        Ok(Val::list((low..high).map(Val::Int).collect()))
                    }
                    _ => Err(too_long()),
                }
            }
            Function::Repeated => match args {
                [v, Val::Int(n)] => match usize::try_from((*n).max(0)) {
                    Ok(n) if n <= MAX_LIST => Ok(Val::list(vec![v.clone(); n])),
                    _ => Err(too_long()),
                },
                _ => Err(unfit()),
            },
            Function::PerAxis => match args {
                [Val::List(items), Val::Int(n)] if items.len() as i64 == *n => Ok(args[0].clone()),
                [v @ (Val::Int(_) | Val::Dim(_)), Val::Int(n @ 0..=16)] => {
                    Ok(Val::list(vec![v.clone(); *n as usize]))
                }
                [v, Val::Int(n)] => {
                    let message =
                        format!("one number or a list of {n} is needed, not {}", v.describe());
                    Err(Trouble::new(codes::ATTRIBUTE, message))
                }
                _ => Err(unfit()),
            },
            Function::Params => Err(unfit()),
        }
    }
}

fn too_long() -> Trouble {
    Trouble::new(codes::WORK_LIMIT, format!("a list of more than {MAX_LIST} items"))
}

pub(super) fn as_dim(v: &Val) -> Option<crate::base::Dim> {
    match v {
        Val::Int(v) => Some((*v).into()),
        Val::Dim(d) => Some(d.clone()),
        _ => None,
    }
}

/// The recipes of initial values, with how many numbers each takes.
pub(super) const RECIPES: [(&str, usize); 14] = [
    ("zeros", 0),
    ("ones", 0),
    ("identity", 0),
    ("constant", 1),
    ("uniform", 2),
    ("normal", 2),
    ("truncated_normal", 2),
    ("glorot_uniform", 0),
    ("glorot_normal", 0),
    ("he_uniform", 0),
    ("he_normal", 0),
    ("lecun_uniform", 0),
    ("lecun_normal", 0),
    ("orthogonal", 0),
];

pub(super) fn is_recipe(name: &str) -> bool {
    RECIPES.iter().any(|(n, _)| *n == name)
}

/// `name(args)` in the text that a parameter keeps: `normal(0, 0.02)`. One number for `normal` is
/// the standard deviation, one for `uniform` the bound on both sides.
pub(super) fn recipe(name: &str, args: &[Val]) -> Result<Val, Trouble> {
    let takes = RECIPES.iter().find(|(n, _)| *n == name).map_or(0, |(_, n)| *n);
    let numbers: Option<Vec<f64>> = args
        .iter()
        .map(|v| match v {
            Val::Int(v) => Some(*v as f64),
            Val::Float(v) => Some(*v),
            _ => None,
        })
        .collect();
    let numbers = match (numbers, name) {
        (Some(n), "uniform") if n.len() == 1 => vec![-n[0], n[0]],
        (Some(n), "normal" | "truncated_normal") if n.len() == 1 => vec![0.0, n[0]],
        (Some(n), _) if n.len() == takes => n,
        _ => {
            let message = format!("`{name}` takes {takes} numbers");
            return Err(Trouble::new(codes::ATTRIBUTE, message));
        }
    };
    let text: Vec<String> = numbers.iter().map(f64::to_string).collect();
    Ok(Val::Recipe(match text.is_empty() {
        true => name.into(),
        false => format!("{name}({})", text.join(", ")).into(),
    }))
}
