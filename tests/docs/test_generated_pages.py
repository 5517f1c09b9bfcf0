"""The generated pages are what docs/generate.py makes now, and say all there is to say."""

import importlib.util
import re
import subprocess
import sys

import pytest
import yaml
from docs.blocks import ROOT

from verl_ext import overlays
from verl_ext.papers import PAPERS

SCRIPT = ROOT / "docs" / "generate.py"


@pytest.fixture(scope="module")
def script():
    """The script as a module; its folder is on the path only while it is imported."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("generate_docs", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


@pytest.fixture(scope="module")
def made(script):
    return script.pages()


@pytest.fixture(scope="module")
def configuration(made):
    return made["configuration.md"].splitlines()


def rows_below(lines, heading):
    """Key -> other cells of the table below a heading."""
    start = lines.index(heading) + 1
    rows = {}
    for line in lines[start:]:
        if line.startswith("#"):
            break
        if line.startswith("| `"):
            key, *cells = line.strip("|").split(" | ")
            rows[key.strip(" `")] = [cell.strip() for cell in cells]
    return rows


def test_the_pages_are_not_stale(made):
    for name, text in made.items():
        there = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert there == text, f"docs/{name} is stale: make docs"


def test_the_script_says_so_with_its_exit_status():
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("paper", PAPERS)
def test_the_index_has_a_line_to_copy_for_every_paper(made, paper):
    section = made["papers/index.md"].split(f"\n## {paper}\n")[1].split("\n## ")[0]
    assert f"```bash\n{PAPERS[paper].line}\n```" in section
    if paper not in ("rlpr_llama", "rlpr_gemma"):  # values for models that no toy stands for
        assert "+scale=cpu" in PAPERS[paper].line


def test_the_index_says_what_every_line_for_a_cpu_came_to(made):
    section = made["papers/index.md"].split("\n## What to expect\n")[1].split("\n## ")[0]
    told = re.findall(r"^\| \[`(\w+)`\]", section, re.MULTILINE)
    assert told == [name for name, paper in PAPERS.items() if "+scale=cpu" in paper.line]


def test_every_section_that_the_driver_knows_is_in_the_reference(script, configuration):
    import verl  # loads the plugin  # noqa: F401

    from verl_ext.adapters.driver_check import CPU_SIZES, SECTIONS

    values = set(rows_below(configuration, "## algorithm.verl_ext"))
    headings = {line.removeprefix("### ") for line in configuration if line.startswith("### ")}
    sections = {heading.split(":")[0].split(".")[0] for heading in headings}
    assert set(SECTIONS) <= {value.split(".")[0] for value in values} | sections
    assert {f"cpu.{size}" for size in CPU_SIZES} <= values
    assert set(script.VALUES) == values


@pytest.mark.parametrize(
    ("heading", "key", "default", "said"),
    [
        ("### advantage: verl_ext.w_reinforce", "positive_weight", "`0.1`", "λ ≥ 0"),
        ("### advantage: verl_ext.opd", "task_estimator", "`null`", "any name verl's registry"),
        ("### advantage: verl_ext.opd", "discount", "`0.0`", "γ in [0, 1]"),
        ("### masks.aepo", "calibration_steps", "`20`", "batches that"),
        ("### masks.aepo", "denominator", "`all`", "of the token mean"),
        ("### masks.std_filter", "denominator", "`null`", '`"kept"` tokens'),
        ("### teacher", "source", "required", "verl's reference worker"),
        ("### teacher.texts", "marker", "` ... `", "stands for what was cut"),
        ("### group_reward.tournament.judge", "attempts", "`4`", "times a call is made"),
        ("### group_reward.tournament.simulated", "flip", "`0.0`", "p ∈ [0, ½]"),
        ("### group_reward.reference_probability.tags", "think", "", "opening and closing"),
        ("### test_time", "success_threshold", "`0.5`", "a success"),
    ],
)
def test_defaults_and_meanings_are_those_of_the_code(configuration, heading, key, default, said):
    cells = rows_below(configuration, heading)[key]
    assert cells[0].startswith(default)
    assert said in cells[1]


def test_what_is_no_key_is_not_in_the_reference(configuration):
    assert "urls" not in rows_below(configuration, "### group_reward.tournament")
    assert set(rows_below(configuration, "### test_time")) == {"success_threshold"}
    assert set(rows_below(configuration, "### sampler.task_balanced")) == {"weights"}
    assert rows_below(configuration, "### masks.zero_advantage") == {}


def test_a_key_without_a_description_is_an_error(script):
    def estimator(rewards, *, weight=1.0):
        """Does something."""

    with pytest.raises(ValueError, match="does not describe weight"):
        list(script._rows(estimator))


@pytest.mark.parametrize("group", overlays.GROUPS)
def test_every_value_of_every_overlay_is_in_the_reference(configuration, group):
    def leaves(node, key=""):
        if isinstance(node, dict) and node:
            return [each for name, value in node.items() for each in leaves(value, f"{key}.{name}")]
        return [(key[1:], node)]

    for name in overlays.names(group):
        text = (ROOT / "recipes" / group / f"{name}.yaml").read_text(encoding="utf-8")
        rows = rows_below(configuration, f"### {group}: {name}")
        written = yaml.safe_load(text)
        written.pop("defaults", None)
        for key, value in leaves(written):
            assert yaml.safe_load(rows[key][0].strip("`")) == value, (name, key)


def test_comments_stand_beside_their_keys(configuration):
    rows = rows_below(configuration, "### paper: std_filter")
    assert rows["algorithm.verl_ext.masks.std_filter.decay"][1].startswith("authors' code; the pa")
    above = rows_below(configuration, "### paper: aepo")["algorithm.verl_ext.masks.aepo.low"][1]
    assert above.startswith("The paper states no thresholds")
    assert above.endswith("again")
