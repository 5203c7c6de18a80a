#!/usr/bin/env python3
"""dlc's figures on one GPU, in one run: products, streams, networks, the cost of a launch.

    run.py --dlc target/release/dlc                        everything; some minutes on a large card
    run.py --small --dlc target/debug/dlc --runner WITH    small sizes, for a software driver (WITH runs a program on it)

Writes the models itself, measures each by `dlc bench`, compares small products with the reference, and prints
Markdown. Where this Python has PyTorch with CUDA, the same networks run there too, eagerly and compiled. Exit status 1:
something failed or was wrong. Only the standard library is needed.
"""
import argparse
import datetime
import json
import math
import os
import subprocess
import sys
import tempfile

import models

HERE = os.path.dirname(os.path.abspath(__file__))
# Results of products further than this from the reference, relative to its greatest element, are wrong.
TOLERANCE = {"f32": 1e-5, "f16": 5e-3}


class Failed(Exception):
    pass


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dlc", default="target/release/dlc", help="the program to measure")
    parser.add_argument("--runner", default="", help="a program that starts it, such as the `with` of tools/lavapipe.sh")
    parser.add_argument("--small", action="store_true", help="sizes for a driver that computes on the CPU")
    parser.add_argument("--adapter", help="part of the name of the GPU")
    parser.add_argument("--matmul", default="auto", help="of auto, tiled, coop, with commas between, where dlc knows them")
    parser.add_argument("--seconds", type=float, help="of each measurement; default 1, small 0.2")
    parser.add_argument("--markdown", help="write the tables here too")
    parser.add_argument("--json", help="every figure, as dlc printed it")
    args = parser.parse_args()
    args.seconds = args.seconds or (0.2 if args.small else 1.0)
    return args


def note(text):
    print(text, file=sys.stderr, flush=True)


class Dlc:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.start = ([args.runner] if args.runner else []) + [os.path.abspath(args.dlc)]
        self.kinds = args.matmul.split(",") if "--gpu-matmul" in self.call("bench", "--help") else ["auto"]
        self.figures = []

    def call(self, *words):
        done = subprocess.run([*self.start, *words], capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(done.stderr.strip().split("\n")[0] or f"exit status {done.returncode}")
        return done.stdout

    def options(self, kind):
        own = ["--target", "gpu"] + (["--gpu-adapter", self.args.adapter] if self.args.adapter else [])
        return own + ([] if kind == "auto" else ["--gpu-matmul", kind])

    def file(self, name, text):
        path = os.path.join(self.folder, f"{name}.dl")
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        return path

    def bench(self, name, text, kind="auto"):
        """The figures of a model, or why there are none."""
        note(f"{name}, {kind}")
        seconds = ["--duration", str(self.args.seconds), "--warmup", str(self.args.seconds / 5)]
        words = ["bench", self.file(name, text), "--json", "--weights", "random", *seconds, *self.options(kind)]
        try:
            got = json.loads(self.call(*words))
        except Failed as why:
            got = {"failed": str(why)}
        self.figures.append({"model": name, "matmul": kind, **got})
        return got

    def outputs(self, path, target):
        got = json.loads(self.call("run", path, "--random", "--json", *target))
        return [flat(o["data"]) for o in got["outputs"].values()]


def flat(data):
    if isinstance(data, list):
        return [v for part in data for v in flat(part)]
    return [float(data)]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]) + "\n"


def cell(got, value):
    return got["failed"] if "failed" in got else value(got)


def ms(microseconds):
    return f"{microseconds / 1e3:.3f}"


def products(dlc, peer):
    """TFLOP/s of the median run."""
    rows = []
    sizes = [(n, dtype) for n in ([64, 128, 256] if dlc.args.small else [4096, 8192]) for dtype in ("f16", "f32")]
    for n, dtype in sizes:
        text = models.product(n, n, n, dtype)
        there = peer(f"product {n} {dtype}")
        for kind in dlc.kinds:
            got = dlc.bench(f"product_{n}_{dtype}", text, kind)
            rate = lambda us: f"{2 * n**3 / us / 1e6:.3f}"
            rows.append([f"{n}³, {dtype} → f32", kind, cell(got, lambda g: ms(g["median_us"])),
                         cell(got, lambda g: rate(g["median_us"])), there(lambda us: rate(us))])
    return table(["product", "--gpu-matmul", "ms", "TFLOP/s", "PyTorch, TFLOP/s"], rows)


def streams(dlc, peer):
    """GB/s of what a run must read and write, beside a copy."""
    n = 1 << (16 if dlc.args.small else 28)
    copied, rows = None, []
    for name, text, words in models.streams(n):
        got = dlc.bench(f"stream_{name}", text)
        rate = None if "failed" in got else 4 * n * words / got["median_us"] / 1e3
        copied = copied or rate
        share = f"{100 * rate / copied:.0f} %" if rate and copied else ""
        rows.append([name, cell(got, lambda g: ms(g["median_us"])), f"{rate:.2f}" if rate else "", share])
    rows.append([f"PyTorch's copy of {n} f32", "", peer(f"copy {n}")(lambda us: f"{8 * n / us / 1e3:.2f}"), ""])
    return table([f"{n} f32", "ms", "GB/s", "of dlc's own copy"], rows)


