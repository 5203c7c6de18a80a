//! Dimensions: integers, or polynomials over symbols.
//!
//! A [`Dim`] is kept in a normal form (sorted monomials, no zero coefficients), so that two dims are
//! equal exactly when their normal forms are; distinct symbols never unify. Division that is not
//! exact becomes an opaque atom (`floordiv`, `mod`). All arithmetic is checked: `None` is overflow.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The name of an open dimension.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Symbol(pub Arc<str>);

impl Symbol {
    pub fn new(name: &str) -> Symbol {
        Symbol(name.into())
    }
}

/// Quoted where it is not an identifier, so that the core form reads it back.
impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if super::text::is_identifier(&self.0) {
            return f.write_str(&self.0);
        }
        f.write_str(&super::text::quoted(&self.0))
    }
}

/// Values of symbols.
pub type Bindings = BTreeMap<Symbol, i64>;

/// What a monomial multiplies.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Atom {
    Symbol(Symbol),
    FloorDiv(Dim, Dim),
    Mod(Dim, Dim),
}

/// One extent: an integer or an expression over symbols.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dim {
    Const(i64),
    /// Never a constant in disguise: `poly` keeps the normal form.
    Expr(Arc<Poly>),
}

/// A sum of monomials; the empty monomial is the constant term.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Poly {
    terms: BTreeMap<Vec<Atom>, i64>,
}

/// A larger expression counts as overflow.
const MAX_WEIGHT: usize = 512;

impl From<i64> for Dim {
    fn from(v: i64) -> Dim {
        Dim::Const(v)
    }
}

