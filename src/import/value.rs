//! Values on the command line: `@file.npy`, `@file.npz:key`, `f32[2,3]:1,2,3,4,5,6`, plain numbers.
//!
//! In: the text after `NAME=`, and the type that is wanted where one is known; its open dimensions
//! take any extent. Out: a tensor of exactly that dtype and rank: nothing is converted in silence.
//! Numbers are decimal, `nan`, `inf`, `-inf`, or for floats the bits as a hexadecimal literal of the
//! type's full width (`0x7fc00000` for f32). Nested brackets give the shape; a flat list fills it in
//! row-major order. `docs/values.md` is the description for users.

use std::path::Path;

use half::{bf16, f16};

use super::error::{FormatError, shorten};
use super::{MAX_RANK, byte_len, npy, read_file, safetensors};
use crate::base::diag::did_you_mean;
use crate::base::tensor::AlignedBytes;
use crate::base::{DType, Tensor, TensorType};

/// Reads a value. Without a wanted type, plain numbers are refused, since nothing tells their type.
pub fn parse(text: &str, wanted: Option<&TensorType>) -> Result<Tensor, FormatError> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix('@') {
        let tensor = read_reference(path)?;
        return fits(&tensor, wanted).map(|()| tensor).map_err(|e| e.within(path));
    }
    if let Some((dtype, shape, data)) = typed(text)? {
        let items = Items::scan(data)?;
        let shape = items.shape_of_typed(&shape, text)?;
        let tensor = items.tensor(dtype, &shape)?;
        return fits(&tensor, wanted).map(|()| tensor);
    }
    let items = Items::scan(text)?;
    let Some(wanted) = wanted else {
        return Err(FormatError::literal(text, "its type is not known; write `f32[2]:1,2`"));
    };
    let shape = items.shape_as(wanted, text)?;
    items.tensor(wanted.dtype, &shape)
}

/// One number as the bytes of its type, in this machine's order.
pub fn parse_element(token: &str, dtype: DType) -> Result<Vec<u8>, FormatError> {
    let range = || FormatError::Range { text: shorten(token), dtype };
    if dtype.is_float() {
        return parse_float(token, dtype);
    }
    if dtype == DType::Bool {
        return match token {
            "true" | "1" => Ok(vec![1]),
            "false" | "0" => Ok(vec![0]),
            _ => Err(FormatError::literal(token, "a bool is true or false")),
        };
    }
    let (sign, digits) = match token.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, token.strip_prefix('+').unwrap_or(token)),
    };
    let (digits, radix) = digits.strip_prefix("0x").map_or((digits, 10), |hex| (hex, 16));
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(FormatError::literal(token, format!("{dtype} takes whole numbers")));
    }
    let magnitude = i128::from_str_radix(digits, radix).map_err(|_| range())?;
    let v = sign * magnitude;
    macro_rules! narrow {
        ($($d:ident => $t:ty),*) => {
            match dtype {
                $(DType::$d => <$t>::try_from(v).map(|v| v.to_ne_bytes().to_vec()),)*
                DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::Bool => {
                    unreachable!("floats and bools were read above")
                }
            }
        };
    }
    narrow!(I8 => i8, I16 => i16, I32 => i32, I64 => i64, U8 => u8, U16 => u16, U32 => u32,
            U64 => u64)
    .map_err(|_| range())
}

/// Writes a tensor to a file; the name's ending gives the format (`.npy`).
pub fn save(path: &Path, tensor: &Tensor) -> Result<(), FormatError> {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    if !ending.eq_ignore_ascii_case("npy") {
        return Err(FormatError::Unsupported { what: format!("writing a tensor as `.{ending}`") });
    }
    let bytes = npy::write(tensor).map_err(|e| e.within(path.display().to_string()))?;
    crate::base::atomic_file::write(path, &bytes).map_err(|e| FormatError::system("write", path, e))
}

/// For the fuzzer: reads whatever text comes; what it gives prints as a literal that reads back.
/// Names of files are left alone.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.trim_start().starts_with('@') {
        return;
    }
    for wanted in [None, Some(TensorType::of(DType::F32, &[2, 2]))] {
        let Ok(tensor) = parse(text, wanted.as_ref()) else { continue };
        if tensor.numel() <= super::show::SHORTEN_BEYOND {
            let shown = super::show::tensor("", &tensor);
            let literal = shown.trim_start_matches(": ").replacen(" = ", ":", 1);
            let again = parse(&literal, wanted.as_ref()).expect("printed values are read");
            assert_eq!(tensor, again, "printing and reading changes nothing");
        }
    }
}

