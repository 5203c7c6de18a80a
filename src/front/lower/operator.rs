//! Operators: precedence over flat chains, and what each does at compile time or as an op.

use super::value::Val;
use super::{Lowerer, compute};
use crate::base::codes;
use crate::base::diag::Diagnostic;
use crate::base::source::Span;
use crate::front::ast::*;

impl<'p> Lowerer<'p> {
    /// Operator precedence with two stacks; the right side of a decided `and` or `or` is skipped.
    pub(super) fn infix(&mut self, operands: &'p [Operand], ops: &'p [(InfixOp, Span)]) -> Val {
        let mut values: Vec<(Val, Span)> = vec![];
        let mut pending: Vec<(Pending, Span)> = vec![];
        let mut skip: Option<InfixOp> = None;
        for (i, operand) in operands.iter().enumerate() {
            if let Some(op) = i.checked_sub(1).map(|k| ops[k]) {
                if skip.is_some_and(|s| op.0.strength() >= s.strength()) {
                    continue;
                }
                skip = None;
                self.reduce(&mut values, &mut pending, Some(op));
                let decided = matches!(
                    (op.0, values.last()),
                    (InfixOp::And, Some((Val::Bool(false), _)))
                        | (InfixOp::Or, Some((Val::Bool(true), _)))
                );
                if decided {
                    skip = Some(op.0);
                    continue;
                }
                pending.push((Pending::Infix(op.0), op.1));
            }
            for (op, span) in &operand.prefixes {
                pending.push((Pending::Prefix(*op), *span));
            }
            let span = self.expr(operand.value).span;
            // Beside `==` a name that stands for nothing may be a word: `reduce == none`.
            let compared = |k: usize| matches!(ops.get(k), Some((InfixOp::Eq | InfixOp::Ne, _)));
            let word = compared(i) || i.checked_sub(1).is_some_and(compared);
            let value = match word {
                true => self.arg_value(operand.value),
                false => self.eval(operand.value),
            };
            values.push((value.first(), span));
        }
        self.reduce(&mut values, &mut pending, None);
        values.pop().map_or(Val::Poison, |(v, _)| v)
    }

    /// Applies what binds tighter than `next` (everything, at the end).
    fn reduce(
        &mut self,
        values: &mut Vec<(Val, Span)>,
        pending: &mut Vec<(Pending, Span)>,
        next: Option<(InfixOp, Span)>,
    ) {
        while let Some((top, at)) = pending.last().copied() {
            let strength = match top {
                Pending::Infix(op) => op.strength(),
                Pending::Prefix(_) => InfixOp::PREFIX_STRENGTH,
            };
            if let Some((op, _)) = next {
                let from_the_right = op == InfixOp::Pow;
                if strength < op.strength() || (strength == op.strength() && from_the_right) {
                    return;
                }
            }
            pending.pop();
            let Some((right, right_span)) = values.pop() else { return };
            match top {
                Pending::Prefix(op) => {
                    let span = at.to(right_span);
                    let v = self.apply_prefix(op, right, right_span, span);
                    values.push((v, span));
                }
                Pending::Infix(op) => {
                    let Some((left, left_span)) = values.pop() else { return };
                    let span = left_span.to(right_span);
                    let chained =
                        next.is_some_and(|(n, _)| n.is_comparison()) && op.is_comparison();
                    let v = if chained {
                        let message = "comparisons do not chain";
                        self.report(
                            Diagnostic::error(codes::CHAINED, span, message)
                                .help("write `a < b and b < c`"),
                        );
                        Val::Poison
                    } else {
                        self.apply_infix(op, (left, left_span), (right, right_span), span)
                    };
                    values.push((v, span));
                }
            }
        }
    }

    fn apply_prefix(&mut self, op: PrefixOp, v: Val, at: Span, span: Span) -> Val {
        match v {
            Val::Poison => Val::Poison,
            Val::Word(w) => {
                self.unknown_name(&w.text, w.span, w.near.clone());
                Val::Poison
            }
            v if v.is_constant() => match compute::prefix(op, &v) {
                Ok(v) => v,
                Err(t) => self.trouble(t, span),
            },
            v => {
                let names: &[&str] = match op {
                    PrefixOp::Neg => &["neg"],
                    PrefixOp::Not => &["logical_not", "not"],
                };
                self.operator(names, vec![(v, at)], span)
            }
        }
    }

    fn apply_infix(&mut self, op: InfixOp, a: (Val, Span), b: (Val, Span), span: Span) -> Val {
        if a.0.is_poison() || b.0.is_poison() {
            return Val::Poison;
        }
        if !matches!(op, InfixOp::Eq | InfixOp::Ne) {
            for v in [&a.0, &b.0] {
                if let Val::Word(w) = v {
                    self.unknown_name(&w.text, w.span, w.near.clone());
                    return Val::Poison;
                }
            }
        }
        // `memory == none` asks whether a tensor was given at all.
        let none = |v: &Val| matches!(v, Val::Word(w) if w.text == "none");
        if none(&a.0) != none(&b.0) && matches!(op, InfixOp::Eq | InfixOp::Ne) {
            return Val::Bool(op == InfixOp::Ne);
        }
        let words = compute::text(&a.0).is_some() && compute::text(&b.0).is_some();
        if words || (a.0.is_constant() && b.0.is_constant()) {
            let size = |v: &Val| if let Val::List(items) = v { items.len() as u64 } else { 0 };
            if !self.step(size(&a.0) + size(&b.0), span) {
                return Val::Poison;
            }
            return match compute::infix(op, &a.0, &b.0) {
                Ok(v) => v,
                Err(t) => self.trouble(t, span),
            };
        }
        let names: &[&str] = match op {
            InfixOp::Or => &["logical_or", "or"],
            InfixOp::And => &["logical_and", "and"],
            InfixOp::Eq => &["eq", "equal"],
            InfixOp::Ne => &["ne", "not_equal"],
            InfixOp::Lt => &["lt", "less"],
            InfixOp::Le => &["le", "less_equal"],
            InfixOp::Gt => &["gt", "greater"],
            InfixOp::Ge => &["ge", "greater_equal"],
            InfixOp::Add => &["add"],
            InfixOp::Sub => &["sub"],
            InfixOp::Mul => &["mul"],
            InfixOp::Div => return self.divide(a, b, span),
            InfixOp::MatMul => &["matmul"],
            InfixOp::Pow => &["pow"],
        };
        self.operator(names, vec![a, b], span)
    }
}

#[derive(Clone, Copy)]
enum Pending {
    Prefix(PrefixOp),
    Infix(InfixOp),
}
