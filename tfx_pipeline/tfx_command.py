"""The `tfx` command without its remarks: standard output is that of the pipeline which it runs."""

import contextlib
import os

from tfx.tools.cli.cli_main import cli_group


def main() -> None:
    """Runs it with the arguments of this process."""
    with open(os.devnull, "w") as nobody, contextlib.redirect_stdout(nobody):
        cli_group(prog_name="tfx")


if __name__ == "__main__":
    main()
