use super::*;
use crate::base::{DType, TensorType};
use crate::ir::op::{self, Arity, Op};
use crate::ir::print::print_graph;

fn read(text: &str, constants: &Constants) -> Result<Vec<Graph>, Vec<Diagnostic>> {
    let mut diags = vec![];
    let graphs = parse_core(FileId(0), text, constants, 1 << 20, &mut diags);
    if diags.is_empty() { Ok(graphs) } else { Err(diags) }
}

fn codes_of(text: &str) -> Vec<&'static str> {
    read(text, &Constants::new()).map_or_else(|d| d.iter().map(|d| d.code).collect(), |_| vec![])
}

#[test]
fn a_signature_with_odd_names_and_constants() {
    let text = "graph \"my net\"(%\"x:0\": f16[\"batch size\", 4], %y: f32[2 * n - 1, floordiv(n + 1, 2)] as in.y @\"m.dl\":1:2) {\n\
        \x20 dim \"batch size\" in 1..\n\
        \x20 dim n in 2..=8\n\
        \x20 param $a.0.weight: f32[2] = \"normal(0.5)\" {frozen = true} @\"m.dl\":4:9\n\
        \x20 state $\"k s\": i64[] = zeros\n\
        \x20 %4: i64[] = constant() {value = i64[](-7)} as seven\n\
        \x20 %5: f32[3] = constant() {value = f32[3](0x7fc00001, -0.0, 1e-7)}\n\
        \x20 %6: f16[2] = constant() {value = f16[2](0x7c00, 0.1)}\n\
        \x20 %7: bool[0] = constant() {value = bool[0]()}\n\
        \x20 next $\"k s\" = %4\n\
        \x20 yield y = %\"x:0\", \"odd name\" = $a.0.weight, a = %5, b = %6, c = %7, d = %y\n}\n";
    // 0.1 as an f16 prints as the f32 that it is.
    let graphs = read(text, &Constants::new()).unwrap();
    let printed = print_graph(&graphs[0]).text;
    let again = print_graph(&read(&printed, &Constants::new()).unwrap()[0]).text;
    assert_eq!(printed, again);
    assert_eq!(printed, text.replace("0.1)", "0.099975586)"));
}

#[test]
fn regions_and_captures() {
    let text = "graph g(%h: f32[4], %xs: f32[8, 4], %c: bool[]) {\n\
        \x20 param $w: f32[4, 4] = glorot_uniform\n\
        \x20 %4: f32[4], %4#1: f32[8, 4] = scan(%h, %xs; $w) {carries = 1} do (%4.a: f32[4], %4.b: f32[4]) {\n\
        \x20   %4.3: f32[4] = matmul($w, %4.b)\n\
        \x20   %4.4: f32[4] = add(%4.a, %4.3)\n\
        \x20   yield %4.4, %4.3\n\
        \x20 } as out, #1 all @\"m.dl\":8:9\n\
        \x20 %5: f32[4] = cond(%c; %4, %h) do () {\n\
        \x20   yield %4\n\
        \x20 } do () {\n\
        \x20   %5.2: f32[4] = relu(%h)\n\
        \x20   yield %5.2\n\
        \x20 }\n\
        \x20 yield y = %5, all = %4#1\n}\n";
    let graphs = read(text, &Constants::new()).unwrap();
    assert_eq!(print_graph(&graphs[0]).text, text);
}

#[test]
fn every_sample_of_the_table_round_trips() {
    for row in op::table() {
        for (i, sample) in (row.samples)().into_iter().enumerate() {
            let mut graph = Graph::new("g");
            let mut present = 0;
            let mut values = vec![];
            for (k, t) in sample.operands.iter().enumerate() {
                if let Some(t) = t {
                    present |= 1 << k.min(row.operands.len().saturating_sub(1));
                    let ty = t.ty();
                    values.push(Builder::new(&mut graph).input(&format!("x{k}"), ty));
                }
            }
            if row.operands.last().is_some_and(|o| o.arity == Arity::Variadic) {
                present |= 1 << (row.operands.len() - 1);
            }
            let op = Op::with_operands(row, present, &sample.attrs);
            let node = Builder::new(&mut graph).push(op, values, sample.regions).unwrap();
            for result in 0..graph.node(node).results.len() {
                let value = Value { node, result: result as u16 };
                Builder::new(&mut graph).output(&format!("y{result}"), value);
            }
            graph.compact();
            let printed = print_graph(&graph);
            let back = read(&printed.text, &printed.constants)
                .unwrap_or_else(|d| panic!("{} {i}: {d:#?}\n{}", row.name, printed.text));
            assert_eq!(print_graph(&back[0]).text, printed.text, "{} {i}", row.name);
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    let in_graph = |body: &str| format!("graph g(%x: f32[4], %i: i32[4]) {{ {body} }}");
    for (body, code) in [
        ("%0: f32[4] = relu(%y) yield a = %0", codes::CORE),
        ("%0: f32[5] = relu(%x) yield a = %0", codes::CORE_TYPE),
        ("%0: f32[4] = rleu(%x) yield a = %0", codes::UNKNOWN_CALLEE),
        ("%0: f32[4] = relu(%x, %x) yield a = %0", codes::TOO_MANY_ARGS),
        ("%0: f32[4] = relu() yield a = %0", codes::MISSING_ARG),
        ("%0: f32[4] = add(%x, %i) yield a = %0", codes::DTYPE),
        ("%0: f32[4] = softmax(%x) {axes = 1} yield a = %0", codes::UNKNOWN_ARG),
        ("%0: f32[4] = softmax(%x) {axis = [a]} yield a = %0", codes::ATTRIBUTE),
        ("%0: f32[4] = relu(%x) %0: f32[4] = relu(%x) yield a = %0", codes::CORE),
        ("%0: f32[4] = constant() {value = f32[4](#00)} yield a = %0", codes::CORE),
        ("%0: f32[4] = constant() {value = f32[4](1, 2)} yield a = %0", codes::CORE),
        ("%0: i8[1] = constant() {value = i8[1](300)} yield a = %0", codes::CORE),
        ("param $w: f32[9223372036854775807, 4] = zeros", codes::OVERFLOW),
        ("param $w: f32[-1] = zeros", codes::BAD_DIM),
        ("state $s: f32[4] = zeros next $s = %i", codes::CORE_TYPE),
        ("yield a = %x, a = %i", codes::CORE),
        ("%0: f32[4] = input() yield a = %0", codes::UNKNOWN_CALLEE),
        ("%0 = relu(%x)", codes::SYNTAX),
    ] {
        assert_eq!(codes_of(&in_graph(body)), [code], "{body}");
    }
    assert_eq!(codes_of("graph g(%x: f32[4]) { yield a = %x"), [codes::SYNTAX]);
    assert_eq!(codes_of("graph g(%x: f32[4], %x: f32[4]) { }").len(), 2);
}

#[test]
fn long_graphs_are_read_in_linear_time() {
    let n = 4_000;
    let mut text = String::from("graph g(%x: f32[4]) {\n%1: f32[4] = relu(%x)\n");
    for i in 2..n {
        text += &format!("%{i}: f32[4] = relu(%{}) @\"m.dl\":{i}:1\n", i - 1);
    }
    text += &format!("yield y = %{}\n}}", n - 1);
    let graphs = read(&text, &Constants::new()).unwrap();
    assert_eq!(graphs[0].len(), n);
    assert_eq!(graphs[0].ty(graphs[0].outputs[0].value), &TensorType::of(DType::F32, &[4]));
}
