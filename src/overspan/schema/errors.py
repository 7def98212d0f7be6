"""The one tree of errors.

    OverspanError            exit 1   something went wrong while working
    |- InputError            exit 2   what the user gave cannot be used; nothing was started
    |  |- UnknownName                 a name that does not exist; carries the nearest ones
    |  |- RecipeError                 a recipe, inventory or override is wrong; names file, line and field
    |  |- PlanRefused                 the plan cannot work; carries the reason of each refusal
    |  |- EngineMissing               no engine is installed for what the plan needs
    |  |- ModelUnavailable            gated, absent, damaged, or no space for it
    |  |- PortTaken                   the port is in use; names by whom
    |  |- RunExists                   a run of that name is active
    |  `- RunDamaged                  a run's folder is half-written or unreadable
    |- RunFailed             exit 1   a run died; carries the process, host and quoted lines
    |- NotReady              exit 3   a run is not ready
    `- HostUnreachable       exit 4   a host does not answer
       `- HostKeyRejected             it answers with a host key that is not known, or is another than was known

Only `cli` turns an error into an exit code. Each error says what happened, where, and the next command.
"""

from collections.abc import Iterable


class OverspanError(Exception):
    """What went wrong: told so that a person can act without reading code.

    Args:
        what: one sentence: what happened, on which host and rank where that applies.
        quote: the line of a log or file that shows it, as it was.
        next: what to do or the command to run now.
    """

    exit_code = 1

    def __init__(self, what: str, *, quote: str | None = None, next: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.quote = quote
        self.next = next

    @property
    def in_one_line(self) -> str:
        """What went wrong, with the line that shows it in brackets."""
        return f"{self.what} ({self.quote})" if self.quote else self.what

    def as_dict(self) -> dict[str, object]:
        """The error as `--json` prints it."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "quote": self.quote,
            "next": self.next,
            "exit_code": self.exit_code,
        }


class InputError(OverspanError):
    """What the user gave cannot be used; nothing was started."""

    exit_code = 2


class UnknownName(InputError):
    """A name that does not exist, with the nearest ones that do."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, next: str | None = None) -> None:
        options = sorted(known)
        what = f"unknown {kind} '{name}'{did_you_mean(name, options)}"
        listed = f"known: {', '.join(options) or 'none yet'}" if len(options) <= 12 else None
        super().__init__(what, next=next or listed)
        self.nearest = nearest(name, options)


class RecipeError(InputError):
    """A recipe, inventory or override is wrong; the message names file, line and field."""

    at: tuple[int, int] | None = None
    """Its line and column, from 1."""
    field: str | None = None
    """The field with its parents: `hosts.0.name`."""


class PlanRefused(InputError):
    """The plan cannot work. `reasons` holds one sentence for each refusal."""

    def __init__(self, what: str, reasons: Iterable[str], *, quote: str | None = None, next: str | None = None) -> None:
        self.reasons = list(reasons)
        super().__init__("\n  - ".join([what, *self.reasons]), quote=quote, next=next)

    def as_dict(self) -> dict[str, object]:
        """The error as `--json` prints it, with every reason."""
        return {**super().as_dict(), "reasons": self.reasons}


class EngineMissing(InputError):
    """No engine is installed for what the plan needs; `next` is the command that installs it."""


class ModelUnavailable(InputError):
    """The model is gated, absent, damaged, or there is no space for it."""


class PortTaken(InputError):
    """A port that the plan needs is in use."""


class RunExists(InputError):
    """A run of that name is active already."""


class RunDamaged(InputError):
    """A run's folder is half-written or unreadable; the message names the file."""


class RunFailed(OverspanError):
    """A run died; the message names the process, its host and rank, and quotes its last lines."""


class NotReady(OverspanError):
    """The run is not ready (exit code 3)."""

    exit_code = 3


class HostUnreachable(OverspanError):
    """A host does not answer (exit code 4)."""

    exit_code = 4


class HostKeyRejected(HostUnreachable):
    """A host answers with a host key that is not known, or is another than the known one."""


def nearest(name: str, options: Iterable[str], count: int = 3) -> list[str]:
    """The known names nearest to one that is not known, best first."""
    import difflib  # most commands name nothing wrong

    by_fold = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), list(by_fold), count, 0.6)
    close = close or difflib.get_close_matches(name.lower(), list(by_fold), count, 0.6)
    return [by_fold[match] for match in close]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`: did you mean a, b?`, or nothing when no known name is near."""
    close = nearest(name, options)
    return f": did you mean {', '.join(close)}?" if close else ""
