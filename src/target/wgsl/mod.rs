//! Kernels → WGSL compute shaders.
//!
//! In: kernels in the legal form for vectors of 16 bytes. Out: a [`Shader`]: its text, what is bound to it,
//! and how many workgroups run it. One invocation runs one grid point after the other, a whole
//! number of invocations apart, so that any number of workgroups does all of them. Where a kernel has
//! workgroups of its own, one of these runs grid points.
//!
//! - An element in memory takes [`stored_bytes`]: what is narrower than 32 bits is stored as 32.
//! - An `Index` is an i32; buffers have fewer than 2³¹ elements.
//! - Every buffer is bound `read_write`, since one dispatch may not bind a buffer both ways and all of
//!   a program's values lie in a few buffers. What is written may be in one binding only, so
//!   parameters whose elements overlap share one.
//! - The scratch of an invocation is private where it is small, else its part of a buffer.

mod attention;
mod expr;
mod group;
mod product;
mod stmt;
mod template;
mod wide;

use std::fmt::Write;

use crate::base::DType;
use crate::base::machine::{Extent, Numerics, Tile, Tiles};
use crate::kernel::ir::{Kernel, Param, Scope};
use crate::kernel::legalize::{Form, legalize_to};
use crate::kernel::math::Means;
use crate::kernel::pattern::Pattern;
use group::Group;
pub use product::{Coop, all_coop_tiles};
use stmt::Role;
use template::Filled;
use wide::wide;

/// Invocations of a workgroup.
pub const WORKGROUP: u32 = 64;
/// Bytes of scratch that are private to an invocation.
const PRIVATE: u64 = 1 << 10;

/// What shaders may use, and what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// 64-bit integers.
    pub int64: bool,
    /// 64-bit floats.
    pub float64: bool,
    /// 16-bit floats, in memory too.
    pub half: bool,
    /// Cooperative matrices of f16.
    pub matrices: Option<Matrices>,
    /// Operations across a subgroup.
    pub subgroups: bool,
    /// Bytes that a workgroup shares.
    pub shared: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
    pub matmul: Matmul,
    /// The only tile of cooperative matrices to use.
    pub coop: Option<Coop>,
}

/// What every adapter offers that has WebGPU.
impl Default for Features {
    fn default() -> Features {
        Features {
            int64: false,
            float64: false,
            half: false,
            matrices: None,
            subgroups: false,
            shared: 16 << 10,
            invocations: 256,
            matmul: Matmul::Auto,
            coop: None,
        }
    }
}

/// Matrices of f16 that a subgroup multiplies together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Matrices {
    /// Rows, columns and steps: 8 or 16.
    pub size: u32,
    /// Whether sums are of f16, not of f32.
    pub half_sums: bool,
    /// Invocations of a subgroup.
    pub subgroup: u32,
}

/// How products of matrices are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Matmul {
    /// By cooperative matrices where both operands are of f16 and the adapter has them, else in tiles,
    /// else, where they are small, without either.
    #[default]
    Auto,
    /// In tiles through workgroup memory.
    Tiled,
    /// As `Auto`, small ones too; an adapter without cooperative matrices is an error.
    Coop,
}

/// Why a kernel has no shader.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    #[error("kernel `{kernel}` computes with {dtype}, which the adapter does not")]
    Type { kernel: String, dtype: DType },
    #[error("kernel `{kernel}`: {what} has {elements} elements, the limit is 2^31")]
    Size { kernel: String, what: String, elements: u64 },
}

/// What is bound to a shader, in the order of its bindings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Binding {
    /// The buffer of a parameter, the first of those that share the binding.
    Param(u16),
    /// A buffer with so many bytes for each invocation.
    Scratch { bytes: u64 },
    /// An i32 for each parameter: where it begins in what is bound, in elements; four to a vector.
    Bases,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Shader {
    pub name: String,
    pub source: String,
    pub bindings: Vec<Binding>,
    /// Invocations of a workgroup.
    pub workgroup: u32,
    /// Workgroups that share the work evenly; any number does all of it.
    pub groups: u64,
    /// The tile, where a product is computed by cooperative matrices.
    pub coop: Option<Coop>,
}

