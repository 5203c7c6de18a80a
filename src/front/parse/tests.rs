use super::*;
use crate::front::ast::*;

fn parsed(text: &str) -> (Ast, Vec<Diagnostic>) {
    let mut diags = vec![];
    let ast = parse(FileId(0), text, &mut diags);
    (ast, diags)
}

fn sound(text: &str) -> Ast {
    let (ast, diags) = parsed(text);
    assert!(diags.is_empty(), "{text}\n{diags:#?}");
    ast
}

#[test]
fn spans_do_not_take_white_space_along() {
    let text = "model m(x: f32[4]) {\n  y = relu(x)   // why\n  return y }  \n";
    let ast = sound(text);
    let Item::Model(m) = &ast.items[0] else { panic!("a model") };
    let source = |s: Span| &text[s.start as usize..s.end as usize];
    assert_eq!(source(m.body.stmts[0].span()), "y = relu(x)");
    assert!(source(m.span).ends_with("return y }"));
}

#[test]
fn every_item_parses() {
    let ast = sound(
        r#"
        dim batch in 1..=1024
        dim t
        const widths = [1, 2.5, -3, 0x7fc00000]
        import "resnet.dl" as zoo
        block f(x, ch, stride = 1) {
            param weight: x.dtype[ch, x.shape[-1]] = glorot_uniform
            state s: f32[ch] = 0
            state m = zeros_like(x)
            s := s * 0.5
            a, b = g(x, k = 3) |> h as n[i][j] with frozen
            repeat i in 0..[3, 4][s] { x = x |> r as l[i] }
            repeat k in [1, 2] { x = x + k }
            return if stride != 1 and not b { x } else if a { -x ** 2 } else { x @ b[1:3, :, ::2, ..., -1] }
        }
        model m(layer: f32[], state: f32[2 * t]) {
            layer step = zoo.resnet50 with frozen
            label = step(layer)."/layer4/Relu"
            h, ys = scan(x, axis = 1, init = [h0, c0]) { |h, c, xt| y = f(h) return y, c, y }
            z = cond(p) { a } else { b }
            return z, h as n
        }
        weights m from "m.safetensors" { a.weight = "b" |> transpose, "h.*" = "layers.*" }
        train m {
            label species: i32[batch]
            loss 0.3 * cross_entropy(logits, species) + l2(params("head.*"))
            metrics accuracy(logits, species), f(x)
            optimizer adam(lr = 0.01 * 0.5 ** epoch)
            epochs = 100
            step gen { loss a update "gen.*" }
            step { loss b update dis.*, foo }
        }
        "#,
    );
    assert_eq!(ast.items.len(), 8);
}

#[test]
fn several_errors_in_one_run() {
    let (ast, diags) = parsed(
        "model a(x: f32[4]) { return relu(x }\nmodel b(x: f32[4]) { return x }\nblock c(x) { y = }\n",
    );
    assert_eq!(diags.len(), 2, "{diags:#?}");
    assert_eq!(ast.items.len(), 1);
    assert!(diags[0].message.contains("`)`"), "{}", diags[0].message);
}

#[test]
fn contextual_words_are_names() {
    sound("block b(label, layer, state, step, param, model) { loss = layer + state return loss }");
    sound("const from = 1 const do = 2 const graph = 3");
}

#[test]
fn long_chains_are_flat() {
    let sum = format!("const a = 1{}", " + 1".repeat(8_000));
    let power = format!("const a = 1{}", " ** 1".repeat(4_000));
    let minus = format!("const a = {}1", "-".repeat(4_000));
    let index = format!("const a = b{}", "[0]".repeat(4_000));
    let pipe = format!("const a = b{}", " |> relu".repeat(4_000));
    let lets = format!("block f(x) {{ {} return x }}", "x = relu(x) ".repeat(4_000));
    for text in [sum, power, minus, index, pipe, lets] {
        assert_eq!(sound(&text).items.len(), 1);
    }
}

/// Wrong text that nests is where a grammar with shared prefixes takes exponential time.
#[test]
fn nesting_to_the_limit_is_linear() {
    let n = lex::MAX_DEPTH - 4;
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("f(", "1", ")"),
        ("f(a = ", "1", ")"),
        ("scan(", "x", ") { x }"),
        ("cond(", "x", ") { x } else { x }"),
        ("if a { ", "b", " }"),
        ("if a { b } else { ", "b", " }"),
        ("x[", "1", "]"),
        ("x[1:", "1", "]"),
    ] {
        let nested = format!("{}{middle}{}", open.repeat(n), close.repeat(n));
        sound(&format!("const a = {nested}"));
        sound(&format!("block b(x) {{ return {nested} }}"));
        for wrong in ["?", "1 1", "=", ""] {
            let text = format!("{}{wrong}{}", open.repeat(n), close.repeat(n));
            let (_, diags) = parsed(&format!("block b(x) {{ y = {text} return y }}"));
            assert!(!diags.is_empty() || wrong.is_empty(), "{open} {wrong}");
            let (_, diags) = parsed(&format!("block b(x) {{ {text} }}"));
            assert!(!diags.is_empty() || !wrong.contains('?'), "{open} {wrong}");
        }
    }
}
