"""Content credentials, read back by C2PA's own reader."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import c2pa
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.release.credentials import CERTIFICATE, KEY
from imagepipeline_dagster.release.marks import SOURCE_TYPE
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.reading import manifests
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.release.withdrawal import withdraw
from imagepipeline_dagster.storage.contract import image_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import FORMATS, NOON, kept_row, picture, publish_rows
from tests.release.test_stamping import LEFT_ALONE, pixels, xmp_of

SIGNED = ReleasePolicy(content_credentials=True, max_lost_share=1)
PEM = serialization.Encoding.PEM
NOW = dt.datetime.now(dt.UTC)

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
KEYS: dict[str, Callable[[], PrivateKey]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@dataclass
class Owner:
    """A certificate of a root of its own, with its key, as files."""

    root: str
    certificate: Path
    key: Path


def certificate(
    name: str,
    key: PrivateKey,
    issuer: tuple[str, PrivateKey],
    *,
    is_root: bool = False,
    days: int = 10,
) -> bytes:
    """Return a certificate as PEM."""
    names = [
        x509.Name(
            [
                x509.NameAttribute(kind, text)
                for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
            ]
        )
        for text in (name, issuer[0])
    ]
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - dt.timedelta(days=30))
        .not_valid_after(NOW + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                **usage,
                digital_signature=not is_root,
                key_cert_sign=is_root,
                crl_sign=is_root,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key()),
            critical=False,
        )
    )
    if not is_root:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    algorithm = None if isinstance(issuer[1], ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(issuer[1], algorithm).public_bytes(PEM)


def owner(folder: Path, kind: str = "P-256", *, days: int = 10) -> Owner:
    """Make a root, and a certificate of it."""
    root_key, key = KEYS["P-256"](), KEYS[kind]()
    root = certificate("root", root_key, ("root", root_key), is_root=True)
    made = Owner(root.decode(), folder / "certificate.pem", folder / "key.pem")
    made.certificate.write_bytes(certificate("foxes", key, ("root", root_key), days=days) + root)
    made.key.write_bytes(
        key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    made.key.chmod(0o600)
    return made


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Owner:
    """A certificate and its key, which the environment names."""
    made = owner(tmp_path)
    monkeypatch.setenv(CERTIFICATE, str(made.certificate))
    monkeypatch.setenv(KEY, str(made.key))
    return made


def read_by(data: bytes, format: str, *, root: str | None = None) -> dict[str, Any]:  # noqa: A002
    """Return what C2PA's reader says, which trusts a root or nobody."""
    settings = {"trust": {"trust_anchors": root}} if root else {}
    with (
        c2pa.Context.from_dict(settings) as context,
        c2pa.Reader(f"image/{format.lower()}", io.BytesIO(data), context=context) as reader,
    ):
        said: dict[str, Any] = json.loads(reader.json())
    return said


def rows_of(storage: LocalFolder, path: str) -> list[dict[str, Any]]:
    """Return the rows of a release's first Parquet file."""
    return pq.ParquetFile(Path(storage.uri_of(path).removeprefix("file://"))).read().to_pylist()


