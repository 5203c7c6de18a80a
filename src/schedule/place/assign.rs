//! A queue for each unit.
//!
//! List scheduling after Topcuoglu, Hariri and Wu 2002 (HEFT): units in the order of the longest way to
//! the end, each where it is done first, transfers counted. That sees units, but segments run as a
//! whole; so from its plan, and from those with one queue alone, whole segments are moved to the
//! other queue as long as the timeline of segments gets shorter by it. What stays apart from its
//! neighbours gains more than its transfers cost.

use std::collections::{BTreeMap, BinaryHeap};

use super::cost::{self, Costs};
use super::timeline::{Problem, Timeline};
use super::units::Units;
use super::{QUEUES, number, other};
use crate::ir::graph::{Graph, Value};
use crate::schedule::program::Queue;

/// What one more segment costs besides, so that of equal plans the one with fewer wins; the latency of
/// transfers stands for submissions already.
const SEGMENT_US: f64 = 1.0;
/// Visits of units in all, in trying other plans.
const EFFORT: usize = 20_000_000;

/// Units on queues.
#[derive(Clone, Debug)]
pub struct Placing {
    /// By unit.
    pub queues: Vec<Queue>,
    pub timeline: Timeline,
}

impl Placing {
    /// `wanted`: the queue of each unit, where somebody said one. What a queue cannot compute goes to
    /// the other one all the same.
    pub fn of(graph: &Graph, units: &Units, costs: &Costs, wanted: &[Option<Queue>]) -> Placing {
        Placing::except(graph, units, costs, wanted, &|_| false)
    }

    /// The same; `refused` are units that the GPU turned out not to compute.
    pub fn except(
        graph: &Graph,
        units: &Units,
        costs: &Costs,
        wanted: &[Option<Queue>],
        refused: &dyn Fn(usize) -> bool,
    ) -> Placing {
        let times = cost::times(graph, units, costs);
        let fixed: Vec<Option<Queue>> = (0..units.all.len())
            .map(|u| match times[u][number(Queue::Gpu)].is_none() || refused(u) {
                true => Some(Queue::Cpu),
                false => wanted[u],
            })
            .collect();
        let problem = Problem { graph, units, times: &times, costs };
        let alone = |queue: Queue| fixed.iter().map(|f| f.unwrap_or(queue)).collect::<Vec<_>>();
        let starts = [alone(Queue::Cpu), alone(Queue::Gpu), listed(&problem, &fixed)];
        let mut search = Search { problem, fixed: &fixed, left: EFFORT };
        let mut best: Option<(f64, Placing)> = None;
        for queues in starts {
            let (cost, placing) = search.improved(queues);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, placing));
            }
        }
        best.expect("there are plans to choose from").1
    }
}

struct Search<'a> {
    problem: Problem<'a>,
    fixed: &'a [Option<Queue>],
    left: usize,
}

impl Search<'_> {
    fn judged(&mut self, queues: Vec<Queue>) -> (f64, Placing) {
        self.left = self.left.saturating_sub(queues.len());
        let timeline = self.problem.timeline(&queues);
        let cost = timeline.total_us + SEGMENT_US * timeline.segments.len() as f64;
        (cost, Placing { queues, timeline })
    }

    /// Moves segments while that helps.
    fn improved(&mut self, queues: Vec<Queue>) -> (f64, Placing) {
        let mut best = self.judged(queues);
        loop {
            let before = best.0;
            for i in 0..best.1.timeline.segments.len() {
                // Segments change with the plan; those left over come in the next round.
                let Some(segment) = best.1.timeline.segments.get(i) else { break };
                let mut queues = best.1.queues.clone();
                let free = segment.units.iter().filter(|u| self.fixed[**u].is_none());
                let moved = free.map(|u| queues[*u] = other(queues[*u])).count();
                if moved == 0 || self.left == 0 {
                    continue;
                }
                let tried = self.judged(queues);
                if tried.0 < best.0 {
                    best = tried;
                }
            }
            if best.0 >= before {
                return best;
            }
        }
    }
}

