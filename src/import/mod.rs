//! Foreign formats in: arrays, weights, values on the command line.
//!
//! Everything here reads hostile bytes: errors have codes, sizes are compared with what is there
//! before anything is allocated, and nothing recurses over the depth of the input.

pub mod error;
pub mod npy;
pub mod safetensors;
pub mod show;
pub mod value;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub use error::FormatError;
pub use safetensors::Weights;

use crate::base::DType;
use crate::base::tensor::{AlignedBytes, SharedBytes};

/// Axes that a foreign tensor may have.
pub const MAX_RANK: usize = 64;

/// Bytes that are read from something that is no regular file, such as a pipe.
const PIPE_LIMIT: u64 = 1 << 30;

/// Reads a whole file into aligned memory. A pipe may deliver a gibibyte.
pub fn read_file(path: &Path) -> Result<SharedBytes, FormatError> {
    let refused = |e| FormatError::system("read", path, e);
    let mut file = std::fs::File::open(path).map_err(refused)?;
    let about = file.metadata().map_err(refused)?;
    if about.is_file() {
        let length = usize::try_from(about.len()).map_err(|e| refused(std::io::Error::other(e)))?;
        let no_room = || refused(std::io::ErrorKind::OutOfMemory.into());
        let mut bytes = AlignedBytes::try_zeroed(length).ok_or_else(no_room)?;
        file.read_exact(bytes.as_mut()).map_err(refused)?;
        return Ok(Arc::new(bytes));
    }
    let mut bytes = vec![];
    file.take(PIPE_LIMIT + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > PIPE_LIMIT {
        let (bytes, limit) = (bytes.len() as u64, PIPE_LIMIT);
        return Err(FormatError::Limit { what: path.display().to_string(), bytes, limit });
    }
    Ok(Arc::new(AlignedBytes::copy_of(&bytes)))
}

/// Bytes of a packed tensor. `None` where any product of its extents, zeros left out, overflows, so
/// that strides of a tensor without elements are in range too.
pub(crate) fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    let full = shape.iter().try_fold(dtype.bytes(), |n, d| n.checked_mul((*d).max(1)))?;
    let len = if shape.contains(&0) { 0 } else { full };
    (full <= isize::MAX as usize && shape.len() <= MAX_RANK).then_some(len)
}
