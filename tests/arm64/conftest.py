"""The suite on ARM64, emulated. All of it is long, and for `./scripts/soak arm64`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_models
import packages
import photographs
import pytest
import suite


def missing() -> str | None:
    """Why nothing can be emulated here."""
    if not os.environ.get("SOAK_ARM64"):
        return "long: ./scripts/soak arm64"
    if os.geteuid() != 0:
        return "changing the root takes root: sudo ./scripts/soak arm64"
    for program in ("debootstrap", "qemu-aarch64-static", "unshare"):
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") is None:
            return f"there is no {program}: apt install debootstrap qemu-user-static util-linux"
    return None


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The project, installed for ARM64 with the wheel in the folder that a variable names."""
    if why := missing():
        pytest.skip(why)

    def installed(variable: str) -> Path:
        wheels = sorted(Path(os.environ[variable]).glob("llama_cpp_python-*aarch64.whl"))
        assert wheels, f"no wheel of llama-cpp-python in {os.environ[variable]}"
        return packages.install(wheels[-1], tmp_path_factory.mktemp("installing"))

    return installed


@pytest.fixture(scope="session")
def counted() -> Iterator[list[suite.Result]]:
    """What came of each test in all parts; told at the end."""
    results: list[suite.Result] = []
    yield results
    print(f"\nOn ARM64, emulated:\n{suite.counts(results)}")  # noqa: T201 - a soak tells


@pytest.fixture(scope="session")
def models(default_model_path: Path) -> Path:
    """The folder with everything that tests load: where they run is no network."""
    for package in (*vars(onnx_models).values(), *vars(photographs).values()):
        if isinstance(package, onnx_models.Package):
            onnx_models.fetched(package, package.members[0][0])
    return default_model_path.resolve().parents[1]


@pytest.fixture
def run(
    installed: Callable[[str], Path], models: Path, tmp_path: Path, counted: list[suite.Result]
) -> suite.Run:
    """Runs tests by their names; fails where one of them did."""
    limit = int(os.environ.get("SOAK_ARM64_SECONDS") or 600)

    def run(*names: str, wheel: str, limit: int = limit) -> list[suite.Result]:
        code, results = suite.run(tmp_path / "board", installed(wheel), models, names, limit)
        counted.extend(results)
        print(f"\n{' '.join(names)}: {suite.counts(results)}")  # noqa: T201 - a soak tells
        log = tmp_path / "board/report/log"
        assert code in suite.ENDED, f"pytest ended with {code}: {log}"
        assert not [one.test for one in results if one.outcome == "failed"], log
        return results

    return run
