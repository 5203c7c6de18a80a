"""Writes ops.json and ops.safetensors: figures for ops from implementations other than dlc's.

Needs numpy, scipy, jax (CPU) and safetensors. Run it in any folder:

    python tests/data/make_ops.py

`ops.json` holds {"cases": [{"name", "op", "operands", "attrs", "expected", "tolerance",
"tolerance_f32"}]}. `operands` are names of tensors in ops.safetensors in the order of the op's
row, null for one that is absent; `expected` are those of the results that are known, null for a
result that is not checked. Float operands are stored as f32 and expected floats as f64: the
expectation is computed in f64 from exactly the stored values. `tolerance` [rel, abs] is for an
evaluation whose floats are all f64 (null: none is made), `tolerance_f32` for one in f32. Integers
and bools are exact; NaN and infinities stand at the same places.
"""

import json
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file
from scipy import ndimage, signal, special

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402

HERE = Path(__file__).resolve().parent
INF, NAN = np.inf, np.nan


class Table:
    """Cases in order, and the tensors that they name; a tensor that occurs twice is stored once."""

    def __init__(self):
        self.cases, self.tensors, self.known = [], {}, {}
        self.rng = np.random.default_rng(0)

    def normal(self, *shape, scale=1.0):
        return self.rng.normal(0, scale, shape).astype(np.float32)

    def store(self, name, array, floats):
        if array is None:
            return None
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype(floats)
        array = np.array(array, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            self.known[key] = name
            self.tensors[name] = array
        return self.known[key]

    def add(self, name, op, operands, attrs, expected, f64=(1e-12, 1e-12), f32=(1e-5, 1e-5)):
        """`expected` is an array, a tuple of arrays, or a function of the widened operands."""
        if callable(expected):
            wide = lambda a: a.astype(np.float64) if a is not None and a.dtype.kind == "f" else a
            operands = [None if a is None else np.asarray(a) for a in operands]
            with np.errstate(all="ignore"):
                expected = expected(*[wide(a) for a in operands])
        if not isinstance(expected, tuple):
            expected = (expected,)
        if any(case["name"] == name for case in self.cases):
            raise ValueError(f"two cases are called {name}")
        for result in expected:
            if result is not None and np.asarray(result).dtype == np.float32:
                raise ValueError(f"{name}: the expectation was computed in f32")
        self.cases.append(
            {
                "name": name,
                "op": op,
                "operands": [
                    self.store(f"{name}.in{i}", a, np.float32) for i, a in enumerate(operands)
                ],
                "attrs": attrs,
                "expected": [
                    self.store(f"{name}.out{i}", a, np.float64) for i, a in enumerate(expected)
                ],
                "tolerance": f64 and list(f64),
                "tolerance_f32": list(f32),
            }
        )


# ---- elementwise ------------------------------------------------------------------------------


def elementwise(t):
    grid = np.concatenate(
        [np.linspace(-6, 6, 41), [0.0, -0.0, 1e-8, -1e-8, 30, -30, INF, -INF, NAN]]
    ).astype(np.float32)
    positive = np.array([1e-30, 1e-6, 0.1, 0.5, 1, 2, np.e, 10, 1e6, 1e30, INF, 0, NAN], np.float32)
    unary = {
        "erf": special.erf,
        "exp": np.exp,
        "expm1": np.expm1,
        "tanh": np.tanh,
        "sigmoid": special.expit,
        "relu": lambda x: np.maximum(x, 0),
        "softplus": lambda x: np.logaddexp(0, x),
        "floor": np.floor,
        "ceil": np.ceil,
        "round": np.rint,
        "trunc": np.trunc,
        "abs": np.abs,
        "sign": np.sign,
        "isnan": np.isnan,
        "isinf": np.isinf,
    }
    for op, f in unary.items():
        t.add(op, op, [grid], {}, f, f32=(1e-6, 1e-7))
    t.add("round_ties", "round", [np.arange(-3.5, 4, 0.5, np.float32)], {}, np.rint)
    finite = grid[np.isfinite(grid)]
    t.add("sin", "sin", [finite * 7], {}, np.sin, f32=(1e-6, 1e-6))
    t.add("cos", "cos", [finite * 7], {}, np.cos, f32=(1e-6, 1e-6))
    for op, f in {"sqrt": np.sqrt, "log": np.log, "log1p": np.log1p}.items():
        t.add(op, op, [positive], {}, f, f32=(1e-6, 1e-7))
    t.add("rsqrt", "rsqrt", [positive], {}, lambda x: 1 / np.sqrt(x), f32=(1e-6, 1e-7))
    t.add("log_negative", "log", [np.array([-1, -INF], np.float32)], {}, np.log)
    t.add("sqrt_negative", "sqrt", [np.array([-1, -INF, -0.0], np.float32)], {}, np.sqrt)

    # gelu(-inf) is -inf · 0; the limit is not what the formula gives, so only finite arguments.
    t.add("gelu_exact", "gelu", [finite], {"approximate": "none"},
          lambda x: x / 2 * special.erfc(-x / np.sqrt(2)), f32=(1e-5, 1e-6))
    t.add("gelu_tanh", "gelu", [finite], {"approximate": "tanh"},
          lambda x: np.asarray(jax.nn.gelu(x, approximate=True)), f32=(1e-5, 1e-6))
    t.add("silu", "silu", [finite], {}, lambda x: x * special.expit(x), f32=(1e-5, 1e-6))

    activations = {
        "leaky_relu": ({"negative_slope": 0.2}, lambda x: jax.nn.leaky_relu(x, 0.2)),
        "elu": ({"alpha": 1.5}, lambda x: jax.nn.elu(x, 1.5)),
        "selu": ({}, jax.nn.selu),
        "relu6": ({}, jax.nn.relu6),
        "hardsigmoid": ({}, jax.nn.hard_sigmoid),
        "hardswish": ({}, jax.nn.hard_swish),
        "hardtanh": ({}, jax.nn.hard_tanh),
        "softsign": ({}, jax.nn.soft_sign),
        "mish": ({}, jax.nn.mish),
        "logsigmoid": ({}, jax.nn.log_sigmoid),
        "clamp": ({"min": -1.5, "max": 2}, lambda x: jnp.clip(x, -1.5, 2)),
    }
    for op, (attrs, f) in activations.items():
        t.add(op, op, [finite], attrs, lambda x, f=f: np.asarray(f(jnp.asarray(x))),
              f32=(1e-5, 1e-6))
    t.add("clamp_below_only", "clamp", [grid], {"min": 0.5},
          lambda x: np.asarray(jnp.maximum(x, 0.5)))

    a = np.array([7, -7, 7, -7, 5.5, -5.5, 0.0, 1, INF, NAN], np.float32)
    b = np.array([3, 3, -3, -3, 2, 2, 5, INF, 2, 2], np.float32)
    t.add("remainder", "remainder", [a[:7], b[:7]], {}, np.mod)
    t.add("floor_divide", "floor_divide", [a[:7], b[:7]], {}, np.floor_divide)
    i, j = np.array([7, -7, 7, -7, 0, 2], np.int32), np.array([3, 3, -3, -3, 5, -1], np.int32)
    t.add("remainder_int", "remainder", [i, j], {}, np.mod)
    t.add("floor_divide_int", "floor_divide", [i, j], {}, np.floor_divide)
    t.add("minimum_nan", "minimum", [a, b[::-1]], {}, np.minimum)
    t.add("maximum_nan", "maximum", [a, b[::-1]], {}, np.maximum)
    base = np.array([2, -2, -2, 0, 0, 9, 1, INF, 2, -8, 0.5, 4], np.float32)
    power = np.array([10, 3, 2, 0, -1, 0.5, NAN, 0, -3, 1 / 3, INF, -0.5], np.float32)
    t.add("pow", "pow", [base, power], {}, np.power, f32=(1e-6, 1e-7))
    t.add("broadcast_add", "add", [t.normal(3, 1, 4), t.normal(2, 1)], {}, np.add)
    t.add("where", "where", [t.normal(3, 4) > 0, t.normal(3, 4), t.normal(4)], {}, np.where)
    t.add("eq_nan", "eq", [a, np.where(np.isnan(a), NAN, b).astype(np.float32)], {}, np.equal)

    wide = np.array([0.9, -0.9, 2.5, -2.5, 1e10, -1e10, INF, -INF, NAN], np.float32)
    big = np.iinfo(np.int32)
    t.add("cast_saturates", "cast", [wide], {"dtype": "i32"},
          np.array([0, 0, 2, -2, big.max, big.min, big.max, big.min, 0], np.int32))
    edges = np.array([1 / 3, -2 / 3, 65504, 65519.9, 65520, 1e-8, 6e-8, 5.96e-8, 2.98e-8, 3.4e38,
                      1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, -0.0, INF, NAN],
                     np.float32)
    for dtype, narrow in {"f16": np.float16, "bf16": jnp.bfloat16.dtype}.items():
        with np.errstate(all="ignore"):
            rounded = edges.astype(narrow).astype(np.float64)
        t.add(f"cast_{dtype}", "cast", [edges], {"dtype": dtype}, rounded, None, (0, 0))
    t.add("cast_wraps", "cast", [np.array([300, -1, 128, 65536], np.int32)], {"dtype": "u8"},
          np.array([44, 255, 128, 0], np.uint8))


# ---- reductions and orders --------------------------------------------------------------------


def reductions(t):
    x = t.normal(3, 4, 5)
    for op, f in {"sum": np.sum, "mean": np.mean, "amax": np.max, "amin": np.min,
                  "prod": np.prod}.items():
        t.add(f"{op}_all", op, [x], {}, lambda x, f=f: np.asarray(f(x)))
        t.add(f"{op}_last", op, [x], {"axis": [-1]}, lambda x, f=f: f(x, axis=-1))
        t.add(f"{op}_two_keep", op, [x], {"axis": [0, 2], "keepdims": True},
              lambda x, f=f: f(x, axis=(0, 2), keepdims=True))
    empty = np.zeros((2, 0, 3), np.float32)
    t.add("sum_empty", "sum", [empty], {"axis": [1]}, lambda x: x.sum(1))
    t.add("prod_empty", "prod", [empty], {"axis": [1]}, lambda x: x.prod(1))
    holes = x.copy()
    holes[0, 1, 2] = holes[2, 3, 0] = NAN
    t.add("amax_nan", "amax", [holes], {"axis": [1]}, lambda x: x.max(1))
    t.add("amin_nan", "amin", [holes], {"axis": [1]}, lambda x: x.min(1))
    ties = np.array([[1, 3, 3, 0], [2, 2, 2, 2], [-1, NAN, 5, NAN]], np.float32)
    t.add("argmax_ties_nan", "argmax", [ties], {"axis": -1}, lambda x: x.argmax(-1))
    t.add("argmin_ties_nan", "argmin", [ties], {"axis": -1}, lambda x: x.argmin(-1))
    flags = np.array([[True, False], [True, True], [False, False]])
    t.add("any", "any", [flags], {"axis": [1]}, lambda x: x.any(1))
    t.add("all", "all", [flags], {"axis": [1]}, lambda x: x.all(1))
    t.add("sum_int", "sum", [np.arange(24, dtype=np.int32).reshape(2, 3, 4)], {"axis": [1]},
          lambda x: x.sum(1, dtype=np.int32))
    t.add("logsumexp", "logsumexp", [x * 50], {"axis": [1]},
          lambda x: special.logsumexp(x, axis=1))
    for reverse in ["", "_int"]:
        data = x if not reverse else np.arange(12, dtype=np.int64).reshape(3, 4)
        t.add(f"cumsum{reverse}", "cumsum", [data], {"axis": 1}, lambda x: x.cumsum(1))
    t.add("cumsum_exclusive_reverse", "cumsum", [x],
          {"axis": 1, "exclusive": True, "reverse": True},
          lambda x: x[:, ::-1].cumsum(1)[:, ::-1] - x)
    t.add("cumprod", "cumprod", [x], {"axis": 2}, lambda x: x.cumprod(2))
    t.add("var", "var", [x], {"axis": [1], "correction": 1}, lambda x: x.var(1, ddof=1))

    row = np.array([[3, 1, 2, 3, 0, -1], [5, 5, 5, 1, 9, 9]], np.float32)

    def top(x, k, largest):
        order = np.argsort(-x if largest else x, axis=-1, kind="stable")[..., :k]
        return np.take_along_axis(x, order, -1), order

    t.add("top_k", "top_k", [row], {"k": 3}, lambda x: top(x, 3, True))
    t.add("top_k_smallest", "top_k", [row], {"k": 4, "largest": False},
          lambda x: top(x, 4, False))
    t.add("top_k_axis", "top_k", [row], {"k": 1, "axis": 0},
          lambda x: tuple(v.T for v in top(x.T, 1, True)))
    t.add("argsort", "argsort", [row], {"axis": 1, "descending": True},
          lambda x: top(x, 6, True)[1])
    holes = np.array([[3, NAN, 1, INF, NAN, -INF]], np.float32)
    t.add("sort_nan", "sort", [holes], {}, (np.array([[-INF, 1, 3, INF, NAN, NAN]]),
                                            np.array([[5, 2, 0, 3, 1, 4]])), f32=(0, 0))
    t.add("top_k_nan", "top_k", [holes], {"k": 3}, (np.array([[NAN, NAN, INF]]),
                                                    np.array([[1, 4, 3]])), f32=(0, 0))
    t.add("sort", "sort", [row], {"axis": -1}, lambda x: top(x, 6, False))


def softmaxes(t):
    x = t.normal(3, 4, 5, scale=3)
    for axis in [0, 1, -1]:
        t.add(f"softmax_axis{axis}", "softmax", [x], {"axis": axis},
              lambda x, axis=axis: special.softmax(x, axis), f32=(1e-5, 1e-7))
        t.add(f"log_softmax_axis{axis}", "log_softmax", [x], {"axis": axis},
              lambda x, axis=axis: special.log_softmax(x, axis))
    wide = np.array([[1e4, 1e4 - 1, -1e4, 0], [-INF, 0, 1, -INF], [-1e30, 1e30, 3e38, -3e38]],
                    np.float32)
    t.add("softmax_extremes", "softmax", [wide], {"axis": -1},
          lambda x: special.softmax(x, -1), f32=(1e-5, 1e-7))


# ---- normalizations ---------------------------------------------------------------------------


def normalizations(t):
    x = t.normal(2, 6, 4, 3, scale=2) + np.float32(5)
    weight, bias = t.normal(6), t.normal(6)
    mean, var = t.normal(6) + np.float32(5), np.abs(t.normal(6)) + np.float32(0.1)
    column = lambda v: v[:, None, None]

    def batch_norm(x, weight, bias, mean, var, eps=1e-5):
        y = (x - column(mean)) / np.sqrt(column(var) + eps)
        return y * column(weight) + column(bias)

    t.add("batch_norm", "batch_norm", [x, weight, bias, mean, var], {"eps": 1e-5}, batch_norm)
    t.add("batch_norm_eps", "batch_norm", [x, weight, bias, mean, var], {"eps": 0.1},
          lambda *a: batch_norm(*a, eps=0.1))

    def in_training(x, weight, bias, mean, var):
        batch = [x.mean((0, 2, 3)), x.var((0, 2, 3))]
        unbiased = x.var((0, 2, 3), ddof=1)
        return (batch_norm(x, weight, bias, *batch), 0.8 * mean + 0.2 * batch[0],
                0.8 * var + 0.2 * unbiased)

    t.add("batch_norm_training", "batch_norm", [x, weight, bias, mean, var],
          {"momentum": 0.2, "training": True}, in_training)
    t.add("instance_norm", "instance_norm", [x, weight, bias], {},
          lambda x, w, b: np.stack(
              [batch_norm(i[None], w, b, i.mean((1, 2)), i.var((1, 2)))[0] for i in x]))

    def layer_norm(x, weight=None, bias=None, eps=1e-5):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return (y if weight is None else y * weight) + (0 if bias is None else bias)

    rows = t.normal(2, 3, 10, scale=3) + np.float32(100)
    scale, shift = t.normal(10), t.normal(10)
    t.add("layer_norm", "layer_norm", [rows, scale, shift], {"eps": 1e-5}, layer_norm,
          f64=(1e-10, 1e-10), f32=(1e-4, 1e-4))
    t.add("layer_norm_bare", "layer_norm", [rows, None, None], {"eps": 1e-3},
          lambda x, w, b: layer_norm(x, eps=1e-3), f64=(1e-10, 1e-10), f32=(1e-4, 1e-4))
    constant = np.full((2, 10), 3.5, np.float32)
    t.add("layer_norm_constant", "layer_norm", [constant, scale, shift], {"eps": 1e-5},
          layer_norm)
    t.add("rms_norm", "rms_norm", [rows, scale], {"eps": 1e-6},
          lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w)

    def group_norm(x, weight, bias):
        g = x.reshape(2, 3, -1)
        g = (g - g.mean(-1, keepdims=True)) / np.sqrt(g.var(-1, keepdims=True) + 1e-5)
        return g.reshape(x.shape) * column(weight) + column(bias)

    t.add("group_norm", "group_norm", [x, weight, bias], {"groups": 3, "eps": 1e-5}, group_norm)


# ---- convolution and pooling ------------------------------------------------------------------


def convolutions(t):
    def conv(stride=1, pad=0, dilation=1, groups=1):
        pair = lambda v: tuple(v) if isinstance(v, (list, tuple)) else (v, v)
        edges = pad if isinstance(pad, list) else [(p, p) for p in pair(pad)]

        def run(x, weight, bias=None):
            y = jax.lax.conv_general_dilated(
                x, weight, pair(stride), edges, rhs_dilation=pair(dilation),
                dimension_numbers=("NCHW", "OIHW", "NCHW"), feature_group_count=groups,
            )
            y = np.asarray(y)
            return y if bias is None else y + bias[:, None, None]

        return run

    x = t.normal(2, 4, 9, 8)
    full, bias = t.normal(6, 4, 3, 3), t.normal(6)
    # A second implementation, so that the first is not believed blindly.
    direct = sum(signal.correlate(x[0, c].astype(float), full[1, c].astype(float), "valid")
                 for c in range(4))
    assert np.allclose(conv()(x.astype(float), full.astype(float))[0, 1], direct, atol=1e-12)

    t.add("conv2d", "conv2d", [x, full, bias], {}, conv())
    t.add("conv2d_no_bias", "conv2d", [x, full, None], {"pad": [1, 1]}, conv(pad=1))
    t.add("conv2d_stride", "conv2d", [x, full, bias], {"stride": [2, 3], "pad": [1, 0]},
          conv((2, 3), (1, 0)))
    t.add("conv2d_dilation", "conv2d", [x, full, bias],
          {"dilation": [2, 3], "pad": [3, 2]}, conv(dilation=(2, 3), pad=(3, 2)))
    t.add("conv2d_stride_dilation", "conv2d", [x, full, bias],
          {"stride": [2, 2], "dilation": [2, 1], "pad": [2, 1]},
          conv(2, (2, 1), (2, 1)))
    t.add("conv2d_groups", "conv2d", [x, full[:, :2], bias], {"groups": 2, "pad": [1, 1]},
          conv(groups=2, pad=1))
    t.add("conv2d_depthwise", "conv2d", [x, t.normal(4, 1, 5, 3), None],
          {"groups": 4, "pad": [2, 1], "stride": [2, 1]}, conv((2, 1), (2, 1), groups=4))
    t.add("conv2d_depthwise_multiplier", "conv2d", [x, t.normal(8, 1, 3, 3), t.normal(8)],
          {"groups": 4}, conv(groups=4))
    t.add("conv2d_pointwise", "conv2d", [x, t.normal(5, 4, 1, 1), None], {"stride": [2, 2]},
          conv(2))
    t.add("conv2d_kernel_beyond_image", "conv2d", [x[:, :, :2, :2], full, bias],
          {"pad": [2, 1]}, conv(pad=(2, 1)))
    # SAME of TensorFlow: the odd element of padding comes after.
    t.add("conv2d_same_upper", "conv2d", [x, t.normal(3, 4, 2, 4), None],
          {"pad": "same_upper", "stride": [2, 2]}, conv(2, [(0, 1), (1, 1)]))

    t.add("conv2d_pad_before_after", "conv2d", [x, full, None], {"pad": [0, 2, 3, 1]},
          conv(pad=[(0, 3), (2, 1)]))
    t.add("conv2d_same_even_kernel", "conv2d", [x, t.normal(3, 4, 2, 4), None], {"pad": "same"},
          conv(pad=[(0, 1), (1, 2)]))

    def conv_nd(x, weight, **options):
        spatial = "DHW"[5 - x.ndim :]
        dims = ("NC" + spatial, "OI" + spatial, "NC" + spatial)
        y = jax.lax.conv_general_dilated(x, weight, dimension_numbers=dims, **options)
        return np.asarray(y)

    t.add("conv1d", "conv1d", [t.normal(2, 4, 11), t.normal(6, 2, 3), None],
          {"groups": 2, "stride": [2], "pad": [1], "dilation": [2]},
          lambda x, w, b: conv_nd(x, w, window_strides=(2,), padding=[(1, 1)], rhs_dilation=(2,),
                                  feature_group_count=2))
    t.add("conv3d", "conv3d", [t.normal(1, 2, 4, 5, 3), t.normal(3, 2, 2, 3, 2), None],
          {"stride": [1, 2, 1], "pad": [1, 0, 1]},
          lambda x, w, b: conv_nd(x, w, window_strides=(1, 2, 1),
                                  padding=[(1, 1), (0, 0), (1, 1)]))

    def adjoint(out, stride=(1, 1), pad=(0, 0), dilation=(1, 1), groups=1):
        """The transposed convolution, as the gradient of the convolution by its input."""

        def run(x, weight, bias=None):
            zeros = jnp.zeros((x.shape[0], weight.shape[1] * groups, *out))
            forward = lambda y: jax.lax.conv_general_dilated(
                y, weight, stride, [(p, p) for p in pad], rhs_dilation=dilation,
                dimension_numbers=("NCHW", "OIHW", "NCHW"), feature_group_count=groups)
            y = np.asarray(jax.vjp(forward, zeros)[1](jnp.asarray(x))[0])
            return y if bias is None else y + bias[:, None, None]

        return run

    small = t.normal(2, 4, 3, 4)
    t.add("conv_transpose2d", "conv_transpose2d", [small, t.normal(4, 3, 3, 2), t.normal(3)], {},
          adjoint((5, 5)))
    # out = (in − 1) · stride − 2 · pad + dilation · (k − 1) + output_padding + 1
    t.add("conv_transpose2d_stride", "conv_transpose2d", [small, t.normal(4, 3, 3, 2), None],
          {"stride": [2, 3], "pad": [1, 0], "output_padding": [1, 2]},
          adjoint((6, 13), (2, 3), (1, 0)))
    t.add("conv_transpose2d_groups", "conv_transpose2d", [small, t.normal(4, 3, 2, 2), None],
          {"groups": 2, "dilation": [2, 1], "stride": [1, 2]},
          adjoint((5, 8), (1, 2), dilation=(2, 1), groups=2))

    def edges(pad):
        return [(0, 0), (0, 0), *[(p, p) for p in pad]]

    def max_pool(x, kernel, stride, pad, dilation=(1, 1)):
        return np.asarray(jax.lax.reduce_window(
            jnp.asarray(x), -jnp.inf, jax.lax.max, (1, 1, *kernel), (1, 1, *stride), edges(pad),
            window_dilation=(1, 1, *dilation)))

    def sum_pool(x, kernel, stride, pad):
        return np.asarray(jax.lax.reduce_window(
            jnp.asarray(x), 0.0, jax.lax.add, (1, 1, *kernel), (1, 1, *stride), edges(pad)))

    t.add("max_pool", "max_pool", [x], {"kernel": [2, 2], "stride": [2, 2]},
          lambda x: max_pool(x, (2, 2), (2, 2), (0, 0)), f32=(0, 0))
    t.add("max_pool_pad_negative", "max_pool", [-np.abs(x)],
          {"kernel": [3, 2], "stride": [2, 1], "pad": [1, 1]},
          lambda x: max_pool(x, (3, 2), (2, 1), (1, 1)), f32=(0, 0))
    t.add("max_pool_dilation", "max_pool", [x],
          {"kernel": [3, 2], "stride": [1, 2], "dilation": [2, 3]},
          lambda x: max_pool(x, (3, 2), (1, 2), (0, 0), (2, 3)), f32=(0, 0))
    image = np.array([[[[1, 4, 4], [4, 0, 2], [3, 3, 3]]]], np.float32)
    t.add("max_pool_index_ties", "max_pool", [image], {"kernel": [2, 2], "stride": [1, 1]},
          (np.array([[[[4.0, 4], [4, 3]]]]), np.array([[[[1, 1], [3, 7]]]])), f32=(0, 0))

    t.add("avg_pool", "avg_pool", [x], {"kernel": [2, 3], "stride": [2, 2]},
          lambda x: sum_pool(x, (2, 3), (2, 2), (0, 0)) / 6)
    t.add("avg_pool_count_pad", "avg_pool", [x],
          {"kernel": [3, 3], "stride": [2, 2], "pad": [1, 1], "count_include_pad": True},
          lambda x: sum_pool(x, (3, 3), (2, 2), (1, 1)) / 9)
    t.add("avg_pool_inside_only", "avg_pool", [x],
          {"kernel": [3, 3], "stride": [2, 2], "pad": [1, 1], "count_include_pad": False},
          lambda x: sum_pool(x, (3, 3), (2, 2), (1, 1))
          / sum_pool(np.ones_like(x), (3, 3), (2, 2), (1, 1)))

    def ceil_pool(x, kernel, stride, pad):
        """Windows that begin inside; the mean counts what lies in `x` alone."""
        extents, mean = x.shape[2:], []
        counts = [-(-(n + 2 * p - k) // s) + 1 for n, k, s, p in zip(extents, kernel, stride, pad)]
        counts = [c - ((c - 1) * s >= n + p)
                  for c, n, s, p in zip(counts, extents, stride, pad)]
        for at in np.ndindex(*counts):
            low = [i * s - p for i, s, p in zip(at, stride, pad)]
            window = x[:, :, *[slice(max(a, 0), a + k) for a, k in zip(low, kernel)]]
            mean.append(window.mean((2, 3)))
        return np.stack(mean, -1).reshape(*x.shape[:2], *counts)

    t.add("avg_pool_ceil_inside_only", "avg_pool", [x],
          {"kernel": [3, 2], "stride": [3, 3], "pad": [1, 1], "ceil_mode": True,
           "count_include_pad": False},
          lambda x: ceil_pool(x, (3, 2), (3, 3), (1, 1)))
    t.add("max_pool_ceil", "max_pool", [x], {"kernel": [2, 3], "stride": [2, 2], "ceil_mode": True},
          lambda x: np.asarray(jax.lax.reduce_window(
              jnp.asarray(x), -jnp.inf, jax.lax.max, (1, 1, 2, 3), (1, 1, 2, 2),
              [(0, 0), (0, 0), (0, 1), (0, 1)])), f32=(0, 0))
    # The same figures from scipy: a uniform filter is an average over a zero-padded window.
    filtered = ndimage.uniform_filter(x[0, 0].astype(float), 3, mode="constant")[::2, ::2]
    pooled = sum_pool(x.astype(float), (3, 3), (2, 2), (1, 1))[0, 0] / 9
    assert np.allclose(filtered[: len(pooled)], pooled, atol=1e-12)
    t.add("global_avg_pool", "global_avg_pool", [x], {},
          lambda x: x.mean((2, 3), keepdims=True))


# ---- products and attention -------------------------------------------------------------------


def products(t):
    t.add("matmul", "matmul", [t.normal(4, 7), t.normal(7, 5)], {}, np.matmul)
    t.add("matmul_batch", "matmul", [t.normal(2, 3, 4, 6), t.normal(2, 3, 6, 5)], {}, np.matmul)
    t.add("matmul_broadcast", "matmul", [t.normal(2, 1, 4, 6), t.normal(3, 6, 5)], {}, np.matmul)
    t.add("matmul_empty", "matmul", [t.normal(3, 0), t.normal(0, 2)], {}, np.matmul)
    t.add("dense", "dense", [t.normal(2, 3, 7), t.normal(5, 7), t.normal(5)], {},
          lambda x, w, b: x @ w.T + b)
    t.add("dense_no_bias", "dense", [t.normal(3, 7), t.normal(5, 7), None], {},
          lambda x, w, b: x @ w.T)
    table, ids = t.normal(7, 3), np.array([[0, 6, 3], [3, 3, 1]], np.int32)
    t.add("embedding", "embedding", [ids, table], {}, lambda ids, table: table[ids])


def attentions(t):
    def attend(q, k, v, mask=None, causal=False, offset=0, scale=None):
        scores = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        keep = np.ones(scores.shape, bool)
        if mask is not None:
            if mask.dtype == bool:
                keep &= mask
            else:
                scores = scores + mask
                keep &= ~np.isneginf(scores)
        if causal:
            keep &= np.arange(k.shape[-2]) <= np.arange(q.shape[-2])[:, None] + offset
        scores = np.where(keep, scores, -np.inf)
        top = np.max(scores, -1, keepdims=True)
        weights = np.where(keep, np.exp(scores - np.where(np.isfinite(top), top, 0)), 0)
        total = weights.sum(-1, keepdims=True)
        return weights / np.where(total == 0, 1, total) @ v  # a row without keys gives 0

    q, k, v = t.normal(2, 3, 5, 4), t.normal(2, 3, 7, 4), t.normal(2, 3, 7, 6)
    plain = jax.nn.dot_product_attention(
        *[jnp.asarray(np.swapaxes(a, 1, 2), jnp.float64) for a in [q, k, v[..., :4]]])
    ours = attend(*[a.astype(float) for a in [q, k, v[..., :4]]])
    assert np.allclose(np.swapaxes(plain, 1, 2), ours, atol=1e-12)

    t.add("attention", "attention", [q, k, v, None], {}, lambda q, k, v, m: attend(q, k, v))
    t.add("attention_scale", "attention", [q, k, v, None], {"scale": 0.25},
          lambda q, k, v, m: attend(q, k, v, scale=0.25))
    t.add("attention_causal", "attention", [q, k[..., :5, :], v[..., :5, :], None],
          {"causal": True}, lambda q, k, v, m: attend(q, k, v, causal=True))
    t.add("attention_causal_more_keys", "attention", [q, k, v, None], {"causal": True},
          lambda q, k, v, m: attend(q, k, v, causal=True))
    keep = t.normal(2, 1, 5, 7) > 0
    keep[0, 0, 2] = keep[1, 0, 0] = False
    t.add("attention_bool_mask_empty_rows", "attention", [q, k, v, keep], {},
          lambda q, k, v, m: attend(q, k, v, m))
    keys = np.ones((2, 1, 1, 7), bool)
    keys[0, ..., 4:] = keys[1, ..., :] = False
    t.add("attention_key_mask", "attention", [q, k, v, keys], {},
          lambda q, k, v, m: attend(q, k, v, m))
    additive = t.normal(5, 7)
    t.add("attention_additive_mask", "attention", [q, k, v, additive], {},
          lambda q, k, v, m: attend(q, k, v, m))
    blocked = additive.copy()
    blocked[1] = -INF
    blocked[3, ::2] = -INF
    t.add("attention_additive_empty_row", "attention", [q, k, v, blocked], {},
          lambda q, k, v, m: attend(q, k, v, m))
    t.add("attention_causal_and_mask", "attention", [q, k, v, keep], {"causal": True},
          lambda q, k, v, m: attend(q, k, v, m, causal=True))
    shared = t.normal(2, 1, 7, 4), t.normal(2, 1, 7, 6)
    t.add("attention_shared_heads", "attention", [q, *shared, None], {},
          lambda q, k, v, m: attend(q, k, v))
    pairs = t.normal(1, 4, 3, 4), t.normal(1, 2, 6, 4), t.normal(1, 2, 6, 4)
    t.add("attention_grouped_heads", "attention", [*pairs, None], {},
          lambda q, k, v, m: attend(q, k.repeat(2, 1), v.repeat(2, 1)))
    for offset in [2, 0, -2]:  # with -2 the first two rows see nothing
        t.add(f"attention_offset{offset}", "attention", [q, k, v, None, np.int32(offset)],
              {"causal": True},
              lambda q, k, v, m, o, offset=offset: attend(q, k, v, causal=True, offset=offset))
    t.add("attention_logsumexp", "attention", [q, k, v, keep], {"causal": True},
          lambda q, k, v, m: (None, special.logsumexp(np.where(
              m & np.tri(5, 7, dtype=bool), q @ np.swapaxes(k, -1, -2) / 2, -INF), -1)))
    t.add("attention_large_scores", "attention", [q * 100, k * 100, v, None], {},
          lambda q, k, v, m: attend(q, k, v), f32=(1e-3, 1e-3))


# ---- views and indices ------------------------------------------------------------------------


def views(t):
    x = t.normal(2, 4, 5)
    for mode, name in {"constant": "constant", "edge": "replicate", "reflect": "reflect",
                       "wrap": "circular"}.items():
        t.add(f"pad_{name}", "pad", [x], {"pad": [0, 0, 1, 2, 3, 1], "mode": name},
              lambda x, mode=mode: np.pad(x, [(0, 0), (1, 2), (3, 1)], mode=mode), f32=(0, 0))
    t.add("pad_value", "pad", [x], {"pad": [1, 0, 0, 0, 0, 2], "value": -2.5},
          lambda x: np.pad(x, [(1, 0), (0, 0), (0, 2)], constant_values=-2.5), f32=(0, 0))
    t.add("pad_crop", "pad", [x], {"pad": [0, -1, -2, 1, 1, -3], "value": 7},
          lambda x: np.pad(x[:1, 2:, :2], [(0, 0), (0, 1), (1, 0)], constant_values=7), f32=(0, 0))
    t.add("transpose", "transpose", [x], {"perm": [2, 0, 1]}, lambda x: x.transpose(2, 0, 1),
          f32=(0, 0))
    t.add("concat", "concat", [x, x[:, :1], x[:, 2:]], {"axis": 1},
          lambda a, b, c: np.concatenate([a, b, c], 1), f32=(0, 0))
    t.add("flip", "flip", [x], {"axis": [0, 2]}, lambda x: x[::-1, :, ::-1], f32=(0, 0))
    t.add("roll", "roll", [x], {"shift": 2, "axis": 1}, lambda x: np.roll(x, 2, 1), f32=(0, 0))
    t.add("tril", "tril", [x], {"diagonal": 1}, lambda x: np.tril(x, 1), f32=(0, 0))
    t.add("triu", "triu", [x], {"diagonal": -1}, lambda x: np.triu(x, -1), f32=(0, 0))

    t.add("split", "split", [x], {"parts": 2, "axis": 1}, lambda x: tuple(np.split(x, 2, 1)),
          f32=(0, 0))
    t.add("split_extents", "split", [x], {"parts": [1, 3, 1], "axis": -1},
          lambda x: tuple(np.split(x, [1, 4], -1)), f32=(0, 0))
    t.add("stack", "stack", [x, x + 1], {"axis": 1}, lambda a, b: np.stack([a, b], 1),
          f32=(0, 0))
    t.add("tile", "tile", [x[:, 0]], {"reps": [2, 1, 3]}, lambda x: np.tile(x, [2, 1, 3]),
          f32=(0, 0))
    t.add("select", "select", [x], {"index": -2, "axis": 1}, lambda x: x[:, -2], f32=(0, 0))
    t.add("slice", "slice", [x], {"starts": [1, -4], "ends": [4, -1], "axes": [1, 2],
                                  "steps": [2, 1]}, lambda x: x[:, 1:4:2, -4:-1], f32=(0, 0))
    t.add("slice_backwards", "slice", [x], {"starts": [-1], "axes": [2], "steps": [-2]},
          lambda x: x[:, :, ::-2], f32=(0, 0))
    for at, start in [(1, 1), (4, 3), (-2, 0)]:  # clamped so that the slice fits
        t.add(f"dynamic_slice_at{at}", "dynamic_slice", [x, np.int32(at)], {"size": 2, "axis": 2},
              lambda x, at, start=start: x[:, :, start : start + 2], f32=(0, 0))
    t.add("split_heads", "split_heads", [t.normal(2, 3, 24)], {"heads": 4, "parts": 3},
          lambda x: tuple(x.reshape(2, 3, 3, 4, 2).transpose(2, 0, 3, 1, 4)), f32=(0, 0))
    t.add("merge_heads", "merge_heads", [t.normal(2, 4, 3, 2)], {},
          lambda x: x.transpose(0, 2, 1, 3).reshape(2, 3, 8), f32=(0, 0))

    ids = np.array([[3, 0], [1, 1]], np.int64)
    t.add("gather_whole", "take", [x, ids], {"axis": 1}, lambda x, i: np.take(x, i, 1),
          f32=(0, 0))
    along = np.array([[[0, 1, 3, 2, 0]], [[3, 3, 0, 1, 2]]], np.int64)
    t.add("gather_along", "gather", [x, along], {"axis": 1},
          lambda x, i: np.take_along_axis(x, i, 1), f32=(0, 0))

    def scatter(x, index, updates, add):
        y = x.copy()
        for at in np.ndindex(index.shape):
            where = (at[0], index[at], at[2])
            y[where] = y[where] + updates[at] if add else updates[at]
        return y

    index = np.array([[[0, 1, 3, 2, 0], [0, 2, 3, 1, 1]], [[3, 3, 0, 1, 2], [3, 0, 0, 2, 2]]],
                     np.int64)
    updates = t.normal(2, 2, 5)
    t.add("scatter_last_wins", "scatter", [x, index, updates], {"axis": 1},
          lambda x, i, u: scatter(x, i, u, False), f32=(0, 0))
    t.add("scatter_add", "scatter_add", [x, index, updates], {"axis": 1},
          lambda x, i, u: scatter(x, i, u, True))

    for mode, f in {"sum": np.add, "prod": np.multiply, "max": np.maximum,
                    "min": np.minimum}.items():
        def combined(x, i, u, f=f):
            y = x.copy()
            for at in np.ndindex(i.shape):
                where = (at[0], i[at], at[2])
                y[where] = f(y[where], u[at])
            return y

        t.add(f"scatter_{mode}", "scatter", [x, index, updates], {"axis": 1, "reduce": mode},
              combined)
    outside = np.array([[0, 9, -1, 2]], np.int32).T
    t.add("scatter_out_of_range", "scatter", [x[0, :, :1], outside, updates[0, 0, :4, None]],
          {"axis": 0}, lambda x, i, u: np.stack([u[0], x[1], u[3], x[3]]), f32=(0, 0))
    t.add("one_hot", "one_hot", [np.array([2, 0, 5, -1], np.int32)],
          {"num_classes": 3, "dtype": "f32"}, lambda i: np.float64(i[:, None] == np.arange(3)))

    def update(x, part, at):
        y = x.copy()
        y[:, at : at + part.shape[1]] = part
        return y

    part = t.normal(2, 2, 5)
    for at, start in [(1, 1), (9, 2), (-3, 0)]:  # an offset is clamped so that the part fits
        t.add(f"update_slice_at{at}", "update_slice", [x, part, np.int32(at)], {"axis": 1},
              lambda x, p, at, start=start: update(x, p, start), f32=(0, 0))


def counters(t):
    """Threefry-2x32: the first word for each pair of counters, by JAX's generator."""
    from jax.extend.random import threefry_2x32

    key = np.array([0x13198A2E, 0x03707344], np.uint32)
    high = np.arange(6, dtype=np.uint32)
    low = np.array([0, 1, 2, 0xFFFFFFFF, 0x243F6A88, 7], np.uint32)
    # JAX takes the counters as one array, first words then second words, and answers likewise.
    words = np.asarray(threefry_2x32(key, np.concatenate([high, low])))
    t.add("random_words", "random", [high, low], {"key": [int(k) for k in key]}, words[:6])


def main():
    t = Table()
    for part in [elementwise, reductions, softmaxes, normalizations, convolutions, products,
                 attentions, views, counters]:
        part(t)
    save_file(t.tensors, HERE / "ops.safetensors")
    lines = ",\n".join(json.dumps(case) for case in t.cases)
    (HERE / "ops.json").write_text('{"cases": [\n' + lines + "\n]}\n")
    sizes = [(HERE / name).stat().st_size for name in ["ops.json", "ops.safetensors"]]
    print(len(t.cases), "cases,", *sizes, "bytes")


if __name__ == "__main__":
    main()
