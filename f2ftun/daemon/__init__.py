"""The node: wires the rooms below together and answers what is asked of it."""
