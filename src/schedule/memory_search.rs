//! Searching for a tighter plan where the simple orders miss the lower bound.
//!
//! Two searches share the effort. The *skyline* fills the lowest valley over time with the buffer of
//! the highest priority that fits between its walls (the idea of bottom-left strip packing), and the
//! priorities are perturbed: buffers that reach the top become more urgent ("squeaky wheel", Joslin
//! and Clements, 1999). The other perturbs orders of placement. Both accept small steps back at
//! first and none at the end (threshold accepting, Dueck and Scheuer, 1990).

use super::memory::{Effort, Groups};
use super::memory_place::{Fit, Instance, Placed, SplitMix};

/// Placements that each search tries at most.
const TRIES: u64 = 6000;

/// Looks for a plan below `peak`, from an order of placement. Stops at `bound`, which no plan can
/// beat, or when the effort is spent.
pub(super) fn search(
    instance: &Instance,
    order: Vec<u32>,
    peak: u64,
    bound: u64,
    effort: Effort,
) -> Option<Placed> {
    // Small instances are settled after a few thousand tries.
    let most = instance.cost().saturating_mul(TRIES);
    let half = Effort { steps: (effort.steps / 2).min(most), ..effort };
    let found = skylines(instance, peak, bound, half);
    let peak = found.as_ref().map_or(peak, |p| p.peak);
    let order = found.as_ref().map_or(order, by_offset);
    orders(instance, order, peak, bound, half).or(found)
}

/// Groups from the lowest offset to the highest.
fn by_offset(placed: &Placed) -> Vec<u32> {
    let mut order: Vec<u32> = (0..placed.offsets.len() as u32).collect();
    order.sort_by_key(|&g| (placed.offsets[g as usize], g));
    order
}

/// Perturbs priorities of the skyline.
fn skylines(instance: &Instance, peak: u64, bound: u64, effort: Effort) -> Option<Placed> {
    let groups = instance.groups;
    let n = groups.members.len();
    let mut random = SplitMix(effort.seed);
    let mut sky = Skyline::new(groups);
    let cost = sky.cost() + instance.cost();
    let (mut best, mut found) = (peak, None);
    let mut steps = effort.steps;
    // Long-lived buffers first, since they are the hardest to fit between walls; then large ones;
    // then by both.
    let size = |g: usize| u128::from(groups.size(g));
    let duration = |g: usize| u128::from(groups.last(g) - groups.first(g)) + 1;
    let keys: [&dyn Fn(usize) -> u128; 3] = [&duration, &size, &|g| size(g) * duration(g)];
    for key in keys {
        let mut ranked: Vec<usize> = (0..n).collect();
        ranked.sort_by_key(|&g| (key(g), g));
        let mut priority = vec![0u64; n];
        ranked.iter().enumerate().for_each(|(rank, &g)| priority[g] = (rank as u64) << 8);
        let share = effort.steps / keys.len() as u64;
        let mut left = share.min(steps);
        let mut height = u64::MAX;
        let mut tops: Vec<usize> = vec![];
        while best > bound && left >= cost && n > 1 {
            (left, steps) = (left - cost, steps - cost);
            let mut next = priority.clone();
            for _ in 0..1 + random.below(3) {
                let g = match tops.is_empty() || random.below(3) == 0 {
                    true => random.below(n as u64) as usize,
                    false => tops[random.below(tops.len() as u64) as usize],
                };
                let other = random.below(n as u64) as usize;
                match random.below(2) {
                    0 => next.swap(g, other),
                    _ => next[g] = next[g].max(next[other]).saturating_add(1),
                }
            }
            let offsets = sky.fill(&next);
            let order = by_offset(&Placed { offsets, peak: 0 });
            // What the skyline leaves below its buffers, first fit takes back.
            let Some(placed) = instance.place(&order, Fit::First, u64::MAX) else { break };
            let slack = (best - bound) * left / (share * 4).max(1);
            if placed.peak > height.saturating_add(slack) {
                continue;
            }
            let reaches = |g: &usize| placed.offsets[*g] + groups.size(*g) == placed.peak;
            (height, priority, tops) = (placed.peak, next, (0..n).filter(reaches).collect());
            if placed.peak < best {
                best = placed.peak;
                found = Some(placed);
            }
        }
    }
    found
}

