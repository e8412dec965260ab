"""`python -m f2ftun` is `f2ftun`."""

from f2ftun.ui.cli import main

main()