/// Bytes that an element takes in a buffer of the GPU; `half`: f16 is a type of its shaders.
pub fn stored_bytes(dtype: DType, half: bool) -> u64 {
    match dtype {
        DType::F16 if half => 2,
        _ => dtype.bytes().max(4) as u64,
    }
}

/// What is printed.
fn form(features: Features) -> Form {
    let (vector_bytes, half) = (16, features.half);
    // f64 is slow on most GPUs, if they have it.
    let means = Means { scales: false, double: false };
    Form { vector_bytes, narrowest: 16, masked: false, packed: false, means, short: true, half }
}

/// What is known of the buffers that a kernel is called with.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Arguments {
    /// Of each parameter the first one that is in the same binding, which has elements of the same type.
    pub shared: Vec<u16>,
    /// Whether it begins at a multiple of four elements of what is bound.
    pub aligned: Vec<bool>,
}

/// How parameters are declared.
struct Params<'a> {
    shared: &'a [u16],
    /// Those of vectors of four elements.
    wide: Vec<bool>,
}

impl Params<'_> {
    fn of<'a>(kernels: &[&Kernel], arguments: &'a Arguments) -> Params<'a> {
        let shared = &arguments.shared[..];
        let mut wide = wide(kernels, &arguments.aligned);
        let together: Vec<bool> = (0..wide.len())
            .map(|i| (0..wide.len()).all(|j| shared[i] != shared[j] || wide[j]))
            .collect();
        wide.copy_from_slice(&together);
        Params { shared, wide }
    }
}

/// The product that a kernel is, and the tiles that it may be computed in, the best by counting first.
pub fn product(kernel: &Kernel, features: Features) -> Option<(Extent, Vec<Tile>)> {
    match kernel.pattern.as_ref()? {
        Pattern::Product(p) => Some((product::extent(p), product::candidates(p, &features))),
        Pattern::Attention(_) => None,
    }
}

/// The shader of a kernel. `tiles` are those that were measured.
pub fn shader(
    kernel: &Kernel,
    arguments: &Arguments,
    features: Features,
    tiles: &Tiles,
) -> Result<Shader, Refused> {
    let filled = kernel.pattern.as_ref().and_then(|pattern| match pattern {
        Pattern::Product(p) => product::filled(p, &features, tiles),
        Pattern::Attention(a) => attention::filled(a, &features),
    });
    match filled {
        Some(filled) => by_template(kernel, arguments, &filled, features),
        None => by_points(kernel, arguments, features),
    }
}

/// One that computes in tiles.
fn by_template(
    kernel: &Kernel,
    arguments: &Arguments,
    filled: &Filled,
    features: Features,
) -> Result<Shader, Refused> {
    let mut functions = String::new();
    let legal = |(name, part, role): &(&'static str, &Kernel, Role)| {
        (*name, legalize_to(part, form(features)), *role)
    };
    let parts: Vec<(&str, Kernel, Role)> = filled.parts.iter().map(legal).collect();
    let kernels: Vec<&Kernel> = parts.iter().map(|(_, part, _)| part).collect();
    let bound = Params::of(&kernels, arguments);
    for (name, part, role) in &parts {
        check(part, features)?;
        stmt::part(part, &bound, name, *role, &mut functions);
    }
    // Matrices follow the parameters.
    let params = parts.first().map_or(&[][..], |(_, part, _)| &part.params[..kernel.params.len()]);
    let mut source = String::new();
    let mut bindings = declare_params(params, &bound, &mut source);
    let at = bindings.len();
    bindings.push(declare_bases(at, kernel.params.len(), &mut source));
    declare_helpers(&functions, features, &mut source);
    source.push_str(&functions);
    source.push_str(&filled.text);
    let source = format!("{}{}{source}", enables(&source, features), filled.enables);
    let (name, coop) = (kernel.name.clone(), filled.coop);
    let (workgroup, groups) = (filled.invocations, filled.tiles);
    Ok(Shader { name, source, bindings, workgroup, groups, coop })
}

/// What a text needs to be enabled.
fn enables(text: &str, features: Features) -> &'static str {
    if features.half && text.contains("f16") { "enable f16;\n" } else { "" }
}

