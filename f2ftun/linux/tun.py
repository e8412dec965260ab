"""Open the TUN: the interface whose packets are the overlay's.

It lives as long as its file descriptor: a killed daemon leaves no interface, and with it go its address and its route.
"""

import errno
import os

import pytun

from f2ftun.errors import F2ftunError
from f2ftun.linux.interface import check_interface

DEVICE = "/dev/net/tun"
FLAGS = pytun.IFF_TUN | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR | pytun.IFF_TUN_EXCL
"""Layer 3, no protocol header, a virtio header for offload; refuse an interface that exists, whoever made it."""


class TunMissing(F2ftunError):
    """The kernel offers no TUN device ({reason}).

    Run `modprobe tun`, or allow /dev/net/tun in this container.
    """


class TunNotPermitted(F2ftunError):
    """The kernel does not let this process open a TUN.

    Start f2ftun as root, or with the capability CAP_NET_ADMIN.
    """


class TunBusy(F2ftunError):
    """The interface {interface} exists already: another node runs here, or another program owns it.

    Stop that one, or set `interface` in config.yaml to another name.
    """


class TunRefused(F2ftunError):
    """The kernel refused to make the interface {interface}: {reason}."""


class Tun:
    """An open TUN. Its descriptor is not inherited by children."""

    def __init__(self, interface: str, device: pytun.TunTapDevice) -> None:
        self.interface = interface
        self._device = device

    def fileno(self) -> int:
        """Return the descriptor; it stays this object's own."""
        return int(self._device.fileno())

    def close(self) -> None:
        """Close the descriptor; the interface goes when the last duplicate is closed. A second call does nothing."""
        self._device.close()


def open_tun(interface: str) -> Tun:
    """Make the interface, down and without address; raise one of this module's errors where the kernel does not."""
    check_interface(interface)
    try:
        device = pytun.TunTapDevice(name=interface, flags=FLAGS)
    except (pytun.Error, OSError) as error:
        raise _told(error, interface) from error
    os.set_inheritable(device.fileno(), False)
    return Tun(interface, device)


def _told(error: Exception, interface: str) -> F2ftunError:
    code = error.args[0] if error.args else None
    reason = os.strerror(code) if isinstance(code, int) else str(error)
    match code:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return TunMissing(reason=reason)
        case errno.EPERM | errno.EACCES:
            return TunNotPermitted()
        case errno.EBUSY | errno.EEXIST:
            return TunBusy(interface=interface)
    return TunRefused(interface=interface, reason=reason)
