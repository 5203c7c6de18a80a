//! A model with all its dimensions bound, as programs on one queue or on two.
//!
//! In: a bound graph and the options. Out: [`Placed`]: a [`Plan`] for each segment, in the order of a
//! run, and where their inputs and the model's outputs come from. A model that lands on one queue is one
//! segment, the graph as it was; `session` then runs it as any other.

mod far;
pub(crate) mod run;
pub mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use far::Far;

use crate::base::Tensor;
use crate::base::codes;
use crate::base::diag::Diagnostic;
use crate::ir::graph::{Graph, NodeId};
use crate::model::{Diagnostics, Options};
use crate::plan::Plan;
use crate::schedule::place::{Costs, Origin, Part, Placing, Rule, Split, Units};
use crate::schedule::program::{Port, Program, Queue};
use crate::session::{Signature, initial_states};
use crate::target::{Kind, Target};

/// Which queue computes what.
#[derive(Clone, Debug)]
pub struct Place {
    pub rule: Rule,
    /// Computes what is placed on the GPU, in the place of an adapter; for tests.
    pub stand_in: Option<Target>,
}

impl Place {
    pub fn new(rule: Rule) -> Place {
        Place { rule, stand_in: None }
    }

    /// An error where a target cannot be placed on queues: E0872.
    pub fn check(&self, target: &Target) -> Result<(), Diagnostics> {
        match self.rule {
            Rule::All(Queue::Cpu) => Ok(()),
            Rule::All(Queue::Gpu) | Rule::Auto | Rule::File(_) => near(target).map(|_| ()),
        }
    }
}

/// A program of a placed model.
pub struct Segment {
    pub queue: Queue,
    pub plan: Arc<Plan>,
    /// Of each input of the program.
    pub origins: Vec<Origin>,
}

pub struct Placed {
    /// In the order of a run.
    pub segments: Vec<Segment>,
    /// Segment and output of each output of the model.
    pub outputs: Vec<(usize, usize)>,
    /// Segment and state of each state of the model.
    pub states: Vec<(usize, usize)>,
    pub(crate) signature: Signature,
    /// What the queues take; none where nothing was to be chosen.
    pub costs: Option<Costs>,
    /// Why the queues are not what one may expect.
    pub note: Option<String>,
}

impl Placed {
    pub fn new(bound: Graph, options: &Options) -> Result<Placed, Diagnostics> {
        let Some(place) = &options.place else {
            return Placed::whole(bound, &options.target, options);
        };
        if matches!(place.rule, Rule::All(Queue::Cpu)) && options.target.row.kind != Kind::Gpu {
            return Placed::whole(bound, &options.target, options);
        }
        let near = near(&options.target)?;
        if let Rule::All(Queue::Cpu) = place.rule {
            return Placed::whole(bound, &near, options);
        }
        match far::find(place, options)? {
            Ok(far) => Queues { near, far, options, bound: &bound }.placed(&place.rule),
            Err(why) => {
                let note = Some(format!("all on the queue cpu: {why}"));
                Ok(Placed { note, ..Placed::whole(bound, &near, options)? })
            }
        }
    }

    /// The graph as one segment.
    fn whole(bound: Graph, target: &Target, options: &Options) -> Result<Placed, Diagnostics> {
        let queue = if target.row.kind == Kind::Gpu { Queue::Gpu } else { Queue::Cpu };
        let origins = (0..bound.inputs.len()).map(Origin::Input).collect();
        let all = |n: usize| (0..n).map(|i| (0, i)).collect();
        let (outputs, states) = (all(bound.outputs.len()), all(bound.states.len()));
        let signature = Signature::of(&bound);
        let plan = Arc::new(Plan::on(bound, target, options)?);
        let segments = vec![Segment { queue, plan, origins }];
        Ok(Placed { segments, outputs, states, signature, costs: None, note: None })
    }

    /// The plan, where one queue computes all.
    pub fn single(&self) -> Result<&Arc<Plan>, Diagnostics> {
        match &self.segments[..] {
            [one] => Ok(&one.plan),
            _ => {
                let message = "the model is split over two queues";
                let help = "ask for it on one of them: `--place cpu` or `--place gpu`";
                Err(Diagnostic::error(codes::TWO_QUEUES, None, message).help(help).into())
            }
        }
    }

    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.segments.iter().map(|s| &s.plan.program)
    }

    /// The model's inputs, each once, where some program reads them.
    pub fn inputs(&self) -> impl Iterator<Item = &Port> {
        let read = self.segments.iter().flat_map(|s| s.origins.iter().zip(&s.plan.program.inputs));
        let mut inputs: BTreeMap<usize, &Port> = BTreeMap::new();
        for (origin, port) in read {
            if let Origin::Input(i) = origin {
                inputs.insert(*i, port);
            }
        }
        inputs.into_values()
    }

    /// The model's outputs.
    pub fn outputs(&self) -> impl Iterator<Item = &Port> {
        self.outputs.iter().map(|(part, i)| &self.segments[*part].plan.program.outputs[*i])
    }

    /// FLOP of a run.
    pub fn flops(&self) -> u64 {
        self.programs().fold(0, |sum, p| sum.saturating_add(p.flops()))
    }

    /// Bytes of all arenas.
    pub fn arena_bytes(&self) -> u64 {
        self.programs().map(|p| p.arena_bytes).sum()
    }

    /// Initial values of the states.
    pub(crate) fn initial(&self, seed: u64) -> Result<Vec<Tensor>, Diagnostics> {
        let of = |s: &Segment| initial_states(&s.plan.bound, seed);
        let all = self.segments.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        Ok(self.states.iter().map(|(part, i)| all[*part][*i].clone()).collect())
    }
}

