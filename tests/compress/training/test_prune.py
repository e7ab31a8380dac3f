"""Pruning: masks and schedules by themselves, and the example's model pruned."""

from types import SimpleNamespace

import numpy as np
import pytest
from training import accuracy, digits, digits_samples, kernels_of

from tfcompress.compress.training import prune, recipe
from tfcompress.compress.training.kernels import Kernel


def kernel(shape, channels=None):
    return Kernel("layer", SimpleNamespace(shape=shape, name="kernel"),
                  (len(shape) - 1,) if channels is None else channels)


def weights(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("shape, channels", [
    ((3, 3, 4, 5), (3,)), ((3, 3, 4, 2), (2, 3)), ((3, 3, 5, 4), (2,)), ((6, 2, 3), (1, 2)),
    ((2, 3, 6), (2,)), ((7, 5), (1,)), ((7, 5), (0,))])
def test_the_matrix_view_has_a_row_per_channel_and_can_be_undone(shape, channels):
    values = weights(shape)
    one = kernel(shape, channels)
    matrix = one.matrix(values)
    assert matrix.shape[0] == np.prod([shape[a] for a in channels])
    assert np.array_equal(one.unmatrix(matrix), values)


def test_a_convolution_s_matrix_is_in_the_order_of_tflite():
    values = weights((3, 2, 4, 5))
    assert np.array_equal(kernel(values.shape).matrix(values)[1], values[..., 1].ravel())


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.99])
def test_the_smallest_weights_go_and_exactly_as_many_as_asked(sparsity):
    values = weights((30, 40))
    kept = prune.mask(kernel(values.shape), values, "unstructured", sparsity) > 0
    assert (~kept).sum() == round(sparsity * values.size)
    assert np.abs(values[~kept]).max() <= np.abs(values[kept]).min()


def test_equal_weights_are_counted_too():
    values = np.ones((10, 10), "float32")
    assert prune.mask(kernel(values.shape), values, "unstructured", 0.7).sum() == 30


@pytest.mark.parametrize("shape, channels", [((16, 8), (1,)), ((3, 3, 8, 4), (3,)),
                                             ((3, 3, 4, 1), (2, 3)), ((5, 7), (1,))])
@pytest.mark.parametrize("n, m", [(2, 4), (1, 4), (4, 8)])
def test_n_of_m(shape, channels, n, m):
    values = weights(shape)
    one = kernel(shape, channels)
    kept = one.matrix(prune.mask(one, values, f"{n}:{m}", 0.8))
    size = np.abs(one.matrix(values))
    for row, sizes in zip(kept, size, strict=True):
        for at in range(0, len(row), m):
            group, inside = row[at:at + m] > 0, sizes[at:at + m]
            assert group.sum() == min(n, len(group))
            if group.all():
                continue
            assert inside[group].min() >= inside[~group].max()


def test_blocks_go_as_a_whole():
    values = weights((32, 8))
    one = kernel(values.shape)
    kept = one.matrix(prune.mask(one, values, "block2x4", 0.75))
    blocks = kept.reshape(4, 2, 8, 4).sum((1, 3))
    assert set(np.unique(blocks)) == {0.0, 8.0}
    assert (blocks == 0).mean() == 0.75


def test_blocks_at_an_edge_may_be_smaller():
    values = weights((9, 3))
    one = kernel(values.shape)
    kept = prune.mask(one, values, "block1x4", 0.5)
    assert kept.shape == values.shape
    assert 0.3 < (kept == 0).mean() < 0.7


def test_the_polynomial_schedule_grows_to_its_end_and_stays():
    stage = recipe.Prune(sparsity=0.8)
    found = [prune.sparsity_at(stage, step, 100) for step in range(100)]
    assert found == sorted(found)
    assert found[0] == 0 and found[-1] == found[50] == 0.8
    assert found[10] > 0.3  # most at the beginning
    changes = [step for step in range(100) if prune.masks_at(stage, step, 100)]
    assert 15 < len(changes) < 30 and max(changes) == 50


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_trainings_reach_the_sparsity_too(steps):
    stage = recipe.Prune(sparsity=0.8)
    last = max(s for s in range(steps) if prune.masks_at(stage, s, steps))
    assert prune.sparsity_at(stage, last, steps) == 0.8


