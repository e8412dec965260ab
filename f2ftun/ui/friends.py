"""The commands about friends: invite, join, friend, allow, deny, ping."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import click

from f2ftun.ui import render
from f2ftun.ui.cli import Command, Subgroup

if TYPE_CHECKING:
    from f2ftun.ui.cli import Shell

PING_INTERVAL = 1.0
"""Seconds between two echo requests, as ping6 has it."""


@click.command(cls=Command)
@click.argument("name", required=False)
@click.option("--expires", metavar="TIME", help="How long the invitation may be used, such as 3d.")
@click.option("--qr", is_flag=True, help="Show it as a QR code too.")
@click.option("--list", "listing", is_flag=True, help="Show the invitations that are open.")
@click.option("--cancel", metavar="ID", help="Withdraw an invitation; --list shows the ID, a NAME will do.")
@click.pass_obj
def invite(shell: Shell, name: str | None, expires: str | None, qr: bool, listing: bool, cancel: str | None) -> None:
    """Make one line that makes NAME your friend; usable once."""
    if listing or cancel is not None:
        _check_alone(listing, cancel, name, expires, qr)
        value = shell.ask("invite_list") if cancel is None else shell.ask("invite_cancel", which=cancel)
        shell.show(value, render.invitations)
        return
    value = shell.ask("invite", name=name, expires=expires)
    shell.show(value, lambda value: render.invite(value, qr))


@click.command(cls=Command)
@click.argument("invitation", metavar="INVITE", required=False)
@click.option("--name", metavar="NAME", help="What to call the friend; by default what they call themselves.")
@click.option("--list", "listing", is_flag=True, help="Show the invitations whose answer is awaited.")
@click.option("--cancel", metavar="ID", help="Wait no longer for one; --list shows the ID, a NAME will do.")
@click.pass_obj
def join(shell: Shell, invitation: str | None, name: str | None, listing: bool, cancel: str | None) -> None:
    """Become a friend of whoever sent you the line INVITE."""
    if listing or cancel is not None:
        _check_alone(listing, cancel, invitation, name)
        value = shell.ask("join_list") if cancel is None else shell.ask("join_cancel", which=cancel)
        shell.show(value, render.joins)
        return
    if invitation is None:
        raise click.UsageError("Say which invitation, such as: f2ftun join f2f1:2h4…")
    shell.show(shell.ask("join", invite="".join(invitation.split()), name=name), render.join)


def _check_alone(listing: bool, cancel: str | None, *others: object) -> None:
    """Refuse `--list` or `--cancel` beside anything else."""
    if any(others) or (listing and cancel is not None):
        raise click.UsageError("--list and --cancel stand alone.")


@click.group(cls=Subgroup)
def friend() -> None:
    """Add, list, show, set, rename and remove friends."""


@friend.command()
@click.argument("name")
@click.argument("key")
@click.option("--endpoint", "endpoints", multiple=True, metavar="HOST:PORT", help="Where they are; may be repeated.")
@click.option("--floor", metavar="RATE", help="The rate that they always get, such as 1Mbit/s.")
@click.option("--trust", metavar="close|friend|acquaintance", help="How far you trust them.")
@click.option("--transit", metavar="never|last-resort|yes", help="Whether others' traffic may go through them.")
@click.option("--visibility", metavar="nobody|friends|friends-of-friends", help="Who may know that you are friends.")
@click.pass_obj
def add(shell: Shell, /, endpoints: tuple[str, ...], **options: str | None) -> None:
    """Add a friend by hand: NAME and the KEY that `f2ftun key` shows them."""
    shell.show(shell.ask("friend_add", endpoints=list(endpoints), **options), render.friend_added)


@friend.command("list")
@click.pass_obj
def list_(shell: Shell) -> None:
    """List all friends."""
    shell.show(shell.ask("friend_list"), render.friends)


@friend.command()
@click.argument("name")
@click.pass_obj
def show(shell: Shell, name: str) -> None:
    """Show all there is to know about a friend."""
    shell.show(shell.ask("friend_show", name=name), render.friend)


@friend.command("set")
@click.argument("name")
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.pass_obj
def set_(shell: Shell, name: str, values: tuple[str, ...]) -> None:
    """Replace endpoint, floor, trust, transit or visibility."""
    shell.show(shell.ask("friend_set", name=name, values=list(values)), render.friend)


@friend.command()
@click.argument("name")
@click.argument("new")
@click.pass_obj
def rename(shell: Shell, name: str, new: str) -> None:
    """Call a friend something else."""
    value = shell.ask("friend_rename", name=name, new=new)
    shell.show(value, lambda value: f"{name} is now called {value['name']}.")


@friend.command()
@click.argument("name")
@click.pass_obj
def remove(shell: Shell, name: str) -> None:
    """End a friendship, at once."""
    value = shell.ask("friend_remove", name=name)
    shell.show(value, lambda value: f"{value['name']} is no longer a friend.")


@click.command(cls=Command)
@click.argument("who", required=False)
@click.argument("ports", nargs=-1, metavar="PROTO/PORT...")
@click.option("--list", "listing", is_flag=True, help="Show who may reach what.")
@click.pass_obj
def allow(shell: Shell, who: str | None, ports: tuple[str, ...], listing: bool) -> None:
    """Let a friend, or all, reach a local port: allow alice tcp/22."""
    if listing and who is None:
        shell.show(shell.ask("rules"), render.rules)
        return
    _change_rules(shell, "allow", who, ports)


@click.command(cls=Command)
@click.argument("who")
@click.argument("ports", nargs=-1, metavar="PROTO/PORT...")
@click.pass_obj
def deny(shell: Shell, who: str, ports: tuple[str, ...]) -> None:
    """Take such a permission back: deny alice tcp/22."""
    _change_rules(shell, "deny", who, ports)


def _change_rules(shell: Shell, verb: str, who: str | None, ports: tuple[str, ...]) -> None:
    """Ask for a change of the rules and show those that hold now."""
    if who is None or not ports:
        raise click.UsageError(f"Say who and which ports, such as: f2ftun {verb} alice tcp/22")
    shell.show(shell.ask(verb, who=who, ports=list(ports)), render.rules)


@click.command(cls=Command)
@click.argument("target")
@click.option("-n", "count", default=5, type=click.IntRange(1, 65535), show_default=True, help="How many.")
@click.pass_context
def ping(ctx: click.Context, target: str, count: int) -> Any:
    """Ping a friend: each reply with the way it took and its RTT."""
    shell: Shell = ctx.obj
    sent, replies = 0, []
    with contextlib.suppress(KeyboardInterrupt):
        for sent in range(1, count + 1):
            replies += _ping(shell, target, sent)
            if sent < count:
                time.sleep(PING_INTERVAL)
    shell.show({"sent": sent, "received": len(replies), "replies": replies}, render.ping)
    return 0 if replies else 1


def _ping(shell: Shell, target: str, sequence: int) -> list[Any]:
    """Send one echo request; show and give the reply, if one came."""
    replies: list[Any] = shell.ask("ping", target=target, first=sequence)["replies"]
    if not shell.json:
        click.echo(render.ping_reply(target, sequence, replies))
    return replies
