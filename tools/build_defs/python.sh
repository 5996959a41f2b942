#!/bin/bash
# Runs a Python program of this workspace, from the directory in which Bazel
# runs programs and tests. Usage: python.sh PROGRAM [ARGUMENT...]
export PYTHONPATH=$PWD
exec python3 -B "$@"
