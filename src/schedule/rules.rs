//! The rules of fusion: what a node is to it, and why a node may not join a group.

use std::collections::{BTreeMap, BTreeSet};

use super::fusion::Planner;
use crate::ir::graph::{Graph, NodeId};
use crate::ir::op::{Class, PadMode, Source, View, WindowKind};
use crate::ir::scalar::ScalarFn;

/// What a node is to fusion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Inputs, parameters, states.
    Source,
    Constant,
    /// Iota: free everywhere.
    Index,
    Pointwise,
    /// Conversions: cheap enough to be done again wherever they are read.
    Cast,
    /// Reshape, transpose, broadcast, slice.
    Rename,
    /// The order in which its producer's launch stores a value.
    Layout,
    /// Padding and concatenation: views that have to ask where they are.
    Guarded,
    /// A slice or take at a run-time position.
    Gather,
    Update,
    Reduce,
    Contract,
    Pool,
    Attention,
    /// Sort, scatter, regions: launches, or trees of launches, of their own.
    Opaque,
}

impl Kind {
    /// Keeps its own tiling; others fold into it.
    pub fn is_anchor(self) -> bool {
        matches!(self, Kind::Contract | Kind::Pool | Kind::Attention)
    }
}

/// Elements above which a reduction of a whole tensor does not share its launch.
const WHOLE_ROW: usize = 16 << 10;
/// Ops of one group.
const GROUP_OPS: usize = 64;
/// Computing a value more often than this is never worth it.
const MOST_EVALUATIONS: f64 = 8.0;
/// FLOP of recomputation that nobody notices.
const FREE_FLOPS: u64 = 4096;

pub fn kind(graph: &Graph, id: NodeId) -> Kind {
    match graph.class(id) {
        Class::Source(Source::Input | Source::Param | Source::State) => Kind::Source,
        Class::Source(Source::Constant) => Kind::Constant,
        Class::Source(Source::Iota { .. }) => Kind::Index,
        Class::Elementwise(ScalarFn::Cast(_)) => Kind::Cast,
        Class::Elementwise(_) => Kind::Pointwise,
        Class::View(View::Reshape | View::Transpose(_) | View::Broadcast | View::Slice { .. }) => {
            Kind::Rename
        }
        Class::View(View::Relayout { .. }) => Kind::Layout,
        Class::View(View::Pad {
            mode: PadMode::Constant | PadMode::Edge | PadMode::Reflect,
            ..
        })
        | Class::View(View::Concat { .. }) => Kind::Guarded,
        Class::View(View::DynamicSlice { .. }) | Class::Gather { .. } => Kind::Gather,
        Class::UpdateSlice { .. } => Kind::Update,
        Class::Reduce(_) => Kind::Reduce,
        Class::Contract(_) => Kind::Contract,
        Class::Window(spec) => match spec.kind {
            WindowKind::Conv { .. } | WindowKind::Winograd { .. } => Kind::Contract,
            WindowKind::MaxPool | WindowKind::AvgPool { .. } => Kind::Pool,
        },
        // Composites that reach fusion are those that a group expands itself.
        Class::Composite => Kind::Attention,
        Class::Scatter(_) | Class::Sort(_) | Class::Region(_) => Kind::Opaque,
    }
}

