"""The commands about one's own node: init, key, address, up, down, reload, status, doctor."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import click

from f2ftun.ui import render
from f2ftun.ui.cli import Command

if TYPE_CHECKING:
    from f2ftun.ui.cli import Shell

WATCH_INTERVAL = 1.0
"""Seconds between two screens of `status --watch`."""


@click.command(cls=Command)
@click.option("--name", metavar="NAME", help="What friends see as your name; by default the host's.")
@click.option("--listen", metavar="ADDR:PORT", help="Where to listen; by default [::]:4242.")
@click.option("--interface", metavar="IF", help="The name of the network interface to make; by default f2f0.")
@click.option("--link-rate", metavar="RATE", help="What your line carries upwards, such as 40Mbit/s.")
@click.option(
    "--user-key", metavar="SSHKEY", type=click.Path(), help="Your own OpenSSH Ed25519 key, if you have several devices."
)
@click.pass_obj
def init(shell: Shell, /, **options: str | None) -> None:
    """Make a new identity and a commented config.yaml."""
    if options["user_key"] is not None:
        options["user_key"] = os.path.abspath(options["user_key"])
    shell.show(shell.ask("init", **options), render.init)


@click.command(cls=Command)
@click.pass_obj
def key(shell: Shell) -> None:
    """Print the node's public key."""
    shell.show(shell.ask("key"), str)


@click.command(cls=Command)
@click.argument("target", required=False)
@click.pass_obj
def address(shell: Shell, target: str | None) -> None:
    """Print the node's IPv6 address, or that of a friend or key."""
    shell.show(shell.ask("address", target=target), str)


@click.command(cls=Command)
@click.option("--foreground", is_flag=True, help="Stay in this terminal, or be run by systemd.")
@click.pass_obj
def up(shell: Shell, foreground: bool) -> None:
    """Start the node; return when its interface answers."""
    if foreground:
        shell.client.run(shell.json)
    shell.show(shell.client.start(), render.up)


@click.command(cls=Command)
@click.pass_obj
def down(shell: Shell) -> None:
    """Stop the node and leave nothing of it on this host."""
    shell.show(shell.client.stop(), render.down)


@click.command(cls=Command)
@click.pass_obj
def reload(shell: Shell) -> None:
    """Apply a changed config.yaml with no loss."""
    shell.show(shell.ask("reload"), render.reload)


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Show it anew every second, until ^C.")
@click.option("--drops", is_flag=True, help="Show which packets were dropped, and why.")
@click.pass_obj
def status(shell: Shell, watch: bool, drops: bool) -> None:
    """Show the node and each friend in one screen."""
    if watch and shell.json:
        raise click.UsageError("--watch is for people; with --json ask as often as you like.")
    if not watch:
        shell.show(shell.ask("status"), lambda value: render.status(value, drops))
        return
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            _redraw(render.status(shell.ask("status"), drops))
            time.sleep(WATCH_INTERVAL)


def _redraw(text: str) -> None:
    """Show a screen in the place of the last one."""
    click.clear()
    click.echo(text)


@click.command(cls=Command)
@click.pass_context
def doctor(ctx: click.Context) -> Any:
    """Check the host and the node; say what is wrong and what to do."""
    shell: Shell = ctx.obj
    findings = shell.ask("doctor")
    shell.show(findings, render.doctor)
    return 1 if any(finding["severity"] == "error" for finding in findings) else 0
