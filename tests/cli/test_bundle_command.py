"""`edge bundle`: made on one machine, checked and installed on another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import Result

import edge
from edge.config.tree import Config
from edge.modelstore.journal import Journal

Run = Callable[..., Result]


@pytest.fixture
def made(run: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of the machine that has the model; from then on, this is another one, which trusts
    its key."""
    public = run("bundle", "keygen", str(tmp_path / "key"))
    assert public.exit_code == 0
    bundle = tmp_path / "line.bundle"
    arguments = ["--name", "line", "--version", "3", "--key", str(tmp_path / "key")]
    result = run("bundle", "make", str(bundle), *arguments, "--model", "tiny")
    assert result.exit_code == 0, result.output
    assert f"{bundle} is written" in result.stdout
    monkeypatch.setenv("EDGE_STATE_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("EDGE_CONFIG", str(tmp_path / "etc" / "edge.yaml"))
    (tmp_path / "etc" / "trusted-keys.d").mkdir(parents=True)
    (tmp_path / "etc" / "trusted-keys.d" / "maker.pem").write_text(public.stdout)
    return bundle


def test_from_one_machine_to_another(run: Run, made: Path, tiny_model: Path) -> None:
    """The name means the model there, and what was done is said."""
    assert "may be installed here" in run("bundle", "verify", str(made)).stdout
    result = run("bundle", "install", str(made))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("line@3 is installed\ntiny@1: ")
    shown = json.loads(run("models", "show", "tiny", "--json").stdout)
    assert Path(shown["path"]).read_bytes() == tiny_model.read_bytes()
    assert shown["source"] == "bundle:line@3"


def test_bundles_for_programs(run: Run, made: Path, tmp_path: Path) -> None:
    """What is in it, who signed it, what became of it."""
    verified = json.loads(run("bundle", "verify", str(made), "--json").stdout)
    assert (verified["name"], verified["version"], verified["architecture"]) == ("line", 3, "any")
    key = tmp_path / "key2"
    assert json.loads(run("bundle", "keygen", str(key), "--json").stdout)["key"] != verified["key"]
    installed = json.loads(run("bundle", "install", str(made), "--json").stdout)
    assert {name: installed[name] for name in verified} == verified
    assert [(one["name"], one["active"]) for one in installed["installed"]] == [("tiny", True)]
    assert (installed["previous"], installed["config"], installed["wheels"]) == (None, None, None)


def test_an_edited_configuration_is_pointed_out(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the place of the new one; wheels are laid down for pip, not installed."""
    wheel = tmp_path / "tool-1-py3-none-any.whl"
    wheel.write_bytes(b"PK\x05\x06" + bytes(18))
    (tmp_path / "new.yaml").write_text("http: {port: 9000}\n")
    arguments = ["--name", "line", "--version", "4", "--key", str(tmp_path / "key")]
    arguments += ["--config", str(tmp_path / "new.yaml"), "--wheels", str(tmp_path)]
    run("bundle", "make", str(made), *arguments)
    (tmp_path / "etc" / "edge.yaml").write_text("http: {port: 8999}\n")
    result = run("bundle", "install", str(made))
    assert f"stays. The new one: {tmp_path}/etc/edge.yaml.new\n" in result.stdout
    assert f"--find-links: {tmp_path}/other/models/wheels/line@4\n" in result.stdout


def test_refusals_have_a_way_on(run: Run, made: Path, tmp_path: Path) -> None:
    """And exit code 1, for both."""
    (tmp_path / "etc" / "trusted-keys.d" / "maker.pem").unlink()
    for verb in ("verify", "install"):
        result = run("bundle", verb, str(made))
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {made}: it is signed with the key sha256:")
        assert "Try: " in result.stderr
        assert "Try: " in run("bundle", verb, str(tmp_path / "none")).stderr
    assert not (tmp_path / "other").exists()
    assert run("bundle", "keygen", str(tmp_path / "key")).exit_code == 1
    assert run("bundle", "make", str(made)).exit_code == 2


def test_serve_finishes_an_install_first(
    run: Run, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration may be what the killed one was about to lay down."""
    seen: list[int] = []

    def daemon_run(config: Config, read: Callable[[], Config]) -> int:
        seen.append(config.http.port)
        return 0

    monkeypatch.setattr(edge, "daemon", SimpleNamespace(run=daemon_run), raising=False)
    config = tmp_path / "edge.yaml"
    config.write_text("http: {port: 1}\n")
    (tmp_path / ".edge.yaml.bundle").write_text("http: {port: 2}\n")
    journal = Journal("a test", [(str(tmp_path / ".edge.yaml.bundle"), str(config))], [])
    (state / "models").mkdir(parents=True)
    (state / "models" / ".journal").write_bytes(msgspec.json.encode(journal))
    assert run("serve", "--config", str(config)).exit_code == 0
    assert seen == [2]
