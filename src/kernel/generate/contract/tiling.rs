//! The tiles of a contraction on one machine: how many rows and columns, and which tiles of columns
//! share code.
//!
//! The packing of parameters asks here for the width of its panels.

use super::super::sweep;
use super::plan::Plan;
pub use crate::base::machine::Extent;
use crate::base::machine::{Machine, Tile};
use crate::ir::index::{Expr, Guard};

/// Kinds of tiles along the columns, each with code of its own.
const KINDS: usize = 16;
/// Vectors of a tile of one row.
const WIDEST: i64 = 8;
/// Products of at most so many rows wait for the memory that the wide operand comes from. It is read
/// in several streams, since one alone does not keep the memory busy: panels are one vector wide, and a
/// tile reads several of them side by side.
const STREAMED: i64 = 4;
/// Rows of a tile: more would make code that does not fit the front of the pipeline.
const TALLEST: i64 = 14;
/// How much a load gets in the way ([`Step::load`]) with 16 registers and with more. Found by
/// measuring: with 32, tiles of 6 rows of 4 vectors (10 loads for 24 multiply-adds) take less time
/// than those of 14 rows of 2 (16 for 28), by a tenth to a quarter where others use the caches too;
/// with 16 registers there is no such difference.
const LOAD: (i64, i64) = (1, 4);

pub struct Tiling {
    /// Lanes of a full vector.
    pub lanes: u16,
    /// Columns of a full tile.
    pub width: i64,
    /// Tiles along the columns.
    pub across: i64,
    /// Tiles along the rows.
    pub down: i64,
    pub bands: Vec<Band>,
    pub kinds: Vec<Kind>,
    /// Elements that fit the second cache of a core.
    pub cache: u64,
    /// Whether steps must be kept apart: Cranelift makes the code.
    pub borders: bool,
    /// How columns that fill no vector are covered.
    rest: Rest,
    /// Whether the wide operand has something behind the last column, up to a full vector.
    pub filled: bool,
}

/// How the columns behind the last full vector are covered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rest {
    /// By some lanes of a vector.
    Masked,
    /// By some lanes of a short vector, which long functions of it take less time for.
    Short,
    /// By a vector that overlaps the one before; by some lanes of one where there is none before.
    Overlapping,
    /// As `Overlapping`, but by ever shorter vectors where there is none before.
    Cut,
}

/// Tiles `from..to` along the rows; they run the same code.
#[derive(Clone)]
pub struct Band {
    pub from: i64,
    pub to: i64,
    /// The first row of tile `from`.
    pub first: i64,
    /// Rows of each tile.
    pub rows: i64,
    /// For each written-out step, whether each row is no padding.
    pub inside: Vec<Vec<bool>>,
}

/// Tiles `from..to` along the columns; they run the same code.
#[derive(Clone)]
pub struct Kind {
    pub from: i64,
    pub to: i64,
    pub pieces: Vec<Piece>,
    /// For each written-out step, of each piece.
    pub status: Vec<Vec<Status>>,
}

/// Columns of a tile in one vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its first column in the tile.
    pub first: i64,
    pub lanes: u16,
    /// Lanes that are columns; the others are neither read nor stored.
    pub valid: u16,
}

/// What the guards say of one piece in one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Inside,
    /// Padding in every lane: nothing is added.
    Outside,
    /// Some lanes are padding.
    Edge,
}

impl Tiling {
    /// `None` where too many kinds of tiles would be needed.
    pub fn of(plan: &Plan, machine: &Machine) -> Option<Tiling> {
        let extent = extent(plan);
        let Extent { rows: m, columns: n, bytes, .. } = extent;
        let lanes = (machine.vector_bytes as i64 / bytes).clamp(1, 64);
        let panel = match plan.lanewise {
            // Each row of a vector has an operand of its own: there is nothing to share.
            true => Some(1),
            false => plan.panel().map(|p| p.width).filter(|w| w % lanes == 0).map(|w| w / lanes),
        };
        let (vectors, most) = tile(extent, panel, lanes, machine);
        let down = (m as u64).div_ceil(most as u64) as i64;
        let width = vectors * lanes;
        let mut tiling = Tiling {
            lanes: lanes as u16,
            width,
            across: (n as u64).div_ceil(width as u64) as i64,
            down,
            bands: find_bands(plan, m, down)?,
            kinds: vec![],
            cache: machine.caches[1] / bytes as u64,
            borders: machine.vector_bytes <= 16,
            rest: match machine.vector_bytes {
                // Guards are decided for whole pieces.
                _ if plan.tied_to == plan.columns && !plan.tied.is_empty() => Rest::Cut,
                0..=16 => Rest::Cut,
                // AVX2 stores some lanes slowly.
                17..=32 => Rest::Overlapping,
                _ if plan.is_heavy() => Rest::Short,
                _ => Rest::Masked,
            },
            filled: plan.reaches((n as u64).next_multiple_of(lanes as u64) as i64),
        };
        tiling.kinds = tiling.find_kinds(plan, n)?;
        Some(tiling)
    }

