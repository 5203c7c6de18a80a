//! Placing groups of buffers: one at a time in a given order, or in one sweep over time.
//!
//! All offsets and sizes are in lines of 64 bytes here.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::memory::Groups;

/// Offsets of all groups and the height that they reach.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub offsets: Vec<u64>,
    pub peak: u64,
}

/// Which gap a group takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fit {
    /// The tightest one.
    Best,
    /// The lowest one.
    First,
}

/// Who is alive together with whom, so that an order is tried without looking at the others.
pub(super) struct Instance<'a> {
    pub groups: &'a Groups,
    /// Neighbours of request i: `list[start[i]..start[i + 1]]`; those of its own group are left out.
    start: Vec<u32>,
    list: Vec<u32>,
}

const FREE: u64 = u64::MAX;

impl<'a> Instance<'a> {
    pub fn new(groups: &'a Groups) -> Instance<'a> {
        let n = groups.lines.len();
        let mut by_birth: Vec<u32> = groups.members.iter().flatten().copied().collect();
        by_birth.sort_by_key(|&i| (groups.spans[i as usize], i));
        let mut pairs = vec![];
        let mut alive: Vec<u32> = vec![];
        for i in by_birth {
            let first = groups.spans[i as usize].0;
            alive.retain(|&j| groups.spans[j as usize].1 >= first);
            let group = groups.group_of[i as usize];
            let others = alive.iter().filter(|&&j| groups.group_of[j as usize] != group);
            pairs.extend(others.map(|&j| (i, j)));
            alive.push(i);
        }
        let mut start = vec![0u32; n + 1];
        for &(i, j) in &pairs {
            start[i as usize + 1] += 1;
            start[j as usize + 1] += 1;
        }
        for i in 0..n {
            start[i + 1] += start[i];
        }
        let mut next = start.clone();
        let mut list = vec![0u32; pairs.len() * 2];
        for (i, j) in pairs {
            for (a, b) in [(i, j), (j, i)] {
                list[next[a as usize] as usize] = b;
                next[a as usize] += 1;
            }
        }
        Instance { groups, start, list }
    }

    fn neighbours(&self, i: u32) -> &[u32] {
        &self.list[self.start[i as usize] as usize..self.start[i as usize + 1] as usize]
    }

    /// Places the groups one after the other; gives up at a height above `limit`.
    pub fn place(&self, order: &[u32], fit: Fit, limit: u64) -> Option<Placed> {
        let groups = self.groups;
        let mut offsets = vec![FREE; groups.members.len()];
        let mut peak = 0;
        // Offsets that are taken, as half-open ranges.
        let mut taken: Vec<(u64, u64)> = vec![];
        for &g in order {
            taken.clear();
            for &m in &groups.members[g as usize] {
                let mine = groups.lines[m as usize];
                for &other in self.neighbours(m) {
                    let at = offsets[groups.group_of[other as usize]];
                    if at != FREE {
                        let low = (at + 1).saturating_sub(mine);
                        taken.push((low, at + groups.lines[other as usize]));
                    }
                }
            }
            taken.sort_unstable();
            let offset = gap(&taken, fit);
            offsets[g as usize] = offset;
            peak = peak.max(offset + groups.size(g as usize));
            if peak > limit {
                return None;
            }
        }
        Some(Placed { offsets, peak })
    }

    /// What one placement costs, in comparisons.
    pub fn cost(&self) -> u64 {
        (self.list.len() + self.groups.members.len()) as u64
    }
}

/// The offset to take between sorted ranges of taken ones.
fn gap(taken: &[(u64, u64)], fit: Fit) -> u64 {
    let mut cursor = 0;
    let mut best: Option<(u64, u64)> = None;
    for &(low, high) in taken {
        if low > cursor {
            let room = low - cursor;
            if fit == Fit::First {
                return cursor;
            }
            if best.is_none_or(|(r, _)| room < r) {
                best = Some((room, cursor));
            }
        }
        cursor = cursor.max(high);
    }
    best.map_or(cursor, |(_, at)| at)
}

/// Best fit in order of birth, with the free gaps in ordered maps: n log n. A chain counts as one
/// rectangle over its whole lifetime.
pub(super) fn place_sweep(groups: &Groups) -> Placed {
    let n = groups.members.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&g| (groups.first(g), std::cmp::Reverse(groups.size(g)), g));
    let mut placed = Placed { offsets: vec![0; n], peak: 0 };
    // Free gaps below the top, by offset and by (size, offset).
    let mut by_offset: BTreeMap<u64, u64> = BTreeMap::new();
    let mut by_size: BTreeSet<(u64, u64)> = BTreeSet::new();
    let mut top = 0;
    let mut deaths: BinaryHeap<std::cmp::Reverse<(u32, usize)>> = BinaryHeap::new();
    for g in order {
        while let Some(&std::cmp::Reverse((last, dead))) = deaths.peek() {
            if last >= groups.first(g) {
                break;
            }
            deaths.pop();
            let (mut at, mut len) = (placed.offsets[dead], groups.size(dead));
            let below = by_offset.range(..at).next_back().map(|(&start, &room)| (start, room));
            if let Some((start, room)) = below.filter(|(start, room)| start + room == at) {
                by_offset.remove(&start);
                by_size.remove(&(room, start));
                (at, len) = (start, len + room);
            }
            if let Some(room) = by_offset.remove(&(at + len)) {
                by_size.remove(&(room, at + len));
                len += room;
            }
            if at + len == top {
                top = at;
            } else {
                by_offset.insert(at, len);
                by_size.insert((len, at));
            }
        }
        let size = groups.size(g);
        let at = match by_size.range((size, 0)..).next().copied() {
            Some((room, at)) => {
                by_size.remove(&(room, at));
                by_offset.remove(&at);
                if room > size {
                    by_offset.insert(at + size, room - size);
                    by_size.insert((room - size, at + size));
                }
                at
            }
            None => {
                top += size;
                top - size
            }
        };
        placed.offsets[g] = at;
        placed.peak = placed.peak.max(at + size);
        deaths.push(std::cmp::Reverse((groups.last(g), g)));
    }
    placed
}

/// Steele, Lea and Flood, OOPSLA 2014.
pub(super) struct SplitMix(pub u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not zero; the bias is below n / 2⁶⁴.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}
