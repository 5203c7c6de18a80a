//! `inspect inputs`, `summary` and `passes`.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::super::report::Failure;
use crate::base::{Bindings, Dim, TensorType};
use crate::ir::op::{Class, Source};
use crate::ir::{Graph, Value};
use crate::model::Model;
use crate::schedule::kernels::graph_flops;

fn shape(ty: &TensorType) -> Json {
    let dim = |d: &Dim| d.as_const().map_or_else(|| json!(d.to_string()), |v| json!(v));
    ty.shape.dims().iter().map(dim).collect()
}

fn ports(list: Vec<(String, TensorType)>) -> Json {
    let port = |(name, ty): (String, TensorType)| json!({ "name": name, "dtype": ty.dtype.name(), "shape": shape(&ty) });
    list.into_iter().map(port).collect()
}

pub fn inputs(model: &Model) -> Json {
    let dims: Json = model
        .source()
        .open_dims()
        .into_iter()
        .map(|d| json!({ "name": d.symbol.to_string(), "low": d.low, "high": d.high }))
        .collect();
    json!({ "inputs": ports(model.inputs()), "outputs": ports(model.outputs()), "dims": dims })
}

fn type_text(port: &Json) -> String {
    let dims = port["shape"].as_array().into_iter().flatten();
    let dims: Vec<String> =
        dims.map(|d| d.as_str().map_or_else(|| d.to_string(), str::to_string)).collect();
    format!("{}[{}]", port["dtype"].as_str().unwrap_or(""), dims.join(", "))
}

pub fn inputs_text(view: &Json) -> String {
    let mut text = String::new();
    for kind in ["inputs", "outputs"] {
        for p in view[kind].as_array().into_iter().flatten() {
            let kind = kind.trim_end_matches('s');
            text.push_str(&format!(
                "{kind:<7} {}: {}\n",
                p["name"].as_str().unwrap_or(""),
                type_text(p)
            ));
        }
    }
    for d in view["dims"].as_array().into_iter().flatten() {
        let high = if d["high"].is_null() { String::new() } else { format!("={}", d["high"]) };
        text.push_str(&format!(
            "dim     {} in {}..{high}\n",
            d["name"].as_str().unwrap_or(""),
            d["low"]
        ));
    }
    text
}

pub fn passes(model: &Model) -> Result<Json, Failure> {
    let mut rows = model.passes().to_vec();
    if model.open_dims().is_empty() {
        let placed = model.placed(&Bindings::new())?;
        rows.extend(placed.segments.iter().flat_map(|s| s.plan.passes.clone()));
    }
    let row = |p: &crate::pass::PassStat| {
        json!({
            "pass": p.pass, "ms": p.ms, "nodes_before": p.nodes_before,
            "nodes_after": p.nodes_after, "rewrites": p.rewrites, "rules": p.rules,
        })
    };
    Ok(rows.iter().map(row).collect())
}

pub fn passes_text(view: &Json) -> String {
    let mut text =
        format!("{:<18} {:>10} {:>8} {:>8} {:>9}\n", "pass", "ms", "before", "after", "rewrites");
    for p in view.as_array().into_iter().flatten() {
        text.push_str(&format!(
            "{:<18} {:>10.3} {:>8} {:>8} {:>9}\n",
            p["pass"].as_str().unwrap_or(""),
            p["ms"].as_f64().unwrap_or(0.0),
            p["nodes_before"],
            p["nodes_after"],
            p["rewrites"],
        ));
    }
    text
}

/// One row for each op of the model that computes, named by its stage or its parameters.
pub fn summary(model: &Model) -> Result<Json, Failure> {
    let graph = model.source();
    let mut counted: BTreeMap<crate::ir::NodeId, ()> = BTreeMap::new();
    let (mut layers, mut total, mut flops_total) = (vec![], 0u64, 0u64);
    for id in graph.topological() {
        if matches!(graph.class(id), Class::Source(s) if s != (Source::Iota { axis: 0 })) {
            continue;
        }
        let node = graph.node(id);
        let (mut params, mut trainable) = (0u64, 0u64);
        for v in node.operands() {
            let is_param = graph.class(v.node) == Class::Source(Source::Param);
            if is_param && counted.insert(v.node, ()).is_none() {
                let n = numel(graph, *v);
                params += n;
                trainable += if graph.node(v.node).op.bool("frozen") { 0 } else { n };
            }
        }
        let flops = node_flops(graph, id);
        total += params;
        flops_total += flops.unwrap_or(0);
        layers.push(json!({
            "name": name(graph, id),
            "op": node.op.row.name,
            "output_shape": shape(&node.results[0]),
            "params": params,
            "trainable": trainable,
            "flops": flops,
        }));
    }
    let arena = match model.open_dims().is_empty() {
        true => json!(model.placed(&Bindings::new())?.arena_bytes()),
        false => Json::Null,
    };
    let flops = if model.open_dims().is_empty() { json!(flops_total) } else { Json::Null };
    Ok(json!({ "layers": layers, "params": total, "flops": flops, "arena_bytes": arena }))
}

fn numel(graph: &Graph, v: Value) -> u64 {
    graph.ty(v).shape.numel().and_then(|d| d.as_const()).unwrap_or(0).max(0) as u64
}

/// The stage's name, else the scope of its parameters, else the node.
fn name(graph: &Graph, id: crate::ir::NodeId) -> String {
    let node = graph.node(id);
    if let Some((_, n)) = node.names.first() {
        return n.to_string();
    }
    let scope = node.operands().iter().find_map(|v| {
        let is_param = graph.class(v.node) == Class::Source(Source::Param);
        is_param.then(|| graph.node(v.node).op.str("name").rsplit_once('.').map(|(s, _)| s))?
    });
    scope.map_or_else(|| format!("%{}", id.0), str::to_string)
}

/// FLOP of one node, by its expansion; `None` while a dimension is open.
fn node_flops(graph: &Graph, id: crate::ir::NodeId) -> Option<u64> {
    let node = graph.node(id);
    node.operands().iter().try_for_each(|v| graph.ty(*v).shape.concrete().map(|_| ()))?;
    let mut alone = graph.alone(id);
    let steps = [crate::pass::Step::Pass("expand"), crate::pass::Step::Pass("dce")];
    let control = crate::pass::Control::default();
    crate::pass::run(&mut alone, &steps, &control, &mut |_, _| {}).ok()?;
    Some(graph_flops(&alone))
}

pub fn summary_text(view: &Json) -> String {
    let mut text = format!(
        "{:<32} {:<16} {:<22} {:>12} {:>14}\n",
        "layer", "op", "output shape", "params", "FLOP"
    );
    for l in view["layers"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "{:<32} {:<16} {:<22} {:>12} {:>14}\n",
            l["name"].as_str().unwrap_or(""),
            l["op"].as_str().unwrap_or(""),
            l["output_shape"].to_string().replace('"', ""),
            l["params"],
            if l["flops"].is_null() { "open".into() } else { l["flops"].to_string() },
        ));
    }
    let open = |v: &Json| if v.is_null() { "open".to_string() } else { v.to_string() };
    text.push_str(&format!(
        "{} parameters, {} FLOP, {} bytes of arena\n",
        view["params"],
        open(&view["flops"]),
        open(&view["arena_bytes"])
    ));
    text
}
