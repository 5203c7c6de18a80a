//! Attention by the template `kernels/attention.wgsl`.
//!
//! How many rows and keys a tile has follows from the shape and from what the adapter offers. A tile of
//! many rows reads keys and values less often, one of few rows keeps more of the device busy.

use super::product::BUSY;
use super::stmt::Role;
use super::template::{Filled, Holes, Values};
use super::{Features, Matmul};
use crate::kernel::attention::Attention;
use crate::kernel::product::Operand;

const TEXT: &str = include_str!("../../../kernels/attention.wgsl");

/// Keys from which attention is worth tiles.
const LEAST: u32 = 8;
/// Blocks of 4 × 4 sums that an invocation has room for.
const MOST: u32 = 4;
/// Steps of the depth that are brought at once, at most.
const STEPS: u32 = 64;

/// Invocations `down` × `across`, each with 4 rows and 4 keys.
#[derive(Clone, Copy)]
struct Tile {
    down: u32,
    across: u32,
}

const fn tile(down: u32, across: u32) -> Tile {
    Tile { down, across }
}

/// From many rows to few.
const TILES: &[Tile] = &[
    tile(16, 16),
    tile(8, 16),
    tile(8, 8),
    tile(4, 16),
    tile(4, 8),
    tile(2, 32),
    tile(2, 16),
    tile(1, 64),
    tile(1, 32),
];

/// What is in workgroup memory at a time.
#[derive(Clone, Copy)]
struct Parts {
    /// Steps of keys.
    steps: u32,
    values: u32,
}

impl Tile {
    fn rows(self) -> u32 {
        4 * self.down
    }

    fn keys(self) -> u32 {
        4 * self.across
    }

    fn invocations(self) -> u32 {
        self.down * self.across
    }

    /// Tiles of all rows.
    fn count(self, a: &Attention) -> u64 {
        a.groups as u64 * a.rows.div_ceil(self.rows()) as u64
    }

    /// One quad more than there are, so that steps begin in other banks.
    fn key_pitch(self) -> u32 {
        self.across + 1
    }

    /// Blocks of 4 × 4 sums of an invocation.
    fn blocks(self, a: &Attention) -> u32 {
        a.width.div_ceil(4).div_ceil(self.across)
    }

    /// Quads of the queries, and of the weights.
    fn quads(self, a: &Attention) -> (u32, u32) {
        (a.depth * self.down, self.keys() * self.down)
    }

    /// How much of keys and values there is room for; `None` where that is not enough to be worth it.
    fn parts(self, a: &Attention, features: &Features) -> Option<Parts> {
        let (queries, weights) = self.quads(a);
        let taken = queries.checked_add(weights + self.invocations())?;
        let room = (features.shared / 16).checked_sub(taken)?;
        // Parts of one size, in fours, for runs of elements.
        let even = |all: u32, most: u32| {
            let most = most.min(all.next_multiple_of(4)) / 4 * 4;
            (most > 0).then(|| all.div_ceil(all.div_ceil(most)).next_multiple_of(4))
        };
        let steps = even(a.depth, (room / self.key_pitch()).min(STEPS))?;
        let values = even(self.keys().min(a.keys), room / a.width.div_ceil(4))?;
        let fits = self.invocations() <= features.invocations && self.blocks(a) <= MOST;
        fits.then_some(Parts { steps, values })
    }

    /// Time, in no unit.
    fn cost(self, a: &Attention, parts: Parts) -> f64 {
        let tiles = self.count(a) as f64;
        let (blocks, keys) = (self.blocks(a) as f64, self.keys().min(a.keys) as f64);
        let scores = a.depth as f64 * 28.0 + 400.0 + 6.0 * self.across as f64;
        let sums = keys * (22.0 * blocks + 6.0);
        let barriers = a.depth.div_ceil(parts.steps) as f64 + (keys / parts.values as f64).ceil();
        let all = a.keys.div_ceil(self.keys()) as f64 * (scores + sums + 100.0 * barriers);
        (tiles * self.invocations() as f64 / BUSY).max(1.0) * all
    }
}

/// The template for an attention; `None` where the kernel's own loops do better, or nothing fits.
pub fn filled<'k>(a: &'k Attention, features: &Features) -> Option<Filled<'k>> {
    let extents = [a.groups, a.rows, a.keys, a.depth, a.width];
    let worth = a.keys >= LEAST || features.matmul != Matmul::Auto;
    if !worth || extents.iter().any(|n| *n == 0 || *n >= 1 << 24) {
        return None;
    }
    let fitting = TILES.iter().filter_map(|t| Some((*t, t.parts(a, features)?)));
    let (tile, parts) = fitting.min_by(|(s, p), (t, q)| s.cost(a, *p).total_cmp(&t.cost(a, *q)))?;
    // Behind those of the kernel are its sums, tops and totals.
    let matrix = a.finish.params.len() as u16 - 3;
    let operand = |o: &Operand| Role::operand(matrix, o.lanes);
    let finish = |takes| Role::Part { matrix, takes, lanes: None };
    let mut functions = vec![
        ("query", &a.query.kernel, operand(&a.query)),
        ("key", &a.key.kernel, operand(&a.key)),
        ("value", &a.value.kernel, operand(&a.value)),
        ("score", &a.score, Role::Part { matrix, takes: &["sum"], lanes: Some(1) }),
        ("finish", &a.finish, finish(&["sum", "top", "total"])),
    ];
    functions.extend(a.of_rows.iter().map(|k| ("finish_row", k, finish(&["top", "total"]))));
    Some(Filled {
        parts: functions,
        text: tile.text(a, parts),
        enables: "",
        invocations: tile.invocations(),
        tiles: tile.count(a),
        coop: None,
    })
}

