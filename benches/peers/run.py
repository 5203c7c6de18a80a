#!/usr/bin/env python3
"""dlc beside its peers: the same models, in one run, turn by turn.

    run.py --quick | --full            a dozen models in some minutes | everything in less than 25 minutes
    run.py --models 'resnet*,iris_b1' --threads 1 --peers onnxruntime,openvino --rounds 7

Builds the models that are missing, dlc, and tract's worker; starts a process for each peer, model and number of
threads; asks them in turn for a timed batch, round after round; compares all results; prints Markdown and keeps
every figure in a JSON file. README.md says what is measured and how the peers are configured.
"""
import argparse
import fnmatch
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np

import report
from models import MODELS
from workers import HERE, Failed, Program, PythonPeer

ROOT = os.path.dirname(os.path.dirname(HERE))
PEERS = ["dlc", "onnxruntime", "openvino", "torch", "torch.compile", "jax", "tract"]
QUICK = [
    "iris_b1", "mnist_mlp_b64", "mnist_cnn_b1", "resnet18_b1", "mobilenetv2_b1", "bertmini_s128", "gpt2x1_kv512",
    "gemm_512", "gemmrelu_256", "gemv_4096", "ewchain_1m", "softmax_1024", "layernorm_1024x768",
]
# Where torch.compile is measured unless it is named: it takes many seconds for each, minutes for the others.
COMPILED = [
    "iris_b32", "mnist_mlp_b64", "mnist_cnn_b64", "bertbase1_s128", "gpt2x1_kv512", "ewchain_1m", "softmax_1024",
    "layernorm_1024x768",
]
# Results further than this from the reference, relative to its greatest element, are wrong.
TOLERANCE = 1e-3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a dozen models, 3 rounds, at most 5 minutes")
    size.add_argument("--full", action="store_true", help="every model, 5 rounds, at most 25 minutes (the default)")
    parser.add_argument("--models", help="names or patterns, with commas between")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--peers", help=f"of {', '.join(PEERS)}; default: those that are installed")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, default=0.15, help="of each turn (at least one call)")
    parser.add_argument("--minutes", type=float, help="no model is begun after this time")
    parser.add_argument("--work", default=os.path.join(ROOT, "target", "peers"), help="models, logs and results")
    parser.add_argument("--markdown", help="write the tables here too")
    parser.add_argument("--dlc-worker", help="an executable of dlc_worker.rs, instead of building one")
    parser.add_argument("--dlc", help="the `dlc` that goes with it")
    parser.add_argument("--tract-worker", help="an executable of tract/, instead of building one")
    parser.add_argument("--no-profile", action="store_true", help="leave out where dlc's time goes")
    args = parser.parse_args()
    args.names = QUICK if args.quick else list(MODELS)
    if args.models:
        patterns = args.models.split(",")
        args.names = [n for n in MODELS if any(fnmatch.fnmatch(n, p) for p in patterns)]
        if not args.names:
            parser.error(f"no model is called {args.models}; there are {', '.join(MODELS)}")
    args.rounds = args.rounds or (3 if args.quick else 5)
    args.minutes = args.minutes or (4.5 if args.quick else 23)
    args.thread_counts = [int(t) for t in args.threads.split(",")]
    chosen = args.peers.split(",") if args.peers else PEERS
    args.chosen = [p for p in chosen if p != "dlc"]
    if unknown := set(args.chosen) - set(PEERS):
        parser.error(f"there is no peer {', '.join(sorted(unknown))}")
    args.chosen.insert(0, "dlc")
    return args


def note(text):
    print(text, file=sys.stderr, flush=True)


# Before anything is measured.


def build_models(args):
    for name in args.names:
        folder = os.path.join(args.work, "models", name)
        if not os.path.exists(f"{folder}/facts.json"):
            note(f"building {name}")
            subprocess.run([sys.executable, f"{HERE}/models.py", f"{args.work}/models", name], check=True,
                           stdout=subprocess.DEVNULL)
        if not os.path.exists(f"{folder}/model.dl"):
            files = [f"{folder}/{f}" for f in ("model.onnx", "model.dl", "weights.safetensors")]
            subprocess.run([sys.executable, f"{HERE}/to_dl.py", *files], check=True)


