"""The report: what it says, that it says it everywhere, and that nothing in it can break out."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import report_samples as samples
from report_samples import Page

from tfcompress.artifact import Measurement, Report, Row, Step
from tfcompress.benchmark import deciding, plots, report, summary, svg, words
from tfcompress.errors import OutputError, UsageError

ROOT = Path(report.__file__).parent
SCHEMA = json.loads((ROOT / "report_schema.json").read_text(encoding="utf-8"))


def only_our_script(text: str) -> None:
    """One script, a few KB, the one that the page's policy allows, with nothing of the model."""
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    assert scripts == [(ROOT / "report.js").read_text(encoding="utf-8")] == [deciding.script()]
    assert text.count("<script") == 1 and len(scripts[0]) < 6000
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = html.unescape(re.search(r'Security-Policy" content="(.*?)"', text)[1])
    assert policy.split("; ") == ["default-src 'none'", "style-src 'unsafe-inline'",
                                  f"script-src 'sha256-{digest}'"]


@pytest.fixture(params=sorted(samples.ALL))
def sample(request) -> Report:
    return samples.ALL[request.param]()


# Files

def test_what_is_written_is_read_back(sample, tmp_path):
    report.write(sample, tmp_path)
    for path in (tmp_path, tmp_path / "report.json"):
        back = report.read(path)
        assert [r.target for r in back.rows] == [r.target for r in sample.rows]
        assert [r.measurements for r in back.rows] == [r.measurements for r in sample.rows]
        assert [r.artifact for r in back.rows] == [r.artifact for r in sample.rows]
    again = tmp_path / "again"
    again.mkdir()
    report.write(back, again)
    for name in ("report.json", "report.md", "report.html"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_json_follows_the_schema(sample, tmp_path):
    report.write(sample, tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    checker = jsonschema.Draft202012Validator
    checker.check_schema(SCHEMA)
    checker(SCHEMA).validate(record)
    record["rows"][0]["status"] = "splendid"
    with pytest.raises(jsonschema.ValidationError):
        checker(SCHEMA).validate(record)


def test_numbers_that_json_lacks(tmp_path):
    values = (math.inf, -math.inf, math.nan)
    row = Row("keras", "ok", None, (Measurement("snr", "dB", values[:1]),
                                    Measurement("cosine", "", values[2:]),
                                    Measurement("auc", "", values[1:2])))
    made = dataclasses.replace(samples.bare(), rows=(row,))
    report.write(made, tmp_path)
    back = report.read(tmp_path).rows[0]
    assert back.value("snr") == math.inf and back.value("auc") == -math.inf
    assert math.isnan(back.value("cosine"))
    assert "not a number" in report.html(made)


def _fields(schema: dict, where: str = "report"):
    """(Where, name, description) of every field in the schema."""
    for name, field in schema.get("properties", {}).items():
        target = field.get("$ref", "").rpartition("/")[2]
        told = field.get("description") or SCHEMA["$defs"].get(target, {}).get("description")
        yield where, name, told
        yield from _fields(field, name)


def test_every_field_is_described_in_the_documentation():
    text = (ROOT.parent / "docs" / "report.md").read_text(encoding="utf-8")
    parts = {}
    for part in re.split(r"^##+ ", text, flags=re.M)[1:]:
        title, _, body = part.partition("\n")
        parts[title.strip("`")] = body
    fields = list(_fields(SCHEMA)) + [f for n, d in SCHEMA["$defs"].items() for f in _fields(d, n)]
    assert len(fields) > 70
    for where, name, told in fields:
        assert told, f"{where}.{name} has no description in the schema"
        body = parts["report.json" if where == "report" else where]
        assert f"| `{name}` |" in body and told in body, f"{where}.{name} in docs/report.md"


@pytest.mark.parametrize(("text", "says"), [
    (None, "cannot read"), ("{", "not JSON"), ("[]", "not a report"), ("{}", "no schema_version"),
    ('{"schema_version": 99}', "version 99"), ('{"schema_version": 1}', "not a whole report"),
    ('{"schema_version": true}', "no schema_version"),
    ('{"schema_version": 1, "rows": [3]}', "not a whole report"),
])
def test_unreadable_reports(tmp_path, text, says):
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    for given in (path, tmp_path):
        with pytest.raises(UsageError) as caught:
            report.read(given)
        assert says in caught.value.message and caught.value.hint
        assert "\n" not in caught.value.message


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError):
        report.write(samples.bare(), tmp_path / "missing")


# HTML

def test_page_is_sound_and_needs_nothing_else(sample):
    text = report.html(sample)
    page = Page(text)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in page.all("a")]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert not {"img", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import|https?://", text)
    only_our_script(text)
    assert all("scope" in attrs for attrs in page.all("th"))
    drawings = [a for a in page.all("svg") if a.get("role") == "img"]
    for drawing in drawings:
        assert all(label in ids for label in drawing["aria-labelledby"].split())
    assert drawings
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    for attr in ("x", "y", "width", "x1", "x2", "y1", "y2"):
        values = [a[attr] for _, a in page.tags if attr in a]
        assert all(re.fullmatch(r"-?[\d.]+%?", v) for v in values), attr


def test_names_cannot_break_out():
    given = samples.hostile()
    page = Page(report.html(given))
    assert samples.HOSTILE.split("\x1b")[0] in page.text
    for text in (report.html(given), report.markdown(given), report.table(given, 80, False)):
        assert "\x1b" not in text and "\u202e" not in text
    only_our_script(report.html(given))
    findings = ({"level": '"><blink>', "text": "x"},)
    quoted = dataclasses.replace(given.rows[1], status='"><blink>', findings=findings)
    page = Page(report.html(dataclasses.replace(given, rows=(given.rows[0], quoted))))
    assert not page.all("blink")
    plain = report.markdown(given)
    plain = plain[:plain.index("````")]
    assert "<script" not in plain and "**bold**" not in plain and "`code`" not in plain
    heads = [line for line in plain.splitlines() if line.startswith("#")]
    assert not any("evil\n" in h for h in heads)
    tables = re.findall(r"(?:^\|.*\n?)+", plain, flags=re.M)
    assert tables
    for made in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in made.strip().splitlines()}
        assert len(counts) == 1, made


