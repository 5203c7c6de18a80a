//! Layouts: how values lie in memory, where that is dlc's to choose.
//!
//! Feature maps between convolutions go in blocks of channels (`maps`). Parameters that
//! contractions and convolutions read are laid out once, as the kernels walk through them:
//!
//! In: the graph of runs and the recipe of its parameters. A parameter that is the right operand
//! of a contraction, `B[batch, k, n]` in whatever order of axes, becomes `[batch, n / w, k, w]`
//! with `w` columns side by side (the last panel filled up with zeros); the recipe gets the ops
//! that pack it, the graph of runs the views that undo it. Fusion turns those into index
//! arithmetic, so that a tile of columns is contiguous along `n` and steps on by `w` along `k`.
//! A large right operand that is computed or given in a run is laid out so in the run.

mod fill;
mod maps;
mod winograd;

use crate::base::machine::Machine;
use crate::base::{Dim, Shape, TensorType};
use crate::ir::attr::Attr;
use crate::ir::builder::Builder;
use crate::ir::graph::{Graph, NodeId, Output, Value};
use crate::ir::op::{Class, ContractSpec, OpError, Source};
use crate::kernel::generate::contract::{Extent, is_small, panel_width};

use super::consts::Split;
use maps::Conv;

/// Columns that panels are filled up to, about.
const FILLED: usize = 16;
/// Elements of a parameter that may be filled up to many times its size.
const SMALL: usize = 1 << 14;
/// As many columns of one row keep the multiply-adds as busy as dot products do.
const MANY_COLUMNS: usize = 64;
/// Sums of so many steps are done before their latency counts.
const SHORT_SUM: usize = 32;
/// Rows of a product from which packing its right operand in every run costs little beside it.
const MANY_ROWS: usize = 192;

/// Chooses the layouts of feature maps and parameters of `split.run`. Convolutions may be done by
/// Winograd's algorithm in tiles of at most `tile` results along each axis.
pub fn pack(split: &mut Split, tile: usize, machine: &Machine) -> Result<(), OpError> {
    let convs = maps::block(split)?;
    // Blocks may leave parameters unread, which were filled up.
    let mut packed = !convs.is_empty();
    for (id, conv) in convs {
        if conv == Conv::Dense && winograd::replace(split, id, tile, machine)? {
            continue;
        }
        let panels = Panels::of_conv(&split.run, id, conv, machine);
        if let Some(panels) = panels {
            repack(split, id, &panels)?;
            packed = true;
        }
    }
    let readers: Vec<(NodeId, ContractSpec)> = split
        .run
        .topological()
        .into_iter()
        .filter_map(|id| match split.run.class(id) {
            Class::Contract(spec) => Some((id, spec)),
            _ => None,
        })
        .collect();
    for (id, spec) in readers {
        let b = split.run.node(id).operands()[1];
        let ty = split.run.ty(b).clone();
        let lhs = split.run.ty(split.run.node(id).operands()[0]).shape.concrete();
        let panels = lhs.and_then(|lhs| Panels::of(&spec, &lhs, &ty, machine));
        let Some(panels) = panels else { continue };
        if matches!(split.run.class(b.node), Class::Source(Source::Param)) {
            repack(split, id, &panels)?;
            packed = true;
        } else if let Some(panels) = panels.in_a_run(machine) {
            let mut run = Builder::new(&mut split.run);
            run.loc = run.graph.node(id).loc.clone();
            let stored = panels.stored(&mut run, b)?;
            let view = panels.unpacked(&mut run, stored)?;
            split.run.set_operand(id, 1, view);
        }
    }
    if packed {
        drop_unread(split);
    }
    Ok(())
}

/// Lets a node read its second operand, a parameter, from panels.
fn repack(split: &mut Split, id: NodeId, panels: &Panels) -> Result<(), OpError> {
    let b = split.run.node(id).operands()[1];
    let value = derived(split, b, &panels.label(), |b, x| panels.packed(b, x))?;
    let mut views = Builder::new(&mut split.run);
    views.loc = views.graph.node(id).loc.clone();
    let view = panels.unpacked(&mut views, value)?;
    split.run.set_operand(id, 1, view);
    Ok(())
}

