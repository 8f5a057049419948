"""The signed end of the log: how many lines there are, and the `chain` of the last.

Whoever changes lines can chain them anew; the signature he cannot make, without the key. Ed25519
(RFC 8032), so that an outsider can check a copy with the public key and forge nothing with it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge.audit.chain import ORIGIN
from edge.errors import AuditBroken


class Head(msgspec.Struct, frozen=True):
    """seq, chain: of the last line. file, size: where it stands, and the bytes up to its end.
    contents_size: of the file with contents beside it.
    oldest: number of the oldest file; before: the `chain` that its first line goes on from."""

    seq: int = 0
    chain: str = ORIGIN
    file: str = ""
    size: int = 0
    contents_size: int = 0
    oldest: int = 1
    before: str = ORIGIN
    time: str = ""


class SealingKey:
    """The private key, which only the daemon's user and root can read."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> SealingKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> SealingKey:
        """Raises `AuditBroken` for a file that has no such key in it, `OSError`."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise AuditBroken(f"{path} cannot be read as a private key: {error}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise AuditBroken(f"{path} is no Ed25519 key")
        return cls(key)

    @property
    def pem(self) -> bytes:
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def public(self) -> PublicKey:
        return PublicKey(self._key.public_key())

    def seal(self, head: Head) -> bytes:
        """The bytes of the file that has it."""
        body = msgspec.json.encode(head)
        return body + b"\n" + self._key.sign(body).hex().encode() + b"\n"


class PublicKey:
    """What a signature is checked with."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @property
    def pem(self) -> bytes:
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def fingerprint(self) -> str:
        der = self._key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return f"sha256:{hashlib.sha256(der).hexdigest()}"

    def open(self, sealed: bytes) -> Head:
        """The head in a file. Raises `AuditBroken` where a byte of it is not as it was signed."""
        body, _, rest = sealed.partition(b"\n")
        try:
            signature = bytes.fromhex(rest.decode("ascii"))
            self._key.verify(signature, body)
            if rest != signature.hex().encode() + b"\n":
                raise ValueError
            return msgspec.json.decode(body, type=Head)
        except (InvalidSignature, ValueError):
            raise AuditBroken("the head of the audit log is not as it was signed") from None


def read_public(path: Path) -> PublicKey:
    """Raises `AuditBroken`, `OSError`."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AuditBroken(f"{path} cannot be read as a public key: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise AuditBroken(f"{path} is no Ed25519 key")
    return PublicKey(key)
