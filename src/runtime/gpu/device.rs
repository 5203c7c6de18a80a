//! Adapters, and the device of one of them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::cache::Cache;
use super::failure::Failure;
use super::ready;
use crate::base::diag::Diagnostic;
use crate::base::machine::Tiles;
use crate::runtime::dispatch::Limits;
use crate::runtime::keep::Keep;
use crate::target::wgsl::{Coop, Features, Matmul, Matrices};

/// What no shader needs.
const EXTRAS: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::PIPELINE_CACHE);

/// What is known of an adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub name: String,
    pub backend: String,
    pub driver: String,
    /// A driver that computes on the CPU.
    pub software: bool,
    /// In the processor, with whose memory it works.
    pub integrated: bool,
    pub features: Features,
    /// Whether it says how long a launch takes.
    pub timestamps: bool,
    /// Tensor cores: shapes and types of the matrices that they multiply.
    pub cooperative: Vec<String>,
    /// Bytes that one binding may have.
    pub binding: u64,
    /// Buffers that a shader may read or write.
    pub bindings: u32,
    /// Bytes of memory that a workgroup shares.
    pub workgroup: u32,
}

/// An opened device; sessions share it.
pub struct Device {
    pub adapter: Adapter,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) failure: Failure,
    cache: OnceLock<Option<Cache>>,
    limits: wgpu::Limits,
    /// Tiles of cooperative matrices, and whether they gave right sums.
    pub(super) tried: Mutex<BTreeMap<Coop, bool>>,
}

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN | wgpu::Backends::METAL,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

fn all() -> Vec<wgpu::Adapter> {
    let instance = instance();
    ready(instance.enumerate_adapters(wgpu::Backends::all()), || {})
}

fn describe(adapter: &wgpu::Adapter) -> Adapter {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let cooperative = adapter.cooperative_matrix_properties();
    Adapter {
        name: info.name,
        backend: format!("{:?}", info.backend).to_lowercase(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
        software: info.device_type == wgpu::DeviceType::Cpu,
        integrated: info.device_type == wgpu::DeviceType::IntegratedGpu,
        features: features(adapter),
        timestamps: adapter.features().contains(wgpu::Features::TIMESTAMP_QUERY),
        cooperative: cooperative.iter().map(|p| format!("{p:?}")).collect(),
        binding: limits.max_storage_buffer_binding_size,
        bindings: limits.max_storage_buffers_per_shader_stage,
        workgroup: limits.max_compute_workgroup_storage_size,
    }
}

fn features(adapter: &wgpu::Adapter) -> Features {
    let (of, limits) = (adapter.features(), adapter.limits());
    Features {
        int64: of.contains(wgpu::Features::SHADER_INT64),
        float64: of.contains(wgpu::Features::SHADER_F64),
        half: of.contains(wgpu::Features::SHADER_F16),
        matrices: matrices(adapter),
        subgroups: of.contains(wgpu::Features::SUBGROUP),
        shared: limits.max_compute_workgroup_storage_size,
        invocations: limits.max_compute_invocations_per_workgroup,
        matmul: Matmul::Auto,
        coop: None,
    }
}

/// What products by cooperative matrices need of an adapter.
const MATRICES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);

/// The largest cooperative matrices of f16, with sums of f32 where there are such.
fn matrices(adapter: &wgpu::Adapter) -> Option<Matrices> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let info = adapter.get_info();
    if !adapter.features().contains(MATRICES) || info.subgroup_min_size != info.subgroup_max_size {
        return None;
    }
    let square = |p: &wgpu::CooperativeMatrixProperties| {
        let size = p.m_size;
        let fits = [8, 16].contains(&size) && [p.n_size, p.k_size] == [size; 2];
        let half_sums = match p.cr_type {
            F16 => true,
            F32 => false,
            _ => return None,
        };
        let subgroup = info.subgroup_max_size;
        (fits && p.ab_type == F16).then_some(Matrices { size, half_sums, subgroup })
    };
    let all = adapter.cooperative_matrix_properties();
    all.iter().filter_map(square).max_by_key(|m| (!m.half_sums, m.size))
}

/// The adapters of this machine.
pub fn adapters() -> Vec<Adapter> {
    all().iter().map(describe).collect()
}

