"""What the report says of training, and why files did not get smaller or faster."""

from __future__ import annotations

import dataclasses
import html
import math
import re

import pytest
import report_samples as samples

from tfcompress.artifact import Measurement, Report
from tfcompress.benchmark import curves, report, shrinking, summary, trained, training_page


def with_row(given: Report, target: str, **changes) -> Report:
    """The report with one row's fields changed."""
    rows = [dataclasses.replace(r, **changes) if r.target == target else r for r in given.rows]
    return dataclasses.replace(given, rows=tuple(rows))


def measured(given: Report, target: str, **values) -> Report:
    """The report with some of one row's medians changed."""
    row = next(r for r in given.rows if r.target == target)
    kept = [dataclasses.replace(m, values=(values[m.name],)) if m.name in values else m
            for m in row.measurements]
    kept += [Measurement(k, "", (v,)) for k, v in values.items() if row.get(k) is None]
    return with_row(given, target, measurements=tuple(kept))


def text_of(page: str) -> str:
    return html.unescape(re.sub("<[^>]*>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")


# The stages in words

def test_stages_get_their_own_epochs_also_where_one_was_not_trained():
    prune, cluster, qat = trained.stages(samples.trained())
    assert [len(s.epochs) for s in (prune, cluster, qat)] == [6, 0, 3]
    assert (prune.title, cluster.title) == ("Prune 60 %", "Cluster to 16")
    assert "layers *, !first" in prune.detail and "learning rate 0.002" in prune.detail
    assert qat.detail == "8-bit weights, 8-bit activations"
    assert prune.best == pytest.approx(0.85 - 0.2 * 0.5 ** 6) and cluster.best is None


def test_the_best_epoch_of_pruning_is_one_with_all_its_zeros():
    given = samples.trained()
    history = [dict(r) for r in given.training["history"]]
    history[0]["validation_metric"] = 0.99
    given = dataclasses.replace(given, training={**given.training, "history": history})
    assert trained.stages(given)[0].best < 0.86


def test_the_best_of_several_rounds_is_of_the_last_and_errors_are_better_low():
    given = samples.slim()
    history = [{**r, "validation_metric": v} for r, v in
               zip(given.training["history"], (0.1, 0.2, 0.5, 0.4), strict=True)]
    given = dataclasses.replace(given, training={**given.training, "history": history})
    assert trained.stages(given)[0].best == 0.4
    assert "validation error after training 0.4" in trained.lines(given)[0]


def test_the_same_stage_twice_makes_two_groups():
    given = samples.trained()
    twice = [*samples.epochs("prune", 2, 0.3), *samples.epochs("prune", 3, 0.6)]
    stages = [{"stage": "prune", "sparsity": s} for s in (0.3, 0.6)]
    given = dataclasses.replace(given, recipe={"recipe": {"stages": stages}},
                                training={**given.training, "history": twice})
    assert [len(s.epochs) for s in trained.stages(given)] == [2, 3]
    assert trained.chain(given) == "prune 30 % → prune 60 %"


@pytest.mark.parametrize(("stage", "title", "detail"), [
    ({"stage": "prune", "pattern": "2:4", "sparsity": 0.8}, "Prune 2:4", ""),
    ({"stage": "prune", "pattern": "block1x4", "sparsity": 0.7, "schedule": "constant"},
     "Prune block1x4", "70 %, constant schedule"),
    ({"stage": "cluster", "clusters": 8, "scope": "global"}, "Cluster to 8",
     "8 distinct values for all kernels together"),
    ({"stage": "structured", "to": 0.5, "of": "macs", "importance": "taylor", "rounds": 3},
     "Remove channels, 50 % of MACs left", "by taylor, in 3 rounds"),
    ({"stage": "finetune"}, "Fine-tune", ""), ({"stage": "new_one"}, "New one", ""),
])
def test_each_kind_of_stage_in_words(stage, title, detail):
    given = dataclasses.replace(samples.trained(), recipe={"recipe": {"stages": [stage]}})
    made = trained.stages(given)[0]
    assert made.title == title and made.detail.strip(", ") == detail


@pytest.mark.parametrize(("changes", "labels", "said"), [
    ({}, True, "the original model as a teacher (50 % of the loss)"),
    ({"distill": False}, True, "labels alone, no teacher"),
    ({}, False, "the original model as the only teacher"),
])
def test_what_the_model_learned_from(changes, labels, said):
    given = samples.trained()
    recipe = {**samples.RECIPE, "training": {**samples.RECIPE["training"], **changes}}
    given = dataclasses.replace(given, recipe={"recipe": recipe},
                                data={**given.data, "labels": labels})
    assert said in "; ".join(trained.settings(given))


# In all forms

def test_every_form_tells_the_chain_the_proof_and_what_was_skipped():
    given = samples.trained()
    for text in (report.table(given, 200, False), report.markdown(given).replace("\\", "")):
        for part in ("prune 60 % → cluster 16 → QAT", "84.7 → – → 84.5 %", "first",
                     "60.0 % zeros, at most 16 distinct values per channel in 8 of 8 tensors"):
            assert part in text, part
    page = text_of(report.html(given))
    for part in ("Prune 60 %", "Quantization-aware training", "validation accuracy 84.7 %",
                 "Kernels after training", "left out by the recipe", "Weights in the file",
                 "2 frozen layers were trained too", "10 % of the samples chose"):
        assert part in page, part


def test_without_training_there_is_no_word_of_it():
    given = samples.usual()
    assert trained.lines(given) == [] and training_page.section(given) == ""
    assert "Training" not in report.markdown(given) and ">Training<" not in report.html(given)
    assert "Gzip" not in report.table(given, 120, False)


def test_the_terminal_shows_gzip_where_training_happened():
    given = samples.trained()
    wide, usual, narrow = (report.table(given, w, False) for w in (120, 80, 60))
    assert "80.0 kB (3.59×)" in wide and "80.0 kB" in usual and "80.0 kB " not in narrow[:400]
    assert "SNR" in wide.splitlines()[0] and "SNR" not in usual.splitlines()[0]


def test_a_terminal_of_80_columns_shows_whole_headings():
    rejected = dataclasses.replace(samples.trained().rows[1], status="rejected")
    given = samples.trained()
    given = dataclasses.replace(given, rows=(given.rows[0], rejected, *given.rows[2:]))
    head = report.table(given, 80, False).splitlines()[0]
    assert head.split() == ["Target", "Size", "Gzip", "Latency", "Accuracy", "Status"]


def test_removed_channels_with_what_is_left():
    page = text_of(report.html(samples.slim()))
    for part in ("Channels removed", "attention", "heads", "62.5 %", "12.5 M", "49.2 %"):
        assert part in page, part
    assert "78.7 k → 31.2 k parameters" in report.table(samples.slim(), 200, False)


def test_long_tables_are_folded_and_short_ones_are_not():
    def folded(count):
        section = training_page.section(samples.trained(count))
        return "<details><summary>" in section

    assert not folded(12) and folded(13)
    text = training_page.section(samples.trained(240))
    assert "240 kernels, 60.0 % zeros" in text and "40 more in report.json" in text
    assert "<code>conv2d_199</code>" in text and "<code>conv2d_200</code>" not in text


def test_distinct_values_beyond_the_count_are_said_to_be_more():
    given = samples.trained()
    assert "&gt; 256" in training_page.weights(given, given.rows[2])
    assert "&gt; 256" not in training_page.weights(given, given.rows[1])
    assert training_page.weights(given, given.rows[4]) == ""


def test_names_from_a_model_cannot_break_out_of_the_account_of_its_training():
    given = samples.hostile_training()
    forms = report.html(given), report.markdown(given), report.table(given, 80, False)
    for text in forms:
        assert "\x1b" not in text and "\u202e" not in text
    assert forms[0].count("<script") == 1 and "<script" not in forms[1]
    assert "**bold**" not in forms[1]
    assert forms[0].count("&lt;script&gt;") > 12


def test_figures_of_training_on_random_data_are_marked():
    given = samples.trained()
    assert "random data" not in training_page.section(given)
    given = dataclasses.replace(given, data={**given.data, "random": True})
    section = text_of(training_page.section(given))
    assert "validation accuracy (random data) 84.7 %" in section
    assert re.search(r"Loss\s+random data", section) and re.search(r"Accuracy\s+random", section)
    assert "Validation accuracy (random data)" in report.markdown(given)


# Curves

def test_curves_have_a_line_per_stage_and_words_for_those_who_cannot_see_them():
    loss, metric = curves.every(samples.trained())
    for drawn in (loss.svg, metric.svg):
        assert drawn.count("<polyline") == 4  # two stages, each in training and in validation
        assert drawn.count("<circle") == 18
    assert "prune 60 %: training" in metric.svg and "84.7 % in the last of 6" in metric.svg
    assert "60.0 %" in metric.svg and "Shaded" in metric.caption and "Shaded" not in loss.caption
    assert loss.svg.count(">1 prune 60 %<") == 2  # for a narrow and for a wide page


def test_a_loss_that_is_no_number_leaves_a_gap_and_not_a_broken_plot():
    given = samples.slim()
    loss, metric = curves.every(given)
    for text in (loss.svg, metric.svg):
        assert "nan" not in text and "inf" not in text
    assert loss.svg.count("<circle") == 3 and metric.svg.count("<circle") == 4
    assert "trained on" in loss.caption and 'class="curve fit"' not in loss.svg
    assert "held-out" not in training_page._curves(given)


def test_a_history_read_from_json_has_words_for_infinity():
    given = samples.slim()
    history = [{**r, "loss": str(r["loss"]) if math.isinf(r["loss"]) else r["loss"]}
               for r in given.training["history"]]
    again = dataclasses.replace(given, training={**given.training, "history": history})
    assert curves.every(again)[0].svg == curves.every(given)[0].svg


def test_steep_losses_are_drawn_on_a_logarithmic_scale():
    given = samples.trained()
    history = [{**r, "loss": 100.0 * 0.3 ** i, "validation_loss": 120.0 * 0.3 ** i}
               for i, r in enumerate(given.training["history"])]
    steep = dataclasses.replace(given, training={**given.training, "history": history})
    assert "Logarithmic" in curves.every(steep)[0].caption
    assert "Logarithmic" not in curves.every(given)[0].caption


def test_many_epochs_have_lines_without_dots_and_no_epochs_no_plot():
    given = samples.trained()
    many = {**given.training, "history": samples.epochs("prune", 300, 0.6)}
    drawn = curves.every(dataclasses.replace(given, training=many))[0].svg
    assert "<circle" not in drawn and len(drawn) < 40_000
    none = {**given.training, "history": []}
    assert curves.every(dataclasses.replace(given, training=none)) == []


# Why it did not shrink, why it is not faster

def about(given: Report, target: str) -> dict[str, str]:
    return {f["about"]: f["text"] for f in shrinking.explain(given).get(target, ())}


def test_zeros_that_are_stored_in_full_are_explained_with_the_gzip():
    text = about(samples.trained(), "tflite-int8")["storage"]
    for part in ("60.0 % of the weights are zeros",
                 "no channel of a kernel has more than 16 distinct values",
                 "at 8 bits each", "96.4 kB → 80.0 kB", "346 kB to 287 kB",
                 "all 12.5 M multiplications"):
        assert part in text, part
    keras = about(samples.trained(), "keras")["storage"]
    assert "60.0 %" in keras and "multiplications" not in keras


def test_a_pattern_is_said_to_need_hardware():
    given = samples.trained()
    stages = [{"stage": "prune", "pattern": "2:4"}]
    given = dataclasses.replace(given, recipe={**given.recipe, "recipe": {"stages": stages}})
    assert "the pattern 2:4 pays only on hardware" in about(given, "tflite-int8")["storage"]


def test_nothing_is_explained_that_the_figures_do_not_show():
    given = samples.trained()
    row = given.rows[1]
    sparse = [{**t, "bytes": t["bytes"] // 4} for t in row.io["tensors"]]
    changed = with_row(given, "tflite-int8", io={**row.io, "tensors": sparse})
    assert "storage" not in about(changed, "tflite-int8")
    dense = samples.tensors(8, zeros=0.01, distinct=200)
    changed = with_row(given, "tflite-int8", io={**row.io, "tensors": dense})
    assert "storage" not in about(changed, "tflite-int8")
    asked = {"name": "tflite-int8", "quantization": "int8", "runtime": "litert"}
    for more, said in (({"compiler": "vela"}, False), ({"runtime": "litert-gpu"}, False),
                       ({}, True)):
        recipe = {**given.recipe, "targets": [{**asked, **more}]}
        changed = dataclasses.replace(given, recipe=recipe)
        assert bool(about(changed, "tflite-int8")) == said, more
    faster = measured(given, "tflite-int8", latency=0.2)
    assert "speed" not in about(faster, "tflite-int8")
    assert shrinking.explain(samples.bare()) == {}


def test_integers_that_are_not_faster_and_whether_the_processor_is_why():
    given = samples.trained()
    text = about(given, "tflite-int8")["speed"]
    assert "0.486 ms against 0.411 ms" in text and "lacks VNNI" in text
    able = {**given.environment, "flags": ["avx2", "avx_vnni"]}
    unknown = {k: v for k, v in given.environment.items() if k != "flags"}
    for machine in (able, unknown):
        told = about(dataclasses.replace(given, environment=machine), "tflite-int8")["speed"]
        assert "0.486 ms against 0.411 ms" in told and "VNNI" not in told


def test_calls_are_named_where_a_whole_run_takes_microseconds():
    given = samples.trained()
    for target, value in (("source", 0.02), ("tflite-int8", 0.0078), ("tflite-float32", 0.0071),
                          ("tflite-float16", 0.0070), ("keras", 0.6)):
        given = measured(given, target, latency=value)
    text = about(given, "tflite-int8")["speed"]
    assert "7.80 µs against 7.10 µs" in text and "with 14 operators in 7.80 µs" in text
    assert "operators in" not in about(samples.trained(), "tflite-int8")["speed"]


def test_float16_is_widened():
    text = about(samples.trained(), "tflite-float16")["widening"]
    assert "163 kB against 317 kB" in text and "0.430 ms against 0.411 ms" in text
    assert "peak memory" in text
    faster = measured(samples.trained(), "tflite-float16", latency=0.2)
    assert "widening" not in about(faster, "tflite-float16")


def test_the_part_of_a_small_file_that_is_no_weight():
    given = measured(samples.usual(), "tflite-int8", parameters=30_000, size=44_000)
    assert "of the 44.0 kB are weights" in about(given, "tflite-int8")["overhead"]
    assert "overhead" not in about(samples.usual(), "tflite-int8")


def test_zeros_that_an_export_lost_are_a_warning():
    given = samples.trained()
    row = given.rows[1]
    fewer = with_row(given, "tflite-int8",
                     io={**row.io, "tensors": samples.tensors(8, zeros=0.4)})
    found = [f for f in shrinking.explain(fewer)["tflite-int8"] if f["about"] == "lost"]
    assert found[0]["level"] == "warning" and "4,320 zeros" in found[0]["text"]
    assert "lost" not in about(given, "tflite-int8")


def test_explanations_are_added_once():
    once = shrinking.explained(samples.trained())
    assert shrinking.explained(once) == once
    assert report.html(once) == report.html(samples.trained())
    assert [f["about"] for f in once.rows[1].findings] == ["storage", "speed"]


# The choice

def test_snr_is_said_to_be_against_the_trained_model():
    given = samples.trained()
    assert summary.reference(given) == "the trained model"
    assert "against trained" in report.html(given)
    assert "against the trained model&#x27;s outputs" in report.html(given)
    assert summary.reference(samples.usual()) == "the source model"


def test_a_choice_by_snr_alone_says_that_training_was_not_judged():
    said = "".join(t for t, _ in summary.verdict(samples.slim()))
    assert "an SNR of 20 dB against the trained model" in said
    assert said.endswith("What training cost was not measured.")
    assert "What training cost" not in "".join(t for t, _ in summary.verdict(samples.trained()))


def test_the_agreement_may_fall_by_what_the_metric_may():
    given = samples.trained()
    rows = tuple(dataclasses.replace(r, measurements=tuple(
        m for m in r.measurements if not m.name.startswith("accuracy"))) for r in given.rows)
    given = dataclasses.replace(given, rows=rows, recipe={**given.recipe, "max_drop": 0.01})
    said = "".join(t for t, _ in summary.verdict(given))
    assert summary.pick(given) is None and "at least 99 % of samples; the closest is" in said
    given = dataclasses.replace(given, recipe={**given.recipe, "max_drop": 0.05})
    assert summary.pick(given).target == "tflite-int8"
    assert "at least 95 % of samples" in "".join(t for t, _ in summary.verdict(given))


def test_where_nothing_fits_the_closest_is_named():
    given = dataclasses.replace(samples.trained(), recipe={"max_drop": 0.0005})
    said = "".join(t for t, _ in summary.verdict(given))
    assert said == ("No artifact loses at most 0.05 points of accuracy; the closest is "
                    "tflite-float32: 317 kB, accuracy 87.19 → 87.09 %.")
