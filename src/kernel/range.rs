//! What is known of the integers in a kernel: an interval for each register (over all lanes), and
//! for indices a linear form over *atoms* (grid coordinates, loop counters, and results that are not
//! linear), whose own bounds may be linear forms too: a loop to `min(48, n - 48 g)` is within `n`.
//!
//! Arithmetic is in i128; what could leave 64 bits counts as unknown. Linear in the kernel's size:
//! forms have at most [`MAX_TERMS`] terms, and a bound takes at most [`MAX_STEPS`] substitutions.

use std::collections::BTreeMap;

use super::ir::*;
use crate::base::DType;

const MAX_TERMS: usize = 16;
const MAX_STEPS: u32 = 200;

/// Which way a condition is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truth {
    Holds,
    Fails,
}

/// Both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval {
    pub lo: i128,
    pub hi: i128,
}

impl Interval {
    pub fn new(lo: i128, hi: i128) -> Interval {
        Interval { lo, hi }
    }

    /// What an integer of the type may be.
    pub fn of(dtype: DType) -> Interval {
        let bits = 8 * dtype.bytes() as u32;
        match dtype {
            DType::Bool => Interval::new(0, 1),
            d if d.is_unsigned_int() => Interval::new(0, (1i128 << bits) - 1),
            _ => Interval::new(-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        }
    }

    fn hull(self, other: Interval) -> Interval {
        Interval::new(self.lo.min(other.lo), self.hi.max(other.hi))
    }

    /// Whether the other one holds all of it.
    pub fn within(self, other: Interval) -> bool {
        other.lo <= self.lo && self.hi <= other.hi
    }
}

/// `constant + Σ coefficient · atom`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Form {
    pub constant: i128,
    pub terms: BTreeMap<Val, i128>,
}

impl Form {
    fn constant(c: i128) -> Form {
        Form { constant: c, terms: BTreeMap::new() }
    }

    fn atom(v: Val) -> Form {
        Form { constant: 0, terms: BTreeMap::from([(v, 1)]) }
    }

    /// `self + factor · other`; `None` where it grows too large.
    pub fn plus(&self, factor: i128, other: &Form) -> Option<Form> {
        let small = |c: i128| (c.unsigned_abs() < 1 << 90).then_some(c);
        let mut out = self.clone();
        out.constant = small(out.constant.checked_add(factor.checked_mul(other.constant)?)?)?;
        for (v, c) in &other.terms {
            let sum = out.terms.entry(*v).or_insert(0);
            *sum = small(sum.checked_add(factor.checked_mul(*c)?)?)?;
            if *sum == 0 {
                out.terms.remove(v);
            }
        }
        (out.terms.len() <= MAX_TERMS).then_some(out)
    }
}

/// Whether a form has earlier atoms only.
fn earlier(form: &Form, v: Val) -> bool {
    form.terms.last_key_value().is_none_or(|(last, _)| *last < v)
}

/// What a register holds; equal keys stand for equal values.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    /// Of forms; the two of a minimum or maximum in order.
    Op(Op, Vec<Form>),
    /// An element of a parameter that nobody writes.
    Load(u16, Form),
    Convert(Val),
}

/// What `assume` took as true, to be forgotten again.
#[derive(Debug)]
pub struct Assumed {
    /// Bounds that were added, and to which side.
    bounds: Vec<(Val, bool)>,
    /// Forms that are at most 0 now.
    gaps: Vec<Form>,
    /// Undecided alternatives and facts before.
    open: usize,
    facts: usize,
    /// False where it contradicts what is known: the branch is never taken.
    pub possible: bool,
}

