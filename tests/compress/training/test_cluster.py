"""Clustering: k-means by itself, and the example's model clustered."""

import numpy as np
import pytest
from training import accuracy, digits, digits_samples, kernels_of

from tfcompress.compress.training import cluster, recipe


def test_groups_are_found():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(c, 0.01, 50) for c in (-1.0, 0.2, 3.0)])
    centers, places = cluster.kmeans(values, 3)
    assert centers == pytest.approx([-1.0, 0.2, 3.0], abs=0.01)
    assert np.array_equal(places, np.repeat([0, 1, 2], 50))


@pytest.mark.parametrize("clusters", [2, 8, 16, 100])
def test_each_value_has_its_nearest_center(clusters):
    values = np.random.default_rng(1).normal(size=1000)
    centers, places = cluster.kmeans(values, clusters)
    assert len(centers) == clusters
    nearest = np.abs(values[:, None] - centers).min(1)
    assert np.abs(values - centers[places]) == pytest.approx(nearest)


def test_centers_without_values_move_to_where_they_help():
    values = np.concatenate([np.zeros(500), np.linspace(0.9, 1.0, 20), [50.0]])
    centers, places = cluster.kmeans(values, 4)
    assert len(np.unique(places)) == 4
    assert np.abs(values - centers[places]).max() < 0.05


def test_more_clusters_are_never_worse():
    values = np.random.default_rng(2).laplace(size=2000)
    errors = [np.square(values - c[p]).sum() for c, p in
              (cluster.kmeans(values, k) for k in (4, 8, 16, 32))]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("init", ["linear", "density", "kmeans++"])
def test_every_start_ends_with_ascending_centers_of_low_error(init):
    values = np.random.default_rng(3).laplace(size=3000)
    centers, places = cluster.kmeans(values, 16, init, np.random.default_rng(0))
    assert len(centers) == 16 and (np.diff(centers) > 0).all()
    assert np.square(values - centers[places]).mean() < 0.02 * values.var()


def test_starts_are_what_they_are_called():
    ordered = np.sort(np.random.default_rng(4).exponential(size=1000))
    assert np.allclose(np.diff(cluster.start(ordered, 5, "linear")), np.ptp(ordered) / 4)
    edges = np.searchsorted(ordered, cluster.start(ordered, 4, "density"))
    assert edges == pytest.approx([125, 375, 625, 875], abs=2)
    drawn = [cluster.start(ordered, 8, "kmeans++", np.random.default_rng(s)) for s in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert np.isin(drawn[0], ordered).all()


@pytest.mark.slow
def test_clustered_digits_have_few_values_and_are_as_good(tmp_path):
    from tfcompress.compress.training import finetune

    loaded, _ = digits()
    chosen = recipe.Recipe((recipe.Cluster(clusters=16, epochs=4),))
    found = finetune.run(loaded, chosen, digits_samples(tmp_path))
    for _, values in kernels_of(found.model):
        assert 2 < len(np.unique(values)) <= 16
    assert accuracy(found.model) >= accuracy(loaded.model) - 0.02
    assert found.history[-1]["loss"] < found.history[0]["loss"]


@pytest.mark.slow
def test_one_codebook_for_all_kernels(tmp_path):
    from tfcompress.compress.training import finetune

    chosen = recipe.Recipe((recipe.Prune(sparsity=0.5, epochs=1, layers="dense"),
                            recipe.Cluster(clusters=12, scope="global", epochs=1)))
    found = finetune.run(digits()[0], chosen, digits_samples(tmp_path))
    values = [v.ravel() for _, v in kernels_of(found.model)]
    assert 2 < len(np.unique(np.concatenate(values))) <= 12
    assert found.skipped[0]["stage"] == "prune" and len(values) == 8


@pytest.mark.slow
def test_zeros_survive_and_small_kernels_are_named(tmp_path):
    from tfcompress.compress.training import finetune

    loaded, _ = digits()
    chosen = recipe.Recipe((recipe.Prune(sparsity=0.9, epochs=1, depthwise=True),
                            recipe.Cluster(clusters=32, epochs=1)))
    found = finetune.run(loaded, chosen, digits_samples(tmp_path))
    named = {s["layer"] for s in found.skipped if s["stage"] == "cluster"}
    assert named == {"conv2d", "separable_conv2d", "separable_conv2d_1"}
    for one, values in kernels_of(found.model):
        assert (values == 0).sum() >= round(0.9 * values.size)
        if one.layer not in named:
            assert len(np.unique(values)) <= 32
