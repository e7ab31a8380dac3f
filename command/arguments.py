"""Every command and option, as argparse takes them. Standard library only."""

from __future__ import annotations

import argparse

from .. import __version__
from .parsing import Parser, examples, lines

SHELLS = ("bash", "zsh", "fish")
WITH_DEFAULTS = ("shrink", "inspect", "benchmark")  # commands whose options a file may hold
EXIT_CODES = {
    0: "everything asked for is there",
    1: "a defect of tfcompress itself",
    2: "wrong arguments, or a configuration that cannot be used",
    3: "the model cannot be used",
    4: "the data do not fit",
    5: "a package is missing",
    6: "the output folder, or a store, cannot be written or read",
    7: "a target failed; the others were made",
    8: "an artifact is worse, or larger, than is allowed",
    130: "interrupted",
}
START = (
    "tfcompress shrink model.keras --target tflite-int8 --data samples.npz",
    "tfcompress shrink model.keras --prune-to 0.5 --qat --data train.npz",
    "tfcompress inspect model.keras --target tflite-int8",
    "tfcompress targets",
)


def short() -> str:
    """What `tfcompress` says without arguments: the commands, and how to begin."""
    whole = parser()
    listed = whole._subparsers._group_actions[0]._choices_actions
    return "\n\n".join([
        whole.description, lines("commands", (f"{c.dest:<10}  {c.help}" for c in listed)),
        lines("begin with", START),
        "tfcompress COMMAND --help shows a command's options and examples."]) + "\n"