def cargo(folder, *options, **environment):
    """Builds; returns the paths of the executables, by name."""
    command = ["cargo", "build", "--release", "--message-format=json", *options]
    built = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if built.returncode:
        raise Failed(built.stderr[-500:])
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    return {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}


def start_peers(args):
    """The peers that are there, by name, and why the others are not."""
    peers, missing = {}, {}
    for name in args.chosen:
        try:
            if name == "dlc":
                if not (args.dlc_worker and args.dlc):
                    note("building dlc")
                    built = cargo(ROOT, "--bench", "peers_worker", "--bin", "dlc")
                    args.dlc_worker, args.dlc = built["peers_worker"], built["dlc"]
                peers[name] = Program(name, [args.dlc_worker])
            elif name == "tract":
                if not args.tract_worker:
                    note("building tract's worker")
                    built = cargo(f"{HERE}/tract", CARGO_TARGET_DIR=os.path.join(args.work, "tract"))
                    args.tract_worker = built["tract_worker"]
                peers[name] = Program(name, [args.tract_worker])
            else:
                peers[name] = PythonPeer(name, args.work)
        except Failed as e:
            missing[name] = str(e).strip().replace("\n", " ")
            note(f"{name} is left out: {missing[name]}")
    return peers, missing


def machine(args):
    with open("/proc/cpuinfo") as f:
        lines = dict(line.split(":", 1) for line in f if ":" in line)
    info = {k.strip(): v.strip() for k, v in lines.items()}
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": f"{info.get('model name', platform.machine())} (family {info.get('cpu family')}, model {info.get('model')})",
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "vectors": [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in info.get("flags", "").split()],
    }
    if args.dlc:
        said = subprocess.run([args.dlc, "doctor", "--json"], capture_output=True, text=True)
        try:
            facts["doctor"] = json.loads(said.stdout)["cpu"]
        except (ValueError, KeyError):
            note("`dlc doctor` says nothing of the machine")
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    facts["revision"] = revision.stdout.strip()
    return facts


# Measuring.


