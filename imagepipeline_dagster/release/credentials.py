"""Content credentials (C2PA) of stamped pictures, signed with the user's own certificate.

Two variables of the environment name PEM files: so no path of a key stands in a release.

    IMAGEPIPELINE_C2PA_CERTIFICATE      the certificate, and those between it and its root
    IMAGEPIPELINE_C2PA_KEY              its private key

Signatures of the same bytes differ. A picture that a format takes over and another writes anew has
one of each time.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from PIL import Image

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.marks import SOURCE_TYPE
from imagepipeline_dagster.release.pictures import Stamp
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.signing import private_bytes
from imagepipeline_dagster.release.stamping import Mark, Stamped, stamp

if TYPE_CHECKING:
    import c2pa


CERTIFICATE = "IMAGEPIPELINE_C2PA_CERTIFICATE"
KEY = "IMAGEPIPELINE_C2PA_KEY"

_ALGORITHMS = (b"es256", b"es384", b"es512", b"ed25519", b"ps256")
_MANIFEST = {
    "claim_generator_info": [{"name": "imagepipeline-dagster"}],
    "assertions": [
        {
            "label": "c2pa.actions.v2",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]},
        }
    ],
}
_SETTINGS = {
    # A thumbnail makes a file larger by 85 to 760 kB, and takes 100 ms.
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": False},
}
_UNKNOWN_ISSUER = "signingCredential.untrusted"  # whom a reader trusts is the reader's choice


class CredentialsUnusable(CorrectableError):
    """Pictures cannot be signed; the message says why, and what to do."""


def stamp_of(policy: ReleasePolicy) -> Stamp | None:
    """Return what marks a picture as the policy says, None where it stays as delivered.

    Raises:
        CredentialsUnusable: it asks for credentials, and nothing can be signed.
    """
    if not policy.stamp:
        return None
    stamped = partial(stamp, content_producer=policy.content_producer)
    if not policy.content_credentials:
        return stamped
    credentials = Credentials.of_environment()

    def signed(row: ModeratedImage, data: bytes) -> Stamped:
        return credentials.added_to(stamped(row, data), str(row.format))

    return signed


class Credentials:
    """Signs pictures' files, from any thread."""

    def __init__(self, signer: c2pa.Signer) -> None:
        import c2pa

        self._signer = signer
        self._context = c2pa.Context.from_dict(_SETTINGS)

    @classmethod
    def of_environment(cls) -> Self:
        """Return what signs with the files that the environment names, tried with a picture.

        Raises:
            CredentialsUnusable: the extra, a file or its content is missing or wrong.
        """
        try:
            import c2pa
        except ImportError as error:
            raise CredentialsUnusable(
                "content_credentials need: pip install 'imagepipeline-dagster[c2pa]'"
            ) from error
        certificate, key = _file(CERTIFICATE), _file(KEY)
        chain, secret = certificate.read_bytes(), private_bytes(key)
        for algorithm in _ALGORITHMS:
            try:
                info = c2pa.C2paSignerInfo(algorithm, chain, secret, None)
                credentials = cls(c2pa.Signer.from_info(info))
            except c2pa.C2paError:
                continue  # the key is for another one
            if problems := list(credentials._problems()):
                raise CredentialsUnusable(
                    f"{certificate} cannot sign pictures ({', '.join(problems)}): it has to be a "
                    f"valid certificate of {key} for document signing or e-mail protection, "
                    "followed by those that lead to its root"
                )
            return credentials
        raise CredentialsUnusable(f"{key} is no private key in PEM of a kind that C2PA knows")

    def added_to(self, stamped: Stamped, format: str) -> Stamped:  # noqa: A002 - Pillow's own word
        """Return the stamped file with credentials; others and unusual ones stay as they are."""
        import c2pa

        if stamped.mark is not Mark.STAMPED:
            return stamped
        try:
            return Stamped((self._signed(stamped.data, format),), Mark.SIGNED)
        except c2pa.C2paError:
            return stamped

    def _signed(self, data: bytes, format: str) -> bytes:  # noqa: A002 - Pillow's own word
        import c2pa

        signed = io.BytesIO()
        with c2pa.Builder(_MANIFEST, self._context) as builder:
            builder.sign(self._signer, f"image/{format.lower()}", io.BytesIO(data), signed)
        return signed.getvalue()

    def _problems(self) -> Iterator[str]:
        """Yield what a reader objects to in a picture that is signed."""
        import c2pa

        drawn = io.BytesIO()
        Image.new("RGB", (1, 1)).save(drawn, "PNG")
        try:
            signed = io.BytesIO(self._signed(drawn.getvalue(), "PNG"))
        except c2pa.C2paError as error:
            yield str(error)
            return
        with c2pa.Reader("image/png", signed, context=self._context) as reader:
            read = json.loads(reader.json())
        for failure in read["validation_results"]["activeManifest"]["failure"]:
            if failure["code"] != _UNKNOWN_ISSUER:
                yield failure["code"]


def _file(variable: str) -> Path:
    named = os.environ.get(variable, "").strip()
    if not named:
        raise CredentialsUnusable(
            f"content_credentials need a certificate and its key: set {CERTIFICATE} and {KEY} to "
            "the paths of their files"
        )
    file = Path(named)
    if not file.is_file():
        raise CredentialsUnusable(f"{variable} names {file}, which is no file")
    return file
