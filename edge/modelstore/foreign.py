"""What a file is that should have been a model: the mistakes that people make, by name."""

from __future__ import annotations

_STARTS = (
    (b"version https://git-lfs", "it is a git-lfs pointer: the model itself was not fetched"),
    (b"PK\x03\x04", "it is a zip archive, as PyTorch checkpoints and wheels are"),
    (b"\x80", "it is a Python pickle"),
    (b"\x1f\x8b", "it is gzip data"),
    (b"\x28\xb5\x2f\xfd", "it is zstd data"),
    (b"tjgg", "it is in the GGML format that came before GGUF"),
    (b"lmgg", "it is in the GGML format that came before GGUF"),
    (b"fmgg", "it is in the GGML format that came before GGUF"),
    (b"{", "it is JSON text"),
)


def looks_like(head: bytes, size: int) -> str:
    """A clause for a person about a file of `size` bytes that begins with `head`."""
    if not size:
        return "it is empty"
    if not head.strip(b"\0"):
        return "it starts with zeros, as an unfinished copy does"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page: the download went wrong"
    # Safetensors: the length of a JSON header in 8 bytes, then the header.
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < size:
        return "it is a safetensors file, which has to be converted to GGUF"
    for start, what in _STARTS:
        if head.startswith(start):
            return what
    return f"it starts with {head[:4]!r}"
