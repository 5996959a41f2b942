"""What a run was measured on, as far as it matters to who compares runs."""

import os
import pathlib
import platform
import re
import subprocess

_COMPILER = re.compile(
    rb"(GCC: \([^)\0]*\) [0-9.]+|[^\0]*clang version [0-9.]+)")


def _first_match(path, pattern, default=""):
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except OSError:
        return default
    match = re.search(pattern, text, re.MULTILINE)
    return match[1].strip() if match else default


def _compiler(program):
    """As the compiler names itself in what it has made."""
    match = _COMPILER.search(pathlib.Path(program).read_bytes())
    return match[1].decode(errors="replace") if match else ""


def describe(program):
    """Runs with equal descriptions may be compared. No host name: nobody else
    knows the host."""
    return {
        "cpu": _first_match("/proc/cpuinfo", r"^model name\s*:(.*)$",
                            platform.machine()),
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "system": _first_match("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)'),
        "compiler": _compiler(program),
        "flags": "--config=bench: -O2 -DNDEBUG -falign-loops=32",
    }


def commit(directory):
    """Of the checkout there; its values are empty if that is none."""

    def git(*arguments):
        try:
            return subprocess.run(
                ["git", "-C", directory, *arguments],
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
                check=True,
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    return {
        "id": git("rev-parse", "HEAD"),
        "subject": git("log", "-1", "--format=%s"),
        "date": git("log", "-1", "--format=%cI"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
    }
