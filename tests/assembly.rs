//! What `dlc emit asm` shows of products: sums, and what is made of them, never leave registers.

use std::process::Command;

/// The listing of a model's kernels.
fn listing(name: &str, model: &str, target: &str, more: &[&str]) -> String {
    let file = format!("dlc-asm-{}-{name}-{}.dl", std::process::id(), target.replace(':', "-"));
    let path = std::env::temp_dir().join(file);
    std::fs::write(&path, model).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_dlc"))
        .args(["emit", "asm", "--weights", "random", "--target", target])
        .args(more)
        .arg(&path)
        .output()
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The innermost loops with multiply-adds: from a label to the jump back to it.
fn loops(listing: &str) -> Vec<Vec<&str>> {
    let (mut found, mut body, mut label) = (vec![], vec![], "");
    for line in listing.lines() {
        if let Some(name) = line.strip_suffix(':') {
            (body, label) = (vec![], name);
            continue;
        }
        let line = line.trim();
        let mut words = line.split_whitespace();
        let jumps = words.next().is_some_and(|word| word.starts_with('j'));
        if jumps && words.next() == Some(label) {
            found.push(std::mem::take(&mut body));
        }
        body.push(line);
    }
    found.retain(|body| body.iter().any(|l| l.starts_with("vfmadd")));
    found
}

const MAPS: &str = "model m(x: f32[1, 32, 14, 14]) { return x |> conv2d(32, 3, pad = 1) as a |> relu \
                    |> conv2d(64, 3, pad = 1) as b |> relu |> global_avg_pool }";

#[test]
fn tiles_stay_in_registers() {
    let product = "model m(x: f32[256, 256]) { return x |> dense(256) as d |> relu }";
    for (name, model) in [("product", product), ("maps", MAPS)] {
        for (target, registers) in [("cpu:x86-64-v4", "zmm"), ("cpu:x86-64-v3", "ymm")] {
            // As sums in the plain order.
            let text = listing(name, model, target, &["--strict"]);
            let spills = |l: &&str| l.contains("[rsp") && (l.contains("mm") || l.contains("vmov"));
            let spilled: Vec<&str> = text.lines().filter(spills).collect();
            assert!(spilled.is_empty(), "{name} for {target} spills: {spilled:?}");
            let loops = loops(&text);
            assert!(!loops.is_empty(), "{name} for {target} has no loop of multiply-adds");
            for body in &loops {
                let count = |f: &dyn Fn(&&&str) -> bool| body.iter().filter(f).count();
                let sums = count(&|l| l.starts_with("vfmadd"));
                let loads = count(&|l| l.contains('[') && !l.starts_with("prefetch"));
                assert!(!body.iter().any(|l| l.contains("[rsp")), "{name} for {target}: {body:?}");
                assert!(body.iter().any(|l| l.contains(registers)), "{name} for {target}");
                // Sixteen registers leave room for no vector of weights: each is read in place.
                let fits = sums < 8 || loads < sums || target == "cpu:x86-64-v3";
                assert!(fits, "{name} for {target}: {loads} loads for {sums} products: {body:?}");
            }
            // The bias and the relu, between the loop and the store.
            let end = text.lines().any(|l| l.contains("vmaxps"));
            assert!(end, "{name} for {target} has no relu");
        }
    }
}

/// The transforms of a tile are larger than sixteen registers; its products are not.
#[test]
fn products_of_winograd_tiles_stay_in_registers() {
    for (target, least) in [("cpu:x86-64-v4", 20), ("cpu:x86-64-v3", 8)] {
        for opt in ["-O2", "-O3"] {
            let text = listing("winograd", MAPS, target, &[opt]);
            let sums = |body: &Vec<&str>| body.iter().filter(|l| l.starts_with("vfmadd")).count();
            let loops = loops(&text);
            // Those that read one element for all columns, and no coefficients.
            let reads = |body: &Vec<&str>, what: &str| body.iter().any(|l| l.contains(what));
            let product = |b: &&Vec<&str>| reads(b, "vbroadcastss") && !reads(b, "constant");
            let products = loops.iter().filter(|b| sums(b) >= least).filter(product);
            let products: Vec<_> = products.collect();
            assert!(!products.is_empty(), "{target} {opt}: no loop of products");
            for body in products {
                assert!(!body.iter().any(|l| l.contains("[rsp")), "{target} {opt}: {body:?}");
            }
        }
    }
}
