"""Applies setup patches where the engine runs, then becomes the program that is given, if any. Standard library alone.

Run as `python -c TEXT PATCHES [PROGRAM ARGUMENT...]`; PATCHES is a JSON list. All are checked before one is written, so
that a missing or ambiguous anchor leaves everything as it was. Applied twice they change nothing.
"""

import fcntl
import json
import os
import re
import sys
from importlib import metadata, util
from pathlib import Path


def numbers(version):
    """The leading numbers of a version."""
    return tuple(int(part) for part in re.match(r"[0-9.]*", version).group().strip(".").split(".") if part)


def wanted(versions, version):
    """Whether a version is among `>=0.32,<0.33`; any is where nothing is said."""
    for each in filter(None, (part.strip() for part in versions.split(","))):
        operator, bound = re.fullmatch(r"(>=|<=|==|<|>)(.+)", each).groups()
        have, limit = numbers(version), numbers(bound)
        compared = (have > limit) - (have < limit)
        if compared not in {">=": (0, 1), "<=": (0, -1), "==": (0,), "<": (-1,), ">": (1,)}[operator]:
            return False
    return True


def place(patch):
    """The file, and the version of the package that it belongs to."""
    package = patch["file"].split("/")[0]
    spec = util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"overspan: patch {patch['name']}: package {package} is not installed here")
    root = Path(next(iter(spec.submodule_search_locations))).parent
    return root / patch["file"], metadata.version(package.replace("_", "-"))


def changed(patch, file, text):
    """The file's text with the patch; the same where it is applied already."""
    around = text.split(patch["replacement"])  # an anchor inside of a replacement is the patch itself
    found = sum(part.count(patch["anchor"]) for part in around)
    if found == 0 and len(around) > 1:
        return text
    if found != 1:
        what = "is missing" if found == 0 else f"stands {found} times, so its place is not certain"
        sys.exit(f"overspan: patch {patch['name']}: its anchor {what} in {file}")
    return patch["replacement"].join(part.replace(patch["anchor"], patch["replacement"]) for part in around)


def main():
    """Check all, write all, become the program."""
    files = {}
    for patch in json.loads(sys.argv[1]):
        file, version = place(patch)
        if not wanted(patch["versions"], version):
            print(f"overspan: patch {patch['name']} is not for version {version}: left out", file=sys.stderr)
            continue
        if not file.is_file():
            sys.exit(f"overspan: patch {patch['name']}: there is no file {file}")
        if file not in files:
            lock = os.open(file.parent, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            files[file] = file.read_text()
        files[file] = changed(patch, file, files[file])
    for file, text in files.items():
        if text != file.read_text():
            temporary = file.with_name(f".{file.name}.{os.getpid()}")
            temporary.write_text(text)
            temporary.chmod(file.stat().st_mode)
            temporary.replace(file)
            print(f"overspan: patched {file}", file=sys.stderr)
    if sys.argv[2:]:
        os.execvp(sys.argv[2], sys.argv[2:])


main()
