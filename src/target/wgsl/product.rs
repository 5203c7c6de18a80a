//! Products of matrices by the templates in `kernels/`.
//!
//! Which template, and how large its tiles are, follows from the shape of the product and what the adapter
//! offers. A tile is the larger, the fewer elements are read again, and the fewer workgroups there are.

use std::fmt::Write;

use super::stmt::Role;
use super::template::{Filled, Holes, Values};
use super::{Features, Matmul, Matrices};
use crate::base::machine::{Extent, Tile, Tiles};
use crate::kernel::product::{Operand, Product};

const TILED: &str = include_str!("../../../kernels/matmul_tiled.wgsl");
const COOP: &str = include_str!("../../../kernels/matmul_coop.wgsl");

/// Rows and columns from which a product is worth tiles, and steps.
const LEAST: (u32, u32) = (8, 4);
/// Invocations that keep a device busy.
pub const BUSY: f64 = 65536.0;

/// How a product is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Template {
    Tiled(Tiled),
    Coop(Coop),
}

/// Invocations `down` × `across`, each with so many blocks of 4 × 4 sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tiled {
    down: u32,
    across: u32,
    quad_rows: u32,
    quad_columns: u32,
    steps: u32,
}

/// Subgroups `down` × `across`, each with so many matrices of sums.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Coop {
    matrices: Matrices,
    down: u32,
    across: u32,
    sub_rows: u32,
    sub_columns: u32,
    steps: u32,
}

const fn tiled(down: u32, across: u32, quad_rows: u32, quad_columns: u32) -> Tiled {
    Tiled { down, across, quad_rows, quad_columns, steps: 8 }
}

/// From large to small.
const TILES: &[Tiled] = &[
    tiled(16, 16, 2, 2),
    tiled(16, 16, 1, 1),
    tiled(8, 8, 1, 1),
    tiled(4, 16, 1, 1),
    tiled(16, 4, 1, 1),
    tiled(2, 16, 1, 1),
];

/// Subgroups and matrices of each, from large to small.
const COOP_TILES: &[(u32, u32, u32, u32)] =
    &[(2, 2, 4, 4), (2, 2, 2, 4), (2, 2, 2, 2), (1, 2, 2, 2), (1, 1, 1, 2)];

impl Tiled {
    fn rows(self) -> u32 {
        self.down * self.quad_rows * 4
    }

    fn columns(self) -> u32 {
        self.across * self.quad_columns * 4
    }

    fn invocations(self) -> u32 {
        self.down * self.across
    }

    /// Quads from one step to the next: of the left operand, of the right one.
    fn pitches(self) -> (u32, u32) {
        (self.rows() / 4 + 1, self.columns() / 4 + 1)
    }

    fn fits(self, features: &Features) -> bool {
        let (left, right) = self.pitches();
        let bytes = 2 * self.steps * (left + right) * 16;
        bytes <= features.shared && self.invocations() <= features.invocations
    }

    /// Time, in no unit.
    fn cost(self, p: &Product) -> f64 {
        let tiles = count(p, (self.rows(), self.columns())).0 as f64;
        let (rows, columns) = (self.quad_rows as f64, self.quad_columns as f64);
        let step = 16.0 * rows * columns + 6.0 * (rows + columns);
        (tiles * self.invocations() as f64 / BUSY).max(1.0) * step
    }
}

impl Coop {
    /// Rows and columns of a tile.
    pub fn extent(self) -> (u32, u32) {
        (self.rows(), self.columns())
    }

    fn rows(self) -> u32 {
        self.down * self.sub_rows * self.matrices.size
    }

    fn columns(self) -> u32 {
        self.across * self.sub_columns * self.matrices.size
    }

    fn invocations(self) -> u32 {
        self.down * self.across * self.matrices.subgroup
    }

    /// Elements from one row of the left operand to the next, from one step of the right one.
    fn pitches(self) -> (u32, u32) {
        (self.steps + 8, self.columns() + 8)
    }

    /// Elements of one half of each operand's tile, and those of the sums that leave.
    fn elements(self) -> (u32, u32, u32) {
        let (left, right) = self.pitches();
        let sums = self.down * self.across * self.matrices.size * self.matrices.size;
        (self.rows() * left, self.steps * right, sums)
    }

    fn fits(self, features: &Features) -> bool {
        let (left, right, sums) = self.elements();
        let of_sum = if self.matrices.half_sums { 2 } else { 4 };
        let bytes = 2 * (left + right) * 2 + sums * of_sum;
        bytes <= features.shared && self.invocations() <= features.invocations
    }

