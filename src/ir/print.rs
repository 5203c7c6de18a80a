//! The core form of a graph. `docs/core-form.md` is its specification.
//!
//! In: any graph, bound or open, compact or not. Out: the text, and the constants that are too large
//! to stand in it. Printed numbers are positions in the canonical order, which are the ids of a
//! compact graph, so `print(parse(print(g))) == print(g)` to the byte.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::attr::{Attr, AttrKind, AttrSpec};
use super::graph::{Graph, Loc, NodeId, Value};
use super::op::{Class, Op, RegionKind};
use crate::base::{Tensor, TensorType, text};

/// Constants of more elements than this go to the side table.
pub const INLINE_ELEMENTS: usize = 64;

/// A graph as text.
#[derive(Clone, Debug, Default)]
pub struct Printed {
    pub text: String,
    /// Large constants by the hash of their content ([`text::content_hash`]).
    pub constants: BTreeMap<String, Tensor>,
}

/// Prints a graph in core form.
pub fn print_graph(graph: &Graph) -> Printed {
    let mut p = Printer::default();
    let names = Names::of(graph, "", &[]);
    let _ = write!(p.out.text, "graph {}(", text::name(&graph.name));
    p.header(graph, &names, graph.inputs.len());
    p.out.text.push_str(") {\n");
    for d in &graph.dims {
        let high = d.high.map_or("..".to_string(), |h| format!("..={h}"));
        let _ = writeln!(p.out.text, "  dim {} in {}{high}", d.symbol, d.low);
    }
    for id in &graph.params {
        p.declaration(graph, "param", *id, &names);
    }
    for s in &graph.states {
        p.declaration(graph, "state", s.node, &names);
    }
    p.body(graph, &names, 1);
    p.out.text.push_str("}\n");
    p.out
}

/// How a value of the graph prints: `%x`, `$w`, `%5`, `%5#1`. For messages; each call walks the graph.
pub fn value_name(graph: &Graph, v: Value) -> String {
    Names::of(graph, "", &[]).value(v)
}

/// How many leading operands of a node are its own; the others are captures of its regions.
pub fn own_operands(graph: &Graph, id: NodeId) -> usize {
    own_operands_of(&graph.class(id), graph.node(id).operands().len())
}

/// [`own_operands`] of a node of this class with so many operands.
pub fn own_operands_of(class: &Class, operands: usize) -> usize {
    match class {
        Class::Region(RegionKind::Scan { carries, sequences, .. }) => {
            operands.min(carries + sequences)
        }
        Class::Region(RegionKind::Cond) => operands.min(1),
        Class::Region(RegionKind::Do) => 0,
        Class::Source(_)
        | Class::Elementwise(_)
        | Class::Reduce(_)
        | Class::View(_)
        | Class::Contract(_)
        | Class::Window(_)
        | Class::Gather { .. }
        | Class::Scatter(_)
        | Class::UpdateSlice { .. }
        | Class::Sort(_)
        | Class::Composite => operands,
    }
}

/// The printed names of a graph's nodes.
struct Names {
    /// In the canonical order.
    order: Vec<NodeId>,
    /// By node id: `%5`, `%x`, `$w`, or for a capture the outer value's name.
    of: Vec<String>,
    /// What the numbers of this graph begin with: empty, or the owner's number and a dot.
    prefix: String,
    number: Vec<usize>,
}

impl Names {
    /// `captures` are the outer names of the trailing inputs.
    fn of(graph: &Graph, prefix: &str, captures: &[String]) -> Names {
        let order = graph.canonical_order();
        let mut of = vec![String::new(); graph.id_bound()];
        let mut number = vec![0; graph.id_bound()];
        for (i, id) in order.iter().enumerate() {
            number[id.0 as usize] = i;
            of[id.0 as usize] = format!("%{prefix}{i}");
        }
        let own = graph.inputs.len().saturating_sub(captures.len());
        for id in &graph.inputs[..own] {
            of[id.0 as usize] = format!("%{prefix}{}", text::name(name_of(graph, *id)));
        }
        for (id, outer) in graph.inputs[own..].iter().zip(captures) {
            of[id.0 as usize] = outer.clone();
        }
        for id in graph.params.iter().copied().chain(graph.states.iter().map(|s| s.node)) {
            of[id.0 as usize] = format!("${}", text::name(name_of(graph, id)));
        }
        Names { order, of, prefix: prefix.to_string(), number }
    }

    fn value(&self, v: Value) -> String {
        let base = &self.of[v.node.0 as usize];
        if v.result == 0 { base.clone() } else { format!("{base}#{}", v.result) }
    }

    fn inner_prefix(&self, id: NodeId) -> String {
        format!("{}{}.", self.prefix, self.number[id.0 as usize])
    }
}

/// The name in the signature of an input, param or state.
fn name_of(graph: &Graph, id: NodeId) -> &str {
    let op = &graph.node(id).op;
    match op.row.attr_index("name").map(|i| &op.attrs[i]) {
        Some(Attr::Str(s)) => s,
        _ => "",
    }
}

#[derive(Default)]
struct Printer {
    out: Printed,
}

