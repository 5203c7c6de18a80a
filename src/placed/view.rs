//! The schedule of a placed model as one: launches with numbers of their own, what moves between the
//! queues, and the longest chain of both.

use std::collections::{BTreeMap, BTreeSet};

use super::{Placed, Segment};
use crate::kernel::ir::Access;
use crate::schedule::place::Origin;
use crate::schedule::program::{Launch, Place, Program, Queue};

/// A launch among those of all segments.
pub struct Row<'a> {
    pub program: &'a Program,
    pub launch: &'a Launch,
    pub queue: Queue,
    pub wave: u32,
    /// Numbers of rows, ascending.
    pub depends_on: Vec<usize>,
    pub estimate_us: f64,
}

/// A value on its way to the other queue.
#[derive(Clone, PartialEq, Debug)]
pub struct Transfer {
    pub value: String,
    pub from: Queue,
    pub to: Queue,
    pub bytes: u64,
    pub estimate_us: f64,
    /// The launch that makes it; none where it is the caller's.
    pub after: Option<usize>,
    /// The first launch that reads it; none where it is for the caller.
    pub before: Option<usize>,
}

pub struct Schedule<'a> {
    /// By number; in the order of a run on each queue.
    pub rows: Vec<Row<'a>>,
    pub transfers: Vec<Transfer>,
    /// The longest chain.
    pub critical: Vec<usize>,
    pub critical_us: f64,
}

impl Placed {
    pub fn schedule(&self) -> Schedule<'_> {
        let mut view = Viewer { placed: self, first: vec![], rows: vec![], transfers: vec![] };
        view.rows();
        view.links();
        view.outputs();
        let (critical, critical_us) = view.longest();
        Schedule { rows: view.rows, transfers: view.transfers, critical, critical_us }
    }
}

struct Viewer<'a> {
    placed: &'a Placed,
    /// The number of the first launch of each segment.
    first: Vec<usize>,
    rows: Vec<Row<'a>>,
    transfers: Vec<Transfer>,
}

impl<'a> Viewer<'a> {
    /// A segment's waves come after those of the segments that it reads, and of the one before it on its
    /// queue.
    fn rows(&mut self) {
        let (mut ends, mut last) = (vec![], BTreeMap::new());
        for segment in &self.placed.segments {
            let program = &segment.plan.program;
            let read = segment.origins.iter().filter_map(|o| match o {
                Origin::Part { part, .. } => Some(ends[*part]),
                Origin::Input(_) => None,
            });
            let wave: u32 = read.chain(last.get(&segment.queue).copied()).max().unwrap_or(0);
            let base = self.rows.len();
            self.first.push(base);
            for launch in &program.launches {
                self.rows.push(Row {
                    program,
                    launch,
                    queue: segment.queue,
                    wave: wave + launch.wave,
                    depends_on: launch.depends_on.iter().map(|d| base + d.0 as usize).collect(),
                    estimate_us: self.estimate(segment.queue, launch),
                });
            }
            let waves = program.launches.iter().map(|l| l.wave + 1).max().unwrap_or(0);
            ends.push(wave + waves);
            last.insert(segment.queue, wave + waves);
        }
    }

    fn estimate(&self, queue: Queue, launch: &Launch) -> f64 {
        match &self.placed.costs {
            Some(costs) => costs.launch(queue, launch.flops, launch.bytes),
            None => launch.estimate_us,
        }
    }

    /// Launches of a segment that read, or that write, buffers at a place.
    fn at(&self, part: usize, place: Place, reads: bool) -> Vec<usize> {
        let program = &self.placed.segments[part].plan.program;
        let touches = |launch: &Launch| {
            let params = &program.kernel(launch.kernel).params;
            launch.args.iter().zip(params).any(|(arg, param)| {
                let hit = match reads {
                    true => param.access != Access::Write,
                    false => param.access != Access::Read,
                };
                hit && program.buffer(arg.buffer).place == place
            })
        };
        let found = program.launches.iter().enumerate().filter(|(_, l)| touches(l));
        found.map(|(i, _)| self.first[part] + i).collect()
    }