/// What computes the queue `cpu`.
fn near(target: &Target) -> Result<Target, Diagnostics> {
    match target.row.kind {
        Kind::Cpu(_) | Kind::Cranelift | Kind::Interpreter => Ok(target.clone()),
        Kind::Gpu => Ok(Target::host()),
        Kind::Reference | Kind::Later => {
            let name = target.row.name;
            let message = format!("target `{name}` is not placed on queues");
            let help = "leave `--place` away, or take the target cpu or gpu";
            Err(Diagnostic::error(codes::QUEUE_TARGET, None, message).help(help).into())
        }
    }
}

/// Both queues, and what is to be placed on them.
struct Queues<'a> {
    near: Target,
    far: Far,
    options: &'a Options,
    bound: &'a Graph,
}

impl Queues<'_> {
    fn placed(&self, rule: &Rule) -> Result<Placed, Diagnostics> {
        let graph = self.bound;
        let named = match rule {
            Rule::File(rules) => {
                rules.of(graph).map_err(|list| Diagnostics { sources: rules.sources(), list })?
            }
            Rule::Auto | Rule::All(_) => Default::default(),
        };
        let units = Units::of(graph, &|id| named.contains_key(&id));
        let last =
            |nodes: &[NodeId]| nodes.iter().filter_map(|id| named.get(id)).max().map(|l| l.1);
        let wanted: Vec<Option<Queue>> = match rule {
            Rule::All(queue) => vec![Some(*queue); units.all.len()],
            Rule::Auto | Rule::File(_) => units.all.iter().map(|u| last(&u.nodes)).collect(),
        };
        let Far { kind, abilities, .. } = self.far;
        let costs = Costs::of(&self.near.machine, self.options.threads, kind, abilities);
        let mut refused = BTreeSet::new();
        loop {
            let placing =
                Placing::except(graph, &units, &costs, &wanted, &|u| refused.contains(&u));
            let placed = self.compiled(&units, &placing)?;
            let more = self.refused(&units, &placing, &placed)?;
            if more.is_empty() {
                return Ok(Placed { costs: Some(costs), ..placed });
            }
            refused.extend(more);
        }
    }

    fn target(&self, queue: Queue) -> &Target {
        match queue {
            Queue::Cpu => &self.near,
            Queue::Gpu => &self.far.target,
        }
    }

    fn compiled(&self, units: &Units, placing: &Placing) -> Result<Placed, Diagnostics> {
        let segments = &placing.timeline.segments;
        match &placing.queues[..] {
            [] => return Placed::whole(self.bound.clone(), &self.near, self.options),
            [first, rest @ ..] if rest.iter().all(|q| q == first) => {
                let whole = Placed::whole(self.bound.clone(), self.target(*first), self.options)?;
                // A stand-in is a target of the other queue.
                let segments =
                    whole.segments.into_iter().map(|s| Segment { queue: *first, ..s }).collect();
                return Ok(Placed { segments, ..whole });
            }
            _ => {}
        }
        let Split { parts, outputs, states } = Split::of(self.bound, units, segments);
        let segment = |part: Part| {
            let plan = Arc::new(Plan::on(part.graph, self.target(part.queue), self.options)?);
            Ok(Segment { queue: part.queue, plan, origins: part.origins })
        };
        let segments = parts.into_iter().map(segment).collect::<Result<_, Diagnostics>>()?;
        let signature = Signature::of(self.bound);
        let placed = Placed { segments, outputs, states, signature, costs: None, note: None };
        within_budget(&placed, self.options)?;
        Ok(placed)
    }

    /// Units that the adapter does not compute, or else all of the segments that it refuses.
    fn refused(
        &self,
        units: &Units,
        placing: &Placing,
        placed: &Placed,
    ) -> Result<BTreeSet<usize>, Diagnostics> {
        let mut refused = BTreeSet::new();
        let segments = placing.timeline.segments.iter().zip(&placed.segments);
        for (segment, compiled) in segments.filter(|(_, s)| s.queue == Queue::Gpu) {
            if self.far.takes(&compiled.plan.program)? {
                continue;
            }
            let mut guilty = vec![];
            for unit in &segment.units {
                let alone = Split::alone(self.bound, units, *unit);
                let plan = Plan::on(alone, &self.far.target, self.options)?;
                if !self.far.takes(&plan.program)? {
                    guilty.push(*unit);
                }
            }
            match guilty.is_empty() {
                true => refused.extend(&segment.units),
                false => refused.extend(guilty),
            }
        }
        Ok(refused)
    }
}

/// An error where the programs together take more memory than the options allow.
fn within_budget(placed: &Placed, options: &Options) -> Result<(), Diagnostics> {
    let taken = placed.arena_bytes();
    let Some(budget) = options.mem_budget.filter(|b| taken > *b) else { return Ok(()) };
    let message = format!("the arenas take {taken} bytes, the budget is {budget}");
    Err(Diagnostic::error(codes::OVER_BUDGET, None, message).into())
}
