//! tract as `run.py` drives it: an optimized plan of `model.onnx`.

#[path = "../../protocol.rs"]
mod protocol;

use std::path::Path;
use std::sync::Arc;

use protocol::{Fallible, Input, Ready};
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

struct Running {
    plan: Arc<TypedRunnableModel>,
    inputs: TVec<TValue>,
    results: TVec<TValue>,
}

impl Ready for Running {
    fn call(&mut self) {
        self.results = self.plan.run(self.inputs.clone()).expect("the plan ran before");
    }

    fn outputs(&self) -> Vec<Vec<f32>> {
        let elements = |t: &TValue| {
            t.as_bytes()
                .chunks_exact(4)
                .map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]))
                .collect()
        };
        self.results.iter().map(elements).collect()
    }
}

fn load(folder: &Path, threads: usize, inputs: &[Input]) -> Fallible<Running> {
    if threads > 1 {
        set_default_executor(Executor::multithread(threads));
    }
    let plan = tract_onnx::onnx().model_for_path(folder.join("model.onnx"))?;
    let plan = plan.into_optimized()?.into_runnable()?;
    let inputs = inputs.iter().map(|i| Ok(Tensor::from_shape(&i.shape, &i.data)?.into_tvalue()));
    let inputs = inputs.collect::<TractResult<_>>()?;
    Ok(Running { plan, inputs, results: tvec!() })
}

fn main() -> Fallible<()> {
    protocol::serve("tract-onnx 0.23.9", load)
}
