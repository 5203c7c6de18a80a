//! The tiles of a contraction on one machine: how many rows and columns, and which tiles of columns
//! share code.
//!
//! The packing of parameters asks here for the width of its panels.

use super::super::sweep;
use super::plan::Plan;
use crate::base::machine::Machine;
use crate::ir::index::{Expr, Guard};

/// Kinds of tiles along the columns, each with code of its own.
const KINDS: usize = 16;
/// Vectors of a tile of one row.
const WIDEST: i64 = 8;
/// Rows of a tile: more would make code that does not fit the front of the pipeline.
const TALLEST: i64 = 14;

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
    /// (first column in the tile, lanes).
    pub pieces: Vec<(i64, u16)>,
    /// For each written-out step, of each piece.
    pub status: Vec<Vec<Status>>,
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
        let bytes = plan.dtype().bytes().max(4) as i64;
        let lanes = (machine.vector_bytes as i64 / bytes).clamp(1, 64);
        let n = plan.extents[plan.columns];
        let m = plan.rows.map_or(1, |a| plan.extents[a]);
        let panel = match plan.lanewise {
            // Each row of a vector has an operand of its own: there is nothing to share.
            true => Some(1),
            false => plan.panel().map(|p| p.width).filter(|w| w % lanes == 0).map(|w| w / lanes),
        };
        let (vectors, most) = tile(m, n, panel, lanes, machine);
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
            let pieces = pieces(columns, self.lanes);
            let of = |step: &Vec<i64>| {
                let piece =
                    |(off, lanes): &(i64, u16)| status(plan, t * self.width + off, *lanes, step);
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
        match bands.last_mut().filter(|b| b.rows == rows && b.inside == inside) {
            Some(last) => last.to = tiles.end,
            None => bands.push(Band { from: tiles.start, to: tiles.end, first, rows, inside }),
        }
        first += rows * (tiles.end - tiles.start);
        bands.len() <= KINDS
    };
    let fits = match tied {
        true => (0..down).all(|t| add(t..t + 1, low + (t < taller) as i64)),
        false => (taller == 0 || add(0..taller, low + 1)) && add(taller..down, low),
    };
    fits.then_some(bands)
}

/// How many columns a panel of packed weights has, for products of `m` rows and `n` columns.
pub fn panel_width(m: i64, n: i64, bytes: i64, machine: &Machine) -> i64 {
    let lanes = (machine.vector_bytes as i64 / bytes).clamp(1, 64);
    tile(m, n, None, lanes, machine).0 * lanes
}

/// Vectors and rows of the tile that takes the fewest cycles by count of instructions; `panel` is
/// how many vectors lie side by side in the wide operand, if it is packed.
fn tile(m: i64, n: i64, panel: Option<i64>, lanes: i64, machine: &Machine) -> (i64, i64) {
    let registers = machine.registers as i64;
    let tall = machine.vector_bytes <= 16 && registers <= 16 && m >= registers - 4;
    if tall && panel.is_none_or(|p| p == 1) {
        // Cranelift folds a broadcast into the multiply-add that reads it, if it is the only one.
        return (1, registers - 4);
    }
    let needed = (n as u64).div_ceil(lanes as u64) as i64;
    let mut best = (i64::MAX, (1, 1));
    let widths = match panel.filter(|p| *p <= WIDEST) {
        Some(p) => p..=p,
        None => 1..=WIDEST.min(needed),
    };
    for vectors in widths {
        // Sums, a step's vectors of the wide operand, and one broadcast.
        let room = (registers - 1 - vectors) / vectors;
        for rows in 1..=room.min(TALLEST).min(m) {
            let cycles = cycles(m, rows, needed, vectors);
            if cycles < best.0 {
                best = (cycles, (vectors, rows));
            }
        }
    }
    best.1
}

/// Quarters of cycles of one step of the sum over all tiles: two multiply-adds or two loads a
/// cycle, and never fewer than the latency of a multiply-add.
fn cycles(m: i64, rows: i64, needed: i64, vectors: i64) -> i64 {
    let down = (m as u64).div_ceil(rows as u64) as i64;
    let one = |rows: i64, vectors: i64| {
        let loads = rows + vectors;
        (2 * (rows * vectors).max(loads)).max(16) + loads / 4
    };
    let across = |rows: i64| {
        let rest = needed % vectors;
        needed / vectors * one(rows, vectors) + if rest > 0 { one(rows, rest) } else { 0 }
    };
    let taller = m % down;
    taller * across(m / down + 1) + (down - taller) * across(m / down)
}

/// Vectors that cover some columns: the last one may overlap the one before; where there are fewer
/// columns than lanes, shorter ones.
fn pieces(columns: i64, lanes: u16) -> Vec<(i64, u16)> {
    let wide = lanes as i64;
    if columns < wide {
        return sweep::tail(0, columns, lanes);
    }
    let mut pieces: Vec<(i64, u16)> = (0..columns / wide).map(|i| (i * wide, lanes)).collect();
    if columns % wide != 0 {
        pieces.push((columns - wide, lanes));
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
