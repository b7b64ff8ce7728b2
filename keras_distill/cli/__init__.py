"""The command line: one absl program for each verb."""