fn parse_float(token: &str, dtype: DType) -> Result<Vec<u8>, FormatError> {
    let bad = |why: &str| FormatError::literal(token, why);
    if let Some(hex) = token.strip_prefix("0x") {
        let width = dtype.bytes() * 2;
        if hex.len() != width || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad(&format!("the bits of {dtype} are 0x and {width} digits")));
        }
        let bits = u64::from_str_radix(hex, 16).map_err(|_| bad("no bits"))?;
        return Ok(match dtype.bytes() {
            2 => (bits as u16).to_ne_bytes().to_vec(),
            4 => (bits as u32).to_ne_bytes().to_vec(),
            _ => bits.to_ne_bytes().to_vec(),
        });
    }
    let special = match token {
        "nan" => Some(f64::NAN),
        "inf" | "+inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        _ => None,
    };
    let decimal = token.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    if special.is_none() && !decimal {
        return Err(bad("a number is decimal, `nan`, `inf`, `-inf`, or bits"));
    }
    let wide = special.map_or_else(|| token.parse::<f64>(), Ok).map_err(|_| bad("no number"))?;
    // Straight to f32 where that is wanted: by way of f64 a decimal would round twice.
    let narrow = special.map_or_else(|| token.parse::<f32>(), |v| Ok(v as f32)).unwrap_or(0.0);
    let (bytes, finite) = match dtype {
        DType::F32 => (narrow.to_ne_bytes().to_vec(), narrow.is_finite()),
        DType::F16 => {
            let v = f16::from_f64(wide);
            (v.to_ne_bytes().to_vec(), v.is_finite())
        }
        DType::BF16 => {
            let v = bf16::from_f64(wide);
            (v.to_ne_bytes().to_vec(), v.is_finite())
        }
        _ => (wide.to_ne_bytes().to_vec(), wide.is_finite()),
    };
    match finite || special.is_some() {
        true => Ok(bytes),
        false => Err(FormatError::Range { text: shorten(token), dtype }),
    }
}

/// What stands after `@`.
fn read_reference(reference: &str) -> Result<Tensor, FormatError> {
    for ending in [".npz", ".safetensors"] {
        let colon = format!("{ending}:");
        let (path, key) = match (reference.rfind(&colon), reference.ends_with(ending)) {
            (Some(at), _) => {
                (&reference[..at + ending.len()], Some(&reference[at + colon.len()..]))
            }
            (None, true) => (reference, None),
            (None, false) => continue,
        };
        return read_keyed(path, key).map_err(|e| e.within(path));
    }
    if reference.ends_with(".pb") {
        return Err(FormatError::Unsupported { what: "reading an ONNX TensorProto".into() });
    }
    let path = Path::new(reference);
    npy::read(read_file(path)?).map_err(|e| e.within(reference))
}

/// An entry of an archive; without a key the only one.
fn read_keyed(path: &str, key: Option<&str>) -> Result<Tensor, FormatError> {
    let bytes = read_file(Path::new(path))?;
    let numpy = path.ends_with(".npz");
    let weights = if numpy { Default::default() } else { safetensors::read(bytes.clone())? };
    let all: Vec<String> = match numpy {
        true => npy::keys((*bytes).as_ref())?,
        false => weights.names().map(str::to_string).collect(),
    };
    let key = match (key, all.as_slice()) {
        (Some(key), _) => key,
        (None, [only]) => only,
        (None, _) => {
            let close = all.first().map(|first| format!("{path}:{first}"));
            return Err(FormatError::Missing { name: String::new(), close, all });
        }
    };
    if numpy {
        return npy::read_npz(bytes, key);
    }
    weights.get(key).cloned().ok_or_else(|| {
        let close = did_you_mean(key, all.iter().map(String::as_str)).map(str::to_string);
        FormatError::Missing { name: key.into(), close, all: all.clone() }
    })
}