fn declare_params(params: &[Param], bound: &Params, out: &mut String) -> Vec<Binding> {
    let mut bindings = vec![];
    for (i, param) in params.iter().enumerate().filter(|(i, _)| bound.shared[*i] as usize == *i) {
        let (element, Param { len, elem, .. }) = (expr::element(param.elem), param);
        let element = if bound.wide[i] { format!("vec4<{element}>") } else { element.into() };
        let at = bindings.len();
        let _ = writeln!(
            out,
            "@group(0) @binding({at}) var<storage, read_write> p{i}: array<{element}>; // {len} of {elem}",
        );
        bindings.push(Binding::Param(i as u16));
    }
    bindings
}

/// The uniform buffer, at a binding, for so many parameters.
fn declare_bases(at: usize, params: usize, out: &mut String) -> Binding {
    // The last vector is zero, which no compiler knows.
    let vectors = base_vectors(params);
    let _ = writeln!(
        out,
        "@group(0) @binding({at}) var<uniform> bases: array<vec4<i32>, {vectors}>;\n\
         // Infinities and NaN are no constants of the language.\n\
         var<private> bits: u32 = 0u;\n\
         fn zero() -> i32 {{ return bases[{}].x; }}",
        vectors - 1
    );
    Binding::Bases
}

/// One whose invocations run grid points.
fn by_points(
    kernel: &Kernel,
    arguments: &Arguments,
    features: Features,
) -> Result<Shader, Refused> {
    let kernel = &legalize_to(kernel, form(features));
    check(kernel, features)?;
    let mut source = String::new();
    let out = &mut source;
    let bound = Params::of(&[kernel], arguments);
    let mut bindings = declare_params(&kernel.params, &bound, out);
    for (i, scratch) in kernel.scratch.iter().enumerate() {
        let (element, len) = (expr::element(scratch.elem), scratch.len.max(1));
        let bytes = len * stored_bytes(scratch.elem, features.half);
        if scratch.scope == Scope::Shared {
            let _ = writeln!(out, "var<workgroup> s{i}: array<{element}, {len}>;");
            continue;
        }
        if is_private(bytes) {
            let _ = writeln!(out, "var<private> s{i}: array<{element}, {len}>;");
            continue;
        }
        let at = bindings.len();
        bindings.push(Binding::Scratch { bytes });
        let _ = writeln!(
            out,
            "@group(0) @binding({at}) var<storage, read_write> s{i}: array<{element}>;"
        );
    }
    let at = bindings.len();
    bindings.push(declare_bases(at, kernel.params.len(), out));
    let mut function = String::new();
    let group = Group::of(kernel, features);
    if let Some(group) = group {
        group.declare(kernel, &mut function);
    }
    stmt::function(kernel, &bound, group, &mut function);
    declare_helpers(&function, features, out);
    out.push_str(&function);
    let (workgroup, groups) = match group {
        Some(group) => (group.invocations, kernel.grid_points()),
        None => (WORKGROUP, kernel.grid_points().div_ceil(WORKGROUP as u64)),
    };
    let source = format!("{}{source}", enables(&source, features));
    let (name, coop) = (kernel.name.clone(), None);
    Ok(Shader { name, source, bindings, workgroup, groups, coop })
}

/// The helpers that a text calls.
fn declare_helpers(text_of: &str, features: Features, out: &mut String) {
    let float64 = if features.int64 { HELPERS_F64 } else { HELPERS_F64_ALONE };
    for (name, text) in float64.iter().chain(HELPERS) {
        if text_of.contains(&format!("{name}(")) {
            out.push_str(text);
        }
    }
}

/// Vectors of the uniform buffer for so many parameters.
pub fn base_vectors(params: usize) -> usize {
    params.div_ceil(4) + 1
}

fn is_private(bytes: u64) -> bool {
    bytes <= PRIVATE
}

fn check(kernel: &Kernel, features: Features) -> Result<(), Refused> {
    debug_assert!(matches!(kernel.numerics, Numerics::Fused | Numerics::Separate));
    let buffers = kernel.params.iter().map(|p| (&p.name[..], p.elem, p.len));
    let scratch = kernel.scratch.iter().map(|s| ("scratch", s.elem, s.len));
    for (what, elem, len) in buffers.chain(scratch) {
        if len >= 1 << 31 {
            let (kernel, what) = (kernel.name.clone(), what.to_string());
            return Err(Refused::Size { kernel, what, elements: len });
        }
        supported(kernel, elem, features)?;
    }
    let scalars = kernel.types.iter().filter(|ty| **ty != crate::kernel::ir::Ty::Index);
    scalars.map(|ty| ty.dtype()).try_for_each(|dtype| supported(kernel, dtype, features))
}

