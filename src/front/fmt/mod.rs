//! `dlc fmt`: the canonical layout of the source form.
//!
//! In: a text without syntax errors. Out: the same tokens and comments under canonical white space:
//! four spaces a level, one statement a line, lines of at most 100 columns where brackets and pipes
//! allow it. What the writer decides stays: a line broken before `|>`, a body on one line, one blank
//! line between statements. Formatting twice changes nothing. Core form is left as it stands: its
//! layout is the printer's.

mod layout;
mod tree;

use std::collections::BTreeSet;

use super::ast::*;
use super::lex::{Kind, Lexer, Token};
use super::parse::parse;
use crate::base::diag::{Diagnostic, Severity};
use crate::base::source::SourceMap;

/// Lays a text out.
///
/// # Errors
/// The syntax errors of the text; what cannot be parsed is not touched. The places are in the one
/// file of the returned map.
pub fn format(name: &str, text: &str) -> Result<String, (SourceMap, Vec<Diagnostic>)> {
    if super::is_core(text) {
        return Ok(text.to_string());
    }
    super::deep(|| {
        let mut sources = SourceMap::default();
        let file = sources.add(name, text);
        let mut diags = vec![];
        let ast = parse(file, text, &mut diags);
        if diags.iter().any(|d| d.severity == Severity::Error) {
            return Err((sources, diags));
        }
        let out = layout::layout(&Source::new(text, &ast));
        // White space is all that may change; anything else would be a bug that must not reach a file.
        let same = meaning(text) == meaning(&out);
        debug_assert!(same, "fmt keeps every token and comment");
        Ok(if same { out } else { text.to_string() })
    })
}

/// The tokens of a text in order, then its comments in order.
pub(super) fn meaning(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (comments, tokens): (Vec<Token>, Vec<Token>) =
        Lexer::new(text).partition(|t| t.kind == Kind::Comment);
    let texts = |v: Vec<Token>| v.into_iter().map(|t| t.text(text)).collect();
    (texts(tokens), texts(comments))
}

/// A comment between two tokens.
#[derive(Clone, Debug)]
struct Comment {
    text: String,
    /// On the line of the token before it.
    same_line: bool,
    blank_before: bool,
}

/// The tokens of a text with what lies between them, and what the tree knows about them.
struct Source<'t> {
    text: &'t str,
    tokens: Vec<Token>,
    /// Before each token, and (last) at the end of the text.
    comments: Vec<Vec<Comment>>,
    newline_before: Vec<bool>,
    blank_before: Vec<bool>,
    /// Where items, statements and entries begin.
    starts: BTreeSet<usize>,
    /// `-` as a sign.
    signs: BTreeSet<usize>,
    /// Words that begin an entry of a `train` block, not a call.
    keywords: BTreeSet<usize>,
}

impl<'t> Source<'t> {
    fn new(text: &'t str, ast: &Ast) -> Source<'t> {
        let mut source = Source {
            text,
            tokens: vec![],
            comments: vec![vec![]],
            newline_before: vec![],
            blank_before: vec![],
            starts: BTreeSet::new(),
            signs: BTreeSet::new(),
            keywords: BTreeSet::new(),
        };
        let mut end = 0;
        for token in Lexer::new(text) {
            let newlines = text[end..token.start].matches('\n').count();
            let gap = source.comments.last_mut().expect("there is always a gap");
            if token.kind == Kind::Comment {
                gap.push(Comment {
                    text: token.text(text).to_string(),
                    same_line: newlines == 0 && gap.is_empty() && !source.tokens.is_empty(),
                    blank_before: newlines > 1,
                });
            } else {
                source.newline_before.push(newlines > 0);
                source.blank_before.push(newlines > 1);
                source.tokens.push(token);
                source.comments.push(vec![]);
            }
            end = token.end;
        }
        let mut walk = Walk { ast, starts: vec![], signs: vec![], keywords: vec![] };
        walk.items();
        source.starts = walk.starts.into_iter().collect();
        source.signs = walk.signs.into_iter().collect();
        source.keywords = walk.keywords.into_iter().collect();
        source
    }

    fn word(&self, i: usize) -> &'t str {
        self.tokens[i].text(self.text)
    }
}

/// Collects from the tree what tokens alone do not show.
struct Walk<'a> {
    ast: &'a Ast,
    starts: Vec<usize>,
    signs: Vec<usize>,
    keywords: Vec<usize>,
}

