//! Weights by name: the safetensors format.
//!
//! In: bytes that somebody owns (a file read into memory, a memory map); the tensors share them.
//! Out, the other way: bytes whose data begins at a multiple of 64, in an order that depends on the
//! names and types alone. Beyond what the crate checks (offsets in order, without gaps or overlaps,
//! sizes that fit, the file covered to its last byte) a name that occurs twice is an error.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::byte_len;
use super::error::{FormatError, shorten};
use crate::base::tensor::{AlignedBytes, SharedBytes};
use crate::base::{DType, Tensor};

const FORMAT: &str = "a safetensors file";
/// The data begins at a multiple of this.
const ALIGN: usize = 64;

/// Tensors by name.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Weights {
    pub tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.tensors.insert(name.into(), tensor);
    }

    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

/// Reads all tensors; they share the bytes where these are aligned for their type.
pub fn read(bytes: SharedBytes) -> Result<Weights, FormatError> {
    let all = (*bytes).as_ref();
    let (header, metadata) = SafeTensors::read_metadata(all).map_err(|e| refused(e, all.len()))?;
    let data = 8 + header;
    no_duplicates(&all[8..data])?;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let dtype = dtype_of(info.dtype).map_err(|e| e.within(shorten(&name)))?;
        let range = data + info.data_offsets.0..data + info.data_offsets.1;
        if byte_len(dtype, &info.shape) != Some(range.len()) {
            return Err(FormatError::shape(&info.shape).within(shorten(&name)));
        }
        let tensor = Tensor::from_shared(dtype, &info.shape, bytes.clone(), range);
        let tensor = tensor.ok_or_else(|| {
            FormatError::malformed(
                FORMAT,
                format!("a bool of `{}` is neither 0 nor 1", shorten(&name)),
            )
        })?;
        tensors.insert(name, tensor);
    }
    Ok(Weights { tensors })
}

/// Writes all tensors. Equal weights give equal bytes.
pub fn write(weights: &Weights) -> Vec<u8> {
    let mut out = vec![];
    write_to(weights, &mut out).expect("a vector takes all bytes");
    out
}

/// As [`write`], to a stream.
pub fn write_to(weights: &Weights, out: &mut dyn Write) -> io::Result<()> {
    // Wide elements first, so that each tensor is aligned for its own type.
    let mut order: Vec<(&String, &Tensor)> = weights.tensors.iter().collect();
    order.sort_by_key(|(_, t)| std::cmp::Reverse(t.dtype().bytes()));
    let mut end = 0;
    let mut infos = Vec::with_capacity(order.len());
    for (name, tensor) in &order {
        let start = end;
        end += tensor.bytes().len();
        let (dtype, shape) = (foreign_dtype(tensor.dtype()), tensor.shape().to_vec());
        let info = TensorInfo { dtype, shape, data_offsets: (start, end) };
        infos.push((name.to_string(), info));
    }
    let metadata = Metadata::new(None, infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize((8 + header.len()).next_multiple_of(ALIGN) - 8, b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, tensor) in &order {
        out.write_all(tensor.bytes())?;
    }
    Ok(())
}

/// For the fuzzer: reads whatever comes; what can be read must survive writing and reading again.
pub fn fuzz(data: &[u8]) {
    if let Ok(weights) = read(Arc::new(AlignedBytes::copy_of(data))) {
        let written = write(&weights);
        let again = read(Arc::new(AlignedBytes::copy_of(&written))).expect("own files are read");
        assert_eq!(weights, again, "writing and reading changes nothing");
    }
}

fn refused(error: SafeTensorError, has: usize) -> FormatError {
    use SafeTensorError as E;
    let has = has as u64;
    match error {
        E::HeaderTooSmall => FormatError::Truncated { format: FORMAT, needs: 8, has },
        E::MetadataIncompleteBuffer => {
            let what = "the file";
            FormatError::malformed(
                FORMAT,
                format!("its header does not describe {what}'s {has} bytes"),
            )
        }
        E::InvalidHeaderLength => FormatError::malformed(FORMAT, "it ends within its header"),
        E::HeaderTooLarge | E::InvalidHeader(_) => {
            FormatError::Foreign { format: FORMAT, why: error.to_string() }
        }
        E::InvalidOffset(name) => FormatError::malformed(
            FORMAT,
            format!("the data of `{}` overlaps another's or leaves a gap", shorten(&name)),
        ),
        other => FormatError::malformed(FORMAT, shorten(&other.to_string())),
    }
}

/// The crate keeps the last of several equal names in silence.
fn no_duplicates(header: &[u8]) -> Result<(), FormatError> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut seen = HashMap::new();
            let mut twice = None;
            while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                if seen.insert(name.clone(), ()).is_some() && twice.is_none() {
                    twice = Some(name);
                }
            }
            Ok(twice)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(header);
    match json.deserialize_map(Names) {
        Ok(None) => Ok(()),
        Ok(Some(name)) => Err(FormatError::Duplicate { name: shorten(&name) }),
        Err(e) => Err(FormatError::malformed(FORMAT, shorten(&e.to_string()))),
    }
}

