//! What stands in types and attributes of the core form: dimensions, numbers, tensors.

use pest::iterators::Pair;

use super::{PART, Reader, name_text};
use crate::base::{DType, Dim, Shape, Symbol, Tensor, TensorType, codes};
use crate::front::parse::Rule;
use crate::ir::{Attr, AttrKind, AttrSpec};

impl<'t> Reader<'t> {
    pub(super) fn core_type(&mut self, pair: Pair<'t, Rule>) -> Option<TensorType> {
        let span = self.span(&pair);
        let mut inner = pair.into_inner();
        let dtype = inner.next().expect(PART);
        let dims: Option<Vec<Dim>> = inner.map(|d| self.dimension(d)).collect();
        let Some(dtype) = DType::parse(dtype.as_str()) else {
            let at = self.span(&dtype);
            self.error(codes::DTYPE, at, format!("`{}` is not a dtype", dtype.as_str()));
            return None;
        };
        let ty = TensorType::new(dtype, Shape(dims?));
        if ty.shape.dims().iter().any(|d| d.as_const().is_some_and(|v| v < 0)) {
            self.error(codes::BAD_DIM, span, format!("{ty} has a negative extent"));
            return None;
        }
        let known = ty.shape.dims().iter().filter_map(Dim::as_const).filter(|d| *d != 0);
        let bytes = known.into_iter().try_fold(ty.dtype.bytes() as i64, |n, d| n.checked_mul(d));
        if bytes.is_none() {
            self.error(codes::OVERFLOW, span, format!("the size of {ty} overflows 64 bits"));
            return None;
        }
        Some(ty)
    }

    /// A sum of products; `None` where a number or the result overflows (reported).
    fn dimension(&mut self, pair: Pair<'t, Rule>) -> Option<Dim> {
        let span = self.span(&pair);
        match self.sum(pair) {
            Some(d) => Some(d),
            None => {
                self.error(codes::OVERFLOW, span, "this dimension overflows 64 bits");
                None
            }
        }
    }

    fn sum(&mut self, pair: Pair<'t, Rule>) -> Option<Dim> {
        let mut sum = Dim::Const(0);
        let mut negative = false;
        for p in pair.into_inner() {
            if p.as_rule() == Rule::dim_sign {
                negative = p.as_str() == "-";
                continue;
            }
            let mut product = Dim::Const(if negative { -1 } else { 1 });
            for factor in p.into_inner() {
                let f = self.factor(factor)?;
                product = product.mul(&f)?;
            }
            sum = sum.add(&product)?;
        }
        Some(sum)
    }

    fn factor(&mut self, pair: Pair<'t, Rule>) -> Option<Dim> {
        Some(match pair.as_rule() {
            // The magnitude of the least integer has no positive counterpart.
            Rule::number => Dim::Const(integer(pair.as_str())?),
            Rule::dim_func => {
                let mut inner = pair.into_inner();
                let floor = inner.next().expect(PART).as_str() == "floordiv";
                let a = self.sum(inner.next().expect(PART))?;
                let b = self.sum(inner.next().expect(PART))?;
                if floor { a.floor_div(&b)? } else { a.modulo(&b)? }
            }
            _ => Dim::symbol(Symbol::new(&name_text(&pair))),
        })
    }

    /// An attribute as its schema wants it; `None` where it does not fit (reported).
    pub(super) fn attr(&mut self, spec: &AttrSpec, pair: Pair<'t, Rule>) -> Option<Attr> {
        let span = self.span(&pair);
        let text = pair.as_str();
        let rule = pair.as_rule();
        let found = match (spec.kind, rule) {
            (_, Rule::any_word) if text == "none" && !words(spec.kind).contains(&"none") => {
                Some(Attr::None)
            }
            (
                AttrKind::Int | AttrKind::Ints | AttrKind::IntsOr(_) | AttrKind::Dims,
                Rule::signed,
            ) => integer(text).map(Attr::Int),
            (AttrKind::Float, Rule::signed) => float(text).map(Attr::Float),
            (AttrKind::Bool, Rule::any_word) => match text {
                "true" => Some(Attr::Bool(true)),
                "false" => Some(Attr::Bool(false)),
                _ => None,
            },
            (AttrKind::Word(_) | AttrKind::IntsOr(_), Rule::any_word | Rule::string) => {
                let word = name_text(&pair);
                words(spec.kind).contains(&word.as_str()).then_some(Attr::Str(word))
            }
            (AttrKind::Str, Rule::string) => Some(Attr::Str(name_text(&pair))),
            (AttrKind::Ints | AttrKind::IntsOr(_), Rule::core_list) => {
                let one = |p: Pair<'t, Rule>| integer(p.as_str().trim());
                pair.into_inner().map(one).collect::<Option<_>>().map(Attr::Ints)
            }
            (AttrKind::Dims, Rule::core_list) => {
                let dims: Option<Vec<Dim>> = pair.into_inner().map(|d| self.dimension(d)).collect();
                Some(Attr::Dims(dims?))
            }
            (AttrKind::DType, Rule::any_word) => DType::parse(text).map(Attr::DType),
            (AttrKind::Tensor, Rule::tensor) => return self.tensor(pair).map(Attr::Tensor),
            _ => None,
        };
        if found.is_none() {
            let message = format!("`{}` cannot be `{text}`", spec.name);
            self.error(codes::ATTRIBUTE, span, message);
        }
        found
    }

