"""The parts of the first boot, with the machine's files in a folder and the real `edge` command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from firstboot import disk, durable, identity, partition, program
from firstboot.first_boot import FirstBoot, Step
from firstboot.machine import Failed, Machine
from firstboot.marks import Marks

TREE = Path(__file__).parents[2]
CONF = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n"


class Board(Machine):
    """In a folder, with a console that is a file and the program of this tree."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "root", folder / "console")
        self.programs = folder / "programs"
        for made in (self.root, self.programs):
            made.mkdir()
        (folder / "console").touch()
        self.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        self.boot = self.path("boot/efi")
        self.boot.mkdir(parents=True)

    def file(self, name: str, text: str) -> Path:
        file = self.path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def program(self, name: str, script: str) -> None:
        """A stand-in for a tool that only a board has."""
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)

    def install_program(self, packages: str = "") -> None:
        """Made, and not in use yet."""
        self.file("usr/share/edge/bundle/bundle.env", f"version=1.2.3\npackages={packages}\n")
        folder = self.path("opt/edge/1.2.3")
        (folder / "bin").mkdir(parents=True)
        (folder / ".identity").touch()
        # Not a link: Python finds its libraries by where it is called from.
        for name, runs in (("python", sys.executable), ("edge", f"{sys.executable} -m edge")):
            script = folder / "bin" / name
            script.write_text(f'#!/bin/sh\nPYTHONPATH={TREE} exec {runs} "$@"\n')
            script.chmod(0o755)
        self.path("etc/edge").mkdir(parents=True)

    def shown(self) -> str:
        return self._console.read_text()


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    made = Board(tmp_path)
    monkeypatch.setenv("PATH", f"{made.programs}:{os.environ['PATH']}")
    return made


# --- Settings on the boot partition -------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"device: {id: H\xc3\xa4lle}\n",
        b"\xef\xbb\xbfdevice: {id: H\xc3\xa4lle}\r\n",
        "device: {id: Hälle}\r\n".encode("utf-16"),
        b"device: {id: H\xc3\xa4lle}\r",
    ],
)
def test_what_editors_write(content: bytes) -> None:
    assert partition.plain_text(content) == "device: {id: Hälle}\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"device: {id: H\xe4lle}\n", "byte 15 is not text in UTF-8"),
        (b"device:\0\0\0\0", "NUL bytes"),
        (b"#" * (partition.LARGEST + 1), "larger than a MiB"),
        ("device: x".encode("utf-16")[:-1], "is not text"),
    ],
)
def test_what_is_no_text(content: bytes, complaint: str) -> None:
    with pytest.raises(partition.Unreadable, match=complaint):
        partition.plain_text(content)


@pytest.mark.parametrize("name", ["edge.yaml", "EDGE.YML", "edge.yaml.txt"])
def test_settings_under_the_names_that_people_give_them(board: Board, name: str) -> None:
    assert partition.settings(board.boot) is None
    (board.boot / name).write_text("device: {}\n")
    assert partition.settings(board.boot) == (name, "device: {}\n")


def test_settings_become_the_configuration(board: Board) -> None:
    board.install_program()
    (board.boot / "edge.yaml").write_bytes(b"\xef\xbb\xbf# ours\r\nhttp: {port: 8081}\r\n")
    assert program.configure(board, board.boot) == "edge.yaml is in force"
    assert board.text("etc/edge/edge.yaml") == "# ours\nhttp: {port: 8081}"
    assert program.settings(board)["http"]["port"] == 8081


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"htttp: {port: 8081}\n", "htttp"),
        (b"http: {port: none}\n", "http.port"),
        (b"http: {port: 80\n", "edge.yaml"),
        (b"\xff\n", "UTF-8"),
    ],
)
def test_wrong_settings_are_told_of_beside_them(
    board: Board, content: bytes, complaint: str
) -> None:
    """What was in force stays."""
    board.install_program()
    board.file("etc/edge/edge.yaml", "# before\n")
    (board.boot / "edge.yaml").write_bytes(content)
    with pytest.raises(Failed, match="is not used"):
        program.configure(board, board.boot)
    told = (board.boot / partition.REFUSED).read_bytes().decode()
    assert complaint in told
    assert told.count("\r\n") == told.count("\n") > 3
    assert os.listdir(board.path("etc/edge")) == ["edge.yaml"]
    assert board.text("etc/edge/edge.yaml") == "# before"
    (board.boot / "edge.yaml").write_text("http: {port: 8081}\n")
    program.configure(board, board.boot)
    assert not (board.boot / partition.REFUSED).exists()


