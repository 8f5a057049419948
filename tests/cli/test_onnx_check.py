"""What `edge doctor` says of model folders."""

from __future__ import annotations

from pathlib import Path

from onnx_models import adder, install

from edge.cli.checks import onnx
from edge.repository.folder import Repository


def test_folders_are_counted(tmp_path: Path) -> None:
    assert onnx(Repository(tmp_path), None).finding == f"no model folders in {tmp_path}"
    install(tmp_path, "add", adder())
    check = onnx(Repository(tmp_path), None)
    assert (check.status, check.finding) == ("ok", f"1 in {tmp_path}: add")


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    install(tmp_path, "add", adder(), config="max_batch_size: x")
    install(tmp_path, "other", adder(), manifest="task: dance")
    check = onnx(Repository(tmp_path), None)
    assert check.status == "warn"
    assert "add/config.pbtxt: `max_batch_size`" in check.finding
    assert "other/model.yaml: Invalid enum value 'dance'" in check.finding
    assert check.fix == "docs/onnx.md shows what a manifest looks like"
