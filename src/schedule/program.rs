//! A Program: launches in order with their buffers, the memory plan, and nothing symbolic.
//!
//! A Program is a tree of launches, repeats and branches, in *waves*: the steps of one wave may run
//! side by side, whatever the number of threads, so a buffer lives to the end of the wave that
//! last uses it. A [`Launch`] runs one kernel over its grid; it passes one pointer for each
//! parameter of the kernel.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::machine::Extent;
use crate::base::{DType, Tensor};
use crate::kernel::ir::Kernel;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct BufferId(pub u32);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LaunchId(pub u32);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct KernelId(pub u32);

/// Whose bytes a buffer is; the number counts within the class, in the order of the signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Place {
    /// The caller's, read only.
    Input(u32),
    /// The caller's, written whole by each run.
    Output(u32),
    /// Weights and constants, never written.
    Const(u32),
    /// Kept from run to run.
    State(u32),
    /// At this offset of the arena, in bytes, a multiple of 64.
    Arena { offset: u64 },
}

/// A tensor in memory, packed row-major.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Buffer {
    #[serde(with = "shared_text")]
    pub name: Arc<str>,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub place: Place,
    /// The buffer whose bytes this one takes over (in place), if any; both have the same place.
    pub alias_of: Option<BufferId>,
    /// First and last position in the launch order at which the bytes matter, extended to waves.
    pub first: u32,
    pub last: u32,
}

impl Buffer {
    /// Bytes of the elements.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product::<u64>() * self.dtype.bytes() as u64
    }

    /// Bytes in the arena: rounded up to 64.
    pub fn padded(&self) -> u64 {
        self.bytes().next_multiple_of(64)
    }
}

/// What a launch passes for one parameter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Arg {
    pub buffer: BufferId,
    /// In bytes, from the start of the buffer.
    pub offset: u64,
    /// Bytes to move on for each iteration of the enclosing repeats, the outermost first.
    pub steps: Vec<i64>,
}

impl Arg {
    pub fn whole(buffer: BufferId) -> Arg {
        Arg { buffer, offset: 0, steps: vec![] }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Queue {
    Cpu,
    Gpu,
}

impl Queue {
    pub fn name(self) -> &'static str {
        match self {
            Queue::Cpu => "cpu",
            Queue::Gpu => "gpu",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Launch {
    pub kernel: KernelId,
    pub args: Vec<Arg>,
    /// Names of the graph's ops that the launch computes, in graph order.
    pub ops: Vec<Cow<'static, str>>,
    /// The generator that built the kernel.
    pub generator: Cow<'static, str>,
    pub queue: Queue,
    pub wave: u32,
    pub depends_on: Vec<LaunchId>,
    /// The product that it computes in tiles, if it does.
    pub product: Option<Extent>,
    pub flops: u64,
    /// Bytes read and written, each operand counted once.
    pub bytes: u64,
    pub estimate_us: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Step {
    Launch(LaunchId),
    /// The body `times` times, one after the other.
    Repeat {
        times: u64,
        body: Block,
    },
    /// By a bool in a buffer.
    Branch {
        cond: BufferId,
        then: Block,
        els: Block,
    },
}

/// Waves, one after the other; the steps of a wave are independent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Block {
    pub waves: Vec<Vec<Step>>,
}

/// An input, output, constant or state of a program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    #[serde(with = "shared_text")]
    pub name: Arc<str>,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub buffer: BufferId,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Program {
    #[serde(with = "shared_text")]
    pub name: Arc<str>,
    pub buffers: Vec<Buffer>,
    /// Distinct kernels; launches share them.
    pub kernels: Vec<Kernel>,
    /// By id, which is also the launch order.
    pub launches: Vec<Launch>,
    pub body: Block,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// A state is read and written through one buffer.
    pub states: Vec<Port>,
    pub consts: Vec<Port>,
    /// Values of `consts`; stored apart from the rest.
    #[serde(skip)]
    pub const_values: Vec<Tensor>,
    pub arena_bytes: u64,
    /// The greatest sum of live bytes at any moment: no plan can be smaller.
    pub max_live_bytes: u64,
    pub scratch_per_worker: u64,
}

impl Program {
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0 as usize]
    }

    pub fn launch(&self, id: LaunchId) -> &Launch {
        &self.launches[id.0 as usize]
    }

    pub fn kernel(&self, id: KernelId) -> &Kernel {
        &self.kernels[id.0 as usize]
    }

    /// FLOP of a run: repeats as often as they run, of a branch the side that computes more.
    pub fn flops(&self) -> u64 {
        self.flops_of(&self.body)
    }

    fn flops_of(&self, block: &Block) -> u64 {
        let of = |step: &Step| match step {
            Step::Launch(id) => self.launch(*id).flops,
            Step::Repeat { times, body } => self.flops_of(body).saturating_mul(*times),
            Step::Branch { then, els, .. } => self.flops_of(then).max(self.flops_of(els)),
        };
        block.waves.iter().flatten().fold(0, |sum, step| sum.saturating_add(of(step)))
    }
}

/// Names as `serde` takes them.
mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        (**text).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(from).map(Into::into)
    }
}
