"""What decides. Pure: no clock, socket, randomness or file of its own; `now` and entropy are arguments."""
