#!/usr/bin/env python3
"""Lets PyTorch's wheel for CUDA run on a machine without a GPU, without gigabytes of NVIDIA's wheels.

    no_cuda.py        with the Python of the environment that torch is installed in

The wheel's libraries want NVIDIA's at load time. This builds empty ones beside them: every function is there and
returns 100, "no device", so that `torch.cuda.is_available()` is False and all else works. Needs gcc and readelf.
"""
import collections
import glob
import os
import re
import subprocess
import sysconfig
import tempfile

LIB = os.path.join(sysconfig.get_path("purelib"), "torch", "lib")
NVIDIA = re.compile(r"lib(cu|nv|nccl)\w*\.so")


def readelf(option, path):
    return subprocess.run(["readelf", "-W", option, path], capture_output=True, text=True, check=True).stdout


def survey():
    """The libraries that are wanted, and the undefined symbols by version (None: without a version)."""
    wanted, undefined, defined = set(), collections.defaultdict(set), set()
    for path in (p for p in glob.glob(f"{LIB}/*.so*") if not NVIDIA.match(os.path.basename(p))):
        needed = re.findall(r"NEEDED.*\[(.+?)\]", readelf("-d", path))
        wanted |= {n for n in needed if NVIDIA.match(n)}
        for line in readelf("--dyn-syms", path).splitlines():
            fields = line.split()
            if len(fields) < 8 or not fields[0].endswith(":"):
                continue
            name, _, version = fields[7].partition("@")
            if fields[6] == "UND":
                undefined[version.lstrip("@") or None].add(name)
            else:
                defined.add(name)
    loose = {n for n in undefined.pop(None, set()) - defined if re.match(r"_*(cu|nccl|nv)[A-Z_a-z]", n)}
    return sorted(wanted), undefined, loose


def build(soname, groups):
    """One library; `groups` maps versions to names of functions."""
    code, script = [], []
    for version, names in groups.items():
        text = [n for n in names if n.lower().endswith(("errorstring", "errorname", "get_error_string"))]
        code += [f'const char *{n}(void) {{ return "no CUDA here"; }}' for n in text]
        code += [f"long {n}(void) {{ return 100; }}" for n in sorted(names - set(text))]
        if version:
            script.append(f"{version} {{ global: {'; '.join(sorted(names)) or '*'}; }};")
    code.append("int no_cuda_stub;")
    with tempfile.TemporaryDirectory() as folder:
        source, versions = f"{folder}/stub.c", f"{folder}/versions"
        with open(source, "w") as f:
            f.write("\n".join(code))
        with open(versions, "w") as f:
            f.write("\n".join(script))
        command = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{soname}", source]
        command += [f"-Wl,--version-script={versions}"] if script else []
        subprocess.run([*command, "-o", f"{LIB}/{soname}"], check=True)


def main():
    wanted, undefined, loose = survey()
    groups = {soname: {} for soname in wanted}
    for version, names in undefined.items():
        # NVIDIA names most versions after the library; one says its product's name.
        owner = version if version in groups else next((s for s in wanted if version.lower() in s), None)
        if owner:
            groups[owner][version] = names
    # Symbols without a version belong to the library whose name they begin with.
    stems = {soname[3:soname.index(".so")].lower(): soname for soname in wanted}
    for name in loose:
        fits = [stem for stem in stems if name.lstrip("_").lower().startswith(stem)]
        owner = stems[max(fits, key=len)] if fits else "libcuda.so.1"
        groups[owner].setdefault(None, set()).add(name)
    for soname, by_version in groups.items():
        build(soname, by_version)
        print(f"{soname}: {sum(map(len, by_version.values()))} functions")


if __name__ == "__main__":
    main()
