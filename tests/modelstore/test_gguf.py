"""The check of a GGUF file: real files pass, everything else is refused with a reason."""

from __future__ import annotations

import ctypes
import os
import struct
import tracemalloc
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from tinymodel import Extra, write_loadable, write_model

from edge.errors import BadModelFile
from edge.modelstore.ggml import ARCHITECTURES, FILE_TYPES, TENSOR_TYPES
from edge.modelstore.gguf import read_header


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


def offset(place: int) -> bytes:
    """The entry of the tiny model's second tensor, from its length on: 256 numbers of F32."""
    return struct.pack("<QIQ", 256, 0, place)


def test_the_default_model_passes(default_model_path: Path) -> None:
    """The facts of the real file that everybody starts with."""
    header = read_header(default_model_path)
    assert (header.architecture, header.context, header.layers) == ("llama", 8192, 30)
    assert (header.vocab, header.embedding, header.file_type) == (49152, 576, "Q4_1")
    assert header.has_chat_template
    assert header.parameters == 134_515_008
    assert (header.kv_values or 0) * 2 == 23_040
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
    """Bytes of f16 for each token, of the models that we serve and of one whose layers differ."""
    header = read_header(write_model(tmp_path / "m.gguf", architecture, **shape))  # type: ignore[arg-type]
    assert (header.kv_values or 0) * 2 == expected