def _schemes() -> dict[str, dict[str, str]]:
    """The colours of the page by scheme: light, dark, and on paper."""
    css = (ROOT / "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, flags=re.S)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", block)) for block in blocks]
    assert len(found) == 3
    light, dark, paper = ({k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:])
                           for k, v in one.items()} for one in found)
    return {"light": light, "dark": light | dark, "paper": light | paper}


def _contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2 between two colours, 1 to 21."""
    def luminance(color):
        parts = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    a, b = sorted((luminance(one), luminance(other)))
    return (b + 0.05) / (a + 0.05)


def test_contrast_ratio():
    """Black on white is 21; #767676 is the lightest grey that text on white may have."""
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    assert _contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark", "paper"])
def test_contrast_of_text(scheme):
    """WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1."""
    colors = _schemes()[scheme]
    for name in ("ink", "soft", "ok", "source", "rejected", "failed"):
        for ground in ("paper", "tint"):
            assert _contrast(colors[name], colors[ground]) >= 4.5, (name, ground)


@pytest.mark.parametrize("scheme", ["light", "dark", "paper"])
def test_contrast_of_marks_and_controls(scheme):
    """WCAG 2.2, success criterion 1.4.11: what must be seen has at least 3 to 1."""
    colors = _schemes()[scheme]
    for name in ("edge", "ok", "rejected", "source", "s0", "s1", "s2", "s3"):
        assert _contrast(colors[name], colors["paper"]) >= 3, name
    css = (ROOT / "report.css").read_text(encoding="utf-8")
    share = float(re.search(r"\.front \{[^}]*stroke-opacity: ([\d.]+)", css)[1])
    line, ground = ([int(colors[k][i:i + 2], 16) for i in (1, 3, 5)] for k in ("ok", "paper"))
    mixed = (round(share * a + (1 - share) * b) for a, b in zip(line, ground, strict=True))
    assert _contrast("#" + "".join(f"{part:02x}" for part in mixed), colors["paper"]) >= 3


# What it says, in all three forms

def _said(given: Report) -> list[str]:
    plain = html.unescape(re.sub(r"\\([\\`*_\[\]|~#!$])", r"\1", report.markdown(given)))
    page = Page(report.html(given)).text.replace("\N{NO-BREAK SPACE}", " ")
    return [page, plain, report.table(given, 200, False)]


def test_verdict_and_troubles_are_said_everywhere():
    for text in _said(samples.usual()):
        text = text.replace("**", "")
        assert ("tflite-int8 is the smallest artifact that loses at most 1 point of accuracy: "
                "96.4 kB, 3.59× smaller than the source, accuracy 87.19 → 87.07 %.") in text
        for part in ("killed by SIGSEGV", "run with --debug", "▲ rejected", "✕ failed",
                     "no longer follow the source model", "conv2d_3", "96.4 kB", "27.8 dB"):
            assert part in text, part


@pytest.mark.parametrize(("count", "said"), [
    (1, "Judged on 1 sample only"), (3, "3 samples only, each of them 33.3 points"),
    (99, "99 samples only, each of them 1.01 points"), (100, ""), (None, "")])
