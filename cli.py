"""Words in, words out: parses, calls one function, prints. Knows no TensorFlow and no NumPy."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from .command import arguments, defaults
from .command.terminal import color, progress, short, size, width
from .errors import Interrupted, OutputError, TfcompressError, missing


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code documented in errors.py."""
    argv = sys.argv[1:] if argv is None else argv
    debug, machine = "--debug" in argv, "--json" in argv
    signal.signal(signal.SIGTERM, _stop)
    _open_streams()
    try:
        if argv[:1] == ["help"]:
            argv = [*argv[1:2], "--help"]
        args, argv = defaults.parse(argv)
        if not args.command_name:
            print(arguments.short(), end="")
            return 0
        code = COMMANDS[args.command_name](args, argv)
        _flush()
        return code
    except SystemExit as stop:  # --help and --version
        _flush()
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _fail(
            Interrupted(
                "interrupted; nothing was left half-written",
                "run the same command again: it goes on where it stopped",
            ),
            machine,
        )
    except TfcompressError as error:
        if debug:
            traceback.print_exc()
            print(getattr(error, "log", ""), file=sys.stderr)
        return _fail(error, machine)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_ours(error):
            _flush()
            return 0
        if debug:
            traceback.print_exc()
        name = f"{error.filename}: " if error.filename else ""
        return _fail(
            OutputError(f"{name}{error.strerror or error}", "check free space and permissions"),
            machine,
        )
    except ModuleNotFoundError as error:
        if debug:
            traceback.print_exc()
        return _fail(missing(error), machine)
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


def _is_ours(error: BrokenPipeError) -> bool:
    """Whether it is our own output that broke off: only this file prints."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename == __file__


def _open_streams() -> None:
    """A stream that the caller has closed (`>&-`) takes what is said to it, and nobody reads it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def _flush() -> None:
    """Write what is left, unless its reader has left, as `tfcompress targets | head -1` does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: TfcompressError, machine: bool) -> int:
    if machine:
        with suppress(OSError):  # the exit code says it where nothing can be written
            print(json.dumps(_told(error)))
            _flush()
    else:
        print(f"tfcompress: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
    return error.exit_code


def _told(error: TfcompressError) -> dict:
    return {"error": error.to_dict() | {"exit_code": error.exit_code}}


def _shrink(args: argparse.Namespace, argv: list[str]) -> int:
    from . import pipeline

    known = set(pipeline.Options.__dataclass_fields__)
    told = {k: v for k, v in vars(args).items() if k in known and v is not None}
    told["targets"] = tuple(args.targets or ("tflite-int8",))
    told["custom_objects"] = tuple(args.custom_objects)
    command = shlex.join(["tfcompress", *argv])
    with progress(args.json) as show:
        result = pipeline.run(pipeline.Options(**told | {"command": command}), show)
    from .benchmark import report

    folder = short(result.folder)
    if args.json:
        told = result.report.to_dict() | {"output": str(result.folder)}
        print(json.dumps(told | (_told(result.error) if result.error else {})))
    else:
        print(report.table(result.report, width=width(), color=color()))
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
    with progress(args.json) as show:
        result = inspecting.run(Options(**told), show, args.samples)
    from .benchmark import inspection

    if args.json:
        told = inspection.to_dict(result.inspection) | {"output": str(result.folder)}
        print(json.dumps(told))
    else:
        print(inspection.table(result.inspection, width()))
        print(f"{short(result.folder)}/inspect.html")
    return 0


def _check(args: argparse.Namespace, argv: list[str]) -> int:
    from . import checking
    from .benchmark import gate_formats

    formats = [*args.format, *(["json"] if args.json else [])]
    wanted = [] if args.update else gate_formats.outputs(formats, args.output)
    with progress(args.json) as show:
        listen = {"on_event": show} if show else {}
        result = checking.run(args.config, update=args.update, why=args.why, **listen)
    if result.updated:
        told = json.dumps({"baseline": str(result.updated)})
        print(told if args.json else f"{short(result.updated)} written: commit it")
        return 0
    for form, path in wanted:
        written = checking.render(result, form, width(), color() and path is None)
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
    from .release import publishing

    with progress(args.json) as show:
        done = publishing.publish(
            args.folder, args.reference, tuple(args.alias), args.sign, on_event=show
        )
    if args.json:
        print(json.dumps(done))
    else:
        again = "" if done["created"] else " (already there)"
        print(f"{done['name']}:{done['version']}{again}  {size(done['bytes'])}"
              f", {size(done['sent_bytes'])} sent")
        for alias in done["aliases"]:
            print(f"{done['name']}@{alias} -> {done['version']}")
        if done["signed_by"]:
            print(f"signed by the key {done['signed_by']}")
    return 0


def _pull(args: argparse.Namespace, argv: list[str]) -> int:
    from .release import publishing

    with progress(args.json) as show:
        done = publishing.pull(
            args.reference, tuple(args.targets), args.output, args.verify, on_event=show
        )
    if args.json:
        print(json.dumps(done))
    else:
        signed = f", signed by the key {done['verified_by']}" if done["verified_by"] else ""
        print(f"{done['name']}:{done['version']}  {size(done['bytes'])}, "
              f"{size(done['fetched_bytes'])} fetched{signed}")
        for name in done["files"]:
            print(short(Path(done["folder"]) / name))
    return 0


def _list(args: argparse.Namespace, argv: list[str]) -> int:
    from .release import publishing

    found = publishing.listing(args.place)
    if args.json:
        print(json.dumps(found))
        return 0
    for entry in found:
        if "version" in entry:
            names = " ".join(f"@{alias}" for alias in entry["aliases"])
            print(f"{entry['version']:<14}  {entry['created'][:16]:<16}  "
                  f"{size(entry['bytes']):>8}  {' '.join(entry['targets'])}  {names}".rstrip())
        else:
            told = "  ".join(f"@{a} -> {v}" for a, v in sorted(entry["aliases"].items()))
            print(f"{entry['name']:<24}  {told}")
    return 0


def _alias(args: argparse.Namespace, argv: list[str]) -> int:
    from .release import publishing

    done = publishing.alias(args.reference, args.alias)
    if args.json:
        print(json.dumps(done))
    else:
        before = f" (was {done['before']})" if done["before"] else ""
        print(f"{done['name']}@{done['alias']} -> {done['version']}{before}")
    return 0


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

    with progress(args.json) as show:
        told = (lambda fraction, text: show("fetch", fraction, text)) if show else lambda *_: None
        places = [str(packages.fetch(told)), str(tfjs.fetch(told)), browser.find_browser()]
    print(json.dumps(places) if args.json else "\n".join(places))
    return 0


def _benchmark(args: argparse.Namespace, argv: list[str]) -> int:
    from . import measuring
    from .errors import from_dict

    with progress(args.json) as show:
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


def _completion(args: argparse.Namespace, argv: list[str]) -> int:
    from .command import completion

    script = completion.SCRIPTS[args.shell](completion.words())
    print(json.dumps({"shell": args.shell, "script": script}) if args.json else script, end="")
    return 0


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
        print(table(found, width=width(), color=color()))
        print(args.html or "", end="\n" if args.html else "")
    return 0


COMMANDS = {
    "shrink": _shrink, "inspect": _inspect, "targets": _targets, "report": _report,
    "setup": _setup, "benchmark": _benchmark, "check": _check, "diff": _diff,
    "publish": _publish, "pull": _pull, "list": _list, "alias": _alias, "completion": _completion,
}
