#!/usr/bin/env python3
"""The benchmark models, as ONNX files with seeded weights.

    models.py DIR [NAME...]        build these models (default: all of them) in DIR
    models.py --list

For each model DIR/NAME/ holds `model.onnx`, `input_I.npy`, `reference_I.npy` (what onnxruntime computes with
every graph optimization switched off) and `facts.json` (names and shapes, FLOP, bytes of weights). Shapes are
fixed. Weights depend on the model's name alone, so a rebuilt model equals the old one.

The networks are written the way PyTorch's exporter writes them: GELU as Div, Erf, Add, Mul, Mul; attention as
MatMul, Div, Softmax, MatMul between Reshape and Transpose. ResNet-50, SqueezeNet, ShuffleNet and DenseNet-121
are the graphs that the `onnx` package carries for its own tests, with weights in place of their constants.
"""
import json
import math
import os
import sys
import zlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8


class Net:
    """An ONNX graph under construction. Methods take and return value names."""

    def __init__(self, name):
        self.name = name
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.nodes, self.initializers, self.inputs, self.outputs = [], [], [], []

    def fresh(self, hint):
        return f"{hint}_{len(self.nodes) + len(self.initializers)}"

    def input(self, name, *shape):
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def output(self, value, name, *shape):
        """Makes `value` an output under another name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [name if n == value else n for n in names]
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def constant(self, array, hint="const"):
        name = self.fresh(hint)
        self.initializers.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def scalar(self, x):
        return self.constant(np.float32(x), "scalar")

    def ints(self, *xs):
        return self.constant(np.array(xs, np.int64), "ints")

    def normal(self, *shape, std):
        return self.constant((self.rng.standard_normal(shape) * std).astype(np.float32), "weight")

    def uniform(self, *shape, low, high):
        return self.constant(self.rng.uniform(low, high, shape).astype(np.float32), "weight")

    def op(self, kind, *operands, **attributes):
        results = attributes.pop("results", 1)
        base = self.fresh(kind.lower())
        names = [base] if results == 1 else [f"{base}_{i}" for i in range(results)]
        self.nodes.append(helper.make_node(kind, list(operands), names, name=base, **attributes))
        return base if results == 1 else names

    # Layers.

    def gemm(self, x, fan_in, fan_out):
        weight = self.normal(fan_in, fan_out, std=fan_in**-0.5)
        return self.op("Gemm", x, weight, self.normal(fan_out, std=0.05))

    def linear(self, x, fan_in, fan_out):
        """What the exporter makes of `nn.Linear` over an input of rank 3."""
        weight = self.normal(fan_in, fan_out, std=fan_in**-0.5)
        return self.op("Add", self.op("MatMul", x, weight), self.normal(fan_out, std=0.05))

    def gelu(self, x):
        erf = self.op("Erf", self.op("Div", x, self.scalar(math.sqrt(2))))
        both = self.op("Mul", x, self.op("Add", erf, self.scalar(1)))
        return self.op("Mul", both, self.scalar(0.5))

    def layer_norm(self, x, width):
        weight = self.uniform(width, low=0.9, high=1.1)
        return self.op("LayerNormalization", x, weight, self.normal(width, std=0.05), axis=-1, epsilon=1e-5)

    def conv(self, x, cin, cout, k, stride=1, groups=1, bias=False, pad=None):
        fan_in = cin // groups * k * k
        operands = [x, self.normal(cout, cin // groups, k, k, std=math.sqrt(2 / fan_in))]
        if bias:
            operands.append(self.normal(cout, std=0.05))
        pad = k // 2 if pad is None else pad
        return self.op("Conv", *operands, kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4, group=groups)

    def batch_norm(self, x, channels):
        weight, bias = self.uniform(channels, low=0.8, high=1.0), self.normal(channels, std=0.05)
        mean, var = self.normal(channels, std=0.05), self.uniform(channels, low=1.0, high=1.2)
        return self.op("BatchNormalization", x, weight, bias, mean, var, epsilon=1e-5)

    def conv_bn(self, x, cin, cout, k, stride=1, groups=1):
        return self.batch_norm(self.conv(x, cin, cout, k, stride, groups), cout)

    def model(self):
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.initializers)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="dlc-peers")


# Small networks.

def iris(net, batch):
    x = net.input("x", batch, 4)
    for fan_in, fan_out in ((4, 20), (20, 10)):
        x = net.op("Tanh", net.gemm(x, fan_in, fan_out))
    net.output(net.op("Softmax", net.gemm(x, 10, 3), axis=-1), "probs", batch, 3)


def mnist_mlp(net, batch):
    x = net.input("x", batch, 784)
    for fan_in, fan_out in ((784, 512), (512, 256)):
        x = net.op("Relu", net.gemm(x, fan_in, fan_out))
    net.output(net.gemm(x, 256, 10), "logits", batch, 10)


def mnist_cnn(net, batch):
    x = net.input("x", batch, 1, 28, 28)
    for cin, cout in ((1, 32), (32, 64)):
        x = net.op("Relu", net.conv(x, cin, cout, 3, bias=True))
        x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Reshape", x, net.ints(batch, 64 * 7 * 7))
    x = net.op("Relu", net.gemm(x, 64 * 7 * 7, 128))
    net.output(net.gemm(x, 128, 10), "logits", batch, 10)


# Convolutional networks.

def resnet18(net):
    x = net.op("Relu", net.conv_bn(net.input("img", 1, 3, 224, 224), 3, 64, 7, 2))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    cin = 64
    for cout in (64, 128, 256, 512):
        for i in range(2):
            stride = 2 if i == 0 and cout > 64 else 1
            y = net.op("Relu", net.conv_bn(x, cin, cout, 3, stride))
            y = net.conv_bn(y, cout, cout, 3)
            skip = x if cin == cout else net.conv_bn(x, cin, cout, 1, stride)
            x, cin = net.op("Relu", net.op("Add", y, skip)), cout
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    net.output(net.gemm(x, 512, 1000), "logits", 1, 1000)


def mobilenet_v2(net):
    def relu6(x):
        return net.op("Clip", x, net.scalar(0), net.scalar(6))

    x = relu6(net.conv_bn(net.input("img", 1, 3, 224, 224), 3, 32, 3, 2))
    cin = 32
    for factor, cout, repeats, first in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):
        for i in range(repeats):
            stride, wide = first if i == 0 else 1, cin * factor
            y = relu6(net.conv_bn(x, cin, wide, 1)) if factor > 1 else x
            y = relu6(net.conv_bn(y, wide, wide, 3, stride, groups=wide))
            y = net.conv_bn(y, wide, cout, 1)
            x, cin = net.op("Add", x, y) if stride == 1 and cin == cout else y, cout
    x = net.op("GlobalAveragePool", relu6(net.conv_bn(x, 320, 1280, 1)))
    net.output(net.gemm(net.op("Flatten", x, axis=1), 1280, 1000), "logits", 1, 1000)


def from_onnx_tests(net, file):
    """A graph of the `onnx` package's tests. There every weight is a ConstantOfShape; what it is multiplied
    with or added to says which values suit it."""
    folder = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light")
    graph = onnx.load(os.path.join(folder, f"light_{file}.onnx")).graph
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    # The smallest weights are stored.
    shape_of = {name: a.shape for name, a in stored.items() if a.dtype == np.float32}
    uses, renamed = {}, {}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shape_of[node.output[0]] = tuple(int(d) for d in stored[node.input[0]])
        elif node.op_type == "Unsqueeze" and node.input[0] in shape_of:
            # A scale or shift by channel: [C, 1, 1] at once.
            shape_of[node.output[0]] = (*shape_of[node.input[0]], 1, 1)
        elif node.op_type == "Dropout":
            renamed[node.output[0]] = node.input[0]
        for at, name in enumerate(node.input):
            uses.setdefault(name, (node.op_type, at))
    for name, shape in shape_of.items():
        kind, at = uses.get(name, ("Unsqueeze", 0))
        if kind == "Unsqueeze":
            continue
        if kind in ("Conv", "Gemm") and at == 1:
            value = net.rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
        elif (kind, at) in (("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)):
            value = net.rng.uniform(0.8, 1.2, shape)
        else:
            value = net.rng.standard_normal(shape) * 0.05
        net.initializers.append(numpy_helper.from_array(value.astype(np.float32), name))
    for node in graph.node:
        if node.op_type in ("ConstantOfShape", "Unsqueeze", "Dropout"):
            continue
        node.input[:] = [renamed.get(i, i) for i in node.input]
        if node.op_type == "Softmax":
            # Before opset 13 the default axis was 1.
            node = helper.make_node("Softmax", node.input, node.output, axis=1)
        net.nodes.append(node)
    wanted = {i for node in net.nodes for i in node.input}
    net.initializers += [i for i in graph.initializer if i.name in wanted - shape_of.keys()]
    net.inputs = [i for i in graph.input if i.name not in stored]
    net.outputs = list(graph.output)


# Transformers.

def heads(net, x, *shape, perm):
    return net.op("Transpose", net.op("Reshape", x, net.ints(*shape)), perm=perm)


def encoder(net, layers, hidden, count, seq, wide):
    """Layers of BERT: normalization after each half."""
    x, dim = net.input("x", 1, seq, hidden), hidden // count
    for _ in range(layers):
        q = heads(net, net.linear(x, hidden, hidden), 1, seq, count, dim, perm=[0, 2, 1, 3])
        k = heads(net, net.linear(x, hidden, hidden), 1, seq, count, dim, perm=[0, 2, 3, 1])
        v = heads(net, net.linear(x, hidden, hidden), 1, seq, count, dim, perm=[0, 2, 1, 3])
        scores = net.op("Div", net.op("MatMul", q, k), net.scalar(math.sqrt(dim)))
        y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
        y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(1, seq, hidden))
        x = net.layer_norm(net.op("Add", x, net.linear(y, hidden, hidden)), hidden)
        y = net.linear(net.gelu(net.linear(x, hidden, wide)), wide, hidden)
        x = net.layer_norm(net.op("Add", x, y), hidden)
    net.output(x, "y", 1, seq, hidden)


def gpt2_step(net, layers, past, hidden=768, count=12):
    """One new token of GPT-2 against a cache of `past` keys and values, which the caller extends by the
    rows that come out."""
    dim, rows = hidden // count, []
    x = net.input("x", 1, 1, hidden)
    caches = [[net.input(f"past_{n}{i}", 1, count, past, dim) for n in "kv"] for i in range(layers)]
    for cache_k, cache_v in caches:
        qkv = net.linear(net.layer_norm(x, hidden), hidden, 3 * hidden)
        parts = net.op("Split", qkv, net.ints(hidden, hidden, hidden), axis=2, results=3)
        q, k, v = (net.op("Reshape", p, net.ints(1, count, 1, dim)) for p in parts)
        rows += [k, v]
        keys = net.op("Concat", cache_k, k, axis=2)
        values = net.op("Concat", cache_v, v, axis=2)
        scores = net.op("MatMul", q, net.op("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = net.op("Softmax", net.op("Mul", scores, net.scalar(dim**-0.5)), axis=-1)
        y = net.op("Transpose", net.op("MatMul", scores, values), perm=[0, 2, 1, 3])
        y = net.op("Reshape", y, net.ints(1, 1, hidden))
        x = net.op("Add", x, net.linear(y, hidden, hidden))
        y = net.gelu(net.linear(net.layer_norm(x, hidden), hidden, 4 * hidden))
        x = net.op("Add", x, net.linear(y, 4 * hidden, hidden))
    net.output(x, "y", 1, 1, hidden)
    for i, row in enumerate(rows):
        net.output(row, f"new_{'kv'[i % 2]}{i // 2}", 1, count, 1, dim)


def vit_b16(net, hidden=768, count=12):
    dim, seq = hidden // count, 197
    x = net.conv(net.input("img", 1, 3, 224, 224), 3, hidden, 16, 16, bias=True, pad=0)
    x = net.op("Transpose", net.op("Reshape", x, net.ints(1, hidden, 196)), perm=[0, 2, 1])
    x = net.op("Concat", net.normal(1, 1, hidden, std=0.5), x, axis=1)
    x = net.op("Add", x, net.normal(1, seq, hidden, std=0.5))
    for _ in range(12):
        qkv = net.linear(net.layer_norm(x, hidden), hidden, 3 * hidden)
        qkv = heads(net, qkv, 1, seq, 3, count, dim, perm=[2, 0, 3, 1, 4])
        parts = net.op("Split", qkv, net.ints(1, 1, 1), axis=0, results=3)
        q, k, v = (net.op("Squeeze", p, net.ints(0)) for p in parts)
        q = net.op("Mul", q, net.scalar(dim**-0.5))
        scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
        y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
        y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(1, seq, hidden))
        x = net.op("Add", x, net.linear(y, hidden, hidden))
        y = net.gelu(net.linear(net.layer_norm(x, hidden), hidden, 4 * hidden))
        x = net.op("Add", x, net.linear(y, 4 * hidden, hidden))
    token = net.op("Gather", net.layer_norm(x, hidden), net.constant(np.int64(0), "index"), axis=1)
    net.output(net.gemm(token, hidden, 1000), "logits", 1, 1000)


# Single kernels.

def gemm_inputs(net, n):
    """Both factors are inputs: nothing can be packed beforehand."""
    net.output(net.op("MatMul", net.input("a", n, n), net.input("b", n, n)), "y", n, n)


def gemm_weights(net, m, k, n):
    y = net.op("MatMul", net.input("a", m, k), net.normal(k, n, std=k**-0.5))
    net.output(y, "y", m, n)


def gemm_relu(net, m, k, n):
    net.output(net.op("Relu", net.gemm(net.input("a", m, k), k, n)), "y", m, n)


def elementwise_chain(net):
    """exp(−t) + x, where t = gelu(tanh(1.7 x + 0.3) · x)"""
    x = net.input("x", 1024, 1024)
    t = net.op("Tanh", net.op("Add", net.op("Mul", x, net.scalar(1.7)), net.scalar(0.3)))
    t = net.gelu(net.op("Mul", t, x))
    net.output(net.op("Add", net.op("Exp", net.op("Neg", t)), x), "y", 1024, 1024)


def add_relu(net):
    shape = (1024, 1024)
    y = net.op("Relu", net.op("Add", net.input("a", *shape), net.input("b", *shape)))
    net.output(y, "y", *shape)


def softmax_rows(net):
    net.output(net.op("Softmax", net.input("x", 1024, 1024), axis=-1), "y", 1024, 1024)


def layer_norm_rows(net):
    net.output(net.layer_norm(net.input("x", 1024, 768), 768), "y", 1024, 768)


MODELS = {
    "iris_b1": lambda n: iris(n, 1),
    "iris_b32": lambda n: iris(n, 32),
    "mnist_mlp_b1": lambda n: mnist_mlp(n, 1),
    "mnist_mlp_b64": lambda n: mnist_mlp(n, 64),
    "mnist_cnn_b1": lambda n: mnist_cnn(n, 1),
    "mnist_cnn_b64": lambda n: mnist_cnn(n, 64),
    "resnet18_b1": resnet18,
    "resnet50_b1": lambda n: from_onnx_tests(n, "resnet50"),
    "mobilenetv2_b1": mobilenet_v2,
    "squeezenet_b1": lambda n: from_onnx_tests(n, "squeezenet"),
    "shufflenet_b1": lambda n: from_onnx_tests(n, "shufflenet"),
    "densenet121_b1": lambda n: from_onnx_tests(n, "densenet121"),
    "bertmini_s128": lambda n: encoder(n, 4, 256, 4, 128, 1024),
    "bertbase1_s128": lambda n: encoder(n, 1, 768, 12, 128, 3072),
    "gpt2x1_kv512": lambda n: gpt2_step(n, 1, 512),
    "gpt2x4_kv512": lambda n: gpt2_step(n, 4, 512),
    "vit_b16": vit_b16,
    **{f"gemm_{n}": lambda net, n=n: gemm_inputs(net, n) for n in (64, 128, 256, 512, 1024, 2048)},
    "gemmc_256": lambda n: gemm_weights(n, 256, 256, 256),
    "gemmc_1024": lambda n: gemm_weights(n, 1024, 1024, 1024),
    "gemv_4096": lambda n: gemm_weights(n, 1, 4096, 4096),
    **{f"gemmrelu_{n}": lambda net, n=n: gemm_relu(net, n, n, n) for n in (64, 128, 256, 512, 1024)},
    "gemmrelu_1x768x3072": lambda n: gemm_relu(n, 1, 768, 3072),
    "ewchain_1m": elementwise_chain,
    "addrelu_1m": add_relu,
    "softmax_1024": softmax_rows,
    "layernorm_1024x768": layer_norm_rows,
}


def shape_of(info):
    return [d.dim_value for d in info.type.tensor_type.shape.dim]


def flop(model):
    """Two for each multiplication of a convolution or matrix product."""
    graph = model.graph
    shapes = {v.name: shape_of(v) for v in [*graph.value_info, *graph.input, *graph.output]}
    shapes |= {i.name: list(i.dims) for i in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            depth = math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            depth = shapes[node.input[0]][-1]
        else:
            continue
        total += 2 * math.prod(shapes[node.output[0]]) * depth
    return total


def reference(model, feeds, more=()):
    """Outputs (and the values in `more`) of onnxruntime without optimizations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    if more:
        model = onnx.ModelProto.FromString(model.SerializeToString())
        model.graph.output.extend(helper.make_tensor_value_info(m, TensorProto.FLOAT, None) for m in more)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def tame_logits(model, feeds):
    """Scales the last weights by a power of two so that the last softmax over classes is not saturated: else
    every answer would look right."""
    graph = model.graph
    softmax = next((n for n in graph.node if n.op_type == "Softmax" and n.output[0] == graph.output[0].name), None)
    weighted = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    if softmax is None or not weighted:
        return
    std = float(np.std(reference(model, feeds, [softmax.input[0]])[-1]))
    last = weighted[-1]
    for tensor in graph.initializer:
        if tensor.name in last.input[1:]:
            scaled = numpy_helper.to_array(tensor) * np.float32(2.0 ** -round(math.log2(std)))
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


