//! Arguments: evaluated at the call, then bound to the parameters of a block.

use std::rc::Rc;

use super::Lowerer;
use super::value::{Val, Word};
use crate::base::codes;
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::Span;
use crate::front::ast::{Arg, Callable, ExprId, ExprKind, Name};

/// Evaluated arguments, in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub(super) struct Args {
    pub positional: Vec<(Val, Span)>,
    pub named: Vec<(Name, Val, Span)>,
}

impl Args {
    /// What `|>` passes stands before the written arguments.
    pub fn piped(value: Val, span: Span, mut rest: Args) -> Args {
        rest.positional.insert(0, (value, span));
        rest
    }

    /// The arguments of an application, then the configuration of the layer.
    pub fn then(mut self, config: &Args) -> Args {
        self.positional.extend(config.positional.iter().cloned());
        self.named.extend(config.named.iter().cloned());
        self
    }

    pub fn poisoned(&self) -> bool {
        self.positional.iter().any(|(v, _)| v.is_poison())
            || self.named.iter().any(|(_, v, _)| v.is_poison())
    }

    pub fn is_constant(&self) -> bool {
        self.named.is_empty()
            && self.positional.iter().all(|(v, _)| v.clone().first().is_constant())
    }
}

impl Lowerer<'_> {
    pub(super) fn args(&mut self, args: &[Arg]) -> Args {
        let mut out = Args::default();
        for arg in args {
            let value = self.arg_value(arg.value);
            let span = self.expr(arg.value).span;
            match &arg.name {
                Some(name) => out.named.push((name.clone(), value, span)),
                None => {
                    if let Some((name, ..)) = out.named.last() {
                        let message = "an argument without a name follows one with a name";
                        let d = Diagnostic::error(codes::SYNTAX, arg.span, message)
                            .label(name.span, "this one has a name");
                        self.report(d);
                    }
                    out.positional.push((value, span));
                }
            }
        }
        out
    }

    /// An argument's value. A name that stands for nothing may be a word that the op knows.
    pub(super) fn arg_value(&mut self, id: ExprId) -> Val {
        if let ExprKind::Name(name) = &self.expr(id).kind {
            let span = self.expr(id).span;
            return self.name_or_word(name, span);
        }
        self.eval(id)
    }

    pub(super) fn name_or_word(&mut self, name: &str, span: Span) -> Val {
        match self.lookup(name) {
            Some(v) => v,
            None => {
                let near = self.near(name);
                Val::Word(Rc::new(Word { text: name.to_string(), span, near }))
            }
        }
    }

    /// Binds arguments to the parameters of a block: one value for each, `None` where a parameter
    /// is absent and has a default. Reports everything that does not fit.
    pub(super) fn bind(
        &mut self,
        callable: &Callable,
        args: &Args,
        span: Span,
    ) -> Option<Vec<Option<(Val, Span)>>> {
        let name = &callable.name.text;
        let mut slots: Vec<Option<(Val, Span)>> = vec![None; callable.params.len()];
        let mut sound = true;
        for (i, (value, at)) in args.positional.iter().enumerate() {
            match slots.get_mut(i) {
                Some(slot) => *slot = Some((value.clone(), *at)),
                None => {
                    let message = format!(
                        "`{name}` takes {} arguments, {} were given",
                        callable.params.len(),
                        args.positional.len()
                    );
                    let d = Diagnostic::error(codes::TOO_MANY_ARGS, *at, message)
                        .help(signature(callable));
                    self.report(d);
                    sound = false;
                    break;
                }
            }
        }
        for (key, value, at) in &args.named {
            let Some(i) = callable.params.iter().position(|p| p.name.text == key.text) else {
                let message = format!("`{name}` has no argument `{}`", key.text);
                let names = callable.params.iter().map(|p| p.name.text.as_str());
                let help = match did_you_mean(&key.text, names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => signature(callable),
                };
                self.report(Diagnostic::error(codes::UNKNOWN_ARG, key.span, message).help(help));
                sound = false;
                continue;
            };
            if slots[i].is_some() {
                let message = format!("the argument `{}` is given twice", key.text);
                self.error(codes::TOO_MANY_ARGS, key.span, message);
                sound = false;
            }
            slots[i] = Some((value.clone(), *at));
        }
        let missing: Vec<&str> = callable
            .params
            .iter()
            .zip(&slots)
            .filter(|(p, slot)| slot.is_none() && p.default.is_none())
            .map(|(p, _)| p.name.text.as_str())
            .collect();
        if !missing.is_empty() {
            let message = format!("`{name}` needs `{}`", missing.join("`, `"));
            let d = Diagnostic::error(codes::MISSING_ARG, span, message).help(signature(callable));
            self.report(d);
            sound = false;
        }
        sound.then_some(slots)
    }
}

/// `conv_bn(x, ch, k, stride = …)`.
fn signature(callable: &Callable) -> String {
    let params: Vec<String> = callable
        .params
        .iter()
        .map(|p| match p.default {
            Some(_) => format!("{} = …", p.name.text),
            None => p.name.text.clone(),
        })
        .collect();
    format!("the arguments are {}({})", callable.name.text, params.join(", "))
}
