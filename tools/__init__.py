"""The command line: one subcommand a module, imported when it is called."""
