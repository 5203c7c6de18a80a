"""PyTorch as run.py asks it: `probe`, `product N DTYPE`, `copy N`, `network NAME BATCH`. Prints microseconds as JSON."""
import json
import statistics
import sys
import time

try:
    import torch
    from torch import nn
except ImportError:
    sys.exit("this Python has no PyTorch")


def measure(run):
    """The median of a second's runs, each until its result is there."""
    times, end = [], time.perf_counter() + 1.5
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


def conv_bn(ins, outs, k, stride=1):
    conv = nn.Conv2d(ins, outs, k, stride, padding=(k - 1) // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outs))


class Bottleneck(nn.Module):
    def __init__(self, ins, ch, stride):
        super().__init__()
        self.way = nn.Sequential(conv_bn(ins, ch, 1), nn.ReLU(), conv_bn(ch, ch, 3, stride), nn.ReLU(), conv_bn(ch, 4 * ch, 1))
        self.skip = conv_bn(ins, 4 * ch, 1, stride) if stride != 1 or ins != 4 * ch else nn.Identity()

    def forward(self, x):
        return torch.relu(self.way(x) + self.skip(x))


def resnet50():
    layers, ins = [conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for s, depth in enumerate([3, 4, 6, 3]):
        for i in range(depth):
            layers.append(Bottleneck(ins, 64 * 2**s, 2 if i == 0 and s > 0 else 1))
            ins = 256 * 2**s
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def network(name, batch):
    if name == "resnet50":
        return resnet50(), torch.randn(batch, 3, 224, 224)
    layer = nn.TransformerEncoderLayer(768, 12, 3072, 0.0, "gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 12), torch.randn(batch, 128, 768)


def answer(words):
    if words[0] == "probe":
        return f"{torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}"
    if words[0] == "copy":
        x = torch.randn(int(words[1]), device="cuda")
        y = torch.empty_like(x)
        return json.dumps({"eager": measure(lambda: y.copy_(x))})
    if words[0] == "product":
        dtype = {"f16": torch.float16, "f32": torch.float32}[words[2]]
        a, b = (torch.randn(int(words[1]), int(words[1]), device="cuda", dtype=dtype) for _ in range(2))
        return json.dumps({"eager": measure(lambda: a @ b)})
    model, x = network(words[1], int(words[2]))
    model, x = model.cuda().eval(), x.cuda()
    compiled = torch.compile(model)
    return json.dumps({"eager": measure(lambda: model(x)), "compiled": measure(lambda: compiled(x))})


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this PyTorch has no CUDA device")
    with torch.inference_mode():
        print(answer(sys.argv[1:]))
