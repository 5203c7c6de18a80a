"""Writes seeded weights, an input and the output that another framework computes for it.

Needs numpy, safetensors and jax (CPU). Run it in any folder:

    python examples/transformer/make.py

It writes, beside itself: transformer.safetensors, transformer_x.npy (f32[2, 16, 128]),
transformer_y.npy (JAX's output in f64 from the stored f32 parameters, rounded to f32) and
expected.json.
"""

import json
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402

HERE = Path(__file__).resolve().parent
DIM, HEADS, HIDDEN, BATCH, SEQ = 128, 4, 512, 2, 16


def parameters(rng):
    """Random everywhere, so that no scale, shift or bias can be forgotten unnoticed."""
    tensors = {}
    dense = {"qkv": (3 * DIM, DIM), "proj": (DIM, DIM), "up": (HIDDEN, DIM), "down": (DIM, HIDDEN)}
    for name, (fan_out, fan_in) in dense.items():
        bound = np.sqrt(6 / (fan_in + fan_out))
        tensors[f"encoder.{name}.weight"] = rng.uniform(-bound, bound, (fan_out, fan_in))
        tensors[f"encoder.{name}.bias"] = rng.normal(0, 0.05, fan_out)
    for name in ["encoder.ln_1", "encoder.ln_2", "norm"]:
        tensors[f"{name}.weight"] = rng.normal(1, 0.1, DIM)
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, DIM)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def layer_norm(p, name, x):
    mean = x.mean(-1, keepdims=True)
    var = jnp.mean((x - mean) ** 2, -1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * p[name + ".weight"] + p[name + ".bias"]


def dense(p, name, x):
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def transformer(p, x):
    batch, seq, _ = x.shape
    h = dense(p, "encoder.qkv", layer_norm(p, "encoder.ln_1", x))
    # The last dimension of the projection reads [q, k, v][head][feature].
    q, k, v = jnp.moveaxis(h.reshape(batch, seq, 3, HEADS, DIM // HEADS), 2, 0)
    h = jax.nn.dot_product_attention(q, k, v)  # [batch, seq, heads, features], scale 1/√features
    x = x + dense(p, "encoder.proj", h.reshape(batch, seq, DIM))
    h = dense(p, "encoder.up", layer_norm(p, "encoder.ln_2", x))
    x = x + dense(p, "encoder.down", jax.nn.gelu(h, approximate=False))
    return layer_norm(p, "norm", x)


def main():
    rng = np.random.default_rng(0)
    tensors = parameters(rng)
    x = rng.normal(0, 1, (BATCH, SEQ, DIM)).astype(np.float32)
    wide = {name: jnp.asarray(tensor, jnp.float64) for name, tensor in tensors.items()}
    y = transformer(wide, jnp.asarray(x, jnp.float64))
    assert y.dtype == jnp.float64
    save_file(tensors, HERE / "transformer.safetensors")
    np.save(HERE / "transformer_x.npy", x)
    np.save(HERE / "transformer_y.npy", np.asarray(y, np.float32))
    runs = [
        {
            "model": "transformer.dl",
            "inputs": {"x": "@transformer_x.npy"},
            "outputs": {"norm": "@transformer_y.npy"},
            "rtol": 1e-4,
            "atol": 1e-5,
        }
    ]
    (HERE / "expected.json").write_text(json.dumps({"runs": runs}, indent=2) + "\n")
    print("output", y.shape, "mean", float(y.mean()), "deviation", float(y.std()))


if __name__ == "__main__":
    main()