def build(name, folder):
    net = Net(name)
    MODELS[name](net)
    model = onnx.shape_inference.infer_shapes(net.model(), data_prop=True)
    onnx.checker.check_model(model)
    rng = np.random.default_rng(zlib.crc32(f"inputs of {name}".encode()))
    draw = lambda info: rng.standard_normal(shape_of(info)).astype(np.float32)
    feeds = {i.name: draw(i) for i in model.graph.input}
    tame_logits(model, feeds)
    results = reference(model, feeds)
    os.makedirs(folder, exist_ok=True)
    onnx.save(model, os.path.join(folder, "model.onnx"))
    for i, x in enumerate(feeds.values()):
        np.save(os.path.join(folder, f"input_{i}.npy"), x)
    for i, y in enumerate(results):
        assert np.isfinite(y).all(), name
        np.save(os.path.join(folder, f"reference_{i}.npy"), y)
    floats = [i for i in model.graph.initializer if i.data_type == TensorProto.FLOAT]
    facts = {
        "inputs": [{"name": i.name, "shape": shape_of(i)} for i in model.graph.input],
        "outputs": [{"name": o.name, "shape": list(y.shape)} for o, y in zip(model.graph.output, results)],
        "flop": flop(model),
        "weight_bytes": sum(4 * math.prod(i.dims) for i in floats),
        "io_bytes": sum(a.nbytes for a in [*feeds.values(), *results]),
    }
    with open(os.path.join(folder, "facts.json"), "w") as f:
        json.dump(facts, f, indent=1)
    return facts


def main():
    if sys.argv[1:] in ([], ["--list"]):
        print("\n".join(MODELS))
        return
    for name in sys.argv[2:] or MODELS:
        facts = build(name, os.path.join(sys.argv[1], name))
        gflop, mb = facts["flop"] / 1e9, facts["weight_bytes"] / 1e6
        print(f"{name:20} {gflop:9.4f} GFLOP, {mb:7.2f} MB of weights", flush=True)


if __name__ == "__main__":
    main()
