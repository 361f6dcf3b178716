"""The checks before a change lands: ``nox`` runs ``check``."""

import nox

nox.options.sessions = ["check"]
nox.options.error_on_missing_interpreters = True

PYTEST = ("pytest", "-n", "2", "--dist", "worksteal", "--durations=20")


@nox.session
def check(session: nox.Session) -> None:
    """Style, types, import contracts and all but the long tests, in one environment: torch is large."""
    install(session)
    lint(session)
    session.run(*PYTEST, *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """Style, types, import contracts and the tests that start no process and take a fraction of a second."""
    install(session)
    lint(session)
    session.run(*PYTEST, "-m", "not (children or slow or long)", *session.posargs)


@nox.session
def full(session: nox.Session) -> None:
    """Everything: the sessions check, long, packages, trainers and coverage."""
    for name in ("check", "long", "packages", "trainers", "coverage"):
        session.notify(name)


@nox.session
def long(session: nox.Session) -> None:
    """The long tests, and the property tests with many examples."""
    install(session)
    session.run(*PYTEST, "-m", "long or hypothesis", "--hypothesis-profile", "long", *session.posargs)


@nox.session
def packages(session: nox.Session) -> None:
    """The tests beside other packages: attacks, optimizers, networks of timm, HEIF images, pandas and notebooks."""
    install(session)
    session.install("timm", "pillow-heif", "pandas", "ipython")
    session.install("schedulefree", "lion-pytorch", "pytorch-optimizer", "bitsandbytes", "transformers")
    session.install("--no-deps", "torchattacks")  # its pins contradict those of other packages
    session.run(
        *PYTEST,
        "tests/api",
        "tests/builtin/analyses/test_attack.py",
        "tests/builtin/datasets/test_folder.py",
        "tests/unlearning/test_optimizer_state.py",
        "plugins/forgetkit-saliency/tests/test_saliency_structure.py",
        *session.posargs,
    )


@nox.session
def trainers(session: nox.Session) -> None:
    """The integrations, their examples and their page, beside the trainers."""
    install(session)
    session.install(".[accelerate,avalanche,lightning,skorch,transformers]", "pytorch_lightning")
    tests = ("tests/integrations", "tests/examples", "tests/docs/test_docs.py")
    session.run(*PYTEST, *tests, "-k", "integrations or examples or trainers", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The coverage of all but the long tests, which takes nearly twice as long as the tests."""
    install(session)
    session.run(*PYTEST, "--cov", "--cov-report=term", *session.posargs)


def install(session: nox.Session) -> None:
    session.install(".[dev]", "./plugins/forgetkit-saliency", "./plugins/forgetkit-plasticity")


def lint(session: nox.Session) -> None:
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
