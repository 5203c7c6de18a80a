"""Writes seeded weights, tokens and the logits that NumPy computes for them in f64.

Needs numpy, scipy and safetensors. Run it in any folder:

    python examples/decoder/make.py

The logits come from one pass over the whole sequence with a causal mask and without any cache, so
they check the cached model from outside. It writes, beside itself: decoder.safetensors,
decoder_ids.npy (i32[8]), decoder_logits.npy (f32[8, 50]) and expected.json.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.special import erf

HERE = Path(__file__).resolve().parent
VOCABULARY, MAX, DIM, HEADS, SEQ = 50, 32, 64, 4, 8


def parameters(rng):
    tensors = {
        "wte.weight": rng.normal(0, 0.3, (VOCABULARY, DIM)),
        "wpe.weight": rng.normal(0, 0.3, (MAX, DIM)),
    }
    dense = {
        "h.0.attn.c_attn": (3 * DIM, DIM),
        "h.0.attn.c_proj": (DIM, DIM),
        "h.0.up": (4 * DIM, DIM),
        "h.0.down": (DIM, 4 * DIM),
    }
    for name, (fan_out, fan_in) in dense.items():
        bound = np.sqrt(6 / (fan_in + fan_out))
        tensors[f"{name}.weight"] = rng.uniform(-bound, bound, (fan_out, fan_in))
        tensors[f"{name}.bias"] = rng.normal(0, 0.05, fan_out)
    for name in ["h.0.ln_1", "h.0.ln_2", "ln_f"]:
        tensors[f"{name}.weight"] = rng.normal(1, 0.1, DIM)
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, DIM)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def dense(p, name, x):
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def layer_norm(p, name, x):
    centred = x - x.mean(-1, keepdims=True)
    var = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(var + 1e-5) * p[name + ".weight"] + p[name + ".bias"]


def attention(q, k, v):
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tri(len(q[0]), dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def decoder(p, ids):
    x = p["wte.weight"][ids] + p["wpe.weight"][np.arange(len(ids))]
    qkv = dense(p, "h.0.attn.c_attn", layer_norm(p, "h.0.ln_1", x))
    q, k, v = qkv.reshape(len(ids), 3, HEADS, DIM // HEADS).transpose(1, 2, 0, 3)
    merged = attention(q, k, v).swapaxes(0, 1).reshape(len(ids), DIM)
    x = x + dense(p, "h.0.attn.c_proj", merged)
    h = dense(p, "h.0.up", layer_norm(p, "h.0.ln_2", x))
    x = x + dense(p, "h.0.down", h / 2 * (1 + erf(h / np.sqrt(2))))
    return layer_norm(p, "ln_f", x) @ p["wte.weight"].T


def main():
    rng = np.random.default_rng(0)
    tensors = parameters(rng)
    ids = rng.integers(0, VOCABULARY, SEQ).astype(np.int32)
    logits = decoder({n: t.astype(np.float64) for n, t in tensors.items()}, ids).astype(np.float32)
    save_file(tensors, HERE / "decoder.safetensors")
    np.save(HERE / "decoder_ids.npy", ids)
    np.save(HERE / "decoder_logits.npy", logits)

    def literal(values):
        values = np.asarray(values)
        dtype = {"f": "f32", "i": "i32"}[values.dtype.kind]
        shape = ",".join(map(str, values.shape))
        return f"{dtype}[{shape}]:" + ",".join(map(str, values.ravel()))

    whole = {
        "model": "decoder.dl",
        "inputs": {"ids": "@decoder_ids.npy", "pos": "0"},
        "outputs": {"logits": "@decoder_logits.npy"},
        "rtol": 1e-4,
        "atol": 1e-5,
    }
    # The same tokens, one a run of one session: the cache must give the same rows.
    steps = [
        {
            "inputs": {"ids": literal(ids[at : at + 1]), "pos": str(at)},
            "outputs": {"logits": literal(logits[at : at + 1])},
        }
        for at in range(4)
    ]
    stream = {"model": "decoder.dl", "steps": steps, "rtol": 1e-4, "atol": 1e-5}
    (HERE / "expected.json").write_text(json.dumps({"runs": [whole, stream]}, indent=2) + "\n")
    print("ids", ids, "logits", logits.shape, "deviation", logits.std())


if __name__ == "__main__":
    main()
