"""Augmentation: what flips and shifts do, and functions of the user's own."""

import numpy as np
import pytest
from training import digits, digits_samples

from tfcompress.compress.training import augment, recipe
from tfcompress.errors import UsageError

IMAGES = np.arange(40 * 16 * 8 * 2).reshape(40, 16, 8, 2).astype("float32")


def made(name, rows=IMAGES, seed=0):
    return augment.find(name, [rows[:2]])([rows], np.random.default_rng(seed))[0]


def test_about_half_of_the_images_are_flipped_as_a_whole():
    found = made("flip")
    flipped = [np.array_equal(a, b[:, ::-1]) for a, b in zip(found, IMAGES, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(found, IMAGES, strict=True)]
    assert 10 <= sum(flipped) <= 30 and sum(flipped) + sum(same) == len(IMAGES)


def test_shifts_are_small_in_both_directions_and_repeat_edges():
    found, seen = made("shift"), set()
    for image, original in zip(found, IMAGES, strict=True):
        matches = [(dy, dx) for dy in (-2, -1, 0, 1, 2) for dx in (-1, 0, 1)
                   if np.array_equal(image, original[np.clip(np.arange(16) + dy, 0, 15)][
                       :, np.clip(np.arange(8) + dx, 0, 7)])]
        assert len(matches) == 1
        seen.add(matches[0])
    assert {dy for dy, _ in seen} == {-2, -1, 0, 1, 2} and {dx for _, dx in seen} == {-1, 0, 1}


def test_the_same_seed_does_the_same():
    assert np.array_equal(made("flip+shift"), made("flip+shift"))
    assert not np.array_equal(made("flip+shift"), made("flip+shift", seed=1))
    assert made("flip+shift").dtype == np.float32


def test_what_is_no_image_stays():
    rows = np.arange(10.0)[:, None]
    both = augment.find("flip", [IMAGES[:2], rows[:2]])([IMAGES[:10], rows],
                                                        np.random.default_rng(0))
    assert np.array_equal(both[1], rows)
    with pytest.raises(UsageError, match="no input is one"):
        augment.find("flip", [rows])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own in the current folder, under a name that no other test has."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("""
import numpy as np
def noise(batch, rng):
    return batch + rng.normal(size=batch.shape)
def both(batch, rng):
    return [batch[0] * 2, batch[1]]
def cut(batch, rng):
    return batch[:, :4]
def broken(batch, rng):
    return batch.nothing
""")
    monkeypatch.chdir(tmp_path)
    return name


def test_functions_of_one_s_own(own):
    assert np.abs(made(f"{own}:noise") - IMAGES).std() > 0.5
    assert np.array_equal(made(f"{own}:noise"), made(f"{own}:noise"))
    two = augment.find(f"{own}:both", [IMAGES, IMAGES])([IMAGES, IMAGES], None)
    assert np.array_equal(two[0], IMAGES * 2) and np.array_equal(two[1], IMAGES)


@pytest.mark.parametrize("function, message", [
    ("cut", "makes"), ("broken", "'nothing'"), ("missing", "cannot import")])
def test_functions_that_will_not_do_are_refused_before_training(own, function, message):
    with pytest.raises(UsageError, match=message):
        augment.find(f"{own}:{function}", [IMAGES[:2]])


@pytest.mark.slow
def test_the_teacher_sees_what_the_student_sees(tmp_path):
    """At a rate of zero the student stays the teacher: their distance is zero on any batch."""
    import keras

    from tfcompress.compress.training import finetune

    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3),
                              keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    chosen = recipe.Recipe((recipe.Finetune(learning_rate=0.0, epochs=2),),
                           recipe.Training(augment="shift"))
    found = finetune.run(model, chosen, digits_samples(tmp_path, labels=False))
    assert found.metric_name == "agreement"
    assert [h["metric"] for h in found.history] == [1.0, 1.0]
    assert all(abs(h["loss"]) < 1e-5 for h in found.history)


@pytest.mark.slow
def test_augmented_training_repeats_itself_and_differs_from_plain(tmp_path):
    from tfcompress.compress.training import finetune

    folder = digits_samples(tmp_path)
    losses = []
    for told in ("shift", "shift", None):
        chosen = recipe.Recipe((recipe.Finetune(epochs=1),), recipe.Training(augment=told))
        losses.append(finetune.run(digits()[0], chosen, folder).history[0]["loss"])
    assert losses[0] == losses[1] and losses[0] > losses[2]
