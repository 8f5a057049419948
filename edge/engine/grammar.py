"""Grammars that an answer has to follow: compiled once, then one state for each sequence.

The only file that imports `llguidance`. Which tokens are allowed depends on the vocabulary alone,
so nothing here knows of llama.cpp. Compiling happens in the worker's reader thread and is bounded
by what a grammar may contain (`grammar_limits.py`) and by llguidance's own limits; a `Constraint`
belongs to its sequence, and so to the engine's thread.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import llguidance
import msgspec
import numpy as np
from llguidance.gbnf_to_lark import gbnf_to_lark

from edge.engine import tool_grammar
from edge.engine.backend import Logits, Vocabulary
from edge.engine.grammar_limits import PARAM, check
from edge.engine.seam import tokens_behind
from edge.errors import InvalidRequest
from edge.toolcalls import HEAD, TRIGGER
from edge.types import Grammar, Tool, Tools

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MOST_COMPILED = 16
"""Compiled grammars that are kept. The worst that the limits allow takes tens of megabytes."""

LIMITS = llguidance.LLParserLimits(
    max_items_in_row=500,
    initial_lexer_fuel=200_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=20_000,
    max_grammar_size=20_000,
    verbose_errors=False,
)
"""With what `grammar_limits.py` refuses, compiling took half a second at most of what was tried,
and a mask some 20 ms."""

JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}
"""Compact, and a keyword that is not understood is refused and not ignored."""

SEARCH_SECONDS = 1.0
"""For finding out which tool it is that cannot be followed."""


class Constraint:
    """How far one answer has come in its grammar.

    Methods raise `InvalidRequest` when the grammar has become too complex to go on.
    """

    def __init__(self, matcher: llguidance.LLMatcher, param: str = PARAM) -> None:
        """param: the field of the request that it comes of, for refusals."""
        self._matcher = matcher
        self._param = param

    @property
    def finished(self) -> bool:
        """The answer is whole, and nothing may follow."""
        self._check()
        if not self._matcher.is_stopped():
            return False
        if not self._matcher.is_accepting():
            raise refusal("nothing can follow, and the answer is not whole", self._param)
        return True

    def mask(self, logits: Logits) -> None:
        """Make what may not come next impossible, in place. logits: shape (vocabulary,)."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(bits, count=logits.size, bitorder="little")
        if not allowed.any():
            raise refusal("no token of this model can follow", self._param)
        logits[allowed == 0] = -np.inf

    def advance(self, token: int) -> None:
        """Go on behind a token that was chosen."""
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """Tokens of which alone the grammar leaves the choice; they are not gone past yet."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        self._check()
        return tokens

    def copy(self) -> Constraint:
        return Constraint(self._matcher.deep_copy(), self._param)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise refusal(self._matcher.get_error(), self._param)


class Grammars:
    """Compiles grammars for one vocabulary. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._lock = threading.Lock()
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[bytes, Constraint] = OrderedDict()

    def warm_up(self) -> None:
        """Make the tokenizer, which takes 0.6 s with 49,000 tokens, a third of that in one piece
        that holds up all other threads."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer(self.vocabulary)

    def constraint(self, grammar: Grammar | None, tools: Tools | None = None) -> Constraint:
        """The beginning of an answer, which follows the grammar or calls tools: at least one of
        both is there. Raises `InvalidRequest` for what is wrong, not supported or too large."""
        self.warm_up()
        key = msgspec.msgpack.encode((grammar, tools))
        with self._lock:
            known = self._compiled.pop(key, None)
            if known is None:
                known = self._compile(grammar, tools)
            self._compiled[key] = known
            while len(self._compiled) > MOST_COMPILED:
                self._compiled.popitem(last=False)
            return known.copy()

    def _compile(self, grammar: Grammar | None, tools: Tools | None) -> Constraint:
        if grammar is not None:
            check(grammar)
        if tools is None:
            assert grammar is not None
            return self._begin(grammar)
        tool_grammar.check(tools)
        text = tool_grammar.lark(tools, JSON_OPTIONS, grammar)
        try:
            constraint = self._begin(Grammar("lark", text), "tools")
        except InvalidRequest as error:
            self._find_fault(grammar, tools)
            raise error
        for tool in tools.callable:
            self._try_call(constraint.copy(), tool)
        return constraint

    def _begin(self, grammar: Grammar, param: str = PARAM) -> Constraint:
        try:
            source = _source(grammar)
        except (ValueError, RecursionError) as error:
            raise refusal(str(error), param) from None
        assert self._tokenizer is not None
        # log_level: errors are told to the caller, not to the log.
        matcher = llguidance.LLMatcher(self._tokenizer, source, log_level=0, limits=LIMITS)
        constraint = Constraint(matcher, param)
        # What fails at the first token is better refused than begun.
        trial = constraint.copy()
        if not trial.finished:
            self._try_next(trial)
        return constraint

    def _try_next(self, constraint: Constraint) -> None:
        constraint.forced()
        constraint.mask(np.zeros(self.vocabulary.size, np.float32))

    def _try_call(self, constraint: Constraint, tool: Tool) -> None:
        """The same for the first token of a call's arguments."""
        begin = TRIGGER + HEAD.format(name=tool.name)
        try:
            for token in tokens_behind(self.vocabulary, begin, special=False):
                constraint.advance(token)
            self._try_next(constraint)
        except InvalidRequest as error:
            error.param = tool.param
            raise

    def _find_fault(self, grammar: Grammar | None, tools: Tools) -> None:
        """Raises `InvalidRequest` for the first part that cannot be followed by itself."""
        until = time.monotonic() + SEARCH_SECONDS
        if grammar is not None:
            self._begin(grammar)
        for tool in tools.callable:
            self._begin(Grammar("json_schema", tool.parameters), tool.param)
            if time.monotonic() > until:
                return


