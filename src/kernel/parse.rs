//! Text to kernel, by `grammar/kernel.pest`.
//!
//! What comes out passed `check_types`. Errors say the line and the column. The depth of nesting is
//! bounded before the grammar runs, so that no text exhausts the stack.

use std::collections::BTreeMap;

use pest::Parser;
use pest::iterators::{Pair, Pairs};

use super::ir::*;
use super::print::{combine_name, op_name};
use super::types::{MAX_DEPTH, check_types};
use crate::base::DType;
use crate::base::machine::Numerics;
use crate::ir::scalar::Combine;

#[derive(pest_derive::Parser)]
#[grammar = "../grammar/kernel.pest"]
struct Grammar;

/// What is wrong with a text, and where; lines and columns count from 1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// Reads one kernel.
pub fn parse_kernel(text: &str) -> Result<Kernel, ParseError> {
    check_depth(text)?;
    let mut pairs = Grammar::parse(Rule::file, text).map_err(|e| {
        let (line, column) = match e.line_col {
            pest::error::LineColLocation::Pos(p) => p,
            pest::error::LineColLocation::Span(p, _) => p,
        };
        ParseError { line, column, message: e.variant.message().into_owned() }
    })?;
    let Some(pair) = pairs.next() else { return Err(error((1, 1), "no kernel")) };
    let mut builder = Builder {
        kernel: Kernel {
            pattern: None,
            name: String::new(),
            numerics: Numerics::Separate,
            grid: [1; 3],
            local: [1; 3],
            params: vec![],
            inplace: vec![],
            scratch: vec![],
            types: vec![],
            body: Region::default(),
        },
        vals: BTreeMap::new(),
        places: vec![],
    };
    builder.kernel(pair)?;
    let Builder { kernel, places, .. } = builder;
    match check_types(&kernel) {
        Ok(()) => Ok(kernel),
        Err(e) => {
            let at = e.at.and_then(|v| places.get(v.0 as usize)).copied();
            Err(error(at.unwrap_or((1, 1)), e.what))
        }
    }
}

/// Refuses braces nested deeper than regions may be.
fn check_depth(text: &str) -> Result<(), ParseError> {
    let mut depth = 0usize;
    for (i, line) in text.lines().enumerate() {
        for (j, c) in line.chars().enumerate() {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > MAX_DEPTH {
                return Err(error((i + 1, j + 1), "blocks nest too deeply"));
            }
        }
    }
    Ok(())
}

fn error((line, column): (usize, usize), message: impl Into<String>) -> ParseError {
    ParseError { line, column, message: message.into() }
}

fn fail<T>(pair: &Pair<Rule>, message: impl Into<String>) -> Result<T, ParseError> {
    Err(error(pair.line_col(), message))
}

type Parsed<T> = Result<T, ParseError>;

struct Builder<'t> {
    kernel: Kernel,
    /// Registers by their names in the text.
    vals: BTreeMap<&'t str, Val>,
    /// Where each register is defined.
    places: Vec<(usize, usize)>,
}

/// The next pair of a rule whose shape the grammar guarantees.
fn next<'t>(pairs: &mut Pairs<'t, Rule>) -> Pair<'t, Rule> {
    pairs.next().expect("the grammar gives this rule its parts")
}

fn number<T: std::str::FromStr>(pair: &Pair<Rule>) -> Parsed<T> {
    pair.as_str().parse().or_else(|_| fail(pair, "a number out of range"))
}

fn dtype(pair: &Pair<Rule>) -> Parsed<DType> {
    match DType::parse(pair.as_str()) {
        Some(d) => Ok(d),
        None => fail(pair, format!("`{}` is no dtype", pair.as_str())),
    }
}

fn register_type(pair: &Pair<Rule>) -> Parsed<Ty> {
    let text = pair.as_str();
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let (name, lanes) = match text.rsplit_once('x') {
        Some((name, lanes)) if digits(lanes) => (name, lanes.parse().ok()),
        Some(_) | None => (text, Some(1)),
    };
    let lanes = lanes.filter(|n: &u16| (1..=64).contains(n));
    let ty = match (name, lanes) {
        ("index", Some(1)) => Some(Ty::Index),
        ("mask", Some(n)) => Some(Ty::Mask(n)),
        (name, Some(n)) => DType::parse(name).filter(|d| *d != DType::Bool).map(|d| Ty::of(d, n)),
        (_, None) => None,
    };
    match ty {
        Some(ty) => Ok(ty),
        None => fail(pair, format!("`{text}` is no register type")),
    }
}

