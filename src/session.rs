//! One caller's buffers: inputs, outputs and states of a model that runs again and again.

use std::sync::Arc;
use std::time::Duration;

use crate::base::diag::Diagnostic;
use crate::base::{Tensor, TensorType};
use crate::import::Weights;
use crate::ir::eval::{Env, Precision, evaluate};
use crate::ir::graph::Graph;
use crate::ir::init::initial_value;
use crate::model::{Diagnostics, Options, of_op};
use crate::placed::{Placed, run};
use crate::plan::{Plan, parameters};
#[cfg(feature = "cpu")]
use crate::runtime::cpu;
#[cfg(feature = "gpu")]
use crate::runtime::gpu;
use crate::runtime::interpreter::Interpreter;
use crate::runtime::pool::Pool;
use crate::schedule::program::LaunchId;
use crate::target::Kind;

/// Bound to the programs of one model; `run` allocates nothing on the `cpu` targets.
pub struct Session {
    engine: Engine,
    /// Initial values of the states.
    initial: Vec<Tensor>,
    signature: Signature,
}

/// Types of a model's inputs and outputs.
#[derive(Clone)]
pub(crate) struct Signature {
    inputs: Vec<TensorType>,
    outputs: Vec<TensorType>,
}

impl Signature {
    pub fn of(graph: &Graph) -> Signature {
        let inputs = graph.inputs.iter().map(|id| graph.node(*id).results[0].clone()).collect();
        let outputs = graph.outputs.iter().map(|o| graph.ty(o.value).clone()).collect();
        Signature { inputs, outputs }
    }
}

enum Engine {
    #[cfg(feature = "cpu")]
    Cpu(cpu::Session),
    Interpreter(Interpreter),
    #[cfg(feature = "gpu")]
    Gpu(gpu::session::Session),
    Reference(Reference),
    Placed(Box<run::Run>),
}

/// The threads of sessions, once some session has use for them.
pub(crate) type Threads = Option<Arc<Pool>>;

/// The reference evaluator behind the same interface.
struct Reference {
    graph: Graph,
    env: Env,
    outputs: Vec<Tensor>,
}

impl Session {
    pub(crate) fn new(
        placed: &Placed,
        weights: &Weights,
        options: &Options,
    ) -> Result<Session, Diagnostics> {
        let engine = match &placed.segments[..] {
            [one] => engine(&one.plan, weights, options, &mut None)?,
            _ => Engine::Placed(Box::new(run::Run::new(placed, weights, options)?)),
        };
        Session::starting_from(engine, placed.initial(options.seed)?, placed.signature.clone())
    }

    /// For one program of several, which share their threads.
    pub(crate) fn of(
        plan: &Plan,
        weights: &Weights,
        options: &Options,
        pool: &mut Threads,
    ) -> Result<Session, Diagnostics> {
        let initial = initial_states(&plan.bound, options.seed)?;
        let signature = Signature::of(&plan.bound);
        Session::starting_from(engine(plan, weights, options, pool)?, initial, signature)
    }

    /// A session for code that is there already; `source` says how its states begin.
    #[cfg(feature = "cpu")]
    pub(crate) fn on(
        executable: Arc<cpu::Executable>,
        source: &Graph,
        options: &Options,
    ) -> Result<Session, Diagnostics> {
        let initial = initial_states(source, options.seed)?;
        let engine = engine_on(executable, options, &mut None)?;
        Session::starting_from(engine, initial, Signature::of(source))
    }

    fn starting_from(
        engine: Engine,
        initial: Vec<Tensor>,
        signature: Signature,
    ) -> Result<Session, Diagnostics> {
        let mut session = Session { engine, initial, signature };
        session.reset()?;
        Ok(session)
    }

