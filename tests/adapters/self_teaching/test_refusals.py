"""Chats and prompts of which no teacher's prompt can be made, and tools that stand in one."""

from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters.self_teaching.runs import QUESTION, group, render, row

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.teacher.rendering import Renderer


def test_a_session_of_several_outputs_is_refused(run):
    rows = group()
    rows["b_0_1"] = row("b", "zz", 0.0)
    with pytest.raises(SettingsError, match="several outputs"):
        run(rows)()


def test_a_prompt_that_is_not_the_chat_templates_is_refused(run):
    other = torch.tensor(render([{"role": "user", "content": "Be brief. " + QUESTION}]))
    with pytest.raises(SettingsError, match="continues another prompt"):
        run(group(prompts=other))()


def test_the_runs_tools_stand_in_the_teachers_prompt_where_they_stand_in_the_policys(
    run, monkeypatch
):
    class Builder:
        def build_initial_tokens(self, messages, tools=None):
            return [len(tools or ()), *render(messages)]

    chat = [{"role": "user", "content": QUESTION}]
    this = run(group(prompts=torch.tensor([1, *render(chat)])))
    monkeypatch.setattr(Renderer, "_builder", Builder())
    monkeypatch.setattr(Renderer, "_tools", [{"name": "search"}])
    this()
    (values,) = [v for v in this.seen if v["loss_mask"].any()]
    assert values["prompts"][0] == 1


def test_a_batch_without_chats_is_refused_in_words(run):
    rows = group()
    for values in rows.values():
        del values["raw_prompt"]
    with pytest.raises(SettingsError, match="raw_prompt"):
        run(rows)()


def test_an_image_in_the_chat_is_refused_in_words(run, monkeypatch):
    rows = group()
    for values in rows.values():
        values["raw_prompt"] = [{"role": "user", "content": [{"type": "image"}]}]
    this = run(rows)
    ids = render([{"role": "user", "content": QUESTION}])
    builder = SimpleNamespace(build_initial_tokens=lambda messages, tools=None: ids)
    monkeypatch.setattr(Renderer, "_builder", builder)
    with pytest.raises(ValueError, match="text"):
        this()
