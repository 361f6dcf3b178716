"""What every command line comes to, whatever it is given: a status, and where it is a refusal one line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import signal
import traceback
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, settings

from forgetkit.cli import main
from forgetkit.cli.streams import WarningLines
from forgetkit.errors import ForgetkitError

EXAMPLES = int(os.environ.get("FORGETKIT_FUZZ_EXAMPLES", "0"))
"""Of each property; 0: few, and the same at each time."""


def examples(number: int) -> settings:
    """So many in the suite, where nothing is left to chance; more of them, and others each time, where it is asked."""
    return settings(
        max_examples=EXAMPLES or number,
        derandomize=not EXAMPLES,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


class TooLong(BaseException):
    """What no handler catches: a command that does not come to its end."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """While something must not take longer."""

    def end(number: int, frame: Any) -> None:
        raise TooLong(f"nothing came of it in {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Answer:
    """What a command came to: its status and output, and what is wrong with the way it ended ("": nothing)."""

    status: int | None
    out: str
    err: str
    wrong: str = ""


def command(words: Sequence[Any], seconds: float = 300) -> Answer:
    """``forgetkit WORDS`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    logger, handler = logging.getLogger("forgetkit"), WarningLines()
    logger.addHandler(handler)
    logger.propagate = False
    status: int | None = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited(seconds):
            status = main([str(word) for word in words])
        wrong = fault(status, err.getvalue())
    except TooLong as error:
        wrong = str(error)
    except Exception:  # noqa: BLE001 - main lets nothing through
        wrong = f"main raised {traceback.format_exc()}"
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
    return Answer(status, out.getvalue(), err.getvalue(), wrong)


def fault(status: int, err: str) -> str:
    """What is wrong with the way a command ended, by its status and its standard error."""
    lines = err.split("\n")
    if status not in (0, 1, 2):
        return f"status {status}"
    if "Traceback" in err:
        return "a traceback"
    if re.search(r"unexpected \w+ in \S+: .*--debug", err):
        return "an error that nobody foresaw"
    if lines.pop():
        return "a last line without an end"
    if any(not line.startswith(("forgetkit: ", "to go on: ")) for line in lines):
        return "a line of somebody else's"
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for line in lines for character in line):
        return "characters that a terminal would obey"
    if status and not lines:
        return "a refusal without a word"
    return ""


def one_line(answer: Answer) -> str:
    """The one line of a refusal, or of a success the empty text; an ``AssertionError`` where it is neither."""
    assert not answer.wrong, (answer.wrong, answer)
    if answer.status == 0:
        return ""
    lines = answer.err.splitlines()
    assert len(lines) == 1, answer
    return lines[0]


def refusal(call: Any) -> str:
    """What ``call`` is refused with, "" where it is not; any error that is not forgetkit's own is let through."""
    with limited(30):
        try:
            call()
        except ForgetkitError as error:
            said = " ".join(str(error).split())
            assert said, "an error without a word"
            return said
    return ""
