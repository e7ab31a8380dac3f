"""The words, the table and the page of an inspection, from a record made by hand."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import pytest

from tfcompress.benchmark import inspection, inspection_page
from tfcompress.benchmark.inspection import Inspection
from tfcompress.compress.training import recipe

SETTINGS = [{"name": "prune-50", "kind": "prune", "amount": 0.5},
            {"name": "weights-4", "kind": "weights", "amount": 4},
            {"name": "activations-8", "kind": "activations", "amount": 8}]


def result(snr, agreement=1.0):
    return {"snr": snr, "agreement": agreement}


def measured(**changes):
    layers = [
        {"layer": "first", "weights": 100, "score": 12.0, "results": {
            "prune-50": result(5.0, 0.5), "weights-4": result(12.0, 0.9),
            "activations-8": result(17.0)}},
        {"layer": "second", "weights": 900, "score": 55.0, "results": {
            "prune-50": result(math.inf), "weights-4": result(-math.inf, 0.0)}},
        {"layer": "add", "weights": 0, "score": 60.0, "results": {"activations-8": result(44.0)}},
    ]
    plan = {"setting": "prune-50", "amount": 0.5, "layers": ["second"], "left_out": ["first"],
            "share": 0.9, "result": result(33.0, 0.98)}
    return {"settings": SETTINGS, "layers": layers, "skipped": [], "rows": 8, "runs": 6,
            "seconds": 1.0, "combined": {"prune": plan, "weights-4": None}} | changes


def layer(name, parameters, **more):
    return {"name": name, "type": "Dense", "shape": [None, 4], "parameters": parameters,
            "share": parameters / 1000, "macs": 10 * parameters, "ops": ["FULLY_CONNECTED"],
            "note": ""} | more


@pytest.fixture
def found():
    problem = {"level": "warning", "op": "SIN", "count": 2, "layers": ["second"],
               "what": "SIN has no int8 form: it stays in float", "advice": "use a constant"}
    return Inspection(
        source={"path": "models/m<b>.keras", "sha256": "0" * 64, "format": "keras3",
                "notes": ["a note of loading"]},
        layers=[layer("first", 100), layer("second", 900),
                layer("drop", 0, type="Dropout", note="no effect at inference")],
        totals={"layers": 3, "parameters": 1000, "macs": 10_000, "float_bytes": 4500,
                "operators": {"FULLY_CONNECTED": 2}},
        rewrites=[{"what": "Erfc", "why": "TFLite has none", "layers": ["second"]}],
        targets=[{"name": "tflite-int8", "summary": "integers", "runs": "partly", "bytes": 1300,
                  "problems": [problem]}],
        data={"random": False}, sensitivity=measured(), notes=["a note of ours"],
        command="tfcompress inspect m.keras", version="1", created="2026-01-01T00:00:00+00:00")


def test_the_table_ranks_layers_and_says_what_stands_against_targets(found):
    text = inspection.table(found, 100)
    after = text[text.index("Sensitivity"):]
    assert after.index("\nfirst") < after.index("\nsecond") < after.index("\nadd")
    for part in ("3 layers", "1.00 k parameters", "4.50 kB", "Erfc", "▲  tflite-int8", "1.30 kB",
                 "(2×)", "In second.", "use a constant", "a note of loading", "a note of ours",
                 "∞", "−∞"):
        assert part in text, part


def test_each_layer_names_the_targets_that_it_is_against(found):
    assert inspection.against(found, "second") == "▲ tflite-int8"
    assert inspection.against(found, "first") == ""
    assert "9.00 k  ▲ tflite-int8\n" in inspection.table(found)


def test_a_saved_model_is_listed_by_its_operators(found):
    told = {"ops": [{"op": "SIN", "layer": "wave", "macs": 0},
                    {"op": "CONV_2D", "layer": "", "macs": 7}], "bytes": 10, "parameters": 3,
            "macs": 7}
    made = inspection.assemble([], told, {"parameters": None})
    assert made["totals"]["macs"] == 7 and made["totals"]["parameters"] == 3
    bare = dataclasses.replace(found, sensitivity=None, **made)
    assert "Operators" in inspection.table(bare) and "wave   SIN" in inspection.table(bare)


@pytest.mark.parametrize("width", [72, 100])
def test_the_table_fits_the_terminal(found, width):
    long = dataclasses.replace(found, layers=[layer("x" * 200, 1), *found.layers])
    assert max(map(len, inspection.table(long, width).splitlines())) <= width


def test_the_advice_comes_from_what_was_measured_together(found):
    said = " ".join(inspection.advice(found))
    assert "45.0 % of the weights can be zero: 50 % of second" in said
    assert "33.0 dB, agreement 98.0 %" in said and "No layer can have 4-bit weights" in said
    assert "8-bit activations alone" in said and "in first:" in said


def test_the_recipe_is_one_that_shrink_takes(found):
    import tomllib

    made = recipe.from_dict(tomllib.loads(inspection.recipe(found)))
    assert made.stages[0].sparsity == 0.5 and made.stages[0].layers == "second"
    odd = measured()
    odd["combined"]["prune"]["layers"] = ["a,b"]
    assert inspection.recipe(dataclasses.replace(found, sensitivity=odd)) == ""


def test_without_data_there_is_no_advice_and_no_heat_map(found):
    bare = dataclasses.replace(found, sensitivity=None, data={})
    assert inspection.advice(bare) == [] and inspection.recipe(bare) == ""
    assert "Sensitivity:" not in inspection.table(bare) and "heat-snr" not in inspection.html(bare)


def test_json_has_no_infinity(found):
    told = json.dumps(inspection.to_dict(found), allow_nan=False)
    assert json.loads(told)["sensitivity"]["layers"][1]["results"]["prune-50"]["snr"] == "inf"


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_escapes_what_comes_from_outside(found):
    text = inspection.html(found)
    page = Balanced()
    page.feed(text)
    assert page.open == [] and "<script" not in text and "m<b>" not in text
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_heat_map_is_darker_where_less_is_left(found):
    opacity = {title: float(o) for o, title in re.findall(
        r'fill-opacity="([\d.]+)"><title>(.*?): [^<]*dB', inspection.html(found))}
    assert opacity["first, 50 % pruned"] > opacity["first, 4-bit weights"] > 0
    assert opacity["second, 4-bit weights"] == 1 and opacity["second, 50 % pruned"] == 0


def test_a_loss_of_accuracy_is_drawn_where_there_are_labels(found):
    labelled = measured()
    for row in labelled["layers"]:
        for name in row["results"]:
            row["results"][name] |= {"metric": "accuracy", "value": 0.9, "loss": 0.05}
    text = inspection_page.render(dataclasses.replace(found, sensitivity=labelled))
    assert "Loss of accuracy, points" in text and ">5.0</text>" in text
    assert "another top-1 answer" not in text


def test_a_layer_that_stands_for_others_shows_the_worst_of_them(found):
    cell = dict(measured()["layers"][0], layer="lstm/lstm_cell", score=7.0)
    told = measured(layers=[cell])
    rows = dataclasses.replace(found, sensitivity=told, layers=[layer("lstm", 100)])
    assert '<td class="bar">7 dB<' in inspection.html(rows)


def test_files_are_written(found, tmp_path):
    inspection.write(found, tmp_path)
    assert json.loads((tmp_path / "inspect.json").read_text())["totals"]["parameters"] == 1000
    assert (tmp_path / "inspect.html").read_text().startswith("<!doctype html>")
