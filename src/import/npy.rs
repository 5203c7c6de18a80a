//! NumPy's files: `.npy` (one array) and `.npz` (a ZIP of named arrays).
//!
//! In: bytes. Out: a [`Tensor`] in row-major order and in this machine's byte order, whatever order
//! the file has. The header is read by a scanner of its own that knows the three keys of the format
//! and nothing else of Python: it allocates no more than the header's length, cannot recurse, and
//! compares the size that the header asks for with the bytes that are there before it allocates.
//!
//! Versions 1.0 to 3.0 are read, 1.0 is written. The size of a `.npz` entry is bounded by
//! [`NPZ_LIMIT`], and by what its compressed bytes can possibly hold.

use std::io::{Cursor, Read};
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::error::{FormatError, shorten};
use super::{MAX_RANK, byte_len};
use crate::base::diag::did_you_mean;
use crate::base::tensor::{AlignedBytes, SharedBytes};
use crate::base::{DType, Tensor};

/// Bytes that one decompressed entry of a `.npz` may take.
pub const NPZ_LIMIT: u64 = 4 << 30;

const MAGIC: &[u8] = b"\x93NUMPY";
const NPY: &str = "a .npy file";
const NPZ: &str = "an .npz file";
/// Headers beyond this are refused; NumPy itself reads 10,000 characters.
const HEADER_LIMIT: usize = 64 << 10;

/// Reads one array. Bytes in the right order and place are shared, not copied.
pub fn read(bytes: SharedBytes) -> Result<Tensor, FormatError> {
    let all = (*bytes).as_ref();
    let header = read_header(all)?;
    let (shape, item) = (&header.shape, header.dtype.bytes());
    let needs = byte_len(header.dtype, shape).ok_or_else(|| FormatError::shape(shape))?;
    let data = &all[header.data..];
    if data.len() < needs {
        let (needs, has) = ((header.data + needs) as u64, all.len() as u64);
        return Err(FormatError::Truncated { format: NPY, needs, has });
    }
    if data.len() > needs {
        let (needs, has) = (needs as u64, data.len() as u64);
        return Err(FormatError::Size { what: "the array".into(), needs, has });
    }
    let reorder = header.fortran && shape.len() > 1;
    let swap = header.big_endian && item > 1;
    let tensor = if reorder || swap {
        let mut out = match reorder {
            true => to_row_major(data, shape, item),
            false => AlignedBytes::copy_of(data),
        };
        if swap {
            out.as_mut().chunks_exact_mut(item).for_each(<[u8]>::reverse);
        }
        Tensor::from_bytes(header.dtype, shape, out)
    } else {
        Tensor::from_shared(header.dtype, shape, bytes.clone(), header.data..all.len())
    };
    tensor.ok_or_else(|| FormatError::malformed(NPY, "a bool is neither 0 nor 1"))
}

/// Reads the array of this name from a `.npz`; the name may be given with or without `.npy`.
pub fn read_npz(bytes: SharedBytes, key: &str) -> Result<Tensor, FormatError> {
    let mut archive = open_npz((*bytes).as_ref())?;
    let names = npz_names(&archive);
    let found = names.iter().position(|n| n == key || n.strip_suffix(".npy") == Some(key));
    let Some(index) = found else {
        let all: Vec<String> =
            names.iter().map(|n| n.strip_suffix(".npy").unwrap_or(n).to_string()).collect();
        let close = did_you_mean(key, all.iter().map(String::as_str)).map(str::to_string);
        return Err(FormatError::Missing { name: key.into(), close, all });
    };
    let content = npz_entry(&mut archive, index).map_err(|e| e.within(shorten(&names[index])))?;
    read(Arc::new(content)).map_err(|e| e.within(shorten(&names[index])))
}

/// The names of the arrays in a `.npz`, without `.npy`, in the order of the file.
pub fn keys(bytes: &[u8]) -> Result<Vec<String>, FormatError> {
    let names = npz_names(&open_npz(bytes)?);
    Ok(names.iter().map(|n| n.strip_suffix(".npy").unwrap_or(n).to_string()).collect())
}

