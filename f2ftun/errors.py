"""What can go wrong, as a tree of exceptions.

An exception's docstring is the sentence that the user reads: what happened, why, what to do. It is a format string,
filled with the keyword arguments of the constructor; what comes from outside is shortened and its unprintable
characters are escaped, so that no name, line or file can write to a terminal or a log. `code` is the class name in
snake_case, for programs.
"""

from __future__ import annotations

import re
import string
from pathlib import PurePath
from typing import Any, ClassVar

MAX_SHOWN_CHARACTERS = 100
"""How much of one value from outside a sentence repeats."""
MAX_PATH_CHARACTERS = 1000
"""The same for a path, which a person may want to copy."""
MAX_OWN_CHARACTERS = 500
"""The same for what f2ftun words itself, perhaps around such a value."""
_OWN_WORDS = frozenset({"reason", "hint", "cure", "message"})


def _printable(text: str) -> str:
    """Escape what would not print as itself: control characters, line ends, direction overrides, lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


class _Sentence(string.Formatter):
    """`str.format` for values that are not trusted."""

    def get_value(self, key: int | str, args: Any, kwargs: Any) -> Any:
        value = kwargs[key]
        if isinstance(value, PurePath):
            return _shortened(str(value), MAX_PATH_CHARACTERS)
        limit = MAX_OWN_CHARACTERS if key in _OWN_WORDS else MAX_SHOWN_CHARACTERS
        return _shortened(value, limit) if isinstance(value, str) else value

    def format_field(self, value: Any, format_spec: str) -> str:
        return _printable(super().format_field(value, format_spec))


class F2ftunError(Exception):
    """Something f2ftun was asked to do did not happen."""

    code: str = "f2ftun_error"
    exit_status: ClassVar[int] = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.code = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, **values: Any) -> None:
        self.values = values
        sentence = " ".join((type(self).__doc__ or "").split())
        super().__init__(_Sentence().format(sentence, **values))


class UsageError(F2ftunError):
    """{message}"""

    exit_status = 2


class Answered(F2ftunError):
    """{message}"""

    def __init__(self, *, code: str, message: str, exit_status: int = 1) -> None:
        """Repeat an error that the daemon answered with; `code` and `message` are the daemon's."""
        Exception.__init__(self, " ".join(_printable(message).split()))
        self.values = {"message": message}
        self.code = code
        self.answered_status = exit_status


# Keys


class KeyRefused(UsageError):
    """That is not the key of a node."""


class KeyNotAscii(KeyRefused):
    """The key "{key}" holds characters that no key has. Copy it again: 52 of 0-9 and b-z, then ".k"."""


class KeyWithoutSuffix(KeyRefused):
    """The key "{key}" does not end in ".k". Copy it again, to the end."""


class KeyTooShort(KeyRefused):
    """The key "{key}" has {length} characters before ".k"; a key has 52. Copy it again, from the start."""


class KeyTooLong(KeyRefused):
    """The key "{key}" has {length} characters before ".k"; a key has 52. Copy it again, and nothing else."""


class KeyUpperCase(KeyRefused):
    """The key "{key}" has capital letters; keys are written in lower case only. Copy it again."""


class KeyCharacterUnknown(KeyRefused):
    """The key "{key}" holds "{character}", which no key has (nor a, e, i, o). Copy it again."""


class KeyNotCanonical(KeyRefused):
    """The key "{key}" is a second way to write another key, which no node does. Ask your friend for `f2ftun key`."""


class KeyLowOrder(KeyRefused):
    """The key "{key}" is one of the few points of low order, with which nothing stays secret. Do not trust
    whoever sent it.
    """


class KeyNotFc(KeyRefused):
    """The key "{key}" belongs to the address {address}, which does not begin with fc. No f2ftun node has such a key."""


class SeedRefused(F2ftunError):
    """The seed does not belong to an address that begins with fc, so it is not one that f2ftun made."""


# Rates, times, endpoints, names, rules: what is typed


class RateUnreadable(UsageError):
    """The rate "{text}" cannot be read ({reason}). Write for example 10KiB/s, 8kbit/s, 1Mbit/s or 1.5Gbit/s."""


