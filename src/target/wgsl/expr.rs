//! Types, literals and operations as WGSL.

use crate::base::DType;
use crate::kernel::ir::{LaneOp, Lit, Op, Ty};

/// The type of an element in a buffer.
pub fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F64 => "f64",
        DType::I8 | DType::I16 | DType::I32 => "i32",
        // Other floats of 16 bits are what the legal form makes of them: their bits.
        DType::F16 => "f16",
        DType::U8 | DType::U16 | DType::U32 | DType::Bool | DType::BF16 => "u32",
        DType::I64 => "i64",
        DType::U64 => "u64",
    }
}

/// The type of a register.
pub fn ty(ty: Ty) -> String {
    let scalar = match ty {
        Ty::Index => "i32",
        Ty::Mask(_) => "bool",
        Ty::Scalar(d) | Ty::Vector(d, _) => element(d),
    };
    vector(scalar, ty.lanes())
}

fn vector(scalar: &str, lanes: u16) -> String {
    match lanes {
        1 => scalar.into(),
        n => format!("vec{n}<{scalar}>"),
    }
}

/// The largest index.
const MOST_INDEX: i64 = i32::MAX as i64;

/// An element in every lane.
pub fn literal(of: Ty, lit: Lit) -> String {
    let scalar = match lit.dtype {
        // Bounds that are none lie far outside of what an index can be.
        _ if of == Ty::Index => format!("{}", int(lit).clamp(-MOST_INDEX, MOST_INDEX)),
        DType::F32 => float(f32::from_bits(lit.bits as u32)),
        DType::F64 => double(f64::from_bits(lit.bits)),
        DType::I8 | DType::I16 | DType::I32 => match int(lit) {
            // The language has no literal for the least integer.
            n if n == i32::MIN as i64 => "(-2147483647 - 1)".into(),
            n => format!("{n}"),
        },
        DType::F16 => format!("f16({})", float(lit.as_f64() as f32)),
        DType::U8 | DType::U16 | DType::U32 | DType::BF16 => {
            format!("{}u", lit.bits)
        }
        DType::I64 => match int(lit) {
            i64::MIN => "(-9223372036854775807li - 1li)".into(),
            n => format!("{n}li"),
        },
        DType::U64 => format!("{}lu", lit.bits),
        DType::Bool => format!("{}", lit.bits != 0),
    };
    match of.lanes() {
        1 => scalar,
        _ => format!("{}({scalar})", ty(of)),
    }
}

fn int(lit: Lit) -> i64 {
    lit.as_int().unwrap_or(0)
}

fn float(v: f32) -> String {
    match v.is_finite() && (v == 0.0 || v.is_normal()) {
        true if v == 0.0 && v.is_sign_negative() => "bitcast<f32>(bits | 0x80000000u)".into(),
        true => format!("{v:e}f"),
        false => format!("bitcast<f32>(bits | {:#x}u)", v.to_bits()),
    }
}

fn double(v: f64) -> String {
    match v.is_finite() {
        true => format!("{v:e}lf"),
        false if v.is_nan() => "(f64(bits) / f64(bits))".into(),
        false if v > 0.0 => "(1lf / f64(bits))".into(),
        false => "(-1lf / f64(bits))".into(),
    }
}