def busy_seconds():
    """CPU time that all processes of the machine used."""
    with open("/proc/stat") as f:
        fields = [int(x) for x in f.readline().split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def own_seconds(workers):
    times = os.times()
    return times.user + times.system + sum(w.cpu_seconds() for w in workers.values())


def compiled_here(args, peer, name):
    """torch.compile takes every model only where it is asked for by name."""
    return peer != "torch.compile" or bool(args.peers) or (not args.quick and name in COMPILED)


def outputs(prefix, facts):
    files = [f"{prefix}_{i}.bin" for i in range(len(facts["outputs"]))]
    return [np.fromfile(f, np.float32).reshape(o["shape"]) for f, o in zip(files, facts["outputs"])]


def distance(results, wanted):
    """The greatest difference relative to the greatest element, over all outputs."""
    pairs = zip(results, wanted)
    worst = [float(np.max(np.abs(a - b))) / max(float(np.max(np.abs(b))), 1e-30) for a, b in pairs]
    return max(worst) if all(np.isfinite(a).all() for a in results) else float("inf")


def measure(args, peers, name, threads):
    """All peers on one model: a dictionary of figures by peer."""
    folder = os.path.join(args.work, "models", name)
    with open(f"{folder}/facts.json") as f:
        facts = json.load(f)
    cpus = {min(1, os.cpu_count() - 1)} if threads == 1 else set(range(threads))
    workers, rows, results = {}, {}, {}
    for peer in [p for p in peers if compiled_here(args, p, name)]:
        prefix = os.path.join(args.work, f"{peer}-output")
        try:
            workers[peer] = worker = peers[peer].start(cpus)
            rows[peer] = worker.ask(180, do="load", model=folder, threads=threads, outputs=prefix)
            results[peer] = outputs(prefix, facts)
            worker.ask(60, do="measure", seconds=args.seconds)
            rows[peer] |= {"medians": [], "minima": [], "cpu_us": []}
        except Failed as e:
            drop(workers, rows, peer, e)
    busy, own, start = busy_seconds(), own_seconds(workers), time.monotonic()
    for turn in range(args.rounds):
        # Nobody always follows the same neighbour's caches.
        order = list(workers)
        for peer in order[turn % max(len(order), 1):] + order[:turn % max(len(order), 1)]:
            try:
                used = workers[peer].cpu_seconds()
                times = workers[peer].ask(60, do="measure", seconds=args.seconds)
                used = workers[peer].cpu_seconds() - used
                rows[peer]["medians"].append(times["median_us"])
                rows[peer]["minima"].append(times["min_us"])
                rows[peer]["cpu_us"].append(used * 1e6 / times["calls"])
            except Failed as e:
                drop(workers, rows, peer, e)
    others = (busy_seconds() - busy - own_seconds(workers) + own) / max(time.monotonic() - start, 1e-3)
    wanted = [np.load(f"{folder}/reference_{i}.npy") for i in range(len(facts["outputs"]))]
    for peer, worker in list(workers.items()):
        try:
            rows[peer] |= worker.ask(10, do="quit")
        except Failed as e:
            drop(workers, rows, peer, e)
            continue
        rows[peer]["error_to_reference"] = distance(results[peer], wanted)
        rows[peer]["error_to_others"] = {p: distance(results[peer], r) for p, r in results.items() if p != peer}
        rows[peer]["right"] = rows[peer]["error_to_reference"] <= TOLERANCE
        worker.end()
    return {"model": name, "threads": threads, "facts": facts, "others": round(max(others, 0.0), 2), "peers": rows}


def drop(workers, rows, peer, error):
    rows[peer] = {"error": str(error)}
    note(f"  {peer}: {error}")
    if peer in workers:
        workers.pop(peer).end()


def profile(args, name):
    """The launches of dlc that take longest, with one thread."""
    folder = os.path.join(args.work, "models", name)
    command = [args.dlc, "bench", f"{folder}/model.dl", "--profile", "--json", "--threads", "1", "--duration", "0.2"]
    with open(f"{folder}/model.dl") as f:
        if "\n  param " in f.read():
            command += ["--weights", f"{folder}/weights.safetensors"]
    cpus = {min(1, os.cpu_count() - 1)}
    said = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    if said.returncode:
        note(f"  dlc bench --profile: {said.stderr.strip()[:300]}")
        return []
    return sorted(json.loads(said.stdout)["launches"], key=lambda launch: -launch["us"])


def main():
    args = arguments()
    begun = time.monotonic()
    os.makedirs(args.work, exist_ok=True)
    build_models(args)
    peers, missing = start_peers(args)
    begun_measuring = time.monotonic()
    result = {"machine": machine(args), "missing": missing, "rounds": args.rounds, "seconds": args.seconds}
    result |= {"sizes": report.sizes(args, peers), "runs": [], "profiles": {}, "skipped": []}
    for name in args.names:
        for threads in args.thread_counts:
            if time.monotonic() - begun_measuring > args.minutes * 60:
                result["skipped"].append(f"{name} with {threads}")
                continue
            run = measure(args, peers, name, threads)
            result["runs"].append(run)
            note(f"{time.monotonic() - begun:6.0f} s  {report.one_line(run)}")
        if "dlc" in peers and not args.no_profile:
            result["profiles"][name] = profile(args, name)
    for peer in peers.values():
        peer.close()
    result["minutes"] = round((time.monotonic() - begun_measuring) / 60, 1)
    with open(os.path.join(args.work, "results.json"), "w") as f:
        json.dump(result, f, indent=1)
    text = report.markdown(result)
    print(text)
    if args.markdown:
        with open(args.markdown, "w") as f:
            f.write(text)
    wrong = [r for run in result["runs"] for p, r in run["peers"].items() if p == "dlc" and not r.get("right")]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