class DurationUnreadable(UsageError):
    """The time "{text}" cannot be read ({reason}). Write for example 90s, 10m, 2h30m or 3d."""


class EndpointUnreadable(UsageError):
    """The endpoint "{text}" cannot be: {reason}. Write 192.0.2.7:4242, [2001:db8::7]:4242 or host.example:4242."""


class NameRefused(UsageError):
    """The name "{name}" cannot be: {reason}. A name has 1 to 63 of a-z, 0-9 and "-", in parts joined by dots."""


class RuleUnreadable(UsageError):
    """The port "{text}" cannot be: {reason}. Write for example tcp/80 or udp/5000-5100."""


class RuleOpenToAll(F2ftunError):
    """{ports} is open to all friends, so it cannot be closed to {who} alone. Run `f2ftun deny all {ports}`, then allow
    those who may.
    """


class SettingUnknown(UsageError):
    """A friend has no setting "{setting}". {hint}"""


class SettingIncomplete(UsageError):
    """It is not said what {setting} should be. Write {setting}=VALUE; {setting}= with nothing after it clears it."""


class SettingTwice(UsageError):
    """What {setting} should be is said twice. Say it once."""


class SettingRefused(UsageError):
    """The value "{value}" of {setting} cannot be: {reason}."""


# Invitations


class InviteRefused(F2ftunError):
    """That is not an invitation."""


class InviteUnreadable(InviteRefused):
    """That is not an invitation: {reason}. An invitation is one line that begins with "f2f1:"; copy all of it."""

    exit_status = 2


class InviteDamaged(InviteRefused):
    """The invitation was damaged on the way (its check does not fit). Copy all of the line again."""

    exit_status = 2


class InviteNewer(InviteRefused):
    """The invitation was made by a newer f2ftun (version {version}). Install the newest f2ftun, then join."""


class InviteExpired(InviteRefused):
    """The invitation expired on {when}. Ask your friend for a new one."""


class InviteOwn(InviteRefused):
    """The invitation was made by this very node. Send it to your friend, who runs `f2ftun join` with it."""


# The config


class ConfigError(F2ftunError):
    """The config cannot be used."""


class ConfigNotFound(ConfigError):
    """There is no config at {path}. Run `sudo f2ftun -c {path} init` to make one, or name another with -c."""


class ConfigUnreadable(ConfigError):
    """The config {path} cannot be read: {reason}."""


class ConfigSyntax(ConfigError):
    """{path}:{line}: {reason}."""


class ConfigKeyUnknown(ConfigError):
    """{path}:{line}: there is no setting "{key}". {hint}"""


class ConfigKeyTwice(ConfigError):
    """{path}:{line}: "{key}" is set a second time. Remove one of the two."""


class ConfigValueRefused(ConfigError):
    """{path}:{line}: {key} cannot be "{value}": {reason}."""


class ControlSocketTooLong(ConfigError):
    """The path of the control socket, {socket}, has {length} bytes; the kernel allows 107. Set control_socket in {path}
    to a shorter one.
    """


class ConfigExists(ConfigError):
    """There is a config at {path} already; it is left as it is. Use another file with -c, or remove that one first."""


# The state folder


class StateError(F2ftunError):
    """The state folder cannot be used."""


class StateUnsafe(StateError):
    """{path} is not safe to use: {reason}. {cure}"""


class StateUnusable(StateError):
    """{path} cannot be used: {reason}."""


class StateForbidden(StateUnusable):
    """You may not use {path}. Use sudo; while the node runs, members of the group f2ftun may look without."""


class IdentityNotFound(StateError):
    """There is no key: {path} does not exist. Put it back; or begin as a new node: move the config away and run
    `f2ftun init`.
    """


class IdentityExists(StateError):
    """There is a key already, in {path}; it is left as it is."""


class IdentityDamaged(StateError):
    """The key file {path} is damaged: {reason}. Restore it from a backup, or remove it and begin as a new node."""


class StoreFull(StateError):
    """The disk that holds {path} is full. Nothing was changed; free some space and try again."""


