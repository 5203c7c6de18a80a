//! `inspect fusion`, `schedule`, `memory` and `kernels`: the bound model as a Program.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::super::report::Failure;
use crate::base::Bindings;
use crate::model::Model;
use crate::plan::Plan;
use crate::schedule::program::{Place, Port, Program};

fn plan(model: &Model) -> Result<Arc<Plan>, Failure> {
    Ok(model.plan(&Bindings::new())?)
}

pub fn fusion(model: &Model) -> Result<Json, Failure> {
    let plan = plan(model)?;
    let f = &plan.fusion;
    let groups = f.groups.iter().map(|(id, g)| {
        let packed: Vec<&str> = g.packed.iter().map(|name| &**name).collect();
        json!({ "id": id.0, "anchor": g.anchor, "ops": g.ops, "packed": packed })
    });
    let decisions = f.decisions.iter().map(|d| {
        json!({
            "producer": d.producer, "consumer": d.consumer, "fused": d.fused, "reason": d.reason,
        })
    });
    Ok(json!({
        "groups": groups.collect::<Vec<_>>(),
        "decisions": decisions.collect::<Vec<_>>(),
    }))
}

pub fn fusion_text(view: &Json) -> String {
    let mut text = String::new();
    for g in view["groups"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "group {:>4}  {:<12} {}\n",
            g["id"],
            g["anchor"].as_str().unwrap_or("-"),
            words(&g["ops"])
        ));
        for name in g["packed"].as_array().into_iter().flatten().filter_map(|n| n.as_str()) {
            text.push_str(&format!("{:>10}  weight {name} (packed)\n", ""));
        }
    }
    for d in view["decisions"].as_array().into_iter().flatten() {
        let fused = d["fused"].as_bool().unwrap_or(false);
        text.push_str(&format!(
            "{} {} → {}: {}\n",
            if fused { "fused    " } else { "not fused" },
            d["producer"].as_str().unwrap_or(""),
            d["consumer"].as_str().unwrap_or(""),
            d["reason"].as_str().unwrap_or("")
        ));
    }
    text
}

fn words(list: &Json) -> String {
    let items = list.as_array().into_iter().flatten();
    items
        .map(|w| w.as_str().map_or_else(|| w.to_string(), str::to_string))
        .collect::<Vec<_>>()
        .join(" ")
}

pub fn schedule(model: &Model, step: bool) -> Result<Json, Failure> {
    let plan = plan(model)?;
    let p = &plan.program;
    let launches = p.launches.iter().enumerate().map(|(i, l)| {
        json!({
            "id": i,
            "kernel": p.kernel(l.kernel).name,
            "ops": l.ops,
            "queue": l.queue.name(),
            "wave": l.wave,
            "root": l.depends_on.is_empty(),
            "depends_on": l.depends_on.iter().map(|d| d.0).collect::<Vec<_>>(),
            "flops": l.flops,
            "bytes": l.bytes,
            "estimate_us": l.estimate_us,
            "generator": l.generator,
        })
    });
    let ids: Vec<usize> = (0..p.launches.len()).collect();
    let mut view = json!({
        "launches": launches.collect::<Vec<_>>(),
        "queues": [{ "name": "cpu", "launches": ids }],
    });
    if step {
        view["steps"] = ready_sets(p).into();
    }
    Ok(view)
}

/// At each launch: those whose operands were all there, itself among them.
fn ready_sets(p: &Program) -> Vec<Json> {
    let n = p.launches.len();
    let ready = |i: usize| -> Vec<usize> {
        let there = |l: usize| p.launches[l].depends_on.iter().all(|d| (d.0 as usize) < i);
        (i..n).filter(|l| there(*l)).collect()
    };
    // Beyond this the sets are quadratic.
    (0..n.min(2000)).map(|i| json!({ "launch": i, "ready": ready(i) })).collect()
}

