"""What `run.py` measured, as Markdown. `report.py results.json` prints it again."""
import importlib.metadata
import json
import math
import os
import re
import statistics
import sys

# The package that holds a peer.
PACKAGES = {
    "onnxruntime": "onnxruntime", "openvino": "openvino", "torch": "torch", "torch.compile": "torch", "jax": "jax",
}


def installed_bytes(package, seen):
    """Of a package and of all that it needs and that is there."""
    if package in seen:
        return 0
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return 0
    seen.add(package)
    paths = (distribution.locate_file(f) for f in distribution.files or [])
    total = sum(os.path.getsize(p) for p in paths if os.path.isfile(p))
    needed = [r for r in distribution.requires or [] if "extra ==" not in r]
    return total + sum(installed_bytes(re.match(r"[\w.-]+", r)[0], seen) for r in needed)


def sizes(args, peers):
    """Bytes on disk of what runs a model: the package alone, and with what it needs."""
    found = {}
    for name, peer in peers.items():
        if name in PACKAGES:
            alone = importlib.metadata.distribution(PACKAGES[name])
            own = sum(os.path.getsize(p) for p in map(alone.locate_file, alone.files) if os.path.isfile(p))
            found[name] = {"own": own, "all": installed_bytes(PACKAGES[name], set())}
        else:
            path = args.dlc if name == "dlc" else peer.command[0]
            found[name] = {"own": os.path.getsize(path), "all": os.path.getsize(path)}
    return found


def median(row):
    return statistics.median(row["medians"]) if row.get("right") and row.get("medians") else None


def best_peer(run, value):
    """The peer with the best value (none of them wrong), and that value."""
    rows = {p: value(r) for p, r in run["peers"].items() if p != "dlc" and r.get("right")}
    rows = {p: v for p, v in rows.items() if v}
    return min(rows.items(), key=lambda item: item[1]) if rows else (None, None)


def ratio(run):
    """Best peer's time ÷ dlc's, round by round: what disturbs one disturbs the other."""
    name, _ = best_peer(run, median)
    dlc = run["peers"].get("dlc", {})
    if name is None or median(dlc) is None:
        return None
    return statistics.median(p / d for p, d in zip(run["peers"][name]["medians"], dlc["medians"]))


def ratio_of(value):
    """The same of another figure of each peer."""

    def of(run):
        _, best = best_peer(run, value)
        dlc = run["peers"].get("dlc", {})
        return best / value(dlc) if best and dlc.get("right") and value(dlc) else None

    return of


# Steadier where other processes disturb: the shortest times seen, and the time on the CPU (for one thread, that is
# what a run would take alone).
RATIOS = {
    "best ÷ dlc": ratio,
    "of minima": ratio_of(lambda row: min(row["minima"], default=None)),
    "of CPU time": ratio_of(lambda row: statistics.median(row["cpu_us"]) if row["cpu_us"] else None),
}


def time_text(us):
    if us is None:
        return "–"
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 100 else f"{us:,.0f}"


def factor(x):
    return "–" if x is None else f"{x:.2f}" if x < 100 else f"{x:.0f}"


def one_line(run):
    times = "  ".join(f"{p} {time_text(median(r)) if r.get('right') else 'WRONG'}" for p, r in run["peers"].items())
    noise = f"  (others used {run['others']:.1f} cores)" if run["others"] > 0.2 else ""
    return f"{run['model']} ×{run['threads']}: {times}  ratio {factor(ratio(run))}{noise}"


def geometric_mean(values):
    values = [v for v in values if v]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *("| " + " | ".join(r) + " |" for r in rows), ""]


def latency(result, threads):
    runs = [r for r in result["runs"] if r["threads"] == threads]
    peers = list(dict.fromkeys(p for r in runs for p in r["peers"] if p != "dlc"))
    # With several threads the time on the CPU is mostly waiting.
    ratios = {k: of for k, of in RATIOS.items() if threads == 1 or k != "of CPU time"}
    rows = []
    for run in runs:
        name, _ = best_peer(run, median)
        cells = []
        for p in ["dlc", *peers]:
            row = run["peers"].get(p, {})
            text = time_text(median(row)) if row.get("right") or not row.get("medians") else "wrong"
            cells.append(f"**{text}**" if p == name else text)
        mark = "*" if run["others"] > 0.2 else ""
        rows.append([run["model"] + mark, *cells, name or "–", *(factor(of(run)) for of in ratios.values())])
    means = [factor(geometric_mean(map(of, runs))) for of in ratios.values()]
    rows.append(["geometric mean", *[""] * (len(peers) + 1), "", *means])
    title = f"## Time of one run, µs, {threads} thread{'s' if threads > 1 else ''}"
    return [title, "", *table(["model", "dlc", *peers, "best peer", *ratios], rows)]


