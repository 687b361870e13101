from benchmarks.peers.compare import main
from edge_runtime.commands.entry import run_command

run_command(main, "benchmarks.peers", extra="dev")