/// Why `id`, whose users are all in group `g`, cannot join it; `None` where it can.
pub fn refuse(
    plan: &Planner,
    id: NodeId,
    users: &[(NodeId, u16)],
    g: usize,
) -> Option<&'static str> {
    let group = &plan.groups[g];
    if group.members.len() >= GROUP_OPS {
        return Some("the group has 64 ops already");
    }
    if plan.kinds[&group.root] == Kind::Opaque {
        return Some("the consumer has a kernel of its own");
    }
    let kind = plan.kinds[&id];
    for (user, operand) in users {
        let by_user = by_user(kind, plan.kinds[user], *operand, plan.graph, *user);
        if by_user.is_some() {
            return by_user;
        }
    }
    let feeds = users.iter().any(|(u, _)| plan.kinds[u].is_anchor());
    if kind == Kind::Rename && feeds && stored_by_producer(plan, id) {
        return Some("its producer stores it in this order");
    }
    if kind == Kind::Cast && feeds && narrows(plan, id) {
        return Some("stored by its producer it takes fewer bytes");
    }
    match kind {
        Kind::Pointwise if group.anchor.is_some() && feeds_anchor(plan, users, g) => {
            Some("it would be computed again for every tile of its consumer")
        }
        Kind::Pointwise | Kind::Cast => recomputed(plan, id, g),
        Kind::Rename | Kind::Index => None,
        Kind::Layout => Some("its producer stores it in this order"),
        Kind::Guarded | Kind::Gather => (group.anchor.is_some() && feeds_anchor(plan, users, g))
            .then_some("an anchor reads its operands without guards"),
        Kind::Update => Some("its result shares memory with its operand"),
        Kind::Reduce => reduce(plan, id, g),
        Kind::Contract | Kind::Pool | Kind::Attention => anchor(plan, id, g),
        Kind::Opaque => Some("it has a kernel of its own"),
        Kind::Source | Kind::Constant => Some("it is in memory already"),
    }
}

/// Whether a conversion makes fewer bytes of something that a launch computes.
fn narrows(plan: &Planner, id: NodeId) -> bool {
    let node = plan.graph.node(id);
    let operand = node.operands()[0];
    let computed = !matches!(plan.kinds[&operand.node], Kind::Source | Kind::Constant);
    computed && node.results[0].dtype.bytes() < plan.graph.ty(operand).dtype.bytes()
}

fn by_user(
    kind: Kind,
    user: Kind,
    operand: u16,
    graph: &Graph,
    id: NodeId,
) -> Option<&'static str> {
    let renames = matches!(kind, Kind::Rename | Kind::Index);
    match user {
        Kind::Gather => {
            if operand > 0 {
                return Some("it is read as an index, from memory");
            }
            let take = matches!(graph.class(id), Class::Gather { .. });
            (take && !renames).then_some("the gather reads it at random")
        }
        Kind::Update => match operand {
            0 => Some("it is updated in place"),
            1 => None,
            _ => Some("it is read as an index, from memory"),
        },
        Kind::Contract | Kind::Attention => (!renames && kind != Kind::Cast)
            .then_some("it would be computed again for every tile of its consumer"),
        Kind::Pool => {
            (!renames && kind != Kind::Cast).then_some("overlapping windows would compute it again")
        }
        Kind::Reduce => (kind == Kind::Guarded).then_some("a guard inside a reduction costs more"),
        Kind::Source
        | Kind::Constant
        | Kind::Index
        | Kind::Pointwise
        | Kind::Cast
        | Kind::Rename
        | Kind::Layout
        | Kind::Guarded
        | Kind::Opaque => None,
    }
}

/// Whether a chain of reshapes and transposes hangs on something that computes and that only this
/// chain reads: then the producer's launch can store the result where the chain puts it.
fn stored_by_producer(plan: &Planner, id: NodeId) -> bool {
    let mut at = id;
    while let Class::View(View::Reshape | View::Transpose(_)) = plan.graph.class(at) {
        at = plan.graph.node(at).operands()[0].node;
        if plan.graph.use_count(at) != 1 {
            return false;
        }
    }
    matches!(
        plan.kinds[&at],
        Kind::Pointwise | Kind::Contract | Kind::Pool | Kind::Attention | Kind::Reduce
    )
}

/// Whether a value gets to the anchor of the group through views.
fn feeds_anchor(plan: &Planner, users: &[(NodeId, u16)], g: usize) -> bool {
    let start: Vec<NodeId> = users.iter().map(|(u, _)| *u).collect();
    dependents(plan, &start, g).contains(&plan.groups[g].anchor.unwrap_or(NodeId(u32::MAX)))
}

/// Members of the group that depend on these members, with them.
fn dependents(plan: &Planner, start: &[NodeId], g: usize) -> BTreeSet<NodeId> {
    let mut seen: BTreeSet<NodeId> = BTreeSet::new();
    let mut open: Vec<NodeId> = start.to_vec();
    while let Some(id) = open.pop() {
        if plan.groups[g].members.contains(&id) && seen.insert(id) {
            open.extend(plan.graph.users(id).iter().map(|u| u.1));
        }
    }
    seen
}