/// Whether a tensor is of the wanted type; open dimensions take any extent.
pub fn fits(tensor: &Tensor, wanted: Option<&TensorType>) -> Result<(), FormatError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let dims = wanted.shape.dims();
    let extents = dims.len() == tensor.rank()
        && dims
            .iter()
            .zip(tensor.shape())
            .all(|(d, n)| d.as_const().is_none_or(|d| d == *n as i64));
    if extents && wanted.dtype == tensor.dtype() {
        return Ok(());
    }
    let help = (wanted.dtype != tensor.dtype()).then(|| {
        let name = match wanted.dtype {
            DType::F32 => "float32",
            DType::F64 => "float64",
            DType::F16 => "float16",
            DType::BF16 => "float32",
            DType::I8 => "int8",
            DType::I16 => "int16",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::U8 => "uint8",
            DType::U16 => "uint16",
            DType::U32 => "uint32",
            DType::U64 => "uint64",
            DType::Bool => "bool",
        };
        format!("nothing is converted in silence; in NumPy: `x.astype(np.{name})`")
    });
    Err(FormatError::Mismatch { wanted: wanted.to_string(), got: tensor.ty().to_string(), help })
}

/// Dtype, shape, and the text of the numbers.
type Typed<'a> = (DType, Vec<usize>, &'a str);

/// Splits `f32[2,3]:1,2,…` into dtype, shape and data; `None` where the text is no typed literal.
fn typed(text: &str) -> Result<Option<Typed<'_>>, FormatError> {
    let Some((head, data)) = text.split_once(':') else { return Ok(None) };
    let (name, rest) = head.split_once('[').unwrap_or((head, "]"));
    let bad = |why: &str| FormatError::literal(text, why);
    let Some(dtype) = DType::parse(name.trim()) else {
        let close = did_you_mean(name.trim(), DType::ALL.iter().map(|d| d.name()));
        let hint = close.map_or(String::new(), |c| format!(" (did you mean `{c}`?)"));
        return Err(bad(&format!("`{}` is no type{hint}", shorten(name.trim()))));
    };
    let Some(list) = rest.trim_end().strip_suffix(']') else {
        return Err(bad("the shape does not end with `]`"));
    };
    let mut shape = vec![];
    if !list.trim().is_empty() {
        for extent in list.split(',') {
            let extent = extent.trim().parse();
            shape.push(extent.map_err(|_| bad("an extent is not a whole number"))?);
        }
    }
    match byte_len(dtype, &shape) {
        Some(_) => Ok(Some((dtype, shape, data))),
        None => Err(FormatError::shape(&shape)),
    }
}

/// The numbers of a literal, and the shape that its brackets give.
struct Items<'a> {
    tokens: Vec<&'a str>,
    /// `None` for a flat list without brackets.
    nested: Option<Vec<usize>>,
}

