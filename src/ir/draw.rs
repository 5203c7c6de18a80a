//! A graph for other programs: Graphviz's dot, and JSON.
//!
//! In: any graph. Out: text or a JSON document; nodes in canonical order, numbered as in the core
//! form. Regions are nested objects in JSON and clusters in dot.

use std::fmt::Write;

use serde_json::{Value as Json, json};

use super::attr::Attr;
use super::graph::{Graph, NodeId, Value};
use super::op::{Class, Source};
use super::print::INLINE_ELEMENTS;
use crate::base::{Tensor, TensorType, text};

/// The graph as a directed graph in dot.
pub fn print_dot(graph: &Graph) -> String {
    let mut out = format!("digraph {} {{\n", text::quoted(&graph.name));
    out.push_str("  rankdir=TB;\n  node [shape=box, fontname=\"monospace\"];\n");
    dot_body(graph, "n", 1, &mut out);
    let number = position(graph);
    for (i, o) in graph.outputs.iter().enumerate() {
        let _ = writeln!(out, "  out{i} [label={}, shape=ellipse];", text::quoted(&o.name));
        let _ = writeln!(out, "  n{} -> out{i};", number[o.value.node.0 as usize]);
    }
    out.push_str("}\n");
    out
}

fn dot_body(graph: &Graph, prefix: &str, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    let number = position(graph);
    for id in graph.canonical_order() {
        let node = graph.node(id);
        let me = number[id.0 as usize];
        let mut label = match graph.class(id) {
            Class::Source(Source::Input | Source::Param | Source::State) => {
                node.op.str("name").to_string()
            }
            _ => node.op.row.name.to_string(),
        };
        for (_, name) in &node.names {
            let _ = write!(label, " as {name}");
        }
        for ty in &node.results {
            let _ = write!(label, "\n{ty}");
        }
        let _ = writeln!(out, "{pad}{prefix}{me} [label={}];", text::quoted(&label));
        for v in node.operands() {
            let from = number[v.node.0 as usize];
            let port = if v.result == 0 { String::new() } else { format!(" [label={}]", v.result) };
            let _ = writeln!(out, "{pad}{prefix}{from} -> {prefix}{me}{port};");
        }
        for (r, region) in node.regions.iter().enumerate() {
            let inner = format!("{prefix}{me}_{r}_");
            let _ = writeln!(out, "{pad}subgraph cluster_{inner} {{");
            dot_body(region, &inner, depth + 1, out);
            let _ = writeln!(out, "{pad}}}");
        }
    }
}

/// The graph as a JSON object. Values are `{"node", "result"}`; large constants give their hash.
pub fn print_json(graph: &Graph) -> Json {
    let number = position(graph);
    let value = |v: Value| json!({"node": number[v.node.0 as usize], "result": v.result});
    let source = |id: &NodeId| number[id.0 as usize];
    let nodes: Vec<Json> = graph
        .canonical_order()
        .into_iter()
        .map(|id| {
            let node = graph.node(id);
            let attrs: serde_json::Map<String, Json> = (node.op.row.attrs.iter())
                .zip(&node.op.attrs)
                .filter(|(_, a)| **a != Attr::None)
                .map(|(spec, a)| (spec.name.to_string(), attribute(a)))
                .collect();
            let names: Vec<Json> =
                node.names.iter().map(|(r, n)| json!({"result": r, "name": &**n})).collect();
            let mut object = json!({
                "id": number[id.0 as usize],
                "op": node.op.row.name,
                "operands": node.operands().iter().map(|v| value(*v)).collect::<Vec<_>>(),
                "attrs": attrs,
                "results": node.results.iter().map(ty).collect::<Vec<_>>(),
                "names": names,
            });
            if let Some(l) = &node.loc {
                object["place"] = json!({"file": &*l.file, "line": l.line, "column": l.column});
            }
            if !node.regions.is_empty() {
                object["regions"] = node.regions.iter().map(print_json).collect();
            }
            object
        })
        .collect();
    json!({
        "name": &*graph.name,
        "dims": graph.dims.iter()
            .map(|d| json!({"name": &*d.symbol.0, "low": d.low, "high": d.high}))
            .collect::<Vec<_>>(),
        "inputs": graph.inputs.iter().map(source).collect::<Vec<_>>(),
        "params": graph.params.iter().map(source).collect::<Vec<_>>(),
        "states": graph.states.iter()
            .map(|s| json!({"node": number[s.node.0 as usize], "next": value(s.next)}))
            .collect::<Vec<_>>(),
        "nodes": nodes,
        "outputs": graph.outputs.iter()
            .map(|o| json!({"name": &*o.name, "value": value(o.value)}))
            .collect::<Vec<_>>(),
    })
}

/// The number of each node, by id.
fn position(graph: &Graph) -> Vec<usize> {
    let mut number = vec![0; graph.id_bound()];
    for (i, id) in graph.canonical_order().into_iter().enumerate() {
        number[id.0 as usize] = i;
    }
    number
}

fn ty(t: &TensorType) -> Json {
    let dims: Vec<Json> = t.shape.dims().iter().map(dim).collect();
    json!({"dtype": t.dtype.name(), "shape": dims})
}

fn dim(d: &crate::base::Dim) -> Json {
    d.as_const().map_or_else(|| Json::from(d.to_string()), Json::from)
}

fn attribute(a: &Attr) -> Json {
    match a {
        Attr::None => Json::Null,
        Attr::Int(v) => json!(v),
        Attr::Float(v) if v.is_finite() => json!(v),
        Attr::Float(v) => json!(text::float(*v)),
        Attr::Bool(v) => json!(v),
        Attr::Str(v) => json!(v),
        Attr::Ints(v) => json!(v),
        Attr::Dims(v) => v.iter().map(dim).collect(),
        Attr::DType(d) => json!(d.name()),
        Attr::Tensor(t) => tensor(t),
    }
}

fn tensor(t: &Tensor) -> Json {
    let mut object = ty(&t.ty());
    if t.numel() > INLINE_ELEMENTS {
        object["hash"] = json!(text::content_hash(t));
    } else {
        object["data"] = (0..t.numel()).map(|i| json!(text::element(t, i))).collect();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DType;
    use crate::ir::Builder;

    #[test]
    fn json_and_dot_name_everything() {
        let mut g = Graph::new("g");
        let mut b = Builder::new(&mut g);
        let x = b.input("x", TensorType::of(DType::F32, &[2]));
        let c = b.constant(Tensor::from_slice(&[1], &[f32::INFINITY]));
        b.output("y", x);
        b.output("c", c);
        let j = print_json(&g);
        assert_eq!(j["nodes"][1]["attrs"]["value"]["data"][0], "0x7f800000");
        assert_eq!(j["outputs"][1]["value"]["node"], 1);
        let dot = print_dot(&g);
        assert!(dot.contains("n0 [label=\"x\\nf32[2]\"];") && dot.contains("n1 -> out1;"), "{dot}");
    }
}