/// The parameter of runs that the recipe makes of another one, `from`; equal labels, equal values.
fn derived(
    split: &mut Split,
    from: Value,
    label: &str,
    make: impl FnOnce(&mut Builder, Value) -> Result<Value, OpError>,
) -> Result<Value, OpError> {
    let plain = split.run.node(from.node).op.str("name").to_string();
    let name = format!("{plain}@{label}");
    let known = split.run.params.iter().find(|p| split.run.node(**p).op.str("name") == name);
    if let Some(known) = known {
        return Ok(Value { node: *known, result: 0 });
    }
    let made = split.recipe.outputs.iter().find(|o| *o.name == *plain);
    let source = made.expect("the recipe makes every parameter").value;
    let value = make(&mut Builder::new(&mut split.recipe), source)?;
    split.recipe.outputs.push(Output { name: name.clone().into(), value });
    let ty = split.recipe.ty(value).clone();
    Ok(Builder::new(&mut split.run).param(&name, ty, "zeros", true))
}

/// Parameters that are read only in packed form go away.
fn drop_unread(split: &mut Split) {
    let run = &mut split.run;
    let kept = |run: &Graph, id: NodeId| {
        run.use_count(id) > 0
            || run.outputs.iter().any(|o| o.value.node == id)
            || run.states.iter().any(|s| s.next.node == id)
    };
    let gone: Vec<NodeId> = run.params.iter().copied().filter(|p| !kept(run, *p)).collect();
    for id in &gone {
        let name = run.node(*id).op.str("name").to_string();
        split.recipe.outputs.retain(|o| *o.name != *name);
        run.params.retain(|p| p != id);
        run.remove(*id);
    }
    // The order of the outputs is that of the parameters.
    let order: Vec<String> =
        run.params.iter().map(|p| run.node(*p).op.str("name").to_string()).collect();
    split.recipe.outputs.sort_by_key(|o| order.iter().position(|n| **n == *o.name));
    run.compact();
    split.recipe.compact();
}

/// How one operand is cut into panels.
struct Panels {
    /// The operand's axes in the order batch, columns, reduced.
    order: Vec<usize>,
    /// Whether they lie in the order batch, reduced, columns.
    by_rows: bool,
    shape: Vec<usize>,
    batch: usize,
    columns: usize,
    reduced: usize,
    /// Columns of a panel.
    width: usize,
    /// Rows of the product.
    rows: usize,
    /// Of an element.
    bytes: usize,
}

impl Panels {
    /// `None` where packing does not pay or does not apply.
    fn of(
        spec: &ContractSpec,
        lhs: &[usize],
        ty: &TensorType,
        machine: &Machine,
    ) -> Option<Panels> {
        let shape = ty.shape.concrete()?;
        let axes = || spec.rhs.iter().enumerate();
        let in_lhs = |label: &u8| spec.lhs.contains(label);
        let in_out = |label: &u8| spec.out.contains(label);
        let batch: Vec<usize> =
            axes().filter(|(_, l)| in_lhs(l) && in_out(l)).map(|a| a.0).collect();
        let columns: Vec<usize> =
            axes().filter(|(_, l)| !in_lhs(l) && in_out(l)).map(|a| a.0).collect();
        // In the order in which the sum walks through them.
        let reduced: Vec<usize> = spec
            .lhs
            .iter()
            .filter(|l| !in_out(l))
            .filter_map(|l| spec.rhs.iter().position(|r| r == l))
            .collect();
        let order = [&batch[..], &columns, &reduced].concat();
        let by_rows = [&batch[..], &reduced, &columns].concat().is_sorted();
        let count = |axes: &[usize]| axes.iter().map(|a| shape[*a]).product::<usize>();
        let last = shape[*columns.last()?];
        let own = |(label, n): (&u8, &usize)| (!spec.rhs.contains(label)).then_some(*n);
        let rows: usize = spec.lhs.iter().zip(lhs).filter_map(own).product();
        let bytes = ty.dtype.compute().bytes().max(4);
        let [m, n, k] = [rows, last, count(&reduced)].map(|n| n as i64);
        let extent = Extent { rows: m, columns: n, depth: k, bytes: bytes as i64 };
        let width = panel_width(extent, machine) as usize;
        // A panel must not run over the end of the innermost axis of columns.
        let lanes = (machine.vector_bytes as usize / bytes).max(1);
        // There is one on every machine where vectors of the widest one fit.
        let divides = |w: &usize| w.is_multiple_of(lanes) && last.is_multiple_of(*w);
        let width = match columns.len() {
            1 => width,
            _ => (1..=width).rev().find(divides).unwrap_or(width),
        };
        let broadcast = spec
            .rhs
            .iter()
            .zip(&shape)
            .any(|(l, n)| spec.lhs.iter().zip(lhs).any(|(m, of)| l == m && n != of));
        let fits = order.len() == shape.len()
            && !broadcast
            && pays(rows, last, count(&reduced))
            && (columns.len() == 1 || last.is_multiple_of(FILLED))
            && spec.out.last() == columns.last().map(|a| &spec.rhs[*a]);
        let (batch, columns, reduced) = (count(&batch), count(&columns), count(&reduced));
        (fits && batch > 0 && reduced > 1).then_some(Panels {
            order,
            by_rows,
            shape,
            batch,
            columns,
            reduced,
            width,
            rows,
            bytes,
        })
    }

