//! A run of a model over both queues.
//!
//! Segments on a device are submitted as soon as all that they read of the CPU is there, and their
//! results are asked for right behind them; the caller's thread computes the CPU's segments
//! meanwhile, and waits for a result only when one of them reads it. Values that stay on a device
//! are read where they are.

#[cfg(feature = "gpu")]
use std::collections::BTreeMap;

use super::{Placed, Segment};
use crate::base::Tensor;
use crate::base::diag::Diagnostic;
use crate::import::Weights;
use crate::model::{Diagnostics, Options};
#[cfg(feature = "gpu")]
use crate::runtime::gpu;
use crate::schedule::place::Origin;
#[cfg(feature = "gpu")]
use crate::session::shaders;
use crate::session::{Session, Threads};
#[cfg(feature = "gpu")]
use crate::target::Kind;

pub(crate) struct Run {
    workers: Vec<Worker>,
    /// Segments in the order in which they are begun.
    order: Vec<usize>,
    /// What a segment is given before it begins.
    moves: Vec<Vec<Move>>,
    /// Segments and their inputs, for each input of the model.
    inputs: Vec<Vec<(usize, usize)>>,
    outputs: Vec<(usize, usize)>,
    states: Vec<(usize, usize)>,
}

/// An output of one segment to an input of another.
#[derive(Clone, Copy)]
struct Move {
    part: usize,
    output: usize,
    input: usize,
}

enum Worker {
    Here(Box<Session>),
    #[cfg(feature = "gpu")]
    Device(Box<Device>),
}

/// A session on a device, and what is on its way from there.
#[cfg(feature = "gpu")]
struct Device {
    session: gpu::session::Session,
    /// Outputs that are read here.
    read: Vec<usize>,
    asked: BTreeMap<usize, gpu::fetch::Fetch>,
    /// Those that were read.
    outputs: BTreeMap<usize, Tensor>,
}

impl Run {
    pub fn new(placed: &Placed, weights: &Weights, options: &Options) -> Result<Run, Diagnostics> {
        let mut pool: Threads = None;
        let (mut workers, mut moves): (Vec<Worker>, Vec<Vec<Move>>) = (vec![], vec![]);
        for segment in &placed.segments {
            let given = given(segment);
            let worker = worker(segment, &given, &workers, weights, options, &mut pool)?;
            let stays = |m: &Move| worker.is_device() && workers[m.part].is_device();
            moves.push(given.into_iter().filter(|m| !stays(m)).collect());
            workers.push(worker);
        }
        let mut run = Run {
            order: order(placed, &workers),
            inputs: inputs(placed),
            outputs: placed.outputs.clone(),
            states: placed.states.clone(),
            workers,
            moves,
        };
        run.ask_for();
        Ok(run)
    }

    /// Tells devices which results are read here.
    fn ask_for(&mut self) {
        let moved = self.moves.iter().flatten().map(|m| (m.part, m.output));
        let mut read: Vec<(usize, usize)> = moved.chain(self.outputs.iter().copied()).collect();
        read.sort();
        read.dedup();
        for (part, output) in read {
            self.workers[part].ask_for(output);
        }
    }

    /// What the user should know of how segments run.
    pub fn warnings(&self) -> &[Diagnostic] {
        self.workers.iter().map(Worker::warnings).find(|w| !w.is_empty()).unwrap_or(&[])
    }

    pub fn set_input(&mut self, i: usize, value: &Tensor) -> Result<(), Diagnostics> {
        // An input that nobody reads has no place.
        for (part, input) in self.inputs.get(i).into_iter().flatten() {
            self.workers[*part].set_input(*input, value)?;
        }
        Ok(())
    }

    pub fn run(&mut self) -> Result<(), Diagnostics> {
        for part in self.order.clone() {
            for Move { part: from, output, input } in self.moves[part].clone() {
                let value = self.workers[from].take(output)?;
                self.workers[part].set_input(input, &value)?;
            }
            self.workers[part].begin()?;
        }
        self.workers.iter_mut().try_for_each(Worker::finish)
    }

    pub fn output(&self, i: usize) -> Result<Tensor, Diagnostics> {
        let (part, output) = self.outputs[i];
        self.workers[part].output(output)
    }

    pub fn state(&self, i: usize) -> Result<Tensor, Diagnostics> {
        let (part, state) = self.states[i];
        match &self.workers[part] {
            Worker::Here(s) => s.state(state),
            #[cfg(feature = "gpu")]
            Worker::Device(d) => Ok(d.session.state_tensor(state)?),
        }
    }

    pub fn set_state(&mut self, i: usize, value: &Tensor) -> Result<(), Diagnostics> {
        let (part, state) = self.states[i];
        match &mut self.workers[part] {
            Worker::Here(s) => s.set_state(state, value),
            #[cfg(feature = "gpu")]
            Worker::Device(d) => Ok(d.session.set_state(state, value.bytes())?),
        }
    }
}

/// What a segment reads of others.
fn given(segment: &Segment) -> Vec<Move> {
    let read = |(input, origin): (usize, &Origin)| match origin {
        Origin::Input(_) => None,
        Origin::Part { part, output } => Some(Move { part: *part, output: *output, input }),
    };
    segment.origins.iter().enumerate().filter_map(read).collect()
}

