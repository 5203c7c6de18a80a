//! What `dlc emit asm` shows of products: sums, and what is made of them, never leave registers.

use std::process::Command;

/// The listing of a model's kernels.
fn listing(name: &str, model: &str, target: &str) -> String {
    let file = format!("dlc-asm-{}-{name}-{}.dl", std::process::id(), target.replace(':', "-"));
    let path = std::env::temp_dir().join(file);
    std::fs::write(&path, model).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_dlc"))
        .args(["emit", "asm", "--weights", "random", "--target", target])
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

#[test]
fn tiles_stay_in_registers() {
    let product = "model m(x: f32[256, 256]) { return x |> dense(256) as d |> relu }";
    let maps = "model m(x: f32[1, 32, 14, 14]) { return x |> conv2d(32, 3, pad = 1) as a |> relu \
                |> conv2d(64, 3, pad = 1) as b |> relu |> global_avg_pool }";
    for (name, model) in [("product", product), ("maps", maps)] {
        for (target, registers) in [("cpu:x86-64-v4", "zmm"), ("cpu:x86-64-v3", "ymm")] {
            let text = listing(name, model, target);
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
