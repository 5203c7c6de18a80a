//! Index maps: where an element of a result comes from in an operand.
//!
//! An [`IndexMap`] sends the coordinates of a result to the coordinates of an operand, one
//! [`Expr`] for each operand axis. Views are index maps, so fusing a view is substitution. All
//! extents are integers here: a graph is bound before anything is lowered to index maps.

/// An integer expression over the axes of a loop nest, in normal form: a constant, plus
/// coefficients times terms, terms sorted and distinct, no zero coefficients.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Expr {
    pub constant: i64,
    pub terms: Vec<(Term, i64)>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Term {
    /// The coordinate along one axis.
    Axis(u16),
    /// `⌊e / d⌋`, `d > 0`.
    FloorDiv(Box<Expr>, i64),
    /// `e mod d` in `0..d`, `d > 0`.
    Mod(Box<Expr>, i64),
    /// An integer that is known only at run time: what `slot` (the meaning is the owner's) holds
    /// at the coordinates `at`, clamped by the reader into `0..=limit`.
    Dyn { slot: u16, at: Vec<Expr>, limit: i64 },
}

impl Expr {
    pub fn constant(c: i64) -> Expr {
        Expr { constant: c, terms: vec![] }
    }

    pub fn axis(i: usize) -> Expr {
        Expr::term(Term::Axis(i as u16))
    }

    pub fn term(t: Term) -> Expr {
        Expr { constant: 0, terms: vec![(t, 1)] }
    }

