"""The package as somebody has it who installs its wheel into an environment of their own."""
