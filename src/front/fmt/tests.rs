use super::*;

fn formatted(text: &str) -> String {
    let once = format("t.dl", text).unwrap_or_else(|(_, d)| panic!("{text}\n{d:#?}"));
    assert_eq!(meaning(text), meaning(&once));
    let twice = format("t.dl", &once).unwrap();
    assert_eq!(once, twice, "formatting twice changes something");
    once
}

#[test]
fn spaces() {
    let text = "model  m ( x:f32[ 4 ,n],y : i32[]){return -x**2+y*( a-b )|>dense( 3,bias=false )as d[ i ] }";
    assert_eq!(
        formatted(text),
        "model m(x: f32[4, n], y: i32[]) { return -x ** 2 + y * (a - b) |> dense(3, bias = false) as \
         d[i] }\n"
    );
    assert_eq!(
        formatted("const a=[1,-2][ 0 ]  dim b in 1 ..= 8"),
        "const a = [1, -2][0]\ndim b in 1..=8\n"
    );
    assert_eq!(
        formatted("block f(x){y=x[1 : 3,:,...,-1] return y}"),
        "block f(x) {\n    y = x[1:3, :, ..., -1]\n    return y\n}\n"
    );
    assert_eq!(
        formatted("block f(x){ return scan(x,init=h){|h,y|return h,y} }"),
        "block f(x) { return scan(x, init = h) { |h, y| return h, y } }\n"
    );
    assert_eq!(
        formatted("weights m from \"f\"{a.* = \"b.*\",\nc=\"d\"|>transpose}"),
        "weights m from \"f\" {\n    a.* = \"b.*\",\n    c = \"d\" |> transpose\n}\n"
    );
    assert_eq!(
        formatted(
            "train m{label y:i32[n] loss (a+b) optimizer sgd(lr=0.1) epochs=3 update g.*,\"h.*\"}"
        ),
        "train m {\n    label y: i32[n]\n    loss (a + b)\n    optimizer sgd(lr = 0.1)\n    epochs = 3\n    \
         update g.*, \"h.*\"\n}\n"
    );
}

#[test]
fn comments_stay() {
    let text = "// top\n\n\n// two\nmodel m(x: f32[4]) { // opens\n  y = x // behind\n\n\n  // before\n  \
                z = f(x, // first\n    y)\n  return z\n  // last\n}\n// end\n";
    assert_eq!(
        formatted(text),
        "// top\n\n// two\nmodel m(x: f32[4]) {\n    // opens\n    y = x // behind\n\n    // before\n    \
         z = f(\n        x, // first\n        y\n    )\n    return z\n    // last\n}\n// end\n"
    );
}

#[test]
fn long_lines_break() {
    let long = "block f(x) { return x |> conv2d(64, 7, stride = 2, pad = 3, bias = false) as stem |> \
                batch_norm as bn |> relu |> max_pool(3, 2, pad = 1) as pool }";
    let text = formatted(long);
    assert!(text.lines().all(|l| l.len() <= 100), "{text}");
    assert_eq!(text.lines().count(), 6, "{text}");
    let args: Vec<String> = (0..30).map(|i| format!("argument{i}")).collect();
    let text = formatted(&format!("const a = f({})", args.join(",")));
    assert_eq!(text.lines().count(), 32, "{text}");
}

#[test]
fn what_the_writer_broke_stays_broken() {
    let text = "block f(x) {\n    return x |> a\n             |> b |> c\n}\n";
    assert_eq!(formatted(text), text);
}

/// The standard library is laid out as `fmt` would, and everything else is stable under it.
#[test]
fn files_of_the_repository() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut work = vec![root.join("examples"), root.join("src/front/std")];
    let mut count = 0;
    while let Some(at) = work.pop() {
        for entry in std::fs::read_dir(&at).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                work.push(path);
            } else if path.extension().is_some_and(|e| e == "dl") {
                formatted(&std::fs::read_to_string(&path).unwrap());
                count += 1;
            }
        }
    }
    assert!(count >= 10, "{count} files");
}
