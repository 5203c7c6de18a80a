//! Kernels as text; `parse` reads it back.
//!
//! ```text
//! kernel k0(x0: r f32[480], y0: w f32[480]) inplace(y0, x0) scratch(s0: worker f32[12]) grid [4, 1, 1] fused {
//!   %0: index = grid 0
//!   %1: f32x8 = load x0[%0 + 8]
//!   %2: f32x8 = const 0x3f800000
//!   %3: f32x8 = max %1, %2
//!   store y0[%0 + 8], %3
//!   %4: f32x8 = for %5 = %0..%6 step 1 (%7 = %3) {
//!     yield %7
//!   }
//! }
//! ```
//!
//! Registers keep their numbers, constants are the bits of one element, and every definition says
//! its type, so that nothing has to be inferred.

use std::fmt::Write;

use super::ir::*;
use crate::base::machine::Numerics;
use crate::ir::scalar::Combine;

/// Prints a kernel, with a newline at the end.
pub fn print_kernel(kernel: &Kernel) -> String {
    let mut p = Printer { kernel, text: String::new() };
    p.header();
    p.insts(&kernel.body.insts, 1);
    p.text.push_str("}\n");
    p.text
}

/// `f32`, `f32x8`, `index`, `mask`, `mask x8` as `mask8`.
pub fn type_name(ty: Ty) -> String {
    match ty {
        Ty::Index => "index".into(),
        Ty::Scalar(d) => d.name().into(),
        Ty::Vector(d, n) => format!("{d}x{n}"),
        Ty::Mask(1) => "mask".into(),
        Ty::Mask(n) => format!("maskx{n}"),
    }
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

struct Printer<'a> {
    kernel: &'a Kernel,
    text: String,
}