    fn cost(self, p: &Product) -> f64 {
        let tiles = count(p, (self.rows(), self.columns())).0 as f64;
        let (rows, columns) = (self.sub_rows as f64, self.sub_columns as f64);
        let step = rows * columns + 0.75 * (rows + columns);
        (tiles * self.invocations() as f64 / BUSY).max(1.0) * step
    }
}

/// How many tiles there are: in all, below each other, side by side.
fn count(p: &Product, (rows, columns): (u32, u32)) -> (u64, u32, u32) {
    let (down, across) = (p.rows.div_ceil(rows), p.columns.div_ceil(columns));
    (p.groups as u64 * down as u64 * across as u64, down, across)
}

/// The template for a product; `None` where the kernel's own loops do better, or nothing fits.
pub fn filled<'k>(p: &'k Product, features: &Features, tiles: &Tiles) -> Option<Filled<'k>> {
    let template = choose(p, features, tiles)?;
    let matrix = p.finish.params.len() as u16 - 1;
    let operand = |o: &Operand| Role::operand(matrix, o.lanes);
    let finish = Role::Part { matrix, takes: &["sum"], lanes: None };
    Some(Filled {
        parts: vec![
            ("left", &p.left.kernel, operand(&p.left)),
            ("right", &p.right.kernel, operand(&p.right)),
            ("finish", &p.finish, finish),
        ],
        text: template.text(p),
        enables: template.enables(),
        invocations: template.invocations(),
        tiles: count(p, template.extent()).0,
        coop: template.coop(),
    })
}

/// What tells products apart that have tiles of their own.
pub fn extent(p: &Product) -> Extent {
    let [rows, columns, depth] = [p.rows, p.columns, p.steps].map(i64::from);
    let bytes = if p.left.half && p.right.half { 2 } else { 4 };
    Extent { rows, columns, depth, bytes }
}

/// Tiles for a product, the best by counting first. None where its kernel's own body does better.
pub fn candidates(p: &Product, features: &Features) -> Vec<Tile> {
    templates(p, features).iter().map(Template::tile).collect()
}

/// The template with a tile that was measured, or else the first one.
fn choose(p: &Product, features: &Features, tiles: &Tiles) -> Option<Template> {
    let all = templates(p, features);
    let measured = tiles.get(extent(p));
    let chosen = all.iter().find(|t| Some(t.tile()) == measured);
    chosen.or(all.first()).copied()
}

/// Templates for a product, from the least cost on: by cooperative matrices where there are such, else in
/// tiles.
fn templates(p: &Product, features: &Features) -> Vec<Template> {
    let worth = p.rows.min(p.columns) >= LEAST.0 && p.steps >= LEAST.1;
    let whole = p.groups > 0 && p.rows > 0 && p.columns > 0 && p.steps > 0;
    let forced = features.matmul != Matmul::Auto;
    let in_range = [p.groups, p.rows, p.columns, p.steps].iter().all(|n| *n < 1 << 30);
    if !whole || !in_range || !(worth || forced) {
        return vec![];
    }
    let halves = p.left.half && p.right.half;
    let matrices = features.matrices.filter(|_| halves && features.matmul != Matmul::Tiled);
    if let Some(coop) = features.coop.filter(|t| matrices.is_some() && t.fits(features)) {
        return vec![Template::Coop(coop)];
    }
    let coop = matrices.into_iter().flat_map(|m| coop_tiles(p, m)).filter(|t| t.fits(features));
    let coop: Vec<Coop> = by_cost(coop, |t| t.cost(p));
    if !coop.is_empty() {
        return coop.into_iter().map(Template::Coop).collect();
    }
    let tiles = TILES.iter().copied().filter(|t| t.fits(features));
    by_cost(tiles, |t| t.cost(p)).into_iter().map(Template::Tiled).collect()
}

/// All tiles of cooperative matrices that the adapter has room for.
pub fn all_coop_tiles(features: &Features) -> Vec<Coop> {
    let Some(matrices) = features.matrices else { return vec![] };
    let of = |runs| tiles_of(matrices, runs).filter(|t| t.fits(features));
    of(true).chain(of(false)).collect()
}

fn coop_tiles(p: &Product, matrices: Matrices) -> impl Iterator<Item = Coop> {
    tiles_of(matrices, p.left.lanes > 1 && p.right.lanes > 1)
}

/// `runs`: of operands that come in runs; elements that come one by one are many instructions.
fn tiles_of(matrices: Matrices, runs: bool) -> impl Iterator<Item = Coop> {
    let steps = if runs { 2 * matrices.size } else { matrices.size };
    let of = move |&(down, across, sub_rows, sub_columns): &(u32, u32, u32, u32)| Coop {
        matrices,
        down,
        across,
        sub_rows,
        sub_columns,
        steps,
    };
    COOP_TILES.iter().map(of)
}

