"""``forgetkit report``: what it writes, what it says, and each mistake in one line."""

from __future__ import annotations

import sys

import pytest
from helpers import fake_outcomes

from forgetkit.results.cell_store import CellStore, GridManifest
from forgetkit.storage import write_with_digest

AXES = {"importance": ("snip", "random")}


@pytest.fixture
def folder(workdir):
    """An ablation of two arms at two seeds, one of them failed."""
    outcomes = fake_outcomes.outcomes(AXES, seeds=2, lost={3: ("failed", "no memory")}, title="Criteria")
    pool = CellStore(workdir / "ablations")
    cells = []
    for place, cell in enumerate(outcomes.cells):
        digest = f"{place:064d}"[::-1]
        cells.append({"arm": cell.arm, "seed": cell.seed, "digest": digest})
        if cell.result is None:
            pool.fail(digest, "failed", cell.reason)
            continue
        pool.directory(digest).mkdir(parents=True)
        write_with_digest(pool.directory(digest) / "result.json", cell.result)
        pool.seal(digest)
    pool.write_manifest("criteria", GridManifest(outcomes.title, outcomes.axes, tuple(cells)))
    return pool.path


@pytest.mark.slow
def test_the_page_goes_into_the_folder(cli, folder):
    said = cli("report", folder)
    assert (said.status, said.out, said.err) == (0, f"{folder / 'report.html'}\n", "")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h1>Criteria</h1>" in page
    assert page.count("<svg ") == 4
    assert cli("report", folder).status == 0
    assert (folder / "report.html").read_text(encoding="utf-8") == page


@pytest.mark.slow
def test_page_and_pictures_go_where_they_are_asked_for(cli, folder, workdir):
    said = cli("report", folder, "--out", "new/page.html", "--pictures", "new/pictures", "--json")
    content = said.json
    assert (content["report"], content["title"]) == ("new/page.html", "Criteria")
    assert content["cells"] == {"completed": 3, "failed": 1}
    files = [
        f"new/pictures/{name}.{form}" for name in ("anytime", "errors", "cost", "layers") for form in ("svg", "png")
    ]
    assert content["pictures"] == files
    assert all((workdir / file).stat().st_size for file in [*files, "new/page.html"])
    assert not (folder / "report.html").exists()


@pytest.mark.slow
def test_quiet_is_silent(cli, folder):
    said = cli("report", folder, "--quiet")
    assert (said.status, said.out, said.err) == (0, "", "")
    assert (folder / "report.html").exists()


@pytest.mark.slow
def test_the_table_is_the_one_that_is_asked_for(cli, folder):
    words = ["--columns", "cer,seconds", "--order", "cer", "--baseline", "random"]
    assert cli("report", folder, *words).status == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'data-key="seconds"' in page
    assert 'data-key="test_accuracy"' not in page
    assert "the baseline importance=random" in page


@pytest.mark.slow
def test_a_run_has_a_page_too(cli, tiny, workdir):
    assert tiny("--name", "mine", "--quiet").status == 0
    assert cli("report", "runs/mine", "--quiet").status == 0
    page = (workdir / "runs" / "mine" / "report.html").read_text(encoding="utf-8")
    assert "<h1>mine</h1>" in page
    assert str(workdir) not in page
    said = cli("report", "runs/mine", "--grid", "mine")
    assert (said.status, said.out) == (2, "")
    assert "is the directory of a single run" in said.err


def test_report_without_matplotlib_omits_or_refuses_pictures(cli, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = cli("report", folder)
    assert said.status == 0
    assert said.out.endswith("without pictures: pictures need matplotlib: pip install 'forgetkit[plot]'\n")
    assert "<svg" not in (folder / "report.html").read_text(encoding="utf-8")
    refused = cli("report", folder, "--pictures", "pictures")
    assert refused.status == 2
    assert refused.err == "forgetkit: --pictures: pictures need matplotlib: pip install 'forgetkit[plot]'\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["."], "holds no grid"),
        (["ablations", "--grid", "other"], "holds no grid 'other'; there are criteria"),
        (["ablations", "--columns", "beauty"], "there is no column 'beauty'"),
        (["ablations", "--order", "seconds"], "the table has no column 'seconds'"),
        (["ablations", "--baseline", "fisher"], "--baseline fisher"),
        (["ablations", "--out", "file/page.html"], "cannot make file"),
        (["ablations", "--out", "begun"], "cannot write begun: Is a directory; choose another --out"),
        (["ablations", "--pictures", "file/pictures"], "cannot make file/pictures"),
        (["begun"], "begun is not finished: resume it with forgetkit run --resume begun"),
    ],
)
def test_a_mistake_is_one_line(cli, folder, workdir, words, reason):
    (workdir / "file").write_text("")
    (workdir / "begun").mkdir()
    (workdir / "begun" / "manifest.json").write_text("{}")
    said = cli("report", *words)
    assert (said.status, said.out) == (2, "")
    assert reason in said.err
    assert said.err.count("\n") == 1