impl<'a> Items<'a> {
    /// Reads a flat list, or brackets that nest to one depth everywhere. Loops over the text once.
    fn scan(text: &'a str) -> Result<Items<'a>, FormatError> {
        let bad = |why: &str| FormatError::literal(text, why);
        let text_trimmed = text.trim();
        if text_trimmed.is_empty() {
            return Ok(Items { tokens: vec![], nested: None });
        }
        if !text_trimmed.starts_with('[') {
            let tokens: Vec<&str> = text_trimmed.split(',').map(str::trim).collect();
            if tokens.iter().any(|t| t.is_empty() || t.contains(['[', ']'])) {
                return Err(bad("a number is missing, or brackets do not match"));
            }
            return Ok(Items { tokens, nested: None });
        }
        let mut tokens = vec![];
        let mut counts: Vec<usize> = vec![];
        let mut extents: Vec<Option<usize>> = vec![];
        let mut leaf_depth = None;
        // Whether a value may stand here: after `[` and `,`, not after a value or `]`.
        let (mut open, mut after_comma, mut done) = (true, false, false);
        let mut rest = text_trimmed;
        while let Some(c) = rest.chars().next() {
            if done {
                return Err(bad("text after the last bracket"));
            }
            match c {
                '[' => {
                    if !open || leaf_depth == Some(counts.len()) || counts.len() == MAX_RANK {
                        return Err(bad("a bracket stands where a number is expected"));
                    }
                    if let Some(n) = counts.last_mut() {
                        *n += 1;
                    }
                    counts.push(0);
                    if extents.len() < counts.len() {
                        extents.push(None);
                    }
                    (open, after_comma) = (true, false);
                    rest = &rest[1..];
                }
                ']' => {
                    let n = counts.pop().ok_or_else(|| bad("brackets do not match"))?;
                    if after_comma {
                        return Err(bad("a number is missing after a comma"));
                    }
                    if *extents[counts.len()].get_or_insert(n) != n {
                        return Err(bad("rows have different lengths"));
                    }
                    if n == 0 && *leaf_depth.get_or_insert(counts.len() + 1) != counts.len() + 1 {
                        return Err(bad("brackets nest to different depths"));
                    }
                    (open, done) = (false, counts.is_empty());
                    rest = &rest[1..];
                }
                ',' => {
                    if open {
                        return Err(bad("a number is missing before a comma"));
                    }
                    (open, after_comma) = (true, true);
                    rest = &rest[1..];
                }
                c if c.is_whitespace() => rest = rest.trim_start(),
                _ => {
                    let end = rest.find([',', '[', ']']).unwrap_or(rest.len());
                    if !open || *leaf_depth.get_or_insert(counts.len()) != counts.len() {
                        return Err(bad("brackets nest to different depths"));
                    }
                    tokens.push(rest[..end].trim());
                    *counts.last_mut().ok_or_else(|| bad("brackets do not match"))? += 1;
                    (open, after_comma) = (false, false);
                    rest = &rest[end..];
                }
            }
        }
        if !done {
            return Err(bad("a bracket is not closed"));
        }
        let nested = extents.into_iter().map(|e| e.unwrap_or(0)).collect();
        Ok(Items { tokens, nested: Some(nested) })
    }

    /// The shape that stands before the colon, checked against the numbers after it.
    fn shape_of_typed(&self, shape: &[usize], text: &str) -> Result<Vec<usize>, FormatError> {
        let n: usize = shape.iter().product();
        let same = match &self.nested {
            Some(nested) => nested == shape || (n == 0 && self.tokens.is_empty()),
            None => self.tokens.len() == n,
        };
        if same {
            return Ok(shape.to_vec());
        }
        let got = match &self.nested {
            Some(nested) => format!("brackets of shape {nested:?}"),
            None => format!("{} numbers", self.tokens.len()),
        };
        Err(FormatError::literal(text, format!("its shape wants {n} numbers and there are {got}")))
    }

    /// The wanted shape with its open dimensions taken from the numbers.
    fn shape_as(&self, wanted: &TensorType, text: &str) -> Result<Vec<usize>, FormatError> {
        let mismatch = |got: String| FormatError::Mismatch {
            wanted: wanted.to_string(),
            got,
            help: Some("write the shape with brackets, `[[1, 2], [3, 4]]`".into()),
        };
        let dims = wanted.shape.dims();
        if let Some(nested) = &self.nested {
            let known = |(d, n): (&crate::base::Dim, &usize)| {
                d.as_const().is_none_or(|d| usize::try_from(d) == Ok(*n))
            };
            return match dims.len() == nested.len() && dims.iter().zip(nested).all(known) {
                true => Ok(nested.clone()),
                false => Err(mismatch(format!("of shape {nested:?}"))),
            };
        }
        let n = self.tokens.len();
        let known: Option<usize> = dims
            .iter()
            .filter(|d| d.as_const().is_some())
            .try_fold(1usize, |p, d| p.checked_mul(d.as_extent()?));
        let known = known.ok_or_else(|| FormatError::Shape { shape: wanted.shape.to_string() })?;
        let open = dims.iter().filter(|d| d.as_const().is_none()).count();
        let free = match open {
            0 if n == known => 0,
            1 if known > 0 && n.is_multiple_of(known) => n / known,
            0 | 1 => return Err(mismatch(format!("{n} numbers"))),
            _ => {
                let why = format!("{} has several open dimensions; write brackets", wanted);
                return Err(FormatError::literal(text, why));
            }
        };
        Ok(dims.iter().map(|d| d.as_extent().unwrap_or(free)).collect())
    }

    fn tensor(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, FormatError> {
        let mut bytes = Vec::with_capacity(self.tokens.len() * dtype.bytes());
        for token in &self.tokens {
            bytes.extend(parse_element(token, dtype)?);
        }
        byte_len(dtype, shape)
            .filter(|n| *n == bytes.len())
            .and_then(|_| Tensor::from_bytes(dtype, shape, AlignedBytes::copy_of(&bytes)))
            .ok_or_else(|| FormatError::shape(shape))
    }
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