    /// Weights `[O, C, kernel…]` of a convolution over feature maps in blocks.
    fn of_conv(graph: &Graph, id: NodeId, conv: Conv, machine: &Machine) -> Option<Panels> {
        let Class::Window(spec) = graph.class(id) else { return None };
        let ty = graph.ty(graph.node(id).operands()[1]);
        let shape = ty.shape.concrete()?;
        let spatial = &graph.node(id).results[0].shape.concrete()?[2..];
        let columns = shape[0];
        let pointwise = spec.kernel.iter().chain(&spec.stride).all(|n| *n == 1);
        let [lines, points] = match spatial {
            [.., lines, points] => [*lines, *points],
            _ => [1, *spatial.last()?],
        };
        let steps = spec.kernel.iter().product::<usize>();
        let [h, w, steps] = [lines, points, steps].map(|n| n as i64);
        let rows: usize = match pointwise {
            true => spatial.iter().product(),
            false if is_small(h, w, steps) => lines * points,
            false => points,
        };
        let bytes = ty.dtype.compute().bytes().max(4);
        let reduced = shape[1..].iter().product();
        let [m, n, k] = [rows, columns, reduced].map(|n| n as i64);
        let width = match conv {
            Conv::Dense => {
                let bytes = bytes as i64;
                panel_width(Extent { rows: m, columns: n, depth: k, bytes }, machine)
            }
            Conv::Depthwise => (machine.vector_bytes as i64 / bytes as i64).max(1),
        };
        Some(Panels {
            order: (0..shape.len()).collect(),
            by_rows: false,
            reduced,
            shape,
            batch: 1,
            columns,
            width: width as usize,
            rows,
            bytes,
        })
    }

    /// What tells different packings of one parameter apart.
    fn label(&self) -> String {
        let order: Vec<String> = self.order.iter().map(usize::to_string).collect();
        format!("{}x{}", order.join("."), self.width)
    }

    fn filled(&self) -> usize {
        self.columns.next_multiple_of(self.width)
    }

    /// `[batch, n / w, k, w]` of the operand.
    fn packed(&self, b: &mut Builder, x: Value) -> Result<Value, OpError> {
        let [n, k, w, filled] = [self.columns, self.reduced, self.width, self.filled()];
        let more = (filled - n) as i64;
        if self.by_rows {
            // Parts of rows move as they are.
            let x = b.reshape(x, &shape(&[self.batch, k, n]))?;
            let x = pad(b, x, &[0, 0, 0, 0, 0, more])?;
            let x = b.reshape(x, &shape(&[self.batch, k, filled / w, w]))?;
            return transpose(b, x, &[0, 2, 1, 3]);
        }
        let x = transpose(b, x, &self.order)?;
        let x = b.reshape(x, &shape(&[self.batch, n, k]))?;
        let x = pad(b, x, &[0, 0, 0, more, 0, 0])?;
        let x = b.reshape(x, &shape(&[self.batch, filled / w, w, k]))?;
        transpose(b, x, &[0, 1, 3, 2])
    }

