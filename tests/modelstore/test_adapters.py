"""LoRA adapters in the store: checked by themselves and against the model that they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import gguf
import numpy as np
import pytest
from adapters import ALPHA, RANK, write_adapter
from tinymodel import write_model

from edge.errors import BadModelFile, ModelInUse, ModelNotFound
from edge.modelstore.adapter import check_fit, read_adapter
from edge.modelstore.catalog import FileSource, Wanted
from edge.modelstore.gguf import read_header, read_installable
from edge.modelstore.pull import pull
from edge.modelstore.served import ServedFiles, find_served, hold_served, is_there
from edge.modelstore.store import Installed, ModelStore
from edge.modelstore.sweep import remove


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return families.write(tmp_path / "base.gguf", "tinyllama")


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return write_adapter(tmp_path / "formal.gguf", base)


def bring(store: ModelStore, path: Path, name: str) -> Installed:
    return pull(store, Wanted(name=name, source=FileSource(str(path))))


def refusal(path: Path, base: Path | None = None) -> str:
    with pytest.raises(BadModelFile) as caught:
        read_adapter(path) if base is None else check_fit(path, base)
    assert str(path) in caught.value.message
    return caught.value.message


def test_facts(adapter: Path, base: Path) -> None:
    """What it says, and that it fits the model that it was made for."""
    facts = read_adapter(adapter)
    assert (facts.architecture, facts.alpha, facts.rank, facts.targets) == ("llama", ALPHA, RANK, 9)
    assert facts.size_bytes == adapter.stat().st_size
    assert read_installable(adapter) == facts
    assert read_installable(base) == read_header(base)
    check_fit(adapter, base)


def test_an_adapter_is_no_model(adapter: Path, base: Path) -> None:
    """And a model no adapter; each refusal tells what to do."""
    with pytest.raises(BadModelFile, match="type 'adapter'") as caught:
        read_header(adapter)
    assert "MODEL+ADAPTER" in str(caught.value.hint)
    assert "it is not an adapter" in refusal(base)


def _lone(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("output.weight.lora_a", np.zeros((4, 64), np.float32))


def _whole_numbers(writer: gguf.GGUFWriter) -> None:
    for half, shape in (("a", (4, 64)), ("b", (64, 4))):
        writer.add_tensor(f"output.weight.lora_{half}", np.zeros(shape, np.int32))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"targets": ()}, "it changes no tensor"),
        ({"targets": ("nothing",)}, "it changes no tensor"),
        ({"architecture": "clip"}, "no language model architecture 'clip'"),
        ({"extra": _lone}, "'output.weight.lora_a' is there without its other half"),
        ({"extra": _whole_numbers}, "'output.weight.lora_a' of type I32"),
        (
            {"extra": lambda w: w.add_tensor("odd", np.zeros(4, np.float32))},
            "'odd' is neither .lora_a nor .lora_b",
        ),
        (
            {"extra": lambda w: w.add_array("adapter.alora.invocation_tokens", [1, 2])},
            "activated LoRA",
        ),
    ],
)
def test_unfit_files(tmp_path: Path, base: Path, wanted: dict[str, Any], reason: str) -> None:
    """Refused by name, with the reason."""
    assert reason in refusal(write_adapter(tmp_path / "odd.gguf", base, **wanted))


@pytest.mark.parametrize(
    ("key", "reason"),
    [(b"adapter.type", "of the type None"), (b"adapter.lora.alpha", "alpha is missing")],
)
def test_missing_words(adapter: Path, key: bytes, reason: str) -> None:
    """A key that llama.cpp cannot do without."""
    adapter.write_bytes(adapter.read_bytes().replace(key, key[:-1] + b"?"))
    assert reason in refusal(adapter)


def test_cut_anywhere(adapter: Path) -> None:
    """However much of the end is missing."""
    whole = adapter.read_bytes()
    for length in range(len(whole) - 1, -1, -997):
        adapter.write_bytes(whole[:length])
        refusal(adapter)


def test_another_base(tmp_path: Path, adapter: Path) -> None:
    """Of another architecture, with fewer layers, or of other widths."""
    phi = families.write(tmp_path / "phi.gguf", "phi-3")
    assert "for models of the architecture llama, and phi.gguf is phi3" in refusal(adapter, phi)
    small = write_model(tmp_path / "small.gguf")
    assert "'blk.0.attn_q.weight', which small.gguf has not" in refusal(adapter, small)
    narrow = tmp_path / "narrow.gguf"
    sizes = families.SIZES["tinyllama"]._replace(inner=128)
    families.write(narrow, "tinyllama", sizes)
    assert (
        "'blk.0.ffn_down.weight' make the shape [96, 64], and that of narrow.gguf has [128, 64]"
        in refusal(adapter, narrow)
    )


@pytest.mark.parametrize(
    ("name", "ranks", "reason"),
    [
        ("tinyllama", (4, 5), "have the ranks 4 and 5"),
        ("gemma", (4, 4), "token embeddings, which are the output's too"),
        ("tinyllama", (4, 4), None),
    ],
)
def test_embeddings(tmp_path: Path, name: str, ranks: tuple[int, int], reason: str | None) -> None:
    """Here llama.cpp ends the process over what it does not look at; the last one is right."""
    base, tokens = families.write(tmp_path / "base.gguf", name), len(families.tokens_of(name))

    def embeddings(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("token_embd.weight.lora_a", np.zeros((tokens, ranks[0]), np.float32))
        writer.add_tensor("token_embd.weight.lora_b", np.zeros((64, ranks[1]), np.float32))

    adapter = write_adapter(tmp_path / "a.gguf", base, targets=(), extra=embeddings)
    if reason is None:
        check_fit(adapter, base)
    else:
        assert reason in refusal(adapter, base)


def test_an_import(store: ModelStore, base: Path, adapter: Path) -> None:
    """An adapter is installed, has versions and is removed as a model is."""
    installed = bring(store, adapter, "formal")
    assert installed.manifest
    assert (installed.manifest.kind, installed.manifest.architecture) == ("adapter", "llama")
    write_adapter(adapter, base, 2)
    assert bring(store, adapter, "formal").version == 2
    remove(store, "formal")
    assert store.installed() == []


def test_served_names(store: ModelStore, base: Path, adapter: Path) -> None:
    """BASE+ADAPTER, versions of both; and a model of that very name goes first."""
    bring(store, base, "press")
    bring(store, adapter, "formal")
    write_adapter(adapter, base, 2)
    bring(store, adapter, "formal")
    press, first, second = (store.path(it) for it in ("press", "formal@1", "formal@2"))
    assert find_served(store, "press") == ServedFiles(press)
    assert find_served(store, "press+formal") == ServedFiles(press, first, "formal")
    assert find_served(store, "press@1+formal@2") == ServedFiles(press, second, "formal")
    with hold_served(store, "press+formal@2") as files:
        assert files == find_served(store, "press+formal@2")
    own = bring(store, base, "press+formal").path
    assert find_served(store, "press+formal") == ServedFiles(own)


def test_which_of_both_is_missing(store: ModelStore, base: Path, adapter: Path) -> None:
    """It is said; and so is an adapter that does not fit, or is none."""
    bring(store, base, "press")
    with pytest.raises(ModelNotFound, match=r"the adapter 'formal' of 'press\+formal'"):
        find_served(store, "press+formal")
    bring(store, adapter, "formal")
    with pytest.raises(ModelNotFound, match="the model 'pump' is not installed"):
        find_served(store, "pump+formal")
    for name, wrong in (("+formal", r"'\+formal'"), ("press+", "''")):
        with pytest.raises(ModelNotFound, match=f"no model can be called {wrong}"):
            find_served(store, name)
    with pytest.raises(ModelNotFound, match=r"'formal' is a LoRA adapter.* MODEL"):
        find_served(store, "formal")
    with pytest.raises(BadModelFile, match="not an adapter"), hold_served(store, "press+press"):
        pass


def test_asking_whether_it_is_there_reads_no_catalog(
    store: ModelStore, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for each request, and the catalog takes tens of milliseconds to read."""
    bring(store, base, "press")

    def read(**_: object) -> None:
        raise AssertionError("the catalog was read")

    monkeypatch.setattr("edge.modelstore.store.load_catalog", read)
    there = [is_there(store, name) for name in ("press", "press+formal", "pump", "pump+formal")]
    assert there == [True, True, False, False]


def test_both_stay_while_they_are_served(store: ModelStore, base: Path, adapter: Path) -> None:
    """Neither can be removed until they are let go of."""
    bring(store, base, "press")
    bring(store, adapter, "formal")
    with hold_served(store, "press+formal"):
        for name in ("press", "formal"):
            with pytest.raises(ModelInUse):
                remove(store, name)
    remove(store, "formal")
