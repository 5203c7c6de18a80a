//! Comparing results with what they should be.
//!
//! [`against_reference`] is the rule that every op, pass and target is judged by: integers exactly;
//! NaN and infinities where the reference in the op's own dtype has them; other floats within the
//! tolerance of the f64 reference, or else with a root mean square error of at most twice that of
//! the own-dtype reference plus a tenth of the tolerance. [`allclose`] is NumPy's rule, for figures
//! that a user expects.

use std::fmt;

use super::op::Tolerance;
use crate::base::{DType, Tensor, TensorType};

/// What does not fit.
#[derive(Clone, PartialEq, Debug)]
pub enum Mismatch {
    Type {
        got: TensorType,
        expected: TensorType,
    },
    Values {
        worst: Worst,
        /// How many elements are out of bounds, and of how many.
        count: usize,
        of: usize,
    },
}

/// The element that lies farthest outside its bound.
#[derive(Clone, PartialEq, Debug)]
pub struct Worst {
    pub index: Vec<usize>,
    pub got: f64,
    pub expected: f64,
    pub error: f64,
    pub allowed: f64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Type { got, expected } => write!(f, "got {got}, expected {expected}"),
            Mismatch::Values { worst, count, of } => {
                write!(f, "{count} of {of} elements differ; the worst, {worst}")
            }
        }
    }
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Worst { index, got, expected, error, allowed } = self;
        write!(f, "at {index:?}: got {got:?}, expected {expected:?}")?;
        match error.is_finite() {
            true => write!(f, ", an error of {error:.3e} where {allowed:.3e} is allowed"),
            false => Ok(()),
        }
    }
}

/// The rule of the test suites. `own` and `exact` are the reference in the op's own dtype and in
/// f64; integers must equal `own`.
pub fn against_reference(
    got: &Tensor,
    own: &Tensor,
    exact: &Tensor,
    tolerance: Tolerance,
) -> Result<(), Mismatch> {
    same_type(got, own)?;
    if !got.dtype().is_float() {
        return exactly(got, own);
    }
    let tolerance = scaled(tolerance, got.dtype());
    let mut tally = Tally::new(got.shape());
    let mut finite = Rms::default();
    for i in 0..got.numel() {
        let (g, o, e) = (got.get_f64(i), own.get_f64(i), exact.get_f64(i));
        if !o.is_finite() || !g.is_finite() {
            tally.note(i, g, o, if same_special(g, o) { 0.0 } else { f64::INFINITY }, 0.0);
            continue;
        }
        // Where only the wide computation overflows, the own one is all there is to compare with.
        let e = if e.is_finite() { e } else { o };
        tally.note(i, g, e, (g - e).abs(), tolerance.abs + tolerance.rel * e.abs());
        finite.add(g, o, e);
    }
    let special = tally.worst.as_ref().is_some_and(|w| w.error.is_infinite());
    if !special && finite.within(tolerance) {
        return Ok(());
    }
    tally.verdict()
}

/// The tolerance for a dtype, from that for f32: by the ratio of the unit roundoffs for the narrow
/// floats; a millionth for f64, whose transcendental functions are bounded less tightly.
pub fn scaled(t: Tolerance, dtype: DType) -> Tolerance {
    let factor = match dtype {
        DType::F16 => 8192.0,
        DType::BF16 => 65536.0,
        DType::F64 => 1e-6,
        DType::F32
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64
        | DType::Bool => 1.0,
    };
    Tolerance { rel: t.rel * factor, abs: t.abs * factor }
}

/// NumPy's rule, `|got - expected| ≤ atol + rtol · |expected|`; NaN equals NaN. Shapes must be equal,
/// dtypes need not be. Returns the largest error (`None` for tensors without elements).
pub fn allclose(
    got: &Tensor,
    expected: &Tensor,
    rtol: f64,
    atol: f64,
) -> Result<Option<Worst>, Mismatch> {
    if got.shape() != expected.shape() {
        return Err(Mismatch::Type { got: got.ty(), expected: expected.ty() });
    }
    let mut tally = Tally::new(got.shape());
    let mut largest: Option<Worst> = None;
    for i in 0..got.numel() {
        let (g, e) = (got.get_f64(i), expected.get_f64(i));
        let error = match (got.get_i64(i), expected.get_i64(i)) {
            (Some(a), Some(b)) if a == b => 0.0,
            // Distinct integers may round to one float.
            (Some(a), Some(b)) => ((a as i128 - b as i128).abs() as f64).max(1.0),
            _ if !g.is_finite() || !e.is_finite() => {
                if same_special(g, e) {
                    0.0
                } else {
                    f64::INFINITY
                }
            }
            _ => (g - e).abs(),
        };
        let allowed = if e.is_finite() { atol + rtol * e.abs() } else { 0.0 };
        tally.note(i, g, e, error, allowed);
        if largest.as_ref().is_none_or(|w| error > w.error) {
            let index = position(got.shape(), i);
            largest = Some(Worst { index, got: g, expected: e, error, allowed });
        }
    }
    tally.verdict().map(|()| largest)
}

