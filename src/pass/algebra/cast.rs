//! Equations of conversions.

use super::{Found, Site};
use crate::base::DType;
use crate::ir::Attr;
use crate::ir::scalar::ScalarFn;

pub fn simplify(s: &mut Site, to: DType) -> Found {
    let x = s.operand(0);
    let through = s.ty(x).dtype;
    if through == to {
        return s.becomes(x, "cast(x, dtype of x) = x");
    }
    let Some((ScalarFn::Cast(_), inner)) = s.function(x) else { return Ok(None) };
    let from = s.ty(inner[0]).dtype;
    if !is_lossless(from, through) || !agrees(from, through, to) {
        return Ok(None);
    }
    if from == to {
        return s.becomes(inner[0], "cast(cast(x, wider), dtype of x) = x");
    }
    if !s.cx.allow("cast(cast(x, wider), t) = cast(x, t)") {
        return Ok(None);
    }
    let v = s.builder().op("cast", &[inner[0]], &[("dtype", Attr::DType(to))])?;
    Ok(Some(vec![v]))
}

/// Whether every value of `from` is a value of `to`.
pub fn is_lossless(from: DType, to: DType) -> bool {
    if from == to || from == DType::Bool {
        return true;
    }
    if to == DType::Bool {
        return false;
    }
    let float_bits = |d: DType| match d {
        // Significant bits and the width of the exponent.
        DType::F64 => Some((53, 11)),
        DType::F32 => Some((24, 8)),
        DType::F16 => Some((11, 5)),
        DType::BF16 => Some((8, 8)),
        DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64
        | DType::Bool => None,
    };
    let int_bits = |d: DType| d.bytes() as u32 * 8 - u32::from(d.is_signed_int());
    match (float_bits(from), float_bits(to)) {
        (Some((m, e)), Some((n, f))) => m <= n && e <= f,
        (Some(_), None) => false,
        // The least signed number is a power of two; 16-bit magnitudes overflow an f16.
        (None, Some((n, f))) => int_bits(from) <= n && (f > 5 || int_bits(from) <= 11),
        (None, None) => {
            int_bits(from) <= int_bits(to) && (to.is_signed_int() || from.is_unsigned_int())
        }
    }
}

/// Whether `from → to` does what `through → to` does on values of `from`: integers wrap, floats
/// saturate, so a detour over the other kind must not meet either.
fn agrees(from: DType, through: DType, to: DType) -> bool {
    let same_kind = from.is_float() == through.is_float();
    same_kind || to.is_float() || to == DType::Bool || is_lossless(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lossless_conversions() {
        use DType::*;
        let yes = [(F16, F32), (BF16, F32), (I8, BF16), (U8, F16), (I16, F32), (I32, F64)];
        assert!(yes.iter().all(|(a, b)| is_lossless(*a, *b)));
        let no =
            [(F32, F16), (F16, BF16), (BF16, F16), (I32, F32), (I64, F64), (U8, I8), (I8, U16)];
        assert!(!no.iter().any(|(a, b)| is_lossless(*a, *b)));
        assert!(!agrees(I8, F32, U8), "-1 saturates to 0 or wraps to 255");
    }
}