impl From<usize> for Dim {
    fn from(v: usize) -> Dim {
        Dim::Const(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

impl Dim {
    pub const ONE: Dim = Dim::Const(1);

    pub fn symbol(s: Symbol) -> Dim {
        Dim::atom(Atom::Symbol(s))
    }

    fn atom(a: Atom) -> Dim {
        Dim::Expr(Arc::new(Poly { terms: BTreeMap::from([(vec![a], 1)]) }))
    }

    pub fn as_const(&self) -> Option<i64> {
        match self {
            Dim::Const(v) => Some(*v),
            Dim::Expr(_) => None,
        }
    }

    /// The integer as an extent; `None` where it is open or negative.
    pub fn as_extent(&self) -> Option<usize> {
        self.as_const().and_then(|v| usize::try_from(v).ok())
    }

    fn terms(&self) -> BTreeMap<Vec<Atom>, i64> {
        match self {
            Dim::Const(0) => BTreeMap::new(),
            Dim::Const(v) => BTreeMap::from([(vec![], *v)]),
            Dim::Expr(p) => p.terms.clone(),
        }
    }

    fn poly(mut terms: BTreeMap<Vec<Atom>, i64>) -> Dim {
        terms.retain(|_, c| *c != 0);
        match terms.len() {
            0 => Dim::Const(0),
            1 if terms.contains_key(&vec![]) => Dim::Const(terms[&vec![]]),
            _ => Dim::Expr(Arc::new(Poly { terms })),
        }
    }

    pub fn add(&self, other: &Dim) -> Option<Dim> {
        if let (Dim::Const(a), Dim::Const(b)) = (self, other) {
            return a.checked_add(*b).map(Dim::Const);
        }
        let mut terms = self.terms();
        for (m, c) in other.terms() {
            let slot = terms.entry(m).or_insert(0);
            *slot = slot.checked_add(c)?;
        }
        Dim::poly(terms).limited()
    }

    pub fn neg(&self) -> Option<Dim> {
        self.mul(&Dim::Const(-1))
    }

    pub fn sub(&self, other: &Dim) -> Option<Dim> {
        self.add(&other.neg()?)
    }

    pub fn mul(&self, other: &Dim) -> Option<Dim> {
        if let (Dim::Const(a), Dim::Const(b)) = (self, other) {
            return a.checked_mul(*b).map(Dim::Const);
        }
        let mut terms: BTreeMap<Vec<Atom>, i64> = BTreeMap::new();
        for (ma, ca) in self.terms() {
            for (mb, cb) in other.terms() {
                let mut m = [ma.clone(), mb].concat();
                m.sort();
                let slot = terms.entry(m).or_insert(0);
                *slot = slot.checked_add(ca.checked_mul(cb)?)?;
            }
        }
        Dim::poly(terms).limited()
    }

    /// `self / other` where that is exact for every value of the symbols: division by a constant
    /// that divides each coefficient, or by a single monomial that divides each term.
    pub fn div_exact(&self, other: &Dim) -> Option<Dim> {
        if self == other && *self != Dim::Const(0) {
            return Some(Dim::ONE);
        }
        let divisor = other.terms();
        if divisor.len() != 1 {
            return None;
        }
        let (dm, dc) = divisor.into_iter().next()?;
        let mut terms = BTreeMap::new();
        for (mut m, c) in self.terms() {
            if c.checked_rem(dc)? != 0 {
                return None;
            }
            for a in &dm {
                let at = m.iter().position(|x| x == a)?;
                m.remove(at);
            }
            terms.insert(m, c / dc);
        }
        Some(Dim::poly(terms))
    }

    /// Division rounding towards minus infinity; `None` for a divisor of zero.
    pub fn floor_div(&self, other: &Dim) -> Option<Dim> {
        if let (Dim::Const(a), Dim::Const(b)) = (self, other) {
            return (*b != 0).then(|| a.checked_div_euclid(*b)).flatten().map(Dim::Const);
        }
        if *other == Dim::Const(0) {
            return None;
        }
        self.div_exact(other)
            .unwrap_or_else(|| Dim::atom(Atom::FloorDiv(self.clone(), other.clone())))
            .limited()
    }

    /// The remainder that belongs to [`Dim::floor_div`].
    pub fn modulo(&self, other: &Dim) -> Option<Dim> {
        if let (Dim::Const(a), Dim::Const(b)) = (self, other) {
            return (*b != 0).then(|| a.checked_rem_euclid(*b)).flatten().map(Dim::Const);
        }
        if *other == Dim::Const(0) {
            return None;
        }
        if self.div_exact(other).is_some() {
            return Some(Dim::Const(0));
        }
        Dim::atom(Atom::Mod(self.clone(), other.clone())).limited()
    }

    /// How large the expression is: its terms, and the atoms in them all the way down.
    fn weight(&self) -> usize {
        let Dim::Expr(poly) = self else { return 0 };
        let atom = |a: &Atom| match a {
            Atom::Symbol(_) => 1,
            Atom::FloorDiv(a, b) | Atom::Mod(a, b) => 1 + a.weight() + b.weight(),
        };
        poly.terms.keys().map(|m| 1 + m.iter().map(atom).sum::<usize>()).sum()
    }

    /// Refuses what has grown beyond all reason: sizes and nesting stay bounded on any input.
    fn limited(self) -> Option<Dim> {
        (self.weight() <= MAX_WEIGHT).then_some(self)
    }

    /// The value under `bindings`; symbols without a value stay.
    pub fn bind(&self, bindings: &Bindings) -> Option<Dim> {
        let Dim::Expr(poly) = self else { return Some(self.clone()) };
        let mut sum = Dim::Const(0);
        for (monomial, c) in &poly.terms {
            let mut product = Dim::Const(*c);
            for atom in monomial {
                let value = match atom {
                    Atom::Symbol(s) => {
                        bindings.get(s).map_or_else(|| Dim::symbol(s.clone()), |v| Dim::Const(*v))
                    }
                    Atom::FloorDiv(a, b) => a.bind(bindings)?.floor_div(&b.bind(bindings)?)?,
                    Atom::Mod(a, b) => a.bind(bindings)?.modulo(&b.bind(bindings)?)?,
                };
                product = product.mul(&value)?;
            }
            sum = sum.add(&product)?;
        }
        Some(sum)
    }

    /// Every symbol that occurs, in order.
    pub fn symbols(&self, into: &mut Vec<Symbol>) {
        let Dim::Expr(poly) = self else { return };
        for atom in poly.terms.keys().flatten() {
            match atom {
                Atom::Symbol(s) => into.push(s.clone()),
                Atom::FloorDiv(a, b) | Atom::Mod(a, b) => {
                    a.symbols(into);
                    b.symbols(into);
                }
            }
        }
    }
}

/// Prints as an expression that the core form reads back: `2 * batch + n // 4 - 1`.
impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let poly = match self {
            Dim::Const(v) => return write!(f, "{v}"),
            Dim::Expr(p) => p,
        };
        // The constant term (the empty monomial) sorts first and reads best last.
        let constant = poly.terms.get(&vec![]).map(|c| (vec![], *c));
        let symbolic = poly.terms.iter().filter(|(m, _)| !m.is_empty());
        let all = symbolic.map(|(m, c)| (m.clone(), *c)).chain(constant);
        for (i, (monomial, c)) in all.enumerate() {
            let magnitude = c.unsigned_abs();
            match (i, c < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            if monomial.is_empty() || magnitude != 1 {
                write!(f, "{magnitude}{}", if monomial.is_empty() { "" } else { " * " })?;
            }
            for (k, atom) in monomial.iter().enumerate() {
                let times = if k == 0 { "" } else { " * " };
                match atom {
                    Atom::Symbol(s) => write!(f, "{times}{s}")?,
                    Atom::FloorDiv(a, b) => write!(f, "{times}floordiv({a}, {b})")?,
                    Atom::Mod(a, b) => write!(f, "{times}mod({a}, {b})")?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_bounded() {
        let (mut nested, mut product) = (Some(s("a")), Some(s("a")));
        for _ in 0..10_000 {
            nested = nested.and_then(|d| d.add(&Dim::ONE)?.floor_div(&d.add(&Dim::Const(2))?));
            product = product.and_then(|d| d.mul(&s("b").add(&s("c"))?));
        }
        assert_eq!((nested, product), (None, None));
    }

    fn s(name: &str) -> Dim {
        Dim::symbol(Symbol::new(name))
    }

    #[test]
    fn normal_form_makes_equal_dims_equal() {
        let (b, n) = (s("b"), s("n"));
        let left = b.add(&n).unwrap().mul(&Dim::Const(2)).unwrap();
        let right = n.mul(&Dim::Const(2)).unwrap().add(&b.mul(&Dim::Const(2)).unwrap()).unwrap();
        assert_eq!(left, right);
        assert_eq!(left.sub(&right).unwrap(), Dim::Const(0));
        assert_ne!(b, n);
        assert_eq!(left.add(&Dim::Const(-3)).unwrap().to_string(), "2 * b + 2 * n - 3");
    }

    #[test]
    fn division() {
        let b = s("b");
        let b512 = b.mul(&Dim::Const(512)).unwrap();
        assert_eq!(b512.div_exact(&b).unwrap(), Dim::Const(512));
        assert_eq!(b512.floor_div(&Dim::Const(8)).unwrap().to_string(), "64 * b");
        let odd = b.floor_div(&Dim::Const(3)).unwrap();
        assert_eq!(odd.to_string(), "floordiv(b, 3)");
        let seven = Bindings::from([(Symbol::new("b"), 7)]);
        assert_eq!(odd.bind(&seven), Some(Dim::Const(2)));
        assert_eq!(Dim::Const(i64::MAX).add(&Dim::ONE), None);
        assert_eq!(b.floor_div(&Dim::Const(0)), None);
    }
}
