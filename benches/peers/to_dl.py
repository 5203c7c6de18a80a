#!/usr/bin/env python3
"""An ONNX file as a `.dl` file in core form, with its weights beside it.

    to_dl.py MODEL.onnx OUT.dl WEIGHTS.safetensors

Each node becomes the op of the same meaning, one by one, and keeps its name; what several nodes mean together
(GELU, attention) is dlc's to recognize. Shapes must be fixed. Weights are stored as they are, but for the
second factor of `Gemm`, which goes to `dense` as [out, in]. Scalars become constants.
"""
import json
import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

DTYPES = {onnx.TensorProto.FLOAT: "f32", onnx.TensorProto.INT64: "i64", onnx.TensorProto.INT32: "i32"}
UNARY = {
    "Relu": "relu", "Tanh": "tanh", "Erf": "erf", "Exp": "exp", "Neg": "neg", "Sigmoid": "sigmoid",
    "Sqrt": "sqrt", "Identity": "identity",
}
BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}


class Unsupported(Exception):
    pass


def quoted(name):
    return json.dumps(name, ensure_ascii=False)


def number(x):
    """The shortest text that reads back as this f32."""
    return repr(float(str(np.float32(x))))


def type_text(dtype, shape):
    return f"{dtype}[{', '.join(map(str, shape))}]"


