//! A file with everything that it imports, and the names that each file declares.
//!
//! Unit 0 is the standard library, whose blocks have trees of their own; unit 1 is the file that was
//! asked for. Imports are followed by a
//! work list; circles and names declared twice are errors.

use std::collections::BTreeMap;

use super::ast::{Ast, Callable, ConstDecl, DimDecl, Item, Name, Train, Weights};
use super::parse::parse;
use super::standard::{self, Standard};
use crate::base::codes;
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::{FileId, SourceMap, Span};

/// Reads a file of the language; the error is a sentence of the system.
pub type Resolver<'a> = &'a (dyn Fn(&str) -> Result<String, String> + Sync);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct UnitId(pub usize);

pub(crate) const STD: UnitId = UnitId(0);
pub(crate) const ROOT: UnitId = UnitId(1);

/// At most so many files take part.
const MAX_UNITS: usize = 256;

/// What a name of a file stands for; the number is the item's place in the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decl {
    Model(usize),
    Block(usize),
    Const(usize),
    Dim(usize),
    Import(UnitId),
    /// An import that failed; already reported.
    Broken,
}

#[derive(Debug)]
pub(crate) struct Unit {
    pub ast: Ast,
    pub names: BTreeMap<String, Decl>,
}

#[derive(Debug)]
pub(crate) struct Project {
    pub sources: SourceMap,
    pub units: Vec<Unit>,
    standard: Standard,
}

impl Project {
    /// Parses a file and what it imports. Syntax errors and errors of declarations go to `diags`.
    pub fn load(
        name: &str,
        text: &str,
        resolver: Resolver<'_>,
        diags: &mut Vec<Diagnostic>,
    ) -> Project {
        let mut sources = SourceMap::default();
        let file = sources.add("<standard library>", standard::TEXT);
        let (standard, names) = Standard::new(file);
        let units = vec![Unit { ast: Ast::new(file), names }];
        let mut project = Project { sources, units, standard };
        project.add(name, text, diags);
        let mut paths = BTreeMap::from([(normalize(name), ROOT)]);
        let mut edges: Vec<(UnitId, UnitId, Span)> = vec![];
        let mut next = ROOT.0;
        while next < project.units.len() {
            project.imports(UnitId(next), resolver, &mut paths, &mut edges, diags);
            next += 1;
        }
        report_circles(&project, &edges, diags);
        for unit in ROOT.0..project.units.len() {
            project.check_clauses(UnitId(unit), diags);
        }
        project
    }

    fn add(&mut self, name: &str, text: &str, diags: &mut Vec<Diagnostic>) -> UnitId {
        let file = self.sources.add(name, text);
        let ast = parse(file, text, diags);
        let names = declare(&ast, diags);
        self.units.push(Unit { ast, names });
        UnitId(self.units.len() - 1)
    }

    pub fn unit(&self, id: UnitId) -> &Unit {
        &self.units[id.0]
    }

    pub fn file(&self, id: UnitId) -> FileId {
        self.unit(id).ast.file
    }

    fn imports(
        &mut self,
        unit: UnitId,
        resolver: Resolver<'_>,
        paths: &mut BTreeMap<String, UnitId>,
        edges: &mut Vec<(UnitId, UnitId, Span)>,
        diags: &mut Vec<Diagnostic>,
    ) {
        let importer = self.sources.file(self.file(unit)).name.clone();
        let wanted: Vec<(String, Span, String)> = self
            .unit(unit)
            .ast
            .items
            .iter()
            .filter_map(|i| match i {
                Item::Import(i) => Some((i.path.clone(), i.path_span, i.name.text.clone())),
                _ => None,
            })
            .collect();
        for (path, span, alias) in wanted {
            let full = relative_to(&importer, &path);
            let key = normalize(&full);
            let target = match paths.get(&key) {
                Some(known) => Some(*known),
                None if self.units.len() >= MAX_UNITS => {
                    let message = format!("more than {MAX_UNITS} files take part");
                    diags.push(Diagnostic::error(codes::IMPORT_FAILED, span, message));
                    None
                }
                None => match resolver(&full) {
                    Ok(text) => {
                        let id = self.add(&full, &text, diags);
                        paths.insert(key, id);
                        Some(id)
                    }
                    Err(why) => {
                        let message = format!("cannot read `{full}`: {why}");
                        diags.push(
                            Diagnostic::error(codes::IMPORT_FAILED, span, message)
                                .help("paths are relative to the file that imports"),
                        );
                        None
                    }
                },
            };
            if let Some(target) = target {
                edges.push((unit, target, span));
            }
            let decl = target.map_or(Decl::Broken, Decl::Import);
            let names = &mut self.units[unit.0].names;
            if names.get(&alias) == Some(&Decl::Broken) {
                names.insert(alias, decl);
            }
        }
    }

    /// `weights` and `train` name models of their own file, each once.
    fn check_clauses(&self, unit: UnitId, diags: &mut Vec<Diagnostic>) {
        let u = self.unit(unit);
        let mut seen: BTreeMap<(&str, &str), Span> = BTreeMap::new();
        for item in &u.ast.items {
            let (what, model) = match item {
                Item::Weights(w) => ("weights", &w.model),
                Item::Train(t) => ("train", &t.model),
                _ => continue,
            };
            if !matches!(u.names.get(&model.text), Some(Decl::Model(_))) {
                let models = self.models(unit).map(|m| m.name.text.as_str());
                let mut d = Diagnostic::error(
                    codes::UNKNOWN_MODEL,
                    model.span,
                    format!("there is no model `{}` in this file", model.text),
                );
                if let Some(near) = did_you_mean(&model.text, models) {
                    d = d.help(format!("did you mean `{near}`?"));
                }
                diags.push(d);
            } else if let Some(first) = seen.insert((what, &model.text), model.span) {
                let message = format!("`{}` has two `{what}` clauses", model.text);
                diags.push(
                    Diagnostic::error(codes::DUPLICATE, model.span, message)
                        .label(first, "the first is here"),
                );
            }
        }
    }