impl Printer {
    /// The first `count` inputs, as they stand between the parentheses of a header.
    fn header(&mut self, graph: &Graph, names: &Names, count: usize) {
        for (i, id) in graph.inputs[..count].iter().enumerate() {
            let ty = &graph.node(*id).results[0];
            let comma = if i == 0 { "" } else { ", " };
            let _ = write!(self.out.text, "{comma}{}: {ty}", names.of[id.0 as usize]);
            self.names_and_place(graph, *id);
        }
    }

    fn declaration(&mut self, graph: &Graph, word: &str, id: NodeId, names: &Names) {
        let node = graph.node(id);
        let init = match node.op.row.attr_index("init").map(|i| &node.op.attrs[i]) {
            Some(Attr::Str(s)) if text::is_identifier(s) => s.clone(),
            Some(Attr::Str(s)) => text::quoted(s),
            _ => "zeros".to_string(),
        };
        let name = &names.of[id.0 as usize];
        let _ = write!(self.out.text, "  {word} {name}: {} = {init}", node.results[0]);
        if node.op.row.attr_index("frozen").is_some_and(|i| node.op.attrs[i] == Attr::Bool(true)) {
            self.out.text.push_str(" {frozen = true}");
        }
        self.names_and_place(graph, id);
        self.out.text.push('\n');
    }

    /// Nodes, next values and the yield.
    fn body(&mut self, graph: &Graph, names: &Names, depth: usize) {
        let signature = graph.inputs.len() + graph.params.len() + graph.states.len();
        for id in &names.order[signature..] {
            self.node(graph, *id, names, depth);
        }
        let indent = "  ".repeat(depth);
        for s in graph.states.iter().filter(|s| s.next != Value { node: s.node, result: 0 }) {
            let state = &names.of[s.node.0 as usize];
            let _ = writeln!(self.out.text, "{indent}next {state} = {}", names.value(s.next));
        }
        if graph.outputs.is_empty() {
            return;
        }
        let _ = write!(self.out.text, "{indent}yield ");
        for (i, o) in graph.outputs.iter().enumerate() {
            self.comma(i);
            if depth == 1 {
                let _ = write!(self.out.text, "{} = ", text::name(&o.name));
            }
            self.out.text.push_str(&names.value(o.value));
        }
        self.out.text.push('\n');
    }

    fn node(&mut self, graph: &Graph, id: NodeId, names: &Names, depth: usize) {
        let node = graph.node(id);
        self.out.text.push_str(&"  ".repeat(depth));
        for (i, ty) in node.results.iter().enumerate() {
            self.comma(i);
            let value = names.value(Value { node: id, result: i as u16 });
            let _ = write!(self.out.text, "{value}: {ty}");
        }
        let _ = write!(self.out.text, " = {}(", node.op.row.name);
        let own = own_operands(graph, id);
        self.operands(&node.op, &node.operands()[..own], names);
        let captures: Vec<String> =
            node.operands()[own..].iter().map(|v| names.value(*v)).collect();
        if !captures.is_empty() {
            let _ = write!(self.out.text, "; {}", captures.join(", "));
        }
        self.out.text.push(')');
        self.attributes(&node.op);
        for region in &node.regions {
            let inner = Names::of(region, &names.inner_prefix(id), &captures);
            self.out.text.push_str(" do (");
            self.header(region, &inner, region.inputs.len().saturating_sub(captures.len()));
            self.out.text.push_str(") {\n");
            self.body(region, &inner, depth + 1);
            let _ = write!(self.out.text, "{}}}", "  ".repeat(depth));
        }
        self.names_and_place(graph, id);
        self.out.text.push('\n');
    }

    /// Absent optional operands are `_`, trailing ones nothing.
    fn operands(&mut self, op: &Op, own: &[Value], names: &Names) {
        let mut texts: Vec<String> = vec![];
        let mut pending = 0;
        let mut values = own.iter();
        for index in 0..op.row.operands.len() {
            if op.present >> index & 1 == 0 {
                pending += 1;
                continue;
            }
            let variadic = op.row.operands[index].arity == super::op::Arity::Variadic;
            let take = if variadic { values.len() } else { values.len().min(1) };
            if take > 0 {
                texts.extend(std::iter::repeat_n("_".to_string(), pending));
                pending = 0;
            }
            texts.extend(values.by_ref().take(take).map(|v| names.value(*v)));
        }
        self.out.text.push_str(&texts.join(", "));
    }

    fn attributes(&mut self, op: &Op) {
        let shown = op.row.attrs.iter().zip(&op.attrs).filter_map(|(spec, value)| {
            let value = normal(spec, value);
            let default = spec.default.value().map(|d| normal(spec, &d));
            (default.as_ref() != Some(&value)).then_some((spec, value))
        });
        let mut any = false;
        for (spec, value) in shown {
            self.out.text.push_str(if any { ", " } else { " {" });
            any = true;
            let _ = write!(self.out.text, "{} = ", spec.name);
            self.attribute(spec, &value);
        }
        if any {
            self.out.text.push('}');
        }
    }