def parser() -> Parser:
    """The whole command line; `command_name` of what it parses is the command."""
    codes = lines("exit codes", (f"{code:>3}  {text}" for code, text in EXIT_CODES.items()))
    whole = Parser(
        prog="tfcompress",
        epilog=lines("examples", START) + "\n\n" + codes,
        description="One Keras model in, the smallest proven artifact for every target out.",
    )
    whole.add_argument("--version", action="version", version=f"tfcompress {__version__}")
    commands = whole.add_subparsers(dest="command_name", metavar="COMMAND", parser_class=Parser)

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON for machines, nothing else")
    shared.add_argument("--debug", action="store_true", help="show tracebacks and child logs")
    settled = argparse.ArgumentParser(add_help=False, parents=[shared])
    settled.add_argument("--no-defaults", action="store_true",
                         help="take no defaults from tfcompress.toml or pyproject.toml")

    shrink = commands.add_parser(
        "shrink",
        parents=[settled],
        epilog=examples(
            "shrink model.keras --target tflite-int8 --data samples.npz",
            "shrink model.keras --target tflite-int8 --target onnx-int8 --data photos/",
            "shrink old.h5 --target tflite-dynamic --output small/",
            "shrink model.keras --prune-to 0.5 --qat --data train.npz --max-drop 0.01"),
        help="make, prove and measure artifacts of a model",
        description="Make, prove and measure artifacts of a model.",
    )
    add = shrink.add_argument
    add("model", help=".keras, .h5 or a SavedModel folder")
    add(
        "--target",
        "-t",
        action="append",
        dest="targets",
        metavar="NAME",
        help="what to make (repeat for several; see `tfcompress targets`), or a target's .toml; "
        "default tflite-int8",
    )
    add(
        "--data",
        "-d",
        metavar="DATA",
        help="samples: FILE.npz (labels in `y`), a folder with one "
        "subfolder of images per class, FILE.tfrecord, package.module:function, or `random`",
    )
    add("--eval-data", metavar="DATA", help="judge on these; default: samples of --data held back")
    add("--output", "-o", metavar="DIR", help="output folder; default MODEL-tfcompress")
    add(
        "--samples",
        type=int,
        default=200,
        metavar="N",
        help="representative samples for calibration (default 200)",
    )
    add(
        "--eval-samples",
        type=int,
        metavar="N",
        help="held-back samples to judge on (default: 200 to 10,000, fewer for heavier models)",
    )
    add("--metric", metavar="NAME", help="accuracy, top5, auc, mae or rmse; default: inferred")
    add(
        "--max-drop",
        type=float,
        metavar="X",
        help="exit with 8 if the metric (or, without labels, "
        "the top-1 agreement) is worse than the source model's by more than X, e.g. 0.01: one "
        "point of accuracy, or one per cent of the source's mae or rmse",
    )
    add(
        "--strict",
        action="store_true",
        help="fail a target rather than keep operations in wider types than it asks for",
    )
    add(
        "--io",
        dest="io_dtype",
        choices=("float32", "int8", "uint8", "int16"),
        help="type of inputs and outputs of integer targets (default: the target's own)",
    )
    add(
        "--trim",
        action="store_true",
        help="leave the names of inner tensors out of .tflite files: smaller, but tools can no "
        "longer name the layers",
    )
    add(
        "--sparse",
        action="store_true",
        help="leave the zeros of pruned weights out of .tflite files, where LiteRT then computes "
        "the same bits: smaller as it lies there, as fast as before",
    )
    add(
        "--input-shape",
        metavar="SHAPE",
        help="fix free dimensions, without the batch: 224,224,3 or image=224,224,3;mask=224,224",
    )
    add("--normalize", metavar="HOW", help="how raw pixels become inputs: 0..1, -1..1 or imagenet")
    add("--labels", metavar="FILE", help="class names, one per line, to embed in the artifacts")
    add(
        "--custom-objects",
        action="append",
        metavar="MODULE",
        default=[],
        help="package.module with the model's own layers (runs that module's code)",
    )
    add(
        "--unsafe-load",
        action="store_true",
        help="load models that carry code, such as Lambda layers: the code runs with your rights",
    )
    add("--seed", type=int, default=0, metavar="N", help="for sampling and training (default 0)")
    add(
        "--threads",
        type=int,
        metavar="N",
        help="measure with 1 and with N threads (default: all, at most 4)",
    )
    add("--fresh", action="store_true", help="do everything again, even what is in the step store")
    train = shrink.add_argument_group(
        "training", "Stages that change the model first, in this order, on --data. With labels or "
        "without: the original model is the teacher. See docs/stages.md."
    ).add_argument
    train(
        "--recipe",
        metavar="NAME",
        help="stages in a file.toml, or a built-in recipe: prune, cluster, qat, prune-qat, "
        "prune-cluster-qat, structured, structured-qat, ...",
    )
    train(
        "--prune-to",
        metavar="SHARE",
        help="really remove channels until this share is left: 0.5 of parameters (default), macs "
        "or bytes, as in '0.5 of macs'",
    )
    train(
        "--prune",
        metavar="SPARSITY",
        help="set this share of each kernel to zero, e.g. 0.8; or a pattern: 2:4, block1x4",
    )
    train("--cluster", type=int, metavar="K", help="few distinct values per kernel, e.g. 16")
    train("--qat", action="store_true", help="train with the rounding of the int8 file in place")
    train(
        "--distill",
        action=argparse.BooleanOptionalAction,
        help="learn from the original model's outputs (default: yes)",
    )
    train("--epochs", type=int, metavar="N", help="per stage (default: as many as 1000 steps take)")
    train("--batch-size", type=int, metavar="N", help="samples per step (default 32)")
    train("--learning-rate", type=float, metavar="X", help="at the start (default 0.001)")
    train(
        "--backend",
        default="native",
        metavar="NAME",
        help="native, or tfmot: tensorflow-model-optimization's own wrappers",
    )

    commands.add_parser(
        "targets",
        parents=[shared],
        help="list the targets",
        description="List the targets and what each is for.",
        epilog=examples("targets", "targets --json"),
    )

    report = commands.add_parser(
        "report",
        parents=[shared],
        help="show the report of an output folder, or compare several",
        description="Show the report of an output folder; of two or more, what changed between "
        "them and what cannot be compared.",
        epilog=examples("report model-tfcompress/", "report model-tfcompress/ --json",
                        "report before/ after/ --html changes.html"),
    )
    report.add_argument("folders", nargs="+", metavar="FOLDER",
                        help="what `tfcompress shrink` wrote; the first is what others are held to")
    report.add_argument("--html", "--output", "-o", metavar="FILE", dest="html",
                        help="write the page there, too")
    _add_inspect(commands, settled)

    setup = commands.add_parser(
        "setup",
        parents=[shared],
        help="fetch what browser targets need",
        description="Fetch what browser targets need, pinned and checked, into the cache: "
        "LiteRT.js, TensorFlow.js and ONNX Runtime Web by npm, and the converter of tensorflowjs "
        "by pip. Chromium or Chrome is taken from this machine.",
        epilog=examples("setup browser"),
    )
    setup.add_argument("kind", choices=["browser"], help="browser")

    bench = commands.add_parser(
        "benchmark",
        parents=[settled],
        help="measure a .tflite here, on a board over SSH, or on a phone",
        description="Measure a .tflite here, on a board over SSH, or on a phone, and check that it "
        "computes the same there. A board needs Python with NumPy and ai-edge-litert or "
        "tflite-runtime; nothing is installed on it.",
        epilog=examples(
            "benchmark model.tflite",
            "benchmark model.tflite --device ssh://pi@board --device local",
            "benchmark model.tflite --device ssh://board:2222 --data samples.npz"),
    )
    bench.add_argument("file", help="a .tflite file")
    bench.add_argument(
        "--device",
        action="append",
        metavar="URL",
        help="ssh://user@host[:port], adb://[SERIAL] or local (default); repeat for several",
    )
    bench.add_argument("--data", "-d", metavar="DATA", help="as for shrink; default: noise")
    bench.add_argument("--threads", type=int, default=1, metavar="N", help="default 1")
    bench.add_argument(
        "--seconds", type=float, default=2.0, metavar="X", help="per device (default 2)"
    )
    bench.add_argument(
        "--device-python",
        default="python3",
        metavar="PATH",
        help="the board's Python (default python3), e.g. ~/venv/bin/python",
    )
    _add_check(commands, shared)
    _add_diff(commands, shared)
    _add_store(commands, shared)
    complete = commands.add_parser(
        "completion",
        parents=[shared],
        help="print what makes a shell complete these words",
        description="Print a script that completes commands, options, targets and recipes.",
        epilog=examples(
            "completion bash > ~/.local/share/bash-completion/completions/tfcompress",
            "completion zsh > ~/.zfunc/_tfcompress     # a folder of $fpath",
            "completion fish > ~/.config/fish/completions/tfcompress.fish")
        + "\n\n" + lines("for one shell only", ('eval "$(tfcompress completion bash)"',)),
    )
    complete.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")
    return whole


