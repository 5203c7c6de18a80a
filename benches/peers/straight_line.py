"""An ONNX graph as straight-line Python for PyTorch or JAX, so that neither pays for an interpreter of graphs.

`function(path, dialect)` gives `forward(weights, inputs)` and the list of weights as NumPy arrays. Weights are
arguments, as they are where a network is written by hand.
"""
import numpy as np
import onnx
from onnx import helper, numpy_helper

# Operands stand for {0}, {1}, …; attributes come from `attributes` below.
SHARED = {
    "Add": "{0} + {1}", "Sub": "{0} - {1}", "Mul": "{0} * {1}", "Div": "{0} / {1}", "Sum": "{0} + {1}",
    "MatMul": "{0} @ {1}", "Neg": "-{0}", "Identity": "{0}",
    "Reshape": "{0}.reshape({shape})", "Flatten": "{0}.reshape({shape})", "Squeeze": "{0}.reshape({shape})",
    "Unsqueeze": "{0}.reshape({shape})",
}
TORCH = SHARED | {
    "Relu": "F.relu({0})", "Tanh": "torch.tanh({0})", "Exp": "torch.exp({0})", "Erf": "torch.erf({0})",
    "Sqrt": "torch.sqrt({0})", "Sigmoid": "torch.sigmoid({0})", "Softmax": "F.softmax({0}, {axis})",
    "Clip": "torch.clamp({0}, {low}, {high})", "Transpose": "{0}.permute({perm})",
    "Concat": "torch.cat(({all},), {axis})", "Gather": "{0}.select({axis}, {index})",
    "Split": "torch.split({0}, {parts}, {axis})", "GlobalAveragePool": "{0}.mean((2, 3), keepdim=True)",
    "LayerNormalization": "F.layer_norm({0}, {1}.shape, {1}, {2}, {eps})",
    "BatchNormalization": "F.batch_norm({0}, {3}, {4}, {1}, {2}, False, 0.0, {eps})",
    "Conv": "F.conv2d({0}, {1}, {bias}, {stride}, {pad}, {dilation}, {groups})",
    "MaxPool": "F.max_pool2d({padded}, {kernel}, {stride}, {pad}, 1, {ceil})",
    "AveragePool": "F.avg_pool2d({0}, {kernel}, {stride}, {pad}, {ceil}, {include_pad})",
    "Gemm": "F.linear({0}, {weight_oi}, {bias})",
}
JAX = SHARED | {
    "Relu": "jax.nn.relu({0})", "Tanh": "jnp.tanh({0})", "Exp": "jnp.exp({0})", "Erf": "lax.erf({0})",
    "Sqrt": "jnp.sqrt({0})", "Sigmoid": "jax.nn.sigmoid({0})", "Softmax": "jax.nn.softmax({0}, {axis})",
    "Clip": "jnp.clip({0}, {low}, {high})", "Transpose": "{0}.transpose({perm})",
    "Concat": "jnp.concatenate(({all},), {axis})", "Gather": "jnp.take({0}, {index}, {axis})",
    "Split": "jnp.split({0}, {cuts}, {axis})", "GlobalAveragePool": "{0}.mean((2, 3), keepdims=True)",
    "LayerNormalization": "layer_norm({0}, {1}, {2}, {eps})",
    "BatchNormalization": "batch_norm({0}, {1}, {2}, {3}, {4}, {eps})",
    "Conv": "conv({0}, {1}, {bias}, {stride}, {pads}, {dilation}, {groups})",
    "MaxPool": "max_pool({0}, {kernel}, {stride}, {pads})",
    "AveragePool": "avg_pool({0}, {kernel}, {stride}, {pads}, {include_pad})",
    "Gemm": "{0} @ {weight_io} + {bias}",
}
JAX_HELPERS = '''
import jax, jax.numpy as jnp
from jax import lax

def channel(v): return v.reshape(1, -1, 1, 1)

def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred * centred).mean(-1, keepdims=True) + eps) * weight + bias

def batch_norm(x, weight, bias, mean, var, eps):
    return (x - channel(mean)) * channel(weight * lax.rsqrt(var + eps)) + channel(bias)

def conv(x, weight, bias, stride, pads, dilation, groups):
    y = lax.conv_general_dilated(x, weight, stride, pads, rhs_dilation=dilation, feature_group_count=groups,
                                 dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return y if bias is None else y + channel(bias)

def windows(x, start, combine, kernel, stride, pads):
    return lax.reduce_window(x, start, combine, (1, 1, *kernel), (1, 1, *stride), ((0, 0), (0, 0), *pads))

def max_pool(x, kernel, stride, pads): return windows(x, -jnp.inf, lax.max, kernel, stride, pads)

def avg_pool(x, kernel, stride, pads, include_pad):
    count = kernel[0] * kernel[1] if include_pad else windows(jnp.ones_like(x), 0.0, lax.add, kernel, stride, pads)
    return windows(x, 0.0, lax.add, kernel, stride, pads) / count
'''
TORCH_HELPERS = "import torch, torch.nn.functional as F"


