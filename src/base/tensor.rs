//! Tensors: a dtype, a shape and packed row-major bytes, shared and immutable once made.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;

use super::dtype::DType;
use super::shape::{Shape, TensorType};

/// Owned bytes, aligned to 64.
///
/// They are words of which the first ones are passed over: memory of a larger alignment would not
/// come zeroed from the system, so it would be written twice.
pub struct AlignedBytes {
    words: Vec<u64>,
    /// Bytes before the first that is aligned.
    skip: usize,
    len: usize,
}

const ALIGN: usize = 64;

/// Words that hold `len` bytes from the first aligned one on.
fn words(len: usize) -> usize {
    len.div_ceil(8) + (ALIGN / 8 - 1)
}

impl AlignedBytes {
    pub fn zeroed(len: usize) -> AlignedBytes {
        AlignedBytes::of(vec![0; words(len)], len)
    }

    /// As [`AlignedBytes::zeroed`]; `None` where the system has no such amount of memory.
    pub fn try_zeroed(len: usize) -> Option<AlignedBytes> {
        let mut all = Vec::new();
        all.try_reserve_exact(words(len)).ok()?;
        all.resize(words(len), 0);
        Some(AlignedBytes::of(all, len))
    }

    fn of(words: Vec<u64>, len: usize) -> AlignedBytes {
        let skip = words.as_ptr().cast::<u8>().align_offset(ALIGN);
        AlignedBytes { words, skip, len }
    }

    pub fn copy_of(bytes: &[u8]) -> AlignedBytes {
        let mut out = AlignedBytes::zeroed(bytes.len());
        out.as_mut().copy_from_slice(bytes);
        out
    }
}

impl Clone for AlignedBytes {
    fn clone(&self) -> AlignedBytes {
        AlignedBytes::copy_of(self.as_ref())
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[self.skip..self.skip + self.len]
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[self.skip..self.skip + self.len]
    }
}

/// A number of Rust that is an element type of dlc. `bool` is stored as `u8`, 0 or 1.
pub trait Element: Pod {
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
elements!(f32 => F32, f64 => F64, half::f16 => F16, half::bf16 => BF16, i8 => I8, i16 => I16,
          i32 => I32, i64 => I64, u8 => U8, u16 => U16, u32 => U32, u64 => U64);

/// Bytes that somebody else owns: a memory map, say.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// An immutable tensor; clones share the bytes.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    owner: SharedBytes,
    range: Range<usize>,
}