    /// Panels that every run packs anew, where that pays: the operand exceeds half of a core's
    /// second cache, and panels of a few vectors divide its columns.
    fn in_a_run(self, machine: &Machine) -> Option<Panels> {
        let bytes = (self.reduced * self.columns).saturating_mul(self.bytes) as u64;
        let lanes = (machine.vector_bytes as usize / self.bytes).max(1);
        let width =
            [4, 3, 5].map(|v| v * lanes).into_iter().find(|w| self.columns.is_multiple_of(*w))?;
        let pays = self.rows >= MANY_ROWS && bytes > machine.caches[1] / 2;
        pays.then_some(Panels { width, ..self })
    }

    /// The same as `packed`, as a value of runs that is stored.
    fn stored(&self, b: &mut Builder, x: Value) -> Result<Value, OpError> {
        let x = transpose(b, x, &self.order)?;
        let x = b.reshape(x, &shape(&[self.batch, self.columns, self.reduced]))?;
        let attrs = [("axis", Attr::Int(1)), ("block", Attr::Int(self.width as i64))];
        b.op("relayout", &[x], &attrs)
    }

    /// The operand of its packed form: views only.
    fn unpacked(&self, b: &mut Builder, x: Value) -> Result<Value, OpError> {
        let [n, k, filled] = [self.columns, self.reduced, self.filled()];
        let x = transpose(b, x, &[0, 1, 3, 2])?;
        let mut x = b.reshape(x, &shape(&[self.batch, filled, k]))?;
        if filled != n {
            x = slice(b, x, 1, n)?;
        }
        let ordered: Vec<usize> = self.order.iter().map(|a| self.shape[*a]).collect();
        let x = b.reshape(x, &shape(&ordered))?;
        let mut back = vec![0; self.order.len()];
        for (i, a) in self.order.iter().enumerate() {
            back[*a] = i;
        }
        transpose(b, x, &back)
    }
}

/// Whether panels pay for products of so many rows, columns and steps. Asks nothing of the machine,
/// since the order of a sum follows from the layout.
fn pays(rows: usize, columns: usize, steps: usize) -> bool {
    let filled = columns.next_multiple_of(FILLED);
    // A single row of few columns is better computed as long dot products.
    let dots = rows == 1 && columns < MANY_COLUMNS && steps > SHORT_SUM;
    columns > 1 && !dots && (filled <= 2 * columns || filled * steps <= SMALL)
}

/// Zeros around a value, if there are any.
fn pad(b: &mut Builder, x: Value, widths: &[i64]) -> Result<Value, OpError> {
    if widths.iter().all(|n| *n == 0) {
        return Ok(x);
    }
    let zero = b.scalar(b.graph.ty(x).dtype, 0.0);
    b.op("pad_with", &[x, zero], &[("pad", Attr::Ints(widths.to_vec()))])
}

fn transpose(b: &mut Builder, x: Value, order: &[usize]) -> Result<Value, OpError> {
    if order.is_sorted() {
        return Ok(x);
    }
    let perm = order.iter().map(|a| *a as i64).collect();
    b.op("transpose", &[x], &[("perm", Attr::Ints(perm))])
}

/// The first elements along an axis.
fn slice(b: &mut Builder, x: Value, axis: usize, end: usize) -> Result<Value, OpError> {
    let attrs = [
        ("starts", Attr::Ints(vec![0])),
        ("ends", Attr::Ints(vec![end as i64])),
        ("axes", Attr::Ints(vec![axis as i64])),
    ];
    b.op("slice", &[x], &attrs)
}

fn shape(dims: &[usize]) -> Shape {
    Shape(dims.iter().map(|d| Dim::Const(*d as i64)).collect())
}
