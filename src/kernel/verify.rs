//! What holds for every kernel that reaches a target. This list is the specification:
//!
//! 1. Types, scopes, yields: `types::check_types`.
//! 2. Every access lies inside its buffer, for all grid points and iterations: by intervals and
//!    linear bounds ([`Ranges`]). What cannot be proved is an error: clamp, or bound the loop.
//! 3. Grid points do not write the same elements: a store whose address is the same for two grid
//!    points is an error. (Where that cannot be decided the kernel passes.)
//! 4. Worker scratch is written before it is read, in program order.
//! 5. `inplace(out, in)`: a load of `in` that comes after a store to `out` provably touches other
//!    elements (branches of which one is taken follow no order); in a loop that does both, an element is loaded before it is stored to.
//! 6. No `Fma` in the separate class.
//! 7. Where a workgroup has one invocation (on the CPU) nothing waits for others, and no scratch is
//!    shared. Elsewhere all invocations come by what waits: it stands in no loop and no branch.
//! 8. Invocations of a workgroup do not write the same elements (as 3), and between two barriers no
//!    other one touches what an invocation stores to shared scratch, or to `out` of a pair of `inplace`.
//!
//! In time about linear in the size of the kernel.

use std::collections::{BTreeMap, BTreeSet};

use super::ir::*;
use super::range::{Form, Interval, Ranges, Truth};
use super::types::{Invalid, buffer_of, check_types};
use crate::base::machine::Numerics;

/// So many times alternatives are told apart to prove one access.
const MAX_CASES: u32 = 64;

/// Checks a kernel; the first fault found is the answer.
pub fn verify(kernel: &Kernel) -> Result<(), Invalid> {
    check_types(kernel)?;
    if kernel.grid_points() == 0 {
        return Ok(());
    }
    let mut v = Verifier {
        kernel,
        ranges: Ranges::new(kernel),
        at: None,
        written: BTreeSet::new(),
        stores: vec![],
        loads: vec![],
        clock: 0,
        epoch: 0,
        loops: vec![],
        sides: vec![],
    };
    let result = v.header().and_then(|()| v.region(&kernel.body));
    let result = result.and_then(|()| v.in_place()).and_then(|()| v.disjoint());
    let result = result.and_then(|()| v.shared());
    result.map_err(|what| Invalid { kernel: kernel.name.clone(), at: v.at, what })
}

/// A load or store, for the rules about pairs of them.
struct Touch {
    inst: Val,
    at: Addr,
    form: Form,
    lanes: u16,
    /// Its place in program order, and the loops around it (by their places).
    clock: u32,
    /// How many barriers came before it.
    epoch: u32,
    loops: Vec<u32>,
    /// The branches around it: the place of each `If`, and which of its sides.
    sides: Vec<(u32, Truth)>,
}

impl Touch {
    /// Whether a grid point that does the one never does the other.
    fn excludes(&self, other: &Touch) -> bool {
        let opposite =
            |(at, side)| other.sides.iter().any(|(place, truth)| at == place && side != truth);
        self.sides.iter().any(|(at, side)| opposite((at, side)))
            && !self.loops.iter().any(|l| other.loops.contains(l))
    }
}

struct Verifier<'k> {
    kernel: &'k Kernel,
    ranges: Ranges<'k>,
    at: Option<Val>,
    /// Scratch that was stored to.
    written: BTreeSet<u16>,
    stores: Vec<Touch>,
    loads: Vec<Touch>,
    clock: u32,
    epoch: u32,
    loops: Vec<u32>,
    sides: Vec<(u32, Truth)>,
}

type Check = Result<(), String>;

