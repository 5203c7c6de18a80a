//! Shape inference: open dimensions, and what is said about shapes and dtypes that do not fit.

use dlc::base::{DType, Dim, Shape, Symbol, TensorType};
use dlc::ir::eval::{Env, Precision, evaluate};
use dlc::ir::op::{Class, Op, elementwise, find};
use dlc::ir::scalar::ScalarFn;
use dlc::ir::{Attr, Builder, Graph};

fn dim(text: &str) -> Dim {
    text.parse().map_or_else(|_| Dim::symbol(Symbol::new(text)), Dim::Const)
}

/// `f32 b 3 4` is f32[b, 3, 4].
fn ty(text: &str) -> TensorType {
    let mut words = text.split(' ');
    let dtype = DType::parse(words.next().expect("a dtype")).expect("a dtype");
    TensorType::new(dtype, Shape(words.map(dim).collect()))
}

/// The types of the results, or the code and the whole of what is said.
fn infer(op: &str, operands: &[&str], attrs: &[(&str, Attr)]) -> Result<String, String> {
    let mut graph = Graph::new("shapes");
    let mut b = Builder::new(&mut graph);
    let inputs: Vec<_> =
        operands.iter().enumerate().map(|(i, t)| b.input(&format!("in{i}"), ty(t))).collect();
    let op = Op::new(find(op).expect("a row of the table"), attrs);
    let said = |e: dlc::ir::op::OpError| {
        format!("{} {} {:?} {}", e.code, e.message, e.notes, e.help.unwrap_or_default())
    };
    let node = b.push(op, inputs, vec![]).map_err(said)?;
    let types: Vec<String> = graph.node(node).results.iter().map(TensorType::to_string).collect();
    Ok(types.join(" "))
}

fn ints(name: &'static str, v: &[i64]) -> (&'static str, Attr) {
    (name, Attr::Ints(v.to_vec()))
}

fn shape(dims: &[&str]) -> (&'static str, Attr) {
    ("shape", Attr::Dims(dims.iter().map(|d| dim(d)).collect()))
}

fn int(name: &'static str, v: i64) -> (&'static str, Attr) {
    (name, Attr::Int(v))
}

