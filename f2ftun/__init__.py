"""Your friends are your internet: a private network between friends, at addresses that are hashes of their keys."""

__version__ = "0.1.0"
