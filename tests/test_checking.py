"""The gate end to end: files on disk, real git repositories, TensorFlow out of reach."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
import pytest
import yaml
from conftest import ROOT
from gate_samples import network, report, row, shrunk

from tfcompress import checking, tflite
from tfcompress.artifact import Artifact
from tfcompress.benchmark import gate_formats, gate_limits
from tfcompress.errors import OutputError, QualityError, UsageError

CONFIG = '[check]\nartifacts = "model-tfcompress"\n'
NO_TENSORFLOW = 'raise ImportError("TensorFlow was imported")\n'


@pytest.fixture
def place(tmp_path):
    """A project with a configuration and an output folder, and no baseline yet."""
    (tmp_path / "tfcompress.toml").write_text(CONFIG)
    shrunk(tmp_path / "model-tfcompress")
    return tmp_path


@pytest.fixture
def environ(tmp_path_factory):
    """What commands run in: `tfcompress` on PATH, and any import of TensorFlow an error."""
    trap = tmp_path_factory.mktemp("trap")
    for name in ("tensorflow", "keras", "tf_keras"):
        (trap / name).mkdir()
        (trap / name / "__init__.py").write_text(NO_TENSORFLOW)
    mine = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(trap), "HOME": str(trap), "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")
               for what in ("NAME", "EMAIL")}}
    return {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | mine


def command(*argv, cwd, environ, **more):
    return subprocess.run(argv, cwd=cwd, env=environ | more, capture_output=True, text=True)


def run(place, **more):
    return checking.run(place / "tfcompress.toml", **more)


def statuses(result):
    return {c.name: c.status for c in result.checks}


def test_an_unchanged_model_passes_its_own_baseline(place):
    result = run(place, update=True)
    assert result.updated == place / "tfcompress-baseline.json" and not result.checks
    again = run(place)
    assert statuses(again) == {f"tflite-float32 {m}": "passed"
                               for m in ("bytes", "latency", "metric_drop")}
    assert again.error is None


def test_a_baseline_is_the_same_for_the_same_files_and_small(place):
    run(place, update=True)
    first = (place / "tfcompress-baseline.json").read_bytes()
    run(place, update=True)
    assert (place / "tfcompress-baseline.json").read_bytes() == first and len(first) < 3000
    kept = json.loads(first)["targets"]["tflite-float32"]
    assert kept["bytes"] == (place / "model-tfcompress/tflite-float32.tflite").stat().st_size
    assert kept["metric"]["name"] == "accuracy" and kept["tensors"][0]["bytes"] > 0
    assert str(place) not in first.decode()


def test_growth_fails_and_why_names_the_layers(place):
    run(place, update=True)
    before = (place / "model-tfcompress/tflite-float32.tflite").stat().st_size
    shrunk(place / "model-tfcompress", width=32)
    after = (place / "model-tfcompress/tflite-float32.tflite").stat().st_size
    result = run(place, why=True)
    assert statuses(result) == {"tflite-float32 bytes": "failed",
                                "tflite-float32 latency": "skipped",
                                "tflite-float32 metric_drop": "passed"}
    assert isinstance(result.error, QualityError) and result.error.exit_code == 8
    assert f"size is {after:,} B" in result.error.message and "(+1 %)" in result.error.message
    entries = result.growth["tflite-float32"]
    assert sum(e["grew"] for e in entries) == after - before
    assert entries[0]["grew"] == 4 * 9 * 8 * 16
    assert entries[0]["what"] == "16×3×3×8 became 32×3×3×8"


def test_why_names_the_layers_of_onnx_files_too(tmp_path):
    numpy_helper = pytest.importorskip("onnx").numpy_helper
    import onnx
    from onnxfiles import cnn

    path = cnn(tmp_path / "model.onnx")
    (tmp_path / "tfcompress.toml").write_text(
        '[check.targets.model]\nartifact = "model.onnx"\nmetric_drop = false\n')
    run(tmp_path, update=True)
    model = onnx.load(path)
    wide = max(model.graph.initializer, key=lambda t: len(t.dims))
    values = numpy_helper.to_array(wide)
    wide.CopyFrom(numpy_helper.from_array(np.concatenate([values, values]), wide.name))
    onnx.save(model, path)
    entries = run(tmp_path, why=True).growth["model"]
    assert entries[0]["layer"] == "layer_0" and entries[0]["grew"] == values.nbytes
    assert entries[0]["what"].endswith("32×8×3×3")


def test_a_baseline_without_tensors_makes_no_layer_new(tmp_path):
    pytest.importorskip("onnx")
    from onnxfiles import cnn

    cnn(tmp_path / "model.onnx")
    (tmp_path / "tfcompress.toml").write_text(
        '[check.targets.model]\nartifact = "model.onnx"\nmetric_drop = false\n')
    file = run(tmp_path, update=True).updated
    record = json.loads(file.read_text())
    del record["targets"]["model"]["tensors"]
    record["targets"]["model"]["bytes"] -= 10
    file.write_text(json.dumps(record))
    entries, = run(tmp_path, why=True).growth.values()
    assert [(e["layer"], e["grew"]) for e in entries] == [("everything else", 10)]


def test_a_smaller_model_passes(place):
    run(place, update=True)
    shrunk(place / "model-tfcompress", width=8)
    assert run(place).error is None


def test_lost_accuracy_fails_only_where_it_is_certain(place):
    run(place, update=True)
    shrunk(place / "model-tfcompress", lost=30)
    found = statuses(run(place))
    assert found["tflite-float32 metric_drop"] == "failed"
    shrunk(place / "model-tfcompress", lost=14, won=8)
    found = statuses(run(place))
    assert found["tflite-float32 metric_drop"] == "inconclusive"


def test_every_limit_is_held_against_the_baseline(place):
    (place / "tfcompress.toml").write_text(CONFIG + (
        "[check.limits]\nbytes = false\nlatency = false\nmetric_drop = false\ngzip = '+1 %'\n"
        "parameters = '+10 k'\npeak_memory = '+10 %'\nsnr = '-3 dB'\nmetric = '-0.5 points'\n"))
    run(place, update=True)
    shrunk(place / "model-tfcompress", width=20, snr=36.0, memory=5_000_000, lost=100)
    assert statuses(run(place)) == {
        "tflite-float32 gzip": "failed", "tflite-float32 parameters": "passed",
        "tflite-float32 peak_memory": "failed", "tflite-float32 snr": "failed",
        "tflite-float32 metric": "failed"}


def test_a_target_that_is_gone_or_failed_is_a_failure(place):
    folder = place / "model-tfcompress"
    network(folder / "b.tflite")
    report(folder, row("tflite-float32"), row("b"))
    run(place, update=True)
    report(folder, row("tflite-float32"))
    assert statuses(run(place))["b artifact"] == "failed"
    bad = row("b")
    report(folder, row("tflite-float32"),
           type(bad)("b", "failed", error={"message": "out of ideas", "hint": ""}))
    assert "out of ideas" in run(place).error.message
    with pytest.raises(QualityError, match="out of ideas"):
        run(place, update=True)


def test_required_latency_without_a_baseline_artifact_fails_and_says_so(place):
    run(place, update=True)
    shrunk(place / "model-tfcompress", width=8)
    assert run(place).error is None
    (place / "tfcompress.toml").write_text(CONFIG + 'require = ["latency"]\n')
    told = run(place).error.message
    assert "latency not compared: no baseline artifact is named" in told and "required" in told


def test_files_can_be_named_one_by_one(place):
    network(place / "a.tflite")
    (place / "tfcompress.toml").write_text(
        '[check.targets.mine]\nartifact = "a.tflite"\nbytes = "20 kB"\nsnr = 30\n')
    found = statuses(run(place))
    assert found["mine bytes"] == "passed" and found["mine snr"] == "skipped"
    (place / "tfcompress.toml").write_text(
        '[check.targets.mine]\nartifact = "a.tflite"\nbytes = "2 kB"\n')
    assert statuses(run(place))["mine bytes"] == "failed"


def test_a_folder_is_one_artifact_and_is_not_run(place):
    folder = place / "model-tfcompress"
    (folder / "saved-model").mkdir()
    (folder / "saved-model/saved_model.pb").write_bytes(bytes(1000))
    one = row("saved-model")
    one = type(one)("saved-model", "ok", Artifact("saved-model", "saved-model"), one.measurements)
    report(folder, row("tflite-float32"), one)
    run(place, update=True)
    (folder / "saved-model/saved_model.pb").write_bytes(bytes(2000))
    with pytest.raises(UsageError, match="saved_model.pb is not the file"):
        run(place)
    report(folder, row("tflite-float32"), one)
    found = statuses(run(place))
    assert found["saved-model bytes"] == "failed" and found["saved-model latency"] == "skipped"


def test_pyproject_is_another_place_for_it(place, monkeypatch):
    (place / "tfcompress.toml").unlink()
    (place / "pyproject.toml").write_text(
        '[tool.tfcompress.check]\nartifacts = "model-tfcompress"\n'
        '[tool.tfcompress.check.limits]\nbytes = "1 kB"\n')
    monkeypatch.chdir(place)
    found = checking.run()
    assert statuses(found)["tflite-float32 bytes"] == "failed"


@pytest.mark.parametrize("spoil, told, hint", [
    (lambda p: (p / "tfcompress.toml").write_text("[chek]\n"), "no table", "did you mean"),
    (lambda p: (p / "tfcompress.toml").write_text("[check"), "not TOML", "correct"),
    (lambda p: (p / "tfcompress.toml").write_text(CONFIG + 'only = ["tflite-flot32"]\n'),
     "tflite-flot32", "did you mean 'tflite-float32'"),
    (lambda p: (p / "tfcompress.toml").write_text('[check]\nartifacts = "nowhere"\n'),
     "no artifacts at", "shrink"),
    (lambda p: (p / "tfcompress-baseline.json").unlink(), "there is no baseline", "--update"),
    (lambda p: (p / "tfcompress-baseline.json").write_text("[]"), "no baseline", "--update"),
    (lambda p: (p / "tfcompress-baseline.json").write_text('{"schema_version": 9}'),
     "schema version 9", "--update"),
    (lambda p: network(p / "model-tfcompress/tflite-float32.tflite", 9),
     "not the file that its report is about", "shrink"),
    (lambda p: (p / "model-tfcompress/tflite-float32.tflite").unlink(), "no artifact", "shrink"),
])
def test_what_cannot_be_used_is_an_error_of_usage(place, spoil, told, hint):
    run(place, update=True)
    spoil(place)
    with pytest.raises(UsageError) as error:
        run(place)
    assert told in error.value.message and hint in error.value.hint
    assert error.value.exit_code == 2


def test_a_baseline_that_cannot_be_written_leaves_the_old_one(place):
    run(place, update=True)
    before = (place / "tfcompress-baseline.json").read_bytes()
    (place / "tfcompress.toml").write_text(CONFIG + 'baseline_file = "no/where.json"\n')
    with pytest.raises(OutputError):
        run(place, update=True)
    assert (place / "tfcompress-baseline.json").read_bytes() == before
    assert not [p for p in place.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("formats, path, expected", [
    ([], None, [("table", None)]), (["junit"], "a.xml", [("junit", "a.xml")]),
    (["github", "sarif=b.json"], None, [("github", None), ("sarif", "b.json")]),
])
def test_formats_say_where_they_go(formats, path, expected):
    assert gate_formats.outputs(formats, path) == expected


@pytest.mark.parametrize("formats, path", [
    (["jsn"], None), (["table", "github"], None), (["table=x"], "y")])
def test_formats_that_do_not_are_refused(formats, path):
    with pytest.raises(UsageError):
        gate_formats.outputs(formats, path)


@pytest.mark.slow
def test_latency_is_measured_against_the_baselines_artifact_without_tensorflow(place, environ):
    """The same network in other bytes, a hundred times the work, and a file that does not run."""
    model = tflite.load(place / "model-tfcompress/tflite-float32.tflite")
    model.description = b"the same, in other words"
    (place / "same.tflite").write_bytes(tflite.dump(model))
    network(place / "heavy.tflite", width=64, side=48)
    (place / "broken.tflite").write_bytes((ROOT / "tests/data/digits.tflite").read_bytes())
    model = tflite.load(place / "broken.tflite")
    model.subgraphs[0].tensors[model.subgraphs[0].operators[0].inputs[0]].type = 2  # int32
    (place / "broken.tflite").write_bytes(tflite.dump(model))
    targets = [f'[check.targets.{name}]\nartifact = "{name}.tflite"\n'
               'baseline = "model-tfcompress/tflite-float32.tflite"\n'
               for name in ("same", "heavy", "broken")]
    (place / "tfcompress.toml").write_text(
        "[check]\nseconds = 0.3\nrounds = 3\n[check.limits]\nbytes = false\n"
        "metric_drop = false\nlatency = 2.0\n" + "".join(targets))
    done = command("tfcompress", "check", "--json", cwd=place, environ=environ)
    rows = {r["target"]: r for r in json.loads(done.stdout)}
    assert done.returncode == 8 and not done.stderr
    assert rows["heavy"]["status"] == "failed" and rows["heavy"]["interval"][0] > 2
    assert rows["same"]["status"] == "passed" and 0.8 < rows["same"]["size"] < 1.25
    assert rows["broken"]["status"] == "skipped" and "not measured" in rows["broken"]["text"]


@pytest.mark.parametrize("argv, told", [
    (["--config", "nowhere.toml"], "nowhere.toml"), (["--format", "jsn"], "did you mean 'json'"),
    ([], "[check]"), (["--config", "wrong.toml"], "did you mean 'bytes'")])
def test_errors_are_two_lines_and_import_nothing_heavy(tmp_path, environ, argv, told):
    (tmp_path / "wrong.toml").write_text(CONFIG + "[check.limits]\nbites = 3\n")
    code = (f"import sys\nfrom tfcompress import cli\ncode = cli.main({['check', *argv]!r})\n"
            "heavy = {'numpy', 'tensorflow', 'keras', 'ai_edge_litert', 'h5py', 'PIL', 'rich'}\n"
            "sys.exit(99 if heavy & set(sys.modules) else code)")
    done = command(sys.executable, "-c", code, cwd=tmp_path, environ=environ)
    assert done.returncode == 2 and not done.stdout
    assert told in done.stderr and len(done.stderr.splitlines()) == 2


def test_a_check_imports_no_tensorflow(place):
    run(place, update=True)
    code = (f"import sys\nfrom tfcompress import checking\n"
            f"result = checking.run({str(place / 'tfcompress.toml')!r}, why=True)\n"
            "heavy = {'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)\n"
            "sys.exit(bool(heavy or result.error or len(result.checks) != 3))")
    assert command(sys.executable, "-c", code, cwd=place, environ=os.environ).returncode == 0


def test_the_command_line_prints_and_writes(place, monkeypatch, capsys):
    from tfcompress import cli

    monkeypatch.chdir(place)
    assert cli.main(["check", "--update"]) == 0
    assert capsys.readouterr().out == "tfcompress-baseline.json written: commit it\n"
    assert cli.main(["check", "--format", "junit", "--output", "check.xml"]) == 0
    assert not capsys.readouterr().out and xml.parse("check.xml").getroot().tag == "testsuites"
    shrunk(place / "model-tfcompress", width=32)
    assert cli.main(["check", "--json", "--why"]) == 8
    told = capsys.readouterr()
    assert json.loads(told.out)[0]["growth"] and not told.err
    assert cli.main(["check"]) == 8
    told = capsys.readouterr()
    assert "✕  tflite-float32  size" in told.out
    assert told.err.splitlines()[0].startswith("tfcompress: tflite-float32: size is ")


def test_a_format_goes_into_a_folder_that_is_not_there_yet(place):
    text = checking.render(run(place, update=True), "json")
    checking.save(text, place / "reports" / "check.json")
    assert (place / "reports" / "check.json").read_text() == text


def test_machines_are_told_the_file_from_where_they_are(place, monkeypatch):
    run(place, update=True)
    shrunk(place / "model-tfcompress", width=32)
    monkeypatch.chdir(place)
    result = run(place)  # by its absolute path
    assert result.config.file.is_absolute()
    assert "::error file=tfcompress.toml," in checking.render(result, "github")
    log = json.loads(checking.render(result, "sarif"))
    place = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "tfcompress.toml"


# ---- Continuous integration -----------------------------------------------------------------

def repository(place, environ):
    """A repository whose first commit holds the artifacts and their baseline."""
    for argv in (["git", "init", "-q"], ["tfcompress", "check", "--update"], ["git", "add", "."],
                 ["git", "commit", "-q", "-m", "The model, and its baseline"]):
        done = command(*argv, cwd=place, environ=environ)
        assert done.returncode == 0, done.stderr
    return place


def grow(place, environ):
    """A second commit that grows the model."""
    shrunk(place / "model-tfcompress", width=32)
    done = command("git", "commit", "-aqm", "More filters", cwd=place, environ=environ)
    assert done.returncode == 0, done.stderr


def filled(text, inputs, place):
    """A value of action.yml with its expressions, as GitHub would fill them in."""
    def value(match):
        return {"github.action_path": str(ROOT)}.get(match[1]) or inputs[match[1].split(".")[1]]

    return re.sub(r"\$\{\{ *([\w.]+) *\}\}", value, text)


def act(place, environ, **given):
    """Run the steps of action.yml as GitHub's runner does; pip is left out: it needs a network."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    inputs = {k: v["default"] for k, v in action["inputs"].items()} | given
    summary = place.parent / "summary.md"
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash"
        if "pip install" in step["run"]:
            assert step["if"] == "inputs.install != 'none'"
            continue
        mine = {k: filled(v, inputs, place) for k, v in step["env"].items()}
        script = place.parent / "step.sh"
        script.write_text(step["run"])
        done = command("bash", "--noprofile", "--norc", "-eo", "pipefail", str(script), cwd=place,
                       environ=environ | mine, GITHUB_STEP_SUMMARY=str(summary))
    return done, summary.read_text()


