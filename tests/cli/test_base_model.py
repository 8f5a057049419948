"""A model that can complete texts and not chat, in the configuration that is served."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from edge.config.place import state_dir
from edge.config.tree import Config
from edge.fleet.installed import InstalledModels
from edge.metrics import Metrics
from edge.startup import open_first


def test_start_tells_that_there_is_no_chat_template(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is served all the same."""
    models = msgspec.structs.replace(Config().models, default="tiny", preload=["tiny"])
    config = msgspec.structs.replace(Config(), models=models)
    with closing(InstalledModels(state_dir(), config.engine, Metrics())) as installed:
        open_first(config, installed)
        assert installed.path("tiny") == tiny_model
    assert "tiny has no chat template" in caplog.text
