"""The chains of the configuration, each run as one request: look at a picture, then write.

Both halves go through the service like requests of their own, with the priority and what is left
of the deadline of the whole. Nothing is kept between them, so that a chain that died half-way is
run again from its picture. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from edge.chains.body import ChainAnswer, ChainBody
from edge.config import answering
from edge.errors import EdgeError, InvalidRequest, ModelNotFound
from edge.openai import render
from edge.openai.asked import Asked
from edge.openai.collect import collect
from edge.openai.pictures import sighting_fields
from edge.openai.shape import Chat
from edge.report_prompt import ReportPrompt, chosen_fields
from edge.service import Service
from edge.store.job import Door
from edge.tensors import Inference, Inferred, PictureWork, Sighting
from edge.types import ChatPrompt, Message, Request, Sampling, Trail


@dataclass
class Whose:
    """One run of a chain: its number, where it came in, whose it is. deadline: time.monotonic().
    kept: it is in the ledger. created: epoch seconds."""

    id: str
    door: Door
    caller: str = ""
    deadline: float | None = None
    kept: bool = False
    created: int = 0


class Chains(Mapping[str, answering.Chain]):
    """By their names. service: what both halves are asked of."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.reconfigure(service.config.chains)

    def reconfigure(self, chains: Mapping[str, answering.Chain]) -> None:
        """Runs that have begun keep what they began with."""
        self._chains = chains
        self._prompts = {
            name: ReportPrompt(chain.prompt, chain.fields) for name, chain in chains.items()
        }

    def __getitem__(self, name: str) -> answering.Chain:
        """Raises `ModelNotFound`."""
        if name not in self._chains:
            known = ", ".join(self._chains) or "none is configured"
            raise ModelNotFound(f"there is no chain `{name}`; there are: {known}", param="chain")
        return self._chains[name]

    def __contains__(self, name: object) -> bool:
        return name in self._chains

    def __iter__(self) -> Iterator[str]:
        return iter(self._chains)

    def __len__(self) -> int:
        return len(self._chains)

    def check(self, name: str, body: ChainBody) -> None:
        """Raises `ModelNotFound`, `NoRoute` and `InvalidRequest` for what no waiting mends."""
        chain = self[name]
        chosen_fields(chain.fields, body.fields)
        with _half("looks at the picture", chain.see):
            self._service.onnx.folder(chain.see)
        with _half("writes the text", self.writer(name)):
            self._service.check(self._request(chain, body, Whose("", "http"), ""))

    def writer(self, name: str) -> str:
        """The model or route that writes."""
        return self[name].model or self._service.config.models.default

    async def run(self, name: str, body: ChainBody, whose: Whose) -> ChainAnswer:
        """Raises an `EdgeError` that tells which half it comes of."""
        # Held from here on: the configuration may change meanwhile.
        chain, template, writer = self[name], self._prompts[name], self.writer(name)
        fields = chosen_fields(chain.fields, body.fields)
        with _half("looks at the picture", chain.see):
            seen = await self._look(chain, body, whose)
        assert isinstance(seen.result, Sighting)
        sighting = seen.result
        # Jinja in the event loop would hold up all others, however short its time is.
        prompt = await asyncio.to_thread(template.fill, sighting, fields)
        with _half("writes the text", writer):
            request, trail = self._request(chain, body, whose, prompt), Trail()
            source = self._service.generate(request, whose.door, trail)
            said = await collect(Asked(request, Chat(request), source, trail, whose.created))
        (choice,) = said.choices
        assert isinstance(said.usage, render.UsageBody)
        assert isinstance(said.edge, render.Origin)
        return ChainAnswer(
            id=f"chain-{whose.id}",
            created=whose.created,
            chain=name,
            model=said.model,
            text=choice["message"]["content"],
            finish_reason=choice["finish_reason"],
            usage=said.usage,
            sighting=sighting_fields(sighting),
            edge=said.edge.spent(said.edge.energy.plus(seen.energy)),
        )

    async def _look(self, chain: answering.Chain, body: ChainBody, whose: Whose) -> Inferred:
        inference = Inference(
            id=f"{whose.id}.see",
            model=chain.see,
            work=PictureWork(body.picture, threshold=chain.threshold),
            priority=body.options.priority,
            deadline=whose.deadline,
            caller=whose.caller,
            kept=whose.kept,
            may_wait=body.options.allow_queue,
        )
        inferred = await self._service.infer(inference, whose.door)
        if not isinstance(inferred.result, Sighting):
            raise InvalidRequest("it is not for pictures", hint="`task` in its model.yaml tells")
        return inferred

    def _request(
        self, chain: answering.Chain, body: ChainBody, whose: Whose, prompt: str
    ) -> Request:
        options = body.options
        turns = [Message("user", prompt)]
        if chain.system is not None:
            turns.insert(0, Message("system", chain.system))
        left = None if whose.deadline is None else max(0.0, whose.deadline - time.monotonic())
        return Request(
            id=whose.id,
            prompts=[ChatPrompt(turns)],
            sampling=Sampling(temperature=chain.temperature),
            model=chain.model,
            max_tokens=chain.max_tokens,
            priority=options.priority,
            route="auto" if options.route == "queue" else options.route,
            on_cut=options.on_cut,
            may_wait=options.allow_queue,
            cache=options.cache,
            shared_prefix=options.shared_prefix,
            deadline=left,
            kept=whose.kept,
            caller=whose.caller,
        )


@contextmanager
def _half(what: str, model: str) -> Iterator[None]:
    """Errors of one half tell which it is."""
    try:
        yield
    except EdgeError as error:
        error.message = f"`{model}`, which {what}: {error.message}"
        error.args = (error.message,)
        raise
