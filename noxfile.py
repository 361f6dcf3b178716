"""What must hold before a change lands: ``nox`` runs all of it."""

import nox

nox.options.sessions = ["check"]
nox.options.error_on_missing_interpreters = True


@nox.session
def check(session: nox.Session) -> None:
    """Style, types, walls and the whole test suite, in one environment: torch is large."""
    session.install(".[dev]", "./plugins/forgetkit-saliency", "./plugins/forgetkit-plasticity")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("pytest", "--cov", "--cov-report=term", *session.posargs)
