"""What mp costs that is not time to run: system calls, memory, the size of a
program, seconds to compile one."""

import json
import pathlib
import shutil
import subprocess
import tempfile
import time

# The README's first program, which makes a pool.
_PROGRAM = "examples/first_program"


def measure(root, workspace=None):
    """A list of dicts: name, title, value and unit. `root` has the programs
    that were built, `workspace` the sources; without these, or without a
    compiler, nothing is compiled."""
    root = pathlib.Path(root)
    result = subprocess.run(
        [root / "benchmarks" / "costs_of_mp"], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(result.stdout)
    found.append({
        "name": "bytes/program",
        "title": "A program with a pool, optimized and stripped",
        "value": (root / f"{_PROGRAM}.stripped").stat().st_size,
        "unit": "bytes",
    })
    seconds = _compile_seconds(workspace)
    if seconds is not None:
        found.append({
            "name": "seconds/compile",
            "title": "To compile a file that uses a pool, with -O2",
            "value": seconds,
            "unit": "s",
        })
    return found


def _compile_seconds(workspace):
    compiler = shutil.which("g++")
    if not workspace or not compiler:
        return None
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        # Headers are included as "mp/pool/pool.h".
        (directory / "mp").symlink_to(workspace)
        begin = time.monotonic()
        subprocess.run(
            [compiler, "-std=c++20", "-O2", "-DNDEBUG", f"-I{directory}", "-c",
             "-o", directory / "out.o",
             directory / "mp" / f"{_PROGRAM}.cc"],
            stdin=subprocess.DEVNULL, capture_output=True, check=True)
        return time.monotonic() - begin
