//! Ops that own regions: scan, cond, do.
//!
//! A region is a closed graph; what it reads from outside are trailing operands of the node and
//! trailing inputs of the region, in the same order. Inference checks that the types of both meet.

use super::check::{data, f32s};
use super::common::{attr, list, operand, variadic};
use super::*;
use crate::base::Shape;
use crate::base::tensor::AlignedBytes;
use crate::ir::attr::{AttrKind, Preset};

pub static ROWS: &[OpRow] = &[
    OpRow {
        name: "scan",
        doc: "A loop over sequences. The region takes the carries, one slice of each sequence (along \
              axis 0) and the captures; it gives the next carries and outputs. The results are the \
              last carries, and the outputs stacked along axis 0.",
        operands: &[variadic("values", "the initial carries, the sequences, the captures")],
        attrs: &[
            attr("carries", AttrKind::Int, Preset::Required, "how many carries"),
            attr("sequences", AttrKind::Int, Preset::Int(1), "how many sequences; one at least"),
            attr(
                "reverse",
                AttrKind::Bool,
                Preset::Bool(false),
                "from the last slice to the first",
            ),
        ],
        results: &["carries", "outputs"],
        infer: infer_scan,
        eval: eval_scan,
        class: |ctx| {
            let count = |name: &str| usize::try_from(ctx.op.int(name)).unwrap_or(0);
            Class::Region(RegionKind::Scan {
                carries: count("carries"),
                sequences: count("sequences"),
                reverse: ctx.op.bool("reverse"),
            })
        },
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::SUM,
        samples: scan_samples,
    },
    OpRow {
        name: "cond",
        doc: "The first region's results where the condition holds, else the second's. Both take the \
              captures; only one of them runs.",
        operands: &[operand("condition", "bool[]"), variadic("captures", "what the regions read")],
        attrs: &[],
        results: &["results"],
        infer: infer_cond,
        eval: |ctx| {
            let taken = ctx.operands[0].as_bools()[0] == 1;
            ctx.region(usize::from(!taken), ctx.operands[1..].to_vec())
        },
        class: |_| Class::Region(RegionKind::Cond),
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::SUM,
        samples: cond_samples,
    },
    OpRow {
        name: "do",
        doc: "A region that runs once: a fusion group. It takes the captures.",
        operands: &[variadic("captures", "what the region reads")],
        attrs: &[],
        results: &["results"],
        infer: |ctx| {
            let [region] = ctx.regions else { return Err(count_error(ctx, 1)) };
            expect_inputs(ctx, region, ctx.types)?;
            Ok(outputs(region))
        },
        eval: |ctx| ctx.region(0, ctx.operands.to_vec()),
        class: |_| Class::Region(RegionKind::Do),
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::SUM,
        samples: do_samples,
    },
];

fn count_error(ctx: &OpCtx, wanted: usize) -> OpError {
    let message = format!("{} has {} regions, not {wanted}", ctx.op.row.name, ctx.regions.len());
    OpError::new("E0307", message)
}

fn outputs(region: &Graph) -> Vec<TensorType> {
    region.outputs.iter().map(|o| region.ty(o.value).clone()).collect()
}

fn expect_inputs(ctx: &OpCtx, region: &Graph, wanted: &[TensorType]) -> Result<(), OpError> {
    let has: Vec<TensorType> =
        region.inputs.iter().map(|i| region.node(*i).results[0].clone()).collect();
    if has == wanted {
        return Ok(());
    }
    let message = format!("{}: the region does not take what it is given", ctx.op.row.name);
    Err(OpError::new("E0307", message)
        .note(format!("it takes ({})", list(&has)))
        .note(format!("it is given ({})", list(wanted))))
}

fn infer_scan(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let [region] = ctx.regions else { return Err(count_error(ctx, 1)) };
    let count = |name: &str, least: i64| {
        let n = ctx.op.int(name);
        let known = usize::try_from(n).ok().filter(|_| n >= least);
        known.ok_or_else(|| ctx.bad_attr(format!("`{name}` is {n}, less than {least}")))
    };
    let (carries, sequences) = (count("carries", 0)?, count("sequences", 1)?);
    let own = carries.checked_add(sequences).filter(|n| *n <= ctx.types.len());
    let Some(own) = own else {
        return Err(ctx.clash(format!("fewer than {carries} carries and {sequences} sequences")));
    };
    let mut steps: Option<&Dim> = None;
    let mut slices = vec![];
    for ty in &ctx.types[carries..own] {
        let Some((first, rest)) = ty.shape.0.split_first() else {
            return Err(ctx.clash("a sequence needs an axis to be sliced along"));
        };
        if steps.is_some_and(|s| s != first) {
            return Err(ctx.clash("the sequences have different lengths"));
        }
        steps = Some(first);
        slices.push(TensorType::new(ty.dtype, Shape(rest.to_vec())));
    }
    let taken = [&ctx.types[..carries], &slices, &ctx.types[own..]].concat();
    expect_inputs(ctx, region, &taken)?;
    let given = outputs(region);
    if given.get(..carries) != Some(&ctx.types[..carries]) {
        return Err(OpError::new(
            "E0307",
            "scan: the region must give the carries it takes, first",
        )
        .note(format!("it takes the carries ({})", list(&ctx.types[..carries])))
        .note(format!("it gives ({})", list(&given))));
    }
    let steps = steps.cloned().unwrap_or(Dim::ONE);
    let stacked = given[carries..].iter().map(|t| {
        let dims = [std::slice::from_ref(&steps), &t.shape.0].concat();
        TensorType::new(t.dtype, Shape(dims))
    });
    Ok(given[..carries].iter().cloned().chain(stacked).collect())
}

