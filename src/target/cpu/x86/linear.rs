//! Index arithmetic as linear forms: `Σ c · register + constant`, modulo 2⁶⁴.

use super::inst::VReg;

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Linear {
    /// Registers with their factors, none of them 0, sorted by register.
    pub terms: Vec<(VReg, i64)>,
    pub plus: i64,
}

impl Linear {
    pub fn constant(plus: i64) -> Linear {
        Linear { terms: vec![], plus }
    }

    pub fn register(v: VReg) -> Linear {
        Linear { terms: vec![(v, 1)], plus: 0 }
    }

    pub fn add(&self, other: &Linear) -> Linear {
        let mut sum = self.clone();
        sum.plus = sum.plus.wrapping_add(other.plus);
        for (v, c) in &other.terms {
            match sum.terms.binary_search_by_key(&v.vreg(), |(v, _)| v.vreg()) {
                Ok(i) => {
                    sum.terms[i].1 = sum.terms[i].1.wrapping_add(*c);
                    if sum.terms[i].1 == 0 {
                        sum.terms.remove(i);
                    }
                }
                Err(i) => sum.terms.insert(i, (*v, *c)),
            }
        }
        sum
    }

    pub fn scale(&self, by: i64) -> Linear {
        let mut terms = self.terms.clone();
        terms.iter_mut().for_each(|(_, c)| *c = c.wrapping_mul(by));
        terms.retain(|(_, c)| *c != 0);
        Linear { terms, plus: self.plus.wrapping_mul(by) }
    }

    pub fn offset(mut self, by: i64) -> Linear {
        self.plus = self.plus.wrapping_add(by);
        self
    }

    /// The value, where no register is involved.
    pub fn as_constant(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.plus)
    }
}
