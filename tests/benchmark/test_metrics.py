import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as peer

from tfcompress.benchmark import metrics

FLOATS = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)


def batches(array, size):
    return [array[i:i + size] for i in range(0, len(array), size)]


@st.composite
def two_arrays(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 4)))
    return tuple(draw(hnp.arrays(np.float32, shape, elements=FLOATS)) for _ in range(2))


@given(two_arrays(), st.integers(1, 4))
def test_fidelity_in_batches_equals_plain_numpy(arrays, size):
    reference, output = arrays
    found = metrics.Fidelity()
    for r, o in zip(batches(reference, size), batches(output, size), strict=True):
        found.add(r, o)
    r, o = (a.astype(np.float64).ravel() for a in arrays)
    noise, signal = ((r - o) ** 2).sum(), (r**2).sum()
    assert found.max_error == np.abs(r - o).max()
    if noise == 0:
        assert found.snr == math.inf
    elif signal > 1e-20:
        assert found.snr == pytest.approx(10 * np.log10(signal / noise), abs=1e-6)
    if signal > 1e-20 and (o**2).sum() > 1e-20:
        cosine = (r @ o) / np.linalg.norm(r) / np.linalg.norm(o)
        assert found.cosine == pytest.approx(cosine, abs=1e-9)
    assert found.constant == (bool((reference != reference[0]).any())
                              and bool((output == output[0]).all()))


def test_fidelity_has_no_snr_where_the_output_is_nan():
    found = metrics.Fidelity()
    found.add(np.array([[1.0, 2.0]]), np.array([[1.0, np.nan]]))
    assert (found.snr, found.cosine, found.nonfinite) == (None, None, 1)


def test_fidelity_leaves_out_what_the_reference_does_not_know():
    found = metrics.Fidelity()
    found.add(np.array([[1.0, np.nan, 2.0]]), np.array([[1.0, np.nan, 2.5]]))
    assert (found.nonfinite, found.reference_nonfinite) == (0, 1)
    assert found.snr == pytest.approx(10 * math.log10(5 / 0.25))


def test_all_zero_reference_is_finite_and_bad():
    found = metrics.Fidelity()
    found.add(np.zeros((2, 2)), np.ones((2, 2)))
    assert found.snr < -200 and found.cosine == 0


@given(st.data(), st.integers(2, 30), st.booleans())
def test_auc_equals_sklearn_with_ties(data, count, ties):
    score = st.integers(0, 3) if ties else FLOATS
    scores = np.array(data.draw(st.lists(score, min_size=count, max_size=count)), np.float64)
    labels = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    found = metrics.Auc()
    for part, scored in zip(batches(labels, 7), batches(scores, 7), strict=True):
        found.add(part, scored)
    if labels.all() or not labels.any():
        assert found.value is None
    else:
        assert found.value == pytest.approx(peer.roc_auc_score(labels, scores), abs=1e-12)


@given(st.data(), st.integers(1, 12), st.integers(2, 12))
def test_in_top_1_is_argmax_also_with_ties(data, rows, classes):
    scores = data.draw(hnp.arrays(np.int8, (rows, classes), elements=st.integers(0, 3)))
    labels = data.draw(hnp.arrays(np.int64, (rows,), elements=st.integers(0, classes - 1)))
    scores = scores.astype(np.float32)
    assert (metrics.in_top(scores, labels) == (scores.argmax(-1) == labels)).all()


@given(st.data(), st.integers(1, 12), st.integers(6, 12))
def test_in_top_5_equals_sklearn(data, rows, classes):
    order = [data.draw(st.permutations(range(classes))) for _ in range(rows)]
    labels = data.draw(hnp.arrays(np.int64, (rows,), elements=st.integers(0, classes - 1)))
    scores = np.array(order, np.float32)
    expected = peer.top_k_accuracy_score(labels, scores, k=5, labels=range(classes))
    assert metrics.in_top(scores, labels, 5).mean() == pytest.approx(expected)


def test_a_nan_row_is_wrong():
    scores = np.array([[0.1, np.nan], [0.1, 0.9]])
    assert metrics.in_top(scores, np.array([0, 1])).tolist() == [False, True]


@given(two_arrays(), st.integers(1, 4))
def test_errors_equal_sklearn(arrays, size):
    labels, predictions = (a.astype(np.float64) for a in arrays)
    found = metrics.Errors()
    for part, predicted in zip(batches(labels, size), batches(predictions, size), strict=True):
        found.add(part, predicted)
    flat = labels.ravel(), predictions.ravel()
    assert found.mae == pytest.approx(peer.mean_absolute_error(*flat), abs=1e-9)
    assert found.rmse == pytest.approx(math.sqrt(peer.mean_squared_error(*flat)), abs=1e-9)


@given(st.lists(st.booleans(), min_size=1))
def test_share_is_the_mean(values):
    found = metrics.Share()
    for part in batches(np.array(values), 3):
        found.add(part)
    assert found.value == pytest.approx(np.mean(values))


@pytest.mark.parametrize("lost, won", [(0.02, 0.02), (0.05, 0.01), (0.1, 0.1), (0.02, 0.15)])
@pytest.mark.parametrize("count", [60, 200])
def test_paired_interval_covers_the_true_drop(lost, won, count):
    """The exact probability, over all trinomial outcomes, that the interval holds the truth."""
    log = [math.lgamma(n + 1) for n in range(count + 1)]
    covered = 0.0
    for a in range(count + 1):
        for b in range(count + 1 - a):
            low, high = metrics.paired_interval(a, b, count)
            if low <= lost - won <= high:
                c = count - a - b
                covered += math.exp(log[count] - log[a] - log[b] - log[c] + a * math.log(lost)
                                    + b * math.log(won) + c * math.log(1 - lost - won))
    assert 0.93 < covered < 0.999


def test_paired_interval_is_symmetric_and_narrows():
    low, high = metrics.paired_interval(20, 10, 1000)
    assert metrics.paired_interval(10, 20, 1000) == pytest.approx((-high, -low))
    assert low < 0.01 < high
    wide = metrics.paired_interval(2, 1, 100)
    assert wide[1] - wide[0] > high - low
