"""Ed25519 keys (RFC 8032): one that signs bundles, and those that a machine trusts.

Both are the PEM files of `openssl genpkey -algorithm ed25519`. The trusted ones lie in a folder
beside the configuration, which the daemon's user cannot write to; several, so that a new key can be
brought before the old one goes. A key is told by its fingerprint: sha256 of its DER form.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge.disk import sync
from edge.errors import BundleRefused

SIGNATURE_SIZE = 32 + 64
"""The signer's raw public key, then the signature."""


class TrustedKeys:
    """The public keys in a folder: all its `*.pem`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def verify(self, message: bytes, signature: bytes) -> str:
        """Return the signer's fingerprint. Raises `BundleRefused`."""
        signer, seal = signature[:32], signature[32:]
        try:
            key = Ed25519PublicKey.from_public_bytes(signer)
        except ValueError:
            raise _altered() from None
        name = fingerprint(key)
        if name not in self._fingerprints():
            raise BundleRefused(
                f"it is signed with the key {name}, which {self.folder} does not have",
                hint=f"if that is your key: cp KEY.pem {self.folder}/",
            )
        try:
            key.verify(seal, message)
        except InvalidSignature:
            raise _altered() from None
        return name

    def _fingerprints(self) -> set[str]:
        return {fingerprint(_read_public(path)) for path in sorted(self.folder.glob("*.pem"))}


class SigningKey:
    """A private key. It never leaves the machine that makes bundles."""

    def __init__(self, path: Path) -> None:
        """Raises `BundleRefused` for a file that has no such key in it."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BundleRefused(
                f"{path} cannot be read as a private key: {error}",
                hint="edge bundle keygen FILE makes one",
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise BundleRefused(f"{path} is no Ed25519 key", hint="edge bundle keygen FILE")
        self._key = key

    @property
    def fingerprint(self) -> str:
        return fingerprint(self._key.public_key())

    def public_pem(self) -> str:
        return self._key.public_key().public_bytes(*_PUBLIC_PEM).decode()

    def sign(self, message: bytes) -> bytes:
        """`SIGNATURE_SIZE` bytes."""
        return self._key.public_key().public_bytes_raw() + self._key.sign(message)


def make_key(path: Path) -> SigningKey:
    """Write a new private key that only its owner may read. Raises `OSError`, also for a file that
    is there already."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(handle)
    sync(path.absolute().parent)
    return SigningKey(path)


def fingerprint(key: Ed25519PublicKey) -> str:
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def _read_public(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise BundleRefused(
            f"{path} cannot be read as a public key: {error}",
            hint="edge bundle keygen prints one; it begins with BEGIN PUBLIC KEY",
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise BundleRefused(f"{path} is no Ed25519 key", hint="take it out of the folder")
    return key


def _altered() -> BundleRefused:
    return BundleRefused(
        "its signature does not fit its manifest: it was altered or damaged",
        hint="copy it again from where it was made",
    )


_PUBLIC_PEM = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
