"""Trains both digit classifiers and writes everything that the example reads.

Needs numpy, scikit-learn, safetensors and jax (CPU). Run it in any folder:

    python examples/digits/train.py

It writes, beside itself: digits.safetensors (parameters of `mlp` and `cnn`), digits_x.npy and
digits_y.npy (the 360 held-out rows), mlp_probs.npy and cnn_probs.npy (the expected outputs,
evaluated in f64) and expected.json. Every random choice comes from seed 0.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
BATCH, RATE, DECAY, MOMENTUM, EPS = 32, 0.003, 1e-4, 0.1, 1e-5


def glorot(rng, *shape):
    """Weights [out, in, …] and the bound that their fans give."""
    field = int(np.prod(shape[2:]))
    bound = np.sqrt(6 / ((shape[0] + shape[1]) * field))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def dense_parameters(rng, name, fan_in, fan_out):
    zeros = np.zeros(fan_out, np.float32)
    return {f"{name}.weight": glorot(rng, fan_out, fan_in), f"{name}.bias": zeros}


def stage_parameters(rng, name, channels_in, channels):
    return {
        f"{name}.conv.weight": glorot(rng, channels, channels_in, 3, 3),
        f"{name}.bn.weight": np.ones(channels, np.float32),
        f"{name}.bn.bias": np.zeros(channels, np.float32),
    }


def mlp_parameters(rng):
    return {
        **dense_parameters(rng, "mlp.hidden1", 64, 64),
        **dense_parameters(rng, "mlp.hidden2", 64, 32),
        **dense_parameters(rng, "mlp.logits", 32, 10),
    }


def cnn_parameters(rng):
    return {
        **stage_parameters(rng, "cnn.stage1", 1, 16),
        **stage_parameters(rng, "cnn.stage2", 16, 32),
        **dense_parameters(rng, "cnn.logits", 512, 10),
    }


def statistics(stages):
    """Running means and variances before the first step."""
    stats = {}
    for name, channels in stages.items():
        stats[f"{name}.bn.running_mean"] = np.zeros(channels, np.float32)
        stats[f"{name}.bn.running_var"] = np.ones(channels, np.float32)
    return stats


def dense(p, name, x):
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def stage(p, stats, name, x, training):
    """Convolution 3×3, batch normalization, relu; returns the new running statistics too."""
    dims = ("NCHW", "OIHW", "NCHW")
    x = jax.lax.conv_general_dilated(
        x, p[name + ".conv.weight"], (1, 1), [(1, 1), (1, 1)], dimension_numbers=dims,
        precision="highest",
    )
    mean, var = stats[name + ".bn.running_mean"], stats[name + ".bn.running_var"]
    fresh = {}
    if training:
        count = x.size // x.shape[1]
        batch_mean, batch_var = x.mean((0, 2, 3)), x.var((0, 2, 3))
        unbiased = batch_var * count / (count - 1)
        fresh[name + ".bn.running_mean"] = mean + MOMENTUM * (batch_mean - mean)
        fresh[name + ".bn.running_var"] = var + MOMENTUM * (unbiased - var)
        mean, var = batch_mean, batch_var
    scale = p[name + ".bn.weight"] / jnp.sqrt(var + EPS)
    shift = p[name + ".bn.bias"] - mean * scale
    return jax.nn.relu(x * scale[:, None, None] + shift[:, None, None]), fresh


def mlp(p, stats, x, training):
    x = (x / 16).reshape(len(x), 64)
    x = jax.nn.relu(dense(p, "mlp.hidden1", x))
    x = jax.nn.relu(dense(p, "mlp.hidden2", x))
    return dense(p, "mlp.logits", x), {}


def cnn(p, stats, x, training):
    x, first = stage(p, stats, "cnn.stage1", x / 16, training)
    x, second = stage(p, stats, "cnn.stage2", x, training)
    x = x.reshape(len(x), 32, 4, 2, 4, 2).max((3, 5))
    return dense(p, "cnn.logits", x.reshape(len(x), 512)), {**first, **second}


def fit(network, parameters, stats, x, y, epochs):
    """Adam on the cross entropy with a little weight decay."""

    def loss(p, stats, x, y):
        z, fresh = network(p, stats, x, True)
        log_probs = jax.nn.log_softmax(z)
        data = -jnp.mean(jnp.take_along_axis(log_probs, y[:, None], axis=1))
        decay = sum(jnp.sum(w**2) for name, w in p.items() if w.ndim > 1)
        return data + DECAY * decay, fresh

    @jax.jit
    def step(p, stats, first, second, t, x, y):
        grads, fresh = jax.grad(loss, has_aux=True)(p, stats, x, y)
        tree = jax.tree_util.tree_map
        first = tree(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        second = tree(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
        move = lambda w, m, v: w - RATE * (m / (1 - 0.9**t)) / (
            jnp.sqrt(v / (1 - 0.999**t)) + 1e-8
        )
        return tree(move, p, first, second), {**stats, **fresh}, first, second

    rng = np.random.default_rng(1)
    first = jax.tree_util.tree_map(np.zeros_like, parameters)
    second = jax.tree_util.tree_map(np.zeros_like, parameters)
    t = 0
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for at in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[at : at + BATCH]
            t += 1
            parameters, stats, first, second = step(
                parameters, stats, first, second, float(t), x[rows], y[rows]
            )
    as_arrays = lambda tree: {name: np.asarray(w, np.float32) for name, w in tree.items()}
    return as_arrays(parameters), as_arrays(stats)


def evaluate(network, parameters, stats, x):
    """Logits in f64 from the parameters as stored."""
    jax.config.update("jax_enable_x64", True)
    wide = lambda tree: {name: jnp.asarray(w, jnp.float64) for name, w in tree.items()}
    z = np.asarray(network(wide(parameters), wide(stats), jnp.asarray(x, jnp.float64), False)[0])
    jax.config.update("jax_enable_x64", False)
    assert z.dtype == np.float64
    return z


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def main():
    data = load_digits()
    x = data.images.astype(np.float32)[:, None]
    y = data.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(x)), test_size=0.2, stratify=y, random_state=0
    )
    np.save(HERE / "digits_x.npy", x[test])
    np.save(HERE / "digits_y.npy", y[test])

    rng = np.random.default_rng(0)
    plans = [
        ("mlp", mlp, mlp_parameters(rng), {}, 40),
        ("cnn", cnn, cnn_parameters(rng), statistics({"cnn.stage1": 16, "cnn.stage2": 32}), 15),
    ]
    tensors, runs = {}, []
    for name, network, parameters, stats, epochs in plans:
        parameters, stats = fit(network, parameters, stats, x[train], y[train], epochs)
        tensors |= parameters | stats
        z = evaluate(network, parameters, stats, x[test])
        fitted = evaluate(network, parameters, stats, x[train]).argmax(-1) == y[train]
        hit = z.argmax(-1) == y[test]
        ordered = np.sort(z, axis=-1)
        margin = (ordered[:, -1] - ordered[:, -2]).min()
        print(f"{name}: training rows {fitted.mean():.4f}", end="  ")
        print(f"held-out rows {hit.mean():.4f} ({hit.sum()} of {len(hit)})", end="  ")
        print(f"smallest margin between the two largest logits {margin:.4f}")
        np.save(HERE / f"{name}_probs.npy", softmax(z).astype(np.float32))
        runs.append(
            {
                "model": f"digits.dl:{name}_score",
                "inputs": {"x": "@digits_x.npy", "y": "@digits_y.npy"},
                "outputs": {"accuracy": f"f32[]:{np.float32(hit.mean())!s}"},
                "rtol": 0,
                "atol": 1e-6,
            }
        )
        runs.append(
            {
                "model": f"digits.dl:{name}",
                "inputs": {"x": "@digits_x.npy"},
                "outputs": {"probs": f"@{name}_probs.npy"},
                "rtol": 1e-4,
                "atol": 5e-6,
            }
        )
    save_file({name: np.ascontiguousarray(w) for name, w in tensors.items()},
              HERE / "digits.safetensors")
    (HERE / "expected.json").write_text(json.dumps({"runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