/// An op, its operands, its attributes, what comes of it.
type Case<T> = (&'static str, Vec<&'static str>, Vec<(&'static str, Attr)>, T);

#[test]
fn open_dimensions_go_through() {
    let cases: Vec<Case<&str>> = vec![
        ("add", vec!["f32 b 4", "f32 4"], vec![], "f32[b, 4]"),
        ("add", vec!["f32 b 1", "f32 b 4"], vec![], "f32[b, 4]"),
        ("where", vec!["bool b 1", "f16 b 4", "f16"], vec![], "f16[b, 4]"),
        ("sum", vec!["f32 b 4"], vec![ints("axis", &[-1])], "f32[b]"),
        ("reshape", vec!["f32 b 6"], vec![shape(&["b", "2", "-1"])], "f32[b, 2, 3]"),
        ("reshape", vec!["f32 b 6"], vec![shape(&["-1", "3"])], "f32[2 * b, 3]"),
        ("flatten", vec!["f32 b 6 h"], vec![], "f32[b, 6 * h]"),
        ("flip", vec!["f32 b"], vec![], "f32[b]"),
        ("slice", vec!["f32 b 4"], vec![ints("starts", &[1])], "f32[b - 1, 4]"),
        ("slice", vec!["f32 b"], vec![ints("starts", &[-3])], "f32[3]"),
        ("slice", vec!["f32 b"], vec![ints("starts", &[0]), ints("ends", &[-2])], "f32[b - 2]"),
        ("concat", vec!["f32 b 2", "f32 c 2"], vec![], "f32[b + c, 2]"),
        ("pad", vec!["f32 b 2"], vec![ints("pad", &[1, 2, 0, 0])], "f32[b + 3, 2]"),
        ("split", vec!["f32 b 6"], vec![int("parts", 2), int("axis", -1)], "f32[b, 3] f32[b, 3]"),
        ("split_heads", vec!["f32 b t 24"], vec![int("heads", 4)], "f32[b, 4, t, 6]"),
        ("merge_heads", vec!["f32 b 4 t 6"], vec![], "f32[b, t, 24]"),
        ("tile", vec!["f32 b"], vec![ints("reps", &[2, 3])], "f32[2, 3 * b]"),
        ("iota", vec![], vec![shape(&["t"])], "i32[t]"),
        ("argmax", vec!["f32 b c"], vec![int("axis", 0)], "i64[c]"),
    ];
    for (op, operands, attrs, expected) in cases {
        assert_eq!(infer(op, &operands, &attrs).as_deref(), Ok(expected), "{op} {operands:?}");
    }
}

#[test]
fn errors_name_both_sides() {
    let cases: Vec<Case<&[&str]>> = vec![
        ("add", vec!["f32 2 3", "f32 4"], vec![], &["E0301", "[2, 3] with [4]"]),
        ("add", vec!["f32 b", "f32 c"], vec![], &["E0301", "[b] with [c]", "open dimension"]),
        ("add", vec!["f32 2", "i32 2"], vec![], &["E0302", "f32 and i32", "cast("]),
        ("exp", vec!["i32 2"], vec![], &["E0302", "floats", "i32[2]"]),
        ("logical_and", vec!["i32 2", "i32 2"], vec![], &["E0302", "bool"]),
        ("where", vec!["f32 2", "f32 2", "f32 2"], vec![], &["E0302", "condition"]),
        ("sum", vec!["f32 2 3"], vec![int("axis", 2)], &["E0303", "axis 2", "-2 to 1"]),
        ("sum", vec!["f32 2 3"], vec![ints("axis", &[0, -2])], &["E0303", "axis 0 twice"]),
        ("amax", vec!["f32 0 3"], vec![int("axis", 0)], &["E0301", "no elements", "f32[0, 3]"]),
        ("reshape", vec!["f32 2 3"], vec![shape(&["4", "2"])], &["E0301", "[2, 3] into [4, 2]"]),
        ("reshape", vec!["f32 2 3"], vec![shape(&["4", "-1"])], &["E0301", "do not divide"]),
        ("reshape", vec!["f32 0"], vec![shape(&["0", "-1"])], &["E0301", "could be anything"]),
        ("concat", vec!["f32 2 3", "f32 2 4"], vec![], &["E0301", "[2, 3] and [2, 4]"]),
        ("concat", vec![], vec![], &["E0301", "nothing"]),
        ("slice", vec!["f32 b"], vec![ints("starts", &[-1]), ints("ends", &[5])], &["E0301"]),
        ("pad_reflect", vec!["f32 3"], vec![ints("pad", &[3, 0])], &["E0303", "other edge"]),
        ("pad", vec!["f32 3"], vec![ints("pad", &[i64::MIN, 0])], &["E0304"]),
        ("split", vec!["f32 7"], vec![int("parts", 2)], &["E0301", "extent 7"]),
        ("transpose", vec!["f32 7"], vec![], &["E0301", "at least 2 axes"]),
        ("iota", vec![], vec![shape(&["4611686018427387904", "4"])], &["E0304"]),
        ("iota", vec![], vec![shape(&["-1"])], &["E0303", "extent -1"]),
        ("tile", vec!["f32 4"], vec![ints("reps", &[i64::MAX])], &["E0304"]),
        ("clamp", vec!["f32 4"], vec![], &["E0303", "neither"]),
        ("neg", vec![], vec![], &["E0305", "`x`"]),
        ("neg", vec!["f32", "f32"], vec![], &["E0305", "not 2"]),
    ];
    for (op, operands, attrs, parts) in cases {
        let said = infer(op, &operands, &attrs).expect_err(op);
        for part in parts {
            assert!(said.contains(part), "{op} {operands:?}: `{part}` is not in: {said}");
        }
    }
}

/// A step that is never taken does not overflow the index arithmetic.
#[test]
fn steps_of_any_size() {
    let far = [ints("starts", &[1]), ints("steps", &[i64::MAX])];
    assert_eq!(infer("slice", &["f32 4 7"], &far).as_deref(), Ok("f32[1, 7]"));
    let mut graph = Graph::new("far");
    let mut b = Builder::new(&mut graph);
    let x = b.constant(dlc::base::Tensor::from_slice(&[2, 2], &[1i32, 2, 3, 4]));
    let y = b.op("slice", &[x], &far).expect("a slice of one row");
    b.output("y", y);
    let results = evaluate(&graph, &Env::default(), Precision::Own).expect("it evaluates");
    assert_eq!(results.outputs[0].as_slice::<i32>(), [3, 4]);
}

/// Passes make elementwise ops by their function.
#[test]
fn each_function_has_its_row() {
    use ScalarFn::*;
    let all = [
        Neg,
        Abs,
        Sign,
        Relu,
        Floor,
        Ceil,
        Round,
        Trunc,
        Sqrt,
        Rsqrt,
        Reciprocal,
        Exp,
        Expm1,
        Log,
        Log1p,
        Sin,
        Cos,
        Tanh,
        Sigmoid,
        Erf,
        Gelu,
        GeluTanh,
        Silu,
        Softplus,
        IsNan,
        IsInf,
        Not,
        Cast(DType::I16),
        Add,
        Sub,
        Mul,
        Div,
        FloorDiv,
        Mod,
        Pow,
        Min,
        Max,
        And,
        Or,
        Xor,
        Shl,
        Shr,
        Eq,
        Ne,
        Lt,
        Le,
        Gt,
        Ge,
        Where,
        Random { key: [7, u32::MAX] },
    ];
    for f in all {
        let (name, attrs) = elementwise::row_of(f);
        let op = Op::new(find(name).expect("a row of the table"), &attrs);
        let ctx = dlc::ir::op::OpCtx { op: &op, types: &[], regions: &[] };
        assert_eq!((op.row.class)(&ctx), Class::Elementwise(f), "{name}");
        assert_eq!(op.row.operands.len(), f.arity(), "{name}");
    }
}

/// Building and evaluating take time in proportion to the graph, and no stack.
#[test]
fn a_hundred_thousand_nodes() {
    let mut graph = Graph::new("chain");
    let mut b = Builder::new(&mut graph);
    let x = b.input("x", ty("i32 4"));
    let one = b.scalar(DType::I32, 1.0);
    let y = (0..100_000).fold(x, |y, _| b.op("add", &[y, one], &[]).expect("it adds"));
    b.output("y", y);
    let x = dlc::base::Tensor::from_slice(&[4], &[0i32, 1, 2, 3]);
    let env = Env { inputs: vec![x], ..Env::default() };
    let results = evaluate(&graph, &env, Precision::Own).expect("it evaluates");
    assert_eq!(results.outputs[0].as_slice::<i32>(), [100_000, 100_001, 100_002, 100_003]);
}
