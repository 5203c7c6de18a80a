//! Kernels whose grid points are computed by a workgroup each: their entry, and folds across it.
//!
//! A fold writes what each invocation has into memory of the workgroup and combines the upper half of it
//! with the lower one until one element is left. Where the adapter has operations across subgroups, these do
//! the last steps, in which a subgroup holds all that is left: every subgroup does them, so that
//! nothing has to be handed out in the end. Both ways combine the same elements in the same order.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Features, expr};
use crate::ir::scalar::Combine;
use crate::kernel::ir::{Inst, Kernel, Op, Ty};
use crate::kernel::print::combine_name;

/// A kernel with workgroups of its own.
#[derive(Clone, Copy)]
pub struct Group {
    /// Of a workgroup.
    pub invocations: u32,
    /// Those side by side, which folds keep apart.
    across: u32,
    /// Folds end in operations across subgroups.
    subgroups: bool,
}

impl Group {
    /// `None` where invocations run grid points of their own.
    pub fn of(kernel: &Kernel, features: Features) -> Option<Group> {
        let (invocations, across) = (kernel.local.iter().product(), kernel.local[0]);
        let subgroups = features.subgroups && across == 1 && !folds(kernel).is_empty();
        (invocations > 1).then_some(Group { invocations, across, subgroups })
    }

    /// The text up to the body of the loop over so many grid points.
    pub fn entry(self, points: u64) -> String {
        let subgroup = match self.subgroups {
            true => {
                ", @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_size) width: u32"
            }
            false => "",
        };
        format!(
            "@compute @workgroup_size({})\n\
             fn main(@builtin(workgroup_id) id: vec3<u32>, \
             @builtin(num_workgroups) groups: vec3<u32>, \
             @builtin(local_invocation_index) local: u32{subgroup}) {{\n\
             \x20 for (var point = id.x; point < {points}u; point += groups.x) {{\n",
            self.invocations
        )
    }

    /// A fold of a register.
    pub fn call(self, combine: Combine, of: Ty, v: &str) -> String {
        let more = if self.shuffles(of) { ", lane, width" } else { "" };
        format!("{}({v}, local{more})", function(combine, of))
    }

    /// Whether a fold of this type ends in a subgroup.
    fn shuffles(self, of: Ty) -> bool {
        self.subgroups && of.dtype().bytes() <= 4
    }

    /// The functions that [`Group::call`] calls.
    pub fn declare(self, kernel: &Kernel, out: &mut String) {
        let folds = folds(kernel);
        let held: BTreeSet<&str> = folds.iter().map(|(_, of)| held(*of)).collect();
        for held in held {
            let n = self.invocations;
            let _ = writeln!(out, "var<workgroup> group_{held}: array<{held}, {n}>;");
        }
        for (combine, of) in folds {
            self.declare_fold(combine, of, out);
        }
    }

    fn declare_fold(self, combine: Combine, of: Ty, out: &mut String) {
        let (name, kind, held) = (function(combine, of), expr::ty(of), held(of));
        let memory = format!("group_{held}");
        let cast = |to: &str, v: &str| if kind == held { v.into() } else { format!("{to}({v})") };
        let (half, across) = (self.invocations / 2, self.across);
        let (more, least) = match self.shuffles(of) {
            true => (", lane: u32, width: u32", "width".to_string()),
            false => ("", format!("{across}u")),
        };
        let _ = write!(
            out,
            "fn {name}_of(a: {held}, b: {held}) -> {held} {{ return {}; }}\n\
             fn {name}(x: {kind}, local: u32{more}) -> {kind} {{\n\
             \x20 {memory}[local] = {};\n\
             \x20 workgroupBarrier();\n\
             \x20 var n = {half}u;\n\
             \x20 for (; n >= {least}; n /= 2u) {{\n\
             \x20   if (local < n) {{ {memory}[local] = {name}_of({memory}[local], {memory}[local + n]); }}\n\
             \x20   workgroupBarrier();\n\
             \x20 }}\n",
            both(combine, of),
            cast(held, "x"),
        );
        out.push_str(&match self.shuffles(of) {
            true => format!(
                "  var all = {memory}[lane & (2u * n - 1u)];\n\
                 \x20 for (; n > 0u; n /= 2u) {{\n\
                 \x20   let other = subgroupShuffleXor(all, n);\n\
                 \x20   let upper = (lane & n) != 0u;\n\
                 \x20   all = {name}_of(select(all, other, upper), select(other, all, upper));\n\
                 \x20 }}\n"
            ),
            false => format!("  let all = {memory}[local % {across}u];\n"),
        });
        let _ = write!(out, "  workgroupBarrier();\n  return {};\n}}\n", cast(&kind, "all"));
    }
}

/// The folds of a kernel, each once.
fn folds(kernel: &Kernel) -> BTreeSet<(Combine, Ty)> {
    let fold = |inst: &Inst| match inst {
        Inst::GroupFold { combine, v, .. } => Some((*combine, kernel.ty(*v))),
        _ => None,
    };
    kernel.body.insts.iter().filter_map(fold).collect()
}

/// How an element is held in memory.
fn held(of: Ty) -> &'static str {
    expr::element(of.dtype())
}

fn function(combine: Combine, of: Ty) -> String {
    format!("group_{}_{}", combine_name(combine), held(of))
}

/// `a` and `b` combined; masks are 0 or 1.
fn both(combine: Combine, of: Ty) -> String {
    let names = ["a", "b"].map(String::from);
    let op = |op: Op| expr::op(op, of, &names);
    let keeping_nan = |of_two: Op| match of.dtype().is_float() {
        true => {
            let nan = expr::op(Op::Ne, of, &["a", "a"].map(String::from));
            format!("select({}, a, {nan})", op(of_two))
        }
        false => op(of_two),
    };
    match combine {
        Combine::Sum => op(Op::Add),
        Combine::Prod => op(Op::Mul),
        Combine::Max => keeping_nan(Op::Max),
        Combine::Min => keeping_nan(Op::Min),
        Combine::Any => "a | b".into(),
        Combine::All => "a & b".into(),
        Combine::ArgMax | Combine::ArgMin => unreachable!("a fold has no index"),
    }
}