    fn tensor(&mut self, pair: Pair<'t, Rule>) -> Option<Tensor> {
        let span = self.span(&pair);
        let mut inner = pair.into_inner();
        let ty = self.core_type(inner.next().expect(PART))?;
        let Some(shape) = ty.shape.concrete() else {
            self.error(codes::CORE, span, format!("a constant has a fixed shape, not {ty}"));
            return None;
        };
        let items: Vec<Pair<'t, Rule>> = inner.collect();
        if let [only] = items.as_slice()
            && only.as_rule() == Rule::content
        {
            let hash = &only.as_str()[1..];
            let known = self.constants.get(hash).cloned();
            if let Some(t) = known.as_ref().filter(|t| t.ty() == ty) {
                return Some(t.clone());
            }
            let message = match known {
                Some(t) => format!("the constant #{hash} is {}, not {ty}", t.ty()),
                None => format!("the constant #{hash} is not in the side table"),
            };
            self.error(codes::CORE, span, message);
            return None;
        }
        let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if count != Some(items.len()) {
            let message = format!("{ty} does not have {} elements", items.len());
            self.error(codes::CORE, span, message);
            return None;
        }
        let texts: Vec<&str> = items.iter().map(|p| p.as_str()).collect();
        let tensor = elements(ty.dtype, &shape, &texts);
        if tensor.is_none() {
            self.error(codes::CORE, span, format!("an element is no {}", ty.dtype));
        }
        tensor
    }
}

fn words(kind: AttrKind) -> &'static [&'static str] {
    match kind {
        AttrKind::Word(words) | AttrKind::IntsOr(words) => words,
        AttrKind::Int
        | AttrKind::Float
        | AttrKind::Bool
        | AttrKind::Str
        | AttrKind::Ints
        | AttrKind::Dims
        | AttrKind::DType
        | AttrKind::Tensor => &[],
    }
}

pub(super) fn integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// Decimal, or bits: up to 8 digits are an f32, more an f64.
fn float(text: &str) -> Option<f64> {
    match text.strip_prefix("0x") {
        Some(hex) if hex.len() <= 8 => {
            u32::from_str_radix(hex, 16).ok().map(|b| f64::from(f32::from_bits(b)))
        }
        Some(hex) => u64::from_str_radix(hex, 16).ok().map(f64::from_bits),
        None => text.parse().ok().filter(|v: &f64| v.is_finite()),
    }
}

/// Elements as they are printed, each by its dtype; `None` where one does not fit.
fn elements(dtype: DType, shape: &[usize], texts: &[&str]) -> Option<Tensor> {
    use half::{bf16, f16};
    macro_rules! parsed {
        ($t:ty) => {{
            let data: Option<Vec<$t>> = texts.iter().map(|t| t.parse().ok()).collect();
            Tensor::from_slice(shape, &data?)
        }};
    }
    macro_rules! floats {
        ($t:ty, $bits:ty, $decimal:expr) => {{
            let one = |t: &&str| match t.strip_prefix("0x") {
                Some(hex) => <$bits>::from_str_radix(hex, 16).ok().map(<$t>::from_bits),
                None => $decimal(t),
            };
            let data: Option<Vec<$t>> = texts.iter().map(one).collect();
            Tensor::from_slice(shape, &data?)
        }};
    }
    let short = |t: &str| t.parse::<f32>().ok().filter(|v| v.is_finite());
    Some(match dtype {
        DType::F32 => floats!(f32, u32, short),
        DType::F64 => {
            floats!(f64, u64, |t: &str| t.parse::<f64>().ok().filter(|v| v.is_finite()))
        }
        DType::F16 => floats!(f16, u16, |t: &str| short(t).map(f16::from_f32)),
        DType::BF16 => floats!(bf16, u16, |t: &str| short(t).map(bf16::from_f32)),
        DType::I8 => parsed!(i8),
        DType::I16 => parsed!(i16),
        DType::I32 => parsed!(i32),
        DType::I64 => parsed!(i64),
        DType::U8 => parsed!(u8),
        DType::U16 => parsed!(u16),
        DType::U32 => parsed!(u32),
        DType::U64 => parsed!(u64),
        DType::Bool => {
            let one = |t: &&str| match *t {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            };
            let data: Option<Vec<bool>> = texts.iter().map(one).collect();
            Tensor::from_bools(shape, &data?)
        }
    })
}
