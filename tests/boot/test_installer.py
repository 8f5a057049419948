"""The parts of scripts/install.sh that need no machine of their own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from edge.bundles.keys import make_key

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
        (["back", "--offline", "x"], "back does not know '--offline'"),
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
        stubs = {
            "systemctl": f'echo "$@" >>{folder}/systemctl',
            "setpriv": 'shift 3; exec "$@"',
            # There is no user edge here.
            "install": '[ "$*" = "-d -o edge -g edge -m 0700 $8" ] && mkdir -m 0700 "$8"',
        }
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


class RootCheck:
    """scripts/lib/root-check in a folder: of a Jetson, with an appliance that answers or not."""

    def __init__(self, folder: Path) -> None:
        self.base, self.release = folder / "opt", folder / "nv_tegra_release"
        self.programs, self.asked = folder / "programs", folder / "asked"
        (self.base / "current/bin").mkdir(parents=True)
        self.programs.mkdir()
        self.release.write_text("# R36 (release), REVISION: 4.3, GCID: 1\n# more\n")
        self.enabled(True)
        text = (SCRIPTS / "lib/root-check").read_text()
        for there, here in (
            ("/opt/edge", str(self.base)),
            ("/etc/nv_tegra_release", str(self.release)),
            ("patience=600", "patience=0"),
        ):
            assert there in text
            text = text.replace(there, here)
        self.script = folder / "root-check"
        self.script.write_text(text)

    def answers(self, does: bool) -> RootCheck:
        put_program(
            self.base / "current/bin/edge", f'echo "$@" >>{self.asked}; {str(does).lower()}'
        )
        return self

    def enabled(self, is_so: bool) -> RootCheck:
        put_program(self.programs / "systemctl", str(is_so).lower())
        return self

    @property
    def is_good(self) -> bool:
        path = f"{self.programs}:{os.environ['PATH']}"
        return subprocess.run(["sh", str(self.script)], env={"PATH": path}).returncode == 0


def put_program(path: Path, does: str) -> None:
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)


@pytest.fixture
def root_check(tmp_path: Path) -> RootCheck:
    return RootCheck(tmp_path)


def test_a_root_that_the_appliance_answers_in_is_good(root_check: RootCheck) -> None:
    """From then on: what goes wrong later is no reason to leave it."""
    assert root_check.answers(True).is_good
    assert "chat" in root_check.asked.read_text()
    assert root_check.answers(False).is_good


def test_another_release_of_jetson_linux_has_to_prove_itself(root_check: RootCheck) -> None:
    assert root_check.answers(True).is_good
    root_check.release.write_text("# R36 (release), REVISION: 5.0, GCID: 2\n")
    assert not root_check.answers(False).is_good
    assert not root_check.is_good
    assert root_check.answers(True).is_good


def test_a_root_without_an_appliance_is_not_judged(root_check: RootCheck) -> None:
    assert root_check.is_good  # it is not installed
    assert root_check.answers(False).enabled(False).is_good
    assert not root_check.enabled(True).is_good


TWO_ROOTS = """\
Current rootfs slot: A
Active rootfs slot: A
num_slots: 2
slot: 0,             retry_count: 3,             status: normal
slot: 1,             retry_count: 3,             status: normal
"""


@pytest.mark.parametrize(
    ("slots", "before", "put"),
    [
        (TWO_ROOTS, None, True),
        (TWO_ROOTS, "#!/bin/sh\nbase=/opt/edge patience=1\n", True),
        (TWO_ROOTS, "#!/bin/sh\n# somebody's own\n", False),
        ("RootFS redundancy is not enabled\n", None, False),
    ],
)
def test_a_board_with_two_roots_gets_the_check(
    shell: Shell, slots: str, before: str | None, put: bool
) -> None:
    """Not over one that somebody else has put there."""
    programs, place = shell.folder / "programs", shell.folder / "validation.sh"
    programs.mkdir()
    put_program(programs / "nvbootctrl", f"cat <<'SLOTS'\n{slots}SLOTS")
    ours = shell.folder / "base/9/installer/scripts/lib"
    ours.mkdir(parents=True)
    (ours / "root-check").write_text("ours\n")
    if before is not None:
        place.write_text(before)
    head = f"PATH={programs}:$PATH root_check={place} venv={shell.folder}/base/9"
    assert shell.run(f"{head}; ensure_root_check") == ""
    text = place.read_text() if place.exists() else None
    assert text == ("ours\n" if put else before)


def test_the_newest_other_version_is_the_one_before(shell: Shell) -> None:
    base = shell.folder / "base"
    for age, name in enumerate(("2.0.0", "1.9.0", "1.8.0", "1.7.0")):
        (base / name).mkdir()
        if name != "1.9.0":  # cut before it was whole
            (base / name / ".identity").write_text("aaaa\n")
            os.utime(base / name / ".identity", (1000 - age, 1000 - age))
    (base / "current").symlink_to("2.0.0")
    upgrade = f". {SCRIPTS}/lib/install-upgrade.sh"
    assert shell.run(f"{upgrade}; version_before") == "1.8.0"
    assert (
        shell.run(f"{upgrade}; rm -r {base}/1.8.0 {base}/1.7.0; version_before || echo none")
        == "none"
    )


@pytest.mark.parametrize("kind", ["bundle", "clone"])
def test_the_first_signed_bundle_lays_down_its_key(shell: Shell, kind: str) -> None:
    """Once: a later one cannot change who is trusted."""
    source, keys = shell.folder / "source", shell.folder / "keys"
    made = make_key(shell.folder / "update.key")
    (source / "update-keys").mkdir()
    (source / "update-keys/release.pem").write_text(made.public_pem())
    if kind == "bundle":
        (source / "bundle.env").write_text("version=1\n")
    lay_down = f"update_keys={keys}; ensure_update_keys 2>&1"
    if kind == "clone":
        assert shell.run(lay_down) == ""
        assert not keys.exists()
        return
    assert made.fingerprint in shell.run(lay_down)
    (source / "update-keys/release.pem").write_text("another\n")
    assert shell.run(lay_down) == ""
    assert (keys / "release.pem").read_text() == made.public_pem()
    assert shell.run(f"update_keys={keys}; has_update_keys && echo yes") == "yes"


def test_going_back_tells_which_version_did_not_answer(trial: Trial) -> None:
    """Not the one that it went back to, when that is tried a second time after a cut."""
    new = trial.base / "new"
    new.mkdir()
    (new / ".identity").write_text("12345678\n")
    (trial.base / "old/.identity").write_text("87654321\n")
    trial.begin()
    trial.run("back")
    assert (trial.base / ".failed").read_text() == "12345678\n"
    trial.begin()
    trial.run("back")
    assert (trial.base / ".failed").read_text() == "12345678\n"