fn inputs(placed: &Placed) -> Vec<Vec<(usize, usize)>> {
    let mut inputs: Vec<Vec<(usize, usize)>> = vec![];
    for (part, segment) in placed.segments.iter().enumerate() {
        for (port, origin) in segment.origins.iter().enumerate() {
            if let Origin::Input(i) = origin {
                inputs.resize(inputs.len().max(i + 1), vec![]);
                inputs[*i].push((part, port));
            }
        }
    }
    inputs
}

/// Segments on devices as early as they can be, the others in the order of the plan.
fn order(placed: &Placed, workers: &[Worker]) -> Vec<usize> {
    let mut begun = vec![false; workers.len()];
    let mut order = vec![];
    while order.len() < workers.len() {
        let open = || (0..workers.len()).filter(|s| !begun[*s]);
        let ready = |s: &usize| given(&placed.segments[*s]).iter().all(|m| begun[m.part]);
        let next = open().find(|s| workers[*s].is_device() && ready(s)).or(open().find(ready));
        // Segments come after those that they read.
        let next = next.expect("some segment can begin");
        begun[next] = true;
        order.push(next);
    }
    order
}

#[cfg(feature = "gpu")]
fn worker(
    segment: &Segment,
    given: &[Move],
    before: &[Worker],
    weights: &Weights,
    options: &Options,
    pool: &mut Threads,
) -> Result<Worker, Diagnostics> {
    if segment.plan.target.row.kind != Kind::Gpu {
        return Ok(Worker::Here(Box::new(Session::of(&segment.plan, weights, options, pool)?)));
    }
    let compiled = shaders(&segment.plan, weights, options)?;
    let resident = |m: &Move| match &before[m.part] {
        Worker::Device(d) => Some((m.input, d.session.resident(m.output))),
        Worker::Here(_) => None,
    };
    let inputs = given.iter().filter_map(resident).collect();
    let session = gpu::session::Session::reading(compiled, &inputs)?;
    let (read, asked, outputs) = (vec![], BTreeMap::new(), BTreeMap::new());
    Ok(Worker::Device(Box::new(Device { session, read, asked, outputs })))
}

#[cfg(not(feature = "gpu"))]
fn worker(
    segment: &Segment,
    _: &[Move],
    _: &[Worker],
    weights: &Weights,
    options: &Options,
    pool: &mut Threads,
) -> Result<Worker, Diagnostics> {
    Ok(Worker::Here(Box::new(Session::of(&segment.plan, weights, options, pool)?)))
}

impl Worker {
    fn warnings(&self) -> &[Diagnostic] {
        match self {
            Worker::Here(s) => s.warnings(),
            #[cfg(feature = "gpu")]
            Worker::Device(d) => d.session.warnings(),
        }
    }

    fn is_device(&self) -> bool {
        match self {
            Worker::Here(_) => false,
            #[cfg(feature = "gpu")]
            Worker::Device(_) => true,
        }
    }

    fn ask_for(&mut self, _output: usize) {
        match self {
            Worker::Here(_) => {}
            #[cfg(feature = "gpu")]
            Worker::Device(d) => d.read.push(_output),
        }
    }

    fn set_input(&mut self, i: usize, value: &Tensor) -> Result<(), Diagnostics> {
        match self {
            Worker::Here(s) => s.set_input(i, value),
            #[cfg(feature = "gpu")]
            Worker::Device(d) => Ok(d.session.set_input(i, value.bytes())?),
        }
    }

    /// Runs, or has a device run.
    fn begin(&mut self) -> Result<(), Diagnostics> {
        match self {
            Worker::Here(s) => s.run(),
            #[cfg(feature = "gpu")]
            Worker::Device(d) => {
                // What a failed run asked for is not wanted any more.
                d.asked.clear();
                d.session.run()?;
                for output in &d.read {
                    d.asked.insert(*output, d.session.fetch(*output)?);
                }
                Ok(())
            }
        }
    }

    /// An output of this run, waited for.
    fn take(&mut self, i: usize) -> Result<Tensor, Diagnostics> {
        match self {
            Worker::Here(_) => {}
            #[cfg(feature = "gpu")]
            Worker::Device(d) => {
                if let Some(fetch) = d.asked.remove(&i) {
                    d.outputs.insert(i, fetch.take()?);
                }
            }
        }
        self.output(i)
    }

    /// Waits for all that is read here.
    fn finish(&mut self) -> Result<(), Diagnostics> {
        match self {
            Worker::Here(_) => Ok(()),
            #[cfg(feature = "gpu")]
            Worker::Device(d) => {
                while let Some((i, fetch)) = d.asked.pop_first() {
                    d.outputs.insert(i, fetch.take()?);
                }
                Ok(())
            }
        }
    }

    fn output(&self, i: usize) -> Result<Tensor, Diagnostics> {
        match self {
            Worker::Here(s) => s.output(i),
            #[cfg(feature = "gpu")]
            Worker::Device(d) => match d.outputs.get(&i) {
                Some(read) => Ok(read.clone()),
                None => Ok(d.session.output_tensor(i)?),
            },
        }
    }
}
