//! Elements as the CPU has them, and as shaders have them: narrow ones take 32 bits there, but for f16
//! where shaders have it (`half`).

use std::borrow::Cow;

use crate::base::DType;
use crate::target::wgsl::stored_bytes;

/// Widens packed elements; a whole number of words.
pub fn widened(dtype: DType, bytes: &[u8], half: bool) -> Cow<'_, [u8]> {
    let word = |v: u32| v.to_le_bytes();
    let wide: Vec<u8> = match dtype {
        DType::Bool | DType::U8 => bytes.iter().flat_map(|b| word(*b as u32)).collect(),
        DType::I8 => bytes.iter().flat_map(|b| word(*b as i8 as i32 as u32)).collect(),
        DType::F16 if half => {
            let mut words = bytes.to_vec();
            words.resize(bytes.len().next_multiple_of(4), 0);
            words
        }
        DType::U16 | DType::F16 | DType::BF16 => {
            pairs(bytes).flat_map(|v| word(v as u32)).collect()
        }
        DType::I16 => pairs(bytes).flat_map(|v| word(v as i16 as i32 as u32)).collect(),
        DType::F32 | DType::I32 | DType::U32 | DType::F64 | DType::I64 | DType::U64 => {
            return Cow::Borrowed(bytes);
        }
    };
    Cow::Owned(wide)
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

/// The packed elements of what shaders stored.
pub fn narrowed(dtype: DType, bytes: &[u8], half: bool) -> Vec<u8> {
    let (own, stored) = (dtype.bytes(), stored_bytes(dtype, half) as usize);
    match own == stored {
        true => bytes.to_vec(),
        false => bytes.chunks_exact(stored).flat_map(|b| b[..own].to_vec()).collect(),
    }
}
