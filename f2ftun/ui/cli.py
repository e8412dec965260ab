"""The command line: what is typed becomes a verb, what the node answers becomes a screen or one JSON value.

Start-up is felt, so every module is imported when its command is asked for. Whatever goes wrong ends here, as one
sentence on stderr (with `--json` one value on stdout) and exit status 1, or 2 where the typing was wrong.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from f2ftun import __version__
from f2ftun.errors import F2ftunError, InternalError

if TYPE_CHECKING:
    from f2ftun.api.client import Client

COMMANDS: Final = {
    "init": "node",
    "key": "node",
    "address": "node",
    "up": "node",
    "down": "node",
    "reload": "node",
    "status": "node",
    "doctor": "node",
    "invite": "friends",
    "join": "friends",
    "friend": "friends",
    "allow": "friends",
    "deny": "friends",
    "ping": "friends",
    "demo": "demo",
    "dissect": "dissect",
}
"""Each command, in the order of help, and the module of `f2ftun.ui` that holds it."""


class Shell:
    """What the options before the command said: which node is meant, and for whom to print."""

    def __init__(self, config: str | None, as_json: bool) -> None:
        self.config = config
        self.json = as_json

    @property
    def client(self) -> Client:
        """The node that is meant."""
        from f2ftun.api.client import Client

        return Client(self.config)

    def ask(self, verb: str, **args: object) -> Any:
        """Ask one verb of the node."""
        return self.client.ask(verb, **args)

    def show(self, value: Any, text: Callable[[Any], str]) -> None:
        """Print a value: as JSON, or as the text that `text` makes of it."""
        click.echo(json.dumps(value) if self.json else text(value))


class Command(click.Command):
    """A command that also takes `--json` after its name, as people type it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_json_option())


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


class Subgroup(Group):
    """Such a group under a name of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_json_option())


class Root(Group):
    """The commands of `COMMANDS`, each imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in the order of help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; unknown ones get the nearest name."""
        if cmd_name not in COMMANDS:
            return None
        import importlib

        module = importlib.import_module(f"f2ftun.ui.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; say which one may have been meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(_unknown(args[0]), ctx)
        return super().resolve_command(ctx, args)


def _unknown(name: str) -> str:
    """Say that there is no such command, and which one may have been meant."""
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"Did you mean {near[0]}?" if near else "f2ftun --help lists them."
    return f"There is no command {name[:40]!r}. {hint}"


def _json_option() -> click.Option:
    """Give the `--json` that stands after a command's name and sets the one before it."""

    def set_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.ensure_object(Shell).json = True

    return click.Option(
        ["--json"], is_flag=True, expose_value=False, callback=set_json, help="Print one JSON value, for programs."
    )


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "-c", "--config", metavar="FILE", help="The node's config.yaml; else $F2FTUN_CONFIG, else the system's own."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON value, for programs; errors too.")
@click.version_option(__version__, prog_name="f2ftun")
@click.pass_context
def cli(ctx: click.Context, config: str | None, as_json: bool) -> None:
    """Your friends are your internet: a private network between friends.

    \b
    Begin:   f2ftun invite NAME   (send them the line)     f2ftun join LINE   (they type it)
             f2ftun up            (both)                   f2ftun status
    """  # noqa: D301 - click reads the backspace as "do not rewrap"
    ctx.obj = Shell(config, as_json)


def main() -> NoReturn:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit status. Never raises."""
    as_json = "--json" in arguments
    try:
        with _wrapped(arguments) if as_json else contextlib.nullcontext():
            status = cli.main(args=list(arguments), prog_name="f2ftun", standalone_mode=False)
        if sys.stdout is not None:  # as in `f2ftun status >&-`
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except F2ftunError as error:
        return _report(error.code, str(error), getattr(error, "answered_status", error.exit_status), as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        return _report_help(error, as_json)
    except click.ClickException as error:
        return _report("usage", _usage(error), 2, as_json)
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted", "Interrupted.", 1, as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        return _report_fault(error, as_json)


def _report_help(error: click.exceptions.NoArgsIsHelpError, as_json: bool) -> int:
    """Show the help that was not asked for, to somebody who typed no command."""
    if as_json:
        return _report("usage", "Say which command; --help lists them.", 2, as_json)
    click.echo(error.format_message(), err=True)
    return 2


@contextlib.contextmanager
def _wrapped(arguments: Sequence[str]) -> Iterator[None]:
    """Print what `--help` and `--version` print as one JSON value."""
    asked = {"-h": "help", "--help": "help", "--version": "version"}
    kind = next((asked[word] for word in arguments if word in asked), None)
    if kind is None:
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield
    text = printed.getvalue()
    click.echo(json.dumps({kind: __version__ if kind == "version" else text}))


def _usage(error: click.ClickException) -> str:
    """Give click's sentence, and where to read on."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "f2ftun"
    return f"{error.format_message().rstrip('.')}. See {path} --help."


def _report(code: str, message: str, status: int, as_json: bool) -> int:
    """Print an error where it belongs and give the exit status."""
    if as_json:
        click.echo(json.dumps({"error": {"code": code, "message": message}}))
    else:
        click.echo(f"f2ftun: {message}", err=True)
    return status


def _report_fault(error: Exception, as_json: bool) -> int:
    """Print a fault of ours, or of the system, as a sentence."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return _report("system", f"{where}{error.strerror}.", 1, as_json)
    fault = InternalError(error=f"{type(error).__name__}: {error}")
    return _report(fault.code, str(fault), 1, as_json)
