"""What must hold before a change lands: ``nox`` runs ``check``."""

import nox

nox.options.sessions = ["check"]
nox.options.error_on_missing_interpreters = True

PYTEST = ("pytest", "-n", "2", "--dist", "worksteal", "--durations=20")


@nox.session
def check(session: nox.Session) -> None:
    """Style, types, walls and the test suite, in one environment: torch is large."""
    install(session)
    lint(session)
    session.run(*PYTEST, *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """Style, types, walls and the tests that start no process and take no second."""
    install(session)
    lint(session)
    session.run(*PYTEST, "-m", "not (children or slow or long)", *session.posargs)


@nox.session
def full(session: nox.Session) -> None:
    """All of it, the long tests and the coverage included."""
    install(session)
    lint(session)
    session.run(*PYTEST, "-m", "", "--cov", "--cov-report=term", *session.posargs)


def install(session: nox.Session) -> None:
    session.install(".[dev]", "./plugins/forgetkit-saliency", "./plugins/forgetkit-plasticity")


def lint(session: nox.Session) -> None:
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
