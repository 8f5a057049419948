"""The ceiling: the engine stepped in this process, with no server, no socket and no client."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from edge.engine.chat import ChatTemplate
from edge.engine.drafts import Drafter
from edge.engine.engine import Engine
from edge.engine.intake import Intake
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.types import ChatPrompt, EngineSettings, Generation, Message, Sampling


class Ceiling:
    """A loaded model. `wave` runs some prompts to their end, all at once."""

    def __init__(self, path: Path, settings: EngineSettings) -> None:
        backend = LlamaBackend("ceiling", path, settings, LlamaLog())
        template = backend.chat_template()
        assert template is not None
        compiled = ChatTemplate(template, backend.vocabulary)
        self.intake = Intake(backend.vocabulary, lambda: compiled, backend.context)
        self.engine = Engine(backend, drafter=Drafter())

    def wave(self, prompts: Sequence[str], tokens: int) -> float:
        """Seconds until every prompt has its `tokens` tokens."""
        for number, prompt in enumerate(prompts):
            generation = Generation(
                id=str(number),
                prompt=ChatPrompt([Message("user", prompt)]),
                sampling=Sampling(temperature=0),
                max_tokens=tokens,
                ignore_eos=True,
            )
            self.engine.submit(self.intake.prepare(generation))
        began = time.perf_counter()
        while not self.engine.idle:
            self.engine.admit()
            self.engine.step()
        return time.perf_counter() - began
