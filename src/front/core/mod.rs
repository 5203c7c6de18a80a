//! The core form: from the text that `ir/print.rs` writes (and from text by hand) to graphs.
//!
//! `docs/core-form.md` is the contract. In: the text, and the side table of large constants. Out: a
//! graph for each `graph` item, in canonical order, so that printing gives the text back to the
//! byte; or what is wrong, with places. Statements are parsed one at a time. An op is checked by its
//! row, and each written type against the inferred one. A statement that is wrong makes its results
//! unknown, which silences the statements that use them.

mod attr;
mod node;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pest::Parser;
use pest::iterators::Pair;

use super::lex::{self, Kind, Lexer, Outline};
use super::parse::{Grammar, Rule, syntax_error, unescape};
use crate::base::diag::Diagnostic;
use crate::base::source::{FileId, Span};
use crate::base::{Symbol, Tensor, codes};
use crate::ir::graph::DimDecl;
use crate::ir::op::OpError;
use crate::ir::{Builder, Graph, Loc, NodeId, Value};

/// After so many errors the rest of a file is not read.
const MAX_ERRORS: usize = 50;

const PART: &str = "the grammar guarantees this part";

/// Large constants by the hash of their content.
pub type Constants = BTreeMap<String, Tensor>;

/// Whether a text is core form: its first word is `graph`.
pub fn is_core(text: &str) -> bool {
    let first = Lexer::new(text).find(|t| t.kind != Kind::Comment);
    first.is_some_and(|t| t.text(text) == "graph")
}

/// Reads every graph of a text.
pub(crate) fn parse_core(
    file: FileId,
    text: &str,
    constants: &Constants,
    node_limit: usize,
    diags: &mut Vec<Diagnostic>,
) -> Vec<Graph> {
    let outline = match lex::outline(file, text, 0..text.len()) {
        Ok(o) => o,
        Err(d) => {
            diags.push(*d);
            return vec![];
        }
    };
    let mut reader = Reader {
        file,
        text,
        outline,
        constants,
        base: 0,
        nodes: 0,
        node_limit,
        files: HashMap::new(),
        diags: vec![],
    };
    let mut graphs = vec![];
    let mut at = 0;
    while let Some(next) = reader.next_token(at) {
        match reader.graph(next) {
            Ok((graph, end)) => {
                graphs.push(graph);
                at = end;
            }
            Err(Stop::Limit) => break,
            Err(Stop::At(place)) => match reader.outline.next_item(place) {
                Some(p) if reader.diags.len() < MAX_ERRORS => at = p,
                _ => break,
            },
        }
    }
    diags.append(&mut reader.diags);
    graphs
}

/// Why reading a graph ended early; the reason has been reported.
enum Stop {
    /// A syntax error at this place.
    At(usize),
    Limit,
}

/// What a token stands for: a value, or something that was wrong.
type Names<'t> = HashMap<&'t str, Option<Value>>;

struct Reader<'t> {
    file: FileId,
    text: &'t str,
    outline: Outline,
    constants: &'t Constants,
    /// Where the text that pest saw begins.
    base: usize,
    nodes: usize,
    node_limit: usize,
    files: HashMap<String, Arc<str>>,
    diags: Vec<Diagnostic>,
}

impl<'t> Reader<'t> {
    fn next_token(&self, at: usize) -> Option<usize> {
        Lexer::from(self.text, at).find(|t| t.kind != Kind::Comment).map(|t| t.start)
    }