fn by_cost<T>(tiles: impl Iterator<Item = T>, cost: impl Fn(&T) -> f64) -> Vec<T> {
    let mut all: Vec<T> = tiles.collect();
    all.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    all
}

impl Template {
    /// Its rows and columns.
    fn tile(&self) -> Tile {
        let (rows, columns) = self.extent();
        Tile { rows: rows as i64, vectors: columns as i64 }
    }

    fn invocations(&self) -> u32 {
        match self {
            Template::Tiled(t) => t.invocations(),
            Template::Coop(c) => c.invocations(),
        }
    }

    /// Rows and columns of a tile.
    fn extent(&self) -> (u32, u32) {
        match self {
            Template::Tiled(t) => (t.rows(), t.columns()),
            Template::Coop(c) => c.extent(),
        }
    }

    fn coop(&self) -> Option<Coop> {
        match self {
            Template::Tiled(_) => None,
            Template::Coop(c) => Some(*c),
        }
    }

    /// What the shader enables.
    fn enables(&self) -> &'static str {
        match self {
            Template::Tiled(_) => "",
            Template::Coop(_) => "enable wgpu_cooperative_matrix;\n",
        }
    }

    /// The text behind the declarations.
    fn text(&self, p: &Product) -> String {
        let mut holes = Holes::default();
        let steps = match self {
            Template::Tiled(t) => t.steps,
            Template::Coop(c) => c.steps,
        };
        shape(&mut holes, p, self.extent(), steps);
        holes.value("invocations", self.invocations());
        let (rows, columns) = self.extent();
        let element = match self {
            Template::Tiled(_) => "f32",
            Template::Coop(_) => "f16",
        };
        let load = Load { steps, invocations: self.invocations(), element };
        load.holes(&mut holes, &LEFT, &p.left, rows);
        load.holes(&mut holes, &RIGHT, &p.right, columns);
        match self {
            Template::Tiled(t) => {
                t.holes(&mut holes);
                holes.fill(TILED)
            }
            Template::Coop(c) => {
                c.holes(&mut holes);
                holes.fill(COOP)
            }
        }
    }
}

/// Extents of the product and of its tiles.
fn shape(holes: &mut Holes, p: &Product, tile: (u32, u32), steps: u32) {
    let (tiles, down, across) = count(p, tile);
    let values = [
        ("rows", p.rows as u64),
        ("columns", p.columns as u64),
        ("steps", p.steps as u64),
        ("tile_rows", tile.0 as u64),
        ("tile_columns", tile.1 as u64),
        ("tile_steps", steps as u64),
        ("tiles", tiles),
        ("tiles_down", down as u64),
        ("tiles_across", across as u64),
        ("rounds", p.steps.div_ceil(steps) as u64),
    ];
    values.into_iter().for_each(|(name, n)| holes.value(name, n));
    let outside = |name: &str, extent: u32, tile: u32| match extent.is_multiple_of(tile) {
        true => None,
        false => Some(format!("{name} >= {extent}")),
    };
    let any = |of: [Option<String>; 2]| {
        let some: Vec<String> = of.into_iter().flatten().collect();
        if some.is_empty() { "false".into() } else { some.join(" || ") }
    };
    let step = outside("step", p.steps, steps);
    holes.value("left_outside", any([outside("row", p.rows, tile.0), step.clone()]));
    holes.value("right_outside", any([outside("column", p.columns, tile.1), step]));
}

/// What is called how for an operand.
struct Names {
    list: &'static str,
    parts: &'static str,
    step_of: &'static str,
    other_of: &'static str,
    kind: &'static str,
    call: &'static str,
    function: &'static str,
    other: &'static str,
}

const LEFT: Names = Names {
    list: "left",
    parts: "left_part",
    step_of: "left_step_of",
    other_of: "left_row_of",
    kind: "left_type",
    call: "left_call",
    function: "left",
    other: "row",
};

const RIGHT: Names = Names {
    list: "right",
    parts: "right_part",
    step_of: "right_step_of",
    other_of: "right_column_of",
    kind: "right_type",
    call: "right_call",
    function: "right",
    other: "column",
};

/// Which elements of its tiles an invocation brings: neighbours bring neighbours in memory.
struct Load {
    steps: u32,
    invocations: u32,
    /// What they are multiplied as.
    element: &'static str,
}

