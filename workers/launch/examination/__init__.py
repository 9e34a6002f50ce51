"""What ``dagrad doctor`` looks at: facts are gathered by a probe on each host, and judged here by pure functions.

``host`` and ``paths`` run on the hosts and need the standard library only; ``collect`` brings their facts together;
``judgement``, ``host_checks``, ``path_checks`` and ``live`` say what is wrong and how it is put right.
"""
