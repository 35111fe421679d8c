"""The benchmarks: this library beside its peers, on one machine, over loopback.

For: a table of figures that anybody can make again with one command.
Must not be imported by the library, and must not import it outside `contenders/ours.py`.
"""
