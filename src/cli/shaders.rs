//! `dlc emit wgsl`: a model's compute shaders, and what it takes to run them elsewhere.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::report::Failure;
use crate::base::diag::Diagnostic;
use crate::model::{Diagnostics, Model};
use crate::runtime::dispatch::{Action, Bound, Dispatch, Dispatches, Limits, Prepared, ShaderId};
use crate::runtime::pack::widened;
use crate::schedule::program::{Port, Program};
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
        for (i, prepared) in self.dispatches.shaders.iter().enumerate() {
            let Prepared { shader, groups, .. } = prepared;
            let workgroup = shader.workgroup;
            let of = dispatches.iter().filter(|d| d.shader == ShaderId(i as u32));
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
        let matrices = self.dispatches.shaders.iter().any(|p| p.shader.coop.is_some());
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
        let shaders = self.dispatches.shaders.iter();
        let shaders: Vec<Value> = shaders.map(|p| shader(program, p, half)).collect();
        json!({
            "kind": "wgsl",
            "text": self.text(program),
            "model": &*program.name,
            "features": self.features(),
            "shaders": shaders,
            "buffers": self.buffers(program),
            "scratch": self.dispatches.scratch,
            "steps": steps(&self.dispatches.actions),
        })
    }

    /// The arena, then what has a name in the program, in the order of the memories.
    fn buffers(&self, program: &Program) -> Vec<Value> {
        let mut memories = self.dispatches.memories.iter();
        let arena = memories
            .next()
            .map(|(name, bytes)| json!({ "name": name, "bytes": bytes, "role": "arena" }));
        let Program { inputs, outputs, states, consts, .. } = program;
        let roles = [("input", inputs), ("output", outputs), ("state", states), ("const", consts)];
        let ports = roles.into_iter().flat_map(|(role, of)| of.iter().map(move |p| (role, p)));
        let mut values = 0;
        let port = |((role, port), (name, bytes)): ((&str, &Port), &(String, u64))| {
            let mut buffer = json!({
                "name": name, "bytes": bytes, "role": role,
                "dtype": port.dtype.to_string(), "shape": port.shape,
            });
            if role == "const" {
                buffer["values"] = values.into();
                values += bytes;
            }
            buffer
        };
        arena.into_iter().chain(ports.zip(memories).map(port)).collect()
    }

    /// What the buffers of constants hold, one after the other.
    pub fn write_values(&self, program: &Program, out: &mut dyn Write) -> io::Result<()> {
        let half = self.limits.features.half;
        let first = self.dispatches.memories.len() - program.const_values.len();
        for (value, (_, bytes)) in
            program.const_values.iter().zip(&self.dispatches.memories[first..])
        {
            let words = widened(value.dtype(), value.bytes(), half);
            out.write_all(&words)?;
            out.write_all(&vec![0; *bytes as usize - words.len()])?;
        }
        Ok(())
    }
}

fn shader(program: &Program, prepared: &Prepared, half: bool) -> Value {
    let Prepared { kernel, arguments, shader, groups } = prepared;
    let kernel = program.kernel(*kernel);
    let binding = |(at, binding): (usize, &Binding)| match binding {
        Binding::Param(p) => {
            let of = kernel.params.iter().zip(&arguments.shared).filter(|(_, first)| *first == p);
            let names: Vec<&str> = of.map(|(param, _)| &*param.name).collect();
            let param = &kernel.params[*p as usize];
            json!({
                "binding": at, "kind": "storage", "param": names.join(", "),
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

fn steps(actions: &[Action]) -> Vec<Value> {
    let bound = |b: &Bound| json!({ "buffer": b.memory, "offset": b.offset, "bytes": b.bytes });
    let step = |action: &Action| match action {
        Action::Dispatch(Dispatch { shader, params, bases, launch }) => json!({
            "dispatch": shader.0, "launch": launch.0, "bases": bases,
            "params": params.iter().map(bound).collect::<Vec<_>>(),
        }),
        Action::Branch { cond, then, els } => json!({
            "branch": bound(cond), "then": steps(then), "else": steps(els),
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