def test_architectures_are_those_of_the_llama_cpp_that_is_built() -> None:
    """Its library is asked for all the names it knows; parts of models are left out."""
    name_of = lib._lib._Z13llm_arch_name8llm_arch
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.c_int]
    known = {name.decode() for number in range(1000) if (name := name_of(number))}
    parts = {
        *("clip", "wavtokenizer-dec", "qwen3tts", "pockettts"),
        *("eagle3", "dflash", "gemma4-assistant"),
    }
    assert known - parts - {"(unknown)", "unknown"} == ARCHITECTURES


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
        (b"GGUF" + struct.pack("<I", 3) + packed(1 << 63, 1), "9223372036854775808 tensors"),
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
    for length in range(len(whole) - 1, -1, -31):
        tiny.write_bytes(whole[:length])
        refusal(tiny)
    tiny.write_bytes(whole[:-40])
    assert f"truncated: tensor 'output_norm.weight' ends at byte {len(whole)} of" in refusal(tiny)


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
        (lambda w: w.add_uint16("split.count", 3), "part ? of 3"),
        (lambda w: w.add_uint32("general.alignment", 3), "general.alignment is 3"),
        (lambda w: w.add_token_scores([0.0]), "tokenizer.ggml.scores does not fit"),
        (lambda w: w.add_uint32("llama.attention.key_length", 1 << 31), "key_length"),
        (lambda w: w.add_int32("llama.expert_count", 2), "expert_count is 2"),
        (lambda w: w.add_expert_count(4), "expert_used_count is 0"),
        (lambda w: w.add_vocab_size(41), "vocab_size is 41, and it has 40 tokens"),
        (lambda w: w.add_string("llama.rope.scaling.type", "odd"), "scaling.type is 'odd'"),
        (lambda w: w.add_layer_norm_rms_eps(-1.0), "epsilon is -1.0"),
        (lambda w: w.add_layer_norm_rms_eps(float("nan")), "epsilon is nan"),
        (lambda w: w.add_array("k", [[1], [2]]), "'k' is an array of arrays"),
        (lambda w: w.add_tensor("blk.2.x", np.zeros(8, np.float32)), "tensors of block 2"),
        (lambda w: w.add_tensor("a_norm.weight", np.zeros(8, np.float16)), "norms are F32"),
    ],
)
def test_unfit_metadata(tmp_path: Path, extra: Extra, reason: str) -> None:
    """Files that are GGUF and still no model to serve."""
    assert reason in refusal(write_model(tmp_path / "model.gguf", extra=extra))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"heads": 4, "kv_heads": 3}, "head_count_kv is 3, which does not divide 4"),
        ({"heads": 6, "kv_heads": 2}, "head_count is 6, which does not divide 64"),
        ({"layers": 513}, "block_count is 513"),
        ({"context": 0}, "context_length is 0"),
        ({"heads": [4, 4, 4]}, "head_count has not a number for each of 2 layers"),
    ],
)
def test_insane_dimensions(tmp_path: Path, shape: dict[str, int], reason: str) -> None:
    """Sizes that contradict each other, or that llama.cpp has no room for."""
    assert reason in refusal(write_model(tmp_path / "m.gguf", **shape))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"blk.1.ffn_up", b"blk_1.ffn_up", "no tensors of block 1"),
        (b"token_embd.w", b"token_embt.w", "no tensor 'token_embd.weight'"),
        (struct.pack("<QQ", 64, 40), struct.pack("<QQ", 40, 64), "embeddings have the shape"),
        (offset(10240), offset(10208), "overlaps the one before it"),
        (offset(10240), offset(10272), "leaves a gap before it"),
        (offset(10240), offset(10241), "is not aligned"),
        (offset(10240), offset(1 << 63), "leaves a gap before it"),
        (b"token_embd.w", b"token\xffembd.w", "is not UTF-8"),
        (b"messages[0]", b"messages[\xff]", "tokenizer.chat_template' is not UTF-8"),
        (b"token39", b"token38", "the token b'token38' twice"),
        (b"ggml.merges", b"ggml.mergez", "no tokenizer.ggml.merges"),
        (b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0odd2", "no tokenizer 'odd2'"),
    ],
)
def test_contradictions(tiny: Path, old: bytes, new: bytes, reason: str) -> None:
    """A field that does not fit to the others."""
    whole = tiny.read_bytes()
    assert old in whole
    tiny.write_bytes(whole.replace(old, new))
    assert reason in refusal(tiny)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"ggml.scores", b"ggml.scorez", "no tokenizer.ggml.scores"),
        (b"<0x41>", b"<0xxx>", "no token for the byte 0x41"),
    ],
)
def test_a_tokenizer_of_pieces(tmp_path: Path, old: bytes, new: bytes, reason: str) -> None:
    """A vocabulary without a token for some byte would let any caller end the worker."""
    path = write_loadable(tmp_path / "pieces.gguf")
    assert read_header(path).vocab == 268
    path.write_bytes(path.read_bytes().replace(old, new))
    assert reason in refusal(path)


def test_a_base_model_is_not_refused(tmp_path: Path) -> None:
    """Without a chat template it completes texts; the header tells that it has none."""
    assert not read_header(write_model(tmp_path / "base.gguf", template=None)).has_chat_template


def test_parts_of_a_split_model(tmp_path: Path) -> None:
    """They are told by what they say and by their names, and how to join them."""

    def split(writer: gguf.GGUFWriter) -> None:
        writer.add_uint16("split.no", 1)
        writer.add_uint16("split.count", 3)

    path = write_model(tmp_path / "model.gguf", extra=split)
    assert "part 2 of 3 of a split model" in refusal(path)
    with pytest.raises(BadModelFile) as caught:
        read_header(path)
    assert "edge models import FOLDER" in str(caught.value.hint)
    named = write_model(tmp_path / "model-00003-of-00004.gguf")
    assert "part 3 of 4 of a split model" in refusal(named)
    assert read_header(write_model(tmp_path / "model-00001-of-00001.gguf"))


def test_no_tensors(tmp_path: Path) -> None:
    """A vocabulary alone, as llama.cpp's own tests use them."""
    path = write_model(tmp_path / "model.gguf")
    whole = bytearray(path.read_bytes())
    whole[8:16] = bytes(8)
    path.write_bytes(whole)
    assert "0 tensors" in refusal(path)


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