/// An operation on registers of type `of` (that of the first operand; of `Select` the second).
pub fn op(op: Op, of: Ty, a: &[String]) -> String {
    let scalar = of.lanes() == 1;
    let index = of == Ty::Index;
    let mask = matches!(of, Ty::Mask(_));
    let int = of.dtype().is_int();
    let infix = |sign: &str| format!("{} {sign} {}", a[0], a[1]);
    let call = |name: &str| format!("{name}({})", a.join(", "));
    match op {
        Op::Add => infix("+"),
        Op::Sub => infix("-"),
        Op::Mul => infix("*"),
        Op::Div if index => call("index_div"),
        Op::Rem if index => call("index_rem"),
        Op::Div if int => integer_division("div", of, a),
        Op::Rem => integer_division("rem", of, a),
        Op::Div => infix("/"),
        Op::Neg if of.dtype().is_unsigned_int() => {
            format!("{} - {}", literal(of, Lit::int(of.dtype(), 0)), a[0])
        }
        Op::Neg => format!("-{}", a[0]),
        Op::Abs => call("abs"),
        // Drivers have something else for -0.
        Op::Sqrt => {
            let zero = literal(of, Lit::new(of.dtype(), 0.0));
            format!("select(sqrt({0}), {0}, {0} == {zero})", a[0])
        }
        Op::Floor => call("floor"),
        Op::Ceil => call("ceil"),
        Op::Trunc => call("trunc"),
        Op::Round => call("round"),
        Op::Fma => call("fma"),
        Op::Min => format!("select({1}, {0}, {0} < {2})", a[0], a[1], kept(of, &a[1])),
        Op::Max => format!("select({1}, {0}, {0} > {2})", a[0], a[1], kept(of, &a[1])),
        // Compilers of shaders take what is equal to itself for a number.
        Op::Ne | Op::Eq if of.dtype().is_float() && !mask && a[0] == a[1] => {
            not_a_number(of, &a[0], op == Op::Ne)
        }
        Op::And if mask && scalar => infix("&&"),
        Op::Or if mask && scalar => infix("||"),
        Op::Xor if mask => infix("!="),
        Op::Not if mask => format!("!{}", a[0]),
        Op::And => infix("&"),
        Op::Or => infix("|"),
        Op::Xor => infix("^"),
        Op::Not => format!("~{}", a[0]),
        Op::Shl => shift("<<", of, a),
        Op::Shr => shift(">>", of, a),
        Op::Eq => infix("=="),
        // `!=` of floats is false where one is NaN.
        Op::Ne if of.dtype().is_float() && !mask => format!("!({})", infix("==")),
        Op::Ne => infix("!="),
        Op::Lt => infix("<"),
        Op::Le => infix("<="),
        Op::Gt => infix(">"),
        Op::Ge => infix(">="),
        Op::Select => format!("select({}, {}, {})", a[2], a[1], a[0]),
        Op::Exp
        | Op::Expm1
        | Op::Log
        | Op::Log1p
        | Op::Sin
        | Op::Cos
        | Op::Tanh
        | Op::Erf
        | Op::Pow
        | Op::Scale => unreachable!("the legal form has none"),
    }
}

/// A float that no compiler knows to be the same; anything else as it is. A choice between two floats
/// by their order would become the `min` of the driver, which drops NaN.
pub fn kept(of: Ty, a: &str) -> String {
    if !of.dtype().is_float() {
        return a.into();
    }
    let lanes = if of.lanes() > 1 { of.lanes().to_string() } else { String::new() };
    format!("keep{lanes}_{}({a})", element(of.dtype()))
}

/// Whether a float is NaN, or is not.
fn not_a_number(of: Ty, a: &str, is: bool) -> String {
    if of.dtype() == DType::F64 {
        return format!("{}({a} == {})", if is { "!" } else { "" }, kept(of, a));
    }
    let bits = vector("u32", of.lanes());
    let sign = if is { ">" } else { "<=" };
    format!("(bitcast<{bits}>({a}) & {bits}(0x7fffffffu)) {sign} {bits}(0x7f800000u)")
}

fn integer_division(name: &str, of: Ty, a: &[String]) -> String {
    match element(of.dtype()) {
        kind @ ("i32" | "u32") => format!("{name}_{kind}({}, {})", a[0], a[1]),
        // By zero gives 0; the least integer by -1 wraps.
        _ => {
            let (zero, one) =
                (literal(of, Lit::int(of.dtype(), 0)), literal(of, Lit::int(of.dtype(), 1)));
            let (sign, minus) = match (name, of.dtype().is_signed_int()) {
                ("div", true) => ("/", format!("-{}", a[0])),
                ("div", false) => ("/", format!("{} / {}", a[0], a[1])),
                (_, _) => ("%", zero.clone()),
            };
            let safe = match of.dtype().is_signed_int() {
                true => format!("{0} == {zero} || {0} == -{one}", a[1]),
                false => format!("{} == {zero}", a[1]),
            };
            let least = match of.dtype().is_signed_int() {
                true => format!("select({zero}, {minus}, {} == -{one})", a[1]),
                false => zero.clone(),
            };
            format!("select({0} {sign} select({1}, {one}, {safe}), {least}, {safe})", a[0], a[1])
        }
    }
}

/// The amount counts modulo the bits of the type.
fn shift(sign: &str, of: Ty, a: &[String]) -> String {
    let lanes = of.lanes();
    let amount = vector("u32", lanes);
    let bits = 8 * of.dtype().bytes().max(4) - 1;
    format!("{} {sign} ({amount}({}) & {amount}({bits}u))", a[0], a[1])
}

const PARTS: [&str; 4] = ["x", "y", "z", "w"];

/// One lane of an expression that names a register.
pub fn part(name: &str, of: Ty, lane: u16) -> String {
    match of.lanes() {
        1 => name.into(),
        _ => format!("{name}.{}", PARTS[lane as usize % 4]),
    }
}

