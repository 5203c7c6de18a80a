//! Values as tensors: literals become constants in the dtype of what stands beside them, open
//! dimensions become numbers at run time.

use std::rc::Rc;

use super::args::Args;
use super::call::Applied;
use super::value::{RegionId, TensorVal, Val};
use super::{Lowerer, compute};
use crate::base::diag::Diagnostic;
use crate::base::source::Span;
use crate::base::{DType, Dim, Tensor, codes};
use crate::ir::Builder;

impl Lowerer<'_> {
    /// A value as a tensor of some graph that is open. Literals become constants of `dtype`, or of
    /// the dtype that is natural to them.
    pub(super) fn tensor(
        &mut self,
        v: &Val,
        span: Span,
        dtype: Option<DType>,
    ) -> Option<TensorVal> {
        match v {
            Val::Poison => None,
            Val::Tensor(t) => Some(t.clone()),
            Val::Results(r) => match v.clone().first() {
                Val::Results(_) => {
                    let message =
                        format!("`{}` returns {} values, one is needed", r.callee, r.values.len());
                    self.report(
                        Diagnostic::error(codes::RESULT_COUNT, span, message)
                            .help("take them apart first: `a, b = …`"),
                    );
                    None
                }
                inner => self.tensor(&inner, span, dtype),
            },
            Val::Dim(d) => self.extent(d, span, dtype),
            Val::Int(_) | Val::Float(_) | Val::Bits(_) | Val::Bool(_) | Val::List(_) => {
                let dtype = dtype.unwrap_or_else(|| natural_dtype(v));
                let tensor = self.literal(v, dtype, span)?;
                self.constant_node(tensor, span)
            }
            Val::Word(w) => {
                self.unknown_name(&w.text, w.span, w.near.clone());
                None
            }
            Val::Callee(_) | Val::Layer(_) => {
                let message = format!("a tensor is needed here, not {}", v.describe());
                self.report(
                    Diagnostic::error(codes::WRONG_KIND, span, message)
                        .help("apply it: `f(x)` or `x |> f`"),
                );
                None
            }
            Val::Str(_)
            | Val::DType(_)
            | Val::Recipe(_)
            | Val::Scope(_)
            | Val::Module(_)
            | Val::Ops => {
                let message = format!("a tensor is needed here, not {}", v.describe());
                self.error(codes::WRONG_KIND, span, message);
                None
            }
        }
    }

    fn constant_node(&mut self, tensor: Tensor, span: Span) -> Option<TensorVal> {
        let ty = tensor.ty();
        let loc = self.loc(span);
        let region = self.regions.last_mut().expect("the top graph is always open");
        let id: RegionId = region.id;
        let mut builder = Builder::new(&mut region.graph);
        builder.loc = loc;
        let value = builder.constant(tensor);
        self.nodes += 1;
        Some(TensorVal { region: id, value, ty: Rc::new(ty) })
    }

    /// An open dimension as a number at run time: ones of that extent, summed.
    fn extent(&mut self, d: &Dim, span: Span, dtype: Option<DType>) -> Option<TensorVal> {
        let dtype = dtype.unwrap_or(DType::I32);
        let one = self.tensor(&Val::Int(1), span, Some(dtype))?;
        let (Some(broadcast), Some(sum)) =
            (crate::ir::op::find("broadcast_to"), crate::ir::op::find("sum"))
        else {
            let message = format!("the open dimension `{d}` is no number at run time");
            self.error(codes::NOT_CONSTANT, span, message);
            return None;
        };
        let shape = Val::list(vec![Val::Dim(d.clone())]);
        let args =
            Args { positional: vec![(Val::Tensor(one), span), (shape, span)], named: vec![] };
        let ones = self.call_op(broadcast, &args, &Applied::default(), span);
        let args = Args { positional: vec![(ones, span)], named: vec![] };
        let total = self.call_op(sum, &args, &Applied::default(), span);
        self.tensor(&total, span, None)
    }

    /// A constant of this dtype from numbers, or from lists of them.
    pub(super) fn literal(&mut self, v: &Val, dtype: DType, span: Span) -> Option<Tensor> {
        let mut shape = vec![];
        let mut at = v;
        while let Val::List(items) = at {
            shape.push(items.len());
            match items.first() {
                Some(first) => at = first,
                None => break,
            }
        }
        let mut flat = vec![];
        if !flatten(v, &shape, &mut flat) {
            self.report(
                Diagnostic::error(codes::SHAPE, span, "the rows of this list differ in length")
                    .help("lists inside a list are rows of a tensor"),
            );
            return None;
        }
        if !self.step(flat.len() as u64, span) {
            return None;
        }
        match literal_tensor(&flat, &shape, dtype) {
            Ok(t) => Some(t),
            Err(bad) => {
                let message = format!("{} does not fit {dtype}", bad.describe());
                let mut d = Diagnostic::error(codes::DTYPE, span, message);
                if matches!(bad, Val::Float(_)) && dtype.is_int() {
                    d = d.help("convert the tensor with `cast(x, f32)`, or write an integer");
                }
                self.report(d);
                None
            }
        }
    }
}

