"""Your friends are your internet: an encrypted network between friends, at IPv6 addresses that are hashes of their keys."""

__version__ = "0.1.0"
