"""Shows it: the command line, rendering, the demo."""