/// For which dtype the literals of a call are tried.
pub(super) struct Choice {
    int: DType,
    float: DType,
}

impl Choice {
    pub(super) fn of(&self, v: &Val) -> DType {
        match natural_dtype(v) {
            DType::F32 => self.float,
            DType::I32 => self.int,
            other => other,
        }
    }
}

/// Integers take the dtype of the first tensor that is no bool, floats that of the first float
/// tensor. Where an op then says that dtypes do not fit (an index beside a float), integers are
/// tried as i32 and i64.
pub(super) fn literal_dtypes(operands: &[(Val, Span)]) -> Vec<Choice> {
    let of = |wanted: fn(DType) -> bool| {
        operands.iter().find_map(|(v, _)| match v {
            Val::Tensor(t) if wanted(t.ty.dtype) => Some(t.ty.dtype),
            _ => None,
        })
    };
    let number = of(|d| d != DType::Bool);
    let any_float = operands.iter().any(|(v, _)| natural_dtype(v) == DType::F32);
    let float = of(DType::is_float).or(number).unwrap_or(DType::F32);
    let int = number.unwrap_or(if any_float { DType::F32 } else { DType::I32 });
    let mut choices = vec![Choice { int, float }];
    let literals = operands.iter().any(|(v, _)| !matches!(v, Val::Tensor(_)));
    if literals {
        for int in [DType::I32, DType::I64] {
            choices.push(Choice { int, float });
        }
    }
    choices
}

/// f32, i32 or bool for literals; a tensor's own.
pub(super) fn natural_dtype(v: &Val) -> DType {
    match v {
        Val::Tensor(t) => t.ty.dtype,
        Val::Bool(_) => DType::Bool,
        Val::Float(_) | Val::Bits(_) => DType::F32,
        Val::List(items) => {
            let kinds: Vec<DType> = items.iter().map(natural_dtype).collect();
            match kinds.as_slice() {
                [] => DType::F32,
                kinds if kinds.contains(&DType::F32) => DType::F32,
                kinds => kinds[0],
            }
        }
        _ => DType::I32,
    }
}

fn flatten<'v>(v: &'v Val, shape: &[usize], out: &mut Vec<&'v Val>) -> bool {
    match (v, shape.split_first()) {
        (Val::List(items), Some((n, rest))) => {
            items.len() == *n && items.iter().all(|v| flatten(v, rest, out))
        }
        (Val::List(_), None) | (_, Some(_)) => false,
        (v, None) => {
            out.push(v);
            true
        }
    }
}

/// The error is the value that does not fit.
fn literal_tensor(flat: &[&Val], shape: &[usize], dtype: DType) -> Result<Tensor, Val> {
    use half::{bf16, f16};
    macro_rules! ints {
        ($t:ty) => {{
            let data: Result<Vec<$t>, Val> = flat
                .iter()
                .map(|v| match v {
                    Val::Int(i) => <$t>::try_from(*i).map_err(|_| (*v).clone()),
                    Val::Bits(b) => <$t>::try_from(*b).map_err(|_| (*v).clone()),
                    v => Err((*v).clone()),
                })
                .collect();
            Tensor::from_slice(shape, &data?)
        }};
    }
    let float = |v: &Val| match v {
        Val::Int(i) => Ok(*i as f64),
        Val::Float(f) => Ok(*f),
        Val::Bits(b) => compute::float_of_bits(*b, dtype).ok_or_else(|| v.clone()),
        v => Err(v.clone()),
    };
    let floats = || flat.iter().map(|v| float(v)).collect::<Result<Vec<f64>, Val>>();
    Ok(match dtype {
        DType::F64 => Tensor::from_slice(shape, &floats()?),
        // The bits of an f32 NaN survive only where they do not pass through f64 arithmetic.
        DType::F32 => {
            let data: Result<Vec<f32>, Val> = flat
                .iter()
                .map(|v| match v {
                    Val::Bits(b) => u32::try_from(*b).map(f32::from_bits).map_err(|_| (*v).clone()),
                    v => float(v).map(|f| f as f32),
                })
                .collect();
            Tensor::from_slice(shape, &data?)
        }
        DType::F16 => {
            let data: Vec<f16> = floats()?.into_iter().map(f16::from_f64).collect();
            Tensor::from_slice(shape, &data)
        }
        DType::BF16 => {
            let data: Vec<bf16> = floats()?.into_iter().map(bf16::from_f64).collect();
            Tensor::from_slice(shape, &data)
        }
        DType::I8 => ints!(i8),
        DType::I16 => ints!(i16),
        DType::I32 => ints!(i32),
        DType::I64 => ints!(i64),
        DType::U8 => ints!(u8),
        DType::U16 => ints!(u16),
        DType::U32 => ints!(u32),
        DType::U64 => ints!(u64),
        DType::Bool => {
            let data: Result<Vec<bool>, Val> = flat
                .iter()
                .map(|v| match v {
                    Val::Bool(b) => Ok(*b),
                    v => Err((*v).clone()),
                })
                .collect();
            Tensor::from_bools(shape, &data?)
        }
    })
}
