//! Golden tests: text in, text out.
//!
//! Every file under `tests/golden` whose first line is `// run: COMMAND [ARGS]` is a case; what the
//! command says about it stands beside it in `NAME.expected`. `DLC_BLESS=1 cargo test` writes the
//! expectations anew: read them before committing.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use dlc::base::diag::Diagnostic;
use dlc::base::source::SourceMap;
use dlc::front::{self, LoadOptions};
use dlc::pass::{Control, Step};

#[test]
fn golden_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bless = std::env::var_os("DLC_BLESS").is_some();
    let mut failures = vec![];
    let mut cases = 0;
    for path in files(&root) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let Some(command) = text.lines().next().and_then(|l| l.strip_prefix("// run: ")) else {
            continue;
        };
        cases += 1;
        let found = run(command, &path, &text);
        let beside = path.with_extension("expected");
        if bless {
            std::fs::write(&beside, found).expect("an expectation can be written");
            continue;
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        if found != expected {
            failures.push(format!("== {}\n{}", path.display(), difference(&expected, &found)));
        }
    }
    assert!(cases > 0, "no golden files under {}", root.display());
    assert!(failures.is_empty(), "{} of {cases} differ:\n{}", failures.len(), failures.join("\n"));
}

/// Every example is sound, and its models' core form reads back to the byte.
#[test]
fn examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut models = 0;
    for path in files(&root).into_iter().filter(|p| p.extension().is_some_and(|e| e == "dl")) {
        let text = std::fs::read_to_string(&path).expect("an example can be read");
        let loaded = load(&path, &text);
        let mut diags = loaded.diagnostics;
        diags.extend(loaded.module.check());
        assert!(diags.is_empty(), "{}", diagnostics(loaded.module.sources(), &diags));
        for name in loaded.module.model_names() {
            for training in [false, true] {
                let (lowered, _) = loaded.module.lower(Some(&name), training);
                let graph = lowered.expect("a sound model is written out").graph;
                if let Err(violations) = dlc::ir::verify::verify_compact(&graph) {
                    panic!("{} {name}: {violations:#?}", path.display());
                }
                let printed = dlc::ir::print::print_graph(&graph);
                let options =
                    LoadOptions { constants: &printed.constants, ..LoadOptions::default() };
                let back = front::load("core.dl", &printed.text, &options);
                let said = diagnostics(back.module.sources(), &back.diagnostics);
                let again = back.module.lower(None, training).0.map(|l| l.graph);
                let again = again.unwrap_or_else(|| panic!("{}\n{said}", printed.text));
                assert_eq!(dlc::ir::print::print_graph(&again).text, printed.text);
                models += 1;
            }
        }
    }
    assert!(models >= 20, "the examples hold {models} models");
}

/// What every pass of every level leaves of the examples reads back to the byte, and is compact.
#[test]
fn examples_read_back_after_every_pass() {
    use dlc::pipeline::{Level, graph_passes, lower_passes};
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for path in files(&root).into_iter().filter(|p| p.extension().is_some_and(|e| e == "dl")) {
        let text = std::fs::read_to_string(&path).expect("an example can be read");
        let loaded = load(&path, &text);
        for name in loaded.module.model_names() {
            let (lowered, _) = loaded.module.lower(Some(&name), false);
            let graph = lowered.expect("a sound model is written out").graph;
            for level in [Level::O0, Level::O1, Level::O2] {
                let steps = [graph_passes(level), lower_passes(level)].concat();
                let control = Control { verify_each: true, ..Control::default() };
                let mut last = String::new();
                let read_back = &mut |pass: &'static str, graph: &dlc::ir::Graph| {
                    let printed = dlc::ir::print::print_graph(graph);
                    if printed.text == last {
                        return;
                    }
                    let options =
                        LoadOptions { constants: &printed.constants, ..LoadOptions::default() };
                    let back = front::load("core.dl", &printed.text, &options);
                    let (again, diags) = back.module.lower(None, false);
                    let said = diagnostics(back.module.sources(), &diags);
                    let again = again.unwrap_or_else(|| panic!("{name} after {pass}: {said}"));
                    let again = dlc::ir::print::print_graph(&again.graph).text;
                    assert_eq!(again, printed.text, "{name} after {pass}");
                    last = printed.text;
                };
                dlc::pass::run(&mut graph.clone(), &steps, &control, read_back)
                    .unwrap_or_else(|failure| panic!("{name}: {failure}"));
            }
        }
    }
}

