// Runs the document of `dlc emit wgsl --json` by WebGPU.
//
// In: the document, and the bytes of `--values`. A bundle makes everything beforehand; a run encodes its
// dispatches and submits them, and only a branch waits for the device. What the browser's validation finds
// is thrown.

// Between the bases of one dispatch and those of the next, in bytes.
const STRIDE = 256;

export class Bundle {
  static async open(document, values) {
    if (document.features.length > 0) throw Error(`the shaders need ${document.features.join(", ")}`);
    // An adapter gives one device only.
    const adapter = await navigator.gpu?.requestAdapter();
    if (!adapter) throw Error("the browser has no WebGPU adapter");
    const bundle = new Bundle();
    bundle.adapter = adapter.info;
    bundle.document = document;
    bundle.device = await adapter.requestDevice({ requiredLimits: limits(document) });
    await bundle.checked(() => bundle.prepare(values));
    return bundle;
  }

  // The buffers with a role: inputs, outputs and states in the order of the model's signature.
  of(role) {
    return this.document.buffers.map((buffer, at) => ({ ...buffer, at })).filter(b => b.role === role);
  }

  write(role, i, bytes) {
    this.device.queue.writeBuffer(this.buffers[this.of(role)[i].at], 0, bytes);
  }

  // All bytes of a buffer, those behind its last element too.
  async read(role, i) {
    const { at, bytes } = this.of(role)[i];
    return this.checked(() => this.bytes(at, 0, bytes));
  }

  async run() {
    await this.checked(async () => {
      await this.steps(this.document.steps);
      await this.device.queue.onSubmittedWorkDone();
    });
  }

  // Errors of validation and of memory while something is done.
  async checked(what) {
    const filters = ["validation", "out-of-memory", "internal"];
    filters.forEach(filter => this.device.pushErrorScope(filter));
    const result = await what();
    for (const _ of filters) {
      const error = await this.device.popErrorScope();
      if (error) throw Error(`${this.document.model}: ${error.message}`);
    }
    return result;
  }

  async prepare(values) {
    const { device, document } = this;
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const buffer = (label, size) => device.createBuffer({ label, size, usage });
    this.buffers = document.buffers.map(b => buffer(b.name, b.bytes));
    for (const { at, bytes, values: from } of this.of("const")) {
      device.queue.writeBuffer(this.buffers[at], 0, values, from, bytes);
    }
    this.scratch = document.scratch.map(bytes => buffer("scratch", bytes));
    this.pipelines = await Promise.all(document.shaders.map(shader => this.pipeline(shader)));
    const all = dispatches(document.steps);
    const size = STRIDE * Math.max(all.length, 1);
    const bases = new Int32Array(size / 4);
    all.forEach(({ bases: of }, i) => bases.set(of, i * STRIDE / 4));
    this.bases = device.createBuffer({ size, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
    device.queue.writeBuffer(this.bases, 0, bases);
    this.groups = new Map(all.map((step, i) => [step, this.group(step, i)]));
  }

  async pipeline(shader) {
    const { device } = this;
    const entry = ({ binding, kind }) => ({
      binding,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type: kind === "uniform" ? "uniform" : "storage" },
    });
    const layout = device.createBindGroupLayout({ label: shader.name, entries: shader.bindings.map(entry) });
    const module = device.createShaderModule({ label: shader.name, code: shader.source });
    const { messages } = await module.getCompilationInfo();
    const errors = messages.filter(m => m.type === "error").map(m => `${m.lineNum}: ${m.message}`);
    if (errors.length > 0) throw Error(`the shader of ${shader.name}: ${errors.join("; ")}`);
    return device.createComputePipelineAsync({
      label: shader.name,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: shader.entry_point },
    });
  }

  group(step, i) {
    const shader = this.document.shaders[step.dispatch];
    const [params, scratch] = [step.params.values(), this.scratch.values()];
    const invocations = shader.workgroup_size[0] * shader.workgroups[0];
    const resource = ({ kind, bytes, bytes_per_invocation: each }) => {
      if (kind === "uniform") return { buffer: this.bases, offset: i * STRIDE, size: bytes };
      if (kind === "scratch") return { buffer: scratch.next().value, size: each * invocations };
      const { buffer, offset, bytes: size } = params.next().value;
      return { buffer: this.buffers[buffer], offset, size };
    };
    const entries = shader.bindings.map(b => ({ binding: b.binding, resource: resource(b) }));
    const layout = this.pipelines[step.dispatch].getBindGroupLayout(0);
    return this.device.createBindGroup({ label: shader.name, layout, entries });
  }

  async steps(steps) {
    let encoder = this.device.createCommandEncoder();
    let pass = encoder.beginComputePass();
    const submit = () => {
      pass.end();
      this.device.queue.submit([encoder.finish()]);
    };
    for (const step of steps) {
      if (step.branch) {
        submit();
        const { buffer, offset, bytes } = step.branch;
        const [taken] = new Uint32Array(await this.bytes(buffer, offset, bytes));
        await this.steps(taken ? step.then : step.else);
        encoder = this.device.createCommandEncoder();
        pass = encoder.beginComputePass();
        continue;
      }
      pass.setPipeline(this.pipelines[step.dispatch]);
      pass.setBindGroup(0, this.groups.get(step));
      pass.dispatchWorkgroups(...this.document.shaders[step.dispatch].workgroups);
    }
    submit();
  }

  async bytes(buffer, offset, size) {
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const staging = this.device.createBuffer({ size, usage });
    const encoder = this.device.createCommandEncoder();
    encoder.copyBufferToBuffer(this.buffers[buffer], offset, staging, 0, size);
    this.device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const copy = staging.getMappedRange().slice(0);
    staging.destroy();
    return copy;
  }
}

// What a document needs beyond what every device has.
function limits({ buffers, scratch, shaders }) {
  const largest = Math.max(...buffers.map(b => b.bytes), ...scratch, 0);
  const storage = s => s.bindings.filter(b => b.kind !== "uniform").length;
  const beyond = {
    maxBufferSize: [largest, 256 * 2 ** 20],
    maxStorageBufferBindingSize: [largest, 128 * 2 ** 20],
    maxStorageBuffersPerShaderStage: [Math.max(...shaders.map(storage), 0), 8],
  };
  const needed = Object.entries(beyond).filter(([, [needs, all]]) => needs > all);
  return Object.fromEntries(needed.map(([name, [needs]]) => [name, needs]));
}

// Those of both sides of branches.
function dispatches(steps) {
  return steps.flatMap(s => (s.branch ? [...dispatches(s.then), ...dispatches(s.else)] : [s]));
}
