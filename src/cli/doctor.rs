//! `dlc doctor`: this machine, and whether each target works on it.

use serde_json::json;

use super::args::Global;
use super::out;
use super::report::Failure;
use crate::base::Tensor;
use crate::model::{Model, Options};
use crate::target::{Kind, TARGETS, Target, host_features, host_machine};

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_: &Args, global: &Global) -> Result<(), Failure> {
    let machine = host_machine();
    let tests: Vec<(String, Result<(), String>)> = TARGETS
        .iter()
        .filter(|row| row.kind != Kind::Later && row.name != "auto")
        .map(|row| (row.name.to_string(), self_test(row.name)))
        .collect();
    let peaks = peaks();
    let failed = tests.iter().any(|(_, r)| r.as_ref().is_err_and(|e| !e.starts_with("not here")));
    if global.json {
        let targets = tests.iter().map(
            |(name, r)| json!({ "name": name, "works": r.is_ok(), "message": r.as_ref().err() }),
        );
        out::json(&json!({
            "dlc": env!("CARGO_PKG_VERSION"),
            "cpu": {
                "isa": format!("{:?}", machine.isa),
                "features": host_features(),
                "caches": machine.caches,
                "threads": std::thread::available_parallelism().map_or(1, |n| n.get()),
                "fma_gflops": peaks.map(|p| p.wide),
                "fma_bits": peaks.map(|p| p.bits),
                "fma_gflops_128": peaks.map(|p| p.narrow),
                "read_gbytes": peaks.map(|p| p.read),
            },
            "adapters": adapter_list(),
            "targets": targets.collect::<Vec<_>>(),
        }))?;
    } else {
        let mut text = format!(
            "dlc {}\ncpu {:?}: {}\ncaches {:?} bytes\n",
            env!("CARGO_PKG_VERSION"),
            machine.isa,
            host_features().join(" "),
            machine.caches
        );
        if let Some(Peaks { wide, narrow, bits, read }) = peaks {
            text.push_str(&format!(
                "peak of {bits}-bit multiply-adds {wide:.1} GFLOP/s, of 128-bit ones {narrow:.1}, \
                 reading {read:.1} GB/s (one thread)\n"
            ));
        }
        for (name, result) in &tests {
            match result {
                Ok(()) => text.push_str(&format!("{name:<16} works\n")),
                Err(e) => text.push_str(&format!("{name:<16} {e}\n")),
            }
        }
        if !cfg!(feature = "gpu") {
            text.push_str("gpu              comes with a later version\n");
        }
        for a in adapters() {
            text.push_str(&format!("adapter {a}\n"));
        }
        out::text(&text)?;
    }
    match failed {
        true => Err(Failure::fault("a target does not work on this machine")),
        false => Ok(()),
    }
}

/// A small model through the whole compiler, against what it must give.
fn self_test(target: &str) -> Result<(), String> {
    let text = "model t(x: f32[4], w: f32[4, 4]) { return softmax(tanh(x @ w) * 2) as y }";
    let target = Target::parse(target).map_err(|d| d.message)?;
    if target.row.kind == Kind::Gpu && adapters().is_empty() {
        return Err("not here: no GPU adapter was found".into());
    }
    if let Err(d) = target.check_runs_here() {
        return Err(format!("not here: {}", d.message));
    }
    let run = |options: Options| -> Result<Tensor, String> {
        let model: Model = crate::compile(text, &options).map_err(|d| d.to_string())?;
        let x = Tensor::from_slice(&[4], &[0.5f32, -1.0, 2.0, 0.25]);
        let w: Vec<f32> = (0..16).map(|i| (i as f32 - 8.0) / 10.0).collect();
        let inputs = [("x".to_string(), x), ("w".to_string(), Tensor::from_slice(&[4, 4], &w))];
        let outputs = model.run(&inputs.into_iter().collect()).map_err(|d| d.to_string())?;
        Ok(outputs.into_iter().next().expect("one output").1)
    };
    let reference = Target::parse("reference").map_err(|d| d.message)?;
    let got = run(Options { target, ..Options::default() })?;
    let wanted = run(Options { target: reference, ..Options::default() })?;
    crate::ir::compare::allclose(&got, &wanted, 1e-5, 1e-6)
        .map(|_| ())
        .map_err(|m| format!("fails: {m}"))
}

/// The GPU adapters, a line for each.
fn adapters() -> Vec<String> {
    #[cfg(feature = "gpu")]
    {
        let line = |a: crate::runtime::gpu::device::Adapter| {
            let kind = if a.software { ", software" } else { "" };
            let matrices = match (self_tested(&a), a.features.matrices) {
                (Some(works), Some(m)) => {
                    let works = if works { "self-test passed" } else { "fail their self-test" };
                    format!("; cooperative matrices of {0} × {0}, {works}", m.size)
                }
                _ => String::new(),
            };
            format!("{} ({}, {}{kind}){matrices}", a.name, a.backend, a.driver)
        };
        crate::runtime::gpu::device::adapters().into_iter().map(line).collect()
    }
    #[cfg(not(feature = "gpu"))]
    vec![]
}

/// Whether the cooperative matrices of an adapter give right sums; `None` where it has none of use.
#[cfg(feature = "gpu")]
fn self_tested(adapter: &crate::runtime::gpu::device::Adapter) -> Option<bool> {
    crate::runtime::gpu::device::Device::shared(Some(&adapter.name)).ok()?.self_test()
}

/// The same with what shaders may use.
fn adapter_list() -> Vec<serde_json::Value> {
    #[cfg(feature = "gpu")]
    {
        let one = |a: crate::runtime::gpu::device::Adapter| {
            json!({
                "name": a.name,
                "backend": a.backend,
                "driver": a.driver,
                "software": a.software,
                "int64": a.features.int64,
                "float64": a.features.float64,
                "timestamps": a.timestamps,
                "float16": a.features.half,
                "cooperative": a.cooperative,
                "cooperative_works": self_tested(&a),
                "binding_bytes": a.binding,
                "bindings": a.bindings,
                "workgroup_bytes": a.workgroup,
            })
        };
        crate::runtime::gpu::device::adapters().into_iter().map(one).collect()
    }
    #[cfg(not(feature = "gpu"))]
    vec![]
}

/// What one thread can do at most.
#[derive(Clone, Copy)]
struct Peaks {
    /// Multiply-adds in the widest vectors, of so many `bits`, and in those of 128.
    wide: f64,
    bits: u32,
    narrow: f64,
    read: f64,
}

#[cfg(feature = "cpu")]
fn peaks() -> Option<Peaks> {
    let p = crate::runtime::peak::measure(&Target::host()).ok()?;
    let (wide, narrow) = (p.multiply_add_gflops, p.narrow_gflops);
    Some(Peaks { wide, bits: p.bits, narrow, read: p.read_gigabytes })
}

#[cfg(not(feature = "cpu"))]
fn peaks() -> Option<Peaks> {
    None
}
