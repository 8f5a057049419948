"""`edge config`: what is in force, and refusing what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from edge.cli.options import daemon_url
from edge.config import reader
from edge.config.doors import Http
from edge.config.tree import Config

Run = Callable[..., Result]


def test_good_file_is_ok(run: Run, tmp_path: Path) -> None:
    """The file that was read is named."""
    file = _write(tmp_path, "http: {port: 9000}\n")
    result = run("config", "check", file)
    assert (result.exit_code, result.output) == (0, f"ok: {file}\n")


def test_bad_file_is_refused_with_its_line(run: Run, tmp_path: Path) -> None:
    """Exit code 2, the place, and what was meant."""
    file = _write(tmp_path, "http:\n  prot: 9000\n")
    result = run("config", "check", file)
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: {file}:2: `http.prot`: unknown key\nTry: did you mean `port`?\n"
    )


def test_shown_tree_can_be_read_again(run: Run, tmp_path: Path) -> None:
    """What is printed is a configuration with the same meaning."""
    file = _write(tmp_path, "device: {id: press-07, site: Halle Süd}\nmodels: {preload: [a, b]}\n")
    result = run("config", "show", "--config", file)
    assert result.output.startswith(f"# from {file}\n")
    again = _write(tmp_path, result.output, "again.yaml")
    assert reader.load(again) == reader.load(file)


def test_file_of_the_environment_counts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$EDGE_CONFIG names the file; a variable for one key wins over it and is named too."""
    file = _write(tmp_path, "http: {port: 9000}\n")
    monkeypatch.setenv("EDGE_CONFIG", file)
    monkeypatch.setenv("EDGE_HTTP__PORT", "9001")
    result = run("config", "show")
    assert result.output.startswith(f"# from {file}, EDGE_HTTP__PORT\n")
    assert yaml.safe_load(result.output)["http"]["port"] == 9001


def test_programs_get_json(run: Run, tmp_path: Path) -> None:
    """The same tree."""
    file = _write(tmp_path, "http: {port: 9000}\n")
    tree = json.loads(run("config", "show", "--json", "--config", file).output)
    assert {"host": "127.0.0.1", "port": 9000}.items() <= tree["http"].items()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("fd00::7", "http://[fd00::7]:8080"),
        ("press-07.local", "http://press-07.local:8080"),
    ],
)
def test_daemon_is_reached_where_it_listens(host: str, url: str) -> None:
    """A listener on all addresses over loopback, IPv6 in brackets."""
    assert daemon_url(Config(http=Http(host=host))) == url


def _write(folder: Path, text: str, name: str = "edge.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)