    fn find_kinds(&self, plan: &Plan, n: i64) -> Option<Vec<Kind>> {
        let steps = plan.static_steps();
        let mut kinds: Vec<Kind> = vec![];
        let full = n / self.width;
        let one = |t: i64| {
            let columns = self.width.min(n - t * self.width);
            let pieces = pieces(columns, self.lanes, self.rest);
            let of = |step: &Vec<i64>| {
                let piece = |p: &Piece| status(plan, t * self.width + p.first, p.valid, step);
                pieces.iter().map(piece).collect()
            };
            let status = steps.iter().map(of).collect();
            Kind { from: t, to: t + 1, pieces, status }
        };
        if plan.tied.is_empty() || plan.tied_to != plan.columns {
            if full > 0 {
                kinds.push(Kind { to: full, ..one(0) });
            }
            if full < self.across {
                kinds.push(one(full));
            }
            return Some(kinds);
        }
        for t in 0..self.across {
            let next = one(t);
            let shares = |k: &&mut Kind| {
                k.pieces == next.pieces
                    && k.status == next.status
                    && !k.status.iter().flatten().any(|s| *s == Status::Edge)
            };
            match kinds.last_mut().filter(shares) {
                Some(last) => last.to = t + 1,
                None => kinds.push(next),
            }
            if kinds.len() > KINDS {
                return None;
            }
        }
        Some(kinds)
    }
}

/// Tiles of rows, those of one row more first; `None` where too many kinds would be needed.
fn find_bands(plan: &Plan, m: i64, down: i64) -> Option<Vec<Band>> {
    let tied = plan.rows == Some(plan.tied_to) && !plan.tied.is_empty();
    let (low, taller) = (m / down, m % down);
    let steps = plan.static_steps();
    let mut bands: Vec<Band> = vec![];
    let mut first = 0;
    let mut add = |tiles: std::ops::Range<i64>, rows: i64| {
        let inside: Vec<Vec<bool>> = steps
            .iter()
            .map(|step| (first..first + rows).map(|row| !tied || holds(plan, row, step)).collect())
            .collect();
        let alike = |b: &&mut Band| !plan.small && b.rows == rows && b.inside == inside;
        match bands.last_mut().filter(alike) {
            Some(last) => last.to = tiles.end,
            None => bands.push(Band { from: tiles.start, to: tiles.end, first, rows, inside }),
        }
        first += rows * (tiles.end - tiles.start);
        bands.len() <= KINDS
    };
    let fits = match tied || plan.small {
        true => (0..down).all(|t| add(t..t + 1, low + (t < taller) as i64)),
        false => (taller == 0 || add(0..taller, low + 1)) && add(taller..down, low),
    };
    fits.then_some(bands)
}

pub fn extent(plan: &Plan) -> Extent {
    Extent {
        rows: plan.rows.map_or(1, |a| plan.extents[a]),
        columns: plan.extents[plan.columns],
        depth: plan.reduced().iter().fold(1i64, |all, n| all.saturating_mul(*n)),
        bytes: plan.dtype().bytes().max(4) as i64,
    }
}

/// How many columns a panel of packed weights has.
pub fn panel_width(of: Extent, machine: &Machine) -> i64 {
    let lanes = (machine.vector_bytes as i64 / of.bytes).clamp(1, 64);
    match of.rows {
        ..=STREAMED => lanes,
        _ => tile(of, None, lanes, machine).0 * lanes,
    }
}

/// Tiles to be measured for a product: those that should take the fewest cycles come first, and of
/// each number of vectors there are a few.
pub fn candidates(of: Extent, machine: &Machine) -> Vec<Tile> {
    let lanes = (machine.vector_bytes as i64 / of.bytes).clamp(1, 64);
    let mut all = allowed(of, None, lanes, machine);
    all.sort_by_key(|(cycles, _)| *cycles);
    let mut kept: Vec<Tile> = vec![];
    for (_, tile) in all {
        if kept.iter().filter(|t| t.vectors == tile.vectors).count() < 3 {
            kept.push(tile);
        }
    }
    kept
}

/// Vectors and rows of the tile that was found by measuring, else of the one that takes the fewest
/// cycles by count of instructions; `panel` is how many vectors lie side by side in the wide
/// operand, if it is packed.
fn tile(of: Extent, panel: Option<i64>, lanes: i64, machine: &Machine) -> (i64, i64) {
    let registers = machine.registers as i64;
    let tall = machine.vector_bytes <= 16 && registers <= 16 && of.rows >= registers - 4;
    if tall && panel.is_none_or(|p| p == 1) {
        // Cranelift folds a broadcast into the multiply-add that reads it, if it is the only one.
        return (1, registers - 4);
    }
    let found = machine.tiles.get(of);
    let all = allowed(of, panel, lanes, machine);
    let best = all.iter().min_by_key(|(cycles, tile)| (Some(*tile) != found, *cycles));
    best.map_or((1, 1), |(_, tile)| (tile.vectors, tile.rows))
}

