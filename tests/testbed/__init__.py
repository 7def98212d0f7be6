"""Two (or more) real hosts on this machine, for tests: see `testbed.bed.Bed`.

A host is a set of namespaces (network, mount, process, host name, IPC) with an address of its own, its own /dev/shm,
/run, /root, /tmp and /srv, a real sshd and a real Docker engine.
From a shell: `PYTHONPATH=src:tests python -m testbed up`.
"""
