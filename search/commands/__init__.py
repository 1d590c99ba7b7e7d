"""One module for each command: `run(argv, prog)`, imported only when it is called.

Nothing imports from here but the front of the command line.
"""
