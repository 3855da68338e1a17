"""The `hptransfer` command: one subcommand per public function. Results on stdout, progress and messages on stderr."""

from hptransfer.cli.main import main as main
