"""Compare f2ftun with bare wires and with other VPNs, side by side in one run.

Two network namespaces are joined by one veth pair. Each contender in turn builds its tunnel between them, is measured,
and is removed; that is a turn. A round is one turn of everyone, and the figures are medians over the rounds, so that
whatever else the machine does hits all alike. Run it with `scripts/bench`.

The second part, `scripts/bench --node`, measures one f2ftun node by itself: what it takes in idleness and with
thousands of friends, how soon it is there, and what it bears of floods. Each part has a yard of its own (`bench.lab`).
"""
