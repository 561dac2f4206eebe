#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a virtual environment with transformers for the tests, small enough for every clone: 0.3 GB instead of 6.

Its torch is LibTorch itself, which is the torch wheel unpacked. What that wheel lacks are the CUDA libraries that the
dynamic loader asks for when Python imports torch, though no processor ever calls them: cuDNN, cuBLAS and so on, 4 GB. In
their place the environment has stand-ins, libraries with the same names and symbols, each of which aborts when called.

Needs the Python that the wheel was built for, pip and a C compiler. `environment.py DIR --libtorch DIR/torch`
"""
import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = ["transformers==5.24.0", "sympy", "networkx", "jinja2", "gguf", "filelock", "fsspec", "typing-extensions"]

# Libraries that the wheel's own ask for and that lie neither in it nor in the system, with the prefixes of those of their
# symbols that carry no version. A symbol with a version says itself whose it is.
CUDA_LIBRARIES = {
    "libcudnn.so.9": ["cudnn"],
    "libcublas.so.13": ["cublas"],
    "libcublasLt.so.13": ["cublasLt"],
    "libcufft.so.12": ["cufft"],
    "libcurand.so.10": ["curand"],
    "libcusolver.so.12": ["cusolver"],
    "libcusparse.so.12": ["cusparse"],
    "libcusparseLt.so.0": ["cusparseLt"],
    "libcufile.so.0": ["cuFile"],
    "libnccl.so.2": ["nccl"],
    "libnvrtc.so.13": ["nvrtc"],
    "libnvJitLink.so.13": ["nvJitLink"],
    "libnvshmem_host.so.3": ["nvshmem"],
}

# Read by every start of the environment's Python, before anything is imported.
START_UP = '''\
"""Lets `import torch` find LibTorch, and the stand-ins for CUDA libraries that it never calls on a processor."""
import ctypes
import os
import sys
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.append({packages!r})
for library in sorted((Path(__file__).parent / "stand_ins").glob("*.so.*")):
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
'''


class Unavailable(Exception):
    """The environment cannot be made here; says why."""


def run(command, why):
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    except OSError as error:
        raise Unavailable(f"{why}: {error}") from error
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-6:])
        raise Unavailable(f"{why}:\n{last}")
    return done.stdout


def wanted_symbols(libraries):
    """{library: {symbol: version or ''}} that the wheel's libraries want from those of CUDA_LIBRARIES."""
    wanted = {name: {} for name in CUDA_LIBRARIES}
    unversioned = sorted(((prefix, name) for name, prefixes in CUDA_LIBRARIES.items() for prefix in prefixes),
                         key=lambda pair: -len(pair[0]))
    for library in libraries:
        needs, owner = {}, ""
        for line in run(["readelf", "--wide", "--version-info", library], "readelf").splitlines():
            if file := re.search(r"File: (\S+)", line):
                owner = file[1]
            if owner and (version := re.search(r"^\s+\S+:\s+Name: (\S+)", line)):
                needs[version[1]] = owner
        for line in run(["readelf", "--wide", "--dyn-syms", library], "readelf").splitlines():
            fields = line.split()
            if len(fields) < 8 or fields[6] != "UND":
                continue
            symbol, _, version = fields[7].partition("@")
            name = needs.get(version)
            if not version:
                name = next((owner for prefix, owner in unversioned if symbol.startswith(prefix)), None)
            if name in wanted:
                wanted[name][symbol] = version
    return wanted


def build_stand_ins(libtorch, folder):
    """One shared library for each of CUDA_LIBRARIES, with the symbols and versions that are asked for."""
    folder.mkdir(parents=True)
    for name, symbols in wanted_symbols(sorted((libtorch / "lib").glob("lib*.so"))).items():
        source, script = folder / "stand_in.c", folder / "stand_in.map"
        source.write_text("#include <stdlib.h>\n" + "".join(f"void {symbol}(void) {{ abort(); }}\n" for symbol in symbols))
        versions = {}
        for symbol, version in symbols.items():
            versions.setdefault(version, []).append(symbol)
        # A reference without a version is content with any.
        plain = versions.pop("", [])
        for version in list(versions)[:1]:
            versions[version] += plain
        text = "".join(f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in versions.items())
        script.write_text(text or "{ global: *; };\n")
        run(["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{name}", f"-Wl,--version-script={script}",
             "-o", folder / name, source], "the stand-ins for CUDA libraries could not be compiled")
        source.unlink()
        script.unlink()


def check_torch(libtorch):
    """LibTorch as C++ programs need it may come without Python's part, or for another Python."""
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    extensions = [file.name for file in libtorch.glob("_C.*.so")]
    if not (libtorch / "__init__.py").exists() or not extensions:
        raise Unavailable(f"{libtorch} holds LibTorch, but not Python's part of torch")
    if not any(tag in name for name in extensions):
        raise Unavailable(f"{libtorch} is for another Python ({', '.join(extensions)}) than {sys.executable} ({tag})")


def make(folder, libtorch):
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False, symlinks=True)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # --target: the pip of any Python fills it, and nothing goes elsewhere.
    run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-compile",
         "--only-binary=:all:", "--target", packages, *PACKAGES], "pip could not install " + " ".join(PACKAGES))
    start = packages / "kerf_test_torch"
    build_stand_ins(libtorch, start / "stand_ins")
    (start / "__init__.py").write_text(START_UP.format(packages=str(libtorch.parent)))
    (packages / "kerf_test_torch.pth").write_text("import kerf_test_torch\n")
    run([folder / "bin" / "python", "-c", "import torch, transformers; transformers.PreTrainedModel; torch.ones(2, 2) @ torch.ones(2, 2)"],
        "the environment was made, but torch and transformers do not work in it")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--libtorch", required=True, type=Path, help="the folder with include/ and lib/")
    return parser.parse_args()


def main():
    options = parse_arguments()
    folder, libtorch = options.folder.absolute(), options.libtorch.absolute()
    made_from = json.dumps([hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), str(libtorch), str(folder)])
    stamp = folder / "made-from.json"
    if stamp.exists() and stamp.read_text() == made_from:
        return
    try:
        check_torch(libtorch)
        make(folder, libtorch)
    except Unavailable as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise SystemExit(f"no Python environment for the tests: {error}")
    stamp.write_text(made_from)


if __name__ == "__main__":
    main()