fn eval_scan(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let Class::Region(RegionKind::Scan { carries, sequences, reverse }) = ctx.class() else {
        unreachable!("this row is a scan")
    };
    let steps = ctx.operands[carries].shape()[0];
    let (sliced, captures) = ctx.operands[carries..].split_at(sequences);
    let mut carried = ctx.operands[..carries].to_vec();
    let mut rows: Vec<Vec<Tensor>> = vec![Vec::with_capacity(steps); ctx.results.len() - carries];
    for i in 0..steps {
        let at = if reverse { steps - 1 - i } else { i };
        let slices = sliced.iter().map(|t| slice(t, at));
        let inputs = carried.into_iter().chain(slices).chain(captures.iter().cloned()).collect();
        let mut results = ctx.region(0, inputs)?;
        for (rows, row) in rows.iter_mut().zip(results.split_off(carries)) {
            rows.push(row);
        }
        carried = results;
    }
    let stacks = rows.into_iter().enumerate().map(|(i, mut rows)| {
        if reverse {
            rows.reverse();
        }
        stack(&rows, ctx.results[carries + i].dtype, &ctx.result_shape(carries + i))
    });
    Ok(carried.into_iter().chain(stacks).collect())
}

/// Slice `i` along axis 0.
fn slice(t: &Tensor, i: usize) -> Tensor {
    let shape = &t.shape()[1..];
    let len = t.bytes().len() / t.shape()[0];
    let bytes = AlignedBytes::copy_of(&t.bytes()[i * len..][..len]);
    Tensor::from_bytes(t.dtype(), shape, bytes).expect("a slice has the size of its shape")
}

/// Tensors of one type one after the other; `dtype` is that of no rows at all.
fn stack(rows: &[Tensor], dtype: DType, shape: &[usize]) -> Tensor {
    let bytes: Vec<u8> = rows.iter().flat_map(|t| t.bytes()).copied().collect();
    let dtype = rows.first().map_or(dtype, Tensor::dtype);
    Tensor::from_bytes(dtype, shape, AlignedBytes::copy_of(&bytes)).expect("rows of one type")
}

fn infer_cond(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let [then, other] = ctx.regions else { return Err(count_error(ctx, 2)) };
    let condition = ctx.need("condition")?;
    if *condition != TensorType::scalar(DType::Bool) {
        let error = ctx.clash("the condition must be bool[]");
        return Err(error.help("reduce it with `all` or `any`"));
    }
    for region in [then, other] {
        expect_inputs(ctx, region, &ctx.types[1..])?;
    }
    let (a, b) = (outputs(then), outputs(other));
    if a != b {
        return Err(OpError::new("E0307", "cond: the regions give different types")
            .note(format!("the first gives ({})", list(&a)))
            .note(format!("the second gives ({})", list(&b))));
    }
    Ok(a)
}

/// A region from the types of its inputs, and what it makes of them.
fn body(types: &[TensorType], build: impl Fn(&mut Builder, &[Value]) -> Vec<Value>) -> Graph {
    let mut graph = Graph::new("body");
    let mut b = Builder::new(&mut graph);
    let inputs: Vec<Value> =
        types.iter().enumerate().map(|(i, t)| b.input(&format!("x{i}"), t.clone())).collect();
    for (i, v) in build(&mut b, &inputs).into_iter().enumerate() {
        b.output(&format!("y{i}"), v);
    }
    graph
}

fn bin(b: &mut Builder, name: &str, x: Value, y: Value) -> Value {
    b.bin(name, x, y).expect("operands of one type")
}

