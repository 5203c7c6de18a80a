use std::time::{Duration, Instant};

use super::*;

fn codes_in(text: &str) -> Vec<&'static str> {
    let loaded = load("t.dl", text, &LoadOptions::default());
    let mut diags = loaded.diagnostics;
    diags.extend(loaded.module.check());
    diags.iter().map(|d| d.code).collect()
}

#[test]
fn the_examples_of_every_code_hold() {
    for row in codes::TABLE {
        if !row.failing.is_empty() {
            let found = codes_in(row.failing);
            assert!(found.contains(&row.code), "{}: {found:?}\n{}", row.code, row.failing);
        }
        if !row.corrected.is_empty() {
            let found = codes_in(row.corrected);
            let errors: Vec<_> = found.iter().filter(|c| c.starts_with('E')).collect();
            assert!(errors.is_empty(), "{}: {found:?}\n{}", row.code, row.corrected);
            assert!(!found.contains(&row.code), "{}", row.code);
        }
    }
}

#[test]
fn codes_are_in_order_and_unique() {
    let codes: Vec<&str> = codes::TABLE.iter().map(|c| c.code).collect();
    let mut sorted = codes.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(codes, sorted);
}

/// Each of these would be exponential, endless or deep without a limit.
#[test]
fn hostile_texts_end() {
    let doubling: String = (0..60)
        .map(|i| format!("block b{}(x) {{ y = b{i}(x) return b{i}(y) }}\n", i + 1))
        .collect();
    let tower: String =
        (0..200).map(|i| format!("block b{}(x) {{ return b{i}(x) }}\n", i + 1)).collect();
    let bottom = "block b0(x) { return relu(x) }\n";
    let model = |body: &str| format!("model m(x: f32[t, 4]) {{ {body} return x }}");
    let circle: String =
        (0..500).map(|i| format!("const c{i} = c{} + 1\n", (i + 1) % 500)).collect();
    for (text, code) in [
        (format!("{bottom}{doubling}model m(x: f32[4]) {{ return b60(x) }}"), codes::NODE_LIMIT),
        (format!("{bottom}{tower}model m(x: f32[4]) {{ return b200(x) }}"), codes::CALL_DEPTH),
        (model("l = [1, 2] repeat i in 0..100 { l = l + l }"), codes::WORK_LIMIT),
        (model("n = t repeat i in 0..10000 { n = n * (t + 1) }"), codes::CT_OVERFLOW),
        (model("n = t repeat i in 0..10000 { n = floordiv(n + 1, n + 2) }"), codes::CT_OVERFLOW),
        (model("repeat i in 0..100000 { repeat j in 0..100000 { x = x } }"), codes::REPEAT_LIMIT),
        (model("repeat i in 0..9223372036854775807 { y = i }"), codes::REPEAT_LIMIT),
        (circle, codes::RECURSION),
    ] {
        let limits = Limits { nodes: 5_000, rounds: 50_000, work: 2_000_000 };
        let loaded = load("t.dl", &text, &LoadOptions { limits, ..LoadOptions::default() });
        let mut diags = loaded.diagnostics;
        diags.extend(loaded.module.check());
        let found: Vec<_> = diags.iter().map(|d| d.code).collect();
        assert!(found.contains(&code), "{code}: {found:?}\n{}", &text[..text.len().min(200)]);
    }
}

#[test]
fn nesting_to_the_limit_is_lowered() {
    let n = lex::MAX_DEPTH - 3;
    let parens = format!("{}x{}", "(".repeat(n), ")".repeat(n));
    let calls = format!("{}x{}", "relu(".repeat(n), ")".repeat(n));
    let ifs = format!("{}x{}", "if true { ".repeat(n), " }".repeat(n));
    for nested in [parens, calls, ifs] {
        let text = format!("model m(x: f32[4]) {{ return {nested} }}");
        assert_eq!(codes_in(&text), [] as [&str; 0], "{}", &text[..60]);
    }
    let chain = format!("model m(x: f32[4]) {{ return x{} }}", " + x".repeat(3_000));
    assert_eq!(codes_in(&chain), [] as [&str; 0]);
}

#[test]
fn core_form_is_told_from_source_form() {
    assert!(is_core("// a comment\n graph g() { }") && !is_core("model graph(x: f32[]) {}"));
    let loaded = load("t.dl", "graph a(%x: f32[n]) { yield y = %x }", &LoadOptions::default());
    assert!(loaded.module.is_sound());
    let (info, _) = loaded.module.info(None);
    let info = info.expect("a sound graph");
    assert_eq!((info.name.as_str(), info.inputs.len(), info.dims.len()), ("a", 1, 0));
    assert!(loaded.module.lower(Some("b"), false).0.is_none());
}

#[test]
fn info_tells_the_signature() {
    let text = "dim n in 1..=8\nmodel a(x: f32[n, 4], y: i32[]) { return x }\n\
                weights a from \"a.safetensors\"\ntrain a { loss mean(x) optimizer sgd() }";
    let loaded = load("t.dl", text, &LoadOptions::default());
    let (info, diags) = loaded.module.info(None);
    let info = info.unwrap_or_else(|| panic!("{diags:?}"));
    assert_eq!(info.inputs[0].1.to_string(), "f32[n, 4]");
    assert_eq!((info.dims[0].low, info.dims[0].high), (1, Some(8)));
    assert!(info.has_train && info.weights.as_deref() == Some("a.safetensors"));
}

/// A second of texts made by cutting and gluing the files of the repository.
#[test]
fn fuzzed_texts_end() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds: Vec<String> = vec![];
    for file in ["std/layers.dl", "std/blocks.dl", "std/losses.dl", "std/optimizers.dl"] {
        seeds.push(std::fs::read_to_string(root.join("src/front").join(file)).unwrap());
    }
    for file in ["gru/gru.dl", "decoder/decoder.dl", "resnet/resnet.dl", "iris/iris.dl"] {
        seeds.push(std::fs::read_to_string(root.join("examples").join(file)).unwrap());
    }
    seeds.push(
        "graph g(%x: f32[n, 4]) { dim n in 1..=8 %1: f32[n, 4] = relu(%x) yield y = %1 }".into(),
    );
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n.max(1) as u64) as usize
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let seed = &seeds[random(seeds.len())];
        let mut words: Vec<&str> =
            lex::Lexer::new(seed).map(|t| t.text(seed)).take(40 + random(400)).collect();
        let other = &seeds[random(seeds.len())];
        let foreign: Vec<&str> = lex::Lexer::new(other).map(|t| t.text(other)).collect();
        for _ in 0..1 + random(6) {
            let at = random(words.len());
            match random(4) {
                0 => drop(words.remove(at)),
                1 => words.insert(at, foreign[random(foreign.len())]),
                2 => words[at] = foreign[random(foreign.len())],
                _ => {
                    let from = random(words.len());
                    words.swap(at, from);
                }
            }
        }
        fuzz(words.join(if random(2) == 0 { " " } else { "\n" }).as_bytes());
    }
    fuzz(&[0xff, 0xfe]);
}
