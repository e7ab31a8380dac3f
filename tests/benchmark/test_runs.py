"""Several runs beside each other: what changed, and what is shown and not compared."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
import report_samples as samples
from report_samples import Page

from tfcompress.artifact import Measurement
from tfcompress.benchmark import report, runs, runs_views
from tfcompress.errors import OutputError, UsageError


def changed(given, target, **values):
    """The report with other measurements of one target; None takes one away."""
    def of(row):
        if row.target != target:
            return row
        kept = [m for m in row.measurements if m.name not in values]
        new = [dataclasses.replace(row.get(n), values=tuple(v)) for n, v in values.items()
               if v is not None]
        return dataclasses.replace(row, measurements=(*kept, *new))

    return dataclasses.replace(given, rows=tuple(map(of, given.rows)))


def compared(*reports):
    return runs.compare(list(zip("abcdefgh", reports, strict=False)))


def figure(found, target, name):
    one = next(t for t in found["targets"] if t["target"] == target)
    return next(f for f in one["figures"] if f["name"] == name)


def test_a_run_against_itself_changes_nothing():
    found = compared(samples.usual(), samples.usual())
    assert found["warnings"] == found["differences"] == found["appeared"] == []
    for target in found["targets"]:
        for one in target["figures"]:
            assert runs.delta(one, 1) in ("same", ""), one
    assert "no size changed; no latency changed beyond noise." in runs.verdict(found)


def test_sizes_latencies_and_metrics_with_their_changes():
    before = samples.usual()
    after = changed(before, "tflite-int8", size=[48_216.0], latency=[0.574] * 20, accuracy=[0.80],
                    accuracy_drop=None)
    found = compared(before, after)
    size = figure(found, "tflite-int8", "size")
    assert size["values"] == [96_432, 48_216] and size["shown"] == ["96.4 kB", "48.2 kB"]
    assert size["changes"] == [None, -0.5] and runs.delta(size, 1) == "−50.0 %"
    speed = figure(found, "tflite-int8", "latency")
    assert speed["changes"][1] == pytest.approx(1.0, abs=0.03) and speed["notes"] == ["", ""]
    metric = figure(found, "tflite-int8", "accuracy")
    assert metric["changes"][1] == pytest.approx(0.80 - 0.8707)
    assert runs.delta(metric, 1) == "−7.07 points" and metric["notes"][1] == ""
    assert runs.verdict(found) == ("b against a: 7 targets in both: 1 smaller; 1 slower; "
                                   "1 less accurate.")


def test_latencies_whose_ranges_overlap_are_within_noise():
    before = changed(samples.usual(), "tflite-int8", latency=[1.0, 1.1, 1.2])
    after = changed(samples.usual(), "tflite-int8", latency=[1.1, 1.2, 1.3])
    found = compared(before, after)
    assert figure(found, "tflite-int8", "latency")["notes"] == ["", "within noise"]
    assert "no latency changed beyond noise" in runs.verdict(found)
    assert "≈" in runs_views.table(found, 100) and "within noise" in runs_views.html(found)


@pytest.mark.parametrize(("key", "value"), [
    ("cpu", "Apple M2"), ("cores", 64), ("architecture", "arm64"), ("cpu", None)])
def test_latency_of_another_machine_is_shown_and_not_compared(key, value):
    before = samples.usual()
    after = dataclasses.replace(before, environment={**before.environment, key: value})
    after = changed(after, "tflite-int8", latency=[0.1] * 9)
    found = compared(before, after)
    speed = figure(found, "tflite-int8", "latency")
    assert speed["values"][1] == 0.1 and speed["changes"] == [None, None]
    assert speed["notes"][1] == "other machine"
    assert "faster" not in runs.verdict(found) and "slower" not in runs.verdict(found)
    assert any("different machines" in w for w in found["warnings"])
    text = runs_views.table(found, 100)
    assert "100 µs†" in text or "0.100 ms†" in text
    assert figure(found, "tflite-int8", "size")["changes"] == [None, 0.0]


def test_latency_measured_otherwise_is_not_compared():
    before = samples.usual()
    rows = tuple(dataclasses.replace(r, measurements=tuple(
        dataclasses.replace(m, note="2 threads") if m.name == "latency" else m
        for m in r.measurements)) for r in before.rows)
    found = compared(before, dataclasses.replace(before, rows=rows))
    assert figure(found, "tflite-int8", "latency")["notes"][1] == "measured otherwise"


def test_the_load_of_the_machine_is_no_other_way_to_measure():
    assert runs._how("1 thread, batch 1; load 0.1 before, 0.2 after, 2 cores") == \
        runs._how("1 thread, batch 1; busy machine: load 7.5 before, 8.0 after, 2 cores")


def test_a_software_adapter_is_not_compared():
    found = compared(samples.places(), samples.places())
    assert figure(found, "tflite-gpu", "latency")["notes"][1] == "software adapter"
    assert any("SwiftShader" in w for w in found["warnings"])


def test_metrics_on_other_data_are_not_compared():
    before = samples.usual()
    after = dataclasses.replace(before, data={**before.data, "evaluated": 500})
    found = compared(before, after)
    for name in ("accuracy", "snr"):
        assert figure(found, "tflite-int8", name)["notes"][1] == "other data"
    assert any("evaluated 2,000 and 500" in w for w in found["warnings"])
    after = dataclasses.replace(before, data={**before.data, "random": True})
    found = compared(before, after)
    assert figure(found, "tflite-int8", "accuracy")["notes"][1] == "random data"
    assert any("b used random data" in w for w in found["warnings"])


def test_snr_against_another_model_is_not_compared():
    found = compared(samples.usual(), samples.trained())
    assert figure(found, "tflite-int8", "snr")["notes"][1] == "measured otherwise"
    assert figure(found, "tflite-int8", "accuracy")["notes"][1] == ""


def test_other_models_recipes_and_versions_are_said():
    before = samples.usual()
    asked = [{"name": "tflite-int8", "min_snr_db": 20.0}, {"name": "gone", "x": 1}]
    before = dataclasses.replace(before, recipe={"max_drop": 0.01, "targets": asked})
    asked = [{"name": "tflite-int8", "min_snr_db": 30.0}]
    environment = {**before.environment, "load": 9.0,
                   "versions": {**before.environment["versions"], "keras": "4"}}
    after = dataclasses.replace(
        before, recipe={"max_drop": 0.02, "targets": asked}, environment=environment,
        source={**before.source, "sha256": "0" * 64}, version="0.2.0")
    found = compared(before, after)
    told = {d["what"]: d["values"] for d in found["differences"]}
    assert told["recipe.max_drop"] == [0.01, 0.02] and told["tfcompress"] == ["0.1.0", "0.2.0"]
    assert told["recipe.targets.tflite-int8.min_snr_db"] == [20.0, 30.0]
    assert told["environment.versions.keras"] == ["3.15.1", "4"]
    assert not any("load" in what or "gone" in what for what in told)
    assert "a and b started from different models" in found["warnings"]
    assert "The recipes differ, see below" in found["warnings"]
    text = runs_views.table(found, 120)
    assert "recipe.max_drop: 0.01 in a; 0.02 in b" in text
    assert "recipe.max_drop" in runs_views.html(found)


def test_what_appeared_and_disappeared():
    before, after = samples.usual(), samples.usual()
    before = dataclasses.replace(before, rows=before.rows[:4])
    after = dataclasses.replace(after, rows=(after.rows[0], *after.rows[2:]))
    found = compared(before, after)
    assert found["disappeared"] == ["keras"] and "tflite-int8" in found["appeared"]
    status = {t["target"]: t["status"] for t in found["targets"]}
    assert status["keras"] == ["ok", None] and status["tflite-int4"] == [None, "rejected"]
    assert figure(found, "tflite-int8", "size")["changes"] == [None, None]
    for text in (runs_views.table(found, 100), Page(runs_views.html(found)).text):
        assert "keras" in text and ("absent" in text or "not in this run" in text)


def test_what_holds_of_every_line_is_said_once():
    before = samples.usual()
    after = dataclasses.replace(before, data={**before.data, "evaluated": 500})
    page = runs_views.html(compared(before, after))
    assert "SNR is not compared: other data." in page and page.count("other data") < 5


def test_three_runs_are_held_against_the_first():
    found = compared(samples.usual(), changed(samples.usual(), "keras", size=[1000.0]),
                     changed(samples.usual(), "keras", size=[662_400.0]))
    assert figure(found, "keras", "size")["changes"][2] == 1.0
    assert "b against a" in runs.verdict(found) and "c against a" in runs.verdict(found)


def test_a_figure_that_only_one_run_has():
    before = changed(samples.usual(), "tflite-int8", latency=None)
    found = compared(before, samples.usual())
    speed = figure(found, "tflite-int8", "latency")
    assert speed["values"][0] is None and speed["shown"][0] == "" and speed["changes"][1] is None


def test_infinite_figures_have_no_size_of_difference():
    row = Measurement("snr", "dB", (float("inf"),))
    before = changed(samples.usual(), "tflite-int8", snr=row.values)
    found = report.finite(compared(before, before))
    json.dumps(found, allow_nan=False)
    assert figure(compared(before, before), "tflite-int8", "snr")["changes"][1] is None


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("names", [("usual", "trained"), ("hostile", "usual"), ("bare", "single")])
def test_the_table_fits_and_the_page_is_sound(names, width):
    found = compared(*(samples.ALL[n]() for n in names))
    text = runs_views.table(found, width)
    assert "\x1b" not in text and "\u202e" not in text
    assert all(len(line) <= width for line in text.splitlines())
    page = runs_views.html(found)
    Page(page)
    assert "<script" not in page and not re.search(r"url\(|@import|https?://", page)


def test_names_of_folders_are_told_apart(tmp_path):
    for name in ("one/out", "two/out", "two/other"):
        (tmp_path / name).mkdir(parents=True)
        report.write(samples.usual(), tmp_path / name)
    read = [n for n, _ in runs.read([str(tmp_path / "one/out"), str(tmp_path / "two/out"),
                                     str(tmp_path / "two/other/report.json")])]
    assert read == ["one/out", "two/out", "two/other"]
    with pytest.raises(UsageError, match="given twice"):
        runs.read([str(tmp_path / "one/out"), str(tmp_path / "one/out/report.json")])


# The command

def tfcompress(*argv, cwd):
    return subprocess.run([sys.executable, "-m", "tfcompress", "report", *argv],
                          capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def two(tmp_path):
    for name, given in (("a", samples.usual()), ("b", samples.trained())):
        (tmp_path / name).mkdir()
        report.write(given, tmp_path / name)
    return tmp_path


def test_the_command_compares_prints_and_writes(two):
    done = tfcompress("a", "b", "--html", "out.html", cwd=two)
    assert done.returncode == 0 and not done.stderr
    assert "b against a" in done.stdout and done.stdout.endswith("out.html\n")
    assert "b against a" in (two / "out.html").read_text(encoding="utf-8")
    found = json.loads(tfcompress("a", "b", "--json", cwd=two).stdout)
    assert [r["name"] for r in found["runs"]] == ["a", "b"] and found["targets"]
    assert sorted(p.name for p in two.iterdir()) == ["a", "b", "out.html"]


def test_one_folder_works_as_before(two):
    done = tfcompress("a", "--output", "page.html", cwd=two)
    assert done.returncode == 0 and "tflite-int8 is the smallest" in done.stdout
    assert (two / "page.html").read_text(encoding="utf-8") == report.html(report.read(two / "a"))
    assert json.loads(tfcompress("a", "--json", cwd=two).stdout) == json.loads(
        (two / "a" / "report.json").read_text(encoding="utf-8"))


def test_a_page_never_takes_the_place_of_something_else(two):
    (two / "thesis.html").write_text("<p>mine")
    done = tfcompress("a", "b", "--html", "thesis.html", cwd=two)
    assert done.returncode == 6 and (two / "thesis.html").read_text() == "<p>mine"
    assert "no page of tfcompress" in done.stderr and len(done.stderr.splitlines()) == 2
    assert tfcompress("a", "b", "--html", "no/where.html", cwd=two).returncode == 6
    for _ in range(2):
        report.save_page(report.html(samples.usual()), two / "own.html")
    with pytest.raises(OutputError):
        report.save_page("x", two / "a")
