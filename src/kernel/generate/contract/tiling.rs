//! The tiles of a contraction on one machine: how many rows and columns, and which tiles of columns
//! share code.

use super::super::sweep;
use super::plan::Plan;
use crate::base::machine::Machine;
use crate::ir::index::{Expr, Guard};

/// Kinds of tiles along the columns, each with code of its own.
const KINDS: usize = 16;
/// Vectors of a tile of one row.
const WIDEST: i64 = 8;
/// Registers for a broadcast element and the vectors of the wide operand.
const OPERANDS: i64 = 4;

pub struct Tiling {
    /// Lanes of a full vector.
    pub lanes: u16,
    /// Columns of a full tile.
    pub width: i64,
    /// Tiles along the columns.
    pub across: i64,
    /// Tiles along the rows; the first `taller` of them have one row more than `rows`.
    pub down: i64,
    pub rows: i64,
    pub taller: i64,
    pub kinds: Vec<Kind>,
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
        let budget = (machine.registers as i64 - OPERANDS).max(4);
        let n = plan.extents[plan.columns()];
        let m = plan.rows.map_or(1, |a| plan.extents[a]);
        let needed = (n as u64).div_ceil(lanes as u64) as i64;
        // With few registers a broadcast is best folded into the multiply-add that reads it, and
        // that takes tiles of one vector.
        let tall = machine.registers <= 16 && m >= budget;
        let (vectors, most) = match tall {
            true => (1, budget),
            false => {
                let vectors = vectors(m, needed, budget);
                (vectors, (budget / vectors).clamp(1, 8))
            }
        };
        let down = (m as u64).div_ceil(most as u64) as i64;
        let width = vectors * lanes;
        let mut tiling = Tiling {
            lanes: lanes as u16,
            width,
            across: (n as u64).div_ceil(width as u64) as i64,
            down,
            rows: m / down,
            taller: m % down,
            kinds: vec![],
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
        if plan.tied.is_empty() {
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

/// Vectors of a tile: the power of two that fills the registers with sums.
fn vectors(m: i64, needed: i64, budget: i64) -> i64 {
    let mut vectors = 1;
    while vectors < WIDEST && vectors < needed && vectors * 2 * m.min(6) <= budget {
        vectors *= 2;
    }
    vectors
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
    let inside = (0..lanes as i64).filter(|l| holds(plan, first + l, step)).count();
    match inside {
        0 => Status::Outside,
        n if n == lanes as usize => Status::Inside,
        _ => Status::Edge,
    }
}

/// Whether a column is inside in one written-out step.
pub fn holds(plan: &Plan, column: i64, step: &[i64]) -> bool {
    let one = |g: &Guard| {
        let of = |a: usize| match a {
            a if a == plan.columns() => column,
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
