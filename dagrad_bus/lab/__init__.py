"""The laboratory: the rules side by side, at equal bytes, on real processes and in virtual time.

Everything measured here runs the production code: the same rules, the same exchange, the same codec. Only clocks and
networks are exchanged for virtual ones, where that is said.
"""
