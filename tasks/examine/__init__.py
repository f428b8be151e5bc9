"""What a variant is worth: template, decoding, fidelity, answers, speed and memory.

Measures only; whether a number is good enough is the judge's matter.
"""
