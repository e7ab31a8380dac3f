"""Recipes: what people may write, and what they are told when they wrote something else."""

import dataclasses
import json

import jsonschema
import pytest
from conftest import ROOT

from tfcompress.compress.training import recipe
from tfcompress.errors import UsageError

SCHEMA = json.loads((ROOT / "compress/training/recipe_schema.json").read_text())


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", recipe.names())
def test_built_in_recipes_load_and_fit_the_schema(name):
    made = recipe.from_toml(name)
    jsonschema.validate(made.to_dict(), SCHEMA)
    assert recipe.from_dict(made.to_dict()) == made


def test_there_are_recipes_for_each_stage_and_chain():
    found = {tuple(recipe.name_of(s) for s in recipe.from_toml(n).stages) for n in recipe.names()}
    assert found >= {("prune",), ("cluster",), ("qat",), ("prune", "qat"), ("cluster", "qat"),
                     ("prune", "cluster", "qat"), ("finetune",), ("structured",),
                     ("structured", "qat")}


def test_the_schema_has_the_fields_of_the_dataclasses():
    kinds = {s["properties"]["stage"]["const"]: s
             for s in SCHEMA["properties"]["stages"]["items"]["oneOf"]}
    assert set(kinds) == set(recipe.STAGES)
    pairs = [(kinds[n], k) for n, k in recipe.STAGES.items()]
    for schema, kind in [*pairs, (SCHEMA["properties"]["training"], recipe.Training)]:
        told = {k: v["default"] for k, v in schema["properties"].items() if k != "stage"}
        assert told == {f.name: f.default for f in dataclasses.fields(kind)}


def test_a_file_of_the_user_s_own(tmp_path):
    made = recipe.from_toml(write(tmp_path, """
        summary = "mine"
        [training]
        epochs = 2
        optimizer = "sgd"
        [[stages]]
        stage = "prune"
        pattern = "2:4"
        layers = "conv*, !conv1"
        [[stages]]
        stage = "qat"
        weight_bits = 4
        epochs = 1
    """))
    first, second = made.stages
    assert (first.pattern, first.layers, second.weight_bits) == ("2:4", "conv*, !conv1", 4)
    assert (made.epochs(first, 100), made.epochs(second, 100)) == (2, 1)
    assert made.training.optimizer == "sgd"


@pytest.mark.parametrize("text, message, hint", [
    ('[[stages]]\nstage = "prune"\nsparsty = 0.5', "unknown key 'sparsty'", "'sparsity'"),
    ('[[stages]]\nstage = "prun"', "stage 1 is 'prun'", "did you mean 'prune'?"),
    ('[[stage]]\nstage = "prune"', "unknown key 'stage'", "'stages'"),
    ('[training]\nepochs = 3', "stages are missing", "[[stages]]"),
    ('[[stages]]\nstage = "prune"\nsparsity = "much"', "is no float", "sparsity = 0.8"),
    ('[[stages]]\nstage = "prune"\nsparsity = 1.5', "out of range", "0.99"),
    ('[[stages]]\nstage = "prune"\nsparsity = nan', "out of range", "0.99"),
    ('[[stages]]\nstage = "prune"\npattern = "4:2"', "'4:2' is neither", "2:4"),
    ('[[stages]]\nstage = "prune"\nschedule = "linear"', "schedule", "polynomial"),
    ('[[stages]]\nstage = "cluster"\nclusters = 1', "out of range", "2"),
    ('[[stages]]\nstage = "cluster"\nclusters = true', "is no int", "16"),
    ('[[stages]]\nstage = "qat"\nweight_bits = 5', "weight_bits", "4, 8"),
    ('[[stages]]\nstage = "qat"\nlayers = ""', "layers is empty", "conv*"),
    ('[training]\nbatch_size = 0\n[[stages]]\nstage = "qat"', "batch_size", "1"),
    ('[training]\noptimizer = "adamm"\n[[stages]]\nstage = "qat"', "optimizer", "adamw"),
    ('[[stages]]\nstage = "prune"\nper_layer = {dense = 2}', "per_layer['dense']", "0.99"),
    ('[[stages]]\nstage = "prune"\nper_layer = {dense = "all"}', "no number", "0.95"),
    ('[[stages]]\nstage = "prune"\npattern = "2:4"\nper_layer = {dense = 0.5}', "its own",
     "leave per_layer out"),
    ('[[stages]]\nstage = "structured"\nto = 1.0', "out of range", "0.99"),
    ('[[stages]]\nstage = "structured"\nof = "macks"', "of = 'macks'", "macs"),
    ('[[stages]]\nstage = "structured"\nrounds = 0', "rounds = 0", "1"),
    ('[[stages]]\nstage = "cluster"\ninit = "random"', "init", "density"),
    ('[training]\naugment = "flap"\n[[stages]]\nstage = "qat"', "augment", "flip+shift"),
    ('[training]\nschedule = "step"\n[[stages]]\nstage = "qat"', "schedule", "exponential"),
    ('[training]\nfreeze = " "\n[[stages]]\nstage = "qat"', "freeze is empty", "conv*"),
    ('[training]\nmixed_precision = 1\n[[stages]]\nstage = "qat"', "is no bool", "False"),
    ("stages = []", "no stages", "prune"),
    ("stages = 3", "stages are missing", "[[stages]]"),
    ("training = 3\n[[stages]]\nstage = 'qat'", "not a table", "[training]"),
    ("= 3", "not TOML", "line"),
])
def test_mistakes_are_named_with_what_to_do(tmp_path, text, message, hint):
    with pytest.raises(UsageError) as error:
        recipe.from_toml(write(tmp_path, text))
    assert message in error.value.message
    assert hint in error.value.hint


