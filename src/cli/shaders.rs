//! `dlc emit wgsl`: a model's compute shaders, and what it takes to run them elsewhere.

use std::fmt::Write;

use serde_json::{Value, json};

use super::report::Failure;
use crate::base::diag::Diagnostic;
use crate::model::{Diagnostics, Model};
use crate::runtime::dispatch::{Action, Bound, Dispatch, Dispatches, Limits, Prepared};
use crate::schedule::program::{KernelId, Program};
use crate::target::wgsl::{Binding, Features, Matmul, Matrices, base_vectors, stored_bytes};

/// A model's shaders, made for adapters with as few features as it needs.
pub struct Bundle {
    dispatches: Dispatches,
    limits: Limits,
}

impl Bundle {
    pub fn of(model: &Model) -> Result<Bundle, Failure> {
        let plan = model.plan(&Default::default())?;
        let matmul = model.options().matmul;
        // Those of most adapters that have some.
        let matrices = Matrices { size: 16, half_sums: false, subgroup: 32 };
        let matrices = (matmul == Matmul::Coop).then_some(matrices);
        let half = matrices.is_some();
        let least = Features { matmul, matrices, half, ..Features::default() };
        let int64 = Features { int64: true, ..least };
        let every = Features { int64: true, float64: true, ..least };
        let mut refused: Option<Box<Diagnostic>> = None;
        for features in [least, int64, every] {
            let limits =
                Limits { features, buffer: u64::MAX, binding: u64::MAX, ..Limits::default() };
            match Dispatches::of(&plan.program, &limits) {
                Ok(dispatches) => return Ok(Bundle { dispatches, limits }),
                Err(why) if why.code == "E0862" => refused = Some(why),
                Err(why) => return Err(Diagnostics::from(why).into()),
            }
        }
        let why = refused.expect("the loop runs");
        Err(Diagnostics::from(why).into())
    }

    /// Shader after shader, before each what is bound to it and how often it is dispatched.
    pub fn text(&self, program: &Program) -> String {
        let mut out = String::new();
        for feature in self.features() {
            let _ = writeln!(out, "// needs {feature}");
        }
        let mut dispatches = vec![];
        collect(&self.dispatches.actions, &mut dispatches);
        for (kernel, prepared) in &self.dispatches.shaders {
            let Prepared { shader, groups } = prepared;
            let workgroup = shader.workgroup;
            let of = dispatches.iter().filter(|d| d.kernel == *kernel);
            let _ = writeln!(out, "// {}: {groups} workgroups of {workgroup}", shader.name);
            for dispatch in of {
                let bound = dispatch.params.iter().map(|b| self.place(*b));
                let bound = bound.collect::<Vec<_>>().join(", ");
                let ops = program.launch(dispatch.launch).ops.join(" ");
                let _ = writeln!(out, "//   launch {} ({ops}): {bound}", dispatch.launch.0);
            }
            let _ = writeln!(out, "{}", shader.source);
        }
        out
    }

    fn place(&self, Bound { memory, offset, bytes }: Bound) -> String {
        let (name, _) = &self.dispatches.memories[memory];
        format!("{name}[{offset}..{}]", offset + bytes)
    }

    fn features(&self) -> Vec<&'static str> {
        let Features { int64, float64, half, .. } = self.limits.features;
        let shaders = || self.dispatches.shaders.values();
        let matrices = shaders().any(|p| p.shader.coop.is_some());
        let all = [
            (int64, "64-bit integers"),
            (float64, "64-bit floats"),
            (half, "16-bit floats"),
            (matrices, "cooperative matrices of 16 × 16 and subgroups of 32"),
        ];
        all.into_iter().filter(|(needed, _)| *needed).map(|(_, name)| name).collect()
    }

    /// One document with all that it takes to run the model.
    pub fn json(&self, program: &Program) -> Value {
        let half = self.limits.features.half;
        let numbers: Vec<KernelId> = self.dispatches.shaders.keys().copied().collect();
        let number = |id: KernelId| numbers.binary_search(&id).unwrap_or_default();
        let shaders = self.dispatches.shaders.iter();
        let shaders: Vec<Value> = shaders.map(|(id, p)| shader(program, *id, p, half)).collect();
        let memories = self.dispatches.memories.iter();
        let memories: Vec<Value> =
            memories.map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect();
        let roles = [
            ("arena", 1),
            ("input", program.inputs.len()),
            ("output", program.outputs.len()),
            ("state", program.states.len()),
            ("const", program.consts.len()),
        ];
        let roles = roles.into_iter().flat_map(|(role, n)| std::iter::repeat_n(role, n));
        let memories: Vec<Value> = memories
            .into_iter()
            .zip(roles)
            .map(|(mut memory, role)| {
                memory["role"] = role.into();
                memory
            })
            .collect();
        json!({
            "kind": "wgsl",
            "text": self.text(program),
            "model": &*program.name,
            "features": self.features(),
            "shaders": shaders,
            "buffers": memories,
            "scratch": self.dispatches.scratch,
            "steps": steps(&self.dispatches.actions, &number),
        })
    }
}

fn shader(
    program: &Program,
    id: KernelId,
    Prepared { shader, groups }: &Prepared,
    half: bool,
) -> Value {
    let kernel = program.kernel(id);
    let binding = |(at, binding): (usize, &Binding)| match binding {
        Binding::Param(p) => {
            let param = &kernel.params[*p as usize];
            json!({
                "binding": at, "kind": "storage", "param": param.name,
                "dtype": param.elem.to_string(), "elements": param.len,
                "bytes": param.len * stored_bytes(param.elem, half),
            })
        }
        Binding::Scratch { bytes } => {
            json!({ "binding": at, "kind": "scratch", "bytes_per_invocation": bytes })
        }
        Binding::Bases => {
            let bytes = 16 * base_vectors(kernel.params.len());
            json!({ "binding": at, "kind": "uniform", "bytes": bytes })
        }
    };
    let bindings: Vec<Value> = shader.bindings.iter().enumerate().map(binding).collect();
    json!({
        "name": shader.name, "entry_point": "main", "workgroup_size": [shader.workgroup, 1, 1],
        "workgroups": [groups, 1, 1], "bindings": bindings, "source": shader.source,
    })
}

fn steps(actions: &[Action], number: &dyn Fn(KernelId) -> usize) -> Vec<Value> {
    let bound = |b: &Bound| json!({ "buffer": b.memory, "offset": b.offset, "bytes": b.bytes });
    let step = |action: &Action| match action {
        Action::Dispatch(Dispatch { kernel, params, bases, launch }) => json!({
            "dispatch": number(*kernel), "launch": launch.0, "bases": bases,
            "params": params.iter().map(bound).collect::<Vec<_>>(),
        }),
        Action::Branch { cond, then, els } => json!({
            "branch": bound(cond), "then": steps(then, number), "else": steps(els, number),
        }),
    };
    actions.iter().map(step).collect()
}

fn collect<'a>(actions: &'a [Action], into: &mut Vec<&'a Dispatch>) {
    for action in actions {
        match action {
            Action::Dispatch(dispatch) => into.push(dispatch),
            Action::Branch { then, els, .. } => {
                collect(then, into);
                collect(els, into);
            }
        }
    }
}