    fn attribute(&mut self, spec: &AttrSpec, value: &Attr) {
        let text = match value {
            Attr::None => "none".to_string(),
            Attr::Int(v) => v.to_string(),
            Attr::Float(v) => text::float(*v),
            Attr::Bool(v) => v.to_string(),
            Attr::Str(s) => match spec.kind {
                AttrKind::Word(_) | AttrKind::IntsOr(_) if text::is_identifier(s) => s.clone(),
                _ => text::quoted(s),
            },
            Attr::Ints(v) => list(v),
            Attr::Dims(v) => list(v),
            Attr::DType(d) => d.to_string(),
            Attr::Tensor(t) => self.tensor(t),
        };
        self.out.text.push_str(&text);
    }

    fn tensor(&mut self, t: &Tensor) -> String {
        let ty: TensorType = t.ty();
        if t.numel() > INLINE_ELEMENTS {
            let hash = text::content_hash(t);
            let text = format!("{ty}(#{hash})");
            self.out.constants.entry(hash).or_insert_with(|| t.clone());
            return text;
        }
        let elements: Vec<String> = (0..t.numel()).map(|i| text::element(t, i)).collect();
        format!("{ty}({})", elements.join(", "))
    }

    fn names_and_place(&mut self, graph: &Graph, id: NodeId) {
        let node = graph.node(id);
        for (i, (result, name)) in node.names.iter().enumerate() {
            self.out.text.push_str(if i == 0 { " as " } else { ", " });
            if *result != 0 {
                let _ = write!(self.out.text, "#{result} ");
            }
            self.out.text.push_str(&text::name(name));
        }
        if let Some(Loc { file, line, column }) = &node.loc {
            let _ = write!(self.out.text, " @{}:{line}:{column}", text::quoted(file));
        }
    }

    fn comma(&mut self, i: usize) {
        if i > 0 {
            self.out.text.push_str(", ");
        }
    }
}

/// An integer given for a float prints as the float that it means.
fn normal(spec: &AttrSpec, value: &Attr) -> Attr {
    match (spec.kind, value) {
        (AttrKind::Float, Attr::Int(v)) => Attr::Float(*v as f64),
        (AttrKind::Dims, Attr::Ints(v)) => Attr::Dims(v.iter().map(|&d| d.into()).collect()),
        (AttrKind::Dims, Attr::Int(v)) => Attr::Dims(vec![(*v).into()]),
        _ => value.clone(),
    }
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(T::to_string).collect();
    format!("[{}]", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DType, Dim, Shape, Symbol};
    use crate::ir::graph::DimDecl;
    use crate::ir::{Builder, Node, op};

    #[test]
    fn a_signature_with_odd_names_and_constants() {
        let mut g = Graph::new("my net");
        let batch = Symbol::new("batch size");
        g.dims.push(DimDecl { symbol: batch.clone(), low: 1, high: None });
        let mut b = Builder::new(&mut g);
        b.loc = Some(Loc { file: "m.dl".into(), line: 4, column: 9 });
        let w = b.param("a.0.weight", TensorType::of(DType::F32, &[2]), "normal(0.5)", true);
        let x = TensorType::new(DType::F16, Shape(vec![Dim::symbol(batch), Dim::Const(4)]));
        b.loc = None;
        let x = b.input("x:0", x);
        let s = b.state("ks", TensorType::of(DType::I64, &[]), "zeros");
        let c = b.constant(Tensor::from_slice(&[], &[7i64]));
        b.constant(Tensor::from_slice(&[65], &[0.5f32; 65]));
        b.set_state(s, c);
        b.output("y", x);
        b.output("odd name", w);
        g.node_mut(c.node).names.push((0, "seven".into()));
        let printed = print_graph(&g);
        let hash = printed.constants.keys().next().unwrap();
        let expected = format!(
            "graph \"my net\"(%\"x:0\": f16[\"batch size\", 4]) {{\n\
             \x20 dim \"batch size\" in 1..\n\
             \x20 param $a.0.weight: f32[2] = \"normal(0.5)\" {{frozen = true}} @\"m.dl\":4:9\n\
             \x20 state $ks: i64[] = zeros\n\
             \x20 %3: i64[] = constant() {{value = i64[](7)}} as seven\n\
             \x20 %4: f32[65] = constant() {{value = f32[65](#{hash})}}\n\
             \x20 next $ks = %3\n\
             \x20 yield y = %\"x:0\", \"odd name\" = $a.0.weight\n}}\n"
        );
        assert_eq!(printed.text, expected);
        // Numbers are those of the compact graph.
        let map = g.compact();
        assert_eq!(map[&c.node], NodeId(3));
        assert_eq!(print_graph(&g).text, expected);
    }

    #[test]
    fn bits_of_what_is_not_finite() {
        let mut g = Graph::new("g");
        let row = op::find("constant").unwrap();
        let t = Tensor::from_slice(&[2], &[f32::NAN, -0.0]);
        let ty = t.ty();
        g.add(Node::new(Op::new(row, &[("value", Attr::Tensor(t))]), vec![], vec![ty]));
        let text = print_graph(&g).text;
        assert!(text.contains("{value = f32[2](0x7fc00000, -0.0)}"), "{text}");
    }
}
