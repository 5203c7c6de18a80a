#!/usr/bin/env python3
"""The peers that are driven from Python. `run.py` starts one of these for each peer:

    worker.py PEER SOCKET

It imports the peer once, reports on the Unix socket, and from then on forks a fresh process for each request
`{"do": "fork"}`. The child connects to the same socket and answers `load`, `measure` and `quit` as `protocol.rs`
describes them, so that every model is measured in a process of its own and no import is paid twice.
"""
import gc
import json
import os
import signal
import socket
import statistics
import sys
import time

import numpy as np

from straight_line import function


def status(key):
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as f:
        return next((int(line.split()[1]) * 1024 for line in f if line.startswith(key)), 0)


# A peer imports its library when it is made; `load` takes a model's path, its facts, its inputs and the number of
# threads, and returns what calls the model and what fetches its outputs as arrays.


class OnnxRuntime:
    """Every graph optimization; inputs and outputs bound beforehand."""

    def __init__(self):
        import onnxruntime

        self.ort, self.version = onnxruntime, f"onnxruntime {onnxruntime.__version__}"

    def load(self, path, facts, inputs, threads):
        ort = self.ort
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        binding, results = session.io_binding(), []
        for fact, x in zip(facts["inputs"], inputs):
            binding.bind_ortvalue_input(fact["name"], ort.OrtValue.ortvalue_from_numpy(x))
        for fact in facts["outputs"]:
            results.append(ort.OrtValue.ortvalue_from_shape_and_type(fact["shape"], np.float32))
            binding.bind_ortvalue_output(fact["name"], results[-1])
        return (lambda: session.run_with_iobinding(binding)), (lambda: [r.numpy() for r in results])


class OpenVino:
    """The latency hint, one stream; f32, which it leaves for bf16 where the CPU has it unless told otherwise."""

    def __init__(self):
        import openvino

        self.openvino, self.version = openvino, f"openvino {openvino.__version__.split('-')[0]}"

    def load(self, path, facts, inputs, threads):
        core = self.openvino.Core()
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        hints |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        request = core.compile_model(core.read_model(path), "CPU", hints).create_infer_request()
        for i, x in enumerate(inputs):
            request.set_input_tensor(i, self.openvino.Tensor(x, shared_memory=True))
        count = len(facts["outputs"])
        return request.infer, lambda: [request.get_output_tensor(i).data for i in range(count)]


class Torch:
    """Eager mode, by straight-line code."""

    def __init__(self):
        import torch

        self.torch, self.version = torch, f"torch {torch.__version__}"

    def prepare(self, path, inputs, threads):
        self.torch.set_num_threads(threads)
        self.torch.set_num_interop_threads(1)
        forward, weights = function(path, "torch")
        tensor = lambda a: self.torch.from_numpy(np.array(a))
        return forward, [tensor(w) for w in weights], [self.torch.from_numpy(x) for x in inputs]

    def load(self, path, facts, inputs, threads):
        forward, weights, inputs = self.prepare(path, inputs, threads)
        self.torch.inference_mode().__enter__()
        return (lambda: forward(weights, inputs)), lambda: [o.numpy() for o in forward(weights, inputs)]


class TorchCompile(Torch):
    """torch.compile with its defaults; the weights are parameters of a module. Of what it keeps on disk only
    the precompiled headers carry over from one model to the next."""

    def __init__(self):
        # `run.py` empties the folder of the socket's name.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = sys.argv[2].removesuffix(".socket") + "-cache"
        super().__init__()
        import torch._dynamo
        import torch._functorch.config
        import torch._inductor.compile_fx
        import torch._inductor.config as config

        config.fx_graph_cache, config.compile_threads = False, 1
        torch._functorch.config.enable_autograd_cache = False

    def load(self, path, facts, inputs, threads):
        forward, weights, inputs = self.prepare(path, inputs, threads)
        torch = self.torch

        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                fixed = [torch.nn.Parameter(w, requires_grad=False) for w in weights]
                self.weights = torch.nn.ParameterList(fixed)

            def forward(self, *inputs):
                return forward(list(self.weights), inputs)

        network = torch.compile(Network().eval(), fullgraph=True)
        torch.no_grad().__enter__()
        return (lambda: network(*inputs)), lambda: [o.numpy() for o in network(*inputs)]


class Jax:
    """jit, compiled beforehand; the weights are arguments that live on the device."""

    def __init__(self):
        import jax

        self.jax, self.version = jax, f"jax {jax.__version__}"

    def load(self, path, facts, inputs, threads):
        # XLA takes as many threads as the process may use cores.
        jax = self.jax
        forward, weights = function(path, "jax")
        arguments = jax.device_put(weights), jax.device_put(list(inputs))
        compiled = jax.jit(forward).lower(*arguments).compile()
        call = lambda: jax.block_until_ready(compiled(*arguments))
        return call, lambda: [np.asarray(o) for o in call()]


PEERS = {
    "onnxruntime": OnnxRuntime, "openvino": OpenVino, "torch": Torch, "torch.compile": TorchCompile, "jax": Jax,
}


def load(peer, request):
    folder = request["model"]
    with open(f"{folder}/facts.json") as f:
        facts = json.load(f)
    inputs = [np.load(f"{folder}/input_{i}.npy") for i in range(len(facts["inputs"]))]
    # Some peers read the arrays in place for as long as they live.
    peer.inputs = inputs
    base, start = status("VmRSS:"), time.perf_counter()
    call, fetch = peer.load(f"{folder}/model.onnx", facts, inputs, request["threads"])
    loaded = time.perf_counter()
    call()
    first = time.perf_counter()
    for i, y in enumerate(fetch()):
        np.asarray(y, np.float32).tofile(f"{request['outputs']}_{i}.bin")
    return call, {"load_s": loaded - start, "first_s": first - start, "base_rss": base, "version": peer.version}


def measure(call, seconds):
    """Calls under 20 µs are timed a thousand at a time."""
    clock = time.perf_counter
    start = clock()
    call()
    group = range(1000 if clock() - start < 20e-6 else 1)
    times = []
    while not times or clock() - start < seconds:
        t = clock()
        for _ in group:
            call()
        times.append((clock() - t) * 1e6 / len(group))
    calls = len(times) * len(group) + 1
    return {"median_us": statistics.median(times), "min_us": min(times), "calls": calls}


def serve(peer, stream):
    call = None
    for line in stream:
        request = json.loads(line)
        try:
            if request["do"] == "load":
                call, answer = load(peer, request)
                gc.collect()
                gc.disable()
            elif request["do"] == "measure":
                answer = measure(call, request["seconds"])
            else:
                answer = {"peak_rss": status("VmHWM:")}
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {str(e)[:300]}"}
        print(json.dumps(answer), file=stream, flush=True)
        if request["do"] == "quit":
            return


def connect(path, hello):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    stream = connection.makefile("rw")
    print(json.dumps(hello), file=stream, flush=True)
    return stream


def main():
    name, path = sys.argv[1:]
    try:
        peer = PEERS[name]()
    except Exception as e:
        connect(path, {"missing": f"{type(e).__name__}: {str(e)[:200]}"})
        return
    # Children are nobody's to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = connect(path, {"version": peer.version})
    for _ in parent:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve(peer, connect(path, {"pid": os.getpid()}))
            os._exit(0)


if __name__ == "__main__":
    main()
