//! Kernels as text, the form of `grammar/kernel.pest`.
//!
//! Registers are named in the order of their definition, so `print(parse(print(k)))` is equal to
//! `print(k)` to the byte. Floats print as the shortest decimal that gives the same bits; NaN and
//! infinities as bits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::ir::*;
use super::simplify::renumber;
use crate::base::DType;
use crate::base::machine::Numerics;
use crate::ir::scalar::Combine;

/// The text of a kernel, with a line break at its end.
pub fn print_kernel(kernel: &Kernel) -> String {
    let kernel = renumber(kernel.clone());
    let mut p = Printer { kernel: &kernel, names: names(&kernel), out: String::new() };
    p.header();
    p.region(&kernel.body, 1);
    p.out.push_str("}\n");
    p.out
}

pub fn op_name(op: Op) -> &'static str {
    match op {
        Op::Add => "add",
        Op::Sub => "sub",
        Op::Mul => "mul",
        Op::Div => "div",
        Op::Rem => "rem",
        Op::Neg => "neg",
        Op::Abs => "abs",
        Op::Sqrt => "sqrt",
        Op::Floor => "floor",
        Op::Ceil => "ceil",
        Op::Trunc => "trunc",
        Op::Round => "round",
        Op::Fma => "fma",
        Op::Min => "min",
        Op::Max => "max",
        Op::And => "and",
        Op::Or => "or",
        Op::Xor => "xor",
        Op::Not => "not",
        Op::Shl => "shl",
        Op::Shr => "shr",
        Op::Eq => "eq",
        Op::Ne => "ne",
        Op::Lt => "lt",
        Op::Le => "le",
        Op::Gt => "gt",
        Op::Ge => "ge",
        Op::Select => "select",
        Op::Exp => "exp",
        Op::Expm1 => "expm1",
        Op::Log => "log",
        Op::Log1p => "log1p",
        Op::Sin => "sin",
        Op::Cos => "cos",
        Op::Tanh => "tanh",
        Op::Erf => "erf",
        Op::Pow => "pow",
        Op::Scale => "scale",
    }
}

pub fn combine_name(combine: Combine) -> &'static str {
    match combine {
        Combine::Sum => "sum",
        Combine::Prod => "prod",
        Combine::Max => "max",
        Combine::Min => "min",
        Combine::Any => "any",
        Combine::All => "all",
        Combine::ArgMax => "argmax",
        Combine::ArgMin => "argmin",
    }
}

pub fn type_name(ty: Ty) -> String {
    match ty {
        Ty::Index => "index".into(),
        Ty::Scalar(d) => d.to_string(),
        Ty::Vector(d, n) => format!("{d}x{n}"),
        Ty::Mask(1) => "mask".into(),
        Ty::Mask(n) => format!("maskx{n}"),
    }
}

/// A literal, which its dtype makes whole again.
pub fn literal(lit: Lit) -> String {
    match lit.dtype {
        DType::Bool => if lit.bits != 0 { "true" } else { "false" }.into(),
        d if d.is_float() && !lit.as_f64().is_finite() => format!("{:#x}", lit.bits),
        DType::F32 => format!("{:?}", f32::from_bits(lit.bits as u32)),
        DType::F64 | DType::F16 | DType::BF16 => format!("{:?}", lit.as_f64()),
        DType::U64 => lit.bits.to_string(),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::U8 | DType::U16 | DType::U32 => {
            lit.as_int().unwrap_or(0).to_string()
        }
    }
}

/// Whether a name needs no quotes.
fn is_plain(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}

/// A name as it stands in a header: in quotes unless it is plain; what quotes cannot hold is `_`.
fn quoted(name: &str) -> String {
    if is_plain(name) {
        return name.into();
    }
    let safe = |c: char| if c == '"' || c == '\\' || c.is_control() { '_' } else { c };
    format!("\"{}\"", name.chars().map(safe).collect::<String>())
}

/// How each parameter is called: by its name, or by its number where that is not plain or unique.
fn names(kernel: &Kernel) -> Vec<String> {
    let mut count: BTreeMap<&str, u32> = BTreeMap::new();
    kernel.params.iter().for_each(|p| *count.entry(&p.name).or_default() += 1);
    let unique: BTreeSet<&str> = count.iter().filter(|(_, n)| **n == 1).map(|(s, _)| *s).collect();
    let name = |(i, p): (usize, &Param)| {
        let own = is_plain(&p.name) && unique.contains(p.name.as_str());
        if own { p.name.clone() } else { format!("${i}") }
    };
    kernel.params.iter().enumerate().map(name).collect()
}

struct Printer<'k> {
    kernel: &'k Kernel,
    names: Vec<String>,
    out: String,
}