    pub fn as_const(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    pub fn add(&self, other: &Expr) -> Expr {
        let mut sum = self.clone();
        sum.add_scaled(other, 1);
        sum
    }

    /// `self += k · other`.
    pub fn add_scaled(&mut self, other: &Expr, k: i64) {
        if k == 0 {
            return;
        }
        self.constant += k * other.constant;
        for (term, c) in &other.terms {
            match self.terms.binary_search_by(|(t, _)| t.cmp(term)) {
                Ok(i) if self.terms[i].1 == -k * c => {
                    self.terms.remove(i);
                }
                Ok(i) => self.terms[i].1 += k * c,
                Err(i) => self.terms.insert(i, (term.clone(), k * c)),
            }
        }
    }

    pub fn scale(&self, k: i64) -> Expr {
        if k == 0 {
            return Expr::constant(0);
        }
        let terms = self.terms.iter().map(|(t, c)| (t.clone(), c * k)).collect();
        Expr { constant: self.constant * k, terms }
    }

    pub fn plus(&self, c: i64) -> Expr {
        Expr { constant: self.constant + c, terms: self.terms.clone() }
    }

    /// `⌊self / d⌋`, simplified with the extents of the axes (every axis runs over `0..extent`):
    /// `⌊(d·a + b) / d⌋ = a` where `0 ≤ b < d`, and `⌊(g·a + b) / (g·h)⌋ = ⌊a / h⌋` where `0 ≤ b < g`.
    pub fn floor_div(&self, d: i64, extents: &[i64]) -> Expr {
        if d == 1 {
            return self.clone();
        }
        let (quotient, rest) = self.split(d);
        match rest.range(extents) {
            Some((lo, hi)) if lo >= 0 && hi < d => quotient,
            _ => quotient.add(&match rest.blocks(d, extents) {
                Some((g, blocks, _)) => Expr::term(Term::FloorDiv(Box::new(blocks), d / g)),
                None => Expr::term(Term::FloorDiv(Box::new(rest), d)),
            }),
        }
    }

    /// `self mod d`, simplified likewise: `(d·a + b) mod d = b` where `0 ≤ b < d`, and
    /// `(g·a + b) mod (g·h) = g·(a mod h) + b` where `0 ≤ b < g`.
    pub fn modulo(&self, d: i64, extents: &[i64]) -> Expr {
        if d == 1 {
            return Expr::constant(0);
        }
        let (_, rest) = self.split(d);
        match rest.range(extents) {
            Some((lo, hi)) if lo >= 0 && hi < d => rest,
            _ => match rest.blocks(d, extents) {
                Some((g, blocks, inner)) => {
                    Expr::term(Term::Mod(Box::new(blocks), d / g)).scale(g).add(&inner)
                }
                None => Expr::term(Term::Mod(Box::new(rest), d)),
            },
        }
    }

    /// `self = g · blocks + inner` with `0 ≤ inner < g`, for the largest divisor `g` of `d` among
    /// the coefficients.
    fn blocks(&self, d: i64, extents: &[i64]) -> Option<(i64, Expr, Expr)> {
        let mut sizes: Vec<i64> = self.terms.iter().map(|(_, c)| c.abs()).collect();
        sizes.sort();
        sizes.into_iter().rev().filter(|g| *g > 1 && *g < d && d % g == 0).find_map(|g| {
            let (blocks, inner) = self.split(g);
            let (lo, hi) = inner.range(extents)?;
            (lo >= 0 && hi < g).then_some((g, blocks, inner))
        })
    }

    /// `self = d · quotient + rest` with everything that `d` divides in the quotient.
    fn split(&self, d: i64) -> (Expr, Expr) {
        let (mut q, mut r) = (Expr::default(), Expr::default());
        for (t, c) in &self.terms {
            match c % d == 0 {
                true => q.terms.push((t.clone(), c / d)),
                false => r.terms.push((t.clone(), *c)),
            }
        }
        (q.constant, r.constant) = (self.constant.div_euclid(d), self.constant.rem_euclid(d));
        (q, r)
    }

    /// The least and the greatest value; `None` where an axis has no elements or it overflows.
    pub fn range(&self, extents: &[i64]) -> Option<(i64, i64)> {
        let (mut lo, mut hi) = (self.constant, self.constant);
        for (t, c) in &self.terms {
            let (a, b) = match t {
                Term::Axis(i) => (0, *extents.get(*i as usize)? - 1),
                Term::FloorDiv(e, d) => {
                    let (a, b) = e.range(extents)?;
                    (a.div_euclid(*d), b.div_euclid(*d))
                }
                Term::Mod(e, d) => match e.range(extents)? {
                    (a, b) if a.div_euclid(*d) == b.div_euclid(*d) => {
                        (a.rem_euclid(*d), b.rem_euclid(*d))
                    }
                    _ => (0, d - 1),
                },
                Term::Dyn { limit, .. } => (0, *limit),
            };
            if b < a {
                return None;
            }
            let (x, y) = (a.checked_mul(*c)?, b.checked_mul(*c)?);
            (lo, hi) = (lo.checked_add(x.min(y))?, hi.checked_add(x.max(y))?);
        }
        Some((lo, hi))
    }

    /// Replaces axis `i` by `by[i]`; `extents` are those of the new axes.
    pub fn substitute(&self, by: &[Expr], extents: &[i64]) -> Expr {
        let mut out = Expr::constant(self.constant);
        for (t, c) in &self.terms {
            match t {
                Term::Axis(i) => out.add_scaled(&by[*i as usize], *c),
                Term::FloorDiv(e, d) => {
                    out.add_scaled(&e.substitute(by, extents).floor_div(*d, extents), *c);
                }
                Term::Mod(e, d) => {
                    out.add_scaled(&e.substitute(by, extents).modulo(*d, extents), *c);
                }
                Term::Dyn { slot, at, limit } => {
                    let at = at.iter().map(|e| e.substitute(by, extents)).collect();
                    out.add_scaled(&Expr::term(Term::Dyn { slot: *slot, at, limit: *limit }), *c);
                }
            }
        }
        out.joined()
    }

    /// `⌊e / d⌋ · (d · s) + (e mod d) · s = e · s`. Of a quotient `e = ⌊f / k⌋`, `⌊e / d⌋ = ⌊f / (k · d)⌋`.
    fn joined(self) -> Expr {
        for (term, c) in &self.terms {
            let Term::Mod(inner, d) = term else { continue };
            let quotient = match (&inner.terms[..], inner.constant) {
                ([(Term::FloorDiv(f, k), 1)], 0) => Term::FloorDiv(f.clone(), k * d),
                _ => Term::FloorDiv(inner.clone(), *d),
            };
            if self.terms.iter().any(|(t, k)| *t == quotient && *k == c * d) {
                let rest = self.terms.iter().filter(|(t, _)| t != term && *t != quotient);
                let rest = Expr { constant: self.constant, terms: rest.cloned().collect() };
                return rest.add(&inner.scale(*c)).joined();
            }
        }
        self
    }

    /// The coefficient of an axis that occurs only linearly; `None` where it also hides inside a
    /// floor division, a remainder or a run-time index.
    pub fn stride(&self, axis: usize) -> Option<i64> {
        let mut stride = 0;
        for (t, c) in &self.terms {
            match t {
                Term::Axis(i) if *i as usize == axis => stride = *c,
                Term::Axis(_) => {}
                Term::FloorDiv(e, _) | Term::Mod(e, _) if e.mentions(axis) => return None,
                Term::Dyn { at, .. } if at.iter().any(|e| e.mentions(axis)) => return None,
                Term::FloorDiv(..) | Term::Mod(..) | Term::Dyn { .. } => {}
            }
        }
        Some(stride)
    }

    pub fn mentions(&self, axis: usize) -> bool {
        self.terms.iter().any(|(t, _)| match t {
            Term::Axis(i) => *i as usize == axis,
            Term::FloorDiv(e, _) | Term::Mod(e, _) => e.mentions(axis),
            Term::Dyn { at, .. } => at.iter().any(|e| e.mentions(axis)),
        })
    }

    /// The value at a point; `dynamic(slot, at)` reads run-time indices.
    pub fn eval(&self, point: &[i64], dynamic: &dyn Fn(u16, &[i64]) -> i64) -> i64 {
        self.terms.iter().fold(self.constant, |sum, (t, c)| {
            let v = match t {
                Term::Axis(i) => point[*i as usize],
                Term::FloorDiv(e, d) => e.eval(point, dynamic).div_euclid(*d),
                Term::Mod(e, d) => e.eval(point, dynamic).rem_euclid(*d),
                Term::Dyn { slot, at, limit } => {
                    let at: Vec<i64> = at.iter().map(|e| e.eval(point, dynamic)).collect();
                    dynamic(*slot, &at).clamp(0, *limit)
                }
            };
            sum + c * v
        })
    }
}

/// One expression for each axis of the operand.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct IndexMap(pub Vec<Expr>);

/// Holds where `lo ≤ expr < hi`: outside, the fill value is read instead.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Guard {
    pub expr: Expr,
    pub lo: i64,
    pub hi: i64,
}

