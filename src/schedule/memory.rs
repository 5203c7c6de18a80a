//! Offsets in the arena: buffers whose lifetimes are apart share bytes.
//!
//! In: one [`Request`] for each buffer, with its first and last position in the launch order, already
//! extended to the ends of waves. Out: an offset for each, in multiples of 64, such that buffers
//! alive at the same time do not overlap, except that a buffer which takes another's bytes over in
//! place begins where that one does.
//!
//! Placing rectangles of fixed width (time) at the least height (offset) is strip packing, which is
//! NP-hard; real networks are easy and hard instances need search (MiniMalloc, ASPLOS 2023). So:
//! best fit and first fit over four orders, and where the best of these misses the lower bound (the
//! maximum of live bytes), a seeded and bounded search over orders. Where more pairs of buffers
//! overlap than [`PAIR_LIMIT`], a single sweep in order of birth does it in n log n.
//! Equal requests and effort give equal plans.

use std::collections::BTreeMap;

use super::memory_place::{Fit, Instance, place_sweep};
use super::memory_search::search;
use super::program::BufferId;

/// Offsets and sizes are multiples of this: a cache line, and the widest vector.
pub const LINE: u64 = 64;

/// What a GPU binds begins at a multiple of this, on every one that has WebGPU.
pub const BINDING: u64 = 256;

/// Overlapping pairs of buffers beyond which only the sweep runs.
pub const PAIR_LIMIT: u64 = 4_000_000;

/// One buffer of the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub id: BufferId,
    /// As they are; the planner rounds up to [`LINE`].
    pub bytes: u64,
    /// Positions in the launch order, both inclusive.
    pub first: u32,
    pub last: u32,
    /// The buffer whose bytes this one may take over. The caller's promise: the launch at `first`
    /// declares the pair, and nothing else reads that buffer from the wave of `first` on.
    pub in_place: Option<BufferId>,
}

/// Where a buffer lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    pub id: BufferId,
    pub offset: u64,
    /// The buffer whose offset it has taken over.
    pub alias_of: Option<BufferId>,
}

/// How the plan was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Method {
    Birth,
    Size,
    Duration,
    /// Size × duration.
    Area,
    Search,
    /// The sweep for very many buffers.
    Sweep,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// In the order of the requests.
    pub spots: Vec<Spot>,
    pub arena_bytes: u64,
    /// The maximum over time of the bytes alive (sizes rounded up, pairs in place counted once): no
    /// plan with the same pairs is smaller.
    pub max_live_bytes: u64,
    pub method: Method,
}

/// How long to search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    pub seed: u64,
    /// Comparisons of two buffers that the search may make; 0 for none. It bounds the time, and so
    /// that plans do not depend on the machine it is no clock.
    pub steps: u64,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { seed: 0, steps: 4_000_000 }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    #[error("the buffers take more than 2⁶³ bytes")]
    TooLarge,
    #[error("buffer {} ends before it begins", .0.0)]
    Lifetime(BufferId),
    #[error("two buffers have the number {}", .0.0)]
    Duplicate(BufferId),
}

/// Plans the arena.
pub fn plan(requests: &[Request], effort: Effort) -> Result<Plan, PlanError> {
    let groups = Groups::of(requests)?;
    let max_live = groups.max_live();
    let (tops, method) = place(&groups, max_live, effort);
    let mut spots = Vec::with_capacity(requests.len());
    let mut arena = 0;
    for (i, r) in requests.iter().enumerate() {
        let offset = tops.get(groups.group_of[i]).copied().unwrap_or(0) * LINE;
        let alias_of = groups.parent[i].map(|p| requests[p].id);
        arena = arena.max(offset + groups.lines[i] * LINE);
        spots.push(Spot { id: r.id, offset, alias_of });
    }
    Ok(Plan { spots, arena_bytes: arena, max_live_bytes: max_live * LINE, method })
}

/// Offsets of groups in lines, by the best method that the size of the problem allows.
fn place(groups: &Groups, max_live: u64, effort: Effort) -> (Vec<u64>, Method) {
    let swept = place_sweep(groups);
    if groups.pairs() > PAIR_LIMIT || swept.peak == max_live {
        return (swept.offsets, Method::Sweep);
    }
    let instance = Instance::new(groups);
    let mut best = (swept, Method::Sweep);
    let mut best_order = vec![];
    for (method, order) in orders(groups) {
        for fit in [Fit::Best, Fit::First] {
            let placed = instance.place(&order, fit, u64::MAX);
            if let Some(placed) = placed.filter(|p| p.peak < best.0.peak || best_order.is_empty()) {
                if placed.peak <= best.0.peak {
                    best = (placed, method);
                }
                best_order.clone_from(&order);
            }
            if best.0.peak == max_live {
                return (best.0.offsets, best.1);
            }
        }
    }
    match search(&instance, best_order, best.0.peak, max_live, effort) {
        Some(found) => (found.offsets, Method::Search),
        None => (best.0.offsets, best.1),
    }
}

