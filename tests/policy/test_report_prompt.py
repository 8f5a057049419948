"""The prompt of a chain: what a template may name, and that what callers send stays text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge.config.tree import Config
from edge.errors import InvalidRequest
from edge.report_prompt import BadPrompt, ReportPrompt, chosen_fields, fields_of_texts
from edge.tensors import Detection, Label, Sighting

BOLTS = Sighting(
    640,
    480,
    detections=[
        Detection("bolt", 0.91234, 0, (10.4, 20.6, 30.0, 40.0)),
        Detection("plate", 0.5, 1, (0.0, 0.0, 9.0, 9.0), text="AX-7"),
    ],
)


def filled(source: str, sighting: Sighting = BOLTS, **fields: Any) -> str:
    return ReportPrompt(source, fields).fill(sighting, fields)


def test_what_was_seen() -> None:
    """Numbers are short; a thing without a text has an empty one."""
    source = (
        "{% for d in detections %}{{ d.label }} {{ d.score }} {{ d.box }} {{ d.text }};{% endfor %}"
    )
    assert filled(source) == "bolt 0.912 [10, 21, 30, 40] ;plate 0.5 [0, 0, 9, 9] AX-7;"
    assert filled("{{ width }}x{{ height }}, {{ labels | length }} labels") == "640x480, 0 labels"
    labels = Sighting(8, 8, [Label("scratch", 0.25, 3)])
    source = "{{ labels | map(attribute='label') | join(', ') }} {{ detections }}"
    assert filled(source, labels) == "scratch []"


@pytest.mark.parametrize(
    ("source", "problem", "line"),
    [
        ("{{ detections", "unexpected end of template", 1),
        ("a\nb\n{% if %}", "Expected an expression", 3),
        ("{{ x | shout }}", "No filter named 'shout'", 1),
        ("{{ temperature }}", "nothing is called `temperature` here; there are: detections", None),
        ("{% for d in detections %}{{ d.lable }}{% endfor %}", "no attribute 'lable'", None),
        ("{{ detections[0].label }}", "no element 0, where nothing was seen", None),
        ("{{ part.number }}", "no attribute 'number'", None),
    ],
)
def test_what_is_wrong_is_found_without_a_picture(
    source: str, problem: str, line: int | None
) -> None:
    with pytest.raises(BadPrompt, match=problem.replace("[", r"\[")) as found:
        ReportPrompt(source, {"part": None})
    assert found.value.line == line


@given(st.text())
def test_values_stay_text(text: str) -> None:
    """Whatever a caller sends, a template of its own too, it is put in as it is."""
    assert filled("[{{ part }}]", part=text) == f"[{text}]"


@pytest.mark.parametrize(
    "value", ["{{ detections }}", "{% raw %}", "{{ ''.__class__.__mro__ }}", "{# gone #}"]
)
def test_values_are_no_templates(value: str) -> None:
    assert filled("part {{ part }}", part=value) == f"part {value}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ part * 99999999 }}",
        "{{ 'a' * 9999999 }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_what_cannot_be_filled(source: str) -> None:
    """A template that takes too much of a value, or refuses it, is an error for the caller."""
    prompt = ReportPrompt(source, {"part": "x"})
    with pytest.raises(InvalidRequest):
        prompt.fill(BOLTS, {"part": "xx"})


def test_a_template_that_does_not_end() -> None:
    """It is found when the configuration is read."""
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(BadPrompt, match="does not come to an end"):
        ReportPrompt(loops, {})


def test_fields() -> None:
    """What is not sent has its default; what has none is to be sent; nothing else is taken."""
    declared = {"shift": "day", "part": None}
    assert chosen_fields(declared, {"part": 7}) == {"shift": "day", "part": 7}
    for wrong, param in (
        ({}, "part"),
        ({"part": None}, "part"),
        ({"part": 7, "Shift": "x"}, "Shift"),
        ({"part": [7]}, "part"),
        ({"part": {"a": 1}}, "part"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            chosen_fields(declared, wrong)
        assert refused.value.param == param


def test_fields_that_came_as_text() -> None:
    """A number where the default is one, because templates compare and calculate."""
    declared = {"count": 1, "ratio": 0.5, "urgent": False, "part": None}
    texts = {"count": "12", "ratio": "0.25", "urgent": "true", "part": "12"}
    found = fields_of_texts(declared, texts)
    assert found == {"count": 12, "ratio": 0.25, "urgent": True, "part": "12"}
    for name, text in (("count", "many"), ("urgent", "yes"), ("ratio", "")):
        with pytest.raises(InvalidRequest) as refused:
            fields_of_texts(declared, {name: text})
        assert refused.value.param == name


def test_the_documented_chain() -> None:
    """It is a configuration, and its prompt reads as the page means it."""
    page = (Path(__file__).parents[2] / "docs/onnx.md").read_text()
    (block,) = re.findall(r"```yaml\n(chains:.*?)```", page, re.DOTALL)
    config = msgspec.convert(yaml.safe_load(block), Config)
    chain = config.chains["line-report"]
    prompt = ReportPrompt(chain.prompt, chain.fields).fill(BOLTS, {"line": "A", "shift": 1})
    assert prompt.splitlines() == [
        "2 parts lie on line A:",
        "- bolt at 10, 21",
        "- plate at 0, 0, marked AX-7",
        "Write one sentence for the shift's log.",
    ]
