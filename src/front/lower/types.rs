//! Types as they are written: dtypes, and dimensions with their symbols.

use std::collections::BTreeMap;

use super::Lowerer;
use super::value::Val;
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::Span;
use crate::base::{DType, Dim, Shape, Symbol, TensorType, codes};
use crate::front::ast::{ExprId, ExprKind, TypeExpr};
use crate::front::project::{Decl, UnitId};
use crate::ir::graph::DimDecl;

impl Lowerer<'_> {
    /// The type of a model's input: names that stand for nothing yet become open dimensions.
    pub(super) fn input_type(
        &mut self,
        ty: &TypeExpr,
        used: &mut Vec<Symbol>,
    ) -> Option<TensorType> {
        for id in &ty.dims {
            self.declare_symbols(*id);
        }
        let ty = self.type_of(ty)?;
        for d in ty.shape.dims() {
            d.symbols(used);
        }
        Some(ty)
    }

    /// Names in the dimensions of an input are symbols, unless they stand for something already.
    fn declare_symbols(&mut self, id: ExprId) {
        let mut work = vec![id];
        while let Some(id) = work.pop() {
            match &self.expr(id).kind {
                ExprKind::Name(name) if self.symbol_is_new(name) => {
                    let value = Val::Dim(Dim::symbol(Symbol::new(name)));
                    self.frame().vars.insert(name.clone(), value);
                }
                ExprKind::Infix { operands, .. } => work.extend(operands.iter().map(|o| o.value)),
                ExprKind::Paren(inner) => work.push(*inner),
                _ => {}
            }
        }
    }

    fn symbol_is_new(&mut self, name: &str) -> bool {
        let unit = self.top().unit;
        !self.top().vars.contains_key(name) && self.declared(unit, name).is_none()
    }

    /// A written type whose names all stand for something.
    pub(super) fn type_of(&mut self, ty: &TypeExpr) -> Option<TensorType> {
        let dtype = self.dtype_of(ty);
        let dims: Vec<Option<Dim>> = ty.dims.iter().map(|d| self.dim_of(*d)).collect();
        let dims: Option<Vec<Dim>> = dims.into_iter().collect();
        let ty_ = TensorType::new(dtype?, Shape(dims?));
        self.countable(&ty_, ty.span).then_some(ty_)
    }

    fn dtype_of(&mut self, ty: &TypeExpr) -> Option<DType> {
        let name = &ty.dtype;
        if let Some(member) = &ty.member {
            let base = match self.lookup(&name.text) {
                Some(v) => v,
                None => {
                    let near = self.near(&name.text);
                    self.unknown_name(&name.text, name.span, near);
                    return None;
                }
            };
            return match self.member(&base, member) {
                Val::DType(d) => Some(d),
                Val::Poison => None,
                other => {
                    let message = format!("a dtype is needed here, not {}", other.describe());
                    self.error(codes::WRONG_KIND, member.span, message);
                    None
                }
            };
        }
        match (DType::parse(&name.text), self.lookup(&name.text)) {
            (_, Some(Val::DType(d))) | (Some(d), _) => Some(d),
            (None, Some(Val::Poison)) => None,
            (None, _) => {
                let message = format!("`{}` is not a dtype", name.text);
                let all = DType::ALL.map(DType::name);
                let help = match did_you_mean(&name.text, all) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the dtypes are {}", all.join(", ")),
                };
                self.report(Diagnostic::error(codes::DTYPE, name.span, message).help(help));
                None
            }
        }
    }

    fn dim_of(&mut self, id: ExprId) -> Option<Dim> {
        let span = self.expr(id).span;
        match self.eval(id).first() {
            Val::Int(v) if v >= 0 => Some(Dim::Const(v)),
            Val::Int(v) => {
                self.error(codes::BAD_DIM, span, format!("a dimension cannot be {v}"));
                None
            }
            Val::Dim(d) => Some(d),
            Val::Poison => None,
            other if self.unknown_word(&other) => None,
            other => {
                let message =
                    format!("a dimension is an integer or a symbol, not {}", other.describe());
                self.error(codes::BAD_DIM, span, message);
                None
            }
        }
    }

    /// Whether the elements of a type can be counted and its bytes addressed.
    pub(super) fn countable(&mut self, ty: &TensorType, span: Span) -> bool {
        let known = ty.shape.dims().iter().filter_map(Dim::as_const);
        let bytes =
            known.filter(|d| *d != 0).try_fold(ty.dtype.bytes() as i64, |n, d| n.checked_mul(d));
        if bytes.is_some() {
            return true;
        }
        let message = format!("the size of {ty} overflows 64 bits");
        self.error(codes::OVERFLOW, span, message);
        false
    }

    /// Enters the symbols of the graph into its list, with the bounds that `dim` gives them.
    pub(super) fn declare_dims(&mut self, unit: UnitId, used: &[Symbol]) {
        for symbol in used {
            if self.regions[0].graph.dims.iter().any(|d| d.symbol == *symbol) {
                continue;
            }
            let (low, high) = self.dim_bounds(unit, &symbol.0);
            let decl = DimDecl { symbol: symbol.clone(), low, high };
            self.regions[0].graph.dims.push(decl);
        }
    }

    /// The bounds of a symbol, both inclusive; without a `dim`, from 0 without an end.
    pub(super) fn dim_bounds(&mut self, unit: UnitId, name: &str) -> (i64, Option<i64>) {
        let Some(Decl::Dim(_)) = self.project.unit(unit).names.get(name) else {
            return (0, None);
        };
        let project = self.project;
        let Some(bounds) =
            project.dims(unit).find(|d| d.name.text == name).and_then(|d| d.bounds.as_ref())
        else {
            return (0, None);
        };
        let frame = self.constant_frame(unit);
        self.frames.push(frame);
        let (low, high) = (self.bound(bounds.low), self.bound(bounds.high));
        let span = self.expr(bounds.low).span.to(self.expr(bounds.high).span);
        let high = if bounds.inclusive { high } else { high.and_then(|h| h.checked_sub(1)) };
        if let (Some(low), Some(high)) = (low, high)
            && (low < 0 || high < low)
        {
            let message = format!("`{name}` cannot run from {low} to {high}");
            self.report(
                Diagnostic::error(codes::BAD_DIM, span, message)
                    .help("bounds are not negative, the lower first: `dim n in 1..=64`"),
            );
        }
        self.frames.pop();
        (low.unwrap_or(0).max(0), high)
    }

    fn bound(&mut self, id: ExprId) -> Option<i64> {
        let span = self.expr(id).span;
        match self.eval(id) {
            Val::Int(v) => Some(v),
            Val::Poison => None,
            other => {
                let message = format!("a bound is an integer, not {}", other.describe());
                self.error(codes::BAD_DIM, span, message);
                None
            }
        }
    }

    pub(super) fn check_dims(&mut self, unit: UnitId) {
        let names: Vec<String> = self.project.dims(unit).map(|d| d.name.text.clone()).collect();
        for name in names {
            self.dim_bounds(unit, &name);
        }
    }

    /// Matches an argument of a model that is called inside another with the declared type:
    /// plain symbols take the argument's extents. Returns `false` where they clash (reported).
    pub(super) fn unify_input(
        &mut self,
        ty: &TypeExpr,
        given: &TensorType,
        unit: UnitId,
        bound: &mut BTreeMap<String, Val>,
        span: Span,
    ) -> bool {
        // The callee's: its frame has just been opened.
        let ast = self.top().ast;
        let rank_fits = ty.dims.len() == given.rank();
        for (id, extent) in ty.dims.iter().zip(given.shape.dims()) {
            if let ExprKind::Name(name) = &ast.expr(*id).kind {
                let known = self.project.unit(unit).names.get(name);
                if matches!(known, None | Some(Decl::Dim(_))) && rank_fits {
                    bound.entry(name.clone()).or_insert_with(|| Val::dim(extent.clone()));
                }
            }
        }
        let mut frame = self.constant_frame(unit);
        frame.ast = ast;
        frame.vars = bound.clone();
        self.frames.push(frame);
        let declared = self.type_of(ty);
        self.frames.pop();
        let Some(declared) = declared else { return false };
        if rank_fits && declared == *given {
            return true;
        }
        let code = if declared.dtype == given.dtype { codes::SHAPE } else { codes::DTYPE };
        let message = format!("the model takes {declared} here, not {given}");
        self.report(Diagnostic::error(code, span, message).label(ty.span, "declared here"));
        false
    }
}
