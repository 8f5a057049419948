"""The words that all layers share: what a generation is asked for and what comes back of it.

All are msgspec structs: they travel unchanged from the door to the model worker and back as
MessagePack. Nothing here has behaviour beyond its own fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Priority = Literal["critical", "normal", "batch"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
"""By itself, at its token limit, because a cloud's policy let it say no more, or by itself with
calls of tools, which are whole."""


class ToolCall(msgspec.Struct):
    """What a model wants done. arguments: JSON, an object; not whole where the answer was cut."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, omit_defaults=True):
    """One turn of a chat, its content already reduced to text.

    tool_calls: of an assistant's turn. tool_call_id: of the call to which a tool's turn answers.
    """

    role: str
    content: str
    name: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None


class Tool(msgspec.Struct, omit_defaults=True):
    """A function that a model may ask to be called.

    parameters: JSON schema of the object of its arguments, as JSON. strict: as the caller gave it,
    for the clouds. param: where the schema stands in the request, for what is wrong with it.
    """

    name: str
    parameters: str
    param: str
    description: str | None = None
    strict: bool | None = None


class Tools(msgspec.Struct, omit_defaults=True):
    """The tools that are offered, and what is to be done with them.

    choice: `none` of them is called; `auto`, the model decides; `required`, at least one is;
    `named`, the only one of `allowed`, once.
    allowed: names of those that may be called; empty for all. parallel: more than one call.
    """

    offered: list[Tool]
    choice: Literal["none", "auto", "required", "named"] = "auto"
    allowed: list[str] = []
    parallel: bool = True

    @property
    def callable(self) -> list[Tool]:
        """Those that the answer may call."""
        if self.choice == "none":
            return []
        return [tool for tool in self.offered if not self.allowed or tool.name in self.allowed]


class ChatPrompt(msgspec.Struct, tag="chat", omit_defaults=True):
    """Messages that the worker lays out with the model's own chat template, and tools."""

    messages: list[Message]
    tools: Tools | None = None


class TextPrompt(msgspec.Struct, tag="text"):
    """Raw text, tokenized with the model's BOS rule and without control tokens."""

    text: str


class TokenPrompt(msgspec.Struct, tag="tokens"):
    """Token ids that the caller tokenized."""

    tokens: list[int]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Grammar(msgspec.Struct, omit_defaults=True):
    """What an answer has to look like.

    text: the JSON schema, the regular expression or the grammar; none for any JSON object.
    name, strict, description: what the caller gave with a schema, for the clouds that want it.
    """

    kind: Literal["json_object", "json_schema", "regex", "lark", "gbnf"]
    text: str = ""
    name: str = ""
    strict: bool | None = None
    description: str | None = None


class Sampling(msgspec.Struct, omit_defaults=True):
    """How the next token is chosen. The defaults are those of OpenAI's API."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    logit_bias: dict[int, float] = {}


class Generation(msgspec.Struct, omit_defaults=True):
    """One sequence to generate; a request with `n` choices becomes `n` of these.

    max_tokens: None means as many as the context has room for.
    logprobs: None for none, else how many alternatives to report beside each token (0 to 20).
    resume: tokens that were already sent out before a worker died; they are computed like the
        prompt, replayed through stop strings, sampler and grammar, and not sent again.
    grammar: what the text has to follow. With it the model's end ends the answer in any case.
    caller: whose it is; what was computed for one caller is not used for another.
    shared_prefix: what is computed for its prompt may be used for all others that have this set.
    deadline: time.monotonic() at which the answer becomes worthless. On Linux that is
        CLOCK_MONOTONIC, which is the same for all processes of a machine, so that an absolute
        time means the same to the daemon and to each worker that it starts.
    """

    id: str
    prompt: Prompt
    sampling: Sampling
    max_tokens: int | None = None
    stop: list[str] = []
    ignore_eos: bool = False
    logprobs: int | None = None
    priority: Priority = "normal"
    resume: list[int] = []
    caller: str = ""
    grammar: Grammar | None = None
    deadline: float | None = None
    shared_prefix: bool = False


class Alternative(msgspec.Struct, array_like=True):
    """A candidate token with its log probability; `raw` are its bytes."""

    token: int
    raw: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, array_like=True):
    """The chosen token of one step and the likeliest candidates beside it, best first."""

    chosen: Alternative
    top: list[Alternative]


class Accepted(msgspec.Struct, tag="a", array_like=True):
    """The prompt is valid and waits for a slot."""

    id: str
    prompt_tokens: int


class Started(msgspec.Struct, tag="s", array_like=True):
    """The sequence has a slot; its first `cached_tokens` prompt tokens were there already."""

    id: str
    cached_tokens: int


class CallPiece(msgspec.Struct, array_like=True):
    """More of an answer's tool call number `index`. Its first piece has `id` and `name`, and only
    that; `arguments` is what comes next of their JSON."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delta(msgspec.Struct, tag="d", array_like=True):
    """What one step added. `text` may be empty while it could still be part of a stop string.

    calls: of tools, which come behind the text. An engine leaves them in the text, spelled as
    its model does; targets put them here.
    """

    id: str
    tokens: list[int]
    text: str
    logprobs: list[TokenLogprob] = []
    calls: list[CallPiece] = []