fn literal(pair: &Pair<Rule>, d: DType) -> Parsed<Lit> {
    let text = pair.as_str();
    let bits = 8 * d.bytes() as u32;
    let lit = if let Some(hex) = text.strip_prefix("0x") {
        u64::from_str_radix(hex, 16).ok().map(|bits| Lit { dtype: d, bits })
    } else {
        match d {
            DType::Bool => match text {
                "true" => Some(Lit { dtype: d, bits: 1 }),
                "false" => Some(Lit { dtype: d, bits: 0 }),
                _ => None,
            },
            DType::F32 => {
                text.parse::<f32>().ok().map(|v| Lit { dtype: d, bits: v.to_bits() as u64 })
            }
            DType::F64 | DType::F16 | DType::BF16 => {
                text.parse::<f64>().ok().map(|v| Lit::new(d, v))
            }
            DType::U64 => text.parse().ok().map(|bits| Lit { dtype: d, bits }),
            DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32 => {
                let v = text.parse::<i64>().ok();
                let held = |v: i64| (Lit::int(d, v), v);
                v.map(held).filter(|(l, v)| l.as_int() == Some(*v)).map(|(l, _)| l)
            }
        }
    };
    let fits = |l: &Lit| bits == 64 || l.bits >> bits == 0;
    match lit.filter(fits) {
        Some(l) => Ok(l),
        None => fail(pair, format!("`{text}` is no literal of {d}")),
    }
}

impl<'t> Builder<'t> {
    fn kernel(&mut self, pair: Pair<'t, Rule>) -> Parsed<()> {
        for part in pair.into_inner() {
            let mut inner = part.clone().into_inner();
            match part.as_rule() {
                Rule::name => self.kernel.name = unquoted(&part),
                Rule::param => {
                    let name = unquoted(&next(&mut inner));
                    let elem = dtype(&next(&mut inner))?;
                    let len = number(&next(&mut inner))?;
                    let access = match next(&mut inner).as_str() {
                        "r" => Access::Read,
                        "w" => Access::Write,
                        _ => Access::ReadWrite,
                    };
                    self.kernel.params.push(Param { name, elem, len, access });
                }
                Rule::inplace => {
                    let (out, input) = (next(&mut inner), next(&mut inner));
                    match (self.buf(&out)?, self.buf(&input)?) {
                        (Buf::Param(o), Buf::Param(i)) => self.kernel.inplace.push((o, i)),
                        _ => return fail(&out, "only parameters are in place"),
                    }
                }
                Rule::grid => self.kernel.grid = triple(next(&mut inner))?,
                Rule::local => self.kernel.local = triple(next(&mut inner))?,
                Rule::scratch => {
                    let scope = match next(&mut inner).as_str() {
                        "worker" => Scope::Worker,
                        _ => Scope::Shared,
                    };
                    let elem = dtype(&next(&mut inner))?;
                    let len = number(&next(&mut inner))?;
                    self.kernel.scratch.push(Scratch { elem, len, scope });
                }
                Rule::class => {
                    self.kernel.numerics = match part.as_str() {
                        "fused" => Numerics::Fused,
                        _ => Numerics::Separate,
                    };
                }
                _ => self.kernel.body = self.block(part, vec![])?,
            }
        }
        Ok(())
    }

    fn buf(&self, pair: &Pair<Rule>) -> Parsed<Buf> {
        let text = pair.as_str();
        if let Some(i) = text.strip_prefix('#') {
            return i.parse().map(Buf::Scratch).or_else(|_| fail(pair, "no such scratch"));
        }
        let known = match text.strip_prefix('$') {
            Some(i) => i.parse().ok(),
            None => self.kernel.params.iter().position(|p| p.name == text).map(|i| i as u16),
        };
        match known {
            Some(i) => Ok(Buf::Param(i)),
            None => fail(pair, format!("no parameter is called `{text}`")),
        }
    }

    fn define(&mut self, pair: &Pair<'t, Rule>, ty: Ty) -> Parsed<Val> {
        let v = Val(self.kernel.types.len() as u32);
        if self.vals.insert(pair.as_str(), v).is_some() {
            return fail(pair, format!("{} is defined twice", pair.as_str()));
        }
        self.kernel.types.push(ty);
        self.places.push(pair.line_col());
        Ok(v)
    }

