"""A decoder that computes nothing and forgives nothing, and an oracle that needs no engine.

The next token is a hash of all that a slot really holds. So a wrong prefix, a wrong cut, a wrong
position or another client's tokens change the text, and comparing with the oracle shows it.
Every promise that `Backend` asks of its caller is asserted.
"""

from __future__ import annotations

import codecs
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edge.engine.backend import Chunk, Logits, Snapshot, SnapshotFailed
from edge.types import FinishReason, Generation, Sampling, TextPrompt, TokenPrompt

CONTROLS = ("<s>", "<|im_start|>", "<|im_end|>")
MERGES = (b"ab", b"bc", b"abc", " 日".encode(), b"\xf0\x9f", b"\x98\x80", b"\xa9b", b"He", b"llo")
BYTES_PER_TOKEN = 8
END_EVERY = 24
"""One token in so many ends the answer."""


class FakeVocabulary:
    """Bytes, a few longer tokens that split characters and stop strings badly, control tokens."""

    def __init__(
        self,
        controls: Sequence[str] = CONTROLS,
        bos: int = 0,
        end: int = -1,
        adds_blank: bool = False,
    ) -> None:
        """bos, end: which of the controls; the model adds no BOS when `bos` is negative.

        adds_blank: texts begin with a blank, also behind control tokens, as in SentencePiece.
        """
        self.adds_blank = adds_blank
        self.pieces = [bytes([i]) for i in range(256)] + list(MERGES)
        first = len(self.pieces)
        self.controls = {text: first + i for i, text in enumerate(controls)}
        self._spellings = {token: text for text, token in self.controls.items()}
        self.size = first + len(controls)
        self.adds_bos = bos >= 0
        self.bos = first + bos if bos >= 0 else -1
        self.eos = first + end % len(controls) if controls else -1
        merged = enumerate(self.pieces[256:], start=256)
        self._longest = sorted(merged, key=lambda entry: -len(entry[1]))

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        tokens = [self.bos] if bos and self.adds_bos else []
        raw = text.encode()
        spellings = {text.encode(): token for text, token in self.controls.items()}
        at = 0
        begins = self.adds_blank
        while at < len(raw):
            fits = [s for s in spellings if raw.startswith(s, at)] if special else []
            if fits:
                longest = max(fits, key=len)
                tokens.append(spellings[longest])
                at += len(longest)
                begins = self.adds_blank
                continue
            if begins:
                tokens.append(ord(" "))
                begins = False
            token = next((t for t, piece in self._longest if raw.startswith(piece, at)), raw[at])
            tokens.append(token)
            at += len(self.pieces[token])
        return tokens

    def piece(self, token: int) -> bytes:
        return self.pieces[token] if token < len(self.pieces) else b""

    def is_end(self, token: int) -> bool:
        return token == self.eos

    def text(self, token: int) -> str:
        return self._spellings.get(token) or self.piece(token).decode("utf-8", "replace")

    def control_texts(self) -> list[str]:
        return list(self.controls)

    def spell(self, tokens: Sequence[int]) -> str:
        """All tokens as text, control tokens as they are spelled."""
        raw = b"".join(
            self._spellings[t].encode() if t in self._spellings else self.pieces[t] for t in tokens
        )
        return raw.decode("utf-8", "replace")

    def controls_in(self, tokens: Sequence[int]) -> list[str]:
        return [self._spellings[token] for token in tokens if token in self._spellings]


