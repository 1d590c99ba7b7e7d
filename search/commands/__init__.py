"""One module for each command: `run(argv, prog)`, imported only when it is called."""
