"""The paper's tables and figures for the rules of this project: tuned, measured on real processes, judged.

The paper is Vinitha et al., *Decentralized Asynchronous Gradient Sharing for Bandwidth-Efficient Collaborative Model
Training*. Its own numbers stand in :mod:`dagrad_bus.lab.paper.published` and are shown beside ours, never mixed in.
"""