def test_a_reader_believes_a_picture_until_a_byte_changes(
    tmp_path: Path, storage: LocalFolder, own: Owner
) -> None:
    """Valid to all, trusted by who knows the root, broken by one byte; pixels and XMP are there."""
    pictures = [kept_row(storage, n, format=name) for n, name in enumerate(FORMATS)]
    theirs = kept_row(storage, 3, data=LEFT_ALONE[0][1])
    release = publish_rows(storage, [*pictures, theirs], policy=SIGNED)
    assert release.marks == {"credentials": 1, "signed": 3}
    assert problems_of(storage, release) == []
    assert str(tmp_path) not in storage.read(f"{release.path}/manifest.json").decode()
    card = storage.read(f"{release.path}/README.md").decode()
    assert "3 of these carry content credentials (C2PA) that the publisher signed." in card
    *signed, left = rows_of(storage, f"{release.path}/{release.shards[0].path}")
    assert left["image"]["bytes"] == LEFT_ALONE[0][1]
    for number, (row, format) in enumerate(zip(signed, FORMATS, strict=True)):  # noqa: A001
        data = row["image"]["bytes"]
        assert row["file_sha256"] == hashlib.sha256(data).hexdigest()
        original = picture(number, format=format)
        assert pixels(data) == pixels(original)
        assert len(data) < len(original) + 8000, "there is no thumbnail"
        assert SOURCE_TYPE in xmp_of(data).values()
        read = read_by(data, format)
        assert read["validation_state"] == "Valid"
        [manifest] = read["manifests"].values()
        [assertion] = manifest["assertions"]
        [action] = assertion["data"]["actions"]
        assert action == {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}
        assert read_by(data, format, root=own.root)["validation_state"] == "Trusted"
        changed = bytearray(data)
        changed[data.index(b"SampleIndex")] ^= 1
        assert read_by(bytes(changed), format, root=own.root)["validation_state"] == "Invalid"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_each_kind_sign(kind: str, tmp_path: Path, storage: LocalFolder) -> None:
    """Nobody has to say which algorithm a key is for."""
    owner(tmp_path, kind)
    assert publish_rows(storage, [kept_row(storage, 1)], policy=SIGNED).marks == {"signed": 1}


def test_a_withdrawal_signs_what_it_writes_anew(
    storage: LocalFolder, ledger: Ledger, own: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the key it stops and says so; with it, a further call finishes, and all is signed."""
    rows = [kept_row(storage, 1), kept_row(storage, 2)]
    publish_rows(storage, rows, policy=SIGNED)
    monkeypatch.delenv(KEY)
    with pytest.raises(CorrectableError, match=KEY):
        withdraw(storage, ledger, [str(rows[0].image_sha256)], who="ana", why="asked", at=NOON)
    monkeypatch.setenv(KEY, str(own.key))
    withdraw(storage, ledger, [], who="ana", why="asked", at=NOON)
    [release] = manifests(storage)
    assert release.marks == {"signed": 1}
    assert problems_of(storage, release) == []
    assert not storage.exists(image_path(str(rows[0].image_sha256), "PNG"))


def another_key(own: Owner) -> None:
    """Put another certificate's key in place of the own one."""
    other = own.key.parent / "other"
    other.mkdir()
    own.key.write_bytes(owner(other).key.read_bytes())


UNUSABLE: list[tuple[Callable[[Owner], object], str]] = [
    (lambda own: own.key.unlink(), f"{KEY} names .*, which is no file"),
    (lambda own: own.key.chmod(0o644), "chmod 600"),
    (lambda own: own.key.write_text("secret"), "is no private key in PEM"),
    (lambda own: own.certificate.write_text("nothing"), "cannot sign pictures"),
    (lambda own: owner(own.key.parent, days=-1), "cannot sign pictures .*not valid at"),
    (another_key, "cannot sign pictures"),
]


@pytest.mark.parametrize(("spoil", "message"), UNUSABLE)
def test_what_cannot_sign_is_told_before_anything_is_released(
    spoil: Callable[[Owner], object], message: str, storage: LocalFolder, own: Owner
) -> None:
    """No release pretends to be signed; the message names the file, and quotes none of it."""
    rows = [kept_row(storage, 1)]
    spoil(own)
    with pytest.raises(CorrectableError, match=message) as raised:
        publish_rows(storage, rows, policy=SIGNED)
    assert "secret" not in str(raised.value)
    assert manifests(storage) == []


def test_credentials_need_their_variables_and_a_stamp(
    storage: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the variables; credentials without a stamp are no policy."""
    monkeypatch.delenv(CERTIFICATE, raising=False)
    with pytest.raises(CorrectableError, match=f"set {CERTIFICATE} and {KEY}"):
        publish_rows(storage, [kept_row(storage, 1)], policy=SIGNED)
    with pytest.raises(ValueError, match="content_credentials: they vouch for the stamp"):
        ReleasePolicy(content_credentials=True, stamp=False)
