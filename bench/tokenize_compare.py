#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokenises files with kerf and with the tokenizers package, one thread each: same ids, and how many MB/s.

    bench/tokenize_compare.py --kerf build/bin/bench_tokenize --tokenizers tests/data/tokenizers FILE...

Needs transformers; bench_tokenize is built with -DKERF_BENCHMARKS=ON. The best of three counts on either side. Ends with 1
where the ids of any file differ.
"""
import argparse
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import numpy as np  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402


def theirs(folder, files):
    backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    for file in files:
        data = file.read_bytes()
        text, best = data.decode("utf-8", "replace"), 1e300
        for _ in range(3):
            begin = time.perf_counter()
            encoding = backend.encode(text, add_special_tokens=False)
            best = min(best, time.perf_counter() - begin)
        ids = np.array(encoding.ids, dtype=np.int64)
        yield len(ids), hashlib.sha256(ids.tobytes()).hexdigest()[:16], len(data) / 1e6 / best


def ours(program, folder, files):
    lines = subprocess.run([program, folder, *files], check=True, capture_output=True, text=True).stdout.splitlines()
    for line in lines:
        _, count, digest, speed = line.rsplit(" ", 3)
        yield int(count), digest, float(speed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerf", type=Path, required=True, help="bench_tokenize")
    parser.add_argument("--tokenizers", type=Path, required=True, help="a folder of tokenizer folders")
    parser.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    different = 0
    print("tokenizer file tokens same_ids kerf_MB/s tokenizers_MB/s")
    for folder in sorted(path for path in arguments.tokenizers.iterdir() if path.is_dir()):
        pairs = zip(arguments.files, ours(arguments.kerf, folder, arguments.files), theirs(folder, arguments.files))
        for file, (count, digest, speed), (their_count, their_digest, their_speed) in pairs:
            same = (count, digest) == (their_count, their_digest)
            different += not same
            print(folder.name, file.name, count, "yes" if same else f"NO ({their_count})", f"{speed:.1f}", f"{their_speed:.1f}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
