//! Shapes and tensor types: what is known of a value before it is computed.

use std::fmt;

use super::dim::{Bindings, Dim};
use super::dtype::DType;

/// Extents from the outermost axis to the innermost.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    pub fn scalar() -> Shape {
        Shape(vec![])
    }

    pub fn of(extents: &[usize]) -> Shape {
        Shape(extents.iter().map(|&d| Dim::from(d)).collect())
    }

    pub fn rank(&self) -> usize {
        self.0.len()
    }

    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// The extents as integers; `None` while one is open (or negative).
    pub fn concrete(&self) -> Option<Vec<usize>> {
        self.0.iter().map(Dim::as_extent).collect()
    }

    /// The number of elements; `None` on overflow.
    pub fn numel(&self) -> Option<Dim> {
        self.0.iter().try_fold(Dim::ONE, |product, d| product.mul(d))
    }

    pub fn bind(&self, bindings: &Bindings) -> Option<Shape> {
        self.0.iter().map(|d| d.bind(bindings)).collect::<Option<_>>().map(Shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

/// Element type and shape: `f32[batch, 4]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TensorType {
    pub dtype: DType,
    pub shape: Shape,
}

impl TensorType {
    pub fn new(dtype: DType, shape: Shape) -> TensorType {
        TensorType { dtype, shape }
    }

    pub fn of(dtype: DType, extents: &[usize]) -> TensorType {
        TensorType { dtype, shape: Shape::of(extents) }
    }

    pub fn scalar(dtype: DType) -> TensorType {
        TensorType { dtype, shape: Shape::scalar() }
    }

    pub fn rank(&self) -> usize {
        self.shape.rank()
    }

    /// Bytes in memory, rows packed; `None` while a dimension is open or on overflow.
    pub fn bytes(&self) -> Option<u64> {
        let n = u64::try_from(self.shape.numel()?.as_const()?).ok()?;
        n.checked_mul(self.dtype.bytes() as u64)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

/// NumPy's broadcasting of two shapes, aligned at the right. An open dimension broadcasts only
/// against 1 or itself. `None` where they clash.
pub fn broadcast(a: &Shape, b: &Shape) -> Option<Shape> {
    let rank = a.rank().max(b.rank());
    let at =
        |s: &Shape, i: usize| (i + s.rank()).checked_sub(rank).map_or(Dim::ONE, |k| s.0[k].clone());
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (Dim::Const(1), y) => Some(y),
            (x, Dim::Const(1)) => Some(x),
            _ => None,
        })
        .collect::<Option<_>>()
        .map(Shape)
}
