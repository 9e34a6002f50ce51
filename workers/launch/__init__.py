"""Starts workers: one engine a file, all of them without a dependency beyond the standard library.

``local`` runs the workers of this host through a ``nursery``, a process that imports the heavy libraries once and
forks each worker from itself. Nothing here knows flags, tables or figures (see ``dagrad_bus.tools``).
"""