/// Tiles that fit the registers, with their cycles.
fn allowed(of: Extent, panel: Option<i64>, lanes: i64, machine: &Machine) -> Vec<(i64, Tile)> {
    let registers = machine.registers as i64;
    let needed = (of.columns as u64).div_ceil(lanes as u64) as i64;
    // A single row's tiles are to be at least two, so that two threads have something to do.
    let widest = if of.rows == 1 { (needed + 1) / 2 } else { needed }.min(WIDEST);
    let (narrowest, widest) = match panel.filter(|p| *p <= WIDEST) {
        Some(p) if of.rows <= STREAMED => (p, widest.max(p)),
        Some(p) => (p, p),
        None => (1, widest),
    };
    let mut all = vec![];
    let near = machine.caches[0] as i64 / 2;
    let load = if registers > 16 { LOAD.1 } else { LOAD.0 };
    let step = Step { depth: of.depth, bytes: of.bytes, lanes, near, load };
    for vectors in (narrowest..=widest).step_by(narrowest as usize) {
        // Sums, a step's vectors of the wide operand, and one broadcast.
        let room = (registers - 1 - vectors) / vectors;
        for rows in 1..=room.min(TALLEST).min(of.rows) {
            all.push((step.of_all(of.rows, rows, needed, vectors), Tile { vectors, rows }));
        }
    }
    all
}

/// What one step of the sum costs, in 64ths of a cycle.
struct Step {
    depth: i64,
    /// Of an element.
    bytes: i64,
    lanes: i64,
    /// Bytes of an operand that stay in the first cache from one tile to the next.
    near: i64,
    /// How much a load gets in the way of what is the bottleneck, in eighths of its own cost.
    load: i64,
}

impl Step {
    /// Over all tiles.
    fn of_all(&self, m: i64, rows: i64, needed: i64, vectors: i64) -> i64 {
        let down = (m as u64).div_ceil(rows as u64) as i64;
        let across = |rows: i64| {
            let rest = needed % vectors;
            let last = if rest > 0 { self.of(rows, rest) } else { 0 };
            needed / vectors * self.of(rows, vectors) + last
        };
        let taller = m % down;
        taller * across(m / down + 1) + (down - taller) * across(m / down)
    }

    /// One tile: two multiply-adds or two loads a cycle, 32 bytes from the second cache, and never
    /// less than the latency of a multiply-add. What is not the bottleneck gets in its way a little.
    fn of(&self, rows: i64, vectors: i64) -> i64 {
        let far = |bytes: i64| if self.depth.saturating_mul(bytes) > self.near { bytes } else { 0 };
        let streams = 2 * (far(vectors * self.lanes * self.bytes) + far(rows * self.bytes));
        let (sums, loads) = (32 * rows * vectors, 32 * (rows + vectors));
        sums.max(loads).max(streams).max(256) + (self.load * loads + streams) / 8
    }
}

/// Vectors that cover some columns.
fn pieces(columns: i64, lanes: u16, rest: Rest) -> Vec<Piece> {
    let wide = lanes as i64;
    let full = |first: i64| Piece { first, lanes, valid: lanes };
    let mut pieces: Vec<Piece> = (0..columns / wide).map(|i| full(i * wide)).collect();
    let (first, left) = (columns / wide * wide, columns % wide);
    match rest {
        _ if left == 0 => {}
        Rest::Overlapping | Rest::Cut if first > 0 => pieces.push(full(columns - wide)),
        Rest::Masked | Rest::Short | Rest::Overlapping => {
            // Behind full vectors, one that shares their broadcasts.
            let shares = first > 0 && rest == Rest::Masked;
            let fewest = if shares { lanes } else { lanes.min(4) };
            let lanes = (left as u16).next_power_of_two().max(fewest);
            pieces.push(Piece { first, lanes, valid: left as u16 });
        }
        Rest::Cut => {
            let short = |(first, lanes)| Piece { first, lanes, valid: lanes };
            pieces.extend(sweep::tail(0, columns, lanes).into_iter().map(short));
        }
    }
    pieces
}

/// The guards of columns `first..first + lanes` in one written-out step.
fn status(plan: &Plan, first: i64, lanes: u16, step: &[i64]) -> Status {
    if plan.tied_to != plan.columns {
        return Status::Inside;
    }
    let inside = (0..lanes as i64).filter(|l| holds(plan, first + l, step)).count();
    match inside {
        0 => Status::Outside,
        n if n == lanes as usize => Status::Inside,
        _ => Status::Edge,
    }
}

/// Whether a column (or row, whichever the guards are tied to) is inside in one written-out step.
pub fn holds(plan: &Plan, at: i64, step: &[i64]) -> bool {
    let one = |g: &Guard| {
        let of = |a: usize| match a {
            a if a == plan.tied_to => at,
            a if a >= plan.rank + plan.statics => step[a - plan.rank - plan.statics],
            _ => 0,
        };
        let point: Vec<i64> = (0..plan.extents.len()).map(of).collect();
        let v = eval(&g.expr, &point);
        v >= g.lo && v < g.hi
    };
    plan.tied.iter().all(one)
}

fn eval(e: &Expr, point: &[i64]) -> i64 {
    e.eval(point, &|_, _| 0)
}
