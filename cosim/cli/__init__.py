"""The command line. Heavy modules are imported inside the command that needs them."""

import click

from cosim.cli.bench import bench_command
from cosim.cli.models import compress_command, evaluate_command, profile_command
from cosim.cli.papers import reproduce_command
from cosim.cli.run import compare_command, run_command, stream_command
from cosim.cli.shelf import data_command, list_command
from cosim.cli.simulate import simulate_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cosim-speech", prog_name="cosim")
def main() -> None:
    """Compress a speech model, measure its WER, and simulate the same program on a chip."""


for command in (
    bench_command,
    compare_command,
    compress_command,
    data_command,
    evaluate_command,
    list_command,
    profile_command,
    reproduce_command,
    run_command,
    simulate_command,
    stream_command,
):
    main.add_command(command)
