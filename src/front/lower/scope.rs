//! Scopes: from the names of stages to the paths of parameters.
//!
//! Every call of a block opens a scope below the caller's. A scope that was not named takes op name
//! and ordinal (`dense`, `dense_1`), but only once it turns out to hold a parameter: stages without
//! parameters do not count.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Lowerer, STD};
use crate::base::codes;
use crate::base::diag::Diagnostic;
use crate::base::source::Span;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct ScopeId(usize);

struct Node {
    parent: Option<ScopeId>,
    /// `None` until a parameter asks for it.
    name: Option<Rc<str>>,
    /// The callee's name, from which an ordinal name is made.
    base: Rc<str>,
    span: Span,
    ordinals: BTreeMap<Rc<str>, u32>,
    /// Named without an index inside `repeat`.
    bare: bool,
    /// Of a layer that has been applied before: its parameters exist.
    again: bool,
}

pub(super) struct Scopes {
    nodes: Vec<Node>,
}

/// What a path is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// A parameter or state, whose stored name the path is.
    Parameter,
    /// The stream of a random op.
    Stream,
}

/// How a stage is named.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    pub name: String,
    pub span: Span,
    pub indexed: bool,
}

impl Scopes {
    pub fn new() -> Scopes {
        Scopes {
            nodes: vec![Node {
                parent: None,
                name: Some("".into()),
                base: "".into(),
                span: Span::new(crate::base::source::FileId(0), 0, 0),
                ordinals: BTreeMap::new(),
                bare: false,
                again: false,
            }],
        }
    }

    pub fn root(&self) -> ScopeId {
        ScopeId(0)
    }

    pub fn open(
        &mut self,
        parent: ScopeId,
        naming: Option<&Naming>,
        base: &str,
        span: Span,
        in_repeat: bool,
    ) -> ScopeId {
        self.nodes.push(Node {
            parent: Some(parent),
            name: naming.map(|n| n.name.as_str().into()),
            base: base.into(),
            span: naming.map_or(span, |n| n.span),
            ordinals: BTreeMap::new(),
            bare: in_repeat && naming.is_some_and(|n| !n.indexed),
            again: false,
        });
        ScopeId(self.nodes.len() - 1)
    }

    /// Opens a layer's scope for one more application.
    pub fn apply(&mut self, id: ScopeId, again: bool) {
        self.nodes[id.0].ordinals.clear();
        self.nodes[id.0].again |= again;
    }

    /// Whether parameters of this scope may exist already.
    pub fn shared(&self, id: ScopeId) -> bool {
        self.chain(id).any(|n| n.again)
    }

    /// The path, unless a scope on the way has no name yet.
    pub fn known_path(&self, id: ScopeId) -> Option<String> {
        let mut names: Vec<&str> = vec![];
        for node in self.chain(id) {
            names.push(node.name.as_deref()?);
        }
        Some(join(names))
    }

    fn chain(&self, id: ScopeId) -> impl Iterator<Item = &Node> {
        let mut at = Some(id);
        std::iter::from_fn(move || {
            let node = &self.nodes[at?.0];
            at = node.parent;
            Some(node)
        })
    }
}

fn join(mut names: Vec<&str>) -> String {
    names.retain(|n| !n.is_empty());
    names.reverse();
    names.join(".")
}

impl Lowerer<'_> {
    /// The path of a scope that holds something: unnamed scopes on the way get their names now.
    pub(super) fn scope_path(&mut self, id: ScopeId, purpose: Purpose) -> String {
        let mut chain = vec![id];
        while let Some(parent) = self.scopes.nodes[chain[chain.len() - 1].0].parent {
            chain.push(parent);
        }
        let mut names: Vec<Rc<str>> = vec![];
        for (i, id) in chain.iter().enumerate() {
            let node = &self.scopes.nodes[id.0];
            if let Some(name) = &node.name {
                names.push(name.clone());
                if node.bare && !node.again && purpose == Purpose::Parameter {
                    let (span, name) = (node.span, name.clone());
                    // The following rounds would find the paths taken.
                    self.scopes.nodes[id.0].again = true;
                    self.report(
                        Diagnostic::error(
                            codes::BARE_AS_IN_REPEAT,
                            span,
                            format!("`{name}` has parameters and is named in a `repeat`"),
                        )
                        .help(format!("number the rounds: `as {name}[i]`")),
                    );
                }
                continue;
            }
            let (base, span) = (node.base.clone(), node.span);
            let parent = chain.get(i + 1).copied().unwrap_or(ScopeId(0));
            let ordinals = &mut self.scopes.nodes[parent.0].ordinals;
            let n = ordinals.entry(base.clone()).or_insert(0);
            let name: Rc<str> = match *n {
                0 => base.clone(),
                n => format!("{base}_{n}").into(),
            };
            *n += 1;
            self.scopes.nodes[id.0].name = Some(name.clone());
            names.push(name.clone());
            let internal = span.file == self.project.file(STD);
            if !internal && purpose == Purpose::Parameter {
                let message = format!("a stage with parameters has no name; they are `{name}.…`");
                self.report(
                    Diagnostic::warning(codes::UNNAMED_STAGE, span, message)
                        .help("name it with `as`, so that stored weights stay valid"),
                );
            }
        }
        join(names.iter().map(|n| &**n).collect())
    }
}
