"""Writes seeded weights, inputs and the outputs that NumPy computes for them in f64.

Needs numpy and safetensors. Run it in any folder:

    python examples/gru/make.py

It writes, beside itself: gru.safetensors, gru_x.npy (f32[2, 12, 16]), gru_y.npy (f32[2, 12, 4]),
gru_last.npy (f32[2, 32]) and expected.json.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
FEATURES, SIZE, OUT, BATCH, SEQ = 16, 32, 4, 2, 12


def parameters(rng):
    tensors = {}
    dense = {"gru.input": (3 * SIZE, FEATURES), "gru.hidden": (3 * SIZE, SIZE), "head": (OUT, SIZE)}
    for name, (fan_out, fan_in) in dense.items():
        bound = 1 / np.sqrt(SIZE)
        tensors[f"{name}.weight"] = rng.uniform(-bound, bound, (fan_out, fan_in))
        tensors[f"{name}.bias"] = rng.uniform(-bound, bound, fan_out)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(p, x):
    """All states [batch, seq, size] and the head's outputs [batch, seq, out]."""
    h = np.zeros((len(x), SIZE))
    states = []
    for t in range(x.shape[1]):
        i = np.split(x[:, t] @ p["gru.input.weight"].T + p["gru.input.bias"], 3, axis=-1)
        s = np.split(h @ p["gru.hidden.weight"].T + p["gru.hidden.bias"], 3, axis=-1)
        reset, update = sigmoid(i[0] + s[0]), sigmoid(i[1] + s[1])
        candidate = np.tanh(i[2] + reset * s[2])
        h = (1 - update) * candidate + update * h
        states.append(h)
    states = np.stack(states, axis=1)
    return states, states @ p["head.weight"].T + p["head.bias"]


def main():
    rng = np.random.default_rng(0)
    tensors = parameters(rng)
    x = rng.normal(0, 1, (BATCH, SEQ, FEATURES)).astype(np.float32)
    states, y = gru({n: t.astype(np.float64) for n, t in tensors.items()}, x.astype(np.float64))
    y, last = y.astype(np.float32), states[:, -1].astype(np.float32)
    save_file(tensors, HERE / "gru.safetensors")
    np.save(HERE / "gru_x.npy", x)
    np.save(HERE / "gru_y.npy", y)
    np.save(HERE / "gru_last.npy", last)

    def literal(values):
        values = np.asarray(values)
        shape = ",".join(map(str, values.shape))
        return f"f32[{shape}]:" + ",".join(map(str, values.ravel()))

    whole = {
        "model": "gru.dl",
        "inputs": {"x": "@gru_x.npy"},
        "outputs": {"y": "@gru_y.npy", "last": "@gru_last.npy"},
        "rtol": 1e-4,
        "atol": 1e-5,
    }
    # The first sequence, one element a run of one session.
    steps = [
        {"inputs": {"x": literal(x[:1, t])}, "outputs": {"head": literal(y[:1, t])}}
        for t in range(4)
    ]
    stream = {"model": "gru.dl:gru_step", "steps": steps, "rtol": 1e-4, "atol": 1e-5}
    (HERE / "expected.json").write_text(json.dumps({"runs": [whole, stream]}, indent=2) + "\n")
    print("outputs", y.shape, last.shape)


if __name__ == "__main__":
    main()
