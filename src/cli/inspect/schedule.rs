//! `inspect schedule`: launches in waves, on their queues.

use serde_json::{Value as Json, json};

use super::super::report::Failure;
use super::program::words;
use crate::base::Bindings;
use crate::model::Model;
use crate::placed::view::{Schedule, Transfer};
use crate::schedule::place::QUEUES;

pub fn json(model: &Model, step: bool) -> Result<Json, Failure> {
    let placed = model.placed(&Bindings::new())?;
    let schedule = placed.schedule();
    let launches = schedule.rows.iter().enumerate().map(|(i, row)| {
        let l = row.launch;
        json!({
            "id": i,
            "kernel": row.program.kernel(l.kernel).name,
            "ops": l.ops,
            "queue": row.queue.name(),
            "wave": row.wave,
            "root": row.depends_on.is_empty(),
            "depends_on": row.depends_on,
            "flops": l.flops,
            "bytes": l.bytes,
            "estimate_us": row.estimate_us,
            "generator": l.generator,
        })
    });
    let used = QUEUES.into_iter().filter(|q| placed.segments.iter().any(|s| s.queue == *q));
    let queues = used.map(|q| {
        let on = (0..schedule.rows.len()).filter(|i| schedule.rows[*i].queue == q);
        json!({ "name": q.name(), "launches": on.collect::<Vec<_>>() })
    });
    let mut view = json!({
        "launches": launches.collect::<Vec<_>>(),
        "queues": queues.collect::<Vec<_>>(),
        "transfers": schedule.transfers.iter().map(transfer).collect::<Vec<_>>(),
        "critical_path": { "launches": schedule.critical, "estimate_us": schedule.critical_us },
    });
    if let Some(note) = &placed.note {
        view["note"] = note.as_str().into();
    }
    if step {
        view["steps"] = ready_sets(&schedule).into();
    }
    Ok(view)
}

fn transfer(t: &Transfer) -> Json {
    json!({
        "value": t.value, "from": t.from.name(), "to": t.to.name(), "bytes": t.bytes,
        "estimate_us": t.estimate_us, "after": t.after, "before": t.before,
    })
}

/// At each launch: those whose operands were all there, itself among them.
fn ready_sets(schedule: &Schedule) -> Vec<Json> {
    let rows = &schedule.rows;
    let n = rows.len();
    let ready = |i: usize| -> Vec<usize> {
        let there = |l: usize| rows[l].depends_on.iter().all(|d| *d < i);
        (i..n).filter(|l| there(*l)).collect()
    };
    // Beyond this the sets are quadratic.
    (0..n.min(2000)).map(|i| json!({ "launch": i, "ready": ready(i) })).collect()
}

pub fn text(view: &Json) -> String {
    let mut text = format!(
        "{:>4} {:>5} {:<6} {:<10} {:>12} {:>12} {:>9}  ops\n",
        "id", "wave", "queue", "kernel", "FLOP", "bytes", "est. µs"
    );
    for l in list(&view["launches"]) {
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
    for t in list(&view["transfers"]) {
        text.push_str(&transfer_text(t));
    }
    if list(&view["queues"]).count() > 1 {
        let path = &view["critical_path"];
        let us = path["estimate_us"].as_f64().unwrap_or(0.0);
        text.push_str(&format!("critical path {us:.2} µs: {}\n", words(&path["launches"])));
    }
    if let Some(note) = view["note"].as_str() {
        text.push_str(&format!("{note}\n"));
    }
    for s in list(&view["steps"]) {
        text.push_str(&format!("step {}: ready {}\n", s["launch"], words(&s["ready"])));
    }
    text
}

fn list(view: &Json) -> impl Iterator<Item = &Json> {
    view.as_array().into_iter().flatten()
}

fn transfer_text(t: &Json) -> String {
    let end = |what: &str, caller: &str| match t[what].as_u64() {
        Some(launch) => format!("{what} {launch}"),
        None => caller.to_string(),
    };
    format!(
        "transfer {} {} → {}: {} bytes, {:.2} µs, {}, {}\n",
        t["value"].as_str().unwrap_or(""),
        t["from"].as_str().unwrap_or(""),
        t["to"].as_str().unwrap_or(""),
        t["bytes"],
        t["estimate_us"].as_f64().unwrap_or(0.0),
        end("after", "from the caller"),
        end("before", "for the caller"),
    )
}

pub fn dot(model: &Model) -> Result<String, Failure> {
    let placed = model.placed(&Bindings::new())?;
    let schedule = placed.schedule();
    let both = placed.segments.iter().any(|s| s.queue != placed.segments[0].queue);
    let mut text = String::from("digraph schedule {\n  node [shape=box];\n");
    for (i, row) in schedule.rows.iter().enumerate() {
        let queue = if both { format!("\\n{}", row.queue.name()) } else { String::new() };
        let ops = row.launch.ops.join(" ");
        text.push_str(&format!("  l{i} [label=\"{i}: {ops}{queue}\"];\n"));
        for d in &row.depends_on {
            text.push_str(&format!("  l{d} -> l{i};\n"));
        }
    }
    Ok(text + "}\n")
}
