//! How names and numbers are written in dlc's text forms, so that every printer writes them alike
//! and every parser reads them back.

use super::tensor::Tensor;
use super::{DType, TensorType};

/// `[A-Za-z_][A-Za-z0-9_]*`.
pub fn is_identifier(s: &str) -> bool {
    let mut bytes = s.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// An identifier followed by any number of `.[A-Za-z0-9_]+`: what needs no quotes in a path.
pub fn is_bare(s: &str) -> bool {
    let mut parts = s.split('.');
    let word = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    parts.next().is_some_and(is_identifier) && parts.all(word)
}

/// The text in double quotes, with `\"  \\  \n  \t  \r  \0  \u{hex}` for what needs an escape.
pub fn quoted(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A path or name as it is where it is bare, else quoted.
pub fn name(s: &str) -> String {
    if is_bare(s) { s.to_string() } else { quoted(s) }
}

/// The shortest decimal that reads back, always with a point or an exponent; NaN and infinities as
/// the 16 hexadecimal digits of their bits.
pub fn float(v: f64) -> String {
    if v.is_finite() { format!("{v:?}") } else { format!("{:#018x}", v.to_bits()) }
}

/// Element `i` of a tensor. Narrow floats print as the f32 that they are; what no decimal can
/// carry prints as bits, as wide as the dtype.
pub fn element(t: &Tensor, i: usize) -> String {
    let short = |v: f32, bits: String| if v.is_finite() { format!("{v:?}") } else { bits };
    match t.dtype() {
        DType::F32 => {
            let v = t.as_slice::<f32>()[i];
            short(v, format!("{:#010x}", v.to_bits()))
        }
        DType::F16 => {
            let v = t.as_slice::<half::f16>()[i];
            short(v.to_f32(), format!("{:#06x}", v.to_bits()))
        }
        DType::BF16 => {
            let v = t.as_slice::<half::bf16>()[i];
            short(v.to_f32(), format!("{:#06x}", v.to_bits()))
        }
        DType::F64 => float(t.as_slice::<f64>()[i]),
        DType::U64 => t.as_slice::<u64>()[i].to_string(),
        DType::Bool => (t.as_bools()[i] != 0).to_string(),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::U8 | DType::U16 | DType::U32 => {
            t.get_i64(i).expect("an integer dtype").to_string()
        }
    }
}

/// The name of a tensor by what it holds: the first half of SHA-256 over its type and its bytes.
pub fn content_hash(t: &Tensor) -> String {
    use sha2::{Digest, Sha256};
    let ty: TensorType = t.ty();
    let mut hash = Sha256::new();
    hash.update(ty.to_string().as_bytes());
    hash.update(t.bytes());
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(name("layer.0.weight"), "layer.0.weight");
        assert_eq!(name("0.weight"), "\"0.weight\"");
        assert_eq!(name("a..b"), "\"a..b\"");
        assert_eq!(name("x:0\n\u{1}\""), "\"x:0\\n\\u{1}\\\"\"");
        assert_eq!(name(""), "\"\"");
    }

    #[test]
    fn numbers() {
        assert_eq!(float(1.0), "1.0");
        assert_eq!(float(-0.0), "-0.0");
        assert_eq!(float(1e-5), "1e-5");
        assert_eq!(float(f64::INFINITY), "0x7ff0000000000000");
        let t = Tensor::from_slice(&[3], &[0.1f32, f32::NEG_INFINITY, f32::NAN]);
        assert_eq!(element(&t, 0), "0.1");
        assert_eq!(element(&t, 1), "0xff800000");
        assert_eq!(element(&t, 2), "0x7fc00000");
    }
}
