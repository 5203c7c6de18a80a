//! What computes the queue `gpu`: an adapter of this machine, one that is imagined, or a stand-in.

use super::Place;
use crate::model::{Diagnostics, Options};
use crate::runtime::dispatch::{Dispatches, Limits};
use crate::schedule::place::{Abilities, Accelerator, Rule};
use crate::schedule::program::Program;
use crate::target::Target;

pub struct Far {
    pub target: Target,
    pub kind: Accelerator,
    pub abilities: Abilities,
    /// Of the adapter, where there is one.
    limits: Option<Limits>,
}

/// Has all types.
const ABLE: Abilities = Abilities { int64: true, float64: true };

impl Far {
    /// Whether the adapter computes a program. One that is not there computes all.
    pub fn takes(&self, program: &Program) -> Result<bool, Diagnostics> {
        let Some(limits) = &self.limits else { return Ok(true) };
        match Dispatches::of(program, limits) {
            Ok(_) => Ok(true),
            Err(e) if ["E0862", "E0863", "E0865", "E0867"].contains(&e.code) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// The queue, or why there is none: then all is for the CPU, where the cost model may choose. What
/// was asked for by name is planned for without an adapter too, as the target `gpu` is.
pub fn find(place: &Place, options: &Options) -> Result<Result<Far, String>, Diagnostics> {
    if let Some(target) = place.stand_in.clone() {
        let kind = Accelerator::Discrete;
        return Ok(Ok(Far { target, kind, abilities: ABLE, limits: None }));
    }
    let may_choose = matches!(place.rule, Rule::Auto);
    let target = match Target::parse("gpu") {
        Ok(target) => target,
        Err(_) if may_choose => return Ok(Err("this dlc was built without the GPU".into())),
        Err(e) => return Err(e.into()),
    };
    adapter(target, options, may_choose)
}

#[cfg(feature = "gpu")]
fn adapter(
    target: Target,
    options: &Options,
    may_choose: bool,
) -> Result<Result<Far, String>, Diagnostics> {
    use crate::runtime::gpu::device::Device;
    match Device::shared(options.adapter.as_deref()) {
        Ok(device) => {
            let limits = device.allowed();
            let (int64, float64) = (limits.features.int64, limits.features.float64);
            let kind = match device.adapter.integrated {
                true => Accelerator::Integrated,
                // One of software stands in for what it imitates, so that users' plans are tested.
                false => Accelerator::Discrete,
            };
            let abilities = Abilities { int64, float64 };
            Ok(Ok(Far { target, kind, abilities, limits: Some(limits) }))
        }
        Err(e) if options.adapter.is_some() => Err(e.into()),
        Err(e) if may_choose => Ok(Err(e.message)),
        Err(_) => {
            let kind = Accelerator::Discrete;
            Ok(Ok(Far { target, kind, abilities: ABLE, limits: None }))
        }
    }
}

#[cfg(not(feature = "gpu"))]
fn adapter(target: Target, _: &Options, _: bool) -> Result<Result<Far, String>, Diagnostics> {
    let kind = Accelerator::Discrete;
    Ok(Ok(Far { target, kind, abilities: ABLE, limits: None }))
}
