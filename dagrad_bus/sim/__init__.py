"""A deterministic world for the cores: virtual time, a network that fails as networks do, faults drawn from a seed.

``run(seed, options)`` in :mod:`dagrad_bus.sim.run` is the way in; docs/simulator.md says what is simulated and what is
not.
"""