    fn parse(&mut self, rule: Rule, at: usize) -> Result<Pair<'t, Rule>, Stop> {
        self.base = at;
        match Grammar::parse(rule, &self.text[at..]) {
            Ok(mut pairs) => Ok(pairs.next().expect(PART)),
            Err(e) => {
                let (place, d) = syntax_error(self.file, self.text, at, &e, &self.outline);
                self.diags.push(d);
                Err(Stop::At(place))
            }
        }
    }

    /// One graph; the end is behind its closing brace.
    fn graph(&mut self, at: usize) -> Result<(Graph, usize), Stop> {
        let head = self.parse(Rule::graph_head_at, at)?;
        let mut end = self.end(&head);
        let mut inner = head.into_inner().skip(1);
        let mut graph = Graph::new(&name_text(&inner.next().expect(PART)));
        let mut names = Names::new();
        self.inputs(&mut graph, &mut names, inner.next().expect(PART), Own::All);
        let mut nexts: Vec<(Value, Value)> = vec![];
        loop {
            let Some(at) = self.next_token(end) else {
                let last = self.text.len();
                let span = Span::new(self.file, last, last);
                self.error(codes::SYNTAX, span, "expected `}`, found the end of the file");
                return Err(Stop::At(last));
            };
            let stmt = self.parse(Rule::core_stmt_at, at)?;
            end = self.end(&stmt);
            match stmt.as_rule() {
                Rule::core_end => break,
                Rule::core_dim => self.dim(&mut graph, stmt),
                Rule::core_decl => self.declaration(&mut graph, &mut names, stmt),
                Rule::core_next => {
                    let mut parts = stmt.into_inner().filter(|p| is_value(p.as_rule()));
                    let state = self.value(&names, parts.next().expect(PART));
                    let next = self.value(&names, parts.next().expect(PART));
                    nexts.extend(state.zip(next));
                }
                Rule::core_yield => self.yields(&mut graph, &names, stmt),
                _ => self.node(&mut graph, &mut names, stmt)?,
            }
            if self.diags.len() >= MAX_ERRORS {
                return Err(Stop::Limit);
            }
        }
        for (state, next) in nexts {
            self.set_next(&mut graph, state, next, at);
        }
        graph.compact();
        Ok((graph, end))
    }

    fn set_next(&mut self, graph: &mut Graph, state: Value, next: Value, at: usize) {
        let span = Span::new(self.file, at, at + "graph".len());
        let Some(i) = graph.states.iter().position(|s| s.node == state.node) else {
            self.error(codes::CORE, span, "`next` names something that is no state");
            return;
        };
        if graph.ty(state) != graph.ty(next) {
            let message = format!("a state of {} becomes {}", graph.ty(state), graph.ty(next));
            self.error(codes::CORE_TYPE, span, message);
            return;
        }
        graph.states[i].next = next;
    }

    // ---- places and messages --------------------------------------------------------------------

    fn end(&self, pair: &Pair<'_, Rule>) -> usize {
        self.base + pair.as_span().end()
    }

    fn span(&self, pair: &Pair<'_, Rule>) -> Span {
        let start = self.base + pair.as_span().start();
        Span::new(self.file, start, self.outline.trim(start, self.end(pair)))
    }

    fn error(&mut self, code: &'static str, span: Span, message: impl Into<String>) {
        self.diags.push(Diagnostic::error(code, span, message));
    }

    fn op_error(&mut self, e: OpError, span: Span) {
        let mut d = Diagnostic::error(e.code, span, e.message);
        (d.notes, d.help) = (e.notes, e.help);
        self.diags.push(d);
    }

    // ---- header and declarations ----------------------------------------------------------------

    /// Inputs of a graph or region, in the order of the text.
    fn inputs(&mut self, graph: &mut Graph, names: &mut Names<'t>, pair: Pair<'t, Rule>, own: Own) {
        for input in pair.into_inner() {
            let span = self.span(&input);
            let mut inner = input.into_inner();
            let token = inner.next().expect(PART);
            let ty = self.core_type(inner.next().expect(PART));
            let key = token.as_str();
            let Some(ty) = ty else {
                names.insert(key, None);
                continue;
            };
            let name = own_name(key, own);
            let taken = graph.inputs.iter().any(|i| graph.node(*i).op.str("name") == name);
            if taken {
                self.error(codes::CORE, span, format!("two inputs are named `{name}`"));
            }
            let value = Builder::new(graph).input(&name, ty);
            self.nodes += 1;
            self.define(names, token, Some(value));
            self.names_and_place(graph, value.node, inner);
        }
    }

    fn define(&mut self, names: &mut Names<'t>, token: Pair<'t, Rule>, value: Option<Value>) {
        if names.insert(token.as_str(), value).is_some() {
            let span = self.span(&token);
            self.error(codes::CORE, span, format!("`{}` is defined twice", token.as_str()));
        }
    }

    fn dim(&mut self, graph: &mut Graph, pair: Pair<'t, Rule>) {
        let span = self.span(&pair);
        let mut inner = pair.into_inner().filter(|p| p.as_rule() != Rule::kw_dim);
        let name = name_text(&inner.next().expect(PART));
        let mut inner = inner.filter(|p| p.as_rule() != Rule::kw_in);
        let low = inner.next().and_then(|p| attr::integer(p.as_str()));
        let inclusive = inner.next().is_some_and(|p| p.as_str() == "..=");
        let high = inner.next().map(|p| attr::integer(p.as_str()));
        let symbol = Symbol::new(&name);
        if graph.dims.iter().any(|d| d.symbol == symbol) {
            self.error(codes::CORE, span, format!("`{name}` is declared twice"));
            return;
        }
        let high = match high {
            Some(Some(h)) if inclusive => Some(Some(h)),
            Some(Some(h)) => Some(h.checked_sub(1)),
            Some(None) => None,
            None => Some(None),
        };
        match (low, high) {
            (Some(low), Some(high)) if high.is_none_or(|h| h >= low) => {
                graph.dims.push(DimDecl { symbol, low, high });
            }
            _ => self.error(codes::BAD_DIM, span, format!("`{name}` has no such range")),
        }
    }

    fn declaration(&mut self, graph: &mut Graph, names: &mut Names<'t>, pair: Pair<'t, Rule>) {
        let span = self.span(&pair);
        let mut inner = pair.into_inner();
        let is_param = inner.next().expect(PART).as_rule() == Rule::kw_param;
        let token = inner.next().expect(PART);
        let ty = self.core_type(inner.next().expect(PART));
        let init = name_text(&inner.nth(1).expect(PART));
        let Some(ty) = ty else {
            names.insert(token.as_str(), None);
            return;
        };
        let mut inner = inner.peekable();
        let mut frozen = false;
        if let Some(attrs) = inner.next_if(|p| p.as_rule() == Rule::core_attrs) {
            frozen = attrs.as_str().contains("true");
            let only = attrs.clone().into_inner().all(|a| a.as_str().starts_with("frozen"));
            if !is_param || !only {
                self.error(codes::CORE, span, "a param has the attribute `frozen` only");
            }
        }
        let path = own_name(token.as_str(), Own::All);
        let mut builder = Builder::new(graph);
        let value = match is_param {
            true => builder.param(&path, ty, &init, frozen),
            false => builder.state(&path, ty, &init),
        };
        self.nodes += 1;
        self.define(names, token, Some(value));
        self.names_and_place(graph, value.node, inner);
    }

    fn yields(&mut self, graph: &mut Graph, names: &Names<'t>, pair: Pair<'t, Rule>) {
        let outs = pair.into_inner().filter(|p| p.as_rule() == Rule::core_out);
        for (i, out) in outs.enumerate() {
            let span = self.span(&out);
            let mut name = i.to_string();
            let mut value = None;
            for p in out.into_inner() {
                match p.as_rule() {
                    Rule::string | Rule::bare => name = name_text(&p),
                    rule if is_value(rule) => value = self.value(names, p),
                    _ => {}
                }
            }
            if graph.outputs.iter().any(|o| *o.name == *name) {
                self.error(codes::CORE, span, format!("two outputs are named `{name}`"));
                continue;
            }
            if let Some(v) = value {
                Builder::new(graph).output(&name, v);
            }
        }
    }

    fn names_and_place(
        &mut self,
        graph: &mut Graph,
        id: NodeId,
        rest: impl Iterator<Item = Pair<'t, Rule>>,
    ) {
        for p in rest {
            match p.as_rule() {
                Rule::core_names => {
                    for entry in p.into_inner().filter(|p| p.as_rule() == Rule::core_as) {
                        let span = self.span(&entry);
                        let (mut result, mut name) = (0u16, String::new());
                        for part in entry.into_inner() {
                            match part.as_rule() {
                                Rule::result_no => {
                                    result = part.as_str()[1..].parse().unwrap_or(u16::MAX);
                                }
                                _ => name = name_text(&part),
                            }
                        }
                        if result as usize >= graph.node(id).results.len() {
                            self.error(codes::CORE, span, "there is no such result to name");
                            continue;
                        }
                        graph.node_mut(id).names.push((result, name.as_str().into()));
                    }
                }
                Rule::place => {
                    let mut parts = p.into_inner();
                    let file = unescape(parts.next().expect(PART).as_str());
                    let mut number =
                        || parts.next().and_then(|p| p.as_str().parse().ok()).unwrap_or(0);
                    let (line, column) = (number(), number());
                    let file = match self.files.get(&file) {
                        Some(known) => known.clone(),
                        None => {
                            let shared: Arc<str> = file.as_str().into();
                            self.files.insert(file, shared.clone());
                            shared
                        }
                    };
                    graph.node_mut(id).loc = Some(Loc { file, line, column });
                }
                _ => {}
            }
        }
    }
}

/// Which part of an input's token is its own name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    All,
    /// Leading components that are all digits are the owners' numbers.
    WithoutNumbers,
}

fn own_name(token: &str, own: Own) -> String {
    let mut name = &token[1..];
    if own == Own::WithoutNumbers {
        while let Some((head, rest)) = name.split_once('.') {
            if head.is_empty() || !head.bytes().all(|b| b.is_ascii_digit()) {
                break;
            }
            name = rest;
        }
    }
    if name.starts_with('"') { unescape(name) } else { name.to_string() }
}

fn name_text(pair: &Pair<'_, Rule>) -> String {
    match pair.as_rule() {
        Rule::string => unescape(pair.as_str()),
        _ => pair.as_str().to_string(),
    }
}

fn is_value(rule: Rule) -> bool {
    matches!(rule, Rule::value | Rule::path)
}

#[cfg(test)]
mod tests;