fn supported(kernel: &Kernel, dtype: DType, features: Features) -> Result<(), Refused> {
    let offered = match dtype {
        DType::I64 | DType::U64 => features.int64,
        DType::F64 => features.float64,
        DType::F32
        | DType::F16
        | DType::BF16
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::Bool => true,
    };
    match offered {
        true => Ok(()),
        false => Err(Refused::Type { kernel: kernel.name.clone(), dtype }),
    }
}

/// A function that shaders call: its name and its text.
type Helper = (&'static str, &'static str);

/// Compilers of shaders take `(a + b) - b` for `a`; what passes here is a value of its own to them.
const HELPERS_F64: &[Helper] = &[
    (
        "keep_f64",
        "fn keep_f64(x: f64) -> f64 { return bitcast<f64>(bitcast<i64>(x) ^ i64(zero())); }\n",
    ),
    (
        "keep2_f64",
        "fn keep2_f64(x: vec2<f64>) -> vec2<f64> {
  return bitcast<vec2<f64>>(bitcast<vec2<i64>>(x) ^ vec2<i64>(i64(zero())));
}
",
    ),
];

/// The same where there are no integers as wide.
const HELPERS_F64_ALONE: &[Helper] = &[
    ("keep_f64", "fn keep_f64(x: f64) -> f64 { return x + f64(zero()); }\n"),
    (
        "keep2_f64",
        "fn keep2_f64(x: vec2<f64>) -> vec2<f64> { return x + vec2<f64>(f64(zero())); }\n",
    ),
];

/// Integer division is as the kernel IR has it: indices round down, by zero gives 0.
const HELPERS: &[Helper] = &[
    ("keep_f32", "fn keep_f32(x: f32) -> f32 { return bitcast<f32>(bitcast<i32>(x) ^ zero()); }\n"),
    ("keep_f16", "fn keep_f16(x: f16) -> f16 { return x - f16(zero()); }\n"),
    (
        "keep4_f16",
        "fn keep4_f16(x: vec4<f16>) -> vec4<f16> { return x - vec4<f16>(f16(zero())); }\n",
    ),
    (
        "keep4_f32",
        "fn keep4_f32(x: vec4<f32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(bitcast<vec4<i32>>(x) ^ vec4<i32>(zero()));
}
",
    ),
    (
        "index_div",
        "fn index_div(a: i32, b: i32) -> i32 {
  let q = a / b;
  return select(q, q - 1, a - q * b < 0);
}
",
    ),
    (
        "index_rem",
        "fn index_rem(a: i32, b: i32) -> i32 {
  let r = a % b;
  return select(r, r + b, r < 0);
}
",
    ),
    (
        "div_i32",
        "fn div_i32(a: i32, b: i32) -> i32 {
  if (b == 0) { return 0; }
  if (b == -1) { return -a; }
  return a / b;
}
",
    ),
    (
        "rem_i32",
        "fn rem_i32(a: i32, b: i32) -> i32 {
  if (b == 0 || b == -1) { return 0; }
  return a % b;
}
",
    ),
    (
        "div_u32",
        "fn div_u32(a: u32, b: u32) -> u32 {
  if (b == 0u) { return 0u; }
  return a / b;
}
",
    ),
    (
        "rem_u32",
        "fn rem_u32(a: u32, b: u32) -> u32 {
  if (b == 0u) { return 0u; }
  return a % b;
}
",
    ),
    (
        "i32_of",
        "fn i32_of(x: f32) -> i32 {
  if ((bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u) { return 0; }
  if (x >= 2147483648.0) { return 2147483647; }
  if (x < -2147483648.0) { return -2147483647 - 1; }
  return i32(x);
}
",
    ),
    (
        "u32_of",
        "fn u32_of(x: f32) -> u32 {
  if (!(x > 0.0)) { return 0u; }
  if (x >= 4294967296.0) { return 4294967295u; }
  return u32(x);
}
",
    ),
];