@pytest.mark.slow
def test_the_action_passes_one_commit_and_fails_the_next(place, environ):
    repository(place, environ)
    done, summary = act(place, environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "::error" not in done.stdout and "3 passed" in summary
    grow(place, environ)
    done, summary = act(place, environ, sarif="out.sarif", junit="out.xml", benchmark="out.json")
    assert done.returncode == 8
    error = next(line for line in done.stdout.splitlines() if line.startswith("::error"))
    assert error.startswith("::error file=tfcompress.toml,title=tflite-float32 bytes::size is ")
    assert "is allowed (+1 %25)%0A" in error and "became 32×3×3×8" in error
    assert "1 failed" in summary and "layer by layer" in summary
    assert json.loads((place / "out.sarif").read_text())["runs"][0]["results"]
    assert xml.parse(place / "out.xml").getroot().attrib["failures"] == "1"
    assert json.loads((place / "out.json").read_text())[0]["value"] > 0


@pytest.mark.slow
def test_the_hook_stops_the_commit_that_grows_the_model(place, environ, tmp_path_factory):
    """By pre-commit itself, from a repository that offers the hook; nothing is fetched."""
    def git(*argv, cwd=place):
        return command("git", *argv, cwd=cwd, environ=environ)

    offered = tmp_path_factory.mktemp("hooks")
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", offered)
    for argv in (["init", "-q"], ["add", "."], ["commit", "-qm", "Hooks"], ["tag", "v1"]):
        assert git(*argv, cwd=offered).returncode == 0
    page = (ROOT / "docs/check.md").read_text()
    block = page.partition("## pre-commit")[2].partition("```yaml\n")[2].partition("```")[0]
    block = block.replace("https://HOST/OWNER/tfcompress", str(offered)).replace("VERSION", "v1")
    (place / ".pre-commit-config.yaml").write_text(block)
    for argv in (["validate-manifest", str(offered / ".pre-commit-hooks.yaml")],
                 ["validate-config"]):
        done = command("pre-commit", *argv, cwd=place, environ=environ)
        assert done.returncode == 0, done.stdout
    repository(place, environ)
    done = command("pre-commit", "install", cwd=place, environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr

    (place / "README.md").write_text("no model\n")
    git("add", ".")
    done = git("commit", "-qm", "Words")
    assert done.returncode == 0 and "no files to check" in done.stderr, done.stderr
    shrunk(place / "model-tfcompress", width=32)
    done = git("commit", "-aqm", "More filters")
    assert done.returncode != 0 and "exit code: 8" in done.stderr
    for told in ("size is", "became 32×3×3×8", "tfcompress check --update"):
        assert told in done.stderr
    assert command("tfcompress", "check", "--update", cwd=place, environ=environ).returncode == 0
    done = git("commit", "-aqm", "More filters, on purpose")
    assert done.returncode == 0 and "Passed" in done.stderr, done.stderr
    assert git("status", "--porcelain").stdout == ""


def test_the_hook_runs_for_what_a_check_reads():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert not hook["pass_filenames"] and hook["language"] == "system"
    for name, runs in {"out/a.tflite": True, "out/a.onnx": True, "out/report.json": True,
                       "tfcompress.toml": True, "pyproject.toml": True, "README.md": False,
                       "tfcompress-baseline.json": True, "a.py": False}.items():
        assert bool(re.search(hook["files"], name)) == runs, name


@pytest.mark.slow
def test_the_gitlab_snippet_runs_as_documented(place, environ):
    page = (ROOT / "docs/check.md").read_text()
    (job,) = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.S)
              if "before_script" in block]
    job = job["tfcompress"]
    repository(place, environ)
    for status in (0, 8):
        for line in job["script"]:
            done = command("sh", "-c", line, cwd=place, environ=environ)
        assert done.returncode == status, done.stderr
        root = xml.parse(place / job["artifacts"]["reports"]["junit"]).getroot()
        assert int(root.attrib["failures"]) == bool(status)
        grow(place, environ) if not status else None


def test_every_limit_and_format_is_documented():
    page = (ROOT / "docs/check.md").read_text()
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.M))
    assert told == set(gate_limits.MEASURES) | set(gate_formats.FORMATS)


def test_the_documented_configuration_is_valid():
    page = (ROOT / "docs/check.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", page, re.S)
    assert len(blocks) > 1
    for block in blocks:
        table = tomllib.loads(block)
        table = table.get("check") or table["tool"]["tfcompress"]["check"]
        gate_limits.from_dict(table, Path("tfcompress.toml"))