fn users_in(plan: &Planner, id: NodeId) -> Vec<NodeId> {
    plan.graph.users(id).iter().map(|u| u.1).collect()
}

fn numel(graph: &Graph, id: NodeId) -> usize {
    let dims = graph.node(id).results[0].shape.concrete().unwrap_or_default();
    dims.iter().product()
}

fn shape(graph: &Graph, id: NodeId) -> Vec<usize> {
    graph.node(id).results[0].shape.concrete().unwrap_or_default()
}

/// How often a group computes an element of a value that it does not store: once for all elementwise users,
/// which read it at their own place, and once more for each view that moves it.
fn evaluations(plan: &Planner, id: NodeId, g: usize, known: &mut BTreeMap<NodeId, f64>) -> f64 {
    if let Some(times) = known.get(&id) {
        return *times;
    }
    let (mut at_its_place, mut moved) = (0f64, 0f64);
    let users: BTreeSet<NodeId> = users_in(plan, id).into_iter().collect();
    for user in users.into_iter().filter(|u| plan.groups[g].members.contains(u)) {
        let times = match plan.graph.class(user) {
            Class::Elementwise(_) | Class::View(_) => evaluations(plan, user, g, known),
            _ => 1.0,
        };
        match plan.graph.class(user) {
            Class::View(View::Broadcast) => at_its_place = at_its_place.max(times),
            Class::View(_) => {
                let share = numel(plan.graph, user) as f64 / numel(plan.graph, id).max(1) as f64;
                moved += times * share;
            }
            _ => at_its_place = at_its_place.max(times),
        }
    }
    // The group's own results have no user in it.
    let times = if at_its_place + moved > 0.0 { at_its_place + moved } else { 1.0 };
    known.insert(id, times);
    times
}

/// XLA's rule: computing again pays while the extra FLOP are at most 8 for each byte saved.
fn recomputed(plan: &Planner, id: NodeId, g: usize) -> Option<&'static str> {
    let group = &plan.groups[g];
    let flops = match plan.graph.class(id) {
        Class::Elementwise(f) => f.flops(),
        _ => 0,
    };
    if evaluations(plan, id, g, &mut BTreeMap::new()) > MOST_EVALUATIONS {
        return Some(
            "it is read at many places: computing it again for each costs more than storing it",
        );
    }
    let own = numel(plan.graph, id);
    if group.row.as_ref().is_some_and(|row| shape(plan.graph, id).starts_with(row)) {
        return None;
    }
    if lies_on_rows(plan, id, g) && follows_reduction(plan, id) {
        return None;
    }
    let space = group.members.iter().map(|m| numel(plan.graph, *m)).max().unwrap_or(0);
    let extra = flops.saturating_mul(space.saturating_sub(own) as u64);
    let saved = 2 * (own * plan.graph.node(id).results[0].dtype.bytes()) as u64;
    (extra > FREE_FLOPS && extra > 8 * saved).then_some(
        "it is broadcast: computing it again for each element costs more than storing it",
    )
}

/// One value for each row of the group's result: its leading extents, then ones.
fn lies_on_rows(plan: &Planner, id: NodeId, g: usize) -> bool {
    let (own, root) = (shape(plan.graph, id), shape(plan.graph, plan.groups[g].root));
    let row = own.iter().zip(&root).take_while(|(a, b)| a == b).count();
    own.len() == root.len() && own[row..].iter().all(|d| *d == 1)
}

/// Whether a value is made of a reduction by a few elementwise ops: then it is computed once a
/// row, and not for each element.
fn follows_reduction(plan: &Planner, id: NodeId) -> bool {
    let mut at = vec![id];
    for _ in 0..16 {
        let Some(id) = at.pop() else { return false };
        match plan.kinds[&id] {
            Kind::Reduce => return true,
            Kind::Pointwise | Kind::Cast | Kind::Rename => {
                at.extend(plan.graph.node(id).operands().iter().map(|v| v.node));
            }
            _ => {}
        }
    }
    false
}

