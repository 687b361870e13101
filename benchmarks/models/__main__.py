from benchmarks.models.compare import main
from edge_runtime.commands.entry import run_command

run_command(main, "benchmarks.models", extra="export,onnx")
