//! `dlc schema SUBCOMMAND`: the JSON schema of a result.

use serde_json::{Value as Json, json};

use super::out;
use super::report::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// run, bench, check, compile, ops, doctor, explain, fmt, emit, inspect …
    subcommand: String,
    /// inspect: the view
    view: Option<String>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let name = match (&args.subcommand[..], args.view.as_deref()) {
        ("inspect", Some(view)) => format!("inspect {view}"),
        (name, _) => name.to_string(),
    };
    let Some(schema) = schema(&name) else {
        return Err(Failure::usage(format!("there is no schema of `{name}`")).help(
            "check, fmt, compile, emit, run, bench, ops, explain, doctor; inspect inputs, summary, \
             passes, fusion, schedule, memory, kernels",
        ));
    };
    let mut document = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "title": format!("dlc {name}") });
    let fields = schema.as_object().expect("a schema is an object").clone();
    document.as_object_mut().expect("an object").extend(fields);
    out::json(&document)
}

fn int() -> Json {
    json!({ "type": "integer" })
}

fn number() -> Json {
    json!({ "type": "number" })
}

fn text() -> Json {
    json!({ "type": "string" })
}

fn truth() -> Json {
    json!({ "type": "boolean" })
}

fn maybe(of: &str) -> Json {
    json!({ "type": [of, "null"] })
}

fn list(of: Json) -> Json {
    json!({ "type": "array", "items": of })
}

/// An object in which all of these fields occur; more may.
fn object(fields: &[(&str, Json)]) -> Json {
    let properties: serde_json::Map<String, Json> =
        fields.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    let required: Vec<&str> = fields.iter().map(|(k, _)| *k).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn tensor() -> Json {
    object(&[("dtype", text()), ("shape", list(int())), ("data", list(json!({})))])
}

/// `launches` is there with `--profile` only, what a launch costs its caller on a GPU only.
fn bench(mut always: Json) -> Json {
    always["properties"]["launch_overhead_us"] = number();
    always["properties"]["launches"] = list(object(&[
        ("id", int()),
        ("kernel", text()),
        ("generator", text()),
        ("ops", list(text())),
        ("times", int()),
        ("us", number()),
        ("share", number()),
        ("flops", int()),
        ("bytes", int()),
        ("gflops", number()),
        ("gbytes", number()),
    ]));
    always
}

fn schema(name: &str) -> Option<Json> {
    let dims = json!({ "type": "array", "items": { "type": ["integer", "string"] } });
    let port = object(&[("name", text()), ("dtype", text()), ("shape", dims.clone())]);
    Some(match name {
        "check" => object(&[(
            "files",
            list(object(&[("file", text()), ("errors", int()), ("warnings", int())])),
        )]),
        "fmt" => object(&[("changed", list(text()))]),
        "emit" => object(&[("kind", text()), ("text", text())]),
        "compile" => object(&[
            ("model", text()),
            ("target", text()),
            ("files", list(object(&[("kind", text()), ("path", text()), ("bytes", int())]))),
            ("launches", maybe("integer")),
            ("kernels", maybe("integer")),
            ("arena_bytes", maybe("integer")),
            ("weights_bytes", int()),
            ("compile_ms", number()),
        ]),
        "run" => {
            object(&[("outputs", json!({ "type": "object", "additionalProperties": tensor() }))])
        }
        "bench" => bench(object(&[
            ("median_us", number()),
            ("min_us", number()),
            ("p90_us", number()),
            ("runs", int()),
            ("first_run_us", number()),
            ("compile_ms", number()),
            ("load_ms", number()),
            ("arena_bytes", int()),
            ("weights_bytes", int()),
            ("peak_rss_bytes", int()),
            ("flops", int()),
            ("gflops", number()),
        ])),
        "explain" => object(&[
            ("code", text()),
            ("title", text()),
            ("explanation", text()),
            ("failing", text()),
            ("corrected", text()),
        ]),
        "ops" => object(&[("ops", list(json!({ "type": "object" })))]),
        "doctor" => object(&[
            ("dlc", text()),
            ("cpu", json!({ "type": "object" })),
            ("adapters", list(json!({}))),
            ("targets", list(object(&[("name", text()), ("works", truth())]))),
        ]),
        "inspect inputs" => object(&[
            ("inputs", list(port.clone())),
            ("outputs", list(port)),
            ("dims", list(object(&[("name", text()), ("low", int()), ("high", maybe("integer"))]))),
        ]),
        "inspect summary" => object(&[
            (
                "layers",
                list(object(&[
                    ("name", text()),
                    ("op", text()),
                    ("output_shape", dims),
                    ("params", int()),
                    ("trainable", int()),
                    ("flops", maybe("integer")),
                ])),
            ),
            ("params", int()),
            ("flops", maybe("integer")),
            ("arena_bytes", maybe("integer")),
        ]),
        "inspect passes" => list(object(&[
            ("pass", text()),
            ("ms", number()),
            ("nodes_before", int()),
            ("nodes_after", int()),
            ("rewrites", int()),
        ])),
        "inspect fusion" => object(&[
            (
                "groups",
                list(object(&[
                    ("id", int()),
                    ("anchor", maybe("string")),
                    ("ops", list(text())),
                    ("packed", list(text())),
                ])),
            ),
            (
                "decisions",
                list(object(&[
                    ("producer", text()),
                    ("consumer", text()),
                    ("fused", truth()),
                    ("reason", text()),
                ])),
            ),
        ]),
        "inspect schedule" => object(&[
            (
                "launches",
                list(object(&[
                    ("id", int()),
                    ("kernel", text()),
                    ("ops", list(text())),
                    ("queue", text()),
                    ("wave", int()),
                    ("root", truth()),
                    ("depends_on", list(int())),
                    ("flops", int()),
                    ("bytes", int()),
                    ("estimate_us", number()),
                ])),
            ),
            ("queues", list(object(&[("name", text()), ("launches", list(int()))]))),
            (
                "transfers",
                list(object(&[
                    ("value", text()),
                    ("from", text()),
                    ("to", text()),
                    ("bytes", int()),
                    ("estimate_us", number()),
                    ("after", maybe("integer")),
                    ("before", maybe("integer")),
                ])),
            ),
            ("critical_path", object(&[("launches", list(int())), ("estimate_us", number())])),
        ]),
        "inspect memory" => object(&[
            ("arena_bytes", int()),
            ("scratch_per_worker_bytes", int()),
            ("max_live_bytes", int()),
            ("weights_bytes", int()),
            ("state_bytes", int()),
            ("inputs_bytes", int()),
            ("outputs_bytes", int()),
            (
                "buffers",
                list(object(&[
                    ("id", int()),
                    ("name", text()),
                    ("offset", int()),
                    ("bytes", int()),
                    ("first", int()),
                    ("last", int()),
                    ("alias_of", maybe("integer")),
                ])),
            ),
            ("order", list(int())),
        ]),
        "inspect kernels" => object(&[("kernels", list(json!({ "type": "object" })))]),
        _ => return None,
    })
}
