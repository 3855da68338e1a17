"""How runs are done: one by one, in lanes, in several processes."""
