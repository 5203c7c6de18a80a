//! Text to syntax tree: drives the grammar (`grammar/dl.pest`) and builds the [`Ast`].
//!
//! In: the text of one file in source form. Out: its tree and every syntax error that could be
//! found: after an error, parsing goes on at the next line that begins with an item's keyword.
//! Depth is bounded by [`lex::outline`], so neither pest nor the builders can exhaust the stack.

mod error;
mod expr;
mod item;
mod literal;

use std::ops::Range;

use pest::Parser;
use pest::iterators::Pair;

use super::ast::{Ast, Expr, ExprId, ExprKind, Name};
use super::lex::{self, Lexer, Outline};
use crate::base::codes;
use crate::base::diag::Diagnostic;
use crate::base::source::{FileId, Span};

pub(crate) use error::{RESERVED, syntax_error};
pub(crate) use literal::unescape;

/// The parser that pest derives from the grammar; its rules are private to the front end.
#[derive(pest_derive::Parser)]
#[grammar = "../grammar/dl.pest"]
pub(crate) struct Grammar;

/// Texts longer than this are refused: spans are 32 bits wide.
pub const MAX_BYTES: usize = 1 << 30;

/// After so many syntax errors in one file the rest is not worth reading.
const MAX_ERRORS: usize = 25;

/// Parses a file in source form. Errors go to `diags`; the tree holds the items that are sound.
pub fn parse(file: FileId, text: &str, diags: &mut Vec<Diagnostic>) -> Ast {
    parse_range(file, text, 0..text.len(), diags)
}

/// Parses the items that stand in a part of a file; places count from the start of the file.
pub(super) fn parse_range(
    file: FileId,
    text: &str,
    range: Range<usize>,
    diags: &mut Vec<Diagnostic>,
) -> Ast {
    let text = &text[..range.end];
    let mut builder = match Builder::new(file, text, range.start) {
        Ok(b) => b,
        Err(d) => {
            diags.push(*d);
            return Ast::new(file);
        }
    };
    let mut at = range.start;
    let mut errors = 0;
    while let Some(next) = Lexer::from(text, at).find(|t| t.kind != lex::Kind::Comment) {
        match Grammar::parse(Rule::item_at, &text[next.start..]) {
            Ok(pairs) => {
                builder.base = next.start;
                at = next.end;
                for pair in pairs {
                    at = next.start + pair.as_span().end();
                    builder.item(pair);
                }
            }
            Err(e) => {
                errors += 1;
                let (place, diagnostic) =
                    syntax_error(file, text, next.start, &e, &builder.outline);
                builder.diags.push(diagnostic);
                let past = if place > next.start { place - 1 } else { place };
                match builder.outline.next_item(past) {
                    Some(p) if errors < MAX_ERRORS => at = p,
                    _ => break,
                }
            }
        }
    }
    diags.append(&mut builder.diags);
    builder.ast
}

/// Builds the tree of one file from pest's pairs.
struct Builder<'t> {
    file: FileId,
    text: &'t str,
    /// Where the text that pest saw begins in the file.
    base: usize,
    outline: Outline,
    ast: Ast,
    diags: Vec<Diagnostic>,
}

impl<'t> Builder<'t> {
    fn new(file: FileId, text: &'t str, start: usize) -> Result<Builder<'t>, Box<Diagnostic>> {
        if text.len() > MAX_BYTES {
            let message = format!("the text is longer than {MAX_BYTES} bytes");
            return Err(Box::new(Diagnostic::error(codes::TOO_LARGE, None, message)));
        }
        let outline = lex::outline(file, text, start..text.len())?;
        Ok(Builder { file, text, base: 0, outline, ast: Ast::new(file), diags: vec![] })
    }

    /// The span of a pair without the white space and comments that pest leaves at its end.
    fn span(&self, pair: &Pair<'_, Rule>) -> Span {
        let (start, end) = (pair.as_span().start() + self.base, pair.as_span().end() + self.base);
        Span::new(self.file, start, self.outline.trim(start, end))
    }

    fn name(&self, pair: &Pair<'_, Rule>) -> Name {
        let span = self.span(pair);
        let text = match pair.as_rule() {
            Rule::string => unescape(pair.as_str()),
            _ => pair.as_str().to_string(),
        };
        Name { text, span }
    }

    fn push(&mut self, kind: ExprKind, span: Span) -> ExprId {
        self.ast.push(Expr { kind, span })
    }

    fn source(&self, span: Span) -> &'t str {
        &self.text[span.start as usize..span.end as usize]
    }
}

#[cfg(test)]
mod tests;