impl Load {
    /// `across`: rows of the left operand's tile, columns of the right one's.
    fn holes(&self, holes: &mut Holes, names: &Names, operand: &Operand, across: u32) {
        let lanes = operand.lanes as u32;
        let runs = self.steps * across / lanes;
        let rounds = runs.div_ceil(self.invocations);
        let mine = |i: u32| match (i + 1) * self.invocations <= runs {
            true => "true".to_string(),
            false => format!("me + {} < {runs}", i * self.invocations),
        };
        let item = |i: u32| {
            let at = (i * self.invocations).to_string();
            Values::from([("i", i.to_string()), ("at", at), ("mine", mine(i))])
        };
        holes.lists.insert(names.list, (0..rounds).map(item).collect());
        let part = |n: u32| {
            let (i, lane) = (n / lanes, n % lanes);
            let name = if lanes == 1 { "" } else { [".x", ".y", ".z", ".w"][lane as usize] };
            let plus = if operand.by_steps { [lane, 0] } else { [0, lane] };
            let [step, other] = plus.map(|n| n.to_string());
            let part = [("part", name.to_string()), ("step", step), ("other", other)];
            item(i).into_iter().chain(part).collect::<Values>()
        };
        holes.lists.insert(names.parts, (0..rounds * lanes).map(part).collect());
        let inner = if operand.by_steps { self.steps } else { across } / lanes;
        let (first, rest) = (format!("% {inner} * {lanes}"), format!("/ {inner}"));
        let (step, other) = if operand.by_steps { (first, rest) } else { (rest, first) };
        holes.value(names.step_of, step);
        holes.value(names.other_of, other);
        let element = self.element;
        holes.value(
            names.kind,
            match lanes {
                1 => element.to_string(),
                n => format!("vec{n}<{element}>"),
            },
        );
        let (function, other) = (names.function, names.other);
        holes.value(
            names.call,
            match operand.by_steps {
                true => format!("{function}(step / {lanes}, {other}, group)"),
                false => format!("{function}({other} / {lanes}, step, group)"),
            },
        );
    }
}

fn numbered(name: &'static str, n: u32) -> Vec<Values> {
    (0..n).map(|i| Values::from([(name, i.to_string())])).collect()
}

impl Tiled {
    fn holes(self, holes: &mut Holes) {
        let Tiled { down, across, quad_rows, quad_columns, steps } = self;
        let (left, right) = self.pitches();
        let values = [
            ("down", down),
            ("across", across),
            ("quad_rows", quad_rows),
            ("quad_columns", quad_columns),
            ("left_pitch", left),
            ("right_pitch", right),
            ("left_half", steps * left),
            ("right_half", steps * right),
            ("left_quads", 2 * steps * left),
            ("right_quads", 2 * steps * right),
            ("sums", 4 * quad_rows * quad_columns),
            ("sums_of_rows", 4 * quad_columns),
        ];
        values.into_iter().for_each(|(name, n)| holes.value(name, n));
        let (mut sums, mut all) = (vec![], String::new());
        for row in 0..quad_rows {
            for part in ["x", "y", "z", "w"] {
                for column in 0..quad_columns {
                    let comma = if all.is_empty() { "" } else { ", " };
                    let _ = write!(all, "{comma}sum_{row}_{part}_{column}");
                    let (row, column) = (row.to_string(), column.to_string());
                    sums.push(Values::from([
                        ("row", row),
                        ("part", part.into()),
                        ("column", column),
                    ]));
                }
            }
        }
        holes.value("all_sums", all);
        holes.lists.insert("sum", sums);
        holes.lists.insert("row", numbered("row", quad_rows));
        holes.lists.insert("column", numbered("column", quad_columns));
    }
}

impl Coop {
    fn holes(self, holes: &mut Holes) {
        let Coop { matrices, across, sub_rows, sub_columns, .. } = self;
        let Matrices { size, subgroup, half_sums } = matrices;
        let ((left_pitch, right_pitch), (left, right, sums)) = (self.pitches(), self.elements());
        let values = [
            ("size", size),
            ("subgroup", subgroup),
            ("across", across),
            ("sub_rows", sub_rows),
            ("sub_columns", sub_columns),
            ("sub_tile_rows", sub_rows * size),
            ("sub_tile_columns", sub_columns * size),
            ("left_pitch", left_pitch),
            ("right_pitch", right_pitch),
            ("left_half", left),
            ("right_half", right),
            ("left_elements", 2 * left),
            ("right_elements", 2 * right),
            ("sums_elements", sums),
        ];
        values.into_iter().for_each(|(name, n)| holes.value(name, n));
        holes.value("matrix", format!("coop_mat{size}x{size}"));
        holes.value("sum", if half_sums { "f16" } else { "f32" });
        let sum = |i: u32| {
            let (row, column) = (i / sub_columns, i % sub_columns);
            Values::from([("row", row.to_string()), ("column", column.to_string())])
        };
        holes.lists.insert("sum", (0..sub_rows * sub_columns).map(sum).collect());
        holes.lists.insert("row", numbered("row", sub_rows));
        holes.lists.insert("column", numbered("column", sub_columns));
    }
}
