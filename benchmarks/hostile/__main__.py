from benchmarks.hostile.attack import main
from edge_runtime.commands.entry import run_command

run_command(main, "benchmarks.hostile", extra="dev")
