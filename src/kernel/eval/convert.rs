//! `Convert` on the bits of one element: the value, correctly rounded, in another type.

use crate::base::DType;

/// A number on its way from one type to another, exact.
enum Number {
    Float(f64),
    Int(i128),
}

/// Float to integer truncates and saturates, NaN gives 0; integers wrap; what becomes a float is
/// rounded once, to nearest even; to bool is `x != 0`.
pub fn convert(bits: u64, from: DType, to: DType) -> u64 {
    let value = match from {
        DType::F32 => Number::Float(f32::from_bits(bits as u32) as f64),
        DType::F64 => Number::Float(f64::from_bits(bits)),
        DType::F16 => Number::Float(half::f16::from_bits(bits as u16).to_f64()),
        DType::BF16 => Number::Float(half::bf16::from_bits(bits as u16).to_f64()),
        DType::I8 => Number::Int(bits as i8 as i128),
        DType::I16 => Number::Int(bits as i16 as i128),
        DType::I32 => Number::Int(bits as i32 as i128),
        DType::I64 => Number::Int(bits as i64 as i128),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => Number::Int(bits as i128),
    };
    match value {
        Number::Float(v) => from_float(v, to),
        Number::Int(v) => from_int(v, to),
    }
}

fn from_float(v: f64, to: DType) -> u64 {
    match to {
        DType::F32 => (v as f32).to_bits() as u64,
        DType::F64 => v.to_bits(),
        DType::F16 => half::f16::from_f32(round_to_odd(v)).to_bits() as u64,
        DType::BF16 => half::bf16::from_f32(round_to_odd(v)).to_bits() as u64,
        DType::I8 => v as i8 as u8 as u64,
        DType::I16 => v as i16 as u16 as u64,
        DType::I32 => v as i32 as u32 as u64,
        DType::I64 => v as i64 as u64,
        DType::U8 => v as u8 as u64,
        DType::U16 => v as u16 as u64,
        DType::U32 => v as u32 as u64,
        DType::U64 => v as u64,
        DType::Bool => (v != 0.0) as u64,
    }
}

fn from_int(v: i128, to: DType) -> u64 {
    match to {
        DType::F32 => (v as f32).to_bits() as u64,
        DType::F64 => (v as f64).to_bits(),
        // Through f64 rounds twice from 2^53 on; a sticky bit below keeps the first one harmless.
        DType::F16 | DType::BF16 => {
            let low = v & 0xff_ffff;
            let sticky = if low != 0 { 0x80_0000 } else { 0 };
            let v = if v.unsigned_abs() < 1 << 53 { v } else { (v - low) | sticky };
            from_float(v as f64, to)
        }
        DType::I8 | DType::U8 => v as u8 as u64,
        DType::I16 | DType::U16 => v as u16 as u64,
        DType::I32 | DType::U32 => v as u32 as u64,
        DType::I64 | DType::U64 => v as u64,
        DType::Bool => (v != 0) as u64,
    }
}

/// f64 to f32 such that a later rounding to half the precision or less is as if done at once:
/// inexact results get an odd last bit (Boldo and Melquiond, "Emulation of FMA and correctly
/// rounded sums", 2008).
fn round_to_odd(v: f64) -> f32 {
    let near = v as f32;
    let back = near as f64;
    if back == v || v.is_nan() || near.to_bits() & 1 == 1 {
        return near;
    }
    let away = back.abs() > v.abs();
    f32::from_bits(if away { near.to_bits() - 1 } else { near.to_bits() + 1 })
}