impl Tile {
    fn text(self, a: &Attention, parts: Parts) -> String {
        let mut holes = Holes::default();
        let (queries, weights) = self.quads(a);
        let column_quads = a.width.div_ceil(4);
        let values = [
            ("rows", a.rows),
            ("keys", a.keys),
            ("depth", a.depth),
            ("width", a.width),
            ("invocations", self.invocations()),
            ("tile_rows", self.rows()),
            ("tile_keys", self.keys()),
            ("tile_steps", parts.steps),
            ("tile_values", parts.values),
            ("across", self.across),
            ("down", self.down),
            ("tiles_down", a.rows.div_ceil(self.rows())),
            ("column_quads", column_quads),
            ("key_pitch", self.key_pitch()),
            ("query_quads", queries),
            ("tile_quads", (parts.steps * self.key_pitch()).max(parts.values * column_quads)),
            ("weight_quads", weights),
            ("blocks", self.blocks(a)),
            ("sums", 4 * self.blocks(a)),
        ];
        values.into_iter().for_each(|(name, n)| holes.value(name, n));
        holes.value("tiles", self.count(a));
        let key = |(i, part): (usize, &str)| {
            Values::from([("i", i.to_string()), ("part", part.to_string())])
        };
        let keys: Vec<Values> = ["x", "y", "z", "w"].into_iter().enumerate().map(key).collect();
        let column = |i: u32| Values::from([("column", i.to_string())]);
        let columns: Vec<Values> = (0..self.blocks(a)).map(column).collect();
        let rows_of = |column: &Values| {
            let both = |row: &Values| row.clone().into_iter().chain(column.clone()).collect();
            keys.iter().map(both).collect::<Vec<Values>>()
        };
        let sums: Vec<Values> = columns.iter().flat_map(rows_of).collect();
        let all = sums.iter().map(|s| format!("sum_{}_{}", s["column"], s["part"]));
        holes.value("all_sums", all.collect::<Vec<_>>().join(", "));
        let lists = [
            ("key", keys),
            ("column", columns),
            ("sum", sums),
            ("operand", self.operands(a, parts)),
            ("of_rows", a.of_rows.iter().map(|_| Values::new()).collect()),
        ];
        holes.lists.extend(lists);
        holes.fill(TEXT)
    }

    fn operands(self, a: &Attention, parts: Parts) -> Vec<Values> {
        let query = Bring {
            name: "query",
            operand: &a.query,
            extents: (a.depth, self.rows()),
            ends: ("DEPTH", "ROWS"),
            tile: ("query_tile", "DOWN"),
        };
        let key = Bring {
            name: "key",
            operand: &a.key,
            extents: (parts.steps, self.keys()),
            ends: ("DEPTH", "KEYS"),
            tile: ("tile", "KEY_PITCH"),
        };
        let value = Bring {
            name: "value",
            operand: &a.value,
            extents: (parts.values, a.width.next_multiple_of(4)),
            ends: ("KEYS", "WIDTH"),
            tile: ("tile", "COLUMN_QUADS"),
        };
        [query, key, value].iter().map(Bring::values).collect()
    }
}

/// How a part of an operand gets into workgroup memory: neighbours bring neighbours in memory.
struct Bring<'a> {
    name: &'static str,
    operand: &'a Operand,
    /// Steps, and rows or columns, of a part.
    extents: (u32, u32),
    /// How many there are in all.
    ends: (&'static str, &'static str),
    /// Where to, and the quads from one step to the next there.
    tile: (&'static str, &'static str),
}

impl Bring<'_> {
    fn values(&self) -> Values {
        let (name, lanes, (steps, others)) = (self.name, self.operand.lanes as u32, self.extents);
        let inner = if self.operand.by_steps { steps } else { others } / lanes;
        let (first, rest) = (format!("% {inner} * {lanes}"), format!("/ {inner}"));
        let by = |lane: bool| if lane && lanes > 1 { " + lane" } else { "" };
        let (step, other, call) = match self.operand.by_steps {
            true => (first, rest, format!("{name}(step / {lanes}, other, group)")),
            false => (rest, first, format!("{name}(other / {lanes}, step, group)")),
        };
        Values::from([
            ("name", name.into()),
            ("runs", (steps * others / lanes).to_string()),
            ("step_of", step),
            ("other_of", other),
            ("last_step", self.ends.0.into()),
            ("last_other", self.ends.1.into()),
            ("call", call),
            ("lanes", lanes.to_string()),
            ("tile", self.tile.0.into()),
            ("pitch", self.tile.1.into()),
            ("step_lane", by(self.operand.by_steps).into()),
            ("other_lane", by(!self.operand.by_steps).into()),
            ("part", if lanes > 1 { "[lane]" } else { "" }.into()),
        ])
    }
}
