//! The examples: every model is free of complaints, and every run of every `expected.json` gives
//! what it says. `examples/README.md` describes the files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dlc::base::{Bindings, Symbol, Tensor, TensorType};
use dlc::front::{self, LoadOptions, Loaded, Lowered};
use dlc::import::{Weights, npy, read_file, safetensors, value};
use dlc::ir::Graph;
use dlc::ir::compare::allclose;
use dlc::model::{Model, Options};
use dlc::target::Target;
use serde_json::Value as Json;

#[test]
fn models_are_free_of_complaints() {
    for path in files("dl") {
        let loaded = load(&path);
        let mut said = loaded.diagnostics;
        said.extend(loaded.module.check());
        let said: Vec<String> = said.iter().map(|d| format!("{}: {}", d.code, d.message)).collect();
        assert!(said.is_empty(), "{}:\n{}", path.display(), said.join("\n"));
    }
}

#[test]
fn runs_on_the_reference() {
    every_run("reference", &|_| true);
}

/// The small ones: an interpreter of kernels, itself unoptimized, takes minutes for the others.
#[test]
fn runs_on_the_kernel_interpreter() {
    every_run("cpu:interpreter", &|folder| {
        ["expr", "iris", "gru", "decoder"].iter().any(|small| folder.ends_with(small))
    });
}

#[cfg(feature = "cpu")]
#[test]
fn runs_on_the_cpu() {
    every_run("cpu", &|_| true);
}

/// The untrained networks have the parameters and the results that their papers give them.
#[test]
fn untrained_networks_have_their_sizes() {
    let mut seen = 0;
    for (name, graph, file) in untrained() {
        seen += 1;
        let size = |ty: &TensorType| ty.shape.concrete().expect("bound").iter().product::<usize>();
        let trained = graph.params.iter().map(|id| graph.node(*id)).filter(|node| {
            let path = node.op.str("name");
            !path.ends_with("running_mean") && !path.ends_with("running_var")
        });
        let count: usize = trained.map(|node| size(&node.results[0])).sum();
        assert_eq!(count as u64, file["trained_parameters"].as_u64().expect("a number"), "{name}");

        for output in &graph.outputs {
            let want = &file["output_shapes"][&*output.name];
            let got = graph.ty(output.value).shape.concrete().expect("bound");
            assert_eq!(*want, Json::from(got), "{name}: {}", output.name);
        }
    }
    assert!(seen > 1, "examples without weights are there");
}

/// Names, graphs and expectations of the networks whose weights come from a seed.
pub fn untrained() -> impl Iterator<Item = (String, Graph, Json)> {
    expectations().into_iter().filter_map(|(folder, file)| {
        let name = file["random"]["model"].as_str()?.to_string();
        let dims = file["random"]["dims"].as_object().expect("dimensions by name");
        let dims: Bindings =
            dims.iter().map(|(n, v)| (Symbol::new(n), v.as_i64().expect("an extent"))).collect();
        let graph = lowered(&folder, &name).graph.bind(&dims).expect("the dimensions fit");
        Some((name, graph, file))
    })
}

/// Names and graphs of all other examples, with the dimensions of their runs.
pub fn trained() -> Vec<(String, Graph)> {
    let mut found = BTreeMap::new();
    for (folder, file) in expectations() {
        for run in list(&file["runs"]) {
            let name = text(&run["model"]);
            let first = run["steps"].as_array().map_or(run, |steps| &steps[0]);
            let graph = lowered(&folder, name).graph;
            let shape = |id: &dlc::ir::NodeId| {
                let (node, inputs) = (graph.node(*id), &first["inputs"]);
                let value = &inputs[node.op.str("name")];
                let given = given(&folder, value, Some(&node.results[0])).expect("a value");
                given.shape().to_vec()
            };
            let shapes: Vec<Vec<usize>> = graph.inputs.iter().map(shape).collect();
            let dims = dlc::ir::bind::solve(&graph, &shapes, &Bindings::new()).expect("they fit");
            found.insert(name.to_string(), graph.bind(&dims).expect("the dimensions fit"));
        }
    }
    found.into_iter().collect()
}