def test_the_configuration_of_the_image(board: Board) -> None:
    """Goes behind the one on the boot partition; a wrong one keeps no machine from its work."""
    board.install_program(packages="mosquitto")
    board.file("etc/edge/edge.yaml", "device: {id: all}\n")
    assert program.configure(board, board.boot) == "/etc/edge/edge.yaml is in force"
    assert board.text("etc/edge/edge.yaml") == "device: {id: all}\nmqtt: {username: edge}"
    (board.boot / "edge.yaml").write_text("device: {id: this}\n")
    program.configure(board, board.boot)
    assert program.settings(board)["device"]["id"] == "this"
    (board.boot / "edge.yaml").unlink()
    board.file("etc/edge/edge.yaml", "nonsense: 1\n")
    with pytest.raises(Failed, match="is not used"):
        program.configure(board, board.boot)
    assert os.listdir(board.path("etc/edge")) == ["edge.yaml.refused"]
    assert program.configure(board, board.boot).endswith("the defaults")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("# a\n", "# a\nmqtt: {username: edge}\n"),
        ("", "mqtt: {username: edge}\n"),
        ("mqtt: {port: 1884} # b\n", "mqtt: {username: edge, port: 1884} # b\n"),
        ("mqtt:\n  # c\n  port: 1884\n", "mqtt:\n  # c\n  username: edge\n  port: 1884\n"),
        ("mqtt: {enabled: false}\n", "mqtt: {enabled: false}\n"),
        ("mqtt: {username: line1}\n", "mqtt: {username: line1}\n"),
        ("mqtt: {host: broker.plant}\n", "mqtt: {host: broker.plant}\n"),
    ],
)
def test_own_broker_is_given_its_user(board: Board, given: str, written: str) -> None:
    """The installer sets up a broker that lets in nobody without a name."""
    board.install_program(packages="python3-venv mosquitto")
    (board.boot / "edge.yaml").write_text(given)
    program.configure(board, board.boot)
    assert board.path("etc/edge/edge.yaml").read_text() == written


# --- Steps and their marks ----------------------------------------------------------------------


class Cut(BaseException):
    """The power goes."""


class FewSteps(FirstBoot):
    """Three steps; one of them does what the test wants."""

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.done: list[str] = []
        self.fault: BaseException | None = None

    def steps(self) -> list[Step]:
        def work(name: str) -> str:
            if name == "second" and self.fault:
                raise self.fault
            self.done.append(name)
            return f"{name} is done"

        return [
            Step("first", (), lambda: work("first")),
            Step("second", ("first",), lambda: work("second")),
            Step("third", ("second",), lambda: work("third")),
            Step("other", (), lambda: work("other")),
        ]


def test_each_step_is_done_once(board: Board) -> None:
    first = FewSteps(board)
    assert first.run()
    again = FewSteps(board)
    assert again.run()
    assert (first.done, again.done) == (["first", "second", "third", "other"], [])
    assert board.path("var/lib/edge-firstboot/finished").exists()
    assert "second: second is done" in (board.boot / partition.RESULT).read_text()