def test_few_samples_are_warned_of(count, said):
    given = samples.usual()
    given = dataclasses.replace(given, data={**given.data, "evaluated": count})
    for text in (" ".join(said.split()) for said in _said(given)):
        assert ("Judged on" in text) == bool(said) and said in text


def test_random_data_are_marked_beside_every_figure():
    given = samples.hostile()
    page, plain, terminal = _said(given)
    assert "The data were random" in page and "Random data" in plain and "random data" in terminal
    row = given.rows[1]
    for name in ("snr", "agreement", "accuracy", "cosine"):
        shown = words.number(name, row.value(name), "", 2000)
        assert f"{shown} random data" in page, name
        assert f"{shown}*" in plain, name
    assert "134.2 dB*" in terminal and "87.19 %*" in terminal
    figures = re.findall(r'<figure class="(\w+)">.*?<h3>(.*?)</h3>', report.html(given))
    assert {k for k, t in figures if "random data" in t} == {"quality", "noise", "trade"}
    assert "How well it works is unknown" in page
    assert not re.search(r"95 % \w+ score", page)
    for text in _said(samples.usual()):
        assert "random data" not in text.lower()


def test_what_was_not_measured_is_said_with_its_reason():
    for text in _said(samples.single()):
        assert "the system does not report it" in text
    assert "Agreement" not in report.html(samples.single())
    assert "Agreement" in report.html(samples.usual())


def test_what_goes_without_saying_is_left_out():
    given = samples.usual()
    given = dataclasses.replace(
        given, command="tfcompress shrink m.keras", recipe={"samples": 200},
        source={**given.source, "format": "keras3", "kind": "keras3", "optimizer_bytes": 0},
        data={**given.data, "random": False, "held_back": 2000, "evaluated": 2000,
              "range": {"image": [0.0, 16.0]}})
    page = report.html(given)
    for term in ("Optimizer bytes", "Random", "Evaluated", "Samples"):
        assert f"<dt>{term}</dt>" not in page
    assert "<dd>image = 0 to 16</dd>" in page and "<dt>Kind</dt><dd>keras3" not in page
    unusual = dataclasses.replace(given, source={**given.source, "optimizer_bytes": 5000})
    assert "<dt>Optimizer bytes</dt>" in report.html(unusual)


def test_steps_say_what_was_asked_and_not_what_was_left_alone():
    config = {"backend": "native", "onnx": [[None, None]], "trim": False, "seed": 0,
              "samples": "ab" * 32}
    step = Step("quantize", config, 0.0, "c" * 64, "d" * 64)
    row = samples.row("tflite-int8", 10, accuracy=0.8)
    row = dataclasses.replace(row, artifact=dataclasses.replace(row.artifact, steps=(step,)))
    page = report.html(samples.report([samples.row(**samples.SOURCE), row]))
    assert "backend = native, seed = 0, samples = abababababab<" in page


def test_columns_without_figures_fold_away():
    assert summary.columns(samples.bare()) == ["size"]
    assert summary.columns(samples.single()) == ["size", "size_gzip", "latency", "metric", "snr"]
    assert [p.key for p in plots.every(samples.bare())] == ["size"]
    assert [p.key for p in plots.every(samples.single())] == [
        "size", "latency", "quality", "noise"]


def test_paired_interval_of_the_change_comes_before_wilsons():
    given = samples.usual()
    cell = summary.cell(given, given.rows[5], "metric")
    assert cell.main == "87.19 → 87.07 %" and cell.sub == "−0.12 points [−0.52, +0.28]"
    assert "paired on the same 2,000 samples" in report.html(given)
    crowd = samples.crowd()
    assert "Wilson" in summary.interval_note(crowd) and "paired" not in summary.interval_note(crowd)


@pytest.mark.parametrize(("change", "expected"), [
    ({}, "tflite-int8"), ({"max_drop": 0.001}, "tflite-float16"),
    ({"max_drop": 0.3}, "tflite-int8"),
])
def test_the_pick_is_the_smallest_within_the_allowed_drop(change, expected):
    given = dataclasses.replace(samples.usual(), recipe=change)
    assert summary.pick(given).target == expected


def test_the_pick_without_labels_goes_by_agreement_then_snr():
    def without(row, *names):
        kept = tuple(m for m in row.measurements if m.name not in names)
        return dataclasses.replace(row, measurements=kept)

    given = samples.usual()
    bare = dataclasses.replace(given, rows=tuple(without(r, "accuracy") for r in given.rows))
    assert summary.pick(bare).target == "tflite-dynamic"
    assert "agrees with the source on at least 99 % of samples" in report.markdown(bare)
    bare = dataclasses.replace(
        given, rows=tuple(without(r, "accuracy", "agreement") for r in given.rows))
    assert summary.pick(bare).target == "tflite-int8"