fn case(operands: Vec<Tensor>, attrs: Vec<(&'static str, Attr)>, regions: Vec<Graph>) -> Sample {
    Sample { operands: operands.into_iter().map(Some).collect(), attrs, regions }
}

fn scan_samples() -> Vec<Sample> {
    let count = |name: &'static str, n: i64| (name, Attr::Int(n));
    let reverse = ("reverse", Attr::Bool(true));
    let sums = |dtype: DType| {
        let row = TensorType::of(dtype, &[3]);
        // The next carry is h + x · w; the output is what the carry was.
        body(&[row.clone(), row.clone(), row], |b, v| {
            let product = bin(b, "mul", v[1], v[2]);
            vec![bin(b, "add", v[0], product), v[0]]
        })
    };
    let run = |dtype: DType, steps: usize, attrs: Vec<(&'static str, Attr)>| {
        let operands =
            vec![data(dtype, &[3], 1), data(dtype, &[steps, 3], 2), data(dtype, &[3], 3)];
        case(operands, attrs, vec![sums(dtype)])
    };
    let (scalar, pair) = (TensorType::scalar(DType::F32), TensorType::of(DType::I32, &[2]));
    let zipped = body(&[scalar.clone(), scalar, pair.clone()], |b, v| {
        let doubled = bin(b, "add", v[2], v[2]);
        vec![bin(b, "sub", v[1], v[0]), doubled, v[1]]
    });
    let map = body(&[TensorType::of(DType::F32, &[2, 2])], |b, v| vec![bin(b, "mul", v[0], v[0])]);
    vec![
        run(DType::F32, 5, vec![count("carries", 1)]),
        run(DType::F32, 5, vec![count("carries", 1), reverse]),
        run(DType::F32, 0, vec![count("carries", 1)]),
        run(DType::I32, 4, vec![count("carries", 1)]),
        run(DType::F64, 4, vec![count("carries", 1)]),
        case(
            vec![f32s(&[], 1), f32s(&[4], 2), data(DType::I32, &[4, 2], 3)],
            vec![count("carries", 1), count("sequences", 2)],
            vec![zipped],
        ),
        case(vec![f32s(&[3, 2, 2], 1)], vec![count("carries", 0)], vec![map]),
    ]
}

fn cond_samples() -> Vec<Sample> {
    let row = TensorType::of(DType::F32, &[4]);
    let branch = |name: &'static str| {
        body(&[row.clone(), row.clone()], move |b, v| vec![bin(b, name, v[0], v[1]), v[1]])
    };
    let run = |taken: bool| {
        let condition = Tensor::from_bools(&[], &[taken]);
        let operands = vec![condition, f32s(&[4], 1), f32s(&[4], 2)];
        case(operands, vec![], vec![branch("add"), branch("mul")])
    };
    vec![run(true), run(false)]
}

fn do_samples() -> Vec<Sample> {
    let row = TensorType::of(DType::F32, &[4]);
    let group = body(&[row.clone(), row], |b, v| {
        let sum = bin(b, "add", v[0], v[1]);
        vec![bin(b, "mul", sum, sum), sum]
    });
    vec![case(vec![f32s(&[4], 1), f32s(&[4], 2)], vec![], vec![group])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::eval::{Env, Precision, evaluate};
    use crate::ir::op::walk::graph_of;

    #[test]
    fn a_scan_counts_backwards() {
        let one = TensorType::scalar(DType::I32);
        let step = body(&[one.clone(), one], |b, v| vec![bin(b, "add", v[0], v[1]), v[0]]);
        let operands =
            vec![Tensor::from_slice(&[], &[100i32]), Tensor::from_slice(&[3], &[1i32, 2, 3])];
        let attrs = vec![("carries", Attr::Int(1)), ("reverse", Attr::Bool(true))];
        let (graph, _, env) =
            graph_of(find("scan").unwrap(), case(operands, attrs, vec![step])).unwrap();
        let out = evaluate(&graph, &Env { ..env }, Precision::Own).unwrap().outputs;
        assert_eq!(out[0].as_slice::<i32>(), [106]);
        assert_eq!(out[1].as_slice::<i32>(), [105, 103, 100]);
    }

    #[test]
    fn a_region_that_does_not_fit_is_refused() {
        let row = TensorType::of(DType::F32, &[3]);
        let wrong = body(&[row.clone(), row], |b, v| vec![b.scalar(DType::F32, 1.0), v[1]]);
        let sample = case(
            vec![f32s(&[3], 1), f32s(&[2, 3], 2)],
            vec![("carries", Attr::Int(1))],
            vec![wrong],
        );
        let error = graph_of(find("scan").unwrap(), sample).err().unwrap();
        assert_eq!((error.code, error.notes.len()), ("E0307", 2));
        let none =
            case(vec![f32s(&[3], 1), f32s(&[2, 3], 2)], vec![("carries", Attr::Int(1))], vec![]);
        assert_eq!(graph_of(find("scan").unwrap(), none).err().unwrap().code, "E0307");
    }
}
