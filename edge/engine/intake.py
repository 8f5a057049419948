"""From a request to a sequence that the engine can run: tokens, limits, checks.

Runs in the worker's reader thread, so that tokenizing a long prompt does not hold up the running
streams. Everything that can be refused is refused here, before any computation.
"""

from __future__ import annotations

from collections.abc import Callable

from edge.engine.backend import Vocabulary
from edge.engine.chat import ChatTemplate
from edge.engine.grammar import Constraint, Grammars
from edge.engine.sequence import Sequence
from edge.errors import ContextLengthExceeded, InvalidRequest
from edge.types import ChatPrompt, Generation, TextPrompt, TokenPrompt

LONGEST_TOKEN = 64
"""Characters; hardly any vocabulary has longer tokens than runs of spaces of this length."""


class Intake:
    """Knows one model's vocabulary, template and context."""

    def __init__(
        self, vocabulary: Vocabulary, template: Callable[[], ChatTemplate | None], context: int
    ) -> None:
        self.vocabulary = vocabulary
        self.context = context
        self.grammars = Grammars(vocabulary)
        self._make_template = template
        self._template: ChatTemplate | None = None

    def prepare(self, generation: Generation) -> Sequence:
        """Raises `InvalidRequest` or `ContextLengthExceeded`; never computes."""
        for token in generation.sampling.logit_bias:
            self._check_token(token, "logit_bias")
        # What is refused without a look at the prompt goes first: it bounds the prompt's tools.
        constraint = self._constraint(generation)
        prompt = self._prompt_tokens(generation)
        room = self.context - len(prompt)
        if room < 1:
            raise self._too_long(generation, f"the prompt has {len(prompt)} tokens")
        limit = room if generation.max_tokens is None else min(generation.max_tokens, room)
        return Sequence(generation, prompt, limit, self.vocabulary, constraint)

    def _constraint(self, generation: Generation) -> Constraint | None:
        prompt = generation.prompt
        tools = prompt.tools if isinstance(prompt, ChatPrompt) else None
        if tools is not None and not tools.callable:
            tools = None
        if tools is None and generation.grammar is None:
            return None
        return self.grammars.constraint(generation.grammar, tools)

    def _prompt_tokens(self, generation: Generation) -> list[int]:
        prompt = generation.prompt
        if isinstance(prompt, ChatPrompt):
            self._check_size(generation, _characters(prompt))
            tokens = self._chat_template().tokens(prompt.messages, prompt.tools)
        elif isinstance(prompt, TextPrompt):
            self._check_size(generation, len(prompt.text))
            tokens = self.vocabulary.tokenize(prompt.text, special=False, bos=True)
        else:
            assert isinstance(prompt, TokenPrompt)
            for token in prompt.tokens:
                self._check_token(token, "prompt")
            tokens = list(prompt.tokens)
        if not tokens:
            raise InvalidRequest("the prompt is empty", param="prompt")
        return tokens

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            self._template = self._make_template()
        if self._template is None:
            raise InvalidRequest(
                "this model has no chat template; use /v1/completions", param="model"
            )
        return self._template

    def _check_size(self, generation: Generation, characters: int) -> None:
        """Refuse by length alone what cannot fit, so that no time goes into tokenizing it."""
        if characters > self.context * LONGEST_TOKEN:
            raise self._too_long(generation, f"the prompt has {characters} characters")

    def _too_long(self, generation: Generation, what: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"{what}, and the context of this model here holds {self.context} tokens, "
            "the answer included",
            param="messages" if isinstance(generation.prompt, ChatPrompt) else "prompt",
        )

    def _check_token(self, token: int, param: str) -> None:
        if not 0 <= token < self.vocabulary.size:
            raise InvalidRequest(
                f"{param} names token {token}; this model has 0 to {self.vocabulary.size - 1}",
                param=param,
            )


def _characters(prompt: ChatPrompt) -> int:
    """About; what a template writes beside the contents is not counted."""
    calls = [call for message in prompt.messages for call in message.tool_calls]
    offered = prompt.tools.callable if prompt.tools else []
    return (
        sum(len(message.content) for message in prompt.messages)
        + sum(len(call.arguments) for call in calls)
        + sum(len(tool.parameters) + len(tool.description or "") for tool in offered)
    )