/// Same type and, NaN aside, the same values to the bit of their sign-less zero.
pub fn exactly(got: &Tensor, expected: &Tensor) -> Result<(), Mismatch> {
    same_type(got, expected)?;
    if got.bytes() == expected.bytes() {
        return Ok(());
    }
    allclose(got, expected, 0.0, 0.0).map(|_| ())
}

fn same_type(got: &Tensor, expected: &Tensor) -> Result<(), Mismatch> {
    match got.dtype() == expected.dtype() && got.shape() == expected.shape() {
        true => Ok(()),
        false => Err(Mismatch::Type { got: got.ty(), expected: expected.ty() }),
    }
}

fn same_special(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

/// Counts what is out of bounds and keeps the worst.
struct Tally<'a> {
    shape: &'a [usize],
    count: usize,
    worst: Option<Worst>,
}

impl Tally<'_> {
    fn new(shape: &[usize]) -> Tally<'_> {
        Tally { shape, count: 0, worst: None }
    }

    fn note(&mut self, i: usize, got: f64, expected: f64, error: f64, allowed: f64) {
        if error <= allowed {
            return;
        }
        self.count += 1;
        if self.worst.as_ref().is_none_or(|w| error - allowed > w.error - w.allowed) {
            let index = position(self.shape, i);
            self.worst = Some(Worst { index, got, expected, error, allowed });
        }
    }

    fn verdict(self) -> Result<(), Mismatch> {
        let of = self.shape.iter().product();
        self.worst.map_or(Ok(()), |worst| Err(Mismatch::Values { worst, count: self.count, of }))
    }
}

/// Sums of squares over the finite elements.
#[derive(Default)]
struct Rms {
    n: f64,
    got: f64,
    own: f64,
    exact: f64,
}

impl Rms {
    fn add(&mut self, got: f64, own: f64, exact: f64) {
        self.n += 1.0;
        self.got += (got - exact).powi(2);
        self.own += (own - exact).powi(2);
        self.exact += exact.powi(2);
    }

    fn within(&self, t: Tolerance) -> bool {
        let rms = |sum: f64| (sum / self.n.max(1.0)).sqrt();
        rms(self.got) <= 2.0 * rms(self.own) + (t.abs + t.rel * rms(self.exact)) / 10.0
    }
}

fn position(shape: &[usize], mut i: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (at, &n) in index.iter_mut().zip(shape).rev() {
        (*at, i) = (i % n, i / n);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Tolerance = Tolerance { rel: 1e-6, abs: 1e-6 };

    fn f32s(v: &[f32]) -> Tensor {
        Tensor::from_slice(&[v.len()], v)
    }

    fn f64s(v: &[f64]) -> Tensor {
        Tensor::from_slice(&[v.len()], v)
    }

    #[test]
    fn tolerance_and_specials() {
        let own = f32s(&[1.0, f32::NAN, f32::INFINITY]);
        let exact = f64s(&[1.0, f64::NAN, 1e39]);
        assert_eq!(against_reference(&own, &own, &exact, T), Ok(()));
        let off = f32s(&[1.001, f32::NAN, f32::INFINITY]);
        assert!(against_reference(&off, &own, &exact, T).is_err());
        let finite = f32s(&[1.0, f32::NAN, f32::MAX]);
        assert!(against_reference(&finite, &own, &exact, T).is_err());
        let number = f32s(&[1.0, 0.0, f32::INFINITY]);
        assert!(against_reference(&number, &own, &exact, T).is_err());
    }

    /// A result as far from the truth as the own-dtype reference is right, however far that is.
    #[test]
    fn as_good_as_the_own_dtype() {
        let (exact, own) = (f64s(&[1000.0, 0.0]), f32s(&[1000.1, 0.1]));
        assert!(against_reference(&f32s(&[999.9, -0.1]), &own, &exact, T).is_ok());
        assert!(against_reference(&f32s(&[999.5, -0.5]), &own, &exact, T).is_err());
    }

    #[test]
    fn integers_are_exact() {
        let a = Tensor::from_slice(&[2], &[1i64 << 60, 5]);
        let b = Tensor::from_slice(&[2], &[(1i64 << 60) + 1, 5]);
        assert!(against_reference(&a, &b, &b, T).is_err());
        let Err(Mismatch::Values { worst, count, of }) = allclose(&a, &b, 0.0, 0.0) else {
            panic!("they differ")
        };
        assert_eq!((worst.index, count, of), (vec![0], 1, 2));
        assert_eq!(allclose(&b, &b, 0.0, 0.0).unwrap().unwrap().error, 0.0);
    }
}
