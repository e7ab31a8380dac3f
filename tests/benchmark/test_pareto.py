"""The scatter plots: what is on the front, what is drawn together, and where marks lead."""

import dataclasses
import re

import report_samples as samples

from tfcompress.artifact import Measurement
from tfcompress.benchmark import deciding, pareto, report


def test_pareto_front_passes_through_the_undominated():
    rows = [samples.row(n, s, accuracy=a) for n, s, a in
            (("small", 10, 0.5), ("beaten", 30, 0.45), ("middle", 40, 0.7), ("big", 90, 0.9))]
    points = [(r, r.value("size") / 100, 100 - 100 * r.value("accuracy")) for r in rows]
    ends = set(re.findall(r'x1="([\d.]+)%" y1="([\d.]+)"', pareto._front(points)))
    assert {("10.00", "50"), ("40.00", "30"), ("90.00", "10")} <= ends
    assert not any(x == "30.00" for x, _ in ends)


def test_labels_of_a_crowded_plot_never_overlap():
    points = [(0.3 + 0.01 * (i % 7), 100.0 + 5 * i) for i in range(20)]
    taken = []
    for share, down in points:
        for width in (326.0, 430.0):
            spot = pareto._place("target", share * width, down, width, taken)
            if spot:
                box = spot[0]
                assert not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3]
                               for t in taken)
                taken.append(box)
    assert len(taken) > 5


def test_every_mark_of_a_crowded_plot_has_its_name_or_number_and_no_line_runs_through_one():
    rows = [samples.row("source", 181, accuracy=0.988)] + [
        samples.row(n, s, accuracy=a) for n, s, a in (
            ("tflite-float32", 123, 0.978), ("tflite-float16", 65.4, 0.978),
            ("tflite-dynamic", 36.6, 0.978), ("tflite-int8", 37.0, 0.980),
            ("onnx-int8", 50.6, 0.980), ("onnx-float32", 124, 0.978), ("litert-js", 65.4, 0.978))]
    points = [(r, 0.13 + 0.84 * r.value("size") / 188, 263 - 21600 * (r.value("accuracy") - 0.978))
              for r in rows]
    lines = pareto._steps(points)
    for width in (326.0, 430.0, 830.0):
        crossed = [(x1 * width, min(y1, y2) - 1, x2 * width, max(y1, y2) + 1)
                   for x1, y1, x2, y2 in lines]
        parts = pareto._labels(points, rows[4], {id(r): str(i) for i, r in enumerate(rows)}, lines)
        assert all(p.count("<text") == len(rows) for p in parts)
        order, numbers = list(points), {id(r): str(i) for i, r in enumerate(rows)}
        for _, _, (box, *_) in pareto._arranged(order, width, numbers, crossed)[0]:
            assert not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3]
                           for t in crossed)


def test_what_numbers_are_is_said_where_there_are_numbers():
    plot = pareto.charts(samples.usual())[0].plots[0]
    few = dataclasses.replace(plot, svg=plot.svg.replace("label numbered", "label "))
    assert deciding.NUMBERS not in deciding._figure(few)
    many = dataclasses.replace(few, svg=few.svg.replace(
        'class="narrow" aria-hidden="true">', 'class="narrow" aria-hidden="true"><text '
        'class="label numbered">1</text>', 1))
    assert pareto.numbered(many) == ["narrow"]
    assert f'<span class="when narrow">{deciding.NUMBERS}' in deciding._figure(many)


def test_front_by_hand():
    """Less is better in both figures; what is equal in one and worse in the other is beaten."""
    made = {n: samples.row(n, 1) for n in "abcdef"}
    points = [("a", 1.0, 9.0), ("b", 2.0, 9.0), ("c", 3.0, 5.0), ("d", 3.0, 4.0), ("e", 4.0, 4.0),
              ("f", 9.0, 1.0)]
    found = pareto.front([(made[n], x, y) for n, x, y in points])
    assert [r.target for r in found] == ["a", "d", "f"]


def test_a_lower_error_stands_higher():
    given = samples.single()
    chart = pareto.charts(given)[0]
    heights = dict(re.findall(r'data-t="(\d)".*?<svg x="[\d.]+%" y="([\d.]+)"',
                              chart.plots[0].svg))
    source, made = (given.rows[i].value("mae") for i in (0, 1))
    assert source < made and float(heights["0"]) < float(heights["1"])


