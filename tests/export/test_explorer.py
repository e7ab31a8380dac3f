"""Overlays for Model Explorer: its form, its graphs' and nodes' names, and figures by hand."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from floatfiles import FloatFile

from tfcompress import tflite
from tfcompress.export import explorer

DATA = Path(__file__).parent.parent / "data"
INT8 = DATA / "digits_int8.tflite"
# `ModelNodeData` of Model Explorer's node_data_builder, as it writes it.
COLOR = {"type": "string", "pattern": "^#[0-9a-f]{6}$"}
SCHEMA = {"type": "object", "minProperties": 1, "additionalProperties": {
    "type": "object", "required": ["results"], "additionalProperties": False, "properties": {
        "name": {"type": "string"},
        "results": {"type": "object", "minProperties": 1, "additionalProperties": {
            "type": "object", "required": ["value"], "additionalProperties": False,
            "properties": {"value": {"type": "number"}, "bgColor": COLOR, "textColor": COLOR}}},
        "gradient": {"type": "array", "items": {
            "type": "object", "required": ["stop"], "additionalProperties": False, "properties": {
                "stop": {"type": "number", "minimum": 0, "maximum": 1}, "bgColor": COLOR,
                "textColor": COLOR}}}}}}


def read(path):
    return explorer.read({"path": str(path)}, None)


def overlays(path, folder, **more):
    files = explorer.write(folder, "t", read(path)["graphs"], **more)
    return {f.name: json.loads(f.read_text()) for f in files}


def test_the_form_is_that_of_node_data(tmp_path):
    made = overlays(INT8, tmp_path, zeros=0.5, layers=[
        {"tensor": "functional_1_1/flatten_1/Reshape", "snr_db": 12.5}])
    assert sorted(made) == ["t-macs.json", "t-snr-db.json", "t-weight-bytes.json", "t-zeros.json"]
    for data in made.values():
        jsonschema.validate(data, SCHEMA)
        assert list(data) == ["main"]
    assert made["t-snr-db.json"]["main"]["results"] == {
        "functional_1_1/flatten_1/Reshape": {"value": 12.5}}
    assert sorted(overlays(INT8, tmp_path / "b")) == ["t-macs.json", "t-weight-bytes.json"]


def test_figures_are_those_of_the_whole_file(tmp_path):
    for name in ("digits_int8.tflite", "digits.tflite", "lstm.tflite"):
        told = tflite.describe(DATA / name)
        nodes = [n for g in read(DATA / name)["graphs"] for n in g["nodes"]]
        assert sum(n["macs"] for n in nodes) == told["macs"]
        assert sum(n["bytes"] for n in nodes) >= told["weights"]["bytes"]


def test_float16_weights_are_told_where_they_are_used(tmp_path):
    build = FloatFile()
    x = build.input("image", (1, 4))
    stored = build.tensor((2, 4), "kernel", b"\0\0\0\x3c" * 4, "FLOAT16")
    wide = build.op("DEQUANTIZE", [stored], (2, 4))
    y = build.op("FULLY_CONNECTED", [x, wide, -1], (1, 2), "FullyConnected")
    nodes = read(build.save(tmp_path / "m.tflite", {"y": y}))["graphs"][0]["nodes"]
    assert [(n["bytes"], n["macs"], n["zeros"]) for n in nodes] == [(16, 8, 0.5)]


def test_positions_follow_the_signature(tmp_path):
    model = tflite.load(DATA / "order.tflite")
    told, ends = read(DATA / "order.tflite"), tflite.describe(DATA / "order.tflite")
    names = {side: [model.subgraphs[0].tensors[i].name.decode()
                    for i in getattr(model.subgraphs[0], side)] for side in ("inputs", "outputs")}
    for side in names:
        assert [names[side][p] for p in told["positions"][side]] == \
            [e["tensor"] for e in ends[side]]


def variants():
    """(what, model): files whose graphs or tensors lack names of their own."""
    def changed(change):
        model = tflite.load(INT8)
        change(model)
        return model

    def second(model, name):
        model.subgraphs.append(copy.deepcopy(model.subgraphs[0]))
        model.subgraphs[1].name = name

    def nameless(model):
        for tensor in model.subgraphs[0].tensors:
            tensor.name = b""

    return [("as it is", changed(lambda m: None)),
            ("unnamed graph", changed(lambda m: setattr(m.subgraphs[0], "name", None))),
            ("two graphs", changed(lambda m: second(m, b"body"))),
            ("second unnamed", changed(lambda m: second(m, None))),
            ("unnamed tensors", changed(nameless))]


def test_names_are_those_of_model_explorer_itself(tmp_path):
    """Against its own reader of .tflite files, which is half a gigabyte and seldom installed."""
    adapter = pytest.importorskip("ai_edge_model_explorer_adapter")
    files = {what: tflite.dump(model) for what, model in variants()}
    files |= {p.name: p.read_bytes() for p in DATA.glob("*.tflite")}
    for what, content in files.items():
        path = tmp_path / "m.tflite"
        path.write_bytes(content)
        shown = json.loads(adapter.ConvertFlatbufferDirectlyToJson(
            adapter.VisualizeConfig(), str(path)))
        there = {}
        for graph in (g for c in shown for g in c["subgraphs"]):
            names = [a["value"] for n in graph["nodes"] for o in n["outputsMetadata"]
                     for a in o["attrs"] if a["key"] == "tensor_name"]
            there[graph["id"]] = names + [n["id"] for n in graph["nodes"]]
        for graph in read(path)["graphs"]:
            assert graph["graph"] in there, what
            for node in graph["nodes"]:
                assert there[graph["graph"]].count(node["node"]) == 1, (what, node["node"])


def test_names_without_a_name():
    found = {what: [(g["graph"], g["nodes"][0]["node"]) for g in explorer.read(
        {"path": tflite.dump(model)}, None)["graphs"]] for what, model in variants()}
    first = found["as it is"][0][1]
    assert found["unnamed graph"] == [("serving_default", first)]
    assert found["two graphs"] == [("main", first), ("body", first)]
    assert found["second unnamed"] == [("main", first), ("subgraph_1", first)]
    assert found["unnamed tensors"] == [("main", "0")]