    /// What segments read of others and of the caller.
    fn links(&mut self) {
        for (part, segment) in self.placed.segments.iter().enumerate() {
            for (i, origin) in segment.origins.iter().enumerate() {
                let readers = self.at(part, Place::Input(i as u32), true);
                let (from, writers) = match origin {
                    Origin::Input(_) => (Queue::Cpu, vec![]),
                    Origin::Part { part, output } => (
                        self.placed.segments[*part].queue,
                        self.at(*part, Place::Output(*output as u32), false),
                    ),
                };
                for reader in &readers {
                    self.rows[*reader].depends_on.extend(&writers);
                }
                if from != segment.queue {
                    let ends = (writers.last().copied(), readers.first().copied());
                    self.transfer(&segment.plan.program.inputs[i], (from, segment.queue), ends);
                }
            }
        }
        for row in &mut self.rows {
            let sorted: BTreeSet<usize> = row.depends_on.drain(..).collect();
            row.depends_on = sorted.into_iter().collect();
        }
    }

    fn outputs(&mut self) {
        let mut seen = BTreeSet::new();
        for (part, output) in &self.placed.outputs {
            let segment: &Segment = &self.placed.segments[*part];
            if segment.queue == Queue::Gpu && seen.insert((*part, *output)) {
                let writers = self.at(*part, Place::Output(*output as u32), false);
                let port = &segment.plan.program.outputs[*output];
                self.transfer(port, (Queue::Gpu, Queue::Cpu), (writers.last().copied(), None));
            }
        }
    }

    fn transfer(
        &mut self,
        port: &crate::schedule::program::Port,
        (from, to): (Queue, Queue),
        (after, before): (Option<usize>, Option<usize>),
    ) {
        // Without a choice there are no figures for it.
        let Some(costs) = &self.placed.costs else { return };
        let elements: u64 = port.shape.iter().map(|d| *d as u64).product();
        let bytes = elements * port.dtype.bytes() as u64;
        let estimate_us = costs.transfer(bytes);
        let value = port.name.to_string();
        self.transfers.push(Transfer { value, from, to, bytes, estimate_us, after, before });
    }

    /// The chain that ends last, and when.
    fn longest(&self) -> (Vec<usize>, f64) {
        // Of a launch, when it ends and the launch that it waited for.
        let mut ends: Vec<(f64, Option<usize>)> = Vec::with_capacity(self.rows.len());
        let mut given = vec![0.0f64; self.rows.len()];
        let mut ways: BTreeMap<(usize, Queue), f64> = BTreeMap::new();
        let mut home = vec![0.0f64; self.rows.len()];
        for t in &self.transfers {
            match (t.after, t.before) {
                (None, Some(reader)) => given[reader] = given[reader].max(t.estimate_us),
                (Some(writer), None) => home[writer] = home[writer].max(t.estimate_us),
                (Some(writer), Some(_)) => {
                    let way = ways.entry((writer, t.to)).or_insert(0.0);
                    *way = way.max(t.estimate_us);
                }
                (None, None) => {}
            }
        }
        for (i, row) in self.rows.iter().enumerate() {
            let (mut start, mut waited) = (given[i], None);
            for d in &row.depends_on {
                let way = match self.rows[*d].queue == row.queue {
                    true => 0.0,
                    false => ways.get(&(*d, row.queue)).copied().unwrap_or(0.0),
                };
                if ends[*d].0 + way >= start {
                    (start, waited) = (ends[*d].0 + way, Some(*d));
                }
            }
            ends.push((start + row.estimate_us, waited));
        }
        let total = |i: &usize| ends[*i].0 + home[*i];
        let last = (0..ends.len()).max_by(|a, b| total(a).total_cmp(&total(b)).then(b.cmp(a)));
        let us = last.as_ref().map_or(0.0, total);
        let mut chain: Vec<usize> = std::iter::successors(last, |i| ends[*i].1).collect();
        chain.reverse();
        (chain, us)
    }
}
