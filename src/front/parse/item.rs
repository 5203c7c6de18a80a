//! Items and statements.

use pest::iterators::Pair;

use super::{Builder, Rule, unescape};
use crate::front::ast::*;

impl Builder<'_> {
    pub(super) fn item(&mut self, pair: Pair<'_, Rule>) {
        let span = self.span(&pair);
        let rule = pair.as_rule();
        // Keywords carry no meaning once the rule is known.
        let mut inner = pair.into_inner().filter(|p| !is_keyword(p.as_rule()));
        let mut next = || inner.next().expect("the grammar guarantees this part");
        let item = match rule {
            Rule::model | Rule::block => {
                let name = self.name(&next());
                let params = self.params(next());
                let body = self.body(next());
                let callable = Callable { name, params, body, span };
                if rule == Rule::model { Item::Model(callable) } else { Item::Block(callable) }
            }
            Rule::import => {
                let path = next();
                let (text, path_span) = (unescape(path.as_str()), self.span(&path));
                Item::Import(Import { path: text, path_span, name: self.name(&next()), span })
            }
            Rule::dim => {
                let name = self.name(&next());
                let bounds = inner.next().map(|low| {
                    let low = self.infix(low);
                    let inclusive = inner.next().is_some_and(|p| p.as_str() == "..=");
                    let high = inner.next().expect("a range has an end");
                    DimBounds { low, high: self.infix(high), inclusive }
                });
                Item::Dim(DimDecl { name, bounds, span })
            }
            Rule::constant => {
                let name = self.name(&next());
                next();
                Item::Const(ConstDecl { name, value: self.pipe(next()), span })
            }
            Rule::weights => {
                let model = self.name(&next());
                let file = next();
                let (text, file_span) = (unescape(file.as_str()), self.span(&file));
                let renames = inner.next().map_or(vec![], |table| {
                    table.into_inner().map(|line| self.rename(line)).collect()
                });
                Item::Weights(Weights { model, file: text, file_span, renames, span })
            }
            Rule::train => {
                let model = self.name(&next());
                let entries = self.train_body(next());
                Item::Train(Train { model, entries, span })
            }
            // `item_at` yields nothing else (besides the end of input).
            _ => return,
        };
        self.ast.items.push(item);
    }

    fn rename(&mut self, pair: Pair<'_, Rule>) -> Rename {
        let mut inner = pair.into_inner();
        let ours = self.name(&inner.next().expect("a rename has a left side"));
        let theirs = inner.nth(1).expect("a rename has a right side");
        Rename { ours, theirs: self.pipe(theirs) }
    }

    fn train_body(&mut self, pair: Pair<'_, Rule>) -> Vec<TrainEntry> {
        pair.into_inner().map(|p| self.train_entry(p)).collect()
    }

    fn train_entry(&mut self, pair: Pair<'_, Rule>) -> TrainEntry {
        let span = self.span(&pair);
        let rule = pair.as_rule();
        let mut inner = pair
            .into_inner()
            .filter(|p| !is_keyword(p.as_rule()) && !matches!(p.as_rule(), Rule::eq | Rule::colon))
            .peekable();
        let part = "the grammar guarantees this part";
        match rule {
            Rule::setting => {
                let name = self.name(&inner.next().expect(part));
                TrainEntry::Setting { name, value: self.pipe(inner.next().expect(part)) }
            }
            Rule::label => {
                let name = self.name(&inner.next().expect(part));
                TrainEntry::Label { name, ty: self.type_(inner.next().expect(part)), span }
            }
            Rule::loss => TrainEntry::Loss { value: self.pipe(inner.next().expect(part)), span },
            Rule::metrics => {
                TrainEntry::Metrics { values: inner.map(|p| self.pipe(p)).collect(), span }
            }
            Rule::optimizer => {
                TrainEntry::Optimizer { value: self.pipe(inner.next().expect(part)), span }
            }
            Rule::train_step => {
                let name = inner.next_if(|p| p.as_rule() == Rule::name).map(|p| self.name(&p));
                let entries = self.train_body(inner.next().expect(part));
                TrainEntry::Step { name, entries, span }
            }
            _ => TrainEntry::Update { patterns: inner.map(|p| self.name(&p)).collect(), span },
        }
    }

    fn params(&mut self, pair: Pair<'_, Rule>) -> Vec<ParamDecl> {
        pair.into_inner().map(|p| self.param_decl(p)).collect()
    }

    fn param_decl(&mut self, pair: Pair<'_, Rule>) -> ParamDecl {
        let mut inner = pair.into_inner();
        let name = self.name(&inner.next().expect("a parameter has a name"));
        let (mut ty, mut default) = (None, None);
        for p in inner {
            match p.as_rule() {
                Rule::type_ => ty = Some(self.type_(p)),
                Rule::pipe => default = Some(self.pipe(p)),
                _ => {}
            }
        }
        ParamDecl { name, ty, default }
    }

    pub(super) fn type_(&mut self, pair: Pair<'_, Rule>) -> TypeExpr {
        let span = self.span(&pair);
        let mut inner = pair.into_inner().peekable();
        let dtype = self.name(&inner.next().expect("a type has a dtype"));
        let member = inner.next_if(|p| p.as_rule() == Rule::name).map(|p| self.name(&p));
        TypeExpr { dtype, member, dims: inner.map(|p| self.pipe(p)).collect(), span }
    }

    pub(super) fn body(&mut self, pair: Pair<'_, Rule>) -> Body {
        let span = self.span(&pair);
        let (mut stmts, mut tail) = (vec![], vec![]);
        for p in pair.into_inner() {
            match p.as_rule() {
                Rule::tail => tail = p.into_inner().map(|e| self.pipe(e)).collect(),
                Rule::header => {}
                _ => stmts.push(self.stmt(p)),
            }
        }
        Body { stmts, tail, span }
    }

    fn stmt(&mut self, pair: Pair<'_, Rule>) -> Stmt {
        let span = self.span(&pair);
        let rule = pair.as_rule();
        if rule == Rule::if_ {
            return Stmt::If { value: self.if_(pair), span };
        }
        let mut inner = pair
            .into_inner()
            .filter(|p| !is_keyword(p.as_rule()) && p.as_rule() != Rule::colon)
            .peekable();
        let part = "the grammar guarantees this part";
        match rule {
            Rule::return_ => Stmt::Return { values: inner.map(|p| self.pipe(p)).collect(), span },
            Rule::repeat => {
                let var = self.name(&inner.next().expect(part));
                let range = self.range(inner.next().expect(part));
                let body = self.body(inner.next().expect(part));
                Stmt::Repeat { var, range, body, span }
            }
            Rule::layer => {
                let name = self.name(&inner.next().expect(part));
                inner.next();
                Stmt::Layer { name, value: self.pipe(inner.next().expect(part)), span }
            }
            Rule::state => {
                let name = self.name(&inner.next().expect(part));
                let ty = inner.next_if(|p| p.as_rule() == Rule::type_).map(|p| self.type_(p));
                inner.next();
                Stmt::State { name, ty, init: self.pipe(inner.next().expect(part)), span }
            }
            Rule::param => {
                let name = self.name(&inner.next().expect(part));
                let ty = self.type_(inner.next().expect(part));
                let init = inner.nth(1).map(|p| self.pipe(p));
                Stmt::Param { name, ty, init, span }
            }
            _ => {
                let mut targets = vec![];
                while let Some(p) = inner.next_if(|p| p.as_rule() == Rule::name) {
                    targets.push(self.name(&p));
                }
                let update = inner.next().is_some_and(|p| p.as_rule() == Rule::update);
                let value = self.pipe(inner.next().expect(part));
                Stmt::Assign { targets, update, value, span }
            }
        }
    }

    fn range(&mut self, pair: Pair<'_, Rule>) -> Range {
        let mut inner = pair.into_inner();
        let low = self.pipe(inner.next().expect("a range has a start"));
        match (inner.next(), inner.next()) {
            (Some(to), Some(high)) => {
                Range::FromTo { low, high: self.pipe(high), inclusive: to.as_str() == "..=" }
            }
            _ => Range::List(low),
        }
    }
}

/// The keyword rules, all of which begin with `kw_` in the grammar.
pub(super) fn is_keyword(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::kw_if
            | Rule::kw_else
            | Rule::kw_repeat
            | Rule::kw_return
            | Rule::kw_as
            | Rule::kw_with
            | Rule::kw_in
            | Rule::kw_model
            | Rule::kw_block
            | Rule::kw_graph
            | Rule::kw_weights
            | Rule::kw_train
            | Rule::kw_import
            | Rule::kw_dim
            | Rule::kw_const
            | Rule::kw_from
            | Rule::kw_layer
            | Rule::kw_state
            | Rule::kw_param
            | Rule::kw_label
            | Rule::kw_loss
            | Rule::kw_metrics
            | Rule::kw_optimizer
            | Rule::kw_step
            | Rule::kw_update
            | Rule::kw_do
            | Rule::kw_yield
    )
}
