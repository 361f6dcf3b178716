"""``--deterministic``: nothing changes where bits are certain anyway, and what cannot promise them is named."""

from __future__ import annotations

import os

import pytest
import torch

import forgetkit
from forgetkit import config
from forgetkit.engine.context import compute_settings
from forgetkit.errors import ComponentError, ConfigError
from forgetkit.registry import registry
from forgetkit.training.determinism import deterministic_only

OFFERS = registry.load(entry_points=False)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OPTIONS = {
    "dataset": "synthetic:samples=90,test=20,classes=3,size=8,channels=1",
    "model": "convnet:width=4",
    "importance": "fisher",
    "mega_batches": 2,
    "epochs": 2,
    "threads": 2,
    "out": "out",
}
UNPOOLED = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.head = nn.LazyLinear(classes)

    def forward(self, x):
        return self.head(self.unpool(*self.pool(x)).flatten(1))
"""


def settings():
    return (
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.get_num_threads(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.slow
def test_on_the_cpu_no_bit_changes_and_no_setting_stays(workdir):
    before = settings()
    one = forgetkit.run({**OPTIONS, "name": "one"})
    other = forgetkit.run({**OPTIONS, "name": "other", "deterministic": True})
    assert settings() == before
    assert (one["config"].pop("deterministic"), other["config"].pop("deterministic")) == (False, True)
    for result in (one, other):
        for row in result["mega_batches"]:
            row.pop("seconds")
            (row["unlearn"] or {}).pop("seconds", None)
    assert one["mega_batches"] == other["mega_batches"]
    for number in (1, 2):
        file = f"checkpoints/mega-batch-{number:03}.pt"
        ours, theirs = (
            torch.load(workdir / "out" / name / file, weights_only=True)["model"] for name in ("one", "other")
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_nondeterministic_operation_is_refused_before_writing(cli, workdir):
    (workdir / "unpooled.py").write_text(UNPOOLED)
    words = ["run", "--dataset", "synthetic:samples=60,test=20,classes=3,size=4,channels=1", "--threads", 1]
    words += ["--model", "import:unpooled:Net", "--epochs", 1, "--mega-batches", 2]
    answer = cli(*words, "--deterministic")
    assert answer.status == 2
    assert answer.err.startswith("forgetkit: --deterministic: max_unpooling2d")
    assert "has no deterministic implementation on cpu: use a network" in answer.err
    assert answer.err.count("\n") == 1
    assert not (workdir / "runs").exists()
    assert cli(*words, "--quiet").status == 0  # it is the option alone that refuses


def told_by_another():
    try:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    except RuntimeError as error:
        raise ComponentError("the criterion Mine failed") from error


def test_an_operation_is_named_however_deep_the_error_lies():
    before = settings()
    with pytest.raises(ConfigError, match=r"^--deterministic: put_ has no deterministic"), deterministic_only(CPU):
        told_by_another()
    assert settings() == before


def test_any_other_error_stays_what_it_is():
    with pytest.raises(ZeroDivisionError), deterministic_only(CPU):
        _ = 1 / 0


def test_what_the_caller_had_set_is_put_back():
    torch.set_deterministic_debug_mode("warn")
    try:
        with compute_settings(None, deterministic=True):
            assert torch.get_deterministic_debug_mode() == 2
        assert torch.get_deterministic_debug_mode() == 1
    finally:
        torch.set_deterministic_debug_mode("default")


def test_without_it_torch_is_left_alone():
    with compute_settings(None, "cuda"):
        assert torch.get_deterministic_debug_mode() == 0


@pytest.mark.parametrize(
    ("given", "is_up", "expected"),
    [
        (None, False, ":4096:8"),
        (":16:8", True, ":16:8"),
        (":4096:8", True, ":4096:8"),
        (None, True, "CUBLAS_WORKSPACE_CONFIG is not set, and CUDA is up already: set it to :4096:8 before"),
        (":0:0", False, "CUBLAS_WORKSPACE_CONFIG is :0:0: set it to :4096:8 before Python starts"),
    ],
)
def test_what_cublas_reads_is_set_in_time(monkeypatch, given, is_up, expected):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given or "")
    if given is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_up)
    if not expected.startswith(":"):
        with pytest.raises(ConfigError, match=expected), deterministic_only(CUDA):
            pass
        return
    with deterministic_only(CUDA):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == expected


def test_a_product_of_matrices_is_named_too():
    words = "Deterministic behavior was enabled …, but this operation is not deterministic because it uses CuBLAS and …"
    with pytest.raises(ConfigError, match="a product of matrices by cuBLAS"), deterministic_only(CPU):
        raise RuntimeError(words)


def resolved(*layers):
    return config.resolve(config.merge_layers(*map(config.canonical_keys, layers)), OFFERS).config


def test_no_clock_decides_on_the_precision():
    assert resolved({}).precision == "auto"
    assert resolved({"deterministic": True}).precision == "fp32"
    assert resolved({"deterministic": True, "precision": "bf16"}).precision == "bf16"


@pytest.mark.slow
def test_files_and_assignments_say_it_in_their_way(tiny, workdir):
    (workdir / "o.toml").write_text("deterministic = true\n")
    assert tiny("--config", "o.toml", "--json").json["config"]["deterministic"] is True
    assert tiny("--config", "o.toml", "--set", "deterministic=false", "--json").json["config"]["deterministic"] is False
    assert tiny("--deterministic", "--json").json["config"]["deterministic"] is True
    wrong = tiny("--set", "deterministic=perhaps")
    assert (wrong.status, wrong.err.count("\n")) == (2, 1)
    assert "--deterministic perhaps: input should be a valid boolean" in wrong.err


def test_a_resumed_run_keeps_it():
    manifest = {"config": resolved({"deterministic": True}).model_dump(mode="json")}
    assert config.resolve(config.resumed_options(manifest, {}, OFFERS), OFFERS).config.deterministic is True
    with pytest.raises(ConfigError, match="--deterministic false: this run was begun with true"):
        config.resumed_options(manifest, {"deterministic": "false"}, OFFERS)
