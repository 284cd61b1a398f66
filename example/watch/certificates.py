"""What does a certificate say? Plain functions on PEM text; no database, no tasks."""

import hashlib
import re
import ssl
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def read_bundle() -> dict[str, str]:
    """Return certifi's certificates as PEM text, by SHA-256 fingerprint."""
    text = Path(certifi.where()).read_text(encoding="utf-8")
    return {fingerprint(pem): pem for pem in PEM.findall(text)}


def fingerprint(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def describe(pem: str) -> dict[str, Any]:
    """Return who a certificate is for and from, its key, and when it is valid."""
    with warnings.catch_warnings():
        # Some roots older than RFC 5280 have a serial number that is not positive.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        certificate = x509.load_pem_x509_certificate(pem.encode())
    return {
        "subject": short_name(certificate.subject),
        "issuer": short_name(certificate.issuer),
        "key": describe_key(certificate.public_key()),
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
    }


def short_name(name: x509.Name) -> str:
    """Return the common name, or what comes nearest to one: old roots have none."""
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME):
        if found := name.get_attributes_for_oid(oid):
            return str(found[0].value)
    return name.rfc4514_string()


def describe_key(key: object) -> str:
    """Return a key's kind and size, such as "RSA 4096" or "EC secp384r1"."""
    match key:
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePublicKey():
            return f"EC {key.curve.name}"
        case _:
            return type(key).__name__.removesuffix("PublicKey")


def days_left(not_after: datetime, now: datetime) -> int:
    """Return whole days until a certificate expires; below zero when it has."""
    return (not_after - now).days