class StoreDamaged(StateError):
    """{path} is damaged ({reason}). Restore it from a backup, or move it away and become friends again; the key is kept
    elsewhere.
    """


class StoreNewer(StateError):
    """{path} was written by a newer f2ftun (schema {found}, this one knows {known}). Install that version again."""


class StoreBusy(StateError):
    """{path} is in use by another f2ftun for too long. Nothing was changed; try again."""


# Friends


class FriendUnknown(F2ftunError):
    """You have no friend named "{name}". {hint}"""


class FriendNameTaken(F2ftunError):
    """You have a friend named "{name}" already. Choose another name, or rename that one."""


class FriendKeyTaken(F2ftunError):
    """That key is the key of your friend "{name}" already."""


class FriendIsSelf(F2ftunError):
    """That key is this node's own. A friend is another node; ask them for `f2ftun key`."""


# A user's own key


class UserKeyRefused(F2ftunError):
    """The user key {path} cannot be used: {reason}. {cure}"""


# Asking a node


class TooMuchTyped(UsageError):
    """What was typed is too long: all of it together may have {most} bytes."""


class RequestMalformed(UsageError):
    """That is not a request: {reason}."""


class VerbUnknown(UsageError):
    """There is no verb "{verb}"."""


class ArgumentWrong(UsageError):
    """{verb}: "{argument}" {reason}."""


class NotAllowed(F2ftunError):
    """Only root and the user who runs this node may {verb}. Use sudo."""


class SocketForbidden(F2ftunError):
    """You may not talk to the node of {config} at {socket}. Use sudo; or, to look only, have root run
    `usermod -aG f2ftun YOU` and log in anew.
    """


class SocketTaken(F2ftunError):
    """{path} exists and is not a socket. Remove it, or name another control_socket in the config."""


class InternalError(F2ftunError):
    """f2ftun has a fault ({error}). The log of the node has the details; please report it."""


class NodeNotRunning(F2ftunError):
    """The node of {config} is not running. Start it with `sudo f2ftun -c {config} up`."""


class NodeRunning(F2ftunError):
    """The node of {config} is running already."""


class NodeSilent(F2ftunError):
    """The node of {config} runs (process {pid}) but did not answer within {seconds} s. Run `f2ftun down`, then
    `f2ftun up`.
    """


class NodeBusy(F2ftunError):
    """You have too many connections to this node already. End some of them, or use sudo."""


class AnswerMissing(F2ftunError):
    """The node of {config} ended the conversation without an answer. Its log says why."""


class NotStarted(F2ftunError):
    """The node did not start within {seconds} s. {log} says why."""


class ListenRefused(F2ftunError):
    """The node cannot listen on {listen}: {reason}. Set another address or port as `listen` in {config}."""


class KeylogRefused(F2ftunError):
    """The key log {path} cannot be opened: {reason}. It must be new, or a plain file of the node's own user that nobody
    else may read (mode 0600). Set another `keylog` in {config}.
    """


class TargetUnknown(F2ftunError):
    """There is no friend called "{target}", nor is that an address in fc00::/8 or a key. `f2ftun friend list` shows
    your friends.
    """


class PingImpossible(F2ftunError):
    """The kernel allows this node neither a raw nor a ping socket, so it cannot ping. Use the system's `ping -6`."""


class JoinRefused(F2ftunError):
    """The other side refused the invitation. It was used already, has expired, or was withdrawn; ask for a new one."""


class JoinWithdrawn(F2ftunError):
    """The join was withdrawn before the other side answered."""


class JoinUnknown(F2ftunError):
    """No join that waits is called "{which}". `f2ftun join --list` shows those that do."""


class InvitationUnknown(F2ftunError):
    """No open invitation is called "{which}". `f2ftun invite --list` shows those that are open."""


class FriendsAlready(F2ftunError):
    """You and {name} are friends already, and stay so; this invitation is not needed."""


class InviteUnreachable(F2ftunError):
    """The invitation holds no endpoint, so the one who made it cannot be found. They set `endpoints` in their config
    and invite again.
    """
