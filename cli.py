"""Words in, words out: parses, calls one function, prints. Knows no TensorFlow and no NumPy."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

from . import __version__
from .errors import Interrupted, OutputError, TfcompressError, UsageError

EXAMPLES = """\
examples:
  tfcompress shrink model.keras --target tflite-int8 --data samples.npz
  tfcompress shrink model.keras --target tflite-int8 --target tflite-float16 --data photos/
  tfcompress shrink old.h5 --target tflite-dynamic --output small/
  tfcompress shrink model.keras --prune-to 0.5 --qat --data train.npz
  tfcompress inspect model.keras --target tflite-int8 --data samples.npz
  tfcompress targets
  tfcompress report model-tfcompress/
  tfcompress report before/ after/ --html changes.html
  tfcompress check --update
  tfcompress diff before.tflite after.tflite
  tfcompress publish model-tfcompress/ ./store/model:1.0 --alias prod
  tfcompress pull ./store/model@prod --target tflite-int8

exit codes:
  0 done   2 usage   3 model   4 data   5 missing package   6 output folder
  7 a target failed   8 an artifact is worse than allowed   130 interrupted   1 a defect of ours
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(message, f"see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="tfcompress",
        formatter_class=text,
        epilog=EXAMPLES,
        description=("One Keras model in, the smallest proven artifact for every target out."),
    )
    parser.add_argument("--version", action="version", version=f"tfcompress {__version__}")
    commands = parser.add_subparsers(dest="command_name", metavar="COMMAND", parser_class=_Parser)

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON for machines, nothing else")
    shared.add_argument("--debug", action="store_true", help="show tracebacks and child logs")

    shrink = commands.add_parser(
        "shrink",
        parents=[shared],
        formatter_class=text,
        epilog=EXAMPLES,
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
    shrink.set_defaults(run=_shrink)

    listing = commands.add_parser(
        "targets",
        parents=[shared],
        help="list the targets",
        description="List the targets and what each is for.",
    )
    listing.set_defaults(run=_targets)

    report = commands.add_parser(
        "report",
        parents=[shared],
        help="show the report of an output folder, or compare several",
        description="Show the report of an output folder; of two or more, what changed between "
        "them and what cannot be compared.",
    )
    report.add_argument("folders", nargs="+", metavar="FOLDER",
                        help="what `tfcompress shrink` wrote; the first is what others are held to")
    report.add_argument("--html", "--output", "-o", metavar="FILE", dest="html",
                        help="write the page there, too")
    report.set_defaults(run=_report)
    _add_inspect(commands, shared, text)

    setup = commands.add_parser(
        "setup",
        parents=[shared],
        help="fetch what browser targets need",
        description="Fetch what browser targets need, pinned and checked, into the cache: "
        "LiteRT.js and TensorFlow.js by npm, and the converter of tensorflowjs by pip. Chromium or "
        "Chrome is taken from this machine.",
    )
    setup.add_argument("what", choices=["browser"], help="browser")
    setup.set_defaults(run=_setup)

    bench = commands.add_parser(
        "benchmark",
        parents=[shared],
        formatter_class=text,
        help="measure a .tflite here, on a board over SSH, or on a phone",
        description="Measure a .tflite here, on a board over SSH, or on a phone, and check that it "
        "computes the same there. A board needs Python with NumPy and ai-edge-litert or "
        "tflite-runtime; nothing is installed on it.",
        epilog="examples:\n"
        "  tfcompress benchmark model.tflite --device ssh://pi@board --device local\n"
        "  tfcompress benchmark model.tflite --device ssh://board:2222 --data samples.npz",
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
    bench.set_defaults(run=_benchmark)
    _add_check(commands, shared, text)
    _add_diff(commands, shared, text)
    _add_store(commands, shared, text)
    return parser


def _add_inspect(commands, shared, text) -> None:
    inspect = commands.add_parser(
        "inspect",
        parents=[shared],
        formatter_class=text,
        help="show a model's layers, what targets make of them, and how sensitive each is",
        description="Show a model's layers; with --target what each target cannot run, what is "
        "rewritten and what you could change; with --data how much each layer hurts when it alone "
        "is pruned or gets fewer bits. Nothing is trained and no artifact is made.",
        epilog="examples:\n"
        "  tfcompress inspect model.keras\n"
        "  tfcompress inspect model.keras --target tflite-int8 --target edge-tpu\n"
        "  tfcompress inspect model.keras --data samples.npz",
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
    inspect.set_defaults(run=_inspect)


def _add_check(commands, shared, text) -> None:
    check = commands.add_parser(
        "check",
        parents=[shared],
        formatter_class=text,
        help="hold artifacts against committed limits and a committed baseline",
        description="Hold the artifacts of an output folder against the limits in tfcompress.toml "
        "(or [tool.tfcompress.check] in pyproject.toml) and a committed baseline. Nothing is "
        "trained, and TensorFlow is not needed. See docs/check.md.",
        epilog="examples:\n"
        "  tfcompress check --update\n"
        "  tfcompress check --why\n"
        "  tfcompress check --format github --format sarif=check.sarif\n\n"
        "exit codes:\n  0 no limit is broken   2 the configuration, baseline or artifacts cannot "
        "be used   8 a limit is broken",
    )
    add = check.add_argument
    add("--config", "-c", metavar="FILE", help="default: tfcompress.toml, or pyproject.toml here")
    add("--update", action="store_true", help="make these artifacts the baseline; checks nothing")
    add("--why", action="store_true", help="say which layers changed the size of a file")
    add("--format", "-f", action="append", default=[], metavar="NAME[=FILE]",
        help="table, json, junit, github, sarif, benchmark or markdown; repeat for several")
    add("--output", "-o", metavar="FILE", help="write the format there instead of printing it")
    check.set_defaults(run=_check)


def _add_diff(commands, shared, text) -> None:
    diff = commands.add_parser(
        "diff",
        parents=[shared],
        formatter_class=text,
        help="compare two .tflite files: operators, types, sizes, outputs",
        description="Compare two .tflite files: operators, types, sizes, each weight, and what "
        "they compute.",
        epilog="examples:\n"
        "  tfcompress diff before.tflite after.tflite\n"
        "  tfcompress diff before.tflite after.tflite --data samples.npz --json",
    )
    diff.add_argument("before", help="a .tflite file")
    diff.add_argument("after", help="another")
    diff.add_argument("--data", "-d", metavar="DATA", help="as for shrink; default: seeded noise")
    diff.add_argument("--samples", type=int, default=64, metavar="N", help="to run (default 64)")
    diff.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default 0)")
    diff.set_defaults(run=_diff)


def _add_store(commands, shared, text) -> None:
    more = {"parents": [shared], "formatter_class": text}
    stores = (
        "\n\nSTORE is a folder, s3://bucket/path, gs://, https:// (read only), oci://host[:port] "
        "or any\nother fsspec URL. Credentials are taken from the environment. See docs/publish.md."
    )
    publish = commands.add_parser(
        "publish",
        **more,
        help="put an output folder into a store, as a version that never changes",
        description=f"Put an output folder into a store, as a version that never changes.{stores}",
        epilog="examples:\n"
        "  tfcompress publish digits-tfcompress/ ./store/digits:1.0\n"
        "  tfcompress publish digits-tfcompress/ s3://models/digits --alias prod --sign key.pem\n"
        "  tfcompress publish digits-tfcompress/ oci://registry.example/team/digits:1.0",
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
    publish.set_defaults(run=_publish)

    pull = commands.add_parser(
        "pull",
        **more,
        help="bring a published version, or one target of it, into a folder",
        description="Bring a published version, or some targets of it, into a folder. Every file "
        f"is checked\nagainst its SHA-256; an interrupted pull goes on where it stopped.{stores}",
        epilog="examples:\n"
        "  tfcompress pull ./store/digits\n"
        "  tfcompress pull s3://models/digits@prod --target tflite-int8 -o app/model\n"
        "  tfcompress pull oci://registry.example/team/digits:1.0 --verify pub.pem",
    )
    pull.add_argument("reference", metavar="STORE/name[:version|@alias]",
                      help="without a version, @latest: what was published last")
    pull.add_argument("--target", "-t", action="append", dest="targets", default=[],
                      metavar="NAME", help="only this target's files (repeat for several)")
    pull.add_argument("--output", "-o", default="", metavar="DIR", help="default: the name")
    pull.add_argument("--verify", default="", metavar="PUB.pem",
                      help="refuse what this public Ed25519 key has not signed")
    pull.set_defaults(run=_pull)

    listing = commands.add_parser(
        "list", **more, help="list the names in a store, or the versions of a name",
        description=f"List the names in a store, or the versions of a name.{stores}",
    )
    listing.add_argument("place", metavar="STORE[/name]")
    listing.set_defaults(run=_list)

    alias = commands.add_parser(
        "alias", **more, help="let an alias stand for a published version",
        description=f"Let an alias stand for a published version from now on.{stores}",
        epilog="examples:\n  tfcompress alias ./store/digits:1.0 prod\n"
        "  tfcompress alias ./store/digits@staging prod",
    )
    alias.add_argument("reference", metavar="STORE/name[:version|@alias]")
    alias.add_argument("alias", help="e.g. prod")
    alias.set_defaults(run=_alias)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code documented in errors.py."""
    argv = sys.argv[1:] if argv is None else argv
    debug, machine = "--debug" in argv, "--json" in argv
    signal.signal(signal.SIGTERM, _stop)
    try:
        parser = _parser()
        args = parser.parse_args(argv)
        if not args.command_name:
            parser.print_help()
            return 0
        return args.run(args, argv)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _fail(
            Interrupted(
                "interrupted; nothing was left half-written",
                "run the same command again: it goes on where it stopped",
            ),
            machine,
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except TfcompressError as error:
        if debug:
            traceback.print_exc()
            print(getattr(error, "log", ""), file=sys.stderr)
        return _fail(error, machine)
    except OSError as error:
        if debug:
            traceback.print_exc()
        name = f"{error.filename}: " if error.filename else ""
        return _fail(
            OutputError(f"{name}{error.strerror or error}", "check free space and permissions"),
            machine,
        )
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(
            TfcompressError(
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                "this is a defect of tfcompress: run with --debug and report it",
            ),
            machine,
        )


def _stop(*_):
    raise KeyboardInterrupt


def _fail(error: TfcompressError, machine: bool) -> int:
    if machine:
        print(json.dumps({"error": error.to_dict() | {"exit_code": error.exit_code}}))
    else:
        print(f"tfcompress: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
    return error.exit_code


def _shrink(args: argparse.Namespace, argv: list[str]) -> int:
    from . import pipeline

    known = set(pipeline.Options.__dataclass_fields__)
    told = {k: v for k, v in vars(args).items() if k in known and v is not None}
    told["targets"] = tuple(args.targets or ("tflite-int8",))
    told["custom_objects"] = tuple(args.custom_objects)
    command = shlex.join(["tfcompress", *argv])
    with _progress(args.json) as show:
        result = pipeline.run(pipeline.Options(**told | {"command": command}), show)
    from .benchmark import report

    folder = _short(result.folder)
    if args.json:
        print(json.dumps(result.report.to_dict() | {"output": str(result.folder)}))
    else:
        print(report.table(result.report, width=_width(), color=_color()))
        again = " (already there: nothing to do)" if result.repeated else ""
        print(f"{folder}/report.html{again}")
    if result.error:
        if args.json:
            return result.error.exit_code
        return _fail(result.error, False)
    return 0


def _inspect(args: argparse.Namespace, argv: list[str]) -> int:
    from . import inspecting
    from .steps import Options

    known = set(Options.__dataclass_fields__) - {"samples"}
    told = {k: v for k, v in vars(args).items() if k in known and v is not None}
    told["targets"] = tuple(args.targets or ())
    told["custom_objects"] = tuple(args.custom_objects)
    told["command"] = shlex.join(["tfcompress", *argv])
    with _progress(args.json) as show:
        result = inspecting.run(Options(**told), show, args.samples)
    from .benchmark import inspection

    if args.json:
        told = inspection.to_dict(result.inspection) | {"output": str(result.folder)}
        print(json.dumps(told))
    else:
        print(inspection.table(result.inspection, _width()))
        print(f"{_short(result.folder)}/inspect.html")
    return 0


def _check(args: argparse.Namespace, argv: list[str]) -> int:
    from . import checking
    from .benchmark import gate_formats

    formats = [*args.format, *(["json"] if args.json else [])]
    wanted = [] if args.update else gate_formats.outputs(formats, args.output)
    with _progress(args.json) as show:
        listen = {"on_event": show} if show else {}
        result = checking.run(args.config, update=args.update, why=args.why, **listen)
    if result.updated:
        told = json.dumps({"baseline": str(result.updated)})
        print(told if args.json else f"{_short(result.updated)} written: commit it")
        return 0
    for form, path in wanted:
        written = checking.render(result, form, _width(), _color() and path is None)
        if path is None:
            print(written, end="")
        else:
            checking.save(written, path)
    if "github" in dict(wanted):
        checking.summarize(result)
    if result.error:
        return result.error.exit_code if args.json else _fail(result.error, False)
    return 0


def _diff(args: argparse.Namespace, argv: list[str]) -> int:
    from . import differing

    found = differing.diff(args.before, args.after, data=args.data, rows=args.samples,
                           seed=args.seed)
    print(json.dumps(found) if args.json else differing.table(found), end="\n" * args.json)
    return 0


def _publish(args: argparse.Namespace, argv: list[str]) -> int:
    from . import publishing

    with _progress(args.json) as show:
        done = publishing.publish(
            args.folder, args.reference, tuple(args.alias), args.sign, on_event=show
        )
    if args.json:
        print(json.dumps(done))
    else:
        again = "" if done["created"] else " (already there)"
        print(f"{done['name']}:{done['version']}{again}  {_size(done['bytes'])}"
              f", {_size(done['sent_bytes'])} sent")
        for alias in done["aliases"]:
            print(f"{done['name']}@{alias} -> {done['version']}")
        if done["signed_by"]:
            print(f"signed by the key {done['signed_by']}")
    return 0


def _pull(args: argparse.Namespace, argv: list[str]) -> int:
    from . import publishing

    with _progress(args.json) as show:
        done = publishing.pull(
            args.reference, tuple(args.targets), args.output, args.verify, on_event=show
        )
    if args.json:
        print(json.dumps(done))
    else:
        signed = f", signed by the key {done['verified_by']}" if done["verified_by"] else ""
        print(f"{done['name']}:{done['version']}  {_size(done['bytes'])}, "
              f"{_size(done['fetched_bytes'])} fetched{signed}")
        for name in done["files"]:
            print(_short(Path(done["folder"]) / name))
    return 0


def _list(args: argparse.Namespace, argv: list[str]) -> int:
    from . import publishing

    found = publishing.listing(args.place)
    if args.json:
        print(json.dumps(found))
        return 0
    for entry in found:
        if "version" in entry:
            names = " ".join(f"@{alias}" for alias in entry["aliases"])
            print(f"{entry['version']:<14}  {entry['created'][:16]:<16}  "
                  f"{_size(entry['bytes']):>8}  {' '.join(entry['targets'])}  {names}".rstrip())
        else:
            told = "  ".join(f"@{a} -> {v}" for a, v in sorted(entry["aliases"].items()))
            print(f"{entry['name']:<24}  {told}")
    return 0


def _alias(args: argparse.Namespace, argv: list[str]) -> int:
    from . import publishing

    done = publishing.alias(args.reference, args.alias)
    if args.json:
        print(json.dumps(done))
    else:
        before = f" (was {done['before']})" if done["before"] else ""
        print(f"{done['name']}@{done['alias']} -> {done['version']}{before}")
    return 0


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _targets(args: argparse.Namespace, argv: list[str]) -> int:
    from . import targets

    found = targets.load_all()
    if args.json:
        print(json.dumps([t.to_dict() for t in found]))
    else:
        width = max(len(t.name) for t in found)
        for target in found:
            print(f"{target.name:<{width}}  {target.summary}")
    return 0


def _setup(args: argparse.Namespace, argv: list[str]) -> int:
    from .benchmark import browser, packages
    from .export import tfjs

    with _progress(args.json) as show:
        told = (lambda fraction, text: show("fetch", fraction, text)) if show else lambda *_: None
        places = [str(packages.fetch(told)), str(tfjs.fetch(told)), browser.find_browser()]
    print(json.dumps(places) if args.json else "\n".join(places))
    return 0


def _benchmark(args: argparse.Namespace, argv: list[str]) -> int:
    from . import measuring
    from .errors import from_dict

    with _progress(args.json) as show:
        found = measuring.benchmark(
            args.file,
            args.device or ["local"],
            data=args.data,
            threads=args.threads,
            seconds=args.seconds,
            python=args.device_python,
            **({"on_event": show} if show else {}),
        )
    if args.json:
        print(json.dumps([
            one | ({} if "error" in one else
                   {"measurements": [m.to_dict() for m in one["measurements"]]})
            for one in found
        ]))
    else:
        print(measuring.table(found), end="")
    failed = [one for one in found if "error" in one]
    if not failed:
        return 0
    error = from_dict(failed[0]["error"])
    return error.exit_code if args.json else _fail(error, False)


def _report(args: argparse.Namespace, argv: list[str]) -> int:
    from .benchmark import report

    if len(args.folders) > 1:
        from .benchmark import runs, runs_views

        found = runs.compare(runs.read(args.folders))
        record, table, page = report.finite(found), runs_views.table, runs_views.html
    else:
        found = report.read(Path(args.folders[0]))
        record, table, page = found.to_dict(), report.table, report.html
    if args.html:
        report.save_page(page(found), args.html)
    if args.json:
        print(json.dumps(record))
    else:
        print(table(found, width=_width(), color=_color()))
        print(args.html or "", end="\n" if args.html else "")
    return 0


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def _color() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


@contextmanager
def _progress(machine: bool):
    """A line per stage on a terminal; silence where nobody watches."""
    if machine or not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except ImportError:  # `pull` and its like need nothing that is installed
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<24}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict = {}

        def show(stage: str, fraction: float | None, text: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None, text=text)
            total = None if fraction is None else 1.0
            bars.update(tasks[stage], total=total, completed=fraction or 0, text=text[:40])
            for name, task in tasks.items():
                if name != stage and name in ONE_AT_A_TIME and not bars.tasks[task].finished:
                    bars.update(task, total=1, completed=1, text="")

        yield show


ONE_AT_A_TIME = ("read model", "read data", "train", "convert", "run source model", "quantize",
                 "measure", "measure layers", "check targets")
