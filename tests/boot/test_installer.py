"""The parts of scripts/install.sh that need no machine of their own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / "install.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["upgrade", "--purge"], "upgrade does not know '--purge'"),
        (["uninstall", "--offline", "x"], "uninstall does not know '--offline'"),
        (["--offline"], "--offline needs a bundle"),
        (["remove"], "install does not know 'remove'"),
    ],
)
def test_wrong_arguments_change_nothing(arguments: list[str], complaint: str) -> None:
    done = install(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"Error: {complaint}"
    assert done.stderr.splitlines()[1].startswith("Try: install.sh")


class Shell:
    """The functions of the installer, with its places in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("base", "state", "units", "credentials", "source"):
            (folder / name).mkdir()

    def run(self, script: str) -> str:
        venv = Path(sys.prefix)
        head = f"""
            set -euo pipefail
            root={SCRIPTS.parent} base={self.folder}/base state={self.folder}/state venv={venv}
            for part in environment install-program install-machine install-service; do
                . "$root/scripts/lib/$part.sh"
            done
            root={self.folder}/source units={self.folder}/units
            credentials={self.folder}/credentials
        """
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
        command = ["bash", "-c", f"{head}\n{script}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_another_build_of_a_version_goes_beside_it(shell: Shell) -> None:
    (shell.folder / "source/edge").mkdir()
    (shell.folder / "source/edge/__init__.py").write_text('__version__ = "1.2.3"\n')
    base = shell.folder / "base"
    assert shell.run("program_folder aaaa") == f"{base}/1.2.3"
    (base / "1.2.3").mkdir()  # cut before it was whole: made again in the same place
    assert shell.run("program_folder aaaa") == f"{base}/1.2.3"
    (base / "1.2.3/.identity").write_text("aaaa\n")
    assert shell.run("program_folder aaaa") == f"{base}/1.2.3"
    assert shell.run("program_folder bbbb") == f"{base}/1.2.3-bbbb"


def test_a_unit_is_told_of_when_it_changes(shell: Shell) -> None:
    assert shell.run("put_unit a/b.conf <<<one") == "a/b.conf"
    assert shell.run("put_unit a/b.conf <<<one") == ""
    assert shell.run("put_unit a/b.conf <<<two") == "a/b.conf"
    assert (shell.folder / "units/a/b.conf").read_text() == "two\n"
    assert shell.run("put_or_drop a/b.conf </dev/null") == "a/b.conf"
    assert os.listdir(shell.folder / "units/a") == []


@pytest.mark.parametrize(
    ("http", "address"),
    [
        ("{}", "127.0.0.1:8080"),
        ("{host: 0.0.0.0, port: 80}", "0.0.0.0:80"),
        ('{host: "::1"}', "[::1]:8080"),
        ("{host: localhost}", "none"),
        ("{port: 0}", "none"),
    ],
)
def test_systemd_listens_where_the_configuration_says(
    shell: Shell, http: str, address: str
) -> None:
    """But not on a name, or on whatever port is free."""
    config = shell.folder / "edge.yaml"
    config.write_text(f"http: {http}\n")
    asked = (SCRIPTS / "lib/install-service.sh").read_text()
    (shell.folder / "service.sh").write_text(asked.replace("/etc/edge/edge.yaml", str(config)))
    assert shell.run(f". {shell.folder}/service.sh; http_address || echo none") == address


def test_each_secret_is_a_credential(shell: Shell) -> None:
    folder = shell.folder / "credentials"
    (folder / "mqtt.password").touch()
    line = f"LoadCredential=mqtt.password:{folder}/mqtt.password"
    assert shell.run("systemd_version() { echo 249; }; credential_lines") == line
    assert shell.run("systemd_version() { echo 245; }; credential_lines") == ""


class Trial:
    """scripts/lib/trial in a folder, with a systemd that agrees to everything."""

    def __init__(self, folder: Path) -> None:
        self.base, self.state = folder / "opt", folder / "state"
        self.kept = self.state / "before-upgrade"
        programs = folder / "programs"
        for made in (
            self.base / "old/bin",
            self.base / "old/installer/systemd",
            self.state,
            programs,
        ):
            made.mkdir(parents=True)
        (self.base / "old/bin/python").symlink_to(sys.executable)
        (self.base / "current").symlink_to("new")
        stubs = {"systemctl": f'echo "$@" >>{folder}/systemctl', "setpriv": 'shift 3; exec "$@"'}
        for name, does in stubs.items():
            (programs / name).write_text(f"#!/bin/sh\n{does}\n")
            (programs / name).chmod(0o755)
        text = (SCRIPTS / "lib/trial").read_text()
        text = text.replace("/opt/edge", str(self.base)).replace("/var/lib/edge", str(self.state))
        self.script = folder / "trial"
        self.script.write_text(text)
        self.path = f"{programs}:{os.environ['PATH']}"

    def run(self, verb: str) -> None:
        command = ["sh", str(self.script), verb]
        done = subprocess.run(command, capture_output=True, text=True, env={"PATH": self.path})
        assert done.returncode == 0, done.stderr

    def begin(self) -> None:
        (self.base / ".trial").write_text("old\n")

    def write(self, form: int, job: str) -> None:
        with closing(sqlite3.connect(self.state / "jobs.sqlite")) as ledger:
            ledger.execute("CREATE TABLE IF NOT EXISTS jobs (name)")
            ledger.execute("INSERT INTO jobs VALUES (?)", [job])
            ledger.execute(f"PRAGMA user_version = {form}")
            ledger.commit()

    def jobs(self, folder: Path) -> list[str]:
        with closing(sqlite3.connect(folder / "jobs.sqlite")) as ledger:
            return [name for (name,) in ledger.execute("SELECT name FROM jobs ORDER BY rowid")]


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


def test_nothing_happens_without_a_trial(trial: Trial) -> None:
    trial.write(1, "first")
    for verb in ("keep", "conclude", "back"):
        trial.run(verb)
    assert not trial.kept.exists()
    assert os.readlink(trial.base / "current") == "new"


def test_a_version_that_answers_stays(trial: Trial) -> None:
    trial.write(1, "first")
    trial.begin()
    trial.run("keep")
    trial.run("conclude")
    trial.run("back")
    assert os.readlink(trial.base / "current") == "new"


def test_going_back_keeps_the_ledger(trial: Trial) -> None:
    """What the new version accepted is answered by the old one, which can read it."""
    trial.write(1, "first")
    trial.begin()
    trial.run("keep")
    trial.write(1, "second")
    trial.run("keep")  # a second start of the new version: not what is to be kept
    assert trial.jobs(trial.kept) == ["first"]
    trial.run("back")
    assert os.readlink(trial.base / "current") == "old"
    assert trial.jobs(trial.state) == ["first", "second"]
    assert not (trial.base / ".trial").exists()


def test_going_back_from_a_newer_ledger_takes_the_copy(trial: Trial) -> None:
    """The old version would refuse the new one, which is kept aside."""
    trial.write(1, "first")
    trial.begin()
    trial.run("keep")
    trial.write(2, "second")
    trial.run("back")
    assert trial.jobs(trial.state) == ["first"]
    assert trial.jobs(trial.state / "after-upgrade") == ["first", "second"]
