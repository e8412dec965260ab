"""Bytes and text to values and back. Pure: no clock, socket, randomness or file."""