def networks(dlc, peer):
    rows = []
    for name, text in models.networks(dlc.args.small):
        there = peer(f"network {name}")
        for kind in dlc.kinds:
            got = dlc.bench(name.replace(" ", "_"), text, kind)
            rows.append([name, kind, cell(got, lambda g: ms(g["median_us"])), cell(got, lambda g: f"{g['gflops']:.1f}"),
                         cell(got, lambda g: ms(g["first_run_us"])), cell(got, lambda g: f"{g['compile_ms']:.0f}"),
                         there(ms), there(ms, "compiled")])
    return table(["network", "--gpu-matmul", "ms", "GFLOP/s", "first run, ms", "compiling, ms", "PyTorch, ms",
                  "torch.compile, ms"], rows)


def launches(dlc, _):
    """What the caller's thread spends on a launch, and what a run of many small ones takes for each."""
    n = 20 if dlc.args.small else 200
    got = dlc.bench(f"launches_{n}", models.chain(n))
    row = [n, cell(got, lambda g: f"{g['launch_overhead_us']:.2f}"), cell(got, lambda g: f"{g['median_us'] / n:.2f}")]
    return table(["small launches in a run", "the caller's µs for each", "µs of a run for each"], [row])


def wrong(dlc):
    """Small products of all kinds against the reference: what does not agree."""
    found = []
    for m, k, n in [(64, 64, 64), (33, 17, 65), (1, 130, 40), (129, 48, 7)]:
        for dtype in ("f16", "f32"):
            name = f"check_{m}_{k}_{n}_{dtype}"
            path = dlc.file(name, models.product(m, k, n, dtype))
            want = dlc.outputs(path, ["--target", "reference"])[0]
            most = max(abs(v) for v in want)
            for kind in dlc.kinds:
                try:
                    got = dlc.outputs(path, dlc.options(kind))[0]
                except Failed as why:
                    found.append(f"{name}, {kind}: {why}")
                    continue
                off = max((abs(a - b) for a, b in zip(got, want)), default=0.0) / most
                if len(got) != len(want) or not off <= TOLERANCE[dtype] or math.isnan(off):
                    found.append(f"{name}, {kind}: off by {off:.2e} of the greatest element")
    return found


def torch_peer(small):
    """A function from what is to be measured to its figures there, in PyTorch on the same card."""
    ask = [sys.executable, os.path.join(HERE, "torch_peer.py")]
    probe = subprocess.run([*ask, "probe"], capture_output=True, text=True)
    if small or probe.returncode != 0:
        why = "not asked in small runs" if small else (probe.stderr.strip().split("\n") or ["it failed"])[-1]
        return f"not measured: {why}", lambda _: lambda show, which="eager": "–"

    def measure(what):
        note(f"PyTorch, {what}")
        done = subprocess.run([*ask, *what.split()], capture_output=True, text=True)
        got = json.loads(done.stdout) if done.returncode == 0 else {}
        return lambda show, which="eager": show(got[which]) if which in got else "failed"
    return probe.stdout.strip(), measure


def chosen(dlc):
    """The adapter that dlc takes, and all there is to say of it."""
    adapters = json.loads(dlc.call("doctor", "--json"))["adapters"]
    name = (dlc.args.adapter or "").lower()
    fits = [a for a in adapters if name in a["name"].lower()]
    if not fits:
        raise Failed("there is no such GPU adapter; `dlc doctor` lists them")
    return next((a for a in fits if not a["software"]), fits[0])


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        try:
            dlc = Dlc(args, folder)
            adapter = chosen(dlc)
        except (Failed, OSError) as why:
            sys.exit(f"{args.dlc}: {why}")
        peer_name, peer = torch_peer(args.small)
        now = datetime.datetime.now(datetime.timezone.utc)
        parts = [f"# dlc on {adapter['name']}\n",
                 f"{now:%Y-%m-%d %H:%M} UTC, {adapter['backend']}, driver {adapter['driver']}, "
                 f"{dlc.call('--version').strip()}. PyTorch: {peer_name}.\n"]
        for title, part in [("Products", products), ("Streams", streams), ("Networks", networks), ("Launches", launches)]:
            parts.append(f"## {title}\n\n{part(dlc, peer)}")
        bad = wrong(dlc)
        kinds = ", ".join(dlc.kinds)
        parts.append("## Results\n\n" + ("".join(f"- {b}\n" for b in bad) or f"Small products ({kinds}) agree with the reference.\n"))
    text = "\n".join(parts)
    print(text)
    if args.markdown:
        with open(args.markdown, "w", encoding="utf-8") as out:
            out.write(text)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump({"adapter": adapter, "figures": dlc.figures, "wrong": bad}, out, indent=1)
    failed = [f for f in dlc.figures if "failed" in f]
    sys.exit(1 if bad or failed else 0)


if __name__ == "__main__":
    main()
