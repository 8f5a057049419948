"""What a message asks for, by the topic it came on: each inbox makes jobs of its payloads, and asks
the service for nothing but names.

    chat          a chat body, `{"prompt": …}` or plain text
    embed         a body for embeddings, or a text
    infer/MODEL   a picture as it is, `{"image": …}`, or tensors as `{"inputs": […]}`
    infer/CHAIN   a picture as it is, or `{"image": …}` with the chain's fields
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from edge.access.visitor import Visitor
from edge.api.mqtt import prompt
from edge.api.mqtt.message import Incoming
from edge.api.mqtt.prompt import Envelope
from edge.aside import Aside
from edge.chains.body import ChainBody, body_of_fields
from edge.chains.chains import Chains
from edge.errors import InvalidRequest, NotFound
from edge.jobs.inferring import InferBody
from edge.jobs.intake import chain_job, embed_job, infer_job, new_job
from edge.jobs.permit import permit, permit_text
from edge.kserve.parse import parse as parse_tensors
from edge.openai import parse
from edge.openai.embeddings import EmbeddingBody
from edge.openai.pictures import PictureBody, picture_work
from edge.openai.schema import EdgeOptions
from edge.report_prompt import fields_of_texts
from edge.service import Service
from edge.store.job import NewJob
from edge.tensors import PictureWork


@dataclass
class Asking:
    """One message on its way to a job. lane: the reply topic, or that of all default ones. owed:
    the job's target."""

    message: Incoming
    envelope: Envelope
    visitor: Visitor
    job_id: str
    lane: str
    owed: bytes

    @property
    def origin(self) -> dict[str, Any]:
        """What every job says of where it comes from."""
        return {
            "job_id": self.job_id,
            "client": self.visitor.caller or self.lane,
            "door": "mqtt",
            "target": self.owed,
        }

    def options(self, given: EdgeOptions | None) -> EdgeOptions:
        """With the User Properties that the HTTP door has as headers. Raises `InvalidRequest`."""
        options = parse.with_headers(given or EdgeOptions(), self.message.user)
        if options.webhook is not None:
            raise InvalidRequest("a webhook goes with HTTP only", param="edge.webhook")
        return options


class Inbox(Protocol):
    """raw: whether a payload may be something else than text."""

    @property
    def raw(self) -> bool: ...

    async def job(self, asking: Asking) -> tuple[NewJob, bool]:
        """The job for a message without a problem, and whether pieces of its answer are wanted.

        Raises an `EdgeError`.
        """


class ChatInbox:
    raw = False

    def __init__(self, service: Service) -> None:
        self._service = service

    async def job(self, asking: Asking) -> tuple[NewJob, bool]:
        body = prompt.chat_body(asking.envelope)
        body.edge = asking.options(body.edge)
        permit_text(asking.visitor, body, self._service.config.models.default)
        return new_job(self._service, body, **asking.origin), bool(body.stream)


class EmbedInbox:
    raw = False

    def __init__(self, service: Service) -> None:
        self._service = service

    async def job(self, asking: Asking) -> tuple[NewJob, bool]:
        envelope = asking.envelope
        if envelope.text is not None:
            body = EmbeddingBody(input=envelope.text)
        else:
            body = parse.decode(msgspec.json.encode(envelope.fields), EmbeddingBody)
        options, visitor = asking.options(body.edge), asking.visitor
        if body.model not in (None, "default"):  # before it is said whether it is there
            permit(visitor, options, body.model)
        model = await self._service.texts.choose("embed", body.model)
        body.edge = permit(visitor, options, model)
        return embed_job(self._service, model, body, **asking.origin), False


class ModelInbox:
    """Of one ONNX model."""

    raw = True

    def __init__(self, service: Service, aside: Aside, model: str) -> None:
        self._service = service
        self._aside = aside
        self._model = model

    async def job(self, asking: Asking) -> tuple[NewJob, bool]:
        size, visitor = asking.message.size, asking.visitor
        visitor.check_model(self._model)
        body, given = await self._aside.run(size, self._body, asking.envelope)
        options = permit(visitor, asking.options(given), self._model)
        return infer_job(self._service, self._model, body, options, **asking.origin), False

    def _body(self, envelope: Envelope) -> tuple[InferBody, EdgeOptions | None]:
        if envelope.raw is not None:
            return InferBody(PictureWork(envelope.raw)), None
        fields = dict(envelope.fields)
        if "inputs" in fields:
            options = parse.decode_options(msgspec.json.decode(fields.pop("edge", b"null")))
            tensors = msgspec.json.encode(fields)
            parse_tensors(tensors)
            return InferBody(tensors=tensors), options
        if "image" not in fields:
            raise InvalidRequest(
                'a payload here is a picture, {"image": …} with base64, or {"inputs": […]} with'
                " tensors"
            )
        body = parse.decode(msgspec.json.encode(fields), PictureBody)
        if body.model not in (None, self._model):
            raise InvalidRequest(f"the topic names `{self._model}`", param="model")
        return InferBody(picture_work(body)), body.edge


class ChainInbox:
    raw = True

    def __init__(self, chains: Chains, aside: Aside, name: str) -> None:
        self._chains = chains
        self._aside = aside
        self._name = name

    async def job(self, asking: Asking) -> tuple[NewJob, bool]:
        body = await self._aside.run(asking.message.size, self._body, asking)
        models = (self._chains[self._name].see, self._chains.writer(self._name))
        body.options = permit(asking.visitor, asking.options(body.options), *models)
        return chain_job(self._chains, self._name, body, **asking.origin), False

    def _body(self, asking: Asking) -> ChainBody:
        """Beside a picture as it is, fields are User Properties; others than those are not ours."""
        envelope = asking.envelope
        if envelope.raw is None:
            fields = {key: msgspec.json.decode(raw) for key, raw in envelope.fields.items()}
            return body_of_fields(fields)
        declared, given = self._chains[self._name].fields, asking.message.user
        texts = {name: given[name] for name in declared if name in given}
        return ChainBody(envelope.raw, fields_of_texts(declared, texts))


class Inboxes:
    def __init__(self, service: Service, chains: Chains) -> None:
        self._service = service
        self._chains = chains
        self._aside = Aside()
        self._texts: dict[str, Inbox] = {"chat": ChatInbox(service), "embed": EmbedInbox(service)}

    def of(self, kind: str, name: str) -> Inbox:
        """Of a topic `…/{kind}` or `…/{kind}/{name}`. Raises `NotFound`."""
        if kind in self._texts:
            return self._texts[kind]
        if kind == "infer":
            if name in self._chains:
                return ChainInbox(self._chains, self._aside, name)
            return ModelInbox(self._service, self._aside, name)
        raise NotFound(f"nothing listens on {kind}")