def test_a_step_that_was_cut_is_done_again(board: Board) -> None:
    cut = FewSteps(board)
    cut.fault = Cut()
    with pytest.raises(Cut):
        cut.run()
    again = FewSteps(board)
    assert again.run()
    assert (cut.done, again.done) == (["first"], ["second", "third", "other"])


def test_a_step_that_fails_holds_up_only_those_that_need_it(board: Board) -> None:
    """All that there is to say is on the console and on the boot partition."""
    failing = FewSteps(board)
    failing.fault = Failed("no such disk", "look at the cable")
    assert not failing.run()
    assert failing.done == ["first", "other"]
    assert not board.path("var/lib/edge-firstboot/finished").exists()
    report = (board.boot / partition.RESULT).read_text()
    assert ": failed (" in report.splitlines()[0]
    for expected in ("fail  second: failed: no such disk", "third: waits for second"):
        assert expected in report
        assert expected.split(": ", 1)[1] in board.shown()
    assert "Try: look at the cable" in report
    assert "Try: look at the cable" in board.shown()
    told = json.loads(board.text("var/lib/edge-firstboot/result.json"))
    assert [one["status"] for one in told["findings"]] == ["ok", "fail", "fail", "ok"]
    again = FewSteps(board)
    assert again.run()
    assert again.done == ["second", "third"]


