//! Instructions as statements.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::group::Group;
use super::{Params, WORKGROUP, expr, is_private, stored_bytes};
use crate::base::DType;
use crate::kernel::ir::{Addr, Buf, Inst, Kernel, LaneOp, LoadMode, Op, Region, Scope, Ty, Val};

/// Terms of a sum that are kept in mind.
const MOST_TERMS: usize = 12;

/// What a kernel is printed as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The whole shader.
    Entry,
    /// A function of the grid point. Its arguments are the elements that would be loaded from parameters,
    /// from `matrix` on; its result is what would be stored in the one behind those, so many elements.
    Part { matrix: u16, takes: &'static [&'static str], lanes: Option<u16> },
}

impl Role {
    /// Of an operand's elements.
    pub fn operand(matrix: u16, lanes: u16) -> Role {
        Role::Part { matrix, takes: &[], lanes: Some(lanes) }
    }

    /// Whether a store to this buffer is the function's result.
    fn returns(self, buf: Buf) -> bool {
        match self {
            Role::Entry | Role::Part { lanes: None, .. } => false,
            Role::Part { matrix, takes, .. } => buf == Buf::Param(matrix + takes.len() as u16),
        }
    }

    /// The argument that a load from this buffer is.
    fn takes(self, buf: Buf) -> Option<&'static str> {
        match (self, buf) {
            (Role::Part { matrix, takes, .. }, Buf::Param(i)) => {
                takes.get(i.checked_sub(matrix)? as usize).copied()
            }
            (Role::Entry, _) | (_, Buf::Scratch(_)) => None,
        }
    }
}

struct Printer<'k> {
    kernel: &'k Kernel,
    bound: &'k Params<'k>,
    role: Role,
    /// Whose invocations compute a grid point together.
    group: Option<Group>,
    /// What each register is called.
    names: Vec<String>,
    out: &'k mut String,
    depth: usize,
    /// Sums of floats: their terms.
    sums: BTreeMap<Val, Vec<Val>>,
    /// Constants that are zero.
    zeros: BTreeSet<Val>,
    /// What was converted to f16.
    rounded: BTreeSet<Val>,
}

/// The entry point.
pub fn function(kernel: &Kernel, bound: &Params, group: Option<Group>, out: &mut String) {
    let points = kernel.grid_points();
    if let Some(group) = group {
        out.push_str(&group.entry(points));
        let mut printer = Printer::new(kernel, bound, Role::Entry, out);
        printer.group = Some(group);
        printer.region(&kernel.body);
        out.push_str("    workgroupBarrier();\n  }\n}\n");
        return;
    }
    let _ = write!(
        out,
        "@compute @workgroup_size({WORKGROUP})\n\
         fn main(@builtin(global_invocation_id) id: vec3<u32>, \
         @builtin(num_workgroups) groups: vec3<u32>) {{\n\
         \x20 let all = groups.x * {WORKGROUP}u;\n\
         \x20 for (var point = id.x; point < {points}u; point += all) {{\n"
    );
    Printer::new(kernel, bound, Role::Entry, out).region(&kernel.body);
    out.push_str("  }\n}\n");
}

/// A function of the grid point, for a template.
pub fn part(kernel: &Kernel, bound: &Params, name: &str, role: Role, out: &mut String) {
    let Role::Part { takes, lanes, .. } = role else { unreachable!("a shader is no part") };
    let more: String = takes.iter().map(|name| format!(", {name}: f32")).collect();
    let result = lanes.map(|n| format!(" -> {}", expr::ty(Ty::of(DType::F32, n))));
    let result = result.unwrap_or_default();
    let _ = writeln!(out, "fn {name}(g0: i32, g1: i32, g2: i32{more}){result} {{");
    Printer::new(kernel, bound, role, out).region(&kernel.body);
    out.push_str("}\n");
}

