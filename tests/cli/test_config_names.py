"""What stands under the user's own names, in `upstreams`, `routes` and `models.drafts`: refused by
name, with a cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from edge.config import reader
from edge.config.tree import first_models, targets

Run = Callable[..., Result]

CHAIN = """\
chains:
  report:
    see: detector
    prompt: |
      Write about:
      {{ detections | length }} things, part {{ part }}
    fields: {part: null}
"""


@pytest.mark.parametrize(
    ("wrong", "right", "error"),
    [
        ("detections |", "detection |", "4: `chains.report.prompt`: nothing is called `detection`"),
        ("length }}", "}}", "4: `chains.report.prompt`: line 2 of it: expected token 'name'"),
        ("{part: null}", "{prt: null}", "4: `chains.report.prompt`: nothing is called `part`"),
        ("{part: null}", "{part: [1]}", "7: `chains.report.fields.[...]`: Expected"),
        ("{part: null}", "{Part: 1}", "7: `chains.report.fields`: a name in it: Expected"),
        ("{part: null}", "{part: 1, width: 2}", "7: `chains.report.fields`: `width` means"),
        ("see: det", "sees: det", "3: `chains.report.sees`: unknown key"),
    ],
)
def test_bad_chains_are_refused(
    run: Run, tmp_path: Path, wrong: str, right: str, error: str
) -> None:
    """A template is read with the configuration, and not when the first picture comes."""
    file = tmp_path / "edge.yaml"
    file.write_text(CHAIN)
    assert run("config", "check", str(file)).exit_code == 0
    file.write_text(CHAIN.replace(wrong, right))
    result = run("config", "check", str(file))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {file}:{error}")
    assert "\nTry: " in result.stderr


GOOD = """\
routes:
  assistant: [cloud:far, [local:a, local:b]]
upstreams:
  near: {base_url: "http://127.0.0.1:1/v1"}
  far:
    base_url: https://api.example.com/v1
    timeouts: {connect: 1}
"""


@pytest.mark.parametrize(
    ("wrong", "right", "error"),
    [
        ("connect: 1", "connct: 1", "7: `upstreams.far.timeouts.connct`: unknown key"),
        ("connect: 1", "connect: -1", "7: `upstreams.far.timeouts.connect`: Expected `float` > 0"),
        ("cloud:far", "cloud:fra", "2: `routes.assistant`: there is no upstream `fra`"),
        ("cloud:far", "far", "2: `routes.assistant.0`: Expected `str` matching regex"),
        ("https://api", "ftp://api", "6: `upstreams.far.base_url`: Expected `str` matching"),
        ("routes:", "models: {preload: [assistant]}\nroutes:", "3: `routes.assistant`: a model"),
        ("routes:", "models: {drafts: {a: a}}\nroutes:", "1: `models.drafts.a`: a model cannot"),
        ("routes:", "http: {allow_ips: [10/8/1]}\nroutes:", "1: `http.allow_ips`: '10/8/1' is no"),
        ("routes:", "models: {drafts: {a: b c}}\nroutes:", "1: `models.drafts.[...]`: Expected"),
    ],
)
def test_bad_names_are_refused(
    run: Run, tmp_path: Path, wrong: str, right: str, error: str
) -> None:
    """Exit code 2 with the line and the whole key, and what to do."""
    file = tmp_path / "edge.yaml"
    file.write_text(GOOD.replace(wrong, right))
    result = run("config", "check", str(file))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {file}:{error}")
    assert "\nTry: " in result.stderr


def test_hints_know_nested_keys(run: Run, tmp_path: Path) -> None:
    """What was meant; or what the key takes."""
    file = tmp_path / "edge.yaml"
    file.write_text(GOOD.replace("connect: 1", "conect: 1"))
    assert "did you mean `connect`?" in run("config", "check", str(file)).stderr
    file.write_text(GOOD.replace("connect: 1", "connect: soon"))
    hint = "upstreams.NAME.timeouts.connect takes number above 0 to 3600, by default 3"
    assert hint in run("config", "check", str(file)).stderr


def test_local_targets_are_served(tmp_path: Path) -> None:
    """They need not be named twice; lists of equals count in their place."""
    file = tmp_path / "edge.yaml"
    file.write_text(GOOD)
    config = reader.load(str(file), {})
    assert targets(config, "assistant") == ["cloud:far", "local:a", "local:b"]
    assert first_models(config) == ["smollm2-135m-instruct", "a", "b"]


def test_default_may_be_a_route(tmp_path: Path) -> None:
    """Then only what it names is loaded."""
    file = tmp_path / "edge.yaml"
    file.write_text("models: {default: assistant}\n" + GOOD)
    assert first_models(reader.load(str(file), {})) == ["a", "b"]
