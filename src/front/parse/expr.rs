//! Expressions: pest's pairs to flat chains in the arena.

use pest::iterators::Pair;

use super::item::is_keyword;
use super::literal::{Number, number};
use super::{Builder, Rule, unescape};
use crate::base::codes;
use crate::base::diag::Diagnostic;
use crate::front::ast::*;

const PART: &str = "the grammar guarantees this part";

impl Builder<'_> {
    pub(super) fn pipe(&mut self, pair: Pair<'_, Rule>) -> ExprId {
        let span = self.span(&pair);
        let mut parts: Vec<Part> = vec![];
        for p in pair.into_inner() {
            match p.as_rule() {
                Rule::infix => parts.push(Part { value: self.infix(p), suffixes: vec![] }),
                Rule::postfix => parts.push(Part { value: self.postfix(p), suffixes: vec![] }),
                _ => {
                    let suffix = self.suffix(p);
                    parts.last_mut().expect(PART).suffixes.push(suffix);
                }
            }
        }
        match parts.as_slice() {
            [Part { value, suffixes }] if suffixes.is_empty() => *value,
            _ => self.push(ExprKind::Pipe { parts }, span),
        }
    }

    fn suffix(&mut self, pair: Pair<'_, Rule>) -> Suffix {
        let span = self.span(&pair);
        let rule = pair.as_rule();
        let mut inner = pair.into_inner().filter(|p| !is_keyword(p.as_rule()));
        let name = self.name(&inner.next().expect(PART));
        match rule {
            Rule::as_ => Suffix::As { name, indices: inner.map(|p| self.pipe(p)).collect(), span },
            _ => Suffix::With { name, span },
        }
    }

    pub(super) fn infix(&mut self, pair: Pair<'_, Rule>) -> ExprId {
        let span = self.span(&pair);
        let (mut operands, mut ops, mut prefixes) = (vec![], vec![], vec![]);
        for p in pair.into_inner() {
            let at = self.span(&p);
            match p.as_rule() {
                Rule::prefix => {
                    let op = if p.as_str() == "-" { PrefixOp::Neg } else { PrefixOp::Not };
                    prefixes.push((op, at));
                }
                Rule::infix_op => ops.push((infix_op(p.as_str()), at)),
                _ => {
                    let value = self.postfix(p);
                    operands.push(Operand { prefixes: std::mem::take(&mut prefixes), value });
                }
            }
        }
        match operands.as_slice() {
            [Operand { prefixes, value }] if prefixes.is_empty() => *value,
            _ => self.push(ExprKind::Infix { operands, ops }, span),
        }
    }

    pub(super) fn postfix(&mut self, pair: Pair<'_, Rule>) -> ExprId {
        let span = self.span(&pair);
        let mut inner = pair.into_inner();
        let base = self.primary(inner.next().expect(PART));
        let trailers: Vec<Trailer> = inner.map(|p| self.trailer(p)).collect();
        match trailers.is_empty() {
            true => base,
            false => self.push(ExprKind::Postfix { base, trailers }, span),
        }
    }

    fn trailer(&mut self, pair: Pair<'_, Rule>) -> Trailer {
        let span = self.span(&pair);
        match pair.as_rule() {
            Rule::args => Trailer::Call { args: self.args(pair), span },
            Rule::index => {
                Trailer::Index { items: pair.into_inner().map(|p| self.slice(p)).collect(), span }
            }
            _ => Trailer::Member { name: self.name(&pair.into_inner().next().expect(PART)) },
        }
    }

    fn args(&mut self, pair: Pair<'_, Rule>) -> Vec<Arg> {
        pair.into_inner().map(|p| self.arg(p)).collect()
    }

    /// `name = value` is parsed as an expression first; what stands left of `=` must be a name.
    fn arg(&mut self, pair: Pair<'_, Rule>) -> Arg {
        let span = self.span(&pair);
        let mut inner = pair.into_inner();
        let first = self.pipe(inner.next().expect(PART));
        let Some(second) = inner.nth(1) else {
            return Arg { name: None, value: first, span };
        };
        let left = self.ast.expr(first).span;
        let name = match &self.ast.expr(first).kind {
            ExprKind::Name(n) => Some(Name { text: n.clone(), span: left }),
            _ => {
                let message = format!("`{}` is not the name of an argument", self.source(left));
                self.diags.push(
                    Diagnostic::error(codes::SYNTAX, left, message)
                        .help("an argument is `value` or `name = value`; to compare, write `==`"),
                );
                None
            }
        };
        Arg { name, value: self.pipe(second), span }
    }

    fn slice(&mut self, pair: Pair<'_, Rule>) -> Slice {
        let span = self.span(&pair);
        let (mut parts, mut at, mut colons) = ([None, None, None], 0, false);
        for p in pair.into_inner() {
            match p.as_rule() {
                Rule::ellipsis => return Slice::Ellipsis(span),
                Rule::colon => (at, colons) = (at + 1, true),
                _ => parts[at] = Some(self.pipe(p)),
            }
        }
        match parts {
            [Some(e), None, None] if !colons => Slice::At(e),
            [low, high, step] => Slice::Range { low, high, step, span },
        }
    }

    fn primary(&mut self, pair: Pair<'_, Rule>) -> ExprId {
        let span = self.span(&pair);
        let kind = match pair.as_rule() {
            Rule::number => match number(pair.as_str()) {
                Number::Int(v) => ExprKind::Int(v),
                Number::Float(v) => ExprKind::Float(v),
                Number::Bits(v) => ExprKind::Bits(v),
                Number::TooLarge => {
                    let message = format!("the number `{}` is too large", self.source(span));
                    self.diags.push(
                        Diagnostic::error(codes::NUMBER_RANGE, span, message)
                            .help("integers go up to 2^63 - 1; for infinity, write `inf`"),
                    );
                    ExprKind::Error
                }
            },
            Rule::string => ExprKind::Str(unescape(pair.as_str())),
            Rule::boolean => ExprKind::Bool(pair.as_str() == "true"),
            Rule::name => ExprKind::Name(pair.as_str().to_string()),
            Rule::list => ExprKind::List(pair.into_inner().map(|p| self.pipe(p)).collect()),
            Rule::paren => ExprKind::Paren(self.pipe(pair.into_inner().next().expect(PART))),
            Rule::if_ => return self.if_(pair),
            _ => self.region_call(pair),
        };
        self.push(kind, span)
    }

    pub(super) fn if_(&mut self, pair: Pair<'_, Rule>) -> ExprId {
        let span = self.span(&pair);
        let mut inner = pair.into_inner().filter(|p| !is_keyword(p.as_rule()));
        let (mut arms, mut otherwise) = (vec![], None);
        while let Some(p) = inner.next() {
            match p.as_rule() {
                Rule::pipe => {
                    let condition = self.pipe(p);
                    let body = self.body(inner.next().expect(PART));
                    arms.push((condition, body));
                }
                _ => otherwise = Some(self.body(p)),
            }
        }
        self.push(ExprKind::If { arms, otherwise }, span)
    }

    fn region_call(&mut self, pair: Pair<'_, Rule>) -> ExprKind {
        let mut kind = RegionKind::Scan;
        let (mut args, mut lambdas) = (vec![], vec![]);
        for p in pair.into_inner() {
            match p.as_rule() {
                Rule::region_kw if p.as_str() == "cond" => kind = RegionKind::Cond,
                Rule::args => args = self.args(p),
                Rule::lambda => lambdas.push(self.lambda(p)),
                _ => {}
            }
        }
        ExprKind::Region { kind, args, lambdas }
    }

    fn lambda(&mut self, pair: Pair<'_, Rule>) -> Lambda {
        let header = pair
            .clone()
            .into_inner()
            .find(|p| p.as_rule() == Rule::header)
            .map(|h| h.into_inner().map(|p| self.name(&p)).collect());
        Lambda { header, body: self.body(pair) }
    }
}

fn infix_op(symbol: &str) -> InfixOp {
    match symbol {
        "or" => InfixOp::Or,
        "and" => InfixOp::And,
        "==" => InfixOp::Eq,
        "!=" => InfixOp::Ne,
        "<" => InfixOp::Lt,
        "<=" => InfixOp::Le,
        ">" => InfixOp::Gt,
        ">=" => InfixOp::Ge,
        "+" => InfixOp::Add,
        "-" => InfixOp::Sub,
        "*" => InfixOp::Mul,
        "/" => InfixOp::Div,
        "@" => InfixOp::MatMul,
        _ => InfixOp::Pow,
    }
}