/// The bytes of a `.npy` file. bf16 has no name in NumPy and is refused.
pub fn write(tensor: &Tensor) -> Result<Vec<u8>, FormatError> {
    let descr = descr_of(tensor.dtype())?;
    let extents: String = tensor.shape().iter().map(|d| format!("{d}, ")).collect();
    // A tuple of one element is written `(3,)`, longer ones without the last comma.
    let extents = match tensor.rank() {
        0 | 1 => extents.trim_end(),
        _ => extents.trim_end_matches(", "),
    };
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    let length = (MAGIC.len() + 4 + dict.len() + 1).next_multiple_of(64);
    let field = length - MAGIC.len() - 4;
    let too_long = |_| FormatError::shape(tensor.shape());
    let mut out = Vec::with_capacity(length + tensor.bytes().len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[1, 0]);
    out.extend_from_slice(&u16::try_from(field).map_err(too_long)?.to_le_bytes());
    out.extend_from_slice(dict.as_bytes());
    out.resize(length - 1, b' ');
    out.push(b'\n');
    out.extend_from_slice(tensor.bytes());
    Ok(out)
}

/// For the fuzzer: reads whatever comes; what can be read must survive writing and reading again.
pub fn fuzz(data: &[u8]) {
    let shared: SharedBytes = Arc::new(AlignedBytes::copy_of(data));
    if let Ok(tensor) = read(shared.clone()) {
        let written = write(&tensor).expect("what NumPy wrote can be written");
        let again = read(Arc::new(AlignedBytes::copy_of(&written))).expect("own files are read");
        assert_eq!(tensor, again, "writing and reading changes nothing");
    }
    for key in keys(data).unwrap_or_default().iter().take(4) {
        // Entries that claim to be huge are a matter of the limit, not of the fuzzer's time.
        if data.len() < 1 << 16 {
            let _ = read_npz(shared.clone(), key);
        }
    }
}

struct Header {
    dtype: DType,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
    /// Where the data begins.
    data: usize,
}

fn read_header(all: &[u8]) -> Result<Header, FormatError> {
    let foreign = |why: &str| FormatError::Foreign { format: NPY, why: why.into() };
    if !all.starts_with(MAGIC) {
        return Err(foreign("it does not begin with NumPy's magic bytes"));
    }
    let early = |needs: usize| FormatError::Truncated {
        format: NPY,
        needs: needs as u64,
        has: all.len() as u64,
    };
    let version = all.get(6..8).ok_or_else(|| early(8))?;
    let (start, length) = match version {
        [1, 0] => {
            let field = all.get(8..10).ok_or_else(|| early(10))?;
            (10, u16::from_le_bytes([field[0], field[1]]) as usize)
        }
        [2 | 3, 0] => {
            let field = all.get(8..12).ok_or_else(|| early(12))?;
            (12, u32::from_le_bytes([field[0], field[1], field[2], field[3]]) as usize)
        }
        [major, minor] => {
            let found = format!("{major}.{minor}");
            return Err(FormatError::Version { format: NPY, found, reads: "1.0 to 3.0".into() });
        }
        _ => unreachable!("two bytes were taken"),
    };
    if length > HEADER_LIMIT {
        let (bytes, limit) = (length as u64, HEADER_LIMIT as u64);
        return Err(FormatError::Limit { what: "the header".into(), bytes, limit });
    }
    let data = start + length;
    let text = all.get(start..data).ok_or_else(|| early(data))?;
    let text = std::str::from_utf8(text)
        .map_err(|_| FormatError::malformed(NPY, "the header is not text"))?;
    Scanner { rest: text }.header(data)
}

