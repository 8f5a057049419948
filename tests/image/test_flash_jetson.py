"""scripts/flash-jetson.sh with a stand-in for NVIDIA's package, whose tools write down how they
were called, and one for lsusb. No board is here, and NVIDIA's tools are not ours to ship."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "flash-jetson.sh"
AGX, NX = "0955:7023 NVIDIA Corp. APX", "0955:7323 NVIDIA Corp. APX"
FLASH = "./tools/kernel_flash/l4t_initrd_flash.sh"
NVME = "--external-device nvme0n1p1 -c tools/kernel_flash/flash_l4t_t234_nvme.xml"
TOOL = '#!/bin/sh\necho "${ROOTFS_AB:+ROOTFS_AB=$ROOTFS_AB }$0 $*" >>"$(dirname "$0")/%scalls"\n'


class Host:
    """A PC with NVIDIA's package unpacked, and boards on its USB."""

    def __init__(self, folder: Path) -> None:
        self.l4t, self.programs = folder / "Linux_for_Tegra", folder / "programs"
        self.usb: list[str] = []
        tools = {"apply_binaries.sh": "", "tools/l4t_create_default_user.sh": "../"}
        tools["tools/kernel_flash/l4t_initrd_flash.sh"] = "../../"
        for name, up in tools.items():
            tool = self.l4t / name
            tool.parent.mkdir(parents=True, exist_ok=True)
            tool.write_text(TOOL % up)
            tool.chmod(0o755)
        for layout in ("nvme", "nvme_rootfs_ab"):
            (self.l4t / f"tools/kernel_flash/flash_l4t_t234_{layout}.xml").touch()
        for board in ("jetson-agx-orin-devkit", "jetson-orin-nano-devkit"):
            (self.l4t / f"{board}.conf").touch()
        (self.l4t / "rootfs/etc").mkdir(parents=True)
        (self.l4t / "rootfs/etc/os-release").write_text("ID=ubuntu\n")
        (self.l4t / "rootfs/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        self.programs.mkdir()
        self.overlay = folder / "overlay.tar.zst"
        laid = folder / "laid/usr/share/edge"
        laid.mkdir(parents=True)
        (laid / "bundle").write_text("all of it")
        command = ["tar", "--zstd", "-cf", str(self.overlay), "-C", str(folder / "laid"), "usr"]
        subprocess.run(command, check=True)

    def flash(self, *options: str) -> subprocess.CompletedProcess[str]:
        lines = "".join(f"echo 'Bus 001 Device 004: ID {one}'\n" for one in self.usb)
        (self.programs / "lsusb").write_text(f"#!/bin/sh\n{lines}")
        (self.programs / "lsusb").chmod(0o755)
        # Root is asked for because of NVIDIA's tools, and these need none.
        (self.programs / "id").write_text("#!/bin/sh\necho 0\n")
        (self.programs / "id").chmod(0o755)
        command = [str(SCRIPT), *options, "--overlay", str(self.overlay), str(self.l4t)]
        environment = {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    def calls(self) -> list[str]:
        """How NVIDIA's tools were called, in order."""
        file = self.l4t / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("board", "options", "command"),
    [
        (AGX, [], f"{FLASH} {NVME} --showlogs --network usb0 jetson-agx-orin-devkit external"),
        (
            NX,
            [],
            f"{FLASH} {NVME} -p -c bootloader/generic/cfg/flash_t234_qspi.xml"
            " --showlogs --network usb0 jetson-orin-nano-devkit internal",
        ),
        (
            AGX,
            ["--storage", "internal"],
            f"{FLASH} --showlogs --network usb0 jetson-agx-orin-devkit internal",
        ),
        (
            NX,
            ["--ab"],
            f"ROOTFS_AB=1 {FLASH} {NVME.replace('nvme.xml', 'nvme_rootfs_ab.xml')}"
            " -p -c bootloader/generic/cfg/flash_t234_qspi.xml"
            " --showlogs --network usb0 jetson-orin-nano-devkit external",
        ),
        (
            AGX,
            ["--storage", "internal", "--ab"],
            f"ROOTFS_AB=1 {FLASH} --showlogs --network usb0 jetson-agx-orin-devkit internal",
        ),
    ],
)
def test_one_board(host: Host, board: str, options: list[str], command: str) -> None:
    """The command lines of NVIDIA's Quick Start and README_initrd_flash for L4T r36."""
    host.usb = ["1d6b:0002 Linux Foundation 2.0 root hub", board]
    done = host.flash(*options)
    assert done.returncode == 0, done.stderr
    assert host.calls() == ["./apply_binaries.sh ", command]
    assert (host.l4t / "rootfs/usr/share/edge/bundle").read_text() == "all of it"


def test_a_lot_of_boards(host: Host) -> None:
    """One image, then all that are there."""
    host.usb = [NX, NX, NX]
    done = host.flash("--massflash", "5")
    assert done.returncode == 0, done.stderr
    image, boards = host.calls()[1:]
    assert image.startswith(f"{FLASH} --no-flash --massflash 5 {NVME}")
    assert boards == f"{FLASH} --flash-only --massflash 5 --showlogs --network usb0"


def test_a_user_is_made_once(host: Host, tmp_path: Path) -> None:
    """The password reaches NVIDIA's tool and no line that is shown."""
    host.usb = [AGX]
    secret = tmp_path / "password"
    secret.write_text("pa ss'word\n")
    options = ["--user", "plant", "--password-file", str(secret), "--accept-license"]
    done = host.flash(*options)
    assert done.returncode == 0, done.stderr
    assert "pa ss" not in done.stderr
    expected = "-u plant -p pa ss'word -n edge --accept-license"
    assert host.calls()[1] == f"./tools/l4t_create_default_user.sh {expected}"
    with open(host.l4t / "rootfs/etc/passwd", "a") as passwd:
        passwd.write("plant:x:1000:1000::/home/plant:/bin/bash\n")
    (host.l4t / "calls").unlink()
    host.flash(*options)
    assert not any("create_default_user" in call for call in host.calls())


def test_dry_run_shows_each_step_and_does_nothing(host: Host, tmp_path: Path) -> None:
    host.usb = [AGX]
    secret = tmp_path / "password"
    secret.write_text("secret\n")
    done = host.flash("--dry-run", "--ab", "--user", "plant", "--password-file", str(secret))
    assert done.returncode == 0, done.stderr
    shown = [line.strip() for line in done.stderr.splitlines() if line.startswith("    ")]
    assert [line.split()[0] for line in shown] == [
        "./apply_binaries.sh",
        "./tools/l4t_create_default_user.sh",
        "tar",
        "env",
    ]
    assert shown[-1].startswith("env ROOTFS_AB=1 ROOTFS_RETRY_COUNT_MAX=3 ./tools/kernel_flash/")
    assert "flash_l4t_t234_nvme_rootfs_ab.xml" in shown[-1]
    assert "secret" not in done.stderr
    assert host.calls() == []
    assert not (host.l4t / "rootfs/usr").exists()


@pytest.mark.parametrize(
    ("usb", "options", "complaint"),
    [
        ([], [], "no Jetson Orin is in recovery mode"),
        (["0955:7020 NVIDIA Corp. L4T"], [], "A Jetson runs, and is not in recovery mode"),
        (["0955:7e19 NVIDIA Corp. APX"], [], "no Jetson Orin is in recovery mode"),
        ([AGX, AGX], [], "more than one board is in recovery mode"),
        ([AGX, NX], ["--massflash", "2"], "not all of one kind"),
        ([NX, NX], ["--massflash", "1"], "more than 1 boards"),
        ([NX], ["--storage", "internal"], "Orin NX 16GB has no eMMC"),
        ([NX], ["--board", "somebodys-carrier"], "knows no board 'somebodys-carrier'"),
        ([AGX], ["--massflash", "many"], "--massflash wants a number"),
        ([AGX], ["--user", "plant"], "--user needs a file with the password"),
        ([AGX], ["--storage", "sd"], "--storage is nvme or internal"),
    ],
)
def test_nothing_is_touched_where_it_cannot_work(
    host: Host, usb: list[str], options: list[str], complaint: str
) -> None:
    host.usb = usb
    done = host.flash(*options)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Try: " in done.stderr
    assert host.calls() == []


def test_a_package_without_its_root_file_system(host: Host) -> None:
    """The sample root file system is a download of its own, and easily forgotten."""
    host.usb = [AGX]
    (host.l4t / "rootfs/etc/os-release").unlink()
    done = host.flash()
    assert done.returncode == 1
    assert "rootfs is empty" in done.stderr
    assert "Tegra_Linux_Sample-Root-Filesystem" in done.stderr
