//! Names: what they stand for where they are read, and what may have been meant.

use super::value::{Callee, Val};
use super::{Lowerer, function};
use crate::base::{Dim, Symbol};
use crate::front::project::{Decl, STD, UnitId};

impl Lowerer<'_> {
    /// What a name stands for where it is read, if it stands for anything.
    pub(super) fn lookup(&mut self, name: &str) -> Option<Val> {
        let mut i = self.frames.len() - 1;
        loop {
            let frame = &self.frames[i];
            if let Some(v) = frame.vars.get(name) {
                return Some(v.clone());
            }
            match frame.outer {
                Some(outer) => i = outer,
                None => break,
            }
        }
        let owner = self.owner();
        if let Some(stage) = self.frames[owner].stages.get(name) {
            return Some(stage.value.clone());
        }
        let unit = self.top().unit;
        if name == "training" {
            return Some(Val::Bool(self.frames[owner].training));
        }
        if let Some(v) = self.declared(unit, name) {
            return Some(v);
        }
        if name == "draw" && unit == STD {
            return Some(self.draw());
        }
        self.global(name)
    }

    /// What the file itself declares under this name.
    pub(super) fn declared(&mut self, unit: UnitId, name: &str) -> Option<Val> {
        let bound = self.symbols.iter().rev().find(|(u, _)| *u == unit);
        if let Some(v) = bound.and_then(|(_, names)| names.get(name)) {
            return Some(v.clone());
        }
        Some(match *self.project.unit(unit).names.get(name)? {
            Decl::Model(i) => Val::Callee(Callee::Model(unit, i)),
            Decl::Block(i) => Val::Callee(Callee::Block(unit, i)),
            Decl::Const(i) => self.constant(unit, i),
            Decl::Dim(_) => Val::Dim(Dim::symbol(Symbol::new(name))),
            Decl::Import(target) => Val::Module(target),
            Decl::Broken => Val::Poison,
        })
    }

    /// What every file sees: the standard library, ops, functions, dtypes, a few numbers.
    pub(super) fn global(&mut self, name: &str) -> Option<Val> {
        if let Some(Decl::Block(i)) = self.project.unit(STD).names.get(name) {
            return Some(Val::Callee(Callee::Block(STD, *i)));
        }
        if let Some(row) = crate::ir::op::find(name).filter(|r| callable_row(r.name)) {
            return Some(Val::Callee(Callee::Op(row)));
        }
        if let Some(f) = function::Function::find(name) {
            return Some(Val::Callee(Callee::Function(f)));
        }
        if let Some(d) = crate::base::DType::parse(name) {
            return Some(Val::DType(d));
        }
        match name {
            "op" => Some(Val::Ops),
            "inf" => Some(Val::Float(f64::INFINITY)),
            "nan" => Some(Val::Float(f64::NAN)),
            "pi" => Some(Val::Float(std::f64::consts::PI)),
            _ if function::is_recipe(name) => Some(Val::Recipe(name.into())),
            _ => None,
        }
    }

    /// Names that can be read here, for "did you mean".
    pub(super) fn near(&self, name: &str) -> Option<String> {
        let mut candidates: Vec<&str> = vec![];
        let mut i = self.frames.len() - 1;
        loop {
            let frame = &self.frames[i];
            candidates.extend(frame.vars.keys().map(String::as_str));
            candidates.extend(frame.stages.keys().map(String::as_str));
            match frame.outer {
                Some(outer) => i = outer,
                None => break,
            }
        }
        candidates.extend(self.project.unit(self.top().unit).names.keys().map(String::as_str));
        crate::base::diag::did_you_mean(name, candidates).map(str::to_string)
    }

    pub(super) fn near_callee(&self, name: &str) -> Option<String> {
        let mut all: Vec<&str> = vec![];
        for unit in [self.top().unit, STD] {
            all.extend(self.project.unit(unit).names.keys().map(String::as_str));
        }
        let layers = self.top().vars.iter().filter(|(_, v)| matches!(v, Val::Layer(_)));
        all.extend(layers.map(|(n, _)| n.as_str()));
        for name in crate::ir::op::table().map(|r| r.name).filter(|n| callable_row(n)) {
            all.push(name);
        }
        for name in function::Function::names() {
            all.push(name);
        }
        crate::base::diag::did_you_mean(name, all).map(str::to_string)
    }
}

/// Rows that a model does not call: what they are has a syntax of its own.
pub(super) fn callable_row(name: &str) -> bool {
    !matches!(name, "input" | "param" | "state" | "constant" | "scan" | "cond" | "do")
}