/// Intervals and forms of a kernel's registers, filled while walking it in program order.
pub struct Ranges<'k> {
    kernel: &'k Kernel,
    intervals: Vec<Option<Interval>>,
    forms: Vec<Option<Form>>,
    /// Forms that an atom does not exceed, and that do not exceed it.
    uppers: BTreeMap<Val, Vec<Form>>,
    lowers: BTreeMap<Val, Vec<Form>>,
    /// Atoms that are a quotient or a remainder: of which form, by what.
    pub parts: BTreeMap<Val, (Op, Form, i128)>,
    /// The grid axis of an atom.
    pub axes: BTreeMap<Val, u8>,
    conditions: BTreeMap<Val, (Op, Val, Val)>,
    /// The first register of each value that is not linear.
    first: BTreeMap<Key, Val>,
    /// The first register with the value of one that is no index.
    same: BTreeMap<Val, Val>,
    /// Pairs of conditions of which at least one fails.
    open: Vec<(Val, Val)>,
    /// Forms with larger coefficients that are at most 0.
    facts: Vec<Form>,
}

impl<'k> Ranges<'k> {
    pub fn new(kernel: &'k Kernel) -> Ranges<'k> {
        let n = kernel.types.len();
        Ranges {
            kernel,
            intervals: vec![None; n],
            forms: vec![None; n],
            uppers: BTreeMap::new(),
            lowers: BTreeMap::new(),
            parts: BTreeMap::new(),
            axes: BTreeMap::new(),
            conditions: BTreeMap::new(),
            first: BTreeMap::new(),
            same: BTreeMap::new(),
            open: vec![],
            facts: vec![],
        }
    }

    /// All values of a register of integers.
    pub fn interval(&self, v: Val) -> Interval {
        let whole = || Interval::of(self.kernel.ty(v).dtype());
        self.intervals[v.0 as usize].unwrap_or_else(whole)
    }

    /// The form of an index.
    pub fn form(&self, v: Val) -> Form {
        self.forms[v.0 as usize].clone().unwrap_or_else(|| Form::atom(v))
    }

    /// The least and the greatest value of a form.
    pub fn bounds(&self, form: &Form) -> Interval {
        let (mut steps, mut more) = (MAX_STEPS, MAX_STEPS);
        let minus = Form::default().plus(-1, form).unwrap_or_default();
        Interval::new(-self.greatest(&minus, &mut steps), self.greatest(form, &mut more))
    }

    /// An upper bound of a form: its latest atom is replaced by its greatest value, and by each of
    /// the earlier forms that bound it; the best of these counts.
    fn greatest(&self, form: &Form, steps: &mut u32) -> i128 {
        let Some((v, c)) = form.terms.last_key_value() else { return form.constant };
        let (v, c) = (*v, *c);
        let interval = self.interval(v);
        let mut end = if c > 0 { interval.hi } else { interval.lo };
        let known = if c > 0 { &self.uppers } else { &self.lowers };
        let mut bounds: Vec<&Form> = vec![];
        for bound in known.get(&v).into_iter().flatten() {
            match bound.terms.last_key_value() {
                None if c > 0 => end = end.min(bound.constant),
                None => end = end.max(bound.constant),
                Some((last, _)) if *last < v && !bounds.contains(&bound) => bounds.push(bound),
                Some(_) => {}
            }
        }
        if let Some((Op::Div, a, d)) = self.parts.get(&v).filter(|(_, a, _)| earlier(a, v)) {
            // A quotient lies between those of the bounds of what is divided.
            match c > 0 {
                true => end = end.min(self.greatest(a, steps).div_euclid(*d)),
                false => {
                    let minus = Form::default().plus(-1, a).unwrap_or_default();
                    end = end.max((-self.greatest(&minus, steps)).div_euclid(*d));
                }
            }
        }
        let mut rest = form.clone();
        rest.terms.remove(&v);
        let mut best = self.greatest(&rest, steps).saturating_add(c.saturating_mul(end));
        let replaced = bounds.into_iter().filter_map(|bound| rest.plus(c, bound));
        let quotient = self.quotient(v, c, &rest).and_then(|(c, bound)| rest.plus(c, &bound));
        // What is at most 0, taken away so many times that the atom cancels out.
        let without = self.facts.iter().filter_map(|fact| {
            let (last, by) = fact.terms.last_key_value()?;
            let times = (*last == v && c % by == 0).then(|| c / by).filter(|n| *n > 0)?;
            form.plus(-times, fact)
        });
        for simpler in replaced.chain(quotient).chain(without) {
            if *steps == 0 {
                break;
            }
            *steps -= 1;
            best = best.min(self.greatest(&simpler, steps));
        }
        best
    }

    /// `c · ⌊a / d⌋` is at most `c / d · a` where `c` is a multiple of `d`; of a negative one, at most
    /// `c / d · (a - d + 1)`. Gives the factor and the form, if it shares atoms with the rest.
    fn quotient(&self, v: Val, c: i128, rest: &Form) -> Option<(i128, Form)> {
        let (Op::Div, a, d) = self.parts.get(&v)? else { return None };
        let shared = a.terms.keys().any(|atom| rest.terms.contains_key(atom));
        if c % d != 0 || !earlier(a, v) || !shared {
            return None;
        }
        let least = if c > 0 { 0 } else { 1 - d };
        Some((c / d, a.plus(least, &Form::constant(1))?))
    }

    /// Takes in an instruction; loops and branches by `enter_loop` and `assume`.
    pub fn see(&mut self, inst: &Inst) {
        match inst {
            Inst::Const { dst, value } => {
                if let Some(c) = value.as_int() {
                    self.set(*dst, Interval::new(c as i128, c as i128));
                    self.set_form(*dst, Some(Form::constant(c as i128)));
                }
            }
            Inst::Grid { dst, axis } => {
                self.set(
                    *dst,
                    Interval::new(0, (self.kernel.grid[*axis as usize] as i128 - 1).max(0)),
                );
                self.axes.insert(*dst, *axis);
            }
            Inst::Local { dst, axis } => {
                self.set(*dst, Interval::new(0, self.kernel.local[*axis as usize] as i128 - 1));
            }
            Inst::Op { dst, op, args } => self.op(*dst, *op, args),
            Inst::Lane { dst, op, args } => {
                if *op == LaneOp::Convert && self.kernel.ty(*dst) == Ty::Index {
                    let from = self.same.get(&args[0]).copied().unwrap_or(args[0]);
                    self.number(*dst, Key::Convert(from));
                }
                let d = self.kernel.ty(*dst).dtype();
                let from = self.kernel.ty(args[0]).dtype();
                let ints = |d: DType| d.is_int() || d == DType::Bool;
                if *op == LaneOp::Bitcast || !ints(d) || !ints(from) {
                    return;
                }
                let parts = args.iter().map(|v| self.interval(*v));
                let whole = parts.reduce(Interval::hull);
                if let Some(i) = whole.filter(|i| i.within(Interval::of(d))) {
                    self.set(*dst, i);
                }
            }
            Inst::Load { dst, at: Addr { buf: Buf::Param(p), base, plus }, .. } => {
                let whole = matches!(self.kernel.ty(*dst), Ty::Scalar(d) if d.is_int());
                let aliased = self.kernel.inplace.iter().any(|(_, input)| input == p);
                let read = self.kernel.params[*p as usize].access == Access::Read;
                if whole && read && !aliased {
                    let at = self.form(*base).plus(*plus as i128, &Form::constant(1));
                    if let Some(at) = at {
                        self.number(*dst, Key::Load(*p, at));
                    }
                }
            }
            Inst::Fold { .. }
            | Inst::GroupFold { .. }
            | Inst::Load { .. }
            | Inst::Store { .. }
            | Inst::Prefetch { .. }
            | Inst::For { .. }
            | Inst::If { .. }
            | Inst::Barrier => {}
        }
    }

    /// A register stands for the first one with the same value.
    fn number(&mut self, dst: Val, key: Key) {
        let first = *self.first.entry(key).or_insert(dst);
        if first == dst {
            return;
        }
        match self.kernel.ty(dst) {
            Ty::Index => self.set_form(dst, Some(Form::atom(first))),
            Ty::Scalar(_) | Ty::Vector(..) | Ty::Mask(_) => {
                self.same.insert(dst, first);
            }
        }
    }

    fn set(&mut self, v: Val, i: Interval) {
        self.intervals[v.0 as usize] = Some(i);
    }

    fn set_form(&mut self, v: Val, form: Option<Form>) {
        if self.kernel.ty(v) == Ty::Index {
            self.forms[v.0 as usize] = form;
        }
    }

    /// The counter of a loop whose body follows.
    pub fn enter_loop(&mut self, counter: Val, lo: Val, hi: Val, step: i64) {
        let (from, to) = (self.interval(lo), self.interval(hi));
        let mut last = to.hi - 1;
        if from.lo == from.hi && last >= from.lo {
            // The last value that the steps reach, where the end is known.
            let step = step as i128;
            last = match to.lo == to.hi {
                true => from.lo + (last - from.lo) / step * step,
                false => last,
            };
        }
        self.set(counter, Interval::new(from.lo, last.max(from.lo)));
        let one = Form::constant(1);
        if let Some(upper) = self.form(hi).plus(-1, &one) {
            self.uppers.entry(counter).or_default().push(upper);
        }
        let lower = self.form(lo);
        if step > 1 {
            let ends = self.last_of_steps(&lower, &self.form(hi), step as i128);
            self.uppers.entry(counter).or_default().extend(ends);
        }
        self.lowers.entry(counter).or_default().push(lower);
    }

    /// Upper bounds of a counter that begins at a multiple of its step, but for a constant: the last
    /// such number before each form that the end does not exceed and that is one, too.
    fn last_of_steps(&self, lo: &Form, hi: &Form, step: i128) -> Vec<Form> {
        let aligned = |form: &Form| form.terms.values().all(|c| c % step == 0);
        if !aligned(lo) {
            return vec![];
        }
        let mut ends = vec![hi.clone()];
        if let Some((v, 1)) = hi.terms.first_key_value().filter(|_| hi.terms.len() == 1) {
            let bounds = self.uppers.get(v).into_iter().flatten();
            ends.extend(bounds.filter_map(|b| b.plus(hi.constant, &Form::constant(1))));
        }
        ends.retain(aligned);
        let first = lo.constant.rem_euclid(step);
        for end in &mut ends {
            end.constant = first + (end.constant - 1 - first).div_euclid(step) * step;
        }
        ends
    }

    /// Takes a condition as true, or as false, until `forget` gets what this returns.
    pub fn assume(&mut self, cond: Val, truth: Truth) -> Assumed {
        let (open, facts) = (self.open.len(), self.facts.len());
        let mut assumed = Assumed { bounds: vec![], gaps: vec![], open, facts, possible: true };
        self.suppose(cond, truth, &mut assumed);
        // Not both: if one surely holds, the other does not. What an outer branch left open, and then
        // what that decides, may be decided now.
        for _ in 0..self.open.len() {
            let before = assumed.gaps.len();
            for (a, b) in self.open.clone() {
                if self.certain(a) {
                    self.suppose(b, Truth::Fails, &mut assumed);
                } else if self.certain(b) {
                    self.suppose(a, Truth::Fails, &mut assumed);
                }
            }
            if assumed.gaps.len() == before || assumed.gaps.len() > MAX_TERMS {
                break;
            }
        }
        assumed.possible = assumed.gaps.iter().all(|gap| self.bounds(gap).lo <= 0);
        assumed
    }

    fn suppose(&mut self, cond: Val, truth: Truth, assumed: &mut Assumed) {
        let Some((op, a, b)) = self.conditions.get(&cond).copied() else { return };
        if op == Op::And {
            match truth {
                Truth::Holds => [a, b].map(|side| self.suppose(side, truth, assumed)),
                Truth::Fails => return self.open.push((a, b)),
            };
            return;
        }
        let Some(gap) = self.gap((op, a, b), truth) else { return };
        let (divided, wholes) = (self.of_dividend(&gap), self.of_wholes(&gap));
        let all = [Some(gap), divided].into_iter().flatten().chain(wholes);
        all.for_each(|gap| self.suppose_gap(gap, assumed));
    }

    /// What a bound of a quotient says of what is divided: `⌊a / d⌋ ≤ c` is `a ≤ d · c + d - 1`, and
    /// `⌊a / d⌋ ≥ c` is `a ≥ d · c`.
    fn of_dividend(&self, gap: &Form) -> Option<Form> {
        let (v, c) = gap.terms.first_key_value().filter(|_| gap.terms.len() == 1)?;
        let (Op::Div, a, d) = self.parts.get(v)? else { return None };
        let constant = gap.constant.checked_mul(*d)?;
        match c {
            1 => Form::constant(constant + 1 - d).plus(1, a),
            -1 => Form::constant(constant).plus(-1, a),
            _ => None,
        }
    }

    /// What a lower bound that counts a remainder says of what is divided, which is no less: from `s ≤ r`,
    /// `r = a mod d` and `a ≥ 0` follows `s ≤ a`. One form for each remainder.
    fn of_wholes(&self, gap: &Form) -> Vec<Form> {
        let whole = |(v, c): (&Val, &i128)| {
            let (Op::Rem, a, _) = self.parts.get(v).filter(|_| *c < 0)? else { return None };
            let without = gap.plus(-c, &Form::atom(*v))?;
            (self.bounds(a).lo >= 0).then(|| without.plus(*c, a)).flatten()
        };
        gap.terms.iter().filter_map(whole).collect()
    }

    /// Takes in that a form is at most 0.
    fn suppose_gap(&mut self, gap: Form, assumed: &mut Assumed) {
        if assumed.gaps.contains(&gap) {
            return;
        }
        // gap <= 0 bounds each of its atoms by the others.
        for (v, c) in gap.terms.clone() {
            let mut rest = gap.clone();
            rest.terms.remove(&v);
            let upper = c > 0;
            let bound = match c.abs() {
                1 if upper => Form::default().plus(-1, &rest),
                1 => Some(rest),
                _ => {
                    // c · v <= -rest, and rest is at least its least value.
                    let least = self.bounds(&rest).lo;
                    let quotient = least.saturating_neg().div_euclid(c.abs());
                    let bound = if upper { quotient } else { quotient.saturating_neg() };
                    Some(Form::constant(bound))
                }
            };
            let Some(bound) = bound else { continue };
            let side = if upper { &mut self.uppers } else { &mut self.lowers };
            side.entry(v).or_default().push(bound);
            assumed.bounds.push((v, upper));
        }
        if gap.terms.last_key_value().is_some_and(|(_, c)| c.abs() > 1) {
            self.facts.push(gap.clone());
        }
        assumed.gaps.push(gap);
    }

    /// Whether something holds in each of the cases that undecided alternatives leave.
    pub fn in_all_cases(&mut self, holds: &dyn Fn(&Ranges) -> bool, fuel: &mut u32) -> bool {
        if holds(self) {
            return true;
        }
        let undecided = |(a, b): &(Val, Val)| !self.refuted(*a) && !self.refuted(*b);
        let Some(i) = self.open.iter().position(undecided) else { return false };
        if *fuel == 0 {
            return false;
        }
        *fuel -= 1;
        let (a, b) = self.open.remove(i);
        let all = [a, b].into_iter().all(|side| {
            let assumed = self.assume(side, Truth::Fails);
            let ok = !assumed.possible || self.in_all_cases(holds, fuel);
            self.forget(assumed);
            ok
        });
        self.open.insert(i, (a, b));
        all
    }

    /// Whether a condition fails, by what is known.
    fn refuted(&self, cond: Val) -> bool {
        match self.conditions.get(&cond).copied() {
            Some((Op::And, a, b)) => self.refuted(a) || self.refuted(b),
            Some(c) => self.gap(c, Truth::Fails).is_some_and(|g| self.bounds(&g).hi <= 0),
            None => false,
        }
    }

    /// The form that is at most 0 if a comparison has this truth.
    fn gap(&self, (op, a, b): (Op, Val, Val), truth: Truth) -> Option<Form> {
        // a + d <= b
        let (a, b, d) = match (op, truth) {
            (Op::Lt, Truth::Holds) | (Op::Ge, Truth::Fails) => (a, b, 1),
            (Op::Le, Truth::Holds) | (Op::Gt, Truth::Fails) => (a, b, 0),
            (Op::Gt, Truth::Holds) | (Op::Le, Truth::Fails) => (b, a, 1),
            (Op::Ge, Truth::Holds) | (Op::Lt, Truth::Fails) => (b, a, 0),
            _ => return None,
        };
        self.form(a).plus(-1, &self.form(b))?.plus(d, &Form::constant(1))
    }

    /// Whether a condition holds, by what is known.
    fn certain(&self, cond: Val) -> bool {
        match self.conditions.get(&cond).copied() {
            Some((Op::And, a, b)) => self.certain(a) && self.certain(b),
            Some(c) => self.gap(c, Truth::Holds).is_some_and(|g| self.bounds(&g).hi <= 0),
            None => false,
        }
    }

    /// Takes in a region, with nothing assumed of its branches.
    pub fn see_region(&mut self, region: &Region) {
        for inst in &region.insts {
            self.see(inst);
            match inst {
                Inst::For { lo, hi, step, init, body, .. } => {
                    self.enter_loop(body.params[0], *lo, *hi, *step);
                    self.see_carried(init, body);
                    self.see_region(body);
                }
                Inst::If { then, els, .. } => {
                    self.see_region(then);
                    self.see_region(els);
                }
                Inst::Const { .. }
                | Inst::Grid { .. }
                | Inst::Local { .. }
                | Inst::Op { .. }
                | Inst::Fold { .. }
                | Inst::GroupFold { .. }
                | Inst::Lane { .. }
                | Inst::Load { .. }
                | Inst::Store { .. }
                | Inst::Prefetch { .. }
                | Inst::Barrier => {}
            }
        }
    }

    /// Bounds of the indices that a loop carries: those that never fall below, or never rise above,
    /// their first values. Supposed first, kept if the yields bear it out. A step that moves an
    /// index by less than 2^32 does not leave 2^62 in any time.
    pub fn see_carried(&mut self, init: &[Val], body: &Region) {
        let indices: Vec<(Val, Val, Val)> = (body.params[1..].iter().zip(init).zip(&body.yields))
            .map(|((p, i), y)| (*p, *i, *y))
            .filter(|(p, ..)| self.kernel.ty(*p) == Ty::Index)
            .collect();
        if indices.is_empty() {
            return;
        }
        let far = 1i128 << 62;
        for rising in [true, false] {
            for (p, i, _) in &indices {
                let i = self.interval(*i);
                let supposed =
                    if rising { Interval::new(i.lo, far) } else { Interval::new(-far, i.hi) };
                self.set(*p, supposed);
            }
            self.see_region(body);
            let holds = indices.iter().all(|(p, _, y)| {
                let (p, y) = (self.interval(*p), self.interval(*y));
                match rising {
                    true => y.lo >= p.lo && y.hi <= far + (1 << 32),
                    false => y.hi <= p.hi && y.lo >= -far - (1 << 32),
                }
            });
            if holds {
                return;
            }
        }
        indices.iter().for_each(|(p, ..)| self.intervals[p.0 as usize] = None);
    }

    /// Ends an assumption.
    pub fn forget(&mut self, assumed: Assumed) {
        self.open.truncate(assumed.open);
        self.facts.truncate(assumed.facts);
        for (v, upper) in assumed.bounds.into_iter().rev() {
            let side = if upper { &mut self.uppers } else { &mut self.lowers };
            side.entry(v).or_default().pop();
        }
    }

    fn op(&mut self, dst: Val, op: Op, args: &[Val]) {
        let ty = self.kernel.ty(args[if op == Op::Select { 1 } else { 0 }]);
        let d = ty.dtype();
        if op == Op::And && ty == Ty::Mask(1) {
            self.conditions.insert(dst, (op, args[0], args[1]));
        }
        if !d.is_int() {
            return;
        }
        let interval = |s: &Self, i: usize| s.interval(args[i]);
        if ty == Ty::Index {
            self.index_op(dst, op, args);
        }
        let (a, b) = (interval(self, 0), args.get(1).map(|v| self.interval(*v)));
        let b = b.unwrap_or(a);
        let result = match op {
            Op::Add => Interval::new(a.lo + b.lo, a.hi + b.hi),
            Op::Sub => Interval::new(a.lo - b.hi, a.hi - b.lo),
            Op::Mul => {
                let ends = [a.lo, a.hi].map(|x| [b.lo, b.hi].map(|y| x.saturating_mul(y)));
                let ends = ends.as_flattened();
                let least = |m: i128, v: &i128| m.min(*v);
                let most = |m: i128, v: &i128| m.max(*v);
                Interval::new(ends.iter().fold(i128::MAX, least), ends.iter().fold(i128::MIN, most))
            }
            Op::Div if ty == Ty::Index && b.lo > 0 && b.lo == b.hi => {
                Interval::new(a.lo.div_euclid(b.lo), a.hi.div_euclid(b.lo))
            }
            Op::Div if b.lo > 0 && b.lo == b.hi => Interval::new(a.lo / b.lo, a.hi / b.lo),
            Op::Rem if b.lo > 0 && b.lo == b.hi && (ty == Ty::Index || a.lo >= 0) => {
                let same = a.lo >= 0 && a.hi < b.lo;
                if same { a } else { Interval::new(0, b.lo - 1) }
            }
            Op::Min => Interval::new(a.lo.min(b.lo), a.hi.min(b.hi)),
            Op::Max => Interval::new(a.lo.max(b.lo), a.hi.max(b.hi)),
            Op::And if a.lo >= 0 || b.lo >= 0 => {
                let most = |i: Interval| if i.lo >= 0 { i.hi } else { i128::MAX };
                Interval::new(0, most(a).min(most(b)))
            }
            Op::Shr if a.lo >= 0 => Interval::new(0, a.hi),
            Op::Select => interval(self, 1).hull(interval(self, 2)),
            Op::Neg => Interval::new(-a.hi, -a.lo),
            _ => return,
        };
        let compare = matches!(op, Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge);
        if !compare && result.within(Interval::of(d)) {
            self.set(dst, result);
        }
    }

    fn index_op(&mut self, dst: Val, op: Op, args: &[Val]) {
        let form = |s: &Self, i: usize| s.form(args[i]);
        let constant = |s: &Self, i: usize| {
            let v = s.interval(args[i]);
            (v.lo == v.hi).then_some(v.lo)
        };
        match op {
            Op::Add => self.set_form(dst, form(self, 0).plus(1, &form(self, 1))),
            Op::Sub => self.set_form(dst, form(self, 0).plus(-1, &form(self, 1))),
            Op::Neg => self.set_form(dst, Form::default().plus(-1, &form(self, 0))),
            Op::Mul => {
                let (x, c) = match (constant(self, 0), constant(self, 1)) {
                    (_, Some(c)) => (0, c),
                    (Some(c), _) => (1, c),
                    (None, None) => return,
                };
                self.set_form(dst, Form::default().plus(c, &form(self, x)));
            }
            Op::Div | Op::Rem => {
                let Some(c) = constant(self, 1).filter(|c| *c > 0) else { return };
                let a = form(self, 0);
                if op == Op::Rem {
                    // A remainder does not exceed what is divided, if that is not negative.
                    if self.interval(args[0]).lo >= 0 {
                        self.uppers.entry(dst).or_default().push(a.clone());
                    }
                }
                self.parts.insert(dst, (op, a.clone(), c));
                self.number(dst, Key::Op(op, vec![a, Form::constant(c)]));
            }
            Op::Min => {
                let mut both = vec![form(self, 0), form(self, 1)];
                self.uppers.entry(dst).or_default().extend(both.clone());
                both.sort();
                self.number(dst, Key::Op(op, both));
            }
            Op::Max => {
                let mut both = vec![form(self, 0), form(self, 1)];
                self.lowers.entry(dst).or_default().extend(both.clone());
                both.sort();
                self.number(dst, Key::Op(op, both));
            }
            Op::Lt | Op::Le | Op::Gt | Op::Ge => {
                self.conditions.insert(dst, (op, args[0], args[1]));
            }
            _ => {}
        }
    }
}