def test_a_mark_is_there_whole_or_not_at_all(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes before the rename: the step counts as not done."""
    marks = Marks(board.path("marks"))

    def cut(*_: object) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "replace", cut)
        with pytest.raises(Cut):
            marks.set("disk", "grown")
    assert not marks.has("disk")
    marks.set("disk", "grown")
    assert marks.text("disk") == "grown"


def test_a_full_boot_partition_stops_nothing(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partition, "leave", full)
    assert FewSteps(board).run()
    assert "the boot partition takes no file" in board.shown()


def test_secrets_go_to_the_console_alone(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    """What a long command says: its headlines to both, the rest to the journal."""
    board.program("installs", "echo edge_secret; echo '==> Installing' >&2; echo detail >&2")
    board.follow("installs", patience=60)
    journal = capsys.readouterr().out
    assert (journal, board.shown().splitlines()) != ("", [])
    assert journal == "Installing\ndetail\n"
    assert sorted(board.shown().splitlines()) == ["edge: Installing", "edge_secret"]


def test_a_command_that_hangs_is_ended_with_its_children(board: Board) -> None:
    board.program("hangs", "sleep 1000 & sleep 1000")
    with pytest.raises(Failed, match="hangs took longer than 0 s"):
        board.follow("hangs", patience=0.1)
    board.program("fails", "echo 'Error: no room' >&2; exit 1")
    with pytest.raises(Failed, match="no room"):
        board.follow("fails", patience=60)


# --- Names, power, disk -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "serial", "name"),
    [
        ("Press 07 (Halle ä)", "", "press-07-halle"),
        ("", "1421023045678\0", "edge-23045678"),
        ("", "", "edge-" + "hash"),
    ],
)
def test_host_name(board: Board, device: str, serial: str, name: str) -> None:
    if serial:
        board.file(identity.SERIAL, serial)
    board.file("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 tegra-ubuntu\n")
    found = identity.name(board, lambda: {"device": {"id": device or board.text("etc/hostname")}})
    if name == "edge-hash":
        assert len(found) == len("edge-") + 8
        assert found.removeprefix("edge-") not in board.text("etc/machine-id")
    else:
        assert found == name
    assert board.text("etc/hostname") == found
    assert board.text("etc/hosts") == f"127.0.0.1 localhost\n127.0.1.1 {found}"


class TestPower:
    """nvpmodel asks before it restarts the machine, which some modes take."""

    def settings(self, mode: str | int | None) -> dict[str, dict[str, str | int | None]]:
        return {"device": {"power_mode": mode}}

    def board_in(self, board: Board, mode: int, nvpmodel: str) -> Marks:
        board.file("etc/nvpmodel.conf", CONF)
        board.file("var/lib/nvpmodel/status", f"pmode:{mode:04}\n")
        board.program("nvpmodel", nvpmodel)
        return Marks(board.path("marks"))

    def test_mode_is_set(self, board: Board) -> None:
        status = board.path("var/lib/nvpmodel/status")
        marks = self.board_in(board, 2, f"echo pmode:000$2 >{status}")
        assert identity.power(board, self.settings("MAXN"), marks) == "mode MAXN"
        assert identity.power(board, self.settings("30W"), marks) == "mode 30W"
        assert identity.power(board, self.settings(0), marks) == "mode 0"
        assert identity.power(board, self.settings(None), marks) == "left as it is"

    def test_restart_is_asked_for_once(self, board: Board) -> None:
        """The tool restarts the machine where it is told yes; a second time would be for ever."""
        answers = board.root / "answers"
        marks = self.board_in(board, 2, f"cat >>{answers}; echo 'Reboot required'")
        for _ in range(3):
            with pytest.raises(Failed):
                identity.power(board, self.settings("MAXN"), marks)
        assert answers.read_text() == "yes\nno\nno\n"

    def test_unknown_mode(self, board: Board) -> None:
        marks = self.board_in(board, 2, "exit 1")
        with pytest.raises(Failed, match="no power mode 100W") as failed:
            identity.power(board, self.settings("100W"), marks)
        assert failed.value.hint == "one of MAXN, 30W"

    def test_other_machines_have_none(self, board: Board) -> None:
        marks = Marks(board.path("marks"))
        assert "no power modes" in identity.power(board, self.settings("MAXN"), marks)


MIB = 1024 * 1024


def image(folder: Path, layout: str, mebibytes: int) -> Path:
    """A disk as the flasher writes it, and then larger than the image was."""
    file = folder / "disk"
    with open(file, "wb") as made:
        made.truncate(256 * MIB)
    subprocess.run(["sfdisk", "--quiet", str(file)], input=layout, text=True, check=True)
    os.truncate(file, mebibytes * MIB)
    return file


def table(file: Path) -> dict[str, list[dict[str, int]]]:
    said = subprocess.run(["sfdisk", "--json", str(file)], capture_output=True, check=True)
    found: dict[str, list[dict[str, int]]] = json.loads(said.stdout)["partitiontable"]
    return found


def test_last_partition_takes_the_rest_of_the_disk(board: Board, tmp_path: Path) -> None:
    """Also where the disk is larger than the table knows."""
    layout = "label: gpt\nname=esp, size=64MiB\nname=APP, size=100MiB\n"
    file = image(tmp_path, layout, 1024)
    before = table(file)["partitions"]
    disk.grow_partition(board, str(file), 2, f"{file}2")
    grown = table(file)["partitions"]
    assert grown[0] == before[0]
    assert grown[1]["start"] == before[1]["start"]
    assert (1024 - 3) * MIB < (grown[1]["start"] + grown[1]["size"]) * 512 <= 1024 * MIB
    disk.grow_partition(board, str(file), 2, f"{file}2")
    assert table(file)["partitions"] == grown


def test_partition_with_another_behind_it_stays(board: Board, tmp_path: Path) -> None:
    """As with two root file systems: both were given their sizes by the flasher."""
    layout = "label: gpt\nname=APP, size=64MiB\nname=APP_b, size=64MiB\n"
    file = image(tmp_path, layout, 1024)
    before = table(file)
    disk.grow_partition(board, str(file), 1, f"{file}1")
    assert table(file) == before


def test_root_that_is_no_disk_is_left_alone(board: Board) -> None:
    board.file("proc/self/mounts", "overlay / overlay rw 0 0\n")
    assert "on no disk" in disk.grow(board)
    board.file("proc/self/mounts", "/dev/nvme0n1p1 / btrfs rw 0 0\n")
    assert "btrfs" in disk.grow(board)