class _Tokens:
    """A vocabulary as llguidance asks for it.

    Control tokens have no bytes, and are never allowed; nor are single bytes 0xff, with which
    llguidance marks its own special tokens and which no UTF-8 has.
    """

    bos_token_id = None
    special_token_ids: Sequence[int] = ()

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        pieces = map(vocabulary.piece, range(vocabulary.size))
        self.tokens = [b"" if piece.startswith(b"\xff") else piece for piece in pieces]
        self.ends = [token for token in range(vocabulary.size) if vocabulary.is_end(token)]
        self.eos_token_id = self.ends[0] if self.ends else 0

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return tokens_behind(self._vocabulary, text, special=False)


def _tokenizer(vocabulary: Vocabulary) -> llguidance.LLTokenizer:
    tokens = _Tokens(vocabulary)
    wrapper = llguidance.TokenizerWrapper(tokens)
    return llguidance.LLTokenizer(wrapper, eos_token=tokens.ends or None)


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's own form. Raises ValueError, RecursionError."""
    matcher = llguidance.LLMatcher
    if grammar.kind == "regex":
        return str(matcher.grammar_from_regex(grammar.text))
    if grammar.kind == "lark":
        return str(matcher.grammar_from_lark(grammar.text))
    if grammar.kind == "gbnf":
        try:
            return str(matcher.grammar_from_lark(gbnf_to_lark(grammar.text)))
        except Exception as error:  # its errors have no common type
            raise ValueError(f"this GBNF cannot be read: {error}") from None
    schema = json.dumps({"type": "object"}) if grammar.kind == "json_object" else grammar.text
    return str(matcher.grammar_from_json_schema(schema, overrides=JSON_OPTIONS))


def refusal(reason: str, param: str = PARAM) -> InvalidRequest:
    """In one line; llguidance explains at length, with the whole grammar."""
    line = " ".join(reason.replace("<non-verbose/>", "").split())[:300]
    return InvalidRequest(f"`{param}` cannot be followed: {line}", param=param)