    /// Copies a tensor into an input.
    pub fn set_input(&mut self, i: usize, value: &Tensor) -> Result<(), Diagnostics> {
        match &mut self.engine {
            #[cfg(feature = "cpu")]
            Engine::Cpu(s) => s.set_input(i, value.bytes()).map_err(|e| e.diagnostic().into()),
            Engine::Interpreter(s) => {
                s.set_input(i, value.bytes()).map_err(|e| e.diagnostic().into())
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(s) => s.set_input(i, value.bytes()).map_err(|e| Diagnostics::from(*e)),
            Engine::Reference(r) => {
                r.env.inputs[i] = value.clone();
                Ok(())
            }
            Engine::Placed(p) => p.set_input(i, value),
        }
    }

    /// The bytes of an input, to be filled in place.
    #[cfg(feature = "cpu")]
    pub fn input_mut(&mut self, i: usize) -> Option<&mut [u8]> {
        match &mut self.engine {
            Engine::Cpu(s) => Some(s.input_mut(i)),
            #[cfg(feature = "gpu")]
            Engine::Gpu(_) => None,
            Engine::Interpreter(_) | Engine::Reference(_) | Engine::Placed(_) => None,
        }
    }

    /// What the user should know of how it runs.
    pub fn warnings(&self) -> &[Diagnostic] {
        match &self.engine {
            #[cfg(feature = "cpu")]
            Engine::Cpu(_) => &[],
            #[cfg(feature = "gpu")]
            Engine::Gpu(s) => s.warnings(),
            Engine::Interpreter(_) | Engine::Reference(_) => &[],
            Engine::Placed(p) => p.warnings(),
        }
    }

    /// Runs once. States move on. A GPU may still be computing when this returns: see [`Session::wait`].
    pub fn run(&mut self) -> Result<(), Diagnostics> {
        match &mut self.engine {
            #[cfg(feature = "cpu")]
            Engine::Cpu(s) => {
                s.run();
                Ok(())
            }
            Engine::Interpreter(s) => s.run().map_err(|e| e.diagnostic().into()),
            #[cfg(feature = "gpu")]
            Engine::Gpu(s) => s.run().map_err(|e| Diagnostics::from(*e)),
            Engine::Reference(r) => r.run(),
            Engine::Placed(p) => p.run(),
        }
    }

    /// Returns when all runs are computed; reading an output or a state waits as well. Only a GPU computes
    /// while its caller goes on.
    pub fn wait(&mut self) -> Result<(), Diagnostics> {
        match &mut self.engine {
            #[cfg(feature = "gpu")]
            Engine::Gpu(s) => s.wait().map_err(|e| Diagnostics::from(*e)),
            #[cfg(feature = "cpu")]
            Engine::Cpu(_) => Ok(()),
            // A run over both queues waits for its results.
            Engine::Interpreter(_) | Engine::Reference(_) | Engine::Placed(_) => Ok(()),
        }
    }

    /// Runs once; `times` then has how long each launch took, in the order of execution: nothing on engines
    /// that time no launches.
    pub fn run_timed(&mut self, times: &mut Vec<(LaunchId, Duration)>) -> Result<(), Diagnostics> {
        times.clear();
        match &mut self.engine {
            #[cfg(feature = "cpu")]
            Engine::Cpu(s) => {
                s.run_timed(times);
                Ok(())
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(s) => s.run_timed(times).map_err(|e| Diagnostics::from(*e)),
            Engine::Interpreter(_) | Engine::Reference(_) | Engine::Placed(_) => self.run(),
        }
    }

    /// What the last run cost its caller for each launch until the device had them all, on a GPU.
    pub fn launch_overhead(&self) -> Option<Duration> {
        match &self.engine {
            #[cfg(feature = "gpu")]
            Engine::Gpu(s) => s.launch_overhead(),
            #[cfg(feature = "cpu")]
            Engine::Cpu(_) => None,
            Engine::Interpreter(_) | Engine::Reference(_) | Engine::Placed(_) => None,
        }
    }

    /// Makes an output of the last run an input of the next one. On a GPU the values do not leave it. E0874
    /// where their types differ.
    pub fn carry(&mut self, output: usize, input: usize) -> Result<(), Diagnostics> {
        match (self.signature.outputs.get(output), self.signature.inputs.get(input)) {
            (Some(from), Some(to)) if from == to => {}
            (Some(from), Some(to)) => {
                let message = format!("output {output} is {from}, input {input} takes {to}");
                return Err(Diagnostic::error("E0874", None, message).into());
            }
            (from, _) => {
                let (what, i) = if from.is_none() { ("output", output) } else { ("input", input) };
                let message = format!("the model has no {what} {i}");
                return Err(Diagnostic::error("E0874", None, message).into());
            }
        }
        match &mut self.engine {
            #[cfg(feature = "cpu")]
            Engine::Cpu(s) => s.carry(output, input),
            Engine::Interpreter(s) => s.carry(output, input),
            #[cfg(feature = "gpu")]
            Engine::Gpu(s) => s.carry(output, input),
            Engine::Reference(r) => r.env.inputs[input] = r.outputs[output].clone(),
            Engine::Placed(p) => {
                let value = p.output(output)?;
                p.set_input(input, &value)?;
            }
        }
        Ok(())
    }

    /// A copy of an output. On a GPU this waits for the last run.
    pub fn output(&self, i: usize) -> Result<Tensor, Diagnostics> {
        match &self.engine {
            #[cfg(feature = "cpu")]
            Engine::Cpu(s) => Ok(s.output_tensor(i)),
            Engine::Interpreter(s) => Ok(s.output_tensor(i)),
            #[cfg(feature = "gpu")]
            Engine::Gpu(s) => s.output_tensor(i).map_err(|e| Diagnostics::from(*e)),
            Engine::Reference(r) => Ok(r.outputs[i].clone()),
            Engine::Placed(p) => p.output(i),
        }
    }

    /// A copy of a state. On a GPU this waits for the last run.
    pub fn state(&self, i: usize) -> Result<Tensor, Diagnostics> {
        match &self.engine {
            #[cfg(feature = "cpu")]
            Engine::Cpu(s) => Ok(s.state_tensor(i)),
            Engine::Interpreter(s) => Ok(s.state_tensor(i)),
            #[cfg(feature = "gpu")]
            Engine::Gpu(s) => s.state_tensor(i).map_err(|e| Diagnostics::from(*e)),
            Engine::Reference(r) => Ok(r.env.states[i].clone()),
            Engine::Placed(p) => p.state(i),
        }
    }

    /// Sets a state.
    pub fn set_state(&mut self, i: usize, value: &Tensor) -> Result<(), Diagnostics> {
        match &mut self.engine {
            #[cfg(feature = "cpu")]
            Engine::Cpu(s) => s.set_state(i, value.bytes()).map_err(|e| e.diagnostic().into()),
            Engine::Interpreter(s) => {
                s.set_state(i, value.bytes()).map_err(|e| e.diagnostic().into())
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(s) => s.set_state(i, value.bytes()).map_err(|e| Diagnostics::from(*e)),
            Engine::Reference(r) => {
                r.env.states[i] = value.clone();
                Ok(())
            }
            Engine::Placed(p) => p.set_state(i, value),
        }
    }

    /// Puts all states back to their initial values.
    pub fn reset(&mut self) -> Result<(), Diagnostics> {
        for (i, value) in self.initial.clone().iter().enumerate() {
            self.set_state(i, value)?;
        }
        Ok(())
    }

    /// The machine-code session, where there is one: for timing and for looking at launches.
    #[cfg(feature = "cpu")]
    pub fn cpu(&mut self) -> Option<&mut cpu::Session> {
        match &mut self.engine {
            Engine::Cpu(s) => Some(s),
            #[cfg(feature = "gpu")]
            Engine::Gpu(_) => None,
            Engine::Interpreter(_) | Engine::Reference(_) | Engine::Placed(_) => None,
        }
    }
}

/// What runs a plan.
fn engine(
    plan: &Plan,
    weights: &Weights,
    options: &Options,
    pool: &mut Threads,
) -> Result<Engine, Diagnostics> {
    match plan.target.row.kind {
        Kind::Reference => Ok(Engine::Reference(Reference::new(plan, weights)?)),
        Kind::Interpreter => {
            let program = plan.ready(weights)?;
            Ok(Engine::Interpreter(Interpreter::new(program).map_err(|e| e.diagnostic())?))
        }
        Kind::Cpu(_) | Kind::Cranelift => cpu_engine(plan, weights, options, pool),
        #[cfg(feature = "gpu")]
        Kind::Gpu => gpu_engine(plan, weights, options),
        #[cfg(not(feature = "gpu"))]
        Kind::Gpu => unreachable!("the table has it only with that part"),
        Kind::Later => {
            let message = format!("target `{}` cannot run yet", plan.target.row.name);
            Err(Diagnostic::error("E0802", None, message).into())
        }
    }
}

#[cfg(feature = "cpu")]
fn cpu_engine(
    plan: &Plan,
    weights: &Weights,
    options: &Options,
    pool: &mut Threads,
) -> Result<Engine, Diagnostics> {
    engine_on(plan.executable(weights, options)?, options, pool)
}

#[cfg(feature = "cpu")]
fn engine_on(
    executable: Arc<cpu::Executable>,
    options: &Options,
    pool: &mut Threads,
) -> Result<Engine, Diagnostics> {
    let shared = options.threads > 1 && executable.is_shareable();
    let made = || Arc::new(Pool::new(options.threads));
    let pool = shared.then(|| pool.get_or_insert_with(made).clone());
    let session = cpu::Session::with_pool(executable, pool).map_err(|e| e.diagnostic())?;
    Ok(Engine::Cpu(session))
}

#[cfg(not(feature = "cpu"))]
fn cpu_engine(
    plan: &Plan,
    weights: &Weights,
    _: &Options,
    _: &mut Threads,
) -> Result<Engine, Diagnostics> {
    let program: Arc<_> = plan.ready(weights)?;
    Ok(Engine::Interpreter(Interpreter::new(program).map_err(|e| e.diagnostic())?))
}

/// Initial values of a graph's states, from the seed and their paths.
pub fn initial_states(graph: &Graph, seed: u64) -> Result<Vec<Tensor>, Diagnostics> {
    let of = |s: &crate::ir::graph::StatePair| {
        let node = graph.node(s.node);
        let (recipe, path) = (node.op.str("init"), node.op.str("name"));
        initial_value(recipe, &node.results[0], seed, path).map_err(|e| of_op(e).into())
    };
    graph.states.iter().map(of).collect()
}

/// A plan's program on the adapter of the options.
#[cfg(feature = "gpu")]
pub(crate) fn shaders(
    plan: &Plan,
    weights: &Weights,
    options: &Options,
) -> Result<Arc<gpu::session::Compiled>, Diagnostics> {
    let device = gpu::device::Device::shared(options.adapter.as_deref())?;
    let (program, keep) = (plan.ready(weights)?, options.keep.as_deref());
    let how = (options.matmul, &options.target.machine.tiles);
    Ok(Arc::new(gpu::session::Compiled::new(program, device, how, keep)?))
}

#[cfg(feature = "gpu")]
fn gpu_engine(plan: &Plan, weights: &Weights, options: &Options) -> Result<Engine, Diagnostics> {
    let compiled = shaders(plan, weights, options)?;
    let session = gpu::session::Session::new(compiled).map_err(|e| Diagnostics::from(*e))?;
    Ok(Engine::Gpu(session))
}

impl Reference {
    fn new(plan: &Plan, weights: &Weights) -> Result<Reference, Diagnostics> {
        let zero = |ty: &crate::base::TensorType| {
            let shape = ty.shape.concrete().unwrap_or_default();
            Tensor::zeros(ty.dtype, &shape).ok_or_else(|| {
                let message = format!("no memory for {ty}");
                Diagnostics::from(Diagnostic::error("E0853", None, message))
            })
        };
        let graph = plan.bound.clone();
        let of = |id: crate::ir::NodeId| zero(&graph.node(id).results[0]);
        let inputs = graph.inputs.iter().map(|id| of(*id)).collect::<Result<_, _>>()?;
        let states = graph.states.iter().map(|s| of(s.node)).collect::<Result<_, _>>()?;
        let outputs =
            graph.outputs.iter().map(|o| zero(graph.ty(o.value))).collect::<Result<_, _>>()?;
        let params = parameters(&graph, weights)?;
        Ok(Reference { graph, env: Env { inputs, params, states }, outputs })
    }

    fn run(&mut self) -> Result<(), Diagnostics> {
        let results = evaluate(&self.graph, &self.env, Precision::Own).map_err(of_op)?;
        (self.outputs, self.env.states) = (results.outputs, results.states);
        Ok(())
    }
}
