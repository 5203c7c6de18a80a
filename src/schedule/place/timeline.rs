//! Segments, and when each of them runs.
//!
//! In: a queue for each unit. A segment is all units of one queue that lie at one depth from both
//! ends, in changes of the queue. Along an edge the depth from the start never falls and that to
//! the end never rises, and a change of the queue moves one of them; so segments never wait for
//! each other in a circle, and units that may run beside another queue's are not drawn into a
//! segment that waits for it. Out: the segments in the order of a run, and what the whole takes.
//!
//! A segment begins when its inputs are there and its queue is free; its values are there for others
//! when all of it has run.

use std::collections::BTreeMap;

use super::cost::{self, Costs};
use super::units::Units;
use super::{number, other};
use crate::ir::graph::{Graph, Value};
use crate::schedule::program::Queue;

/// Units that run as one program.
#[derive(Clone, PartialEq, Debug)]
pub struct Segment {
    pub queue: Queue,
    /// Ascending.
    pub units: Vec<usize>,
    pub start_us: f64,
    pub end_us: f64,
}

#[derive(Clone, Debug)]
pub struct Timeline {
    /// In the order of a run.
    pub segments: Vec<Segment>,
    pub total_us: f64,
}

/// The first and the last change of the queue as seen from a unit, and its queue.
type Key = (usize, usize, Queue);

/// What does not change from one assignment to the next.
pub struct Problem<'a> {
    pub graph: &'a Graph,
    pub units: &'a Units,
    pub times: &'a [[Option<f64>; 2]],
    pub costs: &'a Costs,
}

