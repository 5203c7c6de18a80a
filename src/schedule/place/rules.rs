//! What was asked for: one of the queues, the cost model, or a file.
//!
//! A file has a line `PATTERN QUEUE` for each wish. A pattern is the name of a value as `inspect graph`
//! prints it (`%7`, `%7#1`, or what stands behind `as` or `yield`), or `op:` and the name of an op;
//! `*` stands for any text. An op with parameters has their layer's name as well: what reads
//! `$stem.conv.weight` is called `stem.conv`. What follows `#` at the begin of a line or behind a blank is a comment.
//! The last line that names a node wins; nodes that no line names are up to the cost model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::QUEUES;
use crate::base::codes;
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::{FileId, SourceMap, Span};
use crate::ir::graph::{Graph, NodeId};
use crate::ir::op::{Class, Source};
use crate::schedule::program::Queue;

#[derive(Clone, Debug)]
pub enum Rule {
    /// The cost model.
    Auto,
    All(Queue),
    File(Rules),
}

/// A file of queues.
#[derive(Clone, Debug)]
pub struct Rules {
    name: Arc<str>,
    text: Arc<str>,
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    pattern: String,
    queue: Queue,
    span: Span,
}

impl Rules {
    /// Reads a file. All lines that are wrong are said at once; places are in [`Rules::sources`] of the
    /// same name and text.
    pub fn parse(name: &str, text: &str) -> Result<Rules, Vec<Diagnostic>> {
        let (mut lines, mut wrong, mut start) = (vec![], vec![], 0);
        for line in text.split_inclusive('\n') {
            match parse_line(line, start) {
                Ok(found) => lines.extend(found),
                Err(d) => wrong.push(*d),
            }
            start += line.len();
        }
        match wrong.is_empty() {
            true => Ok(Rules { name: name.into(), text: text.into(), lines }),
            false => Err(wrong),
        }
    }

    /// The file's text, for messages.
    pub fn sources(&self) -> SourceMap {
        rule_sources(&self.name, &self.text)
    }

    /// For each node that is named, the last line that does so, and its queue. Patterns that name
    /// nothing are errors.
    pub fn of(&self, graph: &Graph) -> Result<BTreeMap<NodeId, (usize, Queue)>, Vec<Diagnostic>> {
        let names = names(graph);
        let (mut found, mut wrong) = (BTreeMap::new(), vec![]);
        for (i, line) in self.lines.iter().enumerate() {
            let named =
                names.iter().filter(|(_, names)| names.iter().any(|n| fits(&line.pattern, n)));
            let mut any = false;
            for (id, _) in named {
                any = true;
                found.insert(*id, (i, line.queue));
            }
            if !any {
                wrong.push(names_nothing(line, &names));
            }
        }
        if wrong.is_empty() { Ok(found) } else { Err(wrong) }
    }
}

/// The text of a file of queues, for messages.
pub fn rule_sources(name: &str, text: &str) -> SourceMap {
    let mut sources = SourceMap::default();
    sources.add(name, text);
    sources
}

/// Nothing where a line is blank.
fn parse_line(line: &str, start: usize) -> Result<Option<Line>, Box<Diagnostic>> {
    let comment = line
        .char_indices()
        .find(|(i, c)| *c == '#' && line[..*i].chars().next_back().is_none_or(char::is_whitespace));
    let wish = line[..comment.map_or(line.len(), |(i, _)| i)].trim_end();
    let indent = wish.len() - wish.trim_start().len();
    let wish = wish.trim_start();
    if wish.is_empty() {
        return Ok(None);
    }
    let at =
        |from: usize, to: usize| Span::new(FileId(0), start + indent + from, start + indent + to);
    let whole = at(0, wish.len());
    let Some((pattern, queue)) = wish.rsplit_once(char::is_whitespace) else {
        let message = format!("`{wish}` is no pattern with a queue");
        let d = Diagnostic::error(codes::QUEUE_LINE, whole, message);
        return Err(Box::new(d.help("a line is a pattern and a queue: `layer.0.* gpu`")));
    };
    let pattern = pattern.trim_end();
    match QUEUES.into_iter().find(|q| q.name() == queue) {
        Some(queue) => {
            Ok(Some(Line { pattern: pattern.into(), queue, span: at(0, pattern.len()) }))
        }
        None => {
            let place = at(wish.len() - queue.len(), wish.len());
            let message = format!("there is no queue `{queue}`");
            let d = Diagnostic::error(codes::QUEUE_LINE, place, message);
            Err(Box::new(d.help("the queues are cpu and gpu")))
        }
    }
}

