"""Ed25519 keys on disk, and self-signed TLS certificates that a region manifest can pin."""

import os
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from usmed.domain.errors import ConfigurationError

CERTIFICATE_LIFE = timedelta(days=825)
SHORTEST_PASSPHRASE = 12


def generate_key(path: Path) -> OKPKey:
    """Make an Ed25519 key and write it to `path` as PKCS#8 PEM, readable by its owner only.

    Raises:
        ConfigurationError: the file exists already (a key is never overwritten) or cannot be written.
    """
    key = OKPKey.generate_key("Ed25519", private=True)
    _write_secret(path, key.as_pem(private=True))
    return key


def generate_encrypted_key(path: Path, passphrase: str) -> OKPKey:
    """Make an Ed25519 key and write it to `path` as encrypted PKCS#8 PEM (RFC 5958), readable by its owner only.

    Raises:
        ConfigurationError: a passphrase of less than twelve characters; the file exists already or cannot be written.
    """
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise ConfigurationError(str(path), [f"its passphrase must have {SHORTEST_PASSPHRASE} characters or more"])
    key = Ed25519PrivateKey.generate()
    encryption = serialization.BestAvailableEncryption(passphrase.encode("utf-8"))
    _write_secret(path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return _as_jwk(key)


def load_encrypted_key(path: Path, passphrase: str) -> OKPKey:
    """Read a private Ed25519 key that is encrypted under a passphrase.

    Raises:
        ConfigurationError: unreadable, not encrypted, another passphrase, or not such a key.
    """
    key = _open(path, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(str(path), ["is not a private Ed25519 key"])
    return _as_jwk(key)


def encryption_key_file(signing_key: Path) -> Path:
    """Return where the encryption key lies that belongs to a signing key: beside it."""
    return signing_key.with_name(signing_key.name + ".encryption")


def load_or_make_encryption_key(path: Path, passphrase: str) -> OKPKey:
    """Return the private X25519 key in `path`, encrypted under a passphrase; it is made if the file is missing.

    Raises:
        ConfigurationError: unreadable, another passphrase, not such a key, or it cannot be written.
    """
    if not path.exists():
        made = X25519PrivateKey.generate()
        encryption = serialization.BestAvailableEncryption(passphrase.encode("utf-8"))
        _write_secret(
            path, made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return _as_jwk(made)
    key = _open(path, passphrase)
    if not isinstance(key, X25519PrivateKey):
        raise ConfigurationError(str(path), ["is not a private X25519 key"])
    return _as_jwk(key)


def _open(path: Path, passphrase: str) -> object:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}"]) from error
    if b"ENCRYPTED PRIVATE KEY" not in data:
        raise ConfigurationError(str(path), ["is not an encrypted PEM private key"])
    try:
        return serialization.load_pem_private_key(data, passphrase.encode("utf-8"))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(str(path), ["cannot be opened with this passphrase"]) from error


def _as_jwk(key: Ed25519PrivateKey | X25519PrivateKey) -> OKPKey:
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return OKPKey.import_key(plain)


def load_private_key(path: Path) -> OKPKey:
    """Read a private Ed25519 key.

    Raises:
        ConfigurationError: unreadable, or not such a key.
    """
    try:
        key = OKPKey.import_key(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (JoseError, ValueError, TypeError) as error:
        raise ConfigurationError(str(path), ["is not a PEM private key"]) from error
    if not key.is_private or key.curve_name != "Ed25519":
        raise ConfigurationError(str(path), ["is not a private Ed25519 key"])
    return key


def public_key_text(key: OKPKey) -> str:
    """Return the public key as a region manifest writes it: base64url of 32 bytes."""
    return str(key.as_dict(private=False)["x"])


def generate_certificate(*hosts: str, certificate: Path, key: Path, now: datetime) -> None:
    """Make a self-signed TLS certificate for these hosts (names or addresses) and its own P-256 key, both PEM.

    Raises:
        ConfigurationError: a file exists already or cannot be written.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    start = now.astimezone(UTC) - timedelta(hours=1)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + CERTIFICATE_LIFE)
        .add_extension(x509.SubjectAlternativeName(map(_alternative, hosts)), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(private, hashes.SHA256())
    )
    _write_secret(
        key,
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    _write(certificate, built.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_secret(path: Path, data: bytes) -> None:
    _write(path, data, mode=0o600)


def _write(path: Path, data: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise ConfigurationError(str(path), ["exists already; it is not overwritten"]) from error
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be written: {error.strerror}"]) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