impl Verifier<'_> {
    fn header(&self) -> Check {
        let alone = self.kernel.scratch.iter().all(|s| s.scope == Scope::Worker);
        match self.alone() && !alone {
            true => Err("scratch is shared by one invocation".into()),
            false => Ok(()),
        }
    }

    /// Whether a workgroup has one invocation.
    fn alone(&self) -> bool {
        self.kernel.local == [1; 3]
    }

    /// All invocations meet here.
    fn meet(&mut self, what: &str) -> Check {
        self.epoch += 1;
        if self.alone() {
            return Err(format!("{what} in a workgroup of one invocation"));
        }
        match self.loops.is_empty() && self.sides.is_empty() {
            true => Ok(()),
            false => Err(format!("{what} in a loop or branch")),
        }
    }

    fn region(&mut self, region: &Region) -> Check {
        for inst in &region.insts {
            self.at = inst.defs().first().copied().or(self.at);
            self.clock += 1;
            match inst {
                Inst::For { lo, hi, step, init, body, .. } => {
                    self.ranges.enter_loop(body.params[0], *lo, *hi, *step);
                    self.ranges.see_carried(init, body);
                    // A loop that never runs holds no accesses.
                    if self.ranges.interval(*hi).hi <= self.ranges.interval(*lo).lo {
                        continue;
                    }
                    self.loops.push(self.clock);
                    self.region(body)?;
                    self.loops.pop();
                }
                Inst::If { cond, then, els, .. } => {
                    let place = self.clock;
                    for (side, truth) in [(then, Truth::Holds), (els, Truth::Fails)] {
                        let assumed = self.ranges.assume(*cond, truth);
                        // Nor does a branch that is never taken.
                        if assumed.possible {
                            self.sides.push((place, truth));
                            self.region(side)?;
                            self.sides.pop();
                        }
                        self.ranges.forget(assumed);
                    }
                }
                Inst::Load { dst, at, mode, valid, .. } => {
                    let (valid, spread) = match mode {
                        LoadMode::Contig => (*valid, Interval::new(0, *valid as i128 - 1)),
                        LoadMode::Splat => (1, Interval::new(0, 0)),
                        LoadMode::Gather(idx) => (*valid, self.ranges.interval(*idx)),
                    };
                    let form = self.access(at, spread)?;
                    self.ranges.see(inst);
                    if let Buf::Scratch(s) = at.buf
                        && !self.written.contains(&s)
                    {
                        return Err(format!("scratch {s} is read before it is written"));
                    }
                    let touch = self.touch(*dst, at, form, valid);
                    self.loads.push(touch);
                }
                Inst::Store { at, v, valid } => {
                    self.at = Some(*v);
                    let form = self.access(at, Interval::new(0, *valid as i128 - 1))?;
                    if let Buf::Scratch(s) = at.buf {
                        self.written.insert(s);
                    }
                    let touch = self.touch(*v, at, form, *valid);
                    self.stores.push(touch);
                }
                Inst::Op { op: Op::Fma, .. } if self.kernel.numerics == Numerics::Separate => {
                    return Err("a fused multiply-add in the separate class".into());
                }
                Inst::Barrier => self.meet("a barrier")?,
                Inst::GroupFold { .. } => {
                    self.meet("a fold across a workgroup")?;
                    if !self.kernel.local[1].is_power_of_two() {
                        return Err("a fold across a number that is no power of two".into());
                    }
                }
                Inst::Const { .. }
                | Inst::Grid { .. }
                | Inst::Local { .. }
                | Inst::Op { .. }
                | Inst::Fold { .. }
                | Inst::Lane { .. } => self.ranges.see(inst),
                Inst::Prefetch { .. } => {}
            }
        }
        Ok(())
    }

    fn touch(&self, inst: Val, at: &Addr, form: Form, lanes: u16) -> Touch {
        let (loops, sides) = (self.loops.clone(), self.sides.clone());
        Touch { inst, at: *at, form, lanes, clock: self.clock, epoch: self.epoch, loops, sides }
    }

    /// Checks that an access with these offsets from its address is inside the buffer.
    fn access(&mut self, at: &Addr, spread: Interval) -> Result<Form, String> {
        let len = buffer_of(self.kernel, at.buf).map_or(0, |(_, len)| len) as i128;
        let mut form = self.ranges.form(at.base);
        form.constant += at.plus as i128;
        let reach = |ranges: &Ranges| {
            let bounds = ranges.bounds(&form);
            (bounds.lo.saturating_add(spread.lo), bounds.hi.saturating_add(spread.hi))
        };
        let inside = |ranges: &Ranges| {
            let (lo, hi) = reach(ranges);
            lo >= 0 && hi < len
        };
        let mut cases = MAX_CASES;
        if self.ranges.in_all_cases(&inside, &mut cases) {
            return Ok(form);
        }
        let (lo, hi) = reach(&self.ranges);
        Err(format!("elements {lo} to {hi} of {}, which has {len}", self.name(at.buf)))
    }

    fn name(&self, buf: Buf) -> String {
        match buf {
            Buf::Param(i) => format!("`{}`", self.kernel.params[i as usize].name),
            Buf::Scratch(i) => format!("scratch {i}"),
        }
    }

    fn in_place(&mut self) -> Check {
        let mut depends = BTreeMap::new();
        axes_of(&self.kernel.body, &BTreeSet::new(), &mut depends);
        // Whether invocations of a workgroup have an element each at an address.
        let local = (0..3).filter(|i| self.kernel.local[*i as usize] > 1).map(|i| i + LOCAL);
        let local: BTreeSet<u8> = local.collect();
        let own = |at: &Addr| depends.get(&at.base).is_some_and(|by| by.is_superset(&local));
        for (out, input) in &self.kernel.inplace {
            let stores: Vec<&Touch> =
                self.stores.iter().filter(|s| s.at.buf == Buf::Param(*out)).collect();
            for load in self.loads.iter().filter(|l| l.at.buf == Buf::Param(*input)) {
                let same = |s: &&Touch| s.form == load.form && s.lanes == load.lanes;
                let apart = |s: &Touch| {
                    let difference = load.form.plus(-1, &s.form);
                    difference.is_some_and(|d| {
                        let d = self.ranges.bounds(&d);
                        d.lo >= s.lanes as i128 || d.hi <= -(load.lanes as i128)
                    })
                };
                let ok = stores.iter().filter(|s| !s.excludes(load)).all(|s| {
                    if !self.alone() && s.epoch == load.epoch {
                        return same(s) && own(&load.at);
                    }
                    let shared = s.loops.iter().any(|l| load.loops.contains(l));
                    match s.clock < load.clock {
                        true => apart(s),
                        false => !shared || stores.iter().any(same) || apart(s),
                    }
                });
                if !ok {
                    self.at = Some(load.inst);
                    return Err(format!(
                        "{} is loaded after {}, which may be the same buffer, is stored to",
                        self.name(load.at.buf),
                        self.name(Buf::Param(*out))
                    ));
                }
            }
        }
        Ok(())
    }

    /// Refuses stores whose address does not depend on an axis with several points, of the grid or of
    /// the workgroup.
    fn disjoint(&mut self) -> Check {
        let mut depends: BTreeMap<Val, BTreeSet<u8>> = BTreeMap::new();
        axes_of(&self.kernel.body, &BTreeSet::new(), &mut depends);
        let none = BTreeSet::new();
        for store in &self.stores {
            let (name, first) = match store.at.buf {
                Buf::Param(_) => (self.name(store.at.buf), 0),
                // Each workgroup has its own.
                Buf::Scratch(s) if self.kernel.scratch[s as usize].scope == Scope::Shared => {
                    (self.name(store.at.buf), LOCAL)
                }
                Buf::Scratch(_) => continue,
            };
            let by = depends.get(&store.at.base).unwrap_or(&none);
            let guard = depends.get(&store.inst).unwrap_or(&none);
            for axis in first..GUARDED {
                let (of, i) = match axis.checked_sub(LOCAL) {
                    None => ("grid points", axis),
                    Some(i) => ("invocations", i),
                };
                let extents = if axis < LOCAL { self.kernel.grid } else { self.kernel.local };
                // A guard may still keep the points apart.
                let apart = by.contains(&axis) || guard.contains(&(axis + GUARDED));
                if extents[i as usize] > 1 && !apart {
                    self.at = Some(store.inst);
                    return Err(format!("all {of} along axis {i} write to {name}"));
                }
            }
        }
        Ok(())
    }

    /// Refuses accesses to shared scratch of which one is a store, that no barrier keeps apart, unless an
    /// invocation touches its own element.
    fn shared(&mut self) -> Check {
        let of_group = |t: &&Touch| match t.at.buf {
            Buf::Scratch(s) => self.kernel.scratch[s as usize].scope == Scope::Shared,
            Buf::Param(_) => false,
        };
        for store in self.stores.iter().filter(of_group) {
            let others = self.stores.iter().chain(&self.loads).filter(of_group);
            let clash = |t: &&Touch| {
                t.at.buf == store.at.buf
                    && t.epoch == store.epoch
                    && (t.form != store.form || t.lanes != store.lanes)
            };
            if let Some(other) = others.clone().find(clash) {
                self.at = Some(other.inst);
                let name = self.name(store.at.buf);
                return Err(format!("{name} is touched by others before a barrier"));
            }
        }
        Ok(())
    }
}