    fn val(&self, pair: &Pair<Rule>) -> Parsed<Val> {
        match self.vals.get(pair.as_str()) {
            Some(v) => Ok(*v),
            None => fail(pair, format!("{} is not defined yet", pair.as_str())),
        }
    }

    fn vals(&self, pair: Pair<Rule>) -> Parsed<Vec<Val>> {
        pair.into_inner().map(|p| self.val(&p)).collect()
    }

    fn block(&mut self, pair: Pair<'t, Rule>, params: Vec<Val>) -> Parsed<Region> {
        let mut region = Region { params, insts: vec![], yields: vec![] };
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::stmt => {
                    let inst = self.stmt(part)?;
                    region.insts.push(inst);
                }
                _ => region.yields = self.vals(next(&mut part.into_inner()))?,
            }
        }
        Ok(region)
    }

    fn stmt(&mut self, pair: Pair<'t, Rule>) -> Parsed<Inst> {
        let mut parts = pair.into_inner();
        let mut part = next(&mut parts);
        let mut defs = vec![];
        if part.as_rule() == Rule::defs {
            for def in part.clone().into_inner() {
                let mut inner = def.into_inner();
                let (val, ty) = (next(&mut inner), next(&mut inner));
                let ty = register_type(&ty)?;
                defs.push((val, ty));
            }
            part = next(&mut parts);
        }
        match part.as_rule() {
            Rule::repeat => return self.repeat(part, defs),
            Rule::branch => return self.branch(part, defs),
            Rule::store => return self.store(part),
            Rule::prefetch => {
                let at = self.at(next(&mut part.into_inner()))?;
                return Ok(Inst::Prefetch { at });
            }
            Rule::barrier => return Ok(Inst::Barrier),
            _ => {}
        }
        let [(name, ty)] = &defs[..] else {
            return fail(&part, "this defines one register");
        };
        let inst = self.simple(part, *ty)?;
        let dst = self.define(name, *ty)?;
        Ok(with_dst(inst, dst))
    }

    /// An instruction with one result, whose register is not yet named.
    fn simple(&mut self, pair: Pair<'t, Rule>, ty: Ty) -> Parsed<Inst> {
        let dst = Val(u32::MAX);
        let rule = pair.as_rule();
        let mut inner = pair.clone().into_inner();
        let first = next(&mut inner);
        match rule {
            Rule::constant => Ok(Inst::Const { dst, value: literal(&first, ty.dtype())? }),
            Rule::coordinate => {
                let axis = number(&next(&mut inner))?;
                Ok(match first.as_str() {
                    "grid" => Inst::Grid { dst, axis },
                    _ => Inst::Local { dst, axis },
                })
            }
            Rule::load => {
                let at = self.at(next(&mut inner))?;
                let mut by = None;
                let (mut valid, mut fill) = (ty.lanes(), None);
                for part in inner {
                    let value = next(&mut part.clone().into_inner());
                    match part.as_rule() {
                        Rule::by => by = Some(self.val(&value)?),
                        Rule::valid => valid = number(&value)?,
                        _ => fill = Some(literal(&value, ty.dtype())?),
                    }
                }
                let mode = match (first.as_str(), by) {
                    ("load", None) => LoadMode::Contig,
                    ("load.splat", None) => LoadMode::Splat,
                    ("load.gather", Some(idx)) => LoadMode::Gather(idx),
                    _ => return fail(&first, "`by` goes with `load.gather`"),
                };
                Ok(Inst::Load { dst, at, mode, valid, fill })
            }
            _ => self.call(first, inner),
        }
    }

    fn call(&mut self, word: Pair<'t, Rule>, inner: Pairs<'t, Rule>) -> Parsed<Inst> {
        let dst = Val(u32::MAX);
        let (mut count, mut list, mut args) = (None, None, vec![]);
        for part in inner {
            match part.as_rule() {
                Rule::digits => count = Some(number::<u16>(&part)?),
                Rule::list => {
                    let lanes = part.into_inner().map(|p| number::<u16>(&p));
                    list = Some(lanes.collect::<Parsed<Vec<u16>>>()?);
                }
                _ => args = self.vals(part)?,
            }
        }
        let name = word.as_str();
        let lane = match (name, count, list) {
            ("splat", None, None) => Some(LaneOp::Splat),
            ("extract", Some(i), None) => Some(LaneOp::Extract(i)),
            ("insert", Some(i), None) => Some(LaneOp::Insert(i)),
            ("slice", Some(i), None) => Some(LaneOp::Slice(i)),
            ("concat", None, None) => Some(LaneOp::Concat),
            ("shuffle", None, Some(lanes)) => Some(LaneOp::Shuffle(lanes)),
            ("bitcast", None, None) => Some(LaneOp::Bitcast),
            ("convert", None, None) => Some(LaneOp::Convert),
            (_, None, None) => None,
            _ => return fail(&word, format!("`{name}` takes no number and no list")),
        };
        if let Some(op) = lane {
            return Ok(Inst::Lane { dst, op, args: args.into() });
        }
        if let Some(combine) = name.strip_prefix("fold.") {
            let known = COMBINES.into_iter().find(|c| combine_name(*c) == combine);
            return match (known, &args[..]) {
                (Some(combine), [v]) => Ok(Inst::Fold { dst, combine, v: *v }),
                _ => fail(&word, format!("`{name}` is no fold of one register")),
            };
        }
        if let Some(combine) = name.strip_prefix("group.") {
            let known = COMBINES.into_iter().find(|c| combine_name(*c) == combine);
            return match (known, &args[..]) {
                (Some(combine), [v]) => Ok(Inst::GroupFold { dst, combine, v: *v }),
                _ => fail(&word, format!("`{name}` is no fold of one register")),
            };
        }
        match OPS.into_iter().find(|op| op_name(*op) == name) {
            Some(op) => Ok(Inst::Op { dst, op, args: args.into() }),
            None => fail(&word, format!("no instruction is called `{name}`")),
        }
    }

    fn at(&mut self, pair: Pair<'t, Rule>) -> Parsed<Addr> {
        let mut inner = pair.into_inner();
        let buf = self.buf(&next(&mut inner))?;
        let base = self.val(&next(&mut inner))?;
        let mut plus = 0;
        if let Some(part) = inner.next() {
            let text: String = part.as_str().chars().filter(|c| !c.is_whitespace()).collect();
            plus = text.parse().or_else(|_| fail(&part, "an offset out of range"))?;
        }
        Ok(Addr { buf, base, plus })
    }

    fn store(&mut self, pair: Pair<'t, Rule>) -> Parsed<Inst> {
        let mut inner = pair.into_inner();
        let at = self.at(next(&mut inner))?;
        let v = self.val(&next(&mut inner))?;
        let mut valid = self.kernel.ty(v).lanes();
        if let Some(part) = inner.next() {
            valid = number(&next(&mut part.into_inner()))?;
        }
        Ok(Inst::Store { at, v, valid })
    }

    fn repeat(&mut self, pair: Pair<'t, Rule>, defs: Vec<(Pair<'t, Rule>, Ty)>) -> Parsed<Inst> {
        let mut inner = pair.into_inner();
        let (counter, lo, hi) = (next(&mut inner), next(&mut inner), next(&mut inner));
        let (lo, hi) = (self.val(&lo)?, self.val(&hi)?);
        let (mut step, mut unroll, mut init) = (1, 1, vec![]);
        let mut carried = vec![];
        let mut block = None;
        for part in inner {
            match part.as_rule() {
                Rule::step => step = number(&next(&mut part.into_inner()))?,
                Rule::unroll => unroll = number(&next(&mut part.into_inner()))?,
                Rule::carried => {
                    for carry in part.into_inner() {
                        let mut inner = carry.into_inner();
                        let name = next(&mut inner);
                        let v = self.val(&next(&mut inner))?;
                        carried.push((name, self.kernel.ty(v)));
                        init.push(v);
                    }
                }
                _ => block = Some(part),
            }
        }
        let results = self.define_all(&defs)?;
        let mut params = vec![self.define(&counter, Ty::Index)?];
        params.extend(self.define_all(&carried)?);
        let body = self.block(block.expect("the grammar gives a loop its block"), params)?;
        Ok(Inst::For { results, lo, hi, step, init, body, unroll })
    }

    fn branch(&mut self, pair: Pair<'t, Rule>, defs: Vec<(Pair<'t, Rule>, Ty)>) -> Parsed<Inst> {
        let mut inner = pair.into_inner();
        let cond = self.val(&next(&mut inner))?;
        let results = self.define_all(&defs)?;
        let then = self.block(next(&mut inner), vec![])?;
        let els = self.block(next(&mut inner), vec![])?;
        Ok(Inst::If { results, cond, then, els })
    }

    fn define_all(&mut self, defs: &[(Pair<'t, Rule>, Ty)]) -> Parsed<Vec<Val>> {
        defs.iter().map(|(name, ty)| self.define(name, *ty)).collect()
    }
}

fn unquoted(pair: &Pair<Rule>) -> String {
    pair.as_str().trim_matches('"').into()
}

fn triple(pair: Pair<Rule>) -> Parsed<[u32; 3]> {
    let mut out = [1; 3];
    for (to, part) in out.iter_mut().zip(pair.into_inner()) {
        *to = number(&part)?;
    }
    Ok(out)
}

fn with_dst(mut inst: Inst, new: Val) -> Inst {
    inst.defs_mut().iter_mut().for_each(|dst| *dst = new);
    inst
}

const COMBINES: [Combine; 8] = [
    Combine::Sum,
    Combine::Prod,
    Combine::Max,
    Combine::Min,
    Combine::Any,
    Combine::All,
    Combine::ArgMax,
    Combine::ArgMin,
];

const OPS: [Op; 38] = [
    Op::Add,
    Op::Sub,
    Op::Mul,
    Op::Div,
    Op::Rem,
    Op::Neg,
    Op::Abs,
    Op::Sqrt,
    Op::Floor,
    Op::Ceil,
    Op::Trunc,
    Op::Round,
    Op::Fma,
    Op::Min,
    Op::Max,
    Op::And,
    Op::Or,
    Op::Xor,
    Op::Not,
    Op::Shl,
    Op::Shr,
    Op::Eq,
    Op::Ne,
    Op::Lt,
    Op::Le,
    Op::Gt,
    Op::Ge,
    Op::Select,
    Op::Exp,
    Op::Expm1,
    Op::Log,
    Op::Log1p,
    Op::Sin,
    Op::Cos,
    Op::Tanh,
    Op::Erf,
    Op::Pow,
    Op::Scale,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::print::print_kernel;
    use crate::kernel::random::{Limits, random_kernel};
    use crate::kernel::simplify::renumber;

    #[test]
    fn print_and_parse_are_inverse() {
        for seed in 0..60 {
            let kernel = random_kernel(seed, Numerics::Fused, Limits { size: 40, math: true });
            let text = print_kernel(&kernel);
            let parsed = parse_kernel(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(print_kernel(&parsed), text);
            assert_eq!(parsed, renumber(kernel));
        }
    }

    const SMALL: &str = "kernel \"odd name\"(x: f32[8] r, y: f32[8] w, y: f32[8] rw) inplace($1, x) \
        grid [2, 1, 1] worker f32[4] separate {\n  %0: index = grid 0\n  %1: f32x4 = load \
        x[%0 - 1] valid 3 fill -0.5\n  store $1[%0 + 4], %1\n}\n";

    #[test]
    fn headers_and_odd_names() {
        let kernel = parse_kernel(SMALL).unwrap();
        assert_eq!(kernel.name, "odd name");
        assert_eq!(kernel.inplace, [(1, 0)]);
        assert_eq!(print_kernel(&kernel), SMALL);
    }

    #[test]
    fn errors_say_where() {
        let at = |from: &str, to: &str| {
            let e = parse_kernel(&SMALL.replace(from, to)).unwrap_err();
            ((e.line, e.column), e.message)
        };
        let (place, what) = at("f32x4", "f32x3");
        assert_eq!(place, (1, 1), "{what}");
        let (place, what) = at("[%0 + 4], %1", "[%0 + 4], %7");
        assert_eq!((place, what.as_str()), ((4, 21), "%7 is not defined yet"));
        let (place, _) = at("valid 3", "valid many");
        assert_eq!(place.0, 3);
        let (_, what) = at("fill -0.5", "fill 1e");
        assert!(!what.is_empty());
        let (_, what) = at("%1: f32x4 = load", "%1: i32x4 = load");
        assert!(what.contains("in a buffer of f32") || what.contains("literal"), "{what}");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = "kernel k() grid [1, 1, 1] fused {".to_string() + &"if %0 {".repeat(100_000);
        assert!(parse_kernel(&text).unwrap_err().message.contains("nest"));
    }
}