/// The names of all nodes that compute.
fn names(graph: &Graph) -> Vec<(NodeId, Vec<String>)> {
    let order = graph.canonical_order();
    let mut outputs: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    for o in &graph.outputs {
        outputs.entry(o.value.node).or_default().push(o.name.to_string());
    }
    let layers = layers(graph);
    let of = |(i, id): (usize, NodeId)| {
        let node = graph.node(id);
        if matches!(graph.class(id), Class::Source(_)) {
            return None;
        }
        let mut names = vec![format!("%{i}"), format!("op:{}", node.op.row.name)];
        names.extend((1..node.results.len()).map(|r| format!("%{i}#{r}")));
        names.extend(node.names.iter().map(|(_, n)| n.to_string()));
        names.extend(layers[id.0 as usize].iter().map(|l| l.to_string()));
        names.extend(outputs.remove(&id).unwrap_or_default());
        Some((id, names))
    };
    order.into_iter().enumerate().filter_map(of).collect()
}

/// The layers of the parameters that each node reads, also through what is computed of parameters
/// alone.
fn layers(graph: &Graph) -> Vec<BTreeSet<Arc<str>>> {
    let mut layers = vec![BTreeSet::new(); graph.id_bound()];
    let mut varies = vec![false; graph.id_bound()];
    for id in graph.topological() {
        let (at, node) = (id.0 as usize, graph.node(id));
        match graph.class(id) {
            Class::Source(Source::Param) => {
                let scope = node.op.str("name").rsplit_once('.').map(|(scope, _)| scope.into());
                layers[at].extend(scope);
            }
            Class::Source(Source::Input | Source::State) => varies[at] = true,
            _ => {
                let operands = || node.operands().iter().map(|v| v.node.0 as usize);
                varies[at] = operands().any(|o| varies[o]);
                let fixed = operands().filter(|o| !varies[*o]);
                layers[at] = fixed.flat_map(|o| layers[o].clone()).collect();
            }
        }
    }
    layers
}

/// Whether a name is of a pattern's form. `*` does not reach over `op:`.
fn fits(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix("op:"), name.strip_prefix("op:")) {
        (Some(pattern), Some(name)) => wild(pattern, name),
        (None, None) => wild(pattern, name),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn wild(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

fn names_nothing(line: &Line, names: &[(NodeId, Vec<String>)]) -> Diagnostic {
    let pattern = &line.pattern;
    let message = format!("`{pattern}` names nothing that the model computes");
    let d = Diagnostic::error(codes::QUEUE_PATTERN, line.span, message);
    let all = names.iter().flat_map(|(_, names)| names).map(String::as_str);
    match did_you_mean(pattern, all).filter(|_| !pattern.contains('*')) {
        Some(near) => d.help(format!("did you mean `{near}`?")),
        None => d.help(
            "`dlc inspect MODEL graph` shows the names; inputs and parameters go to who reads them",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, name, fit) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("ab*bc", "abc", false),
            ("*b*", "abc", true),
            ("**", "abc", true),
            ("a*b*c", "axbxbxc", true),
            ("op:conv*", "op:conv2d", true),
            ("*", "op:conv2d", false),
            ("op:*", "conv2d", false),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }

    #[test]
    fn lines() {
        let rules = Rules::parse("q", "# all\n\n * cpu\nop:conv2d  gpu # fast\n%5#1\tgpu").unwrap();
        let found: Vec<_> =
            rules.lines.iter().map(|l| (l.pattern.as_str(), l.queue.name())).collect();
        assert_eq!(found, [("*", "cpu"), ("op:conv2d", "gpu"), ("%5#1", "gpu")]);
        assert_eq!(rules.sources().text(rules.lines[1].span), "op:conv2d");
    }

    #[test]
    fn slips() {
        let text = "conv\n* tpu\n* cpu";
        let wrong = Rules::parse("q", text).unwrap_err();
        let said: Vec<_> = wrong.iter().map(|d| (d.code, d.message.as_str())).collect();
        assert_eq!(
            said,
            [("E0870", "`conv` is no pattern with a queue"), ("E0870", "there is no queue `tpu`")]
        );
        let sources = rule_sources("q", text);
        assert_eq!(sources.text(wrong[1].span.unwrap()), "tpu");
    }
}