/// Reads Python's notation of the header: `{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}`.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn header(&mut self, data: usize) -> Result<Header, FormatError> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.expect("{")?;
        while !self.accept("}") {
            let key = self.string()?;
            self.expect(":")?;
            let fresh = match key {
                "descr" => descr.replace(self.element()?).is_none(),
                "fortran_order" => fortran.replace(self.boolean()?).is_none(),
                "shape" => shape.replace(self.tuple()?).is_none(),
                other => return Err(self.bad(&format!("unknown key `{}`", shorten(other)))),
            };
            if !fresh {
                return Err(self.bad(&format!("`{key}` occurs twice")));
            }
            if !self.accept(",") {
                self.expect("}")?;
                break;
            }
        }
        self.skip();
        if !self.rest.is_empty() {
            return Err(self.bad("text after the dictionary"));
        }
        let missing = |key: &str| FormatError::malformed(NPY, format!("the header lacks `{key}`"));
        let (dtype, big_endian) = descr.ok_or_else(|| missing("descr"))?;
        let fortran = fortran.ok_or_else(|| missing("fortran_order"))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        Ok(Header { dtype, big_endian, fortran, shape, data })
    }

    fn bad(&self, why: &str) -> FormatError {
        FormatError::malformed(NPY, format!("in the header, {why}"))
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
    }

    fn accept(&mut self, token: &str) -> bool {
        self.skip();
        let after = self.rest.strip_prefix(token);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), FormatError> {
        match self.accept(token) {
            true => Ok(()),
            false => {
                Err(self.bad(&format!("`{token}` is missing before `{}`", shorten(self.rest))))
            }
        }
    }

    /// A string without escapes: keys and type names have none.
    fn string(&mut self) -> Result<&'a str, FormatError> {
        self.skip();
        let quote = match self.rest.chars().next() {
            Some(q @ ('\'' | '"')) => q,
            _ => return Err(self.bad("a string is missing")),
        };
        let Some((text, rest)) = self.rest[1..].split_once(quote) else {
            return Err(self.bad("a string does not end"));
        };
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, FormatError> {
        let value = if self.accept("True") { Some(true) } else { None };
        value
            .or_else(|| self.accept("False").then_some(false))
            .ok_or_else(|| self.bad("`fortran_order` is neither True nor False"))
    }

    /// The element type, and whether its bytes stand in big-endian order.
    fn element(&mut self) -> Result<(DType, bool), FormatError> {
        self.skip();
        if self.rest.starts_with('[') {
            let help = "dlc reads plain numbers; save one field of the records".into();
            return Err(FormatError::Element { found: "record".into(), help });
        }
        let descr = self.string()?;
        let (order, kind) = match descr.chars().next() {
            Some(c @ ('<' | '>' | '|' | '=')) => (c, &descr[1..]),
            _ => ('=', descr),
        };
        let big_endian = order == '>' || (order == '=' && cfg!(target_endian = "big"));
        match NAMES.iter().find(|(_, name)| *name == kind) {
            Some((dtype, _)) => Ok((*dtype, big_endian)),
            None => Err(FormatError::Element { found: shorten(descr), help: element_help(kind) }),
        }
    }

    fn tuple(&mut self) -> Result<Vec<usize>, FormatError> {
        self.expect("(")?;
        let mut shape = vec![];
        while !self.accept(")") {
            shape.push(self.extent()?);
            if shape.len() > MAX_RANK {
                return Err(self.bad(&format!("there are more than {MAX_RANK} axes")));
            }
            if !self.accept(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }

    fn extent(&mut self) -> Result<usize, FormatError> {
        self.skip();
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        // Python 2 wrote long integers as `3L`.
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        digits.parse().map_err(|_| {
            self.bad(&format!("`{}` is not an extent", shorten(&format!("{digits}{rest}"))))
        })
    }
}

/// NumPy's names without the mark of the byte order.
const NAMES: &[(DType, &str)] = &[
    (DType::F32, "f4"),
    (DType::F64, "f8"),
    (DType::F16, "f2"),
    (DType::I8, "i1"),
    (DType::I16, "i2"),
    (DType::I32, "i4"),
    (DType::I64, "i8"),
    (DType::U8, "u1"),
    (DType::U16, "u2"),
    (DType::U32, "u4"),
    (DType::U64, "u8"),
    (DType::Bool, "b1"),
];

fn descr_of(dtype: DType) -> Result<String, FormatError> {
    let Some((_, name)) = NAMES.iter().find(|(d, _)| *d == dtype) else {
        let help = "NumPy has no such type: cast to f32 in the model, or write safetensors";
        return Err(FormatError::Element { found: dtype.name().into(), help: help.into() });
    };
    let order = if dtype.bytes() == 1 { '|' } else { '<' };
    Ok(format!("{order}{name}"))
}

fn element_help(kind: &str) -> String {
    let help = match kind.chars().next() {
        Some('c') => "save the real and the imaginary part as two arrays",
        Some('O') => {
            "arrays of objects hold Python's pickles, which dlc never runs; \
                      save with a numeric dtype"
        }
        Some('S' | 'U' | 'a') => "save numbers: map the texts to indices first",
        Some('M' | 'm') => "save times as numbers: `.astype('i8')`",
        Some('V') => "NumPy has no bf16: save as f32, or use safetensors",
        _ => "save as one of f16, f32, f64, i8 … i64, u8 … u64, bool: `.astype('f4')`",
    };
    help.into()
}

/// Column-major to row-major: element (i₀, …) lies at Σ iₖ · Π_{j<k} extentⱼ.
fn to_row_major(data: &[u8], shape: &[usize], item: usize) -> AlignedBytes {
    let mut out = AlignedBytes::zeroed(data.len());
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = item;
    for extent in shape {
        strides.push(stride);
        stride *= extent;
    }
    let mut index = vec![0usize; shape.len()];
    let mut from = 0;
    for to in out.as_mut().chunks_exact_mut(item) {
        to.copy_from_slice(&data[from..from + item]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            from += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            from -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

fn open_npz(bytes: &[u8]) -> Result<Archive<'_>, FormatError> {
    let foreign =
        |e: zip::result::ZipError| FormatError::Foreign { format: NPZ, why: e.to_string() };
    let archive = ZipArchive::new(Cursor::new(bytes)).map_err(foreign)?;
    if archive.has_duplicate_names() {
        return Err(FormatError::malformed(NPZ, "two entries have the same name"));
    }
    Ok(archive)
}

fn npz_names(archive: &Archive) -> Vec<String> {
    archive.file_names_raw().map(|n| String::from_utf8_lossy(n).into_owned()).collect()
}

fn npz_entry(archive: &mut Archive, index: usize) -> Result<AlignedBytes, FormatError> {
    let bad = |why: String| FormatError::Malformed { format: NPZ, why };
    let mut entry = archive.by_index(index).map_err(|e| bad(e.to_string()))?;
    let size = entry.size();
    // Deflate turns one byte into at most 1032.
    let ratio = if entry.compression() == CompressionMethod::Stored { 1 } else { 1032 };
    if size > entry.compressed_size().saturating_mul(ratio) {
        return Err(bad(format!("an entry claims {size} bytes, more than it can hold")));
    }
    if size > NPZ_LIMIT {
        let what = "the array".to_string();
        return Err(FormatError::Limit { what, bytes: size, limit: NPZ_LIMIT });
    }
    let no_room = || bad(format!("an entry of {size} bytes does not fit this machine"));
    let mut out = AlignedBytes::try_zeroed(size as usize).ok_or_else(no_room)?;
    entry.read_exact(out.as_mut()).map_err(|e| bad(e.to_string()))?;
    // The checksum is compared at the end of the entry.
    let beyond = entry.read(&mut [0; 1]).map_err(|e| bad(e.to_string()))?;
    if beyond > 0 {
        return Err(bad("an entry is longer than it claims".into()));
    }
    Ok(out)
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;
