"""What tests with a real model share; each file says which model by its fixture `backend`."""

from __future__ import annotations

import pytest

from edge.engine.chat import ChatTemplate
from edge.engine.llama import LlamaBackend


@pytest.fixture(scope="module")
def template(backend: LlamaBackend) -> ChatTemplate:
    source = backend.chat_template()
    assert source is not None
    return ChatTemplate(source, backend.vocabulary)