impl Printer<'_> {
    fn header(&mut self) {
        let k = self.kernel;
        let access = |a: Access| match a {
            Access::Read => "r",
            Access::Write => "w",
            Access::ReadWrite => "rw",
        };
        let params: Vec<String> = k
            .params
            .iter()
            .map(|p| format!("{}: {} {}[{}]", p.name, access(p.access), p.elem, p.len))
            .collect();
        let _ = write!(self.text, "kernel {}({})", k.name, params.join(", "));
        for (out, input) in &k.inplace {
            let name = |i: u16| &k.params[i as usize].name;
            let _ = write!(self.text, " inplace({}, {})", name(*out), name(*input));
        }
        for (i, s) in k.scratch.iter().enumerate() {
            let scope = if s.scope == Scope::Worker { "worker" } else { "shared" };
            let _ = write!(self.text, " scratch(s{i}: {scope} {}[{}])", s.elem, s.len);
        }
        let _ = write!(self.text, " grid {:?}", k.grid);
        if k.local != [1; 3] {
            let _ = write!(self.text, " local {:?}", k.local);
        }
        let class = if k.numerics == Numerics::Fused { "fused" } else { "separate" };
        let _ = writeln!(self.text, " {class} {{");
    }

    fn insts(&mut self, insts: &[Inst], depth: usize) {
        for inst in insts {
            self.text.push_str(&"  ".repeat(depth));
            self.inst(inst, depth);
            self.text.push('\n');
        }
    }

    fn def(&mut self, v: Val) {
        let ty = type_name(self.kernel.ty(v));
        let _ = write!(self.text, "%{}: {ty}", v.0);
    }

    fn defs(&mut self, vals: &[Val]) {
        for (i, v) in vals.iter().enumerate() {
            self.text.push_str(if i == 0 { "" } else { ", " });
            self.def(*v);
        }
        if !vals.is_empty() {
            self.text.push_str(" = ");
        }
    }

    fn addr(&self, at: &Addr) -> String {
        let buf = match at.buf {
            Buf::Param(i) => self.kernel.params[i as usize].name.clone(),
            Buf::Scratch(i) => format!("s{i}"),
        };
        match at.plus {
            0 => format!("{buf}[%{}]", at.base.0),
            c if c < 0 => format!("{buf}[%{} - {}]", at.base.0, c.unsigned_abs()),
            c => format!("{buf}[%{} + {c}]", at.base.0),
        }
    }

    fn inst(&mut self, inst: &Inst, depth: usize) {
        self.defs(inst.defs());
        match inst {
            Inst::Const { value, .. } => {
                let _ = write!(self.text, "const {} {:#x}", value.dtype, value.bits);
            }
            Inst::Grid { axis, .. } => {
                let _ = write!(self.text, "grid {axis}");
            }
            Inst::Local { axis, .. } => {
                let _ = write!(self.text, "local {axis}");
            }
            Inst::Op { op, args, .. } => {
                let _ = write!(self.text, "{} {}", op_name(*op), vals(args));
            }
            Inst::Fold { combine, v, .. } => {
                let _ = write!(self.text, "fold.{} %{}", combine_name(*combine), v.0);
            }
            Inst::Lane { op, args, .. } => self.lane(op, args),
            Inst::Load { dst, at, mode, valid, fill } => self.load(*dst, at, *mode, *valid, *fill),
            Inst::Store { at, v, valid } => {
                let _ = write!(self.text, "store {}, %{}", self.addr(at), v.0);
                if *valid != self.kernel.ty(*v).lanes() {
                    let _ = write!(self.text, " valid {valid}");
                }
            }
            Inst::For { lo, hi, step, init, body, unroll, .. } => {
                let counter = body.params[0].0;
                let _ = write!(self.text, "for %{counter} = %{}..%{} step {step}", lo.0, hi.0);
                if *unroll != 1 {
                    let _ = write!(self.text, " unroll {unroll}");
                }
                let carried: Vec<String> = body.params[1..]
                    .iter()
                    .zip(init)
                    .map(|(p, v)| format!("%{} = %{}", p.0, v.0))
                    .collect();
                let _ = write!(self.text, " ({}) ", carried.join(", "));
                self.region(body, depth);
            }
            Inst::If { cond, then, els, .. } => {
                let _ = write!(self.text, "if %{} ", cond.0);
                self.region(then, depth);
                self.text.push_str(" else ");
                self.region(els, depth);
            }
            Inst::Barrier => self.text.push_str("barrier"),
        }
    }

    fn lane(&mut self, op: &LaneOp, args: &[Val]) {
        let head = match op {
            LaneOp::Splat => "splat".to_string(),
            LaneOp::Extract(i) => format!("extract {i},"),
            LaneOp::Insert(i) => format!("insert {i},"),
            LaneOp::Slice(i) => format!("slice {i},"),
            LaneOp::Concat => "concat".to_string(),
            LaneOp::Shuffle(lanes) => format!("shuffle {lanes:?},"),
            LaneOp::Bitcast => "bitcast".to_string(),
            LaneOp::Convert => "convert".to_string(),
        };
        let _ = write!(self.text, "{head} {}", vals(args));
    }

    fn load(&mut self, dst: Val, at: &Addr, mode: LoadMode, valid: u16, fill: Option<Lit>) {
        let head = match mode {
            LoadMode::Contig => "load".to_string(),
            LoadMode::Splat => "load.splat".to_string(),
            LoadMode::Gather(idx) => format!("load.gather %{},", idx.0),
        };
        let _ = write!(self.text, "{head} {}", self.addr(at));
        if valid != self.kernel.ty(dst).lanes() {
            let _ = write!(self.text, " valid {valid}");
        }
        if let Some(lit) = fill {
            let _ = write!(self.text, " fill {} {:#x}", lit.dtype, lit.bits);
        }
    }

    fn region(&mut self, region: &Region, depth: usize) {
        self.text.push_str("{\n");
        self.insts(&region.insts, depth + 1);
        let indent = "  ".repeat(depth);
        if !region.yields.is_empty() {
            let _ = writeln!(self.text, "{indent}  yield {}", vals(&region.yields));
        }
        let _ = write!(self.text, "{indent}}}");
    }
}

fn vals(list: &[Val]) -> String {
    list.iter().map(|v| format!("%{}", v.0)).collect::<Vec<_>>().join(", ")
}
