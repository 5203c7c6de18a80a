//! Ops without operands: inputs, parameters, states, constants.

use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};

const fn attr(name: &'static str, kind: AttrKind, default: Preset, doc: &'static str) -> AttrSpec {
    AttrSpec { name, kind, default, doc }
}

const NAME: AttrSpec = attr("name", AttrKind::Str, Preset::Required, "the name in the signature");
const DTYPE: AttrSpec = attr("dtype", AttrKind::DType, Preset::Required, "element type");
const SHAPE: AttrSpec = attr("shape", AttrKind::Dims, Preset::Required, "extents");
const INIT: AttrSpec =
    attr("init", AttrKind::Str, Preset::Str("zeros"), "recipe of the initial value");
const FROZEN: AttrSpec =
    attr("frozen", AttrKind::Bool, Preset::Bool(false), "training leaves it alone");

pub static ROWS: &[OpRow] = &[
    OpRow {
        name: "input",
        doc: "A value that the caller gives to each run.",
        operands: &[],
        attrs: &[NAME, DTYPE, SHAPE],
        results: &["value"],
        infer: infer_declared,
        eval: eval_unbound,
        class: |_| Class::Source(Source::Input),
        expand: None,
        gradient: Gradient::Zero("a source has no operands"),
        tolerance: Tolerance::EXACT,
        samples: Vec::new,
    },
    OpRow {
        name: "param",
        doc: "A value that belongs to the model and that a run does not change.",
        operands: &[],
        attrs: &[NAME, DTYPE, SHAPE, INIT, FROZEN],
        results: &["value"],
        infer: infer_declared,
        eval: eval_unbound,
        class: |_| Class::Source(Source::Param),
        expand: None,
        gradient: Gradient::Zero("a source has no operands"),
        tolerance: Tolerance::EXACT,
        samples: Vec::new,
    },
    OpRow {
        name: "state",
        doc: "A value that a session keeps from one run to the next.",
        operands: &[],
        attrs: &[NAME, DTYPE, SHAPE, INIT],
        results: &["value"],
        infer: infer_declared,
        eval: eval_unbound,
        class: |_| Class::Source(Source::State),
        expand: None,
        gradient: Gradient::Zero("a source has no operands"),
        tolerance: Tolerance::EXACT,
        samples: Vec::new,
    },
    OpRow {
        name: "constant",
        doc: "A value known at compile time.",
        operands: &[],
        attrs: &[attr("value", AttrKind::Tensor, Preset::Required, "the value")],
        results: &["value"],
        infer: |ctx| Ok(vec![value_of(ctx.op).ty()]),
        eval: |ctx| Ok(vec![value_of(ctx.op).clone()]),
        class: |_| Class::Source(Source::Constant),
        expand: None,
        gradient: Gradient::Zero("a source has no operands"),
        tolerance: Tolerance::EXACT,
        samples: || {
            let value = Attr::Tensor(Tensor::from_slice(&[3], &[1.5f32, -2.0, f32::NAN]));
            vec![Sample { operands: vec![], attrs: vec![("value", value)], regions: vec![] }]
        },
    },
];

fn infer_declared(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    Ok(vec![TensorType::new(ctx.op.dtype("dtype"), Shape(ctx.op.dims("shape")))])
}

fn eval_unbound(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    Err(OpError::new("E0305", format!("`{}` has no value", ctx.op.str("name"))))
}

fn value_of(op: &Op) -> &Tensor {
    match op.attr("value") {
        Attr::Tensor(t) => t,
        other => unreachable!("a constant holds a tensor by its schema: {other:?}"),
    }
}
