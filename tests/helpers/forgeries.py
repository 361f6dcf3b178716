"""Files of a record with one place changed and right digests, as somebody forges them who knows how they are written.

:func:`forge` reads a file as what it is (a sealed object, the lines of events, tensors), changes one place and writes
it back with its own digest and those that notes and seals hold of it. Nothing here is taken from ``forgetkit``.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_DEPTHS = (300, 900, 5000, 100_000)
_HUGE = (10**30, 2**63, 10**400, -(10**30), 1e308)
_FREE = {"interventions", "optimizer", "overrides", "details", "versions", "plugins", "config", "left_out", "command"}
"""What stands under these is a component's or a user's: of any type, and in a state of any shape."""
_SIGNED = {"generalization_gap", "threshold", "mean", "value", "x", "y", "time", "lr", "loss", "accuracy_change"}
_LENGTHS = {"mega_batches", "shape", "mean", "std", "passes", "resets"}
"""Lists whose length the run gives."""
_LOOSE = {"optimizer", "interventions", "weights", "previous"}


@dataclass(frozen=True)
class Forgery:
    """A change that was made. ``impossible``: no run writes that, so it must not be taken for what one wrote."""

    name: str
    place: str
    impossible: bool


def forgeable(path: Path) -> bool:
    """Whether the file is a record's: with a digest in it or beside it."""
    return path.suffix in (".json", ".pt") or path.name == "events.jsonl"


def forge(path: Path, rng: random.Random) -> Forgery | None:
    """Change one place of the file at random; None if it was of no known form."""
    if path.suffix == ".pt":
        return _forge_tensors(path, rng)
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        sealed = content.pop("sha256", None) is not None
        forgery, text = _forge_object(content, rng)
        write(path, text if not sealed or not isinstance(content, dict) else _with_digest(content, text))
        return forgery
    return _forge_event(path, rng)


def write(path: Path, text: str) -> None:
    """Write a file and the seal that holds its digest."""
    path.write_text(text)
    seal = path.parent / "seal.json"
    if path.name == "result.json" and seal.exists():
        _update(seal, "result_sha256", hashlib.sha256(path.read_bytes()).hexdigest())


def _update(path: Path, key: str, digest: str) -> None:
    content = json.loads(path.read_text())
    content.pop("sha256", None)
    content[key] = digest
    path.write_text(_with_digest(content, json.dumps(content)))


def _with_digest(content: Any, text: str) -> str:
    """The text of an object with its digest as the last key."""
    try:
        plain = json.dumps(json.loads(text), sort_keys=True)
    except (RecursionError, ValueError):  # no reader comes as far as the digest
        plain = text
    digest = hashlib.sha256(plain.encode()).hexdigest()
    return f'{text[:-1]}{", " if content else ""}"sha256": "{digest}"}}'


def _forge_event(path: Path, rng: random.Random) -> Forgery:
    lines = path.read_bytes().splitlines()
    whole = [number for number, line in enumerate(lines) if line.startswith(b'{"event"')]
    ended = [number for number in whole if b'"mega_batch_ended"' in lines[number]]
    number = rng.choice(ended if ended and rng.random() < 0.6 else whole)
    event = json.loads(lines[number])
    event.pop("crc32")
    forgery, text = _forge_object(event, rng)
    lines[number] = f'{text[:-1]}, "crc32": "{zlib.crc32(text.encode()):08x}"}}'.encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    for row in sorted((path.parent / "checkpoints").glob("resume-row-*.json")):
        row.unlink()  # so that the events are looked at
    return forgery