impl Walk<'_> {
    fn items(&mut self) {
        for item in &self.ast.items {
            let span = match item {
                Item::Model(c) | Item::Block(c) => {
                    for p in &c.params {
                        p.ty.iter().for_each(|t| self.exprs(&t.dims));
                        self.exprs(p.default.as_slice());
                    }
                    self.body(&c.body);
                    c.span
                }
                Item::Import(i) => i.span,
                Item::Weights(w) => {
                    for r in &w.renames {
                        self.starts.push(r.ours.span.start as usize);
                        self.exprs(&[r.theirs]);
                    }
                    w.span
                }
                Item::Train(t) => {
                    self.entries(&t.entries);
                    t.span
                }
                Item::Dim(d) => {
                    if let Some(b) = &d.bounds {
                        self.exprs(&[b.low, b.high]);
                    }
                    d.span
                }
                Item::Const(c) => {
                    self.exprs(&[c.value]);
                    c.span
                }
            };
            self.starts.push(span.start as usize);
        }
    }

    fn entries(&mut self, entries: &[TrainEntry]) {
        for entry in entries {
            let span = match entry {
                TrainEntry::Label { ty, span, .. } => {
                    self.exprs(&ty.dims);
                    *span
                }
                TrainEntry::Setting { name, value } => {
                    self.exprs(&[*value]);
                    self.starts.push(name.span.start as usize);
                    continue;
                }
                TrainEntry::Loss { value, span } | TrainEntry::Optimizer { value, span } => {
                    self.exprs(&[*value]);
                    *span
                }
                TrainEntry::Metrics { values, span } => {
                    self.exprs(values);
                    *span
                }
                TrainEntry::Step { entries, span, .. } => {
                    self.entries(entries);
                    *span
                }
                TrainEntry::Update { span, .. } => *span,
            };
            self.starts.push(span.start as usize);
            self.keywords.push(span.start as usize);
        }
    }

    fn body(&mut self, body: &Body) {
        for stmt in &body.stmts {
            self.starts.push(stmt.span().start as usize);
            match stmt {
                Stmt::Return { values, .. } => self.exprs(values),
                Stmt::Repeat { range, body, .. } => {
                    match range {
                        Range::FromTo { low, high, .. } => self.exprs(&[*low, *high]),
                        Range::List(id) => self.exprs(&[*id]),
                    }
                    self.body(body);
                }
                Stmt::If { value, .. } | Stmt::Layer { value, .. } => self.exprs(&[*value]),
                Stmt::State { ty, init, .. } => {
                    ty.iter().for_each(|t| self.exprs(&t.dims));
                    self.exprs(&[*init]);
                }
                Stmt::Param { ty, init, .. } => {
                    self.exprs(&ty.dims);
                    self.exprs(init.as_slice());
                }
                Stmt::Assign { value, .. } => self.exprs(&[*value]),
            }
        }
        if let Some(id) = body.tail.first() {
            self.starts.push(self.ast.expr(*id).span.start as usize);
        }
        self.exprs(&body.tail);
    }

    fn exprs(&mut self, ids: &[ExprId]) {
        for id in ids {
            self.expr(*id);
        }
    }

    fn expr(&mut self, id: ExprId) {
        match &self.ast.expr(id).kind {
            ExprKind::Int(_)
            | ExprKind::Float(_)
            | ExprKind::Bits(_)
            | ExprKind::Str(_)
            | ExprKind::Bool(_)
            | ExprKind::Name(_)
            | ExprKind::Error => {}
            ExprKind::List(items) => self.exprs(items),
            ExprKind::Paren(inner) => self.expr(*inner),
            ExprKind::Infix { operands, .. } => {
                for o in operands {
                    let signs = o.prefixes.iter().filter(|(op, _)| *op == PrefixOp::Neg);
                    self.signs.extend(signs.map(|(_, s)| s.start as usize));
                    self.expr(o.value);
                }
            }
            ExprKind::Postfix { base, trailers } => {
                self.expr(*base);
                for t in trailers {
                    match t {
                        Trailer::Call { args, .. } => args.iter().for_each(|a| self.expr(a.value)),
                        Trailer::Index { items, .. } => {
                            for item in items {
                                match item {
                                    Slice::At(id) => self.expr(*id),
                                    Slice::Range { low, high, step, .. } => {
                                        for id in [low, high, step].into_iter().flatten() {
                                            self.expr(*id);
                                        }
                                    }
                                    Slice::Ellipsis(_) => {}
                                }
                            }
                        }
                        Trailer::Member { .. } => {}
                    }
                }
            }
            ExprKind::Pipe { parts } => {
                for part in parts {
                    self.expr(part.value);
                    for s in &part.suffixes {
                        match s {
                            Suffix::As { indices, .. } => self.exprs(indices),
                            Suffix::With { .. } => {}
                        }
                    }
                }
            }
            ExprKind::If { arms, otherwise } => {
                for (condition, body) in arms {
                    self.expr(*condition);
                    self.body(body);
                }
                otherwise.iter().for_each(|b| self.body(b));
            }
            ExprKind::Region { args, lambdas, .. } => {
                args.iter().for_each(|a| self.expr(a.value));
                lambdas.iter().for_each(|l| self.body(&l.body));
            }
        }
    }
}

#[cfg(test)]
mod tests;
