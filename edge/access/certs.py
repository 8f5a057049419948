"""A certificate authority of the appliance's own, and the certificate that it makes for the server.

    <state>/certs/ca.crt      what clients trust            ca.key      signs, mode 0600
    <state>/certs/server.crt  with the authority behind it  server.key  mode 0600

Made by `edge certs init`; a certificate is renewed beside the running daemon, by the daemon itself
where the authority's key is here. All keys are of the curve P-256, which every TLS library has.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.disk import sync, write_atomically
from edge.errors import BadCertificate

AUTHORITY_DAYS = 20 * 365
"""A box runs for ten years, and the certificate of its last day has to be believed."""

DAYS = 397
"""The longest that browsers and Apple's systems believe."""

EARLIER = datetime.timedelta(hours=1)
"""A certificate begins so long before it is made: clocks of a plant differ."""


class Facts(msgspec.Struct):
    """Of one certificate. ends: epoch seconds. fingerprint: SHA-256 in hex, as browsers show it."""

    subject: str
    names: list[str]
    ends: float
    fingerprint: str


class Certificates:
    """The folder with all four files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = folder / "ca.crt"
        self.server = folder / "server.crt"
        self.key = folder / "server.key"
        self._authority_key = folder / "ca.key"

    @property
    def renewable(self) -> bool:
        return self._authority_key.exists()

    def init(self, names: Sequence[str], device: str) -> None:
        """Make what is missing; an authority that is there stays, for clients trust it.

        names: host names and addresses of the server. Raises `BadCertificate`, `OSError`.
        """
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not self.authority.exists():
            self._make_authority(device)
        self.renew(names)

    def renew(self, names: Sequence[str] | None = None) -> None:
        """A new key and certificate for the server; None for the names that it has now.

        Raises `BadCertificate` where there is no authority here, and `OSError`.
        """
        names = facts(self.server).names if names is None else names
        key, made = self._issue(names, ExtendedKeyUsageOID.SERVER_AUTH)
        # One file with both would be one rename; OpenSSL's users expect two. Whoever reads them in
        # between finds that they do not fit, and goes on with what he has.
        write_atomically(self.key, _private(key), mode=0o600)
        write_atomically(self.server, _public(made), _public(_read(self.authority)), mode=0o644)

    def client(self, name: str) -> tuple[bytes, bytes]:
        """A certificate by which a client is let in where they are asked for, and its key, as PEM.

        Nothing of it is kept. Raises like `renew`.
        """
        key, made = self._issue([name], ExtendedKeyUsageOID.CLIENT_AUTH)
        return _public(made), _private(key)

    def broker(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """A certificate for another server on this machine, with the authority behind it, and its
        key, as PEM. It lasts as long as the authority: nobody renews it, and no browser sees it.

        names: as for `init`. Nothing of it is kept. Raises like `renew`.
        """
        key, made = self._issue(names, ExtendedKeyUsageOID.SERVER_AUTH, AUTHORITY_DAYS)
        return _public(made) + _public(_read(self.authority)), _private(key)

    def _issue(
        self, names: Sequence[str], purpose: x509.ObjectIdentifier, days: int = DAYS
    ) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        try:
            signer = serialization.load_pem_private_key(self._authority_key.read_bytes(), None)
        except FileNotFoundError:
            raise BadCertificate(
                f"there is no {self._authority_key}, which signs", hint="edge certs init"
            ) from None
        except ValueError as error:
            raise BadCertificate(f"{self._authority_key}: {error}") from None
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        authority = _read(self.authority)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        last = authority.not_valid_after_utc - EARLIER
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        made = (
            x509.CertificateBuilder()
            .subject_name(_name(names[0] if names else "edge"))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - EARLIER)
            .not_valid_after(min(now + datetime.timedelta(days=days), last))
            .add_extension(x509.SubjectAlternativeName(_general(names)), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(signer, hashes.SHA256())
        )
        return key, made

    def _make_authority(self, device: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        name = _name(f"edge appliance {device}")
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - EARLIER)
            .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        write_atomically(self._authority_key, _private(key), mode=0o600)
        write_atomically(self.authority, _public(made), mode=0o644)
        sync(self.folder)


def facts(path: Path) -> Facts:
    """Of the first certificate in a PEM file. Raises `BadCertificate`."""
    found = _read(path)
    try:
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [str(one.value) for one in extension.value]
    except x509.ExtensionNotFound:
        names = []
    return Facts(
        subject=found.subject.rfc4514_string(),
        names=names,
        ends=found.not_valid_after_utc.timestamp(),
        fingerprint=found.fingerprint(hashes.SHA256()).hex(":").upper(),
    )


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0]
    except FileNotFoundError:
        raise BadCertificate(f"there is no {path}", hint="edge certs init") from None
    except (OSError, ValueError) as error:
        raise BadCertificate(f"{path} cannot be read as a certificate: {error}") from None


def _general(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            try:
                found.append(x509.DNSName(name))
            except ValueError:
                raise BadCertificate(f"{name!r} is no host name and no address") from None
    return found


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
