"""The rows of the sample tables: three prompt sets in which each outcome comes up.

They ask for 40 images. `spring_catalogue/colour_bars` is filtered by the API's safety checker,
`harbour_at_night/everything` is refused before anything is paid, and `portraits/potter` is made
unchecked and so held back from datasets. Links are under .example, which the emulator draws itself.
"""

from __future__ import annotations

from typing import Any

from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow

__all__ = [
    "EDITED_EMBEDDING",
    "EDITED_PROMPT",
    "EDITED_TEXT",
    "SAMPLE_EMBEDDINGS",
    "SAMPLE_PROMPTS",
]

# The API page's own example uses this one; its trigger word stands in the page's prompt.
_CINEMATIC = "15f002de-bf0c-4b99-857b-a7a4bd7030dc"
_CORRECTIONS = "7c1d3b52-4e0a-4f6b-9a55-2f8b6d0c91e4"

SAMPLE_EMBEDDINGS: tuple[EmbeddingRow, ...] = (
    EmbeddingRow(
        embedding_id=_CINEMATIC,
        name="Cinematic look",
        base_model="sdxl",
        trigger_words=("cinematic-2",),
        placement="positive",
        version="1",
    ),
    EmbeddingRow(
        embedding_id=_CORRECTIONS,
        name="Anatomy corrections",
        base_model="sdxl",
        trigger_words=("ac_neg1",),
        placement="negative",
        version="1",
    ),
)

EDITED_PROMPT = ("spring_catalogue", "teapot")
"""The prompt set and id of the row that `edit_sample_prompt` changes."""

EDITED_TEXT = (
    "stoneware teapot in {glaze} glaze on a linen tablecloth, soft window light, product photograph"
)
"""What that row says, whatever the glaze."""

EDITED_EMBEDDING = _CINEMATIC
"""The embedding that `edit_sample_embedding` changes: three prompts use it."""

# As everywhere in a catalogue, most rows share their settings.
_SQUARE = {"task": "text2image", "model_id": "sdxl", "samples": 1, "width": 768, "height": 768}
_WIDE = {"width": 1024, "height": 768}
_TALL = {"width": 768, "height": 1024}


def _set(prompt_set: str, negative_prompt: str, *rows: dict[str, Any]) -> tuple[PromptRow, ...]:
    shared = {**_SQUARE, "prompt_set": prompt_set, "negative_prompt": negative_prompt}
    return tuple(PromptRow(**{**shared, **row}) for row in rows)


def _row(prompt_id: str, prompt: str, **columns: object) -> dict[str, Any]:
    return {"prompt_id": prompt_id, "prompt": prompt, **columns}


_SPRING_CATALOGUE = _set(
    "spring_catalogue",
    "blurry, text, watermark, low quality",
    _row("teapot", EDITED_TEXT.format(glaze="celadon")),
    _row(
        "raincoat",
        "yellow raincoat on a wooden hook, whitewashed wall, morning light, product photograph",
        **_TALL,
    ),
    _row(
        "picnic_basket",
        "wicker picnic basket with gingham lining on fresh grass, daisies, catalogue photograph",
        samples=3,
    ),
    _row(
        "garden_gloves",
        "pair of canvas garden gloves beside terracotta pots and seedlings, overcast daylight",
    ),
    _row(
        "sneakers",
        "white canvas sneakers on a pale green backdrop, studio lighting, sharp focus",
        samples=2,
    ),
    _row(
        "lamp",
        "brass desk lamp on an oak desk, warm evening light, shallow depth of field",
        num_inference_steps=30,
        guidance_scale=8.5,
    ),
    _row(
        "armchair",
        "reading armchair in moss green velvet beside a tall window, interior photograph",
        num_inference_steps=30,
        **_WIDE,
    ),
    _row(
        "rowboat_summer",
        "wooden rowboat repainted in white and sky blue, summer light",
        task="image2image",
        init_image="https://pictures.example/rowboat.png",
        strength=0.55,
    ),
    _row(
        "shelf_restyled",
        "open kitchen shelf styled with ceramic bowls and dried eucalyptus",
        task="image2image",
        init_image="https://pictures.example/shelf.png",
        strength=0.4,
        samples=2,
    ),
    # The word makes a safety checker filter the picture, however harmless it is.
    _row("colour_bars", "nsfw test card, colour bars"),
)

