"""A release's `croissant.json`: what is in it, for tools that read Croissant 1.1.

It is JSON-LD. `mlcroissant` validates it, and loads the rows by it. Each column that tells where a
row comes from is named by its term of PROV-O.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from imagepipeline_dagster.release.card import ROWS, Release
from imagepipeline_dagster.release.columns import shard_schema
from imagepipeline_dagster.release.policy import ReleasePolicy

CROISSANT = "croissant.json"
"""Its name, beside the card."""

_PROV = "http://www.w3.org/ns/prov#"
_SHARDS = "parquet-files"
_IMAGES = "images"

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "prov": _PROV,
    "rai": "http://mlcommons.org/croissant/RAI/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "description": {"@container": "@language"},
    "name": {"@container": "@language"},
    **{
        name: f"cr:{name}"
        for name in (
            *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract"),
            *("field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray"),
            *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
            *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source"),
            *("subField", "transform"),
        )
    },
}

_ORIGIN_OF_A_ROW = {
    "image_sha256": "wasDerivedFrom",  # the file as it was delivered
    "request_key": "wasGeneratedBy",
    "request": "used",
    "model_id": "wasAttributedTo",
    "endpoint": "atLocation",
    "submitted_at": "startedAtTime",
    "completed_at": "generatedAtTime",
}

_DATA_TYPES = {
    "bool": "sc:Boolean",
    "int64": "sc:Integer",
    "double": "sc:Float",
    "timestamp[us, tz=UTC]": "sc:DateTime",
}
"""By the types of columns; the others are texts."""


def croissant(release: Release, policy: ReleasePolicy) -> bytes:
    """Return the release's description as JSON-LD."""
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": release.name,
        "description": f"{release.counts.kept} generated images with the prompt and the exact "
        "request that each was made from."
        + (" EMULATED: no model made them." if release.emulated else ""),
        "version": release.semantic_version,
        "datePublished": release.created_at.isoformat(),
        "keywords": ["synthetic", *(["emulated"] if release.emulated else [])],
        "license": policy.license,
        "url": policy.homepage,
        "citeAs": policy.citation,
        "prov:wasDerivedFrom": release.previous and f"{release.name} {release.previous}",
        "prov:wasGeneratedBy": f"{release.tool}, in the Dagster run {release.run_id}",
        "distribution": list(_distribution(release)),
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": _IMAGES,
                "name": _IMAGES,
                "description": "A picture a row, with its lineage.",
                "prov:wasGeneratedBy": "the emulator of imagepipeline-dagster"
                if release.emulated
                else "ImagePipeline SDXL API",
                "field": [
                    _field(column)
                    for column in shard_schema()
                    if column.name != "image" or release.holds_parquet
                ],
            }
        ],
    }
    given = {name: value for name, value in described.items() if value is not None}
    return f"{json.dumps(given, indent=2)}\n".encode()


def _distribution(release: Release) -> Iterator[dict[str, Any]]:
    for file in release.shards:
        yield {
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path,
            "contentUrl": file.path,
            "contentSize": f"{file.size} B",
            "encodingFormat": "application/x-parquet",
            "sha256": file.sha256,
        }
    yield {
        "@type": "cr:FileSet",
        "@id": _SHARDS,
        "name": _SHARDS,
        "description": "All of them; each has its SHA-256 beside it.",
        "encodingFormat": "application/x-parquet",
        "includes": "parquet/data/*.parquet" if release.holds_parquet else f"{ROWS}/*.parquet",
    }


def _field(column: pa.Field[Any]) -> dict[str, Any]:
    extract: dict[str, Any] = {"fileSet": {"@id": _SHARDS}, "extract": {"column": column.name}}
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{_IMAGES}/{column.name}",
        "name": column.name,
        "description": (column.metadata or {})[b"description"].decode(),
        "dataType": _DATA_TYPES.get(str(column.type), "sc:Text"),
        "source": extract,
    }
    if column.name == "image":
        extract["transform"] = {"jsonPath": "bytes"}
        field["dataType"] = "sc:ImageObject"
    if term := _ORIGIN_OF_A_ROW.get(column.name):
        field["equivalentProperty"] = f"{_PROV}{term}"
    return field
