//! The whole compiler on one page: which passes run at which level, and in which order the levels
//! follow each other.
//!
//! ```text
//! text ─front→ Graph ─GRAPH passes→ Graph ─bind, LOWER passes→ Graph
//!      ─split, pack→ (recipe of constants, Graph) ─fuse→ Graph of groups ─assemble→ Program ─target→ code
//! ```
//!
//! `GRAPH` passes see open dimensions; they run once for a model. From `LOWER` on everything is an
//! integer; that part runs once for each binding of the dimensions.

use crate::base::machine::Machine;
use crate::ir::Graph;
use crate::ir::op::OpError;
use crate::pass::{self, Control, PassFailure, PassStat, Step};
use crate::schedule::build::{Assembled, assemble};
use crate::schedule::consts::split;
use crate::schedule::fusion::{Fusion, Mode, fuse};
use crate::schedule::layout::pack;

/// How hard to try.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Level {
    /// One launch for each op, nothing rewritten.
    O0,
    /// Cheap passes, and fusion.
    O1,
    #[default]
    O2,
    /// May round a little worse, within stated bounds.
    O3,
}

use Step::{Pass, Repeat};

/// Passes over the graph as it was written, composites and open dimensions included.
pub fn graph_passes(level: Level) -> &'static [Step] {
    match level {
        Level::O0 => &[Pass("dce")],
        Level::O1 => &[Pass("canonicalize"), Pass("unwrap"), Repeat(&["fold", "cse", "dce"], 4)],
        Level::O2 | Level::O3 => &[
            Pass("canonicalize"),
            Pass("raise"),
            Pass("unwrap"),
            Pass("fold_batch_norm"),
            Pass("merge"),
            Repeat(&["algebra", "fold", "cse", "dce"], 8),
        ],
    }
}

/// Passes over the bound graph: composites that no generator claims become simple ops.
pub fn lower_passes(level: Level) -> &'static [Step] {
    match level {
        Level::O0 => &[Pass("expand"), Pass("narrow")],
        Level::O1 => &[Pass("lower"), Pass("narrow"), Repeat(&["fold", "cse", "dce"], 4)],
        Level::O2 | Level::O3 => {
            &[Pass("lower"), Pass("narrow"), Repeat(&["algebra", "fold", "cse", "dce"], 8)]
        }
    }
}

/// What scheduling a bound graph gives.
pub struct Scheduled {
    /// Makes the program's constants of the model's parameters.
    pub recipe: Graph,
    pub fusion: Fusion,
    pub assembled: Assembled,
}

/// Runs a list of passes; `watch` sees the graph after each.
pub fn optimize(
    graph: &mut Graph,
    steps: &[Step],
    control: &Control,
    watch: &mut dyn FnMut(&'static str, &Graph),
) -> Result<Vec<PassStat>, PassFailure> {
    pass::run(graph, steps, control, watch)
}

/// The largest tile of Winograd's algorithm, in results along an axis: larger ones round worse (in
/// units of the range of the results at most 5e-6 with two, 5e-5 with four).
fn largest_tile(level: Level, strict: bool) -> usize {
    match level {
        Level::O2 if !strict => 2,
        Level::O3 if !strict => 4,
        Level::O0 | Level::O1 | Level::O2 | Level::O3 => 0,
    }
}

/// From a bound graph without unclaimed composites to a Program; a `strict` one rounds as it was
/// written.
pub fn schedule(
    graph: &Graph,
    (level, strict): (Level, bool),
    machine: &Machine,
) -> Result<Scheduled, OpError> {
    let mode = if level == Level::O0 { Mode::Apart } else { Mode::Together };
    let mut parts = split(graph);
    // The templates of a GPU read operands as they are.
    if level != Level::O0 && !machine.in_step() {
        pack(&mut parts, largest_tile(level, strict), machine)?;
    }
    let fusion = fuse(&parts.run, mode)?;
    let assembled = assemble(&fusion.graph, &fusion.groups, machine, mode)?;
    Ok(Scheduled { recipe: parts.recipe, fusion, assembled })
}