def test_the_constant_schedule_prunes_once():
    stage = recipe.Prune(schedule="constant")
    assert [s for s in range(50) if prune.masks_at(stage, s, 50)] == [0]
    assert prune.sparsity_at(stage, 0, 50) == 0.8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["polynomial", "constant"])
def test_schedules_are_those_of_tfmot(kind):
    from tfcompress.compress.training import tfmot

    schedules = tfmot.toolkit().sparsity.keras
    stage, steps = recipe.Prune(sparsity=0.8, schedule=kind), 100
    theirs = schedules.PolynomialDecay(0.0, 0.8, 0, prune.ramp(stage, steps), power=3) \
        if kind == "polynomial" else schedules.ConstantSparsity(0.8, 0)
    for step in range(steps):
        assert prune.sparsity_at(stage, step, steps) == pytest.approx(float(theirs(step)[1]),
                                                                      abs=1e-5)


@pytest.mark.slow
def test_pruned_digits_are_sparse_and_as_good(tmp_path):
    from tfcompress.compress.training import finetune

    loaded, _ = digits()
    before = [w.copy() for _, w in kernels_of(loaded.model)]
    found = finetune.run(loaded, recipe.from_toml("prune"), digits_samples(tmp_path))
    for one, values in kernels_of(found.model):
        wanted = 0.0 if one.kind == "depthwise" else 0.8
        assert (values == 0).sum() == round(wanted * values.size)
    assert accuracy(found.model) >= accuracy(loaded.model) - 0.02
    assert all(np.array_equal(a, b) for a, (_, b) in
               zip(before, kernels_of(loaded.model), strict=True)), "the source was changed"
    assert [s["layer"] for s in found.skipped] == ["separable_conv2d", "separable_conv2d_1"]
    assert all("depthwise" in s["why"] for s in found.skipped)
    assert found.history[-1]["sparsity"] == pytest.approx(0.8, abs=0.002)
    assert [h["epoch"] for h in found.history] == list(range(len(found.history)))


@pytest.mark.slow
def test_two_of_four_holds_in_every_kernel(tmp_path):
    from tfcompress.compress.training import finetune

    loaded, _ = digits()
    stage = recipe.Prune(pattern="2:4", epochs=8, layers="!digit", depthwise=True)
    chosen = recipe.Recipe((stage,))
    found = finetune.run(loaded, chosen, digits_samples(tmp_path))
    assert found.skipped == [
        {"stage": "prune", "layer": "digit", "why": "not among the layers chosen"}]
    for one, values in kernels_of(found.model):
        if one.layer == "digit":
            assert (values != 0).all()
            continue
        matrix = one.matrix(values)
        padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % 4)))
        assert ((padded.reshape(-1, 4) != 0).sum(1) <= 2).all()
    assert accuracy(found.model) >= accuracy(loaded.model) - 0.02


@pytest.mark.slow
def test_layers_can_have_shares_of_their_own(tmp_path):
    from tfcompress.compress.training import finetune, own_loop
    from tfcompress.errors import UsageError

    loaded, data = digits()
    stage = recipe.Prune(sparsity=0.5, per_layer={"Dense": 0.9, "digit": 0.25}, epochs=2)
    made = recipe.Recipe((stage,))
    assert recipe.from_dict(made.to_dict()) == made
    found = finetune.run(loaded, made, digits_samples(tmp_path))
    for one, values in kernels_of(found.model):
        share = {"depthwise": 0.0}.get(one.kind, {"dense": 0.9, "digit": 0.25}.get(one.layer, 0.5))
        assert (values == 0).sum() == round(share * values.size), one.layer
    wrapped, callbacks = own_loop.wrap(loaded.model, stage)
    wrapped.compile("adam", "sparse_categorical_crossentropy")
    wrapped.fit(data["x_train"][:256].astype("float32"), data["y_train"][:256], epochs=1,
                verbose=0, callbacks=callbacks)
    zeros = {one.layer: (values == 0).mean() for one, values in
             kernels_of(own_loop.finish(wrapped)) if one.kind != "depthwise"}
    assert zeros["dense"] == pytest.approx(0.9, abs=0.01)
    assert zeros["digit"] == pytest.approx(0.25, abs=0.01)
    with pytest.raises(UsageError, match="takes no layer"):
        finetune.run(loaded, recipe.Recipe((recipe.Prune(per_layer={"dens": 0.5}),)),
                     digits_samples(tmp_path / "again"))