/// A reduction joins where everything that reads it has its shape, or where all of it lies on rows.
fn reduce(plan: &Planner, id: NodeId, g: usize) -> Option<&'static str> {
    let group = &plan.groups[g];
    if group.anchor.is_some() {
        return Some("its consumer is tiled by an anchor");
    }
    let depends = dependents(plan, &users_in(plan, id), g);
    if group.row.is_none() && group.reduces.is_empty() && on_the_spot(plan, id, &depends) {
        return None;
    }
    match row_for(plan, id, g) {
        Some(_) => None,
        None => Some("its consumer does not walk the same rows"),
    }
}

/// Elementwise and renaming nodes over exactly the elements of `id`.
fn on_the_spot(plan: &Planner, id: NodeId, depends: &BTreeSet<NodeId>) -> bool {
    let n = numel(plan.graph, id);
    depends.iter().all(|d| {
        let pure = match plan.graph.class(*d) {
            Class::Elementwise(_) => plan.graph.node(*d).operands().iter().all(|v| {
                let dependent = depends.contains(&v.node) || v.node == id;
                !dependent || plan.graph.ty(*v).shape == plan.graph.node(*d).results[0].shape
            }),
            Class::View(View::Reshape | View::Transpose(_) | View::Relayout { .. }) => true,
            _ => false,
        };
        pure && numel(plan.graph, *d) == n
    })
}

/// The extents of the rows on which `id` (a reduction) and group `g` can meet.
pub fn row_for(plan: &Planner, id: NodeId, g: usize) -> Option<Vec<usize>> {
    let graph = plan.graph;
    let group = &plan.groups[g];
    let row = row_of(graph, id)?;
    let depends = dependents(plan, &users_in(plan, id), g);
    if group.row.is_none() && group.reduces.is_empty() && on_the_spot(plan, id, &depends) {
        return None;
    }
    if group.row.as_ref().is_some_and(|r| *r != row) {
        return None;
    }
    let reduces_agree = group.reduces.iter().all(|r| row_of(graph, *r).as_ref() == Some(&row));
    let operand = shape(graph, graph.node(id).operands()[0].node);
    let length: usize = operand[row.len()..].iter().product();
    let whole = row.iter().product::<usize>() <= 1 && length > WHOLE_ROW;
    if !reduces_agree || whole {
        return None;
    }
    let root = shape(graph, group.root);
    let walks = |d: &NodeId| {
        let s = shape(graph, *d);
        if !s.starts_with(&row) {
            return false;
        }
        match graph.class(*d) {
            Class::Elementwise(_) => graph.node(*d).operands().iter().all(|v| {
                let dependent = depends.contains(&v.node) || v.node == id;
                !dependent || graph.ty(*v).rank() == s.len()
            }),
            Class::View(View::Reshape | View::Broadcast) => true,
            Class::Reduce(_) => true,
            _ => false,
        }
    };
    (root.starts_with(&row) && depends.iter().all(walks)).then_some(row)
}

/// The leading extents that a reduction leaves, where it reduces all axes behind them.
fn row_of(graph: &Graph, id: NodeId) -> Option<Vec<usize>> {
    let Class::Reduce(spec) = graph.class(id) else { return None };
    let operand = graph.ty(graph.node(id).operands()[0]).shape.concrete()?;
    let first = *spec.axes.first()?;
    let trailing = spec.axes.iter().copied().eq(first..operand.len());
    trailing.then(|| operand[..first].to_vec())
}

/// An anchor joins where all that reads it is elementwise over its elements, or renames them.
fn anchor(plan: &Planner, id: NodeId, g: usize) -> Option<&'static str> {
    let group = &plan.groups[g];
    if group.anchor.is_some() {
        return Some("the group has an anchor already");
    }
    if !group.reduces.is_empty() {
        return Some("its consumer reduces rows");
    }
    let depends = dependents(plan, &users_in(plan, id), g);
    (!on_the_spot(plan, id, &depends)).then_some("its consumer reads it broadcast, or in part")
}
