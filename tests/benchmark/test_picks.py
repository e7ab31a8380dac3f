"""What to take: the right artifact, the reason with it, and never by figures that mean nothing."""

import dataclasses
import json
import re

import pytest
import report_samples as samples

from tfcompress.artifact import Measurement
from tfcompress.benchmark import families, picks, report, summary


def by_kind(given):
    return {(p.kind, p.family): p for p in picks.every(given)}


def only(given, kind):
    found = [p for p in picks.every(given) if p.kind == kind]
    assert len(found) == 1
    return found[0]


def timed(row, values, note="1 thread"):
    """The row with these latencies."""
    kept = tuple(m for m in row.measurements if m.name != "latency")
    return dataclasses.replace(
        row, measurements=(*kept, Measurement("latency", "ms", tuple(values), note)))


def three(*, one, two, three=(9.0, 9.0), **changes):
    """Three artifacts of one family with these latencies."""
    rows = [samples.row(**samples.SOURCE)]
    for name, size, values in (("tflite-int8", 90_000, one), ("tflite-float16", 160_000, two),
                               ("tflite-float32", 320_000, three)):
        rows.append(timed(samples.row(name, size, snr=40.0, accuracy=0.87, lost=0.0019), values))
    return samples.report(rows, **changes)


# The budget

def test_each_pick_is_the_best_within_the_budget():
    given = samples.usual()
    found = {p.kind: p for p in picks.every(given)}
    assert (found["smallest"].target, found["most_accurate"].target) == (
        "tflite-int8", "tflite-float16")  # of the float ones that lost nothing, the smallest
    assert found["smallest"].why.startswith("96.4 kB, 3.59× smaller than the source, accuracy "
                                            "87.19 → 87.07 %; next is tflite-dynamic")
    assert "tflite-int4" not in json.dumps([p.to_dict() for p in picks.every(given)])


@pytest.mark.parametrize(("drop", "smallest", "fastest"), [
    (0.001, "tflite-float16", "tflite-float32"), (0.01, "tflite-int8", "tflite-int8")])
def test_max_drop_decides_who_takes_part(drop, smallest, fastest):
    given = dataclasses.replace(samples.usual(), recipe={"max_drop": drop})
    found = {p.kind: p for p in picks.every(given)}
    assert (found["smallest"].target, found["fastest"].target) == (smallest, fastest)
    assert "--max-drop" not in picks.budget(given)
    assert "--max-drop" in picks.budget(dataclasses.replace(given, recipe={}))


def test_what_is_outside_the_budget_is_named():
    given = dataclasses.replace(samples.usual(), recipe={"max_drop": 0.0014})
    assert picks.budget(given).endswith("Outside it: tflite-dynamic.")


def test_nothing_is_picked_where_nothing_fits():
    given = dataclasses.replace(samples.usual(), recipe={"max_drop": 0.01})
    rows = [r if r.target == "source" else dataclasses.replace(r, status="rejected")
            for r in given.rows]
    given = dataclasses.replace(given, rows=tuple(rows))
    assert picks.every(given) == [] and not picks.worth_telling(given)
    assert 'id="picks"' not in report.html(given)


# Ties and noise

def test_latencies_whose_ranges_overlap_are_within_noise():
    given = three(one=(1.0, 1.1, 1.2, 1.3), two=(1.15, 1.2, 1.3, 1.4))
    found = only(given, "fastest")
    assert found.target == "tflite-int8" and found.near == ("tflite-float16",)
    assert "within noise of tflite-float16 (1.25 ms)" in found.why
    assert "faster than" not in found.why


def test_latencies_whose_ranges_part_are_a_difference():
    given = three(one=(1.0, 1.0, 1.1), two=(2.0, 2.1, 2.2))
    found = only(given, "fastest")
    assert found.near == () and "2.10× faster than the next, tflite-float16 (2.10 ms)" in found.why