class FakeModel:
    """What comes after some tokens: a hash of them, or a script."""

    def __init__(self) -> None:
        self.vocabulary = FakeVocabulary()
        letters = [*b"abc. \xc3\xa9\xe6", *range(256, 256 + len(MERGES))]
        self._letters = letters
        self._scripts: dict[tuple[int, ...], list[int]] = {}

    def script(self, prompt: Sequence[int], raw: bytes | Sequence[bytes]) -> None:
        """After `prompt` say these pieces (of `bytes`: one token each byte), then end."""
        pieces = [bytes([b]) for b in raw] if isinstance(raw, bytes) else raw
        tokens = [self.vocabulary.pieces.index(piece) for piece in pieces]
        self._scripts[tuple(prompt)] = [*tokens, self.vocabulary.eos]

    def candidates(self, held: Sequence[int]) -> list[int]:
        """Three tokens, likeliest first; the same one may come twice."""
        for prompt, tokens in self._scripts.items():
            if tuple(held[: len(prompt)]) == prompt:
                return [tokens[min(len(held) - len(prompt), len(tokens) - 1)]] * 3
        found = []
        for salt in range(3):
            number = zlib.crc32(array("I", held).tobytes(), salt)
            ends = number % END_EVERY == 0
            found.append(self.vocabulary.eos if ends else self._letters[number % 10007 % 17])
        return found


class FakeChain:
    """Randomness and memory of its own: without an exact replay it chooses otherwise."""

    def __init__(self, backend: FakeBackend | None, sampling: Sampling) -> None:
        self._backend = backend
        self._state = zlib.crc32(repr(sampling).encode())

    def sample(self, row: int) -> int:
        assert self._backend is not None
        return self.pick(self._backend.candidates(row))

    def pick(self, candidates: Sequence[int]) -> int:
        token = candidates[self._state % len(candidates)]
        self.replay(token)
        return token

    def replay(self, token: int) -> None:
        self._state = zlib.crc32(token.to_bytes(4, "little"), self._state)


class FakeBackend:
    """The `Backend` that tests step. `held` is what the slots really hold."""

    def __init__(
        self,
        slots: int = 4,
        context: int = 256,
        batch: int = 64,
        can_truncate: bool = True,
        model: FakeModel | None = None,
        window: bool = False,
    ) -> None:
        """window: a snapshot lacks what a window has slid over."""
        self.slots, self.context, self.batch = slots, context, batch
        self.outputs = min(batch, slots + 9)
        self.can_truncate = can_truncate
        self.can_cut_snapshots = can_truncate and not window
        self.model = model or FakeModel()
        self.vocabulary = self.model.vocabulary
        self.held: list[list[int]] = [[] for _ in range(slots)]
        self.decoded: list[list[Chunk]] = []
        self.copies: list[tuple[int, int, int]] = []
        self.taken: list[list[int]] = []
        self.restored: list[list[int]] = []
        self.fails = lambda: False
        self._uncopied: set[int] = set()
        self._complete_from = [0] * slots
        self.chains: list[FakeChain] = []
        self._rows: list[list[int]] = []
        self._logits = np.empty((0, self.vocabulary.size), np.float32)

    def decode(self, chunks: Sequence[Chunk]) -> None:
        slots = [chunk.slot for chunk in chunks]
        assert slots == sorted(set(slots)), "one chunk a slot, in ascending order"
        assert 0 < sum(len(chunk.tokens) for chunk in chunks) <= self.batch
        self._rows = []
        self._uncopied.clear()
        for chunk in chunks:
            held = self.held[chunk.slot]
            assert chunk.tokens, "no empty chunks"
            assert chunk.start == len(held), "a chunk goes right behind what the slot holds"
            assert all(0 <= token < self.vocabulary.size for token in chunk.tokens)
            assert 0 <= chunk.outputs <= len(chunk.tokens)
            for left, token in zip(range(len(chunk.tokens), 0, -1), chunk.tokens, strict=True):
                held.append(token)
                if left <= chunk.outputs:
                    self._rows.append(self.model.candidates(held))
            assert len(held) <= self.context
        assert len(self._rows) <= self.outputs
        self._logits = self._new_logits()
        self.decoded.append([Chunk(c.slot, c.start, list(c.tokens), c.outputs) for c in chunks])

    def candidates(self, row: int) -> list[int]:
        """Those that nobody has made impossible, else whatever is possible."""
        possible = np.isfinite(self._logits[row])
        allowed = [token for token in self._rows[row] if possible[token]]
        return allowed or [int(token) for token in np.flatnonzero(possible)]

    def logits(self) -> Logits:
        return self._logits

    def _new_logits(self) -> Logits:
        logits = np.full((len(self._rows), self.vocabulary.size), -9.0, np.float32)
        for row, tokens in enumerate(self._rows):
            for at, token in reversed(list(enumerate(tokens))):
                logits[row, token] = 3 - at
        return logits

    def truncate(self, slot: int, length: int) -> None:
        held = self.held[slot]
        assert 0 <= length <= len(held)
        assert self.can_truncate or length in (0, len(held)), "this model cannot go back"
        assert length == 0 or length >= self._complete_from[slot], "the window has slid over it"
        if not length:
            self._complete_from[slot] = 0
        del held[length:]

    def copy(self, source: int, target: int, length: int) -> None:
        assert self.can_truncate, "this model cannot go back"
        assert source != target
        assert length <= len(self.held[source])
        assert length >= self._complete_from[source], "the window has slid over it"
        self.held[target] = self.held[source][:length]
        self._complete_from[target] = self._complete_from[source]
        self._uncopied |= {source, target}
        self.copies.append((source, target, length))

    def snapshot(self, slot: int, limit: int) -> Snapshot:
        """`BYTES_PER_TOKEN` for each, the id among them."""
        held = self.held[slot]
        assert slot not in self._uncopied, "the data is not there yet"
        if self.fails() or not 0 < BYTES_PER_TOKEN * len(held) <= limit:
            raise SnapshotFailed("no room")
        self.taken.append(list(held))
        return np.array(held, np.uint64).view(np.uint8)

    def restore(self, slot: int, data: Snapshot) -> None:
        assert slot not in self._uncopied, "the data is not there yet"
        self.held[slot] = []
        if self.fails():
            raise SnapshotFailed("damaged")
        self.held[slot] = [int(token) for token in data.view(np.uint64)]
        self._complete_from[slot] = 0 if self.can_cut_snapshots else len(self.held[slot])
        self.restored.append(list(self.held[slot]))

    def chain(self, sampling: Sampling) -> FakeChain:
        self.chains.append(FakeChain(self, sampling))
        return self.chains[-1]

    def close(self) -> None: ...

    @property
    def computed(self) -> int:
        """Tokens computed so far, in all."""
        return sum(len(chunk.tokens) for chunks in self.decoded for chunk in chunks)


