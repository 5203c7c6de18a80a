//! The reference evaluator against NumPy, SciPy and JAX: the figures of `tests/data/ops.json`,
//! whose format `tests/data/make_ops.py` describes.
//!
//! Each case becomes a graph of one op. It is evaluated twice: with floats widened to f64, and in
//! f32.

use std::path::PathBuf;

use dlc::base::{DType, Tensor};
use dlc::import::{Weights, read_file, safetensors};
use dlc::ir::eval::{Env, Precision, evaluate};
use dlc::ir::op::{self, Arity, Op};
use dlc::ir::{Attr, AttrKind, Builder, Graph, Value};
use serde_json::Value as Json;

#[test]
fn rows_agree_with_other_implementations() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let text = std::fs::read_to_string(folder.join("ops.json")).expect("ops.json is there");
    let file: Json = serde_json::from_str(&text).expect("ops.json is JSON");
    let bytes = read_file(&folder.join("ops.safetensors")).expect("ops.safetensors is there");
    let tensors = safetensors::read(bytes).expect("ops.safetensors is whole");

    let cases = file["cases"].as_array().expect("a list of cases");
    let failures: Vec<String> = cases.iter().flat_map(|case| check(case, &tensors)).collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// What is wrong with one case.
fn check(case: &Json, tensors: &Weights) -> Vec<String> {
    let name = text(&case["name"]);
    let (graph, inputs) = match graph(case, tensors) {
        Ok(built) => built,
        Err(message) => return vec![format!("{name}: {message}")],
    };
    [(Precision::F64, "tolerance"), (Precision::Own, "tolerance_f32")]
        .into_iter()
        .filter(|(_, tolerance)| !case[tolerance].is_null())
        .flat_map(|(precision, tolerance)| {
            let env = Env { inputs: inputs.clone(), ..Env::default() };
            let bounds = [number(&case[tolerance][0]), number(&case[tolerance][1])];
            match evaluate(&graph, &env, precision) {
                Ok(results) => differences(case, tensors, &results.outputs, bounds),
                Err(error) => vec![error.to_string()],
            }
            .into_iter()
            .map(move |message| format!("{name} ({precision:?}): {message}"))
        })
        .collect()
}

/// A graph of the case's op alone, and what its inputs are.
fn graph(case: &Json, tensors: &Weights) -> Result<(Graph, Vec<Tensor>), String> {
    let row = op::find(text(&case["op"])).ok_or(format!("{} has no row", case["op"]))?;
    let mut graph = Graph::new("case");
    let mut builder = Builder::new(&mut graph);
    let (mut present, mut operands, mut inputs) = (0u32, vec![], vec![]);
    for (i, operand) in list(&case["operands"]).iter().enumerate() {
        let variadic = row.operands.last().is_some_and(|o| o.arity == Arity::Variadic);
        let slot = if variadic { i.min(row.operands.len() - 1) } else { i };
        if slot >= row.operands.len() {
            return Err(format!("the row has {} operands", row.operands.len()));
        }
        if let Some(tensor) = operand.as_str() {
            let tensor = tensors.get(tensor).ok_or("a tensor is missing")?.clone();
            present |= 1 << slot;
            operands.push(builder.input(&format!("x{i}"), tensor.ty()));
            inputs.push(tensor);
        }
    }
    let mut attrs = vec![];
    for (name, value) in case["attrs"].as_object().expect("attributes by name") {
        let index = row.attr_index(name).ok_or(format!("the row has no attribute `{name}`"))?;
        attrs.push((name.as_str(), attr(&row.attrs[index].kind, value)?));
    }
    let op = Op::with_operands(row, present, &attrs);
    let node = builder.push(op, operands, vec![]).map_err(|e| e.to_string())?;
    for result in 0..list(&case["expected"]).len() as u16 {
        builder.output(&format!("y{result}"), Value { node, result });
    }
    Ok((graph, inputs))
}

fn attr(kind: &AttrKind, value: &Json) -> Result<Attr, String> {
    let whole = |v: &Json| v.as_i64().ok_or(format!("{v} is no integer"));
    Ok(match (kind, value) {
        (AttrKind::Int | AttrKind::Ints, v @ Json::Number(_)) => Attr::Int(whole(v)?),
        (AttrKind::Float, v) => Attr::Float(number(v)),
        (AttrKind::Bool, Json::Bool(v)) => Attr::Bool(*v),
        (AttrKind::DType, Json::String(s)) => {
            Attr::DType(DType::parse(s).ok_or(format!("{s} is no dtype"))?)
        }
        (AttrKind::Word(_) | AttrKind::Str | AttrKind::IntsOr(_), Json::String(s)) => {
            Attr::Str(s.clone())
        }
        (AttrKind::Ints | AttrKind::IntsOr(_), Json::Array(items)) => {
            // Pairs for each axis (of `pad`) stand one after the other.
            let flat = |v: &Json| v.as_array().cloned().unwrap_or_else(|| vec![v.clone()]);
            let items: Vec<Json> = items.iter().flat_map(flat).collect();
            Attr::Ints(items.iter().map(whole).collect::<Result<_, _>>()?)
        }
        (kind, v) => return Err(format!("{v} does not fit {kind:?}")),
    })
}

/// Where results lie outside the bounds `[rel, abs]`, one line for each result.
fn differences(
    case: &Json,
    tensors: &Weights,
    results: &[Tensor],
    bounds: [f64; 2],
) -> Vec<String> {
    let expected = list(&case["expected"]).iter().enumerate();
    let expected = expected.filter_map(|(i, name)| Some((i, name.as_str()?)));
    expected
        .filter_map(|(i, name)| {
            let want = tensors.get(name).expect("expected tensors are stored");
            let got = results.get(i)?;
            if got.shape() != want.shape() {
                return Some(format!("shape {:?} instead of {:?}", got.shape(), want.shape()));
            }
            if !want.dtype().is_float() && got.dtype() != want.dtype() {
                return Some(format!("{} instead of {}", got.dtype(), want.dtype()));
            }
            let at = (0..want.numel())
                .find(|&i| !close(got.get_f64(i), want.get_f64(i), want.dtype(), bounds))?;
            let (got, want) = (got.get_f64(at), want.get_f64(at));
            Some(format!("result {i}, element {at}: {got:e} instead of {want:e}"))
        })
        .collect()
}

fn close(got: f64, want: f64, dtype: DType, [rel, abs]: [f64; 2]) -> bool {
    if !dtype.is_float() || want.is_infinite() {
        return got == want;
    }
    got.is_nan() && want.is_nan() || (got - want).abs() <= abs + rel * want.abs()
}

fn text(json: &Json) -> &str {
    json.as_str().expect("a text")
}

fn list(json: &Json) -> &[Json] {
    json.as_array().expect("a list")
}

fn number(json: &Json) -> f64 {
    json.as_f64().expect("a number")
}
