"""The benchmark: messages a second of this server beside a bare relay and the host's prototype.

Here are the workload, the load generator, what is compared with, and the figures. Nothing of the
server may import from here.
"""
