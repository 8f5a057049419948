"""What a config.pbtxt says of a model, of which Triton's layout knows:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html

Fields that would change what is computed and are not done here are refused by name; all others are
noted, to be said in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

import msgspec

from edge.errors import BadModelFile
from edge.repository.pbtxt import Message, Value, Word, parse
from edge.tensors import Datatype

Device = Literal["auto", "cpu", "gpu"]

PLATFORMS = {"onnxruntime_onnx"}
BACKENDS = {"onnxruntime"}

IGNORED = {
    *("name", "platform", "backend", "runtime", "max_batch_size", "input", "output"),
    *("version_policy", "instance_group", "dynamic_batching", "default_model_filename"),
    *("parameters", "model_warmup", "metric_tags", "cc_model_filenames"),
}
"""What is read, and what means nothing to this appliance."""

REFUSED = {
    "ensemble_scheduling": "an ensemble is no model of its own",
    "sequence_batching": "requests of one sequence are not kept together here",
    "batch_input": "inputs that are made of the batch are not known here",
    "batch_output": "outputs that are made of the batch are not known here",
    "model_transaction_policy": "a model answers once for each request here",
    "model_operations": "libraries of operators are not loaded",
}
"""What would change the answers, and why it is not done."""

DATATYPES: dict[str, Datatype] = {
    "TYPE_STRING": "BYTES",
    **{f"TYPE_{one}": one for one in get_args(Datatype) if one != "BYTES"},
}


class ValueShape(msgspec.Struct, frozen=True):
    """An input or output. dims: without the batch; -1 for one that is free."""

    name: str
    datatype: Datatype
    dims: tuple[int, ...]


class VersionPolicy(msgspec.Struct, frozen=True):
    """Which may be asked for. latest: so many of the highest; 0 for all. specific: these."""

    latest: int = 1
    specific: tuple[int, ...] = ()

    def chosen(self, there: list[int]) -> list[int]:
        """Of those that are there, in ascending order."""
        if self.specific:
            return [version for version in there if version in self.specific]
        return there[-self.latest :] if self.latest else there


class TritonConfig(msgspec.Struct, frozen=True):
    """max_batch: 0 where the first dimension is not for batches. delay_ms: None where nothing is
    said of it. preferred: rows at which a batch is computed at once. instances: batches computed
    at a time. unknown: blocks that mean nothing here."""

    max_batch: int = 0
    inputs: tuple[ValueShape, ...] = ()
    outputs: tuple[ValueShape, ...] = ()
    delay_ms: float | None = None
    preferred: tuple[int, ...] = ()
    dynamic: bool = False
    instances: int = 1
    device: Device = "auto"
    versions: VersionPolicy = VersionPolicy()
    file: str = "model.onnx"
    unknown: tuple[str, ...] = ()


MOST_INSTANCES = 16


def read_config(text: str, folder: str) -> TritonConfig:
    """folder: the model's name, which the file has to agree with. Raises `BadModelFile`."""
    tree = parse(text)
    for field, reason in REFUSED.items():
        if field in tree:
            raise BadModelFile(f"`{field}` is not supported: {reason}")
    _check_names(tree, folder)
    batching = _block(tree, "dynamic_batching")
    instances, device = _instances(tree)
    delay = _number(batching, "max_queue_delay_microseconds")
    return TritonConfig(
        max_batch=_number(tree, "max_batch_size") or 0,
        inputs=tuple(_values(tree, "input")),
        outputs=tuple(_values(tree, "output")),
        delay_ms=None if delay is None else delay / 1000,
        preferred=tuple(_ints(batching, "preferred_batch_size", "dynamic_batching.")),
        dynamic="dynamic_batching" in tree,
        instances=instances,
        device=device,
        versions=_versions(tree),
        file=_file(tree),
        unknown=tuple(sorted(set(tree) - IGNORED)),
    )


