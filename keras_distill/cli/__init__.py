"""The command line: one absl program a verb."""
