//! Indexing: lists at compile time, tensors by slices.
//!
//! `x[i]` drops an axis, `x[a:b:s]` keeps it, `...` stands for all axes between. An index that is
//! itself a tensor takes one slice at run time.

use super::Lowerer;
use super::args::Args;
use super::call::Applied;
use super::value::{TensorVal, Val};
use crate::base::diag::Diagnostic;
use crate::base::source::Span;
use crate::base::{Dim, codes};
use crate::front::ast::{ExprId, Name, Slice};

/// One axis of an index.
enum At {
    /// The axis stays; `None` ends are the axis' own.
    Range {
        low: Option<i64>,
        high: Option<i64>,
        step: i64,
    },
    One(i64),
    Tensor(Val, Span),
}

impl Lowerer<'_> {
    pub(super) fn index(&mut self, value: Val, items: &[Slice], span: Span) -> Val {
        match value.first() {
            Val::Poison => Val::Poison,
            Val::List(list) => self.index_list(&list, items, span),
            Val::Tensor(t) => self.index_tensor(t, items, span),
            other if self.unknown_word(&other) => Val::Poison,
            other => {
                let message = format!("{} has no elements to pick", other.describe());
                self.error(codes::WRONG_KIND, span, message);
                Val::Poison
            }
        }
    }

    fn index_list(&mut self, list: &[Val], items: &[Slice], span: Span) -> Val {
        let [item] = items else {
            self.error(codes::INDEX_RANGE, span, "a list takes one index");
            return Val::Poison;
        };
        let n = list.len() as i64;
        match item {
            Slice::At(id) => {
                let Some(i) = self.integer(*id, "an index") else { return Val::Poison };
                let at = if i < 0 { i.checked_add(n) } else { Some(i) };
                match at.and_then(|i| usize::try_from(i).ok()).and_then(|i| list.get(i)) {
                    Some(v) => v.clone(),
                    None => {
                        let message = format!("index {i} is out of range: the list has {n} items");
                        self.error(codes::INDEX_RANGE, self.expr(*id).span, message);
                        Val::Poison
                    }
                }
            }
            Slice::Range { low, high, step, .. } => {
                let (Some(low), Some(high), Some(step)) =
                    (self.bound_of(*low), self.bound_of(*high), self.bound_of(*step))
                else {
                    return Val::Poison;
                };
                let step = step.unwrap_or(1);
                if step == 0 {
                    self.error(codes::INDEX_RANGE, span, "a step of 0");
                    return Val::Poison;
                }
                if !self.step(list.len() as u64, span) {
                    return Val::Poison;
                }
                let (first, last) = if step > 0 { (0, n) } else { (-1, n - 1) };
                let clamp =
                    |v: i64| (if v < 0 { v.saturating_add(n) } else { v }).clamp(first, last);
                let default = if step > 0 { (0, n) } else { (n - 1, -1) };
                let (mut i, end) = (low.map_or(default.0, clamp), high.map_or(default.1, clamp));
                let mut out = vec![];
                while (step > 0 && i < end) || (step < 0 && i > end) {
                    if let Some(v) = usize::try_from(i).ok().and_then(|i| list.get(i)) {
                        out.push(v.clone());
                    }
                    i = i.saturating_add(step);
                }
                Val::list(out)
            }
            Slice::Ellipsis(_) => Val::list(list.to_vec()),
        }
    }

    /// `Some(None)` where the bound is absent, `None` where it is wrong (reported).
    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    fn bound_of(&mut self, id: Option<ExprId>) -> Option<Option<i64>> {
        match id {
            None => Some(None),
            Some(id) => self.integer(id, "a bound of a slice").map(Some),
        }
    }

    fn index_tensor(&mut self, t: TensorVal, items: &[Slice], span: Span) -> Val {
        let Some(axes) = self.axes(&t, items, span) else { return Val::Poison };
        let mut value = Val::Tensor(t.clone());
        // Slices first, all in one op; then run-time indices; then the axes that go.
        let (mut starts, mut ends, mut steps, mut which) = (vec![], vec![], vec![], vec![]);
        let mut gone = vec![];
        for (axis, at) in axes.iter().enumerate() {
            match at {
                At::Range { low: None, high: None, step: 1 } => {}
                At::Range { low, high, step } => {
                    let (first, last) =
                        if *step > 0 { (0, i64::MAX) } else { (i64::MAX, i64::MIN) };
                    starts.push(low.unwrap_or(first));
                    ends.push(high.unwrap_or(last));
                    steps.push(*step);
                    which.push(axis as i64);
                }
                At::One(i) => {
                    starts.push(*i);
                    ends.push(if *i == -1 { i64::MAX } else { i + 1 });
                    steps.push(1);
                    which.push(axis as i64);
                    gone.push(axis as i64);
                }
                At::Tensor(..) => gone.push(axis as i64),
            }
        }
        if !which.is_empty() {
            let mut named = vec![("starts", starts), ("ends", ends), ("axes", which)];
            if steps.iter().any(|s| *s != 1) {
                named.push(("steps", steps));
            }
            value = self.call_with(&["slice"], vec![value], ints(named), span);
        }
        for (axis, at) in axes.into_iter().enumerate() {
            if let At::Tensor(index, at) = at {
                let axis_arg = vec![("size", Val::Int(1)), ("axis", Val::Int(axis as i64))];
                let index = self.at_least_scalar(index, at);
                value = self.call_with(&["dynamic_slice"], vec![value, index], axis_arg, span);
            }
        }
        if !gone.is_empty() {
            value = self.call_with(&["squeeze"], vec![value], ints(vec![("axis", gone)]), span);
        }
        value
    }

    /// What each axis of a tensor is indexed with.
    fn axes(&mut self, t: &TensorVal, items: &[Slice], span: Span) -> Option<Vec<At>> {
        let rank = t.ty.rank();
        let given = items.iter().filter(|i| !matches!(i, Slice::Ellipsis(_))).count();
        let dots = items.len() - given;
        if given > rank || dots > 1 {
            let message = format!("{given} indices for {}, which has {rank} axes", t.ty);
            self.error(codes::INDEX_RANGE, span, message);
            return None;
        }
        let whole = || At::Range { low: None, high: None, step: 1 };
        let mut axes = vec![];
        for item in items {
            match item {
                Slice::Ellipsis(_) => axes.extend((given..rank).map(|_| whole())),
                Slice::Range { low, high, step, span } => {
                    let (low, high, step) =
                        (self.bound_of(*low)?, self.bound_of(*high)?, self.bound_of(*step)?);
                    if step == Some(0) {
                        self.error(codes::INDEX_RANGE, *span, "a step of 0");
                        return None;
                    }
                    axes.push(At::Range { low, high, step: step.unwrap_or(1) });
                }
                Slice::At(id) => {
                    let at = self.expr(*id).span;
                    match self.eval(*id).first() {
                        Val::Poison => return None,
                        Val::Tensor(i) => axes.push(At::Tensor(Val::Tensor(i), at)),
                        Val::Int(i) => {
                            let extent = &t.ty.shape.dims()[axes.len()];
                            let n = extent.as_const().unwrap_or(i64::MAX);
                            if i >= n || i < -n {
                                let message =
                                    format!("index {i} is out of range: the axis has {extent}");
                                self.report(
                                    Diagnostic::error(codes::INDEX_RANGE, at, message)
                                        .note(format!("the tensor is {}", t.ty)),
                                );
                                return None;
                            }
                            axes.push(At::One(i));
                        }
                        other if self.unknown_word(&other) => return None,
                        other => {
                            let message = format!(
                                "an index is an integer or a tensor, not {}",
                                other.describe()
                            );
                            self.error(codes::INDEX_RANGE, at, message);
                            return None;
                        }
                    }
                }
            }
        }
        axes.extend((axes.len()..rank).map(|_| whole()));
        Some(axes)
    }

    /// A run-time index must be a scalar.
    fn at_least_scalar(&mut self, index: Val, span: Span) -> Val {
        match &index {
            Val::Tensor(t) if t.ty.rank() != 0 => {
                let message = format!("an index at run time is a scalar, not {}", t.ty);
                self.report(
                    Diagnostic::error(codes::SHAPE, span, message)
                        .help("to pick many rows use `gather` or `embedding`"),
                );
                Val::Poison
            }
            _ => index,
        }
    }

    /// A call of an op by the compiler itself.
    pub(super) fn call_with(
        &mut self,
        names: &[&str],
        operands: Vec<Val>,
        attrs: Vec<(&str, Val)>,
        span: Span,
    ) -> Val {
        let Some(row) = names.iter().find_map(|n| crate::ir::op::find(n)) else {
            let message = format!("there is no op `{}`", names[0]);
            self.error(codes::UNKNOWN_CALLEE, span, message);
            return Val::Poison;
        };
        let args = Args {
            positional: operands.into_iter().map(|v| (v, span)).collect(),
            named: attrs
                .into_iter()
                .map(|(n, v)| (Name { text: n.to_string(), span }, v, span))
                .collect(),
        };
        self.call_op(row, &args, &Applied::default(), span).first()
    }

    /// Axes of a tensor in another order.
    pub(super) fn permuted(&mut self, v: Val, perm: &[usize], span: Span) -> Val {
        if perm.iter().enumerate().all(|(i, p)| i == *p) {
            return v;
        }
        let perm = perm.iter().map(|p| *p as i64).collect();
        self.call_with(&["transpose"], vec![v], ints(vec![("perm", perm)]), span)
    }
}

fn ints(named: Vec<(&str, Vec<i64>)>) -> Vec<(&str, Val)> {
    named.into_iter().map(|(n, v)| (n, Val::list(v.into_iter().map(Val::Int).collect()))).collect()
}

/// The permutation that brings an axis to the front, and its inverse.
pub(super) fn to_front(rank: usize, axis: usize) -> (Vec<usize>, Vec<usize>) {
    let forth: Vec<usize> = std::iter::once(axis).chain((0..rank).filter(|a| *a != axis)).collect();
    let mut back = vec![0; rank];
    for (to, from) in forth.iter().enumerate() {
        back[*from] = to;
    }
    (forth, back)
}

/// Whether an axis exists, and which it is counted from the front.
pub(super) fn axis_of(axis: i64, dims: &[Dim]) -> Option<usize> {
    let rank = dims.len() as i64;
    let at = if axis < 0 { axis.checked_add(rank)? } else { axis };
    usize::try_from(at).ok().filter(|a| *a < dims.len())
}