impl Guard {
    /// The guard over a rewritten expression.
    pub fn map(&self, f: impl Fn(&Expr) -> Expr) -> Guard {
        Guard { expr: f(&self.expr), lo: self.lo, hi: self.hi }
    }

    /// The guard over fewer terms where it holds or fails for whole blocks: `lo ≤ d·q + r < hi` with
    /// `0 ≤ r < d` and `d` dividing both bounds is `lo / d ≤ q < hi / d`.
    pub fn in_blocks(&self, extents: &[i64]) -> Guard {
        let mut sizes: Vec<i64> = self.expr.terms.iter().map(|(_, c)| c.abs()).collect();
        sizes.sort();
        let block = sizes.into_iter().rev().filter(|d| *d > 1).find_map(|d| {
            let (q, r) = self.expr.split(d);
            let (lo, hi) = r.range(extents)?;
            let whole = lo >= 0 && hi < d && self.lo % d == 0 && self.hi % d == 0;
            whole.then(|| Guard { expr: q, lo: self.lo / d, hi: self.hi / d })
        });
        block.unwrap_or_else(|| self.clone())
    }
}

impl IndexMap {
    pub fn identity(rank: usize) -> IndexMap {
        IndexMap((0..rank).map(Expr::axis).collect())
    }

    /// The map of a view of a view: first `self` (into the inner view), then `inner`.
    /// `extents` are those of the outermost coordinates.
    pub fn then(&self, inner: &IndexMap, extents: &[i64]) -> IndexMap {
        IndexMap(inner.0.iter().map(|e| e.substitute(&self.0, extents)).collect())
    }