impl Printer<'_> {
    fn put(&mut self, text: std::fmt::Arguments) {
        self.out.write_fmt(text).expect("strings take all text");
    }

    fn header(&mut self) {
        let k = self.kernel;
        self.put(format_args!("kernel {}(", quoted(&k.name)));
        for (i, p) in k.params.iter().enumerate() {
            let access = match p.access {
                Access::Read => "r",
                Access::Write => "w",
                Access::ReadWrite => "rw",
            };
            let comma = if i > 0 { ", " } else { "" };
            self.put(format_args!("{comma}{}: {}[{}] {access}", quoted(&p.name), p.elem, p.len));
        }
        self.out.push(')');
        for (o, i) in &k.inplace {
            let (o, i) = (&self.names[*o as usize].clone(), &self.names[*i as usize].clone());
            self.put(format_args!(" inplace({o}, {i})"));
        }
        let [x, y, z] = k.grid;
        self.put(format_args!(" grid [{x}, {y}, {z}]"));
        let [x, y, z] = k.local;
        if k.local != [1; 3] {
            self.put(format_args!(" local [{x}, {y}, {z}]"));
        }
        for s in &k.scratch {
            let scope = match s.scope {
                Scope::Worker => "worker",
                Scope::Shared => "shared",
            };
            self.put(format_args!(" {scope} {}[{}]", s.elem, s.len));
        }
        let class = match k.numerics {
            Numerics::Fused => "fused",
            Numerics::Separate => "separate",
        };
        self.put(format_args!(" {class} {{\n"));
    }

    fn region(&mut self, region: &Region, depth: usize) {
        for inst in &region.insts {
            self.indent(depth);
            self.inst(inst, depth);
            self.out.push('\n');
        }
        if !region.yields.is_empty() {
            self.indent(depth);
            self.put(format_args!("yield {}\n", vals(&region.yields)));
        }
    }

    fn indent(&mut self, depth: usize) {
        self.out.extend(std::iter::repeat_n("  ", depth));
    }

    /// `%1: f32x4` for each register, then ` = `.
    fn defs(&mut self, defs: &[Val]) {
        for (i, v) in defs.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            self.put(format_args!("{comma}%{}: {}", v.0, type_name(self.kernel.ty(*v))));
        }
        if !defs.is_empty() {
            self.out.push_str(" = ");
        }
    }

    fn at(&self, at: &Addr) -> String {
        let buf = match at.buf {
            Buf::Param(i) => self.names[i as usize].clone(),
            Buf::Scratch(i) => format!("#{i}"),
        };
        match at.plus {
            0 => format!("{buf}[%{}]", at.base.0),
            n if n < 0 => format!("{buf}[%{} - {}]", at.base.0, n.unsigned_abs()),
            n => format!("{buf}[%{} + {n}]", at.base.0),
        }
    }

    fn inst(&mut self, inst: &Inst, depth: usize) {
        self.defs(inst.defs());
        match inst {
            Inst::Const { value, .. } => self.put(format_args!("const {}", literal(*value))),
            Inst::Grid { axis, .. } => self.put(format_args!("grid {axis}")),
            Inst::Local { axis, .. } => self.put(format_args!("local {axis}")),
            Inst::Op { op, args, .. } => {
                self.put(format_args!("{} {}", op_name(*op), vals(args)));
            }
            Inst::Fold { combine, v, .. } => {
                self.put(format_args!("fold.{} %{}", combine_name(*combine), v.0));
            }
            Inst::GroupFold { combine, v, .. } => {
                self.put(format_args!("group.{} %{}", combine_name(*combine), v.0));
            }
            Inst::Lane { op, args, .. } => {
                let name = match op {
                    LaneOp::Splat => "splat".into(),
                    LaneOp::Extract(i) => format!("extract {i}"),
                    LaneOp::Insert(i) => format!("insert {i}"),
                    LaneOp::Slice(i) => format!("slice {i}"),
                    LaneOp::Concat => "concat".into(),
                    LaneOp::Shuffle(lanes) => {
                        let lanes: Vec<String> = lanes.iter().map(u16::to_string).collect();
                        format!("shuffle [{}]", lanes.join(", "))
                    }
                    LaneOp::Bitcast => "bitcast".into(),
                    LaneOp::Convert => "convert".into(),
                };
                self.put(format_args!("{name} {}", vals(args)));
            }
            Inst::Load { dst, at, mode, valid, fill } => {
                let at = self.at(at);
                match mode {
                    LoadMode::Contig => self.put(format_args!("load {at}")),
                    LoadMode::Splat => self.put(format_args!("load.splat {at}")),
                    LoadMode::Gather(i) => self.put(format_args!("load.gather {at} by %{}", i.0)),
                }
                if *valid != self.kernel.ty(*dst).lanes() {
                    self.put(format_args!(" valid {valid}"));
                }
                if let Some(fill) = fill {
                    self.put(format_args!(" fill {}", literal(*fill)));
                }
            }
            Inst::Store { at, v, valid } => {
                let at = self.at(at);
                self.put(format_args!("store {at}, %{}", v.0));
                if *valid != self.kernel.ty(*v).lanes() {
                    self.put(format_args!(" valid {valid}"));
                }
            }
            Inst::For { lo, hi, step, init, body, unroll, .. } => {
                self.put(format_args!("for %{} in %{}..%{}", body.params[0].0, lo.0, hi.0));
                if *step != 1 {
                    self.put(format_args!(" step {step}"));
                }
                if *unroll != 1 {
                    self.put(format_args!(" unroll {unroll}"));
                }
                if !init.is_empty() {
                    let carried = body.params[1..].iter().zip(init);
                    let carried: Vec<String> =
                        carried.map(|(p, v)| format!("%{} = %{}", p.0, v.0)).collect();
                    self.put(format_args!(" ({})", carried.join(", ")));
                }
                self.out.push_str(" {\n");
                self.region(body, depth + 1);
                self.indent(depth);
                self.out.push('}');
            }
            Inst::If { cond, then, els, .. } => {
                self.put(format_args!("if %{} {{\n", cond.0));
                self.region(then, depth + 1);
                self.indent(depth);
                self.out.push_str("} else {\n");
                self.region(els, depth + 1);
                self.indent(depth);
                self.out.push('}');
            }
            Inst::Prefetch { at } => {
                let at = self.at(at);
                self.put(format_args!("prefetch {at}"));
            }
            Inst::Barrier => self.out.push_str("barrier"),
        }
    }
}

fn vals(vals: &[Val]) -> String {
    vals.iter().map(|v| format!("%{}", v.0)).collect::<Vec<_>>().join(", ")
}