def test_equal_sizes_are_said():
    rows = [samples.row("source", 900, accuracy=0.9)]
    rows += [samples.row(n, 400, accuracy=0.9, lost=0.0) for n in ("tflite-int8", "micro")]
    found = only(samples.report(rows), "smallest")
    assert found.near == ("micro",) and "micro has the same size" in found.why


def test_the_only_one_within_the_budget_is_not_called_the_only_one_timed():
    given = three(one=(2.0, 2.1), two=(4.0, 4.1))
    worse = [r if r.target in ("source", "tflite-int8") else dataclasses.replace(
        r, measurements=tuple(dataclasses.replace(m, values=(0.5,)) if m.name == "accuracy" else m
                              for m in r.measurements)) for r in given.rows]
    found = {p.kind: p for p in picks.every(dataclasses.replace(given, rows=tuple(worse)))}
    assert "the only one within the budget there" in found["fastest"].why


def test_sizes_that_read_the_same_are_told_apart_in_bytes():
    rows = [samples.row(**samples.SOURCE), samples.row("micro", 36_960, accuracy=0.87),
            samples.row("tflite-int8", 36_976, accuracy=0.87)]
    assert "next is tflite-int8 with 16 bytes more" in picks.every(samples.report(rows))[0].why


def test_accuracies_within_their_intervals_are_not_told_apart():
    found = only(samples.usual(), "most_accurate")
    assert set(found.near) == {"keras", "tflite-float32", "tflite-dynamic", "tflite-int8"}
    assert "within the uncertainty of tflite-int8 and tflite-dynamic" in found.why
    assert "tflite-float32 and keras have the same" in found.why


def test_without_labels_agreement_then_snr_decides():
    def without(row, *names):
        return dataclasses.replace(row, measurements=tuple(
            m for m in row.measurements if m.name not in names))

    given = samples.usual()
    rows = tuple(without(r, "accuracy") for r in given.rows)
    assert only(dataclasses.replace(given, rows=rows), "most_accurate").target == "tflite-float32"
    rows = tuple(without(r, "accuracy", "agreement") for r in given.rows)
    found = only(dataclasses.replace(given, rows=rows), "most_accurate")
    assert found.target == "keras" and "∞ dB" in found.why


# Figures that mean nothing

def test_random_data_pick_no_accuracy_and_say_so_of_the_rest():
    given = dataclasses.replace(samples.usual(), data={**samples.usual().data, "random": True})
    found = {p.kind: p for p in picks.every(given)}
    assert found["most_accurate"].target is None and "random" in found["most_accurate"].why
    for kind in ("smallest", "fastest"):
        assert found[kind].target and "unknown: the data were random" in found[kind].why
    assert "accuracy" not in found["smallest"].why  # a figure that means nothing is no reason
    assert "size and time alone decide" in picks.budget(given)


def test_a_software_adapter_never_wins():
    given = samples.places()  # tflite-gpu has the lowest figure of all
    found = by_kind(given)
    assert all(p.target != "tflite-gpu" for k, p in found.items() if k[0] == "fastest")
    alone = dataclasses.replace(given, rows=tuple(
        r for r in given.rows if r.target in ("source", "tflite-gpu")))
    gpu = only(alone, "fastest")
    assert gpu.target is None and "SwiftShader Device" in gpu.why


def test_a_software_adapter_in_a_family_is_left_out_and_named():
    given = samples.places()
    real = timed(samples.row("my-gpu", 1000, accuracy=0.8719, lost=0.0), (3.0, 3.0),
                 "1 thread; adapter: NVIDIA L4")
    asked = [{"name": "my-gpu", "runtime": "litert-gpu"}]
    given = dataclasses.replace(given, rows=(*given.rows, real),
                                recipe={**given.recipe, "targets": asked})
    found = by_kind(given)["fastest", "LiteRT on the GPU"]
    assert found.target == "my-gpu" and "tflite-gpu ran on a software adapter" in found.why