/// All runs of the examples whose folder is wanted, on one target.
pub fn every_run(target: &str, wanted: &dyn Fn(&Path) -> bool) {
    let (mut failures, mut runs) = (vec![], 0);
    for (folder, file) in expectations().into_iter().filter(|(folder, _)| wanted(folder)) {
        for run in list(&file["runs"]) {
            runs += 1;
            let name = text(&run["model"]);
            if let Err(message) = one_run(&folder, run, target) {
                failures.push(format!("{name} on {target}: {message}"));
            }
        }
    }
    assert!(runs > 7, "the examples have runs: {runs}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// One run, or several steps of one session.
fn one_run(folder: &Path, run: &Json, target: &str) -> Result<(), String> {
    let Lowered { graph, weights: clauses } = lowered(folder, text(&run["model"]));
    let mut weights = Weights::default();
    for clause in clauses {
        let bytes = read_file(Path::new(&clause.file)).map_err(|e| e.to_string())?;
        for (name, tensor) in safetensors::read(bytes).map_err(|e| e.to_string())?.tensors {
            weights.insert(name, tensor);
        }
    }
    let target = Target::parse(target).map_err(|d| d.message)?;
    let options = Options { target, ..Options::default() };
    let model = Model::new(graph, weights, options, &mut |_, _| {}).map_err(|d| d.to_string())?;

    let single = std::slice::from_ref(run);
    let steps = run["steps"].as_array().map_or(single, Vec::as_slice);
    let mut session = None;
    for (at, step) in steps.iter().enumerate() {
        let inputs: Vec<Tensor> = model
            .inputs()
            .iter()
            .map(|(name, ty)| given(folder, &step["inputs"][name], Some(ty)))
            .collect::<Result<_, _>>()?;
        if session.is_none() {
            let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
            let dims = model.solve(&shapes).map_err(|d| d.to_string())?;
            session = Some(model.session_for(&dims).map_err(|d| d.to_string())?);
        }
        let session = session.as_mut().expect("made above");
        for (i, input) in inputs.iter().enumerate() {
            session.set_input(i, input).map_err(|d| d.to_string())?;
        }
        session.run().map_err(|d| d.to_string())?;

        let bound = |name: &str| run[name].as_f64().expect("a tolerance");
        let mut wanted: BTreeMap<&str, &Json> = step["outputs"]
            .as_object()
            .expect("outputs by name")
            .iter()
            .map(|(n, v)| (&**n, v))
            .collect();
        for (i, (name, _)) in model.outputs().iter().enumerate() {
            if let Some(want) = wanted.remove(&**name) {
                let want = given(folder, want, None)?;
                allclose(
                    &session.output(i).map_err(|d| d.to_string())?,
                    &want,
                    bound("rtol"),
                    bound("atol"),
                )
                .map_err(|e| format!("step {at}, {name}: {e}"))?;
            }
        }
        if !wanted.is_empty() {
            return Err(format!("there are no outputs {:?}", wanted.keys()));
        }
    }
    Ok(())
}

/// A value in the notation of the command line, files relative to the folder.
fn given(folder: &Path, value: &Json, wanted: Option<&TensorType>) -> Result<Tensor, String> {
    let value = value.as_str().ok_or("an input is missing")?;
    match value.strip_prefix('@') {
        Some(file) => {
            let bytes = read_file(&folder.join(file)).map_err(|e| e.to_string())?;
            npy::read(bytes).map_err(|e| e.to_string())
        }
        None => value::parse(value, wanted).map_err(|e| e.to_string()),
    }
}

/// The graph of `file.dl` or `file.dl:model`.
fn lowered(folder: &Path, name: &str) -> Lowered {
    let (file, model) = name.split_once(':').map_or((name, None), |(f, m)| (f, Some(m)));
    let loaded = load(&folder.join(file));
    let (lowered, said) = loaded.module.lower(model, false);
    lowered.unwrap_or_else(|| panic!("{name}: {:?}{said:?}", loaded.diagnostics))
}

fn load(path: &Path) -> Loaded {
    let text = std::fs::read_to_string(path).expect("an example is text");
    front::load(&path.to_string_lossy(), &text, &LoadOptions::default())
}

fn expectations() -> Vec<(PathBuf, Json)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("expected.json can be read");
        let folder = path.parent().expect("a file is in a folder").to_path_buf();
        (folder, serde_json::from_str(&text).expect("expected.json is JSON"))
    };
    files("json").into_iter().map(read).collect()
}

/// The files with this ending in the folders of the examples, in order.
fn files(ending: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let found = std::fs::read_dir(folder).expect("a folder can be read");
        found.map(|e| e.expect("an entry can be read").path()).collect()
    };
    let folders = entries(&root).into_iter().filter(|p| p.is_dir());
    let all = folders.flat_map(|folder| entries(&folder));
    let mut found: Vec<PathBuf> =
        all.filter(|p| p.extension().is_some_and(|e| e == ending)).collect();
    found.sort();
    assert!(found.len() > 7, "the examples are there");
    found
}

fn text(json: &Json) -> &str {
    json.as_str().expect("a text")
}

fn list(json: &Json) -> &[Json] {
    json.as_array().expect("a list")
}