/// An operation across lanes, from operands of the types `from` to `to`.
pub fn lane(op: &LaneOp, to: Ty, from: &[Ty], a: &[String]) -> String {
    let parts = |lanes: Vec<String>| match lanes.len() {
        1 => lanes.into_iter().next().unwrap_or_default(),
        _ => format!("{}({})", ty(to), lanes.join(", ")),
    };
    match op {
        LaneOp::Splat => format!("{}({})", ty(to), a[0]),
        LaneOp::Extract(i) => part(&a[0], from[0], *i),
        LaneOp::Insert(at) => {
            let lane = |i: u16| if i == *at { a[1].clone() } else { part(&a[0], to, i) };
            parts((0..to.lanes()).map(lane).collect())
        }
        LaneOp::Slice(first) => {
            parts((0..to.lanes()).map(|i| part(&a[0], from[0], first + i)).collect())
        }
        LaneOp::Concat => {
            let each = a.iter().zip(from);
            parts(each.flat_map(|(a, f)| (0..f.lanes()).map(move |i| part(a, *f, i))).collect())
        }
        LaneOp::Shuffle(lanes) => parts(lanes.iter().map(|i| part(&a[0], from[0], *i)).collect()),
        LaneOp::Bitcast => format!("bitcast<{}>({})", ty(to), a[0]),
        LaneOp::Convert => convert(to, from[0], &a[0]),
    }
}

fn convert(to: Ty, from: Ty, a: &str) -> String {
    let (d, s) = (to.dtype(), from.dtype());
    let name = ty(to);
    if matches!(from, Ty::Mask(_)) {
        let [zero, one] = [0.0, 1.0].map(|v| literal(to, Lit::new(d, v)));
        return format!("select({zero}, {one}, {a})");
    }
    if to == Ty::Index && from != Ty::Index {
        return index(s, a);
    }
    if d == DType::Bool {
        return format!("!({a} == {})", literal(from, Lit::int(s, 0)));
    }
    if s.is_float() && d.is_int() {
        return match (element(s), element(d), to.lanes()) {
            ("f32", kind @ ("i32" | "u32"), 1) => format!("{kind}_of({a})"),
            ("f32", kind @ ("i32" | "u32"), n) => {
                let of = |i: u16| format!("{kind}_of({})", part(a, from, i));
                format!("{name}({})", (0..n).map(of).collect::<Vec<_>>().join(", "))
            }
            _ => saturated(to, from, a),
        };
    }
    // Narrow integers are stored in 32 bits, and wrap.
    match d {
        DType::I8 | DType::I16 => {
            let by = 32 - 8 * d.bytes();
            let amount = vector("u32", to.lanes());
            format!("({name}({a}) << {amount}({by}u)) >> {amount}({by}u)")
        }
        DType::U8 | DType::U16 => {
            let most = (1u32 << (8 * d.bytes())) - 1;
            format!("{name}({a}) & {name}({most}u)")
        }
        // The source's sign decides what the new bits are, not that of the result.
        DType::U64 if s.is_signed_int() && s != DType::I64 => {
            format!("bitcast<{name}>({}({a}))", vector("i64", to.lanes()))
        }
        DType::I64 if s.is_unsigned_int() && s != DType::U64 && to != Ty::Index => {
            format!("bitcast<{name}>({}({a}))", vector("u64", to.lanes()))
        }
        _ => format!("{name}({a})"),
    }
}

/// The nearest index.
fn index(from: DType, a: &str) -> String {
    match element(from) {
        "i64" => format!("i32(clamp({a}, {}li, {MOST_INDEX}li))", -MOST_INDEX),
        "u64" => format!("i32(min({a}, {MOST_INDEX}lu))"),
        "u32" => format!("i32(min({a}, {MOST_INDEX}u))"),
        _ => format!("i32({a})"),
    }
}

/// Of 64 bits on either side.
fn saturated(to: Ty, from: Ty, a: &str) -> String {
    let (d, s) = (to.dtype(), from.dtype());
    let (lo, hi): (f64, f64) = match d {
        DType::I64 => (-(2f64.powi(63)), 2f64.powi(63)),
        DType::U64 => (0.0, 2f64.powi(64)),
        DType::U32 => (0.0, 2f64.powi(32)),
        _ => (-(2f64.powi(31)), 2f64.powi(31)),
    };
    let bits = 8 * d.bytes().max(4);
    let (least, most) = match d.is_signed_int() {
        true => (1u64 << (bits - 1), (1u64 << (bits - 1)) - 1),
        false => (0, u64::MAX >> (64 - bits)),
    };
    let end = |bits: u64| literal(to, Lit { dtype: d, bits });
    let [zero, lo, hi] = [0.0, lo, hi].map(|v| literal(from, Lit::new(s, v)));
    let name = ty(to);
    let inside = format!("{a} >= {lo} && {a} < {hi}");
    let value = format!("{name}(select({zero}, {a}, {inside}))");
    format!("select(select({value}, {}, {a} < {lo}), {}, {a} >= {hi})", end(least), end(most))
}
