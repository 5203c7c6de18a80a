"""Computes MobileNetV2 in another framework, to compare dlc with.

The weights are too large for the repository, so this script writes seeded ones, an image and the
output that JAX computes for it in f64 into a folder of your choice:

    python examples/mobilenet/reference.py /tmp/mobilenet

Needs numpy, safetensors and jax (CPU).
"""

import sys
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402


class Network:
    """Layers that draw their parameters on first use, named as `mobilenet.dl` names them."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.tensors = {}

    def draw(self, name, values):
        self.tensors[name] = values.astype(np.float32)
        return jnp.asarray(self.tensors[name], jnp.float64)

    def conv_bn(self, name, x, ch, k, stride=1, groups=1):
        fan_in = x.shape[1] // groups * k * k
        shape = (ch, x.shape[1] // groups, k, k)
        weight = self.draw(f"{name}.conv.weight", self.rng.normal(0, np.sqrt(2 / fan_in), shape))
        pad = (k - 1) // 2
        y = jax.lax.conv_general_dilated(
            x, weight, (stride, stride), [(pad, pad), (pad, pad)],
            dimension_numbers=("NCHW", "OIHW", "NCHW"), feature_group_count=groups,
        )
        scale = self.draw(f"{name}.bn.weight", self.rng.uniform(0.5, 1, ch))
        shift = self.draw(f"{name}.bn.bias", self.rng.normal(0, 0.1, ch))
        mean = self.draw(f"{name}.bn.running_mean", self.rng.normal(0, 0.1, ch))
        var = self.draw(f"{name}.bn.running_var", self.rng.uniform(0.5, 1.5, ch))
        column = lambda v: v[:, None, None]
        return (y - column(mean)) / jnp.sqrt(column(var) + 1e-5) * column(scale) + column(shift)

    def dense(self, name, x, units):
        bound = np.sqrt(6 / (x.shape[1] + units))
        weight = self.draw(f"{name}.weight", self.rng.uniform(-bound, bound, (units, x.shape[1])))
        return x @ weight.T + self.draw(f"{name}.bias", self.rng.normal(0, 0.1, units))


def relu6(x):
    return jnp.clip(x, 0, 6)


def inverted_residual(net, name, x, ch, stride, factor):
    wide = factor * x.shape[1]
    h = relu6(net.conv_bn(f"{name}.expand", x, wide, 1)) if factor != 1 else x
    h = relu6(net.conv_bn(f"{name}.depthwise", h, wide, 3, stride, groups=wide))
    y = net.conv_bn(f"{name}.project", h, ch, 1)
    return x + y if stride == 1 and x.shape[1] == ch else y


def mobilenet_v2(net, img):
    h = relu6(net.conv_bn("stem", img, 32, 3, 2))
    stages = zip(
        [16, 24, 32, 64, 96, 160, 320], [1, 2, 3, 4, 3, 3, 1], [1, 2, 2, 2, 1, 2, 1]
    )
    for s, (ch, count, stride) in enumerate(stages):
        for i in range(count):
            name, first = f"layer.{s}.{i}", i == 0
            h = inverted_residual(net, name, h, ch, stride if first else 1, 1 if s == 0 else 6)
    h = relu6(net.conv_bn("head", h, 1280, 1))
    return net.dense("fc", h.mean((2, 3)), 1000)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    net = Network(0)
    img = np.random.default_rng(1).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)
    y = mobilenet_v2(net, jnp.asarray(img, jnp.float64))
    save_file(net.tensors, folder / "mobilenet.safetensors")
    np.save(folder / "img.npy", img)
    np.save(folder / "fc.npy", np.asarray(y, np.float32))
    counts = [t.size for n, t in net.tensors.items() if "running" not in n]
    print(f"{sum(counts)} trained parameters; output {y.shape}, deviation {float(y.std()):.3f}")


if __name__ == "__main__":
    main()
