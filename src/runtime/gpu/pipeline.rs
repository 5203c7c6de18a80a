//! Shaders compiled for a device.

use super::device::Device;
use super::session::error;
use crate::base::diag::Diagnostic;
use crate::runtime::dispatch::Prepared;
use crate::target::wgsl::Binding;

/// No tests of bounds, and no counting of rounds, which take about as long as what they guard. A software
/// driver keeps the counting: without it, it unrolls loops until its compiler runs out of stack.
fn checks(device: &Device) -> wgpu::ShaderRuntimeChecks {
    wgpu::ShaderRuntimeChecks {
        bounds_checks: false,
        force_loop_bounding: device.adapter.software,
        ..wgpu::ShaderRuntimeChecks::checked()
    }
}

pub struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

impl Pipeline {
    /// E0864 where the driver refuses the shader.
    pub fn new(
        device: &Device,
        Prepared { shader, .. }: &Prepared,
        cache: Option<&wgpu::PipelineCache>,
    ) -> Result<Pipeline, Box<Diagnostic>> {
        let entry = |(i, binding): (usize, &Binding)| wgpu::BindGroupLayoutEntry {
            binding: i as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match binding {
                    Binding::Bases => wgpu::BufferBindingType::Uniform,
                    Binding::Param(_) | Binding::Scratch { .. } => {
                        wgpu::BufferBindingType::Storage { read_only: false }
                    }
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = shader.bindings.iter().enumerate().map(entry).collect();
        let (wgpu, label) = (&device.device, Some(&shader.name[..]));
        let made = device.checked(|| {
            let layout = wgpu.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label,
                entries: &entries,
            });
            let of = wgpu.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label,
                bind_group_layouts: &[Some(&layout)],
                ..wgpu::PipelineLayoutDescriptor::default()
            });
            let source = wgpu::ShaderSource::Wgsl(shader.source.as_str().into());
            let module = wgpu::ShaderModuleDescriptor { label, source };
            // SAFETY: every access of a kernel lies inside its buffer and every loop ends, as for machine
            // code: generators see to it, and tests prove it of each kernel (`kernel::verify`).
            let module = unsafe { wgpu.create_shader_module_trusted(module, checks(device)) };
            let pipeline = wgpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: Some(&of),
                module: &module,
                entry_point: Some("main"),
                // Templates write what they share before they read it.
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..wgpu::PipelineCompilationOptions::default()
                },
                cache,
            });
            Pipeline { pipeline, layout }
        });
        made.map_err(|e| error("E0864", format!("the shader of `{}`: {e}", shader.name)))
    }
}
