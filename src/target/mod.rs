//! The target table: one row for each thing that dlc can compile for.
//!
//! A name from the command line becomes a [`Target`]: its row and the [`Machine`] that generators
//! and emitters plan for. Nothing here makes code; `cpu` does.

pub mod cpu;
mod detect;
pub mod wgsl;

use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::machine::{Isa, Machine};

/// One row of the table.
#[derive(Debug)]
pub struct TargetRow {
    pub name: &'static str,
    pub doc: &'static str,
    pub kind: Kind,
}

/// What turns a Program into results.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The reference evaluator runs the graph itself.
    Reference,
    /// The kernel interpreter runs a Program.
    Interpreter,
    /// Machine code; `None`: for the processor at hand.
    Cpu(Option<Isa>),
    /// Machine code for the processor at hand, all of it by Cranelift.
    Cranelift,
    /// Compute shaders on an adapter of this machine.
    Gpu,
    /// Known, but not in this version.
    Later,
}

/// Of the GPU, where this dlc has that part.
const GPU: Kind = if cfg!(feature = "gpu") { Kind::Gpu } else { Kind::Later };

/// Every target. `auto` stands for the best one at hand.
pub const TARGETS: &[TargetRow] = &[
    TargetRow { name: "auto", doc: "the best target of this machine", kind: Kind::Cpu(None) },
    TargetRow { name: "cpu", doc: "machine code for this processor", kind: Kind::Cpu(None) },
    TargetRow {
        name: "cpu:x86-64",
        doc: "x86-64 with SSE2; multiply and add round separately",
        kind: Kind::Cpu(Some(Isa::X86_64)),
    },
    TargetRow {
        name: "cpu:x86-64-v3",
        doc: "x86-64 with AVX2 and FMA",
        kind: Kind::Cpu(Some(Isa::X86_64V3)),
    },
    TargetRow {
        name: "cpu:x86-64-v4",
        doc: "x86-64 with AVX-512",
        kind: Kind::Cpu(Some(Isa::X86_64V4)),
    },
    TargetRow {
        name: "cpu:aarch64",
        doc: "64-bit ARM with NEON",
        kind: Kind::Cpu(Some(Isa::Aarch64)),
    },
    TargetRow {
        name: "cpu:clif",
        doc: "this processor, by Cranelift alone",
        kind: Kind::Cranelift,
    },
    TargetRow {
        name: "cpu:interpreter",
        doc: "the kernel interpreter: slow, and what the emitters are checked against",
        kind: Kind::Interpreter,
    },
    TargetRow {
        name: "reference",
        doc: "the reference evaluator, op by op",
        kind: Kind::Reference,
    },
    TargetRow { name: "gpu", doc: "compute shaders run through wgpu", kind: GPU },
    TargetRow { name: "wgsl", doc: "compute shaders as text", kind: Kind::Later },
];

/// A row, and the machine that code is made for.
#[derive(Clone, Debug)]
pub struct Target {
    pub row: &'static TargetRow,
    pub machine: Machine,
}

impl Target {
    /// The target of a name from the table; unknown names and those of later versions are errors.
    pub fn parse(name: &str) -> Result<Target, Box<Diagnostic>> {
        let Some(row) = TARGETS.iter().find(|row| row.name == name) else {
            let names: Vec<&str> = TARGETS.iter().map(|row| row.name).collect();
            let guess = did_you_mean(name, names.iter().copied());
            let error = Diagnostic::error("E0801", None, format!("there is no target `{name}`"))
                .note(format!("targets: {}", names.join(", ")));
            return Err(Box::new(match guess {
                Some(guess) => error.help(format!("did you mean `{guess}`?")),
                None => error,
            }));
        };
        let machine = match row.kind {
            Kind::Cpu(Some(isa)) => Machine::new(isa, vector_bytes(isa)),
            Kind::Cranelift => {
                let host = host_machine();
                Machine { caches: host.caches, ..Machine::new(host.isa, NARROW) }
            }
            Kind::Cpu(None) | Kind::Reference | Kind::Interpreter => host_machine(),
            Kind::Gpu => Machine::new(Isa::Gpu, NARROW),
            Kind::Later => {
                let message = format!("target `{name}` comes with a later version of dlc");
                return Err(Box::new(
                    Diagnostic::error("E0802", None, message)
                        .help("`--target cpu` compiles for this machine"),
                ));
            }
        };
        Ok(Target { row, machine })
    }