def test_each_family_with_a_choice_has_its_own_fastest():
    found = by_kind(samples.places())
    assert {k[1]: p.target for k, p in found.items() if k[0] == "fastest"} == {
        "LiteRT on the CPU": "tflite-int8", "ONNX Runtime on the CPU": "onnx-float32",
        "accelerators and microcontrollers": "ethos-u85-256"}
    chip = found["fastest", "accelerators and microcontrollers"]
    assert "an estimate, not a measurement" in chip.why
    assert "within noise of tflite-float16" in found["fastest", "LiteRT on the CPU"].why


def test_a_busy_machine_is_said():
    given = three(one=(1.0, 1.0), two=(2.0, 2.0))
    rows = tuple(timed(r, r.get("latency").values, "1 thread; busy machine: load 9")
                 if r.target == "tflite-int8" else r for r in given.rows)
    assert "the machine was busy" in only(dataclasses.replace(given, rows=rows), "fastest").why


# Where they stand

def test_picks_are_said_everywhere(tmp_path):
    given = samples.places()
    report.write(given, tmp_path)
    record = json.loads((tmp_path / "report.json").read_text())
    assert [p["pick"] for p in record["picks"]] == [
        "smallest", "fastest", "fastest", "fastest", "most_accurate"]
    page = re.sub(r"<[^>]+>|\s", "", report.html(given))
    plain, terminal = report.markdown(given), report.table(given, 200, False)
    for pick in picks.every(given)[1:]:
        shown = re.sub(r"\s", "", pick.why)
        assert shown in page, pick
        assert shown in re.sub(r"[\s\\]", "", plain).replace("&#45;", "-"), pick
        assert f"{pick.title}: {pick.target}. {pick.why}" in terminal
    assert report.read(tmp_path).picks == tuple(record["picks"])


def test_an_older_report_without_picks_gets_them_when_it_is_read(tmp_path):
    report.write(samples.usual(), tmp_path)
    record = json.loads((tmp_path / "report.json").read_text())
    wanted = record.pop("picks")
    (tmp_path / "report.json").write_text(json.dumps(record))
    assert list(report.read(tmp_path).picks) == wanted


def test_one_artifact_is_no_choice():
    assert not picks.worth_telling(samples.single())
    assert 'id="picks"' not in report.html(samples.single())


# Families

@pytest.mark.parametrize(("target", "expected"), [
    ("tflite-int8", "litert"), ("onnx-int8", "onnx"), ("keras", "keras"), ("saved-model", "keras"),
    ("tflite-gpu", "gpu"), ("litert-js", "web"), ("tfjs", "web"), ("onnx-web", "web"),
    ("edge-tpu", "npu"), ("ethos-u55-128", "npu"), ("micro", "npu"), ("source", "keras"),
    ("my-own", "litert"),
])
def test_family_of_a_target(target, expected):
    row = samples.row(target, 1000)
    assert families.family(samples.report([row]), row) == expected


def test_a_target_of_ones_own_is_known_by_what_the_report_says_of_it():
    row = samples.row("board", 1000)
    asked = [{"name": "board", "runtime": "litert", "compiler": "vela"}]
    assert families.family(samples.report([row], recipe={"targets": asked}), row) == "npu"


def test_latencies_of_different_places_are_labelled_everywhere():
    given = samples.places()
    cells = {r.target: summary.cell(given, r, "latency") for r in given.rows}
    assert cells["onnx-int8"].where == "ONNX Runtime" and cells["tflite-int8"].where == "LiteRT"
    assert cells["tflite-gpu"].where == "software adapter"
    assert (cells["ethos-u55-128"].main, cells["ethos-u55-128"].sub) == ("0.900 ms", "estimate")
    for text in (report.table(given, 100, False), report.markdown(given), report.html(given)):
        assert "software adapter" in text and "ONNX Runtime" in text
    assert "not ranked against each other" in report.table(given, 100, False)
    one_place = report.table(three(one=(1.0,), two=(2.0,)), 100, False)
    assert "not ranked against each other" not in one_place