def _forge_object(content: dict[str, Any], rng: random.Random) -> tuple[Forgery, str]:
    """The change, and the text of the changed object; ``content`` is changed too."""
    literal = None
    if rng.random() < 0.25:
        name, literal = rng.choice(
            [("not finite", text) for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999")]
            + [("nested deeply", "[" * depth + "]" * depth) for depth in _DEPTHS]
            + [("nested deeply", '{"a":' * depth + "1" + "}" * depth) for depth in _DEPTHS]
        )
        place = _place(content, rng)
        _put(content, place, "@literal@")
        free = name == "nested deeply" and literal.count("[") + literal.count("{") < 1000 and _free(place)
        forgery = Forgery(name, _spelled(place), not free)
    else:
        forgery = _change(content, rng, _of_json)
    text = json.dumps(content)
    return forgery, text if literal is None else text.replace('"@literal@"', literal)


def _forge_tensors(path: Path, rng: random.Random) -> Forgery:
    content = torch.load(path, weights_only=True)
    forgery = _change(content, rng, _of_tensors)
    _save(path, content)
    return forgery


def put(path: Path, place: tuple[Any, ...], value: Any) -> None:
    """Write another value in one place of a state or a sealed object, with right digests."""
    content = torch.load(path, weights_only=True) if path.suffix == ".pt" else json.loads(path.read_text())
    _put(content, place, value(_at(content, place)) if callable(value) else value)
    if path.suffix == ".pt":
        _save(path, content)
    else:
        content.pop("sha256")
        write(path, _with_digest(content, json.dumps(content)))


def _save(path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())
    note = path.with_suffix(".json")
    if note.exists():
        _update(note, "state_sha256", hashlib.sha256(buffer.getvalue()).hexdigest())


Option = tuple[str, bool, Callable[[], Any]]
"""The name of a change, whether it is impossible, and the value in the place of the old one."""


def _change(content: Any, rng: random.Random, options: Callable[..., Iterator[Option]]) -> Forgery:
    """Put another value in one place, or take it away."""
    place = _place(content, rng)
    old = _at(content, place)
    holder, key = _at(content, place[:-1]), place[-1]
    every = [*_of_any(old, place, rng), *options(old, place, rng)]
    if isinstance(holder, dict):
        every.append(("a key missing", not _LOOSE & set(map(str, place[:-1])), lambda: None))
        every.append(("a key of another name", not _LOOSE & set(map(str, place[:-1])), lambda: None))
    name, impossible, make = rng.choice(every)
    if name == "a key missing":
        del holder[key]
    elif name == "a key of another name":
        holder[rng.choice(["stranger", "", "x.y"])] = holder.pop(key)
    else:
        _put(content, place, make())
    return Forgery(name, _spelled(place), impossible and not _free(place))


def _of_any(old: Any, place: tuple[Any, ...], rng: random.Random) -> Iterator[Option]:
    others = [value for value in ("text", 7, 0.5, [], {}, [[1]], True) if _kind(value) != _kind(old)]
    if isinstance(old, bool):
        others = ["text", [], {}]
    if old is not None:
        yield "another type", True, lambda: rng.choice(others)
        yield "another type", True, lambda: rng.choice(others)
        yield "nothing", False, lambda: None
    if isinstance(old, int | float) and not isinstance(old, bool):
        yield "another sign", old != 0 and place[-1] not in _SIGNED, lambda: -old
        yield "minus one", place[-1] not in _SIGNED, lambda: -1 if isinstance(old, int) else -1.0
        yield "a huge number", False, lambda: rng.choice(_HUGE)
        yield "another number", False, lambda: rng.choice([0, 1, old + 1, old * 2])
    if isinstance(old, dict):
        yield "another key", False, lambda: {**old, "stranger": rng.choice([1, "x", None, []])}
    if isinstance(old, list):
        given = place[-1] in _LENGTHS
        yield "another length", given, lambda: [*old, *(old[-1:] or [0])]
        if old:
            yield "another length", given, lambda: old[:-1]
        if len(old) > 1 and old[0] != old[1]:
            yield "entries swapped", place[-1] == "mega_batches", lambda: [old[1], old[0], *old[2:]]
    if isinstance(old, tuple):
        yield "another length", True, lambda: old[:-1]
        yield "another entry", False, lambda: (-1, *old[1:])
    if isinstance(old, str):
        yield "another text", False, lambda: rng.choice(["", "x", old + "x", "../../x", "0" * len(old), "\x1b[2J\n"])


def _of_json(old: Any, place: tuple[Any, ...], rng: random.Random) -> Iterator[Option]:
    return iter(())


def _of_tensors(old: Any, place: tuple[Any, ...], rng: random.Random) -> Iterator[Option]:
    if isinstance(old, float):
        yield "not finite", place[-1] not in ("lr", "rate"), lambda: rng.choice([float("nan"), float("inf")])
    if not isinstance(old, torch.Tensor):
        return
    dtypes = (torch.float64, torch.int32, torch.bool, torch.complex64, torch.bfloat16)
    yield "another dtype", True, lambda: old.to(rng.choice([d for d in dtypes if d != old.dtype]))
    yield (
        "another shape",
        True,
        lambda: rng.choice(
            [old.reshape(1, *old.shape), old.flatten()[:-1], old.flatten()[:0], torch.cat([old.reshape(-1)] * 2)]
        ),
    )
    yield (
        "no memory for it",
        True,
        lambda: old.flatten()[:1].expand(10**13) if old.numel() else old.reshape(1, *old.shape),
    )
    yield "another layout", True, lambda: old.to_sparse() if old.ndim else old.reshape(1)
    yield "without values", True, lambda: old.to("meta")
    if old.is_floating_point() and old.numel():
        yield "not finite", True, lambda: _with_first(old, rng.choice([float("nan"), float("inf")]))
        yield "huge values", False, lambda: torch.full_like(old, 3e38)
    if old.dtype in (torch.int64, torch.uint8) and old.numel():
        yield "another entry", False, lambda: _with_first(old, rng.choice([0, 1, 5, 44]))
        if old.dtype == torch.int64:
            yield (
                "an impossible entry",
                old.ndim > 0 or place[-1] == "hits",
                lambda: _with_first(old, rng.choice([-1, 10**12])),
            )
            if old.ndim and len(old) > 1:
                yield "an entry twice", place[-1] == "ids", lambda: _with_first(old, int(old[1]))
    if old.ndim and len(old) > 1:
        yield "rows swapped", False, lambda: old.flip(0).contiguous()


def _with_first(tensor: torch.Tensor, value: float) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[0] = value
    return changed


def _kind(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def _place(tree: Any, rng: random.Random) -> tuple[Any, ...]:
    """The keys to a place: as likely high up as deep down, whatever the number of leaves."""
    place: tuple[Any, ...] = ()
    while isinstance(tree, dict | list) and tree and (not place or rng.random() < 0.8):
        key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        place, tree = (*place, key), tree[key]
    return place


def _at(tree: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        tree = tree[key]
    return tree


def _put(tree: Any, place: tuple[Any, ...], value: Any) -> None:
    _at(tree, place[:-1])[place[-1]] = value


def _free(place: tuple[Any, ...]) -> bool:
    return bool(_FREE & set(map(str, place)))


def _spelled(place: tuple[Any, ...]) -> str:
    return ".".join(map(str, place))