/// Added to an axis: it is one of the workgroup.
const LOCAL: u8 = 3;
/// Added to an axis: a register is stored under a condition that depends on the axis.
const GUARDED: u8 = 6;

/// The axes of the grid and of the workgroup that each register depends on; `around` are those of the conditions and loop
/// bounds around the region.
fn axes_of(region: &Region, around: &BTreeSet<u8>, depends: &mut BTreeMap<Val, BTreeSet<u8>>) {
    for inst in &region.insts {
        let of = |depends: &BTreeMap<Val, BTreeSet<u8>>, vals: &[Val]| {
            let sets = vals.iter().filter_map(|v| depends.get(v));
            sets.flatten().copied().filter(|a| *a < GUARDED).collect::<BTreeSet<u8>>()
        };
        let mut set = of(depends, &inst.args());
        match inst {
            Inst::Grid { axis, .. } => {
                set.insert(*axis);
            }
            Inst::Local { axis, .. } => {
                set.insert(*axis + LOCAL);
            }
            // The same for all of a workgroup.
            Inst::GroupFold { .. } => set.retain(|axis| *axis != LOCAL + 1),
            Inst::For { lo, hi, body, .. } => {
                let bounds = of(depends, &[*lo, *hi]);
                let inner: BTreeSet<u8> = around.union(&bounds).copied().collect();
                for v in &body.params {
                    depends.insert(*v, set.clone());
                }
                axes_of(body, &inner, depends);
                set.extend(of(depends, &body.yields));
            }
            Inst::If { cond, then, els, .. } => {
                let inner: BTreeSet<u8> = around.union(&of(depends, &[*cond])).copied().collect();
                for side in [then, els] {
                    axes_of(side, &inner, depends);
                    set.extend(of(depends, &side.yields));
                }
            }
            Inst::Store { v, .. } => {
                let guards = around.iter().map(|a| a + GUARDED);
                depends.entry(*v).or_default().extend(guards);
            }
            Inst::Const { .. }
            | Inst::Op { .. }
            | Inst::Fold { .. }
            | Inst::Lane { .. }
            | Inst::Load { .. }
            | Inst::Prefetch { .. }
            | Inst::Barrier => {}
        }
        for v in inst.defs() {
            depends.insert(*v, set.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DType;
    use crate::kernel::build::KernelBuilder;
    use crate::kernel::random::{Limits, random_kernel};

    fn at(buf: Buf, base: Val) -> Addr {
        Addr { buf, base, plus: 0 }
    }

    /// y[i] = x[i] in tiles of 48 with a short last one, of `len` elements.
    fn tiles(len: i64, grid: u32, limit: i64) -> Kernel {
        let mut b = KernelBuilder::new("tiles", Numerics::Separate);
        let x = b.param("x", DType::F32, len as u64, Access::Read);
        let y = b.param("y", DType::F32, len as u64, Access::Write);
        b.set_grid([grid, 1, 1]);
        let g = b.grid(0);
        let start = b.times(g, 48);
        let (n, tile, zero) = (b.index(limit), b.index(48), b.index(0));
        let left = b.op(Op::Sub, &[n, start]);
        let count = b.op(Op::Min, &[tile, left]);
        b.for_loop((zero, count, 1), &[], |b, i, _| {
            let base = b.add(start, i);
            let v = b.load(at(x, base), 1);
            b.store(at(y, base), v);
            vec![]
        });
        b.finish()
    }

    #[test]
    fn a_short_last_tile_is_in_bounds() {
        verify(&tiles(100, 3, 100)).unwrap();
        let error = verify(&tiles(100, 3, 101)).unwrap_err();
        assert!(error.what.contains("0 to 100"), "{error}");
    }

    #[test]
    fn gathers_need_a_clamp() {
        for clamp in [true, false] {
            let mut b = KernelBuilder::new("gather", Numerics::Separate);
            let x = b.param("x", DType::F32, 10, Access::Read);
            let ix = b.param("ix", DType::I64, 4, Access::Read);
            let y = b.param("y", DType::F32, 4, Access::Write);
            let zero = b.index(0);
            let mut i = b.load(at(ix, zero), 4);
            if clamp {
                let (lo, hi) = (b.number(DType::I64, 4, 0.0), b.number(DType::I64, 4, 9.0));
                i = b.op(Op::Max, &[i, lo]);
                i = b.op(Op::Min, &[i, hi]);
            }
            let v = b.load_as(at(x, zero), 4, LoadMode::Gather(i), 4, None);
            b.store(at(y, zero), v);
            assert_eq!(verify(&b.finish()).is_ok(), clamp);
        }
    }

    #[test]
    fn conditions_bound_what_they_guard() {
        for guarded in [true, false] {
            let mut b = KernelBuilder::new("shift", Numerics::Separate);
            let x = b.param("x", DType::F32, 8, Access::Read);
            let y = b.param("y", DType::F32, 8, Access::Write);
            b.set_grid([8, 1, 1]);
            let g = b.grid(0);
            let before = b.offset(g, -1);
            let zero = b.index(0);
            let cond = if guarded { b.op(Op::Ge, &[before, zero]) } else { b.condition(true) };
            let v = b.if_else(
                cond,
                |b| vec![b.load(at(x, before), 1)],
                |b| vec![b.number(DType::F32, 1, 0.0)],
            );
            b.store(at(y, g), v[0]);
            assert_eq!(verify(&b.finish()).is_ok(), guarded);
        }
    }

    #[test]
    fn the_rules_are_kept() {
        let build = |f: &dyn Fn(&mut KernelBuilder, Buf, Buf, Buf)| {
            let mut b = KernelBuilder::new("k", Numerics::Separate);
            let x = b.param("x", DType::F32, 8, Access::Read);
            let y = b.param("y", DType::F32, 8, Access::ReadWrite);
            let s = b.scratch(DType::F32, 8);
            b.set_grid([8, 1, 1]);
            b.inplace(y, x);
            f(&mut b, x, y, s);
            verify(&b.finish()).map_err(|e| e.what)
        };
        let ok = build(&|b, x, y, s| {
            let g = b.grid(0);
            let v = b.load(at(x, g), 1);
            b.store(at(s, g), v);
            let v = b.load(at(s, g), 1);
            b.store(at(y, g), v);
        });
        assert_eq!(ok, Ok(()));
        let all_write_one = build(&|b, x, y, _| {
            let zero = b.index(0);
            let v = b.load(at(x, zero), 1);
            b.store(at(y, zero), v);
        });
        assert!(all_write_one.unwrap_err().contains("all grid points"));
        let unwritten = build(&|b, _, y, s| {
            let g = b.grid(0);
            let v = b.load(at(s, g), 1);
            b.store(at(y, g), v);
        });
        assert!(unwritten.unwrap_err().contains("before it is written"));
        let late = build(&|b, x, y, _| {
            let g = b.grid(0);
            let v = b.load(at(x, g), 1);
            b.store(at(y, g), v);
            let w = b.load(at(x, g), 1);
            b.store(at(y, g), w);
        });
        assert!(late.unwrap_err().contains("is loaded after"));
        let branches = |exclusive: bool| {
            build(&|b, x, y, _| {
                let (g, two) = (b.grid(0), b.index(2));
                let first = b.op(Op::Lt, &[g, two]);
                let side = |b: &mut KernelBuilder| {
                    let v = b.load(at(x, g), 1);
                    b.store(at(y, g), v);
                    vec![]
                };
                match exclusive {
                    true => drop(b.if_else(first, side, side)),
                    false => {
                        b.if_else(first, side, |_| vec![]);
                        b.if_else(first, |_| vec![], side);
                    }
                }
            })
        };
        assert_eq!(branches(true), Ok(()));
        assert!(branches(false).unwrap_err().contains("is loaded after"));
        let fused = build(&|b, x, y, _| {
            let g = b.grid(0);
            let v = b.load(at(x, g), 1);
            let w = b.op(Op::Fma, &[v, v, v]);
            b.store(at(y, g), w);
        });
        assert!(fused.unwrap_err().contains("separate class"));
    }

    #[test]
    fn bounds_of_random_kernels_are_proved() {
        for seed in 0..40 {
            let mut kernel = random_kernel(seed, Numerics::Fused, Limits { size: 40, math: true });
            kernel.grid = [1; 3];
            if let Err(e) = verify(&kernel) {
                assert!(e.what.contains("before it is written"), "{e}");
            }
        }
    }
}
