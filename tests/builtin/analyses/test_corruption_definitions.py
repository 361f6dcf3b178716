"""Each corruption against its definition: closed forms, loops over pixels, the moments of noise."""

from __future__ import annotations

import colorsys
import math
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, stats

from forgetkit.builtin.analyses.corruptions import blur, weather
from forgetkit.builtin.analyses.corruptions.draws import CorruptionDraws, enlarge
from forgetkit.builtin.analyses.corruptions.edges import distances, edges, equalize
from forgetkit.builtin.analyses.corruptions.table import TABLE
from forgetkit.seeding import Seeds

FIVE = (1, 2, 3, 4, 5)
SETTLED = {
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur"),
    "saturate",
}
"""Those that draw nothing."""
LEVEL = 1 / 255


def made(name, severity, pixels, seed=0):
    return TABLE[name](pixels, severity, CorruptionDraws(Seeds(seed), range(len(pixels))))


def grey(value, count=40, size=32):
    return np.full((count, size, size, 3), value, np.uint8)


def point(value=255, size=33):
    image = np.zeros((1, size, size, 3), np.uint8)
    image[:, size // 2, size // 2] = value
    return image


def scenes(count=6, height=32, width=32, seed=4):
    """Coloured, smooth and full of contrast, as photographs are."""
    drawn = np.random.default_rng(seed).normal(size=(count, height, width, 3))
    smooth = ndimage.gaussian_filter(drawn, (0, 2, 2, 0.4), mode="wrap")
    smooth -= smooth.min((1, 2, 3), keepdims=True)
    return (255 * smooth / smooth.max((1, 2, 3), keepdims=True)).astype(np.uint8)


def with_severity(*values):
    return list(enumerate(values, 1))


class Fixed:
    """Draws that are known."""

    def __init__(self, *values):
        self.values = [np.asarray(value, float) for value in values]

    def uniform(self, low, high, *shape):
        value = self.values.pop(0)
        assert value.shape[1:] == shape
        return value


def off(worse, pixels):
    return worse.astype(float) - pixels


def moments(worse, pixels):
    """Mean and variance of what was added, in [0, 1]; cutting off to a level takes half of one, and adds a 12th."""
    added = off(worse, pixels) * LEVEL
    return added.mean() + LEVEL / 2, added.var() - LEVEL**2 / 12, added.size


@pytest.mark.parametrize(("severity", "deviation"), with_severity(0.04, 0.06, 0.08, 0.09, 0.1))
def test_gaussian_noise_has_its_deviation(severity, deviation):
    mean, variance, count = moments(made("gaussian_noise", severity, grey(128)), grey(128))
    assert abs(mean) < 5 * deviation / math.sqrt(count)
    assert abs(variance / deviation**2 - 1) < 5 * math.sqrt(2 / count)


@pytest.mark.parametrize(("severity", "quanta"), with_severity(500, 250, 100, 75, 50))
def test_shot_noise_is_counted_light(severity, quanta):
    counts = np.arange(5 * quanta)
    likely = stats.poisson.pmf(counts, 102 / 255 * quanta)
    levels = np.minimum(counts * 255 // quanta, 255)
    expected = likely @ levels
    spread = likely @ (levels - expected) ** 2
    assert spread == pytest.approx(102 / 255 / quanta * 255**2, rel=0.06)
    worse = made("shot_noise", severity, grey(102)).astype(float)
    assert abs(worse.mean() - expected) < 5 * math.sqrt(spread / worse.size)
    assert abs(worse.var() / spread - 1) < 5 * math.sqrt(3 / worse.size)


@pytest.mark.parametrize(("severity", "share"), with_severity(0.01, 0.02, 0.03, 0.05, 0.07))
def test_impulse_noise_hits_its_share_of_the_values(severity, share):
    worse = made("impulse_noise", severity, grey(128))
    for value in (0, 255):
        slack = 5 * math.sqrt(share / 2 / worse.size)
        assert abs((worse == value).mean() - share / 2) < slack
    assert set(np.unique(worse)) == {0, 128, 255}


@pytest.mark.parametrize(("severity", "deviation"), with_severity(0.06, 0.1, 0.12, 0.16, 0.2))
def test_speckle_noise_is_in_proportion_to_the_value(severity, deviation):
    for value in (64, 128):
        _, variance, count = moments(made("speckle_noise", severity, grey(value)), grey(value))
        expected = (deviation * value / 255) ** 2
        assert abs(variance / expected - 1) < 5 * math.sqrt(2 / count) + 0.02  # the slices beyond 0 and 1
    assert (made("speckle_noise", severity, grey(0)) == 0).all()


@pytest.mark.parametrize(("severity", "deviation"), with_severity(0.4, 0.6, 0.7, 0.8, 1.0))
def test_a_point_under_gaussian_blur_becomes_a_normal_density(severity, deviation):
    steps = np.arange(-16, 17)
    side = np.exp(-(steps**2) / (2 * deviation**2)) * (abs(steps) <= int(4 * deviation + 0.5))
    side /= side.sum()
    worse = made("gaussian_blur", severity, point())[0, ..., 0]
    assert abs(worse - 255 * np.outer(side, side)).max() <= 1
    assert 16 - int(4 * deviation + 0.5) <= np.argwhere(worse > 0).min()


@pytest.mark.parametrize(("severity", "times"), with_severity(1, 1, 1, 2, 2))
def test_glass_blur_copies_pixels_one_after_the_other(severity, times):
    pixels = scenes(2, 9, 11)
    worse = made("glass_blur", severity, pixels)
    deviation = (0.05, 0.25, 0.4, 0.25, 0.4)[severity - 1]
    for place, image in enumerate(pixels):
        stream = Seeds(0).numpy(place)
        smooth = ndimage.gaussian_filter(image / 255, (deviation, deviation, 0), mode="nearest")
        copied = (smooth * 255).astype(np.uint8)
        for _ in range(times):
            moves = stream.integers(-1, 1, (7, 9, 2))
            for row in range(8, 1, -1):
                for column in range(10, 1, -1):
                    down, right = moves[row - 2, column - 2]
                    copied[row, column] = copied[row + down, column + right]
        smooth = ndimage.gaussian_filter(copied / 255, (deviation, deviation, 0), mode="nearest")
        np.testing.assert_array_equal(worse[place], (smooth.clip(0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize("severity", FIVE)
def test_a_point_out_of_focus_becomes_a_soft_disk(severity):
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    edge = math.exp(-0.5 / softness**2)
    weights = np.zeros((7, 7))
    for down in range(-1, 2):
        for right in range(-1, 2):
            if down**2 + right**2 <= radius**2:
                for further in range(-1, 2):
                    for beside in range(-1, 2):
                        weights[3 + down + further, 3 + right + beside] += edge ** (abs(further) + abs(beside))
    weights /= weights.sum()
    np.testing.assert_allclose(blur.disk(radius, softness), weights[1:-1, 1:-1], atol=1e-12)
    worse = made("defocus_blur", severity, point())[0, 13:20, 13:20, 0]
    assert abs(worse - 255 * weights).max() <= 1


def test_motion_blur_smears_to_one_side_along_its_angle():
    pixels = scenes(3, 12, 10)
    angles = np.array([-40.0, 0.0, 100.0])
    worse = blur.smear(pixels, 6, 1.5, angles)
    weights = [math.exp(-(step**2) / (2 * 1.5**2)) for step in range(13)]
    for image, angle, found in zip(pixels, np.deg2rad(angles), worse, strict=True):
        for row in range(12):
            for column in range(10):
                total = np.zeros(3)
                for step, weight in enumerate(weights):
                    down = math.ceil(step * math.sin(angle) - 0.5)
                    right = math.ceil(step * math.cos(angle) - 0.5)
                    total += weight * image[min(max(row + down, 0), 11), min(max(column + right, 0), 9)]
                assert abs(found[row, column] - total / sum(weights)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("severity", "radius"), with_severity(6, 6, 6, 8, 9))
def test_motion_blur_is_as_long_as_its_kernel(severity, radius):
    image = np.zeros((1, 1, 64, 3), np.uint8)
    image[0, 0, 40:] = 255
    deviation = (1.0, 1.5, 2.0, 2.0, 2.5)[severity - 1]
    row = TABLE["motion_blur"](image, severity, Fixed([0.0]))[0, 0, :, 0]
    assert (row[40:] == 255).all()  # nothing comes from the other side
    assert (row[: 40 - 2 * radius] == 0).all()
    reached = np.flatnonzero(row)[0]
    # The tail of half a normal density that reaches here is what half a level needs.
    tail = [sum(math.exp(-(s**2) / (2 * deviation**2)) for s in range(k, 2 * radius + 1)) for k in range(60)]
    assert 40 - reached == max(k for k in range(60) if 255 * tail[k] / tail[0] > 0.5)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    factor=st.sampled_from((*np.arange(1, 1.26, 0.01), 1.75, 2.25)),
)
def test_enlarging_agrees_with_scipy(height, width, factor):
    image = np.random.default_rng(height * width).random((height, width))
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    large = ndimage.zoom(image[top : top + rows, left : left + columns], factor, order=1, mode="nearest")
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    expected = large[top : top + height, left : left + width]
    np.testing.assert_allclose(enlarge(image[None, ..., None], factor)[0, ..., 0], expected, atol=1e-9)


@pytest.mark.parametrize(("severity", "last"), with_severity(1.05, 1.10, 1.15, 1.20, 1.25))
def test_zoom_blur_is_the_mean_up_to_its_factor(severity, last):
    pixels = scenes(2)
    factors = np.arange(1, last + 0.005, 0.01)
    assert factors[-1] == pytest.approx(last)
    # make_cifar_c.py steps to before 1.06 and so on, where rounding decides of the last factor.
    factors = np.arange(1, last + 0.01, 0.01)
    large = [enlarge(pixels / 255, factor) for factor in factors]
    expected = (pixels / 255 + sum(large)) / (len(factors) + 1)
    assert abs(made("zoom_blur", severity, pixels) - expected * 255).max() < 1 + 1e-3


@pytest.mark.parametrize(("severity", "kept"), with_severity(0.75, 0.5, 0.4, 0.3, 0.15))
def test_contrast_keeps_the_mean(severity, kept):
    pixels = scenes()
    mean = pixels.mean((1, 2), keepdims=True)
    assert abs(made("contrast", severity, pixels) - (mean + kept * (pixels - mean))).max() < 1 + 1e-6


def colours():
    levels = np.array([0, 1, 60, 128, 200, 255], np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, 12, 18, 3)


@pytest.mark.parametrize("severity", FIVE)
def test_brightness_and_saturation_agree_with_colorsys(severity):
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    times, added = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    brighter, stronger = (made(name, severity, colours())[0] for name in ("brightness", "saturate"))
    for place in np.ndindex(12, 18):
        hue, saturation, value = colorsys.rgb_to_hsv(*(colours()[0][place] / 255))
        bright = colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))
        strong = colorsys.hsv_to_rgb(hue, min(saturation * times + added, 1), value)
        assert abs(brighter[place] - 255 * np.array(bright)).max() < 1 + 1e-6
        assert abs(stronger[place] - 255 * np.array(strong)).max() < 1 + 1e-6


@pytest.mark.parametrize(("severity", "quality"), with_severity(80, 65, 58, 50, 40))
def test_jpeg_is_what_pillow_writes_and_reads(severity, quality):
    pixels = scenes(2)
    file = BytesIO()
    Image.fromarray(pixels[1]).save(file, "jpeg", quality=quality)
    np.testing.assert_array_equal(made("jpeg_compression", severity, pixels)[1], np.asarray(Image.open(file)))


@pytest.mark.parametrize(("severity", "side"), with_severity(30, 28, 27, 24, 20))
def test_pixelated_images_have_as_many_rows_as_the_small_ones(severity, side):
    pixels = scenes(2)
    worse = made("pixelate", severity, pixels)
    small = np.asarray(Image.fromarray(pixels[1]).resize((side, side), Image.Resampling.BOX))
    assert {tuple(row) for row in worse[1].reshape(32, -1)} <= {
        tuple(np.asarray(Image.fromarray(small).resize((32, 32), Image.Resampling.BOX))[row].ravel())
        for row in range(32)
    }
    assert len({tuple(row) for row in worse[1].reshape(32, -1)}) == side


def ramp(count=1):
    """Red says the column, green the row, eightfold less a half."""
    down, across = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    return np.tile(np.stack([across * 8, down * 8, 0 * down], -1).astype(np.uint8), (count, 1, 1, 1))


def test_points_that_move_together_move_the_image():
    pixels = scenes(1)
    moved = TABLE["elastic_transform"](pixels, 1, Fixed([[[2, 1]] * 3], np.zeros((1, 2, 32, 32))))
    assert abs(off(moved[:, 1:, 2:], pixels[:, :-1, :-2])).max() <= 1
    # Mirrored about the centres of the outermost pixels.
    assert abs(off(moved[0, 5, 0], pixels[0, 4, 2])).max() <= 1


def test_a_point_that_moves_takes_its_place_in_the_image_along():
    offsets = np.array([[[2.0, -1.0], [0.5, 1.0], [-1.5, 2.5]]])
    moved = TABLE["elastic_transform"](ramp(), 1, Fixed(offsets, np.zeros((1, 2, 32, 32))))[0]
    for begun, offset in zip(([26, 26], [26, 6], [6, 6]), offsets[0], strict=True):
        across, down = np.array(begun) + offset
        nearby = ndimage.map_coordinates(moved.astype(float), [[down] * 2, [across] * 2, [0, 1]], order=1)
        assert abs(nearby - 8 * np.array(begun)).max() < 1.5


@pytest.mark.parametrize("severity", FIVE)
def test_elastic_displacements_stay_within_their_bounds(severity):
    strength, moved = ((0, 2.56), (1.6, 2.24), (2.56, 1.92), (3.2, 1.6), (3.2, 0.96))[severity - 1]
    worse = made("elastic_transform", severity, ramp(20))
    # Inside the triangle of the three points, no place moves farther than they do.
    inside = [(row, column) for row in range(8, 25) for column in range(row + 1, 25)]
    for row, column in inside:
        displaced = off(worse[:, row, column, :2], np.array([8 * column, 8 * row])) / 8
        assert abs(displaced).max() < (strength + moved) * 1.4 + 0.3


def test_displacements_are_the_smooth_field_times_its_strength():
    field = np.zeros((1, 2, 32, 32))
    field[0, 1] = 1.0  # the same everywhere, so that smoothing leaves it; down
    worse = TABLE["elastic_transform"](ramp(), 2, Fixed(np.zeros((1, 3, 2)), field))[0]
    assert abs(worse[4:28, 4:28, 1] - 8 * (np.arange(4, 28)[:, None] + 1.6)).max() <= 1
    assert abs(off(worse[4:28, 4:28, 0], ramp()[0, 4:28, 4:28, 0])).max() <= 1


def test_plasma_is_made_from_grid_to_grid():
    noise = np.random.default_rng(2).uniform(-1, 1, (1, 63))
    heights, used, step, rough = {(0, 0): 0.0}, iter(noise[0]), 8, 100.0
    while step > 1:
        half = step // 2

        def fill(places, neighbours, rough=rough):
            known = dict(heights)
            for row, column in places:
                around = [known[(row + down) % 8, (column + right) % 8] for down, right in neighbours]
                heights[row, column] = sum(around) / 4 + rough * rough * next(used)

        grid = [(row, column) for row in range(0, 8, step) for column in range(0, 8, step)]
        fill([(r + half, c + half) for r, c in grid], [(d, r) for d in (-half, half) for r in (-half, half)])
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        fill([(r, c + half) for r, c in grid], cross)
        fill([(r + half, c) for r, c in grid], cross)
        step, rough = half, rough / 2.5
    values = np.array([[heights[row, column] for column in range(8)] for row in range(8)])
    expected = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(weather.plasma(noise, 8, 2.5)[0], expected, atol=1e-12)


@pytest.mark.parametrize(("severity", "thickness"), with_severity(0.2, 0.5, 0.75, 1.0, 1.5))
def test_fog_lies_between_nothing_and_its_thickness(severity, thickness):
    white = made("fog", severity, grey(255, 8))
    assert (white.max((1, 2, 3)) == 255).all()  # where the cloud is thickest
    assert abs(white.min((1, 2, 3)) - 255 / (1 + thickness)).max() <= 1
    assert (made("fog", severity, grey(0, 2)) == 0).all()


@pytest.mark.parametrize("severity", FIVE)
def test_frost_is_added_in_its_share(severity):
    kept, strength = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    pixels = scenes(3)
    photograph = np.zeros((40, 50, 3), np.uint8) + np.array([40, 80, 120], np.uint8)
    worse = weather.frost(pixels, CorruptionDraws(Seeds(0), range(3)), kept, strength, [photograph])
    assert abs(worse - (kept * pixels + strength * photograph[0, 0]).clip(0, 255)).max() < 1 + 1e-6
    painted = made("frost", severity, grey(0, 200)) / strength
    colours = np.array([[78, 149, 165], [198, 203, 212], [198, 203, 212], [143, 158, 171], [102, 114, 126]])
    # The five kinds are drawn alike: some 40 images of each.
    assert abs(painted.mean((0, 1, 2)) - colours.mean(0)).max() < 20
    assert 10 < painted.std((1, 2)).mean() < 40


def test_cut_outs_of_photographs_lie_anywhere_within():
    down, across = np.meshgrid(np.arange(60), np.arange(50), indexing="ij")
    photographs = [np.stack([down, across, 0 * down + which], -1).astype(np.uint8) for which in (100, 200)]
    cut = weather._cut(photographs, 32, 32, CorruptionDraws(Seeds(1), range(300)))
    corners = cut[:, 0, 0]
    assert (cut[..., 0] == corners[:, None, None, 0] + np.arange(32)[:, None]).all()
    assert (cut[..., 1] == corners[:, None, None, 1] + np.arange(32)).all()
    assert set(corners[:, 0]) == set(range(28))
    assert set(corners[:, 1]) == set(range(18))
    assert set(corners[:, 2]) == {100, 200}


@pytest.mark.parametrize(("severity", "kept"), with_severity(0.95, 0.9, 0.9, 0.85, 0.8))
def test_snow_on_black_is_the_same_turned_round(severity, kept):
    worse = made("snow", severity, grey(0, 20))
    np.testing.assert_array_equal(worse, worse[:, ::-1, ::-1])
    assert abs(worse.min() - (1 - kept) * 127.5) <= 1  # the bleaching, where no flake is
    assert worse.max() > worse.min() + 20


def test_flakes_fall_downwards():
    flat = blur.smear(point()[:1], 10, 4, np.array([-90.0]))[0, ..., 0]
    rows, columns = np.nonzero(flat)
    assert set(columns) == {16}
    assert rows.min() == 16
    assert rows.max() > 22


@pytest.mark.parametrize("severity", FIVE)
def test_spatter_is_water_and_then_mud(severity):
    pixels = grey(100, 20)
    worse = made("spatter", severity, pixels)
    added = off(worse, pixels)
    wet = (added != 0).any(-1)
    assert 0 < wet.mean() < 0.5
    if severity <= 3:
        assert added.min() >= 0
        assert added.max() <= 0.5 * 238 + 1
        assert (added[..., 1] == added[..., 2]).all()
        assert (added[..., 0] <= added[..., 1]).all()
    else:
        full = worse[(added[..., 2] < -79)]
        assert abs(full - np.array([63.0, 42, 20])).max() <= 1.5
        assert added[..., 2].min() >= -80.5
        assert added.max() <= 0


def test_edges_are_where_steps_are_high_enough():
    image = np.zeros((1, 9, 20), np.uint8)
    image[0, :, 6:] = 100
    found = edges(image)[0]
    assert (found.sum(1) == 1).all()
    assert set(np.nonzero(found)[1]) <= {5, 6}
    image[0, :, 6:] = 30  # 4 times 30 lies between the two thresholds
    assert not edges(image).any()
    image[0, 4, 6:] = 60  # and counts where it is connected to a higher one
    assert edges(image)[0].any(1).all()
    image[0, :, 6:] = 12
    assert not edges(image).any()


def test_distances_are_nearly_those_of_a_ruler():
    there = np.random.default_rng(3).random((8, 20, 30)) < 0.01
    there[0] = False
    there[1] = True
    for seen, found in zip(there, distances(there, 20.0), strict=True):
        exact = ndimage.distance_transform_edt(~seen) if seen.any() else np.full(seen.shape, 20.0)
        assert abs(found - np.minimum(exact, 20)).max() <= 0.03 * 20
        np.testing.assert_array_equal(found == 0, seen)


def test_equalising_spreads_the_levels_that_there_are():
    images = np.stack([scenes(1)[0, ..., 0], np.full((32, 32), 7, np.uint8), np.arange(1024).reshape(32, 32) % 2 + 50])
    found = equalize(images.astype(np.uint8))
    assert (found[1] == 7).all()
    np.testing.assert_array_equal(found[2], np.where(images[2] == 50, 0, 255))
    lowest = (images[0] == images[0].min()).sum()
    for level in np.unique(images[0]):
        below = (images[0] <= level).sum() - lowest
        assert abs(found[0][images[0] == level] - 255 * below / (1024 - lowest)).max() <= 0.5


@pytest.mark.parametrize("name", TABLE)
@given(height=st.integers(1, 40), width=st.integers(1, 40), severity=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_images_of_any_size_stay_images(name, height, width, severity, seed):
    pixels = scenes(2, height, width, seed)
    before = pixels.copy()
    worse = made(name, severity, pixels, seed)
    assert worse.shape == pixels.shape
    assert worse.dtype == np.uint8
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("name", TABLE)
def test_an_image_is_corrupted_as_its_place_and_seed_say(name):
    pixels, corrupt = scenes(), TABLE[name]
    whole = made(name, 4, pixels)
    apart = [
        corrupt(pixels[begin:end], 4, CorruptionDraws(Seeds(0), range(begin, end)))
        for begin, end in ((0, 1), (1, 4), (4, 6))
    ]
    np.testing.assert_array_equal(whole, np.concatenate(apart))
    assert (whole == made(name, 4, pixels, seed=1)).all() == (name in SETTLED)
    alike = made(name, 4, np.repeat(pixels[:1], 6, 0))
    assert (alike == alike[0]).all() == (name in SETTLED)


@pytest.mark.parametrize(
    "name", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur", "defocus_blur",
             "motion_blur", "zoom_blur", "fog", "brightness", "contrast", "pixelate", "jpeg_compression"]
)  # fmt: skip
def test_severer_is_farther_from_what_it_was(name):
    pixels = scenes(30)
    distance = [np.square(off(made(name, severity, pixels), pixels)).mean() for severity in FIVE]
    assert distance == sorted(distance)
    assert distance[-1] > 1.1 * distance[0]
