#!/usr/bin/env python3
"""Runs emitted shaders in headless Chromium and compares with the reference evaluator.

    tests/web/run.py DLC [CASE ...]

DLC is the program; without a CASE all of CASES run. Each is emitted as a document with a file of values, the page
computes it by WebGPU on inputs from a seed and posts its outputs. Needs `chromium`, and nothing but Python's library.
Exit status 0 only where all outputs came and agree.
"""

import array
import http.server
import json
import math
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Model, dimensions, literal inputs; the others are drawn.
CASES = {
    "parts": ("tests/web/parts.dl:parts", [], {}),
    "ways-then": ("tests/web/parts.dl:ways", [], {"go": [1]}),
    "ways-else": ("tests/web/parts.dl:ways", [], {"go": [0]}),
    "digits": ("examples/digits/digits.dl:cnn", ["batch=4"], {}),
    "transformer": ("examples/transformer/transformer.dl", ["batch=2", "seq=12"], {}),
    "gru": ("examples/gru/gru.dl:gru", ["batch=2", "seq=7"], {}),
    # A state that is written in place.
    "gru_step": ("examples/gru/gru.dl:gru_step", [], {}),
}
# Of `|got - want| <= ATOL + RTOL |want|`: sums of some hundred products of f32, in another order.
RTOL, ATOL = 1e-4, 1e-5
# Seconds for the browser, all cases together.
LIMIT = 80

CHROMIUM = [
    "--headless", "--no-sandbox", "--disable-gpu-sandbox", "--enable-unsafe-webgpu",
    # In software, on every machine.
    "--use-webgpu-adapter=swiftshader",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]

# How elements lie in .npy files and in buffers of shaders: NumPy's name, and the codes of `array`.
TYPES = {
    "f32": ("<f4", "f", "f"), "i32": ("<i4", "i", "i"), "u32": ("<u4", "I", "I"), "bool": ("|b1", "B", "I"),
}


def fail(message):
    print(f"{sys.argv[0]}: {message}", file=sys.stderr)
    sys.exit(1)


def drawn(dtype, count, draw):
    of = {"f32": lambda: draw.uniform(-1, 1), "i32": lambda: draw.randrange(-3, 4),
          "u32": lambda: draw.randrange(4), "bool": lambda: draw.randrange(2)}
    return [of[dtype]() for _ in range(count)]


def write_npy(path, dtype, shape, values):
    kind, code, _ = TYPES[dtype]
    header = repr({"descr": kind, "fortran_order": False, "shape": tuple(shape)})
    header += " " * (-(len(header) + 11) % 64) + "\n"
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
    path.write_bytes(magic + header.encode() + array.array(code, values).tobytes())


class Case:
    """One model: what the page asks for, and what it should compute."""

    def __init__(self, dlc, name, folder):
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.model, dims, given = CASES[name]
        self.dlc, self.dims = dlc, [f"--set={d}" for d in dims]
        values = self.folder / "values"
        text = self.call("emit", "wgsl", self.model, *self.dims, "--json", f"--values={values}")
        document = json.loads(text)
        self.inputs = [b for b in document["buffers"] if b["role"] == "input"]
        self.outputs = [b for b in document["buffers"] if b["role"] == "output"]
        self.files = {"document": text.encode(), "values": values.read_bytes()}
        self.got = {}
        draw = random.Random(name)
        for i, port in enumerate(self.inputs):
            values = given.get(port["name"]) or drawn(port["dtype"], math.prod(port["shape"]), draw)
            write_npy(self.folder / f"{port['name']}.npy", port["dtype"], port["shape"], values)
            self.files[f"input/{i}"] = array.array(TYPES[port["dtype"]][2], values).tobytes()

    def call(self, *args):
        done = subprocess.run([self.dlc, *args], cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            fail(f"{self.name}: dlc {' '.join(args)}\n{done.stderr}")
        return done.stdout

    def check(self):
        """Compares what came with the reference; the largest error, as a part of what is allowed."""
        inputs = [f"--input={p['name']}=@{self.folder / p['name']}.npy" for p in self.inputs]
        outputs = [f"--output={p['name']}={self.folder / p['name']}.want.npy" for p in self.outputs]
        self.call("run", self.model, *self.dims, "--target=reference", "--quiet", *inputs, *outputs)
        worst = 0.0
        for i, port in enumerate(self.outputs):
            _, code, stored = TYPES[port["dtype"]]
            file = (self.folder / f"{port['name']}.want.npy").read_bytes()
            want = array.array(code, file[10 + struct.unpack("<H", file[8:10])[0]:])
            if i not in self.got:
                fail(f"{self.name}: the page posted no `{port['name']}`")
            got = array.array(stored, self.got[i])[:len(want)]
            if len(got) != len(want):
                fail(f"{self.name}: `{port['name']}` has {len(got)} elements, not {len(want)}")
            for at, (g, w) in enumerate(zip(got, want)):
                part = abs(g - w) / (ATOL + RTOL * abs(w))
                if not part <= 1:
                    fail(f"{self.name}: `{port['name']}` element {at} is {g}, not {w}")
                worst = max(worst, part)
        return worst


class Server(http.server.ThreadingHTTPServer):
    """Gives the page its cases and takes what it posts."""

    def __init__(self, cases):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cases = cases
        self.adapter, self.failure = None, None
        self.done, self.ended = 0, threading.Event()

    def took(self, path, body):
        match path.strip("/").split("/"):
            case ["failed"]:
                self.failure = body.decode()
            case ["case", _, "done"]:
                self.adapter = body.decode()
                self.done += 1
            case ["case", at, "output", i]:
                self.cases[int(at)].got[int(i)] = body
        if self.failure or self.done == len(self.cases):
            self.ended.set()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        match self.path.strip("/").split("/", 2):
            case [""]:
                self.answer((HERE / "index.html").read_bytes(), "text/html")
            case ["bundle.js"]:
                self.answer((HERE / "bundle.js").read_bytes(), "text/javascript")
            case ["cases"]:
                self.answer(json.dumps({"cases": len(self.server.cases)}).encode(), "application/json")
            case ["case", at, file]:
                self.answer(self.server.cases[int(at)].files[file], "application/octet-stream")
            case _:
                self.send_error(404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"", "text/plain")
        self.server.took(self.path, body)

    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def browse(server, folder):
    """Starts Chromium on the page and waits for its last word."""
    url = f"http://127.0.0.1:{server.server_port}/"
    with open(folder / "messages", "wb") as messages:
        browser = subprocess.Popen(["chromium", *CHROMIUM, f"--user-data-dir={folder / 'profile'}", url],
                                   stdout=messages, stderr=messages)
    end = time.monotonic() + LIMIT
    while not server.ended.wait(0.2) and browser.poll() is None and time.monotonic() < end:
        pass
    browser.terminate()
    try:
        browser.wait(10)
    except subprocess.TimeoutExpired:
        browser.kill()
        browser.wait()
    if server.failure:
        fail(server.failure)
    if not server.ended.is_set():
        last = "\n".join((folder / "messages").read_text(errors="replace").splitlines()[-5:])
        fail(f"after {server.done} of {len(server.cases)} cases the browser ended, or {LIMIT} s were over\n{last}")


def main():
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    if not shutil.which("chromium"):
        fail("there is no `chromium`")
    dlc = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        folder = pathlib.Path(folder)
        cases = [Case(dlc, name, folder) for name in sys.argv[2:] or CASES]
        server = Server(cases)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browse(server, folder)
        print(f"adapter: {server.adapter}")
        for case in cases:
            print(f"{case.name}: the largest error is {case.check():.3f} of what is allowed")


main()
