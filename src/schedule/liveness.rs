//! When the bytes of each buffer matter, in positions of the launch order.
//!
//! A buffer lives from the wave that writes it first to the end of the wave that reads it last.
//! Inside a repeat or branch, whatever was allocated outside lives through the whole body: the next
//! iteration may need it, and an iteration must not overwrite what the one before has stored.

use std::collections::BTreeMap;

use super::memory::{BINDING, LINE, Request};
use super::program::{Buffer, BufferId, Place, Program};
use crate::base::machine::Machine;

#[derive(Default)]
pub struct Liveness {
    /// Open bodies: their first launch.
    scopes: Vec<u32>,
    /// The number of bodies around each buffer's allocation, and the number of the innermost.
    home: BTreeMap<BufferId, usize>,
    range: BTreeMap<BufferId, (u32, u32)>,
    /// Buffers that were used inside a body while they belong outside, by depth of the body.
    through: Vec<Vec<BufferId>>,
    /// Buffers touched since the last wave ended.
    recent: Vec<BufferId>,
    /// (result, operand, launch): pairs that kernels declare.
    pairs: Vec<(BufferId, BufferId, u32)>,
}

impl Liveness {
    pub fn allocate(&mut self, id: BufferId) {
        self.home.insert(id, self.scopes.len());
    }

    pub fn touch(&mut self, id: BufferId, at: u32) {
        let range = self.range.entry(id).or_insert((at, at));
        *range = (range.0.min(at), range.1.max(at));
        self.recent.push(id);
        let home = self.home[&id];
        if let Some(body) = self.through.get_mut(home) {
            body.push(id);
        }
    }

    /// A body begins with this launch.
    pub fn enter(&mut self, first: u32) {
        self.scopes.push(first);
        self.through.push(vec![]);
    }

    /// The innermost body ends before this launch.
    pub fn leave(&mut self, end: u32) {
        let first = self.scopes.pop().expect("a body is open");
        let last = end.max(first + 1) - 1;
        for id in self.through.pop().expect("a body is open") {
            let range = self.range.entry(id).or_insert((first, last));
            *range = (range.0.min(first), range.1.max(last));
        }
    }

    /// Launches `begin..end` are one wave: what any of them touches lives through all of it.
    pub fn wave(&mut self, begin: u32, end: u32) {
        let touched = std::mem::take(&mut self.recent);
        if end <= begin + 1 {
            return;
        }
        for id in touched {
            let range = self.range.get_mut(&id).expect("touched buffers have a range");
            *range = (range.0.min(begin), range.1.max(end - 1));
        }
    }

    /// A kernel allows this result to be written over this operand.
    pub fn may_alias(&mut self, result: BufferId, operand: BufferId, at: u32) {
        self.pairs.push((result, operand, at));
    }

    /// What the arena has to hold; writes the lifetimes into the program too. For a GPU, sizes are whole
    /// numbers of [`BINDING`], so that offsets are: no two buffers are in one unit.
    pub fn requests(&self, program: &mut Program, machine: &Machine) -> Vec<Request> {
        for (id, (first, last)) in &self.range {
            let b = &mut program.buffers[id.0 as usize];
            (b.first, b.last) = (*first, *last);
        }
        let in_arena = |b: &BufferId| matches!(program.buffer(*b).place, Place::Arena { .. });
        let mut in_place: BTreeMap<BufferId, BufferId> = BTreeMap::new();
        let mut taken: Vec<BufferId> = vec![];
        for (result, operand, at) in &self.pairs {
            let (Some(r), Some(o)) = (self.range.get(result), self.range.get(operand)) else {
                continue;
            };
            let ends_here = o.1 == *at && r.0 == *at && self.home[result] == self.home[operand];
            let fits = fits(program.buffer(*result), program.buffer(*operand), machine);
            let free = !in_place.contains_key(result) && !taken.contains(operand);
            if ends_here && fits && free && in_arena(result) && in_arena(operand) {
                in_place.insert(*result, *operand);
                taken.push(*operand);
            }
        }
        let unit = if machine.in_step() { BINDING } else { LINE };
        self.range
            .iter()
            .filter(|(id, _)| in_arena(id))
            .map(|(id, (first, last))| Request {
                id: *id,
                bytes: program.buffer(*id).bytes().next_multiple_of(unit),
                first: *first,
                last: *last,
                in_place: in_place.get(id).copied(),
            })
            .collect()
    }
}

/// Whether a result can lie where an operand does. On a GPU both are one variable, which has one type.
fn fits(result: &Buffer, operand: &Buffer, machine: &Machine) -> bool {
    let same = result.dtype == operand.dtype || !machine.in_step();
    same && result.padded() == operand.padded()
}