fn dtype_of(dtype: Dtype) -> Result<DType, FormatError> {
    Ok(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I8 => DType::I8,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::U8 => DType::U8,
        Dtype::U16 => DType::U16,
        Dtype::U32 => DType::U32,
        Dtype::U64 => DType::U64,
        Dtype::BOOL => DType::Bool,
        other => {
            let help = "convert it to one of dlc's types first; `f16` and `bf16` are the narrowest";
            return Err(FormatError::Element { found: other.to_string(), help: help.into() });
        }
    })
}

fn foreign_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I8 => Dtype::I8,
        DType::I16 => Dtype::I16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::U8 => Dtype::U8,
        DType::U16 => Dtype::U16,
        DType::U32 => Dtype::U32,
        DType::U64 => Dtype::U64,
        DType::Bool => Dtype::BOOL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tensor::AlignedBytes;

    fn shared(bytes: &[u8]) -> SharedBytes {
        Arc::new(AlignedBytes::copy_of(bytes))
    }

    fn file(header: &str, data: &[u8]) -> SharedBytes {
        let header = header.as_bytes();
        shared(&[&(header.len() as u64).to_le_bytes()[..], header, data].concat())
    }

    fn sample() -> Weights {
        let mut w = Weights::default();
        for (i, dtype) in DType::ALL.into_iter().enumerate() {
            let shape = [i % 3, 2];
            w.insert(format!("t.{dtype}"), Tensor::zeros(dtype, &shape).unwrap());
        }
        w.insert("scalar", Tensor::from_slice(&[], &[1.5f32]));
        w.insert("bools", Tensor::from_bools(&[3], &[true, false, true]));
        w
    }

    #[test]
    fn there_and_back() {
        let w = sample();
        let bytes = write(&w);
        assert_eq!(read(shared(&bytes)).unwrap(), w);
        assert_eq!(bytes, write(&w));
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!((8 + header) % 64, 0);
        assert!(read(shared(&write(&Weights::default()))).unwrap().is_empty());
    }

    #[test]
    fn tensors_share_the_bytes() {
        let bytes = shared(&write(&sample()));
        let w = read(bytes.clone()).unwrap();
        let all = (*bytes).as_ref().as_ptr_range();
        assert!(all.contains(&w.get("scalar").unwrap().bytes().as_ptr()));
    }

    #[test]
    fn the_iris_weights() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/iris/iris.safetensors");
        let w = read(super::super::read_file(path.as_ref()).unwrap()).unwrap();
        assert_eq!(w.get("net.hidden1.weight").unwrap().shape(), [20, 4]);
    }

    #[test]
    fn bad_files() {
        let code = |b: SharedBytes| read(b).unwrap_err().code();
        let whole = write(&sample());
        for cut in 0..whole.len() {
            assert!(read(shared(&whole[..cut])).is_err(), "cut at {cut}");
        }
        let a = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let b = r#""b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}"#;
        assert_eq!(code(file(&format!("{{{a},{a}}}"), &[0; 4])), "E0909");
        assert_eq!(code(file(&format!("{{{a},{b}}}"), &[0; 6])), "E0904");
        assert_eq!(code(file(&format!("{{{a}}}"), &[0; 5])), "E0904");
        assert_eq!(code(file(&format!("{{{a}}}"), &[0; 3])), "E0904");
        assert_eq!(code(shared(&[1, 2])), "E0903");
        assert_eq!(code(shared(&[0xff; 64])), "E0902");
        let f8 = r#"{"a":{"dtype":"F8_E5M2","shape":[4],"data_offsets":[0,4]}}"#;
        assert_eq!(code(file(f8, &[0; 4])), "E0905");
        let two = r#"{"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}"#;
        assert_eq!(code(file(two, &[1, 2])), "E0904");
        let huge =
            r#"{"a":{"dtype":"F32","shape":[0,9223372036854775807,9],"data_offsets":[0,0]}}"#;
        assert_eq!(code(file(huge, &[])), "E0906");
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert_eq!(code(file(&deep, &[])), "E0904");
    }
}
