//! Imports flow one way: this reads the `use` lines and paths of every file.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules that may import those of lower ranks and of their own.
const RANKS: &[&[&str]] = &[
    &["base"],
    &["ir"],
    &["front", "import", "pass"],
    &["kernel"],
    &["schedule"],
    &["target"],
    &["runtime"],
    &["pipeline"],
    &["plan", "placed", "session", "tune", "model", "load"],
    &["train", "artifact"],
    &["cli"],
];

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|r| r.contains(&module))
}

fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).expect("a folder of the source").map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// Modules that a text names as `crate::NAME`, and as `crate::{NAME, …}`.
fn imports(text: &str) -> Vec<String> {
    let code: String =
        text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = vec![];
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let name = |s: &str| -> String {
            s.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = &list[..list.find('}').unwrap_or(list.len())];
                found.extend(list.split(',').map(name));
            }
            None => found.push(name(rest)),
        }
    }
    found
}

#[test]
fn imports_flow_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = vec![];
    files(&src, &mut all);
    assert!(all.len() > 50, "the source is where it is looked for");
    let mut wrong = vec![];
    for path in all {
        let relative = path.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs");
        let Some(own) = rank(module) else { continue };
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            let Some(other) = rank(&import) else { continue };
            let sideways = other == own && import != module && own != 8;
            if other > own || sideways {
                wrong.push(format!("{} imports crate::{import}", relative.display()));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "imports against the direction:\n{}", wrong.join("\n"));
}

#[test]
fn petgraph_is_named_in_one_file() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = vec![];
    files(&src, &mut all);
    let code = |p: &PathBuf| {
        let text = fs::read_to_string(p).unwrap();
        text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains("petgraph"))
    };
    let named: Vec<PathBuf> = all.into_iter().filter(code).collect();
    assert_eq!(named, [src.join("ir/graph.rs")]);
}