pub fn schedule_text(view: &Json) -> String {
    let mut text = format!(
        "{:>4} {:>5} {:<6} {:<10} {:>12} {:>12} {:>9}  ops\n",
        "id", "wave", "queue", "kernel", "FLOP", "bytes", "est. µs"
    );
    for l in view["launches"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "{:>4} {:>5} {:<6} {:<10} {:>12} {:>12} {:>9.2}  {}{}\n",
            l["id"],
            l["wave"],
            l["queue"].as_str().unwrap_or(""),
            l["kernel"].as_str().unwrap_or(""),
            l["flops"],
            l["bytes"],
            l["estimate_us"].as_f64().unwrap_or(0.0),
            words(&l["ops"]),
            if l["root"].as_bool() == Some(true) { "  (root)" } else { "" },
        ));
    }
    for s in view["steps"].as_array().into_iter().flatten() {
        text.push_str(&format!("step {}: ready {}\n", s["launch"], words(&s["ready"])));
    }
    text
}

pub fn schedule_dot(model: &Model) -> Result<String, Failure> {
    let plan = plan(model)?;
    let mut text = String::from("digraph schedule {\n  node [shape=box];\n");
    for (i, l) in plan.program.launches.iter().enumerate() {
        text.push_str(&format!("  l{i} [label=\"{i}: {}\"];\n", l.ops.join(" ")));
        for d in &l.depends_on {
            text.push_str(&format!("  l{} -> l{i};\n", d.0));
        }
    }
    Ok(text + "}\n")
}

fn bytes(ports: &[Port]) -> u64 {
    let of = |p: &Port| p.shape.iter().map(|&d| d as u64).product::<u64>() * p.dtype.bytes() as u64;
    ports.iter().map(of).sum()
}

pub fn memory(model: &Model) -> Result<Json, Failure> {
    let plan = plan(model)?;
    let p = &plan.program;
    let buffers = p.buffers.iter().enumerate().filter_map(|(i, b)| {
        let Place::Arena { offset } = b.place else { return None };
        Some(json!({
            "id": i,
            "name": &*b.name,
            "offset": offset,
            "bytes": b.padded(),
            "first": b.first,
            "last": b.last,
            "alias_of": b.alias_of.map(|a| a.0),
        }))
    });
    Ok(json!({
        "arena_bytes": p.arena_bytes,
        "scratch_per_worker_bytes": p.scratch_per_worker,
        "max_live_bytes": p.max_live_bytes,
        "weights_bytes": bytes(&p.consts),
        "state_bytes": bytes(&p.states),
        "inputs_bytes": bytes(&p.inputs),
        "outputs_bytes": bytes(&p.outputs),
        "buffers": buffers.collect::<Vec<_>>(),
        "order": (0..p.launches.len()).collect::<Vec<_>>(),
    }))
}

pub fn memory_text(view: &Json) -> String {
    let mut text = format!(
        "arena {} bytes ({} live at most), scratch {} bytes a worker\n\
         weights {}, state {}, inputs {}, outputs {} bytes\n",
        view["arena_bytes"],
        view["max_live_bytes"],
        view["scratch_per_worker_bytes"],
        view["weights_bytes"],
        view["state_bytes"],
        view["inputs_bytes"],
        view["outputs_bytes"],
    );
    for b in view["buffers"].as_array().into_iter().flatten() {
        let alias = b["alias_of"].as_u64().map_or(String::new(), |a| format!("  in place of {a}"));
        text.push_str(&format!(
            "{:>5} {:>12} +{:<10} launches {:>4}..={:<4} {}{alias}\n",
            b["id"],
            b["offset"],
            b["bytes"],
            b["first"],
            b["last"],
            b["name"].as_str().unwrap_or(""),
        ));
    }
    text
}

pub fn kernels(model: &Model) -> Result<Json, Failure> {
    let plan = plan(model)?;
    let p = &plan.program;
    let row = |(i, k): (usize, &crate::kernel::ir::Kernel)| {
        let launches: Vec<usize> =
            (0..p.launches.len()).filter(|l| p.launches[*l].kernel.0 as usize == i).collect();
        let generator = launches.first().map(|l| &p.launches[*l].generator);
        json!({
            "id": i, "name": k.name, "generator": generator, "grid": k.grid,
            "scratch_bytes": k.scratch_bytes(), "launches": launches,
            "text": crate::kernel::print::print_kernel(k),
        })
    };
    Ok(json!({ "kernels": p.kernels.iter().enumerate().map(row).collect::<Vec<_>>() }))
}

pub fn kernels_text(model: &Model) -> Result<String, Failure> {
    let plan = plan(model)?;
    Ok(plan.program.kernels.iter().map(crate::kernel::print::print_kernel).collect())
}