impl Device {
    /// Opens the adapter whose name contains `name`; without a name the first one that is no software,
    /// or else the first one.
    pub fn open(name: Option<&str>) -> Result<Arc<Device>, Box<Diagnostic>> {
        let adapters = all();
        let lower = |s: &str| s.to_lowercase();
        let is_software = |a: &&wgpu::Adapter| a.get_info().device_type == wgpu::DeviceType::Cpu;
        let chosen = match name {
            Some(name) => {
                adapters.iter().find(|a| lower(&a.get_info().name).contains(&lower(name)))
            }
            None => adapters.iter().find(|a| !is_software(a)).or(adapters.first()),
        };
        let Some(adapter) = chosen else {
            return Err(Box::new(none(name, &adapters)));
        };
        let wanted = wgpu::Features::SHADER_INT64 | wgpu::Features::SHADER_F64 | MATRICES;
        let wanted = wanted | wgpu::Features::SUBGROUP;
        let limits = adapter.limits();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("dlc"),
            required_features: adapter.features() & (wanted | EXTRAS),
            required_limits: limits.clone(),
            // SAFETY: cooperative matrices are the only such feature that is asked for. What wgpu does
            // not check of them is seen to by the templates: matrices lie inside of what they are loaded
            // from, workgroups are whole subgroups, and a self-test compares results.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..wgpu::DeviceDescriptor::default()
        };
        let opened = ready(adapter.request_device(&descriptor), || {});
        let (device, queue) = opened.map_err(|e| {
            let name = adapter.get_info().name;
            Box::new(Diagnostic::error("E0861", None, format!("the adapter `{name}`: {e}")))
        })?;
        let failure = Failure::default();
        failure.listen(&device);
        let (adapter, cache, tried) = (describe(adapter), OnceLock::new(), Mutex::default());
        Ok(Arc::new(Device { adapter, device, queue, failure, cache, limits, tried }))
    }

    /// The same, opened once in a process.
    pub fn shared(name: Option<&str>) -> Result<Arc<Device>, Box<Diagnostic>> {
        static OPEN: Mutex<BTreeMap<Option<String>, Arc<Device>>> = Mutex::new(BTreeMap::new());
        // Nothing panics while the lock is held, so that it could be poisoned.
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let key = name.map(str::to_string);
        if let Some(device) = open.get(&key) {
            return Ok(device.clone());
        }
        let device = Device::open(name)?;
        open.insert(key, device.clone());
        Ok(device)
    }

    /// What a Program has to keep to.
    pub fn allowed(&self) -> Limits {
        let of = &self.limits;
        Limits {
            features: self.adapter.features,
            tiles: Tiles::default(),
            buffer: of.max_buffer_size,
            binding: of.max_storage_buffer_binding_size,
            bindings: of.max_storage_buffers_per_shader_stage,
            align: of.min_storage_buffer_offset_alignment as u64,
            uniform_align: of.min_uniform_buffer_offset_alignment as u64,
            groups: of.max_compute_workgroups_per_dimension,
        }
    }

    /// The driver's cache of pipelines, with what was kept when it was asked for first.
    pub(super) fn cache(&self, keep: &dyn Keep) -> Option<&Cache> {
        self.cache.get_or_init(|| Cache::open(self, keep)).as_ref()
    }

    /// Gives the device up: whatever is asked of it from now on is an error.
    pub fn give_up(&self) {
        self.device.destroy();
    }

    /// Runs what makes objects of the device or gives it work; errors of its validation, memory and driver
    /// become messages.
    pub(super) fn checked<T>(&self, make: impl FnOnce() -> T) -> Result<T, String> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let scopes = [Internal, OutOfMemory, Validation].map(|f| self.device.push_error_scope(f));
        let made = make();
        let mut errors = vec![];
        for scope in scopes.into_iter().rev() {
            // Native backends have the answer at once.
            errors.extend(ready(scope.pop(), || {}).map(|e| e.to_string()));
        }
        match errors.into_iter().next().or_else(|| self.failure.take()) {
            Some(error) => Err(error),
            None => Ok(made),
        }
    }

    /// Lets the device finish what it was given.
    pub(super) fn wait(&self) -> Result<(), String> {
        self.wait_for(None)
    }

    /// The same for what was given up to a submission.
    pub(super) fn wait_for(
        &self,
        submission_index: Option<wgpu::SubmissionIndex>,
    ) -> Result<(), String> {
        let wait = wgpu::PollType::Wait { submission_index, timeout: None };
        let poll = || self.device.poll(wait);
        // Where the driver says that the device is lost, wgpu panics; nothing of ours is in between.
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Ok(_)) => self.failure.take().map_or(Ok(()), Err),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(self.failure.lose()),
        }
    }
}

fn none(name: Option<&str>, adapters: &[wgpu::Adapter]) -> Diagnostic {
    let names: Vec<String> = adapters.iter().map(|a| a.get_info().name).collect();
    match name.filter(|_| !names.is_empty()) {
        Some(name) => {
            Diagnostic::error("E0860", None, format!("no GPU adapter is called `{name}`"))
                .note(format!("adapters: {}", names.join(", ")))
        }
        None => Diagnostic::error("E0860", None, "no GPU adapter was found")
            .help("a driver for Vulkan or Metal is needed; `--target cpu` computes without one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a listener wgpu panics here.
    #[test]
    fn errors_outside_of_a_call_are_told_by_the_next() {
        let Ok(device) = Device::open(None) else { return };
        let none = wgpu::BufferDescriptor {
            label: Some("of no use"),
            size: 16,
            usage: wgpu::BufferUsages::empty(),
            mapped_at_creation: false,
        };
        let _ = device.device.create_buffer(&none);
        let said = device.checked(|| ()).expect_err("the error of before");
        assert!(said.contains("of no use"), "{said}");
        assert_eq!(device.checked(|| ()), Ok(()));
        let _ = device.device.create_buffer(&none);
        assert!(device.wait().is_err());
        assert_eq!(device.wait(), Ok(()));
    }
}
