"""A folder of images with the oddities of real folders, to read, skip or refuse."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
SIZE = 24


def arrow(seed: int, *, left: bool) -> Image.Image:
    """A bright arrow on a dark ground that no other image has."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    middle, half = SIZE // 2, SIZE // 4
    pixels[middle - 1 : middle + 2, 3 : SIZE - 3] = (240, 200, 40)
    for step in range(half):
        pixels[middle - step : middle + step + 1, 3 + step] = (240, 200, 40)
    return Image.fromarray(pixels if left else pixels[:, ::-1].copy())


def make(root: Path) -> Path:
    """Two classes of arrows and one with a composed name, with an oddity in every corner; `root` has a comma in it."""
    train, test = root / "train", root / "test"
    for part, count in ((train, 12), (test, 6)):
        for name in ("left", "right"):
            folder = part / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = number + 100 * (name == "right") + 1000 * (part == test)
                arrow(seed, left=name == "left").save(folder / f"{number:02}.png")
    turned = arrow(7000, left=True).rotate(90, expand=True)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for number in range(3):
        turned.save(train / "left" / f"turned{number}.jpg", exif=exif, quality=95 - number)
    deeper = train / "right" / "week 2" / "deeper"
    deeper.mkdir(parents=True)
    arrow(7100, left=False).save(deeper / "in a sub-folder.PNG")
    arrow(7200, left=False).save(train / "right" / "without a suffix", "PNG")
    (train / "right" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (train / "right" / "00.png.bak").write_bytes((train / "right" / "00.png").read_bytes())
    (train / "right" / "notes.txt").write_text("three of these are blurred")
    (train / "right" / ".DS_Store").write_bytes(bytes(16))
    whole = (train / "left" / "00.png").read_bytes()
    (train / "left" / "cut short.png").write_bytes(whole[: len(whole) // 2])
    (train / "left" / "empty.jpg").write_bytes(b"")
    deep = (np.asarray(arrow(7300, left=True).convert("L")).astype(np.uint16) * 257).astype(np.uint16)
    Image.fromarray(deep).save(train / "left" / "16 bits.png")
    clear = arrow(7400, left=True).convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(np.asarray(clear)[..., 0] > 200, 255, 0).astype(np.uint8)))
    clear.save(train / "left" / "transparent.png")
    Image.new("RGB", (SIZE, SIZE), "white").save(train / "left" / "blank.png")
    (test / "left" / "copied.png").write_bytes((train / "left" / "03.png").read_bytes())
    (train / "left" / "mislabelled.png").write_bytes((train / "right" / "05.png").read_bytes())
    for form in ("NFC", "NFD"):
        folder = train / unicodedata.normalize(form, "aufwärts")
        folder.mkdir(exist_ok=True)  # a file system may hold both to be one
        arrow(8000 + len(form) + (form == "NFD"), left=False).rotate(90).save(folder / f"{form}.png")
    mac = root / "__MACOSX" / "train"
    mac.mkdir(parents=True)
    (mac / "._left").write_bytes(bytes(16))
    (train / "__MACOSX").mkdir()
    (train / "__MACOSX" / "._00.png").write_bytes(bytes(16))
    return root