class Energy(msgspec.Struct, array_like=True, frozen=True):
    """Joules of the whole machine, None where they were not measured all the time; and by rail,
    without those that were not."""

    joules: float | None = None
    rails: dict[str, float] = {}

    def plus(self, other: Energy) -> Energy:
        """What is known of both."""
        known = self.joules is not None and other.joules is not None
        both = self.rails.keys() & other.rails.keys()
        return Energy(
            (self.joules or 0.0) + (other.joules or 0.0) if known else None,
            {name: self.rails[name] + other.rails[name] for name in self.rails if name in both},
        )

    def times(self, part: float) -> Energy:
        joules = None if self.joules is None else self.joules * part
        return Energy(joules, {name: joules * part for name, joules in self.rails.items()})


class Span(msgspec.Struct, array_like=True):
    """A computation, from and up to a time of the monotonic clock (see `Generation`), and how many
    tokens or rows of which requests were in it."""

    began: float
    ended: float
    rows: dict[str, int]


class Usage(msgspec.Struct, array_like=True):
    """Token counts and times (seconds) of one finished sequence.

    forced_tokens: of the completion's, those that the grammar fixed and nobody had to choose.
    drafted_tokens, accepted_tokens: computed ahead on a guess, and those of them that were right.
    energy: what was used for it here, None for what was not computed here.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prompt_seconds: float
    generation_seconds: float
    forced_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    energy: Energy | None = None


class Finished(msgspec.Struct, tag="f", array_like=True):
    """The sequence ended by itself (`stop`, `tool_calls`) or at its token limit (`length`)."""

    id: str
    reason: FinishReason
    usage: Usage


class Failed(msgspec.Struct, tag="e", array_like=True):
    """The sequence ended with an error; the fields are those of an `EdgeError`."""

    id: str
    code: str
    message: str
    param: str | None = None


class Embedded(msgspec.Struct, tag="v", array_like=True):
    """The vectors of all texts of a request, which ends with them: float32, little-endian,
    [texts, width]. tokens: that were computed. energy: as in `Usage`."""

    id: str
    width: int
    data: bytes
    tokens: int
    energy: Energy | None = None


Event = Accepted | Started | Delta | Finished | Failed | Embedded


class EngineStats(msgspec.Struct, array_like=True):
    """The books of one engine after a step. free + running + resident = slots, always.

    memory_bytes: resident, pages of files included. taken_bytes: gone for others, without what is
        kept; 0 for unknown. mapped_bytes: of it, pages of the model's file, which the kernel
        counts as available all the same.
    kept_prefixes: snapshots of what left its slot, kept_bytes: what they take of the memory.
    """

    steps: int
    slots: int
    free: int
    running: int
    resident: int
    waiting: int
    kv_used_tokens: int
    kv_total_tokens: int
    memory_bytes: int
    kept_prefixes: int = 0
    kept_bytes: int = 0
    taken_bytes: int = 0
    mapped_bytes: int = 0


class ModelFacts(msgspec.Struct):
    """What a worker found out about the model and the machine while loading.

    layers: that can be on a GPU, the output being one of them; gpu_layers: that are. device: whose
    buffers they are in, empty for the CPU. left_on_cpu: what a model on a GPU has there all the
    same.
    draft_model: the one beside it that drafts for it, empty for none.
    pooling: how it makes one vector of a text, with `width` numbers; empty for a model that
    generates.
    """

    name: str
    path: str
    architecture: str
    description: str
    size_bytes: int
    parameters: int
    vocab: int
    train_context: int
    context: int
    slots: int
    backend: str
    gpu_layers: int
    layers: int
    kv_type: str
    has_chat_template: bool
    load_seconds: float
    memory_bytes: int
    system_info: str
    draft_model: str = ""
    pooling: str = ""
    width: int = 0
    flash_attention: bool = False
    device: str = ""
    left_on_cpu: list[str] = []


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA adapter that a model is loaded with. scale: 1 for the strength that it was made for,
    0 for none."""

    path: str
    scale: float