def _add_inspect(commands, settled) -> None:
    inspect = commands.add_parser(
        "inspect",
        parents=[settled],
        help="show layers, what targets make of them, how sensitive each is",
        description="Show a model's layers; with --target what each target cannot run, what is "
        "rewritten and what you could change; with --data how much each layer hurts when it alone "
        "is pruned or gets fewer bits. Nothing is trained and no artifact is made.",
        epilog=examples(
            "inspect model.keras",
            "inspect model.keras --target tflite-int8 --target edge-tpu",
            "inspect model.keras --data samples.npz"),
    )
    add = inspect.add_argument
    add("model", help=".keras, .h5 or a SavedModel folder")
    add("--target", "-t", action="append", dest="targets", metavar="NAME",
        help="what to check the layers against (repeat for several; see `tfcompress targets`)")
    add("--data", "-d", metavar="DATA", help="samples, as for `shrink`: measure each layer on them")
    add("--output", "-o", metavar="DIR", help="output folder; default MODEL-inspect")
    add("--samples", type=int, metavar="N",
        help="samples to measure on (default 64, fewer where that would take over two minutes)")
    add("--metric", metavar="NAME", help="accuracy, top5, auc, mae or rmse; default: inferred")
    add("--input-shape", metavar="SHAPE", help="fix free dimensions, without the batch: 224,224,3")
    add("--normalize", metavar="HOW", help="how raw pixels become inputs: 0..1, -1..1 or imagenet")
    add("--custom-objects", action="append", metavar="MODULE", default=[],
        help="package.module with the model's own layers (runs that module's code)")
    add("--unsafe-load", action="store_true",
        help="load models that carry code, such as Lambda layers: the code runs with your rights")
    add("--seed", type=int, default=0, metavar="N", help="for sampling (default 0)")
    add("--fresh", action="store_true", help="do everything again, even what is in the step store")