def test_no_artifact_at_all():
    given = samples.report([samples.row(**samples.SOURCE), samples.failed("keras", "no", "yes")])
    for text in _said(given):
        assert "No target gave a usable artifact." in text
    Page(report.html(samples.report([])))


# Figures as text

@pytest.mark.parametrize(("name", "value", "expected"), [
    ("size", 812, "812 B"), ("size", 999.6, "1.00 kB"), ("size", 98_496, "98.5 kB"),
    ("size", 3_980_000, "3.98 MB"), ("size", 999_999, "1.00 MB"), ("parameters", 78_666, "78.7 k"),
    ("parameters", 12, "12"), ("snr", math.inf, "∞ dB"), ("snr", -3.25, "−3.2 dB"),
    ("accuracy", 1.0, "100 %"), ("accuracy", 0.99999, "> 99.9 %"), ("accuracy", 0.8719, "87.2 %"),
    ("cosine", 0.99999, "> 0.9999"), ("cosine", 1.0, "1.0000"), ("mae", 0.21043, "0.2104"),
    ("latency", 0.2871, "0.287 ms"), ("latency", 1234.4, "1,230 ms"), ("latency", 9.999, "10.0 ms"),
    ("accuracy_drop", 0.0012, "+0.12 points"), ("auc", math.nan, "not a number"),
])
def test_numbers(name, value, expected):
    unit = "ms" if name == "latency" else ""
    assert words.number(name, value, unit, 200) == expected


def test_shares_get_the_decimals_that_the_samples_carry():
    assert words.percent(0.86974, 10_000) == "86.97 %"
    assert words.percent(0.86974, 200) == "87.0 %"


def test_wilson_interval():
    """81 of 263 (Newcombe 1998, Statistics in Medicine 17, table I): 0.2553 to 0.3662."""
    low, high = words.wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert words.wilson(0.0, 20)[0] == 0.0 and words.wilson(1.0, 20)[1] == 1.0


def test_latencies_of_tiny_models_are_in_microseconds():
    given = samples.report([samples.row("source", 900, 0.4), samples.row("keras", 800, 0.0075)])
    for text in _said(given):
        assert "µs" in text and "0.007" not in text
    assert given.rows[1].get("latency").unit == "ms"


def test_sizes_compared():
    rows = [samples.row("source", 100_000), samples.row("a", 50_000), samples.row("b", 200_000),
            samples.row("c", 100_010)]
    given = samples.report(rows)
    said = [summary.times_smaller(given, r) for r in given.rows]
    assert said == ["", "2.00× smaller", "2.00× larger", "same size"]


# Plots

@pytest.mark.parametrize(("low", "high", "log", "expected"), [
    (0, 12.4, False, [0, 5, 10]), (0.852, 0.889, False, [0.86, 0.87, 0.88]),
    (0.3, 400, True, [1, 10, 100]), (0.26, 2.6, True, [0.5, 1, 2]), (5, 5, False, [5]),
])
def test_ticks_are_round_and_inside(low, high, log, expected):
    assert svg.Axis(low, high, log).ticks() == pytest.approx(expected)


def test_a_collapsed_row_does_not_set_the_scale():
    given = samples.usual()
    drawn = next(p for p in plots.every(given) if p.key == "quality")
    assert "off the scale" in drawn.caption and "61.33 %" in drawn.svg and "60 %" not in drawn.svg


# The terminal

@pytest.mark.parametrize("width", [60, 80, 120])
def test_table_fits(sample, width):
    text = report.table(sample, width, False)
    assert "\x1b" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert all(words.short(r.target, 8)[:5] in text for r in sample.rows)


def test_colour_only_where_it_is_wanted(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    given = samples.usual()
    assert "\x1b[" in report.table(given, 80, True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in report.table(given, 80, True)
    assert report.table(given, 80, True) == report.table(given, 80, False)


def test_reading_and_rendering_import_nothing_heavy(tmp_path):
    report.write(samples.usual(), tmp_path)
    code = ("import sys; from tfcompress.benchmark import report; "
            f"r = report.read({str(tmp_path)!r}); report.html(r); report.markdown(r); "
            "print(sorted({'numpy', 'tensorflow', 'keras', 'rich'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_versions_and_targets_are_told_to_the_last_one():
    versions = {f"package-{i}": f"{i}.0.{i}" for i in range(40)}
    told = dataclasses.replace(samples.usual(), environment={"cpu": "x", "versions": versions})
    for text in (report.html(told), report.markdown(told)):
        assert all(re.search(rf"package-{i}\W", text.replace("\\", "")) for i in range(40))
