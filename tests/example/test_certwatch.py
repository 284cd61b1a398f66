"""The example's reading of certificates, on the bundle that certifi ships."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "example"


@pytest.fixture
def certificates(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    from watch import certificates

    return certificates


def test_every_certificate_of_the_bundle_is_understood(certificates):
    bundle = certificates.read_bundle()

    said = [certificates.describe(pem) for pem in bundle.values()]

    assert len(said) > 100
    assert all(one["subject"] and one["issuer"] for one in said)
    assert all(one["not_before"] < one["not_after"] for one in said)
    assert {one["key"].split()[0] for one in said} <= {"RSA", "EC", "Ed25519"}


def test_a_known_root_is_described_by_what_it_says(certificates):
    # Let's Encrypt's first root, by the fingerprint that is published for it.
    x1 = "96bcec06264976f37460779acf28c5a7cfe8a3c0aae11a8ffcee05c0bddf08c6"

    said = certificates.describe(certificates.read_bundle()[x1])

    assert said == {
        "subject": "ISRG Root X1",
        "issuer": "ISRG Root X1",
        "key": "RSA 4096",
        "not_before": datetime(2015, 6, 4, 11, 4, 38, tzinfo=UTC),
        "not_after": datetime(2035, 6, 4, 11, 4, 38, tzinfo=UTC),
    }


def test_an_elliptic_curve_is_named(certificates):
    said = map(certificates.describe, certificates.read_bundle().values())

    keys = {one["subject"]: one["key"] for one in said}

    assert keys["ISRG Root X2"] == "EC secp384r1"


@pytest.mark.parametrize(
    ("ahead", "days"),
    [
        (timedelta(days=2, hours=1), 2),
        (timedelta(hours=23), 0),
        (timedelta(seconds=-1), -1),
    ],
)
def test_days_left_are_whole_days_and_negative_after_the_end(certificates, ahead, days):
    now = datetime(2026, 1, 1, tzinfo=UTC)

    assert certificates.days_left(now + ahead, now) == days


def test_a_damaged_certificate_is_an_error(certificates):
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"

    with pytest.raises(ValueError, match="pars"):
        certificates.describe(pem)
