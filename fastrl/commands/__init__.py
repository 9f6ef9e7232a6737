"""The commands of the command line, a module each with `run(args)`; `fastrl.cli` chooses."""
