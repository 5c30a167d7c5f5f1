"""`python -m cosim.cli` is the command `cosim`."""

from cosim.cli import main

if __name__ == "__main__":
    main(prog_name="cosim")