@dataclass
class Answer:
    """What came, or should come, of one generation."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None


def prompt_tokens(model: FakeModel, generation: Generation) -> list[int]:
    prompt = generation.prompt
    if isinstance(prompt, TextPrompt):
        return model.vocabulary.tokenize(prompt.text, special=False, bos=True)
    assert isinstance(prompt, TokenPrompt)
    return prompt.tokens


def expected(model: FakeModel, generation: Generation, context: int) -> Answer:
    """The answer by the shortest way: no slots, no batches, no increments."""
    prompt = prompt_tokens(model, generation)
    room = context - len(prompt)
    limit = room if generation.max_tokens is None else min(generation.max_tokens, room)
    sampling = generation.sampling
    chain = None if sampling.temperature == 0 else FakeChain(None, sampling)
    answer, raw = Answer(), b""
    while answer.reason is None:
        candidates = model.candidates([*prompt, *answer.tokens])
        token = candidates[0] if chain is None else chain.pick(candidates)
        answer.tokens.append(token)
        if model.vocabulary.is_end(token) and not generation.ignore_eos:
            answer.text, answer.reason = raw.decode("utf-8", "replace"), "stop"
            break
        raw += model.vocabulary.piece(token)
        whole = codecs.getincrementaldecoder("utf-8")("replace").decode(raw)
        if found := [at for stop in generation.stop if (at := whole.find(stop)) >= 0]:
            answer.text, answer.reason = whole[: min(found)], "stop"
        elif len(answer.tokens) >= limit:
            answer.text, answer.reason = raw.decode("utf-8", "replace"), "length"
    return answer