/// Each unit where it is done first.
fn listed(problem: &Problem, fixed: &[Option<Queue>]) -> Vec<Queue> {
    let all = &problem.units.all;
    let ranks = ranks(problem);
    let mut users = vec![vec![]; all.len()];
    let mut missing = vec![0; all.len()];
    for (u, unit) in all.iter().enumerate() {
        missing[u] = unit.reads.len();
        unit.reads.iter().for_each(|r| users[*r].push(u));
    }
    let entry = |u: usize| (Rank(ranks[u]), std::cmp::Reverse(u));
    let mut ready: BinaryHeap<_> = (0..all.len()).filter(|u| missing[*u] == 0).map(entry).collect();
    let mut places = Places {
        problem,
        queues: vec![Queue::Cpu; all.len()],
        end: vec![0.0; all.len()],
        free: [0.0; 2],
        arrived: BTreeMap::new(),
    };
    while let Some((_, std::cmp::Reverse(u))) = ready.pop() {
        places.place(u, fixed[u]);
        for user in &users[u] {
            missing[*user] -= 1;
            if missing[*user] == 0 {
                ready.push(entry(*user));
            }
        }
    }
    places.queues
}

/// Of each unit, the longest way to the end in microseconds, the queues' mean taken.
fn ranks(problem: &Problem) -> Vec<f64> {
    let all = &problem.units.all;
    let mut ranks = vec![0.0f64; all.len()];
    for u in (0..all.len()).rev() {
        let known: Vec<f64> = problem.times[u].iter().flatten().copied().collect();
        ranks[u] += known.iter().sum::<f64>() / known.len() as f64;
        let moved: f64 = all[u].imports.iter().map(|v| cost::bytes(problem.graph, *v)).sum();
        let way = problem.costs.transfer(moved as u64) / 2.0;
        for r in &all[u].reads {
            ranks[*r] = ranks[*r].max(ranks[u] + way);
        }
    }
    ranks
}

/// Ordered, for a heap.
#[derive(PartialEq)]
struct Rank(f64);

impl Eq for Rank {}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Rank) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Rank) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What was placed so far.
struct Places<'a> {
    problem: &'a Problem<'a>,
    queues: Vec<Queue>,
    end: Vec<f64>,
    free: [f64; 2],
    /// When a value was there that came from the other queue or the caller.
    arrived: BTreeMap<(Value, Queue), f64>,
}

impl Places<'_> {
    fn place(&mut self, u: usize, fixed: Option<Queue>) {
        let done = |queue: Queue| self.start(u, queue) + self.problem.time(u, queue);
        let first = QUEUES.into_iter().min_by(|a, b| done(*a).total_cmp(&done(*b)));
        let queue = fixed.or(first).expect("there are queues");
        let end = done(queue);
        (self.queues[u], self.end[u], self.free[number(queue)]) = (queue, end, end);
        for v in self.problem.units.all[u].imports.clone() {
            let there = self.there(v, queue);
            self.arrived.insert((v, queue), there);
        }
    }

    fn start(&self, u: usize, queue: Queue) -> f64 {
        let imports = &self.problem.units.all[u].imports;
        imports.iter().map(|v| self.there(*v, queue)).fold(self.free[number(queue)], f64::max)
    }

    /// When a value can be read on a queue.
    fn there(&self, v: Value, queue: Queue) -> f64 {
        if let Some(time) = self.arrived.get(&(v, queue)) {
            return *time;
        }
        let (from, end) = match self.problem.units.unit(v.node) {
            Some(unit) => (self.queues[unit], self.end[unit]),
            None => (Queue::Cpu, 0.0),
        };
        let bytes = cost::bytes(self.problem.graph, v) as u64;
        end + if from == queue { 0.0 } else { self.problem.costs.transfer(bytes) }
    }
}
