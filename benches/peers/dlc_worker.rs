//! dlc as `run.py` drives it: `model.dl` and `weights.safetensors` through the library's front door,
//! a session that is called again and again.

#[path = "protocol.rs"]
mod protocol;

use std::path::Path;

use dlc::artifact::map::map_file;
use dlc::{Options, Session, Tensor, WeightSource};
use protocol::{Fallible, Input, Ready};

struct Running {
    session: Session,
    outputs: usize,
}

impl Ready for Running {
    fn call(&mut self) {
        self.session.run().expect("a session that was bound runs");
    }

    fn outputs(&self) -> Vec<Vec<f32>> {
        let values = |i| {
            let t = self.session.output(i).expect("a run was computed");
            (0..t.shape().iter().product()).map(|e| t.get_f64(e) as f32).collect()
        };
        (0..self.outputs).map(values).collect()
    }
}

fn load(folder: &Path, threads: usize, inputs: &[Input]) -> Fallible<Running> {
    let text = std::fs::read_to_string(folder.join("model.dl"))?;
    let weights = dlc::import::safetensors::read(map_file(&folder.join("weights.safetensors"))?)?;
    let weights = WeightSource::Given(weights);
    let model = dlc::compile(&text, &Options { threads, weights, ..Options::default() })?;
    let mut session = model.session()?;
    for (i, input) in inputs.iter().enumerate() {
        session.set_input(i, &Tensor::from_slice(&input.shape, &input.data))?;
    }
    Ok(Running { session, outputs: model.outputs().len() })
}

fn main() -> Fallible<()> {
    protocol::serve(&format!("dlc {}", env!("CARGO_PKG_VERSION")), load)
}
