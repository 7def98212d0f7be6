"""Sizes of a model that is named by its id on the hub and is not on this machine: asked for before a plan."""

from __future__ import annotations

from overspan.catalog import models, recipes


def bring_sizes(name: str) -> str | None:
    """Ask the hub for the sizes of a model, where they are not at hand and the name is an id of the hub.

    Args:
        name: a recipe, a model's id or its folder; only an id that nothing here knows is asked for.

    Returns:
        None, or why the hub could not be asked: a plan can be made without sizes.

    Raises:
        ModelUnavailable: the hub says that the model is gated or absent.
    """
    model = recipes.find(name).model if name in recipes.names() else name
    if not models.is_hub_id(model) or models.lookup(model) is not None:
        return None
    from overspan.provision.hub import fetch_sizes  # imported when asked: most plans ask no hub

    return fetch_sizes(model)
