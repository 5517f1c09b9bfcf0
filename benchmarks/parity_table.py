"""How far each engine and layout is from plain Hugging Face in double precision, in one table.

    python benchmarks/parity_table.py [--method w_reinforce] [--model qwen3]

The rows are those of tests/engine_parity, the errors those of engine_parity/compare.py; the last
column is the time of the job of three updates, start of the processes left out.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from engine_parity import cases, compare, engines, reference
from engine_parity.layouts import EXPERT_LAYOUTS, INTERLEAVED, LAYOUTS, MICRO_BATCHES
from engine_parity.ranks import Ranks

COLUMNS = ("log_probs", "entropy", "loss", "grad_norm", "update")
# Interleaved stages want micro-batches in multiples of the stages.
INTERLEAVED_BY_TWOS = (*INTERLEAVED[:2], [*INTERLEAVED[2], *MICRO_BATCHES["rows_of_two"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=cases.METHODS, default="w_reinforce")
    parser.add_argument("--model", choices=("qwen3", "qwen3_deep", "qwen3_moe"), default="qwen3")
    arguments = parser.parse_args()
    layouts = EXPERT_LAYOUTS if arguments.model == "qwen3_moe" else LAYOUTS
    if arguments.model == "qwen3_deep":
        layouts = {**LAYOUTS, "pp2_interleaved": INTERLEAVED_BY_TWOS}
    method = cases.METHODS[arguments.method]
    batch, advantages = method.prepare(cases.make_batch())
    pools, truths, lines = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        cases.save_model(arguments.model, folder)
        for name, (engine, size, overrides) in sorted(layouts.items(), key=lambda item: item[1][1]):
            config = engines.compose(method, engine, overrides)
            if engine not in truths:
                truths[engine] = reference.train(
                    folder,
                    batch,
                    advantages,
                    engines.settings_of(config),
                    decay_vectors=engine == "dp",
                )
            if size not in pools:
                pools[size] = Ranks(size)
                pools[size].run(engines.warm_up)
            start = time.perf_counter()
            results = pools[size].run(engines.train, config, folder, batch, advantages)
            seconds = time.perf_counter() - start
            errors = compare.errors(results, truths[engine], folder)
            figures = "".join(f"{errors[column]:>11.1e}" for column in COLUMNS)
            lines.append(f"{name:<28}{figures}{seconds:>8.1f} s")
            print(lines[-1], file=sys.stderr)
    for pool in pools.values():
        pool.close()
    print(f"{'layout':<28}{''.join(f'{column:>11}' for column in COLUMNS)}{'time':>10}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
