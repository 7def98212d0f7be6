"""Every host has the model's files, and they are the same by content."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from overspan.preflight.machine import model_folder
from overspan.preflight.site import Site, Verdict, untold
from overspan.provision.manifest import Manifest, differences, list_command, read_manifest
from overspan.schema.errors import HostUnreachable, OverspanError
from overspan.schema.units import gib

NAMED: Final = 6
"""Files named in a message or a command; with more, the whole folder stands for them."""

COST: Final = "one command; the first time each file is read once there, at some GB/s, and remembered"


def same_files(sites: Sequence[Site]) -> list[tuple[str, Verdict]]:
    """Each host's folder against that of the first host which has one."""
    folder = model_folder(sites[0])
    if folder is None:
        why = f"no folder is known for {sites[0].plan.recipe.model}: each host takes it from the hub by its id"
        return [(sites[0].name, untold(why))]
    with ThreadPoolExecutor(len(sites)) as pool:
        seen = list(pool.map(lambda site: _read(site, folder), sites))
    pairs = list(zip(sites, seen, strict=True))
    source = next(((site, found) for site, found in pairs if isinstance(found, Manifest) and found.files), None)
    return [(site.name, _verdict(site, folder, found, source)) for site, found in pairs]


def _read(site: Site, folder: str) -> Manifest | OverspanError:
    try:
        return read_manifest(site, folder)
    except HostUnreachable:
        raise
    except OverspanError as error:
        return error


def _verdict(site: Site, folder: str, found: Manifest | OverspanError, source: tuple[Site, Manifest] | None) -> Verdict:
    command = list_command(folder)
    if isinstance(found, OverspanError):
        return Verdict("not_evaluated", found.quote or found.what, command, found.what, found.next, "info")
    if source is None:
        cause = f"no host of the plan has model files in {folder}"
        return Verdict("failed", "no files", command, cause, site.paste("hf", "download", site.plan.recipe.model))
    first, wanted = source
    other = [each for each in differences(wanted, found) if each.first is not None]
    if not other:
        return Verdict("passed", f"{len(found.files)} files, {gib(found.size)}", command, severity="info")
    paths = [each.path for each in other]
    told = ", ".join(paths[:NAMED]) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
    absent = sum(each.second is None for each in other)
    how = "are missing" if absent == len(other) else "differ or are missing" if absent else "differ"
    cause = f"model files on {site.name} {how}, compared with {first.name}: {told}; ranks would load two models"
    which = paths if len(paths) <= NAMED else ["."]
    pack = first.paste("tar", "-C", folder, "-cf", "-", "--", *which)
    unpack = site.paste("tar", "-C", folder, "-xf", "-")
    return Verdict("failed", told, command, cause, f"{pack} | {unpack}")
