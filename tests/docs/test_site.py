"""The site builds strictly, needs nobody else's server, and has every page."""

import re
import subprocess
import sys

import pytest
import yaml
from docs.blocks import ROOT

pytest.importorskip("mkdocs", reason="pip install 'verl-ext[dev]'")
pytest.importorskip("material", reason="pip install 'verl-ext[dev]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def settings():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def in_nav(entries):
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else in_nav(value)


def test_the_site_builds_without_a_warning_and_every_page_is_in_it(site, settings):
    for page in in_nav(settings["nav"]):
        assert (site / page).with_suffix(".html").exists()


def test_every_page_is_in_the_navigation(settings):
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert there == set(in_nav(settings["nav"]))


def test_a_readers_browser_fetches_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?([^\s\">]+)", text)
        loaded += re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect)[^>]*>", text)
        assert not [each for each in loaded if "//" in each], page


def test_scripts_are_no_part_of_the_site(site):
    assert not list(site.rglob("*.py"))


def test_every_paper_page_has_its_three_parts():
    for path in (ROOT / "docs" / "papers").glob("*.md"):
        if path.name == "index.md":
            continue
        headings = re.findall(r"^## (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        parts = ["What the paper does", "What we implement", "How we checked it"]
        assert [each for each in headings if each in parts] == parts, path.name
