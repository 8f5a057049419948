"""What is read from a model's folder, and what is refused there by file and place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import adder, install

from edge.errors import BadModelFile, ModelNotFound
from edge.repository.folder import Repository, inside
from edge.repository.manifest import read_manifest
from edge.repository.pbtxt import parse
from edge.repository.triton import ValueShape, read_config

TRITON = """
# As Triton's own examples have it.
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size : 8
input [
  { name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, -1 ] }
]
output [
  {
    name: "fc6_1"
    data_type: TYPE_STRING, dims: [ 1000 ];
    label_filename: "densenet_labels.txt"
  }
]
instance_group [ { count: 2, kind: KIND_CPU }, < kind: KIND_CPU > ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 1500
}
version_policy: { specific: { versions: [1, 3] } }
default_model_filename: "net.onnx"
optimization { execution_accelerators {
  gpu_execution_accelerator : [ { name : "tensorrt"
    parameters { key: "precision_mode" value: "FP16" } } ]
}}
parameters: { key: "x" value: { string_value: 'a' "b" } }
"""


def test_a_configuration_of_triton() -> None:
    config = read_config(TRITON, "densenet_onnx")
    assert config.inputs == (ValueShape("data_0", "FP32", (3, 224, -1)),)
    assert config.outputs == (ValueShape("fc6_1", "BYTES", (1000,)),)
    assert (config.max_batch, config.instances, config.device) == (8, 3, "cpu")
    assert (config.delay_ms, config.preferred, config.dynamic) == (1.5, (4, 8), True)
    assert config.versions.chosen([1, 2, 3]) == [1, 3]
    assert (config.file, config.unknown) == ("net.onnx", ("optimization",))


def test_the_format_itself() -> None:
    text = r"a: 1 a: -2.5e1 b { c: 'x\n' "
    text += r'"y" d: true } e: 0x1F f: [1, 2] g: [] h: [{i: 1}, {i: 2}] j: -inf # k: 3'
    assert parse(text) == {
        "a": [1, -25.0],
        "b": [{"c": ["x\ny"], "d": ["true"]}],
        "e": [31],
        "f": [1, 2],
        "g": [],
        "h": [{"i": [1]}, {"i": [2]}],
        "j": ["-inf"],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: ", "too early"),
        ("a {\n b: 1\n", "too early"),
        ("a: 1\n\n}", "line 3"),
        ("a: 1\nb = 2", "line 2: `= 2` cannot be read"),
        ('a: "x', "cannot be read"),
        ("a: [1, 2", "is expected"),
        ("a {" * 40, "within each other"),
        ("a: {}" * 300_000, "at most are read"),
        ("ensemble_scheduling { step [] }", "`ensemble_scheduling` is not supported"),
        ("sequence_batching { }", "`sequence_batching` is not supported"),
        ('platform: "tensorflow_savedmodel"', "'tensorflow_savedmodel'; only onnxruntime_onnx"),
        ('backend: "python"', "'python'; only onnxruntime"),
        ('name: "other"', "`name` is 'other', and the folder is 'm'"),
        ("dims [1, 2]", "`:` is expected"),
        ("max_batch_size: -1", "`max_batch_size` is to be a number"),
        ("max_batch_size: many", "`max_batch_size` is to be a number"),
        ("input { name: 'x' data_type: TYPE_BF16 }", r"`input\[0\]`: .*'TYPE_BF16'"),
        ("input { data_type: TYPE_FP32 }", r"`input\[0\]`: name and data_type"),
        ("input: 7", r"`input\[0\]` is to be a block"),
        ("input { name: 'x' data_type: TYPE_FP32 dims: [0] }", r"`input\[0\].dims`"),
        ("input { name: 'x' data_type: TYPE_FP32 reshape {} }", "reshape` is not supported"),
        ("instance_group [{count: 99}]", "99 instances, 16 at most"),
        ("version_policy { specific { } }", "versions` is empty"),
        ('default_model_filename: "../x.onnx"', "a file of the version's folder"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(BadModelFile, match=said):
        read_config(text, "m")


@given(st.text(alphabet="ab:{}[]<>\"',;#\\ \n0.-x", max_size=60))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        tree = parse(text)
    except BadModelFile:
        return
    assert isinstance(tree, dict)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: dance", "dance"),
        ("tasks: embed", "tasks"),
        ("batch: {max: 0}", r"batch.max"),
        ("batch: {max: 9999}", r"batch.max"),
        ("a: [", "line 1: not valid YAML"),
        ("a: &x [1]\nb: *x", r"aliases like \*x"),
        ("- 1", "Expected `object`"),
        ("text: {}", "`text` is for the tasks embed, rerank, not for tensors"),
        ("task: embed\npicture: {}", "`picture` is for the tasks"),
        ("[" * 5000, "nested too deeply|not valid YAML"),
    ],
)
def test_a_manifest_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(BadModelFile, match=said):
        read_manifest(text)


def test_only_model_folders_are_models(tmp_path: Path) -> None:
    install(tmp_path, "add", adder())
    install(tmp_path, "..hidden", adder())
    for name in ("names", "blobs", "notes", ".partial"):
        (tmp_path / name).mkdir()
    (tmp_path / "names" / "1").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.yaml").write_text("task: tensors")
    (tmp_path / "file.gguf").touch()
    repository = Repository(tmp_path)
    assert repository.names() == ["add", "half"]
    with pytest.raises(BadModelFile, match=r"there is no <version>/model.onnx"):
        repository.read("half")
    for name in ("notes", "nothing", "../add", "names", "", "a" * 300):
        with pytest.raises(ModelNotFound):
            repository.read(name)
    assert Repository(tmp_path / "nowhere").names() == []


def test_the_highest_version_is_preferred_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    for version in (1, 2, 10):
        folder = install(tmp_path, "add", adder(), version=version)
    (folder / "11").mkdir()
    (folder / "003").mkdir()
    repository = Repository(tmp_path)
    assert repository.read("add").versions == [1, 2, 10]
    assert repository.read("add").version(None) == 10
    with pytest.raises(ModelNotFound, match="no version 11; there is 1, 2, 10"):
        repository.read("add").version(11)
    (folder / "config.pbtxt").write_text("")
    assert repository.read("add").versions == [10]
    (folder / "config.pbtxt").write_text("version_policy { all {} }")
    assert repository.read("add").versions == [1, 2, 10]
    (folder / "config.pbtxt").write_text("version_policy { specific { versions: 7 } }")
    with pytest.raises(BadModelFile, match="its version_policy leaves none"):
        repository.read("add")
    (folder / "config.pbtxt").write_text('default_model_filename: "net.onnx"')
    (folder / "11" / "net.onnx").write_bytes(adder())
    os.utime(folder / "11", ns=(1, 1))  # as a copy that keeps times leaves it
    assert repository.read("add").versions == [11]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link", "nothing", "1"])
def test_files_of_a_manifest_are_in_its_folder(tmp_path: Path, name: str) -> None:
    folder = install(tmp_path / "models", "add", adder(), labels__txt=b"cat")
    (tmp_path / "secret").touch()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "own").symlink_to(folder / "labels.txt")
    assert inside(folder, "own", "picture.labels").read_bytes() == b"cat"
    with pytest.raises(BadModelFile, match=r"`picture.labels`: "):
        inside(folder, name, "picture.labels")