def _check_names(tree: Message, folder: str) -> None:
    name = _text(tree, "name")
    if name and name != folder:
        raise BadModelFile(f"`name` is {name!r}, and the folder is {folder!r}")
    platform, backend = _text(tree, "platform"), _text(tree, "backend")
    if platform and platform not in PLATFORMS:
        raise BadModelFile(f"`platform` is {platform!r}; only onnxruntime_onnx is served here")
    if backend and backend not in BACKENDS:
        raise BadModelFile(f"`backend` is {backend!r}; only onnxruntime is served here")


def _values(tree: Message, field: str) -> list[ValueShape]:
    found = []
    for at, value in enumerate(tree.get(field, [])):
        where = f"{field}[{at}]"
        block = _as_block(value, where)
        if "reshape" in block:
            raise BadModelFile(f"`{where}.reshape` is not supported: give shapes as the model's")
        if "is_shape_tensor" in block and block["is_shape_tensor"] != [Word("false")]:
            raise BadModelFile(f"`{where}.is_shape_tensor` is not supported: it is TensorRT's")
        name, said = _text(block, "name"), _text(block, "data_type")
        if not name or said not in DATATYPES:
            raise BadModelFile(f"`{where}`: name and data_type are wanted, data_type is {said!r}")
        dims = tuple(_ints(block, "dims", f"{where}."))
        if any(size == 0 or size < -1 for size in dims):
            raise BadModelFile(f"`{where}.dims` are {list(dims)}; sizes, or -1 for any")
        found.append(ValueShape(name, DATATYPES[said], dims))
    return found


def _instances(tree: Message) -> tuple[int, Device]:
    """So many for all groups together, and where they are to be computed."""
    count, kinds = 0, set()
    for at, value in enumerate(tree.get("instance_group", [])):
        block = _as_block(value, f"instance_group[{at}]")
        some = _number(block, "count")
        count += 1 if some is None else some
        kinds.add(_text(block, "kind") or "KIND_AUTO")
    device: Device = "auto"
    if kinds == {"KIND_CPU"}:
        device = "cpu"
    elif kinds == {"KIND_GPU"}:
        device = "gpu"
    if count > MOST_INSTANCES:
        raise BadModelFile(f"`instance_group`: {count} instances, {MOST_INSTANCES} at most")
    return max(1, count), device


def _versions(tree: Message) -> VersionPolicy:
    policy = _block(tree, "version_policy")
    if "all" in policy:
        return VersionPolicy(latest=0)
    if "specific" in policy:
        block = _block(policy, "specific")
        versions = tuple(_ints(block, "versions", "version_policy.specific."))
        if not versions:
            raise BadModelFile("`version_policy.specific.versions` is empty")
        return VersionPolicy(specific=versions)
    count = _number(_block(policy, "latest"), "num_versions")
    return VersionPolicy(latest=1 if count is None else max(1, count))


def _file(tree: Message) -> str:
    name = _text(tree, "default_model_filename") or "model.onnx"
    if "/" in name or name in (".", ".."):
        raise BadModelFile(f"`default_model_filename` is {name!r}; a file of the version's folder")
    return name


def _last(block: Mapping[str, list[Value]], field: str) -> Value | None:
    """The format lets a later value of a field replace an earlier one."""
    values = block.get(field)
    return values[-1] if values else None


def _text(block: Message, field: str) -> str | None:
    value = _last(block, field)
    if value is not None and not isinstance(value, str):
        raise BadModelFile(f"`{field}` is to be a text")
    return value


def _number(block: Message, field: str) -> int | None:
    """A count; none of those that are read here may be negative."""
    value = _last(block, field)
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise BadModelFile(f"`{field}` is to be a number from 0 on, and is {value!r}")
    return value


def _ints(block: Message, field: str, where: str) -> list[int]:
    values = block.get(field, [])
    if not all(isinstance(value, int) for value in values):
        raise BadModelFile(f"`{where}{field}` is to be a list of whole numbers")
    return cast(list[int], values)


def _block(tree: Message, field: str) -> Message:
    value = _last(tree, field)
    return {} if value is None else _as_block(value, field)


def _as_block(value: Value, where: str) -> Message:
    if not isinstance(value, dict):
        raise BadModelFile(f"`{where}` is to be a block in braces")
    return value
