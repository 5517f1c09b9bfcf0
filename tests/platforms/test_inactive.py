"""Where verl computes on an accelerator, nothing of the CPU platform is active."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

REPORT = """
    import inspect, json, warnings

    warnings.simplefilter("ignore")
    import verl
    import megatron.core.jit as jit
    import megatron.core.models.gpt.gpt_layer_specs as specs
    import megatron.core.optimizer as optimizer
    import verl.utils.distributed as distributed
    import verl.workers.engine
    from verl.workers.config import McoreEngineConfig
    from verl.workers.engine.base import EngineRegistry

    try:
        McoreEngineConfig(dtype="float32")
        float32 = True
    except AssertionError:
        float32 = False
    engines = EngineRegistry._engines["language_model"]
    print(json.dumps({
        "platform": verl.plugin.platform.get_platform().device_name,
        "megatron is rewritten": "verl_ext" in type(jit.__loader__).__module__,
        "nothing is compiled": jit.jit_fuser is jit.noop_decorator,
        "layers are ours": "verl_ext" in str(getattr(specs, "TENorm", None)),
        "adam is ours": "verl_ext" in optimizer.Adam.__module__,
        "float32 engine": float32,
        "megatron on cpu": "cpu" in engines.get("megatron", {}),
        "fsdp on cpu": "cpu" in engines["fsdp2"],
        "gloo backend": "verl_ext" in (
            inspect.getmodule(distributed.initialize_global_process_group_ray.__code__) or verl
        ).__name__,
    }))
"""


def report(platform):
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REPORT)],
        capture_output=True,
        text=True,
        env={**os.environ, "VERL_PLATFORM": platform},
    )
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.parametrize(("platform", "active"), [("nvidia", False), ("cpu", True)])
def test_every_patch_follows_the_platform(platform, active):
    found = report(platform)
    assert found.pop("platform") == ("cpu" if active else "cuda")
    assert found == dict.fromkeys(found, active)
