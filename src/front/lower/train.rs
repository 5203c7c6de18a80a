//! `train` blocks: checked here, run elsewhere.
//!
//! The model is written out in training mode; the entries then see its inputs, outputs and every
//! name given by `as`. The loss must be a scalar, the optimizer a block that takes a parameter and
//! its gradient.

use std::rc::Rc;

use super::args::Args;
use super::call::Applied;
use super::scope::Naming;
use super::value::{Callee, RegionId, TensorVal, Val};
use super::{Lowerer, UnitId};
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::Span;
use crate::base::{DType, TensorType, codes};
use crate::front::ast::*;
use crate::ir::Builder;

const SETTINGS: [&str; 13] = [
    "epochs",
    "batch_size",
    "seed",
    "shuffle",
    "val_split",
    "clip_norm",
    "clip_value",
    "early_stopping",
    "patience",
    "accumulate",
    "weight_decay",
    "lr",
    "log_every",
];

impl<'p> Lowerer<'p> {
    pub(super) fn check_train(&mut self, unit: UnitId, item: usize, train: &'p Train) {
        let callable = self.open_model(unit, item);
        let Some(values) = self.callable_body(callable) else { return };
        for (name, v, _) in values {
            if let Some(name) = name {
                self.frame().vars.entry(name).or_insert(v);
            }
        }
        // Schedules are expressions over these.
        for name in ["step", "epoch"] {
            let v = self.scalar_input(name, DType::F32);
            self.frame().vars.entry(name.into()).or_insert(v);
        }
        let found = self.entries(&train.entries, true);
        if !found.loss && !found.steps {
            let message = format!("the training of `{}` has no loss", train.model.text);
            self.report(
                Diagnostic::error(codes::BAD_TRAIN, train.model.span, message)
                    .help("write `loss cross_entropy(logits, label)`"),
            );
        }
        if !found.optimizer {
            let message = format!("the training of `{}` has no optimizer", train.model.text);
            self.report(
                Diagnostic::error(codes::BAD_TRAIN, train.model.span, message)
                    .help("write `optimizer adam(lr = 0.001)`"),
            );
        }
    }

    fn entries(&mut self, entries: &'p [TrainEntry], outermost: bool) -> Found {
        let mut found = Found::default();
        let losses = entries.iter().filter_map(|e| match e {
            TrainEntry::Loss { span, .. } => Some(*span),
            _ => None,
        });
        if let Some(span) = losses.skip(1).last() {
            self.report(
                Diagnostic::error(codes::BAD_TRAIN, span, "there is a loss already")
                    .help("add losses up in one line"),
            );
        }
        for entry in entries {
            match entry {
                TrainEntry::Label { name, ty, .. } => self.label(name, ty),
                TrainEntry::Setting { name, value } => self.setting(name, *value),
                TrainEntry::Loss { value, span } => {
                    found.loss = true;
                    self.loss(*value, *span);
                }
                TrainEntry::Metrics { values, .. } => {
                    for id in values {
                        let v = self.eval(*id);
                        self.tensor(&v, self.expr(*id).span, None);
                    }
                }
                TrainEntry::Optimizer { value, span } => {
                    found.optimizer = true;
                    self.optimizer(*value, *span);
                }
                TrainEntry::Step { entries, span, .. } => {
                    found.steps = true;
                    if !outermost {
                        self.error(codes::BAD_TRAIN, *span, "a `step` inside a `step`");
                    }
                    let inner = self.entries(entries, false);
                    found.optimizer |= inner.optimizer;
                    if !inner.loss {
                        self.error(codes::BAD_TRAIN, *span, "this step has no loss");
                    }
                }
                TrainEntry::Update { patterns, .. } => {
                    for p in patterns {
                        if !self.any_param(&p.text) {
                            let message = format!("no parameter matches `{}`", p.text);
                            self.error(codes::UNKNOWN_NAME, p.span, message);
                        }
                    }
                }
            }
        }
        found
    }

    fn label(&mut self, name: &Name, ty: &TypeExpr) {
        let mut used = vec![];
        let Some(ty) = self.input_type(ty, &mut used) else {
            self.frame().vars.insert(name.text.clone(), Val::Poison);
            return;
        };
        if let Some(Val::Tensor(t)) = self.top().vars.get(&name.text) {
            let is_input = self.regions[0].graph.inputs.contains(&t.value.node);
            if is_input && *t.ty == ty {
                return;
            }
            let message = format!("`{}` is a name of the model already", name.text);
            self.error(codes::DUPLICATE, name.span, message);
            return;
        }
        let value = self.input(&name.text, ty, name.span);
        self.frame().vars.insert(name.text.clone(), value);
    }

