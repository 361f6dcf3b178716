"""Runs commands on any input and judges how they end: an exit status, and one line for a refusal."""

from __future__ import annotations

import contextlib
import io
import logging
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


def examples(number: int) -> settings:
    """Half of ``number``, the same in every run; in the profile ``long`` ten times ``number``, new in every run."""
    long = settings().max_examples > 100
    return settings(
        max_examples=10 * number if long else max(8, number // 2),
        derandomize=not long,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


class TimeLimitError(BaseException):
    """A command did not end; a BaseException, so that no handler catches it."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise ``TimeLimitError`` in the body after this time."""

    def end(number: int, frame: Any) -> None:
        raise TimeLimitError(f"no result within {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Answer:
    """A command's status and output; ``wrong`` says what is wrong with how it ended ("": nothing)."""

    status: int | None
    out: str
    err: str
    wrong: str = ""


def command(words: Sequence[Any], seconds: float = 300) -> Answer:
    """Run ``forgetkit WORDS`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    logger, handler = logging.getLogger("forgetkit"), WarningLines()
    logger.addHandler(handler)
    logger.propagate = False
    status: int | None = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited(seconds):
            status = main([str(word) for word in words])
        wrong = fault(status, err.getvalue())
    except TimeLimitError as error:
        wrong = str(error)
    except Exception:  # noqa: BLE001 - main lets nothing through
        wrong = f"main raised {traceback.format_exc()}"
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
    return Answer(status, out.getvalue(), err.getvalue(), wrong)


def fault(status: int, err: str) -> str:
    """Say what is wrong with a command's status and standard error; "" if nothing."""
    lines = err.split("\n")
    if status not in (0, 1, 2):
        return f"status {status}"
    if "Traceback" in err:
        return "a traceback"
    if re.search(r"unexpected \w+ in \S+: .*--debug", err):
        return "an unexpected error"
    if lines.pop():
        return "no line end"
    if any(not line.startswith(("forgetkit: ", "to go on: ")) for line in lines):
        return "a line that is not forgetkit's"
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for line in lines for character in line):
        return "control characters"
    if status and not lines:
        return "a refusal without a message"
    return ""


def one_line(answer: Answer) -> str:
    """Return the one line of a refusal, or "" for a success; fail on anything else."""
    assert not answer.wrong, (answer.wrong, answer)
    if answer.status == 0:
        return ""
    lines = answer.err.splitlines()
    assert len(lines) == 1, answer
    return lines[0]


def refusal(call: Any) -> str:
    """Return the message of a ``ForgetkitError`` that ``call`` raises, or ""; other errors pass."""
    with limited(30):
        try:
            call()
        except ForgetkitError as error:
            message = " ".join(str(error).split())
            assert message, "an error without a message"
            return message
    return ""