class Converter:
    def __init__(self, model):
        model = shape_inference.infer_shapes(model, data_prop=True)
        graph = model.graph
        self.graph = graph
        self.stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.types = {}
        for info in [*graph.value_info, *graph.input, *graph.output]:
            tensor = info.type.tensor_type
            self.types[info.name] = (DTYPES[tensor.elem_type], [d.dim_value for d in tensor.shape.dim])
        self.text_of = {i.name: f"%{quoted(i.name)}" for i in graph.input}
        self.weights, self.lines = {}, []
        self.count = 0

    # Operands.

    def shape(self, name):
        return list(self.stored[name].shape) if name in self.stored else self.types[name][1]

    def ints(self, name):
        """The values of an operand that must be known here."""
        if name not in self.stored:
            raise Unsupported(f"`{name}` must be a constant")
        return [int(x) for x in self.stored[name].reshape(-1)]

    def operand(self, name):
        if name not in self.text_of:
            value = self.stored[name]
            if value.ndim == 0:
                element = number(value) if value.dtype == np.float32 else str(int(value))
                dtype = {"float32": "f32", "int64": "i64"}[str(value.dtype)]
                attributes = {"value": f"{dtype}[]({element})"}
                self.text_of[name] = self.node("constant", [], attributes, [(dtype, [])])
            else:
                self.text_of[name] = self.parameter(name, value)
        return self.text_of[name]

    def parameter(self, name, value):
        if value.dtype != np.float32:
            raise Unsupported(f"weight `{name}` is {value.dtype}")
        self.weights[name] = value
        return f"${quoted(name)}"

    # Lines.

    def node(self, op, operands, attributes, types, name=None):
        """Appends a line, returns the first result."""
        at = self.count
        self.count += 1
        results = [f"%{at}#{i}" if i else f"%{at}" for i in range(len(types))]
        left = ", ".join(f"{r}: {type_text(*t)}" for r, t in zip(results, types))
        inside = ", ".join(f"{k} = {v}" for k, v in attributes.items())
        inside = f" {{{inside}}}" if inside else ""
        label = f" as {quoted(name)}" if name else ""
        self.lines.append(f"  {left} = {op}({', '.join(operands)}){inside}{label}")
        return results[0]

    def single(self, node, op, operands, attributes=None):
        out = node.output[0]
        self.text_of[out] = self.node(op, operands, attributes or {}, [self.types[out]], out)

    def convert(self, node):
        kind, out = node.op_type, node.output[0]
        a = {x.name: helper.get_attribute_value(x) for x in node.attribute}
        ins = list(node.input)
        if kind in UNARY:
            self.single(node, UNARY[kind], [self.operand(ins[0])])
        elif kind in BINARY:
            self.single(node, BINARY[kind], [self.operand(i) for i in ins])
        elif kind == "Sum" and len(ins) == 2:
            self.single(node, "add", [self.operand(i) for i in ins])
        elif kind == "MatMul":
            self.single(node, "matmul", [self.operand(i) for i in ins])
        elif kind == "Clip":
            low, high = (number(self.stored[i]) for i in ins[1:3])
            self.single(node, "clamp", [self.operand(ins[0])], {"min": low, "max": high})
        elif kind == "Softmax":
            self.single(node, "softmax", [self.operand(ins[0])], {"axis": a.get("axis", -1)})
        elif kind == "LayerNormalization":
            attributes = {"eps": number(a.get("epsilon", 1e-5)), "axis": a.get("axis", -1)}
            self.single(node, "layer_norm", [self.operand(i) for i in ins], attributes)
        elif kind == "BatchNormalization":
            channels = ("f32", [self.shape(ins[0])[1]])
            types = [self.types[out], channels, channels]
            attributes = {"eps": number(a.get("epsilon", 1e-5))}
            self.text_of[out] = self.node("batch_norm", [self.operand(i) for i in ins], attributes, types, out)
        elif kind == "GlobalAveragePool":
            self.single(node, "global_avg_pool", [self.operand(ins[0])])
        elif kind == "Flatten" and a.get("axis", 1) == 1:
            self.single(node, "flatten", [self.operand(ins[0])])
        elif kind == "Reshape":
            self.single(node, "reshape", [self.operand(ins[0])], {"shape": self.types[out][1]})
        elif kind == "Transpose":
            self.single(node, "transpose", [self.operand(ins[0])], {"perm": list(a["perm"])})
        elif kind == "Concat":
            self.single(node, "concat", [self.operand(i) for i in ins], {"axis": a["axis"]})
        elif kind == "Squeeze":
            self.single(node, "squeeze", [self.operand(ins[0])], {"axis": self.ints(ins[1])})
        elif kind == "Unsqueeze":
            self.single(node, "unsqueeze", [self.operand(ins[0])], {"axis": self.ints(ins[1])})
        elif kind == "Gather" and ins[1] in self.stored and self.stored[ins[1]].ndim == 0:
            attributes = {"axis": a.get("axis", 0), "index": self.ints(ins[1])[0]}
            self.single(node, "select", [self.operand(ins[0])], attributes)
        elif kind == "Split":
            attributes = {"parts": self.ints(ins[1]), "axis": a.get("axis", 0)}
            types = [self.types[o] for o in node.output]
            first = self.node("split", [self.operand(ins[0])], attributes, types)
            for i, o in enumerate(node.output):
                self.text_of[o] = f"{first}#{i}" if i else first
        elif kind == "Conv":
            self.conv(node, a, ins)
        elif kind in ("MaxPool", "AveragePool"):
            self.pool(node, a, ins)
        elif kind == "Gemm":
            self.gemm(node, a, ins)
        else:
            raise Unsupported(f"{kind} with {a}")

    def window(self, a):
        """Stride and padding, where they are not the default of convolutions."""
        if a.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise Unsupported("auto_pad")
        pads = list(a.get("pads", [0, 0, 0, 0]))
        half = len(pads) // 2
        return {"pad": pads[:half] if pads[:half] == pads[half:] else pads}

    def conv(self, node, a, ins):
        attributes = {"stride": list(a.get("strides", [1, 1])), **self.window(a)}
        attributes |= {"dilation": list(a.get("dilations", [1, 1])), "groups": a.get("group", 1)}
        self.single(node, "conv2d", [self.operand(i) for i in ins], attributes)

    def pool(self, node, a, ins):
        out = node.output[0]
        attributes = {"kernel": list(a["kernel_shape"]), "stride": list(a.get("strides", [1, 1]))}
        attributes |= self.window(a)
        if a.get("ceil_mode"):
            attributes["ceil_mode"] = "true"
        if node.op_type == "AveragePool":
            attributes["count_include_pad"] = "true" if a.get("count_include_pad") else "false"
            self.single(node, "avg_pool", [self.operand(ins[0])], attributes)
        else:
            types = [self.types[out], ("i64", self.types[out][1])]
            self.text_of[out] = self.node("max_pool", [self.operand(ins[0])], attributes, types, out)

    def gemm(self, node, a, ins):
        plain = a.get("alpha", 1.0) == 1.0 and a.get("beta", 1.0) == 1.0 and not a.get("transA")
        if not plain or ins[1] not in self.stored:
            raise Unsupported(f"Gemm with {a}")
        weight = self.stored[ins[1]]
        weight = weight if a.get("transB") else weight.T
        operands = [self.operand(ins[0]), self.parameter(ins[1], weight), *map(self.operand, ins[2:])]
        self.single(node, "dense", operands)

    def text(self):
        missing = []
        for node in self.graph.node:
            try:
                self.convert(node)
            except Unsupported as e:
                missing.append(str(e))
                for o in node.output:
                    self.text_of[o] = "_"
        if missing:
            raise Unsupported("; ".join(sorted(set(missing))))
        head = ", ".join(f"%{quoted(i.name)}: {type_text(*self.types[i.name])}" for i in self.graph.input)
        params = [
            f"  param ${quoted(name)}: {type_text('f32', w.shape)} = zeros" for name, w in self.weights.items()
        ]
        outputs = ", ".join(f"{quoted(o.name)} = {self.text_of[o.name]}" for o in self.graph.output)
        lines = [f"graph {quoted(self.graph.name)}({head}) {{", *params, *self.lines, f"  yield {outputs}", "}"]
        return "\n".join(lines) + "\n"


def convert(source, target, weights):
    from safetensors.numpy import save_file

    converter = Converter(onnx.load(source))
    text = converter.text()
    save_file({k: np.ascontiguousarray(v) for k, v in converter.weights.items()}, weights)
    with open(target, "w") as f:
        f.write(text)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    convert(*sys.argv[1:])