impl Problem<'_> {
    /// Microseconds of a unit on a queue. One that the queue cannot compute is refused elsewhere.
    pub fn time(&self, unit: usize, queue: Queue) -> f64 {
        self.times[unit][number(queue)].unwrap_or(f64::MAX / 1e9)
    }

    pub fn timeline(&self, queues: &[Queue]) -> Timeline {
        let keys = keys(self.units, queues);
        let mut sorted: Vec<Key> = keys.clone();
        sorted.sort_by_key(|(up, down, queue)| (*up, usize::MAX - *down, *queue));
        sorted.dedup();
        let place: BTreeMap<Key, usize> = sorted.iter().enumerate().map(|(i, k)| (*k, i)).collect();
        let of: Vec<usize> = keys.iter().map(|k| place[k]).collect();
        let mut segments: Vec<Segment> = sorted
            .iter()
            .map(|key| Segment { queue: key.2, units: vec![], start_us: 0.0, end_us: 0.0 })
            .collect();
        of.iter().enumerate().for_each(|(unit, s)| segments[*s].units.push(unit));
        self.run(segments, &of)
    }

    /// Takes always the segment that can begin first.
    fn run(&self, mut segments: Vec<Segment>, of: &[usize]) -> Timeline {
        let n = segments.len();
        let arrivals = self.arrivals(&segments, of);
        let mut users = vec![vec![]; n];
        let mut missing = vec![0; n];
        for (s, reads) in arrivals.reads.iter().enumerate() {
            missing[s] = reads.len();
            reads.keys().for_each(|r| users[*r].push(s));
        }
        let mut there = arrivals.inputs;
        let mut ready: Vec<usize> = (0..n).filter(|s| missing[*s] == 0).collect();
        let (mut free, mut order, mut total) = ([0.0f64; 2], vec![], 0.0f64);
        while !ready.is_empty() {
            let start = |s: &usize| there[*s].max(free[number(segments[*s].queue)]);
            let first = (0..ready.len())
                .min_by(|a, b| {
                    let (a, b) = (ready[*a], ready[*b]);
                    start(&a).total_cmp(&start(&b)).then(a.cmp(&b))
                })
                .expect("some segment is ready");
            let s = ready.swap_remove(first);
            let segment = &mut segments[s];
            let queue = segment.queue;
            segment.start_us = there[s].max(free[number(queue)]);
            let time: f64 = segment.units.iter().map(|u| self.time(*u, queue)).sum();
            segment.end_us = segment.start_us + time;
            free[number(queue)] = segment.end_us;
            total = total.max(segment.end_us + arrivals.home[s]);
            for user in &users[s] {
                let arrival = segments[s].end_us + arrivals.reads[*user][&s];
                there[*user] = there[*user].max(arrival);
                missing[*user] -= 1;
                if missing[*user] == 0 {
                    ready.push(*user);
                }
            }
            order.push(s);
        }
        let mut taken: Vec<Option<Segment>> = segments.into_iter().map(Some).collect();
        let segments = order.into_iter().filter_map(|s| taken[s].take()).collect();
        Timeline { segments, total_us: total }
    }

    /// How long values are on their way.
    fn arrivals(&self, segments: &[Segment], of: &[usize]) -> Arrivals {
        let n = segments.len();
        let mut out =
            Arrivals { inputs: vec![0.0; n], reads: vec![BTreeMap::new(); n], home: vec![0.0; n] };
        let far = |s: usize| segments[s].queue == Queue::Gpu;
        let mut inputs: Vec<Vec<Value>> = vec![vec![]; n];
        let mut crossing: Vec<Vec<Value>> = vec![vec![]; n];
        for (u, unit) in self.units.all.iter().enumerate() {
            let s = of[u];
            for v in &unit.imports {
                let Some(from) = self.units.unit(v.node).map(|u| of[u]) else {
                    inputs[s].push(*v);
                    continue;
                };
                if from != s {
                    out.reads[s].entry(from).or_insert(0.0);
                    if segments[from].queue != segments[s].queue {
                        crossing[from].push(*v);
                    }
                }
            }
        }
        let transfer = |mut values: Vec<Value>| {
            values.sort();
            values.dedup();
            match values.is_empty() {
                true => 0.0,
                false => {
                    let bytes: f64 = values.iter().map(|v| cost::bytes(self.graph, *v)).sum();
                    self.costs.transfer(bytes as u64)
                }
            }
        };
        // What leaves a segment for the other queue does so together.
        let leaves: Vec<f64> = crossing.into_iter().map(transfer).collect();
        for (s, reads) in out.reads.iter_mut().enumerate() {
            for (from, time) in reads {
                if segments[*from].queue == other(segments[s].queue) {
                    *time = leaves[*from];
                }
            }
        }
        for (s, values) in inputs.into_iter().enumerate().filter(|(s, _)| far(*s)) {
            out.inputs[s] = transfer(values);
        }
        let mut outputs: Vec<Vec<Value>> = vec![vec![]; n];
        for output in &self.graph.outputs {
            if let Some(u) = self.units.unit(output.value.node) {
                outputs[of[u]].push(output.value);
            }
        }
        for (s, values) in outputs.into_iter().enumerate().filter(|(s, _)| far(*s)) {
            out.home[s] = transfer(values);
        }
        out
    }
}

struct Arrivals {
    /// Of the model's inputs, by segment.
    inputs: Vec<f64>,
    /// By segment and the segment that it reads.
    reads: Vec<BTreeMap<usize, f64>>,
    /// Of outputs, by segment.
    home: Vec<f64>,
}

fn keys(units: &Units, queues: &[Queue]) -> Vec<Key> {
    let n = units.all.len();
    let (mut up, mut down) = (vec![0; n], vec![0; n]);
    let step = |a: usize, b: usize| (queues[a] != queues[b]) as usize;
    for u in 0..n {
        for r in &units.all[u].reads {
            up[u] = up[u].max(up[*r] + step(*r, u));
        }
    }
    for u in (0..n).rev() {
        for r in &units.all[u].reads {
            down[*r] = down[*r].max(down[u] + step(*r, u));
        }
    }
    (0..n).map(|u| (up[u], down[u], queues[u])).collect()
}