    /// Row-major offset in an operand of this shape.
    pub fn flatten(&self, shape: &[usize]) -> Expr {
        let mut offset = Expr::default();
        let mut stride = 1i64;
        for (e, d) in self.0.iter().zip(shape).rev() {
            offset.add_scaled(e, stride);
            stride *= *d as i64;
        }
        offset.joined()
    }

    /// NumPy's broadcasting of an operand to a result, aligned at the right.
    pub fn broadcast(operand: &[usize], result: &[usize]) -> IndexMap {
        let lead = result.len() - operand.len();
        let axis = |i: usize| match operand[i] == 1 && result[i + lead] != 1 {
            true => Expr::constant(0),
            false => Expr::axis(i + lead),
        };
        IndexMap((0..operand.len()).map(axis).collect())
    }

    /// A reshape: the row-major offset of the result, taken apart by the operand's extents.
    pub fn reshape(operand: &[usize], result: &[usize]) -> IndexMap {
        let extents: Vec<i64> = result.iter().map(|&d| d as i64).collect();
        let offset = IndexMap::identity(result.len()).flatten(result);
        let mut inner = 1i64;
        let part = |&d: &usize| {
            let e = offset.floor_div(inner.max(1), &extents).modulo((d as i64).max(1), &extents);
            inner *= d as i64;
            e
        };
        let mut map: Vec<Expr> = operand.iter().rev().map(part).collect();
        map.reverse();
        IndexMap(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(map: &IndexMap, p: &[i64]) -> Vec<i64> {
        map.0.iter().map(|e| e.eval(p, &|_, _| 0)).collect()
    }

    #[test]
    fn reshape_of_split_axes_is_linear() {
        // [2, 12] seen as [2, 3, 4]: column = 4·b + c, with no division left.
        let m = IndexMap::reshape(&[2, 12], &[2, 3, 4]);
        assert_eq!(m.0[0], Expr::axis(0));
        assert_eq!(m.0[1], Expr::axis(1).scale(4).add(&Expr::axis(2)));
        let back = IndexMap::reshape(&[2, 3, 4], &[2, 12]);
        assert_eq!(eval(&back, &[1, 7]), [1, 1, 3]);
        assert_eq!(m.then(&back, &[2, 3, 4]), IndexMap::identity(3));
    }

    #[test]
    fn what_was_taken_apart_twice_is_joined() {
        // An offset as [2, 5, 4] has it, put together again.
        let m = IndexMap::reshape(&[2, 5, 4], &[40]);
        assert_eq!(m.flatten(&[2, 5, 4]), Expr::axis(0));
    }

    #[test]
    fn lanes_within_blocks_stay_linear() {
        // Columns 4·t + l in blocks of 16, and their blocks of 8 steps.
        let (extents, e) = ([10, 4], Expr::axis(0).scale(4).add(&Expr::axis(1)));
        let (block, inside) = (e.floor_div(16, &extents), e.modulo(16, &extents));
        assert_eq!((block.stride(1), inside.stride(1)), (Some(0), Some(1)));
        let guard = Guard { expr: e.plus(-8), lo: 0, hi: 20 };
        let whole = guard.in_blocks(&extents);
        assert!(!whole.expr.mentions(1));
        for t in 0..10 {
            for l in 0..4 {
                let at = |e: &Expr| e.eval(&[t, l], &|_, _| 0);
                assert_eq!(16 * at(&block) + at(&inside), at(&e));
                let holds = |g: &Guard| (g.lo..g.hi).contains(&at(&g.expr));
                assert_eq!(holds(&guard), holds(&whole));
            }
        }
    }

    #[test]
    fn ranges_and_strides() {
        let e = Expr::axis(0).scale(6).add(&Expr::axis(1)).plus(-2);
        assert_eq!(e.range(&[3, 6]), Some((-2, 15)));
        assert_eq!(e.stride(0), Some(6));
        assert_eq!(e.floor_div(4, &[3, 6]).stride(1), None);
        for a in 0..3 {
            for b in 0..6 {
                let f = e.floor_div(4, &[3, 6]).scale(4).add(&e.modulo(4, &[3, 6]));
                assert_eq!(f.eval(&[a, b], &|_, _| 0), e.eval(&[a, b], &|_, _| 0));
            }
        }
    }
}
