from dataclasses import replace

import pytest

from tfcompress import errors, targets
from tfcompress.artifact import Measurement, Row
from tfcompress.benchmark import verdict

INT8 = targets.load("tflite-int8")


def row(status="ok", io=None, **values):
    found = tuple(Measurement(k, "", (v,)) for k, v in values.items())
    return Row("t", status, measurements=found, io=io or {})


@pytest.mark.parametrize("values, allowed, status", [
    ({"accuracy_drop": 0.02}, 0.01, "rejected"),
    ({"accuracy_drop": 0.01}, 0.01, "ok"),
    ({"accuracy_drop": -0.02}, 0.0, "ok"),
    ({"rmse_rise": 0.5, "source_rmse": 10.0}, 0.1, "ok"),
    ({"rmse_rise": 0.5, "source_rmse": 1.0}, 0.1, "rejected"),
    ({"agreement": 0.97}, 0.01, "rejected"),
    ({"agreement": 0.97, "accuracy_drop": 0.0}, 0.01, "ok"),
    ({"snr": 50.0}, 0.01, "rejected"),  # nothing says how much was lost
])
def test_a_larger_loss_than_allowed_rejects(values, allowed, status):
    judged = verdict.judge(row(**values), INT8, allowed)
    assert judged.status == status
    assert (judged.error is None) == (status == "ok")


def test_a_missing_runtime_rejects_only_with_strict():
    absent = {"level": "warning", "text": "not run", "advice": "install it", "about": "runtime"}
    unknown = replace(row(), findings=(absent,))
    judged = verdict.judge(unknown, INT8, 0.01)
    assert judged.status == "ok" and "--max-drop" in judged.findings[-1]["text"]
    assert judged.findings[-1]["advice"] == "install it"
    assert verdict.judge(unknown, INT8, 0.01, strict=True).status == "rejected"


def test_a_targets_own_limits_reject():
    target = replace(INT8, limits={"bytes": 100}, ops={"deny": ["EXP"]})
    assert verdict.judge(row(size=101.0), target, None).status == "rejected"
    assert verdict.judge(row(size=100.0), target, None).status == "ok"
    denied = verdict.judge(row(io={"ops": {"EXP": 2}}), target, None)
    assert denied.status == "rejected" and "EXP" in denied.error["message"]


def test_a_low_snr_warns_and_with_strict_rejects():
    low = row(snr=INT8.min_snr_db - 1)
    assert [f["level"] for f in verdict.judge(low, INT8, None).findings] == ["warning"]
    assert verdict.judge(low, INT8, None, strict=True).status == "rejected"
    assert not verdict.judge(row(snr=INT8.min_snr_db), INT8, None, strict=True).findings


def test_failed_rows_stay_failed():
    failed = row(status="failed", accuracy_drop=1.0)
    assert verdict.judge(failed, INT8, 0.0) is failed


def test_the_runs_error_is_the_gravest():
    failed = Row("a", "failed", error=errors.TargetError("died", "do").to_dict())
    rejected = Row("b", "rejected", error=errors.QualityError("worse", "do").to_dict())
    good = row()
    assert verdict.error((good,)) is None
    assert verdict.error((good, rejected)).exit_code == 8
    assert verdict.error((good, rejected, failed)).exit_code == 7


def test_the_sources_metrics_move_to_its_own_row():
    measured = row(accuracy=0.9, source_accuracy=0.95, accuracy_drop=0.05)
    assert [(m.name, m.p50) for m in verdict.before([measured])] == [("accuracy", 0.95)]
    assert verdict.without_before(measured).get("source_accuracy") is None
    assert verdict.metric([measured]) == "accuracy"
