"""Trains the iris network and writes everything that the example reads.

Needs numpy, scikit-learn, safetensors and jax (CPU). Run it in any folder:

    python examples/iris/train.py

It writes, beside itself: iris.safetensors (parameters), iris.csv (the 150 rows), iris_x.npy and
iris_y.npy (the same rows as arrays), iris_probs.npy (the expected output, evaluated in f64) and
expected.json. Every random choice comes from seed 0.
"""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
SIZES = [4, 20, 10, 3]
NAMES = ["net.hidden1", "net.hidden2", "net.logits"]
EPOCHS, BATCH, RATE, DECAY = 150, 16, 0.01, 1e-3


def initial(rng):
    """Glorot-uniform weights [out, in] and zero biases."""
    layers = []
    for fan_in, fan_out in zip(SIZES, SIZES[1:]):
        bound = np.sqrt(6 / (fan_in + fan_out))
        weight = rng.uniform(-bound, bound, (fan_out, fan_in))
        layers.append((weight.astype(np.float32), np.zeros(fan_out, np.float32)))
    return layers


def logits(layers, x, tanh):
    for weight, bias in layers[:-1]:
        x = tanh(x @ weight.T + bias)
    weight, bias = layers[-1]
    return x @ weight.T + bias


def loss(layers, x, y):
    log_probs = jax.nn.log_softmax(logits(layers, x, jnp.tanh))
    data = -jnp.mean(jnp.take_along_axis(log_probs, y[:, None], axis=1))
    return data + DECAY * sum(jnp.sum(weight**2) for weight, _ in layers)


@jax.jit
def adam(layers, first, second, t, x, y):
    grads = jax.grad(loss)(layers, x, y)
    tree = jax.tree_util.tree_map
    first = tree(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = tree(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
    step = lambda p, m, v: p - RATE * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return tree(step, layers, first, second), first, second


def fit(x, y):
    """Parameters fitted to standardized rows."""
    rng = np.random.default_rng(0)
    layers = initial(rng)
    first = jax.tree_util.tree_map(np.zeros_like, layers)
    second = jax.tree_util.tree_map(np.zeros_like, layers)
    t = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for at in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[at : at + BATCH]
            t += 1
            layers, first, second = adam(layers, first, second, float(t), x[rows], y[rows])
    return [(np.asarray(weight, np.float64), np.asarray(bias, np.float64)) for weight, bias in layers]


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def main():
    data = load_iris()
    x, y = data.data.astype(np.float32), data.target.astype(np.int32)
    train, test = train_test_split(np.arange(150), test_size=30, stratify=y, random_state=0)

    # The network sees standardized rows while it is fitted; mean and deviation of the training
    # rows then move into the first layer, W' = W / s and b' = b − W·(m / s), so that the model
    # takes centimetres.
    mean, deviation = x[train].astype(np.float64).mean(0), x[train].astype(np.float64).std(0)
    layers = fit(((x[train] - mean) / deviation).astype(np.float32), y[train])
    weight, bias = layers[0]
    layers[0] = (weight / deviation, bias - weight @ (mean / deviation))
    layers = [(w.astype(np.float32), b.astype(np.float32)) for w, b in layers]

    tensors = {}
    for name, (weight, bias) in zip(NAMES, layers):
        tensors[name + ".weight"] = np.ascontiguousarray(weight)
        tensors[name + ".bias"] = bias
    save_file(tensors, HERE / "iris.safetensors")

    exact = [(w.astype(np.float64), b.astype(np.float64)) for w, b in layers]
    z = logits(exact, x.astype(np.float64), np.tanh)
    hit = z.argmax(-1) == y
    print(f"training rows {hit[train].mean():.4f}  held-out rows {hit[test].mean():.4f}")
    print(f"all rows {hit.mean():.6f} ({hit.sum()} of 150)")
    ordered = np.sort(z, axis=-1)
    print(f"smallest margin between the two largest logits {(ordered[:, -1] - ordered[:, -2]).min():.4f}")

    np.save(HERE / "iris_x.npy", x)
    np.save(HERE / "iris_y.npy", y)
    np.save(HERE / "iris_probs.npy", softmax(z).astype(np.float32))
    with open(HERE / "iris.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["sepal_length", "sepal_width", "petal_length", "petal_width", "species"])
        for row, label in zip(data.data, y):
            table.writerow([*row, data.target_names[label]])
    accuracy = np.float32(hit.mean())
    runs = [
        {
            "model": "iris.dl:score",
            "inputs": {"x": "@iris_x.npy", "y": "@iris_y.npy"},
            "outputs": {"accuracy": f"f32[]:{accuracy!s}"},
            "rtol": 0,
            "atol": 1e-6,
        },
        {
            "model": "iris.dl",
            "inputs": {"x": "@iris_x.npy"},
            "outputs": {"probs": "@iris_probs.npy"},
            "rtol": 1e-5,
            "atol": 2e-6,
        },
    ]
    (HERE / "expected.json").write_text(json.dumps({"runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