/// The height of the plan so far at every moment.
struct Skyline<'a> {
    groups: &'a Groups,
    /// Of each group: first moment and the one after the last, counted in moments at which any
    /// group begins.
    spans: Vec<(usize, usize)>,
    heights: Vec<u64>,
}

impl<'a> Skyline<'a> {
    fn new(groups: &'a Groups) -> Skyline<'a> {
        let n = groups.members.len();
        let mut births: Vec<u32> = (0..n).map(|g| groups.first(g)).collect();
        births.sort_unstable();
        births.dedup();
        let at = |t: u32| births.partition_point(|b| *b < t);
        let after = |t: u32| births.partition_point(|b| *b <= t);
        let spans = (0..n).map(|g| (at(groups.first(g)), after(groups.last(g)))).collect();
        Skyline { groups, spans, heights: vec![0; births.len()] }
    }

    /// What one filling costs, in comparisons.
    fn cost(&self) -> u64 {
        let n = self.spans.len() as u64;
        n * (n + self.heights.len() as u64)
    }

    /// Offsets of all groups; chains in place count as one rectangle.
    fn fill(&mut self, priority: &[u64]) -> Vec<u64> {
        let n = self.spans.len();
        let mut offsets = vec![0; n];
        let mut waiting: Vec<u32> = (0..n as u32).collect();
        waiting.sort_by_key(|&g| (std::cmp::Reverse(priority[g as usize]), g));
        self.heights.fill(0);
        while !waiting.is_empty() {
            let low = self.heights.iter().copied().min().unwrap_or(0);
            let begin = self.heights.iter().position(|h| *h == low).unwrap_or(0);
            let same = self.heights[begin..].iter().take_while(|h| **h == low).count();
            let end = begin + same;
            let fits = |g: &u32| {
                let (a, b) = self.spans[*g as usize];
                begin <= a && b <= end
            };
            match waiting.iter().position(fits) {
                Some(k) => {
                    let g = waiting.remove(k) as usize;
                    let (a, b) = self.spans[g];
                    offsets[g] = low;
                    self.heights[a..b].fill(low + self.groups.size(g));
                }
                None => {
                    // Nothing fits between the walls: the valley fills up to the lower one.
                    let left = begin.checked_sub(1).map_or(u64::MAX, |k| self.heights[k]);
                    let right = self.heights.get(end).copied().unwrap_or(u64::MAX);
                    self.heights[begin..end].fill(left.min(right));
                }
            }
        }
        offsets
    }
}

/// Perturbs orders of placement: groups that reach the top move towards the front, others swap.
fn orders(
    instance: &Instance,
    mut order: Vec<u32>,
    mut peak: u64,
    bound: u64,
    effort: Effort,
) -> Option<Placed> {
    let mut random = SplitMix(effort.seed);
    let mut found = None;
    // The order at hand may be worse than the best: from `height` on an order is refused.
    let mut height = peak;
    let mut here = instance.place(&order, Fit::First, u64::MAX)?;
    let n = order.len() as u64;
    let mut steps = effort.steps;
    let cost = instance.cost().max(1);
    while peak > bound && steps >= cost && n > 1 {
        steps -= cost;
        let mut next = order.clone();
        if random.below(4) > 0 {
            let critical: Vec<usize> = (0..order.len())
                .filter(|&k| {
                    let g = order[k] as usize;
                    here.offsets[g] + instance.groups.size(g) == here.peak
                })
                .collect();
            let from = critical[random.below(critical.len() as u64) as usize];
            let to = random.below(from as u64 + 1) as usize;
            next[to..=from].rotate_right(1);
        } else {
            let (a, b) = (random.below(n) as usize, random.below(n) as usize);
            next.swap(a, b);
        }
        let fit = if random.below(3) == 0 { Fit::Best } else { Fit::First };
        // Threshold accepting (Dueck and Scheuer, 1990): the slack shrinks with the effort left.
        let slack = (peak - bound) * steps / (effort.steps * 2).max(1);
        let Some(placed) = instance.place(&next, fit, height.max(peak) + slack) else { continue };
        (height, order, here) = (placed.peak, next, placed);
        if height < peak {
            peak = height;
            found = Some(here.clone());
        }
    }
    found
}