def test_every_pair_of_axes_has_its_plot():
    found = pareto.charts(samples.usual())
    assert [(c.across, c.upwards) for c in found] == [
        (a, u) for u in ("metric", "snr") for a in ("size", "size_gzip", "latency")]
    page = report.html(samples.usual())
    for name in ("across-size", "across-size_gzip", "across-latency", "upwards-metric",
                 "upwards-snr"):
        assert len(re.findall(f'type="radio"[^>]*class="{name}"', page)) == 1
        assert f".{name}:checked" in page
    assert page.count(" checked>") == 2


def test_one_plot_for_each_family_that_was_timed():
    """Latencies of different places never share an axis; sizes do."""
    given = samples.places()
    charts = {(c.across, c.upwards): c for c in pareto.charts(given)}
    drawn = {p.title.partition(": ")[2]: set(re.findall(r'data-t="(\d)"', p.svg))
             for p in charts["latency", "metric"].plots}
    assert drawn == {"LiteRT on the CPU": {"1", "2", "3"}, "ONNX Runtime on the CPU": {"4", "5"},
                     "accelerators and microcontrollers": {"7", "8"}}
    assert len(charts["size", "metric"].plots) == 1
    alone = charts["latency", "metric"].alone
    assert len(alone) == 2 and any("litert-js (1.89 ms, the browser)" in a for a in alone)
    assert "not drawn: tflite-gpu" in report.html(given)


def test_a_software_adapter_is_never_on_the_front_of_latency():
    given = samples.places()
    real = dataclasses.replace(given.rows[2], target="my-gpu")
    given = dataclasses.replace(given, rows=(*given.rows, real), recipe={
        "targets": [{"name": "my-gpu", "runtime": "litert-gpu"}]})
    chart = next(c for c in pareto.charts(given) if c.across == "latency")
    plot = next(p for p in chart.plots if "GPU" in p.title)
    assert "tflite-gpu: on a software adapter" in plot.caption
    assert "On the front: my-gpu." in plot.svg


def test_marks_lead_to_the_account_of_their_target():
    given = samples.usual()
    page = report.html(given)
    marks = re.findall(r'<a href="#(\w+)" class="point" data-t="(\d)" aria-label="([^"]*)"', page)
    assert {(place, number) for place, number, _ in marks} >= {("source", "0"), ("t1", "1")}
    for place, number, told in marks:
        row = given.rows[int(number)]
        assert told.startswith(row.target) and f'id="{place}"' in page
        assert "Size: " in told and "kB" in told
    on_front = {number for _, number, told in marks if "on the Pareto front" in told}
    assert "5" in on_front  # the smallest that fits


def test_the_drawing_says_what_it_shows_to_those_who_cannot_see_it():
    plot = pareto.charts(samples.usual())[0].plots[0]
    assert 'role="group"' in plot.svg and "<desc" in plot.svg
    assert "tflite-int8: 96.4 kB, 87.07 %" in plot.svg and "On the front: " in plot.svg


def test_what_cannot_be_drawn_says_so():
    rows = [samples.row("tflite-int8", 90_000, 0.2, snr=30.0, accuracy=0.87),
            samples.row("tflite-float16", 160_000, 0.3, accuracy=0.87),
            samples.row("micro", 90_000, snr=30.0)]
    text = deciding.tradeoffs(samples.report(rows))
    assert "fewer than two artifacts have both figures" in text


def test_no_section_where_there_is_nothing_to_trade():
    assert deciding.tradeoffs(samples.bare()) == ""


def test_rows_without_a_figure_are_left_out():
    given = samples.usual()
    broken = dataclasses.replace(given.rows[4], measurements=tuple(
        Measurement("accuracy", "share", (float("nan"),)) if m.name == "accuracy" else m
        for m in given.rows[4].measurements))
    given = dataclasses.replace(given, rows=(*given.rows[:4], broken, *given.rows[5:]))
    plot = pareto.charts(given)[0].plots[0]
    assert 'data-t="4"' not in plot.svg and 'data-t="5"' in plot.svg
