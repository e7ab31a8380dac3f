"""The model card: valid front matter, the report's own figures, and nothing else."""

import re

import pytest
import yaml
from report_samples import HOSTILE, failed, report, row

from tfcompress.artifact import Artifact
from tfcompress.benchmark import card


def artifact(name, kind="tflite"):
    return Artifact(name, kind)


def made(**changes):
    rows = (row("source", 320_000, 2.0, accuracy=0.9),
            row("tflite-int8", 90_000, 0.4, snr=30.0, accuracy=0.89, lost=0.01,
                artifact=artifact("tflite-int8.tflite")),
            row("tfjs", 100_000, 0.9, snr=80.0, accuracy=0.9, artifact=artifact("tfjs", "tfjs")),
            failed("tflite-int4", "the quantizer refuses it", "leave it out"))
    return report(rows, **changes)


def front(text):
    found = re.match(r"---\n(.*?)^---\n", text, re.M | re.S)
    return yaml.safe_load(found[1])


def test_front_matter_is_yaml_with_the_measured_figures():
    told = front(card.render(made()))
    assert told["license"] == "other" and told["license_name"] == "unknown"
    assert told["library_name"] == "litert" and told["metrics"] == ["accuracy"]
    assert {"tfcompress", "tflite", "tfjs"} <= set(told["tags"])
    assert "pipeline_tag" not in told and "base_model" not in told
    results = told["model-index"][0]["results"]
    assert [r["metrics"][0]["value"] for r in results] == [0.89, 0.9]
    assert [r["metrics"][0]["name"] for r in results] == ["Accuracy, tflite-int8", "Accuracy, tfjs"]
    for result in results:  # what hubs ask for
        assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]


def test_the_card_tells_files_figures_and_failures(tmp_path):
    (tmp_path / "usage").mkdir()
    (tmp_path / "usage/tflite-int8.md").write_text("")
    card.write(made(), tmp_path)
    text = (tmp_path / "README.md").read_text()
    line = next(x for x in text.splitlines() if x.startswith("| tflite-int8 |"))
    assert "[tflite-int8.tflite](tflite-int8.tflite) | 90.0 kB | 0.399 ms | 90.00" in line
    assert "→ 89.00 %" in line
    assert "(usage/tflite-int8.md)" in text and "(usage/tfjs.md)" not in text
    assert "the quantizer refuses it" in text.split("## Limitations")[1]


def test_random_data_give_no_metric():
    given = made()
    told = front(card.render(report(given.rows, data=given.data | {"random": True})))
    assert "metrics" not in told and "model-index" not in told
    assert "**Random data**" in card.render(report(given.rows, data=given.data | {"random": True}))


def test_a_pipeline_is_named_only_where_the_data_tell_it():
    given = made()
    told = front(card.render(report(given.rows, data=given.data | {"kind": "images"})))
    assert told["pipeline_tag"] == "image-classification"
    assert told["model-index"][0]["results"][0]["task"] == {"type": "image-classification"}


@pytest.mark.parametrize("text", [HOSTILE, 'a: "b"\n---\nlicense: mit', "x\u2028y", "{[}]#'"])
def test_no_text_leaves_its_place(text):
    rows = (row("source", 9), row(text, 8, accuracy=0.5, artifact=artifact(text)))
    told = card.render(report(rows, source=made().source | {"path": f"{text}.keras"}, command=text,
                              data=made().data | {"spec": text, "notes": [text]}))
    assert front(told)["license"] == "other"
    body = told.split("\n---\n", 1)[1]
    assert "<script" not in re.sub(r"```.*?```", "", body, flags=re.S)


def test_it_is_the_same_every_time():
    assert card.render(made()) == card.render(made())
