"""What must hold before a change lands: ``nox`` runs all of it, ``nox -s quick`` the tests alone."""

import nox

nox.options.sessions = ["check"]
nox.options.error_on_missing_interpreters = True


@nox.session
def check(session: nox.Session) -> None:
    """Style, types, walls and the whole test suite, in one environment: torch is large."""
    session.install(".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("pytest", "--cov", "--cov-report=term", *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """The tests that take no more than a moment each."""
    session.install(".[dev]")
    session.run("pytest", "-m", "not slow", *session.posargs)
