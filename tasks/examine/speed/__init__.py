"""How fast a variant is and what it needs: time, processors, memory, energy.

Empty on purpose: the timing worker imports this package, and its own memory is measured.
"""
