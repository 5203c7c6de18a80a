//! What every byte holds: for each address space the pieces of values in it, by address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::check::{Space, ValueId};

/// A run of bytes: byte `skip` of a value and the ones after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Content {
    pub value: ValueId,
    pub skip: u64,
    /// Written in the round before the present one.
    pub old: bool,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let old = if self.old { " of the round before" } else { "" };
        write!(f, "value {} from byte {}{old}", self.value.0, self.skip)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    end: u64,
    content: Content,
}

/// Pieces by start; they never overlap, and what no piece covers is unknown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Memory {
    spaces: BTreeMap<Space, BTreeMap<u64, Piece>>,
}

impl Memory {
    pub fn write(&mut self, space: Space, start: u64, bytes: u64, content: Content) {
        if bytes == 0 {
            return;
        }
        let end = start + bytes;
        self.clear(space, start, end);
        self.spaces.entry(space).or_default().insert(start, Piece { end, content });
    }

    /// The first thing in a range that is not the wanted content: `Some(None)` for unknown bytes.
    pub fn mismatch(
        &self,
        space: Space,
        start: u64,
        bytes: u64,
        wanted: Content,
    ) -> Option<Option<Content>> {
        if bytes == 0 {
            return None;
        }
        let Some(pieces) = self.spaces.get(&space) else { return Some(None) };
        let (mut at, end) = (start, start + bytes);
        while at < end {
            let piece = pieces.range(..=at).next_back().filter(|(_, p)| p.end > at);
            let Some((&from, piece)) = piece else { return Some(None) };
            let found = Content { skip: piece.content.skip + (at - from), ..piece.content };
            if found != (Content { skip: wanted.skip.saturating_add(at - start), ..wanted }) {
                return Some(Some(found));
            }
            at = piece.end;
        }
        None
    }

    /// A new round begins: the values of the round before are old, those from earlier are gone.
    pub fn age(&mut self, written: &BTreeSet<ValueId>) {
        for pieces in self.spaces.values_mut() {
            pieces.retain(|_, p| !(p.content.old && written.contains(&p.content.value)));
            for p in pieces.values_mut().filter(|p| written.contains(&p.content.value)) {
                p.content.old = true;
            }
        }
    }

    /// What two memories agree on.
    pub fn common(&self, other: &Memory) -> Memory {
        let mut out = Memory::default();
        for (&space, pieces) in &self.spaces {
            let Some(others) = other.spaces.get(&space) else { continue };
            for (&start, piece) in pieces {
                let before = others.range(..start).next_back().filter(|(_, p)| p.end > start);
                for (&from, theirs) in before.into_iter().chain(others.range(start..piece.end)) {
                    let (low, high) = (start.max(from), piece.end.min(theirs.end));
                    let mine =
                        Content { skip: piece.content.skip + (low - start), ..piece.content };
                    let other =
                        Content { skip: theirs.content.skip + (low - from), ..theirs.content };
                    if mine == other {
                        out.write(space, low, high - low, mine);
                    }
                }
            }
        }
        out
    }

    /// Cuts a hole.
    fn clear(&mut self, space: Space, start: u64, end: u64) {
        let pieces = self.spaces.entry(space).or_default();
        let before = pieces.range(..start).next_back().map(|(&from, p)| (from, *p));
        if let Some((from, piece)) = before.filter(|(_, p)| p.end > start) {
            pieces.insert(from, Piece { end: start, ..piece });
            if piece.end > end {
                let skip = piece.content.skip + (end - from);
                let content = Content { skip, ..piece.content };
                pieces.insert(end, Piece { end: piece.end, content });
            }
        }
        let inside: Vec<u64> = pieces.range(start..end).map(|(&from, _)| from).collect();
        for from in inside {
            let Some(piece) = pieces.remove(&from) else { continue };
            if piece.end > end {
                let skip = piece.content.skip + (end - from);
                let content = Content { skip, ..piece.content };
                pieces.insert(end, Piece { end: piece.end, content });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_against_an_array_of_bytes() {
        let mut random = crate::schedule::memory_place::SplitMix(3);
        let mut memory = Memory::default();
        let mut bytes: Vec<Option<(u32, u64)>> = vec![None; 64];
        for v in 0..500u32 {
            let start = random.below(64);
            let len = random.below(64 - start + 1);
            let content = Content { value: ValueId(v), skip: random.below(9), old: false };
            memory.write(Space::Arena, start, len, content);
            for k in 0..len {
                bytes[(start + k) as usize] = Some((v, content.skip + k));
            }
            let from = random.below(60);
            let want = bytes[from as usize];
            for len in 1..=(64 - from) {
                let expect = |k: u64| want.map(|(v, skip)| (v, skip + k));
                let same =
                    want.is_some() && (0..len).all(|k| bytes[(from + k) as usize] == expect(k));
                let (value, skip) = want.unwrap_or((u32::MAX, 0));
                let content = Content { value: ValueId(value), skip, old: false };
                assert_eq!(memory.mismatch(Space::Arena, from, len, content).is_none(), same);
            }
        }
    }

    #[test]
    fn what_two_memories_agree_on() {
        let c = |v, skip| Content { value: ValueId(v), skip, old: false };
        let (mut a, mut b) = (Memory::default(), Memory::default());
        a.write(Space::Arena, 0, 100, c(1, 0));
        b.write(Space::Arena, 50, 100, c(1, 50));
        b.write(Space::Arena, 60, 10, c(2, 0));
        let both = a.common(&b);
        assert_eq!(both.mismatch(Space::Arena, 50, 10, c(1, 50)), None);
        assert_eq!(both.mismatch(Space::Arena, 70, 30, c(1, 70)), None);
        assert_eq!(both.mismatch(Space::Arena, 60, 1, c(1, 60)), Some(None));
        assert_eq!(both.mismatch(Space::Arena, 49, 1, c(1, 49)), Some(None));
        assert_eq!(both.mismatch(Space::Arena, 100, 1, c(1, 100)), Some(None));
    }
}