class EngineSettings(msgspec.Struct):
    """What the worker needs of the configuration; by None, 0 and `auto` it decides by itself.

    kv_budget_bytes: memory that the KV cache may take when `slots` is 0.
    inter_token_ms: what steps with prompts beside streams aim at.
    draft: where drafts of answers are taken from. draft_model, draft_path: a model that makes more
        of them, empty for none.
    prefix_bytes: memory for computed prefixes that left their slot; here 0 means none.
    prefix_disk_bytes: disk for those that outlive the worker, in `prefix_dir`; 0 means none.
    embeds: the file is of a model that makes vectors of texts, and is loaded for that.
    """

    backend: Literal["auto", "cpu", "cuda"]
    threads: int
    gpu_layers: int | None
    slots: int
    context: int
    kv_type: Literal["auto", "f16", "q8_0", "q4_0"]
    batch: int
    kv_budget_bytes: int
    inter_token_ms: float | None = None
    draft: Literal["lookup", "none"] = "lookup"
    prefix_bytes: int = 0
    prefix_disk_bytes: int = 0
    prefix_dir: str = ""
    draft_model: str = ""
    draft_path: str = ""
    embeds: bool = False


class Pace(msgspec.Struct, frozen=True):
    """How hard a worker works. Parts of what it could: 1 is all.

    slots: of them that run at once; one always does, and critical sequences do in any case.
    batch_slots: of them those for batch sequences. batch_chunk: of the tokens of a step those of
    batch prompts. drafts: whether tokens are guessed at ahead. duty: of the time that steps for
    others than critical sequences take; what is left of it nothing is computed. batch_duty: the
    same of steps for batch sequences alone.
    """

    slots: float = 1.0
    batch_slots: float = 1.0
    batch_chunk: float = 1.0
    drafts: bool = True
    duty: float = 1.0
    batch_duty: float = 1.0


class UpstreamFacts(msgspec.Struct):
    """What is known of one cloud model. state: of its breaker. link: whether its server can be
    reached. latency_seconds: to the first token, as late answers had it. reason: why it is not
    asked now."""

    name: str
    model: str
    base_url: str
    state: Literal["closed", "half_open", "open"]
    link: Literal["up", "down", "unknown"]
    latency_seconds: float | None
    reason: str | None


class BrokerFacts(msgspec.Struct):
    """What is known of the MQTT broker. version: of MQTT, None while there is no connection.
    connects: since the daemon began. since: when it was connected or lost, epoch seconds. reason:
    why there is no connection, None before the first try has ended."""

    host: str
    port: int
    version: Literal["5", "3.1.1"] | None = None
    connects: int = 0
    since: float | None = None
    reason: str | None = None


class Request(msgspec.Struct):
    """What a door asks of the service: `n` answers to each of the prompts.

    Answers are numbered through: number i is for prompt i // n.
    A chat whose last message is the assistant's is answered with what comes after it.
    model: None or `default` mean the configured default.
    deadline: seconds from now after which the answer is worthless, None for no such time.
    on_cut: whether an answer whose producer was lost in the middle goes on or fails.
    may_wait: its caller lets it be queued where it cannot be answered now.
    kept: it is in the ledger, and may come again after a crash: whoever is asked to answer it is
        told by an idempotency key that it is the same.
    cache: whether an answer may be used again; None leaves it to whether the request decides it.
    caller: whose request this is; answers are shared among requests of one caller only.
    shared_prefix: see `Generation`.
    grammar: what each answer has to follow, None for free text.
    """

    id: str
    prompts: list[Prompt]
    sampling: Sampling
    model: str | None = None
    max_tokens: int | None = None
    stop: list[str] = []
    ignore_eos: bool = False
    logprobs: int | None = None
    n: int = 1
    priority: Priority = "normal"
    route: Literal["auto", "local", "cloud", "queue"] = "auto"
    on_cut: Literal["continue", "fail"] = "continue"
    deadline: float | None = None
    kept: bool = False
    may_wait: bool = False
    cache: bool | None = None
    caller: str = ""
    grammar: Grammar | None = None
    shared_prefix: bool = False

    @property
    def answers(self) -> int:
        return len(self.prompts) * self.n

    @property
    def tools(self) -> Tools | None:
        """Those of its chat, if it is one."""
        first = self.prompts[0] if self.prompts else None
        return first.tools if isinstance(first, ChatPrompt) else None


class Part(msgspec.Struct):
    """A piece of answer number `index` of a request: some text, or its end."""

    index: int
    event: Delta | Finished


Route = Literal["local", "cloud", "cache", "queue"]
"""Where an answer came from, or where a request waits."""


class Attempt(msgspec.Struct):
    """One try of one target at a request. outcome: `ok`, `running`, or the error's code."""

    target: str
    outcome: str
    seconds: float


class Trail(msgspec.Struct):
    """How a request went, written down by the router while it is answered.

    model: the one that answers, by its own name. Both are known with the first piece.
    """

    route: Route = "local"
    model: str = ""
    attempts: list[Attempt] = []