impl Tensor {
    /// Takes packed row-major bytes. `None` where their number does not fit the type, or a bool is
    /// neither 0 nor 1.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: AlignedBytes) -> Option<Tensor> {
        let len = byte_len(dtype, shape)?;
        let bools = dtype != DType::Bool || bytes.as_ref().iter().all(|b| *b <= 1);
        (len == bytes.len && bools).then(|| Tensor {
            dtype,
            shape: shape.to_vec(),
            owner: Arc::new(bytes),
            range: 0..len,
        })
    }

    /// A tensor inside bytes that are shared, without a copy where their alignment allows it.
    pub fn from_shared(
        dtype: DType,
        shape: &[usize],
        owner: SharedBytes,
        range: Range<usize>,
    ) -> Option<Tensor> {
        let bytes = (*owner).as_ref().get(range.clone())?;
        let aligned = bytes.as_ptr().align_offset(dtype.bytes()) == 0;
        if !aligned || dtype == DType::Bool {
            return Tensor::from_bytes(dtype, shape, AlignedBytes::copy_of(bytes));
        }
        (byte_len(dtype, shape)? == bytes.len()).then(|| Tensor {
            dtype,
            shape: shape.to_vec(),
            owner: owner.clone(),
            range,
        })
    }

    /// From elements; panics where their number does not fit the shape (a bug of the caller).
    pub fn from_slice<T: Element>(shape: &[usize], data: &[T]) -> Tensor {
        Tensor::from_bytes(T::DTYPE, shape, AlignedBytes::copy_of(bytemuck::cast_slice(data)))
            .expect("as many elements as the shape says")
    }

    pub fn from_bools(shape: &[usize], data: &[bool]) -> Tensor {
        let bytes: Vec<u8> = data.iter().map(|b| *b as u8).collect();
        Tensor::from_bytes(DType::Bool, shape, AlignedBytes::copy_of(&bytes))
            .expect("as many elements as the shape says")
    }

    pub fn zeros(dtype: DType, shape: &[usize]) -> Option<Tensor> {
        Tensor::from_bytes(dtype, shape, AlignedBytes::zeroed(byte_len(dtype, shape)?))
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype, Shape::of(&self.shape))
    }

    pub fn bytes(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }

    /// The elements; panics where the dtype is another (a bug of the caller).
    pub fn as_slice<T: Element>(&self) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "a tensor is read as the dtype it has");
        bytemuck::cast_slice(self.bytes())
    }

    pub fn as_bools(&self) -> &[u8] {
        assert_eq!(self.dtype, DType::Bool, "a tensor is read as the dtype it has");
        self.bytes()
    }

    /// The same elements under another shape of the same number of elements.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Tensor> {
        (byte_len(self.dtype, shape)? == self.range.len())
            .then(|| Tensor { shape: shape.to_vec(), ..self.clone() })
    }

    /// Element `i` in row-major order as f64 (64-bit integers beyond 2⁵³ round).
    pub fn get_f64(&self, i: usize) -> f64 {
        match self.dtype {
            DType::F32 => self.as_slice::<f32>()[i] as f64,
            DType::F64 => self.as_slice::<f64>()[i],
            DType::F16 => self.as_slice::<half::f16>()[i].to_f64(),
            DType::BF16 => self.as_slice::<half::bf16>()[i].to_f64(),
            DType::I8 => self.as_slice::<i8>()[i] as f64,
            DType::I16 => self.as_slice::<i16>()[i] as f64,
            DType::I32 => self.as_slice::<i32>()[i] as f64,
            DType::I64 => self.as_slice::<i64>()[i] as f64,
            DType::U8 => self.as_slice::<u8>()[i] as f64,
            DType::U16 => self.as_slice::<u16>()[i] as f64,
            DType::U32 => self.as_slice::<u32>()[i] as f64,
            DType::U64 => self.as_slice::<u64>()[i] as f64,
            DType::Bool => self.as_bools()[i] as f64,
        }
    }

    /// Element `i` of an integer or bool tensor, wrapped into i64 (u64 keeps its bits); `None` for floats.
    pub fn get_i64(&self, i: usize) -> Option<i64> {
        Some(match self.dtype {
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => return None,
            DType::I8 => self.as_slice::<i8>()[i] as i64,
            DType::I16 => self.as_slice::<i16>()[i] as i64,
            DType::I32 => self.as_slice::<i32>()[i] as i64,
            DType::I64 => self.as_slice::<i64>()[i],
            DType::U8 => self.as_slice::<u8>()[i] as i64,
            DType::U16 => self.as_slice::<u16>()[i] as i64,
            DType::U32 => self.as_slice::<u32>()[i] as i64,
            DType::U64 => self.as_slice::<u64>()[i] as i64,
            DType::Bool => self.as_bools()[i] as i64,
        })
    }
}

/// Equal to the bit: same dtype, shape and bytes (so a NaN equals itself).
impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

impl Eq for Tensor {}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.ty())?;
        f.debug_list().entries((0..self.numel().min(16)).map(|i| self.get_f64(i))).finish()
    }
}

fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(dtype.bytes(), |n, d| n.checked_mul(*d))
        .filter(|n| *n <= isize::MAX as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_bytes_are_aligned_and_zero() {
        for len in [0, 1, 63, 64, 65, 100_000, 5_000_000] {
            let mut bytes = AlignedBytes::zeroed(len);
            assert_eq!(bytes.as_ref().len(), len);
            assert!(bytes.as_ref().iter().all(|b| *b == 0));
            bytes.as_mut().fill(7);
            for bytes in [bytes.clone(), bytes, AlignedBytes::try_zeroed(len).unwrap()] {
                assert_eq!(bytes.as_ref().as_ptr().align_offset(64), 0);
                assert_eq!(bytes.as_ref().len(), len);
            }
        }
    }
}
