"""Does the engine have what the recipe requires of it?"""

from __future__ import annotations

from collections.abc import Iterator

from overspan.catalog import features, images
from overspan.schema.inventory import Inventory
from overspan.schema.plan import EngineChoice
from overspan.schema.recipe import Recipe


def missing(recipe: Recipe, inventory: Inventory, engine: EngineChoice) -> Iterator[str]:
    """One sentence for each required feature that the engine lacks.

    Raises:
        UnknownName: the recipe requires a feature that the catalogue does not know.
    """
    holds, version, brings = _engine(recipe, inventory, engine)
    for name in recipe.requires:
        feature = features.find(name)
        if name not in brings and feature.missing(version):
            yield f"the recipe requires {name} ({feature.says}), and {holds} lacks it: {feature.where}"


def unsure(recipe: Recipe, inventory: Inventory, engine: EngineChoice) -> Iterator[str]:
    """One sentence for each required feature of which nobody knows whether the engine has it."""
    holds, version, brings = _engine(recipe, inventory, engine)
    for name in recipe.requires:
        if version is None and name not in brings:
            where = features.find(name).where
            yield f"the recipe requires {name}; {holds}, so whether it is there is not known: {where}"


def _engine(recipe: Recipe, inventory: Inventory, engine: EngineChoice) -> tuple[str, str | None, list[str]]:
    """The engine in words, its version where that is known, and the features that patches are known to bring it."""
    own = [patch.name for patch in recipe.patches]
    if inventory.traits.containers == "never":
        return f"vLLM {engine.version}", engine.version, own
    image = engine.image or recipe.image
    version = images.engine_version(image)
    holds = f"image {image}" + (f" (vLLM {version})" if version else " does not tell its vLLM")
    return holds, version, [*own, *images.brings(image)]
