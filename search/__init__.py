"""Searches for the accuracy/MACs frontier of a trained network; the `slimfront` command."""
