# SPDX-License-Identifier: Apache-2.0
"""The command ``decnn``: parse, call the library, turn errors into one line and an exit status.

Exit status: 0 done, 1 a failure (a worker that died or is not there), 2 bad input, 130 Ctrl-C,
143 SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import decnn_tvm
from decnn_tvm.cli import cluster as cluster_command
from decnn_tvm.cli import compile as compile_command
from decnn_tvm.cli import decouple as decouple_command
from decnn_tvm.cli import demo as demo_command
from decnn_tvm.cli import finetune as finetune_command
from decnn_tvm.cli import inspect as inspect_command
from decnn_tvm.cli import keys as keys_command
from decnn_tvm.cli import plan as plan_command
from decnn_tvm.cli import profile as profile_command
from decnn_tvm.cli import report as report_command
from decnn_tvm.cli import run as run_command
from decnn_tvm.cli import status as status_command
from decnn_tvm.cli import tune as tune_command
from decnn_tvm.cli import worker as worker_command
from decnn_tvm.errors import ClusterError, DecnnError

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143

COMMANDS = (
    inspect_command,
    decouple_command,
    finetune_command,
    tune_command,
    plan_command,
    compile_command,
    run_command,
    profile_command,
    report_command,
    worker_command,
    keys_command,
    cluster_command,
    status_command,
    demo_command,
)

EPILOG = """\
from a model to answers on four local workers:
  decnn inspect resnet50.onnx
  decnn decouple resnet50.onnx -o grouped.onnx --preset resnet50-x1.75
  (or leave the model dense: it can be split too)
  decnn finetune grouped.onnx --data images/ -o trained.onnx
  decnn compile trained.onnx -o trained.pkg --workers 4
  decnn run trained.pkg --workers 4 --input cat.jpg

exit status: 0 done, 1 failed, 2 bad input, 130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments and where help is, and leave."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}; see `{self.prog} --help`\n")


class _ShowVersion(argparse.Action):
    """Print the version; it is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"decnn {decnn_tvm.__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``decnn``."""
    common = argparse.ArgumentParser(add_help=False)
    default = argparse.SUPPRESS  # so that the options work before and after the command
    common.add_argument(
        "--debug", action="store_true", default=default, help="show the traceback of an error"
    )
    common.add_argument(
        "-v", "--verbose", action="count", default=default, help="log more; twice: everything"
    )
    parser = _Parser(
        prog="decnn",
        description="Run one CNN across several small devices.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )
    for command in COMMANDS:
        command.add_parser(commands, common).set_defaults(execute=command.execute)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process, which is then taken to be ours: SIGTERM unwinds it, and
        torch stays out of it unless the command needs it.
    """
    options = build_parser().parse_args(arguments)
    if arguments is None:
        signal.signal(signal.SIGTERM, _leave)
        if not getattr(options, "needs_torch", False):
            # TVM imports torch where it is installed, which takes seconds.
            sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    _log(getattr(options, "verbose", 0))
    try:
        options.execute(options)
    except KeyboardInterrupt:
        return _report("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as in `decnn inspect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except DecnnError as error:
        if getattr(options, "debug", False):
            raise
        return _report(str(error), FAILED if isinstance(error, ClusterError) else BAD_INPUT)
    except Exception as error:
        if getattr(options, "debug", False):
            raise
        return _report(
            f"{type(error).__name__}: {error or 'no message'} (add --debug for the traceback)",
            FAILED,
        )
    return 0


def _report(message: str, status: int) -> int:
    print(f"decnn: {' '.join(message.split())}", file=sys.stderr)
    return status


def _log(verbosity: int) -> None:
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("decnn_tvm").setLevel(level)


def _leave(*_: object) -> NoReturn:
    """Unwind on SIGTERM too, so that workers and temporary folders go."""
    raise SystemExit(TERMINATED)
