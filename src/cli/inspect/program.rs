//! `inspect fusion`, `memory` and `kernels`: the bound model as Programs. Numbers of several programs are
//! counted on from one to the next.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::super::report::Failure;
use crate::base::Bindings;
use crate::kernel::print::print_kernel;
use crate::model::Model;
use crate::placed::Placed;
use crate::schedule::program::{Place, Port, Program};

fn placed(model: &Model) -> Result<Arc<Placed>, Failure> {
    Ok(model.placed(&Bindings::new())?)
}

pub fn fusion(model: &Model) -> Result<Json, Failure> {
    let (mut groups, mut decisions, mut base) = (vec![], vec![], 0);
    for segment in &placed(model)?.segments {
        let f = &segment.plan.fusion;
        for (id, g) in &f.groups {
            let packed: Vec<&str> = g.packed.iter().map(|name| &**name).collect();
            let id = base + id.0;
            groups.push(json!({ "id": id, "anchor": g.anchor, "ops": g.ops, "packed": packed }));
        }
        for d in &f.decisions {
            let (producer, consumer) = (&d.producer, &d.consumer);
            decisions.push(json!({
                "producer": producer, "consumer": consumer, "fused": d.fused, "reason": d.reason,
            }));
        }
        base += f.graph.id_bound() as u32;
    }
    Ok(json!({ "groups": groups, "decisions": decisions }))
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

pub fn words(list: &Json) -> String {
    let items = list.as_array().into_iter().flatten();
    items
        .map(|w| w.as_str().map_or_else(|| w.to_string(), str::to_string))
        .collect::<Vec<_>>()
        .join(" ")
}

fn size(port: &Port) -> u64 {
    port.shape.iter().map(|&d| d as u64).product::<u64>() * port.dtype.bytes() as u64
}

fn bytes(ports: &[Port]) -> u64 {
    ports.iter().map(size).sum()
}

/// The arenas of several programs count as one behind the other.
pub fn memory(model: &Model) -> Result<Json, Failure> {
    let placed = placed(model)?;
    let (mut buffers, mut arena, mut number, mut launches) = (vec![], 0, 0, 0);
    for p in placed.programs() {
        for (i, b) in p.buffers.iter().enumerate() {
            let Place::Arena { offset } = b.place else { continue };
            buffers.push(json!({
                "id": number + i,
                "name": &*b.name,
                "offset": arena + offset,
                "bytes": b.padded(),
                "first": launches + b.first as usize,
                "last": launches + b.last as usize,
                "alias_of": b.alias_of.map(|a| number + a.0 as usize),
            }));
        }
        arena += p.arena_bytes;
        (number, launches) = (number + p.buffers.len(), launches + p.launches.len());
    }
    let sum = |of: &dyn Fn(&Program) -> u64| placed.programs().map(of).sum::<u64>();
    Ok(json!({
        "arena_bytes": arena,
        "scratch_per_worker_bytes": placed.programs().map(|p| p.scratch_per_worker).max(),
        "max_live_bytes": sum(&|p| p.max_live_bytes),
        "weights_bytes": sum(&|p| bytes(&p.consts)),
        "state_bytes": sum(&|p| bytes(&p.states)),
        "inputs_bytes": placed.inputs().map(size).sum::<u64>(),
        "outputs_bytes": placed.outputs().map(size).sum::<u64>(),
        "buffers": buffers,
        "order": (0..launches).collect::<Vec<_>>(),
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
    let (mut kernels, mut first) = (vec![], 0);
    for p in placed(model)?.programs() {
        for (i, k) in p.kernels.iter().enumerate() {
            let of = |l: &usize| p.launches[*l].kernel.0 as usize == i;
            let launches: Vec<usize> = (0..p.launches.len()).filter(of).collect();
            let generator = launches.first().map(|l| &p.launches[*l].generator);
            kernels.push(json!({
                "id": kernels.len(), "name": k.name, "generator": generator, "grid": k.grid,
                "scratch_bytes": k.scratch_bytes(),
                "launches": launches.iter().map(|l| first + l).collect::<Vec<_>>(),
                "text": print_kernel(k),
            }));
        }
        first += p.launches.len();
    }
    Ok(json!({ "kernels": kernels }))
}

pub fn kernels_text(model: &Model) -> Result<String, Failure> {
    let placed = placed(model)?;
    Ok(placed.programs().flat_map(|p| &p.kernels).map(print_kernel).collect())
}