/// What a command says about a text. New commands go here.
fn run(command: &str, path: &Path, text: &str) -> String {
    let mut words = command.split_whitespace();
    let (command, args) = (words.next().unwrap_or(""), words.collect::<Vec<_>>());
    match command {
        // Every diagnostic, in the order of the text.
        "check" => {
            let loaded = load(path, text);
            let mut diags = loaded.diagnostics;
            diags.extend(loaded.module.check());
            match diags.is_empty() {
                true => "sound\n".to_string(),
                false => diagnostics(loaded.module.sources(), &diags),
            }
        }
        // The graph of a model (the last one, or the one named; `training` after that).
        "lower" => {
            let loaded = load(path, text);
            let training = args.contains(&"training");
            let model = args.iter().find(|a| **a != "training").copied();
            let (lowered, diags) = loaded.module.lower(model, training);
            let mut out = diagnostics(loaded.module.sources(), &loaded.diagnostics);
            out += &diagnostics(loaded.module.sources(), &diags);
            if let Some(lowered) = lowered {
                if let Err(violations) = dlc::ir::verify::verify_compact(&lowered.graph) {
                    let _ = writeln!(out, "{violations:#?}");
                }
                out += &dlc::ir::print::print_graph(&lowered.graph).text;
                for w in lowered.weights {
                    let _ = writeln!(out, "weights `{}` from {}", w.prefix, w.file);
                    for r in w.renames {
                        let _ = writeln!(out, "  {} = {} {:?}", r.ours, r.theirs, r.permute);
                    }
                }
            }
            out
        }
        // The last model after these passes (`strict` before them: exact rewrites only).
        "passes" => {
            let loaded = load(path, text);
            let (lowered, diags) = loaded.module.lower(None, false);
            let said = diagnostics(loaded.module.sources(), &diags);
            let Some(mut graph) = lowered.map(|l| l.graph) else { return said };
            let mut control = Control { verify_each: true, ..Control::default() };
            control.settings.strict = args.contains(&"strict");
            let names = args.iter().filter(|a| **a != "strict");
            let steps: Vec<Step> = names
                .map(|a| Step::Pass(dlc::pass::find(a).expect("a pass of the table").name))
                .collect();
            match dlc::pass::run(&mut graph, &steps, &control, &mut |_, _| {}) {
                Ok(_) => said + &dlc::ir::print::print_graph(&graph).text,
                Err(failure) => format!("{said}{failure}\n"),
            }
        }
        // A kernel after steps: `simplify`, `legalize16` (vectors of 16 bytes), `verify`.
        "kernel" => kernel(text, &args),
        other => panic!("{}: no command `{other}`", path.display()),
    }
}

fn kernel(text: &str, steps: &[&str]) -> String {
    use dlc::kernel::legalize::{Form, legalize_to};
    use dlc::kernel::math::Means;
    let mut kernel = match dlc::kernel::parse::parse_kernel(text) {
        Ok(kernel) => kernel,
        Err(e) => return format!("{e}\n"),
    };
    for step in steps {
        kernel = match *step {
            "verify" => match dlc::kernel::verify::verify(&kernel) {
                Ok(()) => kernel,
                Err(e) => return format!("{e}\n"),
            },
            "simplify" => dlc::kernel::simplify::simplify(&kernel),
            "legalize16" => {
                let form = Form {
                    vector_bytes: 16,
                    narrowest: 16,
                    masked: false,
                    packed: true,
                    means: Means { scales: false, double: true },
                    short: false,
                    half: false,
                };
                legalize_to(&kernel, form)
            }
            other => panic!("no step `{other}`"),
        };
    }
    dlc::kernel::print::print_kernel(&kernel)
}

fn load(path: &Path, text: &str) -> front::Loaded {
    let folder = path.parent().expect("a case lies in a folder").to_path_buf();
    let resolver = move |p: &str| {
        std::fs::read_to_string(folder.join(p)).map_err(|_| "no such file".to_string())
    };
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("?");
    front::load(name, text, &LoadOptions { resolver: &resolver, ..LoadOptions::default() })
}

fn diagnostics(sources: &SourceMap, diags: &[Diagnostic]) -> String {
    let mut out = String::new();
    let place = |span: dlc::base::source::Span| {
        let file = sources.file(span.file);
        let at = file.line_col(span.start);
        format!("{}:{}:{}", file.name, at.line, at.column)
    };
    for d in diags {
        let at = d.span.map_or("-".into(), place);
        let _ = writeln!(out, "{at}: {}[{}]: {}", d.severity.name(), d.code, d.message);
        if let Some(span) = d.span {
            let text = sources.text(span).split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = writeln!(out, "    `{}`", text.chars().take(70).collect::<String>());
        }
        for l in &d.labels {
            let _ = writeln!(out, "    {}: `{}`: {}", place(l.span), sources.text(l.span), l.text);
        }
        for n in &d.notes {
            let _ = writeln!(out, "    note: {n}");
        }
        if let Some(help) = &d.help {
            let _ = writeln!(out, "    help: {help}");
        }
    }
    out
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut work = vec![folder.to_path_buf()];
    while let Some(folder) = work.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            match entry.path() {
                p if p.is_dir() => work.push(p),
                p if p.extension().is_some_and(|e| e != "expected") => found.push(p),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// The first lines that differ, with those around them.
fn difference(expected: &str, found: &str) -> String {
    let (e, f): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let at = e.iter().zip(&f).position(|(a, b)| a != b).unwrap_or(e.len().min(f.len()));
    let part = |lines: &[&str]| {
        let shown: Vec<&str> = lines.iter().skip(at).take(6).copied().collect();
        shown.join("\n  ")
    };
    format!("line {}\nexpected:\n  {}\nfound:\n  {}", at + 1, part(&e), part(&f))
}
