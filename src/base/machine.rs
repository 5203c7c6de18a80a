//! What is known of the machine that code is made for.
//!
//! A [`Machine`] is plain data, so that one machine can compile for another. *Machine choices*
//! (vector width, tiles, blocking, threads) may depend on it; numeric choices never do.

use serde::{Deserialize, Serialize};

/// Instruction sets that differ for dlc.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Baseline: SSE2, no fused multiply-add.
    X86_64,
    /// AVX2 and FMA.
    X86_64V3,
    /// AVX-512.
    X86_64V4,
    Aarch64,
    /// Compute shaders, with vectors of four elements of 32 bits.
    Gpu,
}

/// How a multiply followed by an add rounds. Results are equal to the bit within one class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Numerics {
    /// Once: a fused multiply-add.
    Fused,
    /// Twice: a multiply, then an add.
    Separate,
}

/// A product of `rows` × `columns` elements, each the sum of `depth` steps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Extent {
    pub rows: i64,
    pub columns: i64,
    pub depth: i64,
    /// Of an element.
    pub bytes: i64,
}

/// What is kept in registers of a product at once: so many rows of so many vectors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Tile {
    pub vectors: i64,
    pub rows: i64,
}

/// Tiles that were measured to be faster than those that the generators choose.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Tiles(Vec<(Extent, Tile)>);

impl Tiles {
    pub fn get(&self, of: Extent) -> Option<Tile> {
        self.0.iter().find(|(p, _)| *p == of).map(|(_, tile)| *tile)
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Extent, Tile)> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Extent, Tile)> for Tiles {
    fn from_iter<I: IntoIterator<Item = (Extent, Tile)>>(tiles: I) -> Tiles {
        Tiles(tiles.into_iter().collect())
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    pub isa: Isa,
    /// Bytes of the widest vector register that the emitter uses.
    pub vector_bytes: u32,
    /// Vector registers.
    pub registers: u32,
    /// Bytes of the data caches of one core: L1, L2, and its share of L3.
    pub caches: [u64; 3],
    /// Found by `tune`; empty where nobody searched.
    pub tiles: Tiles,
}

impl Machine {
    /// A machine of this instruction set, with vectors of at most `vector_bytes`.
    pub fn new(isa: Isa, vector_bytes: u32) -> Machine {
        let registers = match isa {
            Isa::X86_64 | Isa::X86_64V3 => 16,
            Isa::X86_64V4 if vector_bytes < 64 => 16,
            Isa::X86_64V4 | Isa::Aarch64 | Isa::Gpu => 32,
        };
        let (caches, tiles) = ([32 << 10, 1 << 20, 8 << 20], Tiles::default());
        Machine { isa, vector_bytes, registers, caches, tiles }
    }

    /// Whether neighbours in the grid run side by side: every element is then a grid point, so that they
    /// read and write neighbours in memory.
    pub fn in_step(&self) -> bool {
        self.isa == Isa::Gpu
    }

    pub fn numerics(&self) -> Numerics {
        match self.isa {
            // Shaders may fuse or not: nothing may depend on it.
            Isa::X86_64 | Isa::Gpu => Numerics::Separate,
            Isa::X86_64V3 | Isa::X86_64V4 | Isa::Aarch64 => Numerics::Fused,
        }
    }
}
