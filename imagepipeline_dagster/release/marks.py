"""What is written into a picture's file about its origin: words for machines, and for viewers.

- XMP: IPTC's digital source type and AI properties, our lineage, and China's label if asked for.
- `parameters`, as viewers of Stable Diffusion pictures read them.

Only what makes a row's content is said. So the same content is the same bytes, whichever run
fetched it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache
from typing import Any
from xml.sax.saxutils import escape

from imagepipeline_dagster.api.contract import canonical_json
from imagepipeline_dagster.moderation.verdicts import ModeratedImage

LINEAGE_NAMESPACE = "urn:imagepipeline-dagster:lineage:1.0/"
"""Of the XMP properties that say which row a picture is of."""

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for a picture that a model generated."""

_SYSTEM = "ImagePipeline SDXL API"
_EMULATOR = "EMULATED: drawn by the emulator of imagepipeline-dagster, by no model"

_NAMESPACES = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "TC260": "http://www.tc260.org.cn/ns/AIGC/1.0/",
    "imagepipeline": LINEAGE_NAMESPACE,
}
_DESCRIPTION = '<rdf:Description rdf:about="" {}>\n{}</rdf:Description>\n'
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    "{}</rdf:RDF>\n</x:xmpmeta>\n"
    '<?xpacket end="r"?>'
)
_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
_OLD_LINE_END = {"\r": "&#13;"}  # which would be read as another one
_QUOTED = re.compile(r"[,:\n]")  # signs that would end a value among the parameters


def plain(text: str) -> str:
    """Return the text with a sign for each character that XML cannot hold, as NUL."""
    # Whatever can be printed can be there, and that is quickly told.
    return text if text.isprintable() else _NOT_IN_XML.sub("\ufffd", text)


@dataclass(frozen=True, slots=True)
class Marks:
    """What a picture's file says of itself.

    Attributes:
        origin: XMP properties that are short.
        prompts: the XMP property that holds the prompts, however long.
        parameters: prompts and settings, as viewers of Stable Diffusion pictures read them.
    """

    origin: Mapping[str, str]
    prompts: Mapping[str, str]
    parameters: str

    @classmethod
    def of(cls, row: ModeratedImage, *, content_producer: str | None = None) -> Marks:
        """Return the marks of a row's picture; the producer's name asks for China's label."""
        request = json.loads(row.request or "{}")
        prompts = {"Iptc4xmpExt:AIPromptInformation": "\n".join(_prompts_of(row))}
        settings = ", ".join(f"{name}: {value}" for name, value in _settings_of(row, request))
        return cls(
            origin=dict(_origin_of(row, content_producer)),
            prompts=prompts,
            parameters=plain("\n".join([*_prompts_of(row), settings])),
        )

    def packet(self, *, with_prompts: bool = True) -> bytes:
        """Return the XMP packet."""
        return _PACKET.format(self._description(with_prompts=with_prompts)).encode()

    def added_to(self, packet: bytes, *, with_prompts: bool = True) -> bytes | None:
        """Return another's packet with these marks; None where it has its own, or is unusual."""
        end = b"</rdf:RDF>"
        names = [*self.origin, *self.prompts]
        if packet.count(end) != 1 or any(name.encode() in packet for name in names):
            return None
        description = self._description(with_prompts=with_prompts)
        return packet.replace(end, description.encode() + end)

    def _description(self, *, with_prompts: bool) -> str:
        properties = {**self.origin, **(self.prompts if with_prompts else {})}
        lines = (
            f"<{name}>{escape(plain(value), _OLD_LINE_END)}</{name}>\n"
            for name, value in properties.items()
        )
        return _DESCRIPTION.format(_namespaces(frozenset(properties)), "".join(lines))


@cache
def _namespaces(names: Set[str]) -> str:
    """Return the declarations of the properties' namespaces; most pictures have the same ones."""
    prefixes = sorted({name.partition(":")[0] for name in names})
    return " ".join(f'xmlns:{prefix}="{_NAMESPACES[prefix]}"' for prefix in prefixes)


def _origin_of(row: ModeratedImage, content_producer: str | None) -> Iterator[tuple[str, str]]:
    yield "Iptc4xmpExt:DigitalSourceType", SOURCE_TYPE
    # An emulated picture is marked too, as one that is bought will be; it says so itself.
    yield "Iptc4xmpExt:AISystemUsed", _EMULATOR if row.emulated else _SYSTEM
    if row.model_id:
        yield "Iptc4xmpExt:AISystemVersionUsed", row.model_id
    lineage = {
        "PromptSet": row.prompt_set,
        "PromptId": row.prompt_id,
        "CallIndex": row.call_index,
        "SampleIndex": row.sample_index,
        "RequestKey": row.request_key,
        "OriginalSha256": row.image_sha256,
    }
    for name, value in lineage.items():
        if value is not None:
            yield f"imagepipeline:{name}", str(value)
    if content_producer is not None:
        label = {
            "Label": "1",
            "ContentProducer": content_producer,
            "ProduceID": row.image_sha256 or "",
            **dict.fromkeys(("ReservedCode1", "ContentPropagator"), ""),
            **dict.fromkeys(("PropagateID", "ReservedCode2"), ""),
        }
        yield "TC260:AIGC", canonical_json(label)


def _prompts_of(row: ModeratedImage) -> Iterator[str]:
    yield row.prompt or ""
    if row.negative_prompt:
        yield f"Negative prompt: {row.negative_prompt}"


def _settings_of(row: ModeratedImage, request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the settings by the names and in the order of AUTOMATIC1111's web UI."""
    size = f"{row.pixel_width}x{row.pixel_height}" if row.pixel_width else None
    settings = {
        "Steps": request.get("num_inference_steps"),
        # Viewers take a picture without a sampler for no generated one.
        "Sampler": request.get("scheduler") or "default",
        "CFG scale": request.get("guidance_scale"),
        "Seed": row.seed,
        "Size": size,
        "Model": row.model_id,
        "Denoising strength": request.get("strength"),
        "Version": "EMULATED" if row.emulated else _SYSTEM,
    }
    for name, value in settings.items():
        if value is not None:
            text = str(value)
            quoted = json.dumps(text, ensure_ascii=False) if _QUOTED.search(text) else text
            yield name, quoted
