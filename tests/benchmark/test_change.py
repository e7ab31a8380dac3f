import math

import numpy as np
import pytest

from tfcompress.benchmark import change
from tfcompress.errors import DataError, UsageError

SCORES = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], "f4")
OTHER = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], "f4")


def test_snr_and_agreement_need_no_labels():
    left = change.judge(None, None)([SCORES], 4)
    assert left([SCORES]) == {"snr": math.inf, "agreement": 1.0}
    told = left([OTHER])
    wanted = 10 * math.log10((SCORES**2).sum() / ((SCORES - OTHER) ** 2).sum())
    assert told["agreement"] == 0.75 and told["snr"] == pytest.approx(wanted, abs=1e-3)


def test_with_labels_the_metric_and_its_loss_are_told():
    left = change.judge(np.array([0, 1, 0, 1]), None)([SCORES], 4)
    told = left([OTHER])
    assert (told["metric"], told["value"], told["loss"]) == ("accuracy", 0.75, 0.25)


def test_errors_of_regression_are_relative():
    labels = np.array([1.0, 2.0, 3.5])
    left = change.judge(labels, None)([np.array([[1.0], [2.0], [3.0]], "f4")], 3)
    told = left([np.array([[1.0], [2.0], [2.5]], "f4")])
    assert told["metric"] == "mae" and told["loss"] == pytest.approx(1.0)
    assert "agreement" not in told


def test_the_worst_output_counts_and_nan_is_none_at_all():
    left = change.judge(None, None)([SCORES, SCORES], 4)
    assert left([SCORES, OTHER])["snr"] < 10
    assert left([SCORES, SCORES * np.nan])["snr"] == -math.inf


def test_only_the_rows_that_were_measured_are_scored():
    left = change.judge(np.array([0, 1, 1, 1]), None)([SCORES[:2]], 2)
    assert left([SCORES[:2]])["value"] == 1.0


def test_labels_that_cannot_be_are_refused():
    with pytest.raises(DataError):
        change.judge(np.array([0, 1, 2, 1]), None)([SCORES], 4)
    with pytest.raises(UsageError):
        change.judge(np.array([0, 1, 0, 1]), "mae2")([SCORES], 4)