    fn loss(&mut self, value: ExprId, span: Span) {
        let v = self.eval(value);
        let Some(t) = self.tensor(&v, self.expr(value).span, None) else { return };
        if t.ty.rank() != 0 || !t.ty.dtype.is_float() {
            let message = format!("a loss is a float scalar, not {}", t.ty);
            self.report(
                Diagnostic::error(codes::BAD_TRAIN, span, message)
                    .help("average it with `mean(…)`"),
            );
        }
    }

    fn setting(&mut self, name: &Name, value: ExprId) {
        let v = self.arg_value(value);
        if matches!(v, Val::Tensor(_) | Val::Results(_)) {
            // A value that the following entries use.
            self.frame().vars.insert(name.text.clone(), v);
            return;
        }
        if SETTINGS.contains(&name.text.as_str()) {
            let number = matches!(v, Val::Int(_) | Val::Float(_) | Val::Bool(_) | Val::Poison);
            let count = matches!(name.text.as_str(), "epochs" | "batch_size");
            if !number || (count && !matches!(v, Val::Int(1..) | Val::Poison)) {
                let message = format!("`{}` cannot be {}", name.text, v.describe());
                self.error(codes::BAD_TRAIN, self.expr(value).span, message);
            }
            return;
        }
        let message = format!("training has no setting `{}`", name.text);
        let help = match did_you_mean(&name.text, SETTINGS) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the settings are {}", SETTINGS.join(", ")),
        };
        self.report(Diagnostic::error(codes::BAD_TRAIN, name.span, message).help(help));
    }

    /// Tries the optimizer on one parameter and gradient, for the errors in its arguments.
    fn optimizer(&mut self, value: ExprId, span: Span) {
        let (base, args) = match &self.expr(value).kind {
            ExprKind::Name(_) => (value, None),
            ExprKind::Postfix { base, trailers } => match trailers.as_slice() {
                [Trailer::Call { args, .. }] => (*base, Some(args)),
                _ => (*base, None),
            },
            _ => (value, None),
        };
        let at = self.expr(base).span;
        let callee = match &self.expr(base).kind {
            ExprKind::Name(n) => match self.lookup(n) {
                Some(v) => v,
                None => {
                    let mut d = Diagnostic::error(
                        codes::UNKNOWN_CALLEE,
                        at,
                        format!("there is no optimizer `{n}`"),
                    );
                    if let Some(near) = self.near_callee(n) {
                        d = d.help(format!("did you mean `{near}`?"));
                    }
                    self.report(d);
                    return;
                }
            },
            _ => self.eval(base),
        };
        if !matches!(callee, Val::Callee(Callee::Block(..))) {
            if !callee.is_poison() {
                let message = format!("an optimizer is a block, not {}", callee.describe());
                self.report(
                    Diagnostic::error(codes::BAD_TRAIN, at, message)
                        .help("such as `adam(lr = 0.001)`, or a block of your own"),
                );
            }
            return;
        }
        let mut given = Args::default();
        for name in ["parameter", "gradient"] {
            let ty = TensorType::of(DType::F32, &[1]);
            let value = Builder::new(&mut self.regions[0].graph).input(name, ty.clone());
            let t = TensorVal { region: RegionId(0), value, ty: Rc::new(ty) };
            given.positional.push((Val::Tensor(t), span));
        }
        if let Some(args) = args {
            let args = self.args(args);
            given.positional.extend(args.positional);
            given.named.extend(args.named);
        }
        let naming = Naming { name: "optimizer".into(), span, indexed: false };
        let applied = Applied { naming: Some(naming), frozen: false };
        let v = self.call(&callee, given, &applied, span);
        let first = match &v {
            Val::Results(r) => r.values.first().map_or(Val::Poison, |(_, v)| v.clone()),
            _ => v,
        };
        if let Val::Tensor(t) = first.first()
            && *t.ty != TensorType::of(DType::F32, &[1])
        {
            let message = format!("the optimizer makes {} of a parameter f32[1]", t.ty);
            self.error(codes::BAD_TRAIN, span, message);
        }
    }

    fn scalar_input(&mut self, name: &str, dtype: DType) -> Val {
        let ty = TensorType::scalar(dtype);
        let value = Builder::new(&mut self.regions[0].graph).input(name, ty.clone());
        Val::Tensor(TensorVal { region: RegionId(0), value, ty: Rc::new(ty) })
    }
}

#[derive(Default)]
struct Found {
    loss: bool,
    optimizer: bool,
    steps: bool,
}
