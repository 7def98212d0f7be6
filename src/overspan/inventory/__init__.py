"""Facts about machines: each is a command, a parser and captured outputs."""