    pub fn models(&self, unit: UnitId) -> impl Iterator<Item = &Callable> {
        self.unit(unit).ast.items.iter().filter_map(|i| match i {
            Item::Model(m) => Some(m),
            _ => None,
        })
    }

    /// A block or model, and the tree that it is part of.
    pub fn callable(&self, unit: UnitId, item: usize) -> (&Callable, &Ast) {
        let (ast, item) = match unit {
            STD => (self.standard.block(item), 0),
            _ => (&self.unit(unit).ast, item),
        };
        match &ast.items[item] {
            Item::Model(c) | Item::Block(c) => (c, ast),
            other => unreachable!("a declaration points at its item: {other:?}"),
        }
    }

    pub fn constant(&self, unit: UnitId, item: usize) -> &ConstDecl {
        match &self.unit(unit).ast.items[item] {
            Item::Const(c) => c,
            other => unreachable!("a declaration points at its item: {other:?}"),
        }
    }

    pub fn dims(&self, unit: UnitId) -> impl Iterator<Item = &DimDecl> {
        self.unit(unit).ast.items.iter().filter_map(|i| match i {
            Item::Dim(d) => Some(d),
            _ => None,
        })
    }

    pub fn weights(&self, unit: UnitId, model: &str) -> Option<&Weights> {
        self.unit(unit).ast.items.iter().find_map(|i| match i {
            Item::Weights(w) if w.model.text == model => Some(w),
            _ => None,
        })
    }

    pub fn train(&self, unit: UnitId, model: &str) -> Option<&Train> {
        self.unit(unit).ast.items.iter().find_map(|i| match i {
            Item::Train(t) if t.model.text == model => Some(t),
            _ => None,
        })
    }
}

fn declare(ast: &Ast, diags: &mut Vec<Diagnostic>) -> BTreeMap<String, Decl> {
    let mut names = BTreeMap::new();
    let mut places: BTreeMap<String, Span> = BTreeMap::new();
    for (i, item) in ast.items.iter().enumerate() {
        let (name, decl): (&Name, Decl) = match item {
            Item::Model(c) => (&c.name, Decl::Model(i)),
            Item::Block(c) => (&c.name, Decl::Block(i)),
            Item::Const(c) => (&c.name, Decl::Const(i)),
            Item::Dim(d) => (&d.name, Decl::Dim(i)),
            Item::Import(p) => (&p.name, Decl::Broken),
            Item::Weights(_) | Item::Train(_) => continue,
        };
        if let Some(first) = places.insert(name.text.clone(), name.span) {
            let message = format!("`{}` is declared twice", name.text);
            diags.push(
                Diagnostic::error(codes::DUPLICATE, name.span, message)
                    .label(first, "the first is here"),
            );
            continue;
        }
        names.insert(name.text.clone(), decl);
        if let Item::Model(c) | Item::Block(c) = item {
            let mut params: BTreeMap<&str, Span> = BTreeMap::new();
            for p in &c.params {
                if let Some(first) = params.insert(&p.name.text, p.name.span) {
                    let message = format!("the parameter `{}` is declared twice", p.name.text);
                    diags.push(
                        Diagnostic::error(codes::DUPLICATE, p.name.span, message)
                            .label(first, "the first is here"),
                    );
                }
            }
        }
    }
    names
}

/// Depth-first search with a stack of its own; each circle is reported at the import that closes it.
fn report_circles(
    project: &Project,
    edges: &[(UnitId, UnitId, Span)],
    diags: &mut Vec<Diagnostic>,
) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let name = |u: UnitId| project.sources.file(project.file(u)).name.clone();
    let mut marks = vec![Mark::New; project.units.len()];
    let mut stack = vec![(ROOT, 0)];
    marks[ROOT.0] = Mark::Open;
    while let Some((unit, k)) = stack.pop() {
        let Some((_, to, span)) = edges.iter().filter(|e| e.0 == unit).nth(k).copied() else {
            marks[unit.0] = Mark::Done;
            continue;
        };
        stack.push((unit, k + 1));
        match marks[to.0] {
            Mark::New => {
                marks[to.0] = Mark::Open;
                stack.push((to, 0));
            }
            Mark::Open => {
                let from = stack.iter().position(|(u, _)| *u == to).unwrap_or(0);
                let circle: Vec<String> =
                    stack[from..].iter().map(|(u, _)| name(*u)).chain([name(to)]).collect();
                let message = format!("imports run in a circle: {}", circle.join(" → "));
                diags.push(
                    Diagnostic::error(codes::IMPORT_CYCLE, span, message)
                        .help("move what both files need into a third"),
                );
            }
            Mark::Done => {}
        }
    }
}

/// The path as seen from where the importing file's path starts.
pub(crate) fn relative_to(importer: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_string();
    }
    match importer.rfind('/') {
        Some(at) => format!("{}/{path}", &importer[..at]),
        None => path.to_string(),
    }
}

/// `a/./b/../c` as `a/c`, so that one file is one unit.
fn normalize(path: &str) -> String {
    let mut parts: Vec<&str> = vec![];
    for part in path.split('/') {
        match part {
            "." => {}
            ".." if parts.last().is_some_and(|p| *p != ".." && !p.is_empty()) => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}
