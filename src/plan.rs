//! A bound graph for one target: the program, and the code that runs it.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::base::Tensor;
use crate::base::diag::Diagnostic;
use crate::import::Weights;
use crate::ir::eval::{Env, Precision, evaluate};
use crate::ir::graph::Graph;
#[cfg(feature = "cpu")]
use crate::model::Runs;
use crate::model::{Diagnostics, Options, of_op};
use crate::pass::PassStat;
use crate::pipeline::{self, Scheduled};
#[cfg(feature = "cpu")]
use crate::runtime::cpu::Executable;
use crate::schedule::fusion::Fusion;
use crate::schedule::program::Program;
use crate::schedule::proof;
use crate::target::Target;

/// A bound graph, compiled for one target as far as was needed.
pub struct Plan {
    pub target: Target,
    /// After the graph passes, with dimensions bound.
    pub bound: Graph,
    /// After the lowering passes: what is fused.
    pub lowered: Graph,
    pub passes: Vec<PassStat>,
    pub fusion: Fusion,
    /// Makes the program's constants of the model's parameters.
    pub recipe: Graph,
    /// Without values of constants.
    pub program: Program,
    constants: Vec<(usize, Tensor)>,
    /// What scheduling and the making of kernels took, in milliseconds.
    pub schedule_ms: f64,
    ready: OnceLock<Arc<Program>>,
    #[cfg(feature = "cpu")]
    executable: OnceLock<Arc<Executable>>,
    code_ms: OnceLock<f64>,
}

impl Plan {
    pub fn new(bound: Graph, options: &Options) -> Result<Plan, Diagnostics> {
        Plan::on(bound, &options.target, options)
    }

    /// For another target than that of the options.
    pub fn on(bound: Graph, target: &Target, options: &Options) -> Result<Plan, Diagnostics> {
        let mut lowered = bound.clone();
        let steps = pipeline::lower_passes(options.level);
        let passes = pipeline::optimize(&mut lowered, steps, &options.control, &mut |_, _| {})
            .map_err(|e| Diagnostic::error("E0705", None, e.to_string()))?;
        let machine = &target.machine;
        let strict = options.control.settings.strict;
        let start = Instant::now();
        let Scheduled { recipe, fusion, assembled } =
            pipeline::schedule(&lowered, (options.level, strict), machine).map_err(of_op)?;
        let program = assembled.program;
        let schedule_ms = start.elapsed().as_secs_f64() * 1e3;
        if options.control.verify_each || cfg!(debug_assertions) {
            proof::prove(&program).map_err(Diagnostics::of)?;
        }
        within_budget(&program, options)?;
        Ok(Plan {
            target: target.clone(),
            bound,
            lowered,
            passes,
            fusion,
            recipe,
            program,
            constants: assembled.constants,
            schedule_ms,
            ready: OnceLock::new(),
            #[cfg(feature = "cpu")]
            executable: OnceLock::new(),
            code_ms: OnceLock::new(),
        })
    }

    /// What making machine code took, in milliseconds, once there is some.
    pub fn code_ms(&self) -> Option<f64> {
        self.code_ms.get().copied()
    }

    /// The program with its constants.
    pub fn ready(&self, weights: &Weights) -> Result<Arc<Program>, Diagnostics> {
        if let Some(program) = self.ready.get() {
            return Ok(program.clone());
        }
        let mut program = self.program.clone();
        program.const_values = self.constants(weights)?;
        Ok(self.ready.get_or_init(|| Arc::new(program)).clone())
    }

    fn constants(&self, weights: &Weights) -> Result<Vec<Tensor>, Diagnostics> {
        let params = parameters(&self.recipe, weights)?;
        let env = Env { params, ..Env::default() };
        let made = evaluate(&self.recipe, &env, Precision::Own).map_err(of_op)?.outputs;
        let mut values: Vec<Option<Tensor>> = made.into_iter().map(Some).collect();
        values.resize(self.program.consts.len(), None);
        for (i, t) in &self.constants {
            values[*i] = Some(t.clone());
        }
        Ok(values.into_iter().map(|v| v.expect("every constant has a value")).collect())
    }

    /// The machine code; made once.
    #[cfg(feature = "cpu")]
    pub fn executable(
        &self,
        weights: &Weights,
        options: &Options,
    ) -> Result<Arc<Executable>, Diagnostics> {
        if let Some(e) = self.executable.get() {
            return Ok(e.clone());
        }
        self.target.check_runs_here()?;
        let program = self.ready(weights)?;
        let start = Instant::now();
        let how = code_options(&program, options);
        let made = Executable::compile(program, &self.target, how)
            .map_err(|e| Diagnostics::from(e.diagnostic()))?;
        self.code_ms.get_or_init(|| start.elapsed().as_secs_f64() * 1e3);
        Ok(self.executable.get_or_init(|| Arc::new(made)).clone())
    }
}

/// An error where the program takes more memory than the options allow.
pub(crate) fn within_budget(program: &Program, options: &Options) -> Result<(), Diagnostics> {
    let Some(budget) = options.mem_budget.filter(|b| program.arena_bytes > *b) else {
        return Ok(());
    };
    let message = format!("the arena takes {} bytes, the budget is {budget}", program.arena_bytes);
    let note = format!("at least {} bytes are alive at once", program.max_live_bytes);
    Err(Diagnostic::error("E0712", None, message).note(note).into())
}

/// FLOP of a run below which compiling takes longer than the run. A program that runs once gets code
/// fast then; one that runs again and again gets fast code, which takes half the time or less even
/// where a run is short.
#[cfg(feature = "cpu")]
const SMALL: u64 = 50_000_000;

#[cfg(feature = "cpu")]
fn code_options(program: &Program, options: &Options) -> crate::target::cpu::Options {
    use crate::target::cpu;
    let effort = match options.runs {
        Runs::Once if program.flops() < SMALL => cpu::Effort::Compile,
        Runs::Once | Runs::Many => cpu::Effort::Speed,
    };
    cpu::Options { effort, threads: options.threads }
}

/// The values of a graph's parameters in the order of its signature.
pub fn parameters(graph: &Graph, weights: &Weights) -> Result<Vec<Tensor>, Diagnostics> {
    let mut missing = vec![];
    let mut values = vec![];
    for id in &graph.params {
        let path = graph.node(*id).op.str("name");
        match weights.get(path) {
            Some(t) => values.push(t.clone()),
            None => missing.push(path),
        }
    }
    if missing.is_empty() {
        return Ok(values);
    }
    let first = missing.iter().take(5).map(|p| format!("`{p}`")).collect::<Vec<_>>().join(", ");
    let more =
        if missing.len() > 5 { format!(" and {} more", missing.len() - 5) } else { "".into() };
    let message = format!("{} parameters have no weights: {first}{more}", missing.len());
    let help = "give them with `--weights FILE.safetensors`, or ask for initial values with \
                `--weights random`";
    Err(Diagnostic::error("E0713", None, message).help(help).into())
}