impl<'k> Printer<'k> {
    fn new(
        kernel: &'k Kernel,
        bound: &'k Params<'k>,
        role: Role,
        out: &'k mut String,
    ) -> Printer<'k> {
        let depth = if role == Role::Entry { 2 } else { 1 };
        let names = (0..kernel.types.len()).map(|i| format!("v{i}")).collect();
        let (sums, zeros, rounded) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Printer { kernel, role, group: None, bound, names, out, depth, sums, zeros, rounded }
    }
}

impl Printer<'_> {
    fn line(&mut self, text: &str) {
        let indent = 2 * self.depth;
        let _ = writeln!(self.out, "{:indent$}{text}", "");
    }

    fn name(&self, v: Val) -> String {
        self.names[v.0 as usize].clone()
    }

    fn names(&self, vals: &[Val]) -> Vec<String> {
        vals.iter().map(|v| self.name(*v)).collect()
    }

    fn define(&mut self, v: Val, value: &str) {
        let text = format!("let {}: {} = {value};", self.name(v), expr::ty(self.kernel.ty(v)));
        self.line(&text);
    }

    fn region(&mut self, region: &Region) {
        for inst in &region.insts {
            self.inst(inst);
        }
    }

    fn inst(&mut self, inst: &Inst) {
        let kernel = self.kernel;
        match inst {
            Inst::Const { dst, value } => {
                if value.dtype.is_float() && value.as_f64() == 0.0 {
                    self.zeros.insert(*dst);
                }
                let text = expr::literal(kernel.ty(*dst), *value);
                self.define(*dst, &text);
            }
            Inst::Grid { dst, axis } if self.role != Role::Entry => {
                self.define(*dst, &format!("g{axis}"));
            }
            Inst::Grid { dst, axis } => {
                let before: u64 = kernel.grid[..*axis as usize].iter().map(|n| *n as u64).product();
                let text = format!("i32(point / {before}u % {}u)", kernel.grid[*axis as usize]);
                self.define(*dst, &text);
            }
            Inst::Local { dst, axis } => {
                let text = match (axis, kernel.local) {
                    (1, [1, _, 1]) => "i32(local)".into(),
                    (0, [x, ..]) => format!("i32(local % {x}u)"),
                    (1, [x, y, _]) => format!("i32(local / {x}u % {y}u)"),
                    (_, [x, y, _]) => format!("i32(local / {}u)", x * y),
                };
                self.define(*dst, &text);
            }
            Inst::Op { dst, op, args } => {
                let of = kernel.ty(args[if args.len() > 1 { 1 } else { 0 }]);
                let names = self.operands(*dst, *op, of, args);
                let text = expr::op(*op, of, &names);
                self.define(*dst, &text);
            }
            Inst::GroupFold { dst, combine, v } => {
                // In a workgroup of one invocation there is nothing to combine.
                let (of, v) = (kernel.ty(*v), self.name(*v));
                let text = self.group.map_or(v.clone(), |g| g.call(*combine, of, &v));
                self.define(*dst, &text);
            }
            Inst::Lane { dst, op, args } => {
                let from: Vec<Ty> = args.iter().map(|v| kernel.ty(*v)).collect();
                if matches!(op, LaneOp::Splat) && self.zeros.contains(&args[0]) {
                    self.zeros.insert(*dst);
                }
                let names = self.converted(*dst, op, args);
                let text = expr::lane(op, kernel.ty(*dst), &from, &names);
                self.define(*dst, &text);
            }
            Inst::Fold { .. } => unreachable!("the legal form has none"),
            Inst::Load { dst, at, mode, .. } => self.load(*dst, at, *mode),
            Inst::Store { at, v, .. } if self.role.returns(at.buf) => {
                let text = format!("return {};", self.name(*v));
                self.line(&text);
            }
            Inst::Store { at, v, .. } if self.in_fours(at.buf) => {
                let text = format!("{} = {};", self.vector(at), self.name(*v));
                self.line(&text);
            }
            Inst::Store { at, v, .. } => {
                let of = kernel.ty(*v);
                let first = self.place(at);
                for lane in 0..of.lanes() {
                    let part = expr::part(&self.name(*v), of, lane);
                    let part = if of == Ty::Mask(1) { format!("u32({part})") } else { part };
                    let text = format!("{}[{first} + {lane}] = {part};", self.buffer(at.buf));
                    self.line(&text);
                }
            }
            // The caches of a GPU are not asked.
            Inst::Prefetch { .. } => {}
            Inst::For { results, lo, hi, step, init, body, .. } => {
                self.carried(results, &body.params[1..], init);
                let counter = self.name(body.params[0]);
                let (lo, hi) = (self.name(*lo), self.name(*hi));
                let text = format!(
                    "for (var {counter}: i32 = {lo}; {counter} < {hi}; {counter} += {step}) {{"
                );
                self.line(&text);
                self.nested(body, results, "next");
                self.line("}");
            }
            Inst::If { results, cond, then, els } => {
                for r in results {
                    let text = format!("var {}: {};", self.name(*r), expr::ty(kernel.ty(*r)));
                    self.line(&text);
                }
                let text = format!("if ({}) {{", self.name(*cond));
                self.line(&text);
                self.nested(then, results, "then");
                if !els.insts.is_empty() || !results.is_empty() {
                    self.line("} else {");
                    self.nested(els, results, "else");
                }
                self.line("}");
            }
            Inst::Barrier => self.line("workgroupBarrier();"),
        }
    }

    /// Names of operands; a number that was rounded to f16 is hidden where it is converted again, since a
    /// compiler that takes real numbers for floats would drop the rounding.
    fn converted(&mut self, dst: Val, op: &LaneOp, args: &[Val]) -> Vec<String> {
        let mut names = self.names(args);
        if *op == LaneOp::Convert {
            if self.rounded.contains(&args[0]) {
                names[0] = expr::kept(self.kernel.ty(args[0]), &names[0]);
            }
            if self.kernel.ty(dst).dtype() == DType::F16 {
                self.rounded.insert(dst);
            }
        }
        names
    }

    /// Names of operands. Some are hidden, since a compiler that takes real numbers for floats would drop
    /// a rounding, or a NaN: a sum from which one of its terms is taken again, or to which it is added;
    /// zero as a factor or divided by something; a value taken from itself.
    fn operands(&mut self, dst: Val, op: Op, of: Ty, args: &[Val]) -> Vec<String> {
        let mut names = self.names(args);
        if !of.dtype().is_float() {
            return names;
        }
        let (factors, terms) = match op {
            Op::Mul => (args, &args[2..]),
            Op::Add | Op::Sub => (&args[..0], args),
            Op::Fma => (&args[..2], &args[2..]),
            Op::Div => (&args[..1], &args[2..]),
            _ => return names,
        };
        for (name, _) in names.iter_mut().zip(factors).filter(|(_, v)| self.zeros.contains(v)) {
            *name = expr::kept(of, name);
        }
        if matches!(op, Op::Sub | Op::Div) && args[0] == args[1] {
            names[0] = expr::kept(of, &names[1]);
        }
        if terms.is_empty() {
            return names;
        }
        if let [a, b] = *terms {
            for (i, (sum, other)) in [(a, b), (b, a)].into_iter().enumerate() {
                if self.sums.get(&sum).is_some_and(|terms| terms.contains(&other)) {
                    names[i] = expr::kept(of, &names[i]);
                }
            }
        }
        // Also what the terms are sums of: a - (b - (b - a)) is a sum of a.
        let mut all = terms.to_vec();
        for term in terms {
            all.extend(self.sums.get(term).into_iter().flatten().take(MOST_TERMS));
        }
        all.truncate(MOST_TERMS);
        self.sums.insert(dst, all);
        names
    }

    /// Variables for the values that a loop carries; its results are what they hold in the end.
    fn carried(&mut self, results: &[Val], params: &[Val], init: &[Val]) {
        for ((r, p), i) in results.iter().zip(params).zip(init) {
            let text = format!(
                "var {}: {} = {};",
                self.name(*r),
                expr::ty(self.kernel.ty(*r)),
                self.name(*i)
            );
            self.line(&text);
            self.names[p.0 as usize] = self.name(*r);
        }
    }

    /// A region whose yields go into variables, all at once.
    fn nested(&mut self, region: &Region, into: &[Val], prefix: &str) {
        self.depth += 1;
        self.region(region);
        let yields = self.names(&region.yields);
        if let ([into], [value]) = (into, &yields[..]) {
            let text = format!("{} = {value};", self.name(*into));
            self.line(&text);
        } else {
            for (into, value) in into.iter().zip(&yields) {
                let text = format!("let {prefix}_{} = {value};", self.name(*into));
                self.line(&text);
            }
            for into in into {
                let text = format!("{0} = {prefix}_{0};", self.name(*into));
                self.line(&text);
            }
        }
        self.depth -= 1;
    }

    fn load(&mut self, dst: Val, at: &Addr, mode: LoadMode) {
        let of = self.kernel.ty(dst);
        if let Some(argument) = self.role.takes(at.buf) {
            return self.define(dst, argument);
        }
        if self.in_fours(at.buf) {
            let vector = self.vector(at);
            return self.define(dst, &vector);
        }
        let (first, buffer) = (self.place(at), self.buffer(at.buf));
        let text = match (mode, of.lanes()) {
            (_, 1) if of == Ty::Mask(1) => format!("{buffer}[{first}] != 0u"),
            (_, 1) => format!("{buffer}[{first}]"),
            (LoadMode::Splat, _) => format!("{}({buffer}[{first}])", expr::ty(of)),
            (LoadMode::Contig, lanes) => {
                let each = |lane| format!("{buffer}[{first} + {lane}]");
                let parts: Vec<String> = (0..lanes).map(each).collect();
                format!("{}({})", expr::ty(of), parts.join(", "))
            }
            (LoadMode::Gather(_), _) => unreachable!("the legal form has none"),
        };
        self.define(dst, &text);
    }

    /// Whether a buffer is an array of vectors.
    fn in_fours(&self, buf: Buf) -> bool {
        matches!(buf, Buf::Param(i) if self.bound.wide.get(i as usize) == Some(&true))
    }

    /// Four elements from an address on, which is a multiple of four.
    fn vector(&self, at: &Addr) -> String {
        format!("{}[({}) >> 2u]", self.buffer(at.buf), self.place(at))
    }

    /// The element at an address, in what is bound.
    fn place(&self, at: &Addr) -> String {
        let base = self.name(at.base);
        let plus = match at.plus {
            0 => String::new(),
            n if n < 0 => format!(" - {}", -n),
            n => format!(" + {n}"),
        };
        match at.buf {
            Buf::Param(i) => {
                let (vector, part) = (i / 4, ["x", "y", "z", "w"][i as usize % 4]);
                format!("bases[{vector}].{part} + {base}{plus}")
            }
            Buf::Scratch(i) => {
                let scratch = &self.kernel.scratch[i as usize];
                let len = scratch.len.max(1);
                let here = scratch.scope == Scope::Shared
                    || is_private(len * stored_bytes(scratch.elem, true));
                match here {
                    true => format!("{base}{plus}"),
                    false => format!("i32(id.x) * {len} + {base}{plus}"),
                }
            }
        }
    }

    fn buffer(&self, buf: Buf) -> String {
        match buf {
            Buf::Param(i) => format!("p{}", self.bound.shared[i as usize]),
            Buf::Scratch(i) => format!("s{i}"),
        }
    }
}
