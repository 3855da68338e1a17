"""The `hptransfer` command: one subcommand per public function. Results on stdout, progress and messages on stderr."""

from hptransfer.cli.command import main as main
