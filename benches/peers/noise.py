"""Measures the share of CPU time that other processes used during a measurement."""

import os
import time


def _read():
    fields = [int(x) / os.sysconf("SC_CLK_TCK") for x in open("/proc/stat").readline().split()[1:]]
    own = os.times()
    busy = fields[0] + fields[1] + fields[2] + fields[5] + fields[6]
    return time.perf_counter(), busy, own.user + own.system + own.children_user + own.children_system, fields[7]


class Noise:
    """Starts measuring when created; `shares` returns the result."""

    def __init__(self):
        self.begun = _read()

    def shares(self):
        wall, busy, own, stolen = (now - then for now, then in zip(_read(), self.begun))
        cpus = wall * os.cpu_count()
        return {"other_cpu_share": round(max(0.0, busy - own) / cpus, 3), "steal_share": round(stolen / cpus, 3)}