def other_quantity(result, title, value, show):
    """A table of something of which less is better, at the least number of threads."""
    least = min((r["threads"] for r in result["runs"]), default=1)
    runs = [r for r in result["runs"] if r["threads"] == least]
    peers = list(dict.fromkeys(p for r in runs for p in r["peers"] if p != "dlc"))
    rows, ratios = [], []
    for run in runs:
        name, best = best_peer(run, value)
        dlc = value(run["peers"].get("dlc", {}))
        ratios.append(best / dlc if best and dlc else None)
        text = lambda p: show(v) if (v := value(run["peers"].get(p, {}))) else "–"
        cells = [f"**{text(p)}**" if p == name else text(p) for p in ["dlc", *peers]]
        rows.append([run["model"], *cells, name or "–", factor(ratios[-1])])
    rows.append(["geometric mean", *[""] * (len(peers) + 1), "", factor(geometric_mean(ratios))])
    return [title, "", *table(["model", "dlc", *peers, "best peer", "best ÷ dlc"], rows)]


def launches(result, count=3):
    rows = []
    for model, all_launches in result["profiles"].items():
        total = sum(launch["us"] for launch in all_launches) or 1.0
        for launch in all_launches[:count]:
            share = f"{100 * launch['us'] / total:.0f} %"
            ops = " ".join(launch["ops"])
            ops = ops if len(ops) <= 60 else ops[:57] + "…"
            rows.append([model, f"`{ops}`", launch["generator"], time_text(launch["us"]), share,
                         f"{launch['gflops']:.1f}", f"{launch['gbytes']:.1f}"])
    if not rows:
        return []
    title = f"## Where dlc's time goes: the {count} longest launches of each model, 1 thread"
    return [title, "", *table(["model", "ops", "generator", "µs", "share", "GFLOP/s", "GB/s"], rows)]


def header(result):
    m = result["machine"]
    lines = [
        f"{m['date']}, revision {m['revision']}. {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, "
        f"{', '.join(m['vectors'])}. {m['system']}.",
        "",
    ]
    if doctor := m.get("doctor"):
        peak, read = doctor.get("fma_gflops"), doctor.get("read_gbytes")
        if peak and read:
            lines += [f"`dlc doctor`, one thread: {peak:.0f} GFLOP/s of f32 multiply-adds, reading {read:.1f} GB/s.", ""]
    versions = dict.fromkeys(r["version"] for run in result["runs"] for r in run["peers"].values() if "version" in r)
    lines += ["Versions: " + ", ".join(versions) + ".", ""]
    lines += [f"Left out: {name} ({why})." for name, why in result["missing"].items()]
    lines += [
        f"Medians of {result['rounds']} rounds of {result['seconds']} s, in turn. Ratios are medians over rounds, beside them "
        "that of the shortest times and of the time on the CPU; above 1 dlc is faster. Bold: the best peer. *: other processes used more than a fifth of a core meanwhile.",
        "",
    ]
    if result["skipped"]:
        lines += ["Not measured, for want of time: " + "; ".join(result["skipped"]) + ".", ""]
    return lines


def disagreements(result):
    """Peers that are far from the reference, and the worst pair of results that passed."""
    lines, worst = [], (0.0, "")
    for run in result["runs"]:
        for p, row in run["peers"].items():
            where = f"{p} on {run['model']} with {run['threads']}"
            if "error" in row:
                lines.append(f"- {where}: {row['error']}")
            elif not row["right"]:
                lines.append(f"- {where} is wrong: {row['error_to_reference']:.1e} from the reference")
            else:
                pairs = [(e, q) for q, e in row["error_to_others"].items() if run["peers"][q].get("right")]
                worst = max([worst, *((e, f"{where} against {q}") for e, q in pairs)])
    lines.append(f"- Largest difference between two results that count: {worst[0]:.1e} of the greatest element ({worst[1]}).")
    return ["## Results compared", "", *lines, ""]


def on_disk(result):
    dlc = result["sizes"].get("dlc", {}).get("all")
    rows = []
    for name, size in result["sizes"].items():
        rows.append([name, f"{size['own'] / 1e6:.1f}", f"{size['all'] / 1e6:.1f}", factor(size["all"] / dlc) if dlc else "–"])
    return ["## Size on disk, MB", "", *table(["", "alone", "with what it needs", "÷ dlc"], rows)]


def markdown(result):
    lines = header(result)
    for threads in dict.fromkeys(r["threads"] for r in result["runs"]):
        lines += latency(result, threads)
    lines += disagreements(result)
    milliseconds = lambda s: time_text(s * 1e3)
    lines += other_quantity(
        result, "## From the model's files to the first result, ms", lambda row: row.get("first_s"), milliseconds
    )
    lines += other_quantity(
        result, "## Peak memory of the process (RSS), MB", lambda row: row.get("peak_rss"), lambda b: f"{b / 1e6:.0f}"
    )
    lines += on_disk(result)
    lines += launches(result)
    return "\n".join(lines)


if __name__ == "__main__":
    with open(sys.argv[1]) as f:
        print(markdown(json.load(f)))