def attributes(node, operands, stored, shapes):
    """What the templates may ask for."""
    a = {x.name: helper.get_attribute_value(x) for x in node.attribute}
    ints = lambda i: [int(x) for x in stored[node.input[i]].reshape(-1)]
    values = {"all": ", ".join(operands), "shape": tuple(shapes[node.output[0]]), "eps": a.get("epsilon", 1e-5)}
    values["axis"] = a.get("axis", -1 if node.op_type == "Softmax" else 0)
    values["bias"] = operands[2] if len(operands) > 2 else "None"
    if "perm" in a:
        values["perm"] = ", ".join(map(str, a["perm"]))
    if node.op_type == "Split":
        parts = ints(1)
        values |= {"parts": parts, "cuts": [sum(parts[:i]) for i in range(1, len(parts))]}
    if node.op_type == "Clip":
        values |= {"low": float(stored[node.input[1]]), "high": float(stored[node.input[2]])}
    if node.op_type == "Gather":
        values["index"] = ints(1)[0]
    if node.op_type == "Gemm":
        io, oi = (f"{operands[1]}.T", operands[1])[:: 1 if a.get("transB") else -1]
        values |= {"weight_io": io, "weight_oi": oi}
    if node.op_type in ("Conv", "MaxPool", "AveragePool"):
        top, left, bottom, right = a.get("pads", [0] * 4)
        even = (top, left) == (bottom, right)
        # PyTorch pads both ends alike; what differs is padded before.
        values["padded"] = operands[0] if even else (
            f"F.pad({operands[0]}, ({left}, {right}, {top}, {bottom}), value=float('-inf'))"
        )
        if not even and node.op_type != "MaxPool":
            raise NotImplementedError("uneven padding")
        values |= {
            "pads": ((top, bottom), (left, right)), "pad": (top, left) if even else (0, 0),
            "stride": tuple(a.get("strides", [1, 1])), "dilation": tuple(a.get("dilations", [1, 1])),
            "kernel": tuple(a.get("kernel_shape", ())), "groups": a.get("group", 1),
            "ceil": bool(a.get("ceil_mode")), "include_pad": bool(a.get("count_include_pad")),
        }
        if values["ceil"]:
            raise NotImplementedError("ceil_mode")
    return values


def function(path, dialect):
    templates, helpers = {"torch": (TORCH, TORCH_HELPERS), "jax": (JAX, JAX_HELPERS)}[dialect]
    graph = onnx.load(path).graph
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    infos = [*graph.value_info, *graph.input, *graph.output]
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos}
    names = {info.name: f"x{i}" for i, info in enumerate(graph.input)}
    weights, lines = [], []

    def operand(name):
        value = stored.get(name)
        if name not in names and value is not None and value.dtype == np.float32:
            if value.ndim == 0:
                return repr(float(value))
            names[name] = f"w{len(weights)}"
            weights.append(value)
        return names.get(name, "None")

    for i, node in enumerate(graph.node):
        operands = [operand(n) for n in node.input]
        values = attributes(node, operands, stored, shapes)
        results = [f"v{i}_{k}" for k in range(len(node.output))]
        names.update(zip(node.output, results))
        lines.append(f"    {', '.join(results)} = {templates[node.op_type].format(*operands, **values)}")
    unpack = [f"    {', '.join(f'w{i}' for i in range(len(weights)))}, = weights"] if weights else []
    unpack.append(f"    {', '.join(names[i.name] for i in graph.input)}, = inputs")
    result = f"    return ({', '.join(names[o.name] for o in graph.output)},)"
    source = "\n".join([helpers, "def forward(weights, inputs):", *unpack, *lines, result])
    scope = {}
    exec(compile(source, f"<{path}>", "exec"), scope)
    return scope["forward"], weights