/// The four orders; ties go to the earlier birth, then to the lesser index.
fn orders(groups: &Groups) -> Vec<(Method, Vec<u32>)> {
    let n = groups.members.len();
    let by = |key: &dyn Fn(usize) -> u128| {
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by_key(|&g| {
            let g = g as usize;
            (u128::MAX - key(g), groups.first(g), g)
        });
        order
    };
    let size = |g: usize| u128::from(groups.size(g));
    let duration = |g: usize| u128::from(groups.last(g) - groups.first(g)) + 1;
    vec![
        (Method::Size, by(&size)),
        (Method::Area, by(&|g| size(g) * duration(g))),
        (Method::Duration, by(&duration)),
        (Method::Birth, by(&|_| 0)),
    ]
}

/// Requests joined into chains that share an offset. Members of a chain keep their own sizes and
/// lifetimes, so that a small heir of a large buffer does not keep the large one's bytes.
pub(super) struct Groups {
    /// Chains of request indices, by birth.
    pub members: Vec<Vec<u32>>,
    /// Of each request; requests without bytes belong to no group (`usize::MAX`).
    pub group_of: Vec<usize>,
    pub lines: Vec<u64>,
    pub spans: Vec<(u32, u32)>,
    parent: Vec<Option<usize>>,
}

impl Groups {
    fn of(requests: &[Request]) -> Result<Groups, PlanError> {
        let mut index = BTreeMap::new();
        let mut total: u64 = 0;
        let mut lines = Vec::with_capacity(requests.len());
        for (i, r) in requests.iter().enumerate() {
            if r.last < r.first {
                return Err(PlanError::Lifetime(r.id));
            }
            if index.insert(r.id, i).is_some() {
                return Err(PlanError::Duplicate(r.id));
            }
            let rounded = r.bytes.checked_next_multiple_of(LINE).ok_or(PlanError::TooLarge)?;
            total = total.checked_add(rounded).ok_or(PlanError::TooLarge)?;
            lines.push(rounded / LINE);
        }
        if total > i64::MAX as u64 {
            return Err(PlanError::TooLarge);
        }
        let spans: Vec<(u32, u32)> = requests.iter().map(|r| (r.first, r.last)).collect();
        let mut by_birth: Vec<usize> = (0..requests.len()).filter(|&i| lines[i] > 0).collect();
        by_birth.sort_by_key(|&i| (spans[i], i));
        let mut groups = Groups {
            members: vec![],
            group_of: vec![usize::MAX; requests.len()],
            lines,
            spans,
            parent: vec![None; requests.len()],
        };
        for i in by_birth {
            let heir = requests[i].in_place.and_then(|id| index.get(&id).copied());
            match heir.filter(|&p| groups.can_inherit(p, i)) {
                Some(p) => {
                    let g = groups.group_of[p];
                    groups.parent[i] = Some(p);
                    groups.group_of[i] = g;
                    groups.members[g].push(i as u32);
                }
                None => {
                    groups.group_of[i] = groups.members.len();
                    groups.members.push(vec![i as u32]);
                }
            }
        }
        Ok(groups)
    }

    /// Whether `heir` may begin at `of`'s bytes: that is the youngest of its chain, it is older, and
    /// no member before it lives on.
    fn can_inherit(&self, of: usize, heir: usize) -> bool {
        let g = self.group_of[of];
        let Some(chain) = self.members.get(g) else { return false };
        let first = self.spans[heir].0;
        let older = &chain[..chain.len() - 1];
        chain.last() == Some(&(of as u32))
            && self.spans[of].0 < first
            && older.iter().all(|&m| self.spans[m as usize].1 < first)
    }

    pub fn first(&self, g: usize) -> u32 {
        self.spans[self.members[g][0] as usize].0
    }

    pub fn last(&self, g: usize) -> u32 {
        self.members[g].iter().map(|&m| self.spans[m as usize].1).max().unwrap_or(0)
    }

    /// Lines of the largest member.
    pub fn size(&self, g: usize) -> u64 {
        self.members[g].iter().map(|&m| self.lines[m as usize]).max().unwrap_or(0)
    }

    /// The maximum over time of the lines alive.
    fn max_live(&self) -> u64 {
        let mut change: BTreeMap<u64, i128> = BTreeMap::new();
        let mut span = |first: u32, last: u32, lines: i128| {
            *change.entry(first.into()).or_default() += lines;
            *change.entry(u64::from(last) + 1).or_default() -= lines;
        };
        for chain in &self.members {
            for (k, &m) in chain.iter().enumerate() {
                let (m, (first, last)) = (m as usize, self.spans[m as usize]);
                span(first, last, self.lines[m].into());
                let Some(&next) = chain.get(k + 1) else { continue };
                // While both live they share their bytes: the lesser one is free.
                let (next, (born, _)) = (next as usize, self.spans[next as usize]);
                if born <= last {
                    let end = last.min(self.spans[next].1);
                    span(born, end, -i128::from(self.lines[m].min(self.lines[next])));
                }
            }
        }
        let mut live = 0;
        let peak = change.values().map(|d| {
            live += d;
            live
        });
        peak.max().unwrap_or(0) as u64
    }

    /// How many pairs of requests are alive together.
    fn pairs(&self) -> u64 {
        let mut events: Vec<(u64, bool)> = vec![];
        for &m in self.members.iter().flatten() {
            let (first, last) = self.spans[m as usize];
            events.push((first.into(), true));
            events.push((u64::from(last) + 1, false));
        }
        events.sort_unstable();
        let (mut alive, mut pairs) = (0u64, 0u64);
        for (_, born) in events {
            if born {
                pairs += alive;
                alive += 1;
            } else {
                alive -= 1;
            }
        }
        pairs
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
