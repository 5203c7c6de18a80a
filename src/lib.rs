//! dlc: a deep-learning graph compiler.
//!
//! ```no_run
//! let source = "model double(x: f32[4]) { return x + x as y }";
//! let model = dlc::compile(source, &dlc::Options::default())?;
//! let mut session = model.session()?;
//! session.set_input(0, &dlc::Tensor::from_slice(&[4], &[1.0f32, 2.0, 3.0, 4.0]))?;
//! session.run()?;
//! println!("{:?}", session.output(0)?);
//! # Ok::<(), dlc::Diagnostics>(())
//! ```
//!
//! `pipeline` is the whole compiler on one page. The modules import each other in one direction:
//! `base < ir < {front, import, pass} < kernel < schedule < target < runtime < pipeline <
//! {plan, session, model, load} < artifact < cli`.

pub mod artifact;
pub mod base;
#[cfg(feature = "cli")]
pub mod cli;
pub mod front;
pub mod import;
pub mod ir;
pub mod kernel;
pub mod load;
pub mod model;
pub mod pass;
pub mod pipeline;
pub mod placed;
pub mod plan;
pub mod runtime;
pub mod schedule;
pub mod session;
pub mod target;
#[cfg(feature = "cpu")]
pub mod tune;

pub use base::{DType, Shape, Tensor, TensorType};
pub use model::{Diagnostics, Model, Options, WeightSource};
pub use pipeline::Level;
pub use session::Session;

/// Compiles the last model of a text, in source or core form. The text imports nothing and its
/// `weights` clauses name files that are opened.
pub fn compile(source: &str, options: &Options) -> Result<Model, Diagnostics> {
    let files = load::Files {
        text: &front::no_imports,
        bytes: &|path| import::read_file(std::path::Path::new(path)),
    };
    load::model("model.dl", source, None, options.clone(), &files)
}