_HARBOUR_AT_NIGHT = _set(
    "harbour_at_night",
    "people, text, watermark, oversaturated, low quality",
    _row(
        "quay",
        "fishing boats moored along a stone quay at night, lamplight on wet cobbles, light mist",
        **_WIDE,
    ),
    _row(
        "lighthouse",
        "lighthouse beam sweeping over a dark bay, long exposure, stars above the headland",
        **_TALL,
    ),
    _row(
        "ferry",
        "small car ferry leaving the harbour at blue hour, glowing windows, calm water",
        embeddings=_CINEMATIC,
        samples=4,
        **_WIDE,
    ),
    _row(
        "cranes",
        "container cranes lit by floodlights, reflections in black water, seen from a pier",
        embeddings=_CINEMATIC,
        num_inference_steps=35,
        **_WIDE,
    ),
    _row(
        "nets",
        "coiled ropes and drying nets under a single street lamp, film grain",
        samples=2,
    ),
    _row(
        "rain",
        "rain on the deck of a wooden trawler, cabin light, close view",
        guidance_scale=9,
    ),
    _row(
        "aurora_sky",
        "faint green aurora above the harbour wall",
        task="inpainting",
        init_image="https://pictures.example/harbour.png",
        mask_image="https://pictures.example/masks/sky.png",
        strength=0.8,
    ),
    _row(
        "moored_yacht",
        "sailing yacht moored at the empty berth, deck lights on",
        task="inpainting",
        init_image="https://pictures.example/harbour.png",
        mask_image="https://pictures.example/masks/berth.png",
        samples=2,
    ),
    # Longer than the 75 tokens that the model reads: refused, because the rest would be cut off.
    _row(
        "everything",
        "a harbour at night with fishing boats, ferries, tugs, yachts and rowing boats, every one "
        "of them with its own lamp, in front of a row of narrow painted houses with lit windows, "
        "behind them a church on a hill, a lighthouse on the headland, a full moon between torn "
        "clouds, gulls asleep on the bollards, a cat on a stack of crates, nets hung up to dry, "
        "wet cobbles that reflect all of it, a café with three empty tables, a bicycle against a "
        "wall, a train crossing the viaduct far away, fireworks over the bay, and a small child's "
        "red balloon caught in the rigging of the oldest boat",
    ),
)

_PORTRAITS = _set(
    "portraits",
    "bad proportion, too many fingers, blurry face, worst quality",
    # The API page's own example, word for word.
    _row(
        "wildflowers",
        "Close up of beautiful young woman with red hair, detailed eyes、detailed face, detailed "
        "skin, standing in a field of wildflowers, wearing a flowing white dress, cinematic-2, "
        "8k quality",
        negative_prompt=(
            "ac_neg1, error, cropped, worst quality, low quality, duplicate, blurry, "
            "(unfinished objects), stock image, artifacts, blurry face, bad proportion, "
            "(deformed iris), too many fingers"
        ),
        embeddings=_CINEMATIC,
        seed=12345,
        num_inference_steps=20,
        guidance_scale=7.5,
        refiner=False,
        safety_checker=True,
    ),
    _row(
        "baker",
        "baker dusting flour over a wooden table, early morning, natural window light, 85mm",
        embeddings=_CORRECTIONS,
        **_TALL,
    ),
    _row(
        "cellist",
        "elderly cellist tuning her instrument in an empty hall, warm side light",
        embeddings=_CORRECTIONS,
        samples=2,
        **_TALL,
    ),
    _row(
        "fisherman",
        "weathered fisherman in a navy sweater mending a net, overcast light, medium format",
        embeddings=_CORRECTIONS,
    ),
    _row(
        "student",
        "student with round glasses reading in a library, green desk lamp, soft background",
        embeddings=_CORRECTIONS,
        samples=2,
    ),
    _row(
        "gardener",
        "smiling gardener holding a tray of seedlings in a greenhouse, diffuse light",
        num_inference_steps=30,
    ),
    # Made without the API's safety checker: held back until somebody has looked.
    _row(
        "potter",
        "potter shaping a bowl at the wheel, clay on his hands, studio by a north window",
        safety_checker=False,
    ),
    _row(
        "astronomer",
        "astronomer beside a brass telescope on a rooftop at dusk, city lights below",
        samples=2,
        **_TALL,
    ),
    _row(
        "headshot_outdoors",
        "business portrait, outdoors in soft evening light",
        task="image2image",
        init_image="https://pictures.example/headshot.png",
        strength=0.35,
        embeddings=_CORRECTIONS,
    ),
)

SAMPLE_PROMPTS: tuple[PromptRow, ...] = (*_SPRING_CATALOGUE, *_HARBOUR_AT_NIGHT, *_PORTRAITS)