def test_an_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(UsageError, match="unknown recipe 'prune-qad'") as error:
        recipe.from_toml("prune-qad")
    assert "prune-qat" in error.value.hint


@pytest.mark.parametrize("order", [
    ("cluster", "prune"), ("qat", "prune"), ("qat", "cluster"), ("qat", "finetune"),
    ("prune", "prune"), ("prune", "structured"), ("cluster", "structured"),
    ("qat", "structured")])
def test_an_order_that_undoes_a_stage_is_refused(order):
    with pytest.raises(UsageError):
        recipe.Recipe(tuple(recipe.STAGES[name]() for name in order))


def test_flags():
    made = recipe.from_flags(prune=0.6, cluster=8, qat=True, epochs=3, distill=None)
    assert made.stages == (recipe.Prune(sparsity=0.6), recipe.Cluster(clusters=8), recipe.Qat())
    assert made.training == recipe.Training(epochs=3)
    assert recipe.from_flags(prune="2:4").stages == (recipe.Prune(pattern="2:4"),)
    assert recipe.from_flags(distill=True).stages == (recipe.Finetune(),)
    assert recipe.from_flags(epochs=3).stages == (recipe.Finetune(),)
    assert recipe.from_flags() is None
    assert recipe.from_flags(prune_to=0.4, prune=0.5, qat=True).stages == (
        recipe.Structured(to=0.4), recipe.Prune(sparsity=0.5), recipe.Qat())
    with pytest.raises(UsageError, match="unknown key 'epoch'"):
        recipe.from_flags(qat=True, epoch=3)


@pytest.mark.parametrize("text, to, of", [
    ("0.5", 0.5, "parameters"), ("0.3 of macs", 0.3, "macs"), (".25 MACs", 0.25, "macs"),
    ("40% of bytes", 0.4, "bytes"), ("0.7 parameters", 0.7, "parameters")])
def test_what_is_left_when_channels_go(text, to, of):
    stage, = recipe.from_flags(prune_to=text).stages
    assert (stage.to, stage.of) == (pytest.approx(to), of)


@pytest.mark.parametrize("text, hint", [("half", "0.5"), ("0.5 of mac", "'macs'"), ("2", "0.99"),
                                        ("0.5 of", "macs")])
def test_what_cannot_be_left(text, hint):
    with pytest.raises(UsageError) as error:
        recipe.from_flags(prune_to=text)
    assert hint in error.value.hint


def test_without_epochs_small_data_are_passed_more_often():
    made = recipe.Recipe((recipe.Qat(),))
    assert [made.epochs(made.stages[0], steps) for steps in (10, 100, 10_000)] == [30, 10, 3]