    /// The target for this machine.
    pub fn host() -> Target {
        Target::parse("cpu").expect("the table has a row for this machine")
    }

    /// The target and all that choices for its machine depend on, but for what was tuned.
    pub fn describe(&self) -> String {
        let Machine { isa, vector_bytes, registers, caches, tiles: _ } = &self.machine;
        let features = detect::features().join(" ");
        let name = self.row.name;
        format!("{name} {isa:?} {vector_bytes} {registers} {caches:?} {features}")
    }

    /// Whether code for the target can run in this process; if not, an error that says why.
    pub fn check_runs_here(&self) -> Result<(), Box<Diagnostic>> {
        let Kind::Cpu(Some(isa)) = self.row.kind else { return Ok(()) };
        if detect::has(isa) {
            return Ok(());
        }
        let message = format!("this processor cannot run code for `{}`", self.row.name);
        Err(Box::new(
            Diagnostic::error("E0803", None, message)
                .note(format!("it is {}", detect::describe(detect::isa())))
                .help("`--target cpu` compiles for this machine"),
        ))
    }
}

/// Bytes of Cranelift's widest vectors.
const NARROW: u32 = 16;

/// Bytes of the widest vectors that code for the instruction set uses.
fn vector_bytes(isa: Isa) -> u32 {
    match isa {
        Isa::X86_64V4 => 64,
        Isa::X86_64V3 => 32,
        Isa::X86_64 | Isa::Aarch64 | Isa::Gpu => NARROW,
    }
}

/// The processor at hand: its instruction set and caches.
pub fn host_machine() -> Machine {
    let isa = detect::isa();
    let mut machine = Machine::new(isa, vector_bytes(isa));
    if let Some(caches) = detect::caches() {
        machine.caches = caches;
    }
    machine
}

/// The features of the processor at hand, by name, for `dlc doctor`.
pub fn host_features() -> Vec<&'static str> {
    detect::features()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::machine::Numerics;

    #[test]
    fn names_resolve_and_slips_are_explained() {
        for row in TARGETS {
            match (row.kind, Target::parse(row.name)) {
                (Kind::Later, Err(e)) => assert_eq!(e.code, "E0802"),
                (Kind::Later, Ok(_)) => panic!("{} is not there yet", row.name),
                (
                    Kind::Reference
                    | Kind::Interpreter
                    | Kind::Cpu(_)
                    | Kind::Cranelift
                    | Kind::Gpu,
                    target,
                ) => {
                    assert_eq!(target.unwrap().row.name, row.name);
                }
            }
        }
        let error = Target::parse("cpu:x86-64-v5").unwrap_err();
        assert_eq!(error.code, "E0801");
        assert!(error.help.unwrap().contains("cpu:x86-64-v"));
    }

    #[test]
    fn numeric_classes() {
        let class = |name| Target::parse(name).unwrap().machine.numerics();
        assert_eq!(class("cpu:x86-64"), Numerics::Separate);
        for name in ["cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:aarch64"] {
            assert_eq!(class(name), Numerics::Fused);
        }
    }

    #[test]
    fn the_host_runs_its_own_code() {
        assert!(Target::host().check_runs_here().is_ok());
        let foreign = if cfg!(target_arch = "x86_64") { "cpu:aarch64" } else { "cpu:x86-64" };
        assert_eq!(Target::parse(foreign).unwrap().check_runs_here().unwrap_err().code, "E0803");
    }
}
