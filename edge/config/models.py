"""The sections of what computes here: models, their versions, the two engines."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from edge.config.section import Auto, Name, Section


class Models(Section, frozen=True):
    default: Annotated[
        Name, Meta(description="Answers when a request names no model, or `default`")
    ] = "smollm2-135m-instruct"
    preload: Annotated[
        list[Name] | None,
        Meta(
            description="Loaded at start, with the default one and those of routes; all others "
            "when a request asks for them"
        ),
    ] = None
    pinned: Annotated[
        list[Name] | None,
        Meta(description="Never unloaded; null: the default one"),
    ] = None
    embedding: Annotated[
        Name | None,
        Meta(
            description="Makes vectors when a request names no model; null: the only one that is "
            "installed for that"
        ),
    ] = None
    memory_mb: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Memory for all models together; null: what the machine has"),
    ] = None
    ttl_seconds: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="A model that nobody has used for so long is unloaded; null: only when "
            "its memory is wanted"
        ),
    ] = None
    turn_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="How long a busy model keeps its memory after another was asked for",
        ),
    ] = 10
    drafts: Annotated[
        dict[Name, Name],
        Meta(
            description="A model, and a much smaller one with the same vocabulary, loaded beside "
            "it, that guesses at its tokens ahead where that pays; the text is the same"
        ),
    ] = field(default_factory=dict)
    adapter_scale: Annotated[
        dict[Name, Annotated[float, Meta(ge=0)]],
        Meta(description="Strength of LoRA adapters, by their names; 1 for those left out"),
    ] = field(default_factory=dict)


class Switching(Section, frozen=True):
    ready_seconds: Annotated[
        float, Meta(gt=0, description="Longest time for it to load and to answer its canaries")
    ] = 600
    slowest: Annotated[
        float,
        Meta(ge=0, le=1, description="Part of the old version's tokens per second it has to make"),
    ] = 0.2
    watch_seconds: Annotated[
        float,
        Meta(ge=0, description="How long it is watched before it counts; two deaths end it"),
    ] = 30


class Engine(Section, frozen=True):
    backend: Annotated[
        Literal["auto", "cpu", "cuda"],
        Meta(
            description="`auto` offloads where llama.cpp has a GPU; `cuda` loads nothing that has "
            "no layer on one by CUDA"
        ),
    ] = "auto"
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | Auto,
        Meta(
            description="Threads for llama.cpp; `auto`: the physical cores allowed to the process"
        ),
    ] = "auto"
    gpu_layers: Annotated[
        Annotated[int, Meta(ge=0)] | Auto,
        Meta(
            description="Layers to offload; `auto`: all where there is a GPU, fewer where a card "
            "refuses the memory"
        ),
    ] = "auto"
    slots: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | Auto,
        Meta(
            description="Sequences computed at once; `auto`: up to 32 in a quarter of free memory, "
            "fewer where the model would not fit"
        ),
    ] = "auto"
    context: Annotated[
        Annotated[int, Meta(ge=256, le=1048576)] | Auto,
        Meta(
            description="Tokens each slot holds; `auto`: the trained context, 2048 at most, less "
            "where one slot would not fit"
        ),
    ] = "auto"
    kv_type: Annotated[
        Literal["auto", "f16", "q8_0", "q4_0"],
        Meta(
            description="Number format of the KV cache; `auto`: f16, or q8_0 where that "
            "would not fit"
        ),
    ] = "f16"
    batch: Annotated[int, Meta(ge=32, le=8192, description="Most tokens computed in one step")] = (
        512
    )
    inter_token_ms: Annotated[
        Annotated[float, Meta(gt=0, le=60000)] | Auto,
        Meta(
            description="Aimed-at time between two tokens of a stream while prompts are computed; "
            "`auto`: twice what it is without them"
        ),
    ] = "auto"
    draft: Annotated[
        Literal["lookup", "none"],
        Meta(
            description="`lookup` guesses at tokens ahead where an answer repeats its input, and "
            "computes several at once where that pays; the text is the same. `none`: no guesses, "
            "nor any by `models.drafts`, which are not loaded then"
        ),
    ] = "lookup"
    prefix_cache_mb: Annotated[
        Annotated[float, Meta(ge=0)] | Auto,
        Meta(
            description="Memory for computed prefixes that left their slot, per model; 0 for none; "
            "`auto`: a sixteenth of free memory, for all models together"
        ),
    ] = "auto"
    prefix_disk_mb: Annotated[
        float,
        Meta(
            ge=0,
            description="Disk for prefixes that several prompts share, so that they outlive a "
            "restart; all models together; 0 for none",
        ),
    ] = 512


class Onnx(Section, frozen=True):
    provider: Annotated[
        Literal["auto", "cpu", "cuda", "tensorrt"],
        Meta(
            description="What computes ONNX models; `auto`: the fastest that onnxruntime has here; "
            "a named one is insisted on"
        ),
    ] = "auto"
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | Auto,
        Meta(
            description="Threads of each model; `auto`: the physical cores allowed to the process"
        ),
    ] = "auto"
    max_batch: Annotated[
        int,
        Meta(
            ge=1,
            le=4096,
            description="Rows computed together at most, where neither model.yaml nor config.pbtxt "
            "says how many",
        ),
    ] = 32
    delay_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=10000,
            description="How long the first of several requests waits for others to be computed "
            "with, where the model's files say nothing of it",
        ),
    ] = 2
    nice: Annotated[
        int,
        Meta(
            ge=0,
            le=19,
            description="How far ONNX models step back behind language models, as in nice(1)",
        ),
    ] = 13
    picture_hosts: Annotated[
        list[Annotated[str, Meta(pattern=r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$")]],
        Meta(
            description="Hosts, as NAME or NAME:PORT, from which pictures are fetched that a "
            "request names by their address"
        ),
    ] = field(default_factory=list)
