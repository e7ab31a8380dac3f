"""Clustering: k-means by itself, and the example's model clustered."""

import numpy as np
import pytest
from training import accuracy, digits, digits_samples, kernels_of

from tfcompress.compress import cluster, recipe


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


@pytest.mark.slow
def test_clustered_digits_have_few_values_and_are_as_good(tmp_path):
    from tfcompress.compress import finetune

    loaded, _ = digits()
    chosen = recipe.Recipe((recipe.Cluster(clusters=16, epochs=4),))
    found = finetune.run(loaded, chosen, digits_samples(tmp_path))
    for _, values in kernels_of(found.model):
        assert 2 < len(np.unique(values)) <= 16
    assert accuracy(found.model) >= accuracy(loaded.model) - 0.02
    assert found.history[-1]["loss"] < found.history[0]["loss"]


@pytest.mark.slow
def test_zeros_survive_and_small_kernels_are_named(tmp_path):
    from tfcompress.compress import finetune

    loaded, _ = digits()
    chosen = recipe.Recipe((recipe.Prune(sparsity=0.9, epochs=1),
                            recipe.Cluster(clusters=32, epochs=1)))
    found = finetune.run(loaded, chosen, digits_samples(tmp_path))
    named = {s["layer"] for s in found.skipped if s["stage"] == "cluster"}
    assert named == {"conv2d", "separable_conv2d", "separable_conv2d_1"}
    for one, values in kernels_of(found.model):
        assert (values == 0).sum() >= round(0.9 * values.size)
        if one.layer not in named:
            assert len(np.unique(values)) <= 32
