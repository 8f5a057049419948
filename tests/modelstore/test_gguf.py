"""The check of a GGUF file: real files pass, everything else is refused with a reason."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from pathlib import Path

import gguf
import pytest
from tinymodel import Extra, write_model

from edge.errors import BadModelFile
from edge.modelstore.ggml import ARCHITECTURES, FILE_TYPES, TENSOR_TYPES
from edge.modelstore.gguf import GgufHeader, read_header


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny.gguf")


def refusal(path: Path) -> str:
    with pytest.raises(BadModelFile) as caught:
        read_header(path)
    assert str(path) in caught.value.message
    return caught.value.message


def packed(*parts: bytes | int) -> bytes:
    """GGUF by hand: bytes as they are, numbers as 64-bit counts."""
    return b"".join(struct.pack("<Q", part) if isinstance(part, int) else part for part in parts)


def test_the_default_model_passes(default_model_path: Path) -> None:
    """The facts of the real file that everybody starts with."""
    header = read_header(default_model_path)
    assert (header.architecture, header.context, header.layers) == ("llama", 8192, 30)
    assert (header.vocab, header.embedding, header.file_type) == (49152, 576, "Q4_1")
    assert header.has_chat_template
    assert header.parameters == 134_515_008
    assert header.kv_bytes_per_token() == 23_040
    assert header.size_bytes == default_model_path.stat().st_size


@pytest.mark.parametrize(
    ("architecture", "shape", "expected"),
    [
        ("llama", {"layers": 22, "embedding": 2048, "heads": 32, "kv_heads": 4}, 22_528),
        ("phi3", {"layers": 32, "embedding": 3072, "heads": 32, "kv_heads": 32}, 393_216),
        (
            "gemma",
            {"layers": 18, "embedding": 2048, "heads": 8, "kv_heads": 1, "key_length": 256},
            18_432,
        ),
        (
            "gemma2",
            {"layers": 26, "embedding": 2304, "heads": 8, "kv_heads": 4, "key_length": 256},
            106_496,
        ),
        ("openelm", {"layers": 2, "embedding": 64, "heads": [4, 4], "kv_heads": [1, 2]}, 192),
    ],
)
def test_kv_cache_size(
    tmp_path: Path, architecture: str, shape: dict[str, int], expected: int
) -> None:
    """Bytes for each token, of the models that we serve and of one whose layers differ."""
    header = read_header(write_model(tmp_path / "m.gguf", architecture, **shape))  # type: ignore[arg-type]
    assert header.kv_bytes_per_token() == expected


def test_tables_agree_with_the_gguf_package() -> None:
    """Sizes, names and architectures are those of llama.cpp's own Python package."""
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {number: TENSOR_TYPES[number][1:] for number in sizes} == sizes
    for kind in gguf.LlamaFileType:
        name = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        assert kind.name == "GUESSED" or FILE_TYPES[int(kind)] == name
    others = {"clip", "wavtokenizer-dec"}
    assert set(gguf.MODEL_ARCH_NAMES.values()) - others <= ARCHITECTURES


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\0" * 4096, "starts with zeros"),
        (b"PK\x03\x04" + b"x" * 100, "zip archive"),
        (b"\n<!DOCTYPE HTML><title>Log in</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (packed(16) + b'{"a":{}}        ' + b"x" * 64, "safetensors"),
        (b"tjgg\x03\0\0\0", "before GGUF"),
        (b'{"error": "not found"}', "JSON"),
        (b"\x7fELF\x02\x01", r"starts with b'\x7fELF'"),
        (b"GGUF", "truncated"),
        (b"GGUF" + struct.pack("<I", 1) + packed(1, 1), "version, 1,"),
        (b"GGUF" + struct.pack(">I", 3) + packed(1, 1), "big-endian"),
        (b"GGUF" + struct.pack("<I", 3) + packed(0, 1), "0 tensors"),
        (b"GGUF" + struct.pack("<I", 3) + packed(1, 1 << 60), "metadata entries"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    """What people download by mistake is told by name."""
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    """A folder, a missing file and a pipe are refused, without waiting for the pipe."""
    os.mkfifo(tmp_path / "pipe")
    assert "regular file" in refusal(tmp_path / "pipe")
    assert "regular file" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "missing")


def test_truncated_anywhere(tiny: Path) -> None:
    """However much of the end is missing, the file is refused."""
    whole = tiny.read_bytes()
    for length in range(len(whole) - 1, -1, -7):
        tiny.write_bytes(whole[:length])
        refusal(tiny)
    tiny.write_bytes(whole[:-40])
    assert f"truncated: tensor 'output_norm.weight' ends at byte {len(whole)} of" in refusal(tiny)


def test_mutations_are_refused_or_harmless(tiny: Path) -> None:
    """Any flipped, copied or inserted bytes give a header or a `BadModelFile`, nothing else."""
    whole = tiny.read_bytes()
    chance = random.Random(20240501)
    passed = 0
    for _ in range(800):
        mutant = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(len(mutant))
            what = chance.randrange(4)
            if what == 0:
                mutant[at] ^= 1 << chance.randrange(8)
            elif what == 1:
                mutant[at : at + 8] = chance.choice((b"\xff" * 8, b"\0" * 8, b"\0" * 7 + b"\x80"))
            elif what == 2:
                mutant[at:at] = chance.randbytes(chance.randrange(1, 9))
            else:
                del mutant[at : at + chance.randrange(1, 9)]
        tiny.write_bytes(mutant)
        try:
            passed += isinstance(read_header(tiny), GgufHeader)
        except BadModelFile:
            continue
    assert passed < 400  # most of the file is header


@pytest.mark.parametrize(
    "bomb",
    [
        packed(1 << 62),  # a key of that length
        packed(1, b"k", struct.pack("<I", 8), 1 << 62),  # a text
        packed(1, b"k", struct.pack("<II", 9, 8), 1 << 62),  # an array of texts
        packed(1, b"k", struct.pack("<II", 9, 10), 1 << 62),  # an array of numbers
        packed(1, b"k", struct.pack("<II", 9, 9), 1 << 62),  # an array of arrays
        packed(1, b"k", struct.pack("<II", 9, 8), 1 << 20, *[1 << 50] * 100),  # texts too long
    ],
)
def test_declared_lengths_are_not_believed(tmp_path: Path, bomb: bytes) -> None:
    """A few bytes that promise exabytes cost next to no memory."""
    path = tmp_path / "bomb.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + packed(1, 1) + bomb + bytes(4096))
    tracemalloc.start()
    refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_header_without_end(tmp_path: Path) -> None:
    """A large sparse file cannot make us walk more than the window."""
    path = tmp_path / "endless.gguf"
    texts = packed(1, b"k", struct.pack("<II", 9, 8), 1 << 26)
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + packed(1, 1) + texts)
    os.truncate(path, 1 << 30)
    assert "larger than 64 MiB" in refusal(path)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (lambda w: w.add_type("adapter"), "of the type 'adapter'"),
        (lambda w: w.add_uint16("split.count", 3), "one of 3 parts"),
        (lambda w: w.add_uint32("general.alignment", 3), "general.alignment is 3"),
        (lambda w: w.add_token_scores([0.0]), "tokenizer.ggml.scores does not fit"),
        (lambda w: w.add_uint32("llama.attention.key_length", 1 << 31), "key_length"),
    ],
)
def test_unfit_metadata(tmp_path: Path, extra: Extra, reason: str) -> None:
    """Files that are GGUF and still no model to serve."""
    assert reason in refusal(write_model(tmp_path / "model.gguf", extra=extra))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (b"llama.context_length", "context_length is missing"),
        (b"llama.block_count", "block_count is missing"),
        (b"tokenizer.ggml.tokens", "no tokenizer"),
        (b"general.architecture", "general.architecture"),
    ],
)
def test_missing_metadata(tiny: Path, key: bytes, reason: str) -> None:
    """A key that llama.cpp cannot do without."""
    tiny.write_bytes(tiny.read_bytes().replace(key, key[:-1] + b"?"))
    assert reason in refusal(tiny)


def test_unknown_architecture(tmp_path: Path) -> None:
    """Newer models than the llama.cpp we build on are refused before they are loaded."""
    path = write_model(tmp_path / "model.gguf", "llama-9000")
    assert "architecture 'llama-9000'" in refusal(path)
