"""Other systems beside this one: the same problem, each really run, counted at the interface of a private network.

``task.py`` is the half of a worker that is the same for all systems; ``local.py``, ``ddp.py``, ``decent.py``,
``diloco.py``, ``hive.py`` and ``own.py`` are the few lines that differ. All but the last run in the environment of
their system, where this package is not installed: they import nothing of it, and are copied out. ``systems.py`` lists
what is compared, ``environments.py`` installs, ``handout.py`` deals the problem, ``crew.py`` starts the workers and
watches them, ``trial.py`` is one run, ``scoreboard.py`` makes the comparison of many.
"""