def _add_check(commands, shared) -> None:
    check = commands.add_parser(
        "check",
        parents=[shared],
        help="hold artifacts against committed limits and a committed baseline",
        description="Hold the artifacts of an output folder against the limits in tfcompress.toml "
        "(or [tool.tfcompress.check] in pyproject.toml) and a committed baseline. Nothing is "
        "trained, and TensorFlow is not needed. A broken limit is exit code 8. See docs/check.md.",
        epilog=examples(
            "check --update", "check --why", "check --format github --format sarif=check.sarif"),
    )
    add = check.add_argument
    add("--config", "-c", metavar="FILE", help="default: tfcompress.toml, or pyproject.toml here")
    add("--update", action="store_true", help="make these artifacts the baseline; checks nothing")
    add("--why", action="store_true", help="say which layers changed the size of a file")
    add("--format", "-f", action="append", default=[], metavar="NAME[=FILE]",
        help="table, json, junit, github, sarif, benchmark or markdown; repeat for several")
    add("--output", "-o", metavar="FILE", help="write the format there instead of printing it")


def _add_diff(commands, shared) -> None:
    diff = commands.add_parser(
        "diff",
        parents=[shared],
        help="compare two .tflite files: operators, types, sizes, outputs",
        description="Compare two .tflite files: operators, types, sizes, each weight, and what "
        "they compute.",
        epilog=examples(
            "diff before.tflite after.tflite",
            "diff before.tflite after.tflite --data samples.npz --json"),
    )
    diff.add_argument("before", help="a .tflite file")
    diff.add_argument("after", help="another")
    diff.add_argument("--data", "-d", metavar="DATA", help="as for shrink; default: seeded noise")
    diff.add_argument("--samples", type=int, default=64, metavar="N", help="to run (default 64)")
    diff.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default 0)")


def _add_store(commands, shared) -> None:
    more = {"parents": [shared]}
    stores = (
        "\n\nSTORE is a folder, s3://bucket/path, gs://, https:// (read only), oci://host[:port] "
        "or any other fsspec URL. Credentials are taken from the environment. See docs/publish.md."
    )
    publish = commands.add_parser(
        "publish",
        **more,
        help="put an output folder into a store, as a version that never changes",
        description=f"Put an output folder into a store, as a version that never changes.{stores}",
        epilog=examples(
            "publish digits-tfcompress/ ./store/digits:1.0",
            "publish digits-tfcompress/ s3://models/digits --alias prod --sign key.pem",
            "publish digits-tfcompress/ oci://registry.example/team/digits:1.0"),
    )
    publish.add_argument("folder", help="what `tfcompress shrink` wrote")
    publish.add_argument(
        "reference",
        metavar="STORE/name[:version]",
        help="without a version, it is named by the digest of manifest.json",
    )
    publish.add_argument("--alias", action="append", default=[], metavar="NAME",
                         help="let this alias stand for it too, e.g. prod (repeat for several)")
    publish.add_argument("--sign", default="", metavar="KEY.pem", help="private Ed25519 key")

    pull = commands.add_parser(
        "pull",
        **more,
        help="bring a published version, or one target of it, into a folder",
        description="Bring a published version, or some targets of it, into a folder. Every file "
        f"is checked against its SHA-256; an interrupted pull goes on where it stopped.{stores}",
        epilog=examples(
            "pull ./store/digits",
            "pull s3://models/digits@prod --target tflite-int8 -o app/model",
            "pull oci://registry.example/team/digits:1.0 --verify pub.pem"),
    )
    pull.add_argument("reference", metavar="STORE/name[:version|@alias]",
                      help="without a version, @latest: what was published last")
    pull.add_argument("--target", "-t", action="append", dest="targets", default=[],
                      metavar="NAME", help="only this target's files (repeat for several)")
    pull.add_argument("--output", "-o", default="", metavar="DIR", help="default: the name")
    pull.add_argument("--verify", default="", metavar="PUB.pem",
                      help="refuse what this public Ed25519 key has not signed")

    listing = commands.add_parser(
        "list", **more, help="list the names in a store, or the versions of a name",
        description=f"List the names in a store, or the versions of a name.{stores}",
        epilog=examples("list ./store", "list s3://models/digits --json"),
    )
    listing.add_argument("place", metavar="STORE[/name]", help="without a name, all names")

    alias = commands.add_parser(
        "alias", **more, help="let an alias stand for a published version",
        description=f"Let an alias stand for a published version from now on.{stores}",
        epilog=examples("alias ./store/digits:1.0 prod", "alias ./store/digits@staging prod"),
    )
    alias.add_argument("reference", metavar="STORE/name[:version|@alias]",
                       help="the version, or what another alias stands for now")
    alias.add_argument("alias", help="e.g. prod")
